"The doctor must speak where everything else is silent, and must not cry wolf."
import subprocess, sys
from configparser import ConfigParser
from importlib.metadata import PackageNotFoundError
from pathlib import Path
import pytest
from microscopygpt import doctor
from microscopygpt.cli import NOT_READY, main
from microscopygpt.doctor import EXTRAS, FAULT, Finding, diagnose, is_ready, is_whole, report
from microscopygpt.instrument_files import read_dm, read_hdf5, read_rosetta, read_ser
from microscopygpt.readers import reader_of

def run(code, tmp_path):
    "A fresh interpreter's exit code and output."
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path)
    return done.returncode, done.stdout, done.stderr

def test_a_sound_installation_is_ready(capsys):
    assert main(["doctor"]) == 0
    said = capsys.readouterr().out
    assert FAULT not in said and said.rstrip().endswith("What predict needs is here.")

@pytest.mark.parametrize("lost", ["scipy", "torch"])
def test_a_missing_package_is_a_fault(lost, monkeypatch, capsys):
    real = doctor.version
    def version(name):
        if name == lost: raise PackageNotFoundError(name)
        return real(name)
    monkeypatch.setattr(doctor, "version", version)
    assert main(["doctor"]) == NOT_READY
    said = capsys.readouterr().out
    assert f"{FAULT}   required: {lost} is not installed" in said and "pip install --upgrade microscopygpt" in said

def test_an_old_package_is_a_fault(monkeypatch):
    monkeypatch.setattr(doctor, "version", lambda name: "0.1")
    assert not is_ready(doctor.find_requirements())

def test_a_damaged_model_is_a_fault(tmp_path):
    "Nothing, a pointer to a large file, a file cut short."
    assert doctor.find_models(tmp_path)[0].state == FAULT
    for data in (b"", b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 8293808\n",
                 (doctor.files("microscopygpt")/"weights/compact/model.safetensors").read_bytes()[:-1]):
        (tmp_path/"model.safetensors").write_bytes(data)
        assert not is_whole(tmp_path/"model.safetensors")
        assert doctor.find_models(tmp_path)[0].state == FAULT

def test_it_speaks_without_any_other_package(tmp_path):
    "With the standard library, `packaging` and nothing else."
    code = f"""
import sys
class Nothing:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] not in {{*sys.stdlib_module_names, "microscopygpt", "packaging"}}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)
sys.meta_path.insert(0, Nothing())
from microscopygpt.cli import main
sys.exit(main(["doctor"]))
"""
    code, out, err = run(code, tmp_path)
    assert code == NOT_READY and err == "" and "Traceback" not in out
    assert f"{FAULT}   torch: ModuleNotFoundError" in out and "marked FAULT" in out

def test_it_needs_no_network_and_loads_nothing_slow(tmp_path):
    code = """
import socket, sys
def refuse(*args, **more): raise AssertionError("the doctor asked the network")
socket.socket.connect = socket.create_connection = socket.getaddrinfo = refuse
from microscopygpt.cli import main
assert main(["doctor"]) == 0
slow = {"transformers", "peft", "datasets", "accelerate", "sklearn", "pandas", "unsloth", "chgnet", "ipywidgets"}
assert not slow & set(sys.modules), slow & set(sys.modules)
"""
    code, _, err = run(code, tmp_path)
    assert code == 0, err

def test_readers_are_those_of_the_library():
    assert {reader_of(b"", s) for s in (".dm3", ".dm4")} == {read_dm} and reader_of(b"", ".ser") is read_ser
    assert {reader_of(b"", s) for s in (".emi", ".blo", ".mib")} == {read_rosetta} and reader_of(b"", ".emd") is read_hdf5

def test_extras_are_those_of_the_settings():
    "But for Colab's, which nobody wants elsewhere."
    settings = ConfigParser(delimiters=["="])
    settings.read(Path(__file__).parents[1]/"settings.ini")
    end = "_requirements"
    names = {key.removesuffix(end) for key in settings["DEFAULT"] if key.endswith(end)}
    assert set(EXTRAS) == names - {"colab"}

def test_every_finding_stands_in_the_report():
    findings = [*diagnose(), Finding("Readers", "plates", FAULT, "is broken", "buy a new one")]
    said = report(findings)
    assert all(f.name in said and f.said in said and f.remedy in said for f in findings) and "marked FAULT" in said
