"The fit and its parts: properties that must hold for any crystal, and known answers."
import numpy as np
import pytest
from ase import Atoms as AseAtoms
from ase.spacegroup.symmetrize import prep_symmetry, refine_symmetry, symmetrize_rank1
from hypothesis import given, settings, strategies as st

from microscopygpt.crystal import Slab, cell_from_lengths, cell_lengths, from_slab, reduce_cell
from microscopygpt.fourier import harmonics
from microscopygpt.lattice import Lattice2D
from microscopygpt.observe import Imaging, Observation, observe
from microscopygpt.micrograph import Micrograph
from microscopygpt.refine import (Fit, PlaneModel, atom_waves, best_shifts, correlation_map, fit_positions,
                                  fitted_gain, jacobian, placements, position_errors, relocate, residual_of, strains,
                                  structure_factors, supercells, without_gain, _set_down, free_directions)
from microscopygpt.proof import (Proposal, crowding, most_symmetric, n_operations, prove, resimulate, symmetrize,
                                 operations_in_place)
from microscopygpt.noise import Noise, render

quick = settings(max_examples=20, deadline=None)
seeds = st.integers(0, 2**31)
numbers_apart = np.array([74, 34, 34, 16])

HEXAGON = np.array([[0, 0], [1/3, 2/3], [1/3, 2/3]])
CRYSTALS = {
    "MoS2": Slab(cell_from_lengths(3.184, 3.184, 120), HEXAGON, np.array([0, 1.56, -1.56]), np.array([42, 16, 16])),
    "1T": Slab(cell_from_lengths(3.19, 3.19, 120), np.array([[0, 0], [1/3, 2/3], [2/3, 1/3]]), np.array([0, 1.58, -1.58]), np.array([42, 16, 16])),
    "graphene": Slab(cell_from_lengths(2.467, 2.467, 120), HEXAGON[:2], np.zeros(2), np.array([6, 6])),
    "P": Slab(cell_from_lengths(3.313, 4.376, 90), np.array([[0, .0806], [.5, .4194], [0, .9194], [.5, .5806]]), np.array([1.084, 1.084, -1.084, -1.084]), np.full(4, 15)),
}
OPERATIONS = {"MoS2": 12, "1T": 12, "graphene": 24, "P": 8}


def oblique(seed, numbers=numbers_apart, smallest=3.):
    "Atoms at random, not too close to each other, in a cell without symmetry."
    rng = np.random.default_rng(seed)
    a = rng.uniform(smallest, 6)
    cell, frac = reduce_cell(cell_from_lengths(a, a*rng.uniform(1.05, 1.5), rng.uniform(93, 115)))[0], []
    while len(frac) < len(numbers):
        x = rng.random(2)
        d = np.array(frac).reshape(-1, 2) - x
        if (np.linalg.norm((d - np.round(d))@cell, axis=1) > 1).all(): frac.append(x)
    return Slab(cell, np.array(frac), rng.uniform(-2, 2, len(numbers)), np.array(numbers))

def seen_exactly(slab, imaging=Imaging(), gain=.3, noise=1e-4, gmax=1.1):
    "The observation of a crystal by a microscope without noise, on the crystal's own cell."
    hk, g = harmonics(slab.cell, gmax)
    F = structure_factors(slab.frac, (slab.numbers/50)**imaging.contrast_exponent, hk, (g**2).sum(1), imaging.probe_variance)
    key = tuple(np.round(slab.cell.ravel(), 6))
    return Observation(None, Lattice2D(slab.cell, 1., len(hk), (0., 0., 0.)), gmax, {key: (hk, g, gain*F, noise)}, imaging)

def photographed(slab, seed=0, noise="paper"): return observe(Micrograph(render(from_slab(slab), noise=noise, seed=seed), .1))

def apart(frac, other, cell):
    "Distances (n,) between atoms of two descriptions of one cell, in Å, one common shift taken off."
    d = frac - other
    d -= np.round(d - d[0])
    return np.linalg.norm((d - d.mean(0))@cell, axis=1)


# supercells and placements

@pytest.mark.parametrize("index", range(1, 13))
def test_there_are_sigma_of_n_sublattices_and_every_one_is_listed(index):
    "Every integer matrix of a determinant spans one of the supercells of this index, and no two of them span the same lattice."
    forms = supercells(index)
    assert len(forms) == sum(d for d in range(1, index+1) if index % d == 0)
    spans = lambda A, B: np.allclose(A@np.linalg.inv(B), np.round(A@np.linalg.inv(B)))
    rng, tried = np.random.default_rng(index), 0
    while tried < 20:
        M = rng.integers(-4, 5, (2, 2))
        if round(abs(np.linalg.det(M))) != index: continue
        tried += 1
        assert sum(spans(M, H) for H in forms) == 1

@quick
@given(seeds)
def test_a_placement_takes_the_cell_to_the_measured_lattice(seed):
    slab, rng = oblique(seed), np.random.default_rng(seed)
    forms = supercells(int(rng.integers(1, 4)))
    measured, _ = reduce_cell(np.linalg.inv(forms[rng.integers(len(forms))])@slab.cell*1.05)
    found = placements(slab.cell, measured)
    best = min(found, key=lambda p: p.log_strain_ratio + abs(p.log_area_ratio - np.log(1.05**2)))
    assert best.log_strain_ratio < 1e-6 and best.log_area_ratio == pytest.approx(2*np.log(1.05), abs=1e-9)
    for p in found:
        index = np.linalg.det(p.cell)/np.linalg.det(measured)
        assert round(abs(np.linalg.det(p.change_of_basis))) == 1 and abs(index) == pytest.approx(round(abs(index)))
        F = np.linalg.solve(slab.cell, p.change_of_basis@p.cell)
        s = np.linalg.svd(F)[1]
        assert p.log_area_ratio == pytest.approx(np.log(s.prod()), abs=1e-9) and p.log_strain_ratio == pytest.approx(np.log(s[0]/s[1]), abs=1e-6)

def test_strains_of_many_cells_are_those_of_each():
    cells, measured = np.array([c.cell for c in CRYSTALS.values()]), CRYSTALS["MoS2"].cell
    stretch, shear, base, turn = strains(cells, measured, 4)
    assert stretch.shape == shear.shape == (4, len(base)) and len(base) == len(turn)
    for i, cell in enumerate(cells):
        one = strains(cell, measured, 4)
        assert np.allclose(one[0], stretch[i]) and np.allclose(one[1], shear[i])


# structure factors

@quick
@given(seeds)
def test_structure_factors_are_the_fourier_integral_of_gaussian_columns(seed):
    slab = oblique(seed)
    hk, g = harmonics(slab.cell, .8)
    weights, variance = slab.numbers**1.7, .2
    n = 60
    points = np.stack(np.meshgrid(np.arange(n)/n, np.arange(n)/n, indexing="ij"), -1).reshape(-1, 2)
    d = points[:, None] - slab.frac
    shifts = np.array([(i, j) for i in range(-2, 3) for j in range(-2, 3)])
    r2 = ((((d - np.round(d))[:, :, None] + shifts)@slab.cell)**2).sum(-1)
    image = (np.exp(-r2/(2*variance))/(2*np.pi*variance)*weights[:, None]).sum((1, 2))
    integral = np.exp(-2j*np.pi*points@hk.T).T@image*abs(np.linalg.det(slab.cell))/n**2
    F = structure_factors(slab.frac, weights, hk, (g**2).sum(1), variance)
    assert np.abs(integral - F).max() < 1e-3*weights.sum()

@quick
@given(seeds)
def test_waves_of_atoms_add_up_to_the_structure_factors(seed):
    slab = oblique(seed)
    hk, g = harmonics(slab.cell, 1.1)
    g2, variance, power = (g**2).sum(1), .3, 1.4
    F = structure_factors(np.array([slab.frac, slab.frac + .1]), slab.numbers**power, hk, g2, variance)
    for frac, expected in zip((slab.frac, slab.frac + .1), F):
        waves = atom_waves(frac, slab.numbers, hk, g2, variance, power)
        assert waves.shape == (4, len(hk)) and np.allclose(waves.sum(0)*50**power, expected)

@quick
@given(seeds, st.floats(.01, 100))
def test_the_gain_is_that_of_least_squares(seed, gain):
    rng = np.random.default_rng(seed)
    F, rest = rng.normal(size=(2, 30)) + 1j*rng.normal(size=(2, 30))
    found = fitted_gain(F, seen := gain*F + .1*gain*rest)
    misfit = [np.linalg.norm(seen - f*found*F) for f in (.999, 1, 1.001)]
    assert fitted_gain(F, gain*F) == pytest.approx(gain) and misfit[1] == min(misfit)
    assert fitted_gain(F, -F) > 0 # a negative of the image is no image of the crystal


# residual

@quick
@given(seeds, st.floats(.01, 100))
def test_a_crystal_leaves_nothing_of_its_own_image(seed, gain):
    slab = oblique(seed)
    observation = seen_exactly(slab, gain=gain)
    assert residual_of(slab.frac, slab.numbers, slab.cell, observation) < 1e-9
    assert residual_of(slab.frac + [1, -2], slab.numbers, slab.cell, observation) < 1e-9
    order = np.random.default_rng(seed).permutation(4)
    assert residual_of(slab.frac[order], slab.numbers[order], slab.cell, observation) < 1e-9
    wrong = residual_of(slab.frac, slab.numbers[[1, 0, 2, 3]], slab.cell, observation)
    assert .1 < wrong <= 1

def test_the_residual_takes_the_imaging_unless_told_otherwise():
    slab = oblique(0)
    observation = seen_exactly(slab, Imaging(probe_sigma=.7, contrast_exponent=1.2))
    figures = dict(zip(("variance", "power"), (.49, 1.2)))
    assert residual_of(slab.frac, slab.numbers, slab.cell, observation, **figures) < 1e-9
    assert residual_of(slab.frac, slab.numbers, slab.cell, observation, variance=.27) > .05
    assert residual_of(slab.frac, slab.numbers, slab.cell, observation, power=1.7) > .05


# shifts

@quick
@given(seeds, st.floats(0, 1), st.floats(0, 1))
def test_a_known_shift_is_found(seed, x, y):
    slab = oblique(seed)
    observation = seen_exactly(slab)
    trials = np.array([slab.frac - [x, y], slab.frac[[1, 0, 2, 3]] - [x, y]])
    score, shift = best_shifts(trials, slab.numbers, slab.cell, observation)
    off = shift[0] - [x, y]
    assert np.linalg.norm((off - np.round(off))@slab.cell) < .15 # the spacing of the grid
    assert .97 < score[0] <= 1 + 1e-9 and score[1] < score[0]

@quick
@given(seeds)
def test_the_map_is_the_correlation_for_every_shift(seed):
    rng, slab = np.random.default_rng(seed), oblique(seed)
    hk, g = harmonics(slab.cell, .6)
    product = rng.normal(size=(2, len(hk))) + 1j*rng.normal(size=(2, len(hk)))
    shape = tuple(2*np.abs(hk).max(0) + 3)
    correlation = correlation_map(product, hk, shape)
    assert correlation.shape == (2, *shape)
    for i, j in rng.integers(0, shape, (5, 2)):
        expected = (product*np.exp(-2j*np.pi*(hk@[i/shape[0], j/shape[1]]))).real.sum(1)
        assert np.allclose(correlation[:, i, j], expected)


# the fit

def model_of(slab, p_noise, rng):
    hk, g = harmonics(slab.cell, 1.1)
    n = len(slab.z)
    p = np.r_[rng.normal(0, p_noise, 2*n), rng.uniform(.1, .5), rng.uniform(1, 2.2)]
    return PlaneModel(slab.frac, slab.numbers, slab.cell, hk, g), p

def central(function, p, h=1e-5): return np.array([function(p + h*e) - function(p - h*e) for e in np.eye(len(p))]).T/(2*h)

@quick
@given(seeds, st.floats(.1, 10))
def test_the_jacobian_agrees_with_central_differences(seed, gain):
    rng = np.random.default_rng(seed)
    model, p = model_of(oblique(seed), .1, rng)
    J = jacobian(model, model.waves(p), gain)
    differences = central(lambda q: gain*model.waves(q).sum(0), p)
    assert J.shape == differences.shape == (len(model.hk), 10)
    assert np.abs(J - differences).max() < 1e-7*np.abs(J).max()

@quick
@given(seeds)
def test_the_fit_s_gradient_is_exact_though_the_gain_follows(seed):
    "Of chi-squared with the gain fitted anew for every p, also where the model is far from the image."
    rng = np.random.default_rng(seed)
    model, p = model_of(oblique(seed), .2, rng)
    seen = .3*model.waves(p + rng.normal(0, .2, len(p))*np.r_[np.ones(8), .1, .1]).sum(0)
    def cost(q):
        F = model.waves(q).sum(0)
        return (np.abs(seen - fitted_gain(F, seen)*F)**2).sum()
    F = model.waves(p).sum(0)
    gain = fitted_gain(F, seen)
    J = without_gain(jacobian(model, model.waves(p), gain), F)
    gradient = -2*(J.conj().T@(seen - gain*F)).real
    assert np.abs((F.conj()@J).real).max() < 1e-9*np.abs(F.conj()@F)
    assert np.allclose(gradient, central(cost, p), atol=1e-6*np.abs(gradient).max())

@quick
@given(seeds)
def test_moved_atoms_return_to_their_columns(seed):
    "Positions, probe and exponent are found together, from .1 Å and other imaging conditions."
    slab, rng = oblique(seed), np.random.default_rng(seed)
    observation = seen_exactly(slab, Imaging(probe_sigma=.45, contrast_exponent=1.5))
    observation.imaging = Imaging()
    start = slab.frac + rng.uniform(-.07, .07, (4, 2))@np.linalg.inv(slab.cell)
    fit = fit_positions(start, slab.numbers, slab.cell, observation, steps=30)
    assert fit.residual < .01 and apart(fit.frac, slab.frac, slab.cell).max() < .02
    assert fit.probe_variance == pytest.approx(.45**2, abs=.01) and fit.contrast_exponent == pytest.approx(1.5, abs=.1)
    assert .2*fit.moved < np.sqrt((apart(start, slab.frac, slab.cell)**2).mean()) < 2*fit.moved

@quick
@given(seeds)
def test_the_fit_never_leaves_more_than_it_began_with(seed):
    slab, other = oblique(seed), oblique(seed + 1)
    observation = seen_exactly(slab)
    start = residual_of(other.frac, slab.numbers, slab.cell, observation)
    fit = fit_positions(other.frac, slab.numbers, slab.cell, observation)
    assert fit.residual < start + 1e-9
    assert fit.residual == residual_of(fit.frac, slab.numbers, slab.cell, observation, fit.probe_variance, fit.contrast_exponent)
    d = (fit.frac - other.frac)@slab.cell
    assert np.abs(d).max() <= .6 + 1e-9 and .03 <= fit.probe_variance <= 1.2 and .3 <= fit.contrast_exponent <= 2.8

def test_a_crystal_as_a_whole_moves_without_cost():
    slab = oblique(3)
    observation = seen_exactly(slab)
    stiff = fit_positions(slab.frac + np.array([.1, .05])@np.linalg.inv(slab.cell), slab.numbers, slab.cell, observation, spring=.05)
    assert stiff.residual < 1e-3 and stiff.moved < 1e-3

def test_a_stiff_spring_holds_and_a_soft_one_yields():
    slab = oblique(5)
    observation = seen_exactly(slab, noise=.02)
    start = slab.frac + np.array([[.15, 0], [0, 0], [0, 0], [0, 0]])@np.linalg.inv(slab.cell)
    moved = [fit_positions(start, slab.numbers, slab.cell, observation, spring=s).moved for s in (.005, .05, .2, np.inf)]
    assert moved == sorted(moved) and moved[0] < .3*moved[-1]


# relocation

@pytest.mark.parametrize("lost", [1, 2])
def test_an_atom_put_wrong_is_set_right(lost):
    "One of the two lighter atoms, in 40 crystals at random: the fit may end in a side minimum in one or two of them."
    right = 0
    for seed in range(40):
        slab = oblique(seed, (74, 34, 16), smallest=4)
        observation, wrong = seen_exactly(slab), slab.frac.copy()
        wrong[lost] += np.random.default_rng(seed).uniform(.3, .5, 2)
        frac, moved = relocate(wrong, slab.numbers, slab.cell, observation)
        before, after = (residual_of(x, slab.numbers, slab.cell, observation) for x in (wrong, frac))
        assert moved >= 1 and after < .9*before
        fit = fit_positions(frac, slab.numbers, slab.cell, observation)
        right += apart(fit.frac, slab.frac, slab.cell).max() < .02
    assert right >= 38

@quick
@given(seeds)
def test_a_lifted_atom_is_set_down_where_it_was(seed):
    slab = oblique(seed)
    hk, g, seen, _ = seen_exactly(slab).coefficients(slab.cell)
    waves = atom_waves(slab.frac, slab.numbers, hk, (g**2).sum(1), Imaging().probe_variance, Imaging().contrast_exponent)
    for atom in range(4):
        again = _set_down(atom, slab.frac, waves, hk, slab.cell, seen)
        d = again - slab.frac
        assert np.linalg.norm((d - np.round(d))@slab.cell, axis=1).max() < .25 # the spacing of the grid

def test_without_relocation_a_misplaced_atom_stays_where_it_is():
    slab = oblique(0, (74, 34, 16), smallest=4)
    observation = seen_exactly(slab)
    wrong = slab.frac + [[0, 0], [.4, .4], [0, 0]]
    assert fit_positions(wrong, slab.numbers, slab.cell, observation).residual > .1
    assert relocate(wrong, slab.numbers, slab.cell, observation, moves=0)[1] == 0

@quick
@given(seeds)
def test_nothing_moves_where_all_is_right(seed):
    slab = oblique(seed)
    frac, moved = relocate(slab.frac, slab.numbers, slab.cell, seen_exactly(slab))
    assert moved == 0 and (frac == slab.frac).all()

def test_what_is_given_to_relocate_stays_as_it_is():
    slab = oblique(1)
    wrong = slab.frac + [[.4, .4], [0, 0], [0, 0], [0, 0]]
    kept = wrong.copy()
    frac, moved = relocate(wrong, slab.numbers, slab.cell, seen_exactly(slab), moves=1)
    assert moved == 1 and (wrong == kept).all() and (np.abs(frac - wrong).max(1) > 0).sum() == 1


# symmetry

def rattled(slab, seed, size=.015):
    rng = np.random.default_rng(seed)
    shake = rng.normal(0, size, (len(slab.z), 3))
    return slab._replace(frac=slab.frac + shake[:, :2]@np.linalg.inv(slab.cell), z=slab.z + shake[:, 2])

def nearest_symmetric(rough, symprec):
    "What ASE makes of a slab: its symmetric structure, moved within the symmetry to where it is nearest to the slab."
    atoms = from_slab(rough)
    exact = AseAtoms(numbers=rough.numbers, cell=atoms.lattice_mat, scaled_positions=atoms.frac_coords, pbc=True)
    refine_symmetry(exact, symprec=symprec)
    d = np.array(atoms.frac_coords) - exact.get_scaled_positions()
    d -= np.round(d - d[0])
    towards = (d - d.mean(0))@exact.cell.array
    rotations, translations, images = prep_symmetry(exact, symprec=1e-4)
    exact.positions += symmetrize_rank1(exact.cell.array, np.linalg.inv(exact.cell.array), towards, rotations, translations, images)
    return exact, len(rotations)

@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("name", CRYSTALS)
def test_symmetrize_agrees_with_ase(name, seed):
    "The same positions in the plane and across it, up to a shift of the whole, and the order of the atoms."
    rough = rattled(CRYSTALS[name], seed)
    ours, (theirs, operations) = symmetrize(rough), nearest_symmetric(rough, .2)
    assert operations == n_operations(ours, 1e-4) == OPERATIONS[name] > n_operations(rough, 1e-4)
    assert cell_lengths(ours.cell) == pytest.approx(theirs.cell.cellpar()[[0, 1, 5]], abs=1e-4)
    frac = theirs.get_scaled_positions()
    assert apart(ours.frac, frac[:, :2], ours.cell).max() < 1e-3
    z = (frac[:, 2] + .5 - frac[0, 2]) % 1*theirs.cell.array[2, 2] - ours.z
    assert np.ptp(z) < 1e-3

@pytest.mark.parametrize("name", CRYSTALS)
def test_symmetrize_leaves_the_crystal_where_it_lies(name):
    "Wherever that is: spglib's operations go through an origin of their own, found from rough positions."
    slab = CRYSTALS[name]
    rough = rattled(slab._replace(frac=slab.frac + [.123, .077]), 3)
    d = symmetrize(rough).frac - rough.frac
    assert np.abs((d - np.round(d)).mean(0)).max() < 1e-9

@pytest.mark.parametrize("name", CRYSTALS)
def test_symmetrize_changes_nothing_twice(name):
    once = symmetrize(rattled(CRYSTALS[name], 7))
    twice = symmetrize(once)
    assert (once.numbers == CRYSTALS[name].numbers).all()
    assert apart(once.frac, twice.frac, once.cell).max() < 1e-6 and np.abs(once.z - twice.z).max() < 1e-6
    assert np.allclose(cell_lengths(once.cell), cell_lengths(twice.cell), atol=1e-6)

@pytest.mark.parametrize("name", CRYSTALS)
def test_a_strained_cell_gets_the_mean_metric(name):
    "The hexagonal mean of the metric has a² = 2/3 (a·a + b·b + a·b); of a rectangular one only the angle changes."
    slab = CRYSTALS[name]
    a, b, gamma = cell_lengths(slab.cell)
    bent = slab._replace(cell=cell_from_lengths(a*1.004, b*.997, gamma + .3))
    metric = bent.cell@bent.cell.T
    hexagonal = [np.sqrt(2/3*(metric[0, 0] + metric[1, 1] + metric[0, 1]))]*2
    expected = (*(np.sqrt(np.diag(metric)) if name == "P" else hexagonal), gamma)
    assert cell_lengths(symmetrize(bent).cell) == pytest.approx(expected, abs=1e-6)

@quick
@given(seeds)
def test_a_crystal_without_symmetry_stays_as_it_is(seed):
    slab = oblique(seed)
    exact = symmetrize(slab, .05)
    assert n_operations(slab) == 1
    assert apart(exact.frac, slab.frac, slab.cell).max() < 1e-9 and np.allclose(cell_lengths(exact.cell), cell_lengths(slab.cell))

@pytest.mark.parametrize("name", CRYSTALS)
def test_operations_are_those_of_the_point_group_times_translations(name):
    slab = CRYSTALS[name]
    assert n_operations(slab) == OPERATIONS[name]
    doubled = Slab(np.diag([1, 2])@slab.cell, np.concatenate([slab.frac*[1, .5], slab.frac*[1, .5] + [0, .5]]), np.tile(slab.z, 2), np.tile(slab.numbers, 2))
    centred = n_operations(doubled)
    assert centred % 2 == 0 and 2*OPERATIONS[name] >= centred >= 8

@pytest.mark.parametrize("name", CRYSTALS)
def test_the_image_decides_how_much_symmetry_there_is(name):
    "All of it where the crystal has it; not what the image contradicts."
    slab = CRYSTALS[name]
    rough, observation = rattled(slab, 1, .01)._replace(z=slab.z), seen_exactly(slab)
    fit = Fit(rough.frac, .27, 1.7, residual_of(rough.frac, slab.numbers, slab.cell, observation), 0.)
    exact, residual = most_symmetric(rough, fit, observation)
    assert n_operations(rough, 1e-3) < n_operations(exact, 1e-3) == OPERATIONS[name] and residual < fit.residual + .012
    shift = np.zeros_like(slab.frac)
    shift[0] = np.array([.25, .1])@np.linalg.inv(slab.cell)
    bent = slab._replace(frac=slab.frac + shift)
    kept, residual = most_symmetric(bent, Fit(bent.frac, .27, 1.7, 1e-3, 0.), seen_exactly(bent))
    assert n_operations(kept) < OPERATIONS[name] and residual < .014
    assert apart(kept.frac, bent.frac, slab.cell).max() < .05


# crowding

@pytest.mark.parametrize("distance", [1., 1.42, 2.5])
def test_crowding_is_a_distance_over_radii(distance):
    pair = Slab(np.diag([20., 20.]), np.array([[.98, .5], [.98 + distance/20 - 1, .5]]), np.zeros(2), np.array([6, 6])) # across the edge
    assert crowding(pair) == pytest.approx(distance/(2*.76))
    upright = pair._replace(frac=np.full((2, 2), .3), z=np.array([0, distance]))
    assert crowding(upright) == pytest.approx(distance/(2*.76))
    mixed = pair._replace(numbers=np.array([6, 1]))
    assert crowding(mixed) == pytest.approx(distance/(.76 + .31))

def test_an_atom_is_near_its_own_images_only_by_a_period():
    alone = Slab(cell_from_lengths(2.5, 6, 95), np.array([[.3, .4]]), np.zeros(1), np.array([29]))
    assert crowding(alone) == pytest.approx(2.5/(2*1.32))

@quick
@given(seeds, st.floats(-3, 3), st.floats(-3, 3), st.floats(-5, 5))
def test_crowding_does_not_know_where_the_crystal_lies(seed, x, y, z):
    slab = oblique(seed)
    moved = slab._replace(frac=(slab.frac + [x, y]) % 1, z=slab.z + z)
    flipped = slab._replace(frac=-slab.frac, z=-slab.z)
    assert crowding(moved) == pytest.approx(crowding(slab)) == pytest.approx(crowding(flipped))


# the proof

@pytest.mark.parametrize("name", ["MoS2", "1T", "P"])
def test_a_true_crystal_is_proven(name):
    slab = CRYSTALS[name]
    proof = prove(Proposal(rattled(slab, 2, .05)), photographed(slab))
    assert proof.residual < .08 and proof.relocated == 0 and proof.operations == OPERATIONS[name]
    assert cell_lengths(reduce_cell(proof.slab.cell)[0])[:2] == pytest.approx(cell_lengths(slab.cell)[:2], rel=3e-3)
    assert proof.placed.cell is proof.placement.cell and (proof.slab.numbers == slab.numbers).all()
    assert proof.crowding == pytest.approx(crowding(proof.slab)) and proof.atoms.num_atoms == len(slab.z)

def test_a_lattice_that_does_not_fit_gets_no_proof():
    square = Slab(np.diag([3.2, 3.2]), np.array([[0, 0], [.5, .5]]), np.array([0, 1.4]), np.array([26, 34]))
    observation = photographed(CRYSTALS["MoS2"])
    assert placements(square.cell, observation.lattice.cell) == [] and prove(Proposal(square), observation) is None

def test_a_crystal_of_another_size_has_its_heights_scaled():
    slab, observation = CRYSTALS["MoS2"], photographed(CRYSTALS["MoS2"])
    big, near = (prove(Proposal(slab._replace(cell=f*slab.cell, z=f*slab.z)), observation) for f in (1.08, 1.01))
    assert np.ptp(big.slab.z) == pytest.approx(np.ptp(slab.z), rel=2e-3)
    assert np.ptp(near.slab.z) == pytest.approx(1.01*np.ptp(slab.z), rel=2e-3) # nearly the right size: heights are not touched

def test_another_phase_is_proven_by_relocation():
    proof = prove(Proposal(CRYSTALS["1T"]), photographed(CRYSTALS["MoS2"]))
    assert proof.relocated == 1 and proof.residual < .05
    assert apart(proof.slab.frac[[1, 2]], np.zeros((2, 2)), proof.slab.cell).max() < .05 # both sulphurs in one column

def test_a_wrong_crystal_stays_unexplained():
    "Two columns where the image shows four."
    cell = cell_from_lengths(5, 6, 100)
    four = Slab(cell, np.array([[0, 0], [.5, .1], [.1, .5], [.6, .6]]), np.array([0, .2, -.2, .1]), np.array([74, 42, 42, 50]))
    two = Slab(cell, four.frac[:2], four.z[:2], four.numbers[:2])
    observation = photographed(four)
    wrong, right = (prove(Proposal(slab), observation) for slab in (two, four))
    assert wrong.residual > .3 and right.residual < .05
    assert wrong.relocated == 0 # other places explain little more, so nothing is moved


# the image of the proof

@pytest.mark.parametrize("name", ["MoS2", "P"])
def test_the_resimulated_image_lies_where_the_micrograph_lies(name):
    observation = photographed(CRYSTALS[name], noise="none")
    proof = prove(Proposal(CRYSTALS[name]), observation)
    again, view = resimulate(proof, observation), observation.view.data
    assert again.shape == view.shape
    assert np.corrcoef(again.ravel(), view.ravel())[0, 1] > .99
    assert again.mean() == pytest.approx(view.mean(), abs=.02) and again.std() == pytest.approx(view.std(), rel=.05)
    turned = again[::-1, ::-1]
    assert np.corrcoef(turned.ravel(), view.ravel())[0, 1] < .9

def test_the_resimulated_image_has_the_fitted_coefficients():
    observation = photographed(CRYSTALS["MoS2"])
    proof = prove(Proposal(CRYSTALS["MoS2"]), observation)
    image = observe(Micrograph(resimulate(proof, observation), observation.view.pixel_size))
    fit, placed = proof.fit, proof.placed
    assert residual_of(placed.frac, placed.numbers, placed.cell, image, fit.probe_variance, fit.contrast_exponent) < .02


# symmetry that is held

STRAINED = np.array([[1.08, .04], [0, .97]])

@pytest.mark.parametrize("name", CRYSTALS)
def test_operations_lie_where_the_slab_is_placed(name):
    "On another basis of the same lattice they are whole numbers again, and take atoms to atoms."
    slab, turn = CRYSTALS[name], np.array([[1, 1], [0, 1]])
    found = operations_in_place(slab, turn)
    assert len(found) == OPERATIONS[name]
    frac = slab.frac@turn
    for R, shift, image in found:
        assert np.allclose(R, R.round(), atol=1e-9)
        d = frac@R + shift - frac[image]
        assert np.abs(d - np.round(d)).max() < 1e-6

@pytest.mark.parametrize("name", CRYSTALS)
def test_free_directions_keep_the_symmetry_of_a_strained_cell(name):
    "However the scan strained the cell: what the fit may do leaves every operation as exact as it was."
    slab = CRYSTALS[name]
    cell = slab.cell@STRAINED
    operations = operations_in_place(slab, np.eye(2, dtype=int))
    directions = free_directions(operations, len(slab.z), cell)
    assert directions.T@directions == pytest.approx(np.eye(directions.shape[1]))
    p = directions@np.random.default_rng(0).normal(size=directions.shape[1])
    moved = p[:-2].reshape(-1, 2)@np.linalg.inv(cell)
    for R, _, image in operations: assert moved@R == pytest.approx(moved[image], abs=1e-9)

@pytest.mark.parametrize("seed", [1, 2, 3])
def test_a_rough_image_does_not_break_the_symmetry_of_a_proposal(seed, monkeypatch):
    "1T seen by an elongated probe that this fit knows nothing of: free atoms would leave their sites to please it."
    slab = CRYSTALS["1T"]
    noise = Noise(blur=.2, astigmatism=.5, illumination_gradient=.3, gain_variation=.2, background=.3, read_noise=.2)
    seen = observe(Micrograph(render(from_slab(slab), noise=noise, seed=seed), .1))
    assert prove(Proposal(slab), seen).operations == OPERATIONS["1T"]
    monkeypatch.setattr("microscopygpt.proof._with_symmetry_held", lambda fit, *_: fit)
    assert prove(Proposal(slab), seen).operations < OPERATIONS["1T"]

@quick
@given(seeds)
def test_standard_errors_are_the_scatter_of_fitted_positions(seed):
    slab, rng = oblique(seed), np.random.default_rng(seed)
    observation = seen_exactly(slab)
    [(key, (hk, g, seen, _))] = observation._kept.items()
    sigma = .01*np.sqrt((np.abs(seen)**2).mean())
    off, told = [], []
    for _ in range(30):
        noise = sigma*(rng.normal(size=len(seen)) + 1j*rng.normal(size=len(seen)))/2**.5
        observation._kept[key] = hk, g, seen + noise, sigma
        fit = fit_positions(slab.frac, slab.numbers, slab.cell, observation)
        off.append((fit.frac - slab.frac)@slab.cell)
        told.append(position_errors(fit, slab.numbers, slab.cell, observation))
    scatter, expected = np.sqrt(np.mean(np.square(off))), np.sqrt(np.mean(np.square(told)))
    assert .7 < scatter/expected < 1.4

def test_atoms_that_share_a_column_are_held_by_their_springs_alone():
    slab = CRYSTALS["MoS2"]
    observation = seen_exactly(slab)
    fit = fit_positions(slab.frac, slab.numbers, slab.cell, observation)
    molybdenum, *sulphur = position_errors(fit, slab.numbers, slab.cell, observation)
    assert molybdenum.max() < .01 and all(.1 < errors.min() and errors.max() < .2 for errors in sulphur)
