"What `sites` must find, on frames with known defects: cheap versions of the proof on the page of its results."
import sys
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
import numpy as np, pytest
from scipy.spatial import cKDTree

RESULTS = Path(__file__).parents[1]/"nbs/results"
sys.path.insert(0, str(RESULTS))
from sites import COUNTED, HARD, IN_MULTISLICE, analysed, crystal, make_frame # the script
from microscopygpt.crystal import monolayer
from microscopygpt.micrograph import Micrograph
from microscopygpt.noise import add_noise
from microscopygpt.site_truth import Count, defect_frame, frame_bounds, position_bound, score_sites
from microscopygpt.sites import sites
from microscopygpt.stem import simulate

@lru_cache(None)
def counts(case, seeds, items):
    "Counts of each kind over some frames."
    total = {}
    for seed in seeds:
        frame = make_frame(case, dict(items), seed)
        found, _ = analysed(case, frame, *([IN_MULTISLICE] if "detector" in dict(items) else []))
        for kind, count in score_sites(found, frame).items(): total[kind] = total.get(kind, Count()) + count
    return total

def of(case, seeds=(0,), **settings): return counts(case, tuple(seeds), tuple(sorted(settings.items())))
def f1(total, *kinds): return sum((total.get(k, Count()) for k in kinds), Count()).f1

def false_calls(case, seed=0, **settings):
    frame = make_frame(case, settings, seed, perfect=True)
    found, _ = analysed(case, frame)
    return int((found.call != "expected").sum()), len(frame)

def test_vacancies_at_2000():
    total = of("MoS2", (0, 1), dose=2000., share=.06)
    assert f1(total, "vacancy Mo", "vacancy S2") >= .98
    assert f1(total, "partial S2") >= .9

def test_vacancies_at_300(): assert f1(of("MoS2", (0, 1), dose=300., share=.06), "vacancy Mo", "vacancy S2") >= .9

def test_dopants():
    assert f1(of("MoS2, W and Se", dose=1000., share=.06), "substitution Mo: W") >= .95
    total = of("MoS2, W and Se", dose=2000., share=.06)
    assert f1(total, "substitution S2: S Se") >= .9
    assert total["substitution Mo: W"].named == total["substitution Mo: W"].found, "tungsten is named"

@pytest.mark.parametrize("case", ["MoS2", "graphene", "FeSe"])
def test_nothing_on_perfect_frames(case):
    false, n = map(sum, zip(*(false_calls(case, dose=dose) for dose in (100., 1000., 10000.))))
    assert false <= max(1, round(n/1000)), f"{false} false calls in {n} sites"

def test_nothing_on_a_perfect_frame_without_noise():
    false, n = false_calls("MoS2", dose=0., size=384)
    assert false <= 1, f"{false} false calls in {n} sites"

@pytest.mark.parametrize("seed", [1, 2])
def test_nothing_where_the_beam_jumped(seed):
    "Five times three lines are 1.2 Å off: they are no defects."
    rng, atoms = np.random.default_rng(seed), monolayer("WSe2")
    image = add_noise(simulate(atoms, size=256, rotation=25*seed), replace(COUNTED, dose=1000), .1, seed)
    for first in rng.choice(240, 5, replace=False) + 6:
        image[first:first+3] = np.roll(image[first:first+3], rng.choice([-12, 12]), axis=1)
    assert not sites(Micrograph(image, .1), atoms).is_defect.any()

def test_a_distorted_scan_and_an_elliptic_probe_cost_little():
    kinds = "vacancy Mo", "vacancy S2", "partial S2"
    straight, hard = (of("MoS2", (0, 1), dose=2000., share=.06, **more) for more in ({}, HARD))
    assert f1(hard, *kinds) >= f1(straight, *kinds) - .05

@pytest.mark.parametrize("microscope", ["plain", "all at once", "vibrating, relaxed"])
def test_frames_by_another_renderer(microscope):
    total = of("MoS2", microscope=microscope, dose=2000., share=.06)
    assert f1(total, "vacancy Mo", "vacancy S2") >= .95 and f1(total, "partial S2") >= .85

def test_a_physical_probe():
    total = of("MoS2", probe="80 kV", dose=2000., share=.06)
    assert f1(total, "vacancy Mo", "vacancy S2") >= .95 and f1(total, "partial S2") >= .85

def test_multislice():
    total = of("MoS2", detector="haadf", dose=2000.)
    assert f1(total, "vacancy Mo", "vacancy S2") >= .9
    assert sum(c.false for c in total.values()) <= 3

def test_positions_near_the_bound():
    noise = replace(COUNTED, dose=1000)
    frame = defect_frame(crystal("MoS2"), noise=noise, size=320, seed=7)
    found = sites(frame.micrograph, crystal("MoS2"))
    inner = np.flatnonzero(((frame.xy > 3) & (frame.xy < 28)).all(1))
    off = found.xy[cKDTree(found.xy).query(frame.xy[inner])[1]] - frame.xy[inner]
    bounds = frame_bounds(frame, noise, .5, inner)
    for label in ("Mo", "S2"):
        mine = frame.expected[inner] == label
        ratio = np.sqrt((off[mine]**2).mean()/(bounds[mine]**2).mean())
        assert .8 < ratio < 1.3, f"{label}: {ratio:.2f} times the bound"

def test_the_bound_of_a_lone_column():
    assert position_bound(np.zeros((1, 2)), np.array([400.]), 1e-6, .5) == pytest.approx(.5/20, rel=.01)
    with_background = position_bound(np.zeros((1, 2)), np.array([400.]), 100., .5)
    assert with_background > 1.1*.5/20

def test_the_truth_is_where_the_image_says():
    "Without noise the brightest pixels lie at columns, also where the scan distorts."
    frame = defect_frame(crystal("MoS2"), noise="none", scan=HARD["scan"], size=256, seed=3)
    metal = frame.xy[(frame.expected == "Mo") & ((frame.xy > 1) & (frame.xy < 24)).all(1)]
    image = frame.micrograph.data
    for x, y in metal/.1:
        part = image[int(round(y))-4:int(round(y))+5, int(round(x))-4:int(round(x))+5]
        row, column = np.unravel_index(part.argmax(), part.shape)
        assert abs(row - 4) <= 1 and abs(column - 4) <= 1
