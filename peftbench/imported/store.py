"""The folder of what others measured, inside a folder of results: a record is written once, whole
or not at all, and read only if it is unchanged."""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from pydantic import ValidationError

from peftbench.errors import InputError
from peftbench.imported.record import SCHEMA, ImportedRecord
from peftbench.once import (
    TEMPORARY,
    input_errors,
    listed,
    locked,
    publish,
    read_sealed,
    sealed,
)
from peftbench.store import IMPORTED


@dataclass(frozen=True)
class ImportedStore:
    """The imported records of the folder of results `root`, as `imported/<imported_id>.json`."""

    root: Path

    @property
    def folder(self) -> Path:
        return self.root / IMPORTED

    def write(self, record: ImportedRecord) -> bool:
        """Store a record. Returns whether it is new: one that is there stays. Raises InputError if
        the store cannot be written, or if what is there under its id cannot be read."""
        content = sealed(record.model_dump(mode="json")).encode()
        path = self.folder / f"{record.imported_id}.json"
        with input_errors(self.root):
            self.root.mkdir(exist_ok=True)
            self.folder.mkdir(exist_ok=True)
            with locked(self.folder):
                if os.path.lexists(path):
                    _load(path)
                    return False
                publish(path, content)
        return True

    def read_all(self) -> Iterator[ImportedRecord]:
        """Every record, ordered by its id. Raises InputError that names the first file that is
        damaged, changed or misnamed."""
        return map(_load, self._paths())

    def check(self) -> list[str]:
        """Everything that is wrong here, a line for each problem."""
        problems: list[str] = []
        for path in self._paths():
            try:
                _load(path)
            except InputError as error:
                problems.append(str(error))
        return problems

    def leftovers(self) -> list[Path]:
        """What writers that were killed left behind, as `Store.leftovers`."""
        return [path for path in self._listed() if TEMPORARY.fullmatch(path.name)]

    def _paths(self) -> list[Path]:
        return [path for path in self._listed() if not TEMPORARY.fullmatch(path.name)]

    def _listed(self) -> list[Path]:
        return listed(self.folder) if os.path.lexists(self.folder) else []


def _load(path: Path) -> ImportedRecord:
    """The record in a file. Raises InputError that names the file if it is damaged, changed, of
    another schema, or not where it belongs."""
    values, intact = read_sealed(path)
    if (schema := values.get("schema")) != SCHEMA:
        raise InputError(
            f"{path}: an imported record of schema {schema!r:.20}, where this version of peftbench "
            f"reads schema {SCHEMA}: delete it and import its source again"
        )
    if not intact:
        raise InputError(
            f"{path}: changed after it was written, its digest does not fit: restore the original"
        )
    try:
        record = ImportedRecord.model_validate(values)
        record.model_dump_json()  # refuses what no reader could write: half a character
    except ValidationError as error:
        first = error.errors()[0]
        raise InputError(f"{path}: {'.'.join(map(str, first['loc']))}: {first['msg']}") from error
    except ValueError as error:
        raise InputError(f"{path}: holds what cannot be written again: {error}") from error
    if path.name != f"{record.imported_id}.json":
        raise InputError(f"{path}: it holds imported record {record.imported_id}: restore its name")
    return record
