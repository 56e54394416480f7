"""Figures: the front is the front, colours are the methods', labels do not lie on each other, equal
figures are equal files."""

import itertools
import math
import runpy
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import pytest
import records
from hypothesis import given, settings
from hypothesis import strategies as st
from matplotlib.figure import Figure

from peftbench.analysis.blocks import METHOD_ORDER, Value
from peftbench.analysis.results import Results
from peftbench.figures.labels import overlaps
from peftbench.figures.memory import memory
from peftbench.figures.panels import NothingToDraw
from peftbench.figures.pareto import COST_AXES, CostAxis, pareto, pareto_front
from peftbench.figures.script import NO_RECORDS, save
from peftbench.figures.style import COLOURS, MARKERS, VALUES
from peftbench.figures.ticks import round_ticks
from peftbench.record import Record
from peftbench.spec import DataSpec, StudyReference
from peftbench.store import Store

SCRIPT = Path(__file__).parent.parent / "paper_figures" / "fig_pareto.py"
QUICK = settings(deadline=None, max_examples=50)
POINTS = st.lists(st.tuples(st.integers(0, 8), st.integers(0, 8)), max_size=20)
Figures = dict[tuple[CostAxis, Value], Figure]


def results(made: Iterable[Record]) -> Results:
    return Results(tuple(made))


@pytest.fixture(scope="module")
def study() -> Results:
    return results(records.study())


@pytest.fixture(scope="module")
def figures(study: Results) -> Figures:
    return {(cost, value): pareto(study, cost, value) for cost in COST_AXES for value in VALUES}


def beats(a: tuple[float, float], b: tuple[float, float]) -> bool:
    return a[0] <= b[0] and a[1] >= b[1] and a != b


def front(points: list[tuple[int, int]]) -> list[int]:
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
    on_front = [points[i] for i in front(points)]
    assert on_front == sorted(on_front)
    assert [y for _, y in on_front] == sorted(y for _, y in on_front)


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
    drawn: dict[tuple[str, str], set[tuple[float, float]]] = {}
    for line in itertools.chain.from_iterable(axes.lines for axes in figure.axes):
        if line.get_marker() != "None":
            x, y = np.asarray(line.get_xydata())[0]
            look = (str(line.get_color()), str(line.get_marker()))
            drawn.setdefault(look, set()).add((float(x), float(y)))
    return drawn


def expected(study: Results, cost: CostAxis, value: Value) -> dict[str, list[tuple[float, float]]]:
    """For each method the mean cost and value of its arms, from the records alone."""
    arms: dict[tuple[str, str, str], list[Record]] = {}
    for record in study.records:
        if record.status == "done":
            spec = record.spec
            arms.setdefault((spec.method, spec.task, str(spec.args)), []).append(record)
    points: dict[str, list[tuple[float, float]]] = {}
    for (method, _, _), runs in arms.items():
        footprints = [run.footprint for run in runs if run.footprint]
        reached = [run.metrics["nll" if value == "nll" else run.primary] for run in runs]
        x = float(np.mean([getattr(footprint, cost) for footprint in footprints]))
        points.setdefault(method, []).append((x, float(np.mean(np.array(reached, float)))))
    return points


@pytest.mark.parametrize("cost", COST_AXES)
@pytest.mark.parametrize("value", VALUES)
def test_every_arm_is_drawn_where_it_belongs_in_its_methods_colour(
    study: Results, figures: Figures, cost: CostAxis, value: Value
) -> None:
    figure = figures[cost, value]
    assert [axes.get_title(loc="left") for axes in figure.axes] == ["gsm", "reviews", "sst2"]
    drawn, known = points(figure), expected(study, cost, value)
    assert sum(map(len, drawn.values())) == sum(map(len, known.values()))
    for method in METHOD_ORDER:
        ours = sorted(drawn[COLOURS[method], MARKERS[method]])
        theirs = sorted(known[method])
        assert [number for point in ours for number in point] == pytest.approx(
            [number for point in theirs for number in point]
        )


def test_methods_are_told_apart_by_colour_and_by_marker() -> None:
    assert len(set(COLOURS.values())) == len(set(MARKERS.values())) == len(METHOD_ORDER)


@pytest.mark.parametrize("value", VALUES)
def test_the_step_line_goes_through_the_front(figures: Figures, value: Value) -> None:
    figure = figures["trained_params", value]
    sign = -1 if value == "nll" else 1
    for axes in figure.axes:
        (step,) = [line for line in axes.lines if line.get_drawstyle() == "steps-post"]
        x_values, y_values = np.asarray(step.get_xydata()).T.tolist()
        assert x_values == sorted(x_values)
        assert y_values == sorted(y_values, reverse=value == "nll")
        markers = [line for line in axes.lines if line.get_marker() != "None"]
        drawn = [tuple(np.asarray(line.get_xydata())[0].tolist()) for line in markers]
        signed = [(x, sign * y) for x, y in drawn]
        on_front = {
            point
            for point, own in zip(drawn, signed, strict=True)
            if not any(beats(other, own) for other in signed)
        }
        assert set(zip(x_values[:-1], y_values[:-1], strict=True)) == on_front


@pytest.mark.parametrize("cost", COST_AXES)
@pytest.mark.parametrize("value", VALUES)
def test_labels_lie_on_no_other_and_inside(figures: Figures, cost: CostAxis, value: Value) -> None:
    figure = figures[cost, value]
    figure.draw_without_rendering()
    for axes in figure.axes:
        boxes = np.array([text.get_window_extent().extents for text in axes.texts])
        areas = np.diag(overlaps(boxes, boxes))
        assert len(boxes) >= 8
        assert overlaps(boxes, boxes).sum() - areas.sum() < 1
        inside = overlaps(boxes, np.array([axes.bbox.extents]))[:, 0]
        assert inside == pytest.approx(areas, rel=0.01)


def test_with_many_arms_the_best_of_each_method_and_the_front_are_named() -> None:
    # The cheapest is the best: the others are on no front.
    worse = {"vera": 0.0, "lora": 0.3, "full": 0.6}
    made = [
        records.record(
            method=method,
            train={"lr": 10.0**-i},
            metrics={"nll": 1 + more + 0.1 * abs(i - 3), "accuracy": 0.5},
        )
        for i in range(1, 8)
        for method, more in worse.items()
    ]
    (axes,) = pareto(results(made), "peak_bytes", "nll").axes
    assert {text.get_text() for text in axes.texts} == {f"{method} (lr=0.001)" for method in worse}


def test_zero_stands_on_the_axis_at_zero(figures: Figures) -> None:
    axes = figures["trained_params", "metric"].axes[0]
    assert axes.get_xscale() == "symlog"
    assert axes.get_xticks()[0] == 0
    assert axes.get_xlim()[0] < 0
    assert figures["peak_bytes", "metric"].axes[0].get_xscale() == "log"


def on_h100(**changed: Any) -> Record:
    environment = records.environment(device_name="H100")
    return records.record(device="cuda", environment=environment, **changed)


@pytest.mark.parametrize("draw", [memory, lambda made: pareto(made, "peak_bytes")])
def test_costs_of_two_devices_have_panels_of_their_own(draw: Any) -> None:
    figure = draw(results([records.record(), on_h100()]))
    titles = {axes.get_title(loc="left") for axes in figure.axes} - {""}
    assert titles == {"reviews, cpu: AMD EPYC, 2 threads", "reviews, cuda: H100"}


def test_what_a_method_reaches_is_that_of_all_devices() -> None:
    """A seed of an arm from one machine and a seed from another: both stand where their mean is."""
    seeds = [
        records.record(seed=0, metrics={"accuracy": 0.25, "nll": 1.0}),
        on_h100(seed=1, metrics={"accuracy": 0.75, "nll": 1.0}),
    ]
    figure = pareto(results(seeds), "peak_bytes")
    assert len(figure.axes) == 2
    assert {y for drawn in points(figure).values() for _, y in drawn} == {0.5}
    spread = math.sqrt(0.125)
    for axes in figure.axes:
        (bar,) = axes.collections
        ends = [float(y) for path in bar.get_paths() for y in np.asarray(path.vertices)[:, 1]]
        assert ends == pytest.approx([0.5 - spread, 0.5 + spread])


def test_what_is_not_drawn_is_named(figures: Figures) -> None:
    note = figures["peak_bytes", "nll"].get_supxlabel().replace("\n", " ")
    assert "not drawn: galore (reviews)" in note
    with pytest.raises(NothingToDraw, match="nothing to draw"):
        pareto(results([records.record(status="failed")]), "peak_bytes")
    with pytest.raises(NothingToDraw, match="nothing to draw"):
        pareto(results([]), "peak_bytes")


@pytest.mark.parametrize("draw", [memory, lambda made: pareto(made, "peak_bytes")])
def test_trials_of_searches_alone_are_nothing_to_draw(draw: Any) -> None:
    study = StudyReference(name="a", trials=3, trial=0)
    made = [records.record(split="valid", seed=seed, study=study) for seed in range(3)]
    with pytest.raises(NothingToDraw, match="trials of searches do not count"):
        draw(results(made))
    figure = draw(results([*made, records.record()]))
    assert "3 trials of searches not drawn" in figure.get_supxlabel().replace("\n", " ")


def test_equal_figures_are_equal_files_and_leave_no_trace(tmp_path: Path) -> None:
    before, study = dict(matplotlib.rcParams), results(records.study(("reviews",), seeds=1))
    first, second = (
        save(pareto(study, "trained_params"), tmp_path / name / "pareto.v1") for name in "ab"
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
    names = {
        f"pareto_{value}_{cost}.{kind}"
        for cost in COST_AXES
        for value in VALUES
        for kind in ("pdf", "png")
    }
    assert {path.name for path in (tmp_path / "figures").iterdir()} == names
    printed = dict(line.split(": ") for line in capsys.readouterr().out.splitlines())
    assert {Path(path).name for paths in printed.values() for path in paths.split()} == names
    assert set(printed) == {name.partition(".")[0] for name in names}


def test_the_script_tells_of_an_empty_and_of_a_damaged_store(tmp_path: Path) -> None:
    folders = ["--store", str(tmp_path / "results"), "--out", str(tmp_path / "figures")]
    command = [sys.executable, str(SCRIPT), *folders]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, f"{NO_RECORDS}\n", "")
    (tmp_path / "results" / "cpu").mkdir(parents=True)
    (tmp_path / "results" / "cpu" / "0123456789abcdef.json").write_text("{")
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1)


def test_the_script_says_in_one_line_that_it_cannot_draw_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    Store(tmp_path / "results").write(records.record())
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").write_text("")
    monkeypatch.setattr(sys, "argv", [str(SCRIPT), "--out", "file"])
    with pytest.raises(SystemExit, match="2"):
        runpy.run_path(str(SCRIPT), run_name="__main__")
    output = capsys.readouterr()
    assert (output.out, output.err) == ("", "file: no folder can be made there: there is a file\n")


def imported(module: str) -> set[str]:
    code = f"import sys, peftbench.{module}; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return set(done.stdout.split())


@pytest.mark.parametrize("module", ["store", "analysis.estimates", "figures.script"])
def test_the_layers_after_the_store_need_no_torch(module: str) -> None:
    heavy = {"torch", "transformers", "peftbench.methods", "matplotlib.pyplot"}
    assert not heavy & imported(module)


def test_colours_and_markers_need_no_matplotlib() -> None:
    assert "matplotlib" not in imported("figures.style")


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
    made = results(records.record(spec=spec) for spec in specs)
    figure = pareto(made, "trained_params")
    figure.draw_without_rendering()
    assert all(axes.get_position().width > 0.38 for axes in figure.axes)
