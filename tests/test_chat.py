"Every crystal survives text and back, and no text makes the parser do worse than name what is wrong."
import os, time
import numpy as np
import pytest
from hypothesis import given, settings, strategies as st
from jarvis.core.atoms import Atoms
from pymatgen.core import Element

from microscopygpt.chat import (ChatError, CoordinateError, DegenerateCellError, NoStructureError, TruncatedError,
                                UnknownElementError, WrongCompositionError, make_prompt, parse_answer, prompt_bravais,
                                prompt_formula, to_answer, to_compact)
from microscopygpt.crystal import (FormulaError, Slab, cell_from_lengths, cell_lengths, from_slab, reduced_formula,
                                   standardize, to_slab)
from microscopygpt.compare import compare
from microscopygpt.data import SOURCES, have_database, load_entries

quick = settings(max_examples=100, deadline=None, database=None)
fuzz = settings(max_examples=200, deadline=None, database=None)


def make_slab(seed, most=8):
    "A slab with an oblique cell and atoms in general positions"
    rng = np.random.default_rng(seed)
    n, a = rng.integers(1, most+1), rng.uniform(2.5, 8)
    cell = cell_from_lengths(a, a*rng.uniform(1, 1.5), rng.uniform(90.5, 108))
    return Slab(cell, rng.random((n, 2)), rng.uniform(-3, 3, n), rng.choice([1, 6, 8, 16, 22, 42, 52, 74, 83], n))


slabs = st.integers(0, 2**31).map(make_slab)
MOS2 = from_slab(Slab(cell_from_lengths(3.18, 3.18, 120), np.array([[0, 0], [1/3, 2/3], [1/3, 2/3]]), np.array([0, 1.56, -1.56]), np.array([42, 16, 16])))
GOOD, COMPACT = to_answer(MOS2), to_compact(to_slab(MOS2))


def answer_error(atoms, slab, formula):
    "Largest error (Å) of an atom or lattice vector after the paper's text and back"
    want, got = from_slab(slab), parse_answer(to_answer(atoms), formula)
    assert list(got.elements) == list(want.elements)
    A, B, frac = np.array(want.lattice_mat), np.array(got.lattice_mat), np.array(want.frac_coords)
    d = np.array(got.frac_coords) - frac
    d = (d - np.round(d))@B + frac@(B - A)
    return max(np.linalg.norm(d, axis=1).max(), np.linalg.norm(A - B, axis=1).max())


def check_compact(slab, formula):
    "The compact text holds every number to half a step of its grid"
    got = parse_answer(to_compact(slab), formula)
    lattice, frac = np.array(got.lattice_mat), np.array(got.frac_coords)
    (a, b, gamma), (a2, b2, gamma2) = cell_lengths(slab.cell), cell_lengths(lattice[:2, :2])
    assert max(abs(a - a2), abs(b - b2)) <= .025 + 1e-6 and abs(gamma - gamma2) <= .25 + 1e-6
    d = frac[:, :2] - slab.frac
    assert abs(d - np.round(d)).max() <= .005 + 1e-6
    z = frac[:, 2]*lattice[2, 2]
    assert abs(z - (z.max() + z.min())/2 - slab.z).max() <= .1 + 1e-6  # the grid's half step, and as much from the centre's
    assert list(got.elements) == [Element.from_Z(int(n)).symbol for n in slab.numbers]


def check_round_trip(atoms):
    slab, formula = to_slab(atoms), reduced_formula(atoms)
    assert answer_error(atoms, slab, formula) < .005
    check_compact(slab, formula)


def test_slab_is_the_standard_one():
    for slab in map(make_slab, range(5)):
        atoms = from_slab(slab).make_supercell_matrix([1, 2, 1])
        want, got = standardize(atoms, symprec=0), from_slab(to_slab(atoms))
        assert np.allclose(want.lattice_mat, got.lattice_mat) and np.allclose(want.frac_coords, got.frac_coords)


@pytest.mark.parametrize("source", SOURCES)
def test_every_database_structure_survives(source):
    if not os.environ.get("MICROSCOPYGPT_DATA") or not have_database(source): pytest.skip(f"MICROSCOPYGPT_DATA names no folder that holds {source}")
    entries = load_entries(source)
    assert len(entries) > 1000
    for entry in entries: check_round_trip(Atoms.from_dict(entry["atoms"]))


@quick
@given(slabs)
def test_random_slabs_survive(slab): check_round_trip(from_slab(slab))


READ = {
    "as it is": GOOD,
    "prose around it": f"Sure! From the image of the 2D material I get:\n\n{GOOD}\n\nI hope this helps. It has 3 atoms.",
    "numbers in the prose": f"The image is 256 x 256 px at 0.1 A and 0 0 1.\n{GOOD}",
    "special tokens": f"<s><|begin_of_text|>assistant\n\n{GOOD}<|eot_id|></s><pad><pad>",
    "tokens after each line": GOOD.replace("\n", "</s>\n"),
    "windows line ends": GOOD.replace("\n", "\r\n"),
    "old mac line ends": GOOD.replace("\n", "\r"),
    "blank lines": GOOD.replace("\n", "\n \n\t\n"),
    "one line": GOOD.replace("\n", " "),
    "two structures": f"{GOOD}\n\n{to_answer(from_slab(make_slab(1)))}",
    "a broken second structure": f"{GOOD}\n3.1 3.1 nan\n90",
    "markdown fence": f"```text\n{GOOD}\n```",
    "inline code and bold": "\n".join(f"**`{line}`**" for line in GOOD.splitlines()),
    "table": "\n".join("| " + " | ".join(line.split()) + " |" for line in GOOD.splitlines()),
    "commas": "\n".join(line.replace(" ", ", ") for line in GOOD.splitlines()),
    "brackets": "\n".join(f"{line[:2]} ({line[2:]})" if line[0] in "MS" else f"[{line}]" for line in GOOD.splitlines()[:-1]),
    "scientific notation": GOOD.replace("3.180 3.180", "3.180e+00 31.80E-1").replace("0.4139", "4.139e-1"),
    "unicode minus": GOOD.replace("0.3333", "\N{MINUS SIGN}0.6667"),
    "lower case": GOOD.replace("Mo", "mo").replace("S ", "s "),
    "upper case": GOOD.replace("Mo", "MO"),
    "units": GOOD.replace("3.180", "3.180 Å").replace("18.120", "18.120Å").replace("90.00", "90.00°").replace("120.00", "120.00 deg"),
    "labels": GOOD.replace("3.180 3.180 18.120", "a = 3.180 Å, b = 3.180 Å, c = 18.120 Å").replace("90.00 90.00 120.00", "alpha = 90.00, beta=90.00, gamma: 120.00 degrees"),
    "headings": "Lattice lengths (Å): " + GOOD.replace("90.00 90.00", "Angles (degrees): 90.00 90.00"),
    "no miller index": GOOD[:GOOD.index("\nThe")],
    "a cut miller index": GOOD[:GOOD.index("\nThe")+4],
    "an ending full stop": GOOD[:GOOD.index("\nThe")] + ".",
    "a nod": GOOD[:GOOD.index("\nThe")] + "\nOk.",
    "compact": COMPACT,
    "compact with tokens": f"<bos>{COMPACT}</s>",
    "compact on one line in prose": f"The answer is {' '.join(COMPACT.split())} as you see.",
    "both dialects": f"{COMPACT}\n{GOOD}",
}


@pytest.mark.parametrize("name", READ)
def test_forgiven(name):
    atoms = parse_answer(READ[name], "MoS2")
    assert atoms.num_atoms == 3 and compare(MOS2, atoms).tight


atom_lines = GOOD.splitlines()[2:5]
BROKEN = {
    "empty": ("", NoStructureError, "no lattice"),
    "none": (None, NoStructureError, "no lattice"),
    "prose": ("I cannot tell from this image, but MoS2 has a = 3.18.", NoStructureError, "no lattice"),
    "zero atoms": ("\n".join(GOOD.splitlines()[:2]), NoStructureError, "no atoms"),
    "zero atoms and miller index": ("\n".join([*GOOD.splitlines()[:2], GOOD.splitlines()[-1]]), NoStructureError, "no atoms"),
    "missing angles": (GOOD.replace("90.00 90.00 120.00\n", ""), NoStructureError, "three angles"),
    "only atoms": ("\n".join(atom_lines), NoStructureError, "no lattice"),
    "unknown element": (GOOD.replace("Mo", "Xq"), UnknownElementError, "'Xq'"),
    "isotope": (GOOD.replace("Mo", "D"), UnknownElementError, "'D'"),
    "cut lengths": ("3.180 3.180 18.", TruncatedError, "lattice"),
    "cut angles": ("3.180 3.180 18.120\n90.00 9", TruncatedError, "lattice"),
    "cut compact lattice": ("x1 3.20 3.2", TruncatedError, "lattice"),
    "cut symbol": (GOOD[:GOOD.rindex("S 0")] + "S", TruncatedError, "middle of an atom"),
    "cut before y": (GOOD[:GOOD.rindex("0.6667")], TruncatedError, "middle of an atom"),
    "cut in y": (GOOD[:GOOD.rindex("0.6667")+4], TruncatedError, "middle of an atom"),
    "cut at the point of z": (GOOD[:GOOD.rindex("0.4139")+2], TruncatedError, "middle of an atom"),
    "cut in z": (GOOD[:GOOD.rindex("0.4139")+4], TruncatedError, "middle of an atom"),
    "cut after an atom": ("\n".join(GOOD.splitlines()[:4]), TruncatedError, "stops after Mo1S1"),
    "cut compact symbol": (COMPACT[:COMPACT.rindex("S")+1], TruncatedError, "middle of an atom"),
    "cut compact z": (COMPACT[:-1], TruncatedError, "middle of an atom"),
    "cut compact z at the sign": (COMPACT[:-3], TruncatedError, "middle of an atom"),
    "cut after a compact atom": (COMPACT[:COMPACT.rindex("\n")], TruncatedError, "stops after Mo1S1"),
    "fewer units than promised": (COMPACT.replace("x1", "x2"), TruncatedError, "short of 2 MoS2"),
    "an atom short": (GOOD.replace(atom_lines[1] + "\n", "", 1), WrongCompositionError, "whole number of MoS2"),
    "an atom too many": (GOOD.replace(atom_lines[1], atom_lines[1] + "\nS 0.1 0.1 0.5"), WrongCompositionError, "Mo1S3"),
    "another element": (GOOD.replace("S 0", "Se 0"), WrongCompositionError, "Mo1Se2"),
    "more units than promised": (f"{COMPACT}\n" + "\n".join(COMPACT.splitlines()[1:]), WrongCompositionError, "1 MoS2 unit"),
    "no angle between the axes": (GOOD.replace("120.00", "0.00"), DegenerateCellError, "degenerate"),
    "zero length": (GOOD.replace("3.180 3.180", "0.000 3.180"), DegenerateCellError, "degenerate"),
    "negative length": (GOOD.replace("3.180 3.180", "-3.180 3.180"), DegenerateCellError, "degenerate"),
    "endless length": (GOOD.replace("18.120", "1e400"), DegenerateCellError, "inf"),
    "length is no number": (GOOD.replace("18.120", "nan"), DegenerateCellError, "nan"),
    "impossible angles": (GOOD.replace("90.00 90.00", "20.00 20.00"), DegenerateCellError, "do not close"),
    "compact flat": (COMPACT.replace("120.0", "180.0"), DegenerateCellError, "degenerate"),
    "nan": (GOOD.replace("0.4139", "NaN"), CoordinateError, "NaN"),
    "infinite": (GOOD.replace("0.4139", "-inf"), CoordinateError, "-inf"),
    "angstrom instead of fractions": (GOOD.replace("0.4139", "7.5000"), CoordinateError, "fractions"),
    "two coordinates": (GOOD.replace("S 0.3333 0.6667 0.5861", "S 0.3333 0.6667"), CoordinateError, "three coordinates"),
    "a word for a number": (GOOD.replace("S 0.3333 0.6667 0.5861", "S 0.3333 half 0.5861"), CoordinateError, "three coordinates"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_named(name):
    text, error, says = BROKEN[name]
    with pytest.raises(error) as e: parse_answer(text, "MoS2")
    assert type(e.value) is error
    message = str(e.value)
    assert says in message and "\n" not in message and 20 < len(message) < 250 and message[0].isupper() and message.endswith(".")


def test_every_cut_is_noticed():
    "Wherever an answer stops before its atoms are complete, an error says so; the stop inside a number included"
    for text, whole in ((GOOD, GOOD.index("\nThe")), (COMPACT, len(COMPACT))):
        for stop in range(whole):
            with pytest.raises(ChatError): parse_answer(text[:stop], "MoS2")
        for stop in range(text.index("Mo")+1, whole):
            with pytest.raises(TruncatedError): parse_answer(text[:stop], "MoS2")
        for stop in range(whole, len(text)+1): assert parse_answer(text[:stop], "MoS2").num_atoms == 3


def test_formula_errors_are_formula_errors():
    with pytest.raises(FormulaError): parse_answer(GOOD, "Xq2")
    with pytest.raises(FormulaError): parse_answer(GOOD, "")


def check_outcome(text, formula="MoS2"):
    "Atoms or a named error with one line, in a moment"
    start = time.perf_counter()
    try: parsed = parse_answer(text, formula)
    except (ChatError, FormulaError) as e: assert "\n" not in str(e) and len(str(e)) < 500
    else:
        assert isinstance(parsed, Atoms) and np.isfinite(parsed.lattice_mat).all() and np.isfinite(parsed.frac_coords).all()
        if formula: assert reduced_formula(parsed) == reduced_formula(formula)
        standardize(parsed, symprec=0)
    assert time.perf_counter() - start < 5


pieces = st.sampled_from(["0", "1", "9", ".", "-", "+", "e", "E9", " ", "\n", "\r", "Mo", "S", "x1", "x", "nan", "<", "|>", "`", "*", "Å", "\N{MINUS SIGN}", "\N{SUPERSCRIPT TWO}", "(",
                          "\N{ARABIC-INDIC DIGIT THREE}", "\x00", "3.2 3.2 18.1 90 90 120", "S .3 .6 .5", "a=", "angles:", "99999999999", "\N{NO-BREAK SPACE}"])


@fuzz
@given(st.data())
def test_mutated_answers(data):
    text = data.draw(st.sampled_from([GOOD, COMPACT, READ["labels"], f"{GOOD}\n{COMPACT}"]))
    for _ in range(data.draw(st.integers(1, 4))):
        at, cut = data.draw(st.integers(0, len(text))), data.draw(st.integers(0, 12))
        text = text[:at] + data.draw(pieces)*data.draw(st.sampled_from([0, 1, 1, 2, 40])) + text[at+cut:]
    check_outcome(text, data.draw(st.sampled_from(["MoS2", None])))


@fuzz
@given(st.one_of(st.text(max_size=300), st.lists(pieces, max_size=60).map("".join), st.lists(pieces, max_size=60).map(" ".join)), st.sampled_from(["MoS2", None, "H", ""]))
def test_random_text(text, formula): check_outcome(text, formula)


@pytest.mark.parametrize("piece", ["1", "1 ", "1.", ".1", "1e", "1e1 ", "x", "x1 ", "x1 1 ", "<", "<a", "`", "length", "lengths ", "a ", "a=", " ", "\n", "\t1", "-", "nan ", "S", "S ", "S 1 ", "S 0 0 0\n", "3 3 3\n", "1 1 1 1 1 1 S ",
                                   "ab", "\x00", "Å", "(", "**"])
def test_huge_garbage_is_quick(piece):
    for start, end in (("", ""), ("\n".join(GOOD.splitlines()[:2]) + "\n", ""), ("x1 3.2 3.2 120 ", ""), ("1", "!")): check_outcome(start + piece*20_000 + end)


@fuzz
@given(st.one_of(st.text(max_size=60), st.lists(st.sampled_from(["formula", "is", ":", " ", "MoS2", ".", ",", "The chemical formula is ", "\n"]), max_size=20).map("".join)))
def test_prompts(prompt):
    try: assert reduced_formula(prompt_formula(prompt))
    except FormulaError: pass


@pytest.mark.parametrize("prompt", [make_prompt("S2Mo"), make_prompt("MoS2", 3), "formula: MoS2", "The chemical formula is MoS2.", "Formula is: Mo1S2, please", "chemical\nformula\nis\nMoS₂\n"])
def test_prompt_formula(prompt): assert prompt_formula(prompt) == "MoS2"


@pytest.mark.parametrize("piece", ["formula", "formula ", "formula is ", "formula" + " "*1000, "formula x,"])
def test_huge_prompts_are_quick(piece):
    start = time.perf_counter()
    with pytest.raises(FormulaError): prompt_formula(piece*(200_000//len(piece)) + ",x")
    assert time.perf_counter() - start < 5

@pytest.mark.parametrize("bravais", [None, 0, 1, 2, 3, 4])
def test_the_bravais_lattice_of_a_prompt(bravais):
    assert prompt_bravais(make_prompt("MoS2", bravais)) == bravais

def test_an_unknown_bravais_lattice_is_named():
    with pytest.raises(ChatError, match="tetragonal.*hexagonal, square"): prompt_bravais("The chemical formula is MoS2. The Bravais lattice is tetragonal.")
