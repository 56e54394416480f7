"""How much better or worse than a reference each arm is, task by task, with 95 % intervals."""

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from peftbench.analysis.blocks import Arm, Block, Value
from peftbench.analysis.estimates import Difference, Results
from peftbench.analysis.intervals import ALPHA
from peftbench.figures.panels import (
    NothingToDraw,
    Panels,
    few_arms,
    legend,
    missing,
    named,
    row_axis,
    rows_height,
    trials_note,
)
from peftbench.figures.style import GREY, style, tidy

Drawn = dict[Arm, Difference]  # of a block, those whose difference is known


def differences(results: Results, value: Value = "metric", reference: str = "lora") -> Figure:
    """The differences to the first arm of the method `reference`, positive is better, a panel for
    each block; filled: more than chance after Holm's correction over the block.

    Raises NothingToDraw if there is no difference.
    """
    blocks, few = few_arms(results, results.final)
    references = {block: arm for block in blocks if (arm := block.first(reference)) is not None}
    of_blocks = {
        block: _known(results.differences(block, arm, value)) for block, arm in references.items()
    }
    drawn = {block: known for block, known in of_blocks.items() if known}
    if not drawn:
        raise NothingToDraw(
            f"no two arms of a block share a seed with a {value}, one of them {reference}"
        )
    names = [[arm.label for arm in known] for known in drawn.values()]
    panels = Panels.of(drawn, [rows_height(names, 0.8), 0.25])
    for (axes, below), (block, known) in zip(panels.axes, drawn.items(), strict=True):
        _forest(axes, known)
        name = "nll per token" if value == "nll" else block.primary.replace("_", " ")
        tidy(axes, f"{name}: better than {reference} by")
        look = {"color": GREY, "linestyle": "none", "marker": "o", "markersize": 5}
        open_ = Line2D([], [], markerfacecolor="white", label="may be chance", **look)
        legend(below, [Line2D([], [], label=f"Holm's p ≤ {ALPHA}", **look), open_])
    shown = {arm for known in drawn.values() for arm in known}
    shown |= {references[block] for block in drawn}
    notes = [*_notes(drawn, references), few, trials_note(results), missing(blocks, shown)]
    return panels.annotate(notes)


def _known(differences: Drawn) -> Drawn:
    return {arm: each for arm, each in differences.items() if each.difference is not None}


def _notes(drawn: dict[Block, Drawn], references: dict[Block, Arm]) -> list[str]:
    every = [each for known in drawn.values() for each in known.values()]
    compared = [f"{block.question.task}: {references[block].label}" for block in drawn]
    seeds = sorted({each.seeds for each in every})
    over = sorted({each.interval.over for each in every if each.interval})
    bare = [
        named(block, arm)
        for block, known in drawn.items()
        for arm, each in known.items()
        if each.interval is None
    ]
    return [
        f"compared with {', '.join(dict.fromkeys(compared))}" if "(" in str(compared) else "",
        f"95 % intervals over {' or '.join(over)}" if over else "",
        f"{' or '.join(map(str, seeds))} shared seed{'s' if seeds != [1] else ''}",
        f"no interval: {', '.join(bare)}" if bare else "",
    ]


def _forest(axes: Axes, known: Drawn) -> None:
    methods = [arm.method for arm in known]
    places = row_axis(axes, [arm.label for arm in known], methods)
    axes.axvline(0, color=GREY, linewidth=0.8, zorder=1)
    for place, method, each in zip(places, methods, known.values(), strict=True):
        assert each.difference is not None
        colour, marker = style(method)
        if each.interval:
            ends = [each.interval.low, each.interval.high]
            axes.plot(ends, [place, place], color=colour, linewidth=1.4, zorder=2)
        face = colour if each.is_better or each.is_worse else "white"
        look = {"color": colour, "markerfacecolor": face, "markersize": 5}
        axes.plot(each.difference, place, marker, zorder=3, **look)
    axes.margins(x=0.06)
    axes.xaxis.set_major_locator(MaxNLocator(5))
