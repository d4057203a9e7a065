"""Memory and time of QLoRA on a model of the shape of Llama-3.2-11B-Vision with random weights: our trainer beside the plain loop.

python nbs/timings/qlora_memory.py [--out FILE] [--tiny] [--only HOW ...] [--float16] [--limit GIB]
"""
import argparse, gc, json, statistics, sys, tempfile, time
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from functools import partial
from pathlib import Path
import bitsandbytes as bnb, torch, transformers
from peft import LoraConfig, get_peft_model, prepare_model_for_kbit_training
from torch import nn
from transformers import TrainerCallback
from transformers.integrations import replace_with_bnb_linear
from transformers.models.mllama.modeling_mllama import MllamaRotaryEmbedding
from microscopygpt.chat import make_prompt
from microscopygpt.dataset import ChatDataset
from microscopygpt.large_model import IGNORED, LargeVLM, MemoryFullError, encode
from microscopygpt.model import compute_dtype, forget_models, has_unsloth, load_model, nf4
from microscopygpt.tiny import tiny_vlm
from microscopygpt.train import RECIPES, ChatTrainer, _arguments, add_adapter, lora_targets

ANSWER_TOKENS, GENERATED_TOKENS, TARGET_GIB = 512, 128, 15.


def configuration(tiny=False):
    "The public configuration of Llama-3.2-11B-Vision, or that of the tiny random model."
    if tiny: return tiny_vlm("mllama", px=56)[0].config
    config = transformers.MllamaConfig()
    config.vision_config.image_size = 560
    config.text_config.rope_parameters = dict(rope_type="llama3", rope_theta=500000., factor=8., low_freq_factor=1., high_freq_factor=4., original_max_position_embeddings=8192)
    return config


def random_weights(name, shape, generator, **kind):
    "What a parameter starts from: open gates, plain norms, small random matrices."
    if name.endswith("_gate") or name.endswith("gate_attn") or name.endswith("gate_ffn"): return torch.full(shape, .5, **kind)
    if "norm" in name: return torch.ones(shape, **kind) if name.endswith("weight") else torch.zeros(shape, **kind)
    return torch.empty(shape, **kind).normal_(std=.02, generator=generator)


def random_model(config, device, dtype, seed=0):
    "A random model in NF4, made layer by layer: at no time are all weights there in 16 bits."
    with torch.device("meta"): model = transformers.MllamaForConditionalGeneration(config)
    how = nf4()
    model = replace_with_bnb_linear(model, modules_to_not_convert=how.llm_int8_skip_modules, quantization_config=how)
    generator = torch.Generator(device).manual_seed(seed)
    for path, module in model.named_modules():
        for name, p in list(module.named_parameters(recurse=False)):
            values = random_weights(f"{path}.{name}", p.shape, generator, dtype=dtype, device=device)
            if isinstance(p, bnb.nn.Params4bit): p = bnb.nn.Params4bit(values, requires_grad=False, quant_type="nf4", compress_statistics=True, module=module).to(device)
            else: p = nn.Parameter(values, requires_grad=False)
            module.register_parameter(name, p)
    model.model.language_model.rotary_emb = MllamaRotaryEmbedding(config.text_config).to(device)
    model.is_loaded_in_4bit, model.hf_device_map = True, {"": device}
    return model.eval()


def processor_of(tiny):
    "A processor that makes one 560 x 560 tile of a micrograph, as the real one does, or that of the tiny model."
    processor = tiny_vlm("mllama", px=56)[1]
    if not tiny: processor.image_processor = type(processor.image_processor)(size=dict(height=560, width=560), max_image_tiles=4)
    return processor


def vlm_of(tiny, device, config=None):
    "The random model with its processor."
    processor = processor_of(tiny)
    model = random_model(config or configuration(tiny), device, compute_dtype())
    t = processor.tokenizer
    model.generation_config = transformers.GenerationConfig(eos_token_id=t.eos_token_id, pad_token_id=t.pad_token_id)
    return LargeVLM(model, processor, "random")


def save_random(tiny, device, folder):
    "The random model in four bits as a folder, for those who load it from there."
    vlm = vlm_of(tiny, device)
    vlm.model.config.quantization_config = nf4()
    for part in (vlm.model, vlm.processor): part.save_pretrained(folder)
    return folder


def batch_of(vlm, size, tokens=ANSWER_TOKENS):
    "Micrographs with exactly so many labelled tokens each; what they say does not matter."
    batch = encode(vlm.processor, [vlm.model_image(None)]*size, [make_prompt("MoS2")]*size, ["0.333 "*tokens]*size)
    end = int((batch["labels"][0] != IGNORED).int().argmax()) + tokens
    return {k: v[:, :end] if k in ("input_ids", "attention_mask", "labels", "cross_attention_mask") else v for k, v in batch.items()}


def written(vlm, size):
    "Seconds in which answers are written, cut at `GENERATED_TOKENS`, and tokens per second."
    generate, rows = vlm.model.generate, []
    def write(tokens):
        vlm.model.generate = lambda **kw: generate(**kw | dict(max_new_tokens=tokens))
        vlm.generate([None], [make_prompt("MoS2")], k=size)
    count = vlm.model.register_forward_hook(lambda module, given, out: rows.append(len(out.logits)))
    try:
        write(4); rows.clear() # what is done once is done now
        start = clock(); write(GENERATED_TOKENS); seconds = clock() - start
    finally: count.remove(); del vlm.model.generate
    return dict(seconds=seconds, tokens_per_second=sum(rows)/seconds)


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


def ours(vlm, size, steps, recipe=RECIPES["default"]):
    "Our trainer, as `finetune` runs it."
    watch = Stopwatch()
    recipe = replace(recipe, batch_size=size, accumulate=1, warmup=0)
    add_adapter(vlm, recipe)
    batch = batch_of(vlm, size)
    with tempfile.TemporaryDirectory() as out:
        args = _arguments(vlm, out, recipe, steps, steps, 0, "none")
        args = replace(args, eval_strategy="no", save_strategy="no", load_best_model_at_end=False, disable_tqdm=True)
        trainer = ChatTrainer(vlm, args, data_collator=lambda items: batch, train_dataset=[0]*size*steps, callbacks=[watch])
        vlm.set_training(True); trainer.train()
    return watch.seconds


def plain(vlm, size, steps, recipe):
    "The author's loop written plainly: everything in 16 bits cast to 32, the loss on all tokens."
    device = vlm.model.device; gpu = device.type == "cuda"; dtype = compute_dtype()
    targets = lora_targets(vlm.model, recipe)
    model = prepare_model_for_kbit_training(vlm.model, use_gradient_checkpointing=gpu, gradient_checkpointing_kwargs=dict(use_reentrant=False))
    model = get_peft_model(model, LoraConfig(r=recipe.r, lora_alpha=recipe.alpha, target_modules=targets, task_type="CAUSAL_LM")).train()
    learned = [p for p in model.parameters() if p.requires_grad]
    optimizer = bnb.optim.PagedAdamW8bit(learned, lr=recipe.lr) if gpu else torch.optim.AdamW(learned, lr=recipe.lr)
    batch = {k: v.to(device) for k, v in batch_of(vlm, size).items()}
    batch["labels"], seconds = batch["input_ids"].clamp(max=model.config.text_config.vocab_size - 1), []
    scaler = torch.amp.GradScaler(enabled=dtype == torch.float16)
    for _ in range(steps):
        start = clock()
        with torch.autocast("cuda", dtype) if gpu else nullcontext(): loss = model(**batch, use_cache=False).loss
        scaler.scale(loss).backward(); scaler.unscale_(optimizer); nn.utils.clip_grad_norm_(learned, 1.); scaler.step(optimizer); scaler.update(); optimizer.zero_grad()
        seconds.append(clock() - start)
    return seconds


@contextmanager
def measured(rows, **what):
    "Add a row with peak memory and whatever the block puts into it, or with the reason why there is none."
    free(); row = dict(what)
    try: yield row
    except (torch.OutOfMemoryError, MemoryFullError): row["failed"] = "out of memory"
    rows.append(row | dict(peak_gib=peak_gib(), reserved_gib=peak_gib("reserved")))
    print(json.dumps(rows[-1]), flush=True)


def ways(tiny, device, folder):
    "How a training step and an answer can be had: name -> what makes the model, and what trains it."
    fresh = lambda: vlm_of(tiny, device)
    def by_unsloth():
        if not (Path(folder)/"config.json").is_file(): save_random(tiny, device, folder); free()
        forget_models()
        return load_model(folder)
    by_author = partial(ours, recipe=RECIPES["author"])
    found = {"ours": (fresh, ours), "ours, author's layers": (fresh, by_author),
             "plain, our layers": (fresh, partial(plain, recipe=RECIPES["default"])), "plain, author's layers": (fresh, partial(plain, recipe=RECIPES["author"]))}
    if has_unsloth(): found |= {"ours, Unsloth": (by_unsloth, ours), "ours, Unsloth, author's layers": (by_unsloth, by_author)}
    return found


def training_rows(chosen, steps, rows, sizes=(1, 2)):
    "Every chosen way at some batch sizes."
    for size in sizes:
        for name, (make, run) in chosen.items():
            with measured(rows, task="training step", how=name, batch=size) as row: row["seconds"] = statistics.median(run(make(), size, steps)[1:])


def generation_rows(chosen, rows, sizes=(1, 8)):
    "Answers steered by the formula, and free ones."
    for name in ("ours", "ours, Unsloth"):
        if name not in chosen: continue
        free(); vlm = chosen[name][0](); vlm.set_training(False)
        for size in sizes:
            for constrained in (True, False):
                vlm.constrained = constrained
                with measured(rows, task="generation", how=f"{name}, {'steered' if constrained else 'free'}", batch=size) as row: row.update(written(vlm, size))
        del vlm


def main(argv=None):
    "Measure, print a table and the verdict, and write both with --out."
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tiny", action="store_true", help="a model of a million parameters, on any machine")
    parser.add_argument("--steps", type=int, default=6, help="training steps, the first of which does not count (default: %(default)s)")
    parser.add_argument("--only", nargs="+", metavar="HOW", help="only these ways: ours; \"ours, author's layers\"; 'plain, our layers'; \"plain, author's layers\"; 'ours, Unsloth'; \"ours, Unsloth, author's layers\"")
    parser.add_argument("--float16", action="store_true", help="compute in float16, as GPUs before 2020 do")
    parser.add_argument("--limit", type=float, metavar="GIB", help="memory that may be used, as on a smaller GPU")
    parser.add_argument("--out", type=Path, help="file for the figures")
    args = parser.parse_args(argv)
    if not args.tiny and not torch.cuda.is_available(): parser.error("the full shape needs a GPU: try --tiny here")
    if args.limit: torch.cuda.set_per_process_memory_fraction(args.limit*2**30/torch.cuda.get_device_properties(0).total_memory)
    if args.float16: torch.cuda.is_bf16_supported = lambda *_, **__: False
    device, rows = "cuda:0" if torch.cuda.is_available() else "cpu", []
    with tempfile.TemporaryDirectory() as folder:
        chosen = {name: way for name, way in ways(args.tiny, device, folder).items() if not args.only or name in args.only}
        training_rows(chosen, args.steps, rows); generation_rows(chosen, rows)
    result = dict(device=torch.cuda.get_device_name() if device != "cpu" else "cpu", tiny=args.tiny, dtype=str(compute_dtype()).removeprefix("torch."), limit_gib=args.limit, torch=torch.__version__, rows=rows, **verdict(rows))
    if args.out: args.out.write_text(json.dumps(result, indent=1))
    print(json.dumps({k: v for k, v in result.items() if k != "rows"}, indent=1))
    return result


def verdict(rows):
    "Ratios of ours, with Unsloth where that is there, to the plain loop with the same layers, and whether the target is met; None where nothing was measured."
    have = {(r["how"], r["batch"]): r for r in rows if r["task"] == "training step" and "failed" not in r}
    mine = lambda size: have.get(("ours, Unsloth", size)) or have.get(("ours", size)) or {}
    ratio = lambda key, size: round(a/b, 3) if (a := mine(size).get(key)) and (b := have.get(("plain, our layers", size), {}).get(key)) else None
    peak = mine(1).get("reserved_gib")
    return dict(time_ratio={n: ratio("seconds", n) for n in (1, 2)}, memory_ratio={n: ratio("peak_gib", n) for n in (1, 2)}, target_met=None if peak is None else peak <= TARGET_GIB)


if __name__ == "__main__": main()
