"""Files that are written once: whole or not at all, by one writer of a folder at a time."""

import fcntl
import json
import os
import re
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from peftbench.errors import InputError
from peftbench.reading import MOST_RECORD_BYTES, read_bytes, read_object
from peftbench.spec import digest

TEMPORARY = re.compile(r"(.+\.)?[0-9a-f]{32}\.tmp")  # a file that is not published yet


def sealed(content: Mapping[str, Any]) -> str:
    """Canonical JSON of a record, with a digest of it. Raises ValueError on NaN."""
    values = {**content, "digest": digest(content)}
    return json.dumps(values, sort_keys=True, allow_nan=False, indent=1) + "\n"


def read_sealed(path: Path) -> tuple[dict[str, Any], bool]:
    """What `sealed` made a file of, without the digest, and whether that fits. Raises InputError
    that names the file if it cannot be read or holds no JSON object."""
    content = read_bytes(path, MOST_RECORD_BYTES)
    try:
        values = read_object(content)
        return values, values.pop("digest", None) == digest(values)
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path}: damaged, not a record's JSON: {error}") from error


def listed(folder: Path) -> list[Path]:
    """What is in a folder, in order. Raises InputError if that cannot be seen."""
    with input_errors(folder):
        return sorted(folder.iterdir())


def publish(path: Path, content: bytes) -> None:
    """Make the file `path` with `content`, whole or not at all. Raises FileExistsError if it
    exists."""
    temporary = path.with_name(f"{path.name}.{uuid.uuid4().hex}.tmp")
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
def locked(folder: Path) -> Iterator[None]:
    """Keep other writers out of a folder. The system lifts the lock even if we are killed, so what
    such a writer has left is known by it, and removed here."""
    with _opened(folder) as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        for path in folder.iterdir():
            if TEMPORARY.fullmatch(path.name) and not path.is_dir():
                path.unlink()
        yield


@contextmanager
def _opened(folder: Path) -> Iterator[int]:
    handle = os.open(folder, os.O_RDONLY)
    try:
        yield handle
    finally:
        os.close(handle)


@contextmanager
def input_errors(root: Path) -> Iterator[None]:
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
