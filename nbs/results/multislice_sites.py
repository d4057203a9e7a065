"""Multislice micrographs of sheets with known defects, for the proof of `sites`.

    python nbs/results/multislice_sites.py MoS2 nbs/results/sites

Each run writes FOLDER/multislice_NAME.npz: one scan for each detector, sampled as coarsely as the aperture permits
(`sites_frames.multislice_frame` interpolates it), and the truth. abTEM 1.0.11, PRISM with interpolation 4, Lobato
potentials, frozen phonons.
"""
import sys
import time
from pathlib import Path
import numpy as np
from ase import Atoms
from ase.build import graphene, mx2
from ase.data import atomic_numbers
from scipy.spatial import cKDTree

SIDE = 51.2 # Å, about the side of the cell
ENERGY, SEMI_ANGLE = 80e3, 30. # eV, mrad
DETECTORS = dict(haadf=(80., 170.), madf=(54., 80.)) # mrad
SAMPLING, SLICE = .08, 1.6 # Å
SCAN = 128 # positions along each side: .4 Å
CONFIGURATIONS, VIBRATION = 2, .07 # number of frozen phonons, Å
RELAXED, BOND = .08, 2.6 # Å, how far the neighbours of a vacancy move, and how near a neighbour is

# (call, what stands in the column, what shall stand there, how many)
SHEETS = dict(
    MoS2=(lambda: mx2("MoS2", "2H", 3.18, 3.13, vacuum=1.6), [("vacancy", "Mo", "", 6), ("vacancy", "S,S", "", 6),
          ("partial", "S,S", "S", 10), ("substitution", "Mo", "W", 6), ("substitution", "S,S", "S,Se", 8)]),
    WSe2=(lambda: mx2("WSe2", "2H", 3.29, 3.34, vacuum=1.6), [("vacancy", "W", "", 6), ("vacancy", "Se,Se", "", 6),
          ("partial", "Se,Se", "Se", 10), ("substitution", "W", "Mo", 8)]),
    graphene=(lambda: graphene("C2", a=2.46, vacuum=2.),
              [("substitution", "C", "N", 20), ("substitution", "C", "Si", 10), ("vacancy", "C", "", 8)]))

def rectangle(sheet):
    "The sheet repeated to about a square of `SIDE`."
    a, b = sheet.cell[:2].copy()
    wide = np.array([a, a + 2*b if a@b < 0 else 2*b - a])
    box = sheet.repeat((2, 2, 1))
    xy, z = box.positions[:, :2], box.positions[:, 2]
    cell = np.diag([*np.linalg.norm(wide, axis=1), sheet.cell[2, 2]])
    frac = xy@np.linalg.inv(cell[:2, :2])
    first = np.unique(np.round(np.c_[np.round(frac, 4) % 1, z], 4), axis=0, return_index=True)[1]
    one = Atoms(box.numbers[first], np.c_[(frac[first] % 1)@cell[:2, :2], z[first]], cell=cell, pbc=True)
    times = [max(1, round(SIDE/length)) for length in one.cell.lengths()[:2]]
    return one.repeat((*times, 1))

def columns(atoms):
    "Positions (n, 2) and indices of the atoms of each column."
    box = atoms.cell.lengths()[:2]
    tree = cKDTree(atoms.positions[:, :2] % box, boxsize=box)
    groups = {tuple(sorted(tree.query_ball_point(xy, .3))) for xy in atoms.positions[:, :2] % box}
    groups = sorted(groups)
    return np.array([atoms.positions[g[0], :2] % box for g in groups]), groups

def with_defects(atoms, wanted, seed):
    "The sheet with defects at least two bonds apart, and the truth: rows (x, y, call, old, new)."
    rng = np.random.default_rng(seed)
    xy, groups = columns(atoms)
    box = atoms.cell.lengths()[:2]
    symbols = np.array(atoms.get_chemical_symbols(), object)
    names = [",".join(sorted(symbols[list(g)])) for g in groups]
    used, truth, gone, empty = [], [], [], []
    for call, old, new, count in wanted:
        for i in rng.permutation(len(xy)):
            if count == 0: break
            apart = [np.linalg.norm((xy[i] - xy[j] + box/2) % box - box/2) for j in used]
            if names[i] != old or (apart and min(apart) < BOND + 1.): continue
            used.append(i)
            atoms_there, staying = list(groups[i]), [s for s in new.split(",") if s]
            for k in sorted(atoms_there, key=lambda k: rng.random()):
                if symbols[k] in staying: staying.remove(symbols[k])
                elif staying: symbols[k] = staying.pop()
                else: gone.append(k)
            if not new or call == "partial": empty.append(i)
            truth.append((*xy[i], call, old, new))
            count -= 1
    moved = atoms.positions.copy()
    for i in empty:
        d = (moved[:, :2] - xy[i] + box/2) % box - box/2
        r = np.linalg.norm(d, axis=1)
        near = (r > .5) & (r < BOND)
        moved[near, :2] -= RELAXED*d[near]/r[near, None]
    out = atoms.copy()
    out.positions = moved
    out.symbols = list(symbols)
    del out[gone]
    return out, truth

def scanned(atoms, seed):
    "One scan (rows y, columns x) for each detector."
    import abtem
    import dask
    dask.config.set(scheduler="synchronous")
    abtem.config.set({"precision": "float32", "local_diagnostics.progress_bar": False})
    phonons = abtem.FrozenPhonons(atoms, num_configs=CONFIGURATIONS, sigmas=VIBRATION, seed=seed)
    potential = abtem.Potential(phonons, sampling=SAMPLING, slice_thickness=SLICE)
    waves = abtem.SMatrix(potential=potential, energy=ENERGY, semiangle_cutoff=SEMI_ANGLE, interpolation=4)
    scan = abtem.GridScan((0, 0), (1, 1), gpts=(SCAN, SCAN), fractional=True, endpoint=False, potential=potential)
    detectors = [abtem.AnnularDetector(*angles) for angles in DETECTORS.values()]
    measured = waves.scan(scan=scan, detectors=detectors).compute()
    return [np.asarray(m.array, float).reshape(-1, SCAN, SCAN).mean(0).T for m in measured]

def main(name, folder):
    make, wanted = SHEETS[name]
    seed = list(SHEETS).index(name)
    started = time.process_time()
    atoms, truth = with_defects(rectangle(make()), wanted, seed)
    scans = scanned(atoms, seed)
    stored = {}
    for detector, scan in zip(DETECTORS, scans):
        stored[detector] = np.round(scan/scan.max()*65535).astype(np.uint16)
        stored[f"{detector}_most"] = scan.max() # of the beam
    np.savez_compressed(Path(folder)/f"multislice_{name}.npz", **stored, box=atoms.cell.lengths()[:2],
                        xy=np.array([t[:2] for t in truth]), call=np.array([t[2] for t in truth]),
                        old=np.array([t[3] for t in truth]), new=np.array([t[4] for t in truth]),
                        seconds=time.process_time() - started)

if __name__ == "__main__": main(*sys.argv[1:3])
