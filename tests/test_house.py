"The rooms: imports go one way, from lower numbers to higher ones, by public names, and no room holds too much."
import ast, re
from pathlib import Path
import pytest

ROOT = Path(__file__).parents[1]
NUMBERS = {re.sub(r"^\d+_", "", p.stem): int(p.stem[:2]) for p in (ROOT/"nbs").glob("[0-9][0-9]_*.ipynb")}
SOURCES = {name: (ROOT/"microscopygpt"/f"{name}.py").read_text(encoding="utf-8") for name in NUMBERS}
LONGEST = 450 # lines that a module may have
WIDEST = 120 # characters of a line
THE_APP = {"explore"} # one class of widgets, longer than that

def imported(tree):
    "(module, name) of every import from this package at the top of a module."
    return [(n.module, a.name) for n in tree.body if isinstance(n, ast.ImportFrom) and n.level for a in n.names]

def test_every_page_has_a_number_of_its_own():
    assert len(set(NUMBERS.values())) == len(NUMBERS) > 50

@pytest.mark.parametrize("name", NUMBERS)
def test_imports_come_from_pages_before(name):
    later = {module for module, _ in imported(ast.parse(SOURCES[name])) if module in NUMBERS and NUMBERS[module] >= NUMBERS[name]}
    assert not later

@pytest.mark.parametrize("name", NUMBERS)
def test_nothing_private_is_imported(name):
    nodes = [n for n in ast.walk(ast.parse(SOURCES[name])) if isinstance(n, ast.ImportFrom) and n.level]
    assert not [a.name for n in nodes for a in n.names if a.name.startswith("_") and a.name != "__version__"]

@pytest.mark.parametrize("name", sorted(set(NUMBERS) - THE_APP))
def test_a_room_does_not_hold_too_much(name): assert len(SOURCES[name].splitlines()) <= LONGEST

@pytest.mark.parametrize("name", NUMBERS)
def test_lines_are_short(name):
    "But for the list of public names, which nbdev writes."
    lines = re.sub(r"^__all__ = \[.*?\]$", "", SOURCES[name], flags=re.S | re.M).splitlines()
    assert not [line for line in lines if len(line) > WIDEST]

def owner(function, parent):
    "The class that a function is a method of, also when it is patched in; an empty text for others."
    if isinstance(parent, ast.ClassDef): return parent.name
    patched = any("patch" in ast.unparse(d) for d in function.decorator_list)
    return ast.unparse(function.args.args[0].annotation) if patched else ""

def public_functions(tree):
    "Functions and methods without an underscore, and constructors, but for those of private classes."
    for parent in [tree, *(n for n in tree.body if isinstance(n, ast.ClassDef))]:
        for n in parent.body:
            if not isinstance(n, ast.FunctionDef) or owner(n, parent).startswith("_"): continue
            if not n.name.startswith("_") or n.name == "__init__": yield n

def untyped(function):
    "What of a function has no annotation: parameters, and 'return'."
    args = function.args
    every = [*args.posonlyargs, *args.args, *args.kwonlyargs, *(a for a in (args.vararg, args.kwarg) if a)]
    found = [a.arg for a in every if a.annotation is None and a.arg not in ("self", "cls")]
    return found + ["return"]*(function.returns is None and function.name != "__init__")

def test_what_is_untyped_is_seen():
    tree = ast.parse("def f(a, b:int, *c, **d): pass\nclass C:\n    def __init__(self, e): pass\nclass _D:\n    def g(self, x): pass")
    assert {n.name: untyped(n) for n in public_functions(tree)} == {"f": ["a", "c", "d", "return"], "__init__": ["e"]}

@pytest.mark.parametrize("name", sorted(NUMBERS))
def test_public_functions_are_typed(name):
    missing = {n.name: untyped(n) for n in public_functions(ast.parse(SOURCES[name])) if untyped(n)}
    assert not missing
