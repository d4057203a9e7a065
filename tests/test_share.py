"What goes to the hub is what comes back; whoever may not have something is told why. The hub is imitated on this machine, in a process whose client is pointed at it."
import json, os, subprocess, sys
from types import SimpleNamespace
import pytest
from hub import running

TEXTS = ["x1 3.20 3.20 120.0 Mo 0.00 0.00 +0.0 S 0.33 0.67 +1.6 S 0.33 0.67 -1.6", "x1 2.50 2.50 120.0 B 0.00 0.00 +0.0 N 0.33 0.67 +0.0", "x2 2.46 2.46 120.0 C 0.00 0.00 +0.0 C 0.33 0.67 +0.0"]
MAKE = """
from microscopygpt.chat import parse_answer
from microscopygpt.core import MicroscopyGPTError
from microscopygpt.crystal import canonical, reduced_formula, to_slab
from microscopygpt.data import Crystal
from microscopygpt.dataset import ChatDataset, build_dataset
from microscopygpt.model import load_model
from microscopygpt.share import push
from microscopygpt.tiny import save_tiny_vlm
from microscopygpt.train import Recipe, finetune
def told(f, *args, **kw):
    try: print("result:", f(*args, **kw))
    except MicroscopyGPTError as e: print(f"{type(e).__name__}: {e}")
"""

@pytest.fixture(scope="module")
def made(tmp_path_factory):
    "A finished run and a data set."
    from microscopygpt.chat import parse_answer
    from microscopygpt.crystal import canonical, reduced_formula, to_slab
    from microscopygpt.data import Crystal
    from microscopygpt.dataset import ChatDataset, build_dataset
    from microscopygpt.model import load_model
    from microscopygpt.tiny import save_tiny_vlm
    from microscopygpt.train import Recipe, finetune
    folder = tmp_path_factory.mktemp("share")
    crystals = [Crystal(str(i), "toy", reduced_formula(parse_answer(t)), canonical(to_slab(parse_answer(t)))) for i, t in enumerate(TEXTS)]
    data = build_dataset(crystals, folder/"data", split="paper")
    chats = ChatDataset(crystals)
    finetune(load_model(save_tiny_vlm(folder/"base", px=56)), chats, chats, folder/"run", Recipe(r=4, lr=5e-3, batch_size=3, accumulate=1, warmup=1), steps=4, eval_every=4, samples=1, about=data.recipe)
    return SimpleNamespace(folder=folder, run=folder/"run", data=folder/"data", base=folder/"base", crystals=crystals)

def ask(code, hub, home, token="hf_good"):
    "Run a piece of Python whose hub is the imitation; what it printed."
    env = os.environ | dict(HF_ENDPOINT=hub.url, HF_HOME=str(home), HF_TOKEN=token, HF_HUB_DISABLE_TELEMETRY="1", HF_HUB_DISABLE_XET="1", OMP_NUM_THREADS="1")
    if not token: env.pop("HF_TOKEN")
    done = subprocess.run([sys.executable, "-c", MAKE + code], env=env, capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout.strip()

def test_an_adapter_goes_up_and_comes_back(made, tmp_path):
    with running() as hub:
        for file in made.base.iterdir(): hub.files[f"somebody/base/{file.name}"] = file.read_bytes()
        config = json.loads((made.run/"adapter_config.json").read_text())
        said = ask(f"told(push, {str(made.run)!r}, 'somebody/adapter', scores={{'solved at rank 1': 0.5}})", hub, tmp_path)
        assert said.startswith("result: "), said
        sent = {name.partition("somebody/adapter/")[2] for name in hub.files if "somebody/adapter/" in name}
        assert {"adapter_model.safetensors", "adapter_config.json", "README.md", "training.json", "gates.safetensors", "loss.png"} <= sent and not any("checkpoint" in s or "optimizer" in s for s in sent)
        assert hub.files["somebody/adapter/adapter_model.safetensors"] == (made.run/"adapter_model.safetensors").read_bytes()
        card = hub.files["somebody/adapter/README.md"].decode()
        assert card.startswith("---\n") and "solved at rank 1 | 0.5" in card and "toy" in card and str(made.folder) not in card
        hub.files["somebody/adapter/adapter_config.json"] = json.dumps(config | dict(base_model_name_or_path="somebody/base")).encode()
        question = "[None], ['The chemical formula is BN.'], k=1, temperature=0"
        there, here = ask(f"for name in ('somebody/adapter', {str(made.run)!r}): print(repr(load_model(name).generate({question})[0][0].text))", hub, tmp_path).splitlines()[-2:]
        assert there == here

def test_a_data_set_goes_up_as_the_hub_shows_it(made, tmp_path):
    from datasets import load_dataset
    with running() as hub: assert ask(f"told(push, {str(made.data)!r}, 'somebody/data')", hub, tmp_path).startswith("result: ")
    sides = {n.split("/")[-1].split("-")[0]: n for n in hub.files if n.endswith(".parquet")}
    assert {"README.md", "recipe.json", "crystals.npz"} <= {n.rpartition("/")[2] for n in hub.files}
    for side, name in sides.items(): (tmp_path/f"{side}.parquet").write_bytes(hub.files[name])
    rows = load_dataset("parquet", data_files={s: str(tmp_path/f"{s}.parquet") for s in sides}, cache_dir=str(tmp_path/"cache"))
    assert sum(len(r) for r in rows.values()) == 3 and next(iter(rows.values()))[0]["image"].size == (256, 256)

def test_who_may_not_is_told_why(made, tmp_path):
    with running() as hub:
        hub.refuse = {"closed/gated": (403, "GatedRepo"), "/api/repos/create": (403, "Forbidden")}
        said = ask(f"""
import os
run = {str(made.run)!r}
told(push, run, 'somebody/adapter')
told(load_model, 'closed/gated')
told(load_model, 'nobody/nothing')
os.environ['HF_TOKEN'] = 'hf_wrong'
told(push, run, 'somebody/adapter')
os.environ['HF_TOKEN'] = 'hf_good'
told(push, run, 'somebody/adapter')
told(push, run, 'no name at all')
""", hub, tmp_path, token=None).splitlines()
    for line, start in zip(said, ["AccessError: You are not logged in", "AccessError: closed/gated is gated: accept its licence on https://huggingface.co/closed/gated", "AccessError: The hub shows no nobody/nothing: check the name; if it is private, log in",
                                  "AccessError: The hub refused somebody/adapter (", "AccessError: The hub refused somebody/adapter (", "ShareError: 'no name at all' is no name"], strict=True): assert line.startswith(start)
