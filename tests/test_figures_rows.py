"""Bars, differences and few samples: the numbers are the frame's, rows are named, and what is
missing is said; all scripts at once."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import records
from matplotlib.figure import Figure

from peftbench import figures
from peftbench.analysis import estimates as stats
from peftbench.analysis.frame import METHODS, PARTS, arms, frame
from peftbench.figures import (
    COLOURS,
    YS,
    NothingToDraw,
    differences,
    few_samples,
    memory,
    short_names,
)
from peftbench.record import Data, Record
from peftbench.spec import DataSpec
from peftbench.store import Store
from peftbench.tables import EMPTY

ALL = Path(__file__).parent.parent / "paper_figures" / "all.py"


def notes(figure: Figure) -> str:
    return figure.get_supxlabel().replace("\n", " ")


def test_bars_end_where_the_parts_add_up() -> None:
    runs = frame(records.study(("reviews",), seeds=1))
    figure = memory(runs)
    axes = figure.axes[0]
    assert [label.get_text() for label in axes.get_yticklabels()] == list(METHODS)
    expected = (
        arms(runs).dropna(subset=PARTS).drop_duplicates("method").set_index("method")[PARTS]
        / 1024**2
    )
    for part, bars in zip(PARTS, axes.containers, strict=True):
        assert [bar.get_width() for bar in bars] == pytest.approx(expected[part].tolist())
    ends = [bar.get_x() + bar.get_width() for bar in axes.containers[-1]]
    assert ends == pytest.approx(expected.sum(axis=1).tolist())
    assert [text.get_text() for text in axes.texts] == [
        f"{total:.3g}" for total in expected.sum(axis=1)
    ]
    assert "not drawn: galore (reviews)" in notes(figure)


def test_arms_that_need_the_same_are_one_bar() -> None:
    same = frame(records.record(train={"lr": 10.0**-i}) for i in (2, 3, 4))
    assert len(memory(same).axes[0].get_yticklabels()) == 1


def test_without_costs_there_is_no_memory_to_draw() -> None:
    for found in ([], [records.record(status="failed")]):
        with pytest.raises(NothingToDraw, match="memory"):
            memory(frame(found))


def test_rows_are_named_by_what_differs_within_a_method() -> None:
    found = [
        records.record(args={"rank": 4}, train={"lr": 1e-3}),
        records.record(args={"rank": 8}),
        records.record(method="vera"),
    ]
    assert short_names(frame(found)) == ["lora (rank=4)", "lora (rank=8)", "vera"]
    more = [*found, records.record(args={"rank": 4}, train={"lr": 1e-4})]
    assert short_names(frame(more)) == [
        "lora (rank=4, lr=0.0001)",
        "lora (rank=4, lr=0.001)",
        "lora (rank=8, lr=0.0003)",
        "vera",
    ]


@pytest.mark.parametrize("y", YS)
def test_differences_are_those_of_the_statistics(y: str) -> None:
    runs = frame(records.study(("reviews", "sst2")))
    found = stats.differences(runs, "lora", None, np.random.default_rng(0))
    figure = differences(found, runs, y)
    prefix = "nll." if y == "nll" else ""
    for axes, (_, members) in zip(
        [axes for axes in figure.axes if axes.axison], found.groupby("task"), strict=True
    ):
        assert [label.get_text() for label in axes.get_yticklabels()] == members["label"].tolist()
        points = [line for line in axes.lines if line.get_marker() != "None"]
        assert [line.get_xdata()[0] for line in points] == members[f"{prefix}difference"].tolist()
        bars = [
            tuple(line.get_xdata())
            for line in axes.lines
            if line.get_marker() == "None" and len(set(line.get_ydata())) == 1
        ]
        assert bars == list(zip(members[f"{prefix}low"], members[f"{prefix}high"], strict=True))
        filled = [line.get_markerfacecolor() != "white" for line in points]
        assert filled == (members[f"{prefix}p_holm"] < 0.05).tolist()
        assert {line.get_color() for line in points} == {COLOURS[method] for method in METHODS}
    assert any(filled)
    assert "not drawn: galore (reviews)" in notes(figure)
    assert "compared with reviews: lora (alpha=16), sst2: lora (alpha=16)" in notes(figure)


def test_a_difference_without_an_interval_is_a_point_and_said() -> None:
    runs = frame(records.record(method=method) for method in ("lora", "vera"))
    figure = differences(stats.differences(runs, "lora", None, np.random.default_rng(0)), runs)
    assert "no interval: vera (reviews)" in notes(figure)
    assert "1 shared seed" in notes(figure)


def test_without_a_reference_there_is_no_difference() -> None:
    for found in ([], [records.record(method="vera")], [records.record()]):
        runs = frame(found)
        with pytest.raises(NothingToDraw, match="reference"):
            differences(stats.differences(runs, "lora", None, np.random.default_rng(0)), runs)


def sized(n: int | None, score: float, *, had: int = 900, **changed: object) -> Record:
    data = Data(
        source="packaged",
        revision=None,
        fingerprint="f" * 64,
        counts={"train": n or had, "test": 50},
    )
    spec = records.spec(data=DataSpec(train=n), **changed)
    return records.record(spec=spec, data=data, metrics={"accuracy": score, "nll": 1 - score})


def test_few_samples_joins_sizes_and_takes_all_data_for_what_it_is() -> None:
    found = [
        sized(n, score + seed / 8, seed=seed)
        for n, score in ((None, 0.75), (30, 0.25), (100, 0.5))
        for seed in (0, 1)
    ]
    found += [sized(30, 0.5, method="vera"), sized(30, 0.5, task="sst2")]
    figure = few_samples(frame(found))
    axes, _ = figure.axes
    assert axes.get_title(loc="left") == "reviews"
    lora, vera = axes.containers
    assert list(lora[0].get_xdata()) == [30, 100, 900]
    assert list(lora[0].get_ydata()) == [0.3125, 0.5625, 0.8125]
    assert [tuple(segment[:, 1]) for segment in lora[2][0].get_segments()] == [
        (0.25, 0.375),
        (0.5, 0.625),
        (0.75, 0.875),
    ]
    assert list(vera[0].get_xdata()) == [30]
    assert "all data" not in notes(figure)
    assert "not drawn: lora (sst2)" in notes(figure)


def test_few_samples_says_that_settings_change_and_parts_them_where_a_size_has_several() -> None:
    tuned = [sized(n, 0.5, train={"lr": lr}) for n, lr in ((30, 1e-3), (100, 1e-4))]
    figure = few_samples(frame(tuned))
    assert len(figure.axes[0].containers) == 1
    assert "one training setting for each method and size" in notes(figure)
    several = [*tuned, sized(30, 0.6, train={"lr": 1e-4})]
    assert len(few_samples(frame(several)).axes[0].containers) == 2


def test_few_samples_needs_two_sizes() -> None:
    for found in (
        [],
        [sized(30, 0.5), sized(30, 0.5, method="vera")],
        [sized(30, 0.5), sized(100, 0.5, task="sst2")],
    ):
        with pytest.raises(NothingToDraw, match="two numbers of training examples"):
            few_samples(frame(found))


def test_only_the_test_split_is_drawn_where_there_is_one() -> None:
    found = [records.record(), records.record(split="valid", method="vera")]
    for kept, name, note in (
        (found, "lora", "1 run on the valid split, which tuned the others, not drawn"),
        (found[1:], "vera", ""),
    ):
        figure = memory(frame(kept))
        assert [
            label.get_text()
            for axes in figure.axes
            if axes.axison
            for label in axes.get_yticklabels()
        ] == [name]
        assert note in notes(figure)


def draw_all(store: Path, out: Path) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, str(ALL), "--store", str(store), "--out", str(out)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_all_figures_are_drawn_or_skipped_with_a_reason(tmp_path: Path) -> None:
    store = Store(tmp_path / "results")
    for record in records.study(("reviews",), seeds=2):
        store.write(record)
    done = draw_all(store.root, tmp_path / "figures")
    assert (done.returncode, done.stderr) == (0, "")
    told = dict(line.split(": ", 1) for line in done.stdout.splitlines())
    skipped = {name for name, what in told.items() if what.startswith("skipped: no ")}
    assert skipped == {
        "few_samples_metric",
        "few_samples_nll",
        "lr_sensitivity",
        "loraplus_ratio",
        "singular_values",
    }
    made = {f"{name}.{kind}" for name in set(told) - skipped for kind in ("pdf", "png")}
    assert {path.name for path in (tmp_path / "figures").iterdir()} == made
    assert {"curves", "differences_metric", "gap", "memory", "pareto_nll_peak_bytes"} <= set(told)


def test_all_figures_of_an_empty_and_of_a_broken_store(tmp_path: Path) -> None:
    done = draw_all(tmp_path / "results", tmp_path / "figures")
    assert (done.returncode, done.stdout, done.stderr) == (0, f"{EMPTY}\n", "")
    (tmp_path / "results" / "cpu").mkdir(parents=True)
    (tmp_path / "results" / "cpu" / "0123456789abcdef.json").write_text("{")
    done = draw_all(tmp_path / "results", tmp_path / "figures")
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1)
    assert not (tmp_path / "figures").exists()


def test_the_package_exports_what_it_names() -> None:
    assert all(hasattr(figures, name) for name in figures.__all__)
