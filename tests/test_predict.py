"The main job on simulated micrographs that the model was not trained on, and what it makes of trouble."
import json, os
from pathlib import Path
import numpy as np, pytest
from microscopygpt.chat import make_prompt, parse_answer
from microscopygpt.crystal import compare, parse_formula, read_crystal
from microscopygpt.data import split_of
from microscopygpt.lattice import Imaging, observe
from microscopygpt.micrograph import Micrograph
from microscopygpt.compact import CompactVLM, ModelError, weights_folder
from microscopygpt.model import load_model
from microscopygpt.predict import guess, predict
from microscopygpt.refine import Proposal, prove
from microscopygpt.stem import render

UNSEEN = {"MoSe2": "3.32 3.32 18.34\n90 90 120\nMo 0 0 .5\nSe .33333 .66667 .59106\nSe .33333 .66667 .40894",
          "HfSe2": "3.77 3.77 18.16\n90 90 120\nHf 0 0 .5\nSe .33333 .66667 .587\nSe .66667 .33333 .413",
          "P": "3.306 4.631 17.13\n90 90 90\nP 0 .0897 .5616\nP .5 .4103 .5616\nP 0 .9103 .4384\nP .5 .5897 .4384"}

def micrograph(formula, seed=0, **kw): return Micrograph(render(parse_answer(UNSEEN[formula]), seed=seed, **kw), kw.get("pixel_size", .1))

@pytest.mark.parametrize("formula", ["MoSe2", "HfSe2"])
@pytest.mark.parametrize("pixel_size", [.085, .1, .125])
def test_unseen_materials_are_solved(formula, pixel_size):
    assert split_of(formula) == "test"
    prediction = predict(micrograph(formula, seed=4, pixel_size=pixel_size), formula, templates=None, k=1)
    assert prediction.explained and compare(parse_answer(UNSEEN[formula]), prediction.best.atoms).solved

def test_the_lattice_is_exact():
    best = predict(micrograph("MoSe2"), "MoSe2", templates=None, k=1).best
    assert abs(best.atoms.lattice.abc[0]/3.32 - 1) < 1e-3

def test_the_crystal_may_be_larger_than_the_period_seen():
    observation = observe(micrograph("P", seed=1))
    assert abs(np.linalg.det(observation.lattice.cell))*2 == pytest.approx(3.306*4.631, rel=5e-3)
    from microscopygpt.crystal import to_slab
    proof = prove(Proposal(to_slab(parse_answer(UNSEEN["P"]))), observation)
    assert compare(parse_answer(UNSEEN["P"]), proof.atoms).tight

def test_the_same_seed_gives_the_same_answer(tmp_path):
    first, second = (predict(micrograph("MoSe2"), "MoSe2", templates=None, k=3, seed=7).as_dict() for _ in range(2))
    assert first == second

def test_k_candidates_are_written_and_read_back(tmp_path):
    prediction = predict(micrograph("MoSe2"), "MoSe2", templates=None, k=5)
    prediction.write(tmp_path)
    assert len(list(tmp_path.glob("rank_*.cif"))) == len(prediction.candidates) == 5
    facts = json.loads((tmp_path/"prediction.json").read_text())
    assert facts["seed"] == 0 and facts["candidates"][0]["confidence"] == prediction.best.confidence
    assert compare(prediction.best.atoms, read_crystal(tmp_path/"rank_1.cif")).rmsd < .01
    assert (tmp_path/"report.png").stat().st_size > 10_000

def test_scores_fall_with_rank():
    scores = [c.score for c in predict(micrograph("HfSe2"), "HfSe2", templates=None).candidates]
    assert scores == sorted(scores, reverse=True)

def test_a_formula_too_large_for_the_model_is_named():
    with pytest.raises(ModelError, match="at most 24"): predict(micrograph("MoSe2"), "W6CCl18", templates=None)

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
    assert done[0] == 0 and done[-1] == 1 and done == sorted(done) and len(heard) > 5 and any("proving" in what for _, what in heard)

@pytest.mark.parametrize("after", [0, 1, 3, 5])
def test_stopped_from_its_progress_it_leaves_nothing_behind(after):
    class Stop(Exception): "Somebody pressed a button."
    def progress(done, what, calls=[]):
        calls.append(what)
        if len(calls) > after: raise Stop()
    with pytest.raises(Stop): predict(micrograph("MoSe2"), "MoSe2", templates=None, k=1, progress=progress)
    assert predict(micrograph("MoSe2"), "MoSe2", templates=None, k=3, seed=7).as_dict() == predict(micrograph("MoSe2"), "MoSe2", templates=None, k=3, seed=7).as_dict()

@pytest.mark.parametrize("options", [{}, dict(k=2, seed=5), dict(imaging=Imaging(distortion=.03, z_power=1.6)), dict(prompt=make_prompt("MoSe2", 0) + " Two layers of Se.")])
def test_the_code_of_a_prediction_gives_it_again(options):
    picture = micrograph("MoSe2")
    prediction, names = predict(picture, "MoSe2", templates=None, **options), dict(picture=picture)
    exec(prediction.code("picture"), names)
    assert names["prediction"].as_dict() == prediction.as_dict()

def test_drift_is_corrected_when_it_may_be():
    from scipy.ndimage import affine_transform
    picture = affine_transform(render(parse_answer(UNSEEN["MoSe2"]), seed=2, size=300), [[1.03, .01], [0, 1]], order=3, mode="reflect")[:256, :256]
    prediction = predict(Micrograph(picture, .1), "MoSe2", templates=None, k=1, imaging=Imaging(distortion=.04))
    assert prediction.lattice.gamma == pytest.approx(120) and prediction.best.space_group == 187 and any("corrected" in w for w in prediction.warnings)
    a = parse_answer(UNSEEN["MoSe2"]).lattice.abc[0]
    assert prediction.best.atoms.lattice.abc[0] == pytest.approx(a, rel=.02)

def test_a_named_lattice_is_believed_when_the_image_allows_it():
    named = predict(micrograph("MoSe2"), prompt=make_prompt("MoSe2", 0), templates=None, k=1)
    assert named.lattice.gamma == pytest.approx(120, abs=1e-9)
    contradicted = predict(micrograph("MoSe2"), prompt=make_prompt("MoSe2", 1), templates=None, k=1)
    assert any("named square" in w for w in contradicted.warnings)

def test_a_formula_of_much_smaller_atoms_is_doubted():
    assert any("as far apart" in w for w in predict(micrograph("MoSe2"), "BN", templates=None, k=1).warnings)

def test_the_pictures_of_a_prediction():
    prediction = predict(micrograph("HfSe2"), "HfSe2", templates=None, k=3)
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
