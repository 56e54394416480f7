"""What each method reaches with few training examples."""

from collections.abc import Iterable
from dataclasses import replace
from functools import partial

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

from peftbench.analysis.blocks import (
    Arm,
    Block,
    Question,
    Run,
    Value,
    canonical,
    grouped,
)
from peftbench.analysis.estimates import Results
from peftbench.analysis.labels import arm_labels
from peftbench.figures.panels import (
    NothingToDraw,
    Panels,
    legend,
    legend_height,
    means_and_bars,
    missing,
    trials_note,
)
from peftbench.figures.style import axis_name, line_styles, tidy
from peftbench.figures.ticks import round_ticks, short
from peftbench.spec import DataSpec, TrainSpec
from peftbench.wording import count

BY_SIZE = {"steps": 1, "batch_size": 1}  # these may follow the number of examples


def few_samples(results: Results, value: Value = "metric") -> Figure:
    """The metric, or nll, against the number of training examples, a panel for the blocks that
    differ in nothing but that, in steps and in batch size.

    A line joins what has the same arguments, and the same training settings too where a size has
    several of them. Raises NothingToDraw if no blocks have runs of two sizes.
    """
    joined = _joined(results.final, value)
    if not joined:
        raise NothingToDraw(
            "no task has runs that are done with two numbers of training examples (data.train)"
        )
    omit = {"training"} if any(_varies(block.runs, *BY_SIZE) for block in joined) else set()
    omit |= {"data"} if all(block.question.data == DataSpec() for block in joined) else set()
    panels = Panels.of(joined, [2.3, legend_height(joined)], omit)
    for (axes, below), block in zip(panels.axes, joined, strict=True):
        legend(below, _draw(axes, block, value))
    drawn = {run for block in joined for run in block.runs}
    settings_change = any(
        _varies(line.runs, *TrainSpec.model_fields) for block in joined for line in block.arms
    )
    several = len({run.seed for run in drawn}) > 1
    notes = [
        "means over seeds; bars: smallest to largest" if several else "one seed",
        "one training setting for each method and size, not the same at all of them"
        if settings_change
        else "",
        trials_note(results),
        missing(results.final, drawn),
    ]
    return panels.annotate(notes)


def _joined(blocks: Iterable[Block], value: Value) -> list[Block]:
    """Blocks of several sizes as one each, whose arms are lines: runs of all sizes that are done
    and have the value."""
    joined: list[Block] = []
    for question, members in grouped(blocks, lambda block: _sizeless(block.question)).items():
        runs = [run for block in members for run in block.runs if _has(run, value)]
        if len({run.examples for run in runs}) > 1:
            first = members[0].question
            question = replace(question, steps=first.steps, batch_size=first.batch_size)
            joined.append(Block(question, _lines(runs)))
    return joined


def _sizeless(question: Question) -> Question:
    return replace(question, data=question.data.model_copy(update={"train": None}), **BY_SIZE)


def _has(run: Run, value: Value) -> bool:
    return run.done and run.examples is not None and run.value(value) is not None


def _lines(runs: Iterable[Run]) -> tuple[Arm, ...]:
    """Runs of the same arguments, parted by as few training settings as leave one for each size."""

    def arguments(run: Run) -> tuple[str, int, str]:
        spec = run.record.spec
        return spec.method, spec.method_version, canonical(spec.args)

    lines: dict[tuple[str, ...], list[Run]] = {}
    for key, members in grouped(runs, arguments).items():
        parts = {"": members}
        for joined in ({*BY_SIZE}, set()):
            if all(map(_one_for_each_size, parts.values())):
                break
            parts = grouped(members, partial(_settings, without=joined))
        lines |= {(*map(str, key), settings): part for settings, part in parts.items()}
    labels = arm_labels(lines)
    return tuple(Arm(labels[key], tuple(members)) for key, members in lines.items())


def _settings(run: Run, without: set[str]) -> str:
    return canonical(run.record.spec.train.model_dump(exclude=without))


def _one_for_each_size(runs: Iterable[Run]) -> bool:
    by_size = grouped(runs, lambda run: run.examples)
    return not any(_varies(same, *TrainSpec.model_fields) for same in by_size.values())


def _numbers(runs: Iterable[Run], value: Value) -> list[float]:
    return [number for run in runs if (number := run.value(value)) is not None]


def _varies(runs: Iterable[Run], *names: str) -> bool:
    """Whether runs differ in one of these training settings."""
    trains = [run.record.spec.train for run in runs]
    return len({tuple(getattr(train, name) for name in names) for train in trains}) > 1


def _draw(axes: Axes, block: Block, value: Value) -> list[Line2D]:
    """Draw the lines of a panel; returns what its legend shows."""
    handles: list[Line2D] = []
    styles = line_styles(line.method for line in block.arms)
    for line, look in zip(block.arms, styles, strict=True):
        by_size = grouped(line.runs, lambda run: run.examples or 0)
        sizes = sorted(by_size)
        means, bars = means_and_bars(_numbers(by_size[size], value) for size in sizes)
        axes.errorbar(sizes, means, bars, elinewidth=0.8, markersize=4.5, **look)
        handles.append(Line2D([], [], label=line.label, markersize=4.5, **look))
    sizes = sorted({run.examples or 0 for run in block.runs})
    low, high = sizes[0], sizes[-1]
    axes.set_xscale("log")
    axes.set_xlim(low / (high / low) ** 0.06, high * (high / low) ** 0.06)
    ticks = sizes if len(sizes) < 6 else round_ticks(low, high, 10)
    axes.xaxis.set_major_locator(FixedLocator(ticks))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda tick, _: short(count(tick))))
    tidy(axes, "training examples", axis_name(value, block.primary))
    return handles
