"""The commands that read a store: on every kind of store a sentence or a table, and the right exit
status."""

import json
import subprocess
import sys
from pathlib import Path
from typing import get_args

import pytest
from records import environment, record, study

from peftbench import cli
from peftbench.markup import Format
from peftbench.store import Store
from peftbench.wording import Lang, for_terminal

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
        elsewhere = {"environment": environment(device_name="another machine")}
        for made in study(tasks=("reviews",), seeds=2):
            results.write(made)
            results.write(made.model_copy(update=elsewhere))
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
    output, errors = capsys.readouterr()
    assert output.strip() or "csv" in arguments  # no rows are no text for a program
    assert not errors
    if "json" in arguments:
        assert json.loads(output)


@pytest.mark.parametrize("arguments", READERS, ids=" ".join)
def test_a_store_of_another_schema_is_one_line_and_status_2(
    arguments: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert call(arguments, store("an old schema", tmp_path), monkeypatch) == 2
    output, errors = capsys.readouterr()
    assert not output
    assert errors.count("\n") == 1
    assert "schema 0" in errors


ESCAPE, REVERSED = "\x1b[31m", "\u202e"


@pytest.mark.parametrize(
    "arguments",
    [
        *READERS[:-1],
        ["table", "--format", "json"],
        ["table", "--format", "latex"],
        ["claims", "--format", "csv"],
        ["recommend", "--model", f"{ESCAPE}red", "--task", "reviews", "--memory", "8"],
        ["recommend", "--model", "x" * 100_000, "--task", "reviews", "--memory", "8"],
        ["show", f"{ESCAPE}red"],
        ["check"],
    ],
    ids=lambda arguments: ascii(" ".join(arguments))[:50],
)
def test_names_in_a_store_do_nothing_to_the_terminal(
    arguments: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    root = tmp_path / "results"
    for model in (f"{ESCAPE}red", f"{REVERSED}der", "x" * 100_000):
        Store(root).write(record(model=model, args={f"{ESCAPE}key": f"{ESCAPE}value"}))
        Store(root).write(record(model=model, method="vera", status="failed", error=f"{ESCAPE}E"))
    if arguments == ["check"]:
        (root / f"{ESCAPE}.json").touch()
    call(arguments, root, monkeypatch)
    captured = capsys.readouterr()
    for text in captured:
        assert ESCAPE not in text
        assert REVERSED not in text
        assert text == for_terminal(text)
    people = "json" not in arguments and "csv" not in arguments and "latex" not in arguments
    assert not people or max(map(len, "".join(captured).splitlines())) < 12_000
    if "json" in arguments:
        assert json.loads(captured.out)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["recommend", "--model", "m", "--task", "t", "--memory", "inf"], "--memory inf"),
        (["recommend", "--model", "m", "--task", "t", "--memory", "nan"], "--memory"),
        (["report", "--out", ""], "'': not the name of a file"),
        (["report", "--store", "nowhere", "--out", "."], "it is a folder"),
        (["report", "--out", "a\0b"], "not the name of a file"),
        (["table", "--store", "x" * 5000], "too long"),
        (["table", "--kind", "x" * 100_000], "comparison"),
        (["table", "--kind", f"{ESCAPE}red"], "comparison"),
        (["table", f"--{ESCAPE}red", "1"], "such option"),
        (["run"], "Missing argument"),
        (["search", "e.toml", "--workers", "1000000000"], "--workers"),
        (["run", "e.toml", "--only", "x" * 100_000], "write KEY=VALUE"),
        (["run", "e.toml", "--set", f"train.lr={'[' * 3000}"], "too deeply"),
        (["run", "e.toml", "--set", f"train.lr={'9' * 5000}"], "digits"),
    ],
    ids=lambda value: ascii(" ".join(value))[:40] if isinstance(value, list) else "",
)
def test_a_strange_option_is_one_short_clean_line_and_status_2(
    arguments: list[str],
    words: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr("sys.argv", ["peftbench", *arguments])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert ended.value.code == 2
    errors = capsys.readouterr().err
    assert errors.startswith("peftbench: ")
    assert words in errors
    assert errors.count("\n") == 1
    assert len(errors) < 1000
    assert errors == for_terminal(errors)


@pytest.mark.parametrize(
    ("arguments", "choices"),
    [
        (["table", "--format", "html"], get_args(Format)),
        (["claims", "--lang", "fr"], get_args(Lang)),
        (["table", "--kind", "costly"], ("comparison", "costs", "closing")),
        (["list", "models", "--format", "yaml"], get_args(Format)),
        (["list", "nothing"], ("methods", "tasks", "models")),
    ],
    ids=lambda value: value[-1] if isinstance(value, list) else "",
)
def test_what_is_none_of_the_choices_is_status_2_and_the_choices_are_named(
    arguments: list[str],
    choices: tuple[str, ...],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr("sys.argv", ["peftbench", *arguments])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert ended.value.code == 2
    errors = capsys.readouterr().err
    assert arguments[-1] in errors
    for choice in choices:
        assert choice in errors


def test_the_command_line_starts_without_what_only_some_commands_need() -> None:
    code = "import sys, peftbench.cli; print(*sys.modules)"
    modules = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    ).stdout.split()
    assert not {"torch", "transformers", "optuna", "pandas", "scipy", "matplotlib"} & set(modules)


def test_the_package_is_the_command_line(tmp_path: Path) -> None:
    """`python -m peftbench`, where no script is installed."""
    Store(tmp_path / "s").write(record())
    statuses, said = list[int](), list[str]()
    for arguments in (["check", "--store", str(tmp_path / "s")], ["chekc"]):
        done = subprocess.run(
            [sys.executable, "-m", "peftbench", *arguments], capture_output=True, text=True
        )
        statuses.append(done.returncode)
        said += [done.stdout, done.stderr]
    assert statuses == [0, 2]
    assert said[:3] == [f"{tmp_path / 's'}: 1 runs, no problem\n", "", ""]
    assert said[3].startswith("peftbench: No such command 'chekc'")
