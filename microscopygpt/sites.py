"""Every atom of a micrograph: where it is, and what stands where something else was expected."""
from dataclasses import dataclass, field
import numpy as np
from ase.data import atomic_numbers, chemical_symbols
from scipy.ndimage import gaussian_filter, maximum_filter
from scipy.spatial import cKDTree
from scipy.stats import norm
from microscopygpt.core import MicroscopyGPTError
from microscopygpt.crystal import Slab, from_slab, standardize, to_slab
from microscopygpt.micrograph import Micrograph, read_micrograph
from microscopygpt.column_fit import fit_columns, lookup, tables, _metric, TABLE
from microscopygpt.occupancy import contrast_power, mixture, occupants, weight
from microscopygpt.register import SitesError, lay, laid_from, register

CALLS = "expected", "vacancy", "partial", "substitution", "antisite", "adatom"

@dataclass(frozen=True)
class Column:
    "A column of atoms of the average crystal."
    frac: tuple # position in the cell
    numbers: tuple # atomic numbers, the highest atom first
    z: tuple # heights, Å
    @property
    def label(self)->str: # "Mo", "S2"
        s = [chemical_symbols[n] for n in self.numbers]
        return "".join(f"{e}{s.count(e) if s.count(e) > 1 else ''}" for e in dict.fromkeys(s))

@dataclass
class Sites:
    "Every column of a micrograph. Positions in Å from the centre of the first pixel, x to the right, y downward."
    micrograph: Micrograph
    atoms: "Atoms" # average crystal
    formula: str
    grains: list # of `Grain`: cell (2, 2) Å as it lies in the frame, slab, displaced(xy)
    columns: list # of `Column` of the cell
    xy: np.ndarray # (n, 2) Å, measured
    xy_error: np.ndarray # (n, 2) Å, standard error
    expected_xy: np.ndarray # (n, 2) Å, where the average crystal puts it
    column: np.ndarray # (n,) index into `columns`, -1 for an adatom
    grain: np.ndarray # (n,) index into `grains`
    cell_index: np.ndarray # (n, 2) integers
    intensity: np.ndarray # (n,) integrated, in units of the image times Å²
    intensity_error: np.ndarray # (n,)
    ratio: np.ndarray # (n,) to what stands there in the average crystal
    ratio_error: np.ndarray # (n,)
    z: np.ndarray # (n,) deviation of the ratio from 1 in standard errors
    call: np.ndarray # (n,) of str, one of CALLS
    detail: np.ndarray # (n,) of str
    probability: np.ndarray # (n,) of the call
    occupants: list # (n,) tuples of atomic numbers that stand there
    power: float # exponent of the contrast
    profile: object # of a column
    elements: tuple = () # symbols that were named
    notes: list = field(default_factory=list)
    fit: object = None

    def __len__(self): return len(self.xy)
    @property
    def expected(self)->np.ndarray: # (n,) labels
        return np.array(["" if k < 0 else self.columns[k].label for k in self.column])

MERGE = .6 # Å, of atoms that one column holds

def columns_of(slab):
    "Columns of a cell."
    group, out = np.full(len(slab.z), -1), []
    for i in range(len(slab.z)):
        if group[i] >= 0: continue
        d = slab.frac - slab.frac[i]
        d -= np.round(d)
        near = np.flatnonzero((np.linalg.norm(d@slab.cell, axis=1) < MERGE) & (group < 0))
        group[near] = i
        near = near[np.argsort(-slab.z[near])]
        w = slab.numbers[near]**1.7
        frac = slab.frac[i] + (d[near]*w[:, None]).sum(0)/w.sum()
        out.append(Column(tuple(frac.tolist()), tuple(slab.numbers[near].tolist()), tuple(slab.z[near].tolist())))
    return out

EDGE = 1.2 # Å, beyond the frame, of columns that reach into it

def sites_of_grain(grain, columns, fov):
    "xy (n, 2) Å, column (n,), cell index (n, 2)."
    inv = np.linalg.inv(grain.cell)
    t0 = np.nanmean(grain.t[grain.quality > 0], 0)
    corners = np.array([[0, 0], [fov[0], 0], [0, fov[1]], fov], float)
    uv = (corners - t0)@inv
    low, high = np.floor(uv.min(0)).astype(int) - 3, np.ceil(uv.max(0)).astype(int) + 4
    n = np.stack(np.meshgrid(*(np.arange(a, b) for a, b in zip(low, high)), indexing="ij"), -1).reshape(-1, 2)
    base = ((n[:, None] + np.array([c.frac for c in columns]))@grain.cell).reshape(-1, 2)
    r = base + t0
    for _ in range(3): r = base + grain.displaced(r)
    keep = ((r > -EDGE) & (r < np.array(fov) + EDGE)).all(1)
    return r[keep], np.tile(np.arange(len(columns)), len(n))[keep], np.repeat(n, len(columns), 0)[keep]

def _node_of(grain, xy):
    i = np.clip(np.round((xy[:, 1] - grain.y[0])/(grain.y[1]-grain.y[0])).astype(int), 0, len(grain.y)-1)
    j = np.clip(np.round((xy[:, 0] - grain.x[0])/(grain.x[1]-grain.x[0])).astype(int), 0, len(grain.x)-1)
    return i, j

APART = .7 # of the shortest distance of two columns in the crystal

def all_sites(grains, fov, columns):
    quality = np.array([g.quality for g in grains])
    owner = np.where(quality.max(0) > 0, quality.argmax(0), -1)
    parts = []
    for k, g in enumerate(grains):
        r, col, n = sites_of_grain(g, columns, fov)
        mine = owner[_node_of(g, r)] == k
        parts.append((r[mine], col[mine], n[mine], np.full(mine.sum(), k)))
    xy, col, n, grain = (np.concatenate(p) for p in zip(*parts))
    if len(grains) > 1 and len(xy):
        near = cKDTree(xy)
        shortest = np.median(near.query(xy, 2)[0][:, 1])
        keep = np.ones(len(xy), bool)
        q = quality[grain, *_node_of(grains[0], xy)]
        for i, j in near.query_pairs(APART*shortest):
            if grain[i] != grain[j]: keep[i if q[i] < q[j] else j] = False
        xy, col, n, grain = xy[keep], col[keep], n[keep], grain[keep]
    return xy, col, n, grain

LEAST_Z = 3.6

def accepted(p_expected, z, rate):
    "Defects at a false discovery rate: (n,) bool."
    order = np.argsort(p_expected)
    ok = np.zeros(len(z), bool)
    can = np.abs(z) > LEAST_Z
    order = order[can[order]]
    if not len(order): return ok
    fdr = np.cumsum(p_expected[order])/np.arange(1, len(order)+1)
    last = np.flatnonzero(fdr <= rate)
    if len(last): ok[order[:last[-1]+1]] = True
    return ok

INSIDE = 0. # Å

def slow_gain(xy, ratio, error, good, fov, step=4., sigma=12.):
    shape = tuple(int(f/step) + 2 for f in fov[::-1])
    ij = tuple((np.clip(xy, 0, np.array(fov))/step).astype(int)[:, ::-1].T)
    num, den = np.zeros(shape), np.zeros(shape)
    w = 1/error**2
    np.add.at(num, tuple(k[good] for k in ij), (w*ratio)[good])
    np.add.at(den, tuple(k[good] for k in ij), w[good])
    num, den = (gaussian_filter(a, sigma/step, mode="nearest") for a in (num, den))
    g = num/np.maximum(den, 1e-12)
    g[den < 1e-9*den.max()] = 1
    from scipy.ndimage import map_coordinates
    at = (np.clip(xy, 0, np.array(fov))/step - .5)[:, ::-1].T
    return map_coordinates(g, at, order=1, mode="nearest")

def find_adatoms(fit, q, off, sigma, xy, unit, power, named, least, fov, rate=1.):
    "Peaks of the residual between the columns: rows of (xy, amplitude, error, z)."
    from scipy.signal import fftconvolve
    k = int(np.ceil(fit.profile.reach/q)); o = np.arange(-k, k+1)*q
    dx, dy = np.meshgrid(o, o)
    s2, _ = _metric(fit.profile, dx, dy)
    P = np.where(s2 < TABLE[-1], lookup(tables(fit.profile)[0], s2), 0)
    w = 1/sigma**2
    num = fftconvolve(fit.residual*w, P[::-1, ::-1], mode="same")
    den = fftconvolve(w, (P**2)[::-1, ::-1], mode="same")
    den = np.maximum(den, 1e-12)
    amp, err = num/den, 1/np.sqrt(den)
    zz = amp/err
    far = np.ones(zz.shape, bool)
    scale = max(1., 1.4826*np.median(np.abs(zz)))
    zz = zz/scale
    peak = (zz == maximum_filter(zz, 2*int(.6/q) + 1)) & (zz > 4.75) & (amp > least*unit)
    y, x = np.nonzero(peak)
    r = np.c_[x, y]*q + off
    d = cKDTree(xy).query(r)[0]
    keep = (d > .55) & ((r > .5) & (r < np.array(fov) - .5)).all(1)
    return r[keep], amp[y, x][keep], (err*scale)[y, x][keep], zz[y, x][keep]

def _named(elements):
    if not elements: return ()
    if isinstance(elements, str): elements = [e.strip() for e in elements.split(",") if e.strip()]
    bad = [e for e in elements if e not in atomic_numbers or not atomic_numbers[e]]
    if bad: raise SitesError(f"{bad[0]!r} is not a chemical element: name them as in elements='Se,W'.")
    return tuple(elements)

def sites(image, # path, array, `Micrograph`, or a `Prediction`
          structure=None, # jarvis Atoms
          formula=None, pixel_size=None, *, elements=(), density=.01, false_discoveries=.05, progress=None, **options):
    "Every column of a micrograph."
    from microscopygpt.prediction import Prediction
    named = _named(elements)
    if isinstance(image, Prediction): prediction = image
    elif structure is None:
        from microscopygpt.solve import predict
        prediction = predict(image, formula, pixel_size, progress=progress, **options)
    else: prediction = None
    if prediction is not None:
        if not prediction.candidates: raise SitesError("The prediction has no candidate: there is no crystal to continue.")
        best, ob = prediction.best, prediction.observation
        atoms, micrograph = best.atoms, prediction.micrograph
        from dataclasses import replace
        micrograph = replace(micrograph, pixel_size=ob.source_pixel_size)
        laid = laid_from(ob, best.proof)
    else:
        micrograph = read_micrograph(image, pixel_size)
        atoms = structure
        if micrograph.pixel_size is None:
            from microscopygpt.observe import pixel_size_from_lattice
            from microscopygpt.crystal import reduce_cell
            from dataclasses import replace
            a = np.linalg.norm(reduce_cell(to_slab(atoms).cell)[0][0])
            micrograph = replace(micrograph, pixel_size=pixel_size_from_lattice(micrograph, a))
        laid = lay(micrograph, atoms)
    return analyse(micrograph, atoms, laid, named, density, false_discoveries)

def analyse(micrograph, atoms, laid, named, density, rate):
    p = micrograph.pixel_size
    fov = ((micrograph.shape[1] - 1)*p, (micrograph.shape[0] - 1)*p)
    grains = register(micrograph, laid, atoms)
    columns = columns_of(grains[0].slab)
    xy, col, n, grain = all_sites(grains, fov, columns)
    numbers = [tuple(sorted(c.numbers, reverse=True)) for c in columns]
    kinds = sorted(set(numbers))
    kind = np.array([kinds.index(numbers[k]) for k in col])
    fit, q, off, sigma = fit_columns(micrograph.data, p, xy, kind, laid.variance, laid.astigmatism)
    inside = ((xy >= INSIDE) & (xy <= np.array(fov) - INSIDE)).all(1)
    levels = np.array([np.median(fit.intensity[(kind == k) & inside]) for k in range(len(kinds))])
    power = contrast_power(levels, kinds)
    formula_numbers = sorted({z for c in kinds for z in c})
    extra = [atomic_numbers[e] for e in named]
    N = len(xy)
    gain, unsettled = np.ones(N), np.zeros(N, bool)
    base = fit.intensity/levels[kind]; error = fit.error/levels[kind]
    for again in range(2):
        ratio, err, p_exp, best = base/gain, error/gain, np.ones(N), np.zeros(N, int)
        top = np.ones(N)
        options = []
        z = np.zeros(N)
        for k, c in enumerate(kinds):
            opts = occupants(c, formula_numbers, extra, power)
            options.append(opts)
            s = np.flatnonzero((kind == k) & inside)
            if not len(s): continue
            post, factor, b, _, _ = mixture(ratio[s], err[s], opts, density)
            ratio[s] /= b; err[s] *= factor/b
            z[s] = (ratio[s] - 1)/err[s]
            p_exp[s] = post[:, 0]
            best[s] = post[:, 1:].argmax(1) + 1
            top[s] = post[np.arange(len(s)), best[s]]
        hit = accepted(p_exp, z, rate) & inside
        if again == 0: gain = slow_gain(xy, ratio, err, ~hit & inside, fov)
    call = np.full(N, "expected", object); detail = np.full(N, "", object); occ = []
    prob = np.where(hit, top, p_exp)
    for i in range(N):
        opts = options[kind[i]]
        if not hit[i]: occ.append(opts[0].elements); continue
        if best[i] < len(opts): o = opts[best[i]]; call[i], detail[i] = o.call, o.detail; occ.append(o.elements)
        else:
            call[i], detail[i] = "substitution", ("heavier" if ratio[i] > 1 else "lighter") + " than any element that was named"
            occ.append(opts[0].elements)
    keep = inside
    unit = levels[0]/weight(kinds[0], power)
    lightest = min([z_ for z_ in formula_numbers + extra])
    ax, aamp, aerr, az = find_adatoms(fit, q, off, sigma, fit.xy, unit, power, named, .5*lightest**power, fov)
    m = len(ax)
    def join(a, b): return np.concatenate([a[keep], b])
    adetail, aocc = [], []
    for a in aamp:
        Z = (a/unit)**(1/power)
        cand = sorted(formula_numbers + extra, key=lambda s: abs(np.log(weight((s,), power)*unit/a)))
        adetail.append(f"like {chemical_symbols[cand[0]]} (Z = {Z:.0f} by its intensity)"); aocc.append((cand[0],))
    return Sites(micrograph, atoms, "", grains, columns, join(fit.xy, ax), join(fit.xy_error, np.full((m, 2), np.nan)), join(xy, ax), join(col, np.full(m, -1)),
                 join(grain, np.zeros(m, int)), join(n, np.zeros((m, 2), int)), join(fit.intensity, aamp), join(fit.error, aerr),
                 join(ratio, np.array([a/unit/weight(o, power) for a, o in zip(aamp, aocc)])), join(err, aerr/np.maximum(aamp, 1e-9)), join(z, az), join(call, np.full(m, "adatom", object)),
                 join(detail, np.array(adetail, object)), join(prob, norm.cdf(az)), [o for o, k in zip(occ, keep) if k] + aocc, power, fit.profile, named, [], fit)
