"The linear potential that finds where to look for heights."
import numpy as np, pytest
from microscopygpt.crystal import Slab, cell_from_lengths
from microscopygpt.heights import FLATNESS, bond_strengths, cheap_heights, morse, near_pairs, relax_heights
from microscopygpt.energies import Potential
from microscopygpt.potentials import load_potential
from microscopygpt.height_search import (HIGHEST_ENERGY, USUAL_ATOMS, WELL_BELOW, beside, changed, find_heights, height_spaces, in_turn, shares,
                                         symmetry_front)
from microscopygpt.surrogate import BOND, HeightFeatures, Surrogate
from test_heights import MOS2, solved

class Bonds(Potential):
    "Ionic bonds on heights alone, in eV: something else than what a search starts with."
    name = "bonds"
    def compute(self, slabs, forces):
        energies, pulls = [], []
        for s in slabs:
            pairs = near_pairs(s.cell, s.frac, s.numbers)
            energy, slope = morse(s.z[None], pairs, bond_strengths(s.numbers)[1][pairs.first, pairs.second])
            energies.append(energy[0]/len(s.z))
            pulls.append(np.c_[np.zeros((len(s.z), 2)), -slope[0]])
        return energies, pulls

@pytest.fixture
def bonds(): return Bonds()

def features(n=5, seed=0):
    rng = np.random.default_rng(seed)
    cell, frac, numbers = np.array([[7., 0], [1., 8.]]), rng.random((n, 2)), rng.choice([6, 16, 42], n)
    return HeightFeatures(cell, frac, numbers, np.unique(numbers)), rng

@pytest.mark.parametrize("seed", range(4))
def test_slopes_are_the_derivative_of_the_energy_and_tables_agree(seed):
    f, rng = features(seed=seed)
    z = rng.normal(size=(6, f.n))*2.5
    by_energy, by_slope = f.rows(z)
    numbers = .1*rng.normal(size=by_energy.shape[1])
    for i in range(f.n):
        step = np.zeros(f.n)
        step[i] = 1e-5
        numeric = (f.rows(z + step)[0] - f.rows(z - step)[0])@numbers/2e-5
        assert np.allclose(numeric, by_slope[:, i]@numbers, atol=1e-5, rtol=1e-4)
    energy, slope = f.evaluate(z, f.tabulate(numbers))
    before, before_slope = f.morse(z)
    before -= BOND*FLATNESS*(z**2).sum(1)
    before_slope -= BOND*2*FLATNESS*z
    apart = np.abs(before) < 20 # nearer atoms are held at different heights of the wall
    assert np.allclose((by_energy@numbers + before)[apart], energy[apart], atol=.05, rtol=.01)
    assert np.allclose((by_slope@numbers + before_slope)[apart], slope[apart], atol=.2, rtol=.02)
    assert f.evaluate(z, f.tabulate(numbers), energies=False)[0] is None

def test_a_surrogate_learns_a_potential_of_its_own_kind():
    f, rng = features()
    true = rng.normal(size=f.rows(np.zeros((1, f.n)))[0].shape[1])*.1
    def truth(z):
        by_energy, by_slope = f.rows(z)
        before, before_slope = f.morse(z)
        return by_energy@true + before, by_slope@true + before_slope
    z = rng.normal(size=(300, f.n))*2.5
    surrogate = Surrogate()
    surrogate.fit([(f, z, *truth(z))])
    new = rng.normal(size=(50, f.n))*2.5
    found, wanted = f.evaluate(new, surrogate.tables)[1], truth(new)[1]
    fair = np.abs(wanted).max(1) < 10
    assert np.corrcoef(found[fair].ravel(), wanted[fair].ravel())[0, 1] > .95

def test_what_cannot_be_evaluated_teaches_nothing():
    f, rng = features()
    z = rng.normal(size=(30, f.n))
    energies, slopes = f.morse(z)
    spoilt = np.append(energies, np.nan), np.vstack([slopes, np.full(f.n, np.nan)])
    a, b = Surrogate(), Surrogate()
    a.fit([(f, z, energies, slopes)])
    b.fit([(f, np.vstack([z, z[:1]]), *spoilt)])
    assert np.allclose(a.weights, b.weights)

def test_every_kind_has_its_turn():
    kinds = np.array([1, 1, 1, 4, 4, 2])
    assert in_turn(np.arange(6), kinds).tolist() == [0, 3, 5, 1, 4, 2]

def test_changed_heights_differ_and_leave_the_old_ones():
    rng, z = np.random.default_rng(0), np.array([0., 1., 2., -1.])
    assert sum(not np.array_equal(changed(z, rng), z) for _ in range(50)) > 30 and z.tolist() == [0., 1., 2., -1.]
    assert changed(np.zeros(1), rng).shape == (1,)

def test_half_of_the_starts_are_for_the_measured_cell():
    spaces = height_spaces(MOS2)
    assert [s.index for s in spaces] == [1, 2, 2, 2] and sum(shares(spaces)) == pytest.approx(1) and shares(spaces)[0] == .5
    assert shares(spaces[:1]) == [1.]

def test_the_search_is_at_least_as_low_as_the_starts_alone(bonds):
    slabs = [Slab(MOS2.cell, MOS2.frac, z, MOS2.numbers) for z in cheap_heights(MOS2.cell, MOS2.frac, MOS2.numbers, MOS2.operations)]
    alone = relax_heights(slabs, bonds)
    found = find_heights(MOS2, bonds, indices=(1,))
    assert found[0].energy <= alone[0].energy + 1e-3
    assert [r.energy for r in found] == sorted(r.energy for r in found)

def test_the_same_seed_finds_the_same_heights(bonds):
    first, second = (find_heights(MOS2, bonds, seed=3) for _ in range(2))
    assert [r.slab.z.tolist() for r in first] == [r.slab.z.tolist() for r in second]

def test_beside_a_cell_stands_the_same_turned_over_or_round():
    "Each half holds the same heights of the same elements; a sheet with a mirror has nothing new beside it."
    z = np.array([0., 1.6, -.5])
    pairs = beside(z, MOS2.operations)
    assert len(pairs) and all(np.allclose(pair[:3], z) and not np.allclose(pair[3:], z) for pair in pairs)
    assert all(pair[3] == 0 and sorted(np.abs(pair[4:])) == pytest.approx([.5, 1.6]) for pair in pairs)
    assert beside(np.array([0., 1.6, -1.6]), MOS2.operations).tolist() in ([], [[0, 1.6, -1.6, 0, -1.6, 1.6]])

# symmetric arrangements

def test_operations_that_leave_heights_are_counted():
    "The mirror in the plane doubles the six operations of a column; turned over or with like atoms exchanged it is the same."
    space = height_spaces(MOS2)[0]
    z = np.array([[0., 1.6, -1.6], [0., -1.6, 1.6], [5., 6.6, 3.4], [0., 1.6, -1.2], [.8, 1.6, -1.6]])
    assert space.orders(z).tolist() == [12, 12, 12, 6, 6]

@pytest.mark.parametrize("orders, wanted", [([6, 2, 12, 12], [0, 2]), ([12, 6, 2, 1], [0]), ([1, 2, 4, 8], [0, 1, 2, 3]), ([0]*4, [])])
def test_only_what_is_more_symmetric_than_all_below_is_worth_a_look(orders, wanted):
    energies, orders = np.array([-4., -3.9, -3.8, -3.7]), np.array(orders)
    assert symmetry_front(energies, orders) == wanted
    mixed = np.array([2, 0, 3, 1])
    assert [mixed[row] for row in symmetry_front(energies[mixed], orders[mixed])] == wanted

def test_what_lies_hopelessly_high_is_not_worth_a_look():
    assert symmetry_front(np.array([0., HIGHEST_ENERGY - .01, HIGHEST_ENERGY + .01]), np.array([1, 2, 4])) == [0, 1]

LIP3 = solved(cell_from_lengths(4.2, 4.2, 120), [[0, 0], [1/3, 2/3], [1/3, 2/3], [2/3, 1/3]], [3, 15, 15, 15])

def test_a_symmetric_arrangement_is_followed_where_a_lower_one_is_not_symmetric():
    "CHGNet would rather have lithium beside the sheet of phosphorus; with it in the mirror plane the sheet is at rest, too."
    found = find_heights(LIP3, load_potential("chgnet"), indices=(1,))
    front = [found[row] for row in symmetry_front([r.energy for r in found], [r.order for r in found])]
    assert [r.order for r in front] == [6, 12] and front[0] is found[0]
    assert np.abs(front[1].slab.z).round(1).tolist()[::3] == [0, 0] and front[1].force < .1
    assert .05 < front[1].energy - front[0].energy < HIGHEST_ENERGY

def test_a_search_can_be_stopped(bonds):
    class Enough(Exception): pass
    def stop(): raise Enough
    with pytest.raises(Enough): find_heights(MOS2, bonds, tick=stop)

def test_a_potential_without_finite_energies_finds_nothing():
    class Infinite(Bonds):
        def compute(self, slabs, forces): return [np.inf]*len(slabs), [np.zeros((len(s.z), 3)) for s in slabs]
    assert find_heights(MOS2, Infinite()) == find_heights(MOS2, Infinite(), expected=-3.) == []

def test_starts_that_all_collide_still_teach_something():
    class Steep(Bonds):
        def compute(self, slabs, forces):
            energies, pulls = super().compute(slabs, forces)
            return energies, [1e3*p for p in pulls]
    assert find_heights(MOS2, Steep(), indices=(1,))

def test_a_search_that_worked_enough_begins_no_other_round(bonds, monkeypatch):
    "The least of heights is kept, and the answer complete."
    found = find_heights(MOS2, bonds, indices=(1,))
    whole = bonds.effort
    monkeypatch.setattr("microscopygpt.height_search.MOST_EFFORT", 0)
    short = find_heights(MOS2, bonds, indices=(1,))
    assert 0 < bonds.effort - whole < whole and short and found[0].energy <= short[0].energy + 1e-3

def test_a_brief_look_is_enough_where_nothing_is_lower_than_expected(bonds):
    def search(expected):
        before = bonds.effort
        found = find_heights(MOS2, bonds, expected=expected)
        return found[0].energy, bonds.effort - before
    lowest, whole = search(None)
    energy, effort = search(lowest)
    assert energy == pytest.approx(lowest, abs=WELL_BELOW) and effort < .5*whole
    energy, effort = search(lowest + .1)
    assert energy == pytest.approx(lowest, abs=WELL_BELOW) and effort > .5*whole, "what is lower than expected asks for more"

def test_a_flat_sheet_has_nothing_new_beside_it():
    "The brief look at graphene: no larger cell has anything to try."
    graphene = solved(cell_from_lengths(2.46, 2.46, 120), [[1/3, 2/3], [2/3, 1/3]], [6, 6])
    chgnet = load_potential("chgnet")
    lowest = find_heights(graphene, chgnet, indices=(1,))[0].energy
    assert find_heights(graphene, chgnet, expected=lowest)[0].energy == pytest.approx(lowest, abs=WELL_BELOW)

def test_only_larger_cells_with_many_atoms_get_more_starts():
    measured, *larger = height_spaces(MOS2)
    assert measured.size() == 1 and all(s.size() == pytest.approx(max(1, 6/USUAL_ATOMS)) for s in larger)
