"""A compared block on the page: what its table, its strips of seeds and its plot show."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any

from peftbench.analysis.blocks import Arm, Block, Run, Value
from peftbench.analysis.estimates import Estimate
from peftbench.analysis.labels import telling
from peftbench.analysis.measures import mean
from peftbench.figures.style import OTHER_PALETTE, PALETTE, style
from peftbench.markup import Sheet
from peftbench.tables.comparison import ComparedArm, Comparison
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

    block: Block
    rows: Sequence[ComparedArm]
    notes: Sequence[str]

    @property
    def primary(self) -> str:
        return self.block.primary.replace("_", " ")

    @property
    def failures(self) -> list[Run]:
        """Runs that are not done, but for those that a search ended early."""
        return [run for run in self.block.runs if run.record.status not in ("done", "pruned")]

    def wide(self, name: Value) -> bool:
        """Whether a score has an interval in any row."""
        return any(_ends(row.estimate(name)) for row in self.rows)

    @cached_property
    def scale(self) -> tuple[float, float]:
        """The lowest and the highest score of any seed."""
        all_scores = [score for arm in self.block.arms for score in scores(arm)]
        return (min(all_scores), max(all_scores)) if all_scores else (0.0, 0.0)

    def panel(self, costs: Block) -> dict[str, Any]:
        """What the plot needs to set what each arm reaches, wherever its seeds were done, against
        what it costs in one place."""
        return {
            "device": str(costs.place),
            "note": "; ".join(text for name, text in telling(costs).items() if name != "model"),
            "primary": self.primary,
            "arms": [
                _point(row, own) for row in self.rows if (own := costs.same_settings(row.arm))
            ],
        }


def tables(comparison: Comparison, sheet: Sheet) -> list[Table]:
    """The blocks of a comparison, those that are scored on test examples first, each with the notes
    of its section."""
    pairs = zip(comparison.blocks, sheet.sections, strict=True)
    unsorted = [Table(compared.block, compared.rows, section.notes) for compared, section in pairs]
    return sorted(unsorted, key=lambda table: table.block.question.split != "test")


def scores(arm: Arm) -> list[float]:
    """Of its seeds, in order."""
    return sorted(value for run in arm.done if (value := run.value("metric")) is not None)


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


def _ends(estimate: Estimate | None) -> tuple[float, float] | None:
    interval = estimate and estimate.interval
    return (interval.low, interval.high) if interval else None


# -- columns, colours and marks ----------------------------------------------------------------


def _cost(name: str) -> Callable[[ComparedArm], float | None]:
    return lambda row: row.mean(name)


def _milliseconds(seconds: float | None) -> str:
    return decimal(None if seconds is None else 1000 * seconds, ",.1f")


# The columns after the seeds: name, the direction that a first press sorts in, an arm's value, and
# how that is written.
Column = tuple[str, str, Callable[[ComparedArm], float | None], Callable[[float | None], str]]
COLUMNS: list[Column] = [
    ("trials", "ascending", lambda row: row.arm.trials, partial(decimal, format=".0f")),
    ("trained", "ascending", _cost("trained_params"), count),
    ("%", "ascending", _cost("trained_share"), per_cent),
    ("changed", "ascending", _cost("updatable_params"), count),
    ("peak MiB", "ascending", _cost("peak_bytes"), mebibytes),
    ("tokens/s", "descending", _cost("tokens_per_second"), partial(decimal, format=",.0f")),
    ("ms/step", "ascending", _cost("step_seconds"), _milliseconds),
    ("file", "ascending", _cost("adapter_file_bytes"), size),
]


ALL_COLOURS = (*PALETTE, *OTHER_PALETTE)


def look(method: str) -> dict[str, str]:
    """The class that gives a method its colour, and its mark: those of the figures."""
    colour, mark = style(method)
    return {"colour": f"c{ALL_COLOURS.index(colour)}", "mark": mark}


def colours() -> str:
    """A rule of CSS for each colour of a method; what is black on paper is the colour of the text,
    so that it can be seen in the dark."""
    return "".join(
        f".c{place} {{ --c: {'var(--ink)' if colour == '#000000' else colour}; }}\n"
        for place, colour in enumerate(ALL_COLOURS)
    )
