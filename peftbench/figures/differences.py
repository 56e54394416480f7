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

ByArm = dict[Arm, Difference]  # of a block, those that are known


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
    drawn = {block: by_arm for block, by_arm in of_blocks.items() if by_arm}
    if not drawn:
        raise NothingToDraw(
            f"no two arms of a block share a seed with a {value}, one of them {reference}"
        )
    names = [[arm.label for arm in by_arm] for by_arm in drawn.values()]
    panels = Panels.of(drawn, [rows_height(names, 0.8), 0.25])
    for (axes, below), (block, by_arm) in zip(panels.axes, drawn.items(), strict=True):
        _forest(axes, by_arm)
        name = "nll per token" if value == "nll" else block.primary.replace("_", " ")
        tidy(axes, f"{name}: better than {reference} by")
        look = {"color": GREY, "linestyle": "none", "marker": "o", "markersize": 5}
        hollow = Line2D([], [], markerfacecolor="white", label="may be chance", **look)
        legend(below, [Line2D([], [], label=f"Holm's p ≤ {ALPHA}", **look), hollow])
    shown = {arm for by_arm in drawn.values() for arm in by_arm}
    shown |= {references[block] for block in drawn}
    notes = [*_notes(drawn, references), few, trials_note(results), missing(blocks, shown)]
    return panels.annotate(notes)


def _known(differences: ByArm) -> ByArm:
    return {
        arm: difference
        for arm, difference in differences.items()
        if difference.difference is not None
    }


def _notes(drawn: dict[Block, ByArm], references: dict[Block, Arm]) -> list[str]:
    all_differences = [difference for by_arm in drawn.values() for difference in by_arm.values()]
    compared = [f"{block.question.task}: {references[block].label}" for block in drawn]
    seeds = sorted({difference.seeds for difference in all_differences})
    over = sorted(
        {difference.interval.over for difference in all_differences if difference.interval}
    )
    bare = [
        named(block, arm)
        for block, by_arm in drawn.items()
        for arm, difference in by_arm.items()
        if difference.interval is None
    ]
    return [
        f"compared with {', '.join(dict.fromkeys(compared))}" if "(" in str(compared) else "",
        f"95 % intervals over {' or '.join(over)}" if over else "",
        f"{' or '.join(map(str, seeds))} shared seed{'s' if seeds != [1] else ''}",
        f"no interval: {', '.join(bare)}" if bare else "",
    ]


def _forest(axes: Axes, by_arm: ByArm) -> None:
    methods = [arm.method for arm in by_arm]
    places = row_axis(axes, [arm.label for arm in by_arm], methods)
    axes.axvline(0, color=GREY, linewidth=0.8, zorder=1)
    for place, method, difference in zip(places, methods, by_arm.values(), strict=True):
        assert difference.difference is not None
        colour, marker = style(method)
        if difference.interval:
            ends = [difference.interval.low, difference.interval.high]
            axes.plot(ends, [place, place], color=colour, linewidth=1.4, zorder=2)
        face = colour if difference.is_better or difference.is_worse else "white"
        look = {"color": colour, "markerfacecolor": face, "markersize": 5}
        axes.plot(difference.difference, place, marker, zorder=3, **look)
    axes.margins(x=0.06)
    axes.xaxis.set_major_locator(MaxNLocator(5))
