"The manifest is sound, its images come out again, a wrong crystal or image is named, and a killed run ends with the same bytes."
import csv, json, re
from dataclasses import asdict
from importlib.resources import files

import numpy as np
import pytest
from hypothesis import given, strategies as st
from jarvis.core.atoms import Atoms

from microscopygpt import benchmark
from microscopygpt.benchmark import (IMAGE_TOLERANCE, LEVELS, BenchmarkError, benchmark_crystals, describe,
                                     find_crystals, fingerprint, make_benchmark, manifest, pair_sums, same_image,
                                     same_structure, write_benchmark)
from microscopygpt.crystal import Slab, cell_from_lengths, from_slab, to_slab
from microscopygpt.compare import compare
from microscopygpt.structure_files import read_crystal
from microscopygpt.data import SOURCES, have_database, load_entries, split_of, to_crystal
from microscopygpt.evaluation import draw_micrograph
from microscopygpt.observe import observe
from microscopygpt.micrograph import read_micrograph
from microscopygpt.noise import NOISE

databases = pytest.mark.skipif(not all(map(have_database, SOURCES)), reason="JARVIS-DFT 2D and C2DB are not on this machine: set MICROSCOPYGPT_DATA to their folder")
PER_SOURCE = 3


def mx2(metal, other, a=3.2, h=1.6, phase="2H"):
    bottom = [1/3, 2/3] if phase == "2H" else [2/3, 1/3]
    return from_slab(Slab(cell_from_lengths(a, a, 120), np.array([[0, 0], [1/3, 2/3], bottom]), np.array([0, h, -h]), np.array([metal, other, other])))


def cut(atoms, decimals): return Atoms(lattice_mat=np.round(atoms.lattice_mat, decimals), coords=np.round(atoms.frac_coords, decimals), elements=atoms.elements, cartesian=False)


@pytest.fixture(scope="module")
def structures(): return {"MoS2": mx2(42, 16), "WTe2": mx2(74, 52, 3.55, 1.8)}


@pytest.fixture(scope="module")
def crystals(structures): return [to_crystal(atoms, name, "by hand") for name, atoms in structures.items()]


@pytest.fixture(scope="module")
def wanted(crystals): return [describe(c) for c in crystals]


def contents(folder): return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


# ---- fingerprints

def test_a_fingerprint_is_the_means_of_blocks():
    image = np.kron(np.arange(16).reshape(4, 4)/15, np.ones((64, 64)))
    assert fingerprint(image) == "".join(f"{round(65535*i/15):04x}" for i in range(16))


@pytest.mark.parametrize("level", LEVELS)
def test_rounding_passes_and_other_pictures_do_not(crystals, wanted, level):
    for c, entry in zip(crystals, wanted):
        image = draw_micrograph(c, level).data
        assert same_image(fingerprint(np.round(65535*image)/65535), entry[level])
        assert same_image(fingerprint(image + np.random.default_rng(0).normal(0, 1e-4, image.shape)), entry[level])
        assert same_image(fingerprint(draw_micrograph(to_crystal(cut(c.atoms, 6), c.id), level).data), entry[level])
        assert not same_image(fingerprint(draw_micrograph(c, level, seed=1).data), entry[level])
        assert not any(same_image(entry[other], entry[level]) for other in LEVELS if other != level)
        assert not same_image(fingerprint(np.rot90(image)), entry[level])
    assert not same_image(wanted[0][level], wanted[1][level])


def test_the_tolerance_is_the_largest_difference_of_a_block():
    image = np.full((256, 256), .5)
    brighter = image.copy(); brighter[:64, :64] += .9*IMAGE_TOLERANCE
    assert same_image(fingerprint(image), fingerprint(brighter))
    brighter[:64, :64] += .2*IMAGE_TOLERANCE
    assert not same_image(fingerprint(image), fingerprint(brighter))


@given(st.integers(0, 2**31), st.integers(1, 6))
def test_pair_sums_do_not_depend_on_the_description(seed, n):
    rng = np.random.default_rng(seed)
    slab = Slab(cell_from_lengths(*rng.uniform(2.5, 6, 2), rng.uniform(90, 119)), rng.random((n, 2)), rng.uniform(-2, 2, n), rng.integers(1, 84, n))
    order, turn = rng.permutation(n), rng.uniform(0, 6)
    other = Slab(slab.cell@[[np.cos(turn), np.sin(turn)], [-np.sin(turn), np.cos(turn)]], (slab.frac[order] + rng.random(2)) % 1, 1 - slab.z[order], slab.numbers[order])
    assert np.allclose(pair_sums(slab), pair_sums(other), rtol=1e-4)
    assert np.allclose(pair_sums(slab), pair_sums(to_slab(from_slab(slab).make_supercell_matrix([2, 1, 1]))), rtol=1e-4)


@pytest.mark.parametrize("other", [mx2(42, 16, phase="1T"), mx2(42, 16, 3.21), mx2(42, 16, h=1.62), mx2(74, 16), mx2(42, 34), mx2(16, 42)])
def test_pair_sums_tell_crystals_apart(other):
    assert not same_structure(pair_sums(to_slab(mx2(42, 16))), pair_sums(to_slab(other)))


# ---- the manifest

def test_manifest_is_well_formed():
    m = manifest()
    assert (m["version"], m["recipe"]) == (1, {level: asdict(NOISE[level]) for level in LEVELS})
    crystals = m["crystals"]
    assert len({e["id"] for e in crystals}) == len(crystals) > 400
    assert {e["source"] for e in crystals} == set(SOURCES)
    assert all(set(e) == {"id", "source", "formula", "structure", *LEVELS} for e in crystals)
    assert all(re.fullmatch("[0-9a-f]{64}", e[level]) for e in crystals for level in LEVELS)
    assert all(len(e["structure"]) == 4 and min(e["structure"]) > 0 for e in crystals)
    assert all(re.fullmatch(r"[\w-]+", e["id"]) for e in crystals)


def test_every_formula_is_on_the_test_side():
    assert {split_of(f) for f in {e["formula"] for e in manifest()["crystals"]}} == {"test"}


def test_pictures_are_distinct():
    prints = [e[level] for e in manifest()["crystals"] for level in LEVELS]
    assert len(set(prints)) == len(prints)


def test_manifest_is_installed_with_the_package():
    assert files("microscopygpt").joinpath("benchmark.json").is_file()


# ---- on disk

def test_what_is_written(tmp_path, wanted, crystals, structures):
    out = write_benchmark(tmp_path/"b", wanted, crystals)
    rows = list(csv.DictReader((out/"questions.csv").open(encoding="utf-8")))
    assert len(rows) == len(LEVELS)*len(crystals) and set(rows[0]) == {"id", "formula", "pixel_size", "level", "image"}
    for row in rows:
        picture = read_micrograph(out/row["image"], float(row["pixel_size"]))
        assert picture.shape == (256, 256) and picture.data.max() == 65535
    assert json.loads((out/"truth"/"about.json").read_text()) == {c.id: dict(source="by hand", formula=c.formula) for c in crystals}
    assert all(compare(atoms, read_crystal(out/"truth"/f"{name}.cif")).tight for name, atoms in structures.items())
    assert "rank_1.cif" in (out/"README.md").read_text(encoding="utf-8")


def test_an_interrupted_run_ends_with_the_same_bytes(tmp_path, wanted, crystals, monkeypatch):
    out = write_benchmark(tmp_path/"b", wanted, crystals)
    before = contents(out)
    names = list(before)
    for name in names[::2]: (out/name).unlink()
    for name in names[1::2]: (out/name).write_bytes(before[name][:len(before[name])//2])
    (out/"images"/"low"/".MoS2_0.png").write_bytes(b"cut short")
    write_benchmark(out, wanted, crystals)
    assert contents(out) == before
    monkeypatch.setattr(benchmark, "draw_micrograph", lambda *_: pytest.fail("an image that is right was drawn again"))
    write_benchmark(out, wanted, crystals)
    assert contents(out) == before


def test_a_killed_run_goes_on(tmp_path, wanted, crystals, monkeypatch):
    whole, out, drawn = write_benchmark(tmp_path/"whole", wanted, crystals), tmp_path/"b", []
    def dies(crystal, level):
        if len(drawn) == 2: raise KeyboardInterrupt
        drawn.append(level)
        return draw_micrograph(crystal, level)
    with monkeypatch.context() as m, pytest.raises(KeyboardInterrupt):
        m.setattr(benchmark, "draw_micrograph", dies)
        write_benchmark(out, wanted, crystals)
    assert len(list(out.rglob("*.png"))) == 2
    assert contents(write_benchmark(out, wanted, crystals)) == contents(whole)


def test_a_wrong_picture_is_named_and_not_written(tmp_path, wanted, crystals):
    swapped = [wanted[0] | dict(mid=wanted[1]["mid"]), wanted[1]]
    with pytest.raises(BenchmarkError, match=r"1 of 4 micrographs.*MoS2 at mid"): write_benchmark(tmp_path/"b", swapped, crystals, ["low", "mid"])
    assert sorted(p.name for p in (tmp_path/"b").rglob("*.png")) == ["MoS2_0.png", "WTe2_0.png", "WTe2_0.png"]


def test_another_benchmarks_folder_is_refused(tmp_path, wanted, crystals):
    out = write_benchmark(tmp_path/"b", wanted, crystals, "low")
    with pytest.raises(BenchmarkError, match="WTe2"): write_benchmark(out, wanted[:1], crystals[:1], "low")


@pytest.mark.parametrize("how, says", [(dict(levels=("low", "middle")), "'middle'.*low, mid, high"), (dict(levels=()), "No level"), (dict(n=0), "at least one"), (dict(sources="oqmd"), "'oqmd'")])
def test_bad_requests(tmp_path, wanted, crystals, how, says):
    make = (lambda **kw: write_benchmark(tmp_path/"b", wanted, crystals, **kw)) if "levels" in how else (lambda **kw: make_benchmark(tmp_path/"b", **kw))
    with pytest.raises(BenchmarkError, match=says): make(**how)
    assert not list(tmp_path.rglob("*.png"))


# ---- crystals that are missing or others

@pytest.mark.parametrize("other", [mx2(42, 16, phase="1T"), mx2(42, 16, 3.25), mx2(74, 16), cut(mx2(42, 16), 1)])
def test_a_tampered_structure_is_named(wanted, structures, other):
    with pytest.raises(BenchmarkError, match=r"2 crystals from db\.zip: different 1 \(MoS2\)"): find_crystals(wanted, structures | {"MoS2": other}, "db.zip")


def test_a_structure_without_meaning_is_named(wanted, structures):
    broken = Atoms(lattice_mat=np.eye(3), coords=[[np.nan]*3]*3, elements=["Mo", "S", "S"], cartesian=False)
    with pytest.raises(BenchmarkError, match="different 1"): find_crystals(wanted, structures | {"MoS2": broken})


def test_missing_structures_are_counted_and_the_first_named(crystals):
    with pytest.raises(BenchmarkError, match=r"missing 5 \(a, b, c \.\.\.\)"): find_crystals([dict(id=i) for i in "abcde"], {})


@databases
def test_a_tampered_database_is_named(monkeypatch):
    ids = [[e["id"] for e in manifest()["crystals"] if e["source"] == "dft_2d_2021"][i] for i in (0, 2)]
    entries = [json.loads(json.dumps(e)) for e in load_entries("dft_2d_2021") if e["jid"] != ids[1]]
    next(e for e in entries if e["jid"] == ids[0])["atoms"]["coords"][0][2] += .01
    monkeypatch.setattr(benchmark, "load_entries", lambda source: entries)
    with pytest.raises(BenchmarkError, match=rf"missing 1 \({ids[1]}\), different 1 \({ids[0]}\)"): benchmark_crystals("dft_2d_2021", n=PER_SOURCE)


# ---- with the databases

@pytest.fixture(scope="module")
def drawn(tmp_path_factory):
    return make_benchmark(tmp_path_factory.mktemp("benchmark")/"b", n=PER_SOURCE)


@databases
def test_pictures_come_out_as_the_manifest_says(drawn):
    for source in SOURCES:
        for e in [e for e in manifest()["crystals"] if e["source"] == source][:PER_SOURCE]:
            for level in LEVELS: assert same_image(fingerprint(read_micrograph(drawn/"images"/level/f"{e['id']}_0.png").data/65535), e[level])
    assert len(list(drawn.rglob("*.png"))) == 2*PER_SOURCE*len(LEVELS)


@databases
def test_all_crystals_are_there():
    assert [c.id for c in benchmark_crystals()] == [e["id"] for e in manifest()["crystals"]]


@databases
def test_lattices_can_be_measured_at_high(drawn):
    for c in benchmark_crystals(n=PER_SOURCE):
        lattice = observe(read_micrograph(drawn/"images"/"high"/f"{c.id}_0.png", .1)).lattice
        areas = abs(np.linalg.det(c.slab.cell)/np.linalg.det(lattice.cell))
        assert min(abs(areas - round(areas))/areas if areas > .9 else 1, abs(1/areas - round(1/areas))*areas) < .04
