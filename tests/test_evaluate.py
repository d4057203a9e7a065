"Folders of answers good and bad, runs that are stopped and go on, and baselines that do not leak."
import json, os, signal, subprocess, sys
import numpy as np, pytest
from microscopygpt.crystal import Slab, canonical, cell_from_lengths, from_slab, reduced_formula, standardize, to_slab
from microscopygpt.structure_files import write_crystal
from microscopygpt.data import Crystal
from microscopygpt.fourier import LatticeError
from microscopygpt import evaluation as E, metrics as M

def layer(numbers=(42, 16, 16), a=3.18, h=1.56, phase="2H"):
    bottom = [1/3, 2/3] if phase == "2H" else [2/3, 1/3]
    return from_slab(Slab(cell_from_lengths(a, a, 120), np.array([[0, 0], [1/3, 2/3], bottom]), np.array([0., h, -h]), np.array(numbers)))

def crystal(atoms, name, source="by hand"): return Crystal(name, source, reduced_formula(atoms), canonical(to_slab(standardize(atoms))))
def honeycomb(numbers, a): return from_slab(Slab(cell_from_lengths(a, a, 120), np.array([[0, 0], [1/3, 2/3]]), np.zeros(2), np.array(numbers)))

MOS2 = layer()
TRUTHS = [crystal(MOS2, "2H"), crystal(honeycomb([6, 6], 2.46), "graphene"), crystal(honeycomb([5, 7], 2.51), "hBN")]
SHELF = [crystal(layer((74, 34, 34), 3.32, 1.68), "WSe2"), crystal(honeycomb([14, 14], 3.87), "Si"), crystal(honeycomb([14, 6], 3.10), "SiC"),
         crystal(layer((72, 16, 16), 3.64, 1.45, "1T"), "HfS2"), crystal(layer((34, 42, 34), 3.3), "MoSe2-leak"), crystal(MOS2, "MoS2-leak")]

# ---- folders of answers

@pytest.fixture
def folders(tmp_path):
    "Eight true structures, and a right answer to each."
    truth, answers = tmp_path/"truth", tmp_path/"method"
    truth.mkdir()
    for i, name in enumerate("abcdefgh"):
        write_crystal(layer(a=3.1 + .05*i), truth/f"{name}.cif")
        E.write_answers([layer(a=3.1 + .05*i)], answers/f"{name}_0")
    return answers, truth

def test_right_answers_score_one(folders, tmp_path):
    report = E.score(*folders, tmp_path/"out")
    saved = json.loads((tmp_path/"out/scores.json").read_text())
    for name in ("Solved@1", "Solved@5", "Tight@1", "Tight@5", "SG@1", "Hit@1", "Hit@5", "Match_abs"): assert saved[name]["value"] == 1 and saved[name]["n"] == 8 and saved[name]["low"] > .6 and saved[name]["high"] == 1
    assert report.name == "method" and saved["baselines"]["shuffled"]["Tight@1"]["n"] == 8 and saved["baselines"]["shuffled"]["|Δa| median"]["value"] > 1
    assert {p.name for p in (tmp_path/"out").iterdir()} == {"scores.json", "table.md", "table.tex", "report.html", "records.jsonl"}

def test_missing_empty_and_corrupt_files_are_failures_by_name(folders, tmp_path):
    answers, truth = folders
    first = lambda name: answers/f"{name}_0"/"rank_1.cif"
    first("a").unlink(); first("a").parent.rmdir()                                          # no folder
    first("b").unlink()                                                                     # an empty folder
    first("c").write_text("")                                                               # an empty file
    first("d").write_bytes(os.urandom(500))                                                 # noise
    first("e").write_text(first("e").read_text().rstrip().rsplit("\n", 1)[0])               # an atom cut off
    first("f").write_text(first("f").read_text()[:120])                                     # cut short
    first("g").write_text(first("g").read_text().replace("3.4", "nan"))                     # no number
    report = E.score(answers, truth, tmp_path/"out")
    assert report.total["scores"]["Solved@1"] == M.rate([True] + [False]*7)
    records = {r["id"]: r for r in report.records}
    assert {n: records[n]["failure"] for n in "abcdefgh"} == dict(a="missing", b="missing", c="unparsed", d="unparsed", e="unparsed", f="unparsed", g="unparsed", h="")
    assert all(len(records[n]["faults"]) == 1 for n in "abcdefg") and not records["h"]["faults"]
    html = (tmp_path/"out/report.html").read_text()
    for n in "cdefg": assert "rank_1.cif" in records[n]["faults"][0]["reason"]
    assert "rank_1.cif" in html

def test_a_refused_first_answer_does_not_promote_the_second(folders):
    answers, truth = folders
    E.write_answers([layer(a=3.1), layer(a=3.1)], answers/"a_0"); (answers/"a_0"/"rank_1.cif").write_text("")
    E.write_answers([layer(a=3.15), layer(a=3.15)], answers/"b_0"); (answers/"b_0"/"rank_1.cif").unlink()
    report = E.score(answers, truth)
    assert {r["id"]: r["failure"] for r in report.records if r["id"] < "d"} == dict(a="ranked lower", b="ranked lower", c="")
    assert report.total["scores"]["Solved@1"]["value"] == 6/8 and report.total["scores"]["Solved@5"]["value"] == 1

def test_bad_folders_are_refused(folders, tmp_path):
    answers, truth = folders
    with pytest.raises(E.EvaluateError, match="no such folder"): E.score(tmp_path/"nowhere", truth)
    with pytest.raises(E.EvaluateError, match="holds no answer"): E.score(truth, truth)
    with pytest.raises(E.EvaluateError, match="holds no ID.cif"): E.score(answers, answers)
    (answers/"stranger_0").mkdir()
    with pytest.warns(UserWarning, match="stranger_0"): E.score(answers, truth)
    (truth/"a.cif").write_text("")
    with pytest.raises(E.EvaluateError, match="a.cif"): E.score(answers, truth)
    write_crystal(MOS2, truth/"a.cif"); (truth/"about.json").write_text("{")
    with pytest.raises(E.EvaluateError, match="about.json"): E.score(answers, truth)

def test_sources_come_from_about(folders):
    answers, truth = folders
    (truth/"about.json").write_text(json.dumps({"a": dict(source="x"), "b": dict(source="y")}))
    assert {s: p["scores"]["Solved@1"]["n"] for s, p in E.score(answers, truth).sources.items()} == {"all": 6, "x": 1, "y": 1}

def test_workers_give_the_same_report(folders, tmp_path):
    E.score(*folders, tmp_path/"one"); E.score(*folders, tmp_path/"two", workers=2)
    for name in ("scores.json", "records.jsonl", "report.html", "table.md", "table.tex"): assert (tmp_path/"one"/name).read_bytes() == (tmp_path/"two"/name).read_bytes()

def test_shuffling_gives_everybody_anothers_answers():
    sources = dict(zip("abcdefg", "xxxxyyz"))
    other = E._others(list(sources), sources)
    assert sorted(other.values()) == list("abcdef") and all(k != v and sources[k] == sources[v] for k, v in other.items())

# ---- runs

def test_templates_never_leak():
    library = E.Library(SHELF)
    names = {c.id for formula in ("MoS2", "C", "BN", "WSe2") for c in library.like(formula)}
    assert "MoSe2-leak" not in names, "MoSe2 is on the test side"
    assert "MoS2-leak" not in {c.id for c in library.like("MoS2")} and "WSe2" not in {c.id for c in library.like("WSe2")}

def test_draw_is_nested_and_does_not_depend_on_order():
    many = [crystal(honeycomb([6, 6], 2.4 + .01*i), f"c{i}", "ab"[i % 2]) for i in range(20)]
    ids = lambda crystals, n: [c.id for c in E.draw(crystals, n=n, seed=3)]
    assert ids(many, 4) == ids(many[::-1], 4) and len(ids(many, 4)) == 8
    assert set(ids(many, 4)) <= set(ids(many, 7)) and ids(many, None) != [c.id for c in E.draw(many, seed=4)]
    with pytest.raises(E.EvaluateError, match="identifier"): E.draw(many + many[:1])

def test_draw_from_a_folder_of_ones_own(folders):
    _, truth = folders
    assert len(E.draw(str(truth), "all")) == len(E.draw([str(truth)], "train")) == 8 and E.draw(str(truth), "all")[0].source == "truth"

def test_the_same_micrograph_anywhere():
    a, b = E.draw_micrograph(TRUTHS[0]).data, E.draw_micrograph(TRUTHS[0]).data
    assert (a == b).all() and (E.draw_micrograph(TRUTHS[0], seed=1).data != a).any()
    assert (E.draw_micrograph(crystal(MOS2, "another name")).data != a).any()

def run(out, **kw): return E.evaluate(TRUTHS, model="templates", templates=SHELF, out=out, **kw)

def files(folder): return {p.relative_to(folder): p.read_bytes() for p in folder.rglob("*") if p.is_file() and p.name != "answers.jsonl"} # that one also keeps the seconds

def test_resume_gives_the_identical_report(tmp_path, monkeypatch):
    whole, before = run(tmp_path/"a"), files(tmp_path/"a")
    journal = tmp_path/"a/answers.jsonl"
    lines = journal.read_text().splitlines(True)
    journal.write_text(lines[0] + lines[1][:40]) # killed while it wrote
    for name in ("scores.json", "report.html"): (tmp_path/"a"/name).unlink()
    (tmp_path/"a/predictions"/f"{json.loads(lines[1])['id']}_0"/"rank_1.cif").write_text("half a")
    asked = []
    monkeypatch.setattr(E, "ask", lambda q, c, ask=E.ask: asked.append(c.id) or ask(q, c))
    again = run(tmp_path/"a")
    assert len(asked) == 2 and files(tmp_path/"a") == before and again.as_dict() == whole.as_dict()
    run(tmp_path/"a"); assert len(asked) == 2
    assert M.read_report(tmp_path/"a/scores.json").as_dict() == whole.as_dict()
    with pytest.raises(E.EvaluateError, match="noise"): run(tmp_path/"a", noise="hard")
    journal.write_text("nonsense\n")
    with pytest.raises(E.EvaluateError, match="no record"): run(tmp_path/"a")

CHILD = """
import sys; sys.path.insert(0, {tests!r})
from test_evaluate import *
def main():
    import time
    ask = E.ask
    def slow(q, c): print(c.id, flush=True); time.sleep(.5); return ask(q, c)
    E.ask = slow
    run(__import__("pathlib").Path({out!r}))
if __name__ == "__main__": main()
"""

def test_a_killed_process_goes_on_to_the_identical_report(tmp_path):
    run(tmp_path/"whole")
    child = subprocess.Popen([sys.executable, "-c", CHILD.format(tests=os.path.dirname(__file__), out=str(tmp_path/"killed"))], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    child.stdout.readline(); child.stdout.readline() # the second one is being asked
    child.send_signal(signal.SIGKILL); child.wait()
    assert len((tmp_path/"killed/answers.jsonl").read_text().splitlines()) == 1 and not (tmp_path/"killed/scores.json").exists()
    run(tmp_path/"killed")
    assert files(tmp_path/"killed") == files(tmp_path/"whole")

def test_evaluation_is_the_score_of_its_own_folder(tmp_path):
    whole = run(tmp_path/"a")
    again = E.score(tmp_path/"a/predictions", tmp_path/"a/truth")
    assert again.total == whole.total and again.sources == whole.sources

def test_refusals_are_failures_by_name_and_bugs_propagate(monkeypatch, tmp_path):
    def refuse(*a, **k): raise LatticeError("no lattice")
    monkeypatch.setattr(E, "predict", refuse)
    report = run(tmp_path/"a")
    assert report.total["scores"]["Solved@5"]["value"] == 0 and report.total["failures"] == {"missing": 3}
    assert all(r["faults"][0]["reason"].startswith("LatticeError") for r in report.records)
    assert "LatticeError: no lattice" in (tmp_path/"a/report.html").read_text()
    monkeypatch.setattr(E, "predict", lambda *a, **k: [][0])
    with pytest.raises(IndexError): run(tmp_path/"b")

@pytest.mark.parametrize("model", ("constant", "nearest-formula", "nearest-image", "image-only", "templates"))
def test_every_baseline_runs(model):
    scores = E.evaluate(TRUTHS, model=model, templates=SHELF).total["scores"]
    assert scores["Solved@1"]["n"] == 3
    if model == "image-only": assert scores["Hit@5"]["value"] == 0, "it cannot know the formula"

def asked_of(monkeypatch, **options):
    "What `predict` is asked in an evaluation, and the settings that the report keeps."
    asked = []
    monkeypatch.setattr(E, "predict", lambda look, formula, **kw: asked.append(kw) or PREDICT(look, formula, propose="model", heights=None, templates=None, k=1))
    report = E.evaluate(TRUTHS[:1], "benchmark", **options)
    return asked[0], report.settings

PREDICT = E.predict

@pytest.mark.parametrize("options, propose, heights, templates, words", [
    (dict(), ("columns", "model"), "chgnet", False, ""),
    (dict(model="compact+templates", templates=SHELF), ("columns", "model", "templates"), "chgnet", True, ""),
    (dict(model="templates", templates=SHELF), ("templates",), None, True, ""),
    (dict(propose="model", heights=None), ("model",), None, False, "--propose model --heights none "),
    (dict(propose=["templates", "columns"], templates=SHELF), ("columns", "templates"), "chgnet", True, "--propose columns,templates ")], ids=str)
def test_names_and_options_say_who_proposes(options, propose, heights, templates, words, monkeypatch):
    asked, settings = asked_of(monkeypatch, **options)
    assert asked["propose"] == propose and asked["heights"] == heights and bool(asked["templates"]) == templates
    assert settings["propose"] == ",".join(propose) and settings["heights"] == (heights or "none")
    assert settings["command"].split("--noise paper ")[1] == f"{words}--k 5 --seed 0 --out DIR"

def test_a_calculator_is_kept_by_its_name(monkeypatch):
    from ase.calculators.lj import LennardJones
    asked, settings = asked_of(monkeypatch, heights=LennardJones(rc=4.))
    assert isinstance(asked["heights"], LennardJones) and settings["heights"] == "lennardjones"

@pytest.mark.parametrize("options, says", [(dict(propose="psychic"), "psychic"), (dict(propose=()), "one or more"), (dict(propose="templates"), "compact\\+templates"), (dict(heights="oracle"), "oracle"),
    (dict(model="constant", heights=None), "baseline"), (dict(model="blank", propose="model"), "baseline"), (dict(model="templates", templates=SHELF, heights="sevennet"), "baseline")], ids=str)
def test_options_that_cannot_be(options, says):
    with pytest.raises(E.MicroscopyGPTError, match=says): E.evaluate(TRUTHS[:1], **options)

def test_a_folder_keeps_its_proposers_and_heights(tmp_path):
    first = E.evaluate(TRUTHS[:1], propose="model", heights=None, out=tmp_path)
    assert E.evaluate(TRUTHS[:1], propose="model", heights=None, out=tmp_path).as_dict() == first.as_dict()
    with pytest.raises(E.EvaluateError, match="another propose"): E.evaluate(TRUTHS[:1], heights=None, out=tmp_path)
    with pytest.raises(E.EvaluateError, match="another heights"): E.evaluate(TRUTHS[:1], propose="model", out=tmp_path)

def test_unknown_models_and_databases_that_are_not_there(monkeypatch):
    monkeypatch.setattr(E, "local_crystals", lambda: [])
    with pytest.raises(E.EvaluateError, match="MICROSCOPYGPT_DATA"): E.evaluate(TRUTHS, model="nearest-image")
    with pytest.raises(E.MicroscopyGPTError): E.evaluate(TRUTHS, model="no such model")

def test_a_raw_scan_has_another_scale_or_none():
    raw, unscaled = (E.draw_micrograph(TRUTHS[0], kind) for kind in ("raw", "unscaled"))
    assert raw.pixel_size != .1 and .088 <= raw.pixel_size <= .112 and unscaled.pixel_size is None
    assert (raw.data == E.draw_micrograph(TRUTHS[0], "raw").data).all()
