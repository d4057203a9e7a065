"The documentation site in a browser, as `make docs` has built it: `make test-docs`."
import json, threading
from contextlib import contextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
import pytest
from axe_playwright_python.sync_playwright import Axe
from browser import CHROMIUM, browser

SITE = Path(__file__).parents[1]/"_docs"
WIDE, NARROW = 1300, 390 # px: a laptop, a telephone
KINDS = ("index.html", "install.html", "tutorials/quickstart.html", "tutorials/every_atom.html", "how/proof.html", "stem.html", "solve.html",
         "report_page.html", "results.html", "results_sites.html", "paper.html")
pytestmark = [pytest.mark.skipif(not CHROMIUM, reason="no Chromium on this machine"),
              pytest.mark.skipif(not (SITE/"index.html").is_file(), reason="the site is not built: make docs")]

CUT = """const cut = box => { // sticks out of the window, and no box around it scrolls
    const place = box.getBoundingClientRect();
    if (!place.width || place.right <= document.documentElement.clientWidth + 1) return false;
    for (let around = box.parentElement; around; around = around.parentElement)
        if (["auto", "scroll"].includes(getComputedStyle(around).overflowX)) return false;
    return true; };"""

class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *args): pass

@contextmanager
def served_site():
    "The address of the built site."
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(SITE)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try: yield f"http://127.0.0.1:{server.server_port}/"
    finally: server.shutdown()

@pytest.fixture(scope="module", params=[(WIDE, "light"), (NARROW, "dark")], ids=["wide, light", "narrow, dark"])
def opened(request, tmp_path_factory):
    "A browser on the site: a page, its address, what the console complained about, and what was asked of other servers."
    width, scheme = request.param
    with served_site() as address, browser(tmp_path_factory.mktemp("profile"), width, 900, color_scheme=scheme) as (page, complaints):
        elsewhere = []
        page.on("request", lambda r: elsewhere.append(r.url) if not r.url.startswith((address, "data:", "about:")) else None)
        yield page, address, complaints, elsewhere

def all_pages(): return sorted(path.relative_to(SITE).as_posix() for path in SITE.rglob("*.html"))

def test_every_page_is_whole(opened):
    "No complaint in the console, nothing fetched from elsewhere, nothing wider than the window, no broken picture, some prose."
    page, address, complaints, elsewhere = opened
    wrong = {}
    for name in all_pages():
        complaints.clear(), elsewhere.clear()
        page.goto(address + name)
        found = page.evaluate(f"""() => {{ {CUT} return {{
            cut: [...document.querySelectorAll("main *")].filter(cut).length,
            broken: [...document.images].filter(i => i.complete && !i.naturalWidth).length,
            words: [...document.querySelectorAll("main p")].map(p => p.innerText).join(" ").split(/\\s+/).length}}; }}""")
        if found["cut"] or found["broken"] or found["words"] < 20 or complaints or elsewhere: wrong[name] = found, complaints[:3], elsewhere[:3]
    assert len(all_pages()) > 70 and not wrong

@pytest.mark.parametrize("name", KINDS)
def test_axe_finds_nothing(opened, name):
    "Contrast, alternative texts, names of buttons, landmarks, order of headings; in frames, too, such as an embedded report."
    page, address, _, _ = opened
    page.goto(address + name)
    page.wait_for_timeout(300)
    axe = Axe()
    for frame in page.frames: frame.evaluate(axe.axe_script)
    report = axe.run(page)
    assert not report.violations_count, report.generate_report()

def test_the_search_box_finds(opened):
    page, address, _, _ = opened
    for words in ("predict", "dose", "1T"):
        page.goto(address + "index.html")
        if page.viewport_size["width"] == NARROW: page.get_by_label("Toggle navigation").click()
        page.get_by_label("Search", exact=True).fill(words)
        first = page.locator(".search-result").first
        first.wait_for(timeout=10_000)
        assert words.lower() in first.inner_text().lower()
        first.click()
        page.wait_for_load_state()
        assert words.lower() in page.locator("main").inner_text().lower()

def test_every_page_can_be_searched():
    listed = {entry["href"].partition("#")[0] for entry in json.loads((SITE/"search.json").read_text(encoding="utf-8"))}
    assert listed == set(all_pages())

def test_a_section_of_the_sidebar_opens_by_keyboard(opened):
    page, address, _, _ = opened
    page.goto(address + "index.html")
    if page.viewport_size["width"] == NARROW: page.get_by_label("Toggle sidebar navigation").click()
    section = page.locator("#quarto-sidebar").get_by_role("button", name="Tutorials")
    section.focus()
    page.keyboard.press("Enter")
    page.get_by_role("link", name="Your own micrograph").first.wait_for(timeout=5000)

def test_a_click_turns_light_into_dark(opened):
    page, address, _, _ = opened
    page.goto(address + "index.html")
    if page.viewport_size["width"] == NARROW: page.get_by_label("Toggle navigation").click()
    before = page.evaluate("getComputedStyle(document.body).backgroundColor")
    page.get_by_title("Toggle dark mode").click()
    page.wait_for_function("before => getComputedStyle(document.body).backgroundColor !== before", arg=before, timeout=10_000)

def test_each_page_leads_to_the_next():
    "But the last one."
    texts = {name: (SITE/name).read_text(encoding="utf-8") for name in all_pages()}
    assert sum("nav-page-next\"><a" not in text for text in texts.values()) == 1

def test_a_link_to_the_site_shows_a_card():
    head = (SITE/"index.html").read_text(encoding="utf-8").partition("</head>")[0]
    assert 'property="og:image"' in head and "images/card.png" in head and (SITE/"images"/"card.png").is_file()

def test_every_page_says_how_to_cite():
    texts = {name: (SITE/name).read_text(encoding="utf-8") for name in all_pages()}
    assert not [name for name, text in texts.items() if "CITATION.cff" not in text or "licence-and-citation" not in text]

def test_language_models_find_every_page():
    listed = (SITE/"llms.txt").read_text(encoding="utf-8")
    assert all(name.removesuffix(".html") + ".llms.md" in listed for name in all_pages())
