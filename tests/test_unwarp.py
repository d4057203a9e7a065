"Smooth drift is found by the phases of spots and taken out; a straight scan is left as it is."
import numpy as np, pytest
from crystals import MOS2, OBLIQUE
from microscopygpt.fourier import LatticeError
from microscopygpt.lattice import measure_lattice
from microscopygpt.micrograph import Micrograph
from microscopygpt.scan import Scan, scan_image
from microscopygpt.unwarp import WORTH, displacement_field, unwarped

def scanned(atoms, scan, seed=1):
    "The view of a scan, its lattice, and the errors of the scan."
    image, errors = scan_image(atoms, scan, "paper", seed)
    view = Micrograph(image, .1).view()
    return view, measure_lattice(view), errors

def bent(field):
    "What no lattice can take up: a field without its linear part."
    rows, columns = np.indices(field.shape[1:])
    plane = np.c_[np.ones(rows.size), rows.ravel(), columns.ravel()]
    return np.array([u.ravel() - plane@np.linalg.lstsq(plane, u.ravel(), rcond=None)[0] for u in field])

@pytest.mark.parametrize("atoms", [MOS2, OBLIQUE], ids=["hexagonal", "oblique"])
def test_the_field_is_the_drift_of_the_scan(atoms):
    view, lattice, errors = scanned(atoms, Scan(drift=.3))
    found, true = bent(displacement_field(view, lattice)), bent(errors.field)
    assert np.corrcoef(found.ravel(), true.ravel())[0, 1] > .7
    assert .3 < found.std()/true.std() < 1.2, "smoothed by its window, never exaggerated"

def test_an_unwarped_view_shows_more_of_its_lattice():
    view, lattice, _ = scanned(MOS2, Scan(drift=.5), seed=0)
    straight, better, undone = unwarped(view, lattice)
    assert better.quality >= lattice.quality + WORTH and 0 < undone < .6
    assert straight.shape == view.shape and straight.pixel_size == view.pixel_size
    assert abs(np.linalg.det(better.cell)/np.linalg.det(lattice.cell)) == pytest.approx(1, abs=.03)

@pytest.mark.parametrize("atoms", [MOS2, OBLIQUE], ids=["hexagonal", "oblique"])
@pytest.mark.parametrize("scan", [Scan(), Scan(affine=.1)], ids=["straight", "sheared"])
def test_a_scan_without_smooth_drift_stays_as_it_is(atoms, scan):
    view, lattice, _ = scanned(atoms, scan)
    same, measured, undone = unwarped(view, lattice)
    assert same is view and measured is lattice and undone == 0

def test_a_straight_scan_has_no_field():
    view, lattice, _ = scanned(MOS2, Scan())
    assert np.abs(displacement_field(view, lattice)).max() < .05

def test_a_view_that_loses_its_lattice_is_not_taken(monkeypatch):
    view, lattice, _ = scanned(MOS2, Scan(drift=.3))
    def lost(view): raise LatticeError("No lattice explains the image.")
    monkeypatch.setattr("microscopygpt.unwarp.measure_lattice", lost)
    assert unwarped(view, lattice) == (view, lattice, 0.)
