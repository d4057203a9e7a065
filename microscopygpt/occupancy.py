"""What stands on each site, in probabilities."""
from dataclasses import dataclass, replace
import numpy as np
from scipy.ndimage import gaussian_filter
from scipy.special import logsumexp
from scipy.stats import norm
from ase.data import atomic_numbers, chemical_symbols

@dataclass(frozen=True)
class Occupant:
    call: str
    detail: str
    elements: tuple # atomic numbers
    ratio: float # of the intensity to that of what is expected
    prior: float # relative

def weight(numbers, power): return float((np.asarray(numbers, float)**power).sum())

def occupants(column, formula_numbers, named, power):
    "What may stand on a site: column (n,) atomic numbers."
    column = tuple(sorted(map(int, column), reverse=True))
    w = weight(column, power)
    S = lambda z: chemical_symbols[z]
    out = {(): None}
    res = [Occupant("expected", "", column, 1., 1.), Occupant("vacancy", "column empty", (), 0., 1.)]
    seen = {column, ()}
    def add(call, detail, new, prior):
        new = tuple(sorted(new, reverse=True))
        if new in seen: return
        seen.add(new); res.append(Occupant(call, detail, new, weight(new, power)/w, prior))
    n = len(column)
    for i, z in enumerate(column): # one or more missing
        rest = column[:i] + column[i+1:]
        if rest: add("partial", f"one {S(z)} of {n} missing" + (", above or below" if n > 1 else ""), rest, 1.)
    if n > 2:
        for k in range(1, n-1): add("partial", f"{n-k} of {n} missing", column[:k], .5)
    for new in named:
        for i, z in enumerate(column):
            if new == z: continue
            rest = column[:i] + column[i+1:]
            add("substitution", f"{S(new)} for {S(z)}" + (f" (one of {n})" if n > 1 else ""), rest + (new,), 1.)
        if n > 1: add("substitution", f"{S(new)} for all {n}", (new,)*n, 1.)
        if n > 1: add("substitution", f"{S(new)} for all {n}, one atom", (new,), .1)
    for new in formula_numbers:
        if new in named: continue
        for i, z in enumerate(column):
            if new == z: continue
            rest = column[:i] + column[i+1:]
            add("antisite", f"{S(new)} for {S(z)}" + (f" (one of {n})" if n > 1 else ""), rest + (new,), .2)
        if n > 1: add("antisite", f"{S(new)} for all {n}", (new,), .2)
        else: add("antisite", f"two {S(new)} for {S(column[0])}", (new, new), .2)
    return res

def contrast_power(levels, columns, prior=1.7, sigma=.15):
    "Exponent from the mean intensity of classes."
    grid = np.linspace(.8, 2.6, 181)
    cost = (grid - prior)**2/sigma**2
    for i in range(len(levels)):
        for j in range(i):
            if sorted(columns[i]) == sorted(columns[j]): continue
            want = np.log(levels[i]/levels[j])
            have = np.array([np.log(weight(columns[i], p)/weight(columns[j], p)) for p in grid])
            cost = cost + (want - have)**2/.05**2
    return float(grid[cost.argmin()])

PSEUDO = 50
TAIL, WIDE = .03, 2.
UNKNOWN = .02

def mixture(ratio, error, options, density, level=1., fixed=None, steps=40):
    "Posterior (n, h+2) of options, heavier, lighter; noise factor; level."
    r = np.array([o.ratio for o in options]); pr = np.array([o.prior for o in options])
    tau = .03 + .06*np.abs(r - 1); tau[0] = 0
    tau[r == 0] = .03
    pr = pr.copy(); pr[0] = 0
    share = np.r_[1 - density, density*pr[1:]/(pr[1:].sum() + UNKNOWN), density*UNKNOWN/(pr[1:].sum() + UNKNOWN)]
    prior = share.copy()
    s, b = 1., level
    for step in range(steps):
        x = ratio/b
        e = error*s/b
        var = e[:, None]**2 + tau**2
        L = -.5*(x[:, None] - r)**2/var - .5*np.log(2*np.pi*var)
        wide = -.5*((x - 1)/(WIDE*e))**2 - np.log(WIDE*e*np.sqrt(2*np.pi))
        L[:, 0] = np.logaddexp(np.log(1-TAIL) + L[:, 0], np.log(TAIL) + wide)
        flat = np.full(len(x), -np.log(3.))
        L = np.c_[L, flat] + np.log(share)
        like = logsumexp(L, axis=1)
        post = np.exp(L - like[:, None])
        new = (post.sum(0) + prior*PSEUDO)/(len(x) + PSEUDO)
        # noise factor and level from what is near a known option
        best = L[:, :-1].argmax(1)
        res = (x - r[best])/np.where(best == 0, 1, 1)
        z = res/np.sqrt((error/b)**2 + tau[best]**2)
        s_new = np.clip(1.4826*np.median(np.abs(z)), .7, 5)
        main = post[:, 0] > .5
        if main.sum() > 5: b_new = b*np.median(x[main])
        else: b_new = b
        done = abs(b_new/b - 1) < 1e-4 and abs(s_new/s - 1) < 1e-3 and np.abs(new - share).max() < 1e-5
        s, b, share = s_new, b_new, new
        if done: break
    return post, s, b, like.sum(), share
