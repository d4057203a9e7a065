"A killed training run continues to the same weights; a run says what is wrong before it starts."
import pytest, torch
from transformers import TrainerCallback
from microscopygpt.chat import parse_answer
from microscopygpt.core import MicroscopyGPTError
from microscopygpt.crystal import canonical, reduced_formula, to_slab
from microscopygpt.data import Crystal, save_crystals
from microscopygpt.compact import CompactConfig
from microscopygpt.compact_train import SimulatedBatches, TrainError, train_compact
from microscopygpt.train import train

TEXTS = ["x1 3.20 3.20 120.0 Mo 0.00 0.00 +0.0 S 0.33 0.67 +1.6 S 0.33 0.67 -1.6", "x2 2.45 2.45 120.0 C 0.00 0.00 +0.0 C 0.33 0.67 +0.0",
         "x2 3.80 3.80 90.0 Fe 0.00 0.00 +0.0 Fe 0.50 0.50 +0.0 Se 0.00 0.50 +1.5 Se 0.50 0.00 -1.5"]
CRYSTALS = [Crystal(str(i), "test", reduced_formula(parse_answer(t)), canonical(to_slab(parse_answer(t)))) for i, t in enumerate(TEXTS)]
TOY = dict(d_model=32, encoder_layers=1, decoder_layers=1, encoder_ffn_dim=64, decoder_ffn_dim=64, encoder_attention_heads=2, decoder_attention_heads=2)

class Killed(Exception): pass

class Kill(TrainerCallback):
    def __init__(self, step): self.step = step
    def on_step_end(self, args, state, control, **kw):
        if state.global_step == self.step: raise Killed

def run(out, **kw):
    return train_compact(CRYSTALS, CRYSTALS, out, steps=8, batch_size=4, eval_every=2, config=CompactConfig(**TOY), workers=0, **kw)

def test_a_killed_run_resumes_to_the_same_weights(tmp_path):
    whole = run(tmp_path/"whole").model.state_dict()
    with pytest.raises(Killed): run(tmp_path/"killed", callbacks=(Kill(5),))
    resumed = run(tmp_path/"killed", resume=True).model.state_dict()
    assert all(torch.equal(whole[k], resumed[k]) for k in whole)

def test_batches_depend_on_seed_and_index_alone():
    a, b = SimulatedBatches(CRYSTALS, 9, 4, seed=1), SimulatedBatches(CRYSTALS, 9, 4, seed=1)
    b[3]
    for x, y in zip(a[5].values(), b[5].values()): assert torch.equal(x, y)
    assert not torch.equal(a[5]["pixel_values"], SimulatedBatches(CRYSTALS, 9, 4, seed=2)[5]["pixel_values"])

def test_labels_are_the_inputs_one_step_later():
    batch = SimulatedBatches(CRYSTALS, 9, 8, seed=0)[0]
    inputs, labels = batch["decoder_input_ids"], batch["labels"]
    assert (inputs[:, 0] == 1).all()
    for row, answer in zip(inputs, labels):
        n = int((answer != -100).sum())
        assert torch.equal(row[1:n], answer[:n-1]) and answer[n-1] == 2

@pytest.mark.parametrize("options, says", [(dict(base="other"), "compact"), (dict(base="other", recipe="secret"), "no recipe"), (dict(resume=True), "no checkpoint")])
def test_a_run_that_cannot_start_says_why(tmp_path, options, says):
    validation = parse_answer("x1 2.50 2.50 120.0 B 0.00 0.00 +0.0 N 0.33 0.67 +0.0")
    save_crystals([*CRYSTALS, Crystal("3", "test", "BN", canonical(to_slab(validation)))], tmp_path/"crystals.npz")
    with pytest.raises(MicroscopyGPTError, match=says): train(tmp_path/"crystals.npz", out=tmp_path/"run", **options)

def test_a_started_run_is_not_overwritten(tmp_path):
    (tmp_path/"run"/"checkpoint-2").mkdir(parents=True)
    save_crystals(CRYSTALS, tmp_path/"crystals.npz")
    with pytest.raises(TrainError, match="--resume"): train(tmp_path/"crystals.npz", out=tmp_path/"run")
