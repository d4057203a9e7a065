"""Seconds of CPU and peak memory of `sites` on large frames, each in a fresh process.

    python nbs/results/time_sites.py nbs/results/sites/time.json [1024 2048 4096]
"""
import json
import os
import resource
import subprocess
import sys
import time
from pathlib import Path
from microscopygpt.core import write_atomically

def measure(size):
    "One frame of MoS2 with vacancies at 2000 electrons per Å²."
    import torch
    from microscopygpt.crystal import monolayer
    from microscopygpt.micrograph import Micrograph
    from microscopygpt.site_truth import DEFECTS, defect_frame
    from microscopygpt.sites import sites
    torch.set_num_threads(1)
    mos2 = monolayer("MoS2")
    tile = defect_frame(mos2, DEFECTS["MoS2"], size=256, seed=5) # loads what is loaded once
    sites(tile.micrograph, mos2)
    frame = defect_frame(mos2, DEFECTS["MoS2"], size=size, seed=6)
    data, before = frame.micrograph.data, peak()
    del frame
    start, wall = time.process_time(), time.perf_counter()
    found = sites(Micrograph(data, .1), mos2)
    print(json.dumps(dict(size=size, sites=len(found), cpu_seconds=round(time.process_time() - start, 1),
                          wall_seconds=round(time.perf_counter() - wall, 1), before_gib=before, peak_gib=peak(),
                          load=round(os.getloadavg()[0], 1))))

def peak(): return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss/2**20, 2)

def main(out, sizes):
    rows = []
    for size in sizes:
        one = dict(os.environ, OMP_NUM_THREADS="1", OPENBLAS_NUM_THREADS="1")
        done = subprocess.run([sys.executable, __file__, "--one", str(size)], env=one, check=True, capture_output=True,
                              text=True)
        rows.append(json.loads(done.stdout.splitlines()[-1]))
        print(rows[-1], flush=True)
    write_atomically(Path(out), json.dumps(rows, indent=1) + "\n")

if __name__ == "__main__":
    if sys.argv[1] == "--one": measure(int(sys.argv[2]))
    else: main(sys.argv[1], [int(n) for n in sys.argv[2:]] or [1024, 2048, 4096])
