"""How every figure looks: one colour and one marker for a method, sizes of text and panels, and
files that are equal if figures are."""

from pathlib import Path

import matplotlib
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure

from peftbench.analysis.frame import METHODS
from peftbench.errors import InputError

# Okabe and Ito's palette, which colour-blind people can tell apart, and a marker for each, so that
# no one needs the colour.
COLOURS: dict[str, str] = dict(
    zip(
        METHODS,
        ("#000000", "#7f7f7f", "#0072b2", "#56b4e9", "#009e73", "#d55e00", "#e69f00"),
        strict=True,
    )
)
MARKERS: dict[str, str] = dict(zip(METHODS, ("s", "X", "o", "^", "D", "v", "P"), strict=True))
OTHER_COLOUR, OTHER_MARKER = "#cc79a7", "*"
DASHES = (
    "-",
    (0, (4, 1.5)),
    (0, (1, 1)),
    (0, (4, 1, 1, 1)),
)  # tell the arms of one method apart, in their order
PANEL = (3.5, 2.9)  # inches, a column of a paper
SMALL, GREY = 7, "#555555"
POINT = {"markersize": 5, "markeredgecolor": "white", "markeredgewidth": 0.5}


class NothingToDraw(InputError):  # noqa: N818  (not a mistake: an answer)
    """The runs hold nothing that this figure could show; the text says what is missing."""


def style(method: str) -> tuple[str, str]:
    """A method's colour and marker, the same in every figure."""
    return COLOURS.get(method, OTHER_COLOUR), MARKERS.get(method, OTHER_MARKER)


def ink(method: str) -> tuple[float, float, float]:
    """A method's colour for text: darker, since the palest are hard to read."""
    red, green, blue = to_rgb(style(method)[0])
    return 0.75 * red, 0.75 * green, 0.75 * blue


def tidy(axes: Axes, x: str | None = None, y: str | None = None) -> None:
    """Small text, a light grid behind the data, and no frame; x and y: the axes' labels."""
    if x is not None:
        axes.set_xlabel(x, fontsize=SMALL + 1)
    if y is not None:
        axes.set_ylabel(y, fontsize=SMALL + 1)
    axes.tick_params(labelsize=SMALL)
    axes.grid(color="#e5e5e5", linewidth=0.5)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)


def axis_name(y: str, primary: str) -> str:
    """What an axis shows, and which way is better; y: "metric" or "nll"."""
    return (
        "nll per token (lower is better)"
        if y == "nll"
        else f"{primary.replace('_', ' ')} (higher is better)"
    )


def save(figure: Figure, stem: Path) -> list[Path]:
    """Write `stem`.pdf and `stem`.png, without anything that would differ between two runs, and
    return their paths."""
    stem.parent.mkdir(parents=True, exist_ok=True)
    pdf, png = stem.with_name(f"{stem.name}.pdf"), stem.with_name(f"{stem.name}.png")
    with matplotlib.rc_context({"pdf.fonttype": 42}):  # journals refuse the default, Type 3
        figure.savefig(pdf, metadata={"CreationDate": None})
    figure.savefig(png, metadata={"Software": None})
    return [pdf, png]
