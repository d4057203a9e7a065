"""The average crystal continued over a whole frame: where it lies at every place, and which grain is where."""
import heapq
from dataclasses import dataclass, field, replace
import numpy as np
from scipy.ndimage import gaussian_filter, map_coordinates
from microscopygpt.fourier import harmonics
from microscopygpt.crystal import Slab, to_slab
from microscopygpt.micrograph import Micrograph
from microscopygpt.observe import Imaging, observe
from microscopygpt.straighten import observe_scan
from microscopygpt.refine import structure_factors, correlation_map
from microscopygpt.proof import Proposal, prove
from microscopygpt.region import spots_of
from microscopygpt.core import MicroscopyGPTError

class SitesError(MicroscopyGPTError): "x"

BLOCK = .8 # Å, over which a demodulated image is averaged before it is smoothed
WINDOW = 4. # Å standard deviation
STRIDE = 3 # blocks between nodes
WAVES = 12
MATCH = .5
GRADIENT = .05
SLACK = .12 # Å

@dataclass
class Nodes:
    x: np.ndarray
    y: np.ndarray

def block_sums(image, p, g, block):
    "Demodulated image, summed over blocks: (nby, nbx) complex."
    h, w = (n//block for n in image.shape)
    ex = np.exp(-2j*np.pi*g[0]*p*np.arange(w*block))
    ey = np.exp(-2j*np.pi*g[1]*p*np.arange(h*block))
    part = image[:h*block, :w*block]
    rows = np.add.reduceat(part*ex.astype(np.complex64), np.arange(0, w*block, block), axis=1)
    return np.add.reduceat(rows*ey.astype(np.complex64)[:, None], np.arange(0, h*block, block), axis=0)

def local_coefficients(image, p, g):
    "Fourier coefficients (m, ny, nx) in windows around nodes; node coordinates."
    block = max(1, round(BLOCK/p))
    sigma = WINDOW/(block*p)
    out = []
    for one in g:
        s = block_sums(image, p, one, block)/block**2
        sm = [gaussian_filter(q, sigma, mode="constant", truncate=3) for q in (s.real, s.imag)]
        out.append((sm[0] + 1j*sm[1])[STRIDE//2::STRIDE, STRIDE//2::STRIDE])
    inside = gaussian_filter(np.ones(s.shape), sigma, mode="constant", truncate=3)[STRIDE//2::STRIDE, STRIDE//2::STRIDE]
    ny, nx = s.shape
    first = (STRIDE//2*block + (block-1)/2)*p
    y = first + np.arange(out[0].shape[0])*STRIDE*block*p
    x = first + np.arange(out[0].shape[1])*STRIDE*block*p
    return np.array(out)/inside, x, y

def strongest(cell, frac, weights, variance, n=WAVES):
    hk, g = harmonics(cell, 1.1)
    F = structure_factors(frac, weights, hk, (g**2).sum(1), variance)
    best = np.argsort(-np.abs(F))[:n]
    best = best[np.abs(F[best]) > .05*np.abs(F[best[0]])]
    return hk[best], g[best], F[best]

def _refined(C, F, g, t, steps=3):
    "t (2,) and quality."
    W = np.abs(F)*np.abs(C)
    A = (W[:, None]*g).T@g
    for _ in range(steps):
        phi = np.angle(C*F.conj()*np.exp(2j*np.pi*(g@t)))
        t = t - np.linalg.solve(A + 1e-9*np.trace(A)*np.eye(2), (W*phi)@g)/(2*np.pi)
    q = (C*F.conj()*np.exp(2j*np.pi*(g@t))).real.sum()/np.sqrt((np.abs(F)**2).sum()*(np.abs(C)**2).sum())
    return t, q

def brute(C, F, hk, cell):
    shape = tuple(max(2*np.abs(h).max() + 2, int(np.linalg.norm(c)/.1)) for h, c in zip(hk.T, cell))
    corr = correlation_map(C.conj()*F, hk, shape)
    spot = np.unravel_index(corr.argmax(), shape)
    return np.array(spot)/shape@cell

def flood(C, F, g, hk, cell, x, y, seed):
    "t (ny, nx, 2) Å and quality (ny, nx) from a seed node outwards."
    ny, nx = C.shape[1:]
    t, Q = np.full((ny, nx, 2), np.nan), np.zeros((ny, nx))
    start, q = _refined(C[:, *seed], F, g, brute(C[:, *seed], F, hk, cell))
    t[seed], Q[seed] = start, q
    heap = [(-q, seed)]
    while heap:
        _, (i, j) = heapq.heappop(heap)
        for a, b in ((i-1, j), (i+1, j), (i, j-1), (i, j+1)):
            if not (0 <= a < ny and 0 <= b < nx) or Q[a, b]: continue
            lo, hi = slice(max(a-2, 0), a+3), slice(max(b-2, 0), b+3)
            near = Q[lo, hi] > 0
            found, q = _refined(C[:, a, b], F, g, t[i, j])
            if q < MATCH: Q[a, b] = -1e-9; continue
            d = np.hypot(*(x[hi][None, :] - x[b], y[lo][:, None] - y[a]))
            off = np.linalg.norm(t[lo, hi] - found, axis=-1)
            bad = near & (off > GRADIENT*d + SLACK)
            if bad.sum() > .34*near.sum(): continue
            t[a, b], Q[a, b] = found, q
            heapq.heappush(heap, (-q, (a, b)))
    return t, np.maximum(Q, 0)

@dataclass
class Grain:
    cell: np.ndarray # (2, 2) Å, in the frame
    slab: Slab # its cell is that of the frame
    t: np.ndarray # (ny, nx, 2) Å where the origin lies, as seen from a node
    quality: np.ndarray # (ny, nx)
    x: np.ndarray
    y: np.ndarray

    def displaced(self, xy):
        "Displacement at positions (n, 2) Å."
        at = [(xy[:, 1] - self.y[0])/(self.y[1]-self.y[0]), (xy[:, 0] - self.x[0])/(self.x[1]-self.x[0])]
        return np.stack([map_coordinates(self._filled[..., k], at, order=1, mode="nearest") for k in (0, 1)], -1)

def _fill(t, q, sigma=1.):
    known = (q > 0).astype(float)
    out = np.where(q[..., None] > 0, t, 0)
    filled = out.copy(); have = known > 0
    s = sigma
    while True:
        wgt = gaussian_filter(known, s, mode="nearest")
        new = np.stack([gaussian_filter(out[..., k]*known, s, mode="nearest") for k in (0, 1)], -1)/np.maximum(wgt, 1e-12)[..., None]
        ok = (wgt > 1e-3) & ~have
        filled[ok] = new[ok]; have |= ok
        if have.all(): return filled
        s *= 2

def levelled(micrograph):
    data = micrograph.data.astype(np.float32)
    step = max(1, int((data.size/1e6)**.5))
    low, high = np.percentile(data[::step, ::step], [.1, 99.9])
    data = np.clip(data, low, high)
    return data - data.mean()

def _affine(t, q, x, y):
    "t ~ t0 + r E: E (2, 2), t0"
    Y, X = np.nonzero(q > 0)
    A = np.c_[np.ones(len(X)), x[X], y[Y]]
    w = q[Y, X]
    c = np.linalg.lstsq(A*w[:, None], t[Y, X]*w[:, None], rcond=None)[0]
    return c[1:], c[0]

def track(image, p, slab, near, variance):
    "A grain from the place `near` (x, y) Å outward."
    weights = slab.numbers**1.7
    cell = slab.cell
    for round in range(2):
        hk, g, F = strongest(cell, slab.frac, weights, variance)
        C, x, y = local_coefficients(image, p, g)
        if round == 0: seed = (int(np.abs(y - near[1]).argmin()), int(np.abs(x - near[0]).argmin()))
        t, Q = flood(C, F, g, hk, cell, x, y, seed)
        if round == 0:
            E, t0 = _affine(t, Q, x, y)
            if (Q > 0).sum() < 12: E = E*0
            # a point n: r = n cell + t(r) = n cell + t0 + r E  => r (1-E) = n cell + t0
            cell = cell@np.linalg.inv(np.eye(2) - E)
    # t here still is relative to this cell: r = (n + frac) cell + t(r)
    G = Grain(cell, slab._replace(cell=cell), t, Q, x, y)
    G._filled = _fill(t, Q)
    return G

@dataclass
class Laid:
    "A crystal as it lies in a part of the frame."
    slab: Slab # its cell is that of the frame, Å
    variance: float # Å², of the probe
    astigmatism: np.ndarray # (2, 2) Å²
    residual: float

def laid_from(observation, proof):
    placed = proof.placed
    cell = observation.in_view(placed.cell)
    return Laid(Slab(cell, placed.frac, placed.z, placed.numbers), proof.fit.variance, observation.astigmatism, proof.residual)

def lay(micrograph, atoms):
    "Raises SitesError / LatticeError."
    observation = observe_scan(micrograph)
    proof = prove(Proposal(to_slab(atoms)), observation)
    if proof is None: raise SitesError("The structure's lattice is not that of the image: check the structure and the pixel size.")
    return laid_from(observation, proof)

TRIED = 5 # every so many nodes

def best_seed(image, p, slab, variance, among=None):
    "Node with the best match by brute force: (x, y), quality, map over nodes tried."
    hk, g, F = strongest(slab.cell, slab.frac, slab.numbers**1.7, variance)
    C, x, y = local_coefficients(image, p, g)
    best = (-1, None)
    Q = np.zeros((len(y), len(x)))
    for i in range(1, len(y), TRIED):
        for j in range(1, len(x), TRIED):
            if among is not None and not among[i, j]: continue
            _, q = _refined(C[:, i, j], F, g, brute(C[:, i, j], F, hk, slab.cell))
            Q[i, j] = q
            if q > best[0]: best = (q, (x[j], y[i]))
    return best[1], best[0], Q

def twins(slab):
    "The slab on the same lattice, turned by operations of the lattice that are none of the crystal."
    from microscopygpt.plane_groups import turns_of
    hk, g, F = strongest(slab.cell, slab.frac, slab.numbers**1.7, .27)
    out, seen = [], [slab]
    for turn in turns_of(slab.cell):
        t = np.asarray(turn)
        new = slab._replace(frac=slab.frac@t % 1)
        if any(_alike(new, s, hk, F) for s in seen): continue
        seen.append(new); out.append(new)
    return out

def _alike(a, b, hk, F):
    "Whether two slabs on one cell give the same image up to a shift."
    fa, fb = (structure_factors(s.frac, s.numbers**1.7, hk, (np.zeros(len(hk))), .27) for s in (a, b))
    corr = correlation_map(fa.conj()*fb, hk, (48, 48)).max()
    return corr > .97*np.sqrt((abs(fa)**2).sum()*(abs(fb)**2).sum())

MOST_GRAINS = 6
FEWEST_NODES = 40

def register(micrograph, laid, atoms=None):
    "Grains of a frame, best first."
    image, p = levelled(micrograph), micrograph.pixel_size
    near, q, _ = best_seed(image, p, laid.slab, laid.variance)
    grains = [track(image, p, laid.slab, near, laid.variance)]
    def free(): return np.max([g.quality for g in grains], 0) < MATCH
    for twin in twins(grains[0].slab):
        _, _, Q = best_seed(image, p, twin, laid.variance)
        tried = Q > 0
        better = tried & (Q > np.max([g.quality for g in grains], 0) + .05)
        if better.sum()*TRIED**2 < FEWEST_NODES: continue
        i, j = np.unravel_index(np.where(better, Q, 0).argmax(), Q.shape)
        grains.append(track(image, p, twin, (grains[0].x[j], grains[0].y[i]), laid.variance))
    if atoms is not None:
        for _ in range(MOST_GRAINS):
            where = gaussian_filter(free().astype(float), 3, mode="constant")
            if free().sum() < FEWEST_NODES or len(grains) >= MOST_GRAINS: break
            i, j = np.unravel_index(where.argmax(), where.shape)
            try: other = lay(_around(micrograph, grains[0].x[j], grains[0].y[i]), atoms)
            except MicroscopyGPTError: break
            mask = free()
            near, q, _ = best_seed(image, p, other.slab, laid.variance, mask)
            if near is None or q < MATCH: break
            new = track(image, p, other.slab, near, laid.variance)
            if ((new.quality > 0) & mask).sum() < FEWEST_NODES: break
            grains.append(new)
            for twin in twins(new.slab):
                _, _, Q = best_seed(image, p, twin, laid.variance)
                better = (Q > 0) & (Q > np.max([g.quality for g in grains], 0) + .05)
                if better.sum()*TRIED**2 < FEWEST_NODES: continue
                i, j = np.unravel_index(np.where(better, Q, 0).argmax(), Q.shape)
                grains.append(track(image, p, twin, (grains[0].x[j], grains[0].y[i]), laid.variance))
    return grains

def _around(micrograph, x, y, fov=26.):
    p = micrograph.pixel_size
    side = min(int(fov/p), *micrograph.shape)
    left = int(np.clip(x/p - side/2, 0, micrograph.shape[1] - side)); top = int(np.clip(y/p - side/2, 0, micrograph.shape[0] - side))
    return micrograph.crop(left, top, side, side)
