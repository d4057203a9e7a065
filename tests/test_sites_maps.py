"What is made of the sites of a frame: strain, grains, counts, pictures, structures, files."
import csv, io, json
from collections import Counter
from types import SimpleNamespace
import numpy as np, pytest
from ase.calculators.lj import LennardJones
from ase.io import read as read_ase
from hypothesis import given, settings, strategies as st
from pymatgen.core import Structure
from microscopygpt.build import grain_boundary, substitute, supercell, vacancies
from microscopygpt.crystal import Slab, cell_from_lengths, from_slab, monolayer, to_slab
from microscopygpt.micrograph import Micrograph
from microscopygpt.noise import Noise, add_noise
from microscopygpt.plotting import png_bytes
from microscopygpt.prediction import own_files
from microscopygpt.site_counts import CountError, area_of, composition, densities, doubtful, local_share, poisson_interval
from microscopygpt.site_files import (ADATOM_HEIGHT, HEADER, RECORD, CutError, cut_supercell, frame_atoms, relaxed, sites_facts,
                                      sites_table, stacked, write_sites)
from microscopygpt.site_maps import (MARKS, around_columns, plot_calls, plot_composition, plot_displacements, plot_grains, plot_ratios,
                                     plot_strain)
from microscopygpt.frame_columns import columns_of
from microscopygpt.sites import CALLS, sites
from microscopygpt.stem import orientation, simulate
from microscopygpt.strain import (StrainError, average_lattice, boundary_lines, grain_angles, grain_relation, strain_and_rotation,
                                  strain_map, stretch_from)

MOS2 = monolayer("MoS2")
P = .1 # Å/px

# ---- sites whose truth is known, made without an image

def turned(angle):
    "Row vectors times this turn from x towards y."
    a = np.radians(angle)
    return np.array([[np.cos(a), np.sin(a)], [-np.sin(a), np.cos(a)]])

def of_grain(slab, fov, start, inside, first, grain):
    "Columns of a grain where `inside` says so: place, column, cell."
    n = int(np.ceil(2*max(fov)/np.linalg.norm(slab.cell, axis=1).min()))
    cells = np.stack(np.meshgrid(*[np.arange(-n, n)]*2, indexing="ij"), -1).reshape(-1, 2)
    own = columns_of(slab)
    xy = np.concatenate([(cells + c.frac)@slab.cell + start for c in own])
    column, cell = np.repeat(np.arange(len(own)) + first, len(cells)), np.tile(cells, (len(own), 1))
    keep = (xy > 0).all(1) & (xy < np.array(fov) - P).all(1) & inside(xy)
    return xy[keep], column[keep], cell[keep], np.full(keep.sum(), grain), own

def made(slabs, fov=(50., 50.), start=(.7, .3), inside=None, field=None, error=.03, seed=0):
    "A stand-in for `Sites`: grains of these slabs, displaced by `field`, positions with errors."
    rng, parts, columns = np.random.default_rng(seed), [], []
    for k, slab in enumerate(slabs):
        within = inside[k] if inside else lambda xy: np.ones(len(xy), bool)
        *part, own = of_grain(slab, fov, np.array(start), within, len(columns), k)
        parts.append(part)
        columns += own
    xy, column, cell, grain = (np.concatenate(p) for p in zip(*parts))
    n = len(xy)
    where = xy + (field(xy) if field else 0) + error*rng.normal(size=(n, 2))
    shape = tuple(round(side/P) for side in fov[::-1])
    image = Micrograph(rng.random(shape).astype(np.float32), P, "made")
    held = [tuple(sorted(columns[k].numbers, reverse=True)) for k in column]
    ones = np.ones(n)
    return Made(micrograph=image, atoms=MOS2, grains=[SimpleNamespace(cell=s.cell, slab=s) for s in slabs], columns=columns,
                xy=where, xy_error=error*np.ones((n, 2)), expected_xy=xy, column=column, grain=grain, cell_index=cell, intensity=ones,
                intensity_error=.03*ones, ratio=ones + .02*rng.normal(size=n), ratio_error=.02*ones, z=rng.normal(size=n),
                call=np.full(n, "expected", object), detail=np.full(n, "", object), probability=ones, occupants=held, power=1.7,
                power_error=.02, profile=None, elements=(), density=.01, false_discoveries=.05, notes=[])

class Made(SimpleNamespace):
    def __len__(self): return len(self.xy)
    @property
    def expected(self): return np.array(["" if k < 0 else self.columns[k].label for k in self.column])
    def becomes(self, i, call, detail, atoms):
        self.call[i], self.detail[i], self.occupants[i] = call, detail, atoms

def slab(angle=0., F=np.eye(2), twin=False):
    "MoS2, turned; strained by F; its twin."
    s = to_slab(MOS2)
    return s._replace(cell=s.cell@F@turned(angle), frac=-s.frac % 1 if twin else s.frac)

def with_adatom(found, xy, z):
    "The same, and an atom between the columns."
    n = len(found)
    for name, value in dict(xy=[xy], xy_error=[[.05, .05]], expected_xy=[xy], column=[-1], grain=[0], cell_index=[[0, 0]], intensity=[1.],
                            intensity_error=[.1], ratio=[1.], ratio_error=[.1], z=[9.], call=["adatom"], detail=["as Z = 42, nearest Mo"],
                            probability=[.99]).items():
        setattr(found, name, np.concatenate([getattr(found, name), np.array(value, getattr(found, name).dtype)]))
    found.occupants = [*found.occupants, (z,)]
    return n

# ---- strain

@settings(max_examples=25, deadline=None)
@given(st.floats(-180, 180), st.floats(-.04, .04), st.floats(-.04, .04), st.floats(-.03, .03))
def test_even_strain_against_a_reference(angle, exx, eyy, exy):
    "Whatever the direction, the strain in the frame's axes comes back within its errors."
    P_ = np.array([[1 + exx, exy], [exy, 1 + eyy]])
    s = to_slab(MOS2)
    found = made([s._replace(cell=s.cell@turned(angle)@P_)], fov=(30., 30.))
    strained = strain_map(found, reference=MOS2)
    assert np.allclose(strained.values[:, :3].mean(0), [exx, eyy, exy], atol=1.5e-3)
    assert np.abs(strained.values[:, 3]).max() < .6

@settings(max_examples=50, deadline=None)
@given(st.floats(-179, 179), st.floats(-.2, .2), st.floats(-.2, .2), st.floats(-.1, .1))
def test_polar_decomposition(angle, exx, eyy, exy):
    F = np.array([[1 + exx, exy], [exy, 1 + eyy]])@turned(angle)
    assert np.allclose(strain_and_rotation(F), [exx, eyy, exy, angle], atol=1e-9)

def test_a_reference_seen_from_below():
    cell = to_slab(MOS2).cell
    assert np.allclose(stretch_from(cell, 1.02*(cell*[1, -1])@turned(33)), 1.02*np.eye(2), atol=1e-9)

def wave(xy): return np.c_[.01*np.sin(xy[:, 0]/12), .01*np.sin(xy[:, 0]/12)]*12

def wave_truth(found, window=4.):
    "Gradients of `wave` seen through the window: exx, eyy, exy, rotation, less the mean."
    c = .01*np.cos(found.expected_xy[:, 0]/12)*np.exp(-.5*(window/12)**2)
    true = np.c_[c, 0*c, c/2, np.degrees(c)/2]
    return true - true.mean(0)

@pytest.mark.parametrize("error", [.01, .04])
def test_errors_of_strain_are_what_they_say(error):
    "The scatter about the truth is the standard error; away from the borders, where the field's curvature is seen one-sided."
    found = made([slab(11)], fov=(90., 90.), field=wave, error=error)
    strained = strain_map(found)
    middle = ((found.xy > 12) & (found.xy < 78)).all(1)
    pull = ((strained.values - wave_truth(found))/strained.errors)[middle]
    assert ((.7 < pull.std(0)) & (pull.std(0) < 1.6)).all(), pull.std(0)

def test_errors_are_scaled_by_what_columns_scatter():
    "Positions that are worse than `sites` believes make errors of strain larger."
    found = made([slab()], error=.03)
    good = np.nanmedian(strain_map(found).errors, 0)
    found.xy_error = found.xy_error/3
    assert np.allclose(np.nanmedian(strain_map(found).errors, 0), good, rtol=.1)
    assert np.allclose(np.nanmedian(strain_map(found).displacement_error), .03, rtol=.2)

def test_defects_do_not_pull():
    "A tenth of the columns far off, called or not, changes strain by less than its errors."
    found = made([slab(5)], error=.02)
    before = strain_map(found)
    rng = np.random.default_rng(1)
    hit = rng.choice(len(found), len(found)//10, replace=False)
    found.xy[hit] += rng.normal(size=(len(hit), 2))*.4
    found.call[hit[::2]] = "vacancy"
    after = strain_map(found)
    rest = np.setdiff1d(np.arange(len(found)), hit)
    assert np.abs((after.values - before.values)[rest]/after.errors[rest]).mean() < .7
    assert np.isnan(after.displacement[hit[::2]]).all()

def test_an_offset_of_a_sublattice_is_no_strain():
    found = made([slab()], error=.001)
    found.xy[found.column == 1] += [.05, -.03]
    assert np.abs(strain_map(found).values[:, :3]).max() < 1e-3

def test_too_few_columns():
    found = made([slab()], fov=(5., 5.))
    with pytest.raises(StrainError, match="too few"): strain_map(found)
    with pytest.raises(StrainError, match="window"): strain_map(made([slab()], fov=(20., 20.)), window=-1)

# ---- grains

@settings(max_examples=20, deadline=None)
@given(st.floats(-400, 400), st.floats(0, 360), st.booleans())
def test_angle_between_grains(angle, first, twin):
    "Equivalent rotations are taken out: 60° for the lattice, 120° for the crystal."
    half = [lambda xy: xy[:, 0] < 24, lambda xy: xy[:, 0] > 26]
    found = made([slab(first), slab(first + angle, twin=twin)], inside=half, error=.02)
    relation = grain_relation(found, 0, 1)
    crystal = angle + 60*twin
    def apart(a, b, period): return abs((a - b + period/2) % period - period/2)
    assert relation.lattice_period == pytest.approx(60) and relation.period == pytest.approx(120)
    assert apart(relation.lattice_angle, angle, 60) < .1 and abs(relation.lattice_angle) < 30.1
    assert apart(relation.angle, crystal, 120) < .1 and abs(relation.angle) < 60.1
    directions = grain_angles(found)
    assert apart(directions[1] - directions[0], crystal, 120) < .1

def test_a_twin_is_called_one():
    half = [lambda xy: xy[:, 0] < 24, lambda xy: xy[:, 0] > 26]
    assert grain_relation(made([slab(), slab(twin=True)], inside=half), 0, 1).is_twin
    assert not grain_relation(made([slab(), slab()], inside=half), 0, 1).is_twin
    assert not grain_relation(made([slab(), slab(9)], inside=half), 0, 1).is_twin

@settings(max_examples=15, deadline=None)
@given(st.floats(0, 360), st.floats(-8, 8), st.floats(5, 55))
def test_the_line_between_grains(direction, off, angle):
    "Nowhere farther than a cell from the line that was drawn, and as long as the frame is wide."
    normal = np.array([np.cos(np.radians(direction)), np.sin(np.radians(direction))])
    def side(xy): return (xy - 25)@normal - off
    found = made([slab(), slab(angle)], inside=[lambda xy: side(xy) < 0, lambda xy: side(xy) >= 0])
    lines = boundary_lines(found, 0, 1)
    assert np.abs(side(lines[0])).max() < 3.18
    assert np.linalg.norm(lines[0][0] - lines[0][-1]) > 40

def test_no_line_where_grains_do_not_meet():
    apart = [lambda xy: xy[:, 0] < 15, lambda xy: xy[:, 0] > 35]
    assert boundary_lines(made([slab(), slab(20)], inside=apart), 0, 1) == []

# ---- counts

@given(st.integers(0, 400), st.floats(.6, .99))
def test_poisson_interval(count, confidence):
    low, high = poisson_interval(count, confidence)
    assert 0 <= low <= count < high and (low == 0) == (count == 0)

def test_intervals_cover():
    "Of 400 counts from one mean, about as many intervals hold it as were promised."
    counts = np.random.default_rng(0).poisson(7.3, 400)
    held = np.mean([low <= 7.3 <= high for low, high in map(poisson_interval, counts)])
    assert held >= .94

def test_area_is_that_of_the_cells():
    found = made([slab()], fov=(60., 40.))
    assert area_of(found) == pytest.approx(24., rel=.06)
    half = made([slab(), slab(20)], fov=(60., 40.), inside=[lambda xy: xy[:, 0] < 20, lambda xy: xy[:, 0] > 50])
    assert area_of(half) == pytest.approx(12., rel=.08)

def test_counts_and_composition():
    found = made([slab()])
    metal, chalcogen = (np.flatnonzero(found.expected == label) for label in ("Mo", "S2"))
    for i in metal[:5]: found.becomes(i, "vacancy", "column empty", ())
    for i in metal[5:12]: found.becomes(i, "substitution", "W for Mo", (74,))
    for i in chalcogen[:4]: found.becomes(i, "partial", "one S of S2 missing", (16,))
    for i in chalcogen[4:10]: found.becomes(i, "substitution", "Se for S (one of 2)", (34, 16))
    rows = {(d.call, d.detail): d for d in densities(found)}
    assert rows["vacancy", ""].count == 5 and rows["partial", ""].count == 4 and rows["substitution", ""].count == 13
    assert rows["substitution", "W for Mo"].count == 7 and rows["adatom", ""].count == 0 and rows["adatom", ""].high > 0
    assert all(d.low <= d.density <= d.high for d in rows.values())
    shares = {(s.sublattice, s.element): s for s in composition(found)}
    assert shares["Mo", "W"].count == 7 and shares["Mo", ""].count == 5 and shares["S2", ""].count == 4 and shares["S2", "Se"].count == 6
    assert shares["S2", "S"].places == 2*len(chalcogen) and sum(s.count for s in shares.values()) == len(metal) + 2*len(chalcogen)
    assert doubtful(found) == 0

def test_local_share():
    "Se on one side only; the mean over all is the composition."
    found = made([slab()], fov=(80., 80.))
    right = np.flatnonzero((found.expected == "S2") & (found.xy[:, 0] > 40))
    for i in right: found.becomes(i, "substitution", "Se for all 2", (34, 34))
    where, share, error = local_share(found, "S2", "Se")
    x = found.xy[where, 0]
    assert (share[x < 15] < .01).all() and (share[x > 65] > .99).all() and (error > 0).all()
    with pytest.raises(CountError, match="Te"): local_share(found, "Te", "Se")

# ---- pictures

def test_every_call_has_a_mark_of_its_own():
    assert set(MARKS) == set(CALLS) - {"expected"}
    assert len({m.color for m in MARKS.values()}) == len({m.marker for m in MARKS.values()}) == len(MARKS)

def test_pictures_of_every_kind_of_frame():
    half = [lambda xy: xy[:, 0] < 18, lambda xy: xy[:, 0] > 20]
    plain, grains = made([slab()], fov=(30., 40.)), made([slab(), slab(22)], fov=(40., 30.), inside=half)
    with_adatom(plain, (11., 12.), 42)
    for call in MARKS: plain.call[list(MARKS).index(call)] = call
    for found in (plain, grains):
        for draw in (plot_calls, plot_strain, plot_displacements, plot_ratios, plot_grains):
            assert png_bytes(draw(found), 40).startswith(b"\x89PNG")
        assert png_bytes(plot_composition(found, "S2", "S"), 40).startswith(b"\x89PNG")

def test_bare_places_stay_bare():
    found = made([slab()], inside=[lambda xy: xy[:, 0] < 25])
    drawn = around_columns(found, np.ones(len(found)))
    assert np.isnan(drawn[:, -100:]).all() and np.isfinite(drawn[:, 40:160]).all()

# ---- structures

@given(st.sampled_from(columns_of(to_slab(MOS2))), st.lists(st.sampled_from([8, 16, 34, 42, 74]), max_size=4))
def test_stacked_atoms(column, atoms):
    "Every atom that stands there gets a height of its own."
    placed = stacked(column, tuple(sorted(atoms, reverse=True)))
    assert sorted(n for n, _ in placed) == sorted(atoms) and len({z for _, z in placed}) == len(atoms)
    if len(atoms) <= len(column.z): assert {z for _, z in placed} <= set(column.z)

def test_the_upper_one_is_left_out_and_replaced():
    chalcogen = next(c for c in columns_of(to_slab(MOS2)) if len(c.numbers) == 2)
    assert stacked(chalcogen, (16,)) == [(16, min(chalcogen.z))]
    assert dict(stacked(chalcogen, (34, 16))) == {16: min(chalcogen.z), 34: max(chalcogen.z)}

def test_atoms_of_a_frame():
    found = made([slab()])
    found.becomes(0, "vacancy", "column empty", ())
    n = with_adatom(found, (20., 21.), 42)
    atoms = frame_atoms(found)
    assert len(atoms) == sum(map(len, found.occupants)) and not atoms.pbc.any()
    assert atoms[atoms.arrays["site"] == n].symbols.get_chemical_formula() == "Mo" and 0 not in atoms.arrays["site"]
    sheet = atoms[atoms.arrays["site"] != n].positions[:, 2]
    assert atoms.positions[atoms.arrays["site"] == n, 2] == pytest.approx(sheet.max() + ADATOM_HEIGHT)
    assert (atoms.get_scaled_positions(wrap=False) > 0).all() and (atoms.get_scaled_positions(wrap=False) < 1).all()

def places(atoms, rotation):
    "Where the atoms of a sheet and of its images lie, turned, (n, images, 2) Å."
    turn = orientation(rotation, False, 1)[0]
    images = np.stack(np.meshgrid(*[np.arange(-3, 4)]*2), -1).reshape(-1, 2)@np.array(atoms.lattice_mat)[:2, :2]
    return (np.array(atoms.cart_coords)[:, None, :2] + images)@turn

def clear_shift(atoms, rotation, size):
    "A shift for which no atom lies near the border of the frame, where it would be in or out by chance."
    where, side = places(atoms, rotation), (size - 1)*P
    def clearance(shift):
        xy = where + shift
        near = xy[((xy > -1) & (xy < side + 1)).all(-1)]
        return np.abs(np.stack([near, near - side])).min()
    return max(np.random.default_rng(0).uniform(0, 5, (150, 2)), key=clearance)

def truth_in(atoms, rotation, shift, size):
    "How many atoms of each element a simulated frame holds."
    xy = places(atoms, rotation) + shift
    inside = ((xy >= 0) & (xy <= (size - 1)*P)).all(-1).sum(1)
    return {e: int(inside[np.array(atoms.elements) == e].sum()) for e in set(atoms.elements)}

@pytest.fixture(scope="module")
def imaged():
    "A frame with defects, its sites, and how many atoms of each element it shows."
    sheet = substitute(vacancies(vacancies(supercell(MOS2, 50), .3, "S", seed=1), .3, "Mo", seed=2), "S", "Se", .02, seed=3)
    shift = clear_shift(sheet, 8, 320)
    image = add_noise(simulate(sheet, P, 320, rotation=8, shift=tuple(shift)), Noise(blur=.05, dose=3000.), P, seed=1)
    return sites(Micrograph(image, P, "defects.tif"), MOS2, elements="Se"), truth_in(sheet, 8, shift, 320)

def counted(symbols): return dict(Counter(symbols))

def test_structures_hold_what_the_frame_shows(imaged, tmp_path):
    "Read back by ASE, pymatgen and the library's own reader, both files have the atoms of the truth."
    from microscopygpt.structure_files import read_crystal
    found, truth = imaged
    out = write_sites(found, tmp_path)
    for name in ("view.extxyz", "view.cif"): assert counted(read_ase(out/name).get_chemical_symbols()) == truth
    assert counted(str(s.specie) for s in Structure.from_file(out/"view.cif")) == truth
    assert counted(read_crystal(out/"view.cif").elements) == truth
    back = read_ase(out/"view.extxyz")
    assert set(back.arrays["call"]) <= set(CALLS) and back.arrays["probability"].max() <= 1
    assert np.allclose(back.positions[:, :2] - 5, found.xy[back.arrays["site"]], atol=1e-5)

def test_the_table(imaged):
    found, _ = imaged
    rows = list(csv.DictReader(io.StringIO(sites_table(found))))
    assert sites_table(found).split("\n")[0] == "x_px,y_px,expected,call,detail,ratio,z,probability" == ",".join(HEADER)
    assert len(rows) == len(found) and [r["call"] for r in rows] == list(found.call)
    assert np.allclose([[float(r["x_px"]), float(r["y_px"])] for r in rows], found.xy/P, atol=1e-3)

def test_what_is_not_known_stays_empty():
    found = made([slab()], fov=(20., 20.))
    found.probability[3] = np.nan
    assert list(csv.DictReader(io.StringIO(sites_table(found))))[3]["probability"] == ""
    assert sites_facts(found)["sites"]["probability"][3] is None

def test_json_holds_every_site(imaged, tmp_path):
    found, _ = imaged
    facts = json.loads((write_sites(found, tmp_path)/RECORD).read_text(encoding="utf-8"))
    assert {len(v) for v in facts["sites"].values()} == {len(found)}
    assert facts["area_nm2"] == pytest.approx(10.2, rel=.05) and facts["crystal"]["formula"] == "MoS2"
    assert facts["versions"]["numpy"] and "NaN" not in (tmp_path/RECORD).read_text()
    assert sum(d["count"] for d in facts["densities"] if not d["detail"]) == (found.call != "expected").sum()

def test_files_of_the_user_stay(imaged, tmp_path):
    found, _ = imaged
    (tmp_path/"notes.txt").write_text("mine")
    assert write_sites(found, tmp_path) == write_sites(found, tmp_path) == tmp_path
    assert set(own_files(tmp_path, RECORD)) == {"sites.csv", RECORD, "view.extxyz", "view.cif", "map.png", "strain.png"}
    (tmp_path/"sites.csv").write_text("edited by hand")
    assert write_sites(found, tmp_path) == tmp_path/"microscopygpt_1"
    assert (tmp_path/"sites.csv").read_text() == "edited by hand" and (tmp_path/"notes.txt").read_text() == "mine"

def test_no_half_files(imaged, tmp_path, monkeypatch):
    "What is interrupted leaves the old file."
    found, _ = imaged
    write_sites(found, tmp_path)
    before = (tmp_path/"view.cif").read_bytes()
    def full(self, content): raise OSError(28, "No space left on device")
    monkeypatch.setattr("pathlib.Path.write_bytes", full)
    with pytest.raises(OSError): write_sites(found, tmp_path)
    monkeypatch.undo()
    assert (tmp_path/"view.cif").read_bytes() == before

# ---- a cell around a defect

def shortest(atoms):
    "The shortest distance between two atoms, periodic."
    ase = atoms.ase_converter()
    ase.pbc = (True, True, False)
    d = ase.get_all_distances(mic=True)
    return d[~np.eye(len(d), dtype=bool)].min()

@pytest.mark.parametrize("angle, twin", [(0, False), (17, False), (40, True)])
@pytest.mark.parametrize("width", [6., 12.])
def test_cut_supercell(angle, twin, width):
    found = made([slab(angle, twin=twin)], error=.02)
    middle = np.linalg.norm(found.xy - 25, axis=1).argsort()
    site = next(i for i in middle if found.expected[i] == "Mo")
    found.becomes(site, "vacancy", "column empty", ())
    cut = cut_supercell(found, site, width)
    n = np.ceil(width/(3.18*3**.5/2))**2
    assert counted(cut.elements) == {"Mo": n - 1, "S": 2*n} and shortest(cut) == pytest.approx(shortest(MOS2), abs=.03)

def test_defects_nearby_come_along_and_others_do_not():
    found = made([slab()], fov=(80., 80.))
    order = np.linalg.norm(found.xy - 40, axis=1).argsort()
    chalcogen = [i for i in order if found.expected[i] == "S2"]
    found.becomes(chalcogen[0], "partial", "one S of 2 missing", (16,))
    found.becomes(chalcogen[1], "substitution", "Se for S (one of 2)", (34, 16))
    found.becomes(chalcogen[-1], "vacancy", "column empty", ())
    assert counted(cut_supercell(found, chalcogen[0]).elements) == {"Mo": 25, "S": 48, "Se": 1}

def test_an_adatom_stands_above():
    found = made([slab(30)])
    i = with_adatom(found, (24., 24.5), 79)
    cut = cut_supercell(found, i)
    top = to_slab(cut)
    assert cut.elements.count("Au") == 1 and shortest(cut) > .9
    assert top.z[top.numbers == 79] == pytest.approx(top.z[top.numbers != 79].max() + ADATOM_HEIGHT)

def test_wrong_cuts_are_refused():
    found = made([slab()])
    with pytest.raises(CutError, match="no site"): cut_supercell(found, len(found))
    with pytest.raises(CutError, match="width"): cut_supercell(found, 0, 1e4)

def test_relaxing_lowers_the_energy():
    from microscopygpt.potentials import load_potential
    calculator = LennardJones(sigma=2.1, epsilon=.3, rc=6.)
    square = Slab(np.diag([4.8, 4.8]), np.array([[0, 0], [.5, .04], [.03, .5], [.5, .5]]), np.zeros(4), np.full(4, 18))
    rest = relaxed(from_slab(square), calculator, steps=20)
    energies = load_potential(calculator).evaluate([square, to_slab(rest)], forces=False).energies
    assert energies[1] < energies[0] - 1e-3 and rest.num_atoms == 4

# ---- two grains in an image

@pytest.mark.parametrize("crystal, angle, dose", [("MoS2", 21.8, 2000.), ("MoS2", 60, 2000.), ("WSe2", 5, 300.)])
def test_two_grains_of_an_image(crystal, angle, dose):
    "The angle within .3°, the boundary within a cell; no grain is taken for its twin, whose lattice is the same."
    atoms = monolayer(crystal)
    side, size, turn = 102.4, 512, orientation(20., False, 1)[0]
    middle = np.array([29.6, 25.6])
    both = grain_boundary(atoms, angle, side, side)
    clean = simulate(both, P, size, rotation=20., shift=tuple(middle - np.full(2, side/2)@turn))
    found = sites(Micrograph(add_noise(clean, Noise(blur=.05, dose=dose), P, seed=3), P), atoms)
    assert len(found.grains) == 2
    relation = grain_relation(found, 0, 1)
    assert abs(abs(relation.angle) - angle) < .3
    line = max(boundary_lines(found, 0, 1), key=len)
    assert np.abs((line - middle)@turn[0]).max() < 3.18
    assert (found.call != "expected").mean() < .05 # all of them at the boundary
