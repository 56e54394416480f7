"""One colour and one marker for a method, in every figure and on the page."""

from peftbench.analysis.blocks import METHOD_ORDER

# Okabe and Ito's palette, which colour-blind people can tell apart, and a marker for each, so that
# no one needs the colour.
COLOURS: dict[str, str] = dict(
    zip(
        METHOD_ORDER,
        ("#000000", "#7f7f7f", "#0072b2", "#56b4e9", "#009e73", "#d55e00", "#e69f00"),
        strict=True,
    )
)
MARKERS: dict[str, str] = dict(zip(METHOD_ORDER, ("s", "X", "o", "^", "D", "v", "P"), strict=True))
OTHER_COLOUR, OTHER_MARKER = "#cc79a7", "*"
