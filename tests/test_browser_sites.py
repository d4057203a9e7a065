"Columns that one can click, in a real browser: a vacancy is chosen on the picture, its call changed and saved, and the change is in the file."
import csv
from contextlib import contextmanager
import nbformat, numpy as np, pytest
from browser import CHROMIUM, browser, jupyterlab, run_all, until_shown, voila
from test_browser import KNOWN, fill, upload
from test_site_explorer import PIXEL, SIZE, with_vacancy
from microscopygpt.micrograph import write_micrograph

pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium on this machine: apt-get install chromium")

ALONE = """from microscopygpt.crystal import monolayer
from microscopygpt.micrograph import read_micrograph
from microscopygpt.site_explorer import SiteExplorer
from microscopygpt.sites import sites
SiteExplorer(sites(read_micrograph("frame.tif"), monolayer("MoS2"), elements="W"), "out")"""
APP = "from microscopygpt.explore import Explorer\nExplorer()"

@pytest.fixture
def folder(tmp_path):
    "A notebook with the columns of a frame alone, one with the whole app, and the frame."
    for name, code in (("sites", ALONE), ("app", APP)):
        metadata = dict(kernelspec=dict(name="python3", display_name="Python 3", language="python"))
        nbformat.write(nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(code)], metadata=metadata), tmp_path/f"{name}.ipynb")
    write_micrograph(with_vacancy()[0], tmp_path/"frame.tif")
    return tmp_path

@contextmanager
def shown(folder, profile, notebook, ready, kind="voila", **size):
    "A page that shows a notebook; at the end the console must be clean."
    with (voila(folder, notebook) if kind == "voila" else jupyterlab(folder)) as address, browser(profile, **size) as (page, complaints):
        if kind == "voila": page.goto(address, timeout=120_000)
        else: until_shown(lambda: run_all(page, address(notebook)), page.locator(ready).first, 60_000)
        page.set_default_timeout(60_000)
        page.locator(ready).first.wait_for(timeout=120_000)
        yield page
        strange = [c for c in complaints if not any(k in c for k in KNOWN)]
        assert not strange, strange

PLACE = with_vacancy()[1] if CHROMIUM else None # of the vacancy, pixels

def lines(folder):
    with open(folder/"sites.csv", newline="") as file: return list(csv.DictReader(file))

def of_the_vacancy(folder):
    return min(lines(folder), key=lambda line: np.hypot(float(line["x_px"]) - PLACE[0], float(line["y_px"]) - PLACE[1]))

def click_vacancy(page):
    stage = page.locator(".mgpt-sites .mgpt-stage")
    stage.scroll_into_view_if_needed()
    box = stage.bounding_box()
    stage.click(position={axis: float((n + .5)/SIZE*box[side]) for axis, n, side in zip("xy", PLACE, ("width", "height"))})
    page.locator(".mgpt-site-facts", has_text="Called vacancy").wait_for()

def change(page, call, atoms=None):
    page.get_by_label("Call", exact=True).select_option(label=call)
    if atoms: page.get_by_label("Atoms there", exact=True).fill(atoms); page.get_by_label("Atoms there", exact=True).press("Tab")
    page.get_by_role("button", name="Change the call").click()

def save(page):
    page.locator(".mgpt-app").last.get_by_role("button", name="Save").click()
    page.locator("[role=status]", has_text="Saved in").wait_for()

def test_a_vacancy_is_clicked_changed_saved_and_found_in_the_file(folder, tmp_path_factory):
    with shown(folder, tmp_path_factory.mktemp("profile"), "sites.ipynb", ".mgpt-sites tbody tr") as page:
        click_vacancy(page)
        assert page.locator(".mgpt-patches svg").count() == 3
        save(page)
        assert of_the_vacancy(folder/"out")["call"] == "vacancy"
        change(page, "substitution", "W")
        row = page.locator(".mgpt-sites tbody tr.mgpt-chosen")
        row.get_by_text("W for Mo, by hand").wait_for()
        page.get_by_text("There are changes that are not saved").wait_for()
        save(page)
        line = of_the_vacancy(folder/"out")
        assert (line["expected"], line["call"], line["detail"]) == ("Mo", "substitution", "W for Mo, by hand")
        with page.expect_download() as download: page.locator("a[download='sites.csv']").click()
        download.value.save_as(folder/"sites.csv")
        assert of_the_vacancy(folder) == line
        page.locator(".mgpt-app").last.get_by_role("button", name="Undo").click()
        page.locator(".mgpt-sites tbody tr.mgpt-chosen", has_text="Mo missing").wait_for()

def focused(page): return page.locator(".mgpt-readout").inner_text()

def test_without_a_mouse_filtered_zoomed_and_on_a_narrow_screen(folder, tmp_path_factory):
    with shown(folder, tmp_path_factory.mktemp("profile"), "sites.ipynb", ".mgpt-sites tbody tr", width=390, height=900) as page:
        stage = page.locator(".mgpt-sites .mgpt-stage")
        page.get_by_role("button", name="Zoom in").focus()
        for _ in range(9):
            if page.evaluate("document.activeElement.className") == "mgpt-stage": break
            page.keyboard.press("Tab")
        for key in ("ArrowRight", "ArrowDown", "ArrowLeft"): # one call alone: it is met at last, and stays
            page.keyboard.press(key)
            if "vacancy" in focused(page): break
        assert "Mo at" in focused(page) and "vacancy" in focused(page)
        page.keyboard.press("+"); page.keyboard.press("Enter")
        page.locator(".mgpt-site-facts", has_text="Called vacancy").wait_for()
        page.keyboard.press("Shift+ArrowRight")
        assert "expected" in focused(page)
        page.keyboard.press("Enter")
        page.locator(".mgpt-site-facts", has_text="Called expected").wait_for()
        page.get_by_role("button", name="vacancy 1").click()
        page.get_by_text("No column is called anything but expected").wait_for()
        page.get_by_role("button", name="vacancy 1").click()
        page.get_by_role("radio").first.check()
        page.locator(".mgpt-site-facts", has_text="Called vacancy").wait_for()
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
        assert page.get_by_role("button").all() and all(b.inner_text().strip() or b.get_attribute("aria-label") for b in page.locator(".mgpt-app button").all())

def test_every_atom_after_a_prediction_in_jupyterlab(folder, tmp_path_factory):
    with shown(folder, tmp_path_factory.mktemp("profile"), "app.ipynb", ".mgpt-app[data-keys=own]", kind="jupyterlab") as page:
        upload(page, "Choose a micrograph", folder/"frame.tif")
        page.get_by_text("Measured lattice:").wait_for()
        fill(page, "Formula", "MoS2")
        page.get_by_role("button", name="Predict").click()
        page.locator(".mgpt-ranking tbody tr").first.wait_for(timeout=120_000)
        page.get_by_role("button", name="Every atom of the frame").click()
        page.locator(".mgpt-sites tbody tr").first.wait_for(timeout=120_000)
        click_vacancy(page)
        change(page, "not a site")
        page.get_by_text("Choose a column in the picture or the list").wait_for()
        page.locator(".mgpt-app").last.get_by_role("button", name="Undo").click()
        page.locator(".mgpt-sites tbody tr.mgpt-chosen").wait_for()
        change(page, "antisite", "S")
        page.locator(".mgpt-sites tbody tr.mgpt-chosen", has_text="by hand").wait_for()
        save(page)
        assert of_the_vacancy(folder/"sites")["call"] == "antisite"
