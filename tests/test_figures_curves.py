"""Curves and what is drawn from them: smoothing, final losses, steps to a loss, the gap; lines are
means, bands hold all seeds."""

from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import pytest
import records
from hypothesis import given
from hypothesis import strategies as st
from matplotlib.collections import PolyCollection
from matplotlib.figure import Figure
from numpy.testing import assert_allclose

from peftbench.analysis.blocks import Run
from peftbench.analysis.loss_curves import TAIL, Curve, StepsToLoss, curve, steps_to_reach, window
from peftbench.analysis.results import Results
from peftbench.figures.gap import gap, gaps
from peftbench.figures.panels import NothingToDraw
from peftbench.figures.style import COLOURS
from peftbench.figures.training_curves import training_curves
from peftbench.record import Data, Point, Record

NUMBERS = st.lists(st.floats(-100, 100), min_size=1, max_size=30)
ODD = st.integers(0, 6).map(lambda half: 2 * half + 1)


def run(
    losses: list[float], valid: dict[int, float] | None = None, nll: float = 1.0, **changed: Any
) -> Record:
    """A run with these training losses and, by step, these valid losses; one after the last
    training step is a point of its own."""
    valid = valid or {}
    points = [
        Point(step=step, train_loss=loss, valid_loss=valid.get(step), lr=1e-4)
        for step, loss in enumerate(losses, 1)
    ]
    if len(losses) in valid:
        points[-1] = points[-1].model_copy(update={"valid_loss": None})
        points.append(Point(step=len(losses), valid_loss=valid[len(losses)]))
    metrics = {"accuracy": 0.5, "nll": nll}
    return records.record(curve=tuple(points), metrics=metrics, **changed)


def results(made: Iterable[Record]) -> Results:
    return Results(tuple(made))


def on_h100(losses: list[float], **changed: Any) -> Record:
    environment = records.environment(device_name="H100")
    return run(losses, device="cuda", environment=environment, **changed)


def of(losses: Iterable[float], steps: Iterable[float] | None = None) -> Curve:
    losses = np.array([*losses], float)
    return Curve(np.arange(1.0, len(losses) + 1) if steps is None else np.array([*steps]), losses)


def listed(known: Curve) -> tuple[list[float], list[float]]:
    return known.steps.tolist(), known.losses.tolist()


def test_curves_are_the_records_points() -> None:
    first, second = Run(run([0.5, 0.25], {2: 0.75}, seed=1)), Run(run([0.125], seed=2))
    assert listed(curve(first, "train_loss")) == ([1, 2], [0.5, 0.25])
    assert listed(curve(first, "valid_loss")) == ([2], [0.75])
    assert listed(curve(second, "train_loss")) == ([1], [0.125])
    assert listed(curve(second, "valid_loss")) == ([], [])


@given(NUMBERS, ODD)
def test_smoothing_is_the_mean_of_the_neighbours(values: list[float], width: int) -> None:
    smooth = of(values).smoothed(width)
    half = width // 2
    means = {
        float(i + 1): np.mean(values[i - half : i + half + 1])
        for i in range(half, len(values) - half)
    }
    assert smooth.steps.tolist() == list(means)
    assert_allclose(smooth.losses, list(means.values()), atol=1e-9)


@given(st.integers(1, 40), ODD, st.floats(-5, 5), st.floats(-5, 5))
def test_smoothing_leaves_a_straight_line_alone(
    n: int, width: int, slope: float, start: float
) -> None:
    line = of(start + slope * np.arange(n))
    smooth = line.smoothed(width)
    assert len(smooth.losses) == max(n - width + 1, 0)
    kept = np.isin(line.steps, smooth.steps)
    assert_allclose(smooth.losses, line.losses[kept], atol=1e-9)


@pytest.mark.parametrize(
    ("steps", "tail"), [(100, range(91, 101)), (10, [10]), (3, [3]), (45, range(41, 46))]
)
def test_the_final_loss_is_the_mean_of_the_last_part(steps: int, tail: Iterable[int]) -> None:
    known = curve(Run(run([float(step**2) for step in range(1, steps + 1)])), "train_loss")
    assert known.end() == np.mean([step**2 for step in tail])


def test_the_step_that_reaches_a_loss_is_the_first() -> None:
    ours = of([0.9, 0.5, 0.75, 0.25], [10, 20, 30, 40])

    def reached(target: float) -> StepsToLoss | None:
        return steps_to_reach(ours, of([target]), points=1)

    assert reached(0.5) == StepsToLoss(20, never=False)
    assert reached(0.3) == StepsToLoss(40, never=False)
    assert reached(0.2) == StepsToLoss(41, never=True)
    assert steps_to_reach(ours, of([]), points=1) is None
    assert steps_to_reach(ours, of([0.5])) is None  # too short to be judged


def test_examples_are_those_that_the_run_had() -> None:
    counts = {"train": 7, "test": 5}
    data = Data(source="packaged", revision=None, fingerprint="f" * 64, counts=counts)
    assert Run(records.record(data=data)).examples == 7
    assert Run(records.record(seed=1, data=None, status="failed")).examples is None


@pytest.fixture
def drawn() -> Figure:
    made = [
        run(
            [9.0, loss, loss / 2, loss / 4],
            {2: 1 + seed, 4: 2.0 + seed},
            seed=seed,
            method=method,
        )
        for seed, loss in enumerate((4.0, 2.0))
        for method in ("lora", "vera")
    ]
    return training_curves(results(made))


def test_lines_are_means_over_seeds_and_bands_reach_from_least_to_most(drawn: Figure) -> None:
    train, valid, _ = drawn.axes
    for axes, x, mean in ((train, [1, 2, 3, 4], [9, 3, 1.5, 0.75]), (valid, [2, 4], [1.5, 2.5])):
        assert [line.get_color() for line in axes.lines] == [COLOURS["lora"], COLOURS["vera"]]
        for line in axes.lines:
            assert np.asarray(line.get_xydata()).T.tolist() == [x, mean]
    corners = [
        np.asarray(collection.get_paths()[0].vertices)
        for collection in train.collections
        if isinstance(collection, PolyCollection)
    ]
    assert len(corners) == 2
    at_two = {float(y) for x, y in corners[0] if x == 2}
    assert at_two == {2.0, 4.0}


def note(figure: Figure) -> str:
    return figure.get_supxlabel().replace("\n", " ")


def test_the_width_is_told_and_runs_that_are_not_done_are_named() -> None:
    made = [run([*map(float, range(50))]), run([1.0], method="vera", status="diverged", seed=1)]
    text = note(training_curves(results(made)))
    assert window(50) == 5
    assert "running mean over 5 steps" in text
    assert "not drawn: vera (reviews)" in text
    assert "no loss on the valid split" in text


def test_lines_are_as_smooth_as_what_steps_are_counted_on() -> None:
    losses = list(np.random.default_rng(0).normal(size=60))
    (line,) = training_curves(results([run(losses)])).axes[0].lines
    smooth = of(losses).smoothed()
    assert_allclose(np.asarray(line.get_xydata()).T, [smooth.steps, smooth.losses])


def test_arms_of_a_method_are_told_apart_by_their_dashes() -> None:
    made = [run([3.0, 2.0, 1.0], args={"rank": rank}) for rank in (4, 8)]
    axes, below = training_curves(results(made)).axes
    assert len({str(line.get_linestyle()) for line in axes.lines}) == 2
    legend = below.get_legend()
    assert legend is not None
    assert [text.get_text() for text in legend.get_texts()] == ["lora (rank=4)", "lora (rank=8)"]


def test_many_arms_become_the_best_of_each_method() -> None:
    made = [
        run([2.0, 1.0], nll=1.0 + abs(i - 3), method=method, train={"lr": 10.0**-i})
        for i in range(1, 9)
        for method in ("lora", "vera")
    ]
    figure = training_curves(results(made))
    assert len(figure.axes[0].lines) == 2
    legend = figure.axes[1].get_legend()
    assert legend is not None
    names = [text.get_text() for text in legend.get_texts()]
    assert names == ["lora (lr=0.001)", "vera (lr=0.001)"]
    assert "lowest nll, which flatters it" in note(figure)


def test_the_gap_is_nll_minus_the_final_training_loss() -> None:
    made = results(run([9.0] * 9 + [loss], nll=2.0, seed=i) for i, loss in enumerate((0.5, 1.0)))
    (block,) = made.final
    (by_run,) = gaps(block).values()
    assert [each.size for each in by_run.values()] == [1.5, 1.0]
    figure = gap(made)
    axes = figure.axes[0]
    assert [text.get_text() for text in axes.texts] == ["+1.250 [+1.000, +1.500]"]
    lines = [np.asarray(line.get_xdata()).tolist() for line in axes.lines]
    assert [0.75, 2.0] in [line for line in lines if len(line) == 2]
    legend = figure.axes[1].get_legend()
    assert legend is not None
    assert TAIL == 0.1
    assert legend.get_texts()[0].get_text() == "training, last 10 % of steps"


@pytest.mark.parametrize("draw", [training_curves, gap])
def test_without_curves_there_is_nothing_to_draw(draw: Callable[[Results], Figure]) -> None:
    for made in ([], [records.record(status="failed", curve=())], [records.record(curve=())]):
        with pytest.raises(NothingToDraw, match="nothing to draw"):
            draw(results(made))


@pytest.mark.parametrize("draw", [training_curves, gap])
def test_seeds_of_two_devices_are_drawn_together(draw: Callable[[Results], Figure]) -> None:
    """A panel holds what may be compared, and where a model was trained does not matter; of one
    seed the first run counts."""
    made = [run([1.0, 0.5]), on_h100([3.0, 2.5], seed=1), on_h100([9.0, 9.0], seed=0)]
    figure = draw(results(made))
    titles = {axes.get_title(loc="left") for axes in figure.axes} - {""}
    assert titles == {"reviews"}
    assert "cpu: AMD EPYC, 2 threads, cuda: H100" in note(figure)
    lines = [np.asarray(line.get_xydata()).ravel().tolist() for line in figure.axes[0].lines]
    numbers = {number for line in lines for number in line}
    assert 1.5 in numbers  # the mean of the last losses, 0.5 and 2.5
    assert 9.0 not in numbers
