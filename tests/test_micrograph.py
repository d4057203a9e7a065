"Every way a file or an array can be broken must end in one clear line, never in a wrong scale."
import json
import os
import struct
import subprocess
import sys
from importlib.util import find_spec
from io import BytesIO
from pathlib import Path
from tempfile import TemporaryDirectory
from zipfile import ZipFile

import numpy as np
import pytest
import tifffile
from hypothesis import HealthCheck, given, settings, strategies as st
from PIL import Image
from scipy.optimize import minimize_scalar

from microscopygpt.crystal import Slab, cell_from_lengths, from_slab
from microscopygpt.pictures import MicrographError
from microscopygpt.micrograph import Micrograph, pixel_size_from_ruler, read_micrograph, write_micrograph
from microscopygpt.instrument_files import MAX_TAGS
from microscopygpt.stem import simulate
from microscopygpt.noise import render

quick = settings(max_examples=30, deadline=None, database=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
cell = cell_from_lengths(3.18, 3.18, 120)
mos2 = from_slab(Slab(cell, np.array([[0, 0], [1/3, 2/3], [1/3, 2/3]]), np.array([0, 1.56, -1.56]), np.array([42, 16, 16])))
picture = render(mos2, seed=1, size=(120, 140))
bytes_ = np.round(picture*255).astype(np.uint8)


def refused(call, *words):
    with pytest.raises(MicrographError) as e: call()
    text = str(e.value)
    assert "\n" not in text and len(text) < 400
    for word in words: assert word in text, text


# scale

def scale(view, g):
    "Frequency at which the wave along g peaks, over |g|"
    h, w = view.shape
    data = (view.data-view.data.mean())*np.outer(np.hanning(h), np.hanning(w))
    x, y = np.arange(w)*view.pixel_size, np.arange(h)*view.pixel_size
    def power(s): return -abs(np.exp(-2j*np.pi*s*g[1]*y) @ data @ np.exp(-2j*np.pi*s*g[0]*x))
    return minimize_scalar(power, (.99, 1, 1.01), method="brent", options=dict(xtol=1e-9)).x


@pytest.mark.parametrize("pixel_size", [.012, .03, .049, .085, .0993, .1, .125, .2])
@pytest.mark.parametrize("odd", [0, 1])
def test_scale_of_the_view(pixel_size, odd):
    n = round(28/pixel_size) + odd
    view = read_micrograph(simulate(mos2, pixel_size, n), pixel_size).view()
    reference = Micrograph(simulate(mos2), .1)
    assert view.shape == (256, 256)
    for g in np.linalg.inv(cell).T: assert abs(scale(view, g)/scale(reference, g)-1) < 2e-4


@quick
@given(st.floats(.012, .2), st.integers(150, 260), st.integers(150, 260))
def test_view_is_the_middle_of_the_picture(pixel_size, h, w):
    h, w = (int(n*.1/pixel_size) for n in (h, w))
    middle = np.array([w-1, h-1])*pixel_size/2
    view = read_micrograph(simulate(mos2, pixel_size, (h, w), shift=middle), pixel_size).view()
    expected = simulate(mos2, .1, view.shape, shift=np.array([view.shape[1]-1, view.shape[0]-1])*.05)
    a, b = view.data.astype(float), expected
    assert np.corrcoef(a[3:-3, 3:-3].ravel(), b[3:-3, 3:-3].ravel())[0, 1] > .9995
    assert view.data.min() == 0 and view.data.max() == 1
    assert view.shape[0]*.1 <= h*pixel_size + 1e-4 and view.shape[1]*.1 <= w*pixel_size + 1e-4


def test_same_pixels_are_not_touched():
    data = np.random.default_rng(0).random((300, 301)).astype(np.float32)
    view = read_micrograph(data, .1).view()
    inside = (view.data > 0) & (view.data < 1)
    ratio = np.polyfit(data[22:278, 22:278][inside], view.data[inside], 1)
    assert np.allclose(np.polyval(ratio, data[22:278, 22:278])[inside], view.data[inside], atol=1e-5)


def test_small_view_is_small_and_said():
    view = read_micrograph(picture, .1).view()
    assert view.shape == picture.shape and "less than 25.6" in view.warnings[-1]


def test_large_picture_is_quick():
    large = Micrograph(np.tile(simulate(mos2, .01, 1000), (8, 8)), .01)
    assert large.view().shape == (256, 256)


def test_hot_pixels_do_not_set_the_levels():
    hot = picture.copy()
    hot[7, 9], hot[50, 60] = 1e6, -1e6
    cold, warm = (read_micrograph(p, .1).view().data for p in (picture, hot))
    assert np.corrcoef(cold.ravel(), warm.ravel())[0, 1] > .99


# formats

arrays = dict(
    uint8=bytes_, bool=picture > .5, uint16=(picture*65535).astype(np.uint16), int32=(picture*1e6).astype(np.int32), float16=picture.astype(np.float16), float64=picture.astype(float),
    big_endian=(picture*65535).astype(">u2"), big_endian_float=picture.astype(">f4"), rgb=np.stack([bytes_]*3, -1), rgba=np.dstack([bytes_]*3 + [np.full_like(bytes_, 255)]),
    channel=bytes_[..., None], alpha=np.dstack([bytes_, bytes_]))


@pytest.mark.parametrize("name", arrays)
def test_arrays_of_every_kind(name, tmp_path):
    np.save(tmp_path/"a.npy", arrays[name])
    for source in (arrays[name], tmp_path/"a.npy", str(tmp_path/"a.npy")):
        m = read_micrograph(source, .1)
        assert m.data.dtype == np.float32 and m.data.dtype.isnative and m.shape == picture.shape
        assert np.corrcoef(m.data.ravel(), picture.ravel())[0, 1] > (.6 if name == "bool" else .999) and not [w for w in m.warnings if "colour" in w]


@pytest.mark.parametrize("mode", ["1", "L", "P", "LA", "RGB", "RGBA", "I;16", "I", "CMYK"])
@pytest.mark.parametrize("suffix", ["png", "tif", "jpg"])
def test_pillow_modes(mode, suffix, tmp_path):
    image = Image.fromarray((picture*65535).astype(np.uint16)) if mode == "I;16" else Image.fromarray(bytes_).convert(mode)
    try: image.save(tmp_path/f"a.{suffix}")
    except OSError: pytest.skip("Pillow does not write it")
    m = read_micrograph(tmp_path/f"a.{suffix}", .1)
    assert m.shape == picture.shape and np.corrcoef(m.data.ravel(), picture.ravel())[0, 1] > (.3 if mode == "1" else .95)


@pytest.mark.parametrize("options", [dict(), dict(byteorder=">"), dict(bigtiff=True), dict(compression="zlib"), dict(tile=(64, 64)), dict(photometric="miniswhite"), dict(predictor=True, compression="zlib")])
def test_tiff_variants(options, tmp_path):
    data = (picture*65535).astype(np.uint16)
    tifffile.imwrite(tmp_path/"a.tif", data.max()-data if options.get("photometric") == "miniswhite" else data, **options)
    m = read_micrograph(tmp_path/"a.tif", .1)
    assert np.array_equal(m.data - m.data.min(), data.astype(np.float32) - data.min())


@pytest.mark.parametrize("compression", ["tiff_lzw", "packbits", "tiff_adobe_deflate"])
def test_pillow_tiff_compressions(compression, tmp_path):
    Image.fromarray(bytes_).save(tmp_path/"a.tif", compression=compression)
    assert np.array_equal(read_micrograph(tmp_path/"a.tif", .1).data, bytes_)


def test_planar_colour_tiff(tmp_path):
    tifffile.imwrite(tmp_path/"a.tif", np.stack([bytes_]*3), photometric="rgb", planarconfig="separate")
    assert np.allclose(read_micrograph(tmp_path/"a.tif", .1).data, bytes_, atol=1e-3)


def test_first_of_many(tmp_path):
    other = np.random.default_rng(1).permutation(bytes_.ravel()).reshape(bytes_.shape)
    tifffile.imwrite(tmp_path/"pages.tif", np.stack([bytes_, other]), photometric="minisblack")
    tifffile.imwrite(tmp_path/"stack.tif", np.stack([bytes_, other]), imagej=True)
    Image.fromarray(bytes_).save(tmp_path/"a.gif", save_all=True, append_images=[Image.fromarray(other)])
    for source in (tmp_path/"pages.tif", tmp_path/"stack.tif", tmp_path/"a.gif", np.stack([bytes_, other])):
        m = read_micrograph(source, .1)
        assert np.array_equal(m.data, bytes_) and "only the first" in m.warnings[0]
        assert np.array_equal(read_micrograph(source, .1, frame=1).data, other)
        refused(lambda: read_micrograph(source, .1, frame=2), "no frame 2", "it holds 2")


def test_the_name_does_not_decide(tmp_path):
    write_micrograph(Micrograph(picture, .1), tmp_path/"a.tif").rename(tmp_path/"a.png")
    assert read_micrograph(tmp_path/"a.png").pixel_size == pytest.approx(.1)


def test_colour_is_noted():
    assert "colour" in read_micrograph(np.dstack([bytes_, bytes_//2, bytes_]), .1).warnings[0]


def test_input_array_is_left_alone():
    data = picture.copy()
    data[3, 4] = np.nan
    m = read_micrograph(data, .1)
    assert np.isnan(data[3, 4]) and np.isfinite(m.data).all() and "filled" in m.warnings[0]


# formats of electron microscopes

extra = bool(find_spec("rsciio") and find_spec("h5py"))
needs_extra = pytest.mark.skipif(not extra, reason="the extra io is not installed")
counts = np.round(picture*20000).astype(np.int16)
other = np.roll(counts, 40, 1)
DM_KINDS = {"int16": (1, 2), "float32": (2, 6), "uint8": (6, 10), "int32": (7, 3), "int8": (9, 9), "uint16": (10, 4), "uint32": (11, 5), "float64": (12, 7)}


def dm_file(version, images, root=None):
    "Digital Micrograph's tree of tags; images: (array, scales along x, y, ..., their units, type of the data or None)"
    wide = ">I" if version == 3 else ">Q"
    def number(*n): return b"".join(struct.pack(wide, i) for i in n)
    def entry(kind, name, body): return struct.pack(">BH", kind, len(name)) + name.encode() + (number(len(body)) if version == 4 else b"") + body
    def group(name, *entries): return entry(20, name, b"\0\0" + number(len(entries)) + b"".join(entries))
    def tag(name, *information, body=b""): return entry(21, name, b"%%%%" + number(len(information), *information) + body)
    def ulong(name, n): return tag(name, 5, body=struct.pack("<I", n))
    def real(name, x): return tag(name, 6, body=struct.pack("<f", x))
    def text(name, t): return tag(name, 20, 4, len(t), body=t.encode("utf-16-le"))
    def axis(scale, unit): return group("", real("Origin", 0), real("Scale", scale), text("Units", unit))
    def image(data, scales, units, kind):
        kind, element = (kind, 3) if kind else DM_KINDS[data.dtype.name]
        return group("", group("ImageData", group("Calibrations", group("Brightness", real("Scale", 1), text("Units", "")), group("Dimension", *map(axis, scales, units))),
            tag("Data", 20, element, data.size, body=data.tobytes()), ulong("DataType", kind), group("Dimensions", *(ulong("", n) for n in data.shape[::-1])), ulong("PixelDepth", data.itemsize)),
            group("ImageTags", group("Scan", text("Dimension Units", "furlong"), tag("Rectangle", 15, 0, 2, 0, 3, 0, 3, body=struct.pack("<ii", 1, 2)), text("Comment", "a"*2000))), text("Name", "HAADF"))
    entries = group("ImageList", *(image(*i) for i in images)), group("Thumbnails", group("", ulong("ImageIndex", 0)))
    content = b"\1\0" + number(root or len(entries)) + b"".join(entries) + b"\0"*8
    return struct.pack(">I", version) + number(len(content)) + struct.pack(">I", 1) + content


thumbnail = np.full((48, 56), 2**24+7, np.int32), (1, 1), ("", ""), 23
spectrum = np.arange(900, dtype=np.float32), (.5,), ("eV",), None


def dm(version=4, data=counts, scales=(.02, .02), units=("nm", "nm")): return dm_file(version, [thumbnail, (data, scales, units, None)])


def mrc_file(data, size, mark=b"MAP ", mode=None, extended=b""):
    data = data if data.ndim == 3 else data[None]
    mode = {"int8": 0, "int16": 1, "float32": 2, "uint16": 6}[data.dtype.name] if mode is None else mode
    n = data.shape[::-1]
    head = struct.pack("<10i6f3i3f2i", *n, mode, 0, 0, 0, *n, n[0]*size[0], n[1]*size[1], n[2], 90, 90, 90, 1, 2, 3, 0, 1, .5, 0, len(extended))
    return (head.ljust(208, b"\0") + mark + b"DA\0\0").ljust(1024, b"\0") + extended + data[:, ::-1].tobytes() # rows from the bottom


def hdf5_file(fill):
    import h5py
    out = BytesIO()
    with h5py.File(out, "w") as f: fill(f)
    return out.getvalue()


def velox_file(*pictures, size=2e-11, unit="m", metadata=None):
    "images: (detector, array (rows, columns, frames))"
    def fill(f):
        for i, (detector, data) in enumerate(pictures):
            facts = dict(Core=dict(MetadataDefinitionVersion="7.9"), BinaryResult=dict(Detector=detector, PixelSize=dict(width=str(size), height=str(size)), PixelUnitX=unit, PixelUnitY=unit))
            text = np.frombuffer((json.dumps(facts).encode() if metadata is None else metadata).ljust(3000, b"\0"), np.uint8)
            group = f.create_group(f"Data/Image/{i:032x}")
            group["Metadata"] = np.stack([text]*data.shape[2], -1)
            group.create_dataset("Data", data=data, chunks=(*data.shape[:2], 1))
        f["Version"] = '{"format": "Velox"}'
    return hdf5_file(fill)


def berkeley_file(*pictures, key="data"):
    "images: (name, array, steps, units)"
    def fill(f):
        f.attrs["version_major"], f.attrs["version_minor"] = 0, 2
        for name, data, steps, units in pictures:
            group = f.create_group(f"data/{name}")
            group.attrs["emd_group_type"], group[key] = 1, data
            for i, (n, step, unit) in enumerate(zip(data.shape, steps, units), 1):
                group[f"dim{i}"] = 3 + step*np.arange(n)
                if unit is not None: group[f"dim{i}"].attrs["units"] = unit
    return hdf5_file(fill)


def ser_file(frames, step):
    "TIA's series of images, whose rows run upwards"
    h, w = frames[0].shape
    blocks = [struct.pack("<ddiddihii", 0, step, 0, 0, step, 0, 5, w, h) + f[::-1].tobytes() + struct.pack("<HHI", 0x4152, 0, 0) for f in frames]
    axis = struct.pack("<iddii", len(frames), 0, 1, 0, 6) + b"Number" + struct.pack("<i", 0)
    n, start = len(frames), 34 + len(axis)
    places = start + 16*n + np.cumsum([0] + [len(b) for b in blocks])
    return struct.pack("<hhhiiiiqi", 0x4949, 0x197, 0x220, 0x4122, 0x4152, n, n, start, 1) + axis + places[:n].astype("<i8").tobytes() + np.full(n, places[-1], "<i8").tobytes() + b"".join(blocks)


def saved(folder, name, content):
    (folder/name).write_bytes(content)
    return folder/name


microscopes = dict(dm3=lambda: dm(3), dm4=dm, mrc=lambda: mrc_file(counts, (.2, .2)), ser=lambda: ser_file([counts], 2e-11),
    velox=lambda: velox_file(("HAADF", counts[..., None])), berkeley=lambda: berkeley_file(("a", counts, (.02, .02), ("[n_m]", "[n_m]")))) if extra else {}


@needs_extra
@pytest.mark.parametrize("kind", ["dm3", "dm4", "mrc", "ser", "velox", "berkeley"])
def test_microscopes_formats(kind, tmp_path, capfd):
    path = saved(tmp_path, "a.tif", microscopes[kind]())
    m = read_micrograph(path)
    assert m.pixel_size == pytest.approx(.2, rel=1e-6) and not m.warnings
    assert m.data.dtype == np.float32 and np.array_equal(m.data, counts) and m.source == str(path)
    assert read_micrograph(path, .3).warnings[0] == "the file says 0.2 Å/px; the 0.3 given are used"
    if os.path.isdir("/proc/self/fd"): assert not [fd for fd in os.listdir("/proc/self/fd") if os.path.realpath(f"/proc/self/fd/{fd}").startswith(str(tmp_path))]
    assert capfd.readouterr() == ("", "")


@needs_extra
@pytest.mark.parametrize("version", [3, 4])
@pytest.mark.parametrize("kind", DM_KINDS)
def test_dm_numbers(version, kind, tmp_path):
    data = (picture*100).astype(kind)
    assert np.array_equal(read_micrograph(saved(tmp_path, "a.dm3", dm(version, data))).data, data.astype(np.float32))


@needs_extra
@pytest.mark.parametrize("scales, units, words", [
    ((1, 1), ("", ""), "no pixel size"), ((.02, .03), ("nm", "nm"), "along y"), ((.02, .02), ("nm", ""), "no pixel size"),
    ((0, 0), ("nm", "nm"), "no image of atoms"), ((np.nan, np.nan), ("nm", "nm"), "no image of atoms"), ((25, 25), ("nm", "nm"), "no image of atoms"), ((.02, .02), ("eV", "nm"), "'eV'")])
def test_dm_units(scales, units, words, tmp_path):
    m = read_micrograph(saved(tmp_path, "a.dm4", dm(4, counts, scales, units)))
    assert m.pixel_size is None and any(words in w for w in m.warnings) and np.array_equal(m.data, counts)


@needs_extra
@pytest.mark.parametrize("scale, unit", [(.02, "nm"), (2e-5, "µm"), (2e-5, "\u03bcm"), (.2, "Å"), (.2, "\u212b"), (20, "pm"), (2e-11, "m")])
def test_dm_lengths(scale, unit, tmp_path):
    assert read_micrograph(saved(tmp_path, "a.dm4", dm(4, counts, (scale,)*2, (unit,)*2))).pixel_size == pytest.approx(.2, rel=1e-6)


@needs_extra
@pytest.mark.parametrize("version", [3, 4])
def test_dm_takes_the_right_image(version, tmp_path):
    def read(*images): return read_micrograph(saved(tmp_path, "a.dm3", dm_file(version, images)))
    one, two, three = (counts, (.02, .02), ("nm", "nm"), None), (other, (.03, .03), ("nm", "nm"), None), (np.stack([counts, other]), (.02, .02, 1), ("nm", "nm", "s"), None) # a series in time is averaged
    assert np.array_equal(read(one).data, counts) and read(one).pixel_size == pytest.approx(.2)
    assert np.array_equal(read(thumbnail, spectrum, one).data, counts) and not read(thumbnail, spectrum, one).warnings
    assert read(thumbnail, one, two).warnings == ["2 images in one file: only the first is read"]
    assert read(two, one).pixel_size == pytest.approx(.3) and np.array_equal(read(two, one).data, other)
    assert "2 frames are averaged" in read(thumbnail, three).warnings[0]
    energies = np.stack([counts, other], 0), (.02, .02, .5), ("nm", "nm", "eV"), None
    scan = np.stack([counts, other], -1)[:, :, None], (.1, .1, .02, .02), ("1/nm", "1/nm", "nm", "nm"), None
    refused(lambda: read(thumbnail, energies), "spectrum at every point", "HAADF")
    refused(lambda: read(thumbnail, (np.stack([np.stack([counts, other])]*2), (.02, .02, .1, .1), ("nm", "nm", "1/nm", "1/nm"), None)), "4D-STEM")
    assert np.array_equal(read(thumbnail, scan).data, counts) and read(thumbnail, scan).pixel_size == pytest.approx(.2)
    refused(lambda: read(thumbnail, spectrum), "no image of real numbers")
    refused(lambda: read(thumbnail), "no image of real numbers")


@needs_extra
def test_dm_ends_soon(tmp_path):
    content = dm_file(4, [(np.zeros((400, 3000), np.float32), (.02, .02), ("nm", "nm"), None)], root=2**40)
    refused(lambda: read_micrograph(saved(tmp_path, "a.dm4", content[:30] + bytes(5_000_000))), "damaged")
    refused(lambda: read_micrograph(saved(tmp_path, "a.dm4", content)), "damaged")
    refused(lambda: read_micrograph(saved(tmp_path, "a.dm4", b"not what it seems"*99)), "damaged")
    refused(lambda: read_micrograph(saved(tmp_path, "a.dm4", struct.pack(">IQI", 4, 999, 0) + bytes(99))))


@needs_extra
def test_velox_prefers_haadf(tmp_path):
    def read(*pictures, **options): return read_micrograph(saved(tmp_path, "a.emd", velox_file(*pictures, **options)))
    a, b = counts[..., None], other[..., None]
    m = read(("DF4", b), ("HAADF", np.concatenate([a, b, b], -1)), ("BF", b))
    assert m.warnings[0] == "3 images in one file: only 'HAADF' is read" and "3 frames are averaged" in m.warnings[1] and m.instrument.detector == "HAADF"
    m = read(("DF4", b.astype(np.float32)), ("BF", a))
    assert np.array_equal(m.data, counts) and m.warnings[0] == "2 images in one file: only 'BF' is read" and "detector is BF" in m.warnings[1]
    transform = np.zeros(a.shape, [("realFloat", "<f4"), ("imagFloat", "<f4")])
    assert np.array_equal(read(("HAADF", transform), ("BM-Ceta", a)).data, counts)
    refused(lambda: read(("HAADF", transform)), "no image was found in it")


@needs_extra
@pytest.mark.parametrize("options, words", [
    (dict(size=5e-9), "no image of atoms"), (dict(unit=""), "no pixel size"), (dict(metadata=b"{}"), "no pixel size"), (dict(metadata=b"\xff{}"), "no pixel size")])
def test_velox_units(options, words, tmp_path):
    m = read_micrograph(saved(tmp_path, "a.emd", velox_file(("HAADF", counts[..., None]), **options)))
    assert m.pixel_size is None and words in m.warnings[0] and np.array_equal(m.data, counts)


@needs_extra
def test_velox_with_broken_metadata(tmp_path):
    for text in (b'{"BinaryResult": {', b"", b"[]", b'{"BinaryResult": {"PixelSize": {"width": "wide"}}}'):
        refused(lambda: read_micrograph(saved(tmp_path, "a.emd", velox_file(("HAADF", counts[..., None]), metadata=text))), "damaged")


@needs_extra
@pytest.mark.parametrize("step, unit", [(.02, "nm"), (.02, "[n_m]"), (2e-11, "[m]"), (.2, "Å"), (.2, "Angstroms"), (.2, np.bytes_("A")), (-.02, "nm"), (20, np.array([b"pm"]))])
def test_berkeley_units(step, unit, tmp_path):
    m = read_micrograph(saved(tmp_path, "a.emd", berkeley_file(("a", counts, (step, step), (unit, unit)))))
    assert m.pixel_size == pytest.approx(.2, rel=1e-6) and np.array_equal(m.data, counts)


@needs_extra
@pytest.mark.parametrize("steps, units, words", [((1, 1), ("pixels",)*2, "no pixel size"), ((1, 1), (None, None), "no pixel size"), ((.02, .03), ("nm",)*2, "along y"), ((), (), "no pixel size")])
def test_berkeley_without_a_scale(steps, units, words, tmp_path):
    m = read_micrograph(saved(tmp_path, "a.emd", berkeley_file(("a", counts, steps, units))))
    assert m.pixel_size is None and words in m.warnings[0] and np.array_equal(m.data, counts)


@needs_extra
def test_berkeley_takes_the_right_data(tmp_path):
    def read(*pictures, **options): return read_micrograph(saved(tmp_path, "a.emd", berkeley_file(*pictures, **options)))
    nm = ("nm", "nm")
    m = read(("a", other, (1, 1), ("", "")), ("b", np.stack([other, counts]), (1, .02, .02), ("s", *nm)), ("c", counts, (.02, .02), nm), ("d", np.arange(9.), (1,), ("eV",)))
    assert np.array_equal(m.data, counts) and m.pixel_size == pytest.approx(.2) and m.warnings == ["3 images in one file: only '/data/c' is read"]
    for data, steps, units in ((np.stack([counts, other]), (1, .02, .02), ("deg", *nm)), (np.stack([counts, other]), (1, .02, .02), ("nm", *nm))):
        m = read(("a", data, steps, units))
        assert np.array_equal(m.data, counts) and m.pixel_size == pytest.approx(.2) and m.warnings == ["2 images in one file: only the first is read"]
    assert np.array_equal(read(("a", counts, (.02, .02), nm), key="realslice").data, counts)
    refused(lambda: read(("a", np.arange(9.), (1,), ("eV",))), "no image was found in it")
    refused(lambda: read(("a", counts*1j, (.02, .02), nm)), "no image was found in it")
    assert np.array_equal(read_micrograph(saved(tmp_path, "a.h5", hdf5_file(lambda f: f.create_dataset("data", data=counts)))).data, counts)
    refused(lambda: read(("a", np.stack([counts, other], -1), (.02, .02, 1), (*nm, "eV"))), "spectrum at every point")


@needs_extra
@pytest.mark.parametrize("kind", ["int8", "int16", "float32", "uint16"])
def test_mrc_numbers(kind, tmp_path):
    data = (picture*100).astype(kind)
    assert np.array_equal(read_micrograph(saved(tmp_path, "a.png", mrc_file(data, (.2, .2)))).data, data.astype(np.float32))


@needs_extra
def test_mrc_headers(tmp_path):
    def read(*args, name="a.mrc", **options): return read_micrograph(saved(tmp_path, name, mrc_file(*args, **options)))
    for name in ("a.mrc", "a.MRC", "a.st"): assert np.array_equal(read(counts, (.2, .2), name=name, mark=b"\0"*4).data, counts)
    refused(lambda: read(counts, (.2, .2), name="a.xyz", mark=b"\0"*4), "not an image")
    assert "2 frames are averaged" in read(np.stack([counts, other]), (.2, .2)).warnings[0]
    for size, words in (((0, 0), "no pixel size"), ((1, 1), "no pixel size"), ((.2, .3), "along y"), ((30, 30), "no image of atoms")):
        m = read(counts, size)
        assert m.pixel_size is None and words in m.warnings[0]
    fei = np.zeros(32, np.float32)
    fei[11] = 2e-11
    assert read(counts, (1, 1), extended=fei.tobytes()).pixel_size == pytest.approx(.2)
    for extended in (b"X,  Y,  Z".ljust(800), np.arange(256, dtype="<i2").tobytes(), bytes(128)): assert read(counts, (.2, .2), extended=extended).pixel_size == pytest.approx(.2)
    for mode in (3, 4, 7, 101, -1): refused(lambda: read(counts, (.2, .2), mode=mode), "mode", "real numbers")
    refused(lambda: read_micrograph(saved(tmp_path, "a.mrc", b"minutes of the meeting")), "no MRC file")


@needs_extra
def test_ser_series(tmp_path):
    m = read_micrograph(saved(tmp_path, "a.ser", ser_file([counts, counts], 2e-11)))
    assert np.array_equal(m.data, counts) and m.pixel_size == pytest.approx(.2) and "2 frames are averaged" in m.warnings[0]
    (tmp_path/"a.emi").write_text("broken")
    assert read_micrograph(saved(tmp_path, "a_1.ser", ser_file([counts], 3e7))).warnings[0].endswith("which no image of atoms has: ignored")


@needs_extra
def test_too_many_pixels(tmp_path):
    def fill(f):
        f.create_group("data/a").attrs["emd_group_type"] = 1
        f.create_dataset("data/a/data", (60000, 60000), np.float32, chunks=(256, 256))
    refused(lambda: read_micrograph(saved(tmp_path, "a.emd", hdf5_file(fill))), "60000 x 60000", "too many")
    with open(tmp_path/"a.mrc", "wb") as f:
        f.write(mrc_file(np.zeros((1, 1, 20000), np.int8), (.2, .2))[:1024])
        f.seek(4), f.write(struct.pack("<i", 20000)), f.truncate(1024 + 20000**2)
    refused(lambda: read_micrograph(tmp_path/"a.mrc"), "20000 x 20000", "too many")


@pytest.mark.parametrize("kind", [kind for kind in microscopes if kind != "mrc"])
def test_without_the_extra(kind, tmp_path, monkeypatch):
    from microscopygpt.complaints import complaint
    path = saved(tmp_path, "a", microscopes[kind]())
    for name in [n for n in sys.modules if n.split(".")[0] in ("rsciio", "h5py")] + ["rsciio", "h5py"]: monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(MicrographError, match=r"pip install 'microscopygpt\[io\]'") as e: read_micrograph(path)
    assert complaint(e.value) == str(e.value)


def test_the_extra_is_not_loaded_in_vain():
    code = "import sys, microscopygpt.micrograph; print([m for m in sys.modules if m in ('rsciio', 'h5py')])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip() == "[]"


def test_the_name_does_not_decide_for_pictures_either(tmp_path):
    for suffix in ("mrc", "dm4", "emd"): assert np.array_equal(read_micrograph(saved(tmp_path, f"a.{suffix}", _file("png")), .1).data, bytes_)


# pixel size

@quick
@given(st.floats(.005*1.001, 1.99), st.sampled_from([16, 32]))
def test_pixel_size_comes_back(tmp_path, pixel_size, bits):
    m = Micrograph(render(mos2, "none", size=256)*30000, pixel_size)
    path = write_micrograph(m, tmp_path/"a.tif", bits)
    if 256*pixel_size < 8: return refused(lambda: read_micrograph(path), "8 x 8")
    back = read_micrograph(path)
    assert back.pixel_size == pytest.approx(pixel_size, rel=1e-6)
    assert np.array_equal(back.data, m.data) if bits == 32 else np.corrcoef(back.data.ravel(), m.data.ravel())[0, 1] > .9999


@pytest.mark.parametrize("per, unit", [(10, "nm"), (1e4, "micron"), (1e4, "um"), (1e4, "\\u00B5m"), (1, "angstrom"), (1, "\\u00C5"), (1e8, "cm"), (.01, "pm")])
def test_imagej_units(per, unit, tmp_path):
    tifffile.imwrite(tmp_path/"a.tif", picture, imagej=True, resolution=(per/.08,)*2, metadata=dict(unit=unit))
    m = read_micrograph(tmp_path/"a.tif")
    assert m.pixel_size == pytest.approx(.08, rel=1e-6) and not m.warnings
    other = read_micrograph(tmp_path/"a.tif", .1)
    assert other.pixel_size == .1 and "0.1 given" in other.warnings[0]


def test_plain_resolution_tags(tmp_path):
    tifffile.imwrite(tmp_path/"cm.tif", picture, resolution=(1e8/.08,)*2, resolutionunit="CENTIMETER")
    assert read_micrograph(tmp_path/"cm.tif").pixel_size == pytest.approx(.08, rel=1e-6)


@pytest.mark.parametrize("x, y, unit, word", [(72, 72, "INCH", "which no image of atoms has"), (1e9, 2e9, "CENTIMETER", "along y"), (1, 1, "NONE", "no pixel size"), (0, 0, "CENTIMETER", "no pixel size")])
def test_useless_resolution_tags(x, y, unit, word, tmp_path):
    tifffile.imwrite(tmp_path/"a.tif", picture, resolution=(x, y), resolutionunit=unit)
    m = read_micrograph(tmp_path/"a.tif")
    assert m.pixel_size is None and any(word in w for w in m.warnings)
    refused(m.view, "0.1")


def test_micrograph_in_micrograph_out():
    m = read_micrograph(picture)
    assert read_micrograph(m) is m
    scaled = read_micrograph(m, .1)
    assert scaled.pixel_size == .1 and not scaled.warnings and m.warnings
    refused(lambda: read_micrograph(m, 0))


@pytest.mark.parametrize("value", [0, -.1, np.nan, np.inf, .0049, 2.1, 1e-10, "0.1", True, [.1]])
def test_absurd_pixel_sizes(value):
    refused(lambda: read_micrograph(picture, value), "pixel size", "Å/px")
    refused(lambda: read_micrograph(picture, .1).view(pixel_size=value), "pixel size")


@pytest.mark.parametrize("fov", [0, -1, 7, np.nan, np.inf, "25", None])
def test_absurd_views(fov): refused(lambda: read_micrograph(picture, .1).view(fov=fov), "field of view")


# broken input

@pytest.mark.parametrize("data, word", [
    (np.ones((200, 200)), "same value"), (np.full((200, 200), np.nan), "NaN"), (np.where(picture < .4, np.inf, picture), "NaN"), (picture[:31], "140 x 31"), (np.zeros((0, 0)), "pixels"),
    (picture[0], "shape"), (np.zeros((2, 2, 2, 2, 200)), "shape"), (picture*1j, "real"), (np.array("MoS2"), "real"), (np.array([None]*9), "real"), ([[1, 2], [3]], "rows"), (None, "real"), (7, "shape"), ({}, "real")])
def test_broken_arrays(data, word): refused(lambda: read_micrograph(data, .1), word)


def test_values_beyond_float32():
    with np.errstate(over="ignore"): refused(lambda: read_micrograph(picture.astype(float)*1e300, .1), "NaN or infinite")


def test_broken_paths(tmp_path):
    (tmp_path/"empty.png").touch()
    (tmp_path/"text.png").write_text("the dog ate it")
    np.save(tmp_path/"objects.npy", np.array([{}, 1], object), allow_pickle=True)
    np.savez(tmp_path/"a.npz", np.arange(9))
    refused(lambda: read_micrograph(tmp_path/"none.tif"), "no such file")
    refused(lambda: read_micrograph(tmp_path), "folder")
    refused(lambda: read_micrograph(tmp_path/"empty.png"), "empty")
    refused(lambda: read_micrograph(tmp_path/"text.png"), "not an image")
    refused(lambda: read_micrograph(tmp_path/"objects.npy"), "Python objects")
    refused(lambda: read_micrograph(tmp_path/"a.npz"), "without an image")
    refused(lambda: write_micrograph(Micrograph(picture), tmp_path/"a.bmp"), ".bmp")
    refused(lambda: write_micrograph(Micrograph(picture), tmp_path/"a.tif", 8), "bits")


def _file(kind):
    out = BytesIO()
    if kind == "npy": np.save(out, picture)
    elif kind == "tif": tifffile.imwrite(out, picture, imagej=True, resolution=(100, 100), metadata=dict(unit="nm"))
    elif kind == "zip.tif": tifffile.imwrite(out, picture, compression="zlib", tile=(32, 32))
    elif kind == "pil.tif": Image.fromarray(bytes_).save(out, "tiff", compression="tiff_lzw")
    else: Image.fromarray(bytes_).save(out, dict(jpg="jpeg").get(kind, kind))
    return out.getvalue()


# what Nion Swift writes

SWIFT = dict(spatial_calibrations=[dict(offset=0., scale=.0085, units="nm")]*2,
             metadata=dict(instrument=dict(high_tension=60000), hardware_source=dict(channel_name="HAADF")))

def swift_h5(path):
    import h5py
    with h5py.File(path, "w") as f: f.create_dataset("data", data=picture).attrs["properties"] = json.dumps(SWIFT)

def swift_ndata(path):
    array = BytesIO()
    np.save(array, picture)
    with ZipFile(path, "w") as f:
        f.writestr("data.npy", array.getvalue())
        f.writestr("metadata.json", json.dumps(SWIFT))

def swift_npy(path):
    np.save(path, picture)
    path.with_suffix(".json").write_text(json.dumps(SWIFT))

def _swift(name, write):
    "The bytes of a file by Nion Swift."
    with TemporaryDirectory() as folder:
        write(Path(folder)/name)
        return (Path(folder)/name).read_bytes()


files = {kind: _file(kind) for kind in ("npy", "tif", "zip.tif", "pil.tif", "png", "jpg", "gif")} | {dict(velox="v.emd", berkeley="b.emd").get(kind, kind): make() for kind, make in microscopes.items()}
files["ndata1"] = _swift("a.ndata1", swift_ndata)
if "v.emd" in files: files["swift.h5"] = _swift("a.h5", swift_h5)


def _survives(content, path, whole):
    path.write_bytes(content)
    try: m = read_micrograph(path, .1)
    except MicrographError as e: assert "\n" not in str(e)
    else:
        assert m.data.ndim == 2 and np.isfinite(m.data).all()
        return m.shape == whole.shape and np.array_equal(m.data, whole)


@settings(quick, max_examples=150)
@given(st.sampled_from(sorted(files)), st.floats(0, .999))
def test_truncated_files(tmp_path, kind, share):
    whole = tmp_path/f"whole.{kind}"
    whole.write_bytes(files[kind])
    content = files[kind][:int(share*len(files[kind]))]
    assert _survives(content, tmp_path/f"part.{kind}", read_micrograph(whole, .1).data) in (None, True)


@pytest.mark.parametrize("kind", sorted(files))
@pytest.mark.parametrize("n", [1, 3, 4, 5, 8, 12, 16, 31, 100, 208, 212, 600, 1023, 1024, 1100, 2000, 4000, -3000, -100, -9, -8, -1])
def test_truncated_at(kind, n, tmp_path, capfd):
    whole, part = saved(tmp_path, f"whole.{kind}", files[kind]), files[kind][:n]
    assert _survives(part, tmp_path/f"part.{kind}", read_micrograph(whole, .1).data) in (None, True)
    assert capfd.readouterr() == ("", "")


@settings(quick, max_examples=200)
@given(st.sampled_from(sorted(files)), st.lists(st.tuples(st.floats(0, .999), st.integers(0, 255)), min_size=1, max_size=8))
def test_corrupted_files_never_crash(tmp_path, kind, changes):
    content = bytearray(files[kind])
    for where, value in changes: content[int(where**4*len(content))] = value
    _survives(bytes(content), tmp_path/f"a.{kind}", picture)


# frame, levels, ruler

whole = Micrograph(picture, .1, "a.tif", ["a remark"])
share = st.integers(0, 88)


@quick
@given(share, share, st.integers(80, 140), st.integers(80, 120))
def test_crop(left, top, width, height):
    def call(): return whole.crop(left, top, np.int64(width), height)
    if left+width > 140 or top+height > 120: return refused(call, "reach beyond the image of 140 x 120 px")
    m = call()
    assert np.array_equal(m.data, picture[top:top+height, left:left+width]) and not np.shares_memory(m.data, picture)
    assert (m.pixel_size, m.source, m.warnings) == (.1, "a.tif", ["a remark"]) and m.warnings is not whole.warnings
    assert whole.shape == picture.shape and np.array_equal(m.crop(0, 0, width, height).data, m.data)


@pytest.mark.parametrize("frame, words", [
    ((-1, 0, 99, 99), "column -1"), ((0, -1, 99, 99), "row -1"), ((0, 0, 141, 99), "141 x 99 px"), ((0, 0, 99, 31), "at least 32 x 32"), ((0, 0, 0, 0), "at least 32"), ((0, 0, -40, 99), "at least 32"),
    ((0, 0, 79, 79), "at least 8 x 8 Å"), ((0, 0, 99.5, 99), "whole numbers"), ((0, True, 99, 99), "whole numbers"), ((None, 0, 99, 99), "whole numbers"), (("0", 0, 99, 99), "whole numbers")])
def test_crops_that_cannot_be(frame, words):
    refused(lambda: whole.crop(*frame), "crop", words)
    if "Å" in words: assert Micrograph(picture).crop(*frame).shape == (79, 79)


@quick
@given(st.floats(0, 49), st.floats(51, 100))
def test_level(low, high):
    m = whole.level(low, high)
    assert m.data.dtype == np.float32 and m.data.min() == 0 and m.data.max() == 1 and (m.pixel_size, m.source, m.warnings) == (.1, "a.tif", ["a remark"])
    dark, bright = np.percentile(picture, [low, high])
    assert np.allclose(m.data, np.clip((picture-dark)/(bright-dark), 0, 1), atol=1e-5)
    assert np.allclose(m.level(0, 100).data, m.data, atol=1e-6) and whole.data is picture


def test_level_is_what_the_view_does(): assert np.allclose(whole.level().data, whole.view().data, atol=1e-5)


@pytest.mark.parametrize("low, high", [(50, 50), (60, 40), (-1, 99), (1, 101), (np.nan, 99), (0, np.inf), ("1", 99), (None, 99), (False, True)])
def test_levels_that_cannot_be(low, high): refused(lambda: whole.level(low, high), "level", "0 <= low < high <= 100")


def test_levels_of_nothing():
    flat = np.where(picture > np.median(picture), picture, 0).astype(np.float32)
    refused(lambda: Micrograph(flat, .1).level(1, 40), "level", "value 0", "further apart")
    assert Micrograph(flat, .1).level(1, 99).data.max() == 1


@quick
@given(st.floats(0, 4000), st.floats(0, 4000), st.floats(0, 7), st.floats(20, 3000), st.floats(.006, 1.9))
def test_ruler(x, y, angle, pixels, pixel_size):
    end = np.array([x, y]) + pixels*np.array([np.cos(angle), np.sin(angle)])
    assert pixel_size_from_ruler((x, y), end, pixels*pixel_size) == pytest.approx(pixel_size, rel=1e-6)
    assert pixel_size_from_ruler(end, [x, y], pixels*pixel_size) == pytest.approx(pixel_size, rel=1e-6)


@pytest.mark.parametrize("start, end, length, words", [
    ((5, 5), (5, 5), 20, "same point"), ((0, 0), (100, 0), 0, "positive"), ((0, 0), (100, 0), -20, "positive"), ((0, 0), (100, 0), np.nan, "positive"), ((0, 0), (100, 0), np.inf, "positive"), ((0, 0), (100, 0), "20", "positive"),
    ((0, 0), (100, 0), True, "positive"), ((0, 0), (100, 0), None, "positive"), ((0, 0), (100, 0), .2, "1 nm = 10 Å"), ((0, 0), (100, 0), 2000, "20 Å/px"), ((0, 0), (1e-9, 0), 20, "both ends"),
    ((0,), (100, 0), 20, "its start"), ((0, 0), (100, 0, 0), 20, "its end"), ((0, 0), (np.nan, 0), 20, "its end"), ("ab", (100, 0), 20, "its start"), (None, (100, 0), 20, "its start"), ((0, 0), 100, 20, "its end")])
def test_rulers_that_cannot_be(start, end, length, words): refused(lambda: pixel_size_from_ruler(start, end, length), "ruler", words)


# display

def test_display(tmp_path):
    for m in (Micrograph(picture, .1), Micrograph(picture), Micrograph(np.tile(picture, (9, 20)), .02), Micrograph(picture[:33, :], .3)):
        with Image.open(BytesIO(m._repr_png_())) as image: assert max(image.size) == 320
        ax = m.plot()
        assert ax.get_images()[0].get_extent()[1] == pytest.approx((m.shape[1]-.5)*(m.pixel_size or 1))
        ax.figure.clear()
        assert "Micrograph(array" in repr(m)


# real micrographs, where they are at hand

images = Path(os.environ.get("MICROSCOPYGPT_DATA", "."))/"../images"


@pytest.mark.skipif(not (images/"MoS2.png").is_file(), reason="MICROSCOPYGPT_DATA/../images holds no micrographs")
@pytest.mark.parametrize("name, pixel_size, a", [("graphene", .0664, 2.464), ("MoS2", .0738, 3.188), ("FeTe", .0533, 3.607)])
def test_real_micrographs(name, pixel_size, a):
    path = images/f"{name}.png"
    m = read_micrograph(path)
    assert m.pixel_size is None
    refused(m.view, "pixel_size=")
    view = read_micrograph(path, pixel_size).view()
    assert all(abs(n-k*pixel_size/.1) <= 1 for n, k in zip(view.shape, m.shape)) and "less than 25.6" in view.warnings[-1]
    h, w = view.shape
    f = np.hypot(*np.meshgrid(np.fft.fftfreq(1024, .1), np.fft.fftfreq(1024, .1)))
    power = abs(np.fft.fft2((view.data-view.data.mean())*np.outer(np.hanning(h), np.hanning(w)), (1024, 1024)))
    first = 2**.5/a if name == "FeTe" else 1/(a*.75**.5)
    ring, outside = power[abs(f/first-1) < .06].max(), power[(f > .15) & (f < .7*first)].max()
    assert ring > 2*outside


# Nion Swift and USID

@needs_extra
@pytest.mark.parametrize("name, write", [("a.h5", swift_h5), ("a.ndata1", swift_ndata), ("a.npy", swift_npy)])
def test_nion_swift_tells_scale_voltage_and_detector(tmp_path, name, write):
    write(tmp_path/name)
    read = read_micrograph(tmp_path/name)
    assert read.pixel_size == pytest.approx(.085) and read.shape == picture.shape
    assert str(read.instrument) == "60 kV, HAADF"

@needs_extra
@pytest.mark.parametrize("broken", ["[1, 2]", "{", '{"spatial_calibrations": 3}', '{"spatial_calibrations": [1, "nm"]}',
                                    '{"dimensional_calibrations": [{"scale": "wide", "units": 7}, {}]}'])
def test_what_swift_did_not_write_is_no_scale(tmp_path, broken):
    import h5py
    with h5py.File(tmp_path/"a.h5", "w") as f: f.create_dataset("data", data=picture).attrs["properties"] = broken
    assert read_micrograph(tmp_path/"a.h5").pixel_size is None

@needs_extra
@pytest.mark.parametrize("referred", [True, False], ids=["by reference", "beside"])
def test_a_list_of_values_and_positions_is_a_picture(tmp_path, referred):
    import h5py
    rows, columns = picture.shape
    at = np.stack([np.tile(np.arange(columns), rows), np.repeat(np.arange(rows), columns)], 1)
    with h5py.File(tmp_path/"a.h5", "w") as f:
        group = f.create_group("Measurement_000/Channel_000")
        place = f["Measurement_000"] if referred else group
        data = group.create_dataset("Raw_Data", data=picture.reshape(-1, 1))
        place["Position_Indices"], place["Position_Values"] = at, .0085*at
        place["Position_Values"].attrs["units"] = ["nm", "nm"]
        if referred:
            for key in ("Position_Indices", "Position_Values"): data.attrs[key] = place[key].ref
    read = read_micrograph(tmp_path/"a.h5")
    assert read.pixel_size == pytest.approx(.085) and read.data == pytest.approx((picture - picture.min())/np.ptp(picture), abs=.02)
