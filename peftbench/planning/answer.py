"""Planned costs for a person, and as data."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from peftbench.analysis.blocks import grouped
from peftbench.analysis.like_runs import RunSeconds
from peftbench.markup import AbstractTable, Section, Sheet, as_text
from peftbench.planning.costs import Device, PlannedCosts, Row
from peftbench.planning.memory import Memory, OnGpu
from peftbench.wording import NONE, Lang, decimal, method_name, model_name, significant, size

HOURS = {"cuda": "GPU hours", "cpu": "hours"}
LEGEND = {
    "cuda": (
        "memory: of a GPU; by estimate from the least to the most that a training step may "
        "reserve, scoring and generation left out; by like runs the most that any of them "
        "reserved. "
    ),
    "cpu": "memory: live tensors at the peak of a training step, by estimate or of like runs. ",
}
SECONDS = (
    "s/run: wall clock of whole runs with the same settings, learning rates apart, that had the "
    "machine to themselves: a mean. TFLOPs/run: of all training steps, as if each were the largest."
)
NOT_KNOWN = "not known"


@dataclass(frozen=True, eq=False)
class Table(AbstractTable):
    """A section for each model, a row for each arm on a task."""

    costs: PlannedCosts

    def sheet(self, lang: Lang) -> Sheet:
        by_model = grouped(self.costs.rows, lambda row: row.spec.model)
        return Sheet(
            sections=[self._section(model, rows) for model, rows in by_model.items()],
            legend=LEGEND[self.costs.device] + SECONDS,
            empty="nothing to run: no arm of the search varies anything",
        )

    def rows(self) -> list[dict[str, Any]]:
        return [row_as_data(row, self.costs) for row in self.costs.rows]

    def _section(self, model: str, rows: Sequence[Row]) -> Section:
        gpus = [on.gpu for on in rows[0].on]
        device = self.costs.device
        header = ["task", "arm", "runs", "stored", "memory", "memory by", *gpus]
        header += ["s/run", "s/run by", f"{HOURS[device]} to come", "TFLOPs/run"]
        return Section(
            title=model_name(model),
            about="",
            header=header,
            rows=[_cells(row, device) for row in rows],
            left=frozenset({0, 1, 5, *range(6, 6 + len(gpus)), 7 + len(gpus)}),
            notes=[note for row in rows for note in _notes(row)],
        )


def _cells(row: Row, device: Device) -> list[str]:
    return [
        row.spec.task,
        row.label,
        f"{row.runs:,}",
        f"{row.stored:,}",
        _memory(row.memory, device),
        _memory_by(row.memory),
        *(_fits(on) for on in row.on),
        NOT_KNOWN if row.seconds is None else decimal(row.seconds.mean, ",.0f"),
        NONE if row.seconds is None else _seconds_by(row.seconds),
        NOT_KNOWN if row.seconds_to_come is None else _hours(row.seconds_to_come),
        NONE if row.flops_a_run is None else significant(row.flops_a_run / 1e12),
    ]


def _memory(memory: Memory | None, device: Device) -> str:
    if memory is None:
        return NOT_KNOWN
    if device == "cpu":
        return size(memory.peak_bytes)
    low, high = size(memory.peak_bytes), size(memory.reserved_high)
    return high if memory.measured else f"{low} to {high}"


def _memory_by(memory: Memory | None) -> str:
    if memory is None:
        return NONE
    return f"measured, {_runs(memory.measured_runs)}" if memory.measured else "estimate"


def _fits(on: OnGpu) -> str:
    if on.why:
        return f"no: {on.why}"
    return on.fits + ("" if on.micro_batch is None else f", micro-batches of {on.micro_batch}")


def _seconds_by(seconds: RunSeconds) -> str:
    return f"{_runs(seconds.runs)} on {seconds.device_name}"


def _runs(number: int) -> str:
    return f"{number:,} run{'' if number == 1 else 's'}"


def _hours(seconds: float) -> str:
    return decimal(seconds / 3600, ",.2f")


def _notes(row: Row) -> list[str]:
    """What has no place in the row's cells."""
    name = f"{row.label} on {row.spec.task}"
    notes = [f"{name}: no estimate: {row.lacking}"] if row.lacking else []
    for on in row.on:
        if on.fits == "no" and not on.why:
            remedy = f"surely with {', '.join(on.changes)}" if on.changes else "nothing known would"
            notes.append(f"{name} does not fit into {on.gpu}: {remedy}")
    if row.lacked_memory:
        notes.append(f"{name}: a like run lacked memory on {', '.join(row.lacked_memory)}")
    if row.elsewhere:
        others = (f"{each.mean:,.0f} s, {_seconds_by(each)}" for each in row.elsewhere)
        notes.append(f"{name}: elsewhere {'; '.join(others)}")
    return notes


def described(costs: PlannedCosts) -> str:
    """In words and a table, without a newline at its end."""
    return "\n".join([*_summary(costs), "", as_text(Table(costs), "md")])


def _summary(costs: PlannedCosts) -> list[str]:
    hours = HOURS[costs.device]
    not_done = f" ({costs.not_done} of them not done)" if costs.not_done else ""
    lines = [
        f"{costs.name}: {_runs(costs.runs)} on {costs.device}, {costs.stored:,} of them in "
        f"{costs.store} already{not_done}, {costs.to_come:,} to come"
    ]
    if costs.stored:
        lines.append(f"spent: {_hours(costs.spent_seconds)} {hours}")
    known = costs.to_come - costs.unknown_runs
    if known:
        at_most = " at the most" if any(row.trials for row in costs.rows) else ""
        lines.append(
            f"to come: {_hours(costs.measured_seconds)} {hours}{at_most} for {_runs(known)}, "
            "measured of like runs"
        )
        if costs.workers > 1:
            wall = _hours(costs.wall_seconds)
            lines.append(f"{costs.workers:,} workers need {wall} hours for them at the least")
    if costs.unknown_runs:
        lines.append(_unknown(costs))
    if costs.later_runs:
        lines.append(
            f"not counted: {_runs(costs.later_runs)} on test, of the file that the search writes"
        )
    return [*lines, *costs.notes]


def _unknown(costs: PlannedCosts) -> str:
    """What can be said of runs that have no like runs."""
    hours = HOURS[costs.device]
    text = f"to come: not known for {_runs(costs.unknown_runs)}, which have no like runs"
    if not costs.unknown_flops:
        return text
    text += f"; their steps are at most {significant(costs.unknown_flops / 1e15)} PFLOPs"
    if costs.unknown_seconds_by_rate is None:
        return f"{text} (--tflops X says how long at X TFLOP/s)"
    return (
        f"{text}, {_hours(costs.unknown_seconds_by_rate)} {hours} at the given rate, without "
        "loading and scoring"
    )


def as_data(costs: PlannedCosts) -> dict[str, Any]:
    """As JSON values: bytes, seconds and FLOPs, unrounded; null: not known."""
    totals = ("runs", "stored", "not_done", "to_come", "unknown_runs", "later_runs", "workers")
    seconds = ("spent_seconds", "measured_seconds", "wall_seconds", "unknown_seconds_by_rate")
    names = ("name", "store", "device", *totals, *seconds, "unknown_flops", "flops_per_second")
    return {name: getattr(costs, name) for name in names} | {
        "notes": list(costs.notes),
        "rows": Table(costs).rows(),
    }


def row_as_data(row: Row, costs: PlannedCosts) -> dict[str, Any]:
    """A row as JSON values."""
    spec, memory = row.spec, row.memory
    counts = ("seeds", "trials", "runs", "stored", "not_done", "to_come")
    of_memory = ("peak_bytes", "reserved_bytes", "reserved_high", "flops_per_step")
    reserves = costs.device == "cuda"
    numbers: dict[str, Any] = {
        name: getattr(memory, name, None)
        for name in of_memory
        if reserves or not name.startswith("reserved")
    }
    return {
        "model": spec.model,
        "task": spec.task,
        "method": method_name(spec.method, spec.args),
        "label": row.label,
        "args": spec.args,
        "train": spec.train.model_dump(mode="json"),
        **{name: getattr(row, name) for name in counts},
        "memory": memory
        and {"measured": memory.measured, "measured_runs": memory.measured_runs, **numbers},
        "no_estimate": row.lacking or None,
        "gpus": [asdict(on) for on in row.on],
        "lacked_memory_on": list(row.lacked_memory),
        "seconds": row.seconds and asdict(row.seconds),
        "seconds_elsewhere": [asdict(each) for each in row.elsewhere],
        "spent_seconds": row.spent_seconds,
        "seconds_to_come": row.seconds_to_come,
        "flops_a_run": row.flops_a_run,
    }
