"""Leases in a store: which worker carries out which run, for as long as it shows that it is alive.

A lease is a file that only one worker can make. Its worker writes it anew every few seconds; who
sees it unchanged for long enough, by a clock of its own, may make the next one of the same run. So
no two machines need the same time, and nothing but the store holds them together.
"""

import os
import re
import socket
import threading
import uuid
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime

from pydantic import AwareDatetime, NonNegativeInt, ValidationError

from peftbench.errors import InputError
from peftbench.files import Files
from peftbench.silence import Witness
from peftbench.spec import FrozenModel
from peftbench.store import LEASES

BEAT_SECONDS = 15.0  # between two signs of life
STALE_SECONDS = 120.0  # without one, after which a worker counts as dead
MOST_BYTES = 10_000  # of a lease
NAME = re.compile(r"(?P<run_id>[0-9a-f]{16})\.(?P<generation>[1-9]\d{0,5})\.json")


@dataclass(frozen=True, order=True)
class Lease:
    """The place of a lease: the first one of a run, or one taken over from a dead worker."""

    run_id: str
    generation: int

    @property
    def name(self) -> str:
        return f"{LEASES}/{self.run_id}.{self.generation}.json"

    @property
    def next(self) -> "Lease":
        return Lease(self.run_id, self.generation + 1)


class Holder(FrozenModel):
    """What a lease says of its worker."""

    worker: str
    """Of all workers this one only."""
    host: str
    pid: NonNegativeInt
    device: str
    """The folder of its device in the store."""
    since: AwareDatetime
    """UTC."""
    heard: AwareDatetime
    """When it last showed that it is alive, by its own clock; UTC."""


class Leases:
    """The leases of a store, as one worker sees them."""

    def __init__(self, files: Files, device: str) -> None:
        """device: the folder of this worker's device in the store."""
        self._files, self._device = files, device
        self._worker = uuid.uuid4().hex
        self._witness = Witness()  # with no gap: listing the leases of many runs may take long

    def held(self) -> dict[str, Lease]:
        """The last lease of each run that has one."""
        return held(self._files)

    def claim(self, lease: Lease) -> bool:
        """Whether this worker holds the lease now: it is the one that made it. Of one that was
        taken over, those before it are removed."""
        if not self._files.create(lease.name, self._sign(datetime.now(UTC))):
            return False
        with suppress(InputError):  # it is this worker's, and who reads them takes the last
            for generation in range(1, lease.generation):
                self._files.remove(Lease(lease.run_id, generation).name)
        return True

    def stale(self, leases: Iterable[Lease]) -> list[Lease]:
        """Those of the leases that have not changed for STALE_SECONDS while this worker looked.
        Ask again and again: the first time none is."""
        names = {lease.name: lease for lease in leases}
        stale: list[Lease] = []
        contents = self._files.read_many([*names], MOST_BYTES, replaced=True)
        for (name, lease), content in zip(names.items(), contents, strict=True):
            if isinstance(content, Exception):
                self._witness.forget(name)  # given up in the meantime, or out of reach
                continue
            if self._witness.silent_seconds(name, content) > STALE_SECONDS:
                stale.append(lease)
        return stale

    def look_anew(self) -> None:
        """Count all silences anew: the store was out of reach, for other workers too."""
        self._witness = Witness()

    @contextmanager
    def kept(self, lease: Lease) -> Iterator[threading.Event]:
        """Show that this worker is alive for as long as this lasts, and give the lease up at its
        end. The event is set if another worker has taken it over, since it saw no sign of life for
        long enough: this machine was asleep, say."""
        since, lost, over = datetime.now(UTC), threading.Event(), threading.Event()

        def beat() -> None:
            while not over.wait(BEAT_SECONDS):
                try:
                    if self._files.has(lease.next.name):
                        lost.set()
                        return
                    self._files.replace(lease.name, self._sign(since))
                except InputError:
                    continue  # the store cannot be reached: the run goes on, others see no sign

        heart = threading.Thread(target=beat, daemon=True)
        heart.start()
        try:
            yield lost
        finally:
            over.set()
            heart.join()
            with suppress(InputError):  # the store cannot be reached: others see no sign
                self._files.remove(lease.name)

    def _sign(self, since: datetime) -> bytes:
        holder = Holder(
            worker=self._worker,
            host=socket.gethostname(),
            pid=os.getpid(),
            device=self._device,
            since=since,
            heard=datetime.now(UTC),
        )
        return holder.model_dump_json().encode()


def held(files: Files) -> dict[str, Lease]:
    """The last lease of each run that has one, by the run's id."""
    leases: dict[str, Lease] = {}
    for name in files.names(LEASES):
        if match := NAME.fullmatch(name):
            lease = Lease(match["run_id"], int(match["generation"]))
            leases[lease.run_id] = max(lease, leases.get(lease.run_id, lease))
    return leases


def holders(files: Files, leases: Mapping[str, Lease]) -> dict[str, Holder]:
    """Who holds the leases, by the run's id; without those that were given up in the meantime or
    say nothing of use."""
    contents = files.read_many([lease.name for lease in leases.values()], MOST_BYTES, replaced=True)
    holders: dict[str, Holder] = {}
    for run_id, content in zip(leases, contents, strict=True):
        if isinstance(content, bytes):
            try:
                holders[run_id] = Holder.model_validate_json(content)
            except ValidationError:
                continue
    return holders
