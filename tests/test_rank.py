"One judge: what is merged, what is compared with what, and what is said of it."
from dataclasses import replace
import numpy as np
import pytest
from hypothesis import given, settings, strategies as st

from microscopygpt.crystal import Slab, cell_from_lengths, to_slab
from microscopygpt.compare import alike, compare, fingerprint
from microscopygpt.heights import Relaxed
from microscopygpt.rank import (_scores_at_rest, FEATURES, JUDGES, LEAST_ODDS, LOWEST_TAUGHT, Context, Contender, confidences,
                                contender, context_of, describe, features, fit_confidence, fit_in_words,
                                merge_contenders, rank, scores)
from microscopygpt.refine import Fit, Placement, unusual_contrast
from microscopygpt.rest import Inferred, strain_between
from microscopygpt.proof import Proof, Proposal, crowding, n_operations

quick = settings(max_examples=20, deadline=None)
CELL = cell_from_lengths(3.18, 3.18, 120)
AREA = abs(np.linalg.det(CELL))
HEXAGON = np.array([[0, 0], [1/3, 2/3], [1/3, 2/3]])
H2 = Slab(CELL, HEXAGON, np.array([0, 1.56, -1.56]), np.array([42, 16, 16]))
T1 = Slab(CELL, np.array([[0, 0], [1/3, 2/3], [2/3, 1/3]]), np.array([0, 1.56, -1.56]), np.array([42, 16, 16]))

def doubled(slab):
    "The same crystal in a cell twice as large."
    cell = np.diag([1, 2])@slab.cell
    frac = np.concatenate([slab.frac/[1, 2], slab.frac/[1, 2] + [0, .5]])
    return Slab(cell, frac, np.tile(slab.z, 2), np.tile(slab.numbers, 2))

def bilayer(slab):
    "Twice as many atoms in a measured cell."
    return Slab(slab.cell, np.tile(slab.frac, (2, 1)), np.r_[slab.z - 3.1, slab.z + 3.1], np.tile(slab.numbers, 2))

def proof_of(slab, residual=.02, origin="model", votes=1, temperature=1., moved=.05, relocated=0):
    proposal = Proposal(slab, origin, 0., votes, temperature)
    placement = Placement(slab.cell, np.eye(2, dtype=int), 0., 0.)
    return Proof(proposal, slab, residual, Fit(slab.frac, .27, 1.7, residual, moved), placement, slab, crowding(slab), relocated, n_operations(slab))

def relaxed_of(slab, energy, force=.01, moved=.1): return Relaxed(slab, energy, force, .02, moved)

def made(slab=H2, energy=None, **kw):
    return contender(proof_of(slab, **kw), AREA, None if energy is None else relaxed_of(slab, energy))


# merging

def test_votes_are_those_of_the_model_at_temperature_1():
    assert made(votes=7).votes == 7
    assert made(votes=7, temperature=1.4).votes == 0 and made(votes=7, origin="columns").votes == 0

def test_one_crystal_brought_by_several_is_one_contender():
    merged = merge_contenders([made(votes=7, energy=-6.5), made(origin="columns", votes=0, energy=-6.5, residual=.021),
                               made(origin="WS2 (JVASP-1)", votes=0), made(doubled(H2), votes=3), made(T1, votes=2, energy=-6.3)])
    assert len(merged) == 2
    (first, atoms), (second, _) = merged
    assert first.votes == 10 and set(first.origins) == {"model", "columns", "WS2 (JVASP-1)"}
    assert len(first.origins) == 3 and second.votes == 2 and second.origins == ("model",)
    assert first.proof.residual == .02, "the one that fits best stands for all"
    assert atoms.num_atoms == 3

def test_what_becomes_one_crystal_at_rest_is_listed_once():
    "An arrangement that explained the image poorly falls into the one that explains it well."
    def at_rest(placed, score):
        for one in placed:
            one.inferred = Inferred(CELL, None, dict(exact=1.), 0.)
            one.proof = proof_of(H2, one.proof.residual) if one.proof.residual < .5 else one.proof
    contenders = [made(energy=-6.5), made(leaning(.6), residual=.3, energy=-6.3), made(T1, residual=.6, energy=-6.2)]
    assert len(merge_contenders(contenders)) == 3
    listed = rank(contenders, 32, place=at_rest)
    assert [c.residual for c in listed] == [.02, .6]

def test_what_differs_less_than_any_use_could_tell_is_one_answer():
    listed = rank([made(energy=-6.5), made(leaning(.15), residual=.05, energy=-6.45), made(T1, residual=.06, energy=-6.2)], 32)
    assert [round(c.residual, 2) for c in listed] == [.02, .06]

def test_what_gets_no_lattice_at_rest_keeps_its_order_below_what_does():
    "Ten contenders of which eight are placed, and the judge then thinks less of them."
    def doubt(placed, score):
        for one in placed: one.lost = True
    contenders = [made(energy=-6.5 + .05*i) for i in range(10)]
    before, after = (_scores_at_rest(contenders, 32, 5, JUDGES["energy"], how) for how in (None, doubt))
    assert (np.diff(before) < 0).all() and (np.diff(after) <= 0).all()
    assert before[8] - before[9] == pytest.approx(after[8] - after[9])

def leaning(by):
    "MoS2 whose sulphur stands off its place (Å along a)."
    return H2._replace(frac=HEXAGON + [[0, 0], [by/3.18, 0], [by/3.18, 0]])

@pytest.mark.parametrize("symmetric, stands", [(.021, 12), (.03, 12), (.06, 2)])
def test_of_descriptions_that_fit_alike_the_most_symmetric_stands_for_all(symmetric, stands):
    leans = leaning(.08)
    assert alike(fingerprint(leans), fingerprint(H2)) and n_operations(leans) == 2
    (one, atoms), = merge_contenders([made(leans, residual=.02, votes=1), made(residual=symmetric, votes=3)])
    assert one.proof.operations == stands and one.votes == 4 and atoms.num_atoms == 3

def test_among_equal_residuals_the_lowest_energy_stands_for_all():
    merged = merge_contenders([made(energy=-6.4), made(origin="columns", energy=-6.5)])
    assert len(merged) == 1 and merged[0][0].relaxed.energy == -6.5

@pytest.mark.parametrize("above, stands", [(.005, 12), (.02, 2), (None, 12)])
def test_a_saddle_does_not_stand_for_what_lies_below_it(above, stands):
    "The symmetric description is left where its energy is well above that of another (eV/atom; None: not known)."
    symmetric = made(origin="columns", energy=None if above is None else -6.5 + above)
    (one, _), = merge_contenders([made(leaning(.08), energy=-6.5), symmetric])
    assert one.proof.operations == stands and set(one.origins) == {"model", "columns"}

def test_1t_and_2h_and_their_bilayers_stay_apart():
    assert len(merge_contenders([made(H2), made(T1), made(bilayer(H2))])) == 3

@quick
@given(st.integers(0, 2**31))
def test_fingerprints_do_not_depend_on_the_description(seed):
    rng = np.random.default_rng(seed)
    order = rng.permutation(3)
    other = Slab(CELL, (H2.frac + rng.random(2))[order] % 1, (H2.z*rng.choice([1, -1]) + rng.uniform(-1, 1))[order], H2.numbers[order])
    assert np.allclose(fingerprint(H2), fingerprint(other)) and alike(fingerprint(H2), fingerprint(other))
    assert not alike(fingerprint(H2), fingerprint(T1))

def test_fingerprints_of_different_elements_are_not_alike():
    assert not alike(fingerprint(H2), fingerprint(H2._replace(numbers=np.array([42, 42, 16]))))
    assert not alike(np.zeros(3), np.zeros(4))

def test_a_primitive_cell_is_the_smallest_and_the_same_crystal():
    atoms = proof_of(doubled(H2)).primitive
    assert atoms.num_atoms == 3 and compare(proof_of(H2).atoms, atoms).solved

def test_density_is_the_atoms_in_each_measured_cell():
    assert made(H2).density == made(doubled(H2)).density == 3 and made(bilayer(H2)).density == 6


# evidence

MANY = [made(votes=7, energy=-6.5), made(T1, energy=-6.3, relocated=2, temperature=1.4), made(bilayer(H2), energy=-6.6, origin="columns"),
        made(doubled(T1), origin="WS2 (JVASP-1)"), made(T1, residual=.6, moved=1.5), made(residual=0.)]

def test_evidence_has_a_name_for_each_figure_and_is_finite():
    for asked in (0, 1, 32):
        context = context_of(MANY, asked)
        for one in MANY:
            figures = features(one, context)
            assert figures.shape == (len(FEATURES),) and np.isfinite(figures).all()
    assert all(judge.weights.shape == (len(FEATURES),) for judge in JUDGES.values()) and len(set(FEATURES)) == len(FEATURES)

def figure(one, contenders, name, asked=32): return features(one, context_of(contenders, asked))[FEATURES.index(name)]

def test_energies_are_compared_where_measured_cells_hold_equal_numbers_of_atoms():
    one, two, three, four = [made(energy=-6.5), made(T1, energy=-6.3), made(bilayer(H2), energy=-7.), made(doubled(T1), energy=-6.4)]
    all_ = [one, two, three, four]
    assert context_of(all_, 0).lowest == {3: -6.5, 6: -7.}
    assert [round(figure(c, all_, "energy"), 6) for c in all_] == [0, 2, 0, 1]

def test_a_contender_without_energy_has_none_of_its_evidence():
    one, two = made(), made(T1, energy=-6.3)
    for name in ("energy", "forces in the plane", "heights moved"): assert figure(one, [one, two], name) == 0

def test_energies_and_forces_that_are_absurd_count_no_more_than_a_limit():
    low, high = made(energy=-6.5), made(T1, energy=1e6)
    high.relaxed.plane_force = 1e6
    assert figure(high, [low, high], "energy") == 5 and figure(high, [low, high], "forces in the plane") == 2

def test_atoms_count_against_the_fewest_that_explain_as_well():
    small, large, bad = made(H2), made(bilayer(H2)), made(H2._replace(frac=H2.frac[:1], z=H2.z[:1], numbers=H2.numbers[:1]), residual=.5)
    assert context_of([small, large, bad], 0).fewest == 3
    assert figure(small, [small, large, bad], "log atoms over the fewest") == 0
    assert figure(large, [small, large, bad], "log atoms over the fewest") == pytest.approx(np.log(2))
    assert figure(made(doubled(H2)), [small], "log atoms over the fewest") == 0
    assert figure(made(doubled(H2)), [small], "log cells in the crystal's cell") == pytest.approx(np.log(2))

def test_origins_are_evidence():
    columns, template, model = made(origin="columns"), made(origin="WS2 (JVASP-1)"), made(votes=16)
    all_ = [columns, template, model]
    assert [figure(c, all_, "solved from the columns") for c in all_] == [1, 0, 0]
    assert [figure(c, all_, "in a database") for c in all_] == [0, 1, 0]
    assert figure(model, all_, "log vote share") == pytest.approx(np.log(16.5/32)) and figure(columns, all_, "log vote share") < -4

@pytest.mark.parametrize("judge", JUDGES)
@pytest.mark.parametrize("better, worse", [(dict(residual=.02), dict(residual=.3)), (dict(votes=20), dict(votes=1)), (dict(moved=.02), dict(moved=.9)),
                                           (dict(relocated=0), dict(relocated=3))], ids=["residual", "votes", "moved", "relocated"])
def test_what_speaks_for_a_contender_raises_its_score(judge, better, worse):
    one, two = made(**better), made(**worse)
    good, bad = scores([one, two], 32, JUDGES[judge])
    assert good > bad

def test_a_lower_energy_raises_the_score():
    low, high = scores([made(energy=-6.5), made(T1, energy=-6.2)], 32, JUDGES["energy"])
    assert low > high


# confidence

@given(st.lists(st.floats(-30, 30), min_size=1, max_size=8), st.sampled_from(sorted(JUDGES)))
def test_confidences_are_probabilities_in_the_order_of_the_scores(score, name):
    score = np.array(score)
    sure = confidences(score, JUDGES[name])
    assert ((sure >= 0) & (sure <= 1)).all()
    within = np.abs(score) < 15
    assert ((sure[within] > 0) & (sure[within] < 1)).all()
    order = np.argsort(score)
    assert (np.diff(sure[order]) >= 0).all()

def test_a_close_rival_takes_confidence():
    judge = JUDGES["energy"]
    assert confidences(np.array([2., 1.9]), judge)[0] < .7*confidences(np.array([2., -5.]), judge)[0]

@given(st.lists(st.floats(-30, 30), min_size=1, max_size=8), st.sampled_from(sorted(JUDGES)))
def test_confidences_of_a_micrograph_add_up_to_one_at_most(score, name):
    "Only one of its candidates can be the crystal."
    assert confidences(np.array(score), JUDGES[name]).sum() <= 1 + 1e-9

def test_far_below_all_that_taught_nothing_is_believed():
    "A wrong formula, say: scores that no fitted micrograph had."
    sure = [confidences(np.array([s]), JUDGES["energy"])[0] for s in (LOWEST_TAUGHT, LOWEST_TAUGHT - 4, LOWEST_TAUGHT - 10)]
    assert sure[0] > .2 and sure[1] < .1 and sure[2] < 1e-3


# in words

def test_an_answer_says_what_was_measured_computed_and_guessed():
    one, two = made(votes=7, energy=-6.5), made(T1, energy=-6.3)
    context = context_of([one, two], 32)
    first, second = (describe(c, 32, context, "CHGNet") for c in (one, two))
    assert "7 of 32 answers" in first and "measured: explains the image in the plane (residual 2.0 %" in first
    assert "computed: heights relaxed with CHGNet, -6.500 eV/atom, the lowest of its size" in first and "guessed" not in first
    assert "200 meV/atom above the lowest of its size" in second

@pytest.mark.parametrize("origin, source", [("model", "the model"), ("columns", "a pair potential"), ("WS2 (JVASP-1)", "a template")])
def test_heights_that_nothing_computed_are_called_guessed(origin, source):
    one = made(origin=origin)
    said = describe(one, 32, context_of([one], 32))
    assert f"guessed: heights come from {source}" in said and "computed" not in said and "measured" in said

def test_words_for_a_residual():
    assert fit_in_words(.11) == "explains the image in the plane" and fit_in_words(.13) == "explains most of the image"
    assert fit_in_words(.36) == "does not explain the image"

def test_a_bold_answer_says_its_temperature():
    one = made(temperature=1.4)
    assert "an answer at temperature 1.4" in describe(one, 32, context_of([one], 32))

def test_heights_that_the_model_wrote_over_solved_columns_say_so():
    one = replace(made(origin="columns", votes=0), origins=("columns", "model"))
    said = describe(one, 32, context_of([one], 32))
    assert "columns solved from the image, heights written by the model" in said and "heights come from the model" in said


# ranking

def test_without_contenders_there_is_no_answer(): assert rank([], 32) == []

def test_candidates_come_best_first_with_their_figures():
    ranked = rank([made(votes=20, energy=-6.5), made(T1, votes=2, energy=-6.3), made(bilayer(T1), residual=.3)], 32, potential="CHGNet")
    assert [c.score for c in ranked] == sorted((c.score for c in ranked), reverse=True)
    assert [c.confidence for c in ranked] == sorted((c.confidence for c in ranked), reverse=True)
    best = ranked[0]
    assert best.votes == 20 and best.energy == -6.5 and best.margin == 0 and best.space_group == 187 and best.formula == "MoS2"
    assert {c.margin for c in ranked if c.energy is None} == {None}
    assert all(0 < c.confidence < 1 and c.features.shape == (len(FEATURES),) for c in ranked)

def test_only_k_are_kept():
    assert len(rank([made(), made(T1), made(bilayer(H2))], 32, k=2)) == 2

def raised(by):
    "MoS2 with its sulphur farther from the metal (Å)."
    return H2._replace(z=H2.z + by*np.sign(H2.z - H2.z.mean()))

def as_written(by=.5, votes=20, energy=-5.8): return replace(made(raised(by), votes=votes, energy=energy), written=True)

def three(): return [made(votes=20, energy=-6.5), made(T1, votes=2, energy=-6.3), made(bilayer(H2), energy=-6.4)]

def test_what_most_answers_say_has_the_last_place_whatever_its_energy():
    without, listed = rank(three(), 32, k=3), rank([*three(), as_written()], 32, k=3)
    assert [c.written for c in listed] == [False, False, True]
    assert [c.atoms.num_atoms for c in listed[:2]] == [c.atoms.num_atoms for c in without[:2]]
    assert listed[-1].votes == 20 and "as the model wrote them" in listed[-1].why
    assert [c.score for c in listed] == sorted((c.score for c in listed), reverse=True)

def test_what_most_answers_say_never_takes_the_only_place():
    assert not rank([*three(), as_written()], 32, k=1)[0].written

def test_heights_as_written_near_those_computed_are_no_answer_of_their_own_nor_votes_twice():
    listed = rank([*three(), as_written(by=.05)], 32, k=3)
    assert not any(c.written for c in listed) and listed[0].votes == 20

def test_heights_as_written_are_never_relaxed_with_the_lattice():
    placed = []
    rank([*three(), as_written()], 32, k=3, place=lambda some, scores: placed.extend(some))
    assert len(placed) == 3 and not any(c.written for c in placed)

def test_heights_as_written_may_be_all_there_is():
    only, = rank([as_written()], 32, place=lambda some, scores: pytest.fail("nothing is to be placed"))
    assert only.written and only.votes == 20

def test_ranking_does_not_depend_on_the_order_of_contenders():
    make = lambda: [made(votes=20), made(T1, votes=2, residual=.03), made(bilayer(T1), residual=.3)]
    first, second = rank(make(), 32), rank(make()[::-1], 32)
    assert [c.score for c in first] == pytest.approx([c.score for c in second])
    assert [c.space_group for c in first] == [c.space_group for c in second]

def test_ranking_twice_counts_votes_once():
    contenders = [made(votes=7), made(doubled(H2), votes=3), made(T1)]
    first, second = rank(contenders, 32), rank(contenders, 32)
    assert first[0].votes == second[0].votes == 10


def test_a_judge_finds_what_counts():
    from microscopygpt.rank import RankError, confidences, fit_judge
    rng = np.random.default_rng(1)
    X, groups = rng.normal(size=(900, 3))*[1, 10, 1], np.arange(900)//6
    y = X[:, 0] + .3*rng.normal(size=900) > 1
    judge = fit_judge(X, y, groups)
    assert judge.weights[0] > 2 and abs(judge.weights[1]) < .1
    score = X@judge.weights + judge.offset
    assert score[y].mean() > score[~y].mean() + 3
    sure = np.concatenate([confidences(score[groups == g], judge) for g in range(150)])
    assert abs(sure.mean() - y.mean()) < .1
    with pytest.raises(RankError): fit_judge(X, np.ones(900, bool), groups)


# what is beyond the evidence that taught the judge

def seen_as(one, others, name):
    return features(one, context_of([one, *others], 8))[FEATURES.index(name)]

def test_fewer_atoms_than_the_image_needs_are_no_merit():
    two_layers, one_layer = made(bilayer(H2), residual=.02), made(residual=.9)
    assert seen_as(one_layer, [two_layers], "log atoms over the fewest") == 0
    assert seen_as(two_layers, [made(residual=.02)], "log atoms over the fewest") == pytest.approx(np.log(2))

def test_a_contender_that_the_potential_lost_counts_as_impossible():
    placed, lost = made(), replace(made(), lost=True)
    assert seen_as(lost, [], "log odds of the strain") == LEAST_ODDS < seen_as(placed, [], "log odds of the strain") == 0

@pytest.mark.parametrize("judge", JUDGES)
def test_what_explains_nothing_is_not_believed_for_its_votes(judge):
    energy = dict(energy=-6.5) if judge == "energy" else {}
    half, nothing = made(T1, residual=.45, votes=2, **energy), made(residual=.95, votes=20, **energy)
    ranked = rank([half, nothing], 32)
    assert ranked[0].residual == .45 and ranked[0].confidence < .6

def test_confidence_falls_with_doubt_of_the_lattice_where_doubt_was_taught():
    sure = [confidences(np.array([1., -2.]), JUDGES["energy"], doubt)[0] for doubt in (0., .5, 1.)]
    assert sure == sorted(sure, reverse=True) and sure[2] < sure[0] - .1
    assert JUDGES["image"].confidence[3] == 0, "without a potential no lattice is inferred"

def test_doubt_is_weighed_by_what_became_of_the_doubtful():
    "Micrographs of one score, half of them in doubt: there one in three is solved, else nine in ten."
    rng = np.random.default_rng(0)
    doubt = np.repeat([0., 1.], 400)
    solved = rng.random(800) < np.where(doubt, 1/3, .9)
    numbers = fit_confidence(np.full(800, 1.5), solved, np.arange(800), doubt)
    judge = JUDGES["energy"]._replace(confidence=numbers)
    assert confidences(np.array([1.5]), judge)[0] == pytest.approx(.9, abs=.05)
    assert confidences(np.array([1.5]), judge, 1.)[0] == pytest.approx(1/3, abs=.05)

@pytest.mark.parametrize("power, steps", [(1.1, 0), (1.7, 0), (2.1, 0), (2.8, 1.4), (.3, 1.6)])
def test_an_unusual_contrast_counts_against_a_contender(power, steps):
    assert unusual_contrast(power) == pytest.approx(steps)
    assert all(judge.weights[FEATURES.index("unusual contrast")] < 0 for judge in JUDGES.values())

def resting(factor, exact=.9):
    "Gives contenders their lattice at rest, which is larger by a factor than the measured one."
    def place(some, scores):
        for one in some:
            strain = strain_between(one.proof.slab.cell, factor*one.proof.slab.cell)
            one.inferred = Inferred(one.proof.slab.cell, strain, dict(exact=exact, unscaled=1 - exact, raw=0.), 0.)
    return place

@pytest.mark.parametrize("factor, exact, first", ((.9, .9, True), (1.1, .9, True), (.97, .9, False), (.9, .4, False)))
def test_heights_as_written_come_first_where_the_potential_misjudges_the_size(factor, exact, first):
    said = [made(votes=20, energy=-6.5), as_written(energy=-6.3)]
    listed = rank(said, 32, k=3, place=resting(factor, exact))
    assert [c.written for c in listed] == ([True, False] if first else [False, True])
    assert all(a.score >= b.score for a, b in zip(listed, listed[1:]))
    if first: assert listed[0].inferred.cell == pytest.approx(listed[0].proof.placed.cell), "in the size that was measured"

def test_what_most_answers_say_does_not_come_before_another_crystal():
    "The potential misjudges a crystal that few answers describe: that tells nothing of what most of them say."
    listed = rank([made(T1, votes=3, energy=-7.5), as_written(votes=20)], 32, k=3, place=resting(.9))
    assert not listed[0].written

def test_heights_of_an_absurd_energy_do_not_come_first():
    assert not rank([made(votes=20, energy=-6.5), as_written(energy=-6.2)], 32, k=3, place=resting(.9))[0].written

def test_a_potential_that_misjudges_costs_no_confidence():
    both = [made(votes=20, energy=-6.5), as_written(energy=-6.3)]
    sums = [sum(c.confidence for c in rank(both, 32, k=3, place=resting(factor))) for factor in (.97, .9)]
    assert sums[1] == pytest.approx(sums[0], abs=.15)
