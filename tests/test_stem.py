"Properties that a simulated micrograph must have, and inputs that must be refused."
import numpy as np
import pytest
import torch
from hypothesis import given, settings, strategies as st
from jarvis.core.atoms import Atoms

from microscopygpt.crystal import Slab, cell_from_lengths, from_slab, to_slab
from microscopygpt.stem import NOISE, Noise, StemError, add_noise, half_plane, image_sum, random_view, render, simulate

quick = settings(max_examples=20, deadline=None, database=None)
angles, seeds = st.floats(-360, 360), st.integers(0, 2**31)


@st.composite
def slabs(draw, atoms=4):
    "A slab with an oblique cell, atoms in general positions"
    rng = np.random.default_rng(draw(seeds))
    n, a = rng.integers(1, atoms+1), rng.uniform(2.5, 5)
    cell = cell_from_lengths(a, a*rng.uniform(1, 1.6), rng.uniform(90, 118))
    return from_slab(Slab(cell, rng.random((n, 2)), rng.uniform(-2, 2, n), rng.integers(1, 84, n)))


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
    assert torch.allclose(batch.float(), torch.stack(single), rtol=1e-5)


def test_gradients(mos2):
    s = to_slab(mos2)
    tensors = [torch.tensor(a)[None].requires_grad_() for a in (s.cell, s.frac, s.numbers**1.7/100)]
    sigma, shift = torch.tensor([.5], dtype=torch.float64, requires_grad=True), torch.zeros(1, 2, dtype=torch.float64, requires_grad=True)
    hk = torch.tensor(half_plane(s.cell, 1.8))
    def f(cell, frac, weights, sigma, shift):
        return image_sum(cell, frac, weights, sigma, hk, (3, 5), .4, shift)
    assert torch.autograd.gradcheck(f, (*tensors, sigma, shift))


def test_noise_has_the_strength_it_says():
    flat = np.zeros((256, 256))
    flat[::2] = 1
    read = add_noise(flat, Noise(readout=.1), seed=3)
    top, bottom = read[::2], read[1::2]
    assert np.isclose(top.std()/(top.mean()-bottom.mean()), .1, rtol=.03)
    counts = add_noise(flat, Noise(dose=50), seed=3)
    top, bottom = counts[::2], counts[1::2]
    assert np.isclose(top.std()/(top.mean()-bottom.mean()), 50**-.5, rtol=.03)


def test_jitter_moves_lines_along_x(mos2):
    image = simulate(mos2)
    moved = add_noise(image, Noise(jitter=.1, sway=.1), seed=1)
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
    lambda a: simulate(a, probe=0), lambda a: simulate(a, z_power=-1),
    lambda a: render(a, "loud"), lambda a: render(a, seed=.5), lambda a: render([a, a], seed=[1]), lambda a: render(a, seed=-1), lambda a: render(a, None),
    lambda a: render(a, []), lambda a: add_noise(np.zeros((0, 4))), lambda a: add_noise(np.full((8, 8), np.nan)), lambda a: add_noise(np.zeros(8)),
    lambda a: add_noise("image")])
def test_refused(call, mos2):
    with pytest.raises(StemError) as e: call(mos2)
    assert "\n" not in str(e.value) and len(str(e.value)) > 20
