"""Everything that only a GPU can tell, in one command of at most nine minutes. Each part has a process and a time limit of its own; what it finds is written at once.

python nbs/timings/gpu.py [--small] [--only PART ...] [--limit PART=SECONDS ...] [--out FILE]

Without a GPU everything is made small, and parts that need one say so.
"""
import argparse, json, os, re, signal, subprocess, sys, tempfile, threading, time
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
TOTAL = 540 # s, for all parts together
LAST_WORDS = 3000 # characters kept of what a part that failed had to say


wire = None # number of the pipe to the process that runs the parts

def tell(**found):
    "Hand something to the process that runs the parts; without one, to the screen."
    line = json.dumps(found) + "\n"
    if wire is None: print(line, end="", flush=True)
    else: os.write(wire, line.encode())


# ---- what a part does, in its own process

def about():
    "The device and the versions that figures belong to."
    import platform
    from importlib.metadata import PackageNotFoundError, version
    import torch
    def version_of(package):
        try: return version(package)
        except PackageNotFoundError: return None
    gpu = torch.cuda.is_available()
    packages = ("microscopygpt", "torch", "transformers", "peft", "bitsandbytes", "unsloth", "numpy")
    return dict(gpu=gpu, device=torch.cuda.get_device_name() if gpu else f"CPU ({platform.machine()})", versions={p: version_of(p) for p in packages} | dict(python=platform.python_version(), cuda=torch.version.cuda))


def clock():
    "Seconds, once the device has done what it was told."
    import torch
    if torch.cuda.is_available(): torch.cuda.synchronize()
    return time.perf_counter()


def seconds(call, repeat=3):
    "Shortest of some runs, after one that does not count."
    call()
    times = []
    for _ in range(repeat):
        start = clock()
        call()
        times.append(clock() - start)
    return min(times)


def part_tests(small):
    "The tests that need a GPU."
    command = [sys.executable, "-m", "pytest", "-v", "-p", "no:cacheprovider", "test_gpu.py"]
    began = time.perf_counter()
    with subprocess.Popen(command, cwd=ROOT/"tests", stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as tests:
        for line in tests.stdout:
            print(line, end="", flush=True)
            said = re.match(r"test_gpu\.py::(\S+) (PASSED|FAILED|ERROR|SKIPPED|XFAIL)", line)
            if not said: continue
            tell(test=said[1], outcome=said[2].lower(), seconds=round(time.perf_counter() - began, 1))
            began = time.perf_counter()
    if tests.returncode: raise SystemExit(tests.returncode)


def mos2():
    "A sheet of MoS2."
    import numpy as np
    from microscopygpt.crystal import Slab, cell_from_lengths, from_slab
    return from_slab(Slab(cell_from_lengths(3.18, 3.18, 120), np.array([[0, 0], [1/3, 2/3], [1/3, 2/3]]), np.array([0, 1.56, -1.56]), np.array([42, 16, 16])))


def product(views, device):
    "What `image_sum` is given for many views of MoS2, on the device."
    import numpy as np, torch
    from microscopygpt.crystal import cell_from_lengths
    from microscopygpt.stem import half_plane
    put = lambda a: torch.tensor(np.array(a), dtype=torch.float64, device=device)
    cell, b = cell_from_lengths(3.18, 3.18, 120), len(views)
    angles = np.radians([v["rotation"] for v in views])
    turns = np.array([[[np.cos(t), np.sin(t)], [-np.sin(t), np.cos(t)]] for t in angles])
    arrays = put(cell@turns), put([[[0, 0], [1/3, 2/3]]]*b), put([[42**1.7, 2*16**1.7]]*b), .5, put(half_plane(cell, 1.8))
    return arrays, put([v["shift"] for v in views])


def part_simulate(small):
    "Simulated micrographs per second, 256 x 256 px: the whole call from structures to arrays, and the product alone."
    import torch
    from microscopygpt.stem import image_sum, simulate
    from microscopygpt.noise import random_view
    crystal = mos2()
    for device in ("cpu", "cuda") if torch.cuda.is_available() else ("cpu",):
        torch.set_num_threads(1)
        for b in (8,) if small else (64,) if device == "cpu" else (64, 1024):
            views = [random_view(i) for i in range(b)]
            where = {k: [v[k] for v in views] for k in ("rotation", "shift")}
            tell(what="whole call", on=device, batch=b, images_per_s=b/seconds(lambda: simulate([crystal]*b, device=device, **where)))
            arrays, shift = product(views, device)
            tell(what="product alone", on=device, batch=b, images_per_s=b/seconds(lambda: image_sum(*arrays, shift=shift)))


def family():
    "Sheets MX2 of 16 metals and 4 chalcogens and halogens, as large as covalent radii say."
    import numpy as np
    from ase.data import covalent_radii
    from microscopygpt.crystal import Slab, cell_from_lengths, from_slab
    from microscopygpt.data import to_crystal
    crystals = []
    for metal in (22, 23, 24, 25, 26, 40, 41, 42, 44, 46, 50, 72, 73, 74, 75, 78):
        for other in (16, 34, 52, 53):
            bond = covalent_radii[metal] + covalent_radii[other]
            a, height = 1.33*bond, .64*bond
            slab = Slab(cell_from_lengths(a, a, 120), np.array([[0, 0], [1/3, 2/3], [1/3, 2/3]]), np.array([0, height, -height]), np.array([metal, other, other]))
            crystals.append(to_crystal(from_slab(slab), f"{metal}-{other}", "family"))
    return crystals


def learning_alone(model, batch, steps):
    "Seconds of a step of the compact model when its batch lies ready on the device."
    import torch
    from microscopygpt.compact_train import answer_loss, soft_targets
    device = next(model.parameters()).device
    batch = {k: v.to(device) for k, v in batch.items()}
    labels, soft = batch.pop("labels"), soft_targets().to(device)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    def step():
        with torch.autocast(device.type, torch.bfloat16): logits = model.train()(**batch)
        answer_loss(logits, labels, soft)[0].backward()
        optimizer.step()
        optimizer.zero_grad()
    return seconds(lambda: [step() for _ in range(steps)])/steps


def part_train(small):
    "The compact model learns simulated cells on the device: steps per second, and whether the loss falls."
    import torch
    from transformers import TrainerCallback
    from microscopygpt.compact import CompactConfig, CompactModel
    from microscopygpt.compact_train import SimulatedBatches, train_compact
    sizes = dict(d_model=48, encoder_layers=1, decoder_layers=1, encoder_ffn_dim=96, decoder_ffn_dim=96, encoder_attention_heads=4, decoder_attention_heads=4) if small else {}
    steps, batch_size, workers = (12, 8, 0) if small else (300, 64, max(1, (os.cpu_count() or 2) - 1))
    config, crystals = CompactConfig(**sizes), family()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    batch = SimulatedBatches(crystals, 1, batch_size)[0]
    tell(what="step, batch ready", batch=batch_size, steps_per_s=1/learning_alone(CompactModel(config).to(device), batch, 2 if small else 20))

    class Watch(TrainerCallback):
        "Time and loss while it runs, from the second log on."
        def __init__(self): self.seen = []
        def on_log(self, args, state, control, logs=None, **kw):
            if "loss" not in logs: return
            self.seen.append((clock(), state.global_step, logs["loss"]))
            (t0, n0, first), (t, n, loss) = self.seen[0], self.seen[-1]
            if n > n0: tell(what="training, batches made meanwhile", batch=batch_size, workers=workers, step=n, loss=loss, first_loss=first, steps_per_s=(n - n0)/(t - t0))

    watch = Watch()
    with tempfile.TemporaryDirectory() as out:
        trainer = train_compact(crystals[::2], crystals[1::2], out, steps=steps, batch_size=batch_size, eval_every=steps//2, config=config, workers=workers, lr=3e-3 if small else 1e-3, callbacks=(watch,))
        tell(what="model on", on=str(next(trainer.model.parameters()).device))
    if not watch.seen[-1][2] < watch.seen[0][2]: raise SystemExit("the loss did not fall")


def qlora(small, *names):
    "Training steps at batch 1, answers, then batch 2, of some ways to do QLoRA; each row is told as soon as it is measured."
    sys.path.insert(0, str(HERE))
    import qlora_memory, torch

    class Told(list):
        "Rows that are told when they are added."
        def append(self, row):
            super().append(row)
            tell(**row)

    rows, device = Told(), "cuda:0" if torch.cuda.is_available() else "cpu"
    with tempfile.TemporaryDirectory() as folder:
        ways = qlora_memory.ways(small, device, folder)
        chosen = {name: ways[name] for name in names if name in ways}
        if not chosen: return tell(skipped="Unsloth is not installed")
        qlora_memory.training_rows(chosen, 2 if small else 4, rows, sizes=(1,))
        if not small: qlora_memory.generation_rows(chosen, rows, sizes=(1,))
        qlora_memory.training_rows(chosen, 2 if small else 4, rows, sizes=(2,))
    if all("failed" in row for row in rows): raise SystemExit("nothing could be measured")


def part_qlora_ours(small):
    "Our trainer without Unsloth, both recipes."
    qlora(small, "ours", "ours, author's layers")


def part_qlora_plain(small):
    "The plain loop, with our layers and the author's."
    qlora(small, "plain, our layers", "plain, author's layers")


def part_qlora_unsloth(small):
    "Our trainer with Unsloth, both recipes."
    qlora(small, "ours, Unsloth", "ours, Unsloth, author's layers")


# name -> what it does, seconds that it may take, whether it needs a GPU; the surest first.
# On an H200 they took 8, 36, 183, 75 and 46 s; Unsloth at the 11B shape did not end in 145 s.
PARTS = {
    "simulate": (part_simulate, 20, False),
    "train": (part_train, 60, False),
    "qlora, ours": (part_qlora_ours, 85, False),
    "qlora, plain": (part_qlora_plain, 60, False),
    "tests": (part_tests, 205, True),
    "qlora, Unsloth": (part_qlora_unsloth, 110, True),
}


def work(name, small, to):
    "Be the process of one part, which tells what it finds through pipe number `to`."
    global wire
    wire, (part, _, needs_gpu) = to, PARTS[name]
    here = about()
    tell(about=here)
    if needs_gpu and not here["gpu"]: tell(skipped="no GPU")
    else: part(small)


# ---- the process that runs them

class Results:
    "What is known so far, always on disk as well."
    def __init__(self, path):
        self.path, self.parts = Path(path), {}
        if self.path.is_file(): self.parts = json.loads(self.path.read_text(encoding="utf-8"))

    def put(self, name, part):
        "Write a part's result, whole or not at all."
        self.parts[name] = part
        self.path.parent.mkdir(parents=True, exist_ok=True)
        new = self.path.with_name(f".{self.path.name}.{os.getpid()}")
        with open(new, "w", encoding="utf-8") as f:
            f.write(json.dumps(self.parts, indent=1, ensure_ascii=False) + "\n")
            f.flush()
            os.fsync(f.fileno())
        os.replace(new, self.path)


def stop(process):
    "End a process and all that it started."
    try: os.killpg(process.pid, signal.SIGKILL)
    except ProcessLookupError: pass


def run(name, small, limit, results):
    "Run a part in a process of its own, keeping what it tells."
    part = dict(status="running", small=small, limit=limit, seconds=0., device=None, versions=None, figures=[])
    results.put(name, part)
    start, late = time.perf_counter(), threading.Event()
    near, far = os.pipe()
    command = [sys.executable, str(Path(__file__).resolve()), "--part", name, "--wire", str(far), *["--small"]*small]
    with tempfile.TemporaryFile() as log, os.fdopen(near, encoding="utf-8") as lines:
        process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT, pass_fds=(far,), start_new_session=True, cwd=ROOT)
        os.close(far)
        timer = threading.Timer(limit, lambda: (late.set(), stop(process)))
        timer.start()
        try:
            for line in lines:
                if not line.endswith("\n"): break # cut off while it was told
                note(part, json.loads(line))
                part["seconds"] = round(time.perf_counter() - start, 1)
                results.put(name, part)
            code = process.wait()
        finally:
            timer.cancel()
            stop(process)
        words = last_words(log)
    part["seconds"] = round(time.perf_counter() - start, 1)
    if late.is_set() and code == -signal.SIGKILL: part["status"] = "timeout"
    elif code: part.update(status="failed", said=words)
    elif part["status"] == "running": part["status"] = "ok"
    results.put(name, part)
    return part


def last_words(log):
    "The end of what a part said."
    log.seek(max(0, log.seek(0, os.SEEK_END) - LAST_WORDS))
    return log.read().decode(errors="replace")


def note(part, found):
    "Add what a part told to its result."
    if "about" in found: part.update({k: found["about"][k] for k in ("device", "versions")})
    elif "skipped" in found: part.update(status="skipped", why=found["skipped"])
    else: part["figures"].append(found)


def has_gpu():
    "Whether torch finds a GPU, asked in another process."
    asked = subprocess.run([sys.executable, "-c", "import torch; print(torch.cuda.is_available())"], capture_output=True, text=True)
    return asked.stdout.strip() == "True"


def part_limit(text):
    "PART=SECONDS."
    name, _, limit = text.rpartition("=")
    if name not in PARTS: raise argparse.ArgumentTypeError(f"{name!r} is no part: {', '.join(PARTS)}")
    return name, float(limit)


def main(argv=None):
    "Run the parts; 0 when none failed or ran out of time."
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--small", action="store_true", help="everything small, to try the command; so it is where there is no GPU")
    parser.add_argument("--only", nargs="+", choices=PARTS, default=tuple(PARTS), metavar="PART", help=f"only these: {'; '.join(PARTS)}. The results of others are kept")
    parser.add_argument("--limit", nargs="+", type=part_limit, default=(), metavar="PART=SECONDS", help="another time limit for a part")
    parser.add_argument("--out", type=Path, help="file for the results (default: nbs/timings/gpu.json, or out/gpu-small.json when small)")
    parser.add_argument("--part", choices=PARTS, help="be the process of this part")
    parser.add_argument("--wire", type=int, help="number of the pipe by which it tells what it finds")
    args = parser.parse_args(argv)
    if args.part: return work(args.part, args.small, args.wire)
    began, small = time.perf_counter(), args.small or not has_gpu()
    results = Results(args.out or (ROOT/"out"/"gpu-small.json" if small else HERE/"gpu.json"))
    limits, good = {name: limit for name, (_, limit, _) in PARTS.items()} | dict(args.limit), True
    for name in args.only:
        limit = round(min(limits[name], TOTAL - (time.perf_counter() - began)), 1)
        if limit <= 0:
            results.put(name, dict(status="timeout", small=small, limit=0, seconds=0., device=None, versions=None, figures=[]))
            good = False
            continue
        part = run(name, small, limit, results)
        good &= part["status"] in ("ok", "skipped")
        print(f"{name}: {part['status']}{': ' + part['why'] if 'why' in part else ''}, {part['seconds']} s, {len(part['figures'])} figures", flush=True)
    print(f"Written to {results.path}")
    return 0 if good else 1


if __name__ == "__main__": sys.exit(main())
