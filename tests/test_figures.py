"""Figures: the front is the front, colours are the methods', labels do not lie on each other, equal
figures are equal files."""

import itertools
import runpy
import subprocess
import sys
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import pandas as pd
import pytest
import records
from hypothesis import given, settings
from hypothesis import strategies as st
from matplotlib.figure import Figure

from peftbench.analysis.frame import METHODS, frame
from peftbench.figures import (
    COLOURS,
    MARKERS,
    XS,
    YS,
    NothingToDraw,
    overlaps,
    pareto,
    pareto_front,
    round_ticks,
    save,
)
from peftbench.spec import DataSpec
from peftbench.store import Store
from peftbench.tables import EMPTY

SCRIPT = Path(__file__).parent.parent / "paper_figures" / "fig_pareto.py"
QUICK = settings(deadline=None, max_examples=50)
POINTS = st.lists(st.tuples(st.integers(0, 8), st.integers(0, 8)), max_size=20)


@pytest.fixture(scope="module")
def runs() -> pd.DataFrame:
    return frame(records.study())


@pytest.fixture(scope="module")
def figures(runs: pd.DataFrame) -> dict[tuple[str, str], Figure]:
    return {(x, y): pareto(runs, x, y) for x in XS for y in YS}


def beats(a: tuple[float, float], b: tuple[float, float]) -> bool:
    return a[0] <= b[0] and a[1] >= b[1] and a != b


def front(points: list[tuple[float, float]]) -> list[int]:
    return pareto_front([x for x, _ in points], [y for _, y in points])


@QUICK
@given(POINTS)
def test_the_front_is_all_that_nothing_beats(points: list[tuple[int, int]]) -> None:
    assert set(front(points)) == {
        i for i, point in enumerate(points) if not any(beats(other, point) for other in points)
    }


@QUICK
@given(POINTS)
def test_the_front_rises(points: list[tuple[int, int]]) -> None:
    found = [points[i] for i in front(points)]
    assert found == sorted(found)
    assert [y for _, y in found] == sorted(y for _, y in found)


@QUICK
@given(POINTS, st.randoms(use_true_random=False))
def test_the_front_does_not_depend_on_the_order(points: list[tuple[int, int]], rng: Any) -> None:
    shuffled = rng.sample(points, len(points))
    assert sorted(shuffled[i] for i in front(shuffled)) == sorted(points[i] for i in front(points))


def test_an_unknown_value_is_on_no_front() -> None:
    assert pareto_front([1.0, float("nan"), 2.0], [1.0, 9.0, float("nan")]) == [0]
    assert pareto_front([], []) == []


@QUICK
@given(st.floats(1e-3, 1e12), st.floats(1.5, 1e6), st.sampled_from([2, 10]))
def test_ticks_lie_inside_and_are_few(low: float, ratio: float, base: int) -> None:
    ticks = round_ticks(low, low * ratio, base)
    assert len(ticks) <= 6
    assert ticks == sorted(ticks)
    assert all(low <= tick <= low * ratio for tick in ticks)
    assert ticks or ratio < 2.5


def test_boxes_overlap_by_the_area_they_share() -> None:
    boxes = np.array([[0.0, 0.0, 4.0, 2.0], [3.0, 1.0, 5.0, 9.0], [4.0, 0.0, 6.0, 1.0]])
    assert overlaps(boxes, boxes).tolist() == [[8, 1, 0], [1, 16, 0], [0, 0, 2]]


def points(figure: Figure) -> dict[tuple[str, str], set[tuple[float, float]]]:
    """The drawn points, by colour and marker."""
    found: dict[tuple[str, str], set[tuple[float, float]]] = {}
    for line in itertools.chain.from_iterable(axes.lines for axes in figure.axes):
        if line.get_marker() != "None":
            found.setdefault((str(line.get_color()), str(line.get_marker())), set()).add(
                tuple(line.get_xydata()[0])
            )
    return found


@pytest.mark.parametrize("x", XS)
@pytest.mark.parametrize("y", YS)
def test_every_arm_is_drawn_where_it_belongs_in_its_methods_colour(
    runs: pd.DataFrame, figures: dict[tuple[str, str], Figure], x: str, y: str
) -> None:
    figure = figures[x, y]
    assert [axes.get_title(loc="left") for axes in figure.axes] == ["gsm", "reviews", "sst2"]
    done = runs[runs["status"] == "done"].groupby(["task", "method", "label"])[[x, y]].mean()
    drawn = points(figure)
    assert sum(map(len, drawn.values())) == len(done)
    for method in METHODS:
        expected = done.xs(method, level="method")
        got = sorted(drawn[COLOURS[method], MARKERS[method]])
        assert [value for point in got for value in point] == pytest.approx(
            [v for p in sorted(map(tuple, expected.to_numpy())) for v in p]
        )


def test_methods_are_told_apart_by_colour_and_by_marker() -> None:
    assert len(set(COLOURS.values())) == len(set(MARKERS.values())) == len(METHODS)


@pytest.mark.parametrize("y", YS)
def test_the_step_line_goes_through_the_front(
    figures: dict[tuple[str, str], Figure], y: str
) -> None:
    figure = figures["trained_params", y]
    for axes in figure.axes:
        (step,) = [line for line in axes.lines if line.get_drawstyle() == "steps-post"]
        x_values, y_values = map(list, (step.get_xdata(), step.get_ydata()))
        assert x_values == sorted(x_values)
        assert y_values == sorted(y_values, reverse=y == "nll")
        drawn = [tuple(line.get_xydata()[0]) for line in axes.lines if line.get_marker() != "None"]
        sign = -1 if y == "nll" else 1
        expected = {
            point
            for point in drawn
            if not any(beats((a, sign * b), (point[0], sign * point[1])) for a, b in drawn)
        }
        assert set(zip(x_values[:-1], y_values[:-1], strict=True)) == expected


@pytest.mark.parametrize("x", XS)
@pytest.mark.parametrize("y", YS)
def test_labels_lie_on_no_other_and_inside(
    figures: dict[tuple[str, str], Figure], x: str, y: str
) -> None:
    figure = figures[x, y]
    figure.draw_without_rendering()
    for axes in figure.axes:
        boxes = np.array([text.get_window_extent().extents for text in axes.texts])
        areas = np.diag(overlaps(boxes, boxes))
        assert len(boxes) >= 8
        assert overlaps(boxes, boxes).sum() - areas.sum() < 1
        assert overlaps(boxes, axes.bbox.extents[None])[:, 0] == pytest.approx(areas, rel=0.01)


def test_with_many_arms_the_best_of_each_method_and_the_front_are_named() -> None:
    worse = {
        "vera": 0.0,
        "lora": 0.3,
        "full": 0.6,
    }  # the cheapest is the best: the others are on no front
    found = [
        records.record(
            method=method,
            train={"lr": 10.0**-i},
            metrics={"nll": 1 + more + 0.1 * abs(i - 3), "accuracy": 0.5},
        )
        for i in range(1, 8)
        for method, more in worse.items()
    ]
    (axes,) = pareto(frame(found), "peak_bytes", "nll").axes
    assert {text.get_text() for text in axes.texts} == {f"{method} (lr=0.001)" for method in worse}


def test_zero_stands_on_the_axis_at_zero(figures: dict[tuple[str, str], Figure]) -> None:
    axes = figures["trained_params", "metric"].axes[0]
    assert axes.get_xscale() == "symlog"
    assert axes.get_xticks()[0] == 0
    assert axes.get_xlim()[0] < 0
    assert figures["peak_bytes", "metric"].axes[0].get_xscale() == "log"


def test_devices_have_panels_of_their_own() -> None:
    gpu = records.environment(device_name="H100")
    figure = pareto(
        frame([records.record(), records.record(device="cuda", environment=gpu)]), "peak_bytes"
    )
    assert {axes.get_title(loc="left") for axes in figure.axes} == {
        "reviews, cpu: AMD EPYC, 2 threads",
        "reviews, cuda: H100",
    }


def test_what_is_not_drawn_is_named(figures: dict[tuple[str, str], Figure]) -> None:
    assert "not drawn: galore (reviews)" in figures["peak_bytes", "nll"].get_supxlabel().replace(
        "\n", " "
    )
    with pytest.raises(NothingToDraw, match="nothing to draw"):
        pareto(frame([records.record(status="failed")]), "peak_bytes")
    with pytest.raises(NothingToDraw, match="nothing to draw"):
        pareto(frame([]), "peak_bytes")


def test_equal_figures_are_equal_files_and_leave_no_trace(tmp_path: Path) -> None:
    before, runs = dict(matplotlib.rcParams), frame(records.study(("reviews",), seeds=1))
    first, second = (
        save(pareto(runs, "trained_params"), tmp_path / name / "pareto.v1") for name in "ab"
    )
    assert [path.name for path in first] == ["pareto.v1.pdf", "pareto.v1.png"]
    assert [path.read_bytes() for path in first] == [path.read_bytes() for path in second]
    assert b"CreationDate" not in first[0].read_bytes()
    assert dict(matplotlib.rcParams) == before


def test_the_script_draws_four_figures(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    store = Store(tmp_path / "results")
    for record in records.study(("reviews",), seeds=1):
        store.write(record)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", [str(SCRIPT)])
    with pytest.raises(SystemExit, match="0"):
        runpy.run_path(str(SCRIPT), run_name="__main__")
    names = {f"pareto_{y}_{x}.{kind}" for x in XS for y in YS for kind in ("pdf", "png")}
    assert {path.name for path in (tmp_path / "figures").iterdir()} == names
    told = dict(line.split(": ") for line in capsys.readouterr().out.splitlines())
    assert {Path(path).name for paths in told.values() for path in paths.split()} == names
    assert set(told) == {name.partition(".")[0] for name in names}


def test_the_script_tells_of_an_empty_and_of_a_damaged_store(tmp_path: Path) -> None:
    command = [
        sys.executable,
        str(SCRIPT),
        "--store",
        str(tmp_path / "results"),
        "--out",
        str(tmp_path / "figures"),
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, f"{EMPTY}\n", "")
    (tmp_path / "results" / "cpu").mkdir(parents=True)
    (tmp_path / "results" / "cpu" / "0123456789abcdef.json").write_text("{")
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1)


@pytest.mark.parametrize("module", ["store", "frame", "tables", "figures"])
def test_the_layers_after_the_store_need_no_torch(module: str) -> None:
    heavy = "{'torch', 'transformers', 'peftbench.methods', 'matplotlib.pyplot'}"
    code = f"import sys, peftbench.{module}; print(*sorted({heavy} & set(sys.modules)))"
    assert (
        subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, check=True
        ).stdout
        == "\n"
    )


def test_a_long_title_takes_no_width_from_the_axes() -> None:
    data = {
        task: DataSpec(test=n, train=400, max_length=384, max_new_tokens=96, generate=8)
        for n, task in enumerate(("reviews", "gsm_symbolic", "humaneval"), 100)
    }
    specs = [
        records.spec(task=task, method=method, model=f"a-model-of-{task}", data=what)
        for task, what in data.items()
        for method in ("lora", "vera")
    ]
    figure = pareto(frame(records.record(spec=spec) for spec in specs), "trained_params")
    figure.draw_without_rendering()
    assert all(axes.get_position().width > 0.38 for axes in figure.axes)
