"What each baseline may know, and that it uses nothing else."
import itertools, time
import numpy as np, pytest
from hypothesis import given, settings, strategies as st
from microscopygpt import baselines as B
from microscopygpt.crystal import (FormulaError, Slab, cell_from_lengths, cell_lengths, from_slab, reduced_formula,
                                   standardize, to_slab)
from microscopygpt.compare import compare
from microscopygpt.data import Crystal, split_of, to_crystal
from microscopygpt.fourier import harmonics
from microscopygpt.observe import observe
from microscopygpt.micrograph import Micrograph
from microscopygpt.propose import propose_templates
from microscopygpt.observe import Z_POWER
from microscopygpt.refine import structure_factors
from microscopygpt.noise import render

def layer(numbers, a, h=1.56, phase="2H"):
    bottom = [1/3, 2/3] if phase == "2H" else [2/3, 1/3]
    return from_slab(Slab(cell_from_lengths(a, a, 120), np.array([[0, 0], [1/3, 2/3], bottom]), np.array([0., h, -h]), np.array(numbers)))

def honeycomb(numbers, a): return from_slab(Slab(cell_from_lengths(a, a, 120), np.array([[0, 0], [1/3, 2/3]]), np.zeros(2), np.array(numbers)))

SHELF = {"WSe2": layer([74, 34, 34], 3.32, 1.68), "TaS2": layer([73, 16, 16], 3.34), "HfS2": layer([72, 16, 16], 3.34, 1.45, "1T"), "MoS2": layer([42, 16, 16], 3.18),
         "MoSe2": layer([42, 34, 34], 3.32), "Si": honeycomb([14, 14], 3.87), "Ge": honeycomb([32, 32], 4.06), "SiC": honeycomb([14, 6], 3.10), "InN": honeycomb([49, 7], 3.57)}
LIBRARY = B.Library([to_crystal(atoms, name, "by hand") for name, atoms in SHELF.items()])

def seen(atoms, seed=0, noise="paper", **kw): return observe(Micrograph(render(atoms, noise=noise, seed=seed, **kw), .1, "made"))
def ids(crystals): return {c.id for c in crystals}
def length(atoms): return cell_lengths(to_slab(atoms).cell)[0]

# ---- the library

def test_only_the_train_side():
    assert split_of("MoSe2") == "test" and "MoSe2" not in ids(LIBRARY.crystals) and len(LIBRARY.crystals) == len(SHELF) - 1

@pytest.mark.parametrize("formula", ["MoS2", "S2Mo", "Mo2S4", "Mo S₂"])
def test_never_the_formula_that_is_asked(formula):
    assert ids(LIBRARY.like(formula)) == {"WSe2", "TaS2", "HfS2"}

def test_asking_leaves_the_library_alone():
    before = dict(LIBRARY.kinds)
    assert LIBRARY.like("Mo5S7") == [] and LIBRARY.kinds == before

def test_crystals_of_two_sources_may_share_a_name():
    a, b = to_crystal(SHELF["WSe2"], "1", "a"), to_crystal(SHELF["Si"], "1", "b")
    library = B.Library([a, b])
    assert library.group(a) != library.group(b)

@given(st.permutations(["Mo", "S", "Se"]), st.permutations([1, 2, 5]))
def test_kind_forgets_the_elements(elements, counts):
    assert B.kind("".join(f"{e}{n}" for e, n in zip(elements, counts))) == (1, 2, 5)

# ---- answers

ASKERS = {"constant": lambda f, l: B.constant(f, l), "formula": B.nearest_formula, "image": lambda f, l: B.nearest_image(seen(SHELF["MoS2"]), l, f)}

@pytest.mark.parametrize("who", ASKERS)
@pytest.mark.parametrize("formula", ["MoS2", "PbI2", "GaN", "C"])
def test_answers_have_the_formula_and_the_convention(who, formula):
    answers = ASKERS[who](formula, LIBRARY)
    assert 1 <= len(answers) <= 5
    for atoms in answers:
        slab, std = to_slab(atoms), to_slab(standardize(atoms))
        assert reduced_formula(atoms) == reduced_formula(formula) and np.allclose(slab.cell, std.cell) and len(slab.z) == len(std.z)
        assert atoms.lattice_mat[2][2] == pytest.approx(np.ptp(slab.z) + 15)

@pytest.mark.parametrize("who", ASKERS)
def test_nothing_alike_is_no_answer(who):
    assert ASKERS[who]("Mo5S7", LIBRARY) == [] and ASKERS[who]("MoS2", B.Library([])) == []

@pytest.mark.parametrize("who", ["formula", "image"])
@pytest.mark.parametrize("formula", ["MoS2", "BN"])
def test_answers_differ(who, formula):
    answers = ASKERS[who](formula, LIBRARY)
    assert not any(compare(a, b).solved for a, b in itertools.combinations(answers, 2))

@pytest.mark.parametrize("k", [0, 1, 2])
def test_no_more_than_asked(k):
    assert len(B.nearest_formula("PbI2", LIBRARY, k)) == len(B.nearest_image(seen(SHELF["MoS2"]), LIBRARY, "PbI2", k)) == k

def test_constant_is_blind():
    cells = [np.array(B.constant(f, LIBRARY)[0].lattice_mat) for f in ("MoTe2", "PbI2")]
    assert np.allclose(*cells)

@pytest.mark.parametrize("who", ASKERS)
@pytest.mark.parametrize("formula", ["", "Xy2", "H0"])
def test_a_formula_that_is_none_is_refused(who, formula):
    with pytest.raises(FormulaError): ASKERS[who](formula, LIBRARY)

# ---- nearest by formula

def test_chemically_nearest_first():
    shelf = [to_crystal(layer([z, x, x], 3.3 + .3*i, phase=phase), f"{z}-{x}", "by hand") for i, (z, x, phase) in enumerate([(74, 16, "2H"), (50, 16, "1T"), (23, 16, "2H")])]
    first = B.nearest_formula("MoS2", B.Library(shelf), 1)[0] # W is Mo's neighbour, Sn and V are not
    assert length(first) < 3.3

def test_of_polymorphs_the_commoner_prototype_first():
    "One 1T and one 2H WSe2, of which the shelf has another 2H."
    library = B.Library([to_crystal(layer([74, 34, 34], 3.3, phase="1T"), "1T", "by hand"), to_crystal(layer([74, 34, 34], 3.31), "2H", "by hand"), to_crystal(SHELF["TaS2"], "TaS2", "by hand")])
    first = B.nearest_formula("MoTe2", library)[0]
    assert compare(layer([42, 52, 52], length(first), h=np.ptp(to_slab(first).z)/2), first).solved

def test_scaled_as_the_templates_of_predict():
    library = B.Library([to_crystal(SHELF["WSe2"], "WSe2", "by hand")])
    template = propose_templates(library.crystals, "MoS2", seen(SHELF["MoS2"]))[0]
    c = compare(from_slab(template.slab), B.nearest_formula("MoS2", library)[0])
    assert c.rmsd < 1e-3 and abs(c.da) < 1e-6

# ---- likeness

BLACK = from_slab(Slab(cell_from_lengths(3.31, 4.63, 90), np.array([[0, .09], [.5, .41], [0, .91], [.5, .59]]), np.array([1.06, 1.06, -1.06, -1.06]), np.full(4, 15)))

@pytest.mark.parametrize("name", ["MoS2", "HfS2", "SiC", "InN"])
@pytest.mark.parametrize("seed", [1, 2])
def test_a_crystal_looks_like_itself(name, seed):
    "However it is turned, turned over and shifted."
    assert B.likeness(to_slab(SHELF[name]), seen(SHELF[name], seed, mirror=bool(seed % 2))) > .97

def test_a_cell_of_which_the_image_shows_half():
    observation = seen(BLACK)
    assert abs(np.linalg.det(observation.lattice.cell)) < 8 and B.likeness(to_slab(BLACK), observation) > .97

def test_what_is_wrong_is_less_alike():
    observation = seen(SHELF["MoS2"])
    like = lambda *a, **k: B.likeness(to_slab(layer(*a, **k)), observation)
    own = like([42, 16, 16], 3.18)
    assert own > like([42, 16, 16], 3.24) > like([42, 16, 16], 3.34) > like([42, 16, 16], 3.6)
    assert own > like([42, 16, 16], 3.18, phase="1T") + .03 and own > like([42, 8, 8], 3.18) + .02
    assert like([42, 16, 16], 3.18, h=2.5) == pytest.approx(own), "heights are not seen"

@settings(max_examples=25)
@given(st.integers(0, 10**6))
def test_likeness_is_a_correlation(seed):
    rng = np.random.default_rng(seed)
    n = rng.integers(1, 6)
    slab = Slab(cell_from_lengths(*np.sort(rng.uniform(2.5, 9, 2)), rng.uniform(90, 110)), rng.random((n, 2)), rng.uniform(-1, 1, n), rng.integers(1, 90, n))
    assert 0 <= B.likeness(slab, OBSERVED) <= 1 + 1e-9

OBSERVED = seen(SHELF["MoS2"])

def picture(slab, points):
    "Brightness around the mean at points (..., 2) in fractions of the cell."
    hk, g = harmonics(slab.cell, 1.1)
    F = structure_factors(slab.frac, slab.numbers**Z_POWER, hk, (g**2).sum(1))
    return (F*np.exp(2j*np.pi*points@hk.T)).real.sum(-1)

@pytest.mark.parametrize("strain", [(0., 0.), (.02, .02), (.05, -.03)])
def test_likeness_is_what_it_says(strain):
    "The correlation of two pictures within a window, averaged over where in the cell it stands."
    mine = to_slab(SHELF["SiC"])
    other = mine._replace(cell=mine.cell*np.exp(strain), numbers=np.array([14, 8]))
    L, x = B.WINDOW, np.arange(-8, 8.01, .25)
    rho = np.stack(np.meshgrid(x, x), -1).reshape(-1, 2); w = np.exp(-(rho**2).sum(1)/(2*L**2))
    centres = np.random.default_rng(0).random((40, 2))
    u, _, v = np.linalg.svd(np.linalg.inv(other.cell)@mine.cell)
    A, C = (picture(s, centres[:, None] + rho@np.linalg.inv(cell)) for s, cell in ((mine, mine.cell), (other, other.cell@u@v)))
    direct = (w*A*C).sum()/np.sqrt((w*A*A).sum()*(w*C*C).sum())
    assert B.likeness(other, seen(SHELF["SiC"], noise="none")) == pytest.approx(direct, abs=.015)

# ---- nearest by image

@pytest.mark.parametrize("phase", ["2H", "1T"])
def test_the_picture_decides(phase):
    best = B.nearest_image(seen(layer([50, 16, 16], 3.34, phase=phase), 4), LIBRARY, "SnS2")[0]
    assert compare(layer([50, 16, 16], 3.34, phase=phase), best).solved

def test_cells_are_kept():
    own = {round(length(SHELF[name]), 3) for name in ("WSe2", "TaS2", "HfS2")}
    assert {round(length(a), 3) for a in B.nearest_image(OBSERVED, LIBRARY, "MoS2")} <= own

@pytest.mark.parametrize("name", ["WSe2", "SiC", "InN"])
def test_image_alone_knows_what_is_on_the_shelf(name):
    best = B.nearest_image(seen(SHELF[name], 7), LIBRARY)[0]
    assert compare(SHELF[name], best).tight

def test_a_whole_database_in_a_moment():
    rng = np.random.default_rng(0)
    slab = to_slab(SHELF["WSe2"])
    library = B.Library([Crystal(str(i), "made", "WSe2", slab._replace(cell=cell_from_lengths(a, b, 90 + 30*(i % 2)), numbers=rng.permutation(slab.numbers))) for i, (a, b) in enumerate(np.sort(rng.uniform(3, 7, (4000, 2))))])
    start = time.process_time()
    assert len(B.nearest_image(OBSERVED, library, "MoS2")) == len(B.nearest_image(OBSERVED, library)) == 5
    assert time.process_time() - start < 6
