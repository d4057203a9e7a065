"One face for every model, answers that always parse, and errors that say what to do."
import json, re, shutil, sys
from pathlib import Path
from types import ModuleType
import numpy as np, pytest, torch
from hypothesis import given, settings, strategies as st
from pymatgen.core import Element
from safetensors.torch import load_file, save_file
from microscopygpt.chat import DIALECTS, answer_pattern, make_prompt, parse_answer, to_answer
from microscopygpt.compact import ModelError
from microscopygpt.crystal import Slab, cell_from_lengths, from_slab, parse_formula, reduced_formula
from microscopygpt.data import SOURCES, have_database, load_crystals
from microscopygpt.micrograph import Micrograph
from microscopygpt.large_model import LargeVLM, MemoryFullError, Steering, encode, model_image, stop_tokens
from microscopygpt.model import (AdapterError, NoGPUError, explain, has_unsloth, load_adapter, load_base, load_model,
                                 modern_names)
from microscopygpt.noise import render
from microscopygpt.tiny import FAMILIES, save_tiny_vlm, tiny_vlm

ELEMENTS = [Element.from_Z(z).symbol for z in range(1, 95)]
MOS2 = from_slab(Slab(cell_from_lengths(3.18, 3.18, 120), np.array([[0, 0], [1/3, 2/3], [1/3, 2/3]]), np.array([0., 1.56, -1.56]), np.array([42, 16, 16])))

def random_formulas(n, seed=0):
    rng, out = np.random.default_rng(seed), []
    while len(out) < n:
        k = rng.choice([1, 2, 3, 4], p=[.1, .4, .35, .15])
        out.append(reduced_formula("".join(f"{e}{rng.integers(1, 7)}" for e in rng.choice(ELEMENTS, k, replace=False))))
    return out

def right(text, formula):
    "Whether an answer parses and holds a whole number of formula units."
    have, want = parse_answer(text, formula).composition.to_dict(), parse_formula(formula)
    units = {have.get(e, 0)/n for e, n in want.items()}
    return set(have) == set(want) and len(units) == 1 and units.pop() % 1 == 0

def test_500_random_formulas_parse_from_random_weights():
    vlm, formulas = LargeVLM(*tiny_vlm("mllama", px=56), batch_size=100), sorted(random_formulas(500), key=lambda f: sum(parse_formula(f).values())) # batches of like lengths
    answers = vlm.generate([None]*500, [make_prompt(f) for f in formulas], k=1)
    assert sum(right(a.text, f) for [a], f in zip(answers, formulas)) == 500
    assert all(np.isfinite(a.log_p) and a.log_p < 0 for [a] in answers)

@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("dialect", DIALECTS)
def test_every_family_has_the_same_face(family, dialect):
    model, processor = tiny_vlm(family, px=56)
    vlm, micrograph = LargeVLM(model, processor, family, dialect, batch_size=3), Micrograph(render(MOS2), .1)
    prompts = [make_prompt("MoS2", dialect=dialect), make_prompt("NiI2", dialect=dialect)]
    answers = vlm.generate([micrograph, None], prompts, k=2, seed=3)
    assert [len(a) for a in answers] == [2, 2] and all(right(a.text, f) for row, f in zip(answers, ("MoS2", "NiI2")) for a in row)
    assert answers == vlm.generate([micrograph, None], prompts, k=2, seed=3) != vlm.generate([micrograph, None], prompts, k=2, seed=4)
    assert not vlm.model.training

def test_log_p_is_the_models():
    "Free of a grammar, the sum that is kept is what the model says of its own answer."
    model, processor = tiny_vlm("llava", px=56)
    vlm = LargeVLM(model, processor, constrained=False)
    prompt = make_prompt("BN")
    inputs = encode(processor, [vlm.model_image(None)], [prompt])
    torch.manual_seed(0)
    out = model.generate(**inputs, do_sample=False, max_new_tokens=12, output_logits=True, return_dict_in_generate=True)
    expected = sum(float(l.log_softmax(-1)[0, t]) for l, t in zip(out.logits, out.sequences[0, inputs["input_ids"].shape[1]:]))
    from transformers import LogitsProcessorList
    steering = Steering([None], vlm.n_words, stop_tokens(model, processor))
    written = model.generate(**inputs, do_sample=False, max_new_tokens=12, logits_processor=LogitsProcessorList([steering]))[:, inputs["input_ids"].shape[1]:]
    steering.account(written[:, -1])
    assert float(steering.log_p[0]) == pytest.approx(expected, abs=1e-3)

numbers = st.tuples(st.floats(1.6, 40), st.floats(1.6, 40), st.floats(60, 120))

@settings(max_examples=60, deadline=None)
@given(numbers, st.sampled_from(random_formulas(40, 1)), st.sampled_from(sorted(DIALECTS)))
def test_what_is_trained_on_is_what_may_be_answered(numbers, formula, dialect):
    "Any answer of a data set lies within the grammar of its formula."
    a, b, gamma = numbers
    symbols = [e for e, n in parse_formula(formula).items() for _ in range(n)]
    from microscopygpt.crystal import element_order
    symbols.sort(key=element_order(parse_formula(formula)).index)
    rng = np.random.default_rng(0)
    slab = Slab(cell_from_lengths(a, b, gamma), rng.random((len(symbols), 2)), rng.uniform(-4, 4, len(symbols)), np.array([Element(s).Z for s in symbols]))
    assert re.fullmatch(answer_pattern(formula, dialect), to_answer(from_slab(slab), dialect))

@pytest.mark.skipif(not all(map(have_database, SOURCES)), reason="MICROSCOPYGPT_DATA names no folder with both databases")
@pytest.mark.parametrize("dialect", DIALECTS)
def test_every_database_answer_lies_within_its_grammar(dialect):
    crystals = load_crystals(["dft_2d_2021", "c2db"], max_atoms=24)[::5]
    outside = [c for c in crystals if not re.fullmatch(answer_pattern(c.formula, dialect), to_answer(c.atoms, dialect))]
    assert not outside, outside[:3]

def test_what_is_shown_does_not_depend_on_the_users_pixels():
    fine = model_image(Micrograph(render(MOS2, noise="none", rotation=20, shift=(0, 0), mirror=False, pixel_size=.05, size=700), .05))
    coarse = model_image(Micrograph(render(MOS2, noise="none", rotation=20, shift=(0, 0), mirror=False, pixel_size=.1, size=350), .1))
    assert fine.size == coarse.size == (256, 256) and fine.mode == "RGB"
    assert np.corrcoef(np.asarray(fine)[..., 0].ravel(), np.asarray(coarse)[..., 0].ravel())[0, 1] > .99
    small = np.asarray(model_image(Micrograph(render(MOS2, size=100), .1)))
    assert small[:70].max() == 0 and small[100:150, 100:150].max() > 100

@pytest.fixture(scope="module")
def adapted(tmp_path_factory):
    "A tiny base, and an adapter for it with weights that matter."
    from microscopygpt.train import Recipe, add_adapter
    folder = tmp_path_factory.mktemp("adapted")
    base = save_tiny_vlm(folder/"base", px=56)
    vlm = add_adapter(load_model(base, load_in_4bit=False), Recipe(r=4))
    for name, p in vlm.model.named_parameters():
        if "lora_B" in name: torch.nn.init.normal_(p, std=.1, generator=torch.Generator().manual_seed(len(name)))
    vlm.model.save_pretrained(folder/"adapter")
    return folder

def damaged(adapted, tmp_path, **files):
    "A copy of the adapter with other contents of some files."
    folder = tmp_path/"adapter"; shutil.copytree(adapted/"adapter", folder)
    for name, content in files.items():
        path = folder/{"weights": "adapter_model.safetensors", "config": "adapter_config.json"}[name]
        path.unlink() if content is None else path.write_bytes(content)
    return folder

def logits(vlm):
    ids = torch.arange(40)[None]
    with torch.no_grad(): return vlm.model(input_ids=ids).logits

def test_an_adapter_finds_its_base(adapted):
    plain, alone, named = load_model(adapted/"base", load_in_4bit=False), load_model(adapted/"adapter", load_in_4bit=False), load_model(adapted/"base", adapted/"adapter", load_in_4bit=False)
    assert torch.equal(logits(alone), logits(named)) and not torch.allclose(logits(alone), logits(plain), atol=1e-2)

def test_an_adapter_with_the_names_of_older_versions(adapted, tmp_path):
    "As the published one was saved: the parts of the model lay elsewhere."
    weights = load_file(adapted/"adapter"/"adapter_model.safetensors")
    old = {re.sub(r"\.model\.(vision_model|multi_modal_projector)\.", r".\1.", re.sub(r"\.model\.language_model\.", ".language_model.model.", k)): v for k, v in weights.items()}
    assert set(old).isdisjoint(weights) and modern_names(old).keys() == modern_names(weights).keys() == weights.keys()
    folder = damaged(adapted, tmp_path); save_file(old, folder/"adapter_model.safetensors")
    assert torch.equal(logits(load_model(folder, load_in_4bit=False)), logits(load_model(adapted/"adapter", load_in_4bit=False)))

@pytest.mark.parametrize("files, says", [(dict(weights=b"nonsense"), "damaged"), (dict(weights=None), "holds no adapter_model.safetensors"), (dict(config=b"{half"), "adapter_config.json of .* is damaged")], ids=["weights", "none", "config"])
def test_a_damaged_adapter_is_named(adapted, tmp_path, files, says):
    with pytest.raises(AdapterError, match=says): load_model(adapted/"base", damaged(adapted, tmp_path, **files), load_in_4bit=False)

@pytest.mark.parametrize("other", ["llava", "other size", "fewer layers"])
def test_the_wrong_base_is_named(adapted, tmp_path, other):
    if other == "llava": model, _ = tiny_vlm("llava", px=56)
    else:
        import transformers
        config = transformers.MllamaConfig.from_pretrained(adapted/"base")
        if other == "other size": config.text_config.intermediate_size = 128
        else: config.text_config.num_hidden_layers = 3
        if other == "fewer layers": config.text_config.cross_attention_layers = [1]
        model = transformers.MllamaForConditionalGeneration(config)
    with pytest.raises(AdapterError, match="does not belong to this base. It was made for .*base"): load_adapter(model, str(adapted/"adapter"))

def test_the_published_adapter_speaks_its_dialect(adapted, tmp_path, monkeypatch):
    monkeypatch.setattr("microscopygpt.model.KNOWN", {str(adapted/"adapter"): "author"})
    assert load_model(adapted/"adapter", load_in_4bit=False).dialect.name == "author"
    assert load_model(adapted/"adapter", load_in_4bit=False, dialect="paper").dialect.name == "paper"

def test_a_large_model_wants_a_gpu(adapted, monkeypatch):
    monkeypatch.setattr("microscopygpt.model.LARGE", 1e5)
    if torch.cuda.is_available(): pytest.skip("there is a GPU here")
    with pytest.raises(NoGPUError, match="1.* billion parameters and there is no GPU here. On Colab|billion parameters"): load_model(adapted/"base", load_in_4bit=False, dialect="author")
    assert load_model(adapted/"base", load_in_4bit=False, device="cpu").model.device.type == "cpu"

def test_full_memory_is_met_with_smaller_batches(monkeypatch):
    model, processor = tiny_vlm("gemma3", px=56)
    vlm, sizes = LargeVLM(model, processor, batch_size=8), []
    write = LargeVLM.write
    def scarce(self, asked, temperature):
        sizes.append(len(asked))
        if len(asked) > 2: raise torch.OutOfMemoryError("CUDA out of memory")
        return write(self, asked, temperature)
    monkeypatch.setattr(LargeVLM, "write", scarce)
    [answers] = vlm.generate([None], [make_prompt("BN")], k=5)
    assert len(answers) == 5 and sizes == [5, 2, 2, 1]
    def never(self, asked, temperature): raise torch.OutOfMemoryError("CUDA out of memory")
    monkeypatch.setattr(LargeVLM, "write", never)
    with pytest.raises(MemoryFullError, match="memory is full with one answer at a time"): vlm.generate([None], [make_prompt("BN")], k=5)

@pytest.mark.parametrize("error, kind, says", [(torch.OutOfMemoryError("x"), MemoryFullError, "memory is full while loading"), (MemoryError(), MemoryFullError, "does not fit"), (ImportError("No module named 'timm'"), ModelError, "pip install"),
                                               (OSError("odd"), ModelError, "cannot be loaded .odd"), (AdapterError("as it was"), AdapterError, "as it was")])
def test_errors_while_loading(error, kind, says):
    found = explain(error, "owner/model")
    assert type(found) is kind and re.search(says, str(found))

def test_names_that_are_none(tmp_path):
    for wrong, says in (("no-such-model", "No model"), (tmp_path, "holds no model")):
        with pytest.raises(ModelError, match=says): load_model(wrong)
    (tmp_path/"config.json").write_text(json.dumps(dict(model_type="bert")))
    with pytest.raises(ModelError, match="reads no images"): load_model(tmp_path)

def test_unsloth_loads_where_there_is_a_gpu(adapted, monkeypatch):
    "Unsloth needs a GPU; this stands in its place and keeps what it was asked."
    asked = []
    class FastVisionModel:
        @staticmethod
        def from_pretrained(name, load_in_4bit=True, use_gradient_checkpointing="unsloth"):
            asked.append((name, load_in_4bit, use_gradient_checkpointing)); return load_base(str(adapted/"base"), False, "cpu")
        @staticmethod
        def for_inference(model): asked.append("inference"); model.eval()
        @staticmethod
        def for_training(model): asked.append("training"); model.train()
        @staticmethod
        def get_peft_model(model, **kw): asked.append(kw); return model
    unsloth = ModuleType("unsloth"); unsloth.FastVisionModel = FastVisionModel
    monkeypatch.setitem(sys.modules, "unsloth", unsloth)
    monkeypatch.setattr("microscopygpt.model.has_unsloth", lambda: True)
    vlm = load_model(adapted/"base", dialect="author")
    assert vlm.unsloth and asked == [(str(adapted/"base"), True, "unsloth")]
    assert right(vlm.generate([None], [make_prompt("BN")], k=1)[0][0].text, "BN") and asked[1:] == ["inference", "inference"]
    from microscopygpt.train import RECIPES, add_adapter
    add_adapter(vlm, RECIPES["author"])
    assert asked[-1] == dict(r=8, lora_alpha=8, lora_dropout=0., bias="none", random_state=3407, finetune_vision_layers=False, finetune_language_layers=True, finetune_attention_modules=False, finetune_mlp_modules=True)
