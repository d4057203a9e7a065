"`make gpu`: every part leaves a result, whatever becomes of it; a part that takes too long is ended with all that it started."
import importlib.util, json, subprocess, sys, time
from pathlib import Path
import pytest

SCRIPT = Path(__file__).parent.parent/"nbs"/"timings"/"gpu.py"
spec = importlib.util.spec_from_file_location("gpu_command", SCRIPT)
gpu = importlib.util.module_from_spec(spec); spec.loader.exec_module(gpu)

def command(*options, out): return subprocess.run([sys.executable, str(SCRIPT), "--small", "--out", str(out), *options], capture_output=True, text=True)

def part_of(path, body):
    "A script that stands for gpu.py when a part is run: it tells through the pipe what `body` says."
    path.write_text(f"import json, os, subprocess, sys, time\nwire = int(sys.argv[sys.argv.index('--wire') + 1])\ndef tell(**found): os.write(wire, (json.dumps(found) + '\\n').encode())\n"
                    f"tell(about=dict(device='a device', versions={{}}))\n{body}\n")
    return path

@pytest.fixture
def ran(tmp_path, monkeypatch):
    "Run such a body as a part; its result as it is on disk."
    def ran(body, limit=20, name="simulate"):
        monkeypatch.setattr(gpu, "__file__", str(part_of(tmp_path/"part.py", body)))
        gpu.run(name, True, limit, gpu.Results(tmp_path/"results.json"))
        return json.loads((tmp_path/"results.json").read_text())[name]
    return ran

def test_all_parts_together_take_nine_minutes_at_most():
    assert sum(limit for _, limit, _ in gpu.PARTS.values()) <= gpu.TOTAL <= 540

def test_every_part_leaves_a_result_also_when_one_is_killed(tmp_path):
    out = tmp_path/"gpu.json"
    done = command("--only", "simulate", "train", "tests", "qlora, Unsloth", "--limit", "train=0.5", out=out)
    results = json.loads(out.read_text())
    assert done.returncode == 1 and list(results) == ["simulate", "train", "tests", "qlora, Unsloth"], done.stdout + done.stderr
    assert results["train"]["status"] == "timeout" and results["train"]["figures"] == []
    assert results["simulate"]["status"] == "ok" and results["simulate"]["device"] and results["simulate"]["versions"]["torch"]
    assert all(row["images_per_s"] > 0 for row in results["simulate"]["figures"]) and len(results["simulate"]["figures"]) >= 2
    for name in ("tests", "qlora, Unsloth"):
        if not gpu.has_gpu(): assert (results[name]["status"], results[name]["why"]) == ("skipped", "no GPU")
    assert all(r["small"] and r["seconds"] >= 0 for r in results.values())

def test_training_in_small(tmp_path):
    done = command("--only", "train", out=tmp_path/"gpu.json")
    train = json.loads((tmp_path/"gpu.json").read_text())["train"]
    assert done.returncode == 0 and train["status"] == "ok", train
    learned = [f for f in train["figures"] if "loss" in f]
    assert learned[-1]["loss"] < learned[-1]["first_loss"] and learned[-1]["steps_per_s"] > 0 and train["figures"][0]["steps_per_s"] > 0

def test_qlora_in_small(tmp_path):
    pytest.importorskip("bitsandbytes", reason="four-bit models need bitsandbytes")
    done = command("--only", "qlora, ours", out=tmp_path/"gpu.json")
    part = json.loads((tmp_path/"gpu.json").read_text())["qlora, ours"]
    assert done.returncode == 0 and part["status"] == "ok", part
    assert {(row["how"], row["batch"]) for row in part["figures"] if row["seconds"] > 0} == {(how, size) for how in ("ours", "ours, author's layers") for size in (1, 2)}

def test_what_was_told_is_kept_when_time_runs_out(ran, tmp_path):
    "And what the part had started is gone as well."
    began, child = time.perf_counter(), f"import time, pathlib; time.sleep(4); pathlib.Path({str(tmp_path/'alive')!r}).touch()"
    part = ran(f"tell(speed=3.)\nsubprocess.Popen([sys.executable, '-c', {child!r}])\ntime.sleep(60)", limit=2)
    assert part["status"] == "timeout" and part["figures"] == [dict(speed=3.)] and part["device"] == "a device" and 2 <= part["seconds"] < 20
    time.sleep(max(0, 6 - (time.perf_counter() - began)))
    assert not (tmp_path/"alive").exists()

def test_a_part_that_fails_says_why_and_keeps_what_it_told(ran):
    part = ran("tell(speed=3.)\nprint('half way', flush=True)\nraise ValueError('no more')")
    assert part["status"] == "failed" and part["figures"] == [dict(speed=3.)] and "half way" in part["said"] and "no more" in part["said"]

def test_a_part_that_is_killed_by_another_has_failed(ran):
    assert ran("os.kill(os.getpid(), 9)")["status"] == "failed"

def test_results_are_on_disk_while_a_part_runs(ran, tmp_path):
    "The part itself reads them."
    part = ran(f"tell(speed=3.)\nfor _ in range(100):\n    time.sleep(.1)\n    now = json.load(open({str(tmp_path/'results.json')!r}))['simulate']\n    if now['figures']: break\ntell(seen=now)")
    assert part["figures"][1]["seen"]["figures"] == [dict(speed=3.)] and part["figures"][1]["seen"]["status"] == "running"

def test_results_of_other_parts_are_kept(ran, tmp_path):
    ran("tell(speed=1.)", name="simulate")
    ran("tell(speed=2.)", name="train")
    results = json.loads((tmp_path/"results.json").read_text())
    assert [results[name]["figures"] for name in ("simulate", "train")] == [[dict(speed=1.)], [dict(speed=2.)]]

def test_no_part_starts_when_all_time_is_gone(tmp_path, monkeypatch):
    monkeypatch.setattr(gpu, "TOTAL", 0)
    assert gpu.main(["--small", "--only", "simulate", "--out", str(tmp_path/"gpu.json")]) == 1
    assert json.loads((tmp_path/"gpu.json").read_text())["simulate"]["status"] == "timeout"

def test_unknown_parts_are_refused(tmp_path, capsys):
    with pytest.raises(SystemExit): gpu.main(["--limit", "coffee=3", "--out", str(tmp_path/"gpu.json")])
    assert "coffee" in capsys.readouterr().err
