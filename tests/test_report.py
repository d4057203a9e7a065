"The report: nothing from outside gets in, nothing from inside gets lost, and the same answers make the same page."
import base64, copy, hashlib, json, os, re, subprocess, sys
from html.parser import HTMLParser
from pathlib import Path
import matplotlib.pyplot as plt, numpy as np, pytest
from hypothesis import given, settings as how_often, strategies as st
from fastcore.xml import to_xml
from microscopygpt import plotting, report as R, report_page as page_of, report_rows as rows_of
from microscopygpt.crystal import Slab, cell_from_lengths, equivalent_bases, from_slab, to_slab
from microscopygpt.metrics import FAILURES, make_report, read_report

EVIL = "<script>alert(1)</script>\"'><img src=http://evil.example/x onerror=alert(2)>|$\\_%"
VOID = {"meta", "link", "input", "img", "br", "hr"}

# ---- records by hand, without comparing anything

def record(i, failure="", **more):
    truth = dict(a=3 + .05*i, b=3.2 + .05*i, gamma=120., space_group=187, bravais=0, weight=100. + 10*i)
    ok = failure == ""
    some = dict(rmsd=.01*(i + 1), rmsd_xy=.005, rmsd_z=.01) if ok else dict(rmsd=None, rmsd_xy=None, rmsd_z=None)
    d = {"solved@1": ok, "solved@5": ok or failure == "ranked lower", "tight@1": ok, "tight@5": ok, "hit@1": ok, "hit@5": ok, "match_abs": ok, "match_abs_1": ok, "same_space_group": ok, "min_rms": .01 if ok else None,
         **some, "da": .001, "db": -.002, "dgamma": .1, "failure": failure, "n_answers": 1, "truth": truth, "guess": None if failure == "missing" else {**truth, "a": truth["a"]*(1.001 if ok else 1.3), "space_group": 187 if ok else 164},
         "faults": [], "id": f"id-{i}", "source": ("first", "second_one")[i % 2], "formula": "MoS2", "n_atoms": 3 + i, "residual": .01*i, "confidence": min(.1*i, 1.), "error": ""}
    return d | more

CLASSES = ["", "", "", "ranked lower", "z", "in-plane", "lattice", "missing", "missing", "unparsed"]
RECORDS = [record(i, why) for i, why in enumerate(CLASSES)]
SETTINGS = dict(model="model_1 & co", subset="test", noise="paper", seed=0, k=5, sources=["first", "second_one"], command="microscopygpt evaluate --n 10")

def made(records, **settings): return make_report(json.loads(json.dumps(records)), SETTINGS | settings)
def shuffled(records): return [r | dict(shuffled=record(i, "formula")) for i, r in enumerate(records)]

@pytest.fixture(scope="module")
def report(): return made(shuffled(RECORDS))

@pytest.fixture(scope="module")
def text(report): return page_of.html(report, structures, [report])

@pytest.fixture(scope="module")
def page(text): return Page(text)

@pytest.fixture(scope="module")
def evil(): return made([record(i, why, id=f"{EVIL}{i}", source=EVIL, formula=f"S2{EVIL}", error=EVIL, faults=[dict(rank=1, reason=EVIL)]) for i, why in enumerate(CLASSES)],
                        model=EVIL, command=EVIL, sources=[EVIL], weights=EVIL, **{"k": [EVIL, {"a": EVIL}]})

def layer(phase="2H", a=3.18, h=1.56):
    bottom = [1/3, 2/3] if phase == "2H" else [2/3, 1/3]
    return from_slab(Slab(cell_from_lengths(a, a, 120), np.array([[0, 0], [1/3, 2/3], bottom]), np.array([0., h, -h]), np.array([42, 16, 16])))

def structures(name): return dict(truth=layer(), answers=[layer("1T"), None], micrograph=np.random.default_rng(0).random((64, 64)))

class Page(HTMLParser):
    "Elements with their attributes and own text; checks that tags close."
    def __init__(self, text):
        super().__init__(convert_charrefs=True)
        self.elements, self.open, self.lost = [], [], []
        self.feed(text); self.close()
    def handle_starttag(self, tag, attrs):
        e = dict(tag=tag, attrs=dict(attrs), text="", path=[x["tag"] for x in self.open])
        self.elements.append(e)
        if tag not in VOID: self.open.append(e)
    def handle_startendtag(self, tag, attrs): self.handle_starttag(tag, attrs); (tag not in VOID) and self.open.pop()
    def handle_endtag(self, tag):
        if not self.open or self.open.pop()["tag"] != tag: self.lost.append(tag)
    def handle_data(self, data):
        for e in self.open: e["text"] += data
    def all(self, tag, **attrs): return [e for e in self.elements if e["tag"] == tag and all(e["attrs"].get(k.replace("_", "-")) == v for k, v in attrs.items())]
    @property
    def rows(self): return [e for e in self.all("details") if "data-result" in e["attrs"]]

# ---- tables

def cells(line): return re.split(r"(?<!\\)\|", line)[1:-1]

def test_markdown_has_a_cell_for_every_score(report, evil):
    lines = R.table([report, evil], columns=(*R.COLUMNS, "W1(a)"), baselines=True).splitlines()
    assert {len(cells(line)) for line in lines} == {len(R.COLUMNS) + 3} and len(lines) == 2 + 4
    assert "<script" not in "\n".join(lines) and "0.30 (" in lines[2]
    assert [cells(x)[0].strip() for x in lines[4:]] == ["shuffled", "mean of the truth"] and cells(lines[5])[2].strip() == "–" != cells(lines[5])[-1].strip()

def test_sources_and_baselines(report):
    assert "| 5 |" in R.table([report], "first") and "| 10 |" in R.table([report])
    assert len(R.table([report], "no such source").splitlines()) == 2
    assert "mean of the truth" not in R.table([report], baselines=True)

def test_unknown_score_is_a_dash(report): assert cells(R.table([report], columns=("no such score",)).splitlines()[2])[-1].strip() == "–"

def test_scores_that_are_infinite():
    assert R.cell_text(dict(value=np.inf, low=.5, high=np.inf, n=3)) == "∞ (0.50–∞)" and R.cell_text(dict(value=None, low=None, high=None, n=0)) == "–"

def test_rich_display(report):
    text = report._repr_markdown_()
    assert str(report) == text and {len(cells(line)) for line in text.splitlines()[2:]} == {4}
    assert "second_one (n=5)" in text and "not solved: ranked lower | 1 | 0 | 1 |" in text and len(repr(report)) < 100

def balanced(tex):
    depth = 0
    for c in re.findall(r"(?<!\\)[{}]", tex.replace(r"\\", "")):
        depth += 1 if c == "{" else -1
        assert depth >= 0
    return depth == 0

def plain(tex): return re.sub(r"(?<!\\)%.*", "", tex).replace(r"\\", " NEWLINE ")

@pytest.mark.parametrize("columns", page_of.TABLES)
def test_latex_balances(report, evil, columns):
    tex = R.latex([report, evil], None, columns, baselines=True)
    assert tex.isascii() and balanced(tex) and len(re.findall(r"(?<!\\)\$", tex)) % 2 == 0
    assert re.findall(r"\\begin\{(.*?)\}", tex) == re.findall(r"\\end\{(.*?)\}", tex)[::-1]
    body = plain(tex[tex.index(r"\toprule"):tex.index(r"\bottomrule")]).split("NEWLINE")[:-1]
    assert {len(re.findall(r"(?<!\\)&", line)) for line in body} == {len(columns) + 1} and f"lr{'c'*len(columns)}" in tex
    assert r"model\_1 \& co" in tex and "10 structures" in tex and "failure in every rate" in tex

def test_latex_of_names_and_units():
    assert R.tex("|Δγ| p95 (°)") == r"$|\Delta\gamma|$ p95 (${}^\circ$)" and R.tex("(V/N)^⅓ 5 % _") == r"(V/N)${}^{1/3}$ 5 \% \_" and R.tex("Å – Å") == r"{\AA} -- {\AA}"
    assert R.tex("[x] *") == "{[}x{]} {*}" and R.tex("$|") == r"\$$|$" and R.tex("MoS₂é中") == r"MoS\textsubscript{2}e??"

@given(st.text(max_size=30))
def test_latex_takes_any_text(text):
    tex = R.tex(text)
    assert tex.isascii() and balanced(tex) and len(re.findall(r"(?<!\\)\$", tex)) % 2 == 0 and "\n" not in tex
    assert not re.search(r"(?<!\\)[&#%_~]|(?<!\{\})(?<!\\)\^", re.sub(r"\\text\w+\{\d?\}", "", tex))

# ---- the page

def test_nothing_from_a_file_becomes_markup(evil):
    page = Page(page_of.html(evil, lambda name: structures(name), [evil]))
    assert not page.lost and len(page.all("script")) == 1 and len(page.all("style")) == 1
    assert not [e for e in page.elements if any(k.startswith("on") for k in e["attrs"])]
    assert all(e["attrs"].get("src", "data:").startswith("data:") for e in page.elements)
    assert EVIL in page.all("h1")[0]["text"] and EVIL in page.all("pre")[0]["text"] and EVIL in page.rows[0]["text"] and page.rows[0]["attrs"]["data-source"] == EVIL
    assert {e["attrs"]["value"] for e in page.all("option")} <= {"", EVIL}

def test_nothing_is_loaded(text, page):
    for e in page.elements:
        for key, value in e["attrs"].items():
            if key in ("src", "href", "xlink:href", "action", "poster", "data", "srcset"): assert value.startswith(("data:", "#")), (e["tag"], value)
            if value and "url(" in value: assert "url(#" in value
    assert not re.search(r"https?://|@import|@font-face|url\((?!#)", text)
    policy = page.all("meta", http_equiv="Content-Security-Policy")[0]["attrs"]["content"]
    assert "default-src 'none'" in policy and base64.b64encode(hashlib.sha256(page.all("script")[0]["text"].encode()).digest()).decode() in policy

def test_references_inside_the_page_exist(page):
    ids = [e["attrs"]["id"] for e in page.elements if "id" in e["attrs"]]
    assert {e["attrs"]["href"][1:] for e in page.elements if e["attrs"].get("href", "").startswith("#")} <= set(ids)
    named = [i for i in ids if not re.fullmatch(r"[mpC][0-9a-f_]+|[A-Z]\w*_[0-9a-f_]+", i)]
    assert len(named) == len(set(named))

def test_same_report_same_bytes(report, text):
    before = plt.get_fignums()
    assert page_of.html(report, structures, [report]) == text and plt.get_fignums() == before

AGAIN = """
import hashlib, json, sys
sys.path.insert(0, "tests")
import test_report as t
report = t.read_report(sys.argv[1] + "/scores.json")
report.records = [json.loads(line) for line in open(sys.argv[1] + "/records.jsonl")]
print(hashlib.sha256(t.page_of.html(report, t.structures, [report]).encode()).hexdigest())
"""

def test_written_files_and_same_bytes_in_another_process(report, text, tmp_path):
    out = page_of.write_report(report, tmp_path/"a"/"b", structures, [report])
    assert sorted(p.name for p in out.iterdir()) == ["records.jsonl", "report.html", "scores.json", "table.md", "table.tex"]
    assert read_report(out/"scores.json").as_dict() == report.as_dict()
    assert [json.loads(line) for line in (out/"records.jsonl").read_text().splitlines()] == report.records
    assert (out/"table.tex").read_text().count(r"\toprule") == 9 and (out/"report.html").read_text() == text
    env = dict(os.environ, PYTHONHASHSEED="7", PYTHONPATH=str(Path(R.__file__).parents[1]), MPLBACKEND="Agg")
    done = subprocess.run([sys.executable, "-c", AGAIN, str(out)], cwd=Path(__file__).parents[1], env=env, capture_output=True, text=True)
    assert done.stdout.strip() == hashlib.sha256(text.encode()).hexdigest(), done.stderr

def test_every_structure_is_there_failures_first(page):
    results = [e["attrs"]["data-result"] for e in page.rows]
    assert len(results) == 10 and results[-3:] == ["solved"]*3 and "solved" not in results[:-3]
    assert [FAILURES.index(x) for x in results[:-3]] == sorted(FAILURES.index(x) for x in results[:-3])
    assert {e["attrs"]["data-source"] for e in page.rows} == {"first", "second_one"}

def test_choices_count_what_they_show(page):
    results = [e["attrs"]["data-result"] for e in page.rows]
    chips = {e["attrs"]["value"]: e for e in page.all("input", type="radio")}
    numbers = {value: int(label["text"].split()[-1]) for value, label in zip(chips, [e for e in page.all("label") if e["attrs"].get("class") == "chip"])}
    assert numbers[""] == 10 and numbers["!"] == 7 and all(numbers[x] == results.count(x) for x in results)
    assert "checked" in chips["!"]["attrs"] and "checked" not in chips[""]["attrs"]

def test_every_cell_has_its_column(page):
    heads = [e for e in page.all("button") if "data-column" in e["attrs"]]
    assert [int(e["attrs"]["data-column"]) for e in heads] == list(range(len(rows_of.ROWS))) and all(e["attrs"]["aria-label"] for e in heads)
    assert len([e for e in page.all("span") if e["path"][-1] == "summary"]) == 10*len(rows_of.ROWS)

def test_pictures_only_of_failures(report, text):
    asked = []
    assert page_of.html(report, lambda name: asked.append(name) or structures(name), [report]) == text
    assert len(asked) == 7 and text.count('class="crystal"') == 4*7 and text.count("data:image/jpeg") == 7

def test_structures_from_a_mapping_or_not_at_all(report):
    some = page_of.html(report, {"id-4": structures("id-4")})
    assert some.count('class="crystal"') == 4 and page_of.html(report).count('class="crystal"') == 0

@pytest.mark.parametrize("found", [None, {}, dict(truth=layer()), dict(truth=layer(), answers=[]), dict(truth=layer(), answers=[None, layer()]), dict(answers=[ValueError("rank_1.cif is empty")]),
                                   dict(truth=layer(), answers=[layer()], micrograph=np.zeros((40, 50))), dict(truth=layer(), answers=[from_slab(Slab(cell_from_lengths(3, 9, 95), np.zeros((1, 2)), np.zeros(1), np.array([6])))])])
def test_structures_may_be_missing(report, found): assert not Page("".join(map(to_xml, [rows_of._structures(found)]))).lost

def test_fields_may_be_missing(report):
    bare = copy.deepcopy(report)
    for r in bare.records:
        for key in ("formula", "residual", "confidence", "error", "faults", "n_answers", "rmsd"): del r[key]
    bare.settings = dict(model="bare")
    page = Page(page_of.html(bare))
    assert len(page.rows) == 10 and not page.lost and "honest" not in page.all("main")[0]["text"]

def test_without_records(report, tmp_path):
    report.write(tmp_path/"scores.json")
    page = Page(page_of.html(read_report(tmp_path/"scores.json"), structures, [report]))
    assert not page.rows and "not at hand" in page.all("main")[0]["text"] and len(page.all("figure")) == 3

def test_a_keyboard_reaches_every_plot_and_landmarks_have_names(report):
    "A page may stand in a frame of another, whose landmarks have names of their own."
    page = Page(page_of.html(report))
    plots = page.all("div", **{"class": "plot"})
    assert len(plots) > 2 and all(p["attrs"].get("tabindex") == "0" and p["attrs"].get("aria-label") for p in plots)
    assert all(e["attrs"].get("aria-label") for tag in ("main", "nav") for e in page.all(tag))

@pytest.mark.parametrize("failure", ["", "missing"])
def test_all_alike(failure):
    one = made([record(i, failure) for i in range(0, 6, 2)])
    page = Page(page_of.html(one, structures))
    checked = [e["attrs"]["value"] for e in page.all("input", type="radio") if "checked" in e["attrs"]]
    assert checked == (["!"] if failure else [""]) and len(page.rows) == 3 and f"{0 if failure else 3} of 3" in page.all("h1")[0]["text"]
    assert R.latex([one], baselines=True) and R.table([one], baselines=True) and one._repr_markdown_()

# ---- drawings

def test_drawings_are_small_and_plain():
    for slab in (to_slab(layer()), Slab(cell_from_lengths(5, 22, 95), np.random.default_rng(0).random((28, 2)), np.linspace(-3, 3, 28), np.arange(20, 48))):
        for side in (False, True):
            svg = plotting.draw_slab(slab, plotting.reach_of(slab), side, label=EVIL)
            page = Page(svg)
            assert len(svg) < 20000 and not page.lost and not page.all("script") and page.all("title")[0]["text"] == EVIL
            assert all(e["attrs"].get("fill", "none")[0] in "n#" for e in page.elements)
    assert len(plotting.draw_slab(to_slab(layer()))) < 3000

@pytest.mark.parametrize("side", [False, True])
def test_atoms_stand_where_they_are(side):
    "One period of graphene's cell, in the drawing's units."
    slab = Slab(cell_from_lengths(2.46, 2.46, 120), np.array([[0, 0], [1/3, 2/3]]), np.zeros(2), np.array([6, 6]))
    points = np.array(re.findall(r"M(-?\d+) (-?\d+)h", plotting.draw_slab(slab, side=side).split("/><path")[1]), float)/plotting.SCALE
    gaps = np.sort(np.linalg.norm(points[:, None] - points, axis=2), axis=1)[:, 1]
    assert gaps == pytest.approx(2.46*np.sqrt(3)/6 if side else 2.46/np.sqrt(3), abs=.05) or side and set(np.round(gaps, 1)) <= {.7, 1.4}

@how_often(max_examples=25)
@given(st.integers(0, 10**6))
def test_align_to_undoes_another_setting(seed):
    rng = np.random.default_rng(seed)
    cell = cell_from_lengths(*((4, 4, 120), (4, 4, 90), (4, 5.5, 90), (4, 5, 101))[seed % 4])
    n = rng.integers(1, 7)
    truth = Slab(cell, rng.random((n, 2)), rng.normal(size=n), rng.choice([6, 16, 42], n))
    bases = equivalent_bases(cell)
    M, side, order = bases[rng.integers(len(bases))], rng.choice([1, -1]), rng.permutation(n)
    other = Slab(M@cell, ((truth.frac@np.linalg.inv(M) + rng.random(2)) % 1)[order], side*truth.z[order], truth.numbers[order])
    back = plotting.align_to(other, truth)
    d = truth.frac[:, None] - back.frac; d -= np.round(d)
    apart = np.linalg.norm(d, axis=2) + np.abs(truth.z[:, None] - back.z) + (truth.numbers[:, None] != back.numbers)
    assert apart.min(1).max() < 1e-6

def test_reliability_counts_everybody():
    records = [record(i, why, confidence=c) for i, (why, c) in enumerate(zip(CLASSES, (0, 1, 1.2, -.1, .2, .95, .949, None, .5, .5)))]
    points = R.reliability(records)
    assert sum(s["n"] for _, s in points) == 9 and all(0 <= x <= 1 for x, _ in points) and [x for x, _ in points] == sorted(x for x, _ in points)
    assert R.reliability([]) == []

@pytest.mark.parametrize("plot", [lambda r: R.plot_failures([r, r], "first"), lambda r: R.plot_distributions(r), lambda r: R.plot_parity(r.records, "b"), lambda r: R.plot_parity([]), lambda r: R.plot_sizes([r, r]),
                                  lambda r: R.plot_reliability(r.records), lambda r: R.plot_reliability([])])
def test_plots_draw(report, plot):
    ax = np.ravel(plot(report))[0]
    ax.figure.canvas.draw(); plt.close(ax.figure)

def test_a_plot_leaves_the_settings_alone(report):
    before = dict(plt.rcParams)
    plt.close(R.plot_failures([report]).figure)
    assert dict(plt.rcParams) == before

# ---- in a browser

@pytest.fixture(scope="module")
def browser():
    api, chromium = pytest.importorskip("playwright.sync_api"), Path("/usr/bin/chromium")
    with api.sync_playwright() as p:
        try: b = p.chromium.launch(args=["--no-sandbox"], **(dict(executable_path=str(chromium)) if chromium.exists() else {}))
        except api.Error as e: pytest.skip(f"no browser: {str(e).splitlines()[0]}")
        yield b
        b.close()

def opened(browser, page, tmp_path, **how):
    tab, trouble = browser.new_context(**how).new_page(), []
    tab.on("console", lambda m: trouble.append(m.text)); tab.on("pageerror", lambda e: trouble.append(str(e))); tab.on("dialog", lambda d: (trouble.append(d.message), d.dismiss()))
    tab.on("request", lambda r: trouble.append(r.url) if r.url.split(":")[0] not in ("file", "data") else None)
    (tmp_path/"page.html").write_text(page, encoding="utf-8")
    tab.goto((tmp_path/"page.html").as_uri())
    return tab, trouble

SHOWN = "#rows > details:not([hidden])"

def test_find_sort_and_open(browser, text, tmp_path):
    tab, trouble = opened(browser, text, tmp_path)
    assert tab.locator(SHOWN).count() == 7 and tab.inner_text("#count") == "7 of 10 structures"
    tab.check("input[value='missing']", force=True); assert tab.locator(SHOWN).count() == 2
    tab.select_option("select", "first"); assert tab.locator(SHOWN).count() == 1
    tab.check("input[name=result][value='']", force=True); tab.select_option("select", ""); assert tab.locator(SHOWN).count() == 10
    tab.fill("input[type=search]", "MOS2 id-4"); assert tab.locator(SHOWN).count() == 1
    tab.fill("input[type=search]", "nowhere"); assert tab.locator("#none").is_visible()
    tab.fill("input[type=search]", "")
    atoms = lambda: [int(x) for x in tab.locator("#rows summary > :nth-child(5)").all_text_contents()]
    tab.click("[data-column='4']"); assert atoms() == sorted(atoms())
    tab.click("[data-column='4']"); assert atoms() == sorted(atoms(), reverse=True)
    tab.click("[data-column='5']"); assert [r != "–" for r in tab.locator("#rows summary > :nth-child(6)").all_text_contents()] == [True]*3 + [False]*7
    first = tab.locator(SHOWN).last
    first.locator("summary").focus(); tab.keyboard.press("Enter"); assert first.get_attribute("open") is not None and first.locator(".crystal").first.is_visible()
    tab.click("#unfold"); assert tab.locator("#rows > details[open]").count() == 10
    assert not trouble

def test_names_do_no_harm_in_a_browser(browser, evil, tmp_path):
    tab, trouble = opened(browser, page_of.html(evil, structures), tmp_path)
    tab.fill("input[type=search]", "<script>alert(1)"); assert tab.locator(SHOWN).count() == 7
    assert not trouble

def test_without_script_and_on_a_telephone(browser, text, tmp_path):
    tab, trouble = opened(browser, text, tmp_path, java_script_enabled=False, viewport=dict(width=360, height=700))
    assert tab.locator("#rows > details").count() == 10 and tab.locator("#rows > details").nth(9).is_visible() and not tab.locator("#controls").is_visible()
    assert tab.evaluate("document.documentElement.scrollWidth") <= 360 and not trouble
