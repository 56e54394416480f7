"""The folder of results: a record is written once, whole or not at all, and read only if it is
unchanged.

The digest in a record is a guard against accidents: whoever edits a record can make another digest.
What people did shows in a comparison with a git commit (committed.py).
"""

import hashlib
import itertools
import os
import re
import uuid
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import ValidationError

from peftbench.errors import InputError
from peftbench.once import (
    TEMPORARY,
    input_errors,
    listed,
    locked,
    publish,
    read_sealed,
    sealed,
)
from peftbench.reading import (
    MOST_PREDICTIONS_BYTES,
    MOST_RECORD_BYTES,
    read_bytes,
    read_predictions,
)
from peftbench.record import SCHEMA, Predictions, Record
from peftbench.spec import digest

if TYPE_CHECKING:
    from pandas import DataFrame

NAME = re.compile(
    r"(?P<run_id>[0-9a-f]{16})(\.attempt(?P<attempt>[2-9]|[1-9]\d+))?"
    r"\.(json|predictions\.parquet)"
)
IMPORTED = "imported"  # the folder of what others measured: no device is called so


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
    beside its record, as `<run_id>.predictions.parquet`. What others measured lies in a folder of
    its own (IMPORTED), and nothing here reads it.

    A run that is not done may be tried again: its record stays, the next one is called
    `<run_id>.attempt2.json`, and readers get the latest.
    """

    root: Path

    def ensure_writable(self) -> None:
        """Raises InputError if `write` cannot work here. Makes the folder, but not its parent."""
        probe = self.root / f"{uuid.uuid4().hex}.tmp"
        with input_errors(self.root):
            self.root.mkdir(exist_ok=True)
            with locked(self.root):
                publish(probe, b"")
                probe.unlink()

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
        _check_sizes(record.run_id, text, table)
        folder = self.root / _folder_of(record)
        with input_errors(self.root):
            self.root.mkdir(exist_ok=True)
            folder.mkdir(exist_ok=True)
            with locked(folder):
                paths = list(folder.glob(f"{record.run_id}.*"))
                last = max((entry for path in paths if (entry := _entry(path))), default=None)
                if last and (latest := _load(last)).status == "done":
                    return latest
                entry = Entry(folder, record.run_id, last.attempt + 1 if last else 1)
                # left by a writer that was killed before it published the record
                entry.predictions.unlink(missing_ok=True)
                if table is not None:
                    publish(entry.predictions, table)
                publish(entry.path, text.encode())
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

    def find_all(self, run_id: str, folder: str | None = None) -> list[Record]:
        """The latest record of a run from each device, or from the one with this folder alone; no
        other record is read."""
        run = run_id if folder is None else f"{folder}/{run_id}"
        return [record for entry in self._exact(run) if (record := self.find(entry.key))]

    def predictions(self, run: str) -> "DataFrame":
        """The predictions of a run, given as in `read`. Raises InputError if the run has none, they
        were changed or they are no table of predictions."""
        entry = self._find(run)
        record = _load(entry)
        if record.predictions is None:
            raise InputError(f"run {record.run_id} ({record.status}) has no predictions")
        return _table(entry, record.predictions)

    def check(self) -> list[str]:
        """Everything that is wrong with the store, a line for each problem: damaged, changed or
        misplaced records, lost or changed predictions. Raises InputError if there is no store."""
        if not os.path.lexists(self.root):
            raise InputError(f"store {self.root}: there is no such folder")
        problems = [
            f"{path}: beside the devices' folders, where nothing reads it"
            for path in listed(self.root)
            if path.suffix in (".json", ".parquet") and not path.is_dir()
        ]
        for folder in self._folders():
            entries = {path: _entry(path) for path in listed(folder)}
            records = {entry for entry in entries.values() if entry}
            expected = {entry.predictions for entry in records}
            for path, entry in entries.items():
                if entry:
                    problems += _problems(entry, records)
                elif not NAME.fullmatch(path.name):
                    if not TEMPORARY.fullmatch(path.name):
                        problems.append(f"{path}: not the name of a record or of predictions")
                elif path not in expected:
                    problems.append(
                        f"{path}: predictions without a record: it is lost, or its writer was "
                        "killed, and then the same run again replaces them"
                    )
        return problems

    def leftovers(self) -> list[Path]:
        """What writers that were killed left behind, or one at work has not published yet. It is
        no part of the results, and the next `write` to its folder removes it."""
        folders = [self.root, *self._folders()] if self.root.is_dir() else []
        return [
            path for folder in folders for path in listed(folder) if TEMPORARY.fullmatch(path.name)
        ]

    def _folders(self) -> list[Path]:
        """The device folders; none if the store does not exist yet."""
        with input_errors(self.root):
            if not os.path.lexists(self.root):
                return []
            folders = (path for path in self.root.iterdir() if path.name != IMPORTED)
            return sorted(path for path in folders if path.is_dir())

    def _latest(self) -> list[Entry]:
        """The last attempt of every run, in order."""
        latest: dict[str, Entry] = {}
        for folder in self._folders():
            for path in listed(folder):
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
    values, intact = read_sealed(path)
    if (schema := values.get("schema")) != SCHEMA:
        raise InputError(
            f"{path}: a record of schema {schema!r:.20}, where this version of peftbench reads "
            f"schema {SCHEMA}: read it with the version that wrote it, "
            "or move it to a store of its own and run again"
        )
    if not intact:
        raise InputError(
            f"{path}: changed after it was written, its digest does not fit: restore the original"
        )
    try:
        record = Record.model_validate(values)
        record.model_dump_json()  # refuses what no reader could write: half a character, deep args
        of_spec = record.spec.run_id
    except ValidationError as error:
        first = error.errors()[0]
        raise InputError(f"{path}: {'.'.join(map(str, first['loc']))}: {first['msg']}") from error
    except ValueError as error:
        raise InputError(f"{path}: holds what cannot be written again: {error}") from error
    if not record.run_id == of_spec == entry.run_id:
        raise InputError(
            f"{path}: changed: it holds run {record.run_id}, and its spec is that of run {of_spec}"
        )
    if (folder := _folder_of(record)) != entry.folder.name:
        raise InputError(f"{path}: moved: this device's records belong in {folder}/")
    return record


def _table(entry: Entry, reference: Predictions) -> "DataFrame":
    """The predictions beside a record. Raises InputError if they are not those of the record."""
    path = entry.predictions
    content = read_bytes(path, MOST_PREDICTIONS_BYTES)
    if hashlib.sha256(content).hexdigest() != reference.sha256:
        raise InputError(f"{path}: predictions were changed after they were written")
    try:
        return read_predictions(content, reference.rows)
    except ValueError as error:
        raise InputError(f"{path}: not predictions: {error}") from error


def _check_sizes(run_id: str, text: str, table: bytes | None) -> None:
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


def _problems(entry: Entry, records: set[Entry]) -> list[str]:
    """What is wrong with one record, given all records of its device."""
    problems: list[str] = []
    if entry.attempt > 1 and replace(entry, attempt=entry.attempt - 1) not in records:
        problems.append(f"{entry.path}: an earlier attempt of this run is missing")
    try:
        record = _load(entry)
        if record.predictions is not None:
            _table(entry, record.predictions)
        elif os.path.lexists(entry.predictions):
            problems.append(f"{entry.predictions}: predictions that their record does not mention")
    except InputError as error:
        problems.append(str(error))
    return problems
