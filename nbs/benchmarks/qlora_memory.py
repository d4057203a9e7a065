"""Memory and time of QLoRA on a model of the shape of Llama-3.2-11B-Vision with random weights: our trainer beside the plain loop.

python nbs/benchmarks/qlora_memory.py [--out FILE] [--tiny]
"""
import argparse, gc, json, statistics, sys, tempfile, time
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from pathlib import Path
import bitsandbytes as bnb, numpy as np, torch, transformers
from peft import LoraConfig, get_peft_model, prepare_model_for_kbit_training
from torch import nn
from transformers import TrainerCallback
from transformers.integrations import replace_with_bnb_linear
from transformers.models.mllama.modeling_mllama import MllamaRotaryEmbedding
from microscopygpt.chat import make_prompt
from microscopygpt.data import ChatDataset
from microscopygpt.model import IGNORED, LargeVLM, compute_dtype, encode, nf4
from microscopygpt.tiny import tiny_vlm
from microscopygpt.train import RECIPES, ChatTrainer, _arguments, add_adapter, lora_targets

ANSWER_TOKENS, TARGET_GIB = 512, 15.


def configuration(tiny=False):
    "The public configuration of Llama-3.2-11B-Vision, or that of the tiny random model."
    if tiny: return tiny_vlm("mllama", px=56)[0].config
    config = transformers.MllamaConfig()
    config.vision_config.image_size = 560
    config.text_config.rope_parameters = dict(rope_type="llama3", rope_theta=500000., factor=8., low_freq_factor=1., high_freq_factor=4., original_max_position_embeddings=8192)
    return config


def random_weights(name, shape, dtype, generator):
    "What a parameter starts from: open gates, plain norms, small random matrices."
    if name.endswith("_gate") or name.endswith("gate_attn") or name.endswith("gate_ffn"): return torch.full(shape, .5, dtype=dtype)
    if "norm" in name: return torch.ones(shape, dtype=dtype) if name.endswith("weight") else torch.zeros(shape, dtype=dtype)
    return torch.empty(shape, dtype=dtype).normal_(std=.02, generator=generator)


def random_model(config, device, dtype, seed=0):
    "A random model in NF4, made layer by layer: at no time are all weights there in 16 bits."
    with torch.device("meta"): model = transformers.MllamaForConditionalGeneration(config)
    how = nf4()
    model = replace_with_bnb_linear(model, modules_to_not_convert=how.llm_int8_skip_modules, quantization_config=how)
    generator = torch.Generator().manual_seed(seed)
    for path, module in model.named_modules():
        for name, p in list(module.named_parameters(recurse=False)):
            values = random_weights(f"{path}.{name}", p.shape, dtype, generator)
            if isinstance(p, bnb.nn.Params4bit): p = bnb.nn.Params4bit(values, requires_grad=False, quant_type="nf4", compress_statistics=True, module=module).to(device)
            else: p = nn.Parameter(values.to(device), requires_grad=False)
            module.register_parameter(name, p)
    model.model.language_model.rotary_emb = MllamaRotaryEmbedding(config.text_config, device=device)
    model.is_loaded_in_4bit, model.hf_device_map = True, {"": device}
    return model.eval()


def vlm_of(tiny, device):
    "The random model with a processor that makes one 560 x 560 tile of a micrograph, as the real one does."
    _, processor = tiny_vlm("mllama", px=56)
    if not tiny: processor.image_processor.size, processor.image_processor.max_image_tiles = dict(height=560, width=560), 4
    model = random_model(configuration(tiny), device, compute_dtype())
    t = processor.tokenizer
    model.generation_config = transformers.GenerationConfig(eos_token_id=t.eos_token_id, pad_token_id=t.pad_token_id)
    return LargeVLM(model, processor, "random")


def batch_of(vlm, size, tokens=ANSWER_TOKENS):
    "Micrographs with exactly so many labelled tokens each; what they say does not matter."
    batch = encode(vlm.processor, [vlm.shown(None)]*size, [make_prompt("MoS2")]*size, ["0.333 "*tokens]*size)
    end = int((batch["labels"][0] != IGNORED).int().argmax()) + tokens
    return {k: v[:, :end] if k in ("input_ids", "attention_mask", "labels", "cross_attention_mask") else v for k, v in batch.items()}


def free():
    gc.collect()
    if torch.cuda.is_available(): torch.cuda.empty_cache(); torch.cuda.reset_peak_memory_stats()


def peak_gib(kind="allocated"): return round(getattr(torch.cuda, f"max_memory_{kind}")()/2**30, 2) if torch.cuda.is_available() else None


def clock():
    if torch.cuda.is_available(): torch.cuda.synchronize()
    return time.perf_counter()


class Stopwatch(TrainerCallback):
    "Seconds of each step."
    def __init__(self): self.seconds = []
    def on_step_begin(self, *args, **kw): self.start = clock()
    def on_step_end(self, *args, **kw): self.seconds.append(clock() - self.start)


def ours(tiny, device, size, steps):
    "Our trainer with the default recipe, as `finetune` runs it."
    vlm, watch = vlm_of(tiny, device), Stopwatch()
    recipe = replace(RECIPES["default"], batch_size=size, accumulate=1, warmup=0)
    add_adapter(vlm, recipe)
    batch = batch_of(vlm, size)
    with tempfile.TemporaryDirectory() as out:
        args = _arguments(vlm, out, recipe, steps, steps, 0, "none")
        args = replace(args, eval_strategy="no", save_strategy="no", load_best_model_at_end=False, disable_tqdm=True)
        trainer = ChatTrainer(vlm, args, data_collator=lambda items: batch, train_dataset=[0]*size*steps, callbacks=[watch])
        vlm.set_training(True); trainer.train()
    return watch.seconds


def plain(tiny, device, size, steps, recipe):
    "The author's loop written plainly: everything in 16 bits cast to 32, the loss on all tokens."
    vlm = vlm_of(tiny, device); gpu = device != "cpu"
    targets = lora_targets(vlm.model, recipe)
    model = prepare_model_for_kbit_training(vlm.model, use_gradient_checkpointing=gpu, gradient_checkpointing_kwargs=dict(use_reentrant=False))
    model = get_peft_model(model, LoraConfig(r=recipe.r, lora_alpha=recipe.alpha, target_modules=targets, task_type="CAUSAL_LM")).train()
    learned = [p for p in model.parameters() if p.requires_grad]
    optimizer = bnb.optim.PagedAdamW8bit(learned, lr=recipe.lr) if gpu else torch.optim.AdamW(learned, lr=recipe.lr)
    batch = {k: v.to(device) for k, v in batch_of(vlm, size).items()}
    batch["labels"], seconds = batch["input_ids"].clamp(max=configuration(tiny).text_config.vocab_size - 1), []
    for _ in range(steps):
        start = clock()
        with torch.autocast("cuda", compute_dtype()) if gpu else nullcontext(): loss = model(**batch, use_cache=False).loss
        loss.backward(); nn.utils.clip_grad_norm_(learned, 1.); optimizer.step(); optimizer.zero_grad()
        seconds.append(clock() - start)
    return seconds


@contextmanager
def measured(rows, **what):
    "Add a row with peak memory and whatever the block puts into it, or with the reason why there is none."
    free(); row = dict(what)
    try: yield row
    except torch.OutOfMemoryError: row["failed"] = "out of memory"
    rows.append(row | dict(peak_gib=peak_gib(), reserved_gib=peak_gib("reserved")))
    print(json.dumps(rows[-1]), flush=True)


def training_rows(tiny, device, steps, rows):
    "Both ways, at batch 1 and 2; the plain loop with the author's layers and with ours."
    author, same = RECIPES["author"], RECIPES["default"]
    for size in (1, 2):
        for name, run in (("ours", lambda: ours(tiny, device, size, steps)), ("plain, our layers", lambda: plain(tiny, device, size, steps, same)), ("plain, author's layers", lambda: plain(tiny, device, size, steps, author))):
            with measured(rows, task="training step", how=name, batch=size) as row: row["seconds"] = statistics.median(run()[1:])


def generation_rows(tiny, device, rows):
    "Answers steered by the formula, and free ones."
    vlm = vlm_of(tiny, device)
    for size in (1, 8):
        for constrained in (True, False):
            vlm.constrained = constrained
            with measured(rows, task="generation", how="steered" if constrained else "free", batch=size) as row:
                start = clock(); [answers] = vlm.generate([None], [make_prompt("MoS2")], k=size)
                row["seconds"] = clock() - start
                row["tokens_per_second"] = sum(len(ids) for ids in vlm.processor.tokenizer([a.text for a in answers])["input_ids"])/row["seconds"]


def main(argv=None):
    "Measure, print a table and the verdict, and write both with --out."
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tiny", action="store_true", help="a model of a million parameters, on any machine")
    parser.add_argument("--steps", type=int, default=6, help="training steps, the first of which does not count (default: %(default)s)")
    parser.add_argument("--out", type=Path, help="file for the figures")
    args = parser.parse_args(argv)
    if not args.tiny and not torch.cuda.is_available(): parser.error("the full shape needs a GPU: try --tiny here")
    device, rows = "cuda:0" if torch.cuda.is_available() else "cpu", []
    training_rows(args.tiny, device, args.steps, rows); generation_rows(args.tiny, device, rows)
    result = dict(device=torch.cuda.get_device_name() if device != "cpu" else "cpu", tiny=args.tiny, torch=torch.__version__, rows=rows, **verdict(rows))
    if args.out: args.out.write_text(json.dumps(result, indent=1))
    print(json.dumps({k: v for k, v in result.items() if k != "rows"}, indent=1))
    return result


def verdict(rows):
    "Ratios of ours to the plain loop with the same layers, and whether the target is met; None where nothing was measured."
    find = lambda how, size: next(r for r in rows if r["task"] == "training step" and r["how"] == how and r["batch"] == size)
    ratio = lambda key, size: find("ours", size)[key]/find("plain, our layers", size)[key] if find("ours", size).get(key) and find("plain, our layers", size).get(key) else None
    peak = find("ours", 1)["peak_gib"]
    return dict(time_ratio={n: ratio("seconds", n) for n in (1, 2)}, memory_ratio={n: ratio("peak_gib", n) for n in (1, 2)}, target_met=None if peak is None else peak <= TARGET_GIB)


if __name__ == "__main__": main()
