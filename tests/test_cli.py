"""The commands that read a store: on every kind of store a sentence or a table, and the right exit
status."""

import json
from pathlib import Path

import pytest
from records import environment, record, study

from peftbench import cli
from peftbench.store import Store

READERS = [
    ["table"],
    ["table", "--kind", "costs", "--format", "csv"],
    ["table", "--kind", "closing", "--lang", "zh"],
    ["claims", "--format", "json"],
    ["claims", "--lang", "zh"],
    ["recommend", "--model", "minilm", "--task", "reviews", "--memory", "8"],
    ["report"],
]


def call(arguments: list[str], store: Path, monkeypatch: pytest.MonkeyPatch) -> int:
    """The exit status of a command."""
    out = ["--out", str(store.parent / "report.html")] if arguments[0] == "report" else []
    monkeypatch.setattr("sys.argv", ["peftbench", *arguments, "--store", str(store), *out])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    return int(ended.value.code or 0)


def store(kind: str, folder: Path) -> Path:
    root = folder / "results"
    results = Store(root)
    if kind == "one record":
        results.write(record())
    elif kind == "failures only":
        for seed in range(2):
            results.write(record(seed=seed, status="failed", error="<script>alert(1)</script>"))
    elif kind == "several devices":
        for each in study(tasks=("reviews",), seeds=2):
            results.write(each)
            results.write(
                each.model_copy(update={"environment": environment(device_name="another machine")})
            )
    elif kind == "trials only":
        results.write(record(split="valid"))
    elif kind == "an old schema":
        results.write(record())
        path = next(root.glob("*/*.json"))
        path.write_text(json.dumps(json.loads(path.read_text()) | {"schema": 0}))
    return root


@pytest.mark.parametrize("arguments", READERS, ids=" ".join)
@pytest.mark.parametrize(
    "kind", ["empty", "one record", "failures only", "several devices", "trials only"]
)
def test_every_reader_has_something_to_say_of_every_store(
    arguments: list[str],
    kind: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert call(arguments, store(kind, tmp_path), monkeypatch) == 0
    told = capsys.readouterr()
    assert told.out.strip() or "csv" in arguments  # no rows are no text for a program
    assert not told.err
    if "json" in arguments:
        assert json.loads(told.out)


@pytest.mark.parametrize("arguments", READERS, ids=" ".join)
def test_a_store_of_another_schema_is_one_line_and_status_2(
    arguments: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert call(arguments, store("an old schema", tmp_path), monkeypatch) == 2
    told = capsys.readouterr()
    assert not told.out
    assert told.err.count("\n") == 1
    assert "schema 0" in told.err
