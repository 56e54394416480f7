"""The folder of results: a record is written once, whole or not at all, and read only if it is
unchanged."""

import fcntl
import hashlib
import io
import itertools
import json
import os
import re
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import ValidationError

from peftbench.errors import InputError
from peftbench.record import SCHEMA, Predictions, Record
from peftbench.spec import digest

if TYPE_CHECKING:
    from pandas import DataFrame

NAME = re.compile(
    r"(?P<run_id>[0-9a-f]{16})(\.attempt(?P<attempt>[2-9]|[1-9]\d+))?"
    r"\.(json|predictions\.parquet)"
)
TEMPORARY = ".tmp"


def device_folder(device: str, device_name: str) -> str:
    """The name of the folder that holds a device's records: lower case letters, digits and hyphens
    only."""
    return re.sub("[^a-z0-9]+", "-", f"{device} {device_name}".lower()).strip("-")[:100]


def run_key(record: Record) -> str:
    """The one key of a run, "<device folder>/<run id>": equal specs on two devices are two runs."""
    return f"{_folder_of(record)}/{record.run_id}"


def _folder_of(record: Record) -> str:
    return device_folder(record.device, record.environment.device_name)


@dataclass(frozen=True, order=True)
class Entry:
    """The place of a record in the store."""

    folder: Path
    run_id: str
    attempt: int

    @property
    def stem(self) -> str:
        return self.run_id if self.attempt == 1 else f"{self.run_id}.attempt{self.attempt}"

    @property
    def path(self) -> Path:
        return self.folder / f"{self.stem}.json"

    @property
    def predictions(self) -> Path:
        return self.folder / f"{self.stem}.predictions.parquet"

    @property
    def key(self) -> str:
        """The `run_key` of the record."""
        return f"{self.folder.name}/{self.run_id}"


@dataclass(frozen=True)
class Store:
    """The records under `root`, as `<device folder>/<run_id>.json`, and the predictions of a run
    beside its record, as `<run_id>.predictions.parquet`.

    A run that is not done may be tried again: its record stays, the next one is called
    `<run_id>.attempt2.json`, and readers get the latest.
    """

    root: Path

    def ensure_writable(self) -> None:
        """Raises InputError if `write` cannot work here. Makes the folder, but not its parent."""
        probe = self.root / f"{uuid.uuid4().hex}{TEMPORARY}"
        with _input_errors(self.root):
            self.root.mkdir(exist_ok=True)
            _publish(probe, b"")
            probe.unlink()

    def write(self, record: Record, predictions: "DataFrame | None" = None) -> Record:
        """Store a record and its predictions. Returns the record that the store now has for this
        run, as readers get it.

        It differs from the one given only if another writer has finished the same run before: a
        finished run is never replaced. Raises ValueError on NaN or on a run_id that is not the
        spec's, InputError if the store cannot be written.
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
        content["digest"] = digest(content)
        text = json.dumps(content, sort_keys=True, allow_nan=False, indent=1) + "\n"
        folder = self.root / _folder_of(record)
        with _input_errors(self.root):
            self.root.mkdir(exist_ok=True)
            folder.mkdir(exist_ok=True)
            with _opened(folder) as handle:
                # keeps other writers out; the system releases it even if we are killed
                fcntl.flock(handle, fcntl.LOCK_EX)
                paths = list(folder.glob(f"{record.run_id}.*"))
                last = max((entry for path in paths if (entry := _entry(path))), default=None)
                if last and (latest := _load(last)).status == "done":
                    return latest
                entry = Entry(folder, record.run_id, last.attempt + 1 if last else 1)
                for path in paths:  # left by a killed writer, since no other holds the lock
                    if path.name.endswith(TEMPORARY) or path == entry.predictions:
                        path.unlink()
                if table is not None:
                    _publish(entry.predictions, table)
                _publish(entry.path, text.encode())
        return stored

    def read_all(self) -> Iterator[Record]:
        """The latest record of every run, ordered by device folder and run_id. Raises InputError
        that names the first file that is damaged, changed or moved."""
        return map(_load, self._latest())

    def read(self, run: str) -> Record:
        """The latest record of a run, given its key or the beginning of its id. Raises InputError
        if there is none, or more than one."""
        return _load(self._find(run))

    def find(self, key: str) -> Record | None:
        """The latest record of the run with this `run_key`; None if there is none. No other record
        is read."""
        entries = self._exact(key)
        return _load(entries[0]) if entries else None

    def predictions(self, run: str) -> "DataFrame":
        """The predictions of a run, given as in `read`. Raises InputError if the run has none or
        they were changed."""
        import pandas

        entry = self._find(run)
        record = _load(entry)
        if record.predictions is None:
            raise InputError(f"run {record.run_id} ({record.status}) has no predictions")
        return pandas.read_parquet(io.BytesIO(_table(entry, record.predictions)))

    def check(self) -> list[str]:
        """Everything that is wrong with the store, a line for each problem: damaged, changed or
        misplaced records, lost or changed predictions, and what killed writers left behind."""
        folders = self._folders()
        problems = [
            f"{path}: beside the devices' folders, where nothing reads it"
            for path in sorted(self.root.glob("*"))
            if path.suffix in (".json", ".parquet", TEMPORARY) and path.is_file()
        ]
        for folder in folders:
            entries = {path: _entry(path) for path in sorted(folder.iterdir())}
            records = {entry for entry in entries.values() if entry}
            expected = {entry.predictions for entry in records}
            for path, entry in entries.items():
                if entry:
                    problems += _problems(entry, records)
                elif path.name.endswith(TEMPORARY):
                    problems.append(f"{path}: temporary: a writer was killed, or is still writing")
                elif not NAME.fullmatch(path.name):
                    problems.append(f"{path}: not the name of a record or of predictions")
                elif path not in expected:
                    problems.append(f"{path}: predictions without a record: a writer was killed")
        return problems

    def _folders(self) -> list[Path]:
        """The device folders; none if the store does not exist yet."""
        with _input_errors(self.root):
            if not os.path.lexists(self.root):
                return []
            return sorted(path for path in self.root.iterdir() if path.is_dir())

    def _latest(self) -> list[Entry]:
        """The last attempt of every run, in order."""
        latest: dict[str, Entry] = {}
        for folder in self._folders():
            for path in folder.iterdir():
                if entry := _entry(path):
                    latest[entry.key] = max(entry, latest.get(entry.key, entry))
                elif path.suffix == ".json":
                    raise InputError(
                        f"{path}: not named like a record: "
                        "restore its name, or move it out of the store"
                    )
        return sorted(latest.values())

    def _find(self, run: str) -> Entry:
        """The latest attempt of the only run whose id or key begins with `run`."""
        entries = self._exact(run) or [
            entry
            for entry in self._latest()
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

    def _exact(self, run: str) -> list[Entry]:
        """The latest attempts of a run that is named in full, by a whole id or a key, found without
        listing the folders."""
        device, _, run_id = run.rpartition("/")
        if not NAME.fullmatch(f"{run_id}.json"):
            return []
        entries: list[Entry] = []
        for folder in self._folders():
            if device in ("", folder.name):
                attempts = (Entry(folder, run_id, n) for n in itertools.count(1))
                entries += [*itertools.takewhile(lambda entry: entry.path.exists(), attempts)][-1:]
        return entries


def _entry(path: Path) -> Entry | None:
    """The record whose file `path` is; None if it is not named like one."""
    match = NAME.fullmatch(path.name)
    if match is None or path.suffix != ".json":
        return None
    return Entry(path.parent, match["run_id"], int(match["attempt"] or 1))


def _load(entry: Entry) -> Record:
    """The record at `entry`. Raises InputError that names the file if it is damaged, changed, of
    another schema, or in the wrong folder."""
    path = entry.path
    try:
        content = json.loads(path.read_bytes())
        if not isinstance(content, dict):
            raise ValueError("not an object")
        intact = content.pop("digest", None) == digest(content)
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror}") from error
    except ValueError as error:
        raise InputError(f"{path}: damaged, not a record's JSON: {error}") from error
    if (schema := content.get("schema")) != SCHEMA:
        raise InputError(
            f"{path}: a record of schema {schema!r}, where this version of peftbench reads schema "
            f"{SCHEMA}: read it with the version that wrote it, "
            "or move it to a store of its own and run again"
        )
    if not intact:
        raise InputError(
            f"{path}: changed after it was written, its digest does not fit: restore the original"
        )
    try:
        record = Record.model_validate(content)
    except ValidationError as error:
        first = error.errors()[0]
        raise InputError(f"{path}: {'.'.join(map(str, first['loc']))}: {first['msg']}") from error
    if not record.run_id == record.spec.run_id == entry.run_id:
        raise InputError(
            f"{path}: changed: it holds run {record.run_id}, "
            f"and its spec is that of run {record.spec.run_id}"
        )
    if (folder := _folder_of(record)) != entry.folder.name:
        raise InputError(f"{path}: moved: this device's records belong in {folder}/")
    return record


def _table(entry: Entry, reference: Predictions) -> bytes:
    """The predictions beside a record. Raises InputError if they are not those of the record."""
    path = entry.predictions
    try:
        table = path.read_bytes()
    except OSError as error:
        raise InputError(f"{path}: predictions cannot be read: {error.strerror}") from error
    if hashlib.sha256(table).hexdigest() != reference.sha256:
        raise InputError(f"{path}: predictions were changed after they were written")
    return table


def _problems(entry: Entry, records: set[Entry]) -> list[str]:
    """What is wrong with one record, given all records of its device."""
    problems: list[str] = []
    if not {replace(entry, attempt=n) for n in range(1, entry.attempt)} <= records:
        problems.append(f"{entry.path}: an earlier attempt of this run is missing")
    try:
        record = _load(entry)
        if record.predictions is not None:
            _table(entry, record.predictions)
        elif entry.predictions.exists():
            problems.append(f"{entry.predictions}: predictions that their record does not mention")
    except InputError as error:
        problems.append(str(error))
    return problems


def _publish(path: Path, content: bytes) -> None:
    """Make the file `path` with `content`, whole or not at all. Raises FileExistsError if it
    exists."""
    temporary = path.with_name(f"{path.name}.{uuid.uuid4().hex}{TEMPORARY}")
    try:
        with temporary.open("xb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.link(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    _sync(path.parent)


def _sync(folder: Path) -> None:
    """Write the names in a folder to the disk."""
    with _opened(folder) as handle:
        os.fsync(handle)


@contextmanager
def _opened(folder: Path) -> Iterator[int]:
    handle = os.open(folder, os.O_RDONLY)
    try:
        yield handle
    finally:
        os.close(handle)


@contextmanager
def _input_errors(root: Path) -> Iterator[None]:
    """Turn an error of the file system into an InputError of one line."""
    try:
        yield
    except OSError as error:
        if not root.parent.is_dir():
            reason = f"there is no folder {root.parent}"
        elif root.exists() and not root.is_dir():
            reason = "not a folder"
        else:
            reason = f"{error.strerror} ({error.filename2 or error.filename or 'in the store'})"
        raise InputError(f"store {root}: {reason}") from error
