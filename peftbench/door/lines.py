"""Runs and what they came to, in lines for a person."""

from typing import TYPE_CHECKING

from peftbench.record import Record
from peftbench.spec import RunSpec
from peftbench.wording import duration, method_name, model_name

if TYPE_CHECKING:
    from peftbench.suite import Progress


def run_name(spec: RunSpec) -> str:
    """A run in a few words."""
    name = method_name(spec.method, spec.args)
    return f"{name} on {spec.task} ({model_name(spec.model)}), seed {spec.seed}"


def progress_line(progress: "Progress") -> str:
    """What a run came to, and how long the others will take."""
    return ended_line(progress.record, progress.done, progress.total, progress.seconds_left)


def ended_line(record: Record, done: int, total: int, seconds_left: float | None = None) -> str:
    """What a run came to, how many of how many are done, and if it is known how long the others
    will take."""
    left = ""
    if seconds_left is not None and done < total:
        left = f"; about {duration(seconds_left)} left"
    notes = "".join(f"\n    note: {note}" for note in record.notes)
    return f"[{done}/{total}] {_outcome(record)} ({record.seconds:.0f} s{left}){notes}"


def _outcome(record: Record) -> str:
    """What a run came to."""
    outcome = f"{record.status}: {record.error}"
    if record.status == "done":
        values = {name: record.metrics.get(name) for name in (record.primary, "nll")}
        outcome = ", ".join(f"{n} {value:.4g}" for n, value in values.items() if value is not None)
    return f"{run_name(record.spec)}: {outcome}"
