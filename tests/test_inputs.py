"Inputs of kinds that people report as broken: each is read right, or named with what to do. All are made here."
import json
import random
import struct
import time
import warnings
from importlib.resources import files
from importlib.util import find_spec

import numpy as np
import pytest
import tifffile
from PIL import Image

from microscopygpt.batch import BatchError, Question, folder_names, predict_many, read_questions
from microscopygpt.complaints import as_options
from microscopygpt.options import pixel_size
from microscopygpt.cli import main
from microscopygpt.crystal import CrystalError, FormulaError, parse_formula, space_group, typed_formula
from microscopygpt.structure_files import CrystalWarning, read_crystal, read_structures
from microscopygpt.data import load_folder
from microscopygpt.pictures import MicrographError
from microscopygpt.micrograph import read_micrograph
from microscopygpt.prediction import own_files

h5 = pytest.mark.skipif(not find_spec("h5py"), reason="the extra io is not installed")
GRAY = tifffile.imread(files("microscopygpt")/"examples/demo.tif").astype("f4")
GRAY = (GRAY - GRAY.min())/np.ptp(GRAY)
BYTES = np.round(255*GRAY).astype("u1")
H, W = GRAY.shape


# structures

SITES = ("Mo1 Mo 0.333333 0.666667 0.5", "S1 S 0.666667 0.333333 0.578", "S2 S 0.666667 0.333333 0.422")

def cif(folder, *sites, symmetry="_symmetry_space_group_name_H-M 'P 1'", lengths=(3.16, 3.16, 20), angles=(90, 90, 120), more="", name="a.cif"):
    cell = "".join(f"_cell_length_{n} {x}\n_cell_angle_{m} {y}\n" for n, m, x, y in zip("abc", ("alpha", "beta", "gamma"), lengths, angles))
    columns = ["label", "type_symbol", "fract_x", "fract_y", "fract_z"] + ["occupancy"]*(len(sites[0].split()) > 5)
    (folder/name).write_text(f"data_x\n{cell}{symmetry}\n{more}\nloop_\n" + "".join(f"_atom_site_{c}\n" for c in columns) + "\n".join(sites) + "\n")
    return folder/name

def read(path):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", CrystalWarning)
        atoms = read_crystal(path)
    return atoms, [str(w.message) for w in caught if issubclass(w.category, CrystalWarning)]

def poscar(folder, species="Mo S\n", comment="x", name="POSCAR"):
    (folder/name).write_text(f"{comment}\n1.0\n3.16 0 0\n-1.58 2.73664 0\n0 0 20\n{species}1 2\nDirect\n.3333 .6667 .5\n.6667 .3333 .578\n.6667 .3333 .422\n")
    return folder/name


@pytest.mark.parametrize("sites, words", [
    ((SITES[0] + " 0.6", "W1 W 0.333333 0.666667 0.5 0.4", SITES[1] + " 1"), ("shared by Mo (0.6) and W (0.4)", "alloy")),
    ((SITES[0] + " 1", SITES[1] + " 1", SITES[2] + " 1", "Li1 Li 0 0 0.66 0.1"), ("Li1", "0.1 only")),
    ((SITES[0], "W1 W 0.333333 0.666667 0.5", SITES[1]), ("shared by Mo (1) and W (1)",))])
def test_alloys_are_named(sites, words, tmp_path):
    with pytest.raises(CrystalError) as e: read_crystal(cif(tmp_path, *sites))
    for word in words: assert word in str(e.value)

def test_alloys_in_other_formats(tmp_path):
    (tmp_path/"POSCAR").write_text("x\n1\n3 0 0\n0 3 0\n0 0 20\nMo W\n1 1\nDirect\n0 0 .5\n0 0 .5\n")
    (tmp_path/"a.xyz").write_text('2\nLattice="3 0 0 0 3 0 0 0 20"\nMo 0 0 5\nW 0 0 5.1\n')
    for name in ("POSCAR", "a.xyz"):
        with pytest.raises(CrystalError, match="shared by Mo"): read_crystal(tmp_path/name)

@pytest.mark.parametrize("formula, sites", [("Mo0.5 S2 W0.5", (SITES[0] + " .5", "W1 W 0.333333 0.666667 0.5 .5", SITES[1] + " 1", SITES[2] + " 1")), ("Mo S1.94", (SITES[0] + " 1", SITES[1] + " .97", SITES[2] + " .97"))])
def test_fractional_formulas_are_quoted(formula, sites, tmp_path):
    with pytest.raises(CrystalError) as e: read_crystal(cif(tmp_path, *sites, more=f"_chemical_formula_sum '{formula}'"))
    assert formula in str(e.value)

def test_deuterium_is_hydrogen(tmp_path):
    atoms = ("C1 C 0.333333 0.666667 0.5", "D1 D 0.333333 0.666667 0.555")
    (tmp_path/"POSCAR").write_text("CD\n1.0\n2.5 0 0\n-1.25 2.165 0\n0 0 20\nC D\n1 1\nDirect\n.3333 .6667 .5\n.3333 .6667 .555\n")
    (tmp_path/"a.xyz").write_text('2\nLattice="2.5 0 0 -1.25 2.165 0 0 0 20"\nC 0 1.44 10\nT 0 1.44 11.1\n')
    for path in (cif(tmp_path, *atoms, more="_chemical_formula_sum 'C1 D1'"), tmp_path/"POSCAR", tmp_path/"a.xyz"):
        found, notes = read(path)
        assert found.composition.formula == "CH" and "hydrogen" in notes[0]

@pytest.mark.parametrize("name, lengths, sites, atoms, number", [
    *((name, (3.16, 3.16, 12.29), ("Mo1 Mo 0.3333 0.6667 0.25", "S1 S 0.3333 0.6667 0.621"), 6, 194) for name in ("P6_3/mmc", "P 63/m m c", "P6(3)/mmc", "P 6_3/m 2/m 2/c", "p63/mmc", "194")),
    *((name, (4.38, 4.38, 30.497), ("Bi1 Bi 0 0 0.4", "Te1 Te 0 0 0", "Te2 Te 0 0 0.2117"), 15, 166) for name in ("R -3 m :H", "R-3m", "R -3 m H", "R-3m:h", "R -3 2/m")),
    *(("P -6 m 2", (3.16, 3.16, 20), (f"Mo1 Mo {x} {y} 0.5", f"S1 S {y} {x} 0.578"), 3, 187) for x, y in ((".333", ".667"), (".33", ".67"), ("1/3", "2/3"), ("0.3333(2)", "0.6667(2)")))])
def test_space_groups_and_few_digits(name, lengths, sites, atoms, number, tmp_path):
    key = "_space_group_IT_number" if name.isdigit() else "_space_group_name_H-M_alt"
    found, _ = read(cif(tmp_path, *sites, symmetry=f"{key} '{name}'", lengths=lengths))
    assert found.num_atoms == atoms and space_group(found) == number

def test_an_unknown_space_group_is_named(tmp_path):
    with pytest.raises(CrystalError, match="P 7/x"): read_crystal(cif(tmp_path, *SITES, symmetry="_symmetry_space_group_name_H-M 'P 7/x'"))

def test_several_structures(tmp_path):
    one = cif(tmp_path, *SITES).read_text()
    (tmp_path/"a.cif").write_text(one + one.replace("data_x", "data_y").replace("Mo", "W"))
    frame = '2\nLattice="2.46 0 0 -1.23 2.13 0 0 0 15"\n{0} 0 0 7\n{0} 0 1.42 7\n'
    (tmp_path/"a.xyz").write_text(frame.format("C") + frame.format("B"))
    for name, formula in (("a.cif", "MoS2"), ("a.xyz", "C")):
        atoms, notes = read(tmp_path/name)
        assert atoms.composition.reduced_formula == formula and "2 structures in one file" in notes[0] and len(read_structures(tmp_path/name)) == 2

def test_poscars_of_every_version(tmp_path):
    for species in ("Mo S\n", "Mo/ S/\n", "Mo_pv S\n", "Mo_sv/8a2 S/1b3 ! x\n"): assert read(poscar(tmp_path, species))[0].composition.formula == "MoS2"
    atoms, notes = read(poscar(tmp_path, "", "Mo S"))
    assert atoms.composition.formula == "MoS2" and "first line" in notes[0]
    with pytest.raises(CrystalError, match="names no elements.*'Mo S'"): read_crystal(poscar(tmp_path, "", "monolayer, relaxed"))

def test_unknown_values_are_named(tmp_path):
    for value in ("?", "."):
        with pytest.raises(CrystalError, match=r"x of atom O1 is '[?.]', which means unknown"): read_crystal(cif(tmp_path, *SITES, f"O1 O {value} {value} {value}"))

def test_a_sheet_along_another_axis_is_turned(tmp_path):
    atoms, notes = read(cif(tmp_path, "Mo1 Mo 0.5 0.3333 0.6667", "S1 S 0.578 0.6667 0.3333", "S2 S 0.422 0.6667 0.3333", lengths=(20, 3.16, 3.16), angles=(120, 90, 90)))
    assert atoms.lattice.abc[2] == pytest.approx(20) and "axes are renamed" in notes[0]

@pytest.mark.parametrize("content", ["a.cif,1,Müller\nb.cif,2,x\n".encode("cp1252"), "a.cif,1\nb.cif,2\n".encode("utf-16"), b"material_id,target\na.cif,1\nb.cif,2\n", b"a.cif;1,5\nb.cif;2,5\n", b"target\tfile\n1\ta\n2\tb\n", "\ufeffid\na.cif\nb.cif\n".encode()])
def test_tables_of_every_spreadsheet(content, tmp_path):
    cif(tmp_path, *SITES)
    cif(tmp_path, SITES[0].replace("Mo", "W"), *SITES[1:], name="b.cif")
    (tmp_path/"id_prop.csv").write_bytes(content)
    assert [c.formula for c in load_folder(tmp_path)] == ["MoS2", "WS2"]


# formulas

@pytest.mark.parametrize("text, want", [("2H-MoS2", "MoS2"), ("1T-MoS2", "MoS2"), ("1T'-ReS2", "ReS2"), ("hBN", "BN"), ("h-BN", "BN"), ("graphene", "C"), ("phosphorene", "P"), ("MoS_2", "MoS2"), ("$MoS_2$", "MoS2"),
    (r"MoS$_{2}$", "MoS2"), ("MoS2 monolayer", "MoS2"), ("bilayer MoS2", "MoS2"), ("S I O2", "SIO2")])
def test_formulas_as_people_write_them(text, want): assert typed_formula(text) == want

@pytest.mark.parametrize("text, words", [("CuSO4.5H2O", "hydrate"), ("MoS1.8", "Mo5S9"), ("Mo0.5W0.5S2", "MoWS4"), ("TIS2", "do you mean TiS2"), ("SIO2", "do you mean SiO2"), ("COO2", "do you mean CoO2"), ("MOS2", "do you mean MoS2"),
    ("mos2", "do you mean MoS2"), ("NBSE2", "NbSe2"), ("LiCOO2", "LiCoO2"), ("RfSe2", "'Rf'"), ("MoS2/WS2", "stack"), ("Ti3C2Tx", "open")])
def test_doubtful_formulas(text, words):
    with pytest.raises(FormulaError, match=words): typed_formula(text)

def test_formulas_with_two_capitals_stay(): assert [typed_formula(f) for f in ("BN", "CO", "BI3", "V2CO2", "WSI")] == ["BN", "CO", "BI3", "V2CO2", "WSI"] and parse_formula("D2O") == {"H": 2, "O": 1}


# pictures

def mrc(path, data, mode, order="<", flags=None, cell=(W*.1, H*.1, .1), label=b""):
    head = bytearray(1024)
    struct.pack_into(order + "10i", head, 0, W, H, 1, mode, 0, 0, 0, W, H, 1)
    struct.pack_into(order + "6f3i", head, 40, *cell, 90, 90, 90, 1, 2, 3)
    if flags is not None: struct.pack_into(order + "2i", head, 152, 1146047817, flags)
    head[208:216], head[224:224+len(label)] = b"MAP " + (b"DD\0\0" if order == "<" else b"\x11\x11\0\0"), label
    path.write_bytes(bytes(head) + data.astype(data.dtype.newbyteorder(order)).tobytes())
    return path

@pytest.mark.parametrize("data, options", [(BYTES, dict(mode=0, flags=0)), ((BYTES//2).astype("i1"), dict(mode=0, flags=1)), ((GRAY*6e4).astype("u2"), dict(mode=6)), (GRAY.astype("f2"), dict(mode=12)), (GRAY, dict(mode=2, order=">")), (BYTES, dict(mode=0, flags=0, order=">"))])
def test_mrc(data, options, tmp_path):
    m = read_micrograph(mrc(tmp_path/"a.mrc", data, **options))
    assert m.pixel_size == pytest.approx(.1) and np.array_equal(m.data, data[::-1].astype("f4"))
    assert np.array_equal(read_micrograph(mrc(tmp_path/"a.mrc", data, **options, label=b"Fei Company (C)")).data, data.astype("f4"))

def tiff(path, **options): tifffile.imwrite(path, GRAY, **options); return path
def tag(number, value): return (number, "d", 1, value, True) if isinstance(value, float) else (number, "s", 0, value, True)
GATAN = [tag(65003, "nm"), tag(65004, "nm"), tag(65009, .01), tag(65010, .01)]

@pytest.mark.parametrize("options", [
    *(dict(ome=True, metadata=dict(axes="YX", PhysicalSizeX=x, PhysicalSizeXUnit=u, PhysicalSizeY=x, PhysicalSizeYUnit=u)) for x, u in ((.01, "nm"), (1e-5, "µm"), (.1, "Å"), (10., "pm"))),
    dict(extratags=GATAN), dict(extratags=GATAN, resolution=(72, 72), resolutionunit="INCH"), dict(extratags=[tag(34682, "[Scan]\r\nPixelWidth=1e-11\r\nPixelHeight=1e-11\r\n")]),
    *(dict(imagej=True, resolution=(1/x, 1/x), metadata=dict(unit=u)) for x, u in ((.01, "nm"), (1e-5, "micron"), (1e-5, "\\u00B5m"), (.1, "Angstrom")))])
def test_scales_in_tiff(options, tmp_path): assert read_micrograph(tiff(tmp_path/"a.tif", **options)).pixel_size == pytest.approx(.1)

@pytest.mark.parametrize("y, shape, note", [(.01002, (256, 256), "their mean"), (.011, (281, 256), "resampled to square")])
def test_pixels_that_are_not_square(y, shape, note, tmp_path):
    m = read_micrograph(tiff(tmp_path/"a.tif", imagej=True, resolution=(100, 1/y), metadata=dict(unit="nm")))
    assert m.shape == shape and m.pixel_size == pytest.approx(.1, rel=2e-3) and note in m.warnings[0]

def test_two_pixel_sizes_by_hand():
    assert read_micrograph(GRAY, (.1, .11)).shape == (256, 281) and pixel_size("0.1,0.11") == (.1, .11)
    with pytest.raises(MicrographError, match="too far from square"): read_micrograph(GRAY, (.1, .2))

def drifting(n): return np.stack([np.roll(GRAY, (2*i, -i), (0, 1)) for i in range(n)]) + np.random.default_rng(0).normal(scale=.1, size=(n, H, W)).astype("f4")

def test_stacks_are_aligned_and_averaged(tmp_path):
    frames = drifting(5)
    tifffile.imwrite(tmp_path/"a.tif", frames, imagej=True, resolution=(100, 100), metadata=dict(unit="nm", axes="ZYX"))
    np.save(tmp_path/"a.npy", frames)
    for name in ("a.tif", "a.npy"):
        m = read_micrograph(tmp_path/name, .1)
        assert m.shape == (248, 252) and "5 frames are averaged after alignment by up to 8 px" in m.warnings[0]
        assert np.std(m.data - GRAY[:248, 4:]) < .06 and np.array_equal(read_micrograph(tmp_path/name, .1, frame=2).data, frames[2])

def test_the_data_page_is_taken(tmp_path):
    tifffile.imwrite(tmp_path/"a.tif", np.stack([BYTES]*3, -1), photometric="rgb")
    tifffile.imwrite(tmp_path/"a.tif", GRAY, append=True)
    m = read_micrograph(tmp_path/"a.tif", .1)
    assert np.array_equal(m.data, GRAY) and "page 1" in m.warnings[0]

def hdf5(path, fill):
    import h5py
    with h5py.File(path, "w") as f: fill(f)
    return path

def emd(data, dims, kind, first, root="data/x"):
    def fill(f):
        group = f.create_group(root)
        group.attrs["emd_group_type"], group["data"] = kind, data
        for i, (values, unit) in enumerate(dims, first):
            group[f"dim{i}"] = values
            group[f"dim{i}"].attrs["units"] = unit
    return fill

@h5
@pytest.mark.parametrize("fill", [emd(GRAY, [([0, .1], "A")]*2, "array", 0, "root/image"), *(emd(GRAY, [(np.arange(256)*step, unit)]*2, 1, 1) for step, unit in ((1e-11, "meters"), (1e-5, "micrometers"), (.01, "[n_m]"), (1e-5, "\u03bcm")))])
def test_emd(fill, tmp_path):
    m = read_micrograph(hdf5(tmp_path/"a.emd", fill))
    assert m.pixel_size == pytest.approx(.1) and np.array_equal(m.data, GRAY)

@h5
def test_other_hdf5(tmp_path):
    def nsid(f):
        data = f.create_dataset("Measurement_000/Channel_000/HAADF/HAADF", data=GRAY)
        for i, n in enumerate("xy"):
            axis = data.parent.create_dataset(n, data=np.arange(256)*.01)
            axis.attrs["units"] = "nm"
            axis.make_scale(n)
            data.dims[i].attach_scale(axis)
    def hyperspy(f):
        group = f.create_group("Experiments/HAADF")
        group["data"] = GRAY
        for i in (0, 1): group.create_group(f"axis-{i}").attrs.update(scale=.01, units="nm")
    def columns_first(f):
        emd(GRAY.T, [(np.arange(256)*.01, "nm")]*2, 1, 1)(f)
        for i, n in enumerate("xy", 1): f[f"data/x/dim{i}"].attrs["name"] = n
    assert np.array_equal(read_micrograph(hdf5(tmp_path/"e.emd", columns_first)).data, GRAY)
    for fill in (nsid, hyperspy): assert read_micrograph(hdf5(tmp_path/"a.hf5", fill)).pixel_size == pytest.approx(.1)
    assert np.array_equal(read_micrograph(hdf5(tmp_path/"b.h5", lambda f: f.create_dataset("image_data", data=GRAY))).data, GRAY)
    scan = emd(np.zeros((6, 6, 96, 96), "u2"), [(np.arange(n)*.01, u) for n, u in ((6, "[mrad]"), (6, "[mrad]"), (96, "[n_m]"), (96, "[n_m]"))], 1, 1)
    with pytest.raises(MicrographError, match="4D-STEM.*virtual annular detector"): read_micrograph(hdf5(tmp_path/"c.emd", scan))
    with pytest.raises(MicrographError, match="diffraction pattern"): read_micrograph(hdf5(tmp_path/"d.emd", emd(GRAY, [(np.arange(256)*.01, "1/nm")]*2, 1, 1)))

@h5
def test_what_velox_says_of_the_instrument(tmp_path):
    facts = dict(BinaryResult=dict(Detector="HAADF", PixelSize=dict(width="1e-11", height="1e-11"), PixelUnitX="m", PixelUnitY="m"), Optics=dict(AccelerationVoltage="80000", BeamConvergence="0.0315"),
                 Detectors={"Detector-1": dict(DetectorName="HAADF", CollectionAngleRange=dict(begin="0.066", end="0.2"))})
    def fill(f): f["Data/Image/0/Data"], f["Data/Image/0/Metadata"] = GRAY[..., None], np.frombuffer(json.dumps(facts).encode().ljust(2000, b"\0"), np.uint8)[:, None]
    m = read_micrograph(hdf5(tmp_path/"a.emd", fill))
    assert str(m.instrument) == "80 kV, convergence 31.5 mrad, HAADF, 66 to 200 mrad" and str(m.instrument) in repr(m)

def test_archives_and_notes_beside(tmp_path):
    np.savez(tmp_path/"a.npz", image=GRAY, pixel_size=1e-11)
    assert read_micrograph(tmp_path/"a.npz").pixel_size == pytest.approx(.1)
    np.save(tmp_path/"b.npy", GRAY)
    (tmp_path/"b.json").write_text(json.dumps(dict(details=dict(voltage="60 kV", spatial=dict(field_of_view_x=2.56, field_of_view_y=2.56, field_of_view_units="nm")))))
    m = read_micrograph(tmp_path/"b.npy")
    assert m.pixel_size == pytest.approx(.1) and m.instrument.voltage == 60 and m.warnings == ["the pixel size is taken from b.json"]

def test_compression_that_tifffile_lacks(tmp_path):
    Image.fromarray(BYTES).save(tmp_path/"a.tif", compression="zstd")
    try: assert np.array_equal(read_micrograph(tmp_path/"a.tif", .1).data, BYTES)
    except MicrographError as e: assert "ZSTD" in str(e)

def test_a_plot_is_cut_out(tmp_path):
    import matplotlib.pyplot as plt
    fig, ax = plt.subplots()
    fig.colorbar(ax.imshow(GRAY, extent=[0, 2.56, 0, 2.56], cmap="gray"))
    fig.savefig(tmp_path/"a.png")
    plt.close(fig)
    m = read_micrograph(tmp_path/"a.png")
    assert all(360 < n < 375 for n in m.shape) and "axes of a plot" in m.warnings[0] and not any("scale bar" in w for w in m.warnings)

@pytest.mark.parametrize("value", [0, 1])
def test_a_frame_is_left_out(value):
    framed = np.full((316, 306), value, "f4")
    framed[30:-30, 20:-30] = GRAY
    m = read_micrograph(framed, .1)
    assert np.array_equal(m.data, GRAY) and "uniform frame" in m.warnings[0]

def test_a_scale_bar_is_painted_over():
    drawn = BYTES.copy()
    drawn[228:236, 20:120] = drawn[210:224, 30:70] = 255
    m = read_micrograph(drawn, .1)
    assert np.array_equal(m.data, drawn) and any("scale bar" in w for w in m.warnings)
    assert (m.view().data[229:235, 21:119] < .9).all() and not any("scale bar" in w for w in read_micrograph(BYTES, .1).warnings)

def test_bright_field_is_said_and_inverted():
    m = read_micrograph(1 - GRAY, .1)
    assert any("dark spots on a bright ground" in w for w in m.warnings) and not read_micrograph(GRAY, .1).warnings
    assert np.allclose(read_micrograph(1 - GRAY, .1, invert=True).data, GRAY, atol=1e-6) and np.allclose(read_micrograph(m, invert=True).data, GRAY, atol=1e-6)


# the command line

def test_hints_are_options(tmp_path, capsys):
    tifffile.imwrite(tmp_path/"a.tif", GRAY)
    unscaled = ["predict", str(tmp_path/"a.tif"), "--formula", "MoSe2", "--propose", "columns", "--out", str(tmp_path/"out")]
    assert main([*unscaled, "--heights", "none"]) == 2
    said = capsys.readouterr().err
    assert "--heights chgnet" in said and "heights=" not in said
    assert main(unscaled) == 0
    said = capsys.readouterr().out
    assert "--pixel-size" in said and "pixel_size" not in said and "read_micrograph" not in said and "--invert" in as_options("invert it (invert=True)")

def test_home_is_expanded(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    tifffile.imwrite(tmp_path/"a.tif", GRAY)
    assert np.array_equal(read_micrograph("~/a.tif", .1).data, GRAY)

def test_files_of_others_stay(tmp_path, capsys):
    tifffile.imwrite(tmp_path/"a.tif", GRAY)
    out = tmp_path/"out"
    out.mkdir()
    for name in ("rank_reference.cif", "report.png"): (out/name).write_text("mine")
    command = ["predict", str(tmp_path/"a.tif"), "--formula", "MoSe2", "--pixel-size", ".1", "--propose", "model", "--heights", "none", "--k", "1", "--out", str(out)]
    assert main(command) == 0 and (out/"rank_reference.cif").read_text() == (out/"report.png").read_text() == "mine"
    assert (out/"microscopygpt_1"/"rank_1.cif").is_file() and str(out/"microscopygpt_1") in capsys.readouterr().out
    (out/"report.png").unlink()
    assert main(command) == 0 and main(command) == 0 and set(own_files(out)) == {"rank_1.cif", "report.png", "prediction.json"}
    (out/"rank_1.cif").write_text("edited by hand")
    assert main(command) == 0 and (out/"rank_1.cif").read_text() == "edited by hand"
    for formula, words in (("TIS2", "TiS2"), ("RfSe2", "Rf")):
        assert main([*command[:3], formula, *command[4:]]) == 2 and words in capsys.readouterr().err


# many at once

class Answer:
    "What `predict` would return, as far as a batch looks at it."
    formula, warnings, explained, candidates = "MoSe2", [], False, []
    def __init__(self, micrograph): self.micrograph = micrograph
    def write(self, out):
        out.mkdir(parents=True, exist_ok=True)
        (out/"prediction.json").write_text("{}")
        return out

def test_many_go_on_where_they_stopped(tmp_path):
    for name in ("a", "b"): tifffile.imwrite(tmp_path/f"{name}.tif", GRAY)
    (tmp_path/"table.csv").write_bytes(b"image;formula;pixel_size\na.tif;MoSe2;0,1\nlost.tif;WS2;\nb.tif;;\n")
    questions, asked = read_questions(tmp_path/"table.csv", "MoS2", .1), []
    def ask(micrograph, formula, **options):
        asked.append(formula)
        if formula == "MoS2": raise ZeroDivisionError("a bug")
        return Answer(micrograph)
    for _ in range(2): lines = predict_many(questions, tmp_path/"out", ask, k=1)
    assert [line["outcome"] for line in lines] == ["no candidate", "failed", "failed"] and asked == ["MoSe2", "MoS2", "MoS2"]
    assert "no such file" in lines[1]["message"] and "ZeroDivisionError" in lines[2]["message"]
    assert "a.tif" in (tmp_path/"out/index.html").read_text() and len((tmp_path/"out/results.csv").read_text().splitlines()) == 4
    predict_many(questions[:1], tmp_path/"out", ask, k=2)
    assert asked[-1] == "MoSe2"
    (tmp_path/"out/results.csv").write_text("mine")
    with pytest.raises(BatchError, match="results.csv"): predict_many(questions, tmp_path/"out", ask)

def test_folders_of_many_differ(): assert len(set(folder_names(["a/x.tif", "b/x.png", "x_2.tif", "c/x.tif"]))) == 4

def test_several_images_on_the_command_line(tmp_path, capsys):
    tifffile.imwrite(tmp_path/"a.tif", GRAY)
    code = main(["predict", str(tmp_path/"a.tif"), str(tmp_path/"lost.tif"), "--formula", "MoSe2", "--pixel-size", "0.1", "--propose", "model", "--heights", "none", "--k", "1", "--out", str(tmp_path/"out")])
    assert code == 2 and (tmp_path/"out/a/rank_1.cif").is_file() and "explained" in capsys.readouterr().out
    assert main(["predict", "--formula", "MoSe2", "--out", str(tmp_path/"out")]) == 2


# damage

def whole_files(folder):
    "A small file of each kind, by name."
    small = GRAY[:96, :96]
    tifffile.imwrite(folder/"a.tif", small, imagej=True, resolution=(100, 100), metadata=dict(unit="nm"))
    tifffile.imwrite(folder/"b.tif", BYTES[:96, :96], compression="zlib", tile=(32, 32))
    tifffile.imwrite(folder/"c.ome.tif", np.stack([small]*2), ome=True, metadata=dict(axes="TYX", PhysicalSizeX=.01, PhysicalSizeXUnit="nm"))
    np.save(folder/"d.npy", small)
    np.savez_compressed(folder/"e.npz", image=small, pixel_size=.1)
    for kind in ("png", "jpg", "gif", "bmp", "webp"): Image.fromarray(BYTES[:96, :96]).save(folder/f"f.{kind}")
    mrc(folder/"g.mrc", GRAY, 2)
    if find_spec("h5py"):
        hdf5(folder/"h.emd", emd(small, [(np.arange(96)*.01, "nm")]*2, 1, 1))
        hdf5(folder/"i.emd", emd(np.stack([small]*2, -1), [([0, .1], "A")]*2, "array", 0, "root/x"))
    return sorted(path for path in folder.iterdir() if path.is_file())

def damaged(content, rng):
    "Cut anywhere, or with a few bytes changed, more often near the start."
    if rng.random() < .4: return content[:rng.randrange(len(content))]
    changed = bytearray(content)
    for _ in range(rng.choice((1, 3, 20))): changed[int(rng.random()**rng.choice((1, 4))*len(changed))] = rng.randrange(256)
    return bytes(changed)

@pytest.mark.parametrize("seed", range(3))
def test_damage_ends_in_a_named_error_soon(seed, tmp_path):
    (tmp_path/"whole").mkdir()
    rng, paths = random.Random(seed), whole_files(tmp_path/"whole")
    for i in range(20):
        path = paths[i % len(paths)]
        broken = tmp_path/f"{i}{''.join(path.suffixes)}"
        broken.write_bytes(damaged(path.read_bytes(), rng))
        start = time.perf_counter()
        try: assert np.isfinite(read_micrograph(broken, .1).data).all()
        except MicrographError as e: assert "\n" not in str(e)
        assert time.perf_counter() - start < 2
