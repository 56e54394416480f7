"""How far an experiment is, by its store alone: done, running, waiting, failed, the time left."""

import statistics
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from peftbench.record import Record
from peftbench.spec import RunSpec
from peftbench.store import Store, run_key
from peftbench.working.leases import STALE_SECONDS, Holder, held, holders

Alternatives = Sequence[RunSpec]  # one run, as each kind of device would carry it out


@dataclass(frozen=True)
class Running:
    """A run in progress, or one whose worker is silent."""

    spec: RunSpec
    holder: Holder
    silent_seconds: float  # by the two machines' clocks
    left_seconds: float | None  # by what like runs took; None: there is none

    @property
    def silent(self) -> bool:
        """Whether its worker has shown no sign of life for so long that it counts as dead, if the
        clocks agree."""
        return self.silent_seconds > STALE_SECONDS


@dataclass(frozen=True)
class Standing:
    """An experiment in a store."""

    name: str  # of the experiment: its file
    total: int
    done: list[Record]
    ended: list[Record]  # in another way: failed, diverged, skipped, ...
    running: list[Running]
    waiting: list[RunSpec]
    spent_seconds: dict[str, float]  # of all attempts, by the device's folder
    waiting_seconds: float | None  # that the waiting runs will take; None: of some nothing is known

    @property
    def statuses(self) -> dict[str, int]:
        """How many runs ended in which way."""
        return dict(Counter(record.status for record in (*self.done, *self.ended)))

    @property
    def left_seconds(self) -> float | None:
        """Until all is done, with the workers that there are; None where there is no worker or
        something is not known."""
        workers = [running for running in self.running if not running.silent]
        lefts = [running.left_seconds for running in workers]
        if self.waiting_seconds is None or not workers or None in lefts:
            return None
        return (sum(left for left in lefts if left) + self.waiting_seconds) / len(workers)


def standing(name: str, runs: Sequence[Alternatives], store: Store) -> Standing:
    """How far the runs are. Raises InputError that names a damaged record of theirs."""
    now = datetime.now(UTC)
    ids = {spec.run_id for alternatives in runs for spec in alternatives}
    entries = [entry for entry in store.latest() if entry.run_id in ids]
    records: dict[str, Record] = {}
    spent: dict[str, float] = defaultdict(float)
    every = [*store.read_entries(entries)]
    for record in every:
        spent[run_key(record).partition("/")[0]] += record.seconds
        known = records.get(record.run_id)
        if known is None or _order(record) < _order(known):
            records[record.run_id] = record
    leases = {run_id: lease for run_id, lease in held(store.files).items() if run_id in ids}
    holding = holders(store.files, leases)
    seconds = _seconds(every)
    done: list[Record] = []
    ended: list[Record] = []
    running: list[Running] = []
    waiting: list[RunSpec] = []
    for alternatives in runs:
        if record := _first(records.get(spec.run_id) for spec in alternatives):
            (done if record.status == "done" else ended).append(record)
            continue
        for spec in alternatives:
            if holder := holding.get(spec.run_id):
                likely = _like(seconds, spec)
                since = (now - holder.since).total_seconds()
                left = None if likely is None else max(0.0, likely - since)
                silent = (now - holder.heard).total_seconds()
                running.append(Running(spec, holder, silent, left))
                break
        else:
            waiting.append(alternatives[0])
    lefts = [_like(seconds, spec) for spec in waiting]
    return Standing(
        name=name,
        total=len(runs),
        done=done,
        ended=ended,
        running=running,
        waiting=waiting,
        spent_seconds=dict(spent),
        waiting_seconds=None if None in lefts else sum(left for left in lefts if left is not None),
    )


def _order(record: Record) -> tuple[bool, datetime]:
    """Of records of one run on several devices the one that is done counts, and the first."""
    return record.status != "done", record.started


def _first(records: Iterable[Record | None]) -> Record | None:
    return next((record for record in records if record is not None), None)


def _seconds(records: Iterable[Record]) -> dict[tuple[str, ...], list[float]]:
    """What runs took, by what makes them alike."""
    seconds: dict[tuple[str, ...], list[float]] = defaultdict(list)
    for record in records:
        if record.status == "done":
            for key in _keys(record.spec):
                seconds[key].append(record.seconds)
    return seconds


def _keys(spec: RunSpec) -> list[tuple[str, ...]]:
    """From the most alike to the least: the same arm of the same model on the same task, the same
    model and task."""
    return [(spec.model, spec.task, spec.method), (spec.model, spec.task)]


def _like(seconds: dict[tuple[str, ...], list[float]], spec: RunSpec) -> float | None:
    """What the runs most alike took, in the middle; None: there is none."""
    taken = _first_list(seconds.get(key) for key in _keys(spec))
    return statistics.median(taken) if taken else None


def _first_list(lists: Iterable[list[float] | None]) -> list[float] | None:
    return next((each for each in lists if each), None)
