"""Micrographs with known defects by a renderer that shares no code with the package: what `sites` is tried on.

Each atom is drawn by itself at its own place: a Gaussian and a broad tail in an elliptic metric, on the pixels where
the scan really was, line by line. Nothing is interpolated, so that the truth is exact.
"""
from dataclasses import dataclass, field
import numpy as np

Z = dict(B=5, C=6, N=7, O=8, Si=14, S=16, V=23, Fe=26, Se=34, Nb=41, Mo=42, Te=52, W=74, Re=75, Pt=78)

@dataclass(frozen=True)
class Sheet:
    "A crystal: cell vectors (2, 2) Å, and columns (place in the cell, symbols from the top, heights in Å)."
    cell: tuple
    columns: tuple

def hexagonal(a): return ((a, 0.), (-a/2, a*3**.5/2))

def trigonal_prisms(metal, other, a, h): # 2H
    return Sheet(hexagonal(a), (((1/3, 2/3), (metal,), (0.,)), ((2/3, 1/3), (other, other), (h/2, -h/2))))

SHEETS = dict(
    MoS2=trigonal_prisms("Mo", "S", 3.17, 3.13), WSe2=trigonal_prisms("W", "Se", 3.30, 3.34),
    NbSe2=trigonal_prisms("Nb", "Se", 3.46, 3.36),
    PtSe2=Sheet(hexagonal(3.74), (((0, 0), ("Pt",), (0.,)), ((1/3, 2/3), ("Se",), (1.3,)),
                                  ((2/3, 1/3), ("Se",), (-1.3,)))),
    BN=Sheet(hexagonal(2.505), (((1/3, 2/3), ("B",), (0.,)), ((2/3, 1/3), ("N",), (0.,)))),
    graphene=Sheet(hexagonal(2.464), (((1/3, 2/3), ("C",), (0.,)), ((2/3, 1/3), ("C",), (0.,)))),
    FeSe=Sheet(((3.77, 0.), (0., 3.77)), (((0, 0), ("Fe",), (0.,)), ((.5, .5), ("Fe",), (0.,)),
                                         ((0, .5), ("Se",), (1.45,)), ((.5, 0), ("Se",), (-1.45,)))))

@dataclass(frozen=True)
class Microscope:
    "What the instrument does; lengths in Å."
    sigma: float = .42 # of the Gaussian
    ellipse: float = 1. # long over short axis
    tail: float = .1 # share of the intensity in the tail
    tail_width: float = .9
    power: float = 1.65 # of the atomic number
    dose: float = 2000. # e/Å2: detected where the image is brightest, or incident with `scattered`
    scattered: float = 0. # share of the incident electrons that reach the detector, in the mean over the image
    offset: float = .03 # of the brightest
    jitter: float = 0. # of each line, standard deviation
    gain: float = 0. # slow change, root mean square over the mean
    contamination: float = 0. # slow background, largest over the brightest column
    affine: float = 0. # largest distortion
    drift: float = 0. # smooth displacement, root mean square
    thermal: float = 0. # of each atom, along each axis, frozen
    relaxed: float = 0. # how far neighbours of a vacancy move towards it
    levels: int = 0 # gray values of the stored image; 0 for none

@dataclass
class Frame:
    image: np.ndarray
    pixel_size: float
    xy: np.ndarray # (n, 2) Å, every column (also those that are empty), adatoms last
    kind: np.ndarray # (n,) the column's symbols as they should be, "Mo" or "S,S"; "" for adatoms
    call: np.ndarray # (n,) "expected" or what stands there instead
    new: np.ndarray # (n,) symbols that stand there
    mean: np.ndarray # the image that was expected, before counting: electrons per pixel

def smooth_field(shape, length, rng, modes=12):
    "A random smooth function on [0, 1]²-like coordinates: a sum of plane waves of about `length`; root mean square 1."
    q = rng.normal(size=(modes, 2))/length
    phase = rng.uniform(0, 2*np.pi, modes)
    return lambda xy: np.sqrt(2/modes)*np.cos(2*np.pi*xy@q.T*.35 + phase).sum(-1)

def lattice_points(sheet, matrix, origin, size):
    "Columns in and around a view: xy (n, 2), index of the column."
    cell = np.array(sheet.cell)@matrix
    reach = 1.6*size
    m = int(reach/np.sqrt(abs(np.linalg.det(cell)))) + 4
    n = np.stack(np.meshgrid(np.arange(-m, m+1), np.arange(-m, m+1), indexing="ij"), -1).reshape(-1, 2)
    xy = np.concatenate([(n + np.array(place))@cell + origin for place, *_ in sheet.columns])
    which = np.repeat(np.arange(len(sheet.columns)), len(n))
    seen = ((xy > -8) & (xy < size + 8)).all(1)
    return xy[seen], which[seen]

def render(xy, weight, size, p, microscope, line_shift=None, angle=0.):
    "Sum of profiles (rows, columns) per Å2; the beam of row i was displaced by line_shift[i] along x."
    image = np.zeros((size, size))
    ratio = microscope.ellipse**.5
    c, s = np.cos(angle), np.sin(angle)
    M = np.array([[c, -s], [s, c]])@np.diag([1/ratio, ratio])@np.array([[c, s], [-s, c]]) # unit determinant
    sigma, width, tail = microscope.sigma, microscope.tail_width, microscope.tail
    reach = 7*max(sigma*ratio, .6 if not tail else width*1.3)
    shift = np.zeros(size) if line_shift is None else line_shift
    for (x, y), w in zip(xy, weight):
        rows = slice(max(0, int((y - reach)/p)), min(size, int((y + reach)/p) + 2))
        cols = slice(max(0, int((x - reach)/p) - 1), min(size, int((x + reach)/p) + 2))
        if rows.start >= rows.stop or cols.start >= cols.stop: continue
        dy = (np.arange(rows.start, rows.stop)*p - y)[:, None]
        dx = (np.arange(cols.start, cols.stop)*p - x)[None] + shift[rows][:, None]
        r2 = (M[0, 0]*dx + M[0, 1]*dy)**2 + (M[1, 0]*dx + M[1, 1]*dy)**2
        one = (1 - tail)*np.exp(-.5*r2/sigma**2)/(2*np.pi*sigma**2)
        if tail: one = one + tail*(1 + r2/width**2)**-1.5/(2*np.pi*width**2)
        image[rows, cols] += w*one
    return image

def frame(name, defects=(), share=.02, size=512, pixel_size=.1, seed=0, microscope=Microscope(), adatoms=(), sheet=None,
          spacing=0.):
    """A micrograph with defects: rows (call, old, new) as in ("partial", "S,S", "S"), equally many of each, in `share`
    of the columns; adatoms (symbol, count); `spacing` (Å) is the least distance between two defects."""
    m = microscope
    rng = np.random.default_rng([seed, 77])
    sheet = sheet or SHEETS[name]
    angle, flip = rng.uniform(0, 2*np.pi), rng.random() < .5
    turn = np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])@np.diag([1, -1 if flip else 1])
    direction = rng.normal(size=(2, 2))
    affine = np.eye(2) + m.affine*direction/np.linalg.norm(direction, 2)
    fov = (size - 1)*pixel_size
    xy, which = lattice_points(sheet, turn@affine, rng.uniform(0, 5, 2), fov)
    kinds = [",".join(sorted(symbols)) for _, symbols, _ in sheet.columns]
    kind = np.array([kinds[k] for k in which], object)
    call, new = np.full(len(xy), "expected", object), kind.copy()
    inside = ((xy >= 0) & (xy <= fov)).all(1)
    if defects:
        wanted = {k: int(np.ceil(share*inside.sum()/len(defects))) for k in range(len(defects))}
        used = []
        for k, (what, old, becomes) in enumerate(defects):
            for i in rng.permutation(np.flatnonzero(inside & (kind == old))):
                if wanted[k] == 0: break
                if call[i] != "expected": continue
                if spacing and used and np.linalg.norm(xy[used] - xy[i], axis=1).min() < spacing: continue
                call[i], new[i] = what, becomes
                used.append(i)
                wanted[k] -= 1
    if m.drift:
        fx, fy = (smooth_field(None, 25., rng) for _ in range(2))
        xy = xy + m.drift*np.c_[fx(xy), fy(xy)]
    place = xy.copy()
    for i in np.flatnonzero(np.isin(call, ["vacancy", "partial"])) if m.relaxed else ():
        d = xy - xy[i]
        r = np.linalg.norm(d, axis=1)
        nearest = np.sort(r[r > .3])[0]
        near = (r > .3) & (r < 1.25*nearest)
        xy[near] -= m.relaxed*d[near]/r[near, None]*(1 if call[i] == "vacancy" else .6)
    atoms, weights = [], []
    for i in range(len(xy)):
        for symbol in filter(None, new[i].split(",")):
            atoms.append(xy[i] + m.thermal*rng.normal(size=2))
            weights.append(Z[symbol]**m.power)
    extra = []
    for symbol, count in adatoms:
        while count:
            at = rng.uniform(1.5, fov - 1.5, 2)
            others = np.array([e[0] for e in extra]).reshape(-1, 2)
            if np.linalg.norm(xy - at, axis=1).min() < .9: continue
            if len(others) and np.linalg.norm(others - at, axis=1).min() < 4: continue
            extra.append((at, symbol))
            atoms.append(at)
            weights.append(Z[symbol]**m.power)
            count -= 1
    lines = m.jitter*rng.normal(size=size) if m.jitter else None
    image = render(np.array(atoms), np.array(weights), size, pixel_size, m, lines, rng.uniform(0, np.pi))
    bright = np.percentile(image, 99.95)
    image = image/bright
    grid = np.stack(np.meshgrid(np.arange(size)*pixel_size, np.arange(size)*pixel_size), -1)
    if m.gain: image = image*(1 + m.gain*smooth_field(None, 20., rng)(grid)).clip(.2)
    if m.contamination:
        slow = smooth_field(None, 20., rng)(grid)
        image = image + m.contamination*(slow - slow.min())/np.ptp(slow)
    image = image + m.offset
    per_pixel = m.dose*pixel_size**2
    mean = image*per_pixel if not m.scattered else image/image.mean()*m.scattered*per_pixel
    counted = rng.poisson(mean).astype(float) if m.dose else image
    if m.levels: counted = np.round((counted - counted.min())/np.ptp(counted)*(m.levels - 1))
    n = len(extra)
    inside = ((xy >= 0) & (xy <= fov)).all(1)
    places = np.concatenate([xy[inside], np.array([e[0] for e in extra]).reshape(-1, 2)])
    def add(a, values): return np.concatenate([a[inside], np.array(values, object)])
    return Frame(counted, pixel_size, places, add(kind, [""]*n), add(call, ["adatom"]*n),
                 add(new, [e[1] for e in extra]), mean)
