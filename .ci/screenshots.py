"Pictures of the app for the documentation, taken in a real browser: `make screenshots`."
import sys, tempfile
from pathlib import Path

root = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(root/"tests"))
from browser import browser, voila
from microscopygpt.cli import explorer_notebook

images = root/"nbs"/"images"
images.mkdir(exist_ok=True)
with tempfile.TemporaryDirectory() as folder, tempfile.TemporaryDirectory() as profile:
    explorer_notebook(folder)
    with voila(folder, "explorer.ipynb") as address, browser(profile, width=1240, height=2400) as (page, _):
        page.goto(address, timeout=120_000)
        page.get_by_label("or an example", exact=True).select_option("MoSe₂, 2H", timeout=90_000)
        page.get_by_text("Measured lattice:").wait_for(timeout=30_000)
        page.get_by_role("button", name="Predict").click()
        page.locator(".mgpt-ranking tbody tr").first.wait_for(timeout=60_000)
        page.wait_for_timeout(6000) # the two views draw themselves
        app = page.locator(".mgpt-app")
        app.screenshot(path=images/"explorer.png")
        page.locator(".mgpt-section").last.screenshot(path=images/"explorer-answer.png")
print(*sorted(images.glob("explorer*.png")), sep="\n")
