"""A worker: it claims runs of an experiment from the store, one after another, until none is left
that nobody else does."""

import random
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from concurrent.futures import wait
from contextlib import closing
from typing import TYPE_CHECKING, Protocol, TypeVar

from peftbench.errors import InputError
from peftbench.record import Record
from peftbench.spec import RunSpec
from peftbench.store import Entry, Store
from peftbench.wording import duration
from peftbench.working.leases import Lease, Leases

if TYPE_CHECKING:
    from peftbench.training.executor import Executor

Answer = TypeVar("Answer")

POLL_SECONDS = 5.0  # between two looks at what others do, where nothing is left to claim
LOST_SECONDS = 1.0  # in which a worker notices that its run was taken over
PAUSES_SECONDS = (1, 10, 60, 300)  # before a store that could not be reached is asked again
LOOKING = 0.05  # the part of the time that may go into looking
CHOICE = 64  # of so many runs, the first that nobody holds, one is claimed: workers seldom collide


class Ended(Protocol):
    """Called after a run of this worker: its record, how many runs have one now, and of how many
    runs."""

    def __call__(self, record: Record, done: int, total: int) -> object: ...


class Worker:
    """One worker among any number of them, which know each other by the store alone."""

    def __init__(
        self,
        store: Store,
        device: str,
        specs: Sequence[RunSpec],
        make_executor: "Callable[[], Executor]",
        retry: Collection[str] = (),
        say: Callable[[str], object] = lambda line: None,
    ) -> None:
        """device: the folder of this worker's device in the store.
        retry: as in `suite.pending`, but of the records that there are now: what fails from now on
        is not tried again.
        say: called with a line for a person where the store has to be asked again."""
        self._store, self._make_executor, self._say = store, make_executor, say
        self._leases = Leases(store.files, device)
        self._total = len(specs)
        self._todo = {spec.run_id: spec for spec in specs}
        self._held: dict[str, Lease] = {}
        self._looked, self._looking = 0.0, 0.0  # when, and how long that took
        self._random = random.Random()  # only who does a run is drawn, never what comes out
        entries = self._seen()
        self._again = self._to_be_retried(entries, {"pruned", *retry})
        self._pass_over_done(entries)

    @property
    def left(self) -> int:
        """How many runs have no record that counts, as far as this worker has seen."""
        return len(self._todo)

    def work(
        self,
        begin: Callable[[RunSpec], object] = lambda spec: None,
        end: Ended = lambda record, done, total: None,
    ) -> list[Record]:
        """Carry out runs until each has a record. Returns the records of this worker's runs. Where
        others hold all that is left, this one waits: for their records or for their death.

        KeyboardInterrupt ends the run in progress, which leaves no record and can be claimed
        again at once.
        """
        records: list[Record] = []
        while self._todo:
            if (lease := self._patiently(self._claimed)) is None:
                time.sleep(POLL_SECONDS)
                self._patiently(self._look)
            elif (record := self._carry_out(lease, begin)) is not None:
                records.append(record)
                end(record, self._total - len(self._todo), self._total)
        return records

    def _carry_out(self, lease: Lease, begin: Callable[[RunSpec], object]) -> Record | None:
        """The record of the run; None if another worker has done it, or has taken it over."""
        with self._leases.kept(lease) as lost:
            spec = self._todo[lease.run_id]
            self._pass_over_done(self._patiently(lambda: self._store.exact(spec.run_id)))
            if spec.run_id not in self._todo:
                return None
            begin(spec)
            with closing(self._make_executor()) as executor:
                future = executor.submit(spec)
                while not wait([future], LOST_SECONDS).done:
                    if lost.is_set():
                        return None
                result = future.result()
            record = self._patiently(lambda: self._store.write(result.record, result.predictions))
            del self._todo[spec.run_id]
            return record

    def _patiently(self, ask: Callable[[], Answer]) -> Answer:
        """What the store answers. One that cannot be reached is asked again for a while: what runs
        have found, here and elsewhere, took longer. Raises InputError if that was in vain."""
        for pause_seconds in PAUSES_SECONDS:
            try:
                return ask()
            except InputError as error:
                self._say(f"{error}: the store is asked again in {duration(pause_seconds)}")
                time.sleep(pause_seconds)
                self._leases.look_anew()
        return ask()

    def _claimed(self) -> Lease | None:
        """A lease that is this worker's now; None if others hold all that is left."""
        if time.monotonic() - self._looked > max(1.0, self._looking / LOOKING):
            self._look()
        for lease in self._free():
            if self._leases.claim(lease):
                return lease
            self._held[lease.run_id] = lease
        for lease in self._leases.stale(self._held[run_id] for run_id in self._todo):
            if self._leases.claim(lease.next):
                return lease.next
        return None

    def _free(self) -> Iterator[Lease]:
        """First leases of runs that nobody held when this worker last looked: of the first ones in
        any order."""
        free = [run_id for run_id in self._todo if run_id not in self._held]
        for start in range(0, len(free), CHOICE):
            some = free[start : start + CHOICE]
            self._random.shuffle(some)
            yield from (Lease(run_id, 1) for run_id in some)

    def _look(self) -> None:
        """See what others have done and what they hold."""
        self._pass_over_done(self._seen())

    def _seen(self) -> list[Entry]:
        """The records that there are, once it is seen what others hold."""
        start = time.monotonic()
        self._held = self._leases.held()
        entries = self._store.latest()
        self._looked = time.monotonic()
        self._looking = self._looked - start
        return entries

    def _pass_over_done(self, entries: Sequence[Entry]) -> None:
        """Runs that have a record that counts are not to be done."""
        for entry in entries:
            if entry not in self._again:
                self._todo.pop(entry.run_id, None)

    def _to_be_retried(self, entries: Sequence[Entry], statuses: set[str]) -> set[Entry]:
        """Those of the records that there are now that do not count."""
        own = [entry for entry in entries if entry.run_id in self._todo]
        records = self._store.read_entries(own)
        return {
            entry for entry, record in zip(own, records, strict=True) if record.status in statuses
        }
