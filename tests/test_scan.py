"Raw scans: errors come from their seed, and a picture departs from a straight one by just these."
import numpy as np, pytest
from crystals import MOS2, OBLIQUE_SLAB, OBLIQUE
from microscopygpt.core import MicroscopyGPTError
from microscopygpt.crystal import reduce_cell
from microscopygpt.lattice import measure_lattice
from microscopygpt.micrograph import Micrograph
from microscopygpt.scan import SCANS, Scan, ScanError, draw_errors, scan_image
from microscopygpt.stem import simulate
from microscopygpt.noise import random_view

def test_a_straight_scan_is_the_simulator_s_picture():
    image, errors = scan_image(MOS2, "straight", "none", seed=3, size=96)
    assert np.allclose(errors.matrix, np.eye(2)) and not errors.field.any() and errors.told == 1
    wide = np.asarray(simulate(MOS2, pixel_size=.1, size=100, **random_view(3, None)))
    assert image.shape == (96, 96) and np.corrcoef(image.ravel(), wide[2:-2, 2:-2].ravel())[0, 1] > .999

@pytest.mark.parametrize("scan", SCANS)
def test_the_same_seed_gives_the_same_scan(scan):
    one, other, another = (scan_image(MOS2, scan, seed=seed, size=64) for seed in (5, 5, 6))
    assert (one[0] == other[0]).all() and (one[1].matrix == other[1].matrix).all() and one[1].told == other[1].told
    assert (one[0] != another[0]).any()
    assert one[0].min() >= 0 and one[0].max() <= 1 and one[0].dtype == np.float32

def test_errors_stay_within_those_of_the_scan():
    scan = Scan(affine=.1, drift=.2, calibration=.05)
    drawn = [draw_errors(scan, (32, 32), .1, seed) for seed in range(40)]
    assert all(np.linalg.norm(e.matrix - np.eye(2), 2) <= .1 for e in drawn)
    assert np.ptp([e.matrix[0, 1] for e in drawn]) > .02, "they differ"
    assert all(.95 <= e.told <= 1.05 for e in drawn)
    assert [e.field.std() for e in drawn] == pytest.approx([.2]*40)
    assert all(e.told is None for e in (draw_errors(SCANS["unscaled"], (8, 8), .1, seed) for seed in range(5)))

@pytest.mark.parametrize("seed", range(3))
def test_the_matrix_takes_the_crystal_to_the_picture(seed):
    image, errors = scan_image(OBLIQUE, Scan(affine=.12), "paper", seed)
    measured = measure_lattice(Micrograph(image, .1)).cell
    metric = lambda cell: cell@cell.T
    straight = reduce_cell(measured@np.linalg.inv(errors.matrix))[0]
    assert metric(straight) == pytest.approx(metric(reduce_cell(OBLIQUE_SLAB.cell)[0]), abs=.12)

@pytest.mark.parametrize("options, says", [(dict(affine=2), "affine"), (dict(affine=-.1), "affine"), (dict(drift=5), "drift"), (dict(calibration=.9), "calibration"),
                                           (dict(unscaled=2), "unscaled"), (dict(drift_length=0), "drift_length"), (dict(drift=np.nan), "drift")], ids=str)
def test_a_scan_that_is_none_is_named(options, says):
    with pytest.raises(ScanError, match=says): Scan(**options)

def test_an_unknown_scan_is_named():
    assert issubclass(ScanError, MicroscopyGPTError)
    with pytest.raises(ScanError, match="'wild'.*straight, raw, unscaled"): scan_image(MOS2, "wild")
