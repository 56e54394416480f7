"""Files in a folder of this machine, or one that several machines share."""

import os
import stat
import time
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from peftbench.errors import InputError
from peftbench.files.base import TEMPORARY
from peftbench.reading import read_bytes

OLD_SECONDS = 3600  # after which nobody is writing a file any more: its writer was killed
SETTLED_NS = 2 * 10**9  # a file that was changed so long ago has another time when it is again


class LocalFiles:
    """`Files` below a folder. A file is written under another name, and linked to its own."""

    def __init__(self, root: Path) -> None:
        self._root = root

    def __str__(self) -> str:
        return str(self._root)

    def place(self, name: str) -> str:
        return str(self._root / name)

    def prepare(self) -> None:
        probe = f"{uuid.uuid4().hex}.tmp"
        with self._input_errors():
            self._root.mkdir(exist_ok=True)
            for folder in (self._root, *map(self._root.joinpath, self.folders())):
                _remove_old(folder)
        self.create(probe, b"")
        self.remove(probe)

    def exists(self) -> bool:
        return os.path.lexists(self._root)

    def folders(self) -> list[str]:
        with self._input_errors():
            if not self.exists():
                return []
            return sorted(path.name for path in self._root.iterdir() if path.is_dir())

    def names(self, folder: str = "") -> list[str]:
        path = self._root / folder
        with self._input_errors():
            return sorted(each.name for each in path.iterdir()) if os.path.lexists(path) else []

    def has(self, name: str) -> bool:
        return os.path.lexists(self._root / name)

    def version(self, name: str) -> str | None:
        try:
            status = (self._root / name).stat()
        except OSError:
            return None
        changed_ns = max(status.st_mtime_ns, status.st_ctime_ns)
        if not stat.S_ISREG(status.st_mode) or time.time_ns() - changed_ns < SETTLED_NS:
            return None
        return f"{status.st_size} {status.st_mtime_ns} {status.st_ino} {status.st_ctime_ns}"

    def read(self, name: str, most: int) -> bytes:
        return read_bytes(self._root / name, most)

    def read_many(
        self, names: Sequence[str], most: int, *, replaced: bool = False
    ) -> Iterator[bytes | Exception]:
        for name in names:
            try:
                yield self.read(name, most)
            except InputError as error:
                yield error

    def create(self, name: str, content: bytes) -> bool:
        path = self._root / name
        with self._written(path, content) as temporary:
            try:
                os.link(temporary, path)
            except FileExistsError:
                return _holds(path, content)
        return True

    def replace(self, name: str, content: bytes) -> None:
        path = self._root / name
        with self._written(path, content) as temporary:
            temporary.replace(path)

    def remove(self, name: str) -> None:
        with self._input_errors():
            (self._root / name).unlink(missing_ok=True)

    @contextmanager
    def _written(self, path: Path, content: bytes) -> Iterator[Path]:
        """A file beside `path` that holds `content`, for as long as this lasts. What was done to
        names in the folder is on the disk after it."""
        temporary = path.with_name(f"{path.name}.{uuid.uuid4().hex}.tmp")
        with self._input_errors():
            self._root.mkdir(exist_ok=True)
            path.parent.mkdir(exist_ok=True)
            try:
                with temporary.open("xb") as file:
                    file.write(content)
                    file.flush()
                    os.fsync(file.fileno())
                yield temporary
            finally:
                temporary.unlink(missing_ok=True)
            _sync(path.parent)

    @contextmanager
    def _input_errors(self) -> Iterator[None]:
        """Turn an error of the file system into an InputError of one line."""
        root = self._root
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


def _holds(path: Path, content: bytes) -> bool:
    """Whether a file has this content. It may be gone by now: who made it has removed it."""
    try:
        same_size = path.is_file() and path.stat().st_size == len(content)
        return same_size and path.read_bytes() == content
    except FileNotFoundError:
        return False


def _remove_old(folder: Path) -> None:
    """Remove what writers that were killed have left in a folder."""
    with os.scandir(folder) as entries:
        for entry in entries:
            if TEMPORARY.fullmatch(entry.name) and not entry.is_dir():
                age_seconds = time.time() - entry.stat(follow_symlinks=False).st_mtime
                if age_seconds > OLD_SECONDS:
                    Path(entry.path).unlink(missing_ok=True)


def _sync(folder: Path) -> None:
    """Write the names in a folder to the disk, where the system can do so."""
    if os.name != "posix":
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
