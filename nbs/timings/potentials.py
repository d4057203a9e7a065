"""What the potentials say of crystals whose heights are known, and how long they take.

python nbs/timings/potentials.py heights POTENTIAL [--crystals 60] [--steps 80]
python nbs/timings/potentials.py thickness POTENTIAL
python nbs/timings/potentials.py speed [--crystals 40]

Every run adds its part to nbs/timings/potentials.json. Crystals are of the validation side of JARVIS dft_2d_2021 and C2DB."""
import argparse, json, os, platform, time
from pathlib import Path
import numpy as np
from ase.build import mx2
from jarvis.core.atoms import ase_to_atoms
from microscopygpt.crystal import Slab, from_slab, to_slab
from microscopygpt.compare import compare
from microscopygpt.data import SOURCES, load_crystals
from microscopygpt.energies import embed
from microscopygpt.potentials import load_potential
from microscopygpt.proof import crowding

SEED = 0
MAX_ATOMS = 12
ALTERNATIVES = 5 # random heights on the same columns
SPREAD = .5 # Å beyond the true highest and lowest atom, where random heights may lie
CLOSEST = .6 # of the sum of covalent radii: random atoms closer than that are drawn again
DRAWS = 300 # after so many the least crowded one is taken
CONVERGED = .03 # eV/Å along z
STEP, LONGEST = .1, .12 # of FIRE: its time step, and the longest move of an atom in Å
LOWEST = .002 # eV/atom: energies closer than that are equal


def chosen(n, max_atoms=MAX_ATOMS):
    "Crystals of the validation side, as many of either database as possible."
    rng, found = np.random.default_rng(SEED), []
    for source in SOURCES:
        crystals = load_crystals(source, "validation", max_atoms)
        found.append([crystals[i] for i in rng.permutation(len(crystals))])
    mixed = [crystal for pair in zip(*found) for crystal in pair]
    return mixed[:n]


def alternatives(slab, rng):
    "The same columns at random heights."
    half, found = np.ptp(slab.z)/2 + SPREAD, []
    for _ in range(ALTERNATIVES):
        drawn = []
        for _ in range(DRAWS):
            drawn.append(slab._replace(z=rng.uniform(-half, half, len(slab.z))))
            if crowding(drawn[-1]) > CLOSEST: break
        found.append(max(drawn, key=crowding))
    return found


def relax_heights(slabs, potential, steps):
    "FIRE along z, columns held, all slabs in one batch. -> slabs, energies in eV/atom, converged, evaluations, seconds"
    z, velocity = np.array([slab.z for slab in slabs]), np.zeros((len(slabs), len(slabs[0].z)))
    step, mixing, downhill = np.full(len(slabs), STEP), np.full(len(slabs), .1), np.zeros(len(slabs), int)
    evaluations = seconds = 0
    for _ in range(steps + 1):
        slabs = [slab._replace(z=height) for slab, height in zip(slabs, z)]
        start = time.perf_counter()
        energies, forces = potential.evaluate(slabs)
        seconds, evaluations = seconds + time.perf_counter() - start, evaluations + len(slabs)
        force = np.array([f[:, 2] for f in forces])
        force -= force.mean(1, keepdims=True)
        converged = np.abs(force).max(1) < CONVERGED
        if converged.all() or evaluations > steps*len(slabs): break
        along = (velocity*force).sum(1) > 0
        downhill = np.where(along, downhill + 1, 0)
        step = np.where(along, np.where(downhill > 5, np.minimum(1.1*step, .3), step), .5*step)
        mixing = np.where(along, np.where(downhill > 5, .99*mixing, mixing), .1)
        size = np.linalg.norm(velocity, axis=1, keepdims=True)/(np.linalg.norm(force, axis=1, keepdims=True) + 1e-12)
        velocity = np.where(along[:, None], (1 - mixing[:, None])*velocity + mixing[:, None]*size*force, 0)
        velocity += step[:, None]*force
        z = z + np.where(converged[:, None], 0, np.clip(step[:, None]*velocity, -LONGEST, LONGEST))
    return slabs, energies, converged, evaluations, seconds


def heights(name, n, steps):
    "Does the truth stay Solved, is it lowest of its columns? Yields what is known after every crystal."
    potential, rng, rows = load_potential(name), np.random.default_rng(SEED), []
    for crystal in chosen(n):
        truth = crystal.slab
        slabs = [truth] + alternatives(truth, rng)
        relaxed, energies, converged, evaluations, seconds = relax_heights(slabs, potential, steps)
        judged = compare(from_slab(truth), from_slab(relaxed[0]))
        rows.append(dict(id=crystal.id, source=crystal.source, atoms=len(truth.z), stays=bool(judged.solved), rmsd=float(judged.rmsd) if judged.solved else None,
                         lowest=bool(energies[0] < energies[1:].min() + LOWEST), margin=float(energies[1:].min() - energies[0]),
                         converged=int(converged.sum()), evaluations=evaluations, seconds=seconds))
        yield dict(steps=steps, rows=rows)


def thickness(name):
    "The energy of MoS2 over the distance of its sulfur planes."
    distances = np.arange(2.6, 3.801, .04)
    slabs = [to_slab(ase_to_atoms(mx2("MoS2", a=3.18, thickness=t, vacuum=8.))) for t in distances]
    energies = load_potential(name).evaluate(slabs, forces=False).energies
    yield dict(distances=distances.round(3).tolist(), energies=energies.round(5).tolist())


def speed(n, copies=10, repeats=4):
    "Batches of slabs that differ in their heights: ours beside CHGNet's own predict_structure, in turn, in one process."
    import torch
    from pymatgen.core import Lattice, Structure
    torch.set_num_threads(1)
    ours, rng, rows = load_potential("chgnet"), np.random.default_rng(SEED), []
    net = ours.model.net
    def own(slabs):
        structures = [Structure(Lattice(cell), slab.numbers, positions, coords_are_cartesian=True) for slab in slabs for cell, positions in [embed(slab)]]
        return net.predict_structure(structures, task="ef", batch_size=16)
    for crystal in chosen(n, 20):
        slabs = [crystal.slab._replace(z=crystal.slab.z + rng.normal(size=len(crystal.slab.z))*.15) for _ in range(copies)]
        energies, forces = ours.evaluate(slabs)
        theirs, times = own(slabs), dict(ours=[], theirs=[])
        for _ in range(repeats):
            for key, call in (("ours", ours.evaluate), ("theirs", own)):
                start = time.perf_counter()
                call(slabs)
                times[key].append(time.perf_counter() - start)
        rows.append(dict(id=crystal.id, atoms=len(crystal.slab.z), ours=min(times["ours"]), theirs=min(times["theirs"]),
                         energy=float(max(abs(e - float(t["e"])) for e, t in zip(energies, theirs))),
                         force=float(max(np.abs(f - t["f"]).max() for f, t in zip(forces, theirs)))))
        yield dict(slabs=copies, rows=rows)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", choices=("heights", "thickness", "speed"))
    parser.add_argument("potential", nargs="?", default="chgnet")
    parser.add_argument("--crystals", type=int, default=60)
    parser.add_argument("--steps", type=int, default=80)
    parser.add_argument("--out", type=Path, default=Path(__file__).with_suffix(".json"))
    args = parser.parse_args()
    if args.part == "speed": results = speed(args.crystals)
    else: results = thickness(args.potential) if args.part == "thickness" else heights(args.potential, args.crystals, args.steps)
    stored = json.loads(args.out.read_text()) if args.out.is_file() else {}
    stored["machine"] = f"{platform.machine()}, {os.environ.get('OMP_NUM_THREADS', '?')} thread"
    for result in results:
        stored.setdefault(args.part, {})[args.potential] = result
        args.out.write_text(json.dumps(stored, allow_nan=False).replace('}, {"id"', '},\n {"id"') + "\n")
        if "rows" in result: print(json.dumps(result["rows"][-1]), flush=True)
