"""The journal file that holds a search's trials: a line that was cut is removed, and what is no
journal is refused."""

import json
import os
from collections.abc import Callable, Generator
from pathlib import Path
from typing import Any

import optuna
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend, JournalFileSymlinkLock

from peftbench.errors import InputError

BEGINNING = b'{"op_code":'  # of every line
Say = Callable[[str], object]


def open_journal(path: Path, say: Say) -> JournalStorage:
    """The storage in the journal file at `path`, which is made where there is none.

    say: called with a line if something had to be removed.
    Raises InputError that names the file, and the line if one is damaged; OSError if the file
    cannot be written.
    """
    if path == Path():
        raise InputError("storage : name a journal file, or an Optuna URL")
    path = path.resolve()  # Optuna's lock points at it, and is never given up if it points nowhere
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.exists() and not path.is_file():
        raise InputError(f"storage {path}: not a regular file")
    path.open("ab").close()
    lock = JournalFileSymlinkLock(str(path))
    lock.acquire()  # a line that another process is writing is not a line that was cut
    try:
        _check(path)
    finally:
        lock.release()
    backend = _Backend(str(path), _MendingLock(path, say))
    try:
        return JournalStorage(backend)
    except Exception as error:  # Optuna asserts, or looks up what a line lacks
        raise InputError(
            f"storage {path}: line {backend.line}: not what Optuna {optuna.__version__} writes "
            f"({type(error).__name__}: {error})"
        ) from error


class _Backend(JournalFileBackend):
    """A journal file that knows which line it has read last."""

    line = 0

    def read_logs(self, log_number_from: int) -> Generator[dict[str, Any], None, None]:
        lines = super().read_logs(log_number_from)
        for self.line, log in enumerate(lines, start=log_number_from + 1):
            yield log


class _MendingLock(JournalFileSymlinkLock):
    """Who may write finds whole lines: what a power failure or a full disk left of the last one is
    removed first, or the next line would be written onto it."""

    def __init__(self, path: Path, say: Say) -> None:
        super().__init__(str(path))
        self._path, self._say = path, say

    def acquire(self) -> bool:
        super().acquire()
        try:
            removed = _mend(self._path)
        except BaseException:
            self.release()
            raise
        if removed:
            self._say(f"{self._path}: its last line was cut and is removed ({removed} bytes)")
        return True


def _check(path: Path) -> None:
    """Raises InputError that names the first line that is none of a journal. The last one may have
    been cut, after the beginning of a line or after other lines."""
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            whole = line.endswith(b"\n")
            if not whole and (number > 1 or line[: len(BEGINNING)] == BEGINNING[: len(line)]):
                return
            try:
                if not (whole and isinstance(json.loads(line), dict)):
                    raise ValueError("not a line of a journal")
            except (ValueError, RecursionError) as error:
                raise InputError(
                    f"storage {path}: line {number}: damaged, or the file is no journal of a "
                    f"search ({error})"
                ) from error


def _mend(path: Path) -> int:
    """Remove the end of the file after its last whole line; returns how many bytes that were."""
    with path.open("r+b") as file:
        size = file.seek(0, os.SEEK_END)
        file.seek(max(0, size - 1))
        if file.read(1) in (b"", b"\n"):
            return 0
        file.seek(0)
        whole = file.read().rfind(b"\n") + 1
        file.truncate(whole)
        os.fsync(file.fileno())
    return size - whole
