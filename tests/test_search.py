"One question on its way to an answer: which scale it is searched on, and what the model adds."
from dataclasses import replace
import numpy as np
import pytest
from crystals import MOS2, photo

from microscopygpt.compact import ModelError
from microscopygpt.core import rising
from microscopygpt.chat import make_prompt
from microscopygpt.compare import compare
from microscopygpt.crystal import Slab, monolayer, to_slab
from microscopygpt.height_search import find_heights
from microscopygpt.heights import Relaxed
from microscopygpt.micrograph import Micrograph
from microscopygpt.model import load_model
from microscopygpt.noise import render
from microscopygpt.observe import observe
from microscopygpt.planes import solve_columns
from microscopygpt.proof import Proposal
from microscopygpt.rank import contender, merge_contenders, rank_merged
from microscopygpt.search import BOLDER, ON_TOP, Search
from microscopygpt.settle import SETTLE_PLAN
from microscopygpt.scan import RAW_NOISE, SCANS, Scan
from microscopygpt.straighten import observe_scan

MOSE2 = to_slab(monolayer("MoSe2"))
T1 = to_slab(monolayer("MoSe2", "1T"))

@pytest.fixture(scope="module")
def observation(): return observe(Micrograph(render(monolayer("MoSe2"), noise="paper", seed=1), .1, "simulated MoSe2"))

def asked(observation):
    "A search that may compute heights."
    search = Search(observation, "MoSe2", make_prompt("MoSe2"), 32, 0, rising(None))
    search.use("chgnet")
    return search

@pytest.mark.parametrize("votes, kept", ((20, [True]), (16, [])))
def test_what_most_answers_say_is_kept_as_it_was_written(observation, votes, kept):
    search = asked(observation)
    search.asked = 32
    thick = MOSE2._replace(z=1.3*MOSE2.z)
    search.add_answers(search.prove([Proposal(thick, votes=votes)], .1, .2))
    computed, *written = search.contenders
    assert [c.written for c in written] == kept and not computed.written
    for c in written:
        assert np.allclose(np.ptp(c.proof.slab.z), np.ptp(thick.z), atol=.02)
        assert c.relaxed.energy > computed.relaxed.energy + .05

def doubled(slab):
    "The same crystal in a cell twice as large."
    frac = np.concatenate([slab.frac/[1, 2], slab.frac/[1, 2] + [0, .5]])
    return Slab(np.diag([1, 2])@slab.cell, frac, np.tile(slab.z, 2), np.tile(slab.numbers, 2))

@pytest.mark.parametrize("order", ([0, 1], [1, 0]))
def test_a_doubled_cell_at_rest_is_no_other_scale(observation, order):
    search = asked(observation)
    slabs = [MOSE2, doubled(MOSE2)]
    found = [Relaxed(slabs[i], -6.9, .01, .01, 0., i) for i in order]
    assert not search.off_scale(found) and search.shift == 0

def test_a_plane_that_rests_at_another_size_ends_the_search(observation):
    search = asked(observation)
    found = [Relaxed(doubled(MOSE2)._replace(cell=.8*doubled(MOSE2).cell), -6.9, .01, .01, 0., 0)]
    assert search.off_scale(found) and abs(search.shift - np.log(1/.8)) < .05

def over(plane):
    "Heights over a plane, as if they were computed."
    return [Relaxed(Slab(plane.cell, plane.frac, 0.*plane.numbers, plane.numbers), -6.9, .01, .01, 0., 0)]

@pytest.mark.parametrize("scan, noise, doubted", ((Scan(), "paper", False), (SCANS["raw"], RAW_NOISE, True)), ids=["clean", "raw"])
def test_only_an_image_that_does_not_look_clean_has_its_size_doubted_early(scan, noise, doubted):
    "A drifting scan with an elliptic probe is that of a microscope, whose scale may be wrong."
    seen = observe_scan(photo(MOS2, scan, noise))
    plane = solve_columns(seen, "MoS2")[0]
    search = Search(seen, "MoS2", "", 32, 0, rising(None))
    assert not search.doubts_size(plane, over(plane)), "nobody asks for it"
    search.watching = True
    assert search.doubts_size(plane, over(plane)) == doubted and not search.doubts_size(plane, [])
    search.observation = replace(seen, scaled=False)
    assert search.doubts_size(plane, over(plane)), "where no file tells a size it is always in doubt"

def searches_of(observation, most):
    "For each plane, whether something was expected of its heights; and whether most answers and columns agreed."
    search, expected, compute = asked(observation), [], Search.compute
    def counted(how, what, **options):
        if how is find_heights: expected.append(options["expected"] is not None)
        return compute(search, how, what, **options)
    search.compute = counted
    search.add_columns(search.solve_planes(0., .2), .2, 1., None, most(search))
    return expected, search.agreed

def test_planes_that_most_answers_say_too_need_less_search(observation):
    assert searches_of(observation, lambda search: search.prove([Proposal(MOSE2, votes=30)], 0, 1)) == ([True], True)
    alone = searches_of(observation, lambda search: [])
    assert searches_of(observation, lambda search: search.prove([Proposal(T1, votes=30)], 0, 1)) == alone
    assert not any(alone[0]) and not alone[1]

def test_lower_heights_than_those_that_most_answers_say_ask_for_more_search(observation):
    "Selenium far too near to the metal, which a relaxation does not mend: both sides of it in one layer."
    flat = MOSE2._replace(z=np.where(MOSE2.numbers == 42, 1.2, np.sign(MOSE2.z)*.05))
    expected, agreed = searches_of(observation, lambda search: search.prove([Proposal(flat, votes=30)], 0, 1))
    assert expected[0] and not agreed

class Asked:
    "A model that remembers at which temperatures it was asked, and answers like another one."
    def __init__(self, vlm): self.vlm, self.temperatures = vlm, []
    def generate(self, *what, **options):
        self.temperatures.append(options["temperature"])
        return self.vlm.generate(*what, **options)

def test_where_answers_and_columns_agree_the_model_is_asked_once(observation):
    search, vlm = asked(observation), Asked(load_model("compact"))
    found = search.run(("columns", "model"), vlm, [], 50)
    assert search.agreed and vlm.temperatures == [1.]
    assert compare(monolayer("MoSe2"), found[0].atoms).solved
    alone, vlm = asked(observation), Asked(load_model("compact"))
    alone.run(("model",), vlm, [], 50)
    assert vlm.temperatures == [1., BOLDER]

def test_more_than_half_of_the_answers_are_most(observation):
    search = asked(observation)
    search.asked = 32
    proofs = search.prove([Proposal(MOSE2, votes=17), Proposal(T1, votes=16)], 0, 1)
    assert search.said_by_most(proofs) == proofs[:1] and search.said_by_most(proofs[1:]) == []

class Dumb:
    "A model that cannot answer."
    def generate(self, *_, **options): raise ModelError("it is dumb")

def test_a_model_that_fails_is_no_loss_where_others_propose(observation):
    search = asked(observation)
    assert search.run(("columns", "model"), Dumb(), [], 3) and "it is dumb" in search.notes
    with pytest.raises(ModelError, match="dumb"): asked(observation).run(("model",), Dumb(), [], 3)

def test_beside_a_potential_the_model_writes_no_heights(observation):
    search, vlm = asked(observation), load_model("compact")
    assert search.write_heights(solve_columns(observation, "MoSe2")[0], None) == [], "without a model nothing is written"
    search.add_columns(search.solve_planes(0., .2), .2, 1., vlm)
    assert all(c.relaxed and c.origins == ("columns",) for c in search.contenders)
    assert any(compare(monolayer("MoSe2"), c.proof.atoms).solved for c in search.contenders)

def test_without_a_potential_the_model_guesses_heights(observation):
    search = Search(observation, "MoSe2", "", 32, 0, rising(None))
    plane = solve_columns(observation, "MoSe2")[0]
    written = search.write_heights(plane, load_model("compact"))
    search._add_plane(plane, [], 1, written)
    assert len(search.contenders) == len(written) and not any(c.relaxed for c in search.contenders)
    assert compare(monolayer("MoSe2"), search.contenders[0].proof.atoms).solved
    search._add_plane(plane, [], 1, [])
    assert len(search.contenders) > len(written), "without a model a pair potential guesses"

def test_only_as_many_arrangements_settle_as_are_followed(observation):
    search, seen = asked(observation), []
    search.compute = lambda how, slabs, **options: seen.append(slabs) or []
    found = [Relaxed(slab, -i/10, .01, 1., 0., i) for slab in (MOSE2, doubled(MOSE2)) for i in range(8)]
    search.add_settled(found)
    assert len(seen[0]) == SETTLE_PLAN[0][0] < 12

def among(search, energies):
    "Contenders of a search with the energies that are given, and none where it is None."
    proofs = search.prove([Proposal(MOSE2), Proposal(T1), Proposal(doubled(T1))], 0, 1)
    for proof, energy in zip(proofs, energies):
        relaxed = None if energy is None else Relaxed(proof.placed, energy, .01, .01, 0.)
        search.contenders.append(contender(proof, search.area, relaxed))
    return merge_contenders(search.contenders)

def test_what_is_promising_gets_an_energy(observation):
    search = asked(observation)
    given = search.give_energies(among(search, (-6.5, None)), 5)
    energies = {compare(monolayer("MoSe2"), atoms).solved: one.relaxed.energy for one, atoms in given}
    assert energies[True] == -6.5, "a known energy stays"
    assert -6.5 < energies[False] < -5.5, "1T lies above 2H by some tenths of an eV"

def test_an_energy_that_cannot_be_computed_stays_unknown(observation):
    search = asked(observation)
    merged = among(search, (-6.5, None))
    tried = []
    search.compute = lambda how, slabs, **options: tried.append(slabs) or []
    assert [one.relaxed is None for one, _ in search.give_energies(merged, 5)].count(True) == 1
    assert len(tried) == 1, "and is not tried again"

def test_what_another_scale_brought_is_proposed_on_this_one(observation):
    search = asked(observation)
    wrong = observe(Micrograph(render(monolayer("MoSe2"), noise="paper", seed=1), .11, "a wrong scale"))
    other = asked(wrong)
    merged = among(other, (-6.5, -6.2))
    found = rank_merged(merged, 0)
    search.carry(other, found)
    search.add_known(search.prove(search.carried, 0, 1))
    assert any(compare(monolayer("MoSe2"), c.proof.atoms).solved for c in search.contenders), "on the right scale again"
    assert all(c.votes == 0 for c in search.contenders), "votes are not counted twice"
    assert len(search.contenders) == len(found)

def test_a_crystal_that_was_pressed_together_is_no_answer(observation):
    search = asked(observation)
    among(search, (-6.5, -6.4, -6.3))
    def press(contenders, scores):
        for one in contenders[1:]: one.proof = replace(one.proof, crowding=ON_TOP/2)
    search.place = press
    assert len(search.run(("model",), None, [], 5)) == 1
