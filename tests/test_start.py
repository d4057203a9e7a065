"What a short command must not wait for: packages that it does not use. Seconds differ from machine to machine; what is imported does not."
import json, subprocess, sys
import pytest

SLOW = {"transformers", "peft", "datasets", "accelerate", "sklearn", "pandas", "pyarrow", "IPython", "nbdev", "ipywidgets", "torchvision", "huggingface_hub.errors", "scipy.stats", "scipy.signal", "h5py",
        "pymatgen.analysis.structure_matcher", "torch._dynamo"}

def loaded_after(code, cwd):
    "Names of the modules that a fresh interpreter has loaded after some lines."
    done = subprocess.run([sys.executable, "-c", f"{code}\nimport json, sys\nprint(json.dumps(list(sys.modules)))"], capture_output=True, text=True, cwd=cwd)
    assert done.returncode == 0, done.stderr
    return set(json.loads(done.stdout.splitlines()[-1]))

def test_the_package_itself_loads_nothing(tmp_path):
    loaded = loaded_after("import microscopygpt", tmp_path)
    assert not loaded & (SLOW | {"numpy", "torch", "matplotlib", "jarvis", "pymatgen"})

def test_public_names_are_found_when_they_are_used(tmp_path):
    "Also after a page of another name was imported."
    code = "import microscopygpt as mg, microscopygpt.solve\nassert all(callable(getattr(mg, name)) for name in dir(mg) if name != '__version__')"
    assert {"microscopygpt.solve", "microscopygpt.evaluation"} <= loaded_after(code, tmp_path)
    unknown = "import microscopygpt as mg\ntry: mg.prediction_of\nexcept AttributeError as e: assert 'prediction_of' in str(e)\nelse: raise AssertionError"
    loaded_after(unknown, tmp_path)

def test_help_loads_nothing(tmp_path):
    loaded = loaded_after("from microscopygpt.cli import main\nmain(['predict', '--help'])", tmp_path)
    assert not loaded & (SLOW | {"numpy", "torch", "matplotlib", "jarvis", "pymatgen"})

@pytest.mark.parametrize("module", ["crystal", "chat", "stem", "lattice", "data", "compact", "model", "refine", "solve"])
def test_modules_that_predict_needs_load_nothing_slow(module, tmp_path):
    assert not loaded_after(f"import microscopygpt.{module}", tmp_path) & SLOW

@pytest.mark.parametrize("heights", ["none", "chgnet"])
def test_a_prediction_loads_nothing_slow(heights, tmp_path):
    "From the command line to the files, with the model and the potential in the package."
    code = f"""
from importlib.resources import files
from microscopygpt.cli import main
assert main(["predict", str(files("microscopygpt")/"examples"/"demo.tif"), "--formula", "MoSe2", "--pixel-size", "0.1", "--heights", "{heights}", "--out", "out"]) == 0
"""
    assert not loaded_after(code, tmp_path) & SLOW - {"pymatgen.analysis.structure_matcher"} # compares answers; scipy.optimize is what was slow in it

def test_what_stood_in_for_scikit_learn_is_the_real_thing_when_it_is_wanted(tmp_path):
    code = """
import microscopygpt.crystal, jarvis.core.atoms, sys
assert "sklearn" not in sys.modules
assert jarvis.core.atoms.mean_absolute_error([1., 2.], [1., 4.]) == 1.
from sklearn.metrics import r2_score
assert r2_score([1., 2.], [1., 2.]) == 1.
"""
    assert "sklearn.metrics" in loaded_after(code, tmp_path)

def test_functions_that_are_imported_when_they_are_called(tmp_path):
    "Nothing stands in for a module that is loaded; what stood in is forgotten also when the import inside fails."
    code = """
import sys
from microscopygpt.core import imported_when_called
with imported_when_called("json.tool", "main"): from json.tool import main
assert "json.tool" not in sys.modules
try:
    with imported_when_called("json.tool", "main"): import no_such_module
except ImportError: pass
assert "json.tool" not in sys.modules
import json.tool
with imported_when_called("json.tool", "main"): from json.tool import main as real
assert real is json.tool.main is not main
"""
    loaded_after(code, tmp_path)

def test_vasp_files_are_read_when_it_is_wanted(tmp_path):
    code = """
from microscopygpt.chgnet import CHGNetPotential
import sys
CHGNetPotential()
assert "pymatgen.io.vasp" not in sys.modules
from chgnet.utils import vasp_utils
try: vasp_utils.Oszicar("no such file")
except OSError: pass
else: raise AssertionError("a file that does not exist was read")
"""
    assert "pymatgen.io.vasp.outputs" in loaded_after(code, tmp_path)
