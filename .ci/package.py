"""Build the package and check it.

`package.py` makes dist/ (the wheel from the source distribution) and runs the wheel alone, beside what is installed.
`package.py --fresh python3.12` also installs it into an environment of its own, with every package it asks for.
"""
import argparse, json, os, shutil, signal, subprocess, sys, tempfile, time, zipfile
from pathlib import Path

root = Path(__file__).resolve().parent.parent
LARGEST = 15e6 # bytes of a wheel: half a minute over a slow line
NEEDED = ["weights/compact/model.safetensors", "weights/compact/config.json", "examples/demo.tif",
          "examples/SOURCES.json", "app/pad.js", "app/sites.js", "app/app.css", "benchmark.json",
          "benchmark_readme.md", "py.typed"]
EXTRAS = "app,io" # what a fresh environment gets: all that needs no GPU
PATIENCE = 90 # seconds until JupyterLab must answer

TRY_MODULES = """
import importlib, pkgutil, microscopygpt
names = [m.name for m in pkgutil.iter_modules(microscopygpt.__path__)]
for name in names: importlib.import_module(f"microscopygpt.{name}")
print(len(names), "modules of", microscopygpt.__version__, "from", microscopygpt.__path__[0])
"""

TRY_PREDICT = """
from importlib.resources import files
from microscopygpt.cli import main
image = str(files("microscopygpt")/"examples"/"demo.tif")
raise SystemExit(main(["predict", image, "--formula", "MoSe2", "--pixel-size", "0.1", "--out", "out"]))
"""

TRY_SITES = """
from importlib.resources import files
from microscopygpt.cli import main
image = str(files("microscopygpt")/"examples"/"demo.tif")
raise SystemExit(main(["sites", image, "--structure", "out/rank_1.cif", "--pixel-size", "0.1", "--out", "sites"]))
"""


def build(source, folder):
    "The source distribution and, from it, the wheel: their paths."
    subprocess.run([sys.executable, "-m", "build", "--no-isolation", "--outdir", folder, source], check=True,
                   stdout=subprocess.DEVNULL)
    return next(folder.glob("*.tar.gz")), next(folder.glob("*.whl"))


def contents(wheel):
    "Name -> checksum of every file in a wheel."
    with zipfile.ZipFile(wheel) as archive: return {i.filename: i.CRC for i in archive.infolist()}


def check_contents(wheel, library):
    "Every module and every file that the library reads, nothing else, and not too large."
    names = {name.split("/", 1)[1] for name in contents(wheel) if name.startswith("microscopygpt/")}
    modules = {p.name for p in library.glob("*.py")}
    assert modules <= names, f"modules are missing: {sorted(modules - names)}"
    assert set(NEEDED) <= names, f"files are missing: {sorted(set(NEEDED) - names)}"
    assert all((library/name).is_file() for name in names), "the wheel has files that the library has not"
    assert wheel.stat().st_size < LARGEST, f"{wheel.name} has {wheel.stat().st_size/1e6:.1f} MB"


def environment(**more):
    "Where no checkout and no setting of this shell can help."
    kept = ("HOME", "LANG", "LC_ALL", "TMPDIR", "OMP_NUM_THREADS")
    return {name: os.environ[name] for name in kept if name in os.environ} | {"PATH": os.defpath, **more}


def run_wheel(python, folder, **more):
    "Import every module, predict on the packaged example and look at its sites, in a folder that is no checkout."
    for code in (TRY_MODULES, TRY_PREDICT, TRY_SITES):
        subprocess.run([python, "-c", code], cwd=folder, env=environment(**more), check=True)
    answers = sorted(p.name for p in (folder/"out").glob("rank_*.cif"))
    assert "rank_1.cif" in answers and (folder/"out"/"report.png").stat().st_size > 10_000, answers
    assert (folder/"sites"/"sites.csv").stat().st_size > 1000, sorted(p.name for p in (folder/"sites").iterdir())


def unpacked(wheel, folder):
    "The wheel's files in a folder, as pip lays them."
    subprocess.run([sys.executable, "-m", "pip", "install", "-q", "--disable-pip-version-check", "--no-deps",
                    "--no-index", "--target", folder, wheel], check=True)
    return folder


def run_lab(command, folder):
    "Start `microscopygpt lab` and wait until JupyterLab answers."
    settings = folder/"jupyter"
    settings.mkdir()
    server = dict(allow_root=True, open_browser=False, port=0, port_retries=0)
    (settings/"jupyter_server_config.json").write_text(json.dumps({"ServerApp": server}))
    with open(folder/"lab.log", "w+") as log:
        lab = subprocess.Popen([command, "lab", folder/"app"], cwd=folder, stdout=log, stderr=log,
                               env=environment(JUPYTER_CONFIG_DIR=str(settings)), start_new_session=True)
        try:
            end = time.monotonic() + PATIENCE
            while "is running at" not in (folder/"lab.log").read_text() and time.monotonic() < end:
                assert lab.poll() is None, (folder/"lab.log").read_text()
                time.sleep(.5)
            assert "is running at" in (folder/"lab.log").read_text(), (folder/"lab.log").read_text()
        finally: os.killpg(lab.pid, signal.SIGTERM)
    assert (folder/"app"/"explorer.ipynb").is_file()
    print("JupyterLab answers")


def try_fresh(python, wheel, folder):
    "Install the wheel with its extras into a new environment, and use it there."
    venv = folder/"venv"
    subprocess.run([python, "-m", "venv", venv], check=True)
    pip = [venv/"bin"/"python", "-m", "pip", "--disable-pip-version-check"]
    subprocess.run([*pip, "install", "-q", "-c", root/"constraints.txt", f"{wheel}[{EXTRAS}]"], check=True)
    subprocess.run([*pip, "check"], check=True)
    try_installed(venv/"bin", folder)


def try_installed(bin, folder):
    "Use what is installed in an environment."
    subprocess.run([bin/"microscopygpt", "doctor"], cwd=folder, env=environment(), check=True)
    run_wheel(bin/"python", folder)
    run_lab(bin/"microscopygpt", folder)


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--fresh", nargs="+", default=[], metavar="PYTHON", help="interpreters for environments to try")
    args = p.parse_args()
    dist = root/"dist"
    shutil.rmtree(dist, ignore_errors=True)
    source, wheel = build(root, dist)
    check_contents(wheel, root/"microscopygpt")
    subprocess.run([sys.executable, "-m", "twine", "check", "--strict", source, wheel], check=True)
    with tempfile.TemporaryDirectory() as tmp:
        run_wheel(sys.executable, Path(tmp), PYTHONPATH=str(unpacked(wheel, Path(tmp)/"site")))
    for python in args.fresh:
        with tempfile.TemporaryDirectory() as tmp: try_fresh(python, wheel, Path(tmp))
    for path in (source, wheel): print(f"{path}  {path.stat().st_size/1e6:.1f} MB")


if __name__ == "__main__": main()
