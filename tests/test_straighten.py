"The symmetric lattice behind a sheared scan, where the columns speak for it, and the measured one, where they do not."
import numpy as np, pytest
from crystals import MOS2, OBLIQUE, OBLIQUE_SLAB, photo
from microscopygpt.core import MicroscopyGPTError
from microscopygpt.crystal import Slab, cell_from_lengths, cell_lengths, from_slab
from microscopygpt.fourier import LatticeError
from microscopygpt.observe import NAMED, Imaging, observe
from microscopygpt.micrograph import Micrograph
from microscopygpt.scan import RAW_NOISE, Scan
from microscopygpt.plane_groups import turns_of
from microscopygpt.planes import solve_columns
from microscopygpt.straighten import (ROUND, Shape, find_astigmatism, is_passed_over, marks, observe_scan, shapes_of,
                                      solve_with_probe, straightened)

SQUARE = from_slab(Slab(cell_from_lengths(3.8, 3.8, 90), np.array([[0, 0], [.5, .5]]), np.zeros(2), np.array([26, 34])))
RECTANGLE = from_slab(Slab(cell_from_lengths(3.3, 5.4, 90), np.array([[0, .1], [.5, .5], [.5, .15]]), np.array([0, 1., -1.]), np.array([50, 16, 16])))
SHEARED = Scan(affine=.12)

@pytest.mark.parametrize("cell, order", [((3, 3, 120), 12), ((3, 3, 90), 8), ((3, 4, 90), 4), ((3, 4, 102), 2)], ids=["hexagonal", "square", "rectangular", "oblique"])
def test_the_point_group_of_a_lattice(cell, order): assert len(turns_of(cell_from_lengths(*cell))) == order

def test_what_marks_a_lattice():
    threefold, fourfold, twofold, mirror = (np.array(m) for m in ([[0, 1], [-1, -1]], [[0, 1], [-1, 0]], [[-1, 0], [0, -1]], [[0, 1], [1, 0]]))
    assert [marks(threefold, 0), marks(fourfold, 1), marks(mirror, 2), marks(mirror, 3)] == [True]*4
    assert not any(marks(twofold, bravais) for bravais in range(4)) and not marks(threefold, 1) and not marks(mirror, 0)

@pytest.mark.parametrize("atoms, bravais, gamma", [(MOS2, 0, 120), (SQUARE, 1, 90), (RECTANGLE, 2, 90)], ids=["hexagonal", "square", "rectangular"])
@pytest.mark.parametrize("seed", range(2))
def test_a_sheared_crystal_gets_its_lattice_back(atoms, bravais, gamma, seed):
    observation = observe(photo(atoms, SHEARED, seed=seed))
    found = straightened(observation)
    assert found.bravais == bravais and found.lattice.gamma == pytest.approx(gamma, abs=1e-6)
    assert abs(np.linalg.det(found.lattice.cell)) == pytest.approx(abs(np.linalg.det(observation.lattice.cell))), "the area is measured"
    assert found.in_view(found.lattice.cell) == pytest.approx(observation.lattice.cell), "no pixel is touched"
    assert abs(observation.lattice.gamma - gamma) > .1 and found.strain > .001

@pytest.mark.parametrize("scan", [Scan(), SHEARED], ids=["straight", "sheared"])
@pytest.mark.parametrize("seed", range(2))
def test_an_oblique_crystal_stays_oblique(scan, seed):
    observation = observe(photo(OBLIQUE, scan, seed=seed))
    assert min(s.strain for s in shapes_of(observation)) < .05, "a symmetric lattice is near"
    assert straightened(observation) is observation and observation.bravais is None

def test_black_phosphorus_stays_rhombic():
    "Two equal columns that nearly have a threefold axis, 11 % away from a hexagonal lattice."
    phosphorus = from_slab(Slab(np.diag([3.306, 4.631]), np.array([[0, .09], [.5, .41], [0, .91], [.5, .59]]), np.array([1, 1, -1, -1.]), np.full(4, 15)))
    found = straightened(observe(photo(phosphorus)))
    assert found.bravais == 3 and found.lattice.gamma == pytest.approx(109, abs=.2)

def test_what_needs_a_large_strain_is_passed_over_where_another_needs_none():
    hexagonal, rhombic = (Shape(np.eye(2), bravais, strain, misfit, np.zeros((2, 2))) for bravais, strain, misfit in ((0, .1, .2), (3, .001, .01)))
    assert is_passed_over(hexagonal, [hexagonal, rhombic]) and not is_passed_over(rhombic, [hexagonal, rhombic])
    assert not is_passed_over(hexagonal, [hexagonal, rhombic._replace(strain=.02)]), "any lattice may be near by chance"
    assert not is_passed_over(hexagonal, [hexagonal, rhombic._replace(misfit=.1)]), "fewer symmetries always leave less"

# one heavy column and one light one, each with every symmetry that a rectangular lattice allows
ALMOST_SQUARE = from_slab(Slab(cell_from_lengths(4.06, 4.32, 90), np.array([[0, 0], [.5, .5]]), np.zeros(2), np.array([50, 16])))

def test_a_lattice_that_is_almost_square_stays_so_under_a_round_probe():
    found = straightened(observe(photo(ALMOST_SQUARE)))
    assert found.bravais in (2, 3) and found.lattice.b/found.lattice.a == pytest.approx(4.32/4.06, abs=.002)

@pytest.mark.parametrize("seed", range(3))
def test_under_an_elliptic_probe_it_may_be_a_sheared_square(seed):
    shapes = shapes_of(observe(photo(ALMOST_SQUARE, noise=RAW_NOISE, seed=seed)))
    square = next(s for s in shapes if s.bravais == 1)
    assert square.elongation > ROUND and not is_passed_over(square, shapes)

@pytest.mark.parametrize("atoms", [MOS2, SQUARE, ALMOST_SQUARE], ids=["hexagonal", "square", "almost square"])
def test_a_round_probe_is_seen_to_be_round(atoms): assert shapes_of(observe(photo(atoms)))[0].elongation < ROUND/1.5

def test_a_straight_scan_changes_next_to_nothing():
    found = observe_scan(photo(MOS2))
    assert found.strain < .002 and found.undone == 0 and np.abs(found.astigmatism).max() < .01
    assert found.lattice.a == pytest.approx(3.18, rel=.002)

def elongated(picture, long, blur=.08):
    "A picture blurred by a probe with the covariance long + blur (Å²)."
    gy, gx = np.meshgrid(*(np.fft.fftfreq(n, .1) for n in picture.shape), indexing="ij")
    g = np.stack([gx, gy], -1)
    probe = np.exp(-2*np.pi**2*np.einsum("...i,ij,...j", g, long + blur*np.eye(2), g))
    return Micrograph(np.fft.ifft2(np.fft.fft2(picture.data)*probe).real.astype(np.float32), .1)

@pytest.mark.parametrize("stretch, skew", [(.06, .03), (-.05, .05), (0., 0.)])
def test_an_elongated_probe_is_found(stretch, skew):
    long = np.array([[stretch, skew], [skew, -stretch]])
    observation = straightened(observe(elongated(photo(MOS2, noise="none"), long)))
    assert observation.bravais == 0 and observation.astigmatism == pytest.approx(long, abs=.012)
    assert find_astigmatism(observation, observation.lattice.cell) == pytest.approx(observation.astigmatism, abs=.01), "nothing is left to find"

@pytest.mark.parametrize("atoms, formula", [(MOS2, "MoS2"), (RECTANGLE, "SnS2"), (OBLIQUE, "MoSSe")], ids=["hexagonal", "rectangular", "oblique"])
@pytest.mark.parametrize("stretch, skew", [(.06, .03), (-.05, .05)])
def test_solved_columns_tell_the_elongation_on_any_lattice(atoms, formula, stretch, skew):
    long = np.array([[stretch, skew], [skew, -stretch]])
    given = straightened(observe(elongated(photo(atoms, noise="low"), long)))
    found, planes = solve_with_probe(given, formula)
    assert found.astigmatism == pytest.approx(long, abs=.02)
    assert planes[0].residual < solve_columns(given, formula)[0].residual + .002

@pytest.mark.parametrize("atoms, formula", [(MOS2, "MoS2"), (RECTANGLE, "SnS2"), (OBLIQUE, "MoSSe")], ids=["hexagonal", "rectangular", "oblique"])
def test_under_a_round_probe_columns_are_solved_once(atoms, formula):
    given = straightened(observe(photo(atoms)))
    assert solve_with_probe(given, formula)[0] is given

def test_a_lattice_that_needs_no_strain_is_not_taken_for_a_sheared_one():
    "One column in a rhombic cell has every symmetry that a hexagonal lattice allows."
    rhombic = from_slab(Slab(cell_from_lengths(3.4, 3.4, 110), np.zeros((1, 2)), np.zeros(1), np.array([50])))
    observation = observe(photo(rhombic, Scan(), seed=1))
    hexagonal = next(s for s in shapes_of(observation) if s.bravais == 0)
    assert hexagonal.misfit < .05 and hexagonal.strain > .04, "the column has a threefold axis"
    assert straightened(observation).bravais == 3
    sheared = observe(photo(MOS2, SHEARED, seed=1))
    assert max(s.strain for s in shapes_of(sheared)) > .04 and straightened(sheared).bravais == 0

def test_a_distortion_that_is_given_is_obeyed():
    picture = photo(MOS2, SHEARED, seed=2)
    given = observe_scan(picture, Imaging(distortion=0.))
    assert given.bravais is None and given.lattice.cell == pytest.approx(observe(picture).lattice.cell)
    assert observe_scan(picture).bravais == 0

def test_noise_has_no_lattice():
    noise = np.random.default_rng(0).normal(size=(256, 256)).astype(np.float32)
    with pytest.raises(LatticeError): observe_scan(Micrograph(noise, .1))
    assert issubclass(LatticeError, MicroscopyGPTError)

def test_a_lattice_named_rightly_is_believed_though_the_scan_is_sheared():
    "No remark that it does not fit: what was named is what was inferred."
    sheared = photo(MOS2, Scan(affine=.1), seed=3)
    seen = observe_scan(sheared, bravais=0)
    assert seen.bravais == 0 and not any(note.startswith(NAMED) for note in seen.lattice.warnings)
    other = observe_scan(sheared, bravais=1)
    assert other.bravais == 0 and any(note.startswith(NAMED) for note in other.lattice.warnings)
