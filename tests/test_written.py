"Heights that the model writes over solved columns."
import numpy as np
import pytest
import torch
from hypothesis import given, settings, strategies as st

from microscopygpt.compact import END, PAD, START, VOCABULARY, token_id
from microscopygpt.crystal import Slab, canonical, cell_from_lengths, equivalent_bases, monolayer, to_slab
from microscopygpt.micrograph import Micrograph
from microscopygpt.model import load_model
from microscopygpt.noise import render
from microscopygpt.observe import observe
from microscopygpt.written import PlaneGrammar, atoms_left, plane_words, words_allowed, write_heights

MOSE2 = canonical(to_slab(monolayer("MoSe2")))
quick = settings(max_examples=25, deadline=None)

@pytest.fixture(scope="module")
def observation(): return observe(Micrograph(render(monolayer("MoSe2"), noise="paper", seed=1), .1, "simulated MoSe2"))

@pytest.fixture(scope="module")
def vlm(): return load_model("compact")

def random_plane(rng):
    "Up to eight atoms of two elements at random places, some of them above each other."
    units = rng.integers(1, 4)
    numbers = np.repeat([42, 34], [units, 2*units])
    frac = rng.random((3*units, 2))
    if rng.random() < .5: frac[-1] = frac[-2]
    return Slab(cell_from_lengths(*rng.uniform(3, 8, 2), rng.uniform(90, 120)), frac, np.zeros(3*units), numbers)

def answered(plane, rng):
    "A random answer that the grammar lets through."
    row = [START]
    while row[-1] != END: row.append(int(rng.choice(words_allowed(plane, row))))
    return row

@quick
@given(st.integers(0, 2**31))
def test_every_answer_names_every_column_once(seed):
    rng = np.random.default_rng(seed)
    slab = random_plane(rng)
    bases = equivalent_bases(slab.cell)
    plane = plane_words(slab, bases[rng.integers(len(bases))], 0)
    row = answered(plane, rng)
    lines = np.array(row[5:-1]).reshape(-1, 4)
    assert sorted(map(tuple, lines[:, :3].tolist())) == sorted(map(tuple, plane.atoms.tolist()))
    assert row[1:5] == plane.lattice.tolist() and not atoms_left(plane, row[:-1])
    assert list(words_allowed(plane, [*row, PAD])) == [END], "a finished row stays finished while others go on"

def test_the_grammar_masks_row_by_row():
    planes = [plane_words(MOSE2, np.eye(2, dtype=int), 0), plane_words(MOSE2._replace(frac=MOSE2.frac[:, ::-1]), np.eye(2, dtype=int), 0)]
    begun = [[START, *p.lattice, *p.atoms[0], token_id["-0.2"], token_id["Se"]] for p in planes]
    scores = PlaneGrammar(planes)(torch.tensor(begun), torch.zeros(2, len(VOCABULARY)))
    allowed = [{VOCABULARY[i] for i in torch.nonzero(row == 0)[:, 0].tolist()} for row in scores]
    assert allowed == [{"0.33"}, {"0.67"}] or allowed == [{"0.67"}, {"0.33"}]

def test_the_heights_of_a_known_crystal_are_written(vlm, observation):
    written = write_heights(vlm, observation, MOSE2._replace(z=np.zeros(3)))
    assert np.abs(np.sort(written[0]) - np.sort(MOSE2.z)).max() < .15
    again = write_heights(vlm, observation, MOSE2._replace(z=np.zeros(3)))
    assert np.array_equal(written, again), "the same seed writes the same"

def test_heights_belong_to_their_atoms_in_any_order(vlm, observation):
    order = np.array([2, 0, 1])
    turned = Slab(MOSE2.cell, (MOSE2.frac[order] + [.37, .81]) % 1, np.zeros(3), MOSE2.numbers[order])
    z = write_heights(vlm, observation, turned)[0]
    assert abs(z[turned.numbers == 42][0]) < .15 and np.abs(np.sort(z[turned.numbers == 34]) - [-1.67, 1.67]).max() < .2

def test_more_atoms_than_the_model_can_write(vlm, observation):
    large = Slab(5*MOSE2.cell, np.random.default_rng(0).random((27, 2)), np.zeros(27), np.repeat([42, 34], [9, 18]))
    assert write_heights(vlm, observation, large).shape == (0, 27)
