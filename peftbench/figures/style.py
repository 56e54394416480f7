"""How every figure, and the page, looks: one colour and one marker for a method, sizes of text and
panels. Knows nothing of matplotlib, so that the page needs none."""

import zlib
from collections import Counter
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, get_args

from peftbench.analysis.blocks import METHOD_ORDER, Arm, Value

if TYPE_CHECKING:
    from matplotlib.axes import Axes

VALUES: tuple[Value, ...] = get_args(Value)  # what figures show of an arm
# Okabe and Ito's palette, which colour-blind people can tell apart, and a marker for each, so that
# no one needs the colour.
PALETTE = ("#000000", "#7f7f7f", "#0072b2", "#56b4e9", "#009e73", "#d55e00", "#e69f00")
COLOURS: dict[str, str] = dict(zip(METHOD_ORDER, PALETTE, strict=True))
MARKERS: dict[str, str] = dict(zip(METHOD_ORDER, "sXo^DvP", strict=True))
# Those of other methods: nine colours (Tol's muted ones among them) and seven markers, so that a
# method looks the same in every figure, and no two of the known ones are alike.
OTHER_PALETTE = (
    *("#cc79a7", "#882255", "#44aa99", "#999933", "#332288"),
    *("#aa4499", "#117733", "#661100", "#6699cc"),
)
OTHER_MARKERS = "*<>dph8"
KNOWN = (
    *("LORA", "LORA (dora)", "LORA (rslora)", "LORA (pissa)", "LORA (olora)", "LORA (eva)"),
    *("LORA (corda)", "LORA (lora_ga)", "LORA (orthogonal)", "LORA (gaussian)", "ADALORA"),
    *("LOHA", "LOKR", "IA3", "OFT", "BOFT", "HRA", "MISS", "MISS (bat)", "MISS (mini)", "VERA"),
    *("FOURIERFT", "RANDLORA", "SHIRA", "VBLORA", "LN_TUNING", "C3A", "ROAD", "WAVEFT", "OSF"),
    *("DELORA", "GRALORA", "ADAMSS", "PVERA", "HIRA", "BEFT", "LILY", "PEANUT", "PSOFT", "FROD"),
    *("TINYLORA", "UNILORA", "GLORA", "DEFT", "SUPERTUNING", "TRAINABLE_TOKENS", "PROMPT_TUNING"),
    *("P_TUNING", "PREFIX_TUNING", "ADAPTION_PROMPT", "LORA (qalora)", "LORA (bdlora)"),
)
# These tell the arms of one method apart, in their order.
DASHES = ("-", (0, (4, 1.5)), (0, (1, 1)), (0, (4, 1, 1, 1)))
PANEL = (3.5, 2.9)  # inches, a column of a paper
SMALL, GREY = 7, "#555555"


def style(method: str) -> tuple[str, str]:
    """A method's colour and marker, the same in every figure."""
    if method in COLOURS:
        return COLOURS[method], MARKERS[method]
    name = method.removeprefix("peft: ")
    place = KNOWN.index(name) if name in KNOWN else zlib.crc32(name.encode())
    # the numbers of colours and markers have no divisor in common
    return OTHER_PALETTE[place % len(OTHER_PALETTE)], OTHER_MARKERS[place % len(OTHER_MARKERS)]


def ink(method: str) -> tuple[float, float, float]:
    """A method's colour for text: darker, since the palest are hard to read."""
    red, green, blue = bytes.fromhex(style(method)[0].removeprefix("#"))
    return 0.75 * red / 255, 0.75 * green / 255, 0.75 * blue / 255


def line_styles(arms: Iterable[Arm]) -> list[dict[str, Any]]:
    """How the lines of arms look: each in its method's colour, with a dash of its own."""
    before: Counter[str] = Counter()
    styles: list[dict[str, Any]] = []
    for arm in arms:
        colour, marker = style(arm.method)
        dash = DASHES[before[arm.method] % len(DASHES)]
        before[arm.method] += 1
        styles.append({"color": colour, "marker": marker, "linestyle": dash, "linewidth": 1.1})
    return styles


def tidy(axes: "Axes", x: str = "", y: str = "") -> None:
    """Small text, a light grid behind the data, and no frame; x and y: the axes' labels."""
    axes.set_xlabel(x, fontsize=SMALL + 1)
    axes.set_ylabel(y, fontsize=SMALL + 1)
    axes.tick_params(labelsize=SMALL)
    axes.grid(color="#e5e5e5", linewidth=0.5)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)


def axis_name(value: Value, primary: str) -> str:
    """What an axis shows, and which way is better."""
    if value == "nll":
        return "nll per token (lower is better)"
    return f"{primary.replace('_', ' ')} (higher is better)"
