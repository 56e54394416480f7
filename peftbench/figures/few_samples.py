"""What each method reaches with few training examples."""

from collections.abc import Iterable
from dataclasses import replace

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from peftbench.analysis.blocks import (
    Arm,
    Block,
    Question,
    Run,
    Value,
    canonical,
    grouped,
)
from peftbench.analysis.labels import arm_labels
from peftbench.analysis.results import Results
from peftbench.figures.panels import Panels, left_out, legend, legend_height, line_of_means
from peftbench.figures.style import axis_name, line_styles, tidy
from peftbench.figures.ticks import log_axis, only_ticks, round_ticks
from peftbench.spec import DataSpec, TrainSpec
from peftbench.wording import count

BY_SIZE = {"steps", "batch_size"}  # these may follow the number of examples
Settings = set[str] | None  # names of training settings; None: all


def few_samples(results: Results, value: Value = "metric") -> Figure:
    """The metric, or nll, against the number of training examples, a panel for the blocks that
    differ in nothing but that, in steps and in batch size.

    A line joins what has the same arguments, and the same training settings too where a size has
    several of them. Raises NothingToDraw if no blocks have runs of two sizes.
    """
    joined = _joined(results.final, value)
    missing = "no task has runs that are done with two numbers of training examples (data.train)"
    omit = {"training"} if any(_varies(block.runs, BY_SIZE) for block in joined) else set()
    omit |= {"data"} if all(block.question.data == DataSpec() for block in joined) else set()
    panels = Panels(joined, missing, [2.3, legend_height(joined)], omit)
    for block, (axes, below) in panels.axes.items():
        legend(below, _draw(axes, block, value))
    drawn = {run for block in joined for run in block.runs}
    settings_change = any(_varies(line.runs) for block in joined for line in block.arms)
    several = len({run.seed for run in drawn}) > 1
    notes = [
        "means over seeds; bars: smallest to largest" if several else "one seed",
        "one training setting for each method and size, not the same at all of them"
        if settings_change
        else "",
    ]
    return panels.annotate([*notes, *left_out(results, results.final, drawn)])


def _joined(blocks: Iterable[Block], value: Value) -> list[Block]:
    """Blocks of several sizes as one each, whose arms are lines: runs of all sizes that are done
    and have the value."""
    joined: list[Block] = []
    for question, members in grouped(blocks, lambda block: _sizeless(block.question)).items():
        runs = [run for block in members for run in block.runs if _values([run], value)]
        if len({run.examples for run in runs}) > 1:
            first = members[0].question
            question = replace(question, steps=first.steps, batch_size=first.batch_size)
            joined.append(Block(question, _lines(runs)))
    return joined


def _sizeless(question: Question) -> Question:
    data = question.data.model_copy(update={"train": None})
    return replace(question, data=data, steps=0, batch_size=0)


def _values(runs: Iterable[Run], value: Value) -> dict[float, list[float]]:
    """Of the runs that are done and have the value, by their number of training examples."""
    by_size: dict[float, list[float]] = {}
    for run in runs:
        number = run.value(value)
        if run.done and run.examples is not None and number is not None:
            by_size.setdefault(run.examples, []).append(number)
    return dict(sorted(by_size.items()))


def _lines(runs: Iterable[Run]) -> tuple[Arm, ...]:
    """Runs of the same arguments, parted by as few training settings as leave one for each size."""

    def key(run: Run, alike: Settings) -> tuple[str, int, str, str]:
        spec = run.record.spec
        return spec.method, spec.method_version, canonical(spec.args), _settings(run, alike)

    lines: dict[tuple[str, int, str, str], list[Run]] = {}
    for members in grouped(runs, lambda run: key(run, set())).values():
        for alike in (set[str](), {*TrainSpec.model_fields} - BY_SIZE, None):
            parts = grouped(members, lambda run, names=alike: key(run, names))
            if all(map(_one_for_each_size, parts.values())):
                break
        lines |= parts
    labels = arm_labels(lines)
    return tuple(Arm(labels[key], tuple(members)) for key, members in lines.items())


def _one_for_each_size(runs: Iterable[Run]) -> bool:
    settings = {(run.examples, run.record.spec.train) for run in runs}
    return len(settings) == len({size for size, _ in settings})


def _varies(runs: Iterable[Run], names: Settings = None) -> bool:
    """Whether runs differ in one of these training settings."""
    return len({_settings(run, names) for run in runs}) > 1


def _settings(run: Run, names: Settings) -> str:
    return canonical(run.record.spec.train.model_dump(include=names))


def _draw(axes: Axes, block: Block, value: Value) -> list[Line2D]:
    """Draw the lines of a panel; returns what its legend shows."""
    handles: list[Line2D] = []
    for line, look in zip(block.arms, line_styles(block.arms), strict=True):
        line_of_means(axes, _values(line.runs, value), markersize=4.5, **look)
        handles.append(Line2D([], [], label=line.label, markersize=4.5, **look))
    sizes = list(_values(block.runs, value))
    log_axis(axes, sizes)
    only_ticks(axes, sizes if len(sizes) < 6 else round_ticks(sizes[0], sizes[-1], 10), count)
    tidy(axes, "training examples", axis_name(value, block.primary))
    return handles
