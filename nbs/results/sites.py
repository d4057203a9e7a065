"""The proof of `sites`: frames with known defects at many doses, through other probes and renderers, and by multislice.

    python nbs/results/sites.py nbs/results/sites/sites.json [--seeds 2] [--only doses,probes] [--again]

Frames that the file already holds are not analysed again, so that a longer run continues a shorter one. Each row is one
frame: its settings, [found, missed, false, named] for each kind of defect, false calls on the perfect frame of the same
settings, position errors beside the bound, and seconds of CPU.
"""
import argparse
import json
import time
from dataclasses import replace
from pathlib import Path
import numpy as np
from scipy.spatial import cKDTree
import sites_render
from microscopygpt.core import MicroscopyGPTError, write_atomically
from microscopygpt.crystal import Slab, from_slab, monolayer
from microscopygpt.micrograph import Micrograph
from microscopygpt.noise import Noise
from microscopygpt.scan import Scan
from microscopygpt.site_truth import DEFECTS, Defect, DefectFrame, defect_frame, frame_bounds, score_sites
from microscopygpt.sites import sites
from microscopygpt.stem import Probe

FOLDER = Path(__file__).parent/"sites"
MARGIN = 3. # Å from the edge, of columns whose position error counts
EACH = 30 # columns of a frame whose bound is computed
ALLOYS = {"MoS2, 30 % W": (Defect("substitution", "Mo", ("W",)),),
          "MoS2, 40 % Se": (Defect("substitution", "S2", ("S", "Se")), Defect("substitution", "S2", ("Se", "Se")))}
SHARES = {"MoS2, 30 % W": .15, "MoS2, 40 % Se": .2} # of all columns
ELEMENTS = {"MoS2, W and Se": "W,Se", "MoS2, 30 % W": "W", "MoS2, 40 % Se": "Se", "WSe2": "Mo", "graphene": "N,Si"}
IN_MULTISLICE = dict(ELEMENTS, MoS2="W,Se") # the sheet holds dopants and vacancies
CRYSTALS = "WSe2", "NbSe2", "PtSe2", "FeSe", "BN", "graphene", "MoS2, antisites", *ALLOYS
LATTICES = dict(NbSe2=(3.47, 3.36), PtSe2=(3.75, 2.6)) # a and thickness, Å

def fese():
    "The square sheet; heights as in the tetragonal crystal."
    frac, z = np.array([[0, 0], [.5, .5], [0, .5], [.5, 0]]), np.array([0, 0, 1.45, -1.45])
    return from_slab(Slab(3.77*np.eye(2), frac, z, np.array([26, 26, 34, 34])))

def crystal(case):
    "The perfect crystal of a case."
    name = case.split(",")[0]
    if name == "FeSe": return fese()
    a, thickness = LATTICES.get(name, (None, None))
    return monolayer(name, a=a, thickness=thickness)

# each part of the proof: rows (case, settings); a setting that is not named has its default
COUNTED = Noise(offset=.05)
HARD = dict(scan=Scan(affine=.08, drift=.1), noise=replace(COUNTED, jitter=.03, astigmatism=.3, gain_variation=.1, background=.3,
                                                           correlation_length=10.))
OTHER = sites_render.Microscope()
MICROSCOPES = { # of the other renderer
    "plain": OTHER, "broad tails": replace(OTHER, tail=.3, tail_width=1.2),
    "vibrating, relaxed": replace(OTHER, thermal=.07, relaxed=.1),
    "all at once": replace(OTHER, affine=.08, drift=.1, ellipse=1.3, jitter=.03, gain=.1, contamination=.3),
    "5 % of incident electrons": replace(OTHER, scattered=.05)}
PROBES = {"80 kV": Probe(80, 30), "60 kV, out of focus": Probe(60, 30, defocus=30.), "atomvision": "atomvision"}

def doses(values, case="MoS2", **settings): return [(case, dict(dose=d, **settings)) for d in values]

PARTS = dict(
    doses=doses((100, 300, 1000, 2000, 10000)),
    dopants=doses((300, 1000, 2000, 10000), "MoS2, W and Se"),
    crystals=[row for case in CRYSTALS for row in doses((300, 2000), case)],
    bound=doses((1000,), share=0.),
    distorted=doses((300, 2000), **HARD),
    distorted_dopants=doses((2000,), "MoS2, W and Se", **HARD),
    pixels=doses((2000,), pixel_size=.05) + doses((2000,), pixel_size=.2, size=256),
    vibration=doses((2000,), vibration=.07),
    adatoms=doses((2000,), adatoms={"Mo": 4, "S": 4}),
    many=doses((300, 2000), share=.06),
    probes=[row for name in PROBES for row in doses((2000,), probe=name)],
    other=[row for name in MICROSCOPES for row in doses((300, 2000), microscope=name)]
          + [row for case in ("MoS2, W and Se", "graphene", "WSe2") for row in doses((2000,), case, microscope="plain")]
          + doses((2000,), "MoS2, W and Se", microscope="all at once"),
    multislice=[(case, dict(dose=dose, detector=detector)) for case in ("MoS2", "WSe2", "graphene")
                for detector in ("haadf", "madf") for dose in (300, 2000, 10000)])

def label(symbols):
    "Label of a column of `sites_render`, as in S2 for S,S."
    parts = [s for s in symbols.split(",") if s]
    return "".join(f"{s}{parts.count(s) if parts.count(s) > 1 else ''}" for s in dict.fromkeys(parts))

def numbers(symbols): return tuple(sorted((sites_render.Z[s] for s in symbols.split(",") if s), reverse=True))

def other_frame(case, microscope, dose, seed, perfect=False, **settings):
    "A frame of the other renderer, as a `DefectFrame`."
    defects = [(d.call, ",".join(old_symbols(d.old)), ",".join(sorted(d.new))) for d in (ALLOYS | DEFECTS)[case]]
    f = sites_render.frame(case.split(",")[0], () if perfect else defects, seed=seed,
                           microscope=replace(MICROSCOPES[microscope], dose=dose), **settings)
    return DefectFrame(Micrograph(f.image, f.pixel_size), f.xy, np.array([label(k) for k in f.kind]), f.call,
                       [numbers(n) for n in f.new], f.mean)

def old_symbols(old): # S2 -> S, S
    name = old.rstrip("23")
    return [name]*int(old[len(name):] or 1)

SOURCE, PIXEL = .35, .1 # Å: standard deviation of the source, and the pixels of the interpolated scan

def interpolated(scan, box):
    "A periodic scan on pixels of `PIXEL`, through the source."
    gy, gx = (np.fft.fftfreq(n, length/n) for n, length in zip(scan.shape, box[::-1]))
    f = np.fft.fft2(scan)/scan.size*np.exp(-2*np.pi**2*SOURCE**2*(gy[:, None]**2 + gx**2))
    y, x = (np.arange(int(length/PIXEL))*PIXEL for length in box[::-1])
    return (np.exp(2j*np.pi*np.outer(y, gy))@f@np.exp(2j*np.pi*np.outer(gx, x))).real

def has_multislice(case): return (FOLDER/f"multislice_{case}.npz").is_file()

def multislice_frame(case, detector, dose, seed, perfect=False):
    "A stored multislice scan, counted; only its defects are in the truth."
    with np.load(FOLDER/f"multislice_{case}.npz", allow_pickle=False) as f: stored = dict(f)
    image = interpolated(stored[detector]/65535, stored["box"])
    image = (image - image.min())/np.ptp(image) + .05
    counts = np.random.default_rng([seed, 5]).poisson(image*dose*PIXEL**2)
    seen = (stored["xy"] < np.array(image.shape[::-1])*PIXEL - PIXEL).all(1)
    xy, call, old, new = (stored[k][seen] for k in ("xy", "call", "old", "new"))
    return DefectFrame(Micrograph(counts.astype(float), PIXEL), xy, np.array([label(o) for o in old], object),
                       call.astype(object), [numbers(n) for n in new], image)

def make_frame(case, settings, seed, perfect=False):
    "The frame of a row."
    settings = dict(settings)
    if "microscope" in settings: return other_frame(case, seed=seed, perfect=perfect, **settings)
    if "detector" in settings: return multislice_frame(case, seed=seed, **settings)
    noise = replace(settings.pop("noise", COUNTED), dose=settings.pop("dose"))
    defects = () if perfect else (ALLOYS | DEFECTS)[case]
    if perfect: settings.pop("adatoms", None)
    settings.setdefault("share", SHARES.get(case, .02))
    if "probe" in settings: settings["probe"] = PROBES[settings["probe"]]
    return defect_frame(crystal(case), defects, **settings, noise=noise, seed=seed)

def analysed(case, frame, elements=ELEMENTS):
    "Sites of a frame and the seconds of CPU."
    start = time.process_time()
    found = sites(frame.micrograph, crystal(case), elements=elements.get(case, ()))
    return found, time.process_time() - start

def position_errors(found, frame, fov):
    "Errors (n, 2) Å of columns that are as expected, and their indices."
    inner = np.flatnonzero((frame.call == "expected") & ((frame.xy > MARGIN) & (frame.xy < fov - MARGIN)).all(1))
    if not len(inner): return np.empty((0, 2)), inner
    return found.xy[cKDTree(found.xy).query(frame.xy[inner])[1]] - frame.xy[inner], inner

def row(part, case, settings, seed):
    "One frame and the perfect one beside it."
    out = dict(part=part, case=case, settings=described(settings), seed=seed)
    frame = make_frame(case, settings, seed)
    fov = frame.micrograph.shape[0]*frame.micrograph.pixel_size
    try: found, seconds = analysed(case, frame, IN_MULTISLICE if "detector" in settings else ELEMENTS)
    except MicroscopyGPTError as e: return dict(out, error=f"{type(e).__name__}: {e}")
    errors, inner = position_errors(found, frame, fov)
    out |= dict(sites=len(found), seconds=round(seconds, 2), power=round(found.power, 2),
                counts={k: list(c) for k, c in score_sites(found, frame).items()},
                off=rms_by_label(errors, frame.expected[inner]))
    if part == "bound": out["bound"] = bounds(frame, settings, inner)
    if "detector" in settings: return out
    perfect = make_frame(case, settings, seed + 1000, perfect=True)
    found, _ = analysed(case, perfect)
    calls, count = np.unique(found.call[found.call != "expected"].astype(str), return_counts=True)
    return out | dict(perfect_sites=len(perfect), perfect_false=dict(zip(calls.tolist(), count.tolist())))

def root_mean_square(values): return float(np.sqrt((np.asarray(values)**2).mean()))

def rms_by_label(errors, labels): return {str(k): root_mean_square(errors[labels == k]) for k in np.unique(labels)}

def bounds(frame, settings, inner):
    "Cramér-Rao bounds of some columns, by label."
    some = np.concatenate([inner[frame.expected[inner] == k][:EACH] for k in np.unique(frame.expected[inner])])
    values = frame_bounds(frame, replace(COUNTED, dose=settings["dose"]), .5, some)
    return rms_by_label(values, frame.expected[some])

def described(settings):
    "Settings as text."
    return {k: v if isinstance(v, (int, float, str, dict)) else repr(v) for k, v in settings.items()}

def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--only", default=",".join(PARTS), help="parts, with commas between them")
    parser.add_argument("--again", action="store_true", help="analyse frames of these parts anew")
    a = parser.parse_args()
    rows = json.loads(a.out.read_text()) if a.out.is_file() else []
    only = a.only.split(",")
    if a.again: rows = [r for r in rows if r["part"] not in only]
    done = {json.dumps([r[k] for k in ("part", "case", "settings", "seed")]) for r in rows}
    for seed in range(a.seeds):
        for part in only:
            for case, settings in PARTS[part]:
                if json.dumps([part, case, described(settings), seed]) in done: continue
                if part == "multislice" and not has_multislice(case): continue
                rows.append(row(part, case, settings, seed))
                print(json.dumps(rows[-1]), flush=True)
                write_atomically(a.out, "[\n" + ",\n".join(map(json.dumps, rows)) + "\n]\n")

if __name__ == "__main__": main()
