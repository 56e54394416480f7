"""The folder of what others measured, inside a folder of results: a record is written once, whole
or not at all, and read only if it is unchanged."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from pydantic import ValidationError

from peftbench.errors import InputError
from peftbench.files import Files, files_at
from peftbench.files.base import TEMPORARY
from peftbench.imported.record import SCHEMA, ImportedRecord
from peftbench.once import sealed, unsealed
from peftbench.reading import MOST_RECORD_BYTES
from peftbench.store import IMPORTED


@dataclass(frozen=True)
class ImportedStore:
    """The imported records of the store at `root`, as `imported/<imported_id>.json`."""

    root: Path | str

    @cached_property
    def files(self) -> Files:
        return files_at(self.root)

    def write(self, record: ImportedRecord) -> bool:
        """Store a record. Returns whether it is new: one that is there stays. Raises InputError if
        the store cannot be written, or if what is there under its id cannot be read."""
        name = f"{IMPORTED}/{record.imported_id}.json"
        if self.files.has(name):
            self._load(name)
            return False
        return self.files.create(name, sealed(record.model_dump(mode="json")))

    def read_all(self) -> Iterator[ImportedRecord]:
        """Every record, ordered by its id. Raises InputError that names the first file that is
        damaged, changed or misnamed."""
        names = self._names()
        for name, content in zip(
            names, self.files.read_many(names, MOST_RECORD_BYTES), strict=True
        ):
            if isinstance(content, Exception):
                raise content
            yield _parsed(name, content, self.files.place(name))

    def check(self) -> list[str]:
        """Everything that is wrong here, a line for each problem."""
        problems: list[str] = []
        for name in self._names():
            try:
                self._load(name)
            except InputError as error:
                problems.append(str(error))
        return problems

    def leftovers(self) -> list[str]:
        """What writers that were killed left behind, as `Store.leftovers`."""
        names = (name for name in self.files.names(IMPORTED) if TEMPORARY.fullmatch(name))
        return [self.files.place(f"{IMPORTED}/{name}") for name in names]

    def _names(self) -> list[str]:
        names = (name for name in self.files.names(IMPORTED) if not TEMPORARY.fullmatch(name))
        return [f"{IMPORTED}/{name}" for name in names]

    def _load(self, name: str) -> ImportedRecord:
        content = self.files.read(name, MOST_RECORD_BYTES)
        return _parsed(name, content, self.files.place(name))


def _parsed(name: str, content: bytes, place: str) -> ImportedRecord:
    """The record in a file, `place`. Raises InputError that names it if it is damaged, changed, of
    another schema, or not where it belongs."""
    values, intact = unsealed(content, place)
    if (schema := values.get("schema")) != SCHEMA:
        raise InputError(
            f"{place}: an imported record of schema {schema!r:.20}, where this version of "
            f"peftbench reads schema {SCHEMA}: delete it and import its source again"
        )
    if not intact:
        raise InputError(
            f"{place}: changed after it was written, its digest does not fit: restore the original"
        )
    try:
        record = ImportedRecord.model_validate(values)
        record.model_dump_json()  # refuses what no reader could write: half a character
    except ValidationError as error:
        first = error.errors()[0]
        raise InputError(f"{place}: {'.'.join(map(str, first['loc']))}: {first['msg']}") from error
    except ValueError as error:
        raise InputError(f"{place}: holds what cannot be written again: {error}") from error
    if name != f"{IMPORTED}/{record.imported_id}.json":
        raise InputError(
            f"{place}: it holds imported record {record.imported_id}: restore its name"
        )
    return record
