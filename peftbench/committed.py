"""A store compared with a git commit that holds it: what people did to records since shows, whereas
the digest inside a record guards against accidents only."""

import hashlib
import os
import subprocess
from dataclasses import dataclass
from pathlib import Path

from peftbench.errors import InputError
from peftbench.reading import MOST_PREDICTIONS_BYTES, read_bytes
from peftbench.store import NAME

ELSEWHERE = {"GIT_DIR", "GIT_WORK_TREE"}  # they would name another repository


@dataclass(frozen=True)
class Comparison:
    """The records and predictions of a store against those of a commit."""

    commit: str  # its whole id
    problems: tuple[str, ...]  # a line for each file that was changed or deleted
    equal: int  # how many are there, byte for byte
    new: int  # how many the commit does not hold

    def __str__(self) -> str:
        """Of a comparison without a problem."""
        new = f"{self.new} {'is' if self.new == 1 else 'are'} new"
        return f"the {self.equal} files that commit {self.commit[:12]} holds are unchanged; {new}"


def compare(store: Path | str, commit: str) -> Comparison:
    """Compare the files. Raises InputError if git or the commit cannot be had, or the commit holds
    no records of this store."""
    if isinstance(store, str):
        raise InputError(f"--against is for a folder in a git repository, which {store} is not")
    if not store.is_dir():
        raise InputError(f"store {store}: there is no such folder")
    # rev-parse would take it for an option
    if commit.startswith("-"):
        raise InputError(f"--against {commit}: not the name of a commit")
    _git(store, "rev-parse", "--git-dir")
    try:
        full = _git(store, "rev-parse", "--verify", "--quiet", f"{commit}^{{commit}}").strip()
    except InputError:
        raise InputError(
            f"--against {commit}: the repository of {store} has no such commit"
        ) from None
    blobs = _blobs(store, os.fsdecode(full))
    if not blobs:
        raise InputError(f"--against {commit}: the commit holds no record under {store}")
    problems = [
        problem for name, blob in blobs.items() if (problem := _problem(store / name, blob))
    ]
    files = {path.relative_to(store).as_posix() for path in store.glob("*/*") if _counts(path.name)}
    return Comparison(
        commit=os.fsdecode(full),
        problems=tuple(problems),
        equal=len(blobs) - len(problems),
        new=len(files - blobs.keys()),
    )


def _blobs(store: Path, commit: str) -> dict[str, str]:
    """The ids of the records and predictions that a commit holds, by their paths in the store."""
    # run in a folder, ls-tree lists what is below it, relative to it
    listed = _git(store, "ls-tree", "-r", "-z", commit)
    blobs: dict[str, str] = {}
    for line in listed.split(b"\0")[:-1]:
        facts, _, name = os.fsdecode(line).partition("\t")
        if name.count("/") == 1 and _counts(name.partition("/")[2]):
            blobs[name] = facts.split()[2]
    return blobs


def _counts(name: str) -> bool:
    return NAME.fullmatch(name) is not None


def _problem(path: Path, blob: str) -> str | None:
    """What has become of a file that a commit holds. Its bytes are compared as they are: no line
    ending is converted and no filter is run."""
    if not os.path.lexists(path):
        return f"{path}: deleted since the commit"
    try:
        content = read_bytes(path, MOST_PREDICTIONS_BYTES)
    except InputError as error:
        return str(error)
    kind = hashlib.sha1 if len(blob) == 40 else hashlib.sha256  # the repository's object format
    actual = kind(b"blob %d\0" % len(content) + content, usedforsecurity=False).hexdigest()
    return None if actual == blob else f"{path}: changed since the commit"


def _git(folder: Path, *arguments: str) -> bytes:
    """What git prints, run in a folder. Raises InputError with its first line if it fails."""
    environment = {name: value for name, value in os.environ.items() if name not in ELSEWHERE}
    # an object may have a replacement in somebody's repository: the commit itself is asked for
    command = ["git", "--no-replace-objects", *arguments]
    try:
        done = subprocess.run(
            command, cwd=folder, env=environment, capture_output=True, check=False
        )
    except OSError as error:
        raise InputError(f"--against needs git: {error.strerror}") from error
    if done.returncode:
        said = os.fsdecode(done.stderr).strip().splitlines() or ["no reason given"]
        raise InputError(f"--against: git cannot read the repository of {folder}: {said[0]}")
    return done.stdout
