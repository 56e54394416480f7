"""Files in a bucket, through fsspec: S3 and servers like it, Google Cloud Storage, Azure."""

import hashlib
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from peftbench.errors import InputError, first_line
from peftbench.files.cache import cache_folder, keep, kept

# Where a file is made by one request that fails if there is one already, and the extra to install.
CONDITIONAL = {"s3": "s3", "gs": "gcs", "az": "azure", "abfs": "azure", "memory": ""}
AT_A_TIME = 256  # files that are read at once
VERSION = ("ETag", "etag", "content_md5", "md5Hash", "LastModified", "mtime", "created")


class RemoteFiles:
    """`Files` below a URL. What was read is kept in a cache of this machine, under the name and the
    version that the list of the bucket gave: write-once files are fetched once."""

    def __init__(self, url: str) -> None:
        import fsspec

        protocol = url.partition("://")[0]
        if protocol not in CONDITIONAL:
            known = ", ".join(f"{name}://" for name in CONDITIONAL if CONDITIONAL[name])
            raise InputError(
                f"store {url}: {protocol}:// cannot make a file on the condition that there is "
                f"none: use a folder, or one of {known}"
            )
        self._url = url.rstrip("/")
        self._versions: dict[str, str] = {}  # of files that were listed, by their paths
        try:
            # A list that is kept would hide what other machines have written since.
            self._fs: Any
            self._fs, root = fsspec.core.url_to_fs(self._url, use_listings_cache=False)
        except ImportError as error:
            raise InputError(
                f"store {url}: needs the extra {CONDITIONAL[protocol]!r}: "
                f"pip install 'peftbench[{CONDITIONAL[protocol]}]' ({first_line(error)})"
            ) from error
        except Exception as error:  # of each library its own
            raise InputError(f"store {url}: {first_line(error)}") from error
        self._root = root.rstrip("/")

    def __str__(self) -> str:
        return self._url

    def place(self, name: str) -> str:
        return f"{self._url}/{name}"

    def prepare(self) -> None:
        probe = f"{uuid.uuid4().hex}.tmp"
        try:
            once, twice = self.create(probe, b"1"), self.create(probe, b"2")
        finally:
            with suppress(InputError):
                self.remove(probe)
        if not once or twice:
            raise InputError(
                f"store {self}: what answers there makes a file although there is one "
                "(no conditional writes), so that runs would be lost: use a newer server"
            )

    def exists(self) -> bool:
        with self._input_errors():
            return self._fs.exists(self._root)

    def folders(self) -> list[str]:
        return [name for name, info in self._listed("") if info["type"] == "directory"]

    def names(self, folder: str = "") -> list[str]:
        return [name for name, _ in self._listed(folder)]

    def has(self, name: str) -> bool:
        with self._input_errors():
            try:
                self._fs.cat_file(
                    self._path(name), start=0, end=1
                )  # one request: `exists` makes two
            except FileNotFoundError:
                return False
        return True

    def version(self, name: str) -> str | None:
        return self._versions.get(self._path(name))

    def read(self, name: str, most: int) -> bytes:
        (content,) = self.read_many([name], most)
        if isinstance(content, Exception):
            raise content
        return content

    def read_many(
        self, names: Sequence[str], most: int, *, replaced: bool = False
    ) -> Iterator[bytes | Exception]:
        for start in range(0, len(names), AT_A_TIME):
            yield from self._read_batch(names[start : start + AT_A_TIME], most, replaced)

    def create(self, name: str, content: bytes) -> bool:
        with self._input_errors():
            try:
                self._fs.pipe_file(self._path(name), content, mode="create")
            except FileExistsError:
                # Ours, if the answer to the first request was lost and the library asked again;
                # gone, if who made it has removed it.
                with suppress(FileNotFoundError):
                    return self._fs.cat_file(self._path(name)) == content
                return False
        return True

    def replace(self, name: str, content: bytes) -> None:
        with self._input_errors():
            self._fs.pipe_file(self._path(name), content)

    def remove(self, name: str) -> None:
        with self._input_errors(), suppress(FileNotFoundError):
            self._fs.rm_file(self._path(name))

    def _path(self, name: str) -> str:
        return f"{self._root}/{name}" if name else self._root

    def _listed(self, folder: str) -> list[tuple[str, dict[str, Any]]]:
        """What lies in a folder: names and what the bucket says of them."""
        with self._input_errors():
            try:
                infos = self._fs.ls(self._path(folder), detail=True)
            except FileNotFoundError:
                return []
        listed: list[tuple[str, dict[str, Any]]] = []
        for info in infos:
            path = info["name"].rstrip("/")
            if path == self._path(folder):  # a marker of the folder itself
                continue
            if info["type"] != "directory" and (version := _version(info)):
                self._versions[path] = version
            listed.append((path.rpartition("/")[2], info))
        return sorted(listed, key=lambda each: each[0])

    def _read_batch(
        self, names: Sequence[str], most: int, replaced: bool
    ) -> list[bytes | Exception]:
        """The contents of some files, from the cache or fetched at once."""
        contents: dict[str, bytes | Exception] = {}
        places = {name: None if replaced else self._cached(name) for name in names}
        for name, place in places.items():
            if place is not None and (content := kept(place)) is not None:
                contents[name] = content
        paths = {name: self._path(name) for name in places if name not in contents}
        if paths:
            with self._input_errors():
                ranges = ([*paths.values()], [0] * len(paths), [most + 1] * len(paths))
                fetched = self._fs.cat_ranges(*ranges, on_error="return")
            for name, content in zip(paths, fetched, strict=True):
                contents[name] = self._checked(name, content, most)
                if isinstance(content, bytes) and (place := places[name]) is not None:
                    keep(place, content)
        return [contents[name] for name in names]

    def _checked(self, name: str, content: bytes | Exception, most: int) -> bytes | InputError:
        if isinstance(content, Exception):
            gone = isinstance(content, FileNotFoundError)
            reason = "there is no such file" if gone else first_line(content)
            return InputError(f"{self.place(name)}: cannot be read: {reason}")
        if len(content) > most:
            return InputError(
                f"{self.place(name)}: cannot be read: more than the {most:,} bytes that it may have"
            )
        return content

    def _cached(self, name: str) -> Path | None:
        """Where the cache has, or will have, a file; None if its version is not known."""
        if (version := self.version(name)) is None:
            return None
        digest = hashlib.sha256(f"{self.place(name)} {version}".encode()).hexdigest()
        return cache_folder() / "stores" / digest[:2] / digest

    @contextmanager
    def _input_errors(self) -> Iterator[None]:
        """Turn whatever a library of a bucket raises into an InputError of one line."""
        try:
            yield
        except Exception as error:  # of each library its own
            raise InputError(f"store {self}: {first_line(error)}") from error


def _version(info: dict[str, Any]) -> str | None:
    """What tells a file from another of its name, as the list of a bucket says it; None: it does
    not."""
    said = [f"{key}={info[key]}" for key in VERSION if info.get(key)]
    return f"{said[0]} {info.get('size')}" if said else None
