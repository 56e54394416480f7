"""Bars, differences and few samples: the numbers are the analysis core's, rows are named, and what
is missing is said; all scripts at once."""

import runpy
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import records
from matplotlib.container import BarContainer, ErrorbarContainer
from matplotlib.figure import Figure

from peftbench.analysis import measures
from peftbench.analysis.blocks import METHOD_ORDER, Value
from peftbench.analysis.estimates import Difference
from peftbench.analysis.intervals import ALPHA
from peftbench.analysis.results import Results
from peftbench.figures.differences import differences
from peftbench.figures.few_samples import few_samples
from peftbench.figures.memory import memory
from peftbench.figures.panels import NothingToDraw
from peftbench.figures.script import NO_RECORDS
from peftbench.figures.style import COLOURS, VALUES
from peftbench.record import Data, Record
from peftbench.spec import DataSpec, StudyReference
from peftbench.store import Store

ALL = Path(__file__).parent.parent / "paper_figures" / "all.py"


def results(made: Iterable[Record]) -> Results:
    return Results(tuple(made))


def notes(figure: Figure) -> str:
    return figure.get_supxlabel().replace("\n", " ")


def rows(figure: Figure) -> list[str]:
    return [
        label.get_text() for axes in figure.axes if axes.axison for label in axes.get_yticklabels()
    ]


def test_bars_end_where_the_parts_add_up() -> None:
    study = results(records.study(("reviews",), seeds=1))
    figure = memory(study)
    axes = figure.axes[0]
    assert rows(figure) == list(METHOD_ORDER)
    (block,) = study.costs
    arms = [block.first(method) for method in METHOD_ORDER]
    totals = np.zeros(len(arms))
    for part, bars in zip(measures.PARTS, axes.containers, strict=True):
        assert isinstance(bars, BarContainer)
        sizes = [measures.mean(arm, part) for arm in arms if arm]
        expected = [size / 1024**2 for size in sizes if size is not None]
        assert [bar.get_width() for bar in bars] == pytest.approx(expected)
        totals += expected
    last = axes.containers[-1]
    assert isinstance(last, BarContainer)
    assert [bar.get_x() + bar.get_width() for bar in last] == pytest.approx(totals.tolist())
    assert [text.get_text() for text in axes.texts] == [f"{total:.3g}" for total in totals]
    assert "not drawn: galore (reviews)" in notes(figure)


def test_arms_that_need_the_same_are_one_bar() -> None:
    same = [records.record(train={"lr": 10.0**-i}) for i in (2, 3, 4)]
    assert rows(memory(results(same))) == ["lora"]
    footprint = same[0].footprint
    assert footprint is not None
    parts = footprint.peak_parts.model_copy(update={"activations": 77})
    footprint = footprint.model_copy(update={"peak_parts": parts})
    other = records.record(args={"rank": 64}, footprint=footprint)
    first = "lora (rank=8, lr=0.0001) and 2 more"
    assert rows(memory(results([*same, other]))) == [
        first.replace(" and", "\nand"),
        "lora (rank=64, lr=0.0003)",
    ]


def test_without_costs_there_is_no_memory_to_draw() -> None:
    for made in ([], [records.record(status="failed")]):
        with pytest.raises(NothingToDraw, match="memory"):
            memory(results(made))


def with_reference(made: Results, value: Value) -> list[tuple[str, list[tuple[str, Difference]]]]:
    """By task, the labels of arms and their differences to the first LoRA."""
    by_task = []
    for block in made.final:
        reference = block.first("lora")
        assert reference is not None
        known = made.differences(block, reference, value)
        by_task.append((block.question.task, [(arm.label, each) for arm, each in known.items()]))
    return by_task


@pytest.mark.parametrize("value", VALUES)
def test_differences_are_those_of_the_tables(value: Value) -> None:
    study = results(records.study(("reviews", "sst2")))
    figure = differences(study, value)
    panels = [axes for axes in figure.axes if axes.axison]
    any_filled = False
    for axes, (task, known) in zip(panels, with_reference(study, value), strict=True):
        assert axes.get_title(loc="left") == task
        assert [label.get_text() for label in axes.get_yticklabels()] == [name for name, _ in known]
        lines = [(line, np.asarray(line.get_xydata())) for line in axes.lines]
        markers = [(line, xy) for line, xy in lines if line.get_marker() != "None"]
        assert [xy[0, 0] for _, xy in markers] == [each.difference for _, each in known]
        bars = [
            tuple(xy[:, 0])
            for line, xy in lines
            if line.get_marker() == "None" and len(set(xy[:, 1])) == 1
        ]
        intervals = [each.interval for _, each in known]
        assert bars == [(interval.low, interval.high) for interval in intervals if interval]
        filled = [line.get_markerfacecolor() != "white" for line, _ in markers]
        assert filled == [each.is_better or each.is_worse for _, each in known]
        any_filled |= any(filled)
        assert {line.get_color() for line, _ in markers} == {COLOURS[name] for name in METHOD_ORDER}
    assert any_filled
    assert "not drawn: galore (reviews)" in notes(figure)
    assert "compared with reviews: lora (alpha=16), sst2: lora (alpha=16)" in notes(figure)
    legend = figure.axes[-1].get_legend()
    assert legend is not None
    assert legend.get_texts()[0].get_text() == f"Holm's p ≤ {ALPHA}"


def test_a_p_at_the_level_is_filled(monkeypatch: pytest.MonkeyPatch) -> None:
    """As the table marks it: one rule for both."""
    made = results(records.record(method=method) for method in ("lora", "vera"))
    at_level = Difference(seeds=1, difference=0.5, p_holm=ALPHA)
    monkeypatch.setattr(
        Results, "differences", lambda self, block, *_: {block.first("vera"): at_level}
    )
    (point,) = [line for line in differences(made).axes[0].lines if line.get_marker() != "None"]
    assert point.get_markerfacecolor() != "white"


def test_a_difference_without_an_interval_is_a_point_and_said() -> None:
    figure = differences(results(records.record(method=method) for method in ("lora", "vera")))
    assert "no interval: vera (reviews)" in notes(figure)
    assert "1 shared seed" in notes(figure)


def test_without_a_reference_there_is_no_difference() -> None:
    for made in ([], [records.record(method="vera")], [records.record()]):
        with pytest.raises(NothingToDraw, match="one of them lora"):
            differences(results(made))


def sized(n: int | None, score: float, *, had: int = 900, **changed: Any) -> Record:
    counts = {"train": n or had, "test": 50}
    data = Data(source="packaged", revision=None, fingerprint="f" * 64, counts=counts)
    spec = records.spec(data=DataSpec(train=n), **changed)
    return records.record(spec=spec, data=data, metrics={"accuracy": score, "nll": 1 - score})


def lines(figure: Figure) -> list[tuple[list[float], list[float]]]:
    """The sizes and means of each line."""
    drawn = []
    for container in figure.axes[0].containers:
        assert isinstance(container, ErrorbarContainer)
        line = container.lines[0]
        assert line is not None
        drawn.append(tuple(np.asarray(line.get_xydata()).T.tolist()))
    return drawn


def names(figure: Figure) -> list[str]:
    legend = figure.axes[1].get_legend()
    assert legend is not None
    return [text.get_text() for text in legend.get_texts()]


def test_few_samples_joins_sizes_and_takes_all_data_for_what_it_is() -> None:
    means = ((None, 0.75), (30, 0.25), (100, 0.5))
    made = [sized(n, score + seed / 8, seed=seed) for n, score in means for seed in (0, 1)]
    made += [sized(30, 0.5, method="vera"), sized(30, 0.5, task="sst2")]
    figure = few_samples(results(made))
    axes, _ = figure.axes
    assert axes.get_title(loc="left") == "reviews"
    lora, vera = lines(figure)
    assert lora == ([30, 100, 900], [0.3125, 0.5625, 0.8125])
    container: Any = axes.containers[0]
    bars = [tuple(segment[:, 1]) for segment in container[2][0].get_segments()]
    assert bars == [(0.25, 0.375), (0.5, 0.625), (0.75, 0.875)]
    assert vera[0] == [30]
    assert "all data" not in notes(figure)
    assert "100 steps of 16" in notes(figure)
    assert "not drawn: lora (sst2)" in notes(figure)


def test_few_samples_says_that_settings_change_and_parts_them_where_a_size_has_several() -> None:
    tuned = [sized(n, 0.5, train={"lr": lr}) for n, lr in ((30, 1e-3), (100, 1e-4))]
    figure = few_samples(results(tuned))
    assert names(figure) == ["lora"]
    assert "one training setting for each method and size" in notes(figure)
    several = [*tuned, sized(30, 0.6, train={"lr": 1e-4})]
    figure = few_samples(results(several))
    assert sorted(names(figure)) == ["lora (lr=0.0001)", "lora (lr=0.001)"]
    assert sorted(lines(figure)) == [([30], [0.5]), ([30, 100], [0.6, 0.5])]


def test_steps_and_batch_size_may_follow_the_number_of_examples() -> None:
    shapes = ((30, 5, 8), (100, 50, 16))
    made = [
        sized(n, n / 200, train={"lr": lr, "steps": steps, "batch_size": batch})
        for n, steps, batch in shapes
        for lr in (1e-3, 1e-4)
    ]
    figure = few_samples(results(made))
    assert names(figure) == ["lora (lr=0.0001)", "lora (lr=0.001)"]
    assert lines(figure) == [([30, 100], [0.15, 0.5])] * 2
    assert " steps of " not in notes(figure)
    assert "one training setting for each method and size" in notes(figure)


def test_two_numbers_of_steps_at_one_size_are_two_lines() -> None:
    made = [sized(30, steps / 100, train={"lr": 1e-3, "steps": steps}) for steps in (10, 50)]
    made.append(sized(100, 0.75, train={"lr": 1e-3, "steps": 50}))
    figure = few_samples(results(made))
    assert names(figure) == ["lora (steps=10)", "lora (steps=50)"]
    assert lines(figure) == [([30], [0.1]), ([30, 100], [0.5, 0.75])]


def test_few_samples_needs_two_sizes() -> None:
    one, other_task = sized(30, 0.5), sized(100, 0.5, task="sst2")
    for made in ([], [one, sized(30, 0.5, method="vera")], [one, other_task]):
        with pytest.raises(NothingToDraw, match="two numbers of training examples"):
            few_samples(results(made))


def test_trials_of_searches_are_not_drawn_and_counted() -> None:
    study = StudyReference(name="a", trials=1, trial=0)
    trial = records.record(split="valid", method="vera", study=study)
    figure = memory(results([records.record(), trial]))
    assert rows(figure) == ["lora"]
    assert "1 trial of searches not drawn" in notes(figure)
    answers = records.record(split="valid", method="vera")
    figure = memory(results([records.record(), answers]))
    assert rows(figure) == ["lora", "vera"]
    assert "searches" not in notes(figure)
    titles = [axes.get_title(loc="left") for axes in figure.axes if axes.axison]
    assert titles == ["reviews, test split", "reviews, valid split"]


def draw_all(store: Path, out: Path) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, str(ALL), "--store", str(store), "--out", str(out)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_all_figures_are_drawn_or_skipped_with_a_reason(tmp_path: Path) -> None:
    store = Store(tmp_path / "results")
    for record in records.study(("reviews",), seeds=2):
        store.write(record)
    done = draw_all(store.folder, tmp_path / "figures")
    assert (done.returncode, done.stderr) == (0, "")
    printed = dict(line.split(": ", 1) for line in done.stdout.splitlines())
    skipped = {name for name, what in printed.items() if what.startswith("skipped: no ")}
    assert skipped == {
        "few_samples_metric",
        "few_samples_nll",
        "lr_sensitivity",
        "loraplus_ratio",
        "singular_values",
    }
    files = {f"{name}.{kind}" for name in set(printed) - skipped for kind in ("pdf", "png")}
    assert {path.name for path in (tmp_path / "figures").iterdir()} == files
    expected = {
        "memory_at_scale",
        "curves",
        "differences_metric",
        "gap",
        "memory",
        "pareto_nll_peak_bytes",
    }
    assert expected <= set(printed)


def test_all_figures_of_an_empty_and_of_a_broken_store(tmp_path: Path) -> None:
    done = draw_all(tmp_path / "results", tmp_path / "figures")
    assert (done.returncode, done.stdout, done.stderr) == (0, f"{NO_RECORDS}\n", "")
    (tmp_path / "results" / "cpu").mkdir(parents=True)
    (tmp_path / "results" / "cpu" / "0123456789abcdef.json").write_text("{")
    done = draw_all(tmp_path / "results", tmp_path / "figures")
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1)
    assert not (tmp_path / "figures").exists()


@pytest.mark.parametrize("path", sorted(ALL.parent.glob("fig_*.py")), ids=lambda path: path.stem)
def test_every_script_runs_by_itself(
    path: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    out = tmp_path / "figures"
    arguments = ["--store", str(tmp_path / "none"), "--out", str(out)]
    monkeypatch.setattr(sys, "argv", [str(path), *arguments])
    with pytest.raises(SystemExit, match="0"):
        runpy.run_path(str(path), run_name="__main__")
    drawn = [f"{out}/memory_at_scale.{kind}" for kind in ("pdf", "png")]
    without_store = f"memory_at_scale: {' '.join(drawn)}"
    needs_a_store = path.stem != "fig_memory_at_scale"
    assert capsys.readouterr().out == f"{NO_RECORDS if needs_a_store else without_store}\n"
