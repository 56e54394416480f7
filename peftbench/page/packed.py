"""Data inside the page: records packed, and JSON that is never markup."""

import base64
import gzip
import json
from collections.abc import Iterator, Sequence
from typing import Any

from markupsafe import Markup

from peftbench.record import Record

CHUNK = 100  # records that are packed together, and unpacked when one of them is looked at
MOST_PACKED = 32_000_000  # bytes; with more than that, training curves are left in the store


def packed(records: Sequence[Record]) -> tuple[list[str], bool]:
    """The records, a JSON line each, by gzip and base64 in chunks; and whether their curves had to
    be left out."""
    chunks: list[str] = []
    room = MOST_PACKED
    for chunk in _chunks(records, None):
        chunks.append(chunk)
        room -= len(chunk)
        if room < 0:
            return list(_chunks(records, {"curve"})), True
    return chunks, False


def _chunks(records: Sequence[Record], exclude: set[str] | None) -> Iterator[str]:
    for start in range(0, len(records), CHUNK):
        some = records[start : start + CHUNK]
        lines = "\n".join(record.model_dump_json(exclude=exclude) for record in some)
        yield base64.b64encode(gzip.compress(lines.encode(), compresslevel=6, mtime=0)).decode()


def inert(value: Any) -> Markup:
    """JSON that may stand in a <script> of any kind: nothing in it ends the element, begins a
    comment or is a line end for a script."""
    text = json.dumps(value, separators=(",", ":"), allow_nan=False)
    return Markup(text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026"))
