"Real micrographs at the defaults: file and formula only, with no pixel size, the right one, and a wrong one."
import os
from importlib.resources import files
from pathlib import Path
import pytest
from microscopygpt.crystal import cell_lengths, to_slab
from microscopygpt.solve import predict

IMAGES = Path(os.environ.get("MICROSCOPYGPT_DATA") or "/nowhere")/".."/"images"
KNOWN = {"graphene": ("C", 191, 2.464, .0664), "MoS2": ("MoS2", 187, 3.188, .0738), "FeTe": ("FeTe", 129, 3.607, .0533)}
FACTORS = [None, 1., 1.2] # times the right pixel size; None tells none

def image_of(name):
    "The picture of that name: in the package, or beside the data."
    packaged = files("microscopygpt")/"examples"/f"{name}.png"
    path = packaged if packaged.is_file() else IMAGES/f"{name}.png"
    if not path.is_file(): pytest.skip("the experimental images are not beside MICROSCOPYGPT_DATA")
    return path


@pytest.mark.parametrize("factor", FACTORS)
@pytest.mark.parametrize("name", KNOWN)
def test_a_real_micrograph_is_right_at_rank_1(name, factor):
    formula, number, a, pixel_size = KNOWN[name]
    prediction = predict(image_of(name), formula, factor and pixel_size*factor, templates=None, k=1)
    lengths = cell_lengths(to_slab(prediction.best.atoms).cell)
    assert prediction.best.space_group == number
    assert lengths[0] == pytest.approx(a, rel=.04) and lengths[1] == pytest.approx(a, rel=.04)
    said = " ".join(prediction.warnings)
    if factor is None: assert "tells no pixel size" in said and "inferred" in said
    elif factor != 1: assert "The file says" in said
    assert "sheared or stretched" in said
