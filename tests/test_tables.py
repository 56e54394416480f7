"""The comparison says what the records say: every number, every failure, and nothing compared that cannot be."""

import csv
import io
import json
import re
import statistics
import time
from functools import reduce
from pathlib import Path
from typing import Any

import pytest
import records

from peftbench.frame import frame
from peftbench.record import Record
from peftbench.store import Store
from peftbench.tables import EMPTY, Format, comparison, human, render, size

NASTY = "first line\nCUDA | out \\ of `memory` *now* <b> __init__ $5 100% a&b {x #1 ~^ \x1b[31m"
FORMATS: tuple[Format, ...] = ("md", "csv", "latex", "json")


def text(*found: Record, format: Format = "md") -> str:
    return render(comparison(frame(found)), format)


def rows(markdown: str) -> list[list[str]]:
    """The cells of every data row, split where Markdown would split them."""
    lines = [line for line in markdown.splitlines() if line.startswith("|")]
    cells = [[cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]] for line in lines]
    return [row for row in cells if row[0] != "method" and not row[0].startswith("---")]


def mean(contents: list[Any], *path: str) -> float | None:
    """The mean of a number in several records' JSON; None if none has it."""
    values = [reduce(lambda value, key: value and value[key], path, content) for content in contents]
    return None if None in values else statistics.mean(values)


def test_the_numbers_are_those_of_the_files(tmp_path: Path) -> None:
    store = Store(tmp_path / "results")
    for record in records.study(("reviews", "gsm")):
        store.write(record)
    contents = [json.loads(path.read_text()) for path in store.root.rglob("*.json")]
    done: dict[tuple[str, str, str], list[Any]] = {}
    for content in contents:
        if content["status"] == "done":
            spec = content["spec"]
            done.setdefault((spec["task"], spec["method"], json.dumps(spec["args"], sort_keys=True)), []).append(content)
    table = json.loads(render(comparison(frame(store.read_all())), "json"))
    assert {(row["task"], row["method"], json.dumps(row["args"], sort_keys=True)) for row in table if row["seeds"]} == set(done)
    for row in table:
        members = done.get((row["task"], row["method"], json.dumps(row["args"], sort_keys=True)), [])
        assert row["seeds"] == len(members)
        if not members:
            continue

        assert row["metric"] == pytest.approx(mean(members, "metrics", "accuracy"), rel=1e-12)
        assert row["metrics"]["f1"] == pytest.approx(mean(members, "metrics", "f1"), rel=1e-12)
        assert row["nll"] == pytest.approx(mean(members, "metrics", "nll"), rel=1e-12)
        assert row["nll.std"] == pytest.approx(statistics.stdev(member["metrics"]["nll"] for member in members), rel=1e-9)
        for name in ("trained_params", "updatable_params", "total_params", "peak_bytes", "adapter_file_bytes"):
            assert row[name] == mean(members, "cost", name)
            assert isinstance(row[name], int)
        for name, path in {"tokens_per_second": (), "utilization": (), "train_seconds": (), "step_seconds": ("median",)}.items():
            expected = mean(members, "cost", name, *path)
            assert row[name] == (expected if expected is None else pytest.approx(expected, rel=1e-12))
        assert row["latency.adapted"] == pytest.approx(mean(members, "cost", "latency_seconds", "adapted", "median"), rel=1e-12)
        assert row["peak.weights"] == mean(members, "cost", "peak_parts", "weights")


def test_the_cells_are_the_numbers_in_the_header_s_units() -> None:
    record = records.record()
    cost = record.cost
    assert cost is not None
    assert cost.step_seconds is not None
    (row,) = rows(text(record))
    assert row == [
        "lora",
        f"{record.metrics['accuracy']:.4f}",
        f"{record.metrics['nll']:.4f}",
        "664 k",
        f"{100 * 663_552 / (records.TOTAL - records.HEAD):.2f}",
        "664 k",
        f"{cost.peak_bytes / 1_048_576:.1f}",
        f"{cost.tokens_per_second:,.0f}",
        f"{cost.step_seconds.median * 1000:.1f}",
        "2.53 MiB",
        "1",
    ]


def test_full_fine_tuning_trains_everything_and_frozen_nothing() -> None:
    assert [row[4] for row in rows(text(records.record(method="full"), records.record(method="frozen")))] == ["100.0", "0"]


def test_csv_and_json_hold_the_same() -> None:
    found = list(records.study())
    table = json.loads(text(*found, format="json"))
    sheet = list(csv.DictReader(io.StringIO(text(*found, format="csv"))))
    assert len(sheet) == len(table)
    for line, row in zip(sheet, table, strict=True):
        for name, value in row.items():
            if name == "metrics":
                assert [line[f"metrics.{metric}"] for metric in value] == ["" if n is None else str(n) for n in value.values()]
            elif isinstance(value, dict | list):
                assert json.loads(line[name]) == value
            else:
                assert line[name] == ("" if value is None else str(value))


@pytest.mark.parametrize(
    "other",
    [
        {"device": "cuda"},
        {"environment": records.environment(device_name="another")},
        {"environment": records.environment(torch="2.14.0")},
        {"model": "smollm2"},
        {"task": "sst2"},
        {"split": "valid"},
    ],
)
def test_what_cannot_be_compared_stands_in_blocks_of_its_own(other: dict[str, Any]) -> None:
    found = [records.record(), records.record(method="vera", **other)]
    assert len(comparison(frame(found)).blocks) == 2
    markdown = text(*found)
    assert markdown.count("| method") == 2
    assert not any("*" in cell for row in rows(markdown) for cell in row)  # nothing is the best of one
    assert all(str(value) in markdown for value in other.values() if isinstance(value, str))


def test_a_frozen_language_model_has_no_step() -> None:
    (row,) = rows(text(records.record(method="frozen", task="gsm")))
    assert row[7:9] == ["–", "–"]
    assert "–" not in row[:7]


def scored(method: str, accuracy: float, nll: float) -> Record:
    return records.record(method=method, metrics={"accuracy": accuracy, "nll": nll})


def test_only_a_single_best_value_as_printed_is_marked() -> None:
    apart = rows(text(scored("full", 0.8, 0.5), scored("lora", 0.7, 0.4)))
    assert [(row[1], row[2]) for row in apart] == [("0.8000*", "0.5000"), ("0.7000", "0.4000*")]
    tied = rows(text(scored("full", 0.80001, 0.5), scored("lora", 0.80002, 0.50001), scored("vera", 0.7, 0.6)))
    assert [(row[1], row[2]) for row in tied] == [("0.8000", "0.5000"), ("0.8000", "0.5000"), ("0.7000", "0.6000")]
    below_zero = rows(text(scored("full", -0.1, 0.5), scored("lora", -0.2, 0.5)))
    assert [row[1] for row in below_zero] == ["-0.1000*", "-0.2000"]
    assert r"\textbf{0.8000}" in text(scored("full", 0.8, 0.5), scored("lora", 0.7, 0.4), format="latex")


def test_failures_are_rows_with_their_status_and_last_line() -> None:
    found = [
        records.record(seed=0),
        records.record(seed=1, status="out-of-memory", error=NASTY),
        records.record(seed=2, status="out-of-memory", error=NASTY),
        records.record(method="vera", status="diverged", error="loss is nan"),
    ]
    markdown = text(*found)
    assert [(row[0], row[-1]) for row in rows(markdown)] == [("lora", "1 of 3"), ("vera", "diverged")]
    assert "- vera, seed 0: diverged: loss is nan" in markdown
    assert "- lora, seeds 1, 2: out-of-memory: CUDA" in markdown
    assert "first line" not in markdown
    table = json.loads(text(*found, format="json"))
    assert [failure["seed"] for failure in table[0]["failures"]] == [1, 2]
    assert table[1]["failures"] == [{"seed": 0, "status": "diverged", "error": "loss is nan"}]
    assert table[1]["metric"] is table[1]["peak_bytes"] is None


@pytest.mark.parametrize("where", [{"error": NASTY}, {"method": NASTY}, {"model": NASTY}, {"task": NASTY}, {"primary": NASTY}])
def test_no_text_breaks_the_markup(where: dict[str, str]) -> None:
    both = {key: value for key, value in where.items() if key == "primary"}  # the same in every record of a task
    found = [records.record(method="full", **both), records.record(status="failed", **where)]
    markdown = text(*found)
    assert {len(row) for row in rows(markdown)} == {11}
    assert not re.search(r"(?<!\\)[`<]", markdown)
    assert re.search(r"\\_\\_init\\_\\_", markdown)
    assert "\x1b" not in markdown
    latex = text(*found, format="latex")
    bodies = re.findall(r"\\midrule\n(.*?) \\\\\n\\bottomrule", latex, re.DOTALL)
    for line in (line for body in bodies for line in body.split(" \\\\\n")):
        assert len(re.findall(r"(?<!\\)&", line)) == 10
    assert not re.search(r"(?<!\\)#|(?<!\\)_|^[^%].*[^\\\n]%", latex, re.MULTILINE)
    assert "\x1b" not in latex
    unescaped = re.sub(r"\\[{}]", "", latex)
    assert unescaped.count("{") == unescaped.count("}")
    assert len(json.loads(text(*found, format="json"))) == 2
    assert len(list(csv.DictReader(io.StringIO(text(*found, format="csv"))))) == 2


def test_an_endless_error_is_cut() -> None:
    assert max(map(len, text(records.record(status="failed", error="x" * 5000)).splitlines())) < 250


def test_different_examples_are_told() -> None:
    other = records.record(method="vera")
    assert other.data is not None
    markdown = text(records.record(), other.model_copy(update={"data": other.data.model_copy(update={"fingerprint": "0" * 64})}))
    assert "2 different sets of examples" in markdown
    assert "different sets" not in text(records.record(), other, records.record(seed=1, status="failed", data=None))


def test_an_empty_store_is_told_in_one_sentence() -> None:
    assert [text(format=format) for format in FORMATS] == [EMPTY, "", f"% {EMPTY}", "[]"]


def test_a_terminal_of_140_columns_is_wide_enough() -> None:
    assert max(map(len, text(*records.study()).splitlines())) <= 140


@pytest.mark.parametrize(
    ("count", "said"), [(0, "0"), (999, "999"), (999.9, "1.00 k"), (23_808, "23.8 k"), (999_900, "1.00 M"), (1_235_000_000, "1.24 G")]
)
def test_counts_for_people(count: float, said: str) -> None:
    assert human(count) == said


@pytest.mark.parametrize(
    ("count", "said"),
    [(0, "0 B"), (1023, "1023 B"), (1024, "1.00 KiB"), (2_654_720, "2.53 MiB"), (2**20 - 1, "1.00 MiB"), (150 * 2**30, "150 GiB")],
)
def test_sizes_for_people(count: float, said: str) -> None:
    assert size(count) == said


@pytest.mark.parametrize("n", [500, pytest.param(20_000, marks=pytest.mark.slow)])
def test_many_records_take_little_time(n: int) -> None:
    methods = list(records.ARGS)
    found = [records.record(method=methods[i % 7], task=f"task{i % 5}", seed=i // 35) for i in range(n)]
    start = time.perf_counter()
    for format in FORMATS:
        assert text(*found, format=format)
    assert time.perf_counter() - start < 10 * 4 * n / 20_000 + 2
