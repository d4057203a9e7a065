"What the documentation site needs: signatures that can be read where they are written, pages that nbdev can process, and all of them listed."
import ast, importlib, inspect, json, pkgutil, re
from collections import Counter
from pathlib import Path
import pytest
import yaml
import microscopygpt

NBS = Path(__file__).parents[1]/"nbs"
NOTEBOOKS = [p for p in sorted(NBS.rglob("*.ipynb")) if ".ipynb_checkpoints" not in p.parts]

MODULES = [m.name for m in pkgutil.iter_modules(microscopygpt.__path__) if not m.name.startswith("_")]

@pytest.mark.parametrize("name", MODULES)
def test_annotations_name_what_the_module_knows(name):
    module = importlib.import_module(f"microscopygpt.{name}")
    public = [getattr(module, n) for n in getattr(module, "__all__", ())]
    methods = [f for c in public if inspect.isclass(c) for f in vars(c).values() if inspect.isfunction(f) and f.__module__ == module.__name__]
    for f in [f for f in public if inspect.isfunction(f)] + methods: inspect.signature(f, eval_str=True)

def listed(contents):
    "The pages of a part of the sidebar, in order."
    for entry in contents:
        if isinstance(entry, str): yield entry
        elif "contents" in entry: yield from listed(entry["contents"])
        else: yield entry["href"]

def test_every_page_is_in_the_sidebar_once():
    "A page that is missing needs one line in nbs/sidebar.yml."
    sidebar = yaml.safe_load((NBS/"sidebar.yml").read_text(encoding="utf-8"))["website"]["sidebar"]["contents"]
    assert Counter(listed(sidebar)) == Counter(p.relative_to(NBS).as_posix() for p in NOTEBOOKS)

def code_of(path):
    "The code cells of a notebook, without lines for the shell."
    cells = [c for c in json.loads(path.read_text(encoding="utf-8"))["cells"] if c["cell_type"] == "code"]
    return [re.sub(r"^[%!].*$", "", "".join(c["source"]), flags=re.M) for c in cells]

@pytest.mark.parametrize("path", [p for p in NOTEBOOKS if p.name[:2].isdigit() and p.parent == NBS], ids=lambda p: p.stem)
def test_imports_stand_in_cells_of_their_own(path):
    "nbdev runs every cell with an import, to document what follows, and no other: what else it holds would lack what went before."
    mixed = []
    for source in code_of(path):
        if re.match(r"#\|\s*(export|hide|eval)", source): continue
        body = ast.parse(source).body
        imports = [isinstance(node, (ast.Import, ast.ImportFrom)) for node in body]
        if any(imports) and not all(imports): mixed.append(source)
    assert not mixed

@pytest.mark.parametrize("path", sorted((NBS/"tutorials").glob("*.ipynb")), ids=lambda p: p.stem)
def test_every_tutorial_opens_in_colab(path):
    assert f"colab.research.google.com/github/microscopygpt/microscopygpt/blob/main/nbs/tutorials/{path.name}" in path.read_text(encoding="utf-8")

def test_every_page_has_a_title_and_a_subtitle():
    first = {p.name: "".join(json.loads(p.read_text(encoding="utf-8"))["cells"][0]["source"]) for p in NOTEBOOKS}
    assert not [name for name, text in first.items() if not re.match(r"# [^#\n]+\n\n> .+", text)]
