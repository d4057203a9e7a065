"Contenders on the lattice that measurement and physics agree on; a good measurement is kept."
from dataclasses import replace
import numpy as np, pytest
from crystals import MOS2, MOS2_SLAB, photo
from microscopygpt.crystal import Slab, cell_from_lengths, cell_lengths, from_slab
from microscopygpt.heights import Relaxed
from microscopygpt.micrograph import Micrograph
from microscopygpt.noise import Noise, render
from microscopygpt.observe import observe
from microscopygpt.place import differ, fixes_lattice, freed, in_other_size, looks_clean, place
from microscopygpt.energies import Potential
from microscopygpt.potentials import load_potential
from microscopygpt.rank import FEATURES, Candidate, context_of, contender, features
from microscopygpt.proof import Proposal, best_common, prove
from microscopygpt.rest import Inferred, at_rest, strain_between
from microscopygpt.scan import Scan, scan_image
from microscopygpt.straighten import observe_scan, shapes_of, straightened

PHOSPHORUS_SLAB = Slab(np.diag([3.306, 4.631]), np.array([[0, .09], [.5, .41], [0, .91], [.5, .59]]), np.array([1.055, 1.055, -1.055, -1.055]), np.full(4, 15))
RAW = Scan(affine=.1, drift=.05)

@pytest.fixture(scope="module")
def chgnet(): return load_potential("chgnet")

def infinite():
    "A potential that knows no finite energy."
    class Infinite(Potential):
        name = "infinite"
        def compute(self, slabs, forces): return np.full(len(slabs), np.inf), [np.zeros((len(s.z), 3)) for s in slabs]
    return Infinite()

def proven(slab, observation): return contender(prove(Proposal(slab), observation), abs(np.linalg.det(observation.lattice.cell)))

@pytest.mark.parametrize("slab", [MOS2_SLAB, PHOSPHORUS_SLAB], ids=["MoS2", "phosphorus"])
def test_a_good_measurement_is_kept(slab, chgnet):
    observation = straightened(observe(photo(from_slab(slab))))
    one = proven(slab, observation)
    before = cell_lengths(one.proof.slab.cell)
    place([one], observation, chgnet)
    assert one.inferred.trust["exact"] > .5
    assert cell_lengths(one.proof.slab.cell) == pytest.approx(before, rel=.01)

def test_a_wrong_scale_and_a_shear_are_undone(chgnet):
    observation = straightened(observe(photo(MOS2, RAW, seed=6, pixel_size=.092)))
    one = proven(MOS2_SLAB, observation)
    residual, before = one.proof.residual, cell_lengths(one.proof.slab.cell)
    place([one], observation, chgnet)
    assert before[0] < 3.05 and cell_lengths(one.proof.slab.cell) == pytest.approx((3.19, 3.19, 120), abs=.05)
    assert one.proof.residual == pytest.approx(residual, abs=.05) and one.inferred.trust["exact"] < .1
    assert one.proof.operations == 12, "its symmetry is kept"

def test_without_a_scale_the_crystal_has_its_own(chgnet):
    observation = replace(straightened(observe(photo(MOS2, pixel_size=.095))), scaled=False)
    one = proven(MOS2_SLAB, observation)
    place([one], observation, chgnet)
    assert cell_lengths(one.proof.slab.cell)[0] == pytest.approx(3.19, abs=.02) and one.inferred.log_odds == pytest.approx(0, abs=.5)

def test_the_strain_counts_against_a_contender(chgnet):
    observation = straightened(observe(photo(MOS2)))
    right = proven(MOS2_SLAB, observation)
    wrong = proven(MOS2_SLAB._replace(numbers=np.array([74, 52, 52])), observation) # WTe2 is 10 % larger
    place([right, wrong], observation, chgnet, scores=np.array([3., 0.]))
    assert wrong.inferred.log_odds < right.inferred.log_odds - 3 and wrong.inferred.trust == right.inferred.trust
    context, column = context_of([right, wrong], 0), FEATURES.index("log odds of the strain")
    assert features(wrong, context)[column] < features(right, context)[column] and features(right, context).shape == (len(FEATURES),)

def test_what_cannot_be_relaxed_stays():
    observation = observe(photo(MOS2))
    one = proven(MOS2_SLAB, observation)
    proof = one.proof
    with np.errstate(invalid="ignore"): place([one], observation, infinite())
    assert one.proof is proof and one.inferred is None

def test_columns_that_noise_alone_explains_are_not_let_go(chgnet):
    observation = straightened(observe(photo(MOS2)))
    one = proven(MOS2_SLAB, observation)
    rest = at_rest([one.proof.slab], chgnet)[0]
    assert freed([one], [rest], observation, chgnet)[0] is rest

def test_how_far_two_cells_differ():
    assert differ(MOS2_SLAB.cell, MOS2_SLAB.cell) == pytest.approx(0, abs=1e-9)
    assert differ(MOS2_SLAB.cell, 1.02*MOS2_SLAB.cell) == pytest.approx(np.log(1.02))
    assert differ(MOS2_SLAB.cell, MOS2_SLAB.cell@np.diag([1.05, 1/1.05])) == pytest.approx(np.log(1.05))

def test_the_common_shift_is_that_of_the_heavy_columns():
    d = np.array([[.1, .2], [1.1, .2], [.4, -.8]])
    assert best_common(d, np.array([74, 74, 1])) == pytest.approx([.1, .2], abs=1e-3)
    assert best_common(np.tile([.3, .7], (3, 1)), np.array([42, 16, 16])) == pytest.approx([.3, .7])

# ---- a lattice that only looks symmetric

def test_heights_that_break_the_symmetry_of_the_columns_fix_no_lattice():
    observation = straightened(observe(photo(MOS2)))
    proof = proven(MOS2_SLAB, observation).proof
    def lifted(*z): return replace(proof, slab=proof.slab._replace(z=proof.slab.z + np.array(z)))
    assert fixes_lattice(proof, observation) and fixes_lattice(lifted(0, .4, 0), observation), "an axis along z remains"
    two = proof.slab
    cell, frac = np.diag([1, 2])@two.cell, np.concatenate([two.frac, two.frac + [0, 1]])/[1, 2]
    larger = Slab(cell, frac, np.r_[two.z, -two.z + 1], np.r_[two.numbers, two.numbers])
    assert not fixes_lattice(replace(proof, slab=larger), observation), "one cell turned over beside another"
    assert not fixes_lattice(proof, replace(observation, bravais=None))

def azide():
    "A made-up crystal on an oblique lattice that a sheared image of a hexagonal one could have."
    cell = cell_from_lengths(5.53, 6.69, 110.8)
    frac = np.array([[0, 0], [.5, .5], [.5 + .21, .5 + .06], [.5 - .21, .5 - .06]])
    return Slab(cell, frac, np.zeros(4), np.array([19, 7, 7, 7]))

def test_an_oblique_crystal_on_a_nearly_hexagonal_lattice_keeps_its_own(chgnet):
    "Taken as a sheared hexagonal scan, its columns say that it is none: the measured lattice stands."
    slab = azide()
    observation = observe(photo(from_slab(slab)))
    hexagonal = min((s for s in shapes_of(observation) if s.bravais == 0), key=lambda s: s.strain)
    straight = replace(observation.onto(hexagonal.cell, hexagonal.astigmatism), bravais=0)
    one = contender(prove(Proposal(slab._replace(cell=straight.lattice.cell)), straight), abs(np.linalg.det(straight.lattice.cell)))
    assert not fixes_lattice(one.proof, straight)
    place([one], straight, chgnet)
    assert strain_between(slab.cell, one.proof.slab.cell).shape < .01

# ---- what looks clean

SLABS = pytest.mark.parametrize("slab", [MOS2_SLAB, PHOSPHORUS_SLAB, azide()], ids=["hexagonal", "rectangular", "oblique"])

def clean(slab, image):
    observation = observe_scan(Micrograph(image, .1))
    return looks_clean(prove(Proposal(slab), observation), observation)

@SLABS
def test_a_simulated_image_looks_clean_on_any_lattice(slab): assert clean(slab, render(from_slab(slab), noise="paper", seed=3))

@SLABS
def test_a_probe_that_is_not_round_is_seen_on_any_lattice(slab):
    assert not clean(slab, render(from_slab(slab), noise=Noise(blur=.1, astigmatism=.25, read_noise=.14), seed=3))

@SLABS
def test_so_is_a_scan_that_is_sheared(slab):
    image, _ = scan_image(from_slab(slab), Scan(affine=.12), "paper", seed=2)
    assert not clean(slab, image)

# ---- the other size

def candidate_on(factor, rest_is_right, confidence=.8):
    "MoS2 answered in a cell that is larger by a factor, its size at rest being right with a probability."
    slab = MOS2_SLAB._replace(cell=MOS2_SLAB.cell*factor)
    one = proven(slab, observe(photo(from_slab(slab))))
    measured, rest = one.proof.slab.cell, one.proof.slab.cell/factor
    if rest_is_right > .5: measured, rest = rest, measured
    trust = dict(exact=1 - rest_is_right, unscaled=rest_is_right, raw=0.)
    inferred = Inferred(one.proof.slab.cell, strain_between(measured, rest), trust, 0.)
    return Candidate(one.proof.primitive, 0., one.proof.residual, confidence, "as proposed", one.proof, inferred=inferred)

@pytest.mark.parametrize("factor, rest_is_right", [(1.12, .2), (1.12, .8), (.88, .3)])
def test_both_sizes_are_listed(factor, rest_is_right, chgnet):
    "The other size is the measured one or that at rest, whichever was not taken, and as probable as it is."
    best = candidate_on(factor, rest_is_right)
    (other,) = in_other_size(best, chgnet)
    ratio = cell_lengths(other.proof.slab.cell)[0]/cell_lengths(best.proof.slab.cell)[0]
    assert ratio == pytest.approx(1/factor, rel=1e-3)
    share = min(rest_is_right, 1 - rest_is_right)
    assert other.confidence == pytest.approx(min(.8*share/(1 - share), .2)) and other.score < best.score
    assert ("at rest" in other.why) == (rest_is_right < .5) and other.proof.operations == 12

@pytest.mark.parametrize("factor, rest_is_right", [(1.05, .5), (1.12, .001), (1.12, .999)], ids=["near", "sure", "sure of rest"])
def test_one_size_is_enough(factor, rest_is_right, chgnet):
    assert in_other_size(candidate_on(factor, rest_is_right), chgnet) == []

def test_the_other_size_needs_a_finite_energy(): assert in_other_size(candidate_on(1.12, .2), infinite()) == []

@pytest.mark.parametrize("ellipse", [0., .03])
def test_an_elliptic_probe_is_that_of_a_microscope(ellipse, chgnet):
    "The same clean image 10 % off its rest: believed from a round probe, doubted from an elliptic one."
    observation = straightened(observe(photo(MOS2, pixel_size=.11)))
    observation = replace(observation, astigmatism=np.diag([ellipse, -ellipse]))
    one = proven(MOS2_SLAB._replace(cell=MOS2_SLAB.cell*1.1), observation)
    place([one], observation, chgnet)
    assert (one.inferred.trust["exact"] > .5) == (not ellipse)
