"Every way a file or an array can be broken must end in one clear line, never in a wrong scale."
import os
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
import tifffile
from hypothesis import HealthCheck, given, settings, strategies as st
from PIL import Image
from scipy.optimize import minimize_scalar

from microscopygpt.crystal import Slab, cell_from_lengths, from_slab
from microscopygpt.micrograph import Micrograph, MicrographError, read_micrograph, write_micrograph
from microscopygpt.stem import render, simulate

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
    other = bytes_[::-1]
    tifffile.imwrite(tmp_path/"pages.tif", np.stack([bytes_, other]), photometric="minisblack")
    tifffile.imwrite(tmp_path/"stack.tif", np.stack([bytes_, other]), imagej=True)
    Image.fromarray(bytes_).save(tmp_path/"a.gif", save_all=True, append_images=[Image.fromarray(other)])
    for source in (tmp_path/"pages.tif", tmp_path/"stack.tif", tmp_path/"a.gif", np.stack([bytes_, other])):
        m = read_micrograph(source, .1)
        assert np.array_equal(m.data, bytes_) and "only the first" in m.warnings[0]


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


@pytest.mark.parametrize("x, y, unit, word", [(72, 72, "INCH", "which no picture of atoms has"), (1e9, 2e9, "CENTIMETER", "along y"), (1, 1, "NONE", "no pixel size"), (0, 0, "CENTIMETER", "no pixel size")])
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
    np.savez(tmp_path/"a.npz", picture)
    refused(lambda: read_micrograph(tmp_path/"none.tif"), "no such file")
    refused(lambda: read_micrograph(tmp_path), "folder")
    refused(lambda: read_micrograph(tmp_path/"empty.png"), "empty")
    refused(lambda: read_micrograph(tmp_path/"text.png"), "not an image")
    refused(lambda: read_micrograph(tmp_path/"objects.npy"), "Object arrays")
    refused(lambda: read_micrograph(tmp_path/"a.npz"), "not an image")
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


files = {kind: _file(kind) for kind in ("npy", "tif", "zip.tif", "pil.tif", "png", "jpg", "gif")}


def _survives(content, path, whole):
    path.write_bytes(content)
    try: m = read_micrograph(path, .1)
    except MicrographError as e: assert "\n" not in str(e)
    else:
        assert m.data.ndim == 2 and np.isfinite(m.data).all()
        return m.shape == whole.shape and np.array_equal(m.data, whole)


@settings(quick, max_examples=60)
@given(st.sampled_from(sorted(files)), st.floats(0, .999))
def test_truncated_files(tmp_path, kind, share):
    whole = tmp_path/f"whole.{kind}"
    whole.write_bytes(files[kind])
    content = files[kind][:int(share*len(files[kind]))]
    assert _survives(content, tmp_path/f"part.{kind}", read_micrograph(whole, .1).data) in (None, True)


@settings(quick, max_examples=100)
@given(st.sampled_from(sorted(files)), st.lists(st.tuples(st.floats(0, .999), st.integers(0, 255)), min_size=1, max_size=8))
def test_corrupted_files_never_crash(tmp_path, kind, changes):
    content = bytearray(files[kind])
    for where, value in changes: content[int(where**4*len(content))] = value
    _survives(bytes(content), tmp_path/f"a.{kind}", picture)


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
