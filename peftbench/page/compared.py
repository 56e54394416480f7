"""A compared block on the page: what its table, its strips of seeds and its plot show."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

from peftbench.analysis.blocks import METHOD_ORDER, Arm, Block, Run, Value
from peftbench.analysis.estimates import BETTER, Estimate
from peftbench.analysis.labels import facts
from peftbench.analysis.measures import mean
from peftbench.figures.style import COLOURS, OTHER_COLOUR, style
from peftbench.markup import Sheet
from peftbench.tables.comparison import ComparedArm, ComparedBlock, Comparison
from peftbench.wording import count, decimal, mebibytes, per_cent, size

# What the plot can lay out from left to right, and how it writes a value: measures, in words.
COSTS = {
    "peak_bytes": ("peak memory of a training step", "bytes"),
    "trained_params": ("trained parameters", "count"),
    "updatable_params": ("parameters that change", "count"),
    "adapter_file_bytes": ("size of what is stored", "bytes"),
    "step_seconds": ("time of a training step", "seconds"),
    "train_seconds": ("time of all training steps", "seconds"),
    "latency.merged": ("latency, merged into the model", "seconds"),
}


@dataclass(frozen=True)
class Table:
    """A block of arms that may be compared."""

    compared: ComparedBlock
    notes: Sequence[str]

    @property
    def block(self) -> Block:
        return self.compared.block

    @property
    def rows(self) -> tuple[ComparedArm, ...]:
        return self.compared.rows

    @property
    def primary(self) -> str:
        return self.block.primary.replace("_", " ")

    @property
    def circumstances(self) -> list[str]:
        return list(facts(self.block).values())

    @property
    def failures(self) -> list[Run]:
        """Runs that are not done, but for those that a search ended early."""
        return [run for run in self.block.runs if run.record.status not in ("done", "pruned")]

    @property
    def wide(self) -> dict[Value, bool]:
        """Which scores have an interval in any row."""
        return {name: any(_ends(row.estimate(name)) for row in self.rows) for name in BETTER}

    @cached_property
    def scale(self) -> tuple[float, float]:
        """The lowest and the highest score of any seed."""
        scores = [score for arm in self.block.arms for score in _scores(arm.done)]
        return (min(scores), max(scores)) if scores else (0.0, 0.0)

    def strip(self, row: ComparedArm) -> dict[str, Any]:
        """Where an arm's seeds, their mean and its interval lie on the scale that all arms of the
        table share, from 0 to 100."""
        mean, ends = row.metric and row.metric.mean, _ends(row.metric)
        return {
            "seeds": [position(score, self.scale) for score in _scores(row.arm.done)],
            "mean": None if mean is None else position(mean, self.scale),
            "interval": ends and [position(end, self.scale) for end in ends],
        }

    def panel(self, costs: Block) -> dict[str, Any]:
        """What the plot needs to set what each arm reaches, wherever its seeds were done, against
        what it costs in one place."""
        pairs = [(row, costs.same_settings(row.arm)) for row in self.rows]
        return {
            "device": str(costs.place),
            "note": "; ".join(text for name, text in facts(costs).items() if name != "model"),
            "primary": self.primary,
            "arms": [_point(row, own) for row, own in pairs if own],
        }


def tables(comparison: Comparison, sheet: Sheet) -> list[Table]:
    """The blocks of a comparison, those that are scored on test examples first, each with the notes
    of its section."""
    pairs = zip(comparison.blocks, sheet.sections, strict=True)
    unsorted = [Table(compared, section.notes) for compared, section in pairs]
    return sorted(unsorted, key=lambda table: table.block.question.split != "test")


def _scores(runs: Sequence[Run]) -> list[float]:
    values = [run.value("metric") for run in runs]
    return sorted(value for value in values if value is not None)


def _ends(estimate: Estimate | None) -> tuple[float, float] | None:
    interval = estimate and estimate.interval
    return (interval.low, interval.high) if interval else None


def position(value: float, scale: tuple[float, float]) -> float:
    """Where a value stands on a scale from 0 to 100 that has room at both ends; what is beyond
    stands at the end."""
    low, high = scale
    part = 0.5 if low == high else (value - low) / (high - low)
    return round(min(100, max(0, 15 + 70 * part)), 2)


def _point(row: ComparedArm, costs: Arm) -> dict[str, Any]:
    return {
        "label": row.arm.label,
        "method": row.arm.method,
        "seeds": len(row.arm.done),
        **look(row.arm.method),
        **{name: mean(costs, name) for name in COSTS},
        "metric": row.metric and row.metric.mean,
        "nll": row.nll and row.nll.mean,
        "metric.interval": _ends(row.metric),
        "nll.interval": _ends(row.nll),
    }


# -- cells -------------------------------------------------------------------------------------


class Cell(NamedTuple):
    """What a cell is sorted by, and what it says."""

    value: float | None
    text: str


def _seeds(row: ComparedArm) -> Cell:
    done, runs = len(row.arm.done), len(row.arm.runs)
    return Cell(done, str(done) if done == runs else f"{done} of {runs}")


def _trials(row: ComparedArm) -> Cell:
    return Cell(row.arm.trials, decimal(row.arm.trials, ".0f"))


def _cost(name: str, text: Callable[[float | None], str]) -> Callable[[ComparedArm], Cell]:
    def cell(row: ComparedArm) -> Cell:
        value = row.mean(name)
        return Cell(value, text(value))

    return cell


def _milliseconds(seconds: float | None) -> str:
    return decimal(None if seconds is None else 1000 * seconds, ",.1f")


# The columns after the scores: name, the direction that a first press sorts in, an arm's cell.
COLUMNS: list[tuple[str, str, Callable[[ComparedArm], Cell]]] = [
    ("seeds", "descending", _seeds),
    ("trials", "ascending", _trials),
    ("trained", "ascending", _cost("trained_params", count)),
    ("%", "ascending", _cost("trained_share", per_cent)),
    ("changed", "ascending", _cost("updatable_params", count)),
    ("peak MiB", "ascending", _cost("peak_bytes", mebibytes)),
    ("tokens/s", "descending", _cost("tokens_per_second", lambda rate: decimal(rate, ",.0f"))),
    ("ms/step", "ascending", _cost("step_seconds", _milliseconds)),
    ("file", "ascending", _cost("adapter_file_bytes", size)),
]


# -- colours and marks, those of the figures -----------------------------------------------------


def look(method: str) -> dict[str, str]:
    """The class that gives a method its colour, and its mark."""
    known = method in METHOD_ORDER
    colour = f"c{METHOD_ORDER.index(method)}" if known else "cx"
    return {"colour": colour, "mark": style(method)[1]}


def colours() -> str:
    """A rule of CSS for each method; what is black on paper is the colour of the text, so that it
    can be seen in the dark."""
    by_class = {look(method)["colour"]: colour for method, colour in COLOURS.items()}
    return "".join(
        f".{name} {{ --c: {'var(--ink)' if colour == '#000000' else colour}; }}\n"
        for name, colour in (by_class | {"cx": OTHER_COLOUR}).items()
    )
