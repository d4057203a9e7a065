"A crystal's own size and shape, and whom to believe where the microscope says another."
import importlib.util
import numpy as np, pytest
from ase.calculators.emt import EMT
from crystals import MOS2_SLAB, OBLIQUE_SLAB
from microscopygpt.crystal import Slab, cell_lengths
from microscopygpt.energies import CalculatorPotential, Potential, PotentialError
from microscopygpt.potentials import load_potential
from microscopygpt.rest import CLEAN_KINDS, KINDS, Misfit, at_rest, infer_cell, misfit_of, strain_between, trust_in

HEXAGONAL = MOS2_SLAB.cell
SHEAR = np.array([[1.12, .05], [0, 1.04]])
TURN = np.array([[np.cos(.6), np.sin(.6)], [-np.sin(.6), np.cos(.6)]])

@pytest.fixture(scope="module")
def chgnet(): return load_potential("chgnet")

def inferred(measured, rest, scaled=True, kinds=KINDS, **symmetric):
    misfit = misfit_of(measured, rest, scaled, **symmetric)
    return infer_cell(misfit, trust_in([misfit], [1.], kinds), scaled, kinds)

# ---- relaxation of the cell

needs_sevennet = pytest.mark.skipif(importlib.util.find_spec("sevenn") is None, reason="needs sevenn")

@pytest.mark.parametrize("name", ["chgnet", pytest.param("sevennet", marks=needs_sevennet), "emt"])
def test_virials_are_slopes(name):
    potential = CalculatorPotential(EMT()) if name == "emt" else load_potential(name)
    numbers = np.array([29, 28, 29]) if name == "emt" else OBLIQUE_SLAB.numbers
    slab = OBLIQUE_SLAB._replace(numbers=numbers)
    known, slopes = potential.evaluate_cells([slab]), Potential.compute_virials(potential, [slab])
    assert np.abs(known.virials - slopes[2]).max() < .02*np.abs(slopes[2]).max() + 5e-3
    assert known.virials[0] == pytest.approx(known.virials[0].T) and np.abs(known.virials).max() > .1
    assert known.energies == pytest.approx(potential.evaluate([slab]).energies, abs=1e-5)

def test_a_sheared_sheet_finds_its_lattice(chgnet):
    sheared = MOS2_SLAB._replace(cell=HEXAGONAL@SHEAR)
    rest = at_rest([sheared], chgnet)[0]
    a, b, gamma = cell_lengths(rest.slab.cell)
    assert (a, b, gamma) == pytest.approx((3.19, 3.19, 120), abs=.05)
    assert rest.slab.frac == pytest.approx(sheared.frac), "columns stay where the image shows them"
    assert rest.energy < chgnet.evaluate([sheared]).energies[0]

def test_columns_move_only_where_they_are_let_go(chgnet):
    frac = MOS2_SLAB.frac + [[.06, 0], [0, 0], [0, 0]]
    off = MOS2_SLAB._replace(frac=frac)
    held, free = at_rest([off], chgnet)[0], at_rest([off], chgnet, free=True)[0]
    between = lambda slab: (slab.frac[0] - slab.frac[1])@slab.cell
    third = np.array([-1/3, -2/3])
    assert held.slab.frac == pytest.approx(frac) and free.energy < held.energy - .01
    assert np.linalg.norm(between(free.slab) - third@free.slab.cell) < .03 < np.linalg.norm(between(held.slab) - third@held.slab.cell)

def test_an_element_that_the_potential_does_not_know_is_named():
    with pytest.raises(PotentialError, match="W"): at_rest([MOS2_SLAB._replace(numbers=np.array([74, 29, 29]))], CalculatorPotential(EMT()))

def test_nothing_rests_where_energies_are_infinite():
    class Infinite(Potential):
        name = "infinite"
        def compute(self, slabs, forces): return np.full(len(slabs), np.inf), [np.zeros((len(s.z), 3)) for s in slabs]
    with np.errstate(invalid="ignore"): assert at_rest([MOS2_SLAB], Infinite()) == []

# ---- strain

def test_a_strain_is_taken_apart():
    strain = strain_between(HEXAGONAL, HEXAGONAL@np.diag([1.1, 1.])@TURN)
    assert strain.scale == pytest.approx(.5*np.log(1.1)) and strain.shape == pytest.approx(.5*np.log(1.1))
    back = strain_between(HEXAGONAL@np.diag([1.1, 1.])@TURN, HEXAGONAL)
    assert back.scale == pytest.approx(-strain.scale) and back.shape == pytest.approx(strain.shape)

@pytest.mark.parametrize("scale", [.7, 1., 1.3])
def test_size_and_turns_are_no_shape(scale):
    strain = strain_between(HEXAGONAL, scale*HEXAGONAL@TURN)
    assert strain.scale == pytest.approx(np.log(scale), abs=1e-9) and strain.shape == pytest.approx(0, abs=1e-9)

# ---- whom to believe

@pytest.mark.parametrize("kinds", [KINDS, CLEAN_KINDS], ids=["raw", "clean"])
def test_a_good_measurement_is_kept(kinds):
    found = inferred(.995*HEXAGONAL, HEXAGONAL, kinds=kinds)
    assert found.trust["exact"] > .5 and strain_between(.995*HEXAGONAL, found.cell).scale < .0025
    assert sum(found.trust.values()) == pytest.approx(1) and -1 < found.log_odds <= 0

def test_a_wrong_scale_and_a_shear_are_not_believed():
    found = inferred(HEXAGONAL@SHEAR, HEXAGONAL)
    assert found.trust["raw"] > .9 and cell_lengths(found.cell) == pytest.approx((3.18, 3.18, 120), abs=.15)
    assert found.log_odds < -2

def test_the_answer_lies_between_measurement_and_rest():
    shares = [strain_between(HEXAGONAL, inferred(HEXAGONAL, scale*HEXAGONAL).cell).scale/np.log(scale) for scale in (1.005, 1.03, 1.08, 1.15)]
    assert shares == sorted(shares) and 0 < shares[0] < .5 < shares[-1] <= 1

def test_without_a_pixel_size_the_size_is_that_at_rest():
    found = inferred(.3*HEXAGONAL, HEXAGONAL, scaled=False)
    assert found.cell == pytest.approx(HEXAGONAL, rel=1e-3) and found.log_odds == pytest.approx(0, abs=1e-9)

def test_the_inferred_cell_lies_as_the_measured_one():
    plain, turned = (inferred(cell, HEXAGONAL).cell for cell in (HEXAGONAL@SHEAR, HEXAGONAL@SHEAR@TURN))
    assert turned == pytest.approx(plain@TURN)

def test_a_shear_that_columns_and_potential_agree_on_is_the_scan_s():
    shear = np.array([[1.02, .01], [.01, .98]])
    found = inferred(HEXAGONAL@shear, HEXAGONAL, symmetric=HEXAGONAL, fixed=2)
    alone = inferred(HEXAGONAL@shear, HEXAGONAL)
    assert found.trust["raw"] > alone.trust["raw"] and found.trust["raw"] > .9
    assert strain_between(found.cell, HEXAGONAL).shape < .1*strain_between(HEXAGONAL@shear, HEXAGONAL).shape

def test_a_lattice_that_is_only_nearly_symmetric_is_left_to_measurement_and_potential():
    "Columns that look hexagonal on a lattice that neither the image nor the potential finds hexagonal."
    nearly = HEXAGONAL@np.diag([1.02, 1/1.02])
    found = inferred(nearly, nearly, symmetric=HEXAGONAL, fixed=2)
    assert found.trust["exact"] > .5 and strain_between(found.cell, nearly).shape < .002

def test_what_was_taken_out_of_the_scan_speaks_against_no_crystal():
    "A crystal that needs the same strain as the symmetric lattice is as probable as one on that lattice."
    scanned = HEXAGONAL@np.diag([1.06, 1/1.06])
    fixed, free = (inferred(scanned, HEXAGONAL, symmetric=HEXAGONAL, fixed=n).log_odds for n in (2, 0))
    assert fixed == pytest.approx(0, abs=1e-9) == free
    less, more = (inferred(scanned, HEXAGONAL@np.diag([off, 1/off]), symmetric=HEXAGONAL).log_odds for off in (1.03, .96))
    assert more < 0 < less and inferred(scanned, HEXAGONAL).log_odds < more - 3

def test_the_instrument_is_one_for_all_crystals():
    right, wrong = misfit_of(HEXAGONAL, HEXAGONAL), misfit_of(HEXAGONAL, 1.2*HEXAGONAL)
    trust = trust_in([right, wrong], [1., 1e-3])
    assert trust == pytest.approx(trust_in([right], [1.]), abs=.01)
    assert infer_cell(wrong, trust).cell == pytest.approx(HEXAGONAL, rel=.03), "a wrong crystal cannot bend a good instrument"
    assert infer_cell(wrong, trust).log_odds < infer_cell(right, trust).log_odds - 3


@pytest.mark.parametrize("off", [-.31, -.1, .12, .31])
@pytest.mark.parametrize("kinds", [KINDS, CLEAN_KINDS], ids=["rough", "clean"])
def test_sizes_far_apart_are_not_averaged(off, kinds):
    "A size between that of the file and that at rest would be wrong whichever is right."
    found = inferred(HEXAGONAL, HEXAGONAL*np.exp(off), kinds=kinds)
    taken = np.log(cell_lengths(found.cell)[0]/cell_lengths(HEXAGONAL)[0])
    assert min(abs(taken), abs(taken - off)) < 1e-9

@pytest.mark.parametrize("stretch", [1.05, 1.12, 1.2])
@pytest.mark.parametrize("kinds", [KINDS, CLEAN_KINDS], ids=["rough", "clean"])
def test_shapes_far_apart_are_not_averaged(stretch, kinds):
    "A shape between that of the image and that at rest would be wrong whichever is right."
    rest = HEXAGONAL@np.diag([stretch, 1/stretch])
    found = inferred(HEXAGONAL, rest, kinds=kinds)
    assert min(strain_between(found.cell, cell).shape for cell in (HEXAGONAL, rest)) < 1e-6

@pytest.mark.parametrize("off", [-.3, .3])
def test_a_scale_that_belongs_to_another_image_is_not_believed(off):
    found = inferred(HEXAGONAL, HEXAGONAL*np.exp(off))
    assert cell_lengths(found.cell)[0] == pytest.approx(cell_lengths(HEXAGONAL)[0]*np.exp(off)) and found.trust["exact"] < .5

def test_a_potential_that_is_off_in_size_and_shape_does_not_make_a_raw_scan():
    "Nothing but white noise is left: the potential misjudges the crystal, the measured lattice stands for the most part."
    off = np.exp(-.09)*HEXAGONAL@np.diag([1.1, 1/1.1])
    found = inferred(OBLIQUE_SLAB.cell, OBLIQUE_SLAB.cell@np.linalg.solve(HEXAGONAL, off), kinds=CLEAN_KINDS)
    assert found.trust["exact"] > .5 > found.trust["raw"]
    assert abs(strain_between(OBLIQUE_SLAB.cell, found.cell).scale) < 1e-6

@pytest.mark.parametrize("off", [.03, .06])
def test_a_shape_that_symmetry_fixes_says_nothing_of_the_size(off):
    "A hexagonal crystal that the potential misjudges is hexagonal still: no reason to believe its size."
    found = inferred(HEXAGONAL, HEXAGONAL*np.exp(off), symmetric=HEXAGONAL, fixed=2, kinds=CLEAN_KINDS)
    assert found.trust["exact"] > .5
    far = [inferred(HEXAGONAL, HEXAGONAL*np.exp(.15), symmetric=HEXAGONAL, fixed=2, kinds=kinds).trust["exact"]
           for kinds in (CLEAN_KINDS, KINDS)]
    assert far[0] > .5 > far[1] # a clean image is rarely on a wrong scale
