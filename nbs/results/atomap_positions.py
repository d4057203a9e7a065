"""Columns of a frame by Atomap, as its guide does it: peaks, centres of mass, 2D Gaussians.

    python atomap_positions.py FRAMES.npz OUT.npz

FRAMES holds images `image_0`, `image_1`, ... and `separation`, in pixels. OUT holds positions `xy_0`, ... in pixels,
and `seconds` of CPU for each. Atomap is GPL, and this script alone uses it: it reads and writes arrays.
"""
import sys
import time
import numpy as np
from scipy.ndimage import gaussian_filter

SMOOTH = 2. # px, of the image in which peaks are looked for; they are refined in the image as it is

def positions(image, separation):
    "Positions (n, 2) px: x, y."
    import atomap.api as am
    import hyperspy.api as hs
    smooth = hs.signals.Signal2D(gaussian_filter(image.astype(float), SMOOTH))
    peaks = am.get_atom_positions(smooth, separation=separation)
    columns = am.Sublattice(peaks, image=image.astype(float))
    columns.find_nearest_neighbors()
    columns.refine_atom_positions_using_center_of_mass(show_progressbar=False)
    columns.refine_atom_positions_using_2d_gaussian(show_progressbar=False)
    return np.c_[columns.x_position, columns.y_position]

def main(frames, out):
    found = {}
    with np.load(frames, allow_pickle=False) as f: stored = dict(f)
    names = [k for k in stored if k.startswith("image_")]
    positions(stored[names[0]][:128, :128], int(stored["separation"])) # loads what is loaded once
    seconds = []
    for name in names:
        start = time.process_time()
        found[name.replace("image", "xy")] = positions(stored[name], int(stored["separation"]))
        seconds.append(time.process_time() - start)
    np.savez(out, seconds=seconds, **found)

if __name__ == "__main__": main(*sys.argv[1:3])
