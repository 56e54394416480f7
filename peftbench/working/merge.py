"""Stores that become one: every record and its predictions are copied byte for byte."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from peftbench.errors import InputError
from peftbench.files import Files
from peftbench.files.base import TEMPORARY
from peftbench.reading import MOST_RECORD_BYTES
from peftbench.store import IMPORTED, Entry, Store, parsed


@dataclass
class Merged:
    """What became of the records of the stores that were merged."""

    new: int = 0  # copied
    known: int = 0  # there already, byte for byte
    problems: list[str] = field(default_factory=list[str])  # a line for each that was not copied


def merge(into: Store, sources: Sequence[Store]) -> Merged:
    """Copy what the sources hold into a store, imported records too. What is there stays; a record
    that cannot be read, or contradicts one that is there, is named, and all others are copied.
    Raises InputError if the store cannot be written or a source is none."""
    merged = Merged()
    for source in sources:
        if not source.files.exists():
            raise InputError(f"store {source}: there is no such folder")
    into.ensure_writable()
    for source in sources:
        for entry in source.entries():
            try:
                _merge_record(into, source, entry, merged)
            except InputError as error:
                merged.problems.append(str(error))
        for name in source.files.names(IMPORTED):
            _merge_imported(into.files, source.files, f"{IMPORTED}/{name}", merged)
    return merged


def _merge_record(into: Store, source: Store, entry: Entry, merged: Merged) -> None:
    """Copy one record, as the next attempt of its run. Raises InputError if it is damaged."""
    place = source.files.place(entry.record)
    text = source.files.read(entry.record, MOST_RECORD_BYTES)
    record = parsed(entry, text, place)
    table = None
    if record.predictions is not None:
        table = source.predictions_bytes(entry, record.predictions)[1]
    while True:
        attempts = into.attempts(entry.folder, entry.run_id)
        names = [attempt.record for attempt in attempts]
        if text in (contents := [*into.files.read_many(names, MOST_RECORD_BYTES)]):
            merged.known += 1
            return
        for attempt, content in zip(attempts[-1:], contents[-1:], strict=True):
            last = content if isinstance(content, bytes) else b""
            if parsed(attempt, last, into.files.place(attempt.record)).status == "done":
                merged.problems.append(
                    f"{place}: not copied: {into.files.place(attempt.record)} is another record of "
                    f"this run, and it is done"
                )
                return
        if into.put(replace(entry, attempt=len(attempts) + 1), text, table):
            merged.new += 1
            return


def _merge_imported(into: Files, source: Files, name: str, merged: Merged) -> None:
    """Copy an imported record: equal ids are equal contents."""
    if TEMPORARY.fullmatch(name.rpartition("/")[2]):
        return
    there = into.has(name)
    if not into.create(name, source.read(name, MOST_RECORD_BYTES)):
        merged.problems.append(f"{source.place(name)}: not copied: {into.place(name)} is another")
    elif there:
        merged.known += 1
    else:
        merged.new += 1
