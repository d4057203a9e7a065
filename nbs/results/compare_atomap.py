"""Positions by `sites` and by Atomap on the same frames.

    python nbs/results/compare_atomap.py nbs/results/sites/atomap.json [PYTHON]

PYTHON is the interpreter of an environment with Atomap (default: this one).
"""
import json
import subprocess
import sys
import tempfile
from dataclasses import replace
from pathlib import Path
import numpy as np
from scipy.spatial import cKDTree
from sites import COUNTED, MARGIN, analysed, crystal, rms_by_label
from microscopygpt.core import write_atomically
from microscopygpt.site_truth import defect_frame

CASES = ("MoS2", 8), ("graphene", 8) # and the separation for Atomap, px
DOSES = 300, 1000, 10000
SIZE, PIXEL = 192, .1
NEAR = .6 # Å, from a column to what found it

def scored(xy, frame, fov):
    "Share of the inner columns found within `NEAR`, root mean square error by label, and positions that are no column."
    inner = ((frame.xy > MARGIN) & (frame.xy < fov - MARGIN)).all(1)
    distance, at = cKDTree(xy).query(frame.xy[inner])
    hit = distance < NEAR
    errors = (xy[at] - frame.xy[inner])[hit]
    mine = ((xy > MARGIN) & (xy < fov - MARGIN)).all(1)
    extra = int((cKDTree(frame.xy).query(xy[mine])[0] > NEAR).sum())
    return dict(columns=int(inner.sum()), found=int(hit.sum()), extra=extra,
                off=rms_by_label(errors, frame.expected[inner][hit]))

def by_atomap(frames, separation, python):
    "Positions in Å and seconds of each frame."
    with tempfile.TemporaryDirectory() as folder:
        arrays = {f"image_{i}": f.micrograph.data for i, f in enumerate(frames)}
        np.savez(f"{folder}/in.npz", separation=separation, **arrays)
        script = Path(__file__).parent/"atomap_positions.py"
        subprocess.run([python, str(script), f"{folder}/in.npz", f"{folder}/out.npz"], check=True)
        with np.load(f"{folder}/out.npz", allow_pickle=False) as f:
            return [f[f"xy_{i}"]*PIXEL for i in range(len(frames))], f["seconds"].tolist()

def main(out, python=sys.executable):
    rows, fov = [], (SIZE - 1)*PIXEL
    for case, separation in CASES:
        frames = [defect_frame(crystal(case), noise=replace(COUNTED, dose=d), size=SIZE, seed=40) for d in DOSES]
        others, seconds = by_atomap(frames, separation, python)
        for dose, frame, xy, s in zip(DOSES, frames, others, seconds):
            found, ours = analysed(case, frame)
            rows.append(dict(case=case, dose=dose, sites=dict(scored(found.xy, frame, fov), seconds=round(ours, 2)),
                             atomap=dict(scored(xy, frame, fov), seconds=round(s, 2))))
            print(json.dumps(rows[-1]), flush=True)
    write_atomically(Path(out), "[\n" + ",\n".join(map(json.dumps, rows)) + "\n]\n")

if __name__ == "__main__": main(*sys.argv[1:3])
