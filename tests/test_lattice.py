"The lattice measured in an image: properties that must hold for any crystal, any view, and images without one."
import time

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st

from microscopygpt.crystal import Slab, bravais_2d, cell_from_lengths, cell_lengths, from_slab, reduce_cell
from microscopygpt.fourier import LatticeError, fold, fourier_coefficients, harmonics
from microscopygpt.lattice import measure_lattice
from microscopygpt.observe import Imaging, idealize, most_symmetric_cell, observe, pixel_size_from_lattice
from microscopygpt.micrograph import Micrograph
from microscopygpt.stem import simulate
from microscopygpt.noise import render

quick = settings(max_examples=15, deadline=None)
seeds = st.integers(0, 2**31)
MOS2 = from_slab(Slab(cell_from_lengths(3.184, 3.184, 120), np.array([[0, 0], [1/3, 2/3], [1/3, 2/3]]), np.array([0, 1.56, -1.56]), np.array([42, 16, 16])))
PAPER = Micrograph(render(MOS2, noise="paper", seed=0), .1)


def oblique(seed, smallest=2.6, largest=5.):
    "One heavy atom and two light ones at random: the projection always has the crystal's own cell."
    rng = np.random.default_rng(seed)
    cell = cell_from_lengths(a := rng.uniform(smallest, largest), min(largest*1.2, a*rng.uniform(1.02, 1.5)), rng.uniform(91, 117))
    return from_slab(Slab(reduce_cell(cell)[0], rng.random((3, 2)), np.arange(3) + .2*rng.uniform(-1, 1, 3), np.array([70, 16, 8])))

def lengths(atoms): return np.array(cell_lengths(reduce_cell(np.array(atoms.lattice_mat)[:2, :2])[0]))

def assert_cell(lattice, truth, percent, degrees):
    found = np.array([lattice.a, lattice.b, lattice.gamma])
    assert np.abs(found[:2]/truth[:2] - 1).max() < percent/100, (found, truth)
    assert abs(found[2] - truth[2]) < degrees, (found, truth)


# waves

@quick
@given(st.floats(2, 9), st.floats(1, 2), st.floats(90, 120), st.floats(.4, 1.5))
def test_harmonics_are_half_of_the_lattice(a, ratio, gamma, gmax):
    cell = cell_from_lengths(a, a*ratio, gamma)
    hk, g = harmonics(cell, gmax)
    assert np.allclose(g@cell.T, hk) and (len(g) == 0 or np.linalg.norm(g, axis=1).max() < gmax)
    n = np.arange(-40, 41)
    full = np.stack(np.meshgrid(n, n), -1).reshape(-1, 2)
    inside = (np.linalg.norm(full@np.linalg.inv(cell).T, axis=1) < gmax).sum()
    assert 2*len(hk) + 1 == inside
    assert not {tuple(q) for q in hk} & {tuple(-q) for q in hk}

@quick
@given(seeds, st.floats(.07, .15), st.integers(90, 140), st.integers(90, 140))
def test_coefficients_are_those_of_the_synthesis(seed, pixel, h, w):
    rng = np.random.default_rng(seed)
    cell = cell_from_lengths(3.1, 3.9, rng.uniform(90, 118))
    hk, g = harmonics(cell, 1.)
    c = rng.normal(size=len(g)) + 1j*rng.normal(size=len(g))
    y, x = np.mgrid[:h, :w]*pixel
    image = 2*sum((ci*np.exp(2j*np.pi*(gi[0]*x + gi[1]*y))).real for ci, gi in zip(c, g))
    ramp = 5 + 3*x/x.max() - 2*(y/y.max())**2
    found_hk, found_g, found, sigma = fourier_coefficients(Micrograph(image + ramp, pixel), cell, 1.)
    assert (found_hk == hk).all() and np.allclose(found_g, g)
    assert np.abs(found - c).max() < .02 and sigma < .02

def test_fold_is_the_image_of_one_cell():
    rng, cell = np.random.default_rng(1), cell_from_lengths(3.1, 3.9, 103)
    hk, g = harmonics(cell, 1.)
    c = rng.normal(size=len(g)) + 1j*rng.normal(size=len(g))
    folded = fold(hk, c, (10, 14))
    assert folded.shape == (10, 14)
    r = np.array([3/10, 5/14])@cell
    assert np.isclose(folded[3, 5], 2*(c*np.exp(2j*np.pi*g@r)).real.sum())

def test_sigma_is_the_noise_of_a_coefficient():
    cell, rng = cell_from_lengths(3.184, 3.184, 120), np.random.default_rng(0)
    clean = simulate(MOS2, pixel_size=.1).astype(float)
    c0 = fourier_coefficients(Micrograph(clean, .1), cell)[2]
    trials = [fourier_coefficients(Micrograph(clean + rng.normal(0, clean.std(), clean.shape), .1), cell) for _ in range(5)]
    true = np.sqrt(np.mean([np.abs(t[2] - c0)**2 for t in trials]))
    assert np.isclose(np.mean([t[3] for t in trials]), true, rtol=.25)


# measuring

@quick
@given(seeds)
def test_paper_noise(seed):
    atoms = oblique(seed)
    assert_cell(measure_lattice(Micrograph(render(atoms, noise="paper", seed=seed), .1)), lengths(atoms), .2, .2)

@quick
@given(seeds)
def test_hard_noise(seed):
    "Hard noise makes a false superlattice in about one image of a hundred: then the true cell is among the alternatives."
    atoms = oblique(seed)
    lattice = measure_lattice(Micrograph(render(atoms, noise="hard", seed=seed), .1))
    offered = np.array([cell_lengths(reduce_cell(cell)[0]) for cell in (lattice.cell, *(a.cell for a in lattice.alternatives))])
    off = np.abs(offered - lengths(atoms))/np.array([*lengths(atoms)[:2]*.012, 1.2])
    assert off.max(1).min() < 1, (offered, lengths(atoms))

@quick
@given(seeds, st.floats(.05, .15), st.floats(18, 45), st.floats(.7, 1.4), st.floats(0, 360))
def test_any_view(seed, pixel, fov, aspect, rotation):
    atoms = oblique(seed)
    size = int(fov/pixel), int(fov*aspect/pixel)
    assert_cell(measure_lattice(Micrograph(simulate(atoms, pixel_size=pixel, size=size, rotation=rotation), pixel)), lengths(atoms), .1, .1)

@pytest.mark.parametrize("pixel", (.06, .1, .14))
def test_smallest_view(pixel):
    image = render(MOS2, noise="paper", seed=2, pixel_size=pixel, size=int(12/pixel))
    assert_cell(measure_lattice(Micrograph(image, pixel)), [3.184, 3.184, 120], .5, .5)

def test_cell_lies_in_the_image_as_it_says():
    "A shift by a lattice vector leaves the image as it was."
    image = simulate(MOS2, rotation=23, pixel_size=.1).astype(float)
    a, b = measure_lattice(Micrograph(image, .1)).cell
    for x, y in (a, b):
        moved = simulate(MOS2, rotation=23, pixel_size=.1, shift=(x, y)).astype(float)
        assert np.abs(moved - image).max() < .01*np.ptp(image)

@quick
@given(st.floats(.01, 100), st.floats(-50, 50), st.booleans(), st.booleans())
def test_brightness_contrast_and_flips_do_not_matter(gain, offset, transpose, flip):
    image = PAPER.data[:, ::-1] if flip else PAPER.data
    image = gain*(image.T if transpose else image) + offset
    lattice, reference = measure_lattice(Micrograph(image, .1)), measure_lattice(PAPER)
    assert_cell(lattice, [reference.a, reference.b, reference.gamma], .01, .01)

def test_the_scale_is_that_of_the_pixels():
    reference = measure_lattice(PAPER)
    assert_cell(measure_lattice(Micrograph(PAPER.data, .103)), [reference.a*1.03, reference.b*1.03, reference.gamma], .02, .02)

def test_stretched_image_gives_the_stretched_cell():
    cell = cell_from_lengths(3.184, 3.184, 120)@np.array([[1.02, .01], [0, .985]])
    atoms = from_slab(Slab(cell, np.array([[0, 0], [1/3, 2/3]]), np.zeros(2), np.array([42, 24])))
    assert_cell(measure_lattice(Micrograph(render(atoms, noise="paper", seed=5), .1)), cell_lengths(reduce_cell(cell)[0]), .1, .1)

def test_errors_are_honest():
    truth = np.array([3.184, 3.184, 120])
    z = []
    for seed in range(12):
        lattice = measure_lattice(Micrograph(render(MOS2, noise="paper", seed=seed), .1))
        z.append((np.array([lattice.a, lattice.b, lattice.gamma]) - truth)/lattice.errors)
    assert .4 < np.sqrt(np.mean(np.square(z))) < 2

def test_fast_enough():
    measure_lattice(PAPER)
    start = time.perf_counter()
    for _ in range(3): measure_lattice(PAPER)
    assert (time.perf_counter() - start)/3 < 1.


# smaller and larger cells

def centred(numbers): return from_slab(Slab(cell_from_lengths(3.65, 4.48, 90), np.array([[0, 0], [.5, .5]]), np.zeros(2), np.array(numbers)))

@pytest.mark.parametrize("numbers, area", (((32, 32), 3.65*4.48/2), ((32, 16), 3.65*4.48)))
def test_projected_cell(numbers, area):
    lattice = measure_lattice(Micrograph(render(centred(numbers), noise="paper", seed=1), .1))
    assert np.isclose(abs(np.linalg.det(lattice.cell)), area, rtol=.01)

def test_a_weak_superlattice_is_offered():
    lattice = measure_lattice(Micrograph(simulate(centred((32, 31)), pixel_size=.1), .1))
    assert np.isclose(abs(np.linalg.det(lattice.cell)), 3.65*4.48/2, rtol=.01)
    larger = lattice.alternatives[0]
    assert larger.index == 2 and .01 < larger.superlattice_ratio < .06
    assert np.allclose(cell_lengths(larger.cell), (3.65, 4.48, 90), rtol=.005)
    assert any("uperlattice" in w for w in lattice.warnings)

@pytest.mark.parametrize("k, n", ((2, 4), (3, 3)))
def test_supercells_do_not_matter(k, n):
    rng = np.random.default_rng(k)
    base = rng.random((2, 2))
    grid = np.stack(np.meshgrid(range(k), range(k)), -1).reshape(-1, 1, 2)
    frac = ((base + grid)/k).reshape(-1, 2)
    atoms = from_slab(Slab(k*cell_from_lengths(3.3, 3.9, 100), frac, np.zeros(len(frac)), np.tile([60, 20], k*k)))
    assert_cell(measure_lattice(Micrograph(render(atoms, noise="paper", seed=n), .1)), [3.3, 3.9, 100], .2, .2)


# no lattice

def refused(data, pixel_size=.1):
    with pytest.raises(LatticeError) as e: measure_lattice(Micrograph(np.asarray(data, float), pixel_size))
    assert "\n" not in str(e.value) and ":" in str(e.value)
    return str(e.value)

@quick
@given(seeds, st.integers(64, 300))
def test_noise_has_no_lattice(seed, n): refused(np.random.default_rng(seed).normal(size=(n, n)))

@quick
@given(seeds, st.floats(1, 6))
def test_blurred_noise_has_no_lattice(seed, blur):
    from scipy.ndimage import gaussian_filter
    refused(gaussian_filter(np.random.default_rng(seed).normal(size=(200, 200)), blur))

@quick
@given(seeds, st.floats(0, 180), st.floats(.2, .8))
def test_fringes_are_no_lattice(seed, angle, g):
    y, x = np.mgrid[:200, :220]*.1
    c, s = np.cos(np.radians(angle)), np.sin(np.radians(angle))
    refused(np.cos(2*np.pi*g*(x*c + y*s)) + np.random.default_rng(seed).normal(size=x.shape))

def test_unusable_images():
    assert "constant" in refused(np.ones((80, 80)))
    assert "ramp" in refused(np.add.outer(np.arange(64.), np.arange(80.)))
    assert "finite" in refused(np.full((80, 80), np.nan))
    assert "16 x 16" in refused(np.ones(20))
    assert "16 x 16" in refused(np.ones((8, 300)))
    assert "pixel_size" in refused(PAPER.data, None)
    assert "unit" in refused(PAPER.data, 100.) and "narrow" in refused(PAPER.data, .01)

def test_quality_falls_with_amorphous_material():
    rng, crystal = np.random.default_rng(0), simulate(MOS2, rotation=17, pixel_size=.1).astype(float)
    q = np.hypot(*np.meshgrid(np.fft.fftfreq(256, .1), np.fft.fftfreq(256, .1)))
    glass = np.fft.ifft2(np.fft.fft2(rng.normal(size=q.shape))*np.exp(-((q - .35)/.2)**2)).real
    crystal, glass = crystal/crystal.std(), glass/glass.std()
    for share in (.5, .75, 1.):
        image = np.sqrt(share)*crystal + np.sqrt(1 - share)*glass + rng.normal(size=q.shape)
        assert abs(measure_lattice(Micrograph(image, .1)).quality - share) < .1

@given(a=st.floats(2, 8), ratio=st.floats(1, 2.5), gamma=st.floats(60, 120), bravais=st.integers(0, 3))
def test_the_ideal_lattice_is_of_its_class_and_keeps_the_area(a, ratio, gamma, bravais):
    cell = reduce_cell(cell_from_lengths(a, a*ratio, gamma))[0]
    ideal, strain = idealize(cell, bravais)
    assert abs(np.linalg.det(ideal)) == pytest.approx(abs(np.linalg.det(cell)), rel=1e-9) and strain >= 0
    allowed = {0: {0}, 1: {1}, 2: {1, 2, 3, 0}, 3: {0, 1, 2, 3}}[bravais] # rectangles and rhombi of a special shape are squares and hexagons
    assert bravais_2d(ideal, 1e-4, 1e-2) in allowed
    again, none = idealize(ideal, bravais)
    assert none == pytest.approx(0, abs=1e-6) and np.allclose(again, ideal, atol=1e-6)

@given(seed=st.integers(0, 10_000), limit=st.floats(0, .08))
def test_no_more_is_corrected_than_was_allowed(seed, limit):
    rng = np.random.default_rng(seed)
    cell = reduce_cell(cell_from_lengths(3.2, 3.2, 120)@(np.eye(2) + rng.uniform(-.06, .06, (2, 2))))[0]
    ideal, strain = most_symmetric_cell(cell, limit)
    assert strain <= limit and (ideal is cell) == (strain == 0)

@quick
@given(seeds, st.floats(.005, .03), st.floats(0, 180))
def test_coefficients_of_a_distorted_image_are_those_of_the_crystal(seed, strain, angle):
    "The same waves on a lattice and on that lattice bent: labelled anew, amplitudes and frequencies agree."
    rng, ideal = np.random.default_rng(seed), cell_from_lengths(3.2, 3.2, 120)
    hk, _ = harmonics(ideal, .85)
    c = rng.uniform(.5, 2, len(hk))*np.exp(2j*np.pi*rng.random(len(hk)))
    turn = np.array([[np.cos(t := np.radians(angle)), np.sin(t)], [-np.sin(t), np.cos(t)]])
    y, x = np.mgrid[:256, :256]*.1
    def observed(cell, distortion):
        g = hk@np.linalg.inv(cell).T
        return observe(Micrograph(sum(2*(ci*np.exp(2j*np.pi*(gi[0]*x + gi[1]*y))).real for ci, gi in zip(c, g)), .1), Imaging(distortion=distortion))
    straight, bent = observed(ideal, 0), observed(ideal@turn.T@np.diag([np.exp(strain), np.exp(-strain)])@turn, .035)
    assert bent.strain == pytest.approx(strain, abs=2e-3) and np.allclose([bent.lattice.a, bent.lattice.b, bent.lattice.gamma], [3.2, 3.2, 120], rtol=2e-3)
    (_, g1, c1, _), (_, g2, c2, _) = (o.coefficients(o.lattice.cell) for o in (straight, bent))
    gain = straight.view.data.std()/bent.view.data.std()
    first, second = (np.argsort(-np.abs(k))[:6] for k in (c1, c2))
    assert np.allclose(np.abs(c1[first]), gain*np.abs(c2[second]), rtol=.03)
    assert np.allclose(np.sort(np.linalg.norm(g1, axis=1))[:12], np.sort(np.linalg.norm(g2, axis=1))[:12], rtol=3e-3)

MATERIALS = {"graphene": (Slab(cell_from_lengths(2.464, 2.464, 120), np.array([[1/3, 2/3], [2/3, 1/3]]), np.zeros(2), np.array([6, 6])), 2.464),
             "MoS2": (Slab(cell_from_lengths(3.18, 3.18, 120), np.array([[0, 0], [1/3, 2/3], [1/3, 2/3]]), np.array([0, 1.56, -1.56]), np.array([42, 16, 16])), 3.18),
             "FeSe": (Slab(cell_from_lengths(3.77, 3.77, 90), np.array([[0, 0], [.5, .5], [0, .5], [.5, 0]]), np.array([0, 0, 1.5, -1.5]), np.array([26, 26, 34, 34])), 3.77/2**.5),
             "black phosphorus": (Slab(cell_from_lengths(3.306, 4.631, 90), np.array([[0, .0897], [.5, .4103], [0, .9103], [.5, .5897]]), np.array([1.05, 1.05, -1.05, -1.05]), np.full(4, 15)), np.hypot(3.306, 4.631)/2)}

@pytest.mark.parametrize("name", MATERIALS)
@pytest.mark.parametrize("pixel_size", [.03, .067, .12, .2])
def test_the_scale_from_a_known_lattice(name, pixel_size):
    slab, a = MATERIALS[name]
    picture = render(from_slab(slab), seed=7, size=max(200, int(26/pixel_size)), pixel_size=pixel_size)
    assert pixel_size_from_lattice(Micrograph(picture), a) == pytest.approx(pixel_size, rel=.005)

def test_no_scale_from_noise():
    with pytest.raises(LatticeError, match="no scale"): pixel_size_from_lattice(Micrograph(np.random.default_rng(0).normal(size=(256, 256)).astype(np.float32)), 3.)
    with pytest.raises(LatticeError, match="1.5 to 30"): pixel_size_from_lattice(Micrograph(np.zeros((256, 256), np.float32)), 300.)
