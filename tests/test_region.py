"Where a large image shows a lattice, where it shows another, and where nothing needs choosing."
import numpy as np, pytest
from crystals import MOS2
from microscopygpt.micrograph import Micrograph
from microscopygpt.region import LARGE, best_region, lattice_map, other_grains, plot_map, spots_of
from microscopygpt.stem import simulate
from microscopygpt.noise import add_noise

SIDE, WIDTH = 512, 192

def sheet(rotation=12): return np.array(simulate(MOS2, size=SIDE, rotation=rotation, shift=(0, 0)))
def shown(image): return Micrograph(add_noise(image, "paper"), .1)

@pytest.fixture(scope="module")
def one_crystal(): return shown(sheet())

@pytest.fixture(scope="module")
def in_the_corner():
    "A crystal in the lower right, dirt elsewhere."
    y, x = np.mgrid[:SIDE, :SIDE]/SIDE
    dirt = np.random.default_rng(0).normal(.3, .1, (SIDE, SIDE))
    return shown(np.where((x > .5) & (y > .5), sheet(), dirt))

def test_spots_of_a_crystal_and_of_noise():
    noise = np.random.default_rng(0).normal(size=(128, 128))
    assert spots_of(sheet()[:128, :128]).share > .6 > .2 > spots_of(noise).share >= 0

def test_spots_know_no_brightness_and_no_contrast():
    window = sheet()[:128, :128]
    assert spots_of(3*window + 7).share == pytest.approx(spots_of(window).share)

@pytest.mark.parametrize("flat", [0., 5.])
def test_a_window_without_anything_has_no_spots(flat): assert spots_of(np.full((64, 64), flat)).share == 0

def test_the_clear_part_is_found(in_the_corner):
    part = best_region(in_the_corner, WIDTH)
    found = lattice_map(in_the_corner, WIDTH)
    assert part.shape == (WIDTH, WIDTH) and found.left[found.chosen] > .4*SIDE and found.top[found.chosen] > .4*SIDE
    assert "that part was used" in part.warnings[-1] and part.pixel_size == .1
    assert len(in_the_corner.warnings) < len(part.warnings), "the micrograph itself is left alone"

def test_a_clear_middle_is_kept_whole(one_crystal):
    assert best_region(one_crystal, WIDTH).shape == one_crystal.shape
    assert best_region(one_crystal, WIDTH).warnings == one_crystal.warnings
    assert other_grains(lattice_map(one_crystal, WIDTH)) == 0

def test_a_small_image_is_taken_as_it_is(in_the_corner):
    small = in_the_corner.crop(0, 0, int(LARGE*WIDTH) - 1, int(LARGE*WIDTH) - 1)
    assert best_region(small, WIDTH) is small

def test_another_grain_is_named():
    two = shown(np.where(np.arange(SIDE) < SIDE/2, sheet(12), sheet(35)))
    assert other_grains(lattice_map(two, WIDTH)) > .2
    assert any("another grain" in w for w in best_region(two, WIDTH).warnings)

def test_windows_lie_in_the_image_whatever_its_shape():
    strip = shown(sheet()[:, :150])
    found = lattice_map(strip, WIDTH)
    assert found.width == 150 and (found.left + found.width <= 150).all() and (found.top + found.width <= SIDE).all()
    assert len(found.share) == len(found.left) == len(found.likeness) and found.likeness[found.chosen] == pytest.approx(1)

def test_the_map_can_be_looked_at(in_the_corner):
    found = lattice_map(in_the_corner, WIDTH)
    assert len(plot_map(in_the_corner, found).axes[0].collections[0].get_offsets()) == len(found.share)
