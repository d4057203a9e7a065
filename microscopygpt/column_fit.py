"""Every column of a frame at once: intensity and position by linear least squares."""
from dataclasses import dataclass, field, replace
import numpy as np
from scipy import sparse
from scipy.sparse.linalg import splu
from scipy.spatial import cKDTree

REACH = 4.2 # standard deviations of the probe
TAPER = 3.2
WIDTHS = np.array([.75, 1., 1.3, 1.8])
BACKGROUND = 6. # Å between nodes

@dataclass
class Profile:
    "Image of one column: Gaussians of several widths in an elliptic metric."
    covariance: np.ndarray # (2, 2) Å²
    shares: np.ndarray = field(default_factory=lambda: np.array([0, 1., 0, 0]))

    @property
    def reach(self): return REACH*np.sqrt(np.linalg.eigvalsh(self.covariance)[-1])

    def basis(self, d):
        "Each Gaussian (k, ...) at offsets d (..., 2) Å; derivative with respect to s²."
        s2 = np.einsum("...i,ij,...j->...", d, np.linalg.inv(self.covariance), d)
        return [np.exp(-.5*s2/w**2)*taper(s2)/norm for w, norm in zip(WIDTHS, NORMS)], s2

def taper(s2):
    s = np.sqrt(s2)
    return np.where(s < TAPER, 1, np.where(s < REACH, np.cos(.5*np.pi*np.clip((s - TAPER)/(REACH - TAPER), 0, 1))**2, 0))

_s = np.linspace(0, REACH, 4001)
NORMS = np.array([np.trapezoid(2*np.pi*_s*np.exp(-.5*_s**2/w**2)*taper(_s**2), _s) for w in WIDTHS]) # in units of sqrt(det)

TABLE = np.linspace(0, REACH**2, 3001)

def tables(profile):
    "P(s²) and dP/ds², per Å²."
    det = np.sqrt(np.linalg.det(profile.covariance))
    P = sum(a*np.exp(-.5*TABLE/w**2)*taper(TABLE)/n for a, w, n in zip(profile.shares, WIDTHS, NORMS))/det
    return P, np.gradient(P, TABLE)

@dataclass
class Patch:
    "Pixels around each column."
    pixel: np.ndarray # (n, K) index, or -1
    dx: np.ndarray
    dy: np.ndarray

def patches(xy, p, shape, reach):
    k = int(np.ceil(reach/p))
    o = np.arange(-k, k+1)
    oy, ox = np.meshgrid(o, o, indexing="ij")
    keep = np.hypot(ox, oy) <= k + .5
    oy, ox = oy[keep], ox[keep]
    base = np.round(xy/p).astype(int)
    col, row = base[:, :1] + ox, base[:, 1:] + oy
    inside = (col >= 0) & (col < shape[1]) & (row >= 0) & (row < shape[0])
    return Patch(np.where(inside, row*shape[1] + col, -1), col*p - xy[:, :1], row*p - xy[:, 1:])

def _metric(profile, dx, dy):
    M = np.linalg.inv(profile.covariance)
    return M[0, 0]*dx**2 + 2*M[0, 1]*dx*dy + M[1, 1]*dy**2, M

def lookup(table, s2):
    u = np.minimum(s2*((len(TABLE)-1)/TABLE[-1]), len(TABLE) - 1.001)
    i = u.astype(np.int32); f = u - i
    return table[i]*(1-f) + table[i+1]*f

def design(patch, profile, npix, moves=True):
    "Sparse matrices (npix, n): P, and -dP/dx, -dP/dy."
    s2, M = _metric(profile, patch.dx, patch.dy)
    out = (patch.pixel < 0) | (s2 >= TABLE[-1])
    P, D = tables(profile)
    ind = np.where(out, 0, patch.pixel).ravel()
    n, K = patch.pixel.shape
    ptr = np.arange(0, n*K + 1, K)
    def mat(v): return sparse.csc_matrix((np.where(out, 0, v).ravel(), ind, ptr), (npix, n))
    val = lookup(P, s2)
    if not moves: return [mat(val)]
    d = lookup(D, s2)
    gx = 2*(M[0, 0]*patch.dx + M[0, 1]*patch.dy)*d
    gy = 2*(M[0, 1]*patch.dx + M[1, 1]*patch.dy)*d
    return [mat(val), mat(-gx*-1), mat(-gy*-1)] if False else [mat(val), mat(-gx), mat(-gy)]

def background(shape, p):
    "Hat functions on a grid: (npix, nb)."
    def hats(n):
        m = max(2, int(round(n*p/BACKGROUND)) + 1)
        u = np.arange(n)/max(n-1, 1)*(m-1)
        i = np.minimum(u.astype(int), m-2); f = u - i
        return sparse.csr_matrix((np.r_[1-f, f], (np.r_[np.arange(n), np.arange(n)], np.r_[i, i+1])), (n, m))
    return sparse.kron(hats(shape[0]), hats(shape[1]), format="csr")

def fit_profile(image, patch, profile, intensity, bg):
    "Shares and covariance from the image without its background, intensities given."
    s2, M = _metric(profile, patch.dx, patch.dy)
    out = (patch.pixel < 0) | (s2 >= TABLE[-1])
    pix = np.where(out, 0, patch.pixel).ravel()
    det = np.sqrt(np.linalg.det(profile.covariance))
    t = taper(s2)
    def im(v): return np.bincount(pix, np.where(out, 0, v*intensity[:, None]).ravel(), image.size)
    base = [np.exp(-.5*s2/w**2)*t/n/det for w, n in zip(WIDTHS, NORMS)]
    # anisotropy of the main Gaussian
    e = np.stack([M[0, 0]*patch.dx + M[0, 1]*patch.dy, M[1, 0]*patch.dx + M[1, 1]*patch.dy])
    aniso = [base[1]*.5*(e[0]**2 - e[1]**2), base[1]*e[0]*e[1]]
    X = np.stack([im(v) for v in [*base, *aniso]], 1)
    y = (image.ravel() - bg)
    used = np.abs(X).max(1) > 0
    X = np.c_[X, np.ones(len(X))][used]
    A, b = X.T@X, X.T@y[used]
    ridge = 1e-4*A[1, 1]
    R = np.diag([ridge]*4 + [0, 0, 0])
    prior = np.r_[profile.shares, 0, 0, 0]
    c = np.linalg.solve(A + R, b + R@prior)
    total = c[:4].sum()
    shares = c[:4]/total
    d = np.clip(c[4:6]/total, -.1, .1)
    cov = profile.covariance + np.array([[d[0], d[1]], [d[1], -d[0]]])
    # keep the metric's scale at the effective width of the centre
    return Profile(cov, shares), total

@dataclass
class ColumnFit:
    xy: np.ndarray
    xy_error: np.ndarray
    intensity: np.ndarray
    error: np.ndarray
    background: np.ndarray
    profile: Profile
    residual: np.ndarray # (h, w)
    noise: tuple # alpha, beta
    model: np.ndarray
SOFT = .15 # Å

def _normal(A, w, ridge):
    At = A.multiply(w[:, None]).tocsc() if w is not None else A
    N = (A.T@At).tocsc()
    return N + sparse.diags(ridge), At

def solve(image, xy, expected, profile, p, bg, w=None, covariance=False):
    "One linear step: intensities, moves."
    n = len(xy)
    patch = patches(xy, p, image.shape, profile.reach)
    P, X, Y = design(patch, profile, image.size)
    scale = sparse.diags(expected)
    A = sparse.hstack([P, X@scale, Y@scale, bg], format="csc")
    W = np.ones(image.size) if w is None else w
    At = sparse.diags(W)@A
    N = (A.T@At).tocsc()
    diag = N.diagonal()
    ref = np.median(diag[n:3*n])
    ridge = np.r_[np.full(n, 1e-9*np.median(diag[:n])), np.full(2*n, 1e-12), np.full(bg.shape[1], 1e-6*np.median(diag[3*n:]))]
    unit = None
    if w is not None: ridge[n:3*n] = SOFT**-2 # w is inverse variance: a prior on moves
    else: ridge[n:3*n] = .02*ref
    lu = splu(N + sparse.diags(ridge), permc_spec="MMD_AT_PLUS_A", options=dict(SymmetricMode=True), diag_pivot_thresh=0.)
    c = lu.solve(At.T@image.ravel())
    model = A@c
    return c, model, patch, lu, N.diagonal() + ridge

def noise_model(residual, model):
    "variance = alpha + beta*(model - low)"
    edges = np.quantile(model, np.linspace(0, 1, 21))
    which = np.clip(np.searchsorted(edges, model) - 1, 0, 19)
    m = np.array([model[which == i].mean() for i in range(20)])
    # robust variance in each bin
    v = np.array([(1.4826*np.median(np.abs(residual[which == i])))**2 for i in range(20)])
    low = m[0]
    B = np.c_[np.ones(20), m - low]
    from scipy.optimize import nnls
    wt = 1/np.maximum(v, 1e-12)
    a = nnls(B*wt[:, None], v*wt)[0]
    return max(a[0], .05*np.median(v)), a[1], low

def bin_image(data, p, sigma):
    n = max(1, int(sigma/(2.2*p)))
    h, w = (s//n for s in data.shape)
    return data[:h*n, :w*n].reshape(h, n, w, n).mean((1, 3)).astype(float), p*n, (n-1)/2*p

def fit_columns(data, p, xy, kind, variance, astig=None, rounds=4):
    "data (h, w) at pixel p; xy (n, 2) Å from the first pixel's centre; kind (n,)."
    cov = variance*np.eye(2) + (0 if astig is None else astig)
    image, q, off = bin_image(data, p, np.sqrt(np.linalg.eigvalsh(cov)[0]))
    xy = xy - off
    scale = image.std(); image = (image - np.median(image))/scale
    bg = background(image.shape, q)
    profile = Profile(cov)
    start = xy.copy()
    n = len(xy)
    expected = np.full(n, 1.)
    w = None
    for r in range(rounds):
        c, model, patch, lu, diag = solve(image, xy, expected, profile, q, bg, w)
        I = c[:n]
        for k in np.unique(kind): expected[kind == k] = max(np.median(I[kind == k]), 1e-6)
        if r: # moves
            q_ = np.c_[c[n:2*n], c[2*n:3*n]]
            # c moves are in units of expected used in this solve
            ratio = np.clip(I/expected_used, 0, None)
            d = q_/np.maximum(ratio, .35)[:, None]
            xy = xy + np.clip(d, -.3, .3)
            xy = start + np.clip(xy - start, -.7, .7)
        if r < rounds - 1:
            for _ in range(2): profile, total = fit_profile(image, patches(xy, q, image.shape, profile.reach), profile, I, bg@c[3*n:])
            res = image.ravel() - model
            alpha, beta, low = noise_model(res, model)
            w = 1/(alpha + beta*np.maximum(model - low, 0))
        expected_used = expected.copy()
    res = image.ravel() - model
    # errors by sampling columns of each kind
    err, perr = np.empty(n), np.empty((n, 2))
    rng = np.random.default_rng(0)
    for k in np.unique(kind):
        mine = np.flatnonzero(kind == k)
        some = rng.choice(mine, min(12, len(mine)), replace=False)
        ratios = []
        for i in some:
            row = []
            for b in (0, n, 2*n):
                e = np.zeros(N_of(lu)); e[b+i] = 1
                row.append(lu.solve(e)[b+i]*diag[b+i])
            ratios.append(row)
        ratios = np.median(ratios, 0)
        err[mine] = np.sqrt(ratios[0]/diag[mine])
        for ax in (0, 1): perr[mine, ax] = np.sqrt(ratios[1+ax]/diag[(1+ax)*n + mine])/np.maximum(np.clip(I[mine]/expected_used[mine], 0, None), .35)
    return ColumnFit(xy + off, perr, I*scale, err*scale, bg@c[3*n:]*scale, profile, res.reshape(image.shape)*scale, (alpha, beta, low), model.reshape(image.shape)), q, off, 1/np.sqrt(w).reshape(image.shape)*scale

def N_of(lu): return lu.shape[0]
