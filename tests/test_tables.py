"""The comparison and the costs say what the records say: every number, every failure, and nothing
compared that cannot be."""

import csv
import importlib
import io
import json
import re
import statistics
from collections.abc import Iterable, Iterator, Mapping
from datetime import timedelta
from functools import reduce
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
import records
from counted import calls
from scipy import stats as scipy_stats
from sheets import predicted, rows, seeds
from wcwidth import wcswidth

from peftbench.analysis.blocks import SPARE_LOAD
from peftbench.analysis.intervals import SHARE
from peftbench.analysis.results import Results
from peftbench.markup import AbstractTable, Format, as_frame, as_text
from peftbench.record import Latency, Record
from peftbench.spec import DataSpec, StudyReference
from peftbench.store import Store
from peftbench.tables import EMPTY, closing, comparison, costs
from peftbench.tables.cells import ONLY_TRIALS
from peftbench.wording import Words

NASTY = "first line\nCUDA | out \\ of `memory` *now* <b> __init__ $5 100% a&b {x #1 ~^ \x1b[31m"
FORMATS: tuple[Format, ...] = get_args(Format)
TRIAL = StudyReference(name="glue", trials=20, trial=3)
MODULES = ("cells", "comparison", "comparison_notes", "costs", "closing", "imported", "statements")
ELSEWHERE = records.environment(device_name="another")


def text(*members: Record, format: Format = "md") -> str:
    return as_text(comparison(Results(members)), format)


def costs_text(*members: Record, format: Format = "md") -> str:
    return as_text(costs(Results(members)), format)


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
    contents = [json.loads(path.read_text()) for path in store.folder.rglob("*.json")]
    done: dict[tuple[str, str, str], list[Any]] = {}
    for content in contents:
        if content["status"] == "done":
            spec = content["spec"]
            args = json.dumps(spec["args"], sort_keys=True)
            done.setdefault((spec["task"], spec["method"], args), []).append(content)
    table = json.loads(as_text(comparison(Results.read(store)), "json"))
    keys = [(row["task"], row["method"], json.dumps(row["args"], sort_keys=True)) for row in table]
    assert {key for key, row in zip(keys, table, strict=True) if row["seeds"]} == set(done)
    for key, row in zip(keys, table, strict=True):
        members = done.get(key, [])
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
            assert row[name] == mean(members, "footprint", name)
            assert isinstance(row[name], int)
        for name, path in {
            "tokens_per_second": (),
            "utilization": (),
            "train_seconds": (),
            "step_seconds": ("median",),
        }.items():
            expected = mean(members, "timing", name, *path)
            assert row[name] == (
                expected if expected is None else pytest.approx(expected, rel=1e-12)
            )
        assert row["latency.adapted"] == pytest.approx(
            mean(members, "timing", "latency_seconds", "adapted", "median"), rel=1e-12
        )
        assert row["peak.weights"] == mean(members, "footprint", "peak_parts", "weights")


def test_the_cells_are_the_numbers_in_the_header_s_units() -> None:
    record = records.record()
    footprint, timing = record.footprint, record.timing
    assert footprint is not None
    assert timing is not None
    (row,) = rows(text(record))
    assert row == [
        "lora",
        f"{record.metrics['accuracy']:.4f}",
        f"{record.metrics['nll']:.4f}",
        "664 k",
        f"{100 * 663_552 / (records.TOTAL - records.HEAD):.2f}",
        f"{footprint.peak_bytes / 1_048_576:.1f}",
        f"{timing.tokens_per_second:,.0f}",
        "–",
        "1",
    ]


def test_full_fine_tuning_trains_everything_and_frozen_nothing() -> None:
    both = text(records.record(method="full"), records.record(method="frozen"))
    assert [row[4] for row in rows(both)] == ["100.0", "0"]


@pytest.mark.parametrize("table", [comparison, costs, closing])
def test_csv_and_json_hold_the_same(table: Any) -> None:
    shown = table(Results(tuple(records.study())))
    lines = list(csv.DictReader(io.StringIO(as_text(shown, "csv"))))
    content = json.loads(as_text(shown, "json"))
    assert len(lines) == len(content) == len(as_frame(shown))
    for line, row in zip(lines, content, strict=True):
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
        {"model": "smollm2"},
        {"task": "sst2"},
        {"task_version": 2},
        {"split": "valid"},
        {"data": DataSpec(valid=77)},
        {"train": {"steps": 77}},
        {"train": {"batch_size": 77}},
        {"train": {"precision": "bf16"}},
    ],
    ids=str,
)
def test_what_cannot_be_compared_stands_in_blocks_of_its_own(other: dict[str, Any]) -> None:
    members = (records.record(), records.record(method="vera", **other))
    assert len(comparison(Results(members)).blocks) == 2
    markdown = text(*members)
    assert markdown.count("| method") == 2
    assert not any("*" in cell for row in rows(markdown) for cell in row)  # none is the best of one
    values = other.get("train", other).values()
    shown = [77 if isinstance(value, DataSpec) else value for value in values]
    assert all(str(value) in markdown for value in shown)
    assert costs_text(*members).count("| method") == 2


@pytest.mark.parametrize(
    "other",
    [
        {"device": "cuda"},
        {"environment": ELSEWHERE},
        {"environment": records.environment(torch="2.14.0")},
    ],
    ids=["device", "device name", "software"],
)
def test_places_are_pooled_for_quality_and_apart_for_costs(other: dict[str, Any]) -> None:
    members = (records.record(), records.record(method="vera", **other))
    results = Results(members)
    (block,) = comparison(results).blocks
    assert [row.costs for row in block.rows] == [None, None]
    counts = [["664 k", "2.92"], ["23.8 k", "0.105"]]  # of parameters: the same on every device
    assert [row[3:7] for row in rows(text(*members))] == [[*own, "–", "–"] for own in counts]
    assert "from 2 devices or software stacks" in text(*members)
    assert "peftbench table --kind costs" in text(*members)
    assert len(costs(results).blocks) == 2
    content = json.loads(text(*members, format="json"))
    assert {row["place_of_costs"] for row in content} == {None}
    assert [row["trained_params"] for row in content] == [663_552, 23_808]
    assert {row["peak_bytes"] for row in content} == {None}
    assert [[row["device"], row["device_name"], row["stack"]] for row in content] == [
        [None] * 3
    ] * 2
    assert [len(row["places"]) for row in content] == [2, 2]
    (row,) = json.loads(text(members[0], format="json"))
    assert row["places"] == [{name: row[name] for name in ("device", "device_name", "stack")}]
    assert row["device"] == "cpu"


@pytest.mark.parametrize("busier", [0, 1], ids=["first", "second"])
def test_of_several_places_with_all_arms_costs_are_those_of_the_one_that_timed_the_most(
    busier: int,
) -> None:
    """Both did all arms, one of them two runs at once; a third did one arm, undisturbed."""
    names, rates = ("AMD EPYC, 2 threads", "another"), (100.0, 200.0)
    members = [records.record(seed=1, environment=records.environment(device_name="a third"))]
    for i, (name, rate) in enumerate(zip(names, rates, strict=True)):
        at_once = 2 if i == busier else 1
        environment = records.environment(device_name=name, runs_at_once=at_once)
        for method in ("lora", "vera"):
            record = records.record(method=method, environment=environment)
            assert record.timing
            timing = record.timing.model_copy(update={"tokens_per_second": rate})
            members.append(record.model_copy(update={"timing": timing}))
    content = json.loads(text(*members, format="json"))
    assert [row["tokens_per_second"] for row in content] == [rates[1 - busier]] * 2
    assert {row["place_of_costs"]["device_name"] for row in content} == {names[1 - busier]}
    assert {row["device"] for row in content} == {None}
    assert {len(row["places"]) for row in content} == {2}, "a seed counts once for quality"
    assert (
        f"{3 - busier} devices or software stacks; peak and tok/s are those of cpu: "
        f"{names[1 - busier]}," in (text(*members))
    )


def two_devices(repeated: float) -> list[Record]:
    """Seeds 0 to 2 on one device, 3 and 4 on another, which also did seed 2 again, later."""
    members = [*seeds("lora", [0.70, 0.71, 0.72]), *seeds("vera", [0.60, 0.61, 0.62])]
    for method, first in (("lora", 0.7), ("vera", 0.6)):
        for seed, accuracy in ((2, repeated), (3, first + 0.03), (4, first + 0.04)):
            members.append(
                records.record(
                    method=method,
                    seed=seed,
                    metrics={"accuracy": accuracy, "nll": 1 + accuracy},
                    environment=ELSEWHERE,
                    started=records.STARTED + timedelta(days=1),
                )
            )
    return members


def test_seeds_may_come_from_two_devices_and_a_repeated_one_counts_once() -> None:
    members = two_devices(0.9)
    (block,) = comparison(Results(tuple(members))).blocks
    assert [len(row.arm.done) for row in block.rows] == [5, 5]
    metric = block.rows[0].metric
    assert metric is not None
    assert metric.mean == pytest.approx(0.72)  # of 0.70 to 0.74: the first of seed 2 counts
    markdown = text(*members)
    assert [row[-1] for row in rows(markdown)] == ["5", "5"]
    assert "more than rounding: lora (seeds: 2), vera (seeds: 2); the first counts" in markdown
    assert [row[0] for row in rows(costs_text(*members))] == ["lora", "vera"] * 2
    assert markdown == text(*reversed(members))


def test_a_seed_that_gives_the_same_again_is_no_note() -> None:
    assert "more than rounding" not in text(*two_devices(0.72)[:9])  # seed 2 of lora, not of vera


def test_a_frozen_language_model_has_no_step() -> None:
    (row,) = rows(text(records.record(method="frozen", task="gsm")))
    assert row[6] == "–"
    assert "–" not in row[:6]


def test_a_score_has_student_s_interval_over_seeds() -> None:
    members = seeds("lora", [0.7, 0.72, 0.77])
    (row,) = rows(text(*members))
    half = scipy_stats.sem([0.7, 0.72, 0.77]) * scipy_stats.t.ppf(0.975, 2)
    mean = (0.7 + 0.72 + 0.77) / 3
    assert row[1] == f"{mean:.4f} [{mean - half:.3f}, {mean + half:.3f}]"
    covered = "the intervals of accuracy, nll cover seeds (no predictions give it by example) only"
    assert covered in text(*members)
    (row,) = json.loads(text(*members, format="json"))
    limits = (pytest.approx(mean - half), pytest.approx(mean + half))
    assert (row["metric.low"], row["metric.high"]) == limits
    assert (row["metric.over"], row["metric.best"]) == ("seeds", False)


def test_one_number_alone_has_no_interval() -> None:
    markdown = text(records.record(), *seeds("vera", [0.5, 0.6]))
    assert [("[" in row[1], "[" in row[2]) for row in rows(markdown)] == [
        (False, False),
        (True, True),
    ]
    assert "no interval for accuracy (lora), nll (lora): one number alone" in markdown


def test_predictions_give_intervals_over_examples() -> None:
    members, tables = predicted("lora", [30])
    shown = comparison(Results(tuple(members), tables.__getitem__))
    (row,) = rows(as_text(shown, "md"))
    low, high = map(float, re.findall(r"[\d.]+", row[1])[1:])
    half = scipy_stats.t.ppf(0.975, 39) * np.sqrt(0.75 * 0.25 / 39)
    assert (low, high) == pytest.approx(SHARE.interval(0.75, half), abs=0.002)
    covered = "the intervals of accuracy, nll cover examples (one seed) only"
    assert covered in as_text(shown, "md")


def test_intervals_do_not_move_when_another_block_or_arm_joins_the_store() -> None:
    groups = [
        predicted("vera", [25, 29, 27]),
        predicted("full", [20, 31], task="a"),  # blocks and arms that come before
        predicted("lora", [33, 30, 31]),
    ]

    def scores(count: int) -> dict[str, Any]:
        members = [record for group, _ in groups[:count] for record in group]
        tables = {key: table for _, group in groups[:count] for key, table in group.items()}
        content = comparison(Results(tuple(members), tables.__getitem__)).rows()
        (row,) = [row for row in content if row["method"] == "vera"]
        names = ("metric", "nll")
        return {f"{name}.{end}": row[f"{name}.{end}"] for name in names for end in ("low", "high")}

    assert scores(1) == scores(2) == scores(3)
    assert None not in scores(1).values()


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
    one_each = rows(text(records.record(method="full"), records.record()))
    assert "*" not in "".join(cell for row in one_each for cell in row)


def test_trials_of_searches_are_left_out_and_counted() -> None:
    tuned = StudyReference(name="glue", trials=20)
    answers = [*seeds("lora", [0.7, 0.8], study=tuned), *seeds("vera", [0.7, 0.8])]
    trials = [
        *seeds("lora", [0.1, 0.2], study=TRIAL, split="valid"),
        records.record(
            seed=9,
            study=TRIAL.model_copy(update={"trial": 4}),
            split="valid",
            status="pruned",
        ),
    ]
    markdown = text(*answers, *trials)
    assert [(row[0], row[7]) for row in rows(markdown)] == [("lora", "20"), ("vera", "–")]
    assert "left out: trials of searches (runs: 3, studies: 1)" in markdown
    assert "pruned" not in markdown
    assert "unequal tuning: lora: 20; vera: none trials" in markdown
    assert "unequal" not in text(
        *seeds("lora", [0.7], study=tuned), *seeds("vera", [0.7], study=tuned)
    )
    assert "unequal" not in text(*seeds("lora", [0.7]), *seeds("vera", [0.7]))
    content = json.loads(text(*answers, *trials, format="json"))
    assert [row["trials"] for row in content] == [20, None]


@pytest.mark.parametrize("table", [comparison, costs])
def test_a_store_of_trials_alone_says_so(table: Any) -> None:
    trials = Results(tuple(seeds("lora", [0.1, 0.2, 0.3], study=TRIAL, split="valid")))
    for lang in ("en", "zh"):
        assert as_text(table(trials), "md", lang) == ONLY_TRIALS.format(3)[lang]
    assert as_text(table(trials), "md").startswith(
        "There is nothing to compare: all 3 runs in the store are trials of searches."
    )
    assert json.loads(as_text(table(trials), "json")) == []
    assert "all 3 runs in the store are trials of searches" in as_text(closing(trials), "md")


def test_a_run_ended_early_is_no_failure() -> None:
    markdown = text(records.record(), records.record(method="vera", status="pruned"))
    assert [(row[0], row[-1]) for row in rows(markdown)] == [("lora", "1"), ("vera", "pruned")]
    assert "the run ended" not in markdown


def test_failures_are_rows_with_their_status_and_last_line() -> None:
    members = [
        records.record(seed=0),
        records.record(seed=1, status="out-of-memory", error=NASTY),
        records.record(seed=2, status="out-of-memory", error=NASTY),
        records.record(method="vera", status="diverged", error="loss is nan"),
    ]
    markdown = text(*members)
    assert [(row[0], row[-1]) for row in rows(markdown)] == [
        ("lora", "1 of 3"),
        ("vera", "diverged"),
    ]
    assert "- vera, seed 0: diverged: loss is nan" in markdown
    assert "- lora, seeds 1, 2: out-of-memory: CUDA" in markdown
    assert "first line" not in markdown
    table = json.loads(text(*members, format="json"))
    assert [failure["seed"] for failure in table[0]["failures"]] == [1, 2]
    assert table[1]["failures"] == [{"seed": 0, "status": "diverged", "error": "loss is nan"}]
    assert table[1]["metric"] is table[1]["peak_bytes"] is None


def test_a_failure_without_an_error_says_so() -> None:
    assert "- lora, seed 0: failed: no error was recorded" in text(
        records.record(status="failed", error="\n")
    )


@pytest.mark.parametrize(
    "where",
    [{"error": NASTY}, {"method": NASTY}, {"model": NASTY}, {"task": NASTY}, {"primary": NASTY}],
)
def test_no_text_breaks_the_markup(where: dict[str, str]) -> None:
    both = {
        key: value for key, value in where.items() if key == "primary"
    }  # the same in every record of a task
    members = [records.record(method="full", **both), records.record(status="failed", **where)]
    markdown = text(*members)
    assert {len(row) for row in rows(markdown)} == {9}
    assert not re.search(r"(?<!\\)[`<]", markdown)
    assert re.search(r"\\_\\_init\\_\\_", markdown)
    assert "\x1b" not in markdown
    latex = text(*members, format="latex")
    bodies = re.findall(r"\\midrule\n(.*?) \\\\\n\\bottomrule", latex, re.DOTALL)
    for line in (line for body in bodies for line in body.split(" \\\\\n")):
        assert len(re.findall(r"(?<!\\)&", line)) == 8
    assert not re.search(r"(?<!\\)#|(?<!\\)_|^[^%].*[^\\\n]%", latex, re.MULTILINE)
    assert "\x1b" not in latex
    unescaped = re.sub(r"\\[{}]", "", latex)
    assert unescaped.count("{") == unescaped.count("}")
    assert len(json.loads(text(*members, format="json"))) == 2
    assert len(list(csv.DictReader(io.StringIO(text(*members, format="csv"))))) == 2


def test_an_endless_error_is_cut() -> None:
    assert max(map(len, text(records.record(status="failed", error="x" * 5000)).splitlines())) < 250


def test_different_examples_are_told() -> None:
    other = records.record(method="vera")
    assert other.data is not None
    data = other.data.model_copy(update={"fingerprint": "0" * 64})
    markdown = text(records.record(), other.model_copy(update={"data": data}))
    assert "2 different sets of examples" in markdown
    assert "different sets" not in text(
        records.record(), other, records.record(seed=1, status="failed", data=None)
    )


def test_an_empty_store_is_told_in_one_sentence() -> None:
    said = [EMPTY["en"], "", f"% {EMPTY['en']}", "[]"]
    assert {format: text(format=format) for format in FORMATS} == dict(
        zip(("md", "csv", "latex", "json"), said, strict=True)
    )
    assert {format: costs_text(format=format) for format in FORMATS} == dict(
        zip(("md", "csv", "latex", "json"), said, strict=True)
    )


# -- costs -------------------------------------------------------------------------------------


def test_costs_are_those_of_the_records_and_relative_to_lora_seed_by_seed() -> None:
    members = {
        (method, seed): records.record(method=method, seed=seed)
        for method in ("full", "lora", "vera")
        for seed in range(3)
    }
    table = {row["method"]: row for row in costs(Results(tuple(members.values()))).rows()}
    timings = {key: record.timing for key, record in members.items() if record.timing}
    footprints = {key: record.footprint for key, record in members.items() if record.footprint}
    for method, row in table.items():
        of_seeds = [timings[method, seed] for seed in range(3)]
        rates = [timing.tokens_per_second or 0 for timing in of_seeds]
        assert row["trained_params"] == footprints[method, 0].trained_params
        assert row["trained_per_cent"] == pytest.approx(
            100 * records.TRAINED[method] / (records.TOTAL - records.HEAD)
        )
        assert row["peak.optimizer"] == footprints[method, 0].peak_parts.optimizer
        assert row["tokens_per_second"] == pytest.approx(statistics.mean(rates))
        latencies = [timing.latency_seconds for timing in of_seeds if timing.latency_seconds]
        assert row["merged"] == pytest.approx(
            [
                times.merged.median / times.base.median
                for times in latencies
                if times.merged and times.base
            ]
        )
        assert row["adapted"] == pytest.approx([1.25] * 3)
        lora = [timings["lora", seed].tokens_per_second or 1 for seed in range(3)]
        ratios = [own / base for own, base in zip(rates, lora, strict=True)]
        assert row["relative"] == pytest.approx(ratios)
    line = next(row for row in rows(costs_text(*members.values())) if row[0] == "vera")
    relative = table["vera"]["relative"]
    assert f"{statistics.mean(relative):.2f} ({min(relative):.2f}–{max(relative):.2f})" in line
    assert line[4] == "93.5 KiB"
    assert line[-1] == "1.00"


def test_costs_leave_out_failures_trials_and_other_devices() -> None:
    members = [
        records.record(),
        records.record(method="vera", status="failed"),
        records.record(seed=1, study=TRIAL, split="valid"),
        records.record(method="full", device="cuda"),
    ]
    markdown = costs_text(*members)
    assert [row[0] for row in rows(markdown)] == ["full", "lora"]
    assert markdown.count("| method") == 2
    assert "left out: trials of searches (runs: 1, studies: 1)" in markdown
    assert [row[12] for row in rows(markdown)] == ["–", "1.00"]  # no lora on the first device
    assert costs_text() == EMPTY["en"]


@pytest.mark.parametrize("when", ["load_at_start", "load_at_end"])
def test_seconds_of_a_busy_machine_do_not_count(when: str) -> None:
    most = records.environment().threads + SPARE_LOAD
    busy = records.environment(**{when: most + 0.01})
    members = [
        records.record(environment=records.environment(**{when: most})),
        records.record(seed=1, environment=busy),
        records.record(method="vera", environment=busy),
    ]
    note = "seconds and rates leave out 2 of 3 runs: the machine was busy with other work"
    alone = members[0].timing
    assert alone is not None
    for shown in (comparison(Results(tuple(members))), costs(Results(tuple(members)))):
        lora, vera = shown.rows()
        assert lora["tokens_per_second"] == alone.tokens_per_second
        assert vera["tokens_per_second"] is vera["step_seconds"] is None
        assert vera["peak_bytes"] == records.PEAK["vera"]
        markdown = as_text(shown, "md")
        assert note in markdown
        assert f"at most {SPARE_LOAD:g} above the run's own threads" in " ".join(markdown.split())
    lora, vera = costs(Results(tuple(members))).rows()
    assert (lora["timed"], lora["relative"], len(lora["adapted"])) == (1, [1.0], 1)
    assert (vera["timed"], vera["relative"], vera["adapted"]) == (0, [], [])
    assert "leave out" not in text(members[0])


def test_a_method_without_a_merged_or_base_form_has_no_such_ratio() -> None:
    record = records.record()
    assert record.timing is not None
    times = record.timing.latency_seconds
    assert times is not None

    def ratios(latency: Latency | None) -> list[str]:
        timing = record.timing and record.timing.model_copy(update={"latency_seconds": latency})
        (row,) = rows(costs_text(record.model_copy(update={"timing": timing})))
        return row[-2:]

    assert ratios(times) == ["1.25", "1.00"]
    assert ratios(times.model_copy(update={"merged": None})) == ["1.25", "–"]
    assert ratios(times.model_copy(update={"base": None})) == ["–", "–"]
    assert ratios(None) == ["–", "–"]


def test_the_control_of_the_latency_has_a_column_where_a_run_has_it() -> None:
    member, other = records.record(), records.record(method="vera")
    controlled = records.controlled(member, 1.03)
    assert "| control/base" not in costs_text(member, other)
    assert [row[-1] for row in rows(costs_text(controlled, other))] == ["1.03", "–"]
    assert "对照延迟/原模型" in as_text(costs(Results((controlled, other))), "md", "zh")
    ours, theirs = costs(Results((controlled, other))).rows()
    assert ours["control"] == pytest.approx([1.03])
    assert ours["latency.control"] == pytest.approx(1.03 * 0.004)
    assert (theirs["control"], theirs["latency.control"]) == ([], None)


# -- languages ---------------------------------------------------------------------------------


def all_tables(*members: Record) -> list[AbstractTable]:
    results = Results(members)
    return [comparison(results), costs(results), closing(results)]


def test_every_table_speaks_chinese() -> None:
    members = [
        *records.study(),
        records.record(seed=7, study=TRIAL, split="valid"),
        *seeds("vera", [0.5], study=StudyReference(name="s", trials=2), task="b"),
        *seeds("lora", [0.5], task="b"),
        *two_devices(0.9),
        *seeds("full", [0.5], task="c", environment=records.environment(load_at_end=9.0)),
    ]
    for table in (*all_tables(*members), *all_tables()):
        english, chinese = as_text(table, "md", "en"), as_text(table, "md", "zh")
        assert re.search("[\u4e00-\u9fff]", chinese)
        assert not re.search("[\u4e00-\u9fff]", english)
        assert [len(row) for row in rows(english)] == [len(row) for row in rows(chinese)]
        for words in ("seeds that are done", "left out", "leave out", "method ", "trained"):
            assert words not in chinese
        assert as_text(table, "json", "en") == as_text(table, "json", "zh")
    results = Results(tuple(members))
    chinese = as_text(costs(results), "md", "zh")
    lines = [line for line in chinese.splitlines() if line.startswith("|")]
    assert len({wcswidth(line) for line in lines[:4]}) == 1
    assert r"\usepackage{ctex}" in as_text(comparison(results), "latex", "zh")


def words_in(value: Any) -> Iterator[Words]:
    """All texts of a module or of a constant that holds some."""
    if isinstance(value, Words):
        yield value
    elif isinstance(value, Mapping):
        yield from words_in(value.values())
    elif isinstance(value, Iterable) and not isinstance(value, str | bytes):
        for item in value:
            yield from words_in(item)
    elif hasattr(value, "recommended_for"):
        yield from words_in(vars(value))


@pytest.mark.parametrize("name", MODULES)
def test_translations_fill_in_the_same_values(name: str) -> None:
    constants = vars(importlib.import_module(f"peftbench.tables.{name}"))
    texts = list(words_in({key: value for key, value in constants.items() if key.isupper()}))
    assert len(texts) > 3
    for words in texts:
        assert set(re.findall(r"\{\w+\}", words.en)) == set(re.findall(r"\{\w+\}", words.zh))
        assert re.search("[\u4e00-\u9fff]", words.zh) or not re.search(r"[a-z]{4}", words.en)


def test_a_terminal_of_140_columns_is_wide_enough() -> None:
    assert max(map(len, text(*records.study()).splitlines())) <= 140


@pytest.mark.parametrize("format", FORMATS)
def test_work_grows_with_the_records_and_no_faster(format: Format) -> None:
    one, two, four = (calls(text, *records.many(n), format=format) for n in (140, 280, 560))
    assert four - two < 2.2 * (two - one)
    assert four < 2500 * 560


def at_floor(accuracy: float, nll: dict[str, float]) -> tuple[Record, ...]:
    """Arms of three seeds that all score the same, and differ in nll by more than chance."""
    return tuple(
        records.record(
            method=method,
            seed=seed,
            metrics={"accuracy": accuracy, "nll": value + 0.001 * place * seed},
        )
        for place, (method, value) in enumerate(nll.items())
        for seed in range(3)
    )


ORDERED = {"frozen": 1.5, "full": 0.75, "lora": 0.5}


@pytest.mark.parametrize("accuracy", [0.0, 0.5])
def test_nll_leads_where_the_metric_tells_no_arm_from_another(accuracy: float) -> None:
    """0 for all, or what the frozen model reaches."""
    members = at_floor(accuracy, ORDERED)
    (section,) = comparison(Results(members)).sheet("en").sections
    assert section.header[1:3] == ["nll ↓", "accuracy ↑"]
    assert section.about.startswith("accuracy is at its floor for every arm")
    assert "lora (0.5020), full (0.7510), frozen (1.5000)." in section.about
    for row in section.rows:
        assert float(row[1][:6]) == pytest.approx(ORDERED[row[0]], abs=0.003)
        assert row[2].startswith(f"{accuracy:.4f}")
    best = [row[0] for row in section.rows].index("lora")
    assert section.marked == {(best, 1)}
    (chinese,) = comparison(Results(members)).sheet("zh").sections
    assert "lora (0.5020), full (0.7510), frozen (1.5000)。" in chinese.about
    assert [row[1:3] for row in chinese.rows] == [row[1:3] for row in section.rows]
    for format in ("md", "latex"):
        assert "at its floor for every arm" in text(*members, format=format)
    assert {row["leads"] for row in json.loads(text(*members, format="json"))} == {"nll"}
    assert {row["leads"] for row in csv.DictReader(io.StringIO(text(*members, format="csv")))} == {
        "nll"
    }


def test_the_metric_leads_where_an_arm_is_above_the_floor() -> None:
    members = at_floor(0.0, ORDERED)
    raised = [
        m.model_copy(update={"metrics": {"accuracy": 0.75, "nll": 0.5}}) for m in members[-3:]
    ]
    (section,) = comparison(Results((*members[:-3], *raised))).sheet("en").sections
    assert section.header[1:3] == ["accuracy ↑", "nll ↓"]
    assert "floor" not in section.about


def test_nothing_leads_where_nothing_is_learned_by_either_reading() -> None:
    """One seed tells nothing of how sure a difference is; two that are worse than frozen do."""
    members = at_floor(0.5, {"frozen": 0.5, "full": 0.75, "lora": 0.625})
    (section,) = comparison(Results(members)).sheet("en").sections
    assert section.header[1:3] == ["accuracy ↑", "nll ↓"]
    assert section.about.startswith("No arm has learned anything here")
