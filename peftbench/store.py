"""The store of results: a record is written once, whole or not at all, and read only if it is
unchanged.

The digest in a record is a guard against accidents: whoever edits a record can make another digest.
What people did shows in a comparison with a git commit (committed.py).
"""

import hashlib
import itertools
import re
import signal
from collections.abc import Iterator, Sequence, Set
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from multiprocessing import get_context
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import ValidationError

from peftbench.errors import InputError
from peftbench.files import Files, files_at, is_url
from peftbench.files.base import TEMPORARY
from peftbench.index import Index, Seen
from peftbench.once import sealed, unsealed
from peftbench.reading import MOST_PREDICTIONS_BYTES, MOST_RECORD_BYTES, read_predictions
from peftbench.record import SCHEMA, Point, Predictions, Record
from peftbench.spec import digest

if TYPE_CHECKING:
    from pandas import DataFrame

NAME = re.compile(
    r"(?P<run_id>[0-9a-f]{16})(\.attempt(?P<attempt>[2-9]|[1-9]\d+))?"
    r"\.(json|([0-9a-f]{16}\.)?predictions\.parquet)"
)
FEWEST_SHARED_OUT = 4000  # records of a folder that several processes check
SHARE = 500  # records that one of them checks at a time
IMPORTED = "imported"  # the folder of what others measured: no device is called so
FEWEST_INDEXED = 500  # records of a store; fewer are read in half a second
LEASES = "leases"  # the folder of who does what (working/leases.py): likewise


@lru_cache(maxsize=1024)
def device_folder(device: str, device_name: str) -> str:
    """The name of the folder that holds a device's records: lower case letters, digits and hyphens
    only."""
    return re.sub("[^a-z0-9]+", "-", f"{device} {device_name}".lower()).strip("-")[:100]


def run_key(record: Record) -> str:
    """The one key of a run, "<device folder>/<run id>": equal specs on two devices are two runs."""
    return f"{folder_of(record)}/{record.run_id}"


def folder_of(record: Record) -> str:
    """The folder of the device that the run took place on."""
    return device_folder(record.device, record.environment.device_name)


@dataclass(frozen=True, order=True, slots=True)
class Entry:
    """The place of a record in the store."""

    folder: str
    run_id: str
    attempt: int

    @property
    def stem(self) -> str:
        attempt = "" if self.attempt == 1 else f".attempt{self.attempt}"
        return f"{self.folder}/{self.run_id}{attempt}"

    @property
    def record(self) -> str:
        return f"{self.stem}.json"

    @property
    def earlier(self) -> "Entry":
        """The attempt before this one."""
        return replace(self, attempt=self.attempt - 1)

    @property
    def predictions(self) -> str:
        return f"{self.stem}.predictions.parquet"

    def predictions_of(self, sha256: str) -> str:
        """Where predictions lie whose place was taken by those of a writer that never stored a
        record."""
        return f"{self.stem}.{sha256[:16]}.predictions.parquet"

    @property
    def key(self) -> str:
        """The `run_key` of the record."""
        return f"{self.folder}/{self.run_id}"


@dataclass(frozen=True)
class Store:
    """The records below `root`, a folder or a URL such as s3://BUCKET/PREFIX, as
    `<device folder>/<run_id>.json`, and the predictions of a run beside its record, as
    `<run_id>.predictions.parquet`. What others measured lies in a folder of its own (IMPORTED), and
    nothing here reads it.

    A run that is not done may be tried again: its record stays, the next one is called
    `<run_id>.attempt2.json`, and readers get the latest. Any number of processes and machines may
    write at once: a name is given to the first that makes it, and nothing is locked.
    """

    root: Path | str

    def __str__(self) -> str:
        return str(self.root)

    @property
    def folder(self) -> Path:
        """The root, of a store on this machine. Raises InputError for a URL."""
        if isinstance(self.root, str):
            raise InputError(f"store {self.root}: is no folder of this machine")
        return self.root

    @cached_property
    def files(self) -> Files:
        """Raises InputError if the root is a URL that cannot be used."""
        return files_at(self.root)

    def ensure_writable(self) -> None:
        """Raises InputError if `write` cannot work here. Makes the folder, but not its parent."""
        self.files.prepare()

    def write(self, record: Record, predictions: "DataFrame | None" = None) -> Record:
        """Store a record and its predictions. Returns the record that the store now has for this
        run, as readers get it.

        It differs from the one given only if another writer has finished the same run before: a
        finished run is never replaced. Raises ValueError on NaN or on a run_id that is not the
        spec's, InputError if the store cannot be written or could not be read again.
        """
        if record.run_id != record.spec.run_id:
            raise ValueError(
                f"record {record.run_id}: its spec is that of run {record.spec.run_id}"
            )
        # refuses NaN, which pydantic writes as null in a field of type Any
        digest(record.spec.args)
        table, reference = None, None
        if predictions is not None:
            table = predictions.to_parquet(None, index=False)
            sha256 = hashlib.sha256(table).hexdigest()
            reference = Predictions(rows=len(predictions), sha256=sha256)
        content = record.model_copy(update={"predictions": reference}).model_dump(mode="json")
        stored = Record.model_validate(content)
        text = sealed(content)
        check_sizes(record.run_id, text, table)
        while True:
            attempts = self.attempts(folder_of(record), record.run_id)
            if attempts and (latest := self._load(attempts[-1])).status == "done":
                return latest
            if self.put(Entry(folder_of(record), record.run_id, len(attempts) + 1), text, table):
                return stored

    def put(self, entry: Entry, text: bytes, table: bytes | None) -> bool:
        """Make the files of a record, its predictions first: who sees a record sees all of it.
        Returns False if another writer has made a record there, and leaves nothing then."""
        own = None if table is None else self._put_predictions(entry, table)
        if self.files.create(entry.record, text):
            if own != entry.predictions:  # of a writer that was killed, or that comes too late
                self.files.remove(entry.predictions)
            return True
        if own is not None and table is not None:
            theirs = self._load(entry).predictions
            if theirs is None or theirs.sha256 != hashlib.sha256(table).hexdigest():
                self.files.remove(own)
        return False

    def _put_predictions(self, entry: Entry, table: bytes) -> str:
        """Make the file of predictions; returns its name."""
        if self.files.create(entry.predictions, table):
            return entry.predictions
        name = entry.predictions_of(hashlib.sha256(table).hexdigest())
        self.files.create(name, table)
        return name

    def read_all(self) -> Iterator[Record]:
        """The latest record of every run, ordered by device folder and run_id. Raises InputError
        that names the first file that is damaged, changed or moved."""
        entries = self.latest()
        if len(entries) < FEWEST_INDEXED:
            return self.read_entries(entries)
        return self._indexed(entries)

    def _indexed(self, entries: Sequence[Entry]) -> Iterator[Record]:
        """The records at these places, in order; those that have not changed since they were read
        on this machine, from its cache. Their curves stay in their files until they are looked at.
        """
        place = str(self.root if isinstance(self.root, str) else self.root.resolve())
        index = Index(place, self._read_curve)
        versions = {
            entry.record: version
            for entry in entries
            if (version := self.files.version(entry.record)) is not None
        }
        known = index.records(versions)
        others = self._contents([entry for entry in entries if entry.record not in known])
        try:
            for entry in entries:
                record = known.pop(entry.record, None)
                if record is None:
                    _, content = next(others)
                    record = self._parsed(entry, content)
                    if isinstance(content, bytes) and entry.record in versions:
                        sha256 = hashlib.sha256(content).hexdigest()
                        seen = Seen(entry.record, versions[entry.record], sha256)
                        record = index.add(seen, record)
                yield record
        finally:
            index.save()

    def _read_curve(self, name: str, sha256: str) -> Sequence[Point]:
        """The curve of the record in a file. Raises InputError if its digest is another by now."""
        content = self.files.read(name, MOST_RECORD_BYTES)
        folder, _, file = name.partition("/")
        entry = _entry(folder, file)
        assert entry
        record = self._parsed(entry, content)
        if hashlib.sha256(content).hexdigest() != sha256:
            raise InputError(
                f"{self.files.place(name)}: another record than a moment ago: run the command again"
            )
        return record.curve

    def read_entries(self, entries: Sequence[Entry]) -> Iterator[Record]:
        """The records at these places, in order. Raises InputError as `read_all` does."""
        for entry, content in self._contents(entries):
            yield self._parsed(entry, content)

    def read(self, run: str) -> Record:
        """The latest record of a run, given its key or the beginning of its id. Raises InputError
        if there is none, or more than one."""
        return self._load(self._find(run))

    def find(self, key: str) -> Record | None:
        """The latest record of the run with this `run_key`; None if there is none. No other record
        is read."""
        entries = self.exact(key)
        return self._load(entries[0]) if entries else None

    def find_all(self, run_id: str, folder: str | None = None) -> list[Record]:
        """The latest record of a run from each device, or from the one with this folder alone; no
        other record is read."""
        run = run_id if folder is None else f"{folder}/{run_id}"
        return [*self.read_entries(self.exact(run))]

    def predictions(self, run: str) -> "DataFrame":
        """The predictions of a run, given as in `read`. Raises InputError if the run has none, they
        were changed or they are no table of predictions."""
        entry = self._find(run)
        record = self._load(entry)
        if record.predictions is None:
            raise InputError(f"run {record.run_id} ({record.status}) has no predictions")
        return self._table(entry, record.predictions)

    def predictions_of(self, record: Record) -> "DataFrame":
        """The predictions of a record that was read here and has some. Raises InputError as
        `predictions` does; the record is not read again."""
        assert record.predictions
        return self._table(self._find(run_key(record)), record.predictions)

    def predictions_bytes(self, entry: Entry, reference: Predictions) -> tuple[str, bytes]:
        """The file of a record's predictions, by its name and content. Raises InputError if they
        are not those of the record."""
        problem = InputError(
            f"{self.files.place(entry.predictions)}: predictions were changed after they were "
            "written"
        )
        for name in (entry.predictions, entry.predictions_of(reference.sha256)):
            try:
                content = self.files.read(name, MOST_PREDICTIONS_BYTES)
            except InputError as error:
                problem = error if name == entry.predictions else problem
                continue
            if hashlib.sha256(content).hexdigest() == reference.sha256:
                return name, content
        raise problem

    def check(self, processes: int = 1) -> list[str]:
        """Everything that is wrong with the store, a line for each problem: damaged, changed or
        misplaced records, lost or changed predictions. Several processes may read the records of a
        large folder; they are spawned, so that a script which asks for them needs to be guarded by
        `if __name__ == "__main__"`. Raises InputError if there is no store."""
        if not self.files.exists():
            raise InputError(f"store {self.root}: there is no such folder")
        folders = self.files.folders()
        problems = [
            f"{self.files.place(name)}: beside the devices' folders, where nothing reads it"
            for name in self.files.names()
            if name.endswith((".json", ".parquet")) and name not in folders
        ]
        listed = {folder: self.files.names(folder) for folder in self._devices(folders)}
        known = {entry.run_id for names in listed.values() for entry in _entries("", names)}
        for folder, names in listed.items():
            problems += self._problems(folder, names, known, processes)
        return problems

    def leftovers(self) -> list[str]:
        """What writers that were killed left behind, or one at work has not published yet: it is no
        part of the results, and nothing reads it."""
        left: list[str] = []
        folders = self._devices(self.files.folders())
        listed = {folder: self.files.names(folder) for folder in ("", *folders)}
        known = {entry.run_id for names in listed.values() for entry in _entries("", names)}
        for folder, names in listed.items():
            orphans = _orphans(folder, names)
            for name in names:
                path = f"{folder}/{name}" if folder else name
                elsewhere = path in orphans and name[:16] in known
                if TEMPORARY.fullmatch(name) or elsewhere:
                    left.append(self.files.place(path))
        return left

    def entries(self) -> list[Entry]:
        """Every attempt of every run, in order. Raises InputError that names a file that is called
        like none."""
        entries: list[Entry] = []
        for folder in self._devices(self.files.folders()):
            for name in self.files.names(folder):
                if entry := _entry(folder, name):
                    entries.append(entry)
                elif name.endswith(".json"):
                    raise InputError(
                        f"{self.files.place(f'{folder}/{name}')}: not named like a record: "
                        "restore its name, or move it out of the store"
                    )
        return sorted(entries)

    def latest(self) -> list[Entry]:
        """The last attempt of every run, in order. Raises InputError as `entries` does."""
        return list({entry.key: entry for entry in self.entries()}.values())

    def attempts(self, folder: str, run_id: str) -> list[Entry]:
        """All attempts of a run on a device, found without listing the records."""
        attempts = (Entry(folder, run_id, number) for number in itertools.count(1))
        return [*itertools.takewhile(lambda entry: self.files.has(entry.record), attempts)]

    @staticmethod
    def _devices(folders: Sequence[str]) -> list[str]:
        """Those that hold a device's records."""
        return [folder for folder in folders if folder not in (IMPORTED, LEASES)]

    def _find(self, run: str) -> Entry:
        """The latest attempt of the only run whose id or key begins with `run`."""
        entries = self.exact(run) or [
            entry
            for entry in self.latest()
            if run and (entry.run_id.startswith(run) or entry.key.startswith(run))
        ]
        if not entries:
            raise InputError(f"no run in store {self.root} has an id that begins with {run!r}")
        if len(entries) > 1:
            more = f" and {len(entries) - 5} more" if len(entries) > 5 else ""
            raise InputError(
                f"{run!r} could be any of {', '.join(entry.key for entry in entries[:5])}{more}"
            )
        return entries[0]

    def exact(self, run: str) -> list[Entry]:
        """The latest attempts of a run that is named in full, by a whole id or a key, found without
        listing the records."""
        device, _, run_id = run.rpartition("/")
        if not NAME.fullmatch(f"{run_id}.json") or (device and device != device_folder(device, "")):
            return []
        folders = [device] if device else self._devices(self.files.folders())
        return [last for folder in folders for last in self.attempts(folder, run_id)[-1:]]

    def _contents(self, entries: Sequence[Entry]) -> Iterator[tuple[Entry, bytes | Exception]]:
        names = [entry.record for entry in entries]
        return zip(entries, self.files.read_many(names, MOST_RECORD_BYTES), strict=True)

    def _load(self, entry: Entry) -> Record:
        """The record at `entry`. Raises InputError that names the file if it is damaged, changed,
        of another schema, or in the wrong folder."""
        return self._parsed(entry, self.files.read(entry.record, MOST_RECORD_BYTES))

    def _parsed(self, entry: Entry, content: bytes | Exception) -> Record:
        if isinstance(content, Exception):
            raise content
        return parsed(entry, content, self.files.place(entry.record))

    def _table(self, entry: Entry, reference: Predictions) -> "DataFrame":
        """The predictions of a record. Raises InputError if they are none, or not the record's."""
        name, content = self.predictions_bytes(entry, reference)
        try:
            return read_predictions(content, reference.rows)
        except ValueError as error:
            raise InputError(f"{self.files.place(name)}: not predictions: {error}") from error

    def _problems(
        self, folder: str, names: Sequence[str], known: set[str], processes: int
    ) -> Iterator[str]:
        """What is wrong in a device's folder. known: ids of all runs that have a record."""
        entries = _entries(folder, names)
        present = {entry.record for entry in entries} | {f"{folder}/{name}" for name in names}
        if processes > 1 and len(entries) >= FEWEST_SHARED_OUT and not isinstance(self.root, str):
            yield from self._problems_by_processes(entries, present, processes)
        else:
            yield from self._problems_of(entries, present)
        for name in names:
            if not NAME.fullmatch(name) and not TEMPORARY.fullmatch(name):
                place = self.files.place(f"{folder}/{name}")
                yield f"{place}: not the name of a record or of predictions"
        for name in sorted(_orphans(folder, names)):
            if name.rpartition("/")[2][:16] not in known:
                yield (
                    f"{self.files.place(name)}: predictions without a record: it is lost, or its "
                    "writer was killed, and then the same run again replaces them"
                )

    def _problems_of(self, entries: Sequence[Entry], present: Set[str]) -> list[str]:
        """What is wrong with records and their predictions. present: the names of files, at least
        of those of their predictions and earlier attempts that are there."""
        problems: list[str] = []
        for entry, content in self._contents(entries):
            if entry.attempt > 1 and entry.earlier.record not in present:
                place = self.files.place(entry.record)
                problems.append(f"{place}: an earlier attempt of this run is missing")
            try:
                record = self._parsed(entry, content)
                if record.predictions is not None:
                    self._table(entry, record.predictions)
                elif entry.predictions in present:
                    place = self.files.place(entry.predictions)
                    problems.append(f"{place}: predictions that their record does not mention")
            except InputError as error:
                problems.append(str(error))
        return problems

    def _problems_by_processes(
        self, entries: Sequence[Entry], present: Set[str], processes: int
    ) -> Iterator[str]:
        """The same as `_problems_of`, in the same order."""
        pool = ProcessPoolExecutor(processes, get_context("spawn"), _ignore_interrupts)
        shares = [entries[start : start + SHARE] for start in range(0, len(entries), SHARE)]
        try:
            waiting = [pool.submit(self._problems_of, s, _of(s, present)) for s in shares]
            for share, answer in zip(shares, waiting, strict=True):
                try:
                    yield from answer.result()
                except BrokenProcessPool:  # one was killed
                    yield from self._problems_of(share, present)
        finally:
            pool.shutdown(cancel_futures=True)


def _of(entries: Sequence[Entry], present: Set[str]) -> Set[str]:
    """Those names that say something of these records."""
    return present & {
        name for entry in entries for name in (entry.predictions, entry.earlier.record)
    }


def _ignore_interrupts() -> None:
    """In a process that only answers another, which is interrupted too."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def store_at(place: Path | str) -> Store:
    """The store in a folder, or at a URL."""
    return Store(str(place) if is_url(place) else Path(place))


def _entry(folder: str, name: str) -> Entry | None:
    """The record whose file is called `name`; None if it is not named like one."""
    match = NAME.fullmatch(name)
    if match is None or not name.endswith(".json"):
        return None
    return Entry(folder, match["run_id"], int(match["attempt"] or 1))


def _entries(folder: str, names: Sequence[str]) -> list[Entry]:
    """The records among the files of a folder, in order."""
    return sorted(entry for name in names if (entry := _entry(folder, name)))


def _orphans(folder: str, names: Sequence[str]) -> set[str]:
    """The predictions in a folder that have no record."""
    stems = {name.removesuffix(".json") for name in names if _entry(folder, name)}
    tables = [name for name in names if NAME.fullmatch(name) and name.endswith(".parquet")]
    owner = re.compile(r"(\.[0-9a-f]{16})?\.predictions\.parquet")
    return {f"{folder}/{name}" for name in tables if owner.sub("", name) not in stems}


def parsed(entry: Entry, content: bytes, place: str) -> Record:
    """The record in a file, `place`. Raises InputError that names it if it is damaged, changed, of
    another schema, or not where it belongs."""
    values, intact = unsealed(content, place)
    if (schema := values.get("schema")) != SCHEMA:
        raise InputError(
            f"{place}: a record of schema {schema!r:.20}, where this version of peftbench reads "
            f"schema {SCHEMA}: read it with the version that wrote it, "
            "or move it to a store of its own and run again"
        )
    if not intact:
        raise InputError(
            f"{place}: changed after it was written, its digest does not fit: restore the original"
        )
    try:
        record = Record.model_validate(values)
        # refuses what no reader could write: half a character, deep args; a curve is numbers only
        record.model_dump_json(exclude={"curve"})
        of_spec = record.spec.run_id
    except ValidationError as error:
        first = error.errors()[0]
        raise InputError(f"{place}: {'.'.join(map(str, first['loc']))}: {first['msg']}") from error
    except ValueError as error:
        raise InputError(f"{place}: holds what cannot be written again: {error}") from error
    if not record.run_id == of_spec == entry.run_id:
        raise InputError(
            f"{place}: changed: it holds run {record.run_id}, and its spec is that of run {of_spec}"
        )
    if (folder := folder_of(record)) != entry.folder:
        raise InputError(f"{place}: moved: this device's records belong in {folder}/")
    return record


def check_sizes(run_id: str, text: bytes, table: bytes | None) -> None:
    """Raises InputError if readers would refuse the files of a run."""
    for what, content, most in [
        ("record", text, MOST_RECORD_BYTES),
        ("predictions", table or b"", MOST_PREDICTIONS_BYTES),
    ]:
        if len(content) > most:
            raise InputError(
                f"run {run_id} is not stored: its {what} would have {len(content):,} bytes, "
                f"more than the {most:,} that are read again"
            )
