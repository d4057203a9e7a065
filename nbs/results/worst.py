"""The wrong answers of an evaluation that were believed most, as one picture.

python nbs/results/worst.py EVALUATION OUT.png [--n 10] [--noise paper]
"""
import argparse, json, sys
from io import BytesIO
from pathlib import Path
import matplotlib.pyplot as plt
from matplotlib.patheffects import withStroke
from PIL import Image
from microscopygpt.crystal import to_slab
from microscopygpt.plotting import draw_atoms
from microscopygpt.data import to_crystal
from microscopygpt.evaluation import draw_micrograph, read_answers, read_truth
from microscopygpt.plotting import styled
from microscopygpt.micrograph import Micrograph

REACH = 6. # Å, half the width of a drawn crystal
COLOURS = 64 # of the picture, to keep it small
COLUMNS = "micrograph", "answer", "answer, side", "truth", "truth, side"


def draw_row(axes, atoms, answer, record, noise):
    "Micrograph, answer and truth of one crystal."
    crystal = to_crystal(atoms, record["id"], record["source"])
    micrograph = draw_micrograph(crystal, noise)
    Micrograph(micrograph.data[:120, :120], micrograph.pixel_size).plot(axes[0], bar=False)
    for ax, slab, side in zip(axes[1:], (answer, answer, atoms, atoms), (False, True)*2): draw_atoms(ax, to_slab(slab), side=side, reach=REACH)
    words = f"{record['formula']}: {record['failure']}\nconfidence {record['confidence']:.2f}"
    axes[0].text(.03, .97, words, transform=axes[0].transAxes, va="top", fontsize=7, path_effects=[withStroke(linewidth=2, foreground="white")])


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("evaluation", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--n", type=int, default=10)
    parser.add_argument("--noise", default="paper")
    args = parser.parse_args(argv)
    records = [json.loads(line) for line in (args.evaluation/"records.jsonl").read_text().splitlines()]
    truth, _ = read_truth(args.evaluation/"truth")
    worst = sorted((r for r in records if not r["solved@1"] and r["n_answers"]), key=lambda r: -r["confidence"])[:args.n]
    with styled():
        fig, axes = plt.subplots(len(worst), len(COLUMNS), figsize=(7.5, 1.5*len(worst)), layout="constrained", squeeze=False)
        for row, record in zip(axes, worst):
            answer = read_answers(args.evaluation/"predictions"/f"{record['id']}_0", 1)[0]
            draw_row(row, truth[record["id"]], answer, record, args.noise)
        for ax in axes.flat: ax.set(xticks=[], yticks=[], xlabel="", ylabel="")
        for ax, name in zip(axes[0], COLUMNS): ax.set_title(name, fontsize=8)
    with BytesIO() as whole:
        fig.savefig(whole, dpi=90)
        Image.open(whole).convert("RGB").quantize(COLOURS).save(args.out, optimize=True)


if __name__ == "__main__": sys.exit(main())
