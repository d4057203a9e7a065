"The convolution model beside the multislice pictures kept in nbs/timings: what the page says must hold for the simulator as it is."
import json
from pathlib import Path

import numpy as np
import pytest
from ase.data import atomic_numbers
from jarvis.core.atoms import Atoms

from microscopygpt.stem import Probe, simulate

FOLDER = Path(__file__).parents[1]/"nbs/timings/multislice"
RUNS = json.loads((FOLDER/"index.json").read_text())["runs"]
MONOLAYERS = [n for n in RUNS if not n.startswith(("atom", "MoS2 "))]
SOURCE, GRID = .4, np.arange(96)*.1


def scanned(name):
    with np.load(FOLDER/f"{name.replace(' ', '_')}.npz", allow_pickle=False) as f: return f["images"].mean(0, dtype=float)


def multislice(name):
    "At the pixels of `GRID`, through a source of 0.4 A"
    scan, (a, b) = scanned(name), RUNS[name]["cell"]
    gy, gx = (np.fft.fftfreq(n, l/n) for n, l in zip(scan.shape, (b, a)))
    f = np.fft.fft2(scan)/scan.size*np.exp(-2*np.pi**2*SOURCE**2*(gy[:, None]**2+gx**2))
    return (np.exp(2j*np.pi*np.outer(GRID, gy)) @ f @ np.exp(2j*np.pi*np.outer(gx, GRID))).real


def ours(name, defocus=0., z_power=1.7):
    run = RUNS[name]
    thickness = 1 + max(z for *_, z in run["positions"])
    atoms = Atoms(lattice_mat=np.diag([*run["cell"], thickness]), coords=np.array(run["positions"]), elements=run["symbols"], cartesian=True)
    return simulate(atoms, .1, len(GRID), probe=Probe(80, 30, defocus, 0., SOURCE), z_power=z_power, u_rms=run["thermal"])


def ncc(a, b): return np.corrcoef(a.ravel(), b.ravel())[0, 1]


def test_there_are_enough():
    assert len(MONOLAYERS) >= 8 and all(RUNS[n]["configs"] >= 8 for n in MONOLAYERS)


@pytest.mark.parametrize("name", MONOLAYERS)
def test_pictures_agree(name):
    assert ncc(multislice(name), ours(name)) > (.96 if name == "2H WSe2" else .99)


@pytest.mark.parametrize("name,power", [("2H MoS2", 1.67), ("2H WSe2", 1.2), ("2H MoTe2", 1.84)])
def test_an_exponent_fits_best(name, power):
    best, low, high = (ncc(multislice(name), ours(name, z_power=p)) for p in (power, power-.25, power+.25))
    assert best > .997 and best > max(low, high)


@pytest.mark.parametrize("defocus", [-100, 50])
def test_defocus_is_followed_when_it_is_told(defocus):
    picture = multislice(f"MoS2 defocus {defocus}")
    assert ncc(picture, ours(f"MoS2 defocus {defocus}", defocus)) > .98 > ncc(picture, ours("2H MoS2"))


def test_lone_atoms_follow_a_power_of_the_atomic_number():
    names = [n for n in RUNS if n.startswith("atom")]
    z = np.array([atomic_numbers[n.split()[1]] for n in names])
    cross_section = np.array([scanned(n).mean()*np.prod(RUNS[n]["cell"]) for n in names])
    slope, height = np.polyfit(np.log(z), np.log(cross_section), 1)
    assert len(names) > 10 and 1.55 < slope < 1.75
    assert abs(cross_section/np.exp(height)/z**slope-1).max() < .25
