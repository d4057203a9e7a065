"The picture of the front page and the card that is shown with links to the site: `make pictures`."
from importlib.resources import files
from pathlib import Path

import matplotlib
matplotlib.use("Agg")
import matplotlib.pyplot as plt
from microscopygpt import predict
from microscopygpt.crystal import to_slab
from microscopygpt.plotting import draw_atoms

IMAGES = Path(__file__).resolve().parent.parent/"nbs"/"images"
NAVY = "#12263f" # the colour of the site's bar
DPI = 100
FRONT, CARD = (13, 3.75), (12, 6.3) # inches; the card has the size that social networks ask for, 1200 x 630 px
TITLES = ("in: a micrograph,\nand a formula: MoSe₂", "columns, solved\nfrom the image",
          "out: the crystal\nfrom above", "and from the side:\nheights, computed")
CLAIM = "Crystal structures from STEM images of 2D materials:\nproposed by a model, proven against the image"


def panels(prediction, axes):
    "The way from a micrograph to a crystal in four panels."
    micrograph, fitted, above, side = axes
    prediction.observation.view.plot(micrograph)
    _, others = plt.subplots(1, 2)
    prediction.plot_fit(1, [fitted, *others])
    best = to_slab(prediction.best.atoms)
    for ax, from_side in ((above, False), (side, True)): draw_atoms(ax, best, side=from_side)
    for ax in axes:
        ax.set(xlabel="", ylabel="", xticks=[], yticks=[])
        for place in ("left", "center"): ax.set_title("", loc=place)
        if ax.get_legend(): ax.get_legend().remove()
        ax.set_axis_on()
        ax.spines[:].set(visible=True, color="#b8c0c8")
    handles, labels = above.get_legend_handles_labels()
    side.legend(handles, labels, loc="upper right", frameon=False, fontsize=11)


def arrow(fig, left, right, color):
    "An arrow between two panels."
    a, b = left.get_position(), right.get_position()
    middle, half = (a.x1 + b.x0)/2, .4*(b.x0 - a.x1)
    ends = dict(xy=(middle + half, (a.y0 + a.y1)/2), xytext=(middle - half, (a.y0 + a.y1)/2))
    left.annotate("", **ends, xycoords="figure fraction", textcoords="figure fraction",
                  arrowprops=dict(arrowstyle="-|>", lw=2.5, color=color, mutation_scale=22))


def front(prediction):
    "The picture under the title of the front page."
    fig, axes = plt.subplots(1, 4, figsize=FRONT, dpi=DPI)
    panels(prediction, axes)
    fig.subplots_adjust(left=.01, right=.99, bottom=.03, top=.83, wspace=.17)
    for ax, title in zip(axes, TITLES): ax.set_title(title, loc="center", fontsize=14, color=NAVY)
    fig.canvas.draw()
    for left, right in zip(axes[:2], axes[1:3]): arrow(fig, left, right, NAVY)
    fig.savefig(IMAGES/"in-and-out.png", facecolor="white")


def card(prediction):
    "The picture that stands beside a link to the site."
    fig, axes = plt.subplots(1, 4, figsize=CARD, dpi=DPI, facecolor=NAVY)
    panels(prediction, axes)
    fig.subplots_adjust(left=.05, right=.95, bottom=.1, top=.46, wspace=.12)
    fig.text(.05, .80, "microscopygpt", fontsize=52, weight="bold", color="white")
    fig.text(.05, .58, CLAIM, fontsize=22, color="#d5dfeb", linespacing=1.4)
    fig.savefig(IMAGES/"card.png", facecolor=NAVY)


if __name__ == "__main__":
    answer = predict(files("microscopygpt")/"examples"/"demo.tif", "MoSe2", templates=None)
    front(answer)
    card(answer)
    print(IMAGES/"in-and-out.png", IMAGES/"card.png", sep="\n")
