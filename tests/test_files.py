"""Files of a store, here and in a bucket: made once, whole or not at all."""

import os
import threading
import uuid
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import fsspec
import pandas as pd
import pytest
import records

from peftbench.errors import InputError
from peftbench.files import files_at, is_url
from peftbench.files.base import Files
from peftbench.files.cache import cache_folder
from peftbench.files.remote import RemoteFiles
from peftbench.store import Store, run_key, store_at

KINDS = ["folder", "memory"]


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PEFTBENCH_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def root(request: pytest.FixtureRequest, tmp_path: Path) -> Path | str:
    """A place of its own, of the kind that is asked for."""
    return tmp_path / "store" if request.param == "folder" else f"memory://{uuid.uuid4().hex}"


on_all = pytest.mark.parametrize("root", KINDS, indirect=True)


@on_all
def test_what_is_created_is_listed_read_and_removed(root: Path | str) -> None:
    files = files_at(root)
    assert not files.exists()
    assert (files.folders(), files.names(), files.names("a")) == ([], [], [])
    files.prepare()
    for name in ("b/2", "a/1", "b/1"):
        assert files.create(name, name.encode())
    assert files.exists()
    assert files.folders() == ["a", "b"]
    assert files.names("b") == ["1", "2"]
    assert list(files.read_many(["b/2", "a/1"], 10)) == [b"b/2", b"a/1"]
    assert files.has("a/1")
    assert not files.has("a/2")
    files.remove("b/2")
    files.remove("b/2")
    assert files.names("b") == ["1"]


@on_all
def test_a_name_is_given_once(root: Path | str) -> None:
    files = files_at(root)
    files.prepare()
    assert files.create("a/1", b"first")
    assert not files.create("a/1", b"other")
    assert files.create("a/1", b"first")  # as where the answer to the first request was lost
    assert files.read("a/1", 10) == b"first"
    files.replace("a/1", b"other")
    assert files.read("a/1", 10) == b"other"


@on_all
def test_of_writers_at_once_exactly_one_succeeds(root: Path | str) -> None:
    files = files_at(root)
    files.prepare()
    barrier = threading.Barrier(16)

    def write(number: int) -> bool:
        barrier.wait()
        return files.create("a/1", str(number).encode())

    with ThreadPoolExecutor(16) as pool:
        won = list(pool.map(write, range(16)))
    assert won.count(True) == 1
    assert files.read("a/1", 10) == str(won.index(True)).encode()


@on_all
def test_a_name_that_is_made_and_removed_by_others_meanwhile_is_no_error(
    root: Path | str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a lease is: whoever comes second may find it there, and gone when it looks."""
    files = files_at(root)
    files.prepare()

    def there(*_: Any, **__: Any) -> None:
        raise FileExistsError

    if isinstance(files, RemoteFiles):
        monkeypatch.setattr(files._fs, "pipe_file", there)
    else:
        monkeypatch.setattr(os, "link", there)
        monkeypatch.setattr(Path, "is_file", lambda path: True)  # and gone after that
    assert not files.create("a/1", b"mine")


@on_all
def test_what_cannot_be_read_is_an_error_that_names_it(root: Path | str) -> None:
    files = files_at(root)
    files.prepare()
    files.create("a/1", b"12345")
    none, large = files.read_many(["a/none", "a/1"], 4)
    assert str(none).startswith(f"{root}/a/none: cannot be read: ")
    assert str(large).startswith(f"{root}/a/1: cannot be read: more than the 4 bytes")
    with pytest.raises(InputError, match="cannot be read"):
        files.read("a/none", 4)


def test_a_url_is_told_from_a_folder() -> None:
    assert is_url("s3://bucket/prefix")
    assert not is_url("results")
    assert not is_url(Path("s3:/bucket"))
    assert store_at("results") == Store(Path("results"))
    with pytest.raises(InputError, match="is no folder of this machine"):
        _ = store_at("memory://x").folder


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("sftp://host/results", "sftp:// cannot make a file on the condition that there is none"),
        ("http://host/results", r"use a folder, or one of s3://, gs://"),
    ],
)
def test_what_cannot_write_on_a_condition_is_refused_in_one_line(url: str, says: str) -> None:
    with pytest.raises(InputError, match=says) as error:
        files_at(url)
    assert "\n" not in str(error.value)


def test_a_missing_library_is_named_with_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(*_: Any, **__: Any) -> Any:
        raise ImportError("Install s3fs to access S3")

    monkeypatch.setattr(fsspec.core, "url_to_fs", missing)
    with pytest.raises(InputError, match=r"needs the extra 's3': pip install 'peftbench\[s3\]'"):
        files_at("s3://bucket")


def without_conditions(patch: pytest.MonkeyPatch, files: RemoteFiles) -> None:
    """A server that makes a file although there is one, as old ones do."""
    overwrite = files._fs.pipe_file

    def pipe_file(path: str, value: bytes, mode: str = "overwrite", **options: Any) -> None:
        overwrite(path, value, mode="overwrite", **options)

    patch.setattr(files._fs, "pipe_file", pipe_file)


def test_a_server_without_conditional_writes_is_found_out(monkeypatch: pytest.MonkeyPatch) -> None:
    files = RemoteFiles("memory://old-server")
    without_conditions(monkeypatch, files)
    with pytest.raises(InputError, match="no conditional writes"):
        files.prepare()
    assert files.names() == []


def test_what_was_read_is_fetched_once_and_what_has_changed_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    files = RemoteFiles(f"memory://{uuid.uuid4().hex}")
    for name in ("a/1", "a/2"):
        files.create(name, b"old")
    fetched: list[str] = []
    fetch: Callable[..., Any] = files._fs.cat_ranges

    def cat_ranges(paths: list[str], *ranges: Any, **options: Any) -> Any:
        fetched.extend(path.rpartition("/")[2] for path in paths)
        return fetch(paths, *ranges, **options)

    monkeypatch.setattr(files._fs, "cat_ranges", cat_ranges)
    for _ in range(2):
        names = [f"a/{name}" for name in files.names("a")]
        assert list(files.read_many(names, 10)) == [b"old", b"old"]
    assert fetched == ["1", "2"]
    files.replace("a/2", b"new")
    files.names("a")
    assert list(files.read_many(["a/1", "a/2"], 10)) == [b"old", b"new"]
    assert fetched == ["1", "2", "2"]
    for path in cache_folder().rglob("*"):  # thrown away at will
        if path.is_file():
            path.unlink()
    assert list(files.read_many(["a/1", "a/2"], 10)) == [b"old", b"new"]


@pytest.fixture
def bucket() -> Store:
    return store_at(f"memory://{uuid.uuid4().hex}")


def test_a_store_in_a_bucket_holds_what_one_in_a_folder_holds(
    bucket: Store, tmp_path: Path
) -> None:
    folder = Store(tmp_path / "results")
    for store in (bucket, folder):
        store.ensure_writable()
        store.write(records.record(status="failed"))
        for record in records.study(seeds=2):
            store.write(record, records.predictions())
    assert list(bucket.read_all()) == list(folder.read_all())
    assert bucket.check() == folder.check() == []
    names: Callable[[Files], list[str]] = lambda files: [  # noqa: E731
        f"{device}/{name}" for device in files.folders() for name in files.names(device)
    ]
    assert names(bucket.files) == names(folder.files)
    for name in names(folder.files):
        assert bucket.files.read(name, 10**6) == folder.files.read(name, 10**6)
    key = run_key(records.record())
    assert bucket.find(key) == folder.find(key) == bucket.read(key)
    pd.testing.assert_frame_equal(bucket.predictions(key), records.predictions())


def test_a_damaged_record_in_a_bucket_is_named_by_its_url(bucket: Store) -> None:
    record = bucket.write(records.record())
    name = f"{run_key(record)}.json"
    bucket.files.replace(name, b"{}")
    with pytest.raises(InputError, match=f"^{bucket}/{name}: "):
        list(bucket.read_all())
    assert len(bucket.check()) == 1
