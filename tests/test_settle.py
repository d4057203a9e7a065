"Atoms that the image hardly shows, let go in the plane."
import numpy as np, pytest
from microscopygpt.crystal import Slab
from microscopygpt.energies import Potential
from microscopygpt.settle import SPRING, PlaneRelaxation, plane_springs, settle

CELL = np.array([[5., 0], [-1., 6.]])

class Wells(Potential):
    "Every atom in a well of its own around a place (Å), in eV."
    name = "wells"
    def __init__(self, places, depth): self.places, self.depth = np.asarray(places, float), depth
    def compute(self, slabs, forces):
        energies, pulls = [], []
        for s in slabs:
            away = np.c_[s.frac@s.cell, s.z] - self.places
            energies.append(.5*self.depth*(away**2).sum()/len(away))
            pulls.append(-self.depth*away)
        return energies, pulls

def slab(places, numbers):
    places = np.asarray(places, float)
    return Slab(CELL, places[:, :2]@np.linalg.inv(CELL), places[:, 2], np.asarray(numbers))

def test_springs_are_as_stiff_as_atoms_are_bright():
    k = plane_springs([1, 6, 74])
    assert k[2] == SPRING and (np.diff(k) > 0).all() and k[0] < 1e-4

@pytest.mark.parametrize("seed", range(4))
def test_pull_is_minus_the_slope_of_the_cost(seed):
    rng = np.random.default_rng(seed)
    numbers, n = rng.choice([6, 16, 42], 5), 5
    places = rng.normal(size=(n, 3))
    places -= places.mean(0)
    wells = Wells(places, 3.)
    start = slab(rng.normal(size=(n, 3)), numbers)
    step = .1*rng.normal(size=(n, 3))
    step -= step.mean(0)

    def asked(t):
        relaxation = PlaneRelaxation([start], wells)
        relaxation.slabs[0] = relaxation.moved(start, (.5 + t)*step.ravel())
        found = wells.evaluate(relaxation.slabs)
        return relaxation.pull(0, found.energies[0], found.forces[0])

    slope = (asked(1e-4)[0] - asked(-1e-4)[0])/2e-4*n
    assert slope == pytest.approx(-asked(0)[1]@step.ravel(), rel=1e-4, abs=1e-6)

def test_a_light_atom_goes_home_and_a_heavy_one_stays():
    home = np.array([[0., 0, 1], [2., 2, -1], [4, 1, 0]])
    misread = home + [[.3, 0, .2], [0, .4, -.3], [0, 0, 0]]
    found = settle([slab(misread, [74, 3, 74])], Wells(home, 2.))[0]
    at = np.c_[found.slab.frac@CELL, found.slab.z]
    assert abs(at[1] - at[2] - (home[1] - home[2]))[1] < .02 # lithium is free
    assert abs(at[0] - at[2] - (misread[0] - misread[2]))[:2].max() < .05 # tungsten is held against a well a tenth as stiff
    assert np.ptp(at[:, 2]) == pytest.approx(2, abs=.02) # heights are free for all

def test_the_slab_as_a_whole_may_shift():
    "Only differences between columns are measured."
    home = np.array([[0., 0, 0], [2., 2, 0]])
    found = settle([slab(home + [.5, .2, 0], [42, 16])], Wells(home, 1.))[0]
    assert found.slab.cell is CELL
    relative = np.diff(found.slab.frac, axis=0)@CELL
    assert np.allclose(relative, [[2, 2]], atol=.02)

def test_settling_stops_when_asked():
    class Stop(Exception): pass
    def tick(): raise Stop
    with pytest.raises(Stop): settle([slab([[0, 0, 0], [2, 2, 0]], [42, 16])], Wells([[0, 0, 0], [1, 1, 0]], 1.), tick=tick)

def test_nothing_to_settle(): assert settle([], Wells([[0, 0, 0]], 1.)) == []
