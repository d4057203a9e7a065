"The explorer in a real browser, in JupyterLab and through Voilà: a file in, candidates over the image and in three dimensions, a CIF out."
import io, time
from contextlib import contextmanager
import nbformat, numpy as np, pytest
from PIL import Image
from browser import CHROMIUM, browser, jupyterlab, run_all, until_shown, voila
from microscopygpt.chat import parse_answer
from microscopygpt.compare import compare
from microscopygpt.structure_files import read_crystal, write_crystal
from microscopygpt.explore import EXAMPLES, example
from microscopygpt.micrograph import Micrograph, write_micrograph
from microscopygpt.noise import render

pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium on this machine: apt-get install chromium")

# What the console may complain about, each with its reason.
KNOWN = ("favicon", # JupyterLab asks for an icon that a bare server does not have
         "/api/kernels/", # JupyterLab looks for kernels of the last session
         "/custom/custom.css", "/lsp/status", # optional parts that are not installed
         "cdn.jsdelivr.net", # Voilà's page asks the network for icons
         "@jupyter-notebook/lab-extension", # an extension of Notebook 7, of no use in Voilà
         "GroupMarkerNotSet", "GPU stall due to ReadPixels") # WebGL in software

MOSE2 = parse_answer(EXAMPLES["MoSe₂, 2H"])

@pytest.fixture
def folder(tmp_path):
    "The notebook of the explorer, and files to upload."
    cells = [nbformat.v4.new_code_cell("from microscopygpt.explore import Explorer\nexplorer = Explorer()\nexplorer")]
    nbformat.write(nbformat.v4.new_notebook(cells=cells, metadata=dict(kernelspec=dict(name="python3", display_name="Python 3", language="python"))), tmp_path/"explorer.ipynb")
    picture = example("MoSe₂, 2H")[0]
    write_micrograph(Micrograph(picture.data, None), tmp_path/"mose2.png")
    (tmp_path/"broken.tif").write_bytes((tmp_path/"mose2.png").read_bytes()[:300])
    write_crystal(MOSE2, tmp_path/"reference.cif")
    write_micrograph(Micrograph(render(MOSE2, seed=5, size=2048, pixel_size=.05), .05), tmp_path/"large.tif")
    return tmp_path

@contextmanager
def opened(kind, folder, profile):
    "The explorer, ready to be used; at the end the console must be clean."
    with (jupyterlab(folder) if kind == "jupyterlab" else voila(folder, "explorer.ipynb")) as address, browser(profile) as (page, complaints):
        load = (lambda: run_all(page, address("explorer.ipynb"))) if kind == "jupyterlab" else (lambda: page.goto(address, timeout=120_000))
        until_shown(load, page.locator(".mgpt-app[data-keys=own]").get_by_role("button", name="Predict"), 45_000)
        page.set_default_timeout(60_000)
        yield page
        strange = [c for c in complaints if not any(k in c for k in KNOWN)]
        assert not strange, strange

@pytest.fixture(params=["jupyterlab", "voila"])
def page(request, folder, tmp_path_factory):
    with opened(request.param, folder, tmp_path_factory.mktemp("profile")) as page: yield page

@pytest.fixture
def lab(folder, tmp_path_factory):
    with opened("jupyterlab", folder, tmp_path_factory.mktemp("profile")) as page: yield page

def upload(page, label, path): page.locator(f".mgpt-picker input[aria-label='{label}']").set_input_files(str(path))

def field(page, label): return page.get_by_label(label, exact=True)

def fill(page, label, text):
    field(page, label).fill(text); field(page, label).press("Enter")

def ask(page, formula="MoSe2", pixel_size="0.1"):
    "Set the question, press the button, and say how long it took."
    fill(page, "Pixel size (Å/px)", pixel_size); fill(page, "Formula", formula)
    page.get_by_text("Measured lattice:").wait_for()
    start = time.monotonic()
    page.get_by_role("button", name="Predict").click()
    page.locator(".mgpt-ranking tbody tr").first.wait_for(timeout=60_000)
    return time.monotonic() - start

def pixels(page, i):
    "What the i-th of the two views shows, as an array."
    views = page.locator(".mgpt-view canvas")
    views.nth(i).scroll_into_view_if_needed()
    return np.asarray(Image.open(io.BytesIO(views.nth(i).screenshot())).convert("RGB")).astype(int)

def drawn(page, i, least=400):
    "Wait until a view has drawn something: pixels that are not background."
    until = time.monotonic() + 30
    while True:
        shown = pixels(page, i)
        if (abs(shown - shown[2, 2]).max(-1) > 40).sum() > least: return shown
        assert time.monotonic() < until, f"view {i} has drawn nothing"
        time.sleep(.5)

def changed(page, i, before, least=100):
    until = time.monotonic() + 20
    while True:
        now = pixels(page, i)
        if now.shape != before.shape or (abs(now - before).max(-1) > 40).sum() > least: return
        assert time.monotonic() < until, f"view {i} did not change"
        time.sleep(.5)

def test_from_a_file_to_a_cif(page, folder, tmp_path):
    upload(page, "Choose a micrograph", folder/"broken.tif")
    page.locator(".mgpt-alert[role=alert]", has_text="broken.tif").wait_for()
    upload(page, "Choose a micrograph", folder/"mose2.png")
    page.get_by_text("mose2.png: 256 × 256 px").wait_for()
    page.get_by_text("The scale is unknown").wait_for()
    page.locator(".mgpt-alert").wait_for(state="detached")
    seconds = ask(page)
    print(f"answered {seconds:.2f} s after Predict was pressed")
    first, second = drawn(page, 0), drawn(page, 1)
    upload(page, "Reference structure", folder/"reference.cif")
    page.get_by_text("RMSD 0.0").wait_for()
    second = drawn(page, 1)
    rows = page.locator(".mgpt-ranking tbody tr")
    last = rows.count()
    assert last > 1
    rows.last.click() # the least like the first one
    shown = page.get_by_text(f"candidate {last}, simulated")
    shown.or_(page.get_by_alt_text(f"micrograph with the atoms of candidate {last}", exact=False)).first.wait_for()
    changed(page, 0, first); changed(page, 1, second)
    page.locator(".mgpt-ranking tbody tr").first.click()
    with page.expect_download() as download: page.locator("a[download='MoSe2_rank1.cif']").click()
    download.value.save_as(tmp_path/"answer.cif")
    from pymatgen.core import Structure
    assert Structure.from_file(tmp_path/"answer.cif").composition.reduced_formula == "MoSe2"
    assert compare(MOSE2, read_crystal(tmp_path/"answer.cif")).solved

def test_a_file_larger_than_a_message_of_jupyter_may_be(lab, folder):
    assert (folder/"large.tif").stat().st_size > 15e6
    upload(lab, "Choose a micrograph", folder/"large.tif")
    lab.get_by_text("large.tif: 2048 × 2048 px").wait_for()
    assert field(lab, "Pixel size (Å/px)").input_value() == "0.05"
    lab.get_by_text("Measured lattice: a = 3.3").wait_for()

def test_the_scale_by_the_ruler_a_frame_by_the_keyboard_and_second_thoughts(lab, folder):
    upload(lab, "Choose a micrograph", folder/"mose2.png")
    lab.get_by_text("The scale is unknown").wait_for()
    lab.get_by_role("button", name="Ruler").click()
    stage = lab.locator(".mgpt-stage"); box = stage.bounding_box()
    for x in (40, 140): stage.click(position=dict(x=box["width"]*x/256, y=box["height"]/2))
    lab.get_by_text("100.0 px").wait_for()
    lab.get_by_role("button", name="No pixel size? Measure it").click()
    fill(lab, "Ruler's length (Å)", "10")
    lab.get_by_text("Measured lattice: a = 3.").wait_for()
    assert float(field(lab, "Pixel size (Å/px)").input_value()) == pytest.approx(.1, rel=.02)
    lab.get_by_role("button", name="Crop").click(); stage.focus(); stage.press("ArrowRight"); stage.press("Shift+ArrowDown")
    lab.get_by_text("205 × 206 px").wait_for()
    fill(lab, "Formula", "MoQ2")
    lab.get_by_role("button", name="Predict").click()
    lab.locator(".mgpt-alert[role=alert]", has_text="not a chemical").wait_for()
    fill(lab, "Formula", "MoSe2")
    lab.get_by_role("button", name="Predict").click(); lab.get_by_role("button", name="Cancel").click()
    lab.get_by_text("Cancelled").wait_for()
    assert lab.locator(".mgpt-ranking tbody tr").count() == 0

def test_without_a_mouse_and_after_a_restart_of_the_kernel(lab):
    lab.get_by_role("menuitem", name="Kernel", exact=True).first.click()
    lab.get_by_role("menuitem", name="Restart Kernel and Run All Cells").click()
    lab.locator(".jp-Dialog .jp-mod-accept").click()
    for wanted in ("!==", "==="): lab.wait_for_function(f"document.querySelector('.jp-Notebook-ExecutionIndicator')?.dataset.status {wanted} 'idle'")
    lab.locator(".mgpt-app[data-keys=own]").wait_for()
    example = field(lab, "or an example")
    example.wait_for(); example.focus(); example.press("M")
    lab.get_by_text("Measured lattice:").wait_for()
    field(lab, "Formula").focus()
    for _ in range(30):
        lab.keyboard.press("Tab")
        if lab.evaluate("document.activeElement.textContent.trim()") == "Predict": break
    lab.keyboard.press("Enter")
    first = lab.locator(".mgpt-ranking input").first
    first.wait_for(timeout=60_000); first.focus(); first.press("ArrowDown")
    lab.get_by_alt_text("micrograph with the atoms of candidate 2", exact=False).wait_for()
