"""Two grains of known orientation and a known strain field, for the proof of `sites`.

    python nbs/results/sites_grains.py nbs/results/sites/grains.json [--seeds 2]

Each row of `grains` is one frame of 512 px at .1 Å/px: the angle that was put in and the one that was found, how far the
line between the grains is from the true one, and how many columns near it were called defects, beside those elsewhere.
Each row of `strain` is one frame with a wave of strain: how far every quantity is from the truth and the stated error.
"""
import argparse
import json
from pathlib import Path
import numpy as np
from tqdm import tqdm
from microscopygpt.build import grain_boundary
from microscopygpt.core import write_atomically
from microscopygpt.crystal import Slab, from_slab, monolayer, to_slab
from microscopygpt.micrograph import Micrograph
from microscopygpt.noise import Noise, add_noise
from microscopygpt.sites import sites
from microscopygpt.stem import orientation, simulate
from microscopygpt.strain import QUANTITIES, average_lattice, boundary_lines, grain_relation, strain_map

SIZE, PIXEL = 512, .1 # px, Å/px
SEAM = 4. # Å, within which a column is at the boundary
ANGLES = 5., 10., 15., 21.8, 30., 38.2, 45., 60. # degrees
DOSES = 300, 2000 # detected electrons per Å² at the brightest pixel
CRYSTALS = "MoS2", "WSe2"
OFF = 4. # Å, of the boundary from the middle of the frame
STRETCH, BEND, WAVE = .02, .015, 75. # exx, slope of the displacement along y, Å

def noise(dose): return Noise(offset=.05, dose=dose)

def two_grains(atoms, angle, dose, seed):
    "A micrograph of two grains, and a point and the normal of their boundary."
    side = 2*SIZE*PIXEL
    rotation = np.random.default_rng(seed).uniform(0, 60)
    turn = orientation(rotation, False, 1)[0]
    middle = np.full(2, SIZE*PIXEL/2) + [OFF, 0]
    both = grain_boundary(atoms, angle, side, side)
    clean = simulate(both, PIXEL, SIZE, rotation=rotation, shift=tuple(middle - np.full(2, side/2)@turn))
    return Micrograph(add_noise(clean, noise(dose), PIXEL, seed), PIXEL), middle, turn[0]

def angle_error(found, true, period): return abs((abs(found) - true + period/2) % period - period/2)

def grain_row(case, angle, dose, seed):
    "What is found of one frame with two grains."
    micrograph, middle, normal = two_grains(monolayer(case), angle, dose, seed)
    found = sites(micrograph, monolayer(case))
    row = dict(case=case, angle=angle, dose=dose, seed=seed, grains=len(found.grains))
    off = np.abs((found.xy - middle)@normal)
    called = found.call != "expected"
    row |= dict(called_at_seam=int((called & (off < SEAM)).sum()), called_elsewhere=int((called & (off >= SEAM)).sum()),
                columns=len(found))
    if len(found.grains) != 2: return row
    relation = grain_relation(found, 0, 1)
    lines = boundary_lines(found, 0, 1)
    away = np.abs((np.concatenate(lines) - middle)@normal) if lines else np.array([np.nan])
    wrong = min(angle_error(relation.angle, angle, relation.period), angle_error(-relation.angle, angle, relation.period))
    return row | dict(angle_error=wrong, line_mean=float(away.mean()), line_most=float(away.max()))

def strained(atoms, side):
    "A sheet with a wave of strain: ux along x, uy along x."
    slab = to_slab(atoms)
    n = int(np.ceil(side/np.linalg.norm(slab.cell, axis=1).min()*1.6))
    cells = np.stack(np.meshgrid(np.arange(-n, n), np.arange(-n, n)), -1).reshape(-1, 1, 2)
    xy = ((cells + slab.frac)@slab.cell).reshape(-1, 2)
    z, numbers = np.tile(slab.z, len(cells)), np.tile(slab.numbers, len(cells))
    inside = (np.abs(xy) < side/2).all(1)
    xy, z, numbers = xy[inside], z[inside], numbers[inside]
    k = 2*np.pi/WAVE
    moved = xy + np.c_[STRETCH*np.sin(k*xy[:, 0])/k, BEND*np.sin(k*xy[:, 0])/k]
    return from_slab(Slab((side + 8)*np.eye(2), moved/(side + 8) + .5, z, numbers))

def strain_row(case, dose, seed):
    "Strain found in one frame, beside the field as the same window sees it."
    atoms, side = monolayer(case), 1.6*SIZE*PIXEL
    middle = SIZE*PIXEL/2
    clean = simulate(strained(atoms, side), PIXEL, SIZE, shift=(middle - (side + 8)/2,)*2)
    found = sites(Micrograph(add_noise(clean, noise(dose), PIXEL, seed), PIXEL), atoms)
    known = strain_map(found, reference=atoms)
    k = 2*np.pi/WAVE
    x = average_lattice(found, 0).places(found.column, found.cell_index)[:, 0] - middle
    cosine = np.exp(-.5*(k*known.window)**2)*np.cos(k*x)
    true = np.c_[STRETCH*cosine, 0*cosine, BEND*cosine/2, np.degrees(BEND)*cosine/2]
    true[:, 3] += np.nanmean((known.values - true)[:, 3])
    inner = ((found.xy > 2*known.window) & (found.xy < SIZE*PIXEL - 2*known.window)).all(1)
    wrong = np.sqrt(np.nanmean((known.values - true)[inner]**2, 0))
    stated = np.nanmedian(known.errors[inner], 0)
    return dict(case=case, dose=dose, seed=seed, wrong=dict(zip(QUANTITIES, wrong)), stated=dict(zip(QUANTITIES, stated)))

def rounded(value):
    if isinstance(value, dict): return {name: rounded(v) for name, v in value.items()}
    return round(float(value), 5) if isinstance(value, (float, np.floating)) else value

def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out", type=Path)
    parser.add_argument("--seeds", type=int, default=1)
    options = parser.parse_args()
    seeds = range(options.seeds)
    asked = [(c, a, d, s) for c in CRYSTALS for a in ANGLES for d in DOSES for s in seeds]
    grains = [rounded(grain_row(*question)) for question in tqdm(asked, desc="grains")]
    asked = [(c, d, s) for c in CRYSTALS for d in DOSES for s in seeds]
    strain = [rounded(strain_row(*question)) for question in tqdm(asked, desc="strain")]
    write_atomically(options.out, json.dumps(dict(grains=grains, strain=strain), indent=1).encode())

if __name__ == "__main__": main()
