"One question on its way to an answer: which scale it is searched on, and what the model adds."
import numpy as np
import pytest

from microscopygpt.crystal import Slab, monolayer, to_slab
from microscopygpt.heights import Relaxed
from microscopygpt.micrograph import Micrograph
from microscopygpt.noise import render
from microscopygpt.observe import observe
from microscopygpt.search import Search, rising

MOSE2 = to_slab(monolayer("MoSe2"))

@pytest.fixture(scope="module")
def observation(): return observe(Micrograph(render(monolayer("MoSe2"), noise="paper", seed=1), .1, "simulated MoSe2"))

def asked(observation):
    "A search that may compute heights."
    search = Search(observation, "MoSe2", "", 32, 0, rising(None))
    search.use("chgnet")
    return search

def doubled(slab):
    "The same crystal in a cell twice as large."
    frac = np.concatenate([slab.frac/[1, 2], slab.frac/[1, 2] + [0, .5]])
    return Slab(np.diag([1, 2])@slab.cell, frac, np.tile(slab.z, 2), np.tile(slab.numbers, 2))

@pytest.mark.parametrize("order", ([0, 1], [1, 0]))
def test_a_doubled_cell_at_rest_is_no_other_scale(observation, order):
    search = asked(observation)
    search.watching = True
    slabs = [MOSE2, doubled(MOSE2)]
    found = [Relaxed(slabs[i], -6.9, .01, .01, 0., i) for i in order]
    assert not search.off_scale(found) and search.shift == 0

def test_a_plane_that_rests_at_another_size_ends_the_search(observation):
    search = asked(observation)
    search.watching = True
    found = [Relaxed(doubled(MOSE2)._replace(cell=.8*doubled(MOSE2).cell), -6.9, .01, .01, 0., 0)]
    assert search.off_scale(found) and abs(search.shift - np.log(1/.8)) < .05
