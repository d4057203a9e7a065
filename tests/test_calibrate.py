"The scale of an image that tells none, from physics; and what is no crystal at any scale."
import numpy as np, pytest
from crystals import MOS2, MOS2_SLAB, photo
from microscopygpt.calibrate import (BEHIND, NUMBERS_KEPT, distinct, find_pixel_size, observe_unscaled,
                                     pixel_sizes_by_area, scale_at_rest, unscaled_planes)
from microscopygpt.columns import COVERING, ColumnError, covering
from microscopygpt.crystal import cell_lengths
from microscopygpt.heights import Relaxed
from microscopygpt.fourier import LatticeError
from microscopygpt.micrograph import Micrograph
from microscopygpt.noise import Noise
from microscopygpt.energies import Potential
from microscopygpt.potentials import load_potential
from microscopygpt.scan import Scan, scan_image

@pytest.fixture(scope="module")
def unscaled():
    "Molybdenum disulfide on a raw scan without a pixel size."
    return observe_unscaled(photo(MOS2, Scan(affine=.1, drift=.08), seed=6, pixel_size=None))

@pytest.fixture(scope="module")
def planes(unscaled): return unscaled_planes(unscaled, "MoS2")

def test_an_observation_without_a_scale_is_straightened_and_says_so(unscaled):
    assert not unscaled.scaled and unscaled.lattice.gamma == pytest.approx(120)
    assert unscaled.lattice.a/unscaled.source_pixel_size == pytest.approx(3.18/.1, rel=.06), "a period in pixels is what is known"

def test_a_pixel_size_that_an_image_tells_is_ignored():
    one, other = (observe_unscaled(photo(MOS2, seed=2, pixel_size=p)) for p in (None, .17))
    assert one.lattice.cell == pytest.approx(other.lattice.cell)

def test_planes_cover_the_cell_as_usual(planes):
    assert planes[0].plane.units == 1 and planes[0].plane.residual < .05
    assert planes[-1].cost < planes[0].cost + BEHIND
    assert len(planes) <= NUMBERS_KEPT == 4 and len({p.plane.units for p in planes}) == len(planes)
    costs = [p.cost for p in planes]
    assert costs == sorted(costs) and all(p.level >= p.plane.residual for p in planes)
    for p in planes: assert covering(p.plane.numbers, p.plane.cell) == pytest.approx(COVERING, rel=.02)

@pytest.mark.parametrize("scale", [.6, 1.5])
def test_an_elongated_probe_stays_the_same_on_another_scale(unscaled, scale):
    cell = unscaled.lattice.cell
    elongated = unscaled.onto(cell, np.array([[.1, .04], [.04, -.1]]))
    resized = elongated.onto(cell*scale)
    assert resized.astigmatism == pytest.approx(elongated.astigmatism*scale**2)
    assert resized.coefficients(cell*scale)[2] == pytest.approx(elongated.coefficients(cell)[2])

def test_an_elongated_probe_hides_no_number_of_formula_units():
    elongated = Noise(blur=.1, astigmatism=.5, background=.3, read_noise=.05)
    image, _ = scan_image(MOS2, Scan(affine=.06), elongated, 3)
    seen = observe_unscaled(Micrograph(image))
    assert np.abs(np.linalg.eigvalsh(seen.astigmatism)).max() > .05
    first = unscaled_planes(seen, "MoS2")[0].plane
    assert first.units == 1 and first.residual < .15 and len(first.operations) >= 6

def test_a_plane_finds_its_scale(unscaled, planes):
    found = scale_at_rest(planes[:1], load_potential("chgnet"))[0]
    assert unscaled.lattice.a*found.scale == pytest.approx(3.19, abs=.05)
    assert cell_lengths(found.slab.cell)[0] == pytest.approx(3.19, abs=.05)

@pytest.mark.parametrize("true", [.07, .14])
def test_the_pixel_size_of_an_image_that_tells_none(true):
    picture = Micrograph(scan_image(MOS2, Scan(), "paper", 2, pixel_size=true)[0])
    assert find_pixel_size(picture, "MoS2", load_potential("chgnet")) == pytest.approx(true, rel=.02)

def test_a_formula_too_large_is_named(unscaled):
    with pytest.raises(ColumnError, match="Bi9Se10.*give the pixel size"): unscaled_planes(unscaled, "Bi9Se10")

def test_noise_has_no_scale():
    with pytest.raises(LatticeError): observe_unscaled(Micrograph(np.random.default_rng(0).normal(size=(200, 200)).astype(np.float32)))

def test_a_crystal_that_rests_at_no_scale_is_named():
    class Infinite(Potential):
        name = "infinite"
        def compute(self, slabs, forces): return np.full(len(slabs), np.inf), [np.zeros((len(s.z), 3)) for s in slabs]
    with np.errstate(invalid="ignore"), pytest.raises(ColumnError, match="At no scale do these elements"):
        find_pixel_size(photo(MOS2, pixel_size=None), "MoS2", Infinite())

def test_it_can_be_stopped(planes):
    class Stop(Exception): "Somebody pressed a button."
    def tick(): raise Stop()
    with pytest.raises(Stop): scale_at_rest(planes, load_potential("chgnet"), tick=tick)

def test_a_known_area_gives_a_size_for_each_number_of_units(unscaled, planes):
    area = abs(np.linalg.det(MOS2_SLAB.cell))
    sizes = pixel_sizes_by_area(unscaled, planes, area)
    assert len(sizes) == len(planes) and sizes[0] == pytest.approx(.1, rel=.03)
    assert [s/sizes[0] for s in sizes] == pytest.approx([np.sqrt(p.plane.units/planes[0].plane.units) for p in planes])

def test_ends_are_distinct_in_energy_or_size():
    end = lambda energy, scale=1.: Relaxed(MOS2_SLAB._replace(cell=scale*MOS2_SLAB.cell), energy, 0., 0., 0.)
    assert len(distinct([end(-7.), end(-6.999), end(-6.9), end(-6.9, 1.1), end(-6.9, 1.003)])) == 3
