"""A store with files that no writer of ours left: damaged, of another kind, or made to fill the
memory. Every reader answers with one line that names the file, and none waits for it."""

import hashlib
import io
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import records

import peftbench
from peftbench import cli, reading
from peftbench.errors import InputError
from peftbench.spec import digest
from peftbench.store import Store

Act = Callable[[Path], object]
HUGE = 60 * 10**9  # bytes


@pytest.fixture(autouse=True)
def no_waiting() -> Iterator[None]:
    """A test that waits for a pipe fails instead of hanging."""

    def ended(*_: object) -> None:
        raise TimeoutError("waited for a file")

    before = signal.signal(signal.SIGALRM, ended)
    signal.alarm(20)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    store = Store(tmp_path / "results")
    store.write(records.record(), records.predictions())
    store.write(records.record(method="vera"))
    return store


def paths(store: Store) -> tuple[Path, Path]:
    """Of the record that has predictions, and of these."""
    (predictions,) = store.folder.rglob("*.parquet")
    return predictions.with_name(predictions.name.replace("predictions.parquet", "json")), (
        predictions
    )


def sparse(path: Path) -> None:
    with path.open("wb") as file:
        file.truncate(HUGE)


def listening(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as server:
        handle = os.open(path.parent, os.O_RDONLY)
        server.bind(f"/proc/self/fd/{handle}/{path.name}")  # a short name, as sockets need one
        os.close(handle)


def pipe_by_link(path: Path) -> None:
    os.mkfifo(path.parent.parent / "pipe")
    path.symlink_to("../pipe")


KINDS: dict[str, tuple[Act, str]] = {
    "pipe": (os.mkfifo, "no regular file"),
    "link to a pipe": (pipe_by_link, "no regular file"),
    "device": (lambda path: path.symlink_to("/dev/zero"), "no regular file"),
    "socket": (listening, "cannot be read: "),
    "folder": (Path.mkdir, "it is a folder"),
    "dangling link": (lambda path: path.symlink_to("nothing"), "No such file"),
    "circle": (lambda path: path.symlink_to(path.name), "symbolic links"),
    "sparse": (sparse, r"more than the [\d,]+ bytes that it may have"),
}


def is_one_line(error: InputError, path: Path) -> None:
    assert str(error).startswith(f"{path}: ")
    assert str(error).isprintable()
    assert len(str(error)) < 500


def is_a_problem(store: Store, path: Path, says: str) -> None:
    """The only one, and the same as readers name."""
    with pytest.raises(InputError, match=says) as error:
        [store.predictions(record.run_id) for record in store.read_all() if record.predictions]
    is_one_line(error.value, path)
    assert store.check() == [str(error.value)]


@pytest.mark.parametrize("of", [0, 1], ids=["record", "predictions"])
@pytest.mark.parametrize("kind", KINDS)
def test_what_is_no_file_to_read_is_one_line(store: Store, of: int, kind: str) -> None:
    path, (place, says) = paths(store)[of], KINDS[kind]
    path.unlink()
    place(path)
    is_a_problem(store, path, says)


def with_digest(change: dict[str, Any]) -> bytes:
    """The JSON of a record with changed fields and a digest that fits."""
    content = records.record().model_dump(mode="json") | change
    return json.dumps(content | {"digest": digest(content)}).encode()


def nested(depth: int) -> Any:
    value: Any = []
    for _ in range(depth):
        value = [value]
    return value


def with_args(args: Any) -> bytes:
    own = records.spec().model_dump(mode="json")
    return with_digest({"spec": own | {"args": args}})


RECORDS: dict[str, tuple[bytes, str]] = {
    "deep": (b'{"a": ' + b"[" * 100_000, "nested too deeply"),
    "deep to a digest": (with_args({"a": nested(300)}), "cannot be written again"),
    "deep schema": (b'{"schema": ' + b"[" * 200 + b"]" * 200 + b"}", "a record of schema"),
    "long schema": (b'{"schema": "' + b"2" * 100_000 + b'"}', "a record of schema"),
    "digits": (b'{"a": ' + b"1" * 1_000_000 + b"}", "more than 64 bits"),
    "beyond 64 bits": (with_digest({"seconds": 2**64}), "more than 64 bits"),
    "beyond a float": (b'{"a": 1e999}', "Out of range"),
    "not a number": (b'{"a": NaN}', "Out of range"),
    "a key twice": (with_digest({}).replace(b'"status"', b'"run_id": "1", "status"', 1), "twice"),
    "half a character": (with_args({"a": "\ud800"}), "cannot be written again"),
    "half a character as text": (with_digest({"device": "\ud800"}), "cannot be written again"),
    "another encoding": (with_digest({}).decode().encode("utf-16"), "damaged"),
    "many values": (b'{"a": [' + b"[]," * 2_001 + b"[]]}", "more than 2,000 values"),
    "no time zone": (with_digest({"started": "2026-01-02T03:04:05"}), "started: .*timezone"),
    "no spec": (with_digest({"spec": None}), "spec: "),
}


@pytest.mark.parametrize("kind", RECORDS)
def test_what_is_no_record_is_one_line(
    store: Store, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reading, "MOST_VALUES", 2_000)
    content, says = RECORDS[kind]
    path = paths(store)[0]
    path.write_bytes(content)
    is_a_problem(store, path, says)


def parquet(table: pa.Table | pd.DataFrame, **options: Any) -> bytes:
    file = io.BytesIO()
    if isinstance(table, pd.DataFrame):
        table = pa.Table.from_pandas(table)
    pq.write_table(table, file, **options)
    return file.getvalue()


def repeated(kind: pa.DataType, rows: int, length: int) -> bytes:
    """A small file with a long text that stands in every row."""
    text = pa.array(["x" * length], kind)
    ids = pa.DictionaryArray.from_arrays(pa.array([0] * rows, "int32"), text)
    numbers = {name: [0] * rows for name in ("target", "nll", "count", "answer", "score")}
    return parquet(pa.table({"id": ids} | numbers), store_schema=False)


PREDICTIONS: dict[str, tuple[bytes, str]] = {
    "no parquet": (b"PAR1 nonsense PAR1", "no parquet file"),
    "empty": (b"", "no parquet file"),
    "cut": (parquet(records.predictions())[:-9], "no parquet file"),
    "without columns": (
        parquet(records.predictions().drop(columns=["nll", "id"])),
        "there is no column id, nll",
    ),
    "texts for numbers": (
        parquet(records.predictions(score=["a", "b"])),
        "column 'score' is of type (large_)?string",
    ),
    "numbers for texts": (parquet(records.predictions(id=[1, 2])), "column 'id' is of type int64"),
    "lists": (parquet(records.predictions(answer=[[1], [2]])), "column 'answer' is of type list"),
    "more columns, of another kind": (
        parquet(records.predictions(**{"a\nb": [{"a": 1}] * 2})),
        r"column 'a\\nb' is of type struct",
    ),
    "one name twice": (
        parquet(pa.table([[1, 2]] * 7, names=[*reading.NUMBERS, "id"])),
        "two columns have one name",
    ),
    "other rows": (parquet(records.predictions().head(1)), "1 rows, where the record says 2"),
    "a text in every row": (repeated(pa.string(), 2, 2**20), "unpacks to 2,097,152 bytes of text"),
    "the same, large": (
        repeated(pa.large_string(), 2, 2**20),
        "unpacks to 2,097,152 bytes of text",
    ),
    "zeros": (
        parquet(pa.table({"id": [b"\0" * 2**21]}), compression="zstd", use_dictionary=False),
        "unpacks to [0-9,]+ bytes, more than the 2,000,000",
    ),
    "many rows": (
        parquet(pa.table({"id": pa.nulls(2_000)}), store_schema=False),
        "unpacks to 2,000 rows, more than the 1,000",
    ),
}


@pytest.mark.parametrize("kind", PREDICTIONS)
def test_what_is_no_table_of_predictions_is_one_line(
    store: Store, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reading, "MOST_PREDICTIONS_BYTES", 2_000_000)
    monkeypatch.setattr(reading, "MOST_ROWS", 1_000)
    path, says = replaced(store, kind)
    is_a_problem(store, path, f"not predictions: {says}")


def replaced(store: Store, kind: str) -> tuple[Path, str]:
    """Put other predictions beside a record that says that they are its own."""
    content, says = PREDICTIONS[kind]
    record, predictions = paths(store)
    predictions.write_bytes(content)
    own = {"predictions": {"rows": 2, "sha256": hashlib.sha256(content).hexdigest()}}
    record.write_bytes(with_digest(own))
    return predictions, says


READERS = [
    ["table"],
    ["table", "--kind", "closing"],
    ["claims"],
    ["recommend", "--model", "minilm", "--task", "reviews", "--memory", "8"],
    ["report", "--out", "report.html"],
    ["check"],
]
PREDICTIONS_READERS = {"table", "report", "check"}  # of the few runs here


@pytest.mark.parametrize(
    ("kind", "arguments"),
    [(kind, reader) for kind in ("pipe", "deep") for reader in READERS]
    + [("without columns", reader) for reader in READERS if reader[0] in PREDICTIONS_READERS],
    ids=lambda value: value if isinstance(value, str) else " ".join(value),
)
def test_every_command_says_it_in_one_line(
    arguments: list[str],
    kind: str,
    store: Store,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(store.folder.parent)
    path = broken(store, kind)
    monkeypatch.setattr("sys.argv", ["peftbench", *arguments, "--store", "results"])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    output, errors = capsys.readouterr()
    assert (ended.value.code, output, errors.count("\n")) == (2, "", 1)
    assert path.name in errors
    assert not Path("report.html").exists()


def broken(store: Store, kind: str) -> Path:
    path = paths(store)[0]
    if kind in PREDICTIONS:
        return replaced(store, kind)[0]
    path.unlink()
    if kind in KINDS:
        KINDS[kind][0](path)
    else:
        path.write_bytes(RECORDS[kind][0])
    return path


@pytest.mark.parametrize(
    ("kind", "reader"),
    [
        ("sparse", peftbench.compare),
        ("digits", peftbench.claims),
        ("without columns", peftbench.compare),
    ],
)
def test_the_door_names_the_file(reader: Callable[[Path], object], kind: str, store: Store) -> None:
    path = broken(store, kind)
    with pytest.raises(InputError) as error:
        reader(store.folder)
    is_one_line(error.value, path)


WINDOWS = """
import os, sys
for name in ("fcntl", "resource", "pwd", "grp", "termios"):
    sys.modules[name] = None
for name in ("O_NONBLOCK", "sched_getaffinity", "getloadavg", "fork", "geteuid"):
    delattr(os, name)
from peftbench import cli
sys.argv = ["peftbench", *sys.argv[1:]]
cli.main()
"""


@pytest.mark.parametrize("command", ["table", "check"])
def test_tables_are_read_where_the_system_has_no_fcntl(command: str, tmp_path: Path) -> None:
    """As on Windows, where nothing is trained."""
    Store(tmp_path / "results").write(records.record(), records.predictions())
    done = subprocess.run(
        [sys.executable, "-c", WINDOWS, command, "--store", str(tmp_path / "results")],
        capture_output=True,
        text=True,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert "lora" in done.stdout if command == "table" else "1 runs, no problem" in done.stdout
