"""Recorded micrographs at the defaults: python nbs/results/real.py IMAGES OUT.json

IMAGES is a folder with graphene.png, MoS2.png, FeTe.png and ReSe2.png, the images that the page of results names."""
import json, sys, time
from pathlib import Path
from microscopygpt import predict
from microscopygpt.core import MicroscopyGPTError, write_atomically
from microscopygpt.crystal import cell_lengths, to_slab

TRUE = {"graphene": ("C", 191, 2.464, 2.464, .0664), "MoS2": ("MoS2", 187, 3.188, 3.188, .0738),
        "FeTe": ("FeTe", 129, 3.607, 3.607, .0533), "ReSe2": ("ReSe2", 2, 6.60, 6.71, None)} # space group, Å, Å, Å/px
FACTORS = (None, 1., 1.2) # times the right pixel size; None: no pixel size is given
WITHIN = .04 # of the lattice parameters

def answer(path, formula, pixel_size):
    "What the first candidate says, or the error."
    start = time.perf_counter()
    try: best = predict(path, formula, pixel_size, templates=None, k=1).best
    except MicroscopyGPTError as e: return dict(error=f"{type(e).__name__}: {e}", seconds=time.perf_counter() - start)
    a, b = cell_lengths(to_slab(best.atoms).cell)[:2]
    return dict(space_group=int(best.space_group), a=float(a), b=float(b), residual=float(best.residual),
                confidence=float(best.confidence), seconds=time.perf_counter() - start)

def main(images, out):
    records = []
    for name, (formula, number, a, b, pixel_size) in TRUE.items():
        for factor in FACTORS if pixel_size else (None,):
            given = factor and pixel_size*factor
            said = answer(Path(images)/f"{name}.png", formula, given)
            right = said.get("space_group") == number and all(
                abs(x/y - 1) < WITHIN for x, y in zip(sorted((said["a"], said["b"])), sorted((a, b)), strict=True))
            records.append(dict(name=name, formula=formula, pixel_size=given, factor=factor, right=right, **said,
                                true=dict(space_group=number, a=a, b=b)))
            print(records[-1], flush=True)
    write_atomically(Path(out), json.dumps(records, indent=1))

if __name__ == "__main__": main(*sys.argv[1:])
