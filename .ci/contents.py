"""What an install brings: nbs/install_contents.json, from the packages that are installed beside this interpreter.

Run it where the package is installed with its extras `app` and `io`: `make contents`. The page
nbs/install_contents.ipynb shows it.
"""
import json, platform, re
from importlib.metadata import PackageNotFoundError, distribution, distributions
from pathlib import Path
from packaging.requirements import Requirement

OUT = Path(__file__).resolve().parent.parent/"nbs"/"install_contents.json"
SETS = ("", "app", "io") # nothing more, and the extras that need no GPU; each in addition to those before
LONGEST = 60 # characters of a licence's name; longer ones are whole texts


def name_of(text): return re.sub(r"[-_.]+", "-", text).lower()


def wanted(dist, extras):
    "Names of the packages that a package asks for, here and with some extras: (name, extras)."
    for line in dist.requires or []:
        r = Requirement(line)
        if r.marker is None or any(r.marker.evaluate({"extra": extra}) for extra in ("", *extras)):
            yield name_of(r.name), tuple(r.extras)


def closure(name, extras, seen):
    "Add a package and everything that it asks for to a dictionary name -> extras that were followed."
    if set(extras) <= seen.get(name, {None}) - {None} and name in seen: return
    seen[name] = seen.get(name, set()) | set(extras)
    try: dist = distribution(name)
    except PackageNotFoundError: return
    for other, more in wanted(dist, seen[name]): closure(other, more, seen)


def licence(dist):
    "The licence as a package names it: the expression, else the classifiers, else the field."
    meta = dist.metadata
    if expression := meta.get("License-Expression"): return expression
    said = [c.split(" :: ")[-1] for c in meta.get_all("Classifier") or [] if c.startswith("License ::")]
    said = [s for s in said if s != "OSI Approved"]
    field = (meta.get("License") or "").strip()
    if field not in ("", "UNKNOWN") and "\n" not in field and len(field) < LONGEST: return field
    return ", ".join(said) or "not named"


def size(dist):
    "Bytes of its files."
    files = [dist.locate_file(f) for f in dist.files or []]
    return sum(f.stat().st_size for f in files if f.is_file())


def main():
    brought = {} # name -> the first set that brings it
    for extra in SETS:
        found = {}
        closure("microscopygpt", (extra,) if extra else (), found)
        for name in found: brought.setdefault(name, extra)
    here = {name_of(d.metadata["Name"]): d for d in distributions()}
    packages = [dict(name=name, version=here[name].version, licence=licence(here[name]), bytes=size(here[name]),
                     brought_by=extra) for name, extra in sorted(brought.items()) if name in here]
    told = dict(python=platform.python_version(), system=f"{platform.system()} {platform.machine()}", packages=packages)
    OUT.write_text(json.dumps(told, indent=1) + "\n")
    print(f"{OUT}: {len(packages)} packages, {sum(p['bytes'] for p in packages)/1e6:.0f} MB")


if __name__ == "__main__": main()
