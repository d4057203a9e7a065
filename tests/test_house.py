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
