"The GPU benchmark on a tiny model: every row is measured, the random model is built like a loaded one, the batch has the tokens it claims."
import importlib.util
from pathlib import Path
import numpy as np, pytest, torch

bnb = pytest.importorskip("bitsandbytes", reason="four-bit models need bitsandbytes")
spec = importlib.util.spec_from_file_location("qlora_memory", Path(__file__).parent.parent/"nbs"/"timings"/"qlora_memory.py")
qlora_memory = importlib.util.module_from_spec(spec); spec.loader.exec_module(qlora_memory)

def test_every_row_is_measured(tmp_path):
    result = qlora_memory.main(["--tiny", "--steps", "2", "--out", str(tmp_path/"result.json")])
    assert len(result["rows"]) == 12 and (tmp_path/"result.json").is_file()
    assert all("failed" not in r and np.isfinite(r["seconds"]) and r["seconds"] > 0 for r in result["rows"])
    assert all(v > 0 for v in result["time_ratio"].values())
    if not torch.cuda.is_available(): assert all(r["peak_gib"] is None for r in result["rows"]) and result["target_met"] is None

def test_the_random_model_is_built_like_a_loaded_one(tmp_path):
    from microscopygpt.model import load_model
    from microscopygpt.tiny import save_tiny_vlm
    loaded, made = load_model(save_tiny_vlm(tmp_path, px=56), device="cpu").model, qlora_memory.vlm_of(True, "cpu").model
    assert type(made) is type(loaded)
    assert {n: type(m).__name__ for n, m in made.named_modules()} == {n: type(m).__name__ for n, m in loaded.named_modules()}
    assert {n: (tuple(p.shape), p.dtype) for n, p in made.named_parameters()} == {n: (tuple(p.shape), p.dtype) for n, p in loaded.named_parameters()}
    with torch.no_grad(): assert torch.isfinite(made(input_ids=torch.arange(30)[None]).logits).all()

def test_512_tokens_are_labelled():
    vlm = qlora_memory.vlm_of(True, "cpu")
    batch = qlora_memory.batch_of(vlm, 2)
    assert ((batch["labels"] != -100).sum(1) == 512).all() and batch["input_ids"].shape == batch["labels"].shape == batch["attention_mask"].shape

def test_the_full_run_reads_four_tiles_of_560():
    "With the layers of the tiny model, and everything else as in the full run."
    config, tiny = qlora_memory.configuration(), qlora_memory.configuration(tiny=True)
    for part, names in (("text_config", "hidden_size num_hidden_layers cross_attention_layers num_attention_heads num_key_value_heads intermediate_size"),
                        ("vision_config", "hidden_size num_hidden_layers num_global_layers attention_heads intermediate_size intermediate_layers_indices vision_output_dim")):
        for name in names.split(): setattr(getattr(config, part), name, getattr(getattr(tiny, part), name))
    vlm = qlora_memory.vlm_of(False, "cpu", config)
    batch = qlora_memory.batch_of(vlm, 1)
    assert batch["pixel_values"].shape == (1, 1, 4, 3, 560, 560) and (batch["labels"] != -100).sum() == 512
    assert len(qlora_memory.ours(vlm, 1, 2)) == 2

def test_the_full_shape_is_the_public_one():
    import transformers
    config = qlora_memory.configuration()
    with torch.device("meta"): model = transformers.MllamaForConditionalGeneration(config)
    assert 10.6e9 < model.num_parameters() < 10.8e9

def test_saved_the_random_model_is_loaded_as_it_was(tmp_path):
    from microscopygpt.model import load_model
    made, ids = qlora_memory.vlm_of(True, "cpu").model, torch.arange(30)[None]
    again = load_model(qlora_memory.save_random(True, "cpu", tmp_path/"random"), device="cpu").model
    with torch.no_grad(): assert torch.allclose(made(input_ids=ids).logits, again(input_ids=ids).logits, atol=1e-5)
