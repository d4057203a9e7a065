"Crystals and scans of them that several tests look at."
import numpy as np
from microscopygpt.crystal import Slab, cell_from_lengths, from_slab
from microscopygpt.micrograph import Micrograph
from microscopygpt.scan import Scan, scan_image

HEXAGON = np.array([[0, 0], [1/3, 2/3], [1/3, 2/3]])
MOS2_SLAB = Slab(cell_from_lengths(3.18, 3.18, 120), HEXAGON, np.array([0, 1.565, -1.565]), np.array([42, 16, 16]))
MOS2 = from_slab(MOS2_SLAB)
OBLIQUE_SLAB = Slab(cell_from_lengths(3.9, 4.2, 114), np.array([[.1, .2], [.48, .67], [.8, .33]]), np.array([0, 1.2, -.9]), np.array([42, 16, 34]))
OBLIQUE = from_slab(OBLIQUE_SLAB) # near a hexagonal lattice, without any symmetry

def photo(atoms, scan=Scan(), noise="paper", seed=1, pixel_size=.1, **kw):
    "A micrograph whose file tells a pixel size; None for none. The true one is .1 Å/px."
    return Micrograph(scan_image(atoms, scan, noise, seed, **kw)[0], pixel_size)
