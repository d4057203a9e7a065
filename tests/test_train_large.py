"QLoRA on a tiny Llama-3.2-Vision in NF4: it learns to see, is killed and resumed, saved, loaded and merged."
import json, os, signal, subprocess, sys
from dataclasses import replace
from types import SimpleNamespace
import numpy as np, pytest, torch
from safetensors.torch import load_file
from microscopygpt.chat import make_prompt, parse_answer, to_answer
from microscopygpt.crystal import BRAVAIS, Slab, canonical, cell_from_lengths, reduce_cell
from microscopygpt.data import ChatDataset, Crystal
from microscopygpt.micrograph import Micrograph
from microscopygpt.model import GATES, IGNORED, LargeVLM, load_model
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

FAST = Recipe(r=16, alpha=16, lr=1.2e-2, batch_size=8, accumulate=1, warmup=30, fresh=False, patience=0)

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
    assert right >= 29 and wrong <= 3

def test_the_gates_were_opened_and_kept(learned):
    gates = load_file(learned.out/GATES)
    assert len(gates) == 4 and all(g.abs() > 1e-3 for g in gates.values())

def test_saved_and_loaded_it_gives_the_same_logits(learned):
    again = load_model(learned.out)
    assert again.dialect.name == "paper" and torch.equal(logits(learned.vlm, learned.items[:2]), logits(again, learned.items[:2]))
