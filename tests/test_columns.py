"The plane solved from the image: random crystals, known symmetries, and micrographs as a microscope records them."
import numpy as np
import pytest
from hypothesis import given, settings, strategies as st
from scipy.optimize import linear_sum_assignment

from microscopygpt.columns import (COVERING_RANGE, ColumnError, Descent, composition, covering, parabola_top, plane_cost,
                                   plausible_units, shaken, solve_cell, symmetric_columns)
from microscopygpt.crystal import Slab, cell_from_lengths, from_slab, reduce_cell
from microscopygpt.fourier import harmonics
from microscopygpt.lattice import Lattice2D
from microscopygpt.observe import Imaging, Observation, observe
from microscopygpt.micrograph import Micrograph
from microscopygpt.plane_groups import nearest_vectors, plane_operations, stacks, symmetrize_plane
from microscopygpt.planes import solve_columns
from microscopygpt.refine import structure_factors
from microscopygpt.noise import render

quick = settings(max_examples=15, deadline=None)
seeds = st.integers(0, 2**31)
ELEMENTS = (74, 34, 16) # weights so different that labels are a matter of the image
HEXAGON = np.array([[0, 0], [1/3, 2/3], [1/3, 2/3]])
MOS2_CELL = cell_from_lengths(3.184, 3.184, 120)
MOS2 = MOS2_CELL, HEXAGON, np.array([42, 16, 16])
GRAPHENE = cell_from_lengths(2.467, 2.467, 120), HEXAGON[:2], np.array([6, 6])
SQUARE = cell_from_lengths(3.8, 3.8, 90), np.array([[0, 0], [.5, .5]]), np.array([26, 34])
P6 = cell_from_lengths(5.4, 6.3, 103), np.array([[.05, .1], [.52, .22], [.2, .62], [.75, .55], [.35, .9], [.85, .85]]), np.array([74, 74, 34, 34, 34, 34])


def seen_exactly(cell, frac, numbers, imaging=Imaging(), gain=.3, noise=1e-4, gmax=1.1):
    "The observation of some columns by a microscope without noise."
    hk, g = harmonics(cell, gmax)
    F = structure_factors(frac, (numbers/50)**imaging.contrast_exponent, hk, (g**2).sum(1), imaging.probe_variance)
    key = tuple(np.round(cell.ravel(), 6))
    return Observation(None, Lattice2D(cell, 1., len(hk), (0., 0., 0.)), gmax, {key: (hk, g, gain*F, noise)}, imaging)

def photographed(cell, frac, numbers, seed=0, noise="paper"):
    "What a micrograph of these columns shows, equal atoms of a column 3 Å above each other."
    z = np.zeros(len(frac))
    for group in stacks(cell, frac, numbers): z[group] = 3*(np.arange(len(group)) - (len(group) - 1)/2)
    return observe(Micrograph(render(from_slab(Slab(cell, frac, z, numbers)), noise=noise, seed=seed), .1))

def random_plane(seed, least=1.2):
    "Three to ten atoms of one to three elements in a cell of any shape, columns at least 1.2 Å apart."
    rng = np.random.default_rng(seed)
    n, kinds = int(rng.integers(3, 11)), int(rng.integers(1, 4))
    elements = np.array(ELEMENTS)[rng.permutation(3)[:kinds]]
    numbers = np.sort(np.r_[elements, rng.choice(elements, n - kinds)])[::-1].copy()
    a = np.sqrt(n*rng.uniform(4.5, 6.5))
    shape = rng.integers(3)
    if shape == 0: cell = reduce_cell(cell_from_lengths(a, a*rng.uniform(1.05, 1.4), rng.uniform(93, 112)))[0]
    elif shape == 1: cell = cell_from_lengths(1.07*a, 1.07*a, 120)
    else: cell = cell_from_lengths(a, a, 90)
    frac = []
    while len(frac) < n:
        x = rng.random(2)
        d = nearest_vectors(np.array(frac).reshape(-1, 2) - x)
        if (np.linalg.norm(d@cell, axis=1) > least).all(): frac.append(x)
    return cell, np.array(frac), numbers

def misplaced(cell, truth, found, numbers):
    "Distance (Å) of each atom from the one of the same element that was found for it."
    distance = np.linalg.norm(nearest_vectors(truth[:, None] - found[None])@cell, axis=-1)
    distance = distance + 1e3*(numbers[:, None] != numbers)
    rows, columns = linear_sum_assignment(distance)
    return distance[rows, columns]

def descent_of(seed):
    cell, frac, numbers = random_plane(seed)
    return Descent(cell, numbers, seen_exactly(cell, frac, numbers)), cell, frac, numbers


# a cell solved

def test_random_crystals_are_solved_from_their_structure_factors():
    missed = []
    for seed in range(20):
        cell, frac, numbers = random_plane(seed)
        best = solve_cell(cell, numbers, seen_exactly(cell, frac, numbers))[0]
        if misplaced(cell, frac, best.frac, numbers).max() > .1: missed.append(seed)
    assert len(missed) <= 2, missed

def test_arrangements_come_best_first_and_differ():
    cell, frac, numbers = random_plane(5)
    residuals = [fit.residual for fit in solve_cell(cell, numbers, seen_exactly(cell, frac, numbers), keep=3)]
    assert len(residuals) <= 3 and residuals == sorted(residuals) and (np.diff(residuals) > 2e-4).all()

def test_the_same_seed_gives_the_same_columns():
    cell, frac, numbers = random_plane(3)
    first, second = (solve_cell(cell, numbers, seen_exactly(cell, frac, numbers), seed=4) for _ in range(2))
    assert [f.residual for f in first] == [f.residual for f in second]
    assert all((a.frac == b.frac).all() for a, b in zip(first, second))

def test_where_the_origin_lies_does_not_matter():
    cell, frac, numbers = random_plane(3)
    moved = (frac + [.31, .77]) % 1
    best = solve_cell(cell, numbers, seen_exactly(cell, moved, numbers))[0]
    assert misplaced(cell, moved, best.frac, numbers).max() < .1


# the descent and its moves

@quick
@given(seeds)
def test_the_best_place_is_that_of_a_search_over_the_grid(seed):
    descent, cell, frac, numbers = descent_of(seed)
    rng = np.random.default_rng(seed)
    which = int(rng.integers(len(numbers)))
    others = np.delete(rng.random(frac.shape), which, 0)
    rest = (np.delete(descent.weights, which)[:, None]*descent.waves(others)).sum(0)
    places = np.stack(np.meshgrid(*(np.arange(n)/n for n in descent.shape), indexing="ij"), -1).reshape(-1, 2)
    F = rest + descent.weights[which]*descent.waves(places)
    hit = (F@descent.observed.conj()).real
    explained = np.where(hit > 0, hit**2/(np.abs(F)**2).sum(1), 0)
    place = descent.best_places(rest[None], descent.weights[[which]], np.array([False]))[0]
    steps = nearest_vectors(place - places[explained.argmax()])*descent.shape
    assert np.abs(steps).max() <= .5 + 1e-6

@quick
@given(seeds)
def test_an_atom_alone_is_set_where_the_image_is_most_like_it(seed):
    descent, cell, frac, numbers = descent_of(seed)
    places = np.stack(np.meshgrid(*(np.arange(n)/n for n in descent.shape), indexing="ij"), -1).reshape(-1, 2)
    correlation = (descent.waves(places)@descent.observed.conj()).real
    place = descent.best_places(np.zeros((1, len(descent.hk)), complex), descent.weights[:1], np.array([True]))[0]
    assert np.abs(nearest_vectors(place - places[correlation.argmax()])*descent.shape).max() <= .5 + 1e-6

@quick
@given(seeds)
def test_a_lifted_atom_comes_back_to_its_place(seed):
    descent, cell, frac, numbers = descent_of(seed)
    parts = descent.weights[:, None]*descent.waves(frac)
    rest = parts.sum(0) - parts
    back = descent.best_places(rest, descent.weights, np.zeros(len(frac), bool))
    assert np.linalg.norm(nearest_vectors(back - frac)@cell, axis=1).max() < .06

@quick
@given(seeds)
def test_the_residual_is_the_share_that_no_gain_explains(seed):
    descent, cell, frac, numbers = descent_of(seed)
    F = (descent.weights[:, None]*descent.waves(np.random.default_rng(seed).random(frac.shape))).sum(0)
    c = descent.observed
    gain = max(0., (F.conj()@c).real/(np.abs(F)**2).sum())
    assert descent.residual(F) == pytest.approx(np.linalg.norm(c - gain*F)/np.linalg.norm(c), abs=1e-9)
    assert descent.residual((descent.weights[:, None]*descent.waves(frac)).sum(0)) < 1e-5

def test_settling_lowers_the_residual_and_its_figures_are_true():
    descent, cell, frac, numbers = descent_of(7)
    rng = np.random.default_rng(0)
    starts = rng.random((6, *frac.shape))
    begin = descent.residual((descent.weights[:, None]*descent.waves(starts)).sum(1))
    found, left = descent.settle(starts, np.tile(np.arange(len(frac)), (6, 1)), rng)
    assert (left < begin).all()
    assert left == pytest.approx(descent.residual((descent.weights[:, None]*descent.waves(found)).sum(1)), abs=1e-9)

def test_starts_are_not_changed_by_settling():
    descent, cell, frac, numbers = descent_of(7)
    starts = np.random.default_rng(0).random((2, *frac.shape))
    before = starts.copy()
    descent.settle(starts, np.tile(np.arange(len(frac)), (2, 1)), np.random.default_rng(1))
    assert (starts == before).all()

@quick
@given(seeds)
def test_exchanged_elements_are_put_right(seed):
    descent, cell, frac, numbers = descent_of(seed)
    differ = np.flatnonzero(numbers != numbers[0])
    mixed = frac.copy()
    if len(differ): mixed[[0, differ[0]]] = mixed[[differ[0], 0]]
    assert misplaced(cell, frac, descent.exchange(mixed), numbers).max() < 1e-9

@given(st.floats(-.5, .5), st.floats(.1, 10), st.floats(-5, 5))
def test_the_top_of_a_parabola_is_found(top, curvature, level):
    low, middle, high = (level - curvature*(x - top)**2 for x in (-1, 0, 1))
    assert parabola_top(low, middle, high) == pytest.approx(top, abs=1e-6)

def test_a_flat_or_rising_line_gives_no_step_beyond_half():
    assert parabola_top(1., 1., 1.) == 0 and abs(parabola_top(0., 1., 2.)) <= .5

def test_a_hop_throws_some_atoms_and_leaves_the_others():
    cell, frac, numbers = random_plane(2)
    fits = solve_cell(cell, numbers, seen_exactly(cell, frac, numbers))
    places = shaken(fits, np.random.default_rng(0))
    for i, start in enumerate(places):
        moved = np.abs(nearest_vectors(start - fits[i % len(fits)].frac)).max(1) > 1e-9
        assert 1 <= moved.sum() <= max(1, len(numbers)//3)


# symmetry of the plane

KNOWN = {"honeycomb": (GRAPHENE, 12), "MoS2": (MOS2, 6), "two elements in a square": (SQUARE, 8), "oblique": (P6, 1),
         "one atom in a square": ((cell_from_lengths(3, 3, 90), np.zeros((1, 2)), np.array([82])), 8),
         "one atom in a rectangle": ((cell_from_lengths(3, 4, 90), np.zeros((1, 2)), np.array([82])), 4),
         "one element twice in a rectangle": ((cell_from_lengths(3, 4, 90), np.array([[0, 0], [.5, .5]]), np.array([82, 82])), 8)}

@pytest.mark.parametrize("name", KNOWN)
def test_known_plane_groups_have_their_order(name):
    plane, order = KNOWN[name]
    assert len(plane_operations(*plane)) == order

@pytest.mark.parametrize("name", KNOWN)
@pytest.mark.parametrize("shift", [(0, 0), (.123, .456), (.5, .9)])
def test_operations_take_atoms_to_equal_atoms_wherever_the_origin_lies(name, shift):
    (cell, frac, numbers), order = KNOWN[name]
    frac = frac + np.array(shift)
    operations = plane_operations(cell, frac, numbers)
    assert len(operations) == order
    for turn, move, image in operations:
        assert np.abs(nearest_vectors(frac@turn + move - frac[image])).max() < 1e-6
        assert (numbers[image] == numbers).all() and sorted(image) == list(range(len(numbers)))
        G = cell@cell.T
        assert np.allclose(turn@G@turn.T, G, rtol=.02)

@pytest.mark.parametrize("name", KNOWN)
def test_operations_are_a_group(name):
    (cell, frac, numbers), _ = KNOWN[name]
    operations = plane_operations(cell, frac, numbers)
    same = lambda turn, shift, o: (turn == o.turn).all() and np.abs(nearest_vectors(shift - o.shift)).max() < 1e-6
    assert any(same(np.eye(2), np.zeros(2), o) for o in operations)
    for a in operations:
        for b in operations: assert sum(same(a.turn@b.turn, a.shift@b.turn + b.shift, o) for o in operations) == 1

def test_symmetrizing_twice_is_symmetrizing_once():
    rng = np.random.default_rng(1)
    for (cell, frac, numbers), order in KNOWN.values():
        rattled = frac + rng.normal(size=frac.shape)*.03@np.linalg.inv(cell)
        once, operations = symmetrize_plane(cell, rattled, numbers)
        twice, again = symmetrize_plane(cell, once, numbers)
        assert len(operations) == len(again) == order
        assert np.linalg.norm(nearest_vectors(twice - once)@cell, axis=1).max() < 1e-6

def test_symmetric_columns_obey_their_operations_and_stay_near():
    cell, frac, numbers = MOS2
    rattled = frac + np.random.default_rng(0).normal(size=frac.shape)*.05@np.linalg.inv(cell)
    exact, operations = symmetrize_plane(cell, rattled, numbers)
    for turn, shift, image in operations:
        d = nearest_vectors(exact@turn + shift - exact[image])
        assert np.linalg.norm((d - d.mean(0))@cell, axis=1).max() < 1e-6
    assert np.linalg.norm(nearest_vectors(exact - rattled)@cell, axis=1).max() < .2

def test_symmetry_is_only_made_exact_where_the_image_accepts_it():
    cell, frac, numbers = P6[0], P6[1].copy(), P6[2]
    frac[1] = frac[0] + [.5, .5]
    frac[3], frac[5] = frac[2] + [.5, .5], frac[4] + [.5, .5]
    bent = frac + np.random.default_rng(2).normal(size=frac.shape)*.08@np.linalg.inv(cell)
    observation = seen_exactly(cell, bent, numbers)
    fit = solve_cell(cell, numbers, observation)[0]
    plane = symmetric_columns(fit, cell, numbers, observation, 1)
    assert plane.residual <= max(1.25*fit.residual, fit.residual + .01) and len(plane.operations) == 1
    plane = symmetric_columns(solve_cell(cell, numbers, seen_exactly(cell, frac, numbers))[0], cell, numbers, seen_exactly(cell, frac, numbers), 1)
    assert len(plane.operations) > 1

def test_equal_atoms_of_one_column_are_a_stack():
    assert [group.tolist() for group in stacks(*MOS2)] == [[0], [1, 2]]
    cell, frac, numbers = MOS2
    assert [g.tolist() for g in stacks(cell, frac + [[0, 0], [.999, 0], [-.001, 0]], numbers)] == [[0], [1, 2]]
    assert len(stacks(cell, frac, np.array([42, 16, 34]))) == 3, "unlike atoms are no stack"
    assert sorted(np.concatenate(stacks(*P6)).tolist()) == list(range(6))


# how many atoms

def test_composition_counts_the_formula():
    assert composition("MoS2", 2).tolist() == [42, 42, 16, 16, 16, 16] and composition("C").tolist() == [6]

@given(st.floats(2.5, 9), st.floats(1, 2.), st.sampled_from(["MoS2", "C", "ZnSiN2", "P", "Bi2Te3"]), st.integers(4, 24))
def test_every_number_of_units_with_enough_room_is_plausible(a, ratio, formula, most):
    cell = np.diag([a, a*ratio])
    units, one = plausible_units(formula, cell, most), composition(formula)
    expected = [n for n in range(1, 25) if n*len(one) <= most and COVERING_RANGE[0] <= covering(np.tile(one, n), cell) <= COVERING_RANGE[1]]
    assert sorted(units) == expected
    off = [abs(np.log(covering(np.tile(one, n), cell)/1.42)) for n in units]
    assert off == sorted(off)

def test_covering_is_the_area_of_discs_over_that_of_the_cell():
    assert covering([6, 6], np.diag([2., 3.])) == pytest.approx(2*np.pi*.76**2/6)
    assert covering([6, 6]*2, np.diag([4., 3.])) == pytest.approx(covering([6, 6], np.diag([2., 3.])))

def test_a_formula_that_does_not_fit_is_named():
    observation = seen_exactly(*GRAPHENE)
    with pytest.raises(ColumnError, match="check the formula and the pixel size"): solve_columns(observation, "Cs3Bi2I9")


# micrographs

@pytest.mark.parametrize("plane, formula", [(MOS2, "MoS2"), (GRAPHENE, "C"), (P6, "WSe2")], ids=["MoS2", "graphene", "six atoms"])
def test_the_columns_of_a_micrograph_are_found(plane, formula):
    cell, frac, numbers = plane
    observation = photographed(*plane)
    planes = solve_columns(observation, formula)
    best = next(p for p in planes[:2] if len(p.numbers) == len(numbers)) # two C in each column look like one
    assert best.residual < .06
    assert len(best.operations) == len(plane_operations(*plane))
    assert [plane_cost(p) for p in planes] == sorted(plane_cost(p) for p in planes)
    true, got = (pair_distances(*p) for p in (plane, (best.cell, best.frac, best.numbers)))
    assert np.abs(true - got).max() < .12

def pair_distances(cell, frac, numbers, most=30):
    "The shortest distances in the plane, heavy pairs first: they do not depend on where the cell begins or how it lies."
    images = np.stack(np.meshgrid(*[np.arange(-3, 4)]*2), -1).reshape(-1, 2)
    d = np.linalg.norm((nearest_vectors(frac[:, None] - frac[None])[:, :, None] + images)@cell, axis=-1)
    weight = np.unique(numbers)[::-1]
    return np.concatenate([np.sort(d[np.ix_(numbers == a, numbers == b)].ravel())[:most] for a in weight for b in weight if b <= a])

def test_the_columns_of_a_micrograph_are_the_same_again_and_progress_is_told():
    heard = []
    observation = photographed(*MOS2)
    first = solve_columns(observation, "MoS2", seed=3, progress=lambda done, what: heard.append((done, what)))
    second = solve_columns(observation, "MoS2", seed=3)
    assert [p.residual for p in first] == [p.residual for p in second]
    assert all((a.frac == b.frac).all() for a, b in zip(first, second))
    assert [done for done, _ in heard] == sorted(done for done, _ in heard) and "formula units" in heard[0][1]

def test_a_progress_function_may_stop_the_search():
    def stop(done, what): raise KeyboardInterrupt
    with pytest.raises(KeyboardInterrupt): solve_columns(photographed(*MOS2), "MoS2", progress=stop)
