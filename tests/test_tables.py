"""The comparison says what the records say: every number, every failure, and nothing compared that
cannot be."""

import csv
import io
import json
import re
import statistics
import time
import unicodedata
from functools import reduce
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import records
from scipy import stats as scipy_stats

from peftbench.analysis.frame import frame
from peftbench.record import Predictions, Record
from peftbench.spec import StudyReference
from peftbench.store import Store
from peftbench.tables import EMPTY, Format, Lang, closing, comparison, costs, human, render, size
from peftbench.tables.peft_offers import Offers, installed, offers
from peftbench.wording import EMPTY as WORDLESS
from peftbench.wording import TRANSLATED, say

NASTY = "first line\nCUDA | out \\ of `memory` *now* <b> __init__ $5 100% a&b {x #1 ~^ \x1b[31m"
FORMATS: tuple[Format, ...] = ("md", "csv", "latex", "json")
LANGS: tuple[Lang, ...] = ("en", "zh")


def text(*found: Record, format: Format = "md") -> str:
    return render(comparison(frame(found)), format)


def rows(markdown: str) -> list[list[str]]:
    """The cells of every data row, split where Markdown would split them."""
    lines = [line for line in markdown.splitlines() if line.startswith("|")]
    cells = [[cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]] for line in lines]
    rules = [i for i, row in enumerate(cells) if row[0].startswith("---")]
    return [row for i, row in enumerate(cells) if i not in rules and i + 1 not in rules]


def mean(contents: list[Any], *path: str) -> float | None:
    """The mean of a number in several records' JSON; None if none has it."""
    values = [
        reduce(lambda value, key: value and value[key], path, content) for content in contents
    ]
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
            done.setdefault(
                (spec["task"], spec["method"], json.dumps(spec["args"], sort_keys=True)), []
            ).append(content)
    table = json.loads(render(comparison(frame(store.read_all())), "json"))
    assert {
        (row["task"], row["method"], json.dumps(row["args"], sort_keys=True))
        for row in table
        if row["seeds"]
    } == set(done)
    for row in table:
        members = done.get(
            (row["task"], row["method"], json.dumps(row["args"], sort_keys=True)), []
        )
        assert row["seeds"] == len(members)
        if not members:
            continue

        assert row["metric"] == pytest.approx(mean(members, "metrics", "accuracy"), rel=1e-12)
        assert row["metrics"]["f1"] == pytest.approx(mean(members, "metrics", "f1"), rel=1e-12)
        assert row["nll"] == pytest.approx(mean(members, "metrics", "nll"), rel=1e-12)
        assert row["nll.std"] == pytest.approx(
            statistics.stdev(member["metrics"]["nll"] for member in members), rel=1e-9
        )
        for name in (
            "trained_params",
            "updatable_params",
            "total_params",
            "peak_bytes",
            "adapter_file_bytes",
        ):
            assert row[name] == mean(members, "cost", name)
            assert isinstance(row[name], int)
        for name, path in {
            "tokens_per_second": (),
            "utilization": (),
            "train_seconds": (),
            "step_seconds": ("median",),
        }.items():
            expected = mean(members, "cost", name, *path)
            assert row[name] == (
                expected if expected is None else pytest.approx(expected, rel=1e-12)
            )
        assert row["latency.adapted"] == pytest.approx(
            mean(members, "cost", "latency_seconds", "adapted", "median"), rel=1e-12
        )
        assert row["peak.weights"] == mean(members, "cost", "peak_parts", "weights")


def test_the_cells_are_the_numbers_in_the_header_s_units() -> None:
    record = records.record()
    cost = record.cost
    assert cost is not None
    (row,) = rows(text(record))
    assert row == [
        "lora",
        f"{record.metrics['accuracy']:.4f}",
        f"{record.metrics['nll']:.4f}",
        "664 k",
        f"{100 * 663_552 / (records.TOTAL - records.HEAD):.2f}",
        f"{cost.peak_bytes / 1_048_576:.1f}",
        f"{cost.tokens_per_second:,.0f}",
        "–",
        "1",
    ]


def test_full_fine_tuning_trains_everything_and_frozen_nothing() -> None:
    assert [
        row[4] for row in rows(text(records.record(method="full"), records.record(method="frozen")))
    ] == ["100.0", "0"]


def test_csv_and_json_hold_the_same() -> None:
    found = list(records.study())
    table = json.loads(text(*found, format="json"))
    sheet = list(csv.DictReader(io.StringIO(text(*found, format="csv"))))
    assert len(sheet) == len(table)
    for line, row in zip(sheet, table, strict=True):
        for name, value in row.items():
            if name == "metrics":
                assert [line[f"metrics.{metric}"] for metric in value] == [
                    "" if n is None else str(n) for n in value.values()
                ]
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
    assert not any(
        "*" in cell for row in rows(markdown) for cell in row
    )  # nothing is the best of one
    assert all(str(value) in markdown for value in other.values() if isinstance(value, str))


def test_a_frozen_language_model_has_no_step() -> None:
    (row,) = rows(text(records.record(method="frozen", task="gsm")))
    assert row[6] == "–"
    assert "–" not in row[:6]


def seeds(method: str, values: list[float], **changed: Any) -> list[Record]:
    """A run per value, with that accuracy and an nll that is worse the better it is."""
    return [
        records.record(
            method=method, seed=seed, metrics={"accuracy": each, "nll": 1 + each}, **changed
        )
        for seed, each in enumerate(values)
    ]


def test_a_score_has_student_s_interval_over_seeds() -> None:
    (row,) = rows(text(*seeds("lora", [0.7, 0.72, 0.77])))
    half = scipy_stats.sem([0.7, 0.72, 0.77]) * scipy_stats.t.ppf(0.975, 2)
    mean = (0.7 + 0.72 + 0.77) / 3
    assert row[1] == f"{mean:.4f} [{mean - half:.3f}, {mean + half:.3f}]"
    markdown = text(*seeds("lora", [0.7, 0.72, 0.77]))
    assert (
        "the intervals of accuracy, nll cover seeds (no predictions give it by example) only"
        in markdown
    )
    (row,) = json.loads(text(*seeds("lora", [0.7, 0.72, 0.77]), format="json"))
    assert (row["metric.low"], row["metric.high"]) == (
        pytest.approx(mean - half),
        pytest.approx(mean + half),
    )
    assert (row["metric.over"], row["metric.best"]) == ("seeds", False)


def test_one_number_alone_has_no_interval() -> None:
    markdown = text(records.record(), *seeds("vera", [0.5, 0.6]))
    assert [("[" in row[1], "[" in row[2]) for row in rows(markdown)] == [
        (False, False),
        (True, True),
    ]
    assert "no interval for accuracy (lora), nll (lora): one number alone" in markdown


def test_predictions_give_intervals_over_examples() -> None:
    scores = np.array([1.0] * 30 + [0.0] * 10)
    table = pd.DataFrame(
        {
            "id": [f"test/{i}" for i in range(40)],
            "nll": 1.0 - scores / 2,
            "count": 1,
            "score": scores,
        }
    )
    metrics = {"accuracy": 0.75, "nll": float(table["nll"].mean())}
    record = records.record(metrics=metrics, predictions=Predictions(rows=40, sha256=""))
    found = comparison(
        frame([record]), {record.run_id: table}.__getitem__, np.random.default_rng(0)
    )
    (row,) = rows(render(found, "md"))
    low, high = map(float, re.findall(r"[\d.]+", row[1])[1:])
    assert high - low == pytest.approx(
        2 * scipy_stats.t.ppf(0.975, 39) * np.sqrt(0.75 * 0.25 / 39), abs=0.002
    )
    assert "the intervals of accuracy, nll cover examples (one seed) only" in render(found, "md")


def test_the_best_is_marked_only_where_it_is_so_by_more_than_chance() -> None:
    sure = [
        *seeds("full", [0.80, 0.81, 0.805]),
        *seeds("lora", [0.70, 0.71, 0.70]),
        *seeds("vera", [0.6, 0.612, 0.6]),
    ]
    assert [(row[1][-1], row[2][-1]) for row in rows(text(*sure))] == [
        ("*", "]"),
        ("]", "]"),
        ("]", "*"),
    ]
    assert r"\textbf{0.8050" in text(*sure, format="latex")
    assert [row["metric.best"] for row in json.loads(text(*sure, format="json"))] == [
        True,
        False,
        False,
    ]
    close = [
        *seeds("full", [0.80, 0.81, 0.805]),
        *seeds("lora", [0.81, 0.70, 0.77]),
        *seeds("vera", [0.6, 0.612, 0.6]),
    ]
    assert [row[1][-1] for row in rows(text(*close))] == ["]", "]", "]"]  # sure of vera alone
    assert "*" not in "".join(
        cell for row in rows(text(records.record(method="full"), records.record())) for cell in row
    )


def test_trials_of_searches_are_left_out_and_counted() -> None:
    tuned = StudyReference(name="glue", trials=20)
    found = [
        *seeds("lora", [0.7, 0.8], study=tuned),
        *seeds("vera", [0.7, 0.8]),
        *seeds(
            "lora", [0.1, 0.2], study=StudyReference(name="glue", trials=20, trial=3), split="valid"
        ),
        records.record(
            seed=9,
            study=StudyReference(name="glue", trials=20, trial=4),
            split="valid",
            status="pruned",
        ),
    ]
    markdown = text(*found)
    assert [(row[0], row[7]) for row in rows(markdown)] == [("lora", "20"), ("vera", "–")]
    assert "left out: trials of searches (runs: 3, studies: 1)" in markdown
    assert "pruned" not in markdown
    assert "unequal tuning: lora: 20; vera: none trials" in markdown
    assert "unequal" not in text(
        *seeds("lora", [0.7], study=tuned), *seeds("vera", [0.7], study=tuned)
    )
    assert "unequal" not in text(*seeds("lora", [0.7]), *seeds("vera", [0.7]))
    assert [row["trials"] for row in json.loads(text(*found, format="json"))] == [20, None]
    only = text(*found[4:])
    assert (
        only
        == "There is nothing to compare: all 3 runs in the store are trials of searches; a run with tuned settings is none of them."
    )
    assert json.loads(text(*found[4:], format="json")) == []


def test_a_run_ended_early_is_no_failure() -> None:
    markdown = text(records.record(), records.record(method="vera", status="pruned"))
    assert [(row[0], row[-1]) for row in rows(markdown)] == [("lora", "1"), ("vera", "pruned")]
    assert "the run ended" not in markdown


def test_failures_are_rows_with_their_status_and_last_line() -> None:
    found = [
        records.record(seed=0),
        records.record(seed=1, status="out-of-memory", error=NASTY),
        records.record(seed=2, status="out-of-memory", error=NASTY),
        records.record(method="vera", status="diverged", error="loss is nan"),
    ]
    markdown = text(*found)
    assert [(row[0], row[-1]) for row in rows(markdown)] == [
        ("lora", "1 of 3"),
        ("vera", "diverged"),
    ]
    assert "- vera, seed 0: diverged: loss is nan" in markdown
    assert "- lora, seeds 1, 2: out-of-memory: CUDA" in markdown
    assert "first line" not in markdown
    table = json.loads(text(*found, format="json"))
    assert [failure["seed"] for failure in table[0]["failures"]] == [1, 2]
    assert table[1]["failures"] == [{"seed": 0, "status": "diverged", "error": "loss is nan"}]
    assert table[1]["metric"] is table[1]["peak_bytes"] is None


@pytest.mark.parametrize(
    "where",
    [{"error": NASTY}, {"method": NASTY}, {"model": NASTY}, {"task": NASTY}, {"primary": NASTY}],
)
def test_no_text_breaks_the_markup(where: dict[str, str]) -> None:
    both = {
        key: value for key, value in where.items() if key == "primary"
    }  # the same in every record of a task
    found = [records.record(method="full", **both), records.record(status="failed", **where)]
    markdown = text(*found)
    assert {len(row) for row in rows(markdown)} == {9}
    assert not re.search(r"(?<!\\)[`<]", markdown)
    assert re.search(r"\\_\\_init\\_\\_", markdown)
    assert "\x1b" not in markdown
    latex = text(*found, format="latex")
    bodies = re.findall(r"\\midrule\n(.*?) \\\\\n\\bottomrule", latex, re.DOTALL)
    for line in (line for body in bodies for line in body.split(" \\\\\n")):
        assert len(re.findall(r"(?<!\\)&", line)) == 8
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
    markdown = text(
        records.record(),
        other.model_copy(update={"data": other.data.model_copy(update={"fingerprint": "0" * 64})}),
    )
    assert "2 different sets of examples" in markdown
    assert "different sets" not in text(
        records.record(), other, records.record(seed=1, status="failed", data=None)
    )


def test_an_empty_store_is_told_in_one_sentence() -> None:
    assert [text(format=format) for format in FORMATS] == [EMPTY, "", f"% {EMPTY}", "[]"]
    assert [render(costs(frame([])), format) for format in FORMATS] == [
        EMPTY,
        "",
        f"% {EMPTY}",
        "[]",
    ]


# -- costs
# -----------------------------------------------------------------------------------------------------------


def test_costs_are_those_of_the_records_and_relative_to_lora_seed_by_seed() -> None:
    found = [
        records.record(method=method, seed=seed)
        for method in ("full", "lora", "vera")
        for seed in range(3)
    ]
    table = {row["method"]: row for row in json.loads(render(costs(frame(found)), "json"))}
    of = {(record.spec.method, record.spec.seed): record.cost for record in found}
    for method, row in table.items():
        members = [cost for (name, _), cost in of.items() if name == method and cost]
        assert row["trained_params"] == members[0].trained_params
        assert row["trained_per_cent"] == pytest.approx(
            100 * records.TRAINED[method] / (records.TOTAL - records.HEAD)
        )
        assert row["peak.optimizer"] == members[0].peak_parts.optimizer
        assert row["tokens_per_second"] == pytest.approx(
            statistics.mean(cost.tokens_per_second or 0 for cost in members)
        )
        assert row["merged"] == pytest.approx(
            [
                cost.latency_seconds.merged.median / cost.latency_seconds.base.median
                for cost in members
            ]
        )
        for seed, ratio in enumerate(row["relative"]):
            mine, lora = of[method, seed], of["lora", seed]
            assert mine is not None
            assert lora is not None
            assert ratio == pytest.approx(
                (mine.tokens_per_second or 0) / (lora.tokens_per_second or 1)
            )
    line = next(row for row in rows(render(costs(frame(found)), "md")) if row[0] == "vera")
    relative = table["vera"]["relative"]
    assert f"{statistics.mean(relative):.2f} ({min(relative):.2f}–{max(relative):.2f})" in line
    assert line[4] == "93.5 KiB"
    assert line[-1] == "1.00"


def test_costs_leave_out_failures_trials_and_other_devices() -> None:
    tried = records.record(seed=1, study=StudyReference(name="s", trials=2, trial=0), split="valid")
    found = [
        records.record(),
        records.record(method="vera", status="failed"),
        tried,
        records.record(method="full", device="cuda"),
    ]
    markdown = render(costs(frame(found)), "md")
    assert [row[0] for row in rows(markdown)] == ["lora", "full"]
    assert "left out: trials of searches (runs: 1, studies: 1)" in markdown
    assert rows(markdown)[1][12] == "–"  # no lora on that device
    assert render(costs(frame([])), "md") == EMPTY


# -- the closing table
# -----------------------------------------------------------------------------------------------


def test_the_closing_table_says_where_each_technique_wins() -> None:
    found = [
        *seeds("lora", [0.70, 0.71, 0.70]),
        *seeds("lora-fa", [0.60, 0.61, 0.61]),
        *seeds("vera", [0.70, 0.72, 0.66]),
        *seeds("lora+", [0.81, 0.80, 0.80]),
        *seeds("full", [0.9, 0.91, 0.9]),  # no technique of the article's table
        *seeds("lora", [0.5, 0.6, 0.7], task="sst2"),
        *seeds("delta-lora", [0.6, 0.7, 0.81], task="sst2"),
        *seeds("lora+", [0.5, 0.62, 0.69], task="sst2"),
        *seeds("lora", [0.5, 0.6, 0.7], task="unsure"),
        *seeds(
            "lora-fa", [0.7, 0.5, 0.8], task="unsure"
        ),  # the highest mean, and no more than that
    ]
    table = {row["method"]: row for row in json.loads(render(closing(frame(found)), "json"))}
    assert list(table) == ["lora", "lora-fa", "vera", "delta-lora", "lora+"]
    assert {
        method: (row["best_on"], row["better_on"], row["worse_on"], row["undecided_on"])
        for method, row in table.items()
    } == {
        "lora": ([], [], [], []),
        "lora-fa": ([], [], ["reviews"], ["unsure"]),
        "vera": ([], [], [], ["reviews"]),
        "delta-lora": (["sst2"], ["sst2"], [], []),
        "lora+": (["reviews"], ["reviews"], [], ["sst2"]),
    }
    assert table["delta-lora"]["differences"]["sst2"]["difference"] == pytest.approx(0.31 / 3)
    assert table["lora-fa"]["peak_relative"]["reviews"] == pytest.approx(171 / 196)
    markdown = render(closing(frame(found)), "md")
    (line,) = [row for row in rows(markdown) if row[0] == "LoRA+"]
    assert line[:6] == [
        "LoRA+",
        "chasing the best result",
        "reviews",
        "reviews",
        "–",
        "yes, by setting the learning rates",
    ]
    (line,) = [row for row in rows(markdown) if row[0] == "reviews"]
    assert line[1] == "LoRA+*"
    assert line[2].startswith("-0.0967 [")
    assert [cell[-1] for cell in line[2:]] == ["*", "]", "–", "*"]
    assert next(row for row in rows(markdown) if row[0] == "unsure")[1] == "LoRA-FA"
    assert any(row[:3] == ["peak × LoRA", "–", "0.87"] for row in rows(markdown))


def test_the_closing_table_tells_blocks_of_one_task_apart() -> None:
    found = [
        *seeds("lora", [0.7, 0.8]),
        *seeds("vera", [0.7, 0.8]),
        *seeds("lora", [0.7, 0.8], model="m2"),
        *seeds("vera", [0.8, 0.9], task="b"),
    ]
    assert [row[0] for row in rows(render(closing(frame(found)), "md"))][5:8] == [
        "reviews, m2",
        "b",
        "reviews, minilm",
    ]


def test_a_closing_table_without_records_measures_nothing() -> None:
    markdown = render(closing(frame([])), "md")
    assert EMPTY.split("`")[0] in markdown
    assert all(row[2:5] == ["–"] * 3 for row in rows(markdown))


def test_what_peft_offers_is_read_off_its_source(tmp_path: Path) -> None:
    (tmp_path / "optimizers").mkdir()
    (tmp_path / "__init__.py").write_text(
        "import nowhere_at_all\n__version__ = '9.1'\nfrom .tuners import (LoraConfig, LoraModel, DeltaLoraConfig)"
    )
    (tmp_path / "optimizers" / "__init__.py").write_text(
        "from .lorafa import create_lorafa_optimizer\nfrom .x import create_loraplus_optimizer"
    )
    found = offers(tmp_path)
    assert found is not None
    assert found.version == "9.1"
    assert {
        method: found.of(method) for method in ("lora", "lora-fa", "vera", "delta-lora", "lora+")
    } == {
        "lora": ["LoraConfig"],
        "lora-fa": ["create_lorafa_optimizer"],
        "vera": [],
        "delta-lora": ["DeltaLoraConfig"],
        "lora+": ["create_loraplus_optimizer"],
    }
    assert rows(render(closing(frame([]), peft=lambda: tmp_path), "md"))[3][-1] == "DeltaLoraConfig"
    assert (
        rows(render(closing(frame([]), peft=lambda: tmp_path), "md"))[2][-1]
        == "nothing of this name"
    )
    assert {row[-1] for row in rows(render(closing(frame([]), peft=lambda: None), "md"))} == {
        "peft is not installed"
    }
    assert (
        json.loads(render(closing(frame([]), peft=lambda: None), "json"))[0]["peft_offers"] is None
    )


def test_the_installed_peft_is_the_one_that_is_read() -> None:
    peft = pytest.importorskip("importlib.metadata").distribution("peft")
    found = offers(installed())
    assert found == Offers(peft.version, found.names if found else frozenset())
    assert found.of("lora") == ["LoraConfig"]
    assert found.of("vera") == ["VeraConfig"]
    assert found.of("lora+") == ["create_loraplus_optimizer"]


# -- languages
# -------------------------------------------------------------------------------------------------------


def test_every_table_speaks_chinese() -> None:
    found = [
        *records.study(),
        records.record(seed=7, study=StudyReference(name="s", trials=2, trial=0), split="valid"),
        *seeds("vera", [0.5], study=StudyReference(name="s", trials=2), task="b"),
        *seeds("lora", [0.5], task="b"),
    ]
    runs = frame(found)
    for table in (
        comparison(runs),
        costs(runs),
        closing(runs),
        comparison(frame([])),
        costs(frame([])),
        closing(frame([])),
    ):
        english, chinese = render(table, "md", "en"), render(table, "md", "zh")
        assert re.search("[\u4e00-\u9fff]", chinese)
        assert not re.search("[\u4e00-\u9fff]", english)
        assert [len(row) for row in rows(english)] == [len(row) for row in rows(chinese)]
        for words in ("seeds that are done", "left out", "method ", "trained"):
            assert words not in chinese
        assert render(table, "json", "en") == render(table, "json", "zh")
    lines = [line for line in render(costs(runs), "md", "zh").splitlines() if line.startswith("|")]
    widths = {
        sum(2 if unicodedata.east_asian_width(char) in "WF" else 1 for char in line)
        for line in lines[:4]
    }
    assert len(widths) == 1
    assert r"\usepackage{ctex}" in render(comparison(runs), "latex", "zh")


def test_translations_fill_in_the_same_values() -> None:
    for english, chinese in TRANSLATED.items():
        assert set(re.findall(r"\{\w+\}", english)) == set(re.findall(r"\{\w+\}", chinese)), english
    assert WORDLESS == EMPTY
    with pytest.raises(KeyError):
        say("no such words", "zh")


def test_a_terminal_of_140_columns_is_wide_enough() -> None:
    assert max(map(len, text(*records.study()).splitlines())) <= 140


@pytest.mark.parametrize(
    ("count", "said"),
    [
        (0, "0"),
        (999, "999"),
        (999.9, "1.00 k"),
        (23_808, "23.8 k"),
        (999_900, "1.00 M"),
        (1_235_000_000, "1.24 G"),
    ],
)
def test_counts_for_people(count: float, said: str) -> None:
    assert human(count) == said


@pytest.mark.parametrize(
    ("count", "said"),
    [
        (0, "0 B"),
        (1023, "1023 B"),
        (1024, "1.00 KiB"),
        (2_654_720, "2.53 MiB"),
        (2**20 - 1, "1.00 MiB"),
        (150 * 2**30, "150 GiB"),
    ],
)
def test_sizes_for_people(count: float, said: str) -> None:
    assert size(count) == said


@pytest.mark.parametrize("n", [500, pytest.param(20_000, marks=pytest.mark.slow)])
def test_many_records_take_little_time(n: int) -> None:
    methods = list(records.ARGS)
    found = [
        records.record(method=methods[i % 7], task=f"task{i % 5}", seed=i // 35) for i in range(n)
    ]
    start = time.perf_counter()
    for format in FORMATS:
        assert text(*found, format=format)
    assert time.perf_counter() - start < 10 * 4 * n / 20_000 + 2
