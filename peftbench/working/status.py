"""How far an experiment is, by its store alone: done, running, waiting, failed, the time left."""

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from peftbench.pace import Pace, arm_of
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
    left_seconds: float | None
    """Until all is done, with the workers that there are; None: there is none, or of some runs
    nothing is known."""

    @property
    def statuses(self) -> dict[str, int]:
        """How many runs ended in which way."""
        return dict(Counter(record.status for record in (*self.done, *self.ended)))


def standing(name: str, runs: Sequence[Alternatives], store: Store) -> Standing:
    """How far the runs are. Raises InputError that names a damaged record of theirs."""
    now = datetime.now(UTC)
    ids = {spec.run_id for alternatives in runs for spec in alternatives}
    entries = [entry for entry in store.latest() if entry.run_id in ids]
    records: dict[str, Record] = {}
    spent: dict[str, float] = defaultdict(float)
    pace = Pace()
    for record in store.read_entries(entries):
        if record.status == "done":
            pace.add(record)
        spent[run_key(record).partition("/")[0]] += record.seconds
        known = records.get(record.run_id)
        if known is None or _order(record) < _order(known):
            records[record.run_id] = record
    leases = {run_id: lease for run_id, lease in held(store.files).items() if run_id in ids}
    holding = holders(store.files, leases)
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
                left = pace.left(arm_of(spec), _seconds(holder.since, now))
                silent = _seconds(holder.heard, now)
                running.append(Running(spec, holder, silent, left))
                break
        else:
            waiting.append(alternatives[0])
    alive = [each for each in running if not each.silent]
    begun = [(arm_of(each.spec), _seconds(each.holder.since, now)) for each in alive]
    arms = Counter(map(arm_of, waiting))
    return Standing(
        name=name,
        total=len(runs),
        done=done,
        ended=ended,
        running=running,
        waiting=waiting,
        spent_seconds=dict(spent),
        waiting_seconds=pace.one_by_one(arms),
        left_seconds=pace.until_all_end(arms, begun, len(alive)) if alive else None,
    )


def _order(record: Record) -> tuple[bool, datetime]:
    """Of records of one run on several devices the one that is done counts, and the first."""
    return record.status != "done", record.started


def _first(records: Iterable[Record | None]) -> Record | None:
    return next((record for record in records if record is not None), None)


def _seconds(start: datetime, end: datetime) -> float:
    return (end - start).total_seconds()
