"""Files as they may be found: read within bounds, whatever they are, and never waited for."""

import json
import os
import stat
from pathlib import Path
from typing import TYPE_CHECKING, Any

from peftbench.errors import InputError, first_line

if TYPE_CHECKING:
    from pandas import DataFrame
    from pyarrow import DataType

MOST_RECORD_BYTES = 128 * 2**20  # a training curve of a million steps
MOST_VALUES = 5_000_000  # in a record: four for each step, and the rest
MOST_PREDICTIONS_BYTES = 2**30  # of the file, of what it unpacks to, and of all its texts
MOST_ROWS = 10_000_000
AT_ONCE = getattr(os, "O_NONBLOCK", 0)  # Windows has no such pipes

NUMBERS = {"id": False, "target": None, "nll": True, "count": True, "answer": None, "score": True}
"""The columns that predictions have at least: numbers, texts, or (None) either of them."""


def read_bytes(path: Path, most: int) -> bytes:
    """What is in a regular file. Raises InputError if it is something else (to read a pipe is to
    wait), holds more than `most` bytes or cannot be read."""
    try:
        with open(path, "rb", opener=lambda name, flags: os.open(name, flags | AT_ONCE)) as f:
            status = os.fstat(f.fileno())
            if not stat.S_ISREG(status.st_mode):
                raise InputError(f"{path}: cannot be read: it is no regular file")
            content = f.read(most + 1) if status.st_size <= most else None
    except IsADirectoryError as error:
        raise InputError(f"{path}: cannot be read: it is a folder") from error
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror}") from error
    if content is None or len(content) > most:
        raise InputError(f"{path}: cannot be read: more than the {most:,} bytes that it may have")
    return content


def read_object(content: bytes) -> dict[str, Any]:
    """The JSON object in `content`. Raises ValueError on anything else, a key that stands twice, an
    integer of more than 64 bits and more values than a record has among them."""
    if content.count(b",") > MOST_VALUES:  # values of three bytes would take gigabytes and minutes
        raise ValueError(f"more than {MOST_VALUES:,} values")
    try:
        value = json.loads(content.decode(), object_pairs_hook=_unique, parse_int=_integer)
    except RecursionError as error:
        raise ValueError("nested too deeply") from error
    if not isinstance(value, dict):
        raise ValueError("not an object")
    return value


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values = dict(pairs)
    if len(values) < len(pairs):
        raise ValueError("a key stands twice in an object")
    return values


def _integer(digits: str) -> int:
    if len(digits) > 20 or not -(2**63) <= (number := int(digits)) < 2**63:
        raise ValueError("an integer of more than 64 bits")
    return number


def read_predictions(content: bytes, rows: int) -> "DataFrame":
    """The predictions in a parquet file. Raises ValueError if it is damaged, has other columns than
    predictions have or another number of rows, or unpacks to more than it may."""
    import pyarrow
    from pyarrow.parquet import ParquetFile

    try:
        file = ParquetFile(pyarrow.BufferReader(content))
        groups = map(file.metadata.row_group, range(file.metadata.num_row_groups))
        _check_size(sum(group.total_byte_size for group in groups), "bytes", MOST_PREDICTIONS_BYTES)
        _check_size(file.metadata.num_rows, "rows", MOST_ROWS)
        if file.metadata.num_rows != rows:
            raise ValueError(f"{file.metadata.num_rows} rows, where the record says {rows}")
        names = file.schema_arrow.names
        if missing := NUMBERS.keys() - {*names}:
            raise ValueError(f"there is no column {', '.join(sorted(missing))}")
        if len({*names}) < len(names):
            raise ValueError("two columns have one name")
        for field in file.schema_arrow:
            if not _fits(field.type, NUMBERS.get(field.name)):
                raise ValueError(f"column {field.name!r:.60} is of type {field.type!s:.60}")
        _check_size(_text_bytes(content), "bytes of text", MOST_PREDICTIONS_BYTES)
        return file.read().to_pandas(ignore_metadata=True)
    except (pyarrow.ArrowException, OSError) as error:
        raise ValueError(f"no parquet file: {first_line(error)}") from error


def _fits(kind: "DataType", numbers: bool | None) -> bool:
    from pyarrow import types

    number = types.is_integer(kind) or types.is_floating(kind) or types.is_boolean(kind)
    text = types.is_string(kind) or types.is_large_string(kind)
    if numbers is None:
        return number or text or types.is_null(kind)
    return types.is_null(kind) or (number if numbers else text)


def _text_bytes(content: bytes) -> int:
    """How long all texts are, together: one that stands in a million rows is in the file once."""
    import pyarrow.compute
    from pyarrow.parquet import ParquetFile

    compute: Any = pyarrow.compute  # its functions are made when it is imported
    schema = ParquetFile(pyarrow.BufferReader(content)).schema_arrow
    names = [field.name for field in schema if _fits(field.type, False)]
    file = ParquetFile(pyarrow.BufferReader(content), read_dictionary=names)
    total = 0
    for column in file.read(names).columns:
        for chunk in column.chunks:
            if isinstance(chunk, pyarrow.DictionaryArray):
                lengths = compute.binary_length(chunk.dictionary).cast("int64")
                total += compute.sum(lengths.take(chunk.indices)).as_py() or 0
    return total


def _check_size(size: int, what: str, most: int) -> None:
    if size > most:
        raise ValueError(f"unpacks to {size:,} {what}, more than the {most:,} that it may have")
