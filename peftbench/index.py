"""What readers have found of the records in a large store, kept in this machine's cache: a record
whose file has not changed is neither opened nor checked again. Thrown away, it costs seconds."""

import gc
import hashlib
import json
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import pydantic
from pydantic import TypeAdapter
from pydantic_core import from_json

from peftbench.files.cache import cache_folder, keep, kept
from peftbench.record import Environment, ReadCurve, Record, StoredCurve
from peftbench.spec import RunSpec

# Parts of a record that many have in common: a segment holds each once, and readers share it.
SPEC_PARTS = ("args", "train", "data", "limits", "study")
RECORD_PARTS = ("footprint", "cuda", "dtypes", "data")
OWN_OF_SPEC = ("seed",)
OWN_OF_ENVIRONMENT = ("load_at_start", "load_at_end")
PARTS = ("spec", *(f"spec.{name}" for name in SPEC_PARTS), "environment", *RECORD_PARTS)
# The code that decides what a record is: what other code has found does not count.
CODE = ("index.py", "once.py", "reading.py", "record.py", "spec.py", "store.py")

MOST_ROWS = 5_000  # of a segment
FEWEST_ROWS = 100  # of a new one: so many files are read in a tenth of a second

Values = dict[str, Any]


class Seen(NamedTuple):
    """The file of a record as it was read: its version as the list of files says it, and the
    SHA-256 of its content."""

    name: str
    version: str
    sha256: str


class Row(NamedTuple):
    """A record without its curve: the numbers of its parts, and what it has of its own, as JSON
    values."""

    seen: Seen
    parts: Sequence[int]
    own: Values


class Segment:
    """Rows and the parts that they name."""

    def __init__(self) -> None:
        self.rows: list[Row] = []
        self.parts: dict[str, list[Any]] = {name: [] for name in PARTS}
        self._numbers: dict[tuple[str, str], int] = {}

    def add(self, seen: Seen, parts: Mapping[str, Any], own: Values) -> Row:
        """A record that `split` has taken apart."""
        row = Row(seen, [self._number(name, parts[name]) for name in PARTS], own)
        self.rows.append(row)
        return row

    def _number(self, name: str, part: Any) -> int:
        text = json.dumps(part, sort_keys=True)
        number = self._numbers.setdefault((name, text), len(self.parts[name]))
        if number == len(self.parts[name]):
            self.parts[name].append(part)
        return number

    def parts_of(self, row: Row) -> dict[str, Any]:
        """Its parts by their names, as JSON values."""
        return {
            name: self.parts[name][number] for name, number in zip(PARTS, row.parts, strict=True)
        }

    def content(self) -> bytes:
        """As a file: a line that says which code has made it and what is in the rest."""
        body = json.dumps({"parts": self.parts, "rows": self.rows}, separators=(",", ":")).encode()
        return f"{_code()} {hashlib.sha256(body).hexdigest()}\n".encode() + body

    @classmethod
    def of(cls, content: bytes) -> "Segment | None":
        """What is in a file; None: it is damaged, or of other code."""
        head, _, body = content.partition(b"\n")
        if head != f"{_code()} {hashlib.sha256(body).hexdigest()}".encode():
            return None
        values = from_json(body)
        segment = cls()
        segment.parts = values["parts"]
        segment.rows = [Row(Seen(*seen), parts, own) for seen, parts, own in values["rows"]]
        return segment


class Reader:
    """Records from the rows of one segment, which share their parts."""

    def __init__(self, segment: Segment, read_curve: ReadCurve) -> None:
        self._segment, self._read_curve = segment, read_curve
        self._parts: list[list[Any]] = [[] for _ in PARTS]

    def record(self, row: Row) -> Record:
        """Raises ValidationError where a row is none of a record, which its file's digest does not
        let happen."""
        parts = self._parts_of(row)
        own, spec, environment = row.own, parts.pop("spec"), parts.pop("environment")
        of_spec = {name: parts.pop(f"spec.{name}") for name in SPEC_PARTS}
        return Record.model_validate(
            {
                **own,
                **parts,
                "spec": RunSpec.model_validate({**spec, **of_spec, **own["spec"]}),
                "environment": Environment.model_validate({**environment, **own["environment"]}),
                "curve": StoredCurve(self._read_curve, row.seen.name, row.seen.sha256),
            }
        )

    def _parts_of(self, row: Row) -> dict[str, Any]:
        """By their names, as objects where they are such."""
        try:
            return {
                name: objects[number]
                for name, objects, number in zip(PARTS, self._parts, row.parts, strict=True)
            }
        except IndexError:  # a part that is new
            for name, objects in zip(PARTS, self._parts, strict=True):
                kind = _kinds()[name]
                objects += map(kind.validate_python, self._segment.parts[name][len(objects) :])
            return self._parts_of(row)


class Index:
    """What was found of the records of one store. It is a folder of segments: a new one takes in
    those that are no larger, and those of which most is no more, so that there are few. Any number
    of processes may add to it at once."""

    def __init__(self, place: str, read_curve: ReadCurve) -> None:
        self._read_curve = read_curve
        self._folder = cache_folder() / "index" / hashlib.sha256(place.encode()).hexdigest()[:32]
        self._versions: Mapping[str, str] = {}
        self._live: dict[Path, tuple[int, int]] = {}  # rows of each segment that count, and all
        self._useless: list[Path] = []
        self._begin()

    def _begin(self) -> None:
        self._new = Segment()
        self._reader = Reader(self._new, self._read_curve)

    def records(self, versions: Mapping[str, str]) -> dict[str, Record]:
        """The records of those files, by their names and versions, that were read before and have
        not changed."""
        self._versions = versions
        records: dict[str, Record] = {}
        with _no_collection():
            for path in self._paths():
                segment = _segment(path)
                if segment is None:
                    self._useless.append(path)
                    continue
                rows = [row for row in self._counting(segment) if row.seen.name not in records]
                reader = Reader(segment, self._read_curve)
                records |= {row.seen.name: reader.record(row) for row in rows}
                self._live[path] = len(rows), len(segment.rows)
        return records

    def add(self, seen: Seen, record: Record) -> Record:
        """Keep a record that was read and found whole. Returns it as it is read from here."""
        if len(self._new.rows) >= MOST_ROWS:
            self._write()
        return self._reader.record(self._new.add(seen, *split(record)))

    def save(self) -> None:
        """Write what was added."""
        stale = [path for path, (live, rows) in self._live.items() if 2 * live < rows]
        if len(self._new.rows) < FEWEST_ROWS and not stale:
            return
        merged, rows = stale, len(self._new.rows)
        for path, (live, _) in sorted(self._live.items(), key=lambda item: item[1]):
            if path not in stale and live <= rows <= MOST_ROWS - live:
                merged, rows = [*merged, path], rows + live
        for path in merged:
            self._take_in(path)
        self._write()
        for path in (*merged, *self._useless):
            with suppress(OSError):
                path.unlink(missing_ok=True)

    def _paths(self) -> list[Path]:
        """Its segments, the newest first."""
        try:
            return sorted(self._folder.glob("*.segment"), reverse=True)
        except OSError:
            return []

    def _counting(self, segment: Segment) -> Iterator[Row]:
        for row in segment.rows:
            if self._versions.get(row.seen.name) == row.seen.version:
                yield row

    def _take_in(self, path: Path) -> None:
        names = {row.seen.name for row in self._new.rows}
        if (segment := _segment(path)) is not None:
            for row in self._counting(segment):
                if row.seen.name not in names:
                    self._new.add(row.seen, segment.parts_of(row), row.own)

    def _write(self) -> None:
        if self._new.rows:
            name = f"{time.time_ns():020d}-{uuid.uuid4().hex}.segment"
            keep(self._folder / name, self._new.content())
            self._begin()


def split(record: Record) -> tuple[dict[str, Any], Values]:
    """A record's parts, and what it has of its own; without its curve."""
    own = record.model_dump(mode="json", exclude={"curve", "spec"}, exclude_defaults=True)
    # whole: of its numbers -0.0 is as good as a default, and another setting
    spec, environment = record.spec.model_dump(mode="json"), own.pop("environment")
    parts = {f"spec.{name}": spec.pop(name, None) for name in SPEC_PARTS}
    parts |= {name: own.pop(name, None) for name in RECORD_PARTS}
    own["spec"] = {name: spec.pop(name) for name in OWN_OF_SPEC}
    own["environment"] = {
        name: environment.pop(name) for name in OWN_OF_ENVIRONMENT if name in environment
    }
    return parts | {"spec": spec, "environment": environment}, own


@contextmanager
def _no_collection() -> Iterator[None]:
    """Without the search for garbage, which takes as long as the reading: records are none."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def _segment(path: Path) -> Segment | None:
    return None if (content := kept(path)) is None else Segment.of(content)


@cache
def _code() -> str:
    """A digest of the code that decides what a record is."""
    here = Path(__file__).parent
    texts = [(here / name).read_bytes() for name in CODE]
    return hashlib.sha256(b"".join([pydantic.VERSION.encode(), *texts])).hexdigest()


@cache
def _kinds() -> dict[str, TypeAdapter[Any]]:
    """What makes an object of a part."""
    fields = {f"spec.{name}": RunSpec.model_fields[name] for name in SPEC_PARTS}
    fields |= {name: Record.model_fields[name] for name in RECORD_PARTS}
    kinds: dict[str, Any] = {name: field.annotation for name, field in fields.items()}
    kinds |= {"spec": Values, "environment": Values}
    return {name: TypeAdapter(kind) for name, kind in kinds.items()}
