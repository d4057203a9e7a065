"What only a GPU can show: a tiny Llama-3.2-Vision in NF4 is trained, saved, loaded and asked in both 16-bit formats, with transformers and with Unsloth."
import json, os, subprocess, sys
from dataclasses import replace
from pathlib import Path
import numpy as np, pytest, torch
from test_train_large import FAST, sheets
from microscopygpt.chat import make_prompt, parse_answer
from microscopygpt.dataset import ChatDataset
from microscopygpt.model import GATES, has_unsloth, load_model
from microscopygpt.tiny import save_tiny_vlm
from microscopygpt.train import Collator, finetune

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")

@pytest.fixture(scope="module")
def base(tmp_path_factory): return save_tiny_vlm(tmp_path_factory.mktemp("base")/"mllama", px=56)

def whole_way(base, out, steps=30):
    "Train, look at the loss, save, load, ask: what was seen on the way."
    items = list(ChatDataset(sheets(8)))
    vlm = load_model(base)
    trainer = finetune(vlm, items, items[:4], out, replace(FAST, warmup=5), steps=steps, eval_every=steps//2, samples=2)
    losses = [r["loss"] for r in trainer.state.log_history if "loss" in r]
    again = load_model(out)
    formulas = "MoS2", "C6H6"
    answers = again.generate([None, None], [make_prompt(f) for f in formulas], k=3, seed=1)
    for formula, group in zip(formulas, answers):
        for answer in group: parse_answer(answer.text, formula)
    with torch.no_grad(): off = (logits_of(trainer.vlm, items) - logits_of(again, items)).abs().max().item()
    return dict(losses=losses, off=off, unsloth=again.unsloth, device=str(again.model.device), dtype=str(again.model.dtype), gates=(Path(out)/GATES).is_file(),
                bits4=sum(type(m).__name__ == "Linear4bit" for m in again.model.modules()), texts=len({a.text for group in answers for a in group}))

def logits_of(vlm, items):
    "On the device of the model."
    batch = {k: v.to(vlm.model.device) for k, v in Collator(vlm)(items[:2]).items()}
    vlm.set_training(False)
    with torch.autocast("cuda", vlm.model.dtype): return vlm.model(**batch).logits.float()

def good(seen, dtype):
    assert seen["device"] == "cuda:0" and seen["dtype"] == f"torch.{dtype}" and seen["bits4"] >= 28 and seen["gates"], seen
    assert np.isfinite(seen["losses"]).all() and seen["losses"][-1] < .8*seen["losses"][0] and seen["off"] < .05 and seen["texts"] > 1, seen

@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_the_whole_way_on_a_gpu(base, tmp_path, monkeypatch, dtype):
    monkeypatch.setattr("microscopygpt.model.has_unsloth", lambda: False)
    if dtype == "float16": monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda *_, **__: False)
    good(whole_way(base, tmp_path/"out"), dtype)

def test_the_whole_way_with_unsloth(base, tmp_path):
    if not has_unsloth(): pytest.skip("Unsloth is not installed")
    code = f"import json; from test_gpu import *; print(json.dumps(whole_way({str(base)!r}, {str(tmp_path/'out')!r})))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path, env=os.environ | dict(UNSLOTH_COMPILE_DISABLE="1", UNSLOTH_RETURN_LOGITS="1", PYTHONPATH=os.pathsep.join([str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")])))
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-6000:]
    seen = json.loads(done.stdout.strip().splitlines()[-1])
    assert seen["unsloth"]
    good(seen, "bfloat16")
