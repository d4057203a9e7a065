"""What installing this package changes in Colab: nbs/colab.json, by asking pip in an environment with Colab's versions.

`colab.py python3.12` makes the environment from colab.txt, `colab.py FOLDER` takes one that was made before. The wheel
in dist/ is asked for with each extra; with the extra `colab` it is then installed, and used as `package.py` uses it.
"""
import json, subprocess, sys, tempfile
from pathlib import Path

here = Path(__file__).resolve().parent
sys.path.insert(0, str(here))
from package import root, run_wheel

PINS = here/"colab.txt"
EXTRAS = ("colab", "app", "colab,io", "colab,gpu") # what may be asked for there


def made(python, folder):
    "An environment with the pinned packages."
    if Path(python).is_dir(): return Path(python)/"bin"/"python"
    subprocess.run([python, "-m", "venv", folder], check=True)
    subprocess.run([folder/"bin"/"python", "-m", "pip", "install", "-q", "-r", PINS], check=True)
    return folder/"bin"/"python"


def installed(python):
    "Name -> version of the packages of an environment."
    said = subprocess.run([python, "-m", "pip", "list", "--format", "json"], check=True, capture_output=True).stdout
    return {p["name"].lower().replace("_", "-"): p["version"] for p in json.loads(said)}


def changes(python, wheel, extra):
    "What pip would do: packages that are added, and name -> (version here, version then) of those that change."
    ask = [python, "-m", "pip", "install", "-q", "--dry-run", "--report", "-", f"{wheel}[{extra}]"]
    said = subprocess.run(ask, check=True, capture_output=True).stdout
    then = {i["metadata"]["name"].lower().replace("_", "-"): i["metadata"]["version"] for i in json.loads(said)["install"]}
    now = installed(python)
    return dict(added=sorted(then.keys() - now.keys()),
                changed={name: (now[name], then[name]) for name in sorted(then.keys() & now.keys())})


def main(python):
    wheel = next((root/"dist").glob("*.whl"))
    with tempfile.TemporaryDirectory() as tmp:
        folder = Path(tmp)
        python = made(python, folder/"venv")
        told = {extra: changes(python, wheel, extra) for extra in EXTRAS}
        subprocess.run([python, "-m", "pip", "install", "-q", f"{wheel}[colab]"], check=True)
        subprocess.run([python, "-m", "pip", "check"], check=True)
        run_wheel(python, folder)
    (root/"nbs"/"colab.json").write_text(json.dumps(told, indent=1) + "\n")


if __name__ == "__main__": main(sys.argv[1])
