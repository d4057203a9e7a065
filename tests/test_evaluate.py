"Scores on cases worked by hand, failures in every denominator, and runs that are stopped and go on."
import json
import numpy as np, pytest
from jarvis.core.atoms import Atoms
from microscopygpt.crystal import CrystalError, Slab, canonical, cell_from_lengths, from_slab, reduced_formula, standardize, to_slab
from microscopygpt.data import Crystal
from microscopygpt.lattice import LatticeError
from microscopygpt import evaluate as E

def layer(numbers=(42, 16, 16), a=3.18, h=1.56, phase="2H"):
    bottom = [1/3, 2/3] if phase == "2H" else [2/3, 1/3]
    return from_slab(Slab(cell_from_lengths(a, a, 120), np.array([[0, 0], [1/3, 2/3], bottom]), np.array([0., h, -h]), np.array(numbers)))

def crystal(atoms, name, source="by hand"): return Crystal(name, source, reduced_formula(atoms), canonical(to_slab(standardize(atoms))))
def honeycomb(numbers, a): return from_slab(Slab(cell_from_lengths(a, a, 120), np.array([[0, 0], [1/3, 2/3]]), np.zeros(2), np.array(numbers)))

MOS2 = layer()
TRUTHS = [crystal(MOS2, "2H"), crystal(honeycomb([6, 6], 2.46), "graphene"), crystal(honeycomb([5, 7], 2.51), "hBN")]
SHELF = [crystal(layer((74, 34, 34), 3.32, 1.68), "WSe2"), crystal(honeycomb([14, 14], 3.87), "Si"), crystal(honeycomb([14, 6], 3.10), "SiC"),
         crystal(layer((72, 16, 16), 3.64, 1.45, "1T"), "HfS2"), crystal(layer((34, 42, 34), 3.3), "MoSe2-leak"), crystal(MOS2, "MoS2-leak")]

def changed(frac=None, order=(0, 1, 2), scale=1., turn=None):
    "MoS2 written in another way."
    f = np.array(MOS2.frac_coords)[list(order)] if frac is None else frac
    lattice = np.array(MOS2.lattice_mat)@(np.eye(3) if turn is None else turn)*scale
    return Atoms(lattice_mat=lattice, coords=f, elements=[MOS2.elements[i] for i in order])

def turned(degrees):
    c, s = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
    return np.array([[c, s, 0], [-s, c, 0], [0, 0, 1.]])

FRAC = np.array(MOS2.frac_coords)
SAME = {"itself": MOS2, "supercell": MOS2.make_supercell_matrix([2, 1, 1]), "3 x 2": MOS2.make_supercell_matrix([3, 2, 1]), "reordered": changed(order=(2, 0, 1)),
        "mirrored": changed(FRAC[:, [1, 0, 2]]), "turned over": changed(FRAC*[1, 1, -1]), "rotated": changed(turn=turned(33.)), "shifted along z": changed(FRAC + [.2, .1, .3]),
        "across the boundary": changed(FRAC + [0, 0, .5]), "other vacuum": from_slab(to_slab(MOS2), vacuum=28.), "4 % larger": layer(a=3.18*1.04),
        "S moved by 0.12": layer(h=1.68)}
OTHER = {"1T": (layer(phase="1T"), "in-plane"), "6 % larger": (layer(a=3.18*1.06), "lattice"), "6 % smaller": (layer(a=3.18*.94), "lattice"), "swapped": (layer((16, 42, 16)), "in-plane"),
         "other formula": (layer((74, 16, 16)), "formula"), "heights": (layer(h=1.9), "z"), "one atom": (honeycomb([42, 42], 3.18), "formula")}

@pytest.mark.parametrize("name", SAME)
def test_solved(name):
    r = E.score_answers(MOS2, [SAME[name]])
    assert r["solved@1"] and r["solved@5"] and r["failure"] == "" and r["same_space_group"]

@pytest.mark.parametrize("name", OTHER)
def test_not_solved(name):
    r = E.score_answers(MOS2, [OTHER[name][0]])
    assert not r["solved@1"] and not r["tight@5"] and r["failure"] == OTHER[name][1]

def test_the_loose_matcher_is_blind_where_ours_is_not():
    for name in ("1T", "6 % larger", "swapped"): assert E.score_answers(MOS2, [OTHER[name][0]])["hit@1"]

def test_tight_is_stricter():
    assert E.score_answers(MOS2, [layer(h=1.62)])["tight@1"]
    r = E.score_answers(MOS2, [layer(h=1.75)]) # both S 0.19 Å out
    assert r["solved@1"] and not r["tight@1"] and .12 < r["rmsd"] < .16 and r["rmsd_xy"] < 1e-3

def test_distances():
    r = E.score_answers(MOS2, [layer(a=3.18*1.02)])
    assert r["da"] == pytest.approx(.02, abs=1e-6) and r["db"] == pytest.approx(.02, abs=1e-6) and r["dgamma"] == pytest.approx(0, abs=1e-6)

def test_rank():
    wrong = layer(phase="1T")
    r = E.score_answers(MOS2, [wrong]*4 + [MOS2])
    assert not r["solved@1"] and r["solved@5"] and r["failure"] == "ranked lower"
    assert not E.score_answers(MOS2, [wrong]*5 + [MOS2])["solved@5"], "the sixth answer does not count"

def test_failures_count_in_every_rate():
    records = [E.score_answers(MOS2, [MOS2])] + [E.score_answers(MOS2, a) for a in ([], [layer((74, 16, 16))], [layer(phase="1T")])]
    scores = E.summarize(records)
    for name in E.RATES: assert scores[name]["n"] == 4
    assert scores["Solved@1"]["value"] == scores["Solved@5"]["value"] == .25 and scores["Hit@1"]["value"] == .5
    assert scores["RMSD"]["n"] == 1 and scores["|Δa| median"]["n"] == 2

def test_matcher_errors_are_failures_and_bugs_are_not(monkeypatch):
    def choke(truth, guess, compare=E.compare):
        if guess is None: return compare(truth, None)
        raise ValueError("inconsistent")
    monkeypatch.setattr(E, "compare", choke)
    assert E.score_answers(MOS2, [MOS2])["failure"] == "unmatched"
    monkeypatch.setattr(E, "compare", lambda t, g: 1/0)
    with pytest.raises(ZeroDivisionError): E.score_answers(MOS2, [MOS2])

def test_nothing_to_sum_up():
    assert E.rate([]) == E.percentile([None]) == dict(value=None, low=None, high=None, n=0)
    assert E.cell_text(E.rate([])) == "–"

@pytest.mark.parametrize("q", (50, 95))
def test_intervals_bracket_the_value(q):
    for seed in range(4):
        x = np.random.default_rng(seed).exponential(size=5 + 20*seed)
        s = E.percentile(list(x) + [None], q)
        assert s["low"] <= s["value"] <= s["high"] and s["n"] == len(x)
    for hits in range(6):
        s = E.rate([True]*hits + [False]*(5 - hits))
        assert 0 <= s["low"] <= s["value"] + 1e-9 and s["value"] <= s["high"] + 1e-9 and s["high"] <= 1

# ---- runs

def test_templates_never_leak():
    library = E.Library(SHELF)
    names = {c.id for formula in ("MoS2", "C", "BN", "WSe2") for c in library.like(formula)}
    assert "MoSe2-leak" not in names, "MoSe2 is on the test side"
    assert "MoS2-leak" not in {c.id for c in library.like("MoS2")} and "WSe2" not in {c.id for c in library.like("WSe2")}
    assert E.constant("Mo5S7", library) == []

def test_constant_is_blind():
    library = E.Library(SHELF[:1])
    cells = [np.array(E.constant(f, library)[0].lattice_mat) for f in ("MoS2", "PbI2")]
    assert np.allclose(*cells) and reduced_formula(E.constant("PbI2", library)[0]) == "PbI2"

def test_draw_is_nested_and_does_not_depend_on_order():
    many = [crystal(honeycomb([6, 6], 2.4 + .01*i), f"c{i}", "ab"[i % 2]) for i in range(20)]
    ids = lambda crystals, n: [c.id for c in E.draw(crystals, n=n, seed=3)]
    assert ids(many, 4) == ids(many[::-1], 4) and len(ids(many, 4)) == 8
    assert set(ids(many, 4)) <= set(ids(many, 7)) and ids(many, None) != [c.id for c in E.draw(many, seed=4)]
    with pytest.raises(E.EvaluateError, match="identifier"): E.draw(many + many[:1])

def test_the_same_micrograph_anywhere():
    a, b = E.draw_micrograph(TRUTHS[0]).data, E.draw_micrograph(TRUTHS[0]).data
    assert (a == b).all() and (E.draw_micrograph(TRUTHS[0], seed=1).data != a).any()
    assert (E.draw_micrograph(crystal(MOS2, "another name")).data != a).any()

def run(out, **kw): return E.evaluate(TRUTHS, model="templates", templates=SHELF, out=out, **kw)

def test_resume_gives_identical_scores(tmp_path, monkeypatch):
    whole = run(tmp_path/"a")
    assert (tmp_path/"a/predictions/graphene_0/rank_1.cif").is_file()
    scores, lines = (tmp_path/"a/scores.json").read_bytes(), (tmp_path/"a/records.jsonl").read_text().splitlines(True)
    (tmp_path/"a/records.jsonl").write_text(lines[0] + lines[1][:40]) # killed while it wrote
    (tmp_path/"a/scores.json").unlink()
    asked = []
    monkeypatch.setattr(E, "ask", lambda q, c, ask=E.ask: asked.append(c.id) or ask(q, c))
    again = run(tmp_path/"a")
    assert len(asked) == 2 and (tmp_path/"a/scores.json").read_bytes() == scores and again.as_dict() == whole.as_dict()
    run(tmp_path/"a"); assert len(asked) == 2
    assert E.read_report(tmp_path/"a/scores.json").as_dict() == whole.as_dict()
    with pytest.raises(E.EvaluateError, match="noise"): run(tmp_path/"a", noise="hard")
    (tmp_path/"a/records.jsonl").write_text("nonsense\n")
    with pytest.raises(E.EvaluateError, match="no record"): run(tmp_path/"a")

def test_refusals_are_failures_by_name_and_bugs_propagate(monkeypatch, tmp_path):
    def refuse(*a, **k): raise LatticeError("no lattice")
    monkeypatch.setattr(E, "predict", refuse)
    report = run(tmp_path/"a")
    assert report.scores["by hand"]["Solved@5"]["value"] == 0 and report.failures == {"by hand": {"missing": 3}}
    assert all(json.loads(line)["error"].startswith("LatticeError") for line in (tmp_path/"a/records.jsonl").open())
    monkeypatch.setattr(E, "predict", lambda *a, **k: [][0])
    with pytest.raises(IndexError): run(tmp_path/"b")

def test_report_shows_itself():
    report = run(None)
    assert "Solved@1" in report._repr_markdown_() and str(report) == report._repr_markdown_()
    lines = E.table([report, report], "by hand").splitlines()
    assert len(lines) == 4 and len({line.replace("\\|", "").count("|") for line in lines}) == 1

def test_calibrate_finds_what_counts():
    rng = np.random.default_rng(1)
    X, groups = rng.normal(size=(900, 3))*[1, 10, 1], np.arange(900)//6
    y = X[:, 0] + .3*rng.normal(size=900) > 1
    for g in (None, groups):
        c = E.calibrate(X, y, g)
        assert c.weights[0] > 2 and abs(c.weights[1]) < .1 and c.auc > .95
    with pytest.raises(E.EvaluateError): E.calibrate(X, np.ones(900))
