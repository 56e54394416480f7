"""What an experiment will cost: a row for each arm on each task and model, and their totals."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from peftbench.analysis.like_runs import LikeRuns, RunSeconds
from peftbench.errors import InputError
from peftbench.planning.arms import PlannedArm, labels
from peftbench.planning.gpus import Gpu
from peftbench.planning.memory import Forecasts, Memory, OnGpu, memory, on_gpu
from peftbench.record import Record
from peftbench.spec import RunSpec

Device = Literal["cuda", "cpu"]


@dataclass(frozen=True, kw_only=True)
class Row:
    """An arm on a task and model: its runs, and what each of them takes."""

    label: str
    spec: RunSpec  # of a first run
    seeds: int
    trials: int | None  # of a search
    runs: int
    stored: int  # of them, those that the store has
    not_done: int  # of the stored, those that ended otherwise
    spent_seconds: float  # by the stored
    memory: Memory | None  # None: neither like runs nor an estimate
    lacking: str  # why there is none
    seconds: RunSeconds | None  # of like runs; None: there are none
    elsewhere: tuple[RunSeconds, ...]  # of like runs on other devices
    lacked_memory: tuple[str, ...]  # devices on which such a run ended for lack of memory
    on: tuple[OnGpu, ...]

    @property
    def to_come(self) -> int:
        return self.runs - self.stored

    @property
    def seconds_to_come(self) -> float | None:
        """By like runs; None: not known."""
        return 0.0 if not self.to_come else self.seconds and self.to_come * self.seconds.mean

    @property
    def flops_a_run(self) -> int | None:
        """Of all steps, at the most: as if each were the largest, without scoring. None: not known,
        or nothing is trained."""
        flops = self.memory and self.memory.flops_per_step
        return None if flops is None else flops * self.spec.train.steps


@dataclass(frozen=True, kw_only=True)
class PlannedCosts:
    """An experiment before it runs. Seconds are of like runs in the store, or not known; bytes are
    theirs, or estimates."""

    name: str  # of the experiment: its file
    store: str
    device: Device
    rows: tuple[Row, ...]
    workers: int
    flops_per_second: float | None  # that the user's own runs reach; None: not given
    later_runs: int  # on test, of the file that a search writes
    notes: tuple[str, ...]

    @property
    def runs(self) -> int:
        return sum(row.runs for row in self.rows)

    @property
    def stored(self) -> int:
        return sum(row.stored for row in self.rows)

    @property
    def not_done(self) -> int:
        return sum(row.not_done for row in self.rows)

    @property
    def to_come(self) -> int:
        return self.runs - self.stored

    @property
    def unknown(self) -> tuple[Row, ...]:
        """The rows that have runs to come and no like runs."""
        return tuple(row for row in self.rows if row.seconds_to_come is None)

    @property
    def unknown_runs(self) -> int:
        return sum(row.to_come for row in self.unknown)

    @property
    def spent_seconds(self) -> float:
        return sum(row.spent_seconds for row in self.rows)

    @property
    def measured_seconds(self) -> float:
        """Of the runs to come that have like runs."""
        return sum(row.seconds_to_come or 0.0 for row in self.rows)

    @property
    def unknown_flops(self) -> int:
        """Of the training steps of the runs that have no like runs, at the most; those that
        nothing is known of count nothing."""
        return sum(row.to_come * (row.flops_a_run or 0) for row in self.unknown)

    @property
    def unknown_seconds_by_rate(self) -> float | None:
        """Of those steps, at the rate that was given."""
        return None if self.flops_per_second is None else self.unknown_flops / self.flops_per_second

    @property
    def wall_seconds(self) -> float:
        """That the measured runs take at the least on so many workers: their part of the whole, or
        the longest run."""
        longest = (row.seconds.mean for row in self.rows if row.seconds and row.to_come)
        return max(self.measured_seconds / self.workers, max(longest, default=0.0))


def rows(
    arms: Sequence[PlannedArm],
    records: Sequence[Record],
    device: Device,
    gpus: Sequence[Gpu],
    begin: Callable[[str], object],
) -> tuple[Row, ...]:
    """What each arm takes on a kind of device. begin: called with a few words before each estimate
    is made."""
    own = [record for record in records if record.device == device]
    like, forecasts = LikeRuns(own, device), Forecasts(begin)
    return tuple(
        _row(label, arm, own, device, gpus, like, forecasts)
        for label, arm in zip(labels(arms), arms, strict=True)
    )


def _row(
    label: str,
    arm: PlannedArm,
    records: Iterable[Record],
    device: Device,
    gpus: Sequence[Gpu],
    like: LikeRuns,
    forecasts: Forecasts,
) -> Row:
    stored = arm.stored(records)
    largest, lacking = _largest(arm, device, like, forecasts)
    seconds = _those_of(gpus, like.seconds(arm.spec, arm.varied))
    return Row(
        label=label,
        spec=arm.spec,
        seeds=arm.seeds,
        trials=arm.trials,
        runs=arm.runs,
        stored=len(stored),
        not_done=sum(record.status not in ("done", "pruned") for record in stored),
        spent_seconds=sum(record.seconds for record in stored),
        memory=largest,
        lacking=lacking,
        seconds=seconds[0] if seconds else None,
        elsewhere=seconds[1:],
        lacked_memory=like.lacked_memory(arm.spec),
        on=tuple(on_gpu(largest, gpu, forecasts) for gpu in gpus),
    )


def _largest(
    arm: PlannedArm, device: Device, like: LikeRuns, forecasts: Forecasts
) -> tuple[Memory | None, str]:
    """The most that any of the arm's runs takes; or why that is not known."""
    try:
        every = [memory(spec, device, like, forecasts) for spec in arm.specs]
    except InputError as error:
        return None, str(error)
    return max(every, key=lambda each: each.reserved_high), ""


def _those_of(gpus: Sequence[Gpu], seconds: Sequence[RunSeconds]) -> tuple[RunSeconds, ...]:
    """The seconds on the GPUs that are asked about first."""
    asked = [each for each in seconds if any(gpu.is_called(each.device_name) for gpu in gpus)]
    return (*asked, *(each for each in seconds if each not in asked))
