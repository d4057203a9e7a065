"The symmetry of an image, orbits, and planes solved with them."
import numpy as np, pytest
from test_columns import photographed
from microscopygpt.columns import composition, plane_cost
from microscopygpt.crystal import reduce_cell
from microscopygpt.plane_groups import nearest_vectors, plane_operations
from microscopygpt.noise import Noise
from microscopygpt.planes import (Orbits, different, image_groups, image_operations, moved, partitions, search_orbits,
                                  planes_of, solve_columns, symmetric_planes, with_images)
from microscopygpt.refine import fit_positions, free_directions

HEXAGONAL = np.array([[3.3, 0], [-1.65, 2.858]])
MOS2 = HEXAGONAL, np.array([[0, 0], [1/3, 2/3], [1/3, 2/3]]), np.array([42, 16, 16])
RECTANGLE = np.diag([4.2, 5.6])
MIRRORED = RECTANGLE, np.array([[.1, .2], [.9, .2], [.5, .7], [.3, .55], [.7, .55]]), np.array([42, 42, 42, 8, 8])
OBLIQUE = np.array([[4.1, 0], [.9, 5.2]]), np.array([[.1, .2], [.55, .7], [.8, .33]]), np.array([42, 16, 8])

@pytest.mark.parametrize("crystal, expected", [(MOS2, 6), (MIRRORED, 2), (OBLIQUE, 1)], ids=["p3m1", "pm", "p1"])
def test_an_image_shows_the_symmetry_of_its_crystal(crystal, expected):
    observation = photographed(*crystal)
    cell = reduce_cell(observation.lattice.cell)[0]
    clear = [o for o in image_operations(observation, cell) if o.misfit < .05]
    assert len(clear) == expected == len(plane_operations(crystal[0], *crystal[1:]))
    hk, _, F, _ = observation.coefficients(cell)
    for o in clear: assert np.linalg.norm(F - moved(hk, F, o))/np.linalg.norm(F) < .1

def test_groups_are_closed_and_the_most_promising_is_the_crystal_s():
    observation = photographed(*MOS2)
    groups = image_groups(observation, reduce_cell(observation.lattice.cell)[0])
    assert len(groups[0].operations) == 6 and groups[0].misfit < .05
    assert {6 % len(g.operations) for g in groups if g.misfit < .05} == {0}, "orders of subgroups divide that of the group"
    assert not image_groups(photographed(*OBLIQUE), reduce_cell(photographed(*OBLIQUE).lattice.cell)[0])[:1] \
        or image_groups(photographed(*OBLIQUE), reduce_cell(photographed(*OBLIQUE).lattice.cell)[0])[0].misfit > .05

@pytest.mark.parametrize("count, sizes", [(3, [1, 2, 3, 6]), (12, [2, 4]), (5, [1]), (7, [3, 6])])
def test_partitions_are_all_ways_of_adding_up(count, sizes):
    ways = partitions(count, sizes)
    assert all(sum(w) == count and set(w) <= set(sizes) for w in ways) and len(set(ways)) == len(ways)
    assert bool(ways) == any(count == sum(c) for c in [w for w in ways]) and (ways == [] if (count, sizes) == (7, [3, 6]) else ways)

def test_each_orbit_is_what_its_operations_make_of_one_place():
    observation = photographed(*MOS2)
    cell = reduce_cell(observation.lattice.cell)[0]
    operations = image_groups(observation, cell)[0].operations
    orbits = Orbits(operations, cell, observation)
    assert set(orbits.sizes) == {1, 3, 6}
    for orbit in range(len(orbits.sizes)):
        places = orbits.places(orbit)
        assert len(places) == orbits.sizes[orbit]
        for o in operations:
            apart = np.linalg.norm(nearest_vectors((places@o.turn + o.shift)[:, None] - places)@cell, axis=-1)
            assert apart.min(1).max() < .25

@pytest.mark.parametrize("crystal, formula", [(MOS2, "MoS2"), (MIRRORED, "Mo3O2")], ids=["MoS2", "Mo3O2"])
def test_orbits_find_the_crystal_and_keep_its_symmetry(crystal, formula):
    observation = photographed(*crystal)
    cell = reduce_cell(observation.lattice.cell)[0]
    groups = image_groups(observation, cell)
    residual, frac, numbers = search_orbits(Orbits(groups[0].operations, cell, observation), composition(formula))[0]
    assert sorted(numbers) == sorted(crystal[2]) and residual < .15
    plane = min(symmetric_planes(observation, cell, composition(formula), 1, groups[:1]), key=lambda p: p.residual)
    assert plane.residual < .03 and len(plane.operations) == len(groups[0].operations)
    for turn, shift, image in plane.operations:
        assert np.abs(nearest_vectors(plane.frac@turn + shift - plane.frac[image])@cell).max() < 1e-2

def test_a_composition_that_no_orbits_make_is_left_out():
    observation = photographed(*MOS2)
    cell = reduce_cell(observation.lattice.cell)[0]
    orbits = Orbits(image_groups(observation, cell)[0].operations, cell, observation)
    orbits.sizes[:] = 6
    assert search_orbits(orbits, composition("MoS2")) == []

def test_free_directions_are_those_that_symmetry_leaves():
    operations = with_images(plane_operations(*MOS2), *MOS2[:2], MOS2[2])
    free = free_directions(operations, 3, HEXAGONAL)
    assert free.shape == (8, 2), "on threefold axes nothing moves but probe and exponent"
    assert free_directions(operations[:1], 3, HEXAGONAL) is None
    free = free_directions(plane_operations(*MIRRORED), 5, RECTANGLE)
    assert np.allclose(free.T@free, np.eye(free.shape[1]))
    assert free.shape[1] == 2 + 5, "one pair with two, one on the mirror line with one, one pair with two"

def test_a_fit_with_operations_keeps_them():
    observation = photographed(*MIRRORED)
    operations = plane_operations(*MIRRORED)
    fit = fit_positions(MIRRORED[1], MIRRORED[2], RECTANGLE, observation, operations=operations)
    for turn, shift, image in operations:
        assert np.abs(nearest_vectors(fit.frac@turn + shift - fit.frac[image])).max() < 1e-6

def test_planes_that_a_better_one_already_is_are_left_out():
    planes = solve_columns(photographed(*MOS2), "MoS2")
    assert len(different(planes + planes)) == len(planes)
    costs = [plane_cost(p) for p in planes]
    assert costs == sorted(costs) and len(planes[0].operations) == 6 and planes[0].units == 1

def test_orbits_are_sought_with_the_probe_that_columns_have():
    observation = photographed(*MOS2, noise=Noise(blur=.5, read_noise=.1))
    cell, numbers = reduce_cell(observation.lattice.cell)[0], composition("MoS2")
    groups = image_groups(observation, cell)
    found = [search_orbits(Orbits(groups[0].operations, cell, observation, variance), numbers)[0][0]
             for variance in (None, .27 + .5**2)]
    assert found[1] < .5*found[0], "a probe of the right width leaves less"
    both = [p for p in planes_of(observation, cell, numbers, 1, groups) if len(p.operations) >= 6]
    apart = nearest_vectors(both[0].frac[1] - both[0].frac[2])@cell
    assert np.linalg.norm(apart) < .2, "sulfur stands above sulfur"
