"""Seconds of CPU and peak memory of `sites` on large frames, each in a fresh process.

    python nbs/results/time_sites.py nbs/results/sites/time.json [1024 2048 4096]
"""
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from microscopygpt.core import write_atomically

def simulate(size, path):
    "One frame of MoS2 with vacancies at 2000 electrons per Å², stored."
    import numpy as np
    from microscopygpt.crystal import monolayer
    from microscopygpt.site_truth import DEFECTS, defect_frame
    np.save(path, defect_frame(monolayer("MoS2"), DEFECTS["MoS2"], size=size, seed=6).micrograph.data)

def measure(path):
    "The analysis of a stored frame."
    import numpy as np
    import torch
    from microscopygpt.crystal import monolayer
    from microscopygpt.micrograph import Micrograph
    from microscopygpt.sites import sites
    torch.set_num_threads(1)
    mos2, data = monolayer("MoS2"), np.load(path)
    sites(Micrograph(data[:256, :256], .1), mos2) # loads what is loaded once
    before, start, wall = peak(), time.process_time(), time.perf_counter()
    found = sites(Micrograph(data, .1), mos2)
    print(json.dumps(dict(size=len(data), sites=len(found), cpu_seconds=round(time.process_time() - start, 1),
                          wall_seconds=round(time.perf_counter() - wall, 1), before_gib=before, peak_gib=peak(),
                          load=round(os.getloadavg()[0], 1))))

def peak(): return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss/2**20, 2)

def in_a_fresh_process(*arguments):
    "What this script prints with some arguments, on one core."
    one = dict(os.environ, OMP_NUM_THREADS="1", OPENBLAS_NUM_THREADS="1")
    return subprocess.run([sys.executable, __file__, *arguments], env=one, check=True, capture_output=True,
                          text=True).stdout

def main(out, sizes):
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for size in sizes:
            path = str(Path(folder)/f"{size}.npy")
            in_a_fresh_process("--simulate", str(size), path)
            rows.append(json.loads(in_a_fresh_process("--measure", path).splitlines()[-1]))
            print(rows[-1], flush=True)
    write_atomically(Path(out), json.dumps(rows, indent=1) + "\n")

if __name__ == "__main__":
    if sys.argv[1] == "--simulate": simulate(int(sys.argv[2]), sys.argv[3])
    elif sys.argv[1] == "--measure": measure(sys.argv[2])
    else: main(sys.argv[1], [int(n) for n in sys.argv[2:]] or [1024, 2048, 4096])
