"What a release needs beside the code: one version, a wheel that works alone, files that the code host understands."
import importlib.util, json, re, subprocess, sys
from configparser import ConfigParser
from email.parser import HeaderParser
from pathlib import Path
from zipfile import ZipFile
import pytest, yaml
import microscopygpt

ROOT = Path(__file__).parents[1]
HOST = ROOT/".github"
if not HOST.is_dir(): pytest.skip("not a copy of the repository", allow_module_level=True)

def settings():
    "The settings from which everything is made."
    config = ConfigParser(delimiters=["="])
    config.read(ROOT/"settings.ini", encoding="utf-8")
    return config["DEFAULT"]

def text(name): return (ROOT/name).read_text(encoding="utf-8")

@pytest.fixture(scope="module")
def package():
    "The script that builds and tries the package."
    spec = importlib.util.spec_from_file_location("package", ROOT/".ci"/"package.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module

@pytest.fixture(scope="module")
def built(package, tmp_path_factory):
    "The source distribution, and the wheel that is made from it."
    pytest.importorskip("build", reason="not installed: pip install 'microscopygpt[dev]'")
    return package.build(ROOT, tmp_path_factory.mktemp("dist"))

# the version

def test_one_version():
    version = settings()["version"]
    assert microscopygpt.__version__ == version
    assert yaml.safe_load(text("CITATION.cff"))["version"] == version
    assert re.search(r"^## (\S+),", text("CHANGELOG.md"), re.M)[1] == version

def test_pages_install_the_release_that_they_were_written_for():
    "In Colab, in the first cell that runs."
    minor = ".".join(settings()["version"].split(".")[:2])
    pages = [*ROOT.glob("nbs/tutorials/*.ipynb"), ROOT/"nbs"/"explorer.ipynb"]
    cells = [("".join(c["source"])) for p in pages for c in json.loads(p.read_text(encoding="utf-8"))["cells"]]
    first = [c for c in cells if "google.colab" in c]
    assert len(first) >= 7 and all(re.findall(r"microscopygpt\[colab[\w,]*\]>=([\d.]+)", c) == [minor] for c in first)

# the package

def test_the_wheel_is_complete_and_small(package, built): package.check_contents(built[1], ROOT/"microscopygpt")

def test_the_wheel_works_alone(package, built, tmp_path):
    "Every module imports, and the packaged example is answered, from its files and in another folder."
    package.run_wheel(sys.executable, tmp_path, PYTHONPATH=str(package.unpacked(built[1], tmp_path/"site")))

def test_the_metadata_is_that_of_the_settings(built):
    cfg = settings()
    with ZipFile(built[1]) as wheel:
        name, = (n for n in wheel.namelist() if n.endswith("dist-info/METADATA"))
        found = HeaderParser().parsestr(wheel.read(name).decode())
    assert (found["Name"], found["Version"], found["License"]) == (cfg["lib_name"], cfg["version"], cfg["spdx"])
    pythons = [c.rpartition(" ")[2] for c in found.get_all("Classifier") if re.search(r"Python :: 3\.\d+$", c)]
    assert pythons == cfg["pythons"].split() and found["Requires-Python"] == f">={pythons[0]}"
    assert {"app", "colab", "io", "gpu", "dev"} == set(found.get_all("Provides-Extra"))

def test_copyleft_comes_with_extras_only(built):
    "RosettaSciIO is under the GPL."
    with ZipFile(built[1]) as wheel:
        name, = (n for n in wheel.namelist() if n.endswith("dist-info/METADATA"))
        wanted = HeaderParser().parsestr(wheel.read(name).decode()).get_all("Requires-Dist")
    copyleft = [line for line in wanted if line.startswith("rosettasciio")]
    assert len(copyleft) == 1 and 'extra == "io"' in copyleft[0]

def test_the_description_has_no_link_into_the_repository(built):
    "The package index shows it where `nbs/...` leads nowhere."
    with ZipFile(built[1]) as wheel:
        name, = (n for n in wheel.namelist() if n.endswith("dist-info/METADATA"))
        said = wheel.read(name).decode().partition("\n\n")[2]
    assert len(re.findall(r"\]\(https://github\.com", said)) > 50 and not re.findall(r"\]\((?!\w+:|#)", said)

# the code host

SCHEMAS = {"github-workflows": "workflows/*.yml", "dependabot": "dependabot.yml",
           "github-issue-forms": "ISSUE_TEMPLATE/[!c]*.yml", "github-issue-config": "ISSUE_TEMPLATE/config.yml",
           "citation-file-format": "../CITATION.cff"}

@pytest.mark.parametrize("schema", SCHEMAS)
def test_schema(schema):
    pytest.importorskip("check_jsonschema", reason="not installed: pip install 'microscopygpt[dev]'")
    files = sorted(HOST.glob(SCHEMAS[schema]))
    assert files
    done = subprocess.run([sys.executable, "-m", "check_jsonschema", "--builtin-schema", f"vendor.{schema}", *files],
                          capture_output=True, text=True)
    assert done.returncode == 0, done.stdout

def workflow(name): return yaml.safe_load((HOST/"workflows"/name).read_text(encoding="utf-8"))

def test_workflows_run_what_the_package_promises():
    "Every Python of the classifiers, on every system."
    matrix = workflow("tests.yml")["jobs"]["python"]["strategy"]["matrix"]
    assert matrix["python"] == settings()["pythons"].split()
    assert {name.partition("-")[0] for name in matrix["os"]} == {"ubuntu", "macos"}

def test_workflows_name_what_is_there():
    "The targets of make, the scripts and the tests that they run."
    steps = [step.get("run", "") for path in HOST.glob("workflows/*.yml")
             for job in workflow(path.name)["jobs"].values() for step in job["steps"]]
    targets = {target for run in steps for target in re.findall(r"\bmake (\w+)", run)}
    assert targets and all(re.search(rf"^{target}:", text("Makefile"), re.M) for target in targets)
    paths = {path for run in steps for path in re.findall(r"(?:tests|\.ci)/\w+(?:\.py)?", run)}
    assert paths and all((ROOT/path).exists() for path in paths)

def test_the_release_needs_no_password():
    job = workflow("release.yml")["jobs"]["publish"]
    assert job["permissions"] == {"id-token": "write"} and "secrets." not in text(".github/workflows/release.yml")

@pytest.mark.parametrize("page", ["CONTRIBUTING.md", "CODE_OF_CONDUCT.md", "SECURITY.md", "CHANGELOG.md"])
def test_what_visitors_read_is_true(page):
    "Files, names of the library and targets of make that are named exist."
    said = text(page)
    assert all((ROOT/path).exists() for path in re.findall(r"\]\((?!\w+:)([^)#]+)\)", said))
    assert all(re.search(rf"^{t}:", text("Makefile"), re.M) for t in re.findall(r"`?make (setup|test|help|package)\b", said))

def test_contributing_names_what_the_library_has():
    "Names in capitals, functions and classes that a newcomer is sent to."
    said = text("CONTRIBUTING.md").partition("## How to add")[2]
    source = "".join(p.read_text(encoding="utf-8") for p in (ROOT/"microscopygpt").glob("*.py"))
    names = {n for n in re.findall(r"`([A-Za-z_]\w+)`", said)} - {"read_x", "compute"}
    assert len(names) > 15 and not [n for n in names if not re.search(rf"\b{n}\b", source)]

def test_spelling():
    pytest.importorskip("codespell_lib", reason="not installed: pip install 'microscopygpt[dev]'")
    done = subprocess.run([sys.executable, "-m", "codespell_lib", "."], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout
