"""What a store needs of files: they are listed, read, made once, and removed."""

import re
from collections.abc import Iterator, Sequence
from typing import Protocol

TEMPORARY = re.compile(r"(.+\.)?[0-9a-f]{32}\.tmp")  # a file that is not published yet


class Files(Protocol):
    """Files below one place, named NAME or FOLDER/NAME. Every method raises InputError of one line
    where the system refuses."""

    def __str__(self) -> str:
        """The place, as a person wrote it."""
        ...

    def place(self, name: str) -> str:
        """The whole name of a file, for messages."""
        ...

    def prepare(self) -> None:
        """Make what the place needs, and try whether a file can be made there, and made once only.
        Of a folder, its parent must be there. What writers that were killed left is removed."""
        ...

    def exists(self) -> bool:
        """Whether there is anything at the place."""
        ...

    def folders(self) -> list[str]:
        """The names of the folders, in order; none where the place is not there yet."""
        ...

    def names(self, folder: str = "") -> list[str]:
        """The names of what lies in a folder (in the place itself: ""), in order, without the
        folder's; none where it is not there."""
        ...

    def has(self, name: str) -> bool:
        """Whether there is such a file."""
        ...

    def version(self, name: str) -> str | None:
        """What tells the file from any other that its name has had, or will have; of a bucket, as
        the last list of its folder had it. None: nothing does."""
        ...

    def read(self, name: str, most: int) -> bytes:
        """What is in a file. Raises InputError if there is none or it has more than `most`
        bytes."""
        ...

    def read_many(
        self, names: Sequence[str], most: int, *, replaced: bool = False
    ) -> Iterator[bytes | Exception]:
        """What is in each file, in order, several at a time where they are far away; in place of
        one that cannot be read its InputError. replaced: they are files that `replace` changes, so
        that it is of no use to keep them."""
        ...

    def create(self, name: str, content: bytes) -> bool:
        """Make a file, whole or not at all. Returns whether it has this content now: of several
        writers of one name, each with a content of its own, exactly one succeeds."""
        ...

    def replace(self, name: str, content: bytes) -> None:
        """Make a file, whole or not at all, in place of one that may be there."""
        ...

    def remove(self, name: str) -> None:
        """Remove a file, if it is there."""
        ...
