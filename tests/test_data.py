"The split leaks nothing, files come back as they went, and a dataset survives interruption to the last byte."
import hashlib, json, os, warnings, zipfile
from pathlib import Path

import numpy as np
import pytest
from datasets import Dataset
from jarvis.core.atoms import Atoms

from microscopygpt import core, data, dataset
from microscopygpt.crystal import CrystalError, Slab, cell_from_lengths, from_slab
from microscopygpt.compare import compare
from microscopygpt.structure_files import write_crystal
from microscopygpt.data import (SOURCES, DataError, entry_id, find_structure, have_database, load_crystals,
                                load_entries, load_file, load_folder, read_crystals, save_crystals, split_crystals,
                                split_of, to_crystal)
from microscopygpt.propose import local_crystals
from microscopygpt.dataset import ChatDataset, DatasetFolder, build_dataset, example
from microscopygpt.cli import main

databases = pytest.mark.skipif(not all(map(have_database, SOURCES)), reason="JARVIS-DFT 2D and C2DB are not on this machine: set MICROSCOPYGPT_DATA to their folder")


def mx2(metal, other, a=3.2):
    return from_slab(Slab(cell_from_lengths(a, a, 120), np.array([[0, 0], [1/3, 2/3], [1/3, 2/3]]), np.array([0, 1.6, -1.6]), np.array([metal, other, other])))


@pytest.fixture(scope="module")
def crystals():
    "Twenty of one family, enough for all sides of the split"
    return [to_crystal(mx2(m, x), f"{m}-{x}", "family") for m in (22, 23, 40, 41, 42, 72, 73, 74, 46, 78) for x in (16, 34)]


def files(folder): return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


# ---- the split

@pytest.mark.parametrize("formula, reduced", [("MoS2", "MoS2"), ("S2Mo", "MoS2"), ("Mo4S8", "MoS2"), ("MoS₂", "MoS2"), ("BN", "BN"), ("InSe", "InSe"), ("In2Se2", "InSe"), ("C", "C"), ("CrI3", "CrI3")])
def test_split_is_the_hash_of_the_reduced_formula(formula, reduced):
    tenth = int(hashlib.sha256(reduced.encode()).hexdigest(), 16) % 10
    assert split_of(formula) == ("test" if tenth == 0 else "validation" if tenth == 1 else "train")


def test_paper_split_is_a_fixed_random_tenth(crystals):
    sides = split_crystals(crystals, "paper")
    assert {s: len(c) for s, c in sides.items()} == {"train": 18, "test": 2}
    assert [c.id for c in sides["test"]] == [c.id for c in split_crystals(crystals, "paper")["test"]]
    with pytest.raises(DataError, match="lucky"): split_crystals(crystals, "lucky")


@databases
def test_no_formula_on_two_sides_of_the_databases():
    sides = {}
    for source in SOURCES:
        for entry in load_entries(source):
            counts = sorted((e, entry["atoms"]["elements"].count(e)) for e in set(entry["atoms"]["elements"]))
            divisor = np.gcd.reduce([n for _, n in counts])
            sides.setdefault(tuple((e, n//divisor) for e, n in counts), set()).add(split_of("".join(f"{e}{n}" for e, n in counts)))
    assert all(len(s) == 1 for s in sides.values())
    share = np.mean([s == {"train"} for s in sides.values()])
    assert len(sides) > 2500 and .77 < share < .83


@databases
def test_crystals_of_a_database_are_its_entries():
    entries = {e["jid"]: e for e in load_entries("dft_2d_2021")}
    some = [c for c in load_crystals("dft_2d_2021", subset="test", max_atoms=3)]
    assert len(some) > 10 and all(c.split == "test" and len(c.slab.z) <= 3 for c in some)
    from jarvis.core.atoms import Atoms
    for c in some[:8]: assert compare(Atoms.from_dict(entries[c.id]["atoms"]), c.atoms).tight


# ---- files

def test_prepared_crystals_round_trip(crystals, tmp_path):
    back = read_crystals(save_crystals(crystals, tmp_path/"a"/"crystals.npz"))
    assert [(c.id, c.source, c.formula) for c in back] == [(c.id, c.source, c.formula) for c in crystals]
    assert all(np.array_equal(x, y) for c, d in zip(crystals, back) for x, y in zip(c.slab, d.slab))
    assert [c.id for c in read_crystals(tmp_path/"a"/"crystals.npz", "test")] == [c.id for c in crystals if c.split == "test"]
    assert [p.name for p in (tmp_path/"a").iterdir()] == ["crystals.npz"]


def test_damaged_crystals_are_named(crystals, tmp_path):
    file = save_crystals(crystals, tmp_path/"crystals.npz"); whole = file.read_bytes()
    middle = bytearray(whole); middle[150:200] = bytes(50)
    pickled = tmp_path/"objects.npz"; np.savez(pickled, id=np.array([{}], dtype=object))
    for content in (b"", whole[:100], whole[:-40], b"not an archive", bytes(middle), pickled.read_bytes()):
        file.write_bytes(content)
        with pytest.raises(DataError, match="crystals.npz"): read_crystals(file)
    with pytest.raises(DataError, match="no such file"): read_crystals(tmp_path/"none.npz")


def test_damaged_database_is_named(tmp_path, monkeypatch):
    monkeypatch.setenv("MICROSCOPYGPT_DATA", str(tmp_path))
    (tmp_path/"c2db_atoms.json.zip").write_bytes(b"PK cut short")
    with pytest.raises(DataError, match="c2db_atoms.json.zip is damaged"): load_entries("c2db")


def test_a_fresh_machine_prepares_its_databases_once(tmp_path, monkeypatch, crystals):
    data = tmp_path/"data"
    data.mkdir()
    monkeypatch.setenv("MICROSCOPYGPT_DATA", str(data))
    monkeypatch.setenv("HOME", str(tmp_path))
    with zipfile.ZipFile(data/"c2db_atoms.json.zip", "w") as z: z.writestr("c2db_atoms.json", json.dumps(listed(crystals)))
    local_crystals.cache_clear()
    try:
        first = local_crystals()
        assert [c.id for c in first] == [c.id for c in crystals]
        assert local_crystals() is first # in memory
        kept, = (tmp_path/".cache"/"microscopygpt").glob("crystals-*.npz")
        local_crystals.cache_clear()
        monkeypatch.setattr("microscopygpt.propose.load_crystals", None) # the file is enough
        again = local_crystals()
        assert [c.id for c in again] == [c.id for c in first]
        kept.unlink()
        kept.parent.rmdir()
        kept.parent.write_text("in the way")
        local_crystals.cache_clear()
        monkeypatch.setattr("microscopygpt.propose.load_crystals", lambda *args, **named: first)
        with pytest.warns(UserWarning, match="cannot be written"): assert local_crystals() is first
    finally: local_crystals.cache_clear()


def test_folder_of_ones_own(tmp_path):
    for name in ("a.cif", "POSCAR-b", "c.vasp", "d.extxyz"): write_crystal(mx2(42, 16), tmp_path/name)
    (tmp_path/"notes.txt").write_text("no structure"); (tmp_path/"POSCAR-folder").mkdir()
    read = load_folder(tmp_path)
    assert [c.id for c in read] == ["POSCAR-b", "a.cif", "c.vasp", "d.extxyz"]
    assert all(compare(mx2(42, 16), c.atoms).tight and c.source == tmp_path.name for c in read)
    assert [c.id for c in load_crystals(tmp_path)] == [c.id for c in read]


def test_folder_with_many_structures_in_a_file(tmp_path):
    from ase.io import write
    write(tmp_path/"all.extxyz", [mx2(42, 16).ase_converter(), mx2(74, 34).ase_converter()])
    write(tmp_path/"mine.db", [mx2(42, 34).ase_converter()])
    assert [(c.id, c.formula) for c in load_folder(tmp_path)] == [("all.extxyz#0", "MoS2"), ("all.extxyz#1", "WSe2"), ("mine.db", "MoSe2")]


def test_id_prop_chooses_and_misses_nothing(tmp_path):
    for name in ("a.cif", "b.cif"): write_crystal(mx2(42, 16), tmp_path/name)
    table = tmp_path/"id_prop.csv"
    table.write_text("b.cif,1.0\n"); assert [c.id for c in load_folder(tmp_path)] == ["b.cif"]
    table.write_text("id,target\na.cif,1.0\n"); assert [c.id for c in load_folder(tmp_path)] == ["a.cif"]
    table.write_text("a.cif,1.0\ngone.cif,2.0\n")
    with pytest.raises(DataError, match="1 of 2 .*gone.cif"): load_folder(tmp_path)
    with pytest.warns(UserWarning, match="gone.cif"): assert len(load_folder(tmp_path, skip_bad=True)) == 1


def test_bad_folders_are_named(tmp_path):
    with pytest.raises(DataError, match="no such folder"): load_folder(tmp_path/"none")
    with pytest.raises(DataError, match="holds no structures"): load_folder(tmp_path)
    (tmp_path/"z.xyz").write_text("1\nno cell\nC 0 0 0\n")
    with pytest.raises(DataError, match="z.xyz holds no crystal.*no cell"): load_folder(tmp_path)
    with pytest.raises(DataError, match="z.xyz"), warnings.catch_warnings(): load_folder(tmp_path, skip_bad=True)


# ---- micrographs

# ---- a file of entries

UNSEEN = Path(os.environ.get("MICROSCOPYGPT_DATA") or ".")/"unseen.json.zip"

def listed(crystals, **more): return [dict(id=c.id, formula=c.formula, atoms=c.atoms.to_dict()) | {k: v[i] for k, v in more.items() if v[i]} for i, c in enumerate(crystals)]

def as_file(path, what):
    if path.suffix == ".json": path.write_text(what if isinstance(what, str) else json.dumps(what))
    else:
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as z: z.writestr("entries.json", what if isinstance(what, str) else json.dumps(what))
    return path


@pytest.mark.parametrize("name", ["own.json", "own.json.zip"])
def test_a_file_of_entries(crystals, tmp_path, name):
    file = as_file(tmp_path/name, listed(crystals))
    got = load_crystals([str(file)])
    assert [(c.id, c.source, c.formula) for c in got] == [(c.id, name, c.formula) for c in crystals]
    for a, b in zip(got, crystals): assert compare(a.atoms, b.atoms).rmsd < 1e-3
    for side in ("train", "validation", "test"):
        want = [c.id for c in crystals if split_of(c.formula) == side]
        if want: assert [c.id for c in load_crystals(file, side)] == want


def test_entries_may_name_their_subset(crystals, tmp_path):
    "Where they do not, their formula decides."
    named = ["test", "validation", "special", ""]*5
    file = as_file(tmp_path/"own.json", listed(crystals, subset=named))
    sides = [n or split_of(c.formula) for n, c in zip(named, crystals)]
    for side in set(sides): assert [c.id for c in load_file(file, side)] == [c.id for c, s in zip(crystals, sides) if s == side]
    assert len(load_file(file)) == 20
    with pytest.raises(DataError, match="'elsewhere'.*special"): load_file(file, "elsewhere")


def test_jid_comes_before_id(crystals, tmp_path):
    assert [c.id for c in load_file(as_file(tmp_path/"own.json", [dict(e, jid=f"J-{e['id']}") for e in listed(crystals)]))] == [f"J-{c.id}" for c in crystals]


ATOMS = mx2(42, 16).to_dict()
BAD_ENTRIES = {"not JSON": ("not JSON at all", "no JSON"), "cut short": (json.dumps([dict(id="a", atoms=ATOMS)])[:200], "no JSON"), "deep": ("["*100_000, "no JSON"), "no list": ({"id": "a"}, "no entries"),
               "empty": ("[]", "no entries"), "nothing": ("", "no JSON"), "no dictionary": ([3], "Entry 0 .*no atoms"), "no atoms": ([dict(id="a", atoms=ATOMS), dict(id="b")], "Entry 1 .*no atoms"),
               "atoms as text": ([dict(id="a", atoms="MoS2")], "no atoms"), "no identifier": ([dict(atoms=ATOMS)], "no identifier"), "twice": ([dict(id="a", atoms=ATOMS)]*2, "two entries called 'a'"),
               "leads out": ([dict(id="../a", atoms=ATOMS)], "cannot name a file"), "absolute": ([dict(id="/tmp/a", atoms=ATOMS)], "cannot name a file"),
               "half a structure": ([dict(id="a", atoms={k: v for k, v in ATOMS.items() if k != "coords"})], "a of .* is no structure"),
               "unknown element": ([dict(id="a", atoms=ATOMS | dict(elements=["Mo", "S", "Xx"]))], "Xx"), "ragged": ([dict(id="a", atoms=ATOMS | dict(coords=[[0, 0, 0], [1, 1]]))], "a of "),
               "bulk": ([dict(id="a", atoms=ATOMS | dict(lattice_mat=[[3.2, 0, 0], [-1.6, 2.77, 0], [0, 0, 6.]]))], "vacuum")}

@pytest.mark.parametrize("name", ["own.json", "own.json.zip"])
@pytest.mark.parametrize("case", BAD_ENTRIES)
def test_bad_files_of_entries_are_named(tmp_path, case, name):
    what, says = BAD_ENTRIES[case]
    with pytest.raises(DataError, match=says): load_crystals(as_file(tmp_path/name, what))


def test_bad_zips_are_named(tmp_path):
    whole = as_file(tmp_path/"whole.json.zip", [dict(id="a", atoms=ATOMS)])
    for n in (0, 10, 100, len(whole.read_bytes())//2, len(whole.read_bytes()) - 1):
        (tmp_path/"cut.zip").write_bytes(whole.read_bytes()[:n])
        with pytest.raises(DataError, match="damaged"): load_file(tmp_path/"cut.zip")
    flipped = bytearray(whole.read_bytes())
    flipped[60] ^= 255
    (tmp_path/"flipped.zip").write_bytes(flipped)
    with pytest.raises(DataError, match="damaged|JSON"): load_file(tmp_path/"flipped.zip")
    with zipfile.ZipFile(whole, "a") as z: z.writestr("more.json", "[]")
    with pytest.raises(DataError, match="holds 2 files"): load_file(whole)
    with zipfile.ZipFile(tmp_path/"none.zip", "w"): pass
    with pytest.raises(DataError, match="holds 0 files"): load_file(tmp_path/"none.zip")
    with pytest.raises(DataError, match="cannot be read.*check the path"): load_file(tmp_path/"missing.json")


@pytest.mark.parametrize("name", ["bomb.json", "bomb.json.zip"])
def test_a_file_that_unpacks_to_too_much_is_refused(tmp_path, monkeypatch, name):
    monkeypatch.setattr(data, "LARGEST_FILE", 10_000)
    file = as_file(tmp_path/name, "[" + " "*10_000_000 + "]")
    unpacked = data._unpacked(file)
    assert len(unpacked) == 10_001
    with pytest.raises(DataError, match="larger than"): load_file(file)


def test_a_file_makes_a_dataset_and_is_drawn_from(crystals, tmp_path):
    from microscopygpt.evaluation import draw
    file = as_file(tmp_path/"own.json", listed(crystals, subset=["test"]*3 + ["validation"]*17))
    assert sorted(c.id for c in draw([str(file)], "test")) == sorted(c.id for c in crystals[:3])
    made = build_dataset(str(file), tmp_path/"made", noise="none", n=3)
    assert sum(made.counts.values()) == 3 and made.recipe["sources"] == ["own.json"]


def test_evaluate_takes_a_file(crystals, tmp_path, capsys):
    file = as_file(tmp_path/"own.json.zip", listed(crystals[:3], subset=["test", "validation", "test"]))
    assert main(["evaluate", "--source", str(file), "--subset", "test", "--model", "compact", "--k", "1", "--out", str(tmp_path/"out")]) == 0
    assert sorted(p.stem for p in (tmp_path/"out"/"truth").glob("*.cif")) == sorted([crystals[0].id, crystals[2].id])
    assert main(["evaluate", "--source", str(file), "--subset", "train", "--out", str(tmp_path/"other")]) == 2
    assert "'train'" in capsys.readouterr().err


@pytest.mark.skipif(not UNSEEN.is_file(), reason="the crystals of unseen chemistry are not on this machine")
def test_unseen_chemistry_divides_itself():
    assert len(load_crystals(UNSEEN, "test")) == 112
    assert len(load_crystals(UNSEEN, "validation")) == 117


def test_an_example_depends_on_the_crystal_alone(crystals):
    alone, among = ChatDataset(crystals[3:4])[0], ChatDataset(crystals)[3]
    assert alone["image"] == among["image"] and alone["image"].size == (256, 256) and alone["image"].mode == "L"
    assert example(crystals[3], seed=1)["image"] != alone["image"] != example(crystals[3], epoch=1)["image"]
    assert "hexagonal" in example(crystals[3], bravais=True)["prompt"] and alone["space_group"] == 187


def test_fresh_examples_every_epoch(crystals):
    still, fresh = ChatDataset(crystals), ChatDataset(crystals, fresh=True)
    first = still[0]["image"]
    for d in (still, fresh): d.set_epoch(2)
    assert still[0]["image"] == first != fresh[0]["image"]


# ---- the dataset on disk

@pytest.fixture(scope="module")
def whole(crystals, tmp_path_factory): return build_dataset(crystals, tmp_path_factory.mktemp("whole")/"d", seed=3)


def test_dataset_holds_the_examples(crystals, whole):
    loaded = whole.load()
    assert {s: len(d) for s, d in loaded.items()} == whole.counts and sum(whole.counts.values()) == len(crystals)
    for side, rows in loaded.items():
        assert [r["id"] for r in rows] == [c.id for c in whole.crystals(side)] == [c.id for c in crystals if c.split == side]
    row, made = loaded["train"][1], example(whole.crystals("train")[1], seed=3)
    assert np.array_equal(row["image"], made["image"])
    assert all(row[k] == made[k] for k in made if k != "image")
    assert not (whole.path/"unfinished").exists() and "20 simulated" in (whole.path/"README.md").read_text()


class Killed(BaseException): "Stands for the end of the process."


@pytest.mark.parametrize("alive", [0, 1, 7, 12, 19])
def test_interrupted_dataset_ends_the_same(crystals, whole, tmp_path, monkeypatch, alive):
    calls, real = [], dataset.example
    def dies(*args, **how):
        calls.append(1)
        if len(calls) > alive + 1: raise Killed # the first call checks the options
        return real(*args, **how)
    monkeypatch.setattr(dataset, "_shard_rows", 4); monkeypatch.setattr(dataset, "example", dies)
    with pytest.raises(Killed): build_dataset(crystals, tmp_path/"d", seed=3)
    with pytest.raises(DataError, match="unfinished"): DatasetFolder(tmp_path/"d")
    done = sorted((tmp_path/"d"/"unfinished").glob("*.arrow"))
    if done: done[0].write_bytes(done[0].read_bytes()[:500]) # a power cut left half a shard
    kept = sum(len(Dataset.from_file(str(f))) for f in done[1:])
    calls.clear(); monkeypatch.setattr(dataset, "example", lambda *args, **how: calls.append(1) or real(*args, **how))
    build_dataset(crystals, tmp_path/"d", seed=3)
    assert len(calls) == 1 + 20 - kept
    assert files(tmp_path/"d") == files(whole.path)


def test_interrupted_at_the_end(crystals, whole, tmp_path, monkeypatch):
    real, left = core.os.replace, [0]
    for stop in range(1, 9):
        def dies(a, b):
            left[0] -= 1
            if left[0] < 0: raise Killed
            real(a, b)
        left[0] = stop; monkeypatch.setattr(core.os, "replace", dies)
        try: build_dataset(crystals, tmp_path/"d", seed=3)
        except Killed: pass
    monkeypatch.setattr(core.os, "replace", real)
    build_dataset(crystals, tmp_path/"d", seed=3)
    assert files(tmp_path/"d") == files(whole.path)


def test_a_finished_dataset_is_not_made_again(crystals, whole, monkeypatch):
    before = files(whole.path)
    monkeypatch.setattr(dataset, "_make", lambda *a: pytest.fail("made again"))
    assert build_dataset(crystals, whole.path, seed=3).counts == whole.counts and files(whole.path) == before


@pytest.mark.parametrize("change", [dict(seed=4), dict(noise="hard"), dict(split="paper"), dict(bravais=True), dict(n=5)], ids=lambda c: next(iter(c)))
def test_another_dataset_is_not_overwritten(crystals, whole, change):
    before = files(whole.path)
    with pytest.raises(DataError, match="holds another dataset"): build_dataset(crystals, whole.path, **{"seed": 3, **change})
    assert files(whole.path) == before


def test_what_cannot_be_made_is_named(crystals, tmp_path):
    (tmp_path/"file").write_text("")
    for args, says in [((crystals, tmp_path/"file"/"d"), "Cannot write"), ((crystals, tmp_path), "not empty"), (("c3db", tmp_path/"d"), "Unknown source 'c3db'"), (([], tmp_path/"d"), "no crystals"), ((crystals[:2]*2, tmp_path/"d"), "same source")]:
        with pytest.raises(DataError, match=says): build_dataset(*args)
    with pytest.raises(DataError, match="lucky"): build_dataset(crystals, tmp_path/"d", split="lucky")


def test_command_line(tmp_path, capsys):
    own = tmp_path/"own"; own.mkdir()
    for m in (42, 74): write_crystal(mx2(m, 16), own/f"{m}.cif")
    assert main(["dataset", "--source", str(own), "--out", str(tmp_path/"d"), "--split", "paper", "--noise", "hard", "--bravais"]) == 0
    assert "2 train" in capsys.readouterr().out
    recipe = json.loads((tmp_path/"d"/"recipe.json").read_text())
    assert (recipe["noise"], recipe["split"], recipe["bravais"], recipe["sources"]) == ("hard", "paper", True, ["own"])
    assert main(["dataset", "--source", "c3db", "--out", str(tmp_path/"e")]) == 2
    assert "Unknown source 'c3db'" in capsys.readouterr().err


def test_find_structure(tmp_path):
    graphene = Atoms(lattice_mat=[[2.464, 0, 0], [-1.232, 2.1339, 0], [0, 0, 15]], coords=[[0, 0, .5], [1/3, 2/3, .5]], elements=["C", "C"], cartesian=False)
    write_crystal(graphene, tmp_path/"graphene.cif")
    assert find_structure(tmp_path/"graphene.cif").num_atoms == find_structure(str(tmp_path/"graphene.cif")).num_atoms == 2
    with pytest.raises(CrystalError, match="no such file"): find_structure(tmp_path/"other.cif")
    with pytest.raises(DataError, match="identifier"): find_structure("graphene")
    for source in filter(have_database, ("dft_2d_2021", "c2db")):
        entry = load_entries(source)[7]
        assert find_structure(entry_id(entry)).to_dict() == Atoms.from_dict(entry["atoms"]).to_dict()
