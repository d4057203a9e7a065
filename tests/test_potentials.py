"Potentials: CHGNet beside its own package, forces beside slopes, invariances, and everything that can go wrong."
import importlib.util, itertools, warnings
from pathlib import Path
import numpy as np
import pytest
from ase import Atoms
from ase.calculators.calculator import Calculator
from ase.calculators.emt import EMT
from ase.calculators.lj import LennardJones
from pymatgen.core import Lattice, Structure
import microscopygpt.potentials as potentials
from microscopygpt.core import MicroscopyGPTError
from microscopygpt.crystal import Slab
from microscopygpt.energies import (VACUUM, Bonds, CalculatorPotential, Potential, PotentialError, batches, bonds_of,
                                    embed, neighbours)
from microscopygpt.chgnet import bond_graph, joined
from microscopygpt.potentials import POTENTIALS, ALIGNNPotential, alignn_files, load_potential, nearest_bonds

ELEMENTS = (3, 6, 7, 8, 13, 14, 16, 17, 25, 29, 34, 42, 52, 57, 74, 83)
ENERGY, FORCE = 1e-4, 1e-3 # eV/atom and eV/Å: how far ours may be from CHGNet's own
needs_sevennet = pytest.mark.skipif(importlib.util.find_spec("sevenn") is None, reason="needs sevenn")

@pytest.fixture(scope="module")
def chgnet(): return load_potential("chgnet")

def random_slab(rng, n=None, closest=1.3):
    "An oblique cell with atoms that do not touch, as crowded as a crystal."
    n = n or int(rng.integers(2, 13))
    while True:
        a, b, gamma = *rng.uniform(2.8, 4., 2)*np.sqrt(max(n/3, 1)), np.radians(rng.uniform(80, 120))
        slab = Slab(np.array([[a, 0], [b*np.cos(gamma), b*np.sin(gamma)]]), rng.random((n, 2)), rng.uniform(-2, 2, n), rng.choice(ELEMENTS, n))
        _, _, vectors = neighbours(slab, closest)
        if not len(vectors): return slab

def structure(slab):
    cell, positions = embed(slab)
    return Structure(Lattice(cell), slab.numbers, positions, coords_are_cartesian=True)

def of_package(potential, slabs):
    "What CHGNet's own package answers."
    found = potential.model.net.predict_structure([structure(s) for s in slabs], task="ef", batch_size=8)
    return np.array([float(f["e"]) for f in found]), [f["f"] for f in found]

def mos2(z=1.565): return Slab(3.18*np.array([[1, 0], [-.5, 3**.5/2]]), np.array([[0, 0], [1/3, 2/3], [1/3, 2/3]]), np.array([0, z, -z]), np.array([42, 16, 16]))

def test_chgnet_is_its_package(chgnet):
    rng = np.random.default_rng(0)
    slabs = [random_slab(rng) for _ in range(38)] + [mos2(), mos2(1.3)]
    energies, forces = chgnet.evaluate(slabs)
    theirs, pulls = of_package(chgnet, slabs)
    assert np.abs(energies - theirs).max() < ENERGY
    assert max(np.abs(f - p).max() for f, p in zip(forces, pulls)) < FORCE
    assert max(np.abs(p).max() for p in pulls) > 1 # not a test of nothing
    assert chgnet.evaluate(slabs, forces=False).forces == []
    assert np.allclose(chgnet.evaluate(slabs, forces=False).energies, energies, atol=1e-6)

def test_kinds_of_bonds_count_every_bond():
    graph = bond_graph([mos2(), random_slab(np.random.default_rng(1), 5)])
    assert graph.count.sum() == len(graph.kind) == len(graph.bonds.first) - graph.n_short
    length = np.linalg.norm(graph.bonds.vectors, axis=1)
    assert np.abs(length[graph.n_short:] - length[graph.example][graph.kind]).max() < 2e-4
    assert len(bond_graph([mos2()]).count) < 20 < len(bond_graph([mos2()]).kind)

@pytest.mark.parametrize("name", ["chgnet", "lj"])
def test_forces_are_slopes(name, chgnet):
    potential = chgnet if name == "chgnet" else CalculatorPotential(LennardJones(sigma=2., epsilon=.3, rc=6., smooth=True))
    slab, step = random_slab(np.random.default_rng(3), 4, closest=1.8), .01 # Å
    forces = potential.evaluate([slab]).forces[0]
    moved = []
    for atom, axis, sign in itertools.product(range(4), range(3), (1, -1)):
        d = np.zeros((4, 3)); d[atom, axis] = sign*step
        moved.append(slab._replace(frac=slab.frac + d[:, :2]@np.linalg.inv(slab.cell), z=slab.z + d[:, 2]))
    energies = 4*potential.evaluate(moved, forces=False).energies.reshape(4, 3, 2)
    slopes = -(energies[..., 0] - energies[..., 1])/(2*step)
    assert np.abs(slopes - forces).max() < .01*np.abs(forces).max() + 5e-3

def test_forces_are_in_the_frame_of_the_cell(chgnet):
    slab, angle = random_slab(np.random.default_rng(4), 5), np.radians(37)
    turn = np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])
    energies, (one, other) = chgnet.evaluate([slab, slab._replace(cell=slab.cell@turn)])
    assert abs(energies[0] - energies[1]) < 1e-5
    assert np.abs(other[:, :2] - one[:, :2]@turn).max() < FORCE and np.abs(other[:, 2] - one[:, 2]).max() < FORCE

def test_order_origin_cell_and_side_do_not_matter(chgnet):
    rng = np.random.default_rng(5)
    slab = random_slab(rng, 6)
    order, H = rng.permutation(6), np.array([[1, 1], [0, 1]])
    same = [slab, Slab(slab.cell, slab.frac[order], slab.z[order], slab.numbers[order]), slab._replace(frac=(slab.frac + [.3, .8]) % 1, z=slab.z + 5),
            slab._replace(cell=H@slab.cell, frac=slab.frac@np.linalg.inv(H)), slab._replace(z=-slab.z),
            Slab(np.diag([2, 1])@slab.cell, np.r_[slab.frac/[2, 1], (slab.frac + [1, 0])/[2, 1]], np.tile(slab.z, 2), np.tile(slab.numbers, 2))]
    energies, forces = chgnet.evaluate(same)
    assert np.ptp(energies) < 1e-5
    assert np.abs(forces[1] - forces[0][order]).max() < FORCE
    assert all(np.abs(forces[k] - forces[0]).max() < FORCE for k in (2, 3))
    assert np.abs(forces[4] - forces[0]*[1, 1, -1]).max() < FORCE
    assert np.abs(forces[5] - np.tile(forces[0], (2, 1))).max() < FORCE
    assert max(np.abs(f.sum(0)).max() for f in forces) < FORCE

def test_a_batch_is_its_members(chgnet):
    rng = np.random.default_rng(6)
    slabs = [random_slab(rng, n) for n in (2, 9, 4, 12, 1, 7)]
    together, alone = chgnet.evaluate(slabs), [chgnet.evaluate([s]) for s in slabs]
    assert np.abs(together.energies - [a.energies[0] for a in alone]).max() < 1e-5
    assert all(np.abs(f - a.forces[0]).max() < FORCE for f, a in zip(together.forces, alone))
    assert [f.shape for f in together.forces] == [(len(s.z), 3) for s in slabs]

def test_cut_into_batches(chgnet, monkeypatch):
    slabs = [mos2(z) for z in np.linspace(1.3, 1.8, 9)]
    whole = chgnet.evaluate(slabs)
    monkeypatch.setattr(chgnet, "atoms_at_once", 7)
    parts = chgnet.evaluate(slabs)
    assert len(batches(slabs, 7)) == 5
    assert np.abs(whole.energies - parts.energies).max() < 1e-5 and len(parts.forces) == 9

def test_effort_counts_atoms_and_in_chgnet_crowds(chgnet):
    sheet = Slab(np.eye(2)*3.2, np.zeros((1, 2)), np.zeros(1), np.array([42]))
    before = chgnet.effort
    chgnet.evaluate([sheet]*3)
    alone = chgnet.effort - before
    assert alone >= 3
    crowded = Slab(np.eye(2)*2., np.zeros((1, 2)), np.zeros(1), np.array([42])) # twelve neighbours within 3 Å
    before = chgnet.effort
    chgnet.evaluate([crowded]*3)
    assert chgnet.effort - before > alone

def test_no_slabs(chgnet):
    energies, forces = chgnet.evaluate([])
    assert len(energies) == 0 and forces == []

def test_lost_slabs_do_not_spoil_the_others(chgnet):
    wide = np.diag([9., 9.])
    alone = Slab(wide, np.array([[0, 0], [.5, .5], [.5, .5]]), np.array([0, 0, 1.9]), np.array([42, 16, 16]))
    nobody = Slab(wide, np.zeros((1, 2)), np.zeros(1), np.array([6]))
    together = Slab(mos2().cell, np.array([[0, 0], [0, 0], [1/3, 2/3]]), np.array([0, 0, 1.5]), np.array([42, 16, 16]))
    energies, forces = chgnet.evaluate([alone, mos2(), nobody, together, mos2(1.3)])
    assert np.isposinf(energies[[0, 2, 3]]).all() and np.isfinite(energies[[1, 4]]).all()
    assert not any(forces[k].any() for k in (0, 2, 3)) and forces[4].any()
    assert np.isposinf(chgnet.evaluate([nobody]).energies[0])

def test_neighbours_are_those_of_ase():
    from ase.neighborlist import neighbor_list
    rng = np.random.default_rng(7)
    for cutoff in (3., 6.):
        slab = random_slab(rng)
        cell, positions = embed(slab)
        i, d = neighbor_list("id", Atoms(numbers=slab.numbers, positions=positions, cell=cell, pbc=True), cutoff)
        first, second, vectors = neighbours(slab, cutoff)
        assert 2*len(first) == len(i)
        assert np.allclose(np.sort(np.tile(np.linalg.norm(vectors, axis=1), 2)), np.sort(d))
        assert (np.bincount(np.r_[first, second], minlength=len(slab.z)) == np.bincount(i, minlength=len(slab.z))).all()
        away = (slab.frac[second] - slab.frac[first])@slab.cell - vectors[:, :2]
        assert np.abs(away@np.linalg.inv(slab.cell) - np.round(away@np.linalg.inv(slab.cell))).max() < 1e-9

def test_joined_are_all_pairs():
    rng = np.random.default_rng(8)
    left, right = rng.integers(0, 6, 30), rng.integers(0, 9, 20)
    found = set(zip(*map(np.ndarray.tolist, joined(left, right))))
    assert found == {(i, j) for i in range(30) for j in range(20) if left[i] == right[j]}
    assert all(len(x) == 0 for x in joined(np.zeros(0, int), np.zeros(0, int)))

def test_embedding_keeps_the_rows():
    slab = random_slab(np.random.default_rng(9))
    slab = slab._replace(cell=slab.cell[::-1])
    cell, positions = embed(slab)
    assert (cell[:2, :2] == slab.cell).all() and np.isclose(cell[2, 2], np.ptp(slab.z) + VACUUM)
    assert np.allclose(positions[:, :2], slab.frac@slab.cell)
    assert np.isclose(positions[:, 2].min(), VACUUM/2)

@pytest.mark.parametrize("numbers, named", [([42, 84], "Po"), ([88, 84, 6], "Po, Ra"), ([118], "Og"), ([0], "0"), ([200], "200")])
def test_unknown_elements(chgnet, numbers, named):
    with pytest.raises(PotentialError, match=f"does not know {named}:"): chgnet.check(numbers)
    slab = random_slab(np.random.default_rng(0), len(numbers))._replace(numbers=np.array(numbers))
    with pytest.raises(PotentialError, match="chgnet"): chgnet.evaluate([mos2(), slab])

def test_known_elements(chgnet):
    chgnet.check(np.array(ELEMENTS))
    assert len(chgnet.elements) == 89

@pytest.mark.parametrize("what", ["wishful thinking", "CHGNET", "", None, 3, EMT])
def test_unknown_names(what):
    with pytest.raises(PotentialError, match="use one of chgnet"): load_potential(what)
    assert issubclass(PotentialError, MicroscopyGPTError)

def test_loaded_once(chgnet):
    assert load_potential("chgnet") is chgnet and load_potential(chgnet) is chgnet
    assert set(POTENTIALS) == {"chgnet", "sevennet", "alignn"}

@pytest.mark.parametrize("name, package", [("sevennet", "sevenn"), ("chgnet", "chgnet")])
def test_not_installed(name, package, monkeypatch):
    def missing(): raise ModuleNotFoundError(f"No module named '{package}'", name=package)
    monkeypatch.setitem(POTENTIALS, name, missing)
    monkeypatch.setattr(potentials, "_loaded", {})
    with pytest.raises(PotentialError, match=f"pip install {package}"): load_potential(name)

def test_alignn_says_what_it_needs(monkeypatch, tmp_path):
    monkeypatch.setattr(potentials, "_loaded", {})
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(PotentialError, match="pip install alignn"): load_potential("alignn")
    (tmp_path/"ff").mkdir()
    class Spec: submodule_search_locations = [str(tmp_path)]
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: Spec)
    monkeypatch.delenv("MICROSCOPYGPT_ALIGNN", raising=False)
    with pytest.raises(PotentialError, match="MICROSCOPYGPT_ALIGNN"): load_potential("alignn")
    for name in ("best_model.pt", "config.json"): (tmp_path/"ff"/name).write_text("{}")
    assert alignn_files()[0] == tmp_path/"ff"/"best_model.pt"
    monkeypatch.setenv("MICROSCOPYGPT_ALIGNN", str(tmp_path))
    with pytest.raises(PotentialError, match=str(tmp_path)): load_potential("alignn")

class Broken(Calculator):
    implemented_properties = ["energy", "forces"]
    def __init__(self, energy=-3., force=0., error=None):
        super().__init__()
        self.energy, self.force, self.error, self.calls = energy, force, error, 0
    def calculate(self, atoms, properties, system_changes):
        super().calculate(atoms, properties, system_changes)
        self.calls += 1
        if self.error: raise self.error
        self.results = dict(energy=self.energy, forces=np.full((len(atoms), 3), self.force))

@pytest.mark.parametrize("broken", [dict(energy=np.nan), dict(energy=-np.inf), dict(force=np.nan), dict(force=np.inf)])
def test_diverged(broken):
    with pytest.raises(PotentialError, match="Broken has no finite energy or forces for slab 0 of 2"): load_potential(Broken(**broken)).evaluate([mos2(), mos2()])

def test_the_slab_that_diverged_is_named():
    class Second(Potential):
        name = "second"
        def compute(self, slabs, forces): return [-1., np.nan, -1.][:len(slabs)], [np.zeros((3, 3))]*len(slabs)
    with pytest.raises(PotentialError, match="slab 1 of 3"): Second().evaluate([mos2()]*3)
    assert (Second().evaluate([mos2()]).energies == -1).all()

@pytest.mark.parametrize("error", [NotImplementedError("No potential for S"), KeyError("S"), RuntimeError(), ZeroDivisionError("division by zero")])
def test_a_calculators_own_words(error):
    with pytest.raises(PotentialError, match="Broken cannot evaluate MoS2") as e: load_potential(Broken(error=error)).evaluate([mos2()])
    assert str(error).strip("'") in str(e.value)

def test_a_calculator_without_forces():
    class Energies(Broken): implemented_properties = ["energy"]
    assert load_potential(Energies(energy=-6.)).evaluate([mos2()], forces=False).energies == [-2.]
    with pytest.raises(PotentialError, match="Energies cannot evaluate"): load_potential(Energies()).evaluate([mos2()])

def test_calculators_are_as_in_ase():
    slab = Slab(np.array([[2.55, 0], [-1.275, 2.21]]), np.array([[.1, 0], [.4, .7]]), np.array([-1., 1.1]), np.array([29, 79]))
    cell, positions = embed(slab)
    atoms = Atoms(numbers=slab.numbers, positions=positions, cell=cell, pbc=True, calculator=EMT())
    energies, forces = load_potential(EMT()).evaluate([slab])
    assert np.isclose(energies[0], atoms.get_potential_energy()/2) and np.allclose(forces[0], atoms.get_forces())
    with pytest.raises(PotentialError, match="S"): load_potential(EMT()).evaluate([mos2()])

def test_chgnet_is_quiet_and_leaves_threads_alone(chgnet, capfd):
    import torch
    threads = torch.get_num_threads()
    potentials.CHGNetPotential().evaluate([mos2()])
    assert capfd.readouterr() == ("", "") and torch.get_num_threads() == threads
    with pytest.raises(ZeroDivisionError):
        with potentials.small_graphs(): 1/0
    assert torch.get_num_threads() == threads

def test_nearest_bonds_are_those_of_alignn():
    slab = random_slab(np.random.default_rng(11), 4)
    bonds = bonds_of([slab], 12.)
    received = nearest_bonds(bonds)
    assert np.bincount(received.start).tolist() == np.bincount(received.end).tolist()
    mine = 0
    for atom in range(4):
        i = np.r_[np.flatnonzero(bonds.first == atom), np.flatnonzero(bonds.second == atom)]
        length = np.sort(np.linalg.norm(bonds.vectors[i], axis=1))
        shell = length[length <= length[11] + 1e-6] # an atom's own images come in pairs
        received_lengths, times = np.linalg.norm(received.vectors[received.start == atom], axis=1), received.times[received.start == atom]
        assert np.allclose(np.sort(received_lengths)[:len(shell)], shell) and len(shell) in (12, 13)
        assert (times[received_lengths > length[11] + 1e-6] == 1).all() and set(times) <= {1, 2}
        mine += len(shell)
    assert received.times.sum() == 2*mine

def written_out(potential, slab):
    "ALIGNN-FF's energy (eV/atom) with its package's layers on the whole graph, bonds doubled, nothing merged."
    import torch
    received = nearest_bonds(bonds_of([slab], 12.))
    start, end, vectors = (torch.as_tensor(np.repeat(x, received.times, 0)) for x in (received.start, received.end, received.vectors.astype(np.float32)))
    before, after = map(torch.as_tensor, joined(end.numpy(), start.numpy()))
    length, net = vectors.norm(dim=1), potential.net
    cosine = -(vectors[before]*vectors[after]).sum(1)/(length[before]*length[after])
    x, y, z = net.atom_embedding(torch.as_tensor(potential.atom_features(slab.numbers))), net.edge_embedding(length), net.angle_embedding(cosine)
    for layer in net.alignn_layers: x, y, z = layer.forward_tensors(start, end, len(x), before, after, len(y), x, y, z)
    for layer in net.gcn_layers: x, y = layer.forward_tensors(start, end, len(x), x, y)
    return float(net.fc(x.mean(0)))

def alignn():
    try: return load_potential("alignn")
    except PotentialError as e: pytest.skip(str(e))

def check_a_potential(potential):
    "Forces are slopes, a batch is its members, lost slabs are lost."
    slab, step = random_slab(np.random.default_rng(12), 3, closest=2.), .01
    up, down = (slab._replace(z=slab.z + np.array([s, 0, 0])*step) for s in (1, -1))
    energies, forces = potential.evaluate([slab, up, mos2(), down])
    slope = -3*(energies[1] - energies[3])/(2*step)
    assert abs(slope - forces[0][0, 2]) < .02*np.abs(forces[0]).max() + .02
    assert np.isclose(potential.evaluate([mos2()]).energies[0], energies[2], atol=1e-5)
    with pytest.raises(PotentialError, match="Po"): potential.check([84])

@needs_sevennet
def test_sevennet():
    from sevenn.calculator import SevenNetCalculator
    ours, slabs = load_potential("sevennet"), [mos2(), random_slab(np.random.default_rng(13), 4)]
    check_a_potential(ours)
    theirs = CalculatorPotential(SevenNetCalculator("7net-0", device="cpu")).evaluate(slabs)
    mine = ours.evaluate(slabs)
    assert np.abs(theirs.energies - mine.energies).max() < ENERGY
    assert max(np.abs(a - b).max() for a, b in zip(theirs.forces, mine.forces)) < FORCE

def test_alignn():
    ours = alignn()
    check_a_potential(ours)
    for slab in (mos2(), random_slab(np.random.default_rng(14), 4, closest=1.8)):
        assert abs(ours.evaluate([slab], forces=False).energies[0] - written_out(ours, slab)) < ENERGY
