"Properties that a simulated micrograph must have, and inputs that must be refused."
import numpy as np
import pytest
import torch
from hypothesis import given, settings, strategies as st
from jarvis.analysis.stem.convolution_apprx import STEMConv
from jarvis.core.atoms import Atoms
from scipy.ndimage import gaussian_filter

from microscopygpt.crystal import Slab, cell_from_lengths, from_slab, to_slab
from microscopygpt.stem import (Probe, StemError, half_plane, image_sum, simulate, stemconv_view, transfer, _Sheet,
                                _atom_by_atom, _projected, _series)
from microscopygpt.noise import NOISE, Noise, add_noise, random_view, render

quick = settings(max_examples=20, deadline=None, database=None)
angles, seeds = st.floats(-360, 360), st.integers(0, 2**31)


@st.composite
def slabs(draw, atoms=4):
    "A slab with an oblique cell, atoms in general positions"
    rng = np.random.default_rng(draw(seeds))
    n, a = rng.integers(1, atoms+1), rng.uniform(2.5, 5)
    cell = cell_from_lengths(a, a*rng.uniform(1, 1.6), rng.uniform(90, 118))
    return from_slab(Slab(cell, rng.random((n, 2)), rng.permutation(n)*.7-1, rng.integers(1, 84, n)))


@pytest.fixture
def mos2():
    return from_slab(Slab(cell_from_lengths(3.18, 3.18, 120), np.array([[0, 0], [1/3, 2/3], [1/3, 2/3]]), np.array([0, 1.56, -1.56]), np.array([42, 16, 16])))


def close(a, b, tol=1e-5): return abs(a-b).max() < tol*a.max()


@quick
@given(slabs(), angles, st.floats(.3, .9))
def test_equals_the_sum_over_atoms(atoms, angle, probe):
    slab, t = to_slab(atoms), np.radians(angle)
    turn = np.array([[np.cos(t), np.sin(t)], [-np.sin(t), np.cos(t)]])
    y, x = np.mgrid[:12, :20]*.15
    n = range(-6, 7)
    sites = (slab.frac[:, None] + np.array([(i, j) for i in n for j in n])) @ slab.cell @ turn + [.3, -.2]
    spots = [z**1.7*np.exp(-((x-p[0])**2+(y-p[1])**2)/2/probe**2) for z, ps in zip(slab.numbers, sites) for p in ps]
    image = simulate(atoms, .15, (12, 20), rotation=angle, shift=(.3, -.2), probe=probe)
    brightest = slab.numbers.max()**1.7/(2*np.pi*probe**2)
    assert abs(sum(spots)/(2*np.pi*probe**2) - image).max() < 1e-5*brightest


@quick
@given(slabs(), angles, st.integers(-3, 3), st.integers(-3, 3))
def test_translation_by_a_lattice_vector(atoms, angle, i, j):
    t = np.radians(angle)
    v = [i, j] @ to_slab(atoms).cell @ [[np.cos(t), np.sin(t)], [-np.sin(t), np.cos(t)]]
    assert close(simulate(atoms, size=48, rotation=angle), simulate(atoms, size=48, rotation=angle, shift=v))


@quick
@given(slabs(), st.integers(1, 3), st.integers(1, 3), angles)
def test_supercell(atoms, i, j, angle):
    assert close(simulate(atoms, size=48, rotation=angle), simulate(atoms.make_supercell_matrix([i, j, 1]), size=48, rotation=angle), 1e-3)


@quick
@given(slabs(), st.randoms())
def test_order_of_atoms(atoms, random):
    order = list(range(atoms.num_atoms))
    random.shuffle(order)
    other = Atoms(lattice_mat=atoms.lattice_mat, coords=np.array(atoms.frac_coords)[order], elements=[atoms.elements[i] for i in order], cartesian=False)
    assert close(simulate(atoms, size=48), simulate(other, size=48))


@quick
@given(slabs(), angles)
def test_quarter_turn_is_that_of_the_picture(atoms, angle):
    c = dict(size=49, shift=(2.4, 2.4))
    assert close(simulate(atoms, rotation=angle+90, **c), np.rot90(simulate(atoms, rotation=angle, **c), -1))


@quick
@given(slabs(), angles)
def test_mirror_is_that_of_the_picture(atoms, angle):
    c = dict(size=49, shift=(2.4, 2.4))
    assert close(simulate(atoms, rotation=-angle, mirror=True, **c), simulate(atoms, rotation=angle, **c)[::-1])


def test_symmetry_and_stacked_atoms(mos2):
    image = simulate(mos2, size=64, shift=(3.2, 3.2))
    assert close(image, simulate(mos2, size=64, shift=(3.2, 3.2), rotation=120))
    assert not close(image, simulate(mos2, size=64, shift=(3.2, 3.2), rotation=60), .01)
    cell_area = 3.18**2*.75**.5
    assert np.isclose(simulate(mos2, pixel_size=.02, size=1000).mean()*cell_area, 42**1.7+2*16**1.7, rtol=.01)


@quick
@given(slabs(), st.sampled_from(sorted(NOISE)), st.integers(0, 1000))
def test_same_seed_same_picture_at_any_batch_size(atoms, noise, seed):
    other = from_slab(to_slab(atoms)._replace(numbers=to_slab(atoms).numbers + 5))
    batch = render([atoms, other, atoms], noise, seed, size=32)
    assert (batch[1] == render(other, noise, seed+1, size=32)).all()
    assert (batch[[2, 0]] == render([atoms, atoms], noise, [seed+2, seed], size=32)).all()
    assert batch.dtype == np.float32 and np.isclose(batch.min((1, 2)), 0).all() and np.isclose(batch.max((1, 2)), 1).all()


def test_padded_batch_equals_single_pictures(mos2):
    many = [mos2, mos2.make_supercell_matrix([2, 2, 1])]
    single = [torch.tensor(simulate(a, size=40)) for a in many]
    s = [to_slab(a) for a in many]
    hk = [half_plane(x.cell, 1.8) for x in s]
    def pad(arrays):
        return torch.nn.utils.rnn.pad_sequence([torch.tensor(np.asarray(a, float)) for a in arrays], batch_first=True)
    batch = image_sum(torch.tensor(np.stack([x.cell for x in s])), pad([x.frac for x in s]), pad([x.numbers**1.7 for x in s]), .5, pad(hk), (40, 40))
    assert abs(batch-torch.stack(single)).max() < 3e-6*batch.max()


@pytest.mark.parametrize("probe", ["gaussian", "instrument"])
def test_gradients(mos2, probe):
    "Cell, positions, rotation, shift, probe width, exponent and vibration against finite differences, in every atom and pixel"
    s, number = to_slab(mos2), lambda v: torch.tensor(v, dtype=torch.float64, requires_grad=True)
    hk, z = torch.tensor(half_plane(s.cell, 1.4)), torch.tensor(s.numbers/20., dtype=torch.float64)
    def f(cell, frac, angle, shift, sigma, power, u_rms):
        turn = torch.stack([torch.stack([angle.cos(), angle.sin()]), torch.stack([-angle.sin(), angle.cos()])])
        lens = sigma if probe == "gaussian" else Probe(defocus=40)
        return image_sum(cell @ turn, frac, (z**power)[None], lens, hk, (3, 5), .4, shift, u_rms, torch.float64)
    tensors = [number(a[None]) for a in (s.cell, s.frac)] + [number(v) for v in (.3, [[.1, .2]], [.5], 1.7, [[.1, .05, .2]])]
    assert torch.autograd.gradcheck(f, tensors)


def test_gradient_of_an_extinct_harmonic_is_right():
    "Two equal atoms half a cell apart extinguish h odd; moving one brings it back"
    cell, weights, hk = torch.eye(2, dtype=torch.float64)[None]*4, torch.ones(1, 2, dtype=torch.float64), torch.tensor([[1, 0]])
    frac = torch.tensor([[[0, 0], [.5, 0]]], dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda f: image_sum(cell, f, weights, .5, hk, (2, 6), .4, dtype=torch.float64), [frac])


@quick
@given(slabs(), angles, st.sampled_from([.4, Probe(), Probe(300, 20, 50, 1.)]))
def test_single_precision_equals_double(atoms, angle, probe):
    s = to_slab(atoms)
    t = np.radians(angle)
    cell = torch.tensor(s.cell @ [[np.cos(t), np.sin(t)], [-np.sin(t), np.cos(t)]])[None]
    args = cell, torch.tensor(s.frac)[None], torch.tensor(s.numbers**1.7)[None], probe, torch.tensor(half_plane(s.cell, 2.2))
    single, double = (image_sum(*args, (64, 256), dtype=d) for d in (torch.float32, torch.float64))
    assert single.dtype == torch.float32 and abs(single-double).max() < 3e-6*double.max()


PROBES = [.3, .5, "atomvision", Probe(), Probe(200, 25, 80, .01, .4)]


@quick
@given(slabs(1), slabs(1), angles, st.sampled_from(PROBES))
def test_intensity_is_additive(one, other, angle, probe):
    "The image of two atoms in one cell is the sum of the images of each"
    a, b = to_slab(one), to_slab(other)
    both = Slab(a.cell, np.r_[a.frac, b.frac], np.array([-1., 1]), np.r_[a.numbers, b.numbers])
    of = lambda *rows: simulate(from_slab(both._replace(frac=both.frac[list(rows)], z=both.z[list(rows)], numbers=both.numbers[list(rows)])), size=48, rotation=angle, probe=probe)
    assert close(of(0, 1), of(0)+of(1), 3e-6)


@quick
@given(slabs(), st.sampled_from([.2, .5, 1.1, Probe(), Probe(300, 20, 120, .02, 1.)]), st.sampled_from([0, .1, {"C": .2}]))
def test_a_probe_conserves_intensity(atoms, probe, u_rms):
    "The mean over whole cells is that of the atoms, whatever the probe, in and out of focus"
    n, s = 64, to_slab(atoms)
    square = from_slab(s._replace(cell=np.eye(2)*6.4))
    image = simulate(square, pixel_size=.1, size=n, probe=probe, u_rms=u_rms)
    assert np.isclose(image.mean(dtype=float)*6.4**2, (s.numbers**1.7).sum(), rtol=1e-5)


@pytest.mark.parametrize("defocus,cs", [(0, 0), (50, 0), (-80, .005), (200, .02)])
def test_the_probe_of_an_instrument_equals_one_made_by_fourier_transform(defocus, cs):
    "|FT of the aperture function|^2 on a fine grid, as a microscopist would write it"
    probe = Probe(80, 25, defocus, cs, 0)
    n, width = 1024, 50.
    k = np.fft.fftfreq(n, width/n)
    k2 = k[:, None]**2 + k**2
    wave = np.fft.ifft2((k2 <= (probe.cutoff/2)**2)*np.exp(-1j*np.pi*probe.wavelength*k2*(defocus + .5e7*cs*probe.wavelength**2*k2)))
    spectrum = np.fft.fft2(abs(wave)**2).real
    ours = transfer(probe, torch.tensor(k[None, :60]**2))[0]
    assert abs(ours.numpy() - spectrum[0, :60]/spectrum[0, 0]).max() < .01
    assert np.isclose(probe.wavelength, .041757, rtol=1e-4)


@quick
@given(slabs(), angles, st.floats(.2, .8), st.sampled_from([0, .2]), st.tuples(st.integers(1, 40), st.integers(1, 40)))
def test_atom_by_atom_equals_the_series(atoms, angle, sigma, u_rms, shape):
    cell, frac, numbers = _projected(atoms)
    t = np.radians(angle)
    sheet = _Sheet(cell @ [[np.cos(t), np.sin(t)], [-np.sin(t), np.cos(t)]], frac, numbers**1.7, np.full(len(numbers), float(u_rms)), np.array([.3, -7.]))
    one, other = _atom_by_atom(sheet, sigma, shape, .15, "cpu"), _series([sheet], sigma, .9/sigma, shape, .15, "cpu")[0]
    assert abs(one-other).max() < 5e-6*max(float(other.max()), numbers.max()**1.7/(2*np.pi*(sigma**2+u_rms**2)))


def pairs_share_a_pixel(positions, numbers): return len(np.unique(np.c_[np.floor(positions), numbers], axis=0)) < len(positions)


@quick
@given(slabs(), st.floats(-180, 180), st.sampled_from([.08, .1, .15]), seeds)
def test_parity_with_stemconv(atoms, rot, pixel_size, seed):
    "The same image within the rim of 2 A, unless two atoms of one element share a pixel there; jarvis rounds cells to 1e-5 A, so ours is rounded before"
    atoms = Atoms(lattice_mat=np.round(atoms.lattice_mat, 5), coords=atoms.frac_coords, elements=atoms.elements, cartesian=False)
    shift = np.random.default_rng(seed).uniform(-2, 2, 2)
    theirs, _, positions, numbers = STEMConv(output_size=[128, 128]).simulate_surface(atoms, px_scale=pixel_size, rot=rot, shift=shift)
    ours = simulate(atoms, pixel_size, 128, probe="atomvision", **stemconv_view(atoms, pixel_size, 128, rot, shift)).T
    rim = int(2/pixel_size)+1
    inside = np.s_[rim:-rim, rim:-rim]
    same = abs(ours-theirs)[inside].max() < 1e-6*theirs.max()
    assert same or pairs_share_a_pixel(positions, numbers)


def test_stemconv_loses_stacked_atoms_and_we_do_not(mos2):
    theirs, _, positions, numbers = STEMConv(output_size=[128, 128]).simulate_surface(mos2, px_scale=.1)
    assert pairs_share_a_pixel(positions, numbers)
    ours = simulate(mos2, size=128, probe="atomvision", **stemconv_view(mos2, size=128)).T
    assert abs(ours-theirs)[24:-24, 24:-24].max() > .1*ours.max()


def test_atoms_outside_shine_in(mos2):
    wide, narrow = (simulate(mos2, size=n, shift=(s, s), probe="atomvision") for n, s in ((192, 3.2), (128, 0.)))
    assert close(wide[32:160, 32:160], narrow, 3e-6)


def test_noise_has_the_strength_it_says():
    flat = np.zeros((256, 256))
    flat[::2] = 1
    read = add_noise(flat, Noise(read_noise=.1), seed=3)
    top, bottom = read[::2], read[1::2]
    assert np.isclose(top.std()/(top.mean()-bottom.mean()), .1, rtol=.03)
    for pixel_size in (.1, .2):
        counts = add_noise(flat, Noise(dose=5000), pixel_size, seed=3)
        top, bottom = counts[::2], counts[1::2]
        assert np.isclose(top.std()/(top.mean()-bottom.mean()), (5000*pixel_size**2)**-.5, rtol=.03)


def test_drift_flyback_astigmatism_and_clipping(mos2):
    image = simulate(mos2, size=(200, 160), shift=(5, 5))
    level = add_noise(image, "none")
    back = add_noise(image, Noise(flyback=.8, settling=1.), seed=1)
    assert abs(back-level)[:, 100:].max() < .01 and abs(back-level)[:, :5].max() > .1
    moved = [add_noise(image, Noise(drift=d), seed=4) for d in (0, 2.)]
    assert abs(moved[1]-level)[98:102].max() < .05 and abs(moved[1]-level)[[0, -1]].max() > .2
    spot = np.zeros((129, 129)); spot[64, 64] = 1
    spot = gaussian_filter(spot, 3)
    smeared = add_noise(spot, Noise(astigmatism=.6), seed=1)
    y, x = np.indices(spot.shape)-64
    m = np.array([[(smeared*i*j).sum() for i in (x, y)] for j in (x, y)])/smeared.sum()
    assert np.isclose(np.ptp(np.linalg.eigvalsh(m)), 36, rtol=.05)
    clipped = add_noise(image, Noise(contrast=2., brightness=-.3))
    assert (clipped == 1).mean() > .02 and (clipped == 0).mean() > .02 and (level == 1).sum() < 20


def test_jitter_moves_lines_along_x(mos2):
    image = simulate(mos2)
    moved = add_noise(image, Noise(jitter=.1, slow_drift=.1), seed=1)
    level = add_noise(image, "none")
    assert abs(moved-level).max() > .1
    assert np.corrcoef(level.mean(1), moved.mean(1))[0, 1] > .99


def test_views_are_drawn_evenly():
    views = [random_view(i, None) for i in range(400)]
    assert abs(np.mean([v["mirror"] for v in views])-.5) < .1
    assert abs(np.mean([np.exp(1j*np.radians(v["rotation"])) for v in views])) < .1
    assert random_view(3) != random_view(4) and not random_view(3)["mirror"]


empty = Atoms(lattice_mat=np.eye(3)*5, coords=[[0, 0, 0]], elements=["C"])
empty.elements, empty.coords = [], np.zeros((0, 3))


@pytest.mark.parametrize("call", [
    lambda a: simulate([]), lambda a: simulate(None), lambda a: simulate([a, "MoS2"]), lambda a: simulate(empty),
    lambda a: simulate(a, pixel_size=0), lambda a: simulate(a, pixel_size=-.1), lambda a: simulate(a, pixel_size=float("nan")),
    lambda a: simulate(a, pixel_size="0.1"), lambda a: simulate(a, size=0), lambda a: simulate(a, size=25.6), lambda a: simulate(a, size=(3, 4, 5)),
    lambda a: simulate(a, rotation=np.inf), lambda a: simulate(a, rotation="north"), lambda a: simulate(a, shift=1.), lambda a: simulate(a, shift=[1, 2, 3]),
    lambda a: simulate(a, probe=0), lambda a: simulate(a, z_power=-1), lambda a: simulate(a, probe="gauss"), lambda a: simulate(a, u_rms=-1),
    lambda a: simulate(a, u_rms={"S": "hot"}), lambda a: simulate(a, probe="atomvision", u_rms=.1), lambda a: Probe(voltage=0), lambda a: Probe(semi_angle="wide"),
    lambda a: Noise(dose=-1), lambda a: Noise(contrast=0), lambda a: Noise(drift=float("nan")),
    lambda a: render(a, "loud"), lambda a: render(a, seed=.5), lambda a: render([a, a], seed=[1]), lambda a: render(a, seed=-1), lambda a: render(a, None),
    lambda a: render(a, []), lambda a: add_noise(np.zeros((0, 4))), lambda a: add_noise(np.full((8, 8), np.nan)), lambda a: add_noise(np.zeros(8)),
    lambda a: add_noise("image")])
def test_refused(call, mos2):
    with pytest.raises(StemError) as e: call(mos2)
    assert "\n" not in str(e.value) and len(str(e.value)) > 20


def cell_of(coords, lattice=np.eye(3)*5, elements=None): return Atoms(lattice_mat=lattice, coords=coords, elements=elements or ["Au"]*len(coords), cartesian=False)


@pytest.mark.parametrize("atoms,says", [
    (cell_of([[0, 0, 0], [.02, 0, 0]]), "0.1 Å apart"), (cell_of([[.99, 0, 0], [.01, 0, 0]]), "0.1 Å apart"), (cell_of([[0, 0, 0], [0, 0, 1.]]), "0 Å apart"),
    (cell_of([[.995, .995, .995], [.005, .005, .005]]), "apart"), (cell_of([[0, 0, 0], [2.5, 2.5, 3.1]]), "outside the cell"),
    (cell_of([[0, 0, 0]], [[5, 0, 0], [0, 5, 0], [1, 0, 8]]), "c leans"), (cell_of([[0, 0, 0]], [[5, 0, 0], [0, 5, 0], [0, .02, 8]]), "c leans"),
    (cell_of([[0, 0, 0]], [[5, 0, 0], [10, 0, 0], [0, 0, 8]]), "degenerate"), (cell_of([[np.nan, 0, 0]]), "finite"), (cell_of([[0, 0, 0]], elements=["Qq"]), "element"),
    (empty, "no atoms")])
def test_structures_refused_by_name(atoms, says):
    with pytest.raises(StemError, match=says): simulate(atoms, size=16)


def test_neighbours_at_a_bond_length_are_not_refused():
    simulate(cell_of([[0, 0, 0], [.11, 0, 0]]), size=16)
    simulate(cell_of([[0, 0, 0], [.5, .5, -.9]]), size=16)


def test_any_orientation_of_the_cell_in_space_gives_one_picture(mos2):
    from scipy.spatial.transform import Rotation
    turn = Rotation.from_euler("xyz", [40, 50, 60], degrees=True).as_matrix()
    turned = Atoms(lattice_mat=np.array(mos2.lattice_mat) @ turn, coords=mos2.frac_coords, elements=mos2.elements, cartesian=False)
    assert close(simulate(mos2, size=48), simulate(turned, size=48), 1e-4)


def test_vibrations_of_all_atoms_widen_the_probe(mos2):
    assert close(simulate(mos2, size=64, u_rms=.3), simulate(mos2, size=64, probe=(.5**2+.3**2)**.5), 1e-5)
    only_s = simulate(mos2, size=64, u_rms={"S": .3})
    assert not close(only_s, simulate(mos2, size=64), .005) and not close(only_s, simulate(mos2, size=64, u_rms=.3), .005)
