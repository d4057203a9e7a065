"Heights over solved columns: larger cells, what symmetry allows, the cheap potential, and relaxation."
import itertools
import numpy as np
import pytest
from ase.calculators.emt import EMT
from ase.calculators.lj import LennardJones
from hypothesis import given, settings, strategies as st

from microscopygpt.columns import Columns
from microscopygpt.plane_groups import group_table, nearest_vectors, plane_operations, signed_subgroup, stacks
from microscopygpt.crystal import Slab, cell_from_lengths
from microscopygpt.heights import (LARGER_CELLS, SMALL_FORCE, Relaxed, bond_strengths, centred, cheap_heights,
                                   distinct, electronegativities, height_projectors, height_starts, in_order, morse,
                                   near_pairs, relax_heights, tile)
from microscopygpt.energies import Potential, PotentialError
from microscopygpt.potentials import load_potential
from microscopygpt.refine import Fit, supercells

quick = settings(max_examples=15, deadline=None)
seeds = st.integers(0, 2**31)
HEXAGON = np.array([[0, 0], [1/3, 2/3], [1/3, 2/3]])

def solved(cell, frac, numbers, units=1):
    "Columns as they come from an image."
    frac, numbers = np.array(frac, float), np.array(numbers)
    return Columns(cell, frac, numbers, .01, Fit(frac, .27, 1.7, .01, 0.), plane_operations(cell, frac, numbers), units)

MOS2 = solved(cell_from_lengths(3.18, 3.18, 120), HEXAGON, [42, 16, 16])
CHAIN = solved(cell_from_lengths(2.9, 5.1, 90), [[0, .1], [.5, .6]], [29, 17])
ALONE = solved(cell_from_lengths(3.0, 3.4, 90), [[0, 0]], [82])
PLANES = {"MoS2": MOS2, "chain": CHAIN, "one atom": ALONE}

def neighbour_distances(cell, frac, numbers, reach=8.):
    "All distances in the plane up to a reach, from each kind of atom to each, per atom."
    n = int(np.ceil(reach/np.linalg.norm(cell, axis=1).min())) + 2
    images = np.array(list(itertools.product(range(-n, n + 1), repeat=2)))
    d = np.linalg.norm((nearest_vectors(frac[:, None] - frac[None])[:, :, None] + images)@cell, axis=-1)
    return {(a, b): np.sort(d[np.ix_(numbers == a, numbers == b)][d[np.ix_(numbers == a, numbers == b)] < reach])
            for a in np.unique(numbers) for b in np.unique(numbers)}

def projectors_of(columns, most=48, seed=0):
    return height_projectors(columns.cell, columns.frac, columns.numbers, columns.operations, np.random.default_rng(seed), most)


# larger cells

@pytest.mark.parametrize("name", PLANES)
@pytest.mark.parametrize("index", [1, 2, 3, 4])
def test_a_larger_cell_holds_the_same_columns(name, index):
    plane = PLANES[name]
    for multiple in supercells(index):
        cell, frac, numbers = tile(plane, multiple)
        assert abs(np.linalg.det(cell)) == pytest.approx(index*abs(np.linalg.det(plane.cell)))
        assert len(frac) == len(numbers) == index*len(plane.numbers)
        assert (np.sort(numbers) == np.sort(np.tile(plane.numbers, index))).all()
        assert ((frac >= 0) & (frac < 1)).all()
        small, large = neighbour_distances(plane.cell, plane.frac, plane.numbers), neighbour_distances(cell, frac, numbers)
        for pair in small: # a finite reach may cut off distances that round to it
            assert np.allclose(np.repeat(small[pair], index)[:-8*index], large[pair][:len(small[pair])*index][:-8*index], atol=1e-6)

@pytest.mark.parametrize("index", [2, 3, 4])
def test_translations_of_the_small_cell_are_symmetries_of_the_larger(index):
    for multiple in supercells(index):
        cell, frac, numbers = tile(ALONE, multiple)
        still = [o for o in plane_operations(cell, frac, numbers) if (o.turn == np.eye(2)).all()]
        assert len(still) == index


# what symmetry allows

@pytest.mark.parametrize("name", PLANES)
def test_projectors_project_and_differ(name):
    P, orders = projectors_of(PLANES[name])
    assert len(P) == len(orders) and (orders >= 1).all()
    assert np.abs(P@P - P).max() < 1e-6
    assert np.allclose(P[0], np.eye(P.shape[1])), "the first leaves all heights free"
    assert all(np.abs(a - b).max() > 1e-6 for a, b in itertools.combinations(P, 2))

def turned_over(columns, operation, sign, z):
    "Heights after an operation: carried to the image columns, equal atoms of a column in order, turned over with sign -1."
    groups = stacks(columns.cell, columns.frac, columns.numbers)
    of = {atom: group for group in groups for atom in group}
    result = np.empty_like(z)
    for group in groups:
        image = of[operation.image[group[0]]]
        result[image[::sign]] = sign*z[group]
    return result

@quick
@given(seeds)
def test_every_signed_operation_leaves_projected_heights_as_they_are(seed):
    rng = np.random.default_rng(seed)
    for plane in (MOS2, CHAIN, solved(*tile(ALONE, np.array([[2, 0], [0, 1]])))):
        ops = plane.operations
        table = group_table(ops, plane.cell)
        identity = next(i for i, o in enumerate(ops) if (o.turn == np.eye(2)).all() and np.abs(nearest_vectors(o.shift)).max() < 1e-6)
        generators = [(int(g), int(rng.choice([1, -1]))) for g in rng.choice(len(ops), min(2, len(ops)), replace=False)]
        signs = signed_subgroup(table, identity, generators)
        if signs is None: continue
        z = rng.uniform(-2, 2, len(plane.numbers))
        mean = np.mean([turned_over(plane, ops[o], s, z) for o, s in signs.items()], 0)
        for operation, sign in signs.items(): assert np.allclose(turned_over(plane, ops[operation], sign, mean), mean)
        P = np.mean([[turned_over(plane, ops[o], s, e) for e in np.eye(len(z))] for o, s in signs.items()], 0).T
        found, orders = projectors_of(plane, most=200)
        assert np.abs(P@P - P).max() < 1e-9
        assert min(np.abs(P - Q).max() for Q in found) < 1e-9, "what this choice of signs allows is among the projectors"

def test_the_table_is_that_of_a_group():
    table = group_table(MOS2.operations, MOS2.cell)
    assert (table >= 0).all() and all(sorted(row) == list(range(len(table))) for row in table)

def test_contradicting_signs_make_no_subgroup():
    ops = MOS2.operations
    table = group_table(ops, MOS2.cell)
    identity = next(i for i, o in enumerate(ops) if (o.turn == np.eye(2)).all())
    threefold = next(i for i, o in enumerate(ops) if np.trace(o.turn) == -1)
    assert signed_subgroup(table, identity, [(threefold, -1)]) is None, "three times turned over is not back again"
    assert len(signed_subgroup(table, identity, [(threefold, 1)])) == 3
    assert signed_subgroup(table, identity, [(identity, -1)]) is None

def test_the_mirror_of_2h_is_among_the_projectors_of_mos2():
    P, _ = projectors_of(MOS2)
    mirror = np.array([[0, 0, 0], [0, .5, -.5], [0, -.5, .5]])
    assert any(np.abs(Q - mirror).max() < 1e-9 for Q in P)

def test_a_translation_that_turns_over_makes_a_glide():
    doubled = solved(*tile(ALONE, np.array([[2, 0], [0, 1]])))
    P, _ = projectors_of(doubled)
    glide = np.array([[.5, -.5], [-.5, .5]])
    assert any(np.abs(Q - glide).max() < 1e-9 for Q in P)
    assert any(np.abs(Q - .5).max() < 1e-9 for Q in P), "the translation that keeps heights too"


# the cheap potential

@quick
@given(seeds)
def test_the_slope_of_the_cheap_potential_is_that_of_its_energy(seed):
    rng = np.random.default_rng(seed)
    plane = (MOS2, CHAIN)[seed % 2]
    pairs = near_pairs(plane.cell, plane.frac, plane.numbers)
    depth = bond_strengths(plane.numbers)[:, pairs.first, pairs.second]
    z = rng.uniform(.9, 1.6, (2, len(plane.numbers)))*np.array([0, 1, -1])[:len(plane.numbers)] # no atoms on each other
    energy, slope = morse(z, pairs, depth)
    for i, h in itertools.product(range(z.shape[1]), [1e-5]):
        step = h*np.eye(z.shape[1])[i]
        difference = (morse(z + step, pairs, depth)[0] - morse(z - step, pairs, depth)[0])/(2*h)
        assert slope[:, i] == pytest.approx(difference, rel=1e-4, abs=1e-4)

def test_the_cheap_potential_binds_at_a_bond_and_repels_like_ions():
    pair = solved(cell_from_lengths(9, 9, 90), [[0, 0], [.05, 0]], [29, 17])
    pairs = near_pairs(pair.cell, pair.frac, pair.numbers)
    depth = bond_strengths(pair.numbers)[0][pairs.first, pairs.second]
    rise = np.linspace(.5, 4, 200)
    best = rise[morse(np.c_[0*rise, rise], pairs, depth)[0].argmin()]
    assert np.hypot(best, .45) == pytest.approx(1.05*pairs.radius[0], abs=.05)
    energy = morse(np.c_[0*rise, rise], pairs, -np.ones(len(pairs.first)))[0]
    assert energy[0] > energy[len(rise)//2]

def test_atoms_on_each_other_are_pushed_apart():
    pairs = near_pairs(MOS2.cell, MOS2.frac, MOS2.numbers)
    depth = bond_strengths(MOS2.numbers)[0][pairs.first, pairs.second]
    slope = morse(np.array([[0, .1, -.1], [0, .02, -.02]]), pairs, depth)[1]
    assert np.isfinite(slope).all() and (slope[:, 1] < 0).all() and (slope[:, 2] > 0).all()

def test_bond_strengths_are_symmetric_and_unlike_atoms_bind_most():
    covalent, ionic = bond_strengths(np.array([42, 16, 16]))
    assert (covalent == covalent.T).all() and (ionic == ionic.T).all()
    assert covalent[0, 1] > covalent[1, 2] and ionic[1, 2] == -1 and ionic[0, 1] > 1
    assert electronegativities()[9] == pytest.approx(3.98) and electronegativities()[0] == 0

def test_pairs_are_those_within_reach_each_once():
    pairs = near_pairs(MOS2.cell, MOS2.frac, MOS2.numbers)
    assert (pairs.first < pairs.second).all() and (pairs.plane < (2.2*pairs.radius)**2).all()
    bond = (pairs.first == 0) & (pairs.second == 1)
    assert (np.abs(np.sqrt(pairs.plane[bond]) - 3.18/3**.5) < 1e-3).sum() == 3

def test_heights_of_one_column_are_sorted_and_centred():
    z = np.array([[1., -1, 3], [0, 2, 1]])
    assert in_order(z, [np.array([0]), np.array([1, 2])]).tolist() == [[1, -1, 3], [0, 1, 2]]
    assert np.allclose(centred(z), [[0, -2, 2], [-1, 1, 0]])

def test_distinct_rows_differ_also_when_turned_over():
    z = np.array([[0, 1.5, -1.5], [0, -1.5, 1.5], [.1, 1.5, -1.5], [1., 1.5, -1.5], [-1, 1.5, -1.5], [0, .2, -.2]])
    groups = stacks(MOS2.cell, MOS2.frac, MOS2.numbers)
    assert distinct(z, range(6), groups, 10, []) == [0, 3, 5]
    assert distinct(z, range(6), groups, 1, [3]) == [3, 0]

def test_cheap_heights_contain_2h_and_are_the_same_again():
    make = lambda seed: cheap_heights(MOS2.cell, MOS2.frac, MOS2.numbers, MOS2.operations, starts=64, keep=16, seed=seed)
    first, again, other = make(0), make(0), make(1)
    assert (first == again).all() and (first.shape != other.shape or np.abs(first - other).max() > 1e-6)
    assert np.allclose(first.max(1), -first.min(1)), "centred"
    two_h = np.abs(in_order(first, [np.array([1, 2])]) - [0, -1.56, 1.56]).max(1)
    assert two_h.min() < .3


# starts

def same_slab(a, b): return all(np.array_equal(x, y) for x, y in zip(a, b))

def test_starts_are_deterministic_and_distinct_in_each_cell():
    first, again = height_starts(MOS2, seed=2), height_starts(MOS2, seed=2)
    assert len(first) == len(again) and all(same_slab(a, b) for a, b in zip(first, again))
    assert not all(same_slab(a, b) for a, b in zip(first, height_starts(MOS2, seed=3)))
    for a, b in itertools.combinations(first, 2):
        if len(a.z) != len(b.z) or not np.allclose(a.cell, b.cell): continue
        groups = stacks(a.cell, a.frac, a.numbers)
        up, down = in_order(a.z[None], groups), in_order(-a.z[None], groups)
        assert min(np.abs(up - in_order(b.z[None], groups)).max(), np.abs(down - in_order(b.z[None], groups)).max()) > .3

def test_larger_cells_come_only_up_to_their_number_of_atoms():
    assert {len(s.z) for s in height_starts(MOS2)} == {3, 6}
    sixteen = solved(cell_from_lengths(8, 9, 90), np.random.default_rng(0).random((13, 2)), [34]*13)
    assert {len(s.z) for s in height_starts(sixteen)} == {13}, "twice 13 atoms are more than 24"
    assert {len(s.z) for s in height_starts(MOS2, indices=(1, 3, 4))} == {3, 9, 12}
    assert LARGER_CELLS[3] < 15
    assert {len(s.z) for s in height_starts(solved(cell_from_lengths(5, 6, 90), np.random.default_rng(0).random((5, 2)), [34]*5), indices=(1, 3))} == {5}

def test_columns_of_starts_are_those_that_were_solved():
    for slab in height_starts(MOS2):
        if len(slab.z) == 3: assert (slab.frac == MOS2.frac).all() and (slab.cell == MOS2.cell).all()


# relaxation

class Springs(Potential):
    "Every height is pulled to its place; slabs that are too high have no finite energy."
    name = "springs"
    def __init__(self, where): self.where, self.asked = np.array(where), 0
    def compute(self, slabs, forces):
        self.asked += 1
        pull = [self.where - s.z for s in slabs]
        energies = [np.inf if np.ptp(s.z) > 8 else .5*(p**2).mean() for s, p in zip(slabs, pull)]
        return energies, [np.c_[np.zeros((len(p), 2)), p] for p in pull]

def mos2_slabs(heights): return [Slab(MOS2.cell, MOS2.frac, np.array(z, float), MOS2.numbers) for z in heights]

def energies_of(slabs, potential): return potential.evaluate(slabs, forces=False).energies

def test_chgnet_gives_mos2_its_heights():
    chgnet = load_potential("chgnet")
    best = relax_heights(mos2_slabs([[.2, 1.2, -1.7], [0, .8, -.8]]), chgnet)[0]
    assert np.abs(np.sort(best.slab.z) - [-1.56, 0, 1.56]).max() < .03
    assert best.force < SMALL_FORCE and best.plane_force < .05
    assert energies_of([best.slab], chgnet)[0] == pytest.approx(best.energy, abs=1e-4)

CALCULATORS = {"Lennard-Jones": (lambda: LennardJones(sigma=2.2, epsilon=.3, rc=6), MOS2, [[0, 1.4, -1.4], [.3, 1.8, -1.1], [0, 1, 2]]),
               "EMT": (EMT, solved(cell_from_lengths(2.6, 2.6, 90), [[0, 0], [.5, .5]], [29, 29]), [[.9, -.9], [.5, -.9], [1.5, -1.2]])}

@pytest.mark.parametrize("name", CALCULATORS)
def test_any_calculator_relaxes_heights_and_holds_columns(name):
    calculator, plane, heights = CALCULATORS[name]
    potential = load_potential(calculator())
    slabs = [Slab(plane.cell, plane.frac, np.array(z, float), plane.numbers) for z in heights]
    before = energies_of(slabs, potential)
    relaxed = relax_heights(slabs, potential)
    assert [r.energy for r in relaxed] == sorted(r.energy for r in relaxed)
    assert sorted(r.index for r in relaxed) == [0, 1, 2]
    for r in relaxed:
        assert r.energy <= before[r.index] + 1e-9
        assert (r.slab.frac == plane.frac).all() and (r.slab.cell == plane.cell).all() and (r.slab.numbers == plane.numbers).all()
        d = centred(r.slab.z) - centred(slabs[r.index].z)
        assert r.moved == pytest.approx(np.sqrt((d**2).mean()))
        assert energies_of([r.slab], potential)[0] == pytest.approx(r.energy, abs=1e-6)
    assert relaxed[0].force < .1

def test_heights_given_are_not_changed():
    slabs = mos2_slabs([[0, 1.2, -1.2]])
    relax_heights(slabs, Springs([0, 1.5, -1.5]))
    assert slabs[0].z.tolist() == [0, 1.2, -1.2]

def test_springs_reach_their_rest():
    relaxed = relax_heights(mos2_slabs([[0, 1, -1], [.5, -.5, .1]]), Springs([0, 1.5, -1.5]))
    for r in relaxed: assert np.abs(r.slab.z - [0, 1.5, -1.5]).max() < .05 and r.force < SMALL_FORCE

def test_slabs_without_a_finite_energy_drop_out_and_index_says_which_are_left():
    slabs = mos2_slabs([[0, 5, -5], [0, 1, -1], [0, 6, -6], [0, 2, -2]])
    assert sorted(r.index for r in relax_heights(slabs, Springs([0, 1.5, -1.5]))) == [1, 3]
    assert relax_heights(slabs[:1], Springs([0, 1.5, -1.5])) == []
    many = slabs + mos2_slabs([[0, 1 + .01*i, -1] for i in range(25)])
    left = relax_heights(many, Springs([0, 1.5, -1.5]))
    assert left and not {0, 2} & {r.index for r in left}

def test_at_each_stage_the_lowest_go_on():
    heights = [[0, 1 + .05*i, -1 - .05*i] for i in range(12)]
    relaxed = relax_heights(mos2_slabs(heights), Springs([0, 1.02, -1.02]), plan=((5, 1), (2, 3)))
    assert {r.index for r in relaxed} <= set(range(5))
    start = energies_of(mos2_slabs(heights), Springs([0, 1.02, -1.02]))
    assert {r.index for r in relaxed} == set(np.argsort(start)[:5])

def test_nothing_in_nothing_out():
    assert relax_heights([], Springs([0, 0, 0])) == []

def test_a_tick_before_each_evaluation_may_stop_the_work():
    springs, ticks = Springs([0, 1.5, -1.5]), []
    relax_heights(mos2_slabs([[0, 1, -1]]), springs, tick=lambda: ticks.append(1))
    assert len(ticks) >= springs.asked > 1
    springs = Springs([0, 1.5, -1.5])
    def stop():
        if springs.asked == 2: raise InterruptedError
    with pytest.raises(InterruptedError): relax_heights(mos2_slabs([[0, .2, -.2]]), springs, tick=stop)
    assert springs.asked == 2

def test_an_element_that_the_potential_does_not_know_is_named():
    slab = Slab(MOS2.cell, MOS2.frac, np.array([0, 1.5, -1.5]), np.array([86, 16, 16]))
    with pytest.raises(PotentialError, match="Rn"): relax_heights([slab], load_potential("chgnet"))

def test_one_start_that_diverges_does_not_cost_the_others():
    from microscopygpt.energies import Potential, PotentialError
    class Picky(Potential):
        "A well for every height; nothing for a slab that is flat."
        name = "picky"
        def compute(self, slabs, forces):
            flat = [np.ptp(s.z) < 1e-9 for s in slabs]
            return [np.nan if f else (s.z**2).sum()/len(s.z) for f, s in zip(flat, slabs)], [np.c_[0*s.z, 0*s.z, -2*s.z] for s in slabs]
    flat, fair = (Slab(MOS2.cell, MOS2.frac, np.array(z), MOS2.numbers) for z in ([0., 0, 0], [0., 1.5, -1]))
    found = relax_heights([flat, fair], Picky(), plan=((2, 3),))
    assert [r.index for r in found] == [1]
    with pytest.raises(PotentialError): relax_heights([flat, flat], Picky())
