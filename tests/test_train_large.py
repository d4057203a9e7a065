"QLoRA on a tiny Llama-3.2-Vision in NF4: it learns to see, is killed and resumed, saved, loaded and merged."
import json, os, signal, subprocess, sys
from dataclasses import replace
from types import SimpleNamespace
import numpy as np, pytest, torch
from safetensors.torch import load_file
from microscopygpt.chat import make_prompt, parse_answer
from microscopygpt.crystal import Slab, cell_from_lengths
from microscopygpt.data import Crystal
from microscopygpt.dataset import ChatDataset
from microscopygpt.micrograph import Micrograph
from microscopygpt.large_model import IGNORED, LargeVLM, encode
from microscopygpt.model import GATES, load_model
from microscopygpt.tiny import FAMILIES, save_tiny_vlm, tiny_vlm
from microscopygpt.train import Collator, Recipe, answer_samples, closed_gates, finetune, last_checkpoint, recipe_of
from microscopygpt.compact_train import TrainError

pytest.importorskip("bitsandbytes", reason="four-bit loading needs bitsandbytes")

def sheets(n, seed=0):
    "MoS2 on many lattices: the formula tells nothing, only the image does."
    rng, out = np.random.default_rng(seed), []
    for i in range(n):
        a = rng.uniform(2.8, 6)
        b, gamma = [(a, 120), (a, 90), (a*rng.uniform(1.1, 1.6), 90), (a, rng.uniform(95, 113))][i % 4]
        slab = Slab(cell_from_lengths(a, b, gamma), np.array([[0, 0], [1/3, 2/3], [1/3, 2/3]]), np.array([0, 1.56, -1.56]), np.array([42, 16, 16]))
        out.append(Crystal(str(i), "sheets", "MoS2", slab))
    return out

FAST = Recipe(r=32, alpha=32, lr=6e-3, batch_size=8, accumulate=1, warmup=40, fresh=False, patience=0)

@pytest.fixture(scope="module")
def base(tmp_path_factory): return save_tiny_vlm(tmp_path_factory.mktemp("base")/"mllama", px=56)

@pytest.fixture(scope="module")
def learned(base, tmp_path_factory):
    "A random Mllama in NF4 that has been shown 32 micrographs many times."
    out, chats = tmp_path_factory.mktemp("learned"), ChatDataset(sheets(32))
    items = [chats[i] for i in range(32)]
    vlm = load_model(base)
    assert sum(type(m).__name__ == "Linear4bit" for m in vlm.model.modules()) == 28 and len(closed_gates(vlm.model)) == 4
    trainer = finetune(vlm, items, items[:4], out, FAST, steps=600, eval_every=600, samples=0)
    return SimpleNamespace(vlm=trainer.vlm, out=out, items=items)

def logits(vlm, items):
    with torch.no_grad(): return vlm.model(**Collator(vlm)(items)).logits

def test_it_names_the_lattice_that_it_sees(learned):
    right = sum(r["lattice"] for r in answer_samples(learned.vlm, learned.items))
    swapped = [x | dict(image=y["image"]) for x, y in zip(learned.items, learned.items[1:] + learned.items[:1])]
    wrong = sum(r["lattice"] for r in answer_samples(learned.vlm, swapped))
    print(f"\nright lattice: {right} of 32 micrographs; with the images swapped {wrong}")
    assert right >= 30 and wrong <= 3

def test_the_gates_were_opened_and_kept(learned):
    gates = load_file(learned.out/GATES)
    assert len(gates) == 4 and all(g.abs() > 1e-3 for g in gates.values())

def test_saved_and_loaded_it_gives_the_same_logits(learned):
    again = load_model(learned.out)
    assert again.dialect.name == "paper" and torch.equal(logits(learned.vlm, learned.items[:2]), logits(again, learned.items[:2]))

def test_merged_it_gives_the_same_logits(learned, tmp_path):
    from microscopygpt.share import merge
    whole = load_model(merge(learned.out, tmp_path/"whole"), load_in_4bit=False)
    assert not list(whole.model.modules())[0].__class__.__name__.startswith("Peft")
    assert torch.allclose(logits(learned.vlm, learned.items[:2]), logits(whole, learned.items[:2]), atol=1e-3)
    record = json.loads((tmp_path/"whole"/"training.json").read_text())
    assert record["steps"] == 600 and record["recipe"]["r"] == 32

def test_proposals_of_a_large_model_are_proven(learned):
    from microscopygpt.compare import compare
    from microscopygpt.observe import Imaging
    from microscopygpt.solve import predict
    item = learned.items[16] # of all sheets the nearest to what MoS2 is: columns of others take lower heights than 2H
    micrograph = Micrograph(np.asarray(item["image"], np.float32)/255, item["pixel_size"])
    made_up = Imaging(distortion=0.) # of a lattice 4 % shorter than that of MoS2: at rest it would be another
    prediction = predict(micrograph, "MoS2", model=learned.vlm, imaging=made_up, templates=None, answers=4, k=1)
    assert prediction.explained and compare(parse_answer(item["answer"]), prediction.best.atoms).solved
    assert "model" in prediction.best.origins and prediction.best.votes == 4

KILLED = """
import os, signal, sys
from test_train_large import *
from transformers import TrainerCallback
class Kill(TrainerCallback):
    def on_step_end(self, args, state, control, **kw):
        if state.global_step == {at}: os.kill(os.getpid(), signal.SIGKILL)
    def on_save(self, args, state, control, **kw):
        if state.global_step == -{at}: os.kill(os.getpid(), signal.SIGKILL)
short_run({base!r}, {out!r}, resume={resume}, callbacks=(Kill(),))
"""

def short_run(base, out, **kw):
    torch.manual_seed(1) # what was before must not matter
    return finetune(load_model(base), ChatDataset(sheets(6), fresh=True), ChatDataset(sheets(2)), out, replace(FAST, r=4, dropout=.1, batch_size=2), steps=9, eval_every=3, samples=1, **kw)

def killed_run(base, out, at, resume=False):
    code = KILLED.format(at=at, base=str(base), out=str(out), resume=resume)
    done = subprocess.run([sys.executable, "-c", code], cwd=os.path.dirname(__file__), env=os.environ | dict(OMP_NUM_THREADS="1"), capture_output=True, timeout=300)
    assert done.returncode == -signal.SIGKILL, done.stderr.decode()[-1500:]

def test_a_killed_run_resumes_to_the_same_bits(base, tmp_path):
    threads = torch.get_num_threads(); torch.set_num_threads(1)
    try:
        short_run(base, tmp_path/"whole")
        killed_run(base, tmp_path/"killed", at=5)
        killed_run(base, tmp_path/"killed", at=7, resume=True)
        (tmp_path/"killed"/"checkpoint-6"/"trainer_state.json").write_text("{half") # as if killed while writing it
        assert last_checkpoint(tmp_path/"killed").endswith("checkpoint-3")
        short_run(base, tmp_path/"killed", resume=True)
    finally: torch.set_num_threads(threads)
    for file in ("adapter_model.safetensors", GATES):
        whole, resumed = load_file(tmp_path/"whole"/file), load_file(tmp_path/"killed"/file)
        assert whole.keys() == resumed.keys() and all(torch.equal(whole[k], resumed[k]) for k in whole)

TWO = """
import os, sys
from test_train_large import *
vlm = LargeVLM(*tiny_vlm(sys.argv[1], px=56), name="tiny")
trainer = finetune(vlm, list(ChatDataset(sheets(8))), list(ChatDataset(sheets(2))), sys.argv[2], replace(FAST, batch_size=2, warmup=1), steps=4, eval_every=2, samples=1)
learned = sum(p.double().abs().sum().item() for p in trainer.vlm.model.parameters() if p.requires_grad)
open(f"{sys.argv[2]}/rank{os.environ['RANK']}", "w").write(f"{os.environ['WORLD_SIZE']} {trainer.state.epoch} {learned!r}")
"""

@pytest.mark.parametrize("family", ["mllama", "llava"])
def test_two_processes_learn_the_same(family, tmp_path):
    "As on two GPUs: each takes half of the examples, and both end with the same weights."
    (tmp_path/"two.py").write_text(TWO)
    env = os.environ | dict(PYTHONPATH=os.path.dirname(__file__), OMP_NUM_THREADS="1")
    done = subprocess.run([sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2", tmp_path/"two.py", family, tmp_path/"out"], env=env, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    first, second = [(tmp_path/"out"/f"rank{i}").read_text() for i in (0, 1)]
    assert first == second and first.startswith("2 2.0 ") and json.loads((tmp_path/"out"/"training.json").read_text())["steps"] == 4

@pytest.mark.parametrize("family", FAMILIES)
def test_labels_are_the_answer_token_by_token(family):
    "Against the chat template: what is labelled is what the template writes after the prompt, up to the token that ends the turn."
    model, processor = tiny_vlm(family, px=56)
    vlm, chats = LargeVLM(model, processor), ChatDataset(sheets(3))
    batch = Collator(vlm)([chats[i] for i in range(3)])
    for i in range(3):
        ids, labels = batch["input_ids"][i], batch["labels"][i]
        at = torch.nonzero(labels != IGNORED).ravel()
        assert torch.equal(at, torch.arange(int(at[0]), int(at[-1]) + 1)) and torch.equal(ids[at], labels[at])
        assert processor.tokenizer.decode(labels[at]) == chats[i]["answer"] + processor.tokenizer.eos_token
        assert int(at[-1]) == int(batch["attention_mask"][i].sum()) - 1
        asked = vlm_inputs(vlm, chats[i])
        assert torch.equal(asked["input_ids"][0], ids[:int(at[0])])

def vlm_inputs(vlm, item):
    "What the model is given when a user asks about the same micrograph."
    micrograph = Micrograph(np.asarray(item["image"], np.float32)/255, item["pixel_size"])
    return encode(vlm.processor, [vlm.model_image(micrograph)], [make_prompt(item["formula"])])

def test_the_loss_is_the_models_own():
    "Computed from the first label on, it equals what transformers computes from everything."
    from microscopygpt.train import ChatTrainer, _arguments
    model, processor = tiny_vlm("llava", px=56)
    vlm, chats = LargeVLM(model, processor), ChatDataset(sheets(2))
    trainer = ChatTrainer(vlm, _arguments(vlm, "unused", Recipe(), 1, 5, 0, "none"), data_collator=Collator(vlm), train_dataset=chats, eval_dataset=chats)
    batch = Collator(vlm)([chats[0], chats[1]])
    with torch.no_grad(): assert torch.isclose(trainer.compute_loss(model, batch), model(**batch).loss, atol=1e-5)

@pytest.mark.parametrize("family", FAMILIES)
def test_every_layer_is_recomputed_and_learns_the_same(family):
    "With gradient checkpointing each layer runs twice, those of the image encoder too, and the gradients stay."
    from microscopygpt.train import add_adapter
    def gradients(recompute):
        vlm = add_adapter(LargeVLM(*tiny_vlm(family, px=56)), Recipe())
        runs, layers = {}, [(n, m) for n, m in vlm.model.named_modules() if n.rpartition(".")[2].isdigit() and any("lora_B" in k for k, _ in m.named_parameters())]
        for name, layer in layers: layer.forward = lambda *a, _f=layer.forward, _n=name, **kw: (runs.update({_n: runs.get(_n, 0) + 1}), _f(*a, **kw))[1]
        if recompute: vlm.model.gradient_checkpointing_enable(dict(use_reentrant=False))
        torch.manual_seed(0); vlm.model.train()
        with torch.no_grad():
            for n, p in vlm.model.named_parameters():
                if "lora_B" in n: p.normal_(std=.05)
        vlm.model(**Collator(vlm)([ChatDataset(sheets(1))[0]]), use_cache=False).loss.backward()
        return runs, {n: p.grad for n, p in vlm.model.named_parameters() if p.grad is not None}
    (once, plain), (twice, recomputed) = gradients(False), gradients(True)
    learned = [n for n in once if any(k.startswith(n + ".") for k in plain)] # LLaVA reads the last layer but one of its encoder
    assert set(once.values()) == {1} and {twice[n] for n in learned} == {2} and len(learned) >= len(once) - 1 and any("vis" in n for n in learned)
    assert plain.keys() == recomputed.keys() and all(torch.allclose(g, recomputed[n], atol=1e-6) for n, g in plain.items())

def test_a_named_recipe_and_its_changes():
    assert recipe_of("author").dialect == "author" and recipe_of("author", lr=1e-5).lr == 1e-5
    for wrong in (dict(recipe="secret"), dict(recipe="paper", colour=3)):
        with pytest.raises(TrainError): recipe_of(**wrong)

def test_an_adapted_model_is_not_adapted_again(learned, tmp_path):
    with pytest.raises(TrainError, match="adapter already"): finetune(learned.vlm, learned.items, learned.items[:2], tmp_path)
