"""How much better or worse than LoRA each arm is, task by task, with 95 % intervals."""

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from peftbench.analysis.blocks import Arm, Block, Value
from peftbench.analysis.estimates import Difference
from peftbench.analysis.intervals import ALPHA
from peftbench.analysis.results import Results
from peftbench.figures.panels import (
    Panels,
    dot,
    few_arms,
    left_out,
    legend,
    named,
    row_axis,
    rows_height,
)
from peftbench.figures.style import GREY, style, tidy

REFERENCE = "lora"  # the method whose first arm the others are compared with
ByArm = dict[Arm, Difference]  # of a block, those that are known


def differences(results: Results, value: Value = "metric") -> Figure:
    """The differences to the first arm of LoRA, positive is better, a panel for each block; filled:
    more than chance after Holm's correction over the block.

    Raises NothingToDraw if there is no difference.
    """
    blocks, few = few_arms(results, results.final)
    references = {block: arm for block in blocks if (arm := block.first(REFERENCE))}
    drawn: dict[Block, ByArm] = {}
    for block, reference in references.items():
        pairs = results.differences(block, reference, value).items()
        by_arm = {arm: difference for arm, difference in pairs if difference.difference is not None}
        if by_arm:
            drawn[block] = by_arm
    missing = f"no two arms of a block share a seed with a {value}, one of them {REFERENCE}"
    panels = Panels(drawn, missing, [rows_height(drawn.values(), 0.8), 0.25])
    for block, by_arm in drawn.items():
        axes, below = panels.axes[block]
        _forest(axes, by_arm)
        name = "nll per token" if value == "nll" else block.primary.replace("_", " ")
        tidy(axes, f"{name}: better than {REFERENCE} by")
        legend(below, [dot(f"Holm's p ≤ {ALPHA}"), dot("may be chance", "white")])
    shown = {arm for block, by_arm in drawn.items() for arm in [references[block], *by_arm]}
    return panels.annotate([*_notes(drawn, references), few, *left_out(results, blocks, shown)])


def _notes(drawn: dict[Block, ByArm], references: dict[Block, Arm]) -> list[str]:
    compared = [f"{block.question.task}: {references[block].label}" for block in drawn]
    pairs = [
        (named(block, arm), difference)
        for block, by_arm in drawn.items()
        for arm, difference in by_arm.items()
    ]
    seeds = sorted({difference.seeds for _, difference in pairs})
    over = sorted({difference.interval.over for _, difference in pairs if difference.interval})
    bare = [name for name, difference in pairs if not difference.interval]
    return [
        f"compared with {', '.join(dict.fromkeys(compared))}" if "(" in str(compared) else "",
        f"95 % intervals over {' or '.join(over)}" if over else "",
        f"{' or '.join(map(str, seeds))} shared seed{'s' if seeds != [1] else ''}",
        f"no interval: {', '.join(bare)}" if bare else "",
    ]


def _forest(axes: Axes, by_arm: ByArm) -> None:
    row_axis(axes, by_arm)
    axes.axvline(0, color=GREY, linewidth=0.8, zorder=1)
    for place, (arm, difference) in enumerate(by_arm.items()):
        assert difference.difference is not None
        colour, marker = style(arm.method)
        if difference.interval:
            ends = [difference.interval.low, difference.interval.high]
            axes.plot(ends, [place, place], color=colour, linewidth=1.4, zorder=2)
        face = colour if difference.is_better or difference.is_worse else "white"
        look = {"color": colour, "markerfacecolor": face, "markersize": 5}
        axes.plot(difference.difference, place, marker, zorder=3, **look)
    axes.margins(x=0.06)
    axes.xaxis.set_major_locator(MaxNLocator(5))
