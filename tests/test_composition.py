"Which ratio of some elements an image shows."
import numpy as np, pytest
from crystals import MOS2, OBLIQUE, photo
from microscopygpt.calibrate import observe_unscaled
from microscopygpt.columns import ColumnError
from microscopygpt.composition import (LARGEST_RATIO, MOST_ATOMS, compose, formula_cost, possible_formulas,
                                       read_elements)
from microscopygpt.crystal import FormulaError, Slab, cell_from_lengths, from_slab, parse_formula
from microscopygpt.observe import observe

BN = from_slab(Slab(cell_from_lengths(2.51, 2.51, 120), np.array([[1/3, 2/3], [2/3, 1/3]]), np.zeros(2), np.array([5, 7])))
GRAPHENE = from_slab(Slab(cell_from_lengths(2.46, 2.46, 120), np.array([[1/3, 2/3], [2/3, 1/3]]), np.zeros(2), np.array([6, 6])))

@pytest.mark.parametrize("text", ["Mo,S", "Mo, S", " Mo S ", "Mo;S", "Mo-S", "Mo/S", ["Mo", "S"], ("Mo", "S", "Mo")], ids=str)
def test_elements_are_read_however_they_are_written(text): assert read_elements(text) == ["Mo", "S"]

@pytest.mark.parametrize("text", ["", " ", ",", "Mo,Xx", "MoS2", "mo,s", [], ["Mo", ""]], ids=repr)
def test_what_is_not_a_list_of_elements_is_named(text):
    with pytest.raises(FormulaError, match="not a list of elements"): read_elements(text)

def test_formulas_are_the_small_ratios_once_each():
    formulas = possible_formulas(["Mo", "S"])
    counts = [parse_formula(f) for f in formulas]
    assert len(set(formulas)) == len(formulas) == 11 and {"MoS2", "Mo2S3", "MoS"} <= set(formulas)
    assert all(max(c.values()) <= LARGEST_RATIO and sum(c.values()) <= MOST_ATOMS for c in counts)
    assert formulas == sorted(formulas, key=formula_cost)

def test_charges_that_balance_are_usual():
    assert possible_formulas(["Na", "Cl"])[0] == "NaCl" and formula_cost("MgCl2") < formula_cost("MgCl")

@pytest.mark.parametrize("atoms, elements, formula", [(MOS2, ["S", "Mo"], "MoS2"), (OBLIQUE, ["Mo", "S", "Se"], "MoSeS")], ids=["MoS2", "MoSeS"])
def test_the_ratio_is_solved_from_the_columns(atoms, elements, formula):
    found = compose(observe(photo(atoms)), elements)
    assert found[0].formula == formula and found[0].plane.residual < .05
    assert [f.cost for f in found] == sorted(f.cost for f in found)

def test_the_ratio_is_solved_without_a_scale():
    assert compose(observe_unscaled(photo(BN, pixel_size=None)), ["B", "N"])[0].formula == "BN"

def test_one_element_leaves_nothing_to_solve():
    assert [f.formula for f in compose(observe(photo(GRAPHENE)), ["C"])] == ["C"]

def test_elements_that_have_no_room_are_named():
    with pytest.raises(ColumnError, match="Cs, Pb, I.*pixel size"): compose(observe(photo(GRAPHENE)), ["Cs", "Pb", "I"])

def test_progress_is_told():
    heard = []
    compose(observe(photo(GRAPHENE)), ["C"], progress=lambda done, what: heard.append((done, what)))
    assert heard == [(0., "solving the columns of C")]
