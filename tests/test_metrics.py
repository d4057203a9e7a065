"Scores against independent computations, on cases worked by hand, and on answers that break things."
import json, os, time
import numpy as np, pytest
from jarvis.core.atoms import Atoms
from pymatgen.analysis.structure_matcher import StructureMatcher
from pymatgen.core import Lattice, Structure
from pymatgen.symmetry.analyzer import SpacegroupAnalyzer
from scipy.stats import wasserstein_distance
from microscopygpt.crystal import CrystalError, Slab, cell_from_lengths, from_slab, to_slab
from microscopygpt.compare import compare, prepare
from microscopygpt import metrics as M

def layer(numbers=(42, 16, 16), a=3.18, h=1.56, phase="2H"):
    bottom = [1/3, 2/3] if phase == "2H" else [2/3, 1/3]
    return from_slab(Slab(cell_from_lengths(a, a, 120), np.array([[0, 0], [1/3, 2/3], bottom]), np.array([0., h, -h]), np.array(numbers)))

def honeycomb(numbers, a): return from_slab(Slab(cell_from_lengths(a, a, 120), np.array([[0, 0], [1/3, 2/3]]), np.zeros(2), np.array(numbers)))

def slab(cell, frac, z, numbers): return from_slab(Slab(cell_from_lengths(*cell), np.array(frac, float), np.array(z, float), np.array(numbers)))

MOS2 = layer()

def changed(frac=None, order=(0, 1, 2), scale=1., turn=None):
    "MoS2 written in another way."
    f = np.array(MOS2.frac_coords)[list(order)] if frac is None else frac
    lattice = np.array(MOS2.lattice_mat)@(np.eye(3) if turn is None else turn)*scale
    return Atoms(lattice_mat=lattice, coords=f, elements=[MOS2.elements[i] for i in order])

def turned(degrees):
    c, s = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
    return np.array([[c, s, 0], [-s, c, 0], [0, 0, 1.]])

# ---- cases worked by hand

FRAC = np.array(MOS2.frac_coords)
SAME = {"itself": MOS2, "supercell": MOS2.make_supercell_matrix([2, 1, 1]), "3 x 2": MOS2.make_supercell_matrix([3, 2, 1]), "reordered": changed(order=(2, 0, 1)),
        "mirrored": changed(FRAC[:, [1, 0, 2]]), "mirrored and reordered": changed(FRAC[:, [1, 0, 2]][[2, 0, 1]], (2, 0, 1)), "turned over": changed(FRAC*[1, 1, -1]),
        "rotated": changed(turn=turned(33.)), "shifted along z": changed(FRAC + [.2, .1, .3]), "across the boundary": changed(FRAC + [0, 0, .5]),
        "other vacuum": from_slab(to_slab(MOS2), vacuum=28.), "little vacuum": from_slab(to_slab(MOS2), vacuum=9.), "4 % larger": layer(a=3.18*1.04), "S moved by 0.12": layer(h=1.68)}
OTHER = {"1T": (layer(phase="1T"), "in-plane"), "6 % larger": (layer(a=3.18*1.06), "lattice"), "6 % smaller": (layer(a=3.18*.94), "lattice"), "swapped": (layer((16, 42, 16)), "in-plane"),
         "other formula": (layer((74, 16, 16)), "formula"), "heights": (layer(h=1.9), "z"), "one atom": (honeycomb([42, 42], 3.18), "formula"),
         "a wrong supercell": (slab((3.18, 6.36, 120), [[0, 0], [.1, .5], [1/3, 1/3], [1/3, 5/6], [1/3, 1/3], [1/3, 5/6]], [0, 0, 1.56, 1.56, -1.56, -1.56], [42, 42, 16, 16, 16, 16]), "atoms in cell")}

@pytest.mark.parametrize("name", SAME)
def test_solved(name):
    r = M.score_answers(MOS2, [SAME[name]])
    assert r["solved@1"] and r["solved@5"] and r["failure"] == "" and r["same_space_group"]

@pytest.mark.parametrize("name", OTHER)
def test_not_solved(name):
    r = M.score_answers(MOS2, [OTHER[name][0]])
    assert not r["solved@1"] and not r["tight@5"] and r["failure"] == OTHER[name][1]

def test_the_loose_matcher_is_blind_where_ours_is_not():
    for name in ("1T", "6 % larger", "swapped"): assert M.score_answers(MOS2, [OTHER[name][0]])["hit@1"]

def test_tight_is_stricter():
    assert M.score_answers(MOS2, [layer(h=1.62)])["tight@1"]
    r = M.score_answers(MOS2, [layer(h=1.75)]) # both S 0.19 Å out
    assert r["solved@1"] and not r["tight@1"] and .12 < r["rmsd"] < .16 and r["rmsd_xy"] < 1e-3

def test_distances():
    r = M.score_answers(MOS2, [layer(a=3.18*1.02)])
    assert r["da"] == pytest.approx(.02, abs=1e-6) and r["db"] == pytest.approx(.02, abs=1e-6) and r["dgamma"] == pytest.approx(0, abs=1e-6)

def test_rank():
    wrong = layer(phase="1T")
    r = M.score_answers(MOS2, [wrong]*4 + [MOS2])
    assert not r["solved@1"] and r["solved@5"] and r["failure"] == "ranked lower"
    assert not M.score_answers(MOS2, [wrong]*5 + [MOS2])["solved@5"], "the sixth answer does not count"

def test_the_benchmark_takes_the_best_of_five():
    far = layer(a=3.18*1.5)
    r = M.score_answers(MOS2, [far, layer(a=3.2)])
    assert r["match_abs"] and not r["match_abs_1"] and r["min_rms"] < .02

def test_properties():
    p = M.properties(MOS2.make_supercell_matrix([2, 2, 1]))
    assert (p["space_group"], p["bravais"]) == (187, 0) and p["a"] == pytest.approx(3.18) and p["gamma"] == pytest.approx(120) and p["weight"] == pytest.approx(95.95 + 2*32.06, abs=.05)

# ---- against pymatgen and scipy, by another road

def independent(truth, guess):
    "The definitions written down once more: c = thickness + 15 Å, centred, then pymatgen's matcher as it is."
    def structure(atoms):
        s = to_slab(atoms)
        c = np.ptp(s.z) + 15
        matrix = np.eye(3); matrix[:2, :2] = s.cell; matrix[2, 2] = c
        return Structure(Lattice(matrix), s.numbers, np.c_[s.frac, (s.z - (s.z.max() + s.z.min())/2)/c + .5])
    t, g = structure(truth), structure(guess)
    same = t.composition.reduced_formula == g.composition.reduced_formula
    spacing = (t.volume/len(t))**(1/3)
    strict = StructureMatcher(ltol=.05, angle_tol=2, stol=.5/spacing, scale=False, primitive_cell=True).get_rms_dist(t, g)
    loose = dict(stol=.5, ltol=.3, angle_tol=10, primitive_cell=False)
    hit, absolute = (StructureMatcher(scale=s, **loose).get_rms_dist(t, g) for s in (True, False))
    rmsd = strict[0]*spacing if same and strict else None
    group = lambda s: SpacegroupAnalyzer(s, symprec=.1).get_space_group_number()
    return {"solved@1": rmsd is not None and rmsd <= .2, "tight@1": rmsd is not None and rmsd <= .1, "rmsd": rmsd, "hit@1": same and hit is not None, "match_abs": same and absolute is not None,
            "min_rms": hit[0] if same and hit else None, "same_space_group": same and group(t) == group(g)}

PROTOTYPES = [MOS2, layer(phase="1T"), layer((74, 34, 34), 3.32, 1.68), honeycomb([6, 6], 2.46), honeycomb([5, 7], 2.51), honeycomb([14, 14], 3.87),
              slab((3.77, 3.77, 90), [[0, 0], [.5, .5], [.5, 0], [0, .5]], [0, 0, 1.46, -1.46], [26, 26, 34, 34]),
              slab((3.3, 4.58, 90), [[0, .08], [.5, .92 - .5], [0, -.08], [.5, .58]], [1.05, 1.05, -1.05, -1.05], [15]*4),
              slab((3.1, 3.9, 97), [[0, 0], [.4, .3], [.7, .8]], [0, 1.1, -.9], [22, 8, 8])]

def pairs(n=72):
    rng = np.random.default_rng(3)
    for i in range(n):
        truth = PROTOTYPES[i % len(PROTOTYPES)]
        s, size = to_slab(truth), (.02, .1, .25)[i // len(PROTOTYPES) % 3]
        strain = np.eye(2) + rng.normal(0, size/8, (2, 2))
        yield truth, from_slab(Slab(s.cell@strain, s.frac + rng.normal(0, size, s.frac.shape)@np.linalg.inv(s.cell), s.z + rng.normal(0, size, len(s.z)), s.numbers))
    yield from [(MOS2, layer(phase="1T")), (MOS2, layer((16, 42, 16))), (MOS2, layer(a=3.4)), (MOS2, layer((74, 16, 16)))]

def agrees(truth, guess):
    ours, theirs = M.score_answers(truth, [guess]), independent(truth, guess)
    for name, value in theirs.items(): assert ours[name] == (pytest.approx(value, abs=1e-6) if isinstance(value, float) else value), (name, truth, guess)
    return theirs

def test_agrees_with_pymatgen():
    seen = [agrees(*pair) for pair in pairs()]
    for name in ("solved@1", "tight@1", "hit@1", "match_abs", "same_space_group"): assert .03 < np.mean([s[name] for s in seen]) < .995, f"{name} does not discriminate here"

@pytest.mark.skipif(not os.environ.get("MICROSCOPYGPT_DATA"), reason="MICROSCOPYGPT_DATA is not set: no databases here")
def test_agrees_with_pymatgen_on_databases():
    from microscopygpt.data import load_crystals
    rng, crystals = np.random.default_rng(0), [c for c in load_crystals("dft_2d_2021", "test") if len(c.slab.z) < 10][:50]
    for c in crystals:
        s = c.slab
        agrees(c.atoms, from_slab(s._replace(z=s.z + rng.normal(0, .06, len(s.z)), cell=s.cell*rng.uniform(.97, 1.03))))
    assert len(crystals) >= 50

def test_distributions_agree_with_scipy_and_numpy():
    rng = np.random.default_rng(1)
    t, g = rng.uniform(2, 6, 80), rng.uniform(2.5, 6.5, 80)
    records = [dict(truth=dict.fromkeys(M.PROPERTIES, x), guess=dict.fromkeys(M.PROPERTIES, y)) for x, y in zip(t, g)] + [dict(truth=dict.fromkeys(M.PROPERTIES, 9.), guess=None)]
    scores = M.compare_distributions(records)
    assert scores["W1(a)"]["value"] == pytest.approx(wasserstein_distance(t, g)) == pytest.approx(np.abs(np.sort(t) - np.sort(g)).mean()) and scores["W1(a)"]["n"] == 80
    edges = np.arange(np.rint(min(t.min(), g.min())*10), np.rint(max(t.max(), g.max())*10) + 2)/10 - .05
    p, q = (np.histogram(x, edges)[0] + 1. for x in (t, g)); p, q = p/p.sum(), q/q.sum()
    assert scores["KLD(a)"]["value"] == pytest.approx((p*np.log(p/q)).sum())
    p, q = t/t.sum(), g/g.sum()
    assert scores["KLD(b) as published"]["value"] == pytest.approx((p*np.log(p/q)).sum())
    assert scores["EMD(b) as published"]["value"] == pytest.approx(np.abs(np.cumsum(p - q)).sum())

def test_the_published_scores_do_not_see_a_factor_of_two_and_see_the_order_of_rows():
    rng = np.random.default_rng(2)
    t = rng.uniform(2, 6, 50); g = t*rng.normal(1, .1, 50); order = rng.permutation(50)
    assert M.kld_as_published(t, 2*t) == pytest.approx(0, abs=1e-12) and M.emd_as_published(t, 2*t) == pytest.approx(0, abs=1e-9)
    assert M.emd_as_published(t, g) != pytest.approx(M.emd_as_published(t[order], g[order]), rel=1e-3)
    assert wasserstein_distance(t, 2*t) > 1 and M.kld(t, 2*t, .1) > .1

def test_bins_are_centred_on_round_numbers():
    assert M.kld([120.]*9, [119.9996]*9, 1.) == 0
    first, t, g = M.histograms([2., 2.04], [2.31], .1)
    assert first == pytest.approx(2.) and list(t) == [2, 0, 0, 0] and list(g) == [0, 0, 0, 1]

def test_wilson_by_its_formula():
    for k, n in ((0, 5), (7, 10), (340, 395)):
        z, p = 1.959964, k/n
        centre, half = (p + z*z/2/n)/(1 + z*z/n), z/(1 + z*z/n)*np.sqrt(p*(1 - p)/n + z*z/4/n/n)
        r = M.rate([True]*k + [False]*(n - k))
        assert r["low"] == pytest.approx(max(0, centre - half), abs=1e-4) and r["high"] == pytest.approx(centre + half, abs=1e-4) and r["n"] == n

# ---- failures count, and nothing breaks

def test_failures_count_in_every_rate():
    records = [M.score_answers(MOS2, [MOS2])] + [M.score_answers(MOS2, a) for a in ([], [layer((74, 16, 16))], [layer(phase="1T")])]
    scores = M.summarize(records)
    for name in M.RATES: assert scores[name]["n"] == 4
    assert scores["Solved@1"]["value"] == scores["Solved@5"]["value"] == .25 and scores["Hit@1"]["value"] == .5
    assert scores["RMSD"]["n"] == 1 and scores["|Δa| median"]["n"] == 2 and scores["W1(a)"]["n"] == 3

def test_refused_and_left_out_answers_keep_their_rank():
    r = M.score_answers(MOS2, [CrystalError("empty"), None, MOS2])
    assert not r["solved@1"] and r["solved@5"] and r["failure"] == "ranked lower" and r["guess"] is None and r["n_answers"] == 1
    assert [(f["rank"], f["reason"]) for f in r["faults"]] == [(1, "empty"), (2, "there is no answer")]
    assert M.score_answers(MOS2, [CrystalError("empty")])["failure"] == "unparsed" and M.score_answers(MOS2, [None])["failure"] == "missing"

def test_matcher_errors_are_failures_and_bugs_are_not(monkeypatch):
    def choke(truth, guess, split): raise ValueError("inconsistent")
    monkeypatch.setattr(M, "compare", choke)
    assert M.score_answers(MOS2, [MOS2])["failure"] == "unmatched"
    monkeypatch.setattr(M, "compare", lambda t, g, split: 1/0)
    with pytest.raises(ZeroDivisionError): M.score_answers(MOS2, [MOS2])

def test_a_matcher_that_hangs_is_a_failure_by_name(monkeypatch):
    def hang(truth, guess, split):
        while True: pass
    monkeypatch.setattr(M, "compare", hang); monkeypatch.setattr(M, "LIMIT", .2)
    start = time.perf_counter()
    r = M.score_answers(MOS2, [MOS2, MOS2])
    assert time.perf_counter() - start < 5 and r["failure"] == "time limit" and r["guess"] is None and "0.2 s" in r["faults"][0]["reason"] and len(r["faults"]) == 2
    M.properties(MOS2) # the alarm is off again

def test_monstrous_cells_do_not_hang():
    s, start = to_slab(MOS2), time.perf_counter()
    monsters = [s._replace(cell=s.cell*100), s._replace(cell=s.cell*[[30.], [1]]), s._replace(cell=s.cell*[[.2], [60]]), s._replace(z=s.z*60), s._replace(frac=s.frac*0, z=s.z*0)]
    for m in monsters: assert not M.score_answers(MOS2, [from_slab(m)])["solved@1"]
    lattice = np.array(MOS2.lattice_mat); lattice[1] = lattice[0]
    flat = Atoms(lattice_mat=lattice, coords=FRAC, elements=MOS2.elements)
    assert M.score_answers(MOS2, [flat])["failure"] == "unparsed"
    assert time.perf_counter() - start < 20

def test_a_degenerate_answer_with_another_formula_is_a_failure():
    thin = Atoms(lattice_mat=np.diag([.3, .3, 60.]), coords=[[0, 0, .5]], elements=["C"])
    r = M.score_answers(MOS2, [thin])
    assert r["failure"] == "formula" and r["guess"] is None and not r["hit@5"]

def test_a_prepared_truth_compares_the_same():
    for guess in (MOS2, layer(phase="1T"), layer((74, 16, 16))): assert repr(compare(prepare(MOS2), guess)) == repr(compare(MOS2, prepare(guess))) == repr(compare(MOS2, guess))

def test_nothing_to_sum_up():
    assert M.rate([]) == M.percentile([None]) == dict(value=None, low=None, high=None, n=0)
    assert M.summarize([M.score_answers(MOS2, [])])["W1(a)"]["value"] is None

@pytest.mark.parametrize("q", (50, 95))
def test_intervals_bracket_the_value(q):
    for seed in range(4):
        x = np.random.default_rng(seed).exponential(size=5 + 20*seed)
        s = M.percentile(list(x) + [None], q)
        assert s["low"] <= s["value"] <= s["high"] and s["n"] == len(x)

def test_report_of_several_sources(tmp_path):
    about = lambda source: dict(id=source, source=source, n_atoms=3)
    records = [M.score_answers(MOS2, [MOS2]) | about("x"), M.score_answers(MOS2, []) | about("y")]
    for r in records: r["shuffled"] = M.score_answers(MOS2, [layer((74, 16, 16))])
    report = M.make_report(records, dict(model="two"))
    assert report.total["scores"]["Solved@1"]["value"] == .5 and report.sources["x"]["scores"]["Solved@1"]["value"] == 1 and report.sources["y"]["failures"] == {"missing": 1}
    assert report.total["baselines"]["shuffled"]["Solved@1"]["value"] == 0 and report.total["baselines"]["constant"]["W1(a)"]["value"] == pytest.approx(0)
    report.write(tmp_path/"scores.json")
    assert json.loads((tmp_path/"scores.json").read_text())["Solved@1"] == report.total["scores"]["Solved@1"]
    assert M.read_report(tmp_path/"scores.json").as_dict() == report.as_dict()
    for text in ("", "[]", "{}", "{\"Solved@1\": 1}"):
        (tmp_path/"bad.json").write_text(text)
        with pytest.raises(M.MetricsError, match="bad.json"): M.read_report(tmp_path/"bad.json")
