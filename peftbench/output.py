"""The files that a person asks for by name: written whole or not at all."""

import shutil
import stat
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from peftbench.errors import InputError


def write_whole(path: Path, content: bytes) -> None:
    """Put `content` at `path`. What was there before is replaced once all of it is written; of a
    symbolic link, the file it points to. A device or a pipe is written to. Raises InputError if
    that cannot be done; a regular file is then as it was."""
    with _input_errors(path):
        if _is_special(path):
            with path.open("wb") as special:
                special.write(content)
            return
        file, temporary = _places(path)
        try:
            temporary.write_bytes(content)
            if file.exists():
                shutil.copymode(file, temporary)
            temporary.replace(file)
        finally:
            temporary.unlink(missing_ok=True)


def ensure_folder(path: Path) -> None:
    """Make the folder `path`, and those above it, where there is none. Raises InputError if that
    cannot be done."""
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        reason = "there is a file" if path.is_file() else error.strerror
        raise InputError(f"{path}: no folder can be made there: {reason}") from error


def ensure_writable(path: Path) -> None:
    """Raises InputError if `write_whole` cannot work here: for before a long work. Leaves nothing
    behind."""
    with _input_errors(path):
        if not _is_special(path):
            temporary = _places(path)[1]
            temporary.touch()
            temporary.unlink()


def _is_special(path: Path) -> bool:
    """Whether there is something at `path`, or where its links lead, that is no regular file: to
    rename another file there would replace a device. Raises IsADirectoryError on a folder."""
    try:
        mode = path.stat().st_mode
    except FileNotFoundError:
        return False
    if stat.S_ISDIR(mode):
        raise IsADirectoryError
    return not stat.S_ISREG(mode)


def _places(path: Path) -> tuple[Path, Path]:
    """The file that `path` means, all links followed, and a temporary one beside it."""
    file = path.resolve()
    return file, file.with_name(f".{uuid.uuid4().hex}.tmp")


@contextmanager
def _input_errors(path: Path) -> Iterator[None]:
    """Turn an error of the file system into an InputError of one line."""
    try:
        yield
    except OSError as error:
        reason = error.strerror
        if isinstance(error, IsADirectoryError):
            reason = "it is a folder: name a file"
        elif not path.parent.is_dir():
            reason = f"there is no folder {path.parent}"
        raise InputError(f"{path}: cannot be written: {reason}") from error
