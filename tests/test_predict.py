"The main job on simulated micrographs that the model was not trained on, and what it makes of trouble."
import json, os
from pathlib import Path
from types import SimpleNamespace
import numpy as np, pytest
from microscopygpt.chat import make_prompt, parse_answer
from microscopygpt.crystal import FormulaError, parse_formula
from microscopygpt.compare import compare
from microscopygpt.structure_files import read_crystal
from microscopygpt.data import split_of
from microscopygpt.observe import Imaging, observe
from microscopygpt.micrograph import Micrograph
from microscopygpt.compact import CompactVLM, ModelError, weights_folder
from microscopygpt.model import load_model
from microscopygpt.energies import Potential, PotentialError
from microscopygpt.search import PROPOSERS, PredictError
from microscopygpt.prediction import heights_of, proposers_of
from microscopygpt.propose import guess
from microscopygpt.solve import PATIENCE, STOPPED, Attempt, ScaleTrials, predict, second_attempt
from microscopygpt.proof import Proposal, prove
from microscopygpt.scan import Scan, scan_image
from microscopygpt.noise import render

UNSEEN = {"MoSe2": "3.32 3.32 18.34\n90 90 120\nMo 0 0 .5\nSe .33333 .66667 .59106\nSe .33333 .66667 .40894",
          "HfSe2": "3.77 3.77 18.16\n90 90 120\nHf 0 0 .5\nSe .33333 .66667 .587\nSe .66667 .33333 .413",
          "P": "3.306 4.631 17.13\n90 90 90\nP 0 .0897 .5616\nP .5 .4103 .5616\nP 0 .9103 .4384\nP .5 .5897 .4384"}

QUICK = dict(propose="model", heights=None) # for tests whose point is neither who proposes nor heights

def micrograph(formula, seed=0, **kw): return Micrograph(render(parse_answer(UNSEEN[formula]), seed=seed, **kw), kw.get("pixel_size", .1))

@pytest.mark.parametrize("formula", ["MoSe2", "HfSe2"])
@pytest.mark.parametrize("pixel_size", [.085, .1, .125])
def test_unseen_materials_are_solved(formula, pixel_size):
    assert split_of(formula) == "test"
    prediction = predict(micrograph(formula, seed=4, pixel_size=pixel_size), formula, templates=None, k=1)
    assert prediction.explained and compare(parse_answer(UNSEEN[formula]), prediction.best.atoms).solved

def test_the_lattice_is_exact():
    best = predict(micrograph("MoSe2"), "MoSe2", k=1, **QUICK).best
    assert abs(best.atoms.lattice.abc[0]/3.32 - 1) < 1e-3

def test_the_crystal_may_be_larger_than_the_period_seen():
    observation = observe(micrograph("P", seed=1))
    assert abs(np.linalg.det(observation.lattice.cell))*2 == pytest.approx(3.306*4.631, rel=5e-3)
    from microscopygpt.crystal import to_slab
    proof = prove(Proposal(to_slab(parse_answer(UNSEEN["P"]))), observation)
    assert compare(parse_answer(UNSEEN["P"]), proof.atoms).tight

def test_the_same_seed_gives_the_same_answer(tmp_path):
    first, second = (predict(micrograph("MoSe2"), "MoSe2", k=3, seed=7, **QUICK).as_dict() for _ in range(2))
    assert first == second

def test_k_candidates_are_written_and_read_back(tmp_path):
    prediction = predict(micrograph("MoSe2"), "MoSe2", templates=None, k=5)
    prediction.write(tmp_path)
    assert 3 <= len(list(tmp_path.glob("rank_*.cif"))) == len(prediction.candidates) <= 5
    facts = json.loads((tmp_path/"prediction.json").read_text())
    assert facts["seed"] == 0 and facts["candidates"][0]["confidence"] == prediction.best.confidence
    assert compare(prediction.best.atoms, read_crystal(tmp_path/"rank_1.cif")).rmsd < .01
    assert (tmp_path/"report.png").stat().st_size > 10_000

def test_scores_fall_with_rank():
    scores = [c.score for c in predict(micrograph("HfSe2"), "HfSe2", templates=None).candidates]
    assert scores == sorted(scores, reverse=True)

def test_a_formula_too_large_for_the_model_is_named():
    with pytest.raises(ModelError, match="at most 24"): predict(micrograph("MoSe2"), "W6CCl18", propose="model")

def test_a_guess_needs_no_image():
    assert all(a.composition.reduced_formula == "MoSe2" for a in guess("MoSe2", k=3))

@pytest.mark.parametrize("formula", ["MoS2", "C", "CrI3", "WSe2", "Nb3Br8", "NaCl", "AlBiBr6"])
def test_answers_from_random_weights_parse(formula):
    from microscopygpt.compact import CompactConfig, CompactModel
    toy = CompactConfig(d_model=32, encoder_layers=1, decoder_layers=1, encoder_ffn_dim=64, decoder_ffn_dim=64, encoder_attention_heads=2, decoder_attention_heads=2)
    for answer in CompactVLM(CompactModel(toy)).generate([None], [make_prompt(formula)], k=4)[0]:
        counts = parse_answer(answer.text, formula).composition.to_dict()
        assert set(counts) == set(parse_formula(formula))

def test_a_damaged_model_is_named(tmp_path):
    (tmp_path/"config.json").write_bytes((weights_folder()/"compact"/"config.json").read_bytes())
    (tmp_path/"model.safetensors").write_bytes((weights_folder()/"compact"/"model.safetensors").read_bytes()[:1000])
    with pytest.raises(ModelError, match="cannot be read"): load_model(tmp_path)

REAL = Path(os.environ.get("MICROSCOPYGPT_DATA") or "/nowhere")/".."/"images"

@pytest.mark.skipif(not (REAL/"graphene.png").is_file(), reason="the experimental images are not beside MICROSCOPYGPT_DATA")
def test_experimental_graphene():
    "Pixel size from the first Fourier ring of the image and the known lattice."
    from microscopygpt.crystal import space_group
    best = predict(REAL/"graphene.png", "C", .0664, templates=None).best
    assert best.atoms.lattice.abc[0] == pytest.approx(2.464, rel=.03) and space_group(best.atoms) == 191

def test_progress_rises_and_ends_at_one():
    heard = []
    predict(micrograph("MoSe2"), "MoSe2", templates=None, k=1, progress=lambda done, what: heard.append((done, what)))
    done = [d for d, _ in heard]
    assert done[0] == 0 and done[-1] == 1 and done == sorted(done) and len(heard) > 5
    for word in ("measuring", "potential", "solving", "relaxing", "asking", "proving"): assert any(word in what for _, what in heard), word

@pytest.mark.parametrize("after", [0, 1, 3, 5])
def test_stopped_from_its_progress_it_leaves_nothing_behind(after):
    class Stop(Exception): "Somebody pressed a button."
    def progress(done, what, calls=[]):
        calls.append(what)
        if len(calls) > after: raise Stop()
    again = lambda: predict(micrograph("MoSe2"), "MoSe2", k=3, seed=7, **QUICK).as_dict()
    with pytest.raises(Stop): predict(micrograph("MoSe2"), "MoSe2", k=1, progress=progress, **QUICK)
    assert again() == again()

@pytest.mark.parametrize("options", [dict(templates=None), dict(k=2, seed=5, **QUICK), dict(imaging=Imaging(distortion=.03, contrast_exponent=1.6), **QUICK),
    dict(prompt=make_prompt("MoSe2", 0) + " Two layers of Se.", **QUICK), dict(propose=("columns",), heights=None, model=None)], ids=str)
def test_the_code_of_a_prediction_gives_it_again(options):
    picture = micrograph("MoSe2")
    prediction, names = predict(picture, "MoSe2", **options), dict(picture=picture)
    exec(prediction.code("picture"), names)
    assert names["prediction"].as_dict() == prediction.as_dict()

def test_drift_is_corrected_when_it_may_be():
    from scipy.ndimage import affine_transform
    picture = affine_transform(render(parse_answer(UNSEEN["MoSe2"]), seed=2, size=300), [[1.03, .01], [0, 1]], order=3, mode="reflect")[:256, :256]
    prediction = predict(Micrograph(picture, .1), "MoSe2", k=1, imaging=Imaging(distortion=.04), **QUICK)
    assert prediction.lattice.gamma == pytest.approx(120) and prediction.best.space_group == 187 and any("corrected" in w for w in prediction.warnings)
    a = parse_answer(UNSEEN["MoSe2"]).lattice.abc[0]
    assert prediction.best.atoms.lattice.abc[0] == pytest.approx(a, rel=.02)

def test_a_named_lattice_is_believed_when_the_image_allows_it():
    named = predict(micrograph("MoSe2"), prompt=make_prompt("MoSe2", 0), k=1, **QUICK)
    assert named.lattice.gamma == pytest.approx(120, abs=1e-9)
    contradicted = predict(micrograph("MoSe2"), prompt=make_prompt("MoSe2", 1), k=1, **QUICK)
    assert any("named square" in w for w in contradicted.warnings)

def test_a_formula_of_much_smaller_atoms_is_doubted():
    assert any("as far apart" in w for w in predict(micrograph("MoSe2"), "BN", k=1, **QUICK).warnings)

def test_the_pictures_of_a_prediction():
    prediction = predict(micrograph("MoSe2"), "MoSe2", k=3, **QUICK)
    assert len(prediction.plot_fit(1).axes) == 3 and len(prediction.plot(2).axes) == 5 and len(prediction.plot_residuals().axes[0].patches) == len(prediction.candidates)

@pytest.mark.skipif(not (REAL/"FeTe.png").is_file(), reason="the experimental images are not beside MICROSCOPYGPT_DATA")
@pytest.mark.parametrize("name, formula, pixel_size", [("graphene", "C", .0664), ("MoS2", "MoS2", .0738), ("FeTe", "FeTe", .0533)])
def test_experimental_images_are_solved_once_distortion_is_admitted(name, formula, pixel_size):
    best = predict(REAL/f"{name}.png", formula, pixel_size, templates=None, imaging=Imaging(distortion=.03)).best
    assert compare(read_crystal(REAL/f"POSCAR-{name}"), best.atoms).solved

@pytest.mark.skipif(not (REAL/"MoS2.png").is_file(), reason="the experimental images are not beside MICROSCOPYGPT_DATA")
def test_experimental_mos2_once_distortion_is_admitted():
    best = predict(REAL/"MoS2.png", "MoS2", .0738, templates=None, imaging=Imaging(distortion=.03)).best
    assert compare(read_crystal(REAL/"POSCAR-MoS2"), best.atoms).solved and best.space_group == 187

# ---- who proposes, and what computes heights

@pytest.fixture(scope="module")
def computed():
    "Columns and model, heights from the default potential."
    return predict(micrograph("MoSe2"), "MoSe2", templates=None, k=3)

def heights_notes(prediction): return [w for w in prediction.warnings if w.startswith("Heights were not computed")]

def test_an_answer_says_what_was_computed(computed):
    best, first = computed.best, computed.as_dict()["candidates"][0]
    assert best.why.startswith("columns solved from the image") and "heights relaxed with chgnet" in best.why and "guessed" not in best.why
    assert proposers_of(best) == ("columns", "model") and heights_of(best) == "lowest of its size" and best.margin == 0
    assert computed.potential() == "chgnet" and computed.proposers() == ["columns", "model"] and not heights_notes(computed)
    assert (first["energy_ev_per_atom"], first["margin_ev_per_atom"], first["votes"]) == (best.energy, best.margin, best.votes)

def test_an_answer_says_what_was_inferred(computed):
    facts = json.loads(json.dumps(computed.as_dict(), allow_nan=False))
    scan, first = facts["scan"], facts["candidates"][0]
    assert scan["drift_undone_angstrom"] == 0 and scan["pixel_size_told"] == .1 and scan["pixel_size_inferred"] == pytest.approx(.1, rel=2e-3)
    assert np.array(scan["probe_elongation"]).shape == (2, 2) and np.abs(scan["probe_elongation"]).max() < .02
    assert [first["lattice_measured"][name] for name in ("a", "b", "gamma")] == pytest.approx([3.32, 3.32, 120], rel=2e-3)
    assert abs(first["strain_scale"]) < .02 and 0 <= first["strain_shape"] < .01
    assert set(first["instrument"]) == {"exact", "unscaled", "raw"} and sum(first["instrument"].values()) == pytest.approx(1)
    assert first["instrument"]["exact"] > .9 and not any("seems" in w or "sheared" in w for w in computed.warnings)

def test_the_same_seed_gives_the_same_heights(computed):
    assert predict(micrograph("MoSe2"), "MoSe2", templates=None, k=3).as_dict() == computed.as_dict()

def test_without_a_potential_heights_are_guessed():
    prediction = predict(micrograph("MoSe2"), "MoSe2", templates=None, heights=None, k=3)
    for c, plain in zip(prediction.candidates, prediction.as_dict()["candidates"]):
        assert "guessed: heights come from" in c.why and "computed" not in c.why and c.energy is None and c.margin is None
        assert plain["strain_scale"] is plain["strain_shape"] is plain["instrument"] is None and plain["lattice_measured"]["a"] == pytest.approx(3.32, rel=5e-3)
        assert plain["heights"] == "guessed" and plain["energy_ev_per_atom"] is None and heights_of(c) == "heights guessed"
    assert prediction.pixel_size_inferred is None and prediction.as_dict()["scan"]["pixel_size_told"] == .1
    assert prediction.potential() is None and prediction.as_dict()["heights"] is None and "chgnet" not in prediction.as_dict()["versions"]
    assert compare(parse_answer(UNSEEN["MoSe2"]), prediction.best.atoms).solved and not heights_notes(prediction)

@pytest.mark.parametrize("who, origins", [("columns", ["columns"]), ("model", ["model"]), (("model", "columns"), ["columns", "model"])], ids=str)
def test_only_those_who_are_named_propose(who, origins):
    prediction = predict(micrograph("MoSe2"), "MoSe2", propose=who, heights=None)
    assert {o for c in prediction.candidates for o in c.origins} == set(origins) == set(prediction.proposers())

def test_templates_alone():
    from microscopygpt.crystal import canonical, standardize, to_slab
    from microscopygpt.data import Crystal
    relative = parse_answer(UNSEEN["MoSe2"].replace("Mo", "W"))
    crystals = [Crystal("1", "by hand", "WSe2", canonical(to_slab(standardize(relative))))]
    prediction = predict(micrograph("MoSe2"), "MoSe2", propose="templates", templates=crystals, heights=None)
    assert prediction.model == "no model" and prediction.proposers() == ["templates"] and prediction.best.origins == ("WSe2 (1)",)
    assert proposers_of(prediction.best) == ("templates",) and "guessed: heights come from a template" in prediction.best.why
    assert "templates=crystals" in prediction.code() and prediction.as_dict()["candidates"][0]["origins"] == ["WSe2 (1)"]

@pytest.mark.parametrize("who", ["psychic", (), "", None, ("model", "magic"), "columns,model"])
def test_an_unknown_proposer_is_named(who):
    with pytest.raises(PredictError, match=", ".join(PROPOSERS)): predict(micrograph("MoSe2"), "MoSe2", propose=who)

@pytest.mark.parametrize("formula", ["RnSe2", "PoSe2"])
def test_an_element_that_the_potential_does_not_know(formula):
    prediction = predict(micrograph("MoSe2"), formula, propose="columns", k=2)
    notes = heights_notes(prediction)
    assert len(notes) == 1 and formula[:2] in notes[0] and "chgnet" in notes[0]
    assert prediction.candidates and all("guessed" in c.why and c.energy is None for c in prediction.candidates)

class Broken(Potential):
    "A potential that fails after a number of evaluations."
    name = "broken"
    def __init__(self, how, good=0): self.how, self.good = how, good

    def compute(self, slabs, forces):
        self.good -= 1
        if self.good < 0 and self.how == "raises": raise PotentialError("broken cannot go on.")
        energy = np.nan if self.good < 0 and self.how == "nan" else -1.
        return [energy]*len(slabs), [np.ones((len(s.z), 3))*np.arange(len(s.z))[:, None] for s in slabs]

@pytest.mark.parametrize("how", ["raises", "nan"])
@pytest.mark.parametrize("good", [0, 3])
def test_a_potential_that_fails_costs_the_heights_and_nothing_else(how, good):
    prediction = predict(micrograph("MoSe2"), "MoSe2", templates=None, heights=Broken(how, good), k=3)
    notes = heights_notes(prediction)
    assert len(notes) == 1 and "broken" in notes[0]
    assert prediction.explained and {"columns", "model"} <= {o for c in prediction.candidates for o in c.origins}
    assert compare(parse_answer(UNSEEN["MoSe2"]), prediction.best.atoms).solved

def test_a_potential_whose_energies_are_all_infinite_computes_nothing():
    class Infinite(Broken):
        def compute(self, slabs, forces): return [np.inf]*len(slabs), [np.zeros((len(s.z), 3)) for s in slabs]
    prediction = predict(micrograph("MoSe2"), "MoSe2", templates=None, heights=Infinite(""), k=2)
    assert prediction.explained and prediction.potential() is None and all("guessed" in c.why for c in prediction.candidates)

def test_a_calculator_computes_heights():
    from ase.calculators.lj import LennardJones
    options = dict(propose="columns", heights=LennardJones(sigma=2.3, epsilon=.5, rc=6.), k=2)
    picture = micrograph("MoSe2")
    prediction = predict(picture, "MoSe2", **options)
    assert "relaxed with LennardJones" in prediction.best.why and np.isfinite(prediction.best.energy)
    assert prediction.as_dict()["heights"] == "lennardjones" and "heights=calculator" in prediction.code("picture")
    names = dict(picture=picture, calculator=options["heights"])
    exec(prediction.code("picture"), names)
    assert names["prediction"].as_dict() == prediction.as_dict()

@pytest.mark.parametrize("ticks", [0, 4])
def test_stopped_in_the_middle_of_heights(ticks, computed):
    class Stop(Exception): "Somebody pressed a button."
    heard = []
    def progress(done, what):
        heard.append(what)
        if sum("relaxing" in w for w in heard) > ticks: raise Stop()
    with pytest.raises(Stop): predict(micrograph("MoSe2"), "MoSe2", templates=None, k=3, progress=progress)
    assert "relaxing" in heard[-1] and not any("at rest" in w for w in heard)
    assert predict(micrograph("MoSe2"), "MoSe2", templates=None, k=3).as_dict() == computed.as_dict()

@pytest.mark.parametrize("options, says", [(dict(heights="oracle"), "chgnet"), (dict(propose="model", model=None), "nothing to work with"),
                                           (dict(propose="templates", templates=None), "nothing to work with")])
def test_a_question_that_cannot_be_asked_is_refused_at_once(options, says):
    with pytest.raises(PredictError, match=says): predict(micrograph("MoSe2"), "MoSe2", **options)

# ---- raw scans, missing scales, elements without a formula

RAW = Scan(affine=.08, drift=.05)

def test_a_raw_scan_with_a_wrong_scale_is_seen_through():
    image, _ = scan_image(parse_answer(UNSEEN["MoSe2"]), RAW, "paper", seed=6)
    prediction = predict(Micrograph(image, .092), "MoSe2", propose="columns", k=2)
    assert prediction.explained and compare(parse_answer(UNSEEN["MoSe2"]), prediction.best.atoms).solved
    assert prediction.pixel_size_inferred == pytest.approx(.1, rel=.04) and any("the scale seems" in w for w in prediction.warnings)
    facts = prediction.as_dict()
    assert facts["scan"]["pixel_size_told"] == .092 and facts["candidates"][0]["instrument"]["exact"] < .5
    assert facts["candidates"][0]["lattice_measured"]["a"] < 3.2 < facts["candidates"][0]["a"]

def test_an_image_without_a_pixel_size_is_answered():
    picture = Micrograph(render(parse_answer(UNSEEN["MoSe2"]), seed=1))
    prediction = predict(picture, "MoSe2", propose="columns", k=2)
    assert compare(parse_answer(UNSEEN["MoSe2"]), prediction.best.atoms).solved
    assert prediction.pixel_size_inferred == pytest.approx(.1, rel=.03) and prediction.as_dict()["scan"]["pixel_size_told"] is None
    assert any("tells no pixel size" in w for w in prediction.warnings)

@pytest.mark.parametrize("heights", [None, Broken("raises")], ids=["none", "broken"])
def test_without_a_potential_a_scale_is_needed(heights):
    with pytest.raises((PredictError, PotentialError), match="pixel size|broken"):
        predict(Micrograph(render(parse_answer(UNSEEN["MoSe2"]), seed=1)), "MoSe2", propose="columns", heights=heights)

def test_black_phosphorus_keeps_its_lattice():
    prediction = predict(micrograph("P", seed=1), "P", propose="columns", k=3)
    assert compare(parse_answer(UNSEEN["P"]), prediction.best.atoms).solved

def test_elements_stand_in_for_a_formula():
    prediction = predict(micrograph("MoSe2"), elements="Se, Mo", propose="columns", k=1)
    assert prediction.formula == "MoSe2" and "MoSe2 is the most probable" in prediction.warnings[0]
    assert compare(parse_answer(UNSEEN["MoSe2"]), prediction.best.atoms).solved

@pytest.mark.parametrize("options, error", [(dict(formula="MoSe2", elements="Mo,Se"), PredictError), (dict(elements="Mo,Se", prompt=make_prompt("MoSe2")), PredictError),
                                            (dict(elements="Mo,Xx"), FormulaError), (dict(elements=""), FormulaError)], ids=str)
def test_elements_that_cannot_be_asked_about(options, error):
    with pytest.raises(error): predict(micrograph("MoSe2"), **options)

def test_a_pixel_size_along_each_axis_is_used_once():
    "Elements are asked about in the image that was made square, not squared twice."
    flat = render(parse_answer(UNSEEN["MoSe2"]), seed=1, size=300)
    prediction = predict(flat, pixel_size=(.1, .104), elements="Mo,Se", propose="columns", heights=None, k=1)
    assert prediction.micrograph.pixel_size == pytest.approx(.1, rel=.05) and prediction.micrograph.shape[1] > prediction.micrograph.shape[0]
    assert sum("resampled" in w for w in prediction.micrograph.warnings) == 1

@pytest.mark.parametrize("spent, tried", [(PATIENCE - 1, True), (PATIENCE, False)])
def test_a_hopeless_image_stops_with_what_it_has(spent, tried, monkeypatch):
    question = SimpleNamespace(potential=SimpleNamespace(effort=spent + 7.), effort=7., unscaled=None)
    trials = ScaleTrials(question, Micrograph(np.eye(8), .1), Imaging(), run=None)
    asked = []
    monkeypatch.setattr("microscopygpt.solve.without_its_scale", lambda trials, attempt: asked.append(attempt) or attempt)
    nothing = Attempt(SimpleNamespace(notes=[], observation=None), [])
    assert second_attempt(trials, nothing) is nothing
    assert bool(asked) == tried and nothing.search.notes == ([] if tried else [STOPPED])
