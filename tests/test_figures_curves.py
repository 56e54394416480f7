"""Curves and what is drawn from them: smoothing, final losses, steps to a loss, the gap; lines are
means, bands hold all seeds."""

import math

import numpy as np
import pandas as pd
import pytest
import records
from hypothesis import given
from hypothesis import strategies as st
from matplotlib.collections import PolyCollection
from matplotlib.figure import Figure
from numpy.testing import assert_allclose

from peftbench.analysis.frame import frame
from peftbench.analysis.loss_curves import curves, final_loss, smoothed, steps_to_reach
from peftbench.figures import COLOURS, NothingToDraw, gap, gaps, training
from peftbench.record import Data, Point, Record

NUMBERS = st.lists(st.floats(-100, 100), min_size=1, max_size=30)
ODD = st.integers(0, 6).map(lambda half: 2 * half + 1)


def run(
    losses: list[float], valid: dict[int, float] | None = None, nll: float = 1.0, **changed: object
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
    return records.record(curve=tuple(points), metrics={"accuracy": 0.5, "nll": nll}, **changed)


def test_curves_are_the_records_points() -> None:
    found = curves([run([0.5, 0.25], {2: 0.75}, seed=1), run([0.125], seed=2)])
    assert found["step"].tolist() == [1, 2, 1]
    assert found["train_loss"].tolist() == [0.5, 0.25, 0.125]
    assert found["valid_loss"].dropna().tolist() == [0.75]
    assert found["valid_loss"].isna().tolist() == [True, False, True]
    assert curves([]).empty


def test_runs_of_one_spec_on_two_devices_stay_apart() -> None:
    gpu = records.environment(device_name="H100")
    found = [run([1.0, 0.5]), run([3.0, 2.5], device="cuda", environment=gpu)]
    assert len({record.run_id for record in found}) == 1
    assert final_loss(curves(found))["train_loss"].tolist() == [0.5, 2.5]


@given(NUMBERS, ODD)
def test_smoothing_is_the_mean_of_the_neighbours(values: list[float], window: int) -> None:
    half, found = window // 2, smoothed(np.array(values), window)
    for i, value in enumerate(found):
        around = values[i - half : i + half + 1] if half <= i < len(values) - half else []
        assert np.isnan(value) if not around else value == pytest.approx(np.mean(around), abs=1e-9)


@given(st.integers(1, 40), ODD, st.floats(-5, 5), st.floats(-5, 5))
def test_smoothing_leaves_a_straight_line_alone(
    n: int, window: int, slope: float, start: float
) -> None:
    line = start + slope * np.arange(n)
    found = smoothed(line, window)
    known = np.isfinite(found)
    assert known.sum() == max(n - window + 1, 0)
    assert_allclose(found[known], line[known], atol=1e-9)


@pytest.mark.parametrize(
    ("steps", "part", "expected"),
    [(100, 0.1, range(91, 101)), (10, 0.1, [10]), (3, 0.1, [3]), (10, 0.25, [8, 9, 10])],
)
def test_the_final_loss_is_the_mean_of_the_last_part(
    steps: int, part: float, expected: list[int]
) -> None:
    found = final_loss(curves([run([float(step**2) for step in range(1, steps + 1)])]), part)
    assert found["train_loss"].tolist() == [np.mean([step**2 for step in expected])]


def test_the_step_that_reaches_a_loss_is_the_first() -> None:
    steps, losses = np.array([10.0, 20, 30, 40]), np.array([np.nan, 0.5, 0.75, 0.25])
    assert steps_to_reach(steps, losses, 0.5) == 20
    assert steps_to_reach(steps, losses, 0.3) == 40
    assert np.isnan(steps_to_reach(steps, losses, 0.2))
    assert np.isnan(steps_to_reach(steps, losses, np.nan))


def test_examples_are_those_that_the_run_had() -> None:
    data = Data(
        source="packaged", revision=None, fingerprint="f" * 64, counts={"train": 7, "test": 5}
    )
    found = frame([records.record(data=data), records.record(seed=1, data=None, status="failed")])
    assert found["examples"].tolist() == pytest.approx([7, math.nan], nan_ok=True)


@pytest.fixture
def drawn() -> Figure:
    found = [
        run([9.0, loss, loss / 2, loss / 4], {2: 1 + seed, 4: 2.0 + seed}, seed=seed, method=method)
        for seed, loss in enumerate((4.0, 2.0))
        for method in ("lora", "vera")
    ]
    return training(frame(found), curves(found), window=1)


def test_lines_are_means_over_seeds_and_bands_reach_from_least_to_most(drawn: Figure) -> None:
    train, valid, _ = drawn.axes
    for axes, x, mean in ((train, [1, 2, 3, 4], [9, 3, 1.5, 0.75]), (valid, [2, 4], [1.5, 2.5])):
        assert [line.get_color() for line in axes.lines] == [COLOURS["lora"], COLOURS["vera"]]
        for line in axes.lines:
            assert (list(line.get_xdata()), list(line.get_ydata())) == (x, mean)
    corners = [
        collection.get_paths()[0].vertices
        for collection in train.collections
        if isinstance(collection, PolyCollection)
    ]
    assert len(corners) == 2
    at_two = {float(y) for x, y in corners[0] if x == 2}
    assert at_two == {2.0, 4.0}


def test_the_window_is_told_and_runs_that_are_not_done_are_named() -> None:
    found = [
        run([float(i) for i in range(50)]),
        run([1.0], method="vera", status="diverged", seed=1),
    ]
    note = training(frame(found), curves(found)).get_supxlabel().replace("\n", " ")
    assert "running mean over 5 steps" in note
    assert "not drawn: vera (reviews)" in note
    assert "no loss on the valid split" in note


def test_arms_of_a_method_are_told_apart_by_their_dashes() -> None:
    found = [run([3.0, 2.0, 1.0], args={"rank": rank}) for rank in (4, 8)]
    axes, below = training(frame(found), curves(found)).axes
    assert len({str(line.get_linestyle()) for line in axes.lines}) == 2
    legend = below.get_legend()
    assert legend is not None
    assert [text.get_text() for text in legend.get_texts()] == ["lora (rank=4)", "lora (rank=8)"]


def test_many_arms_become_the_best_of_each_method() -> None:
    found = [
        run([2.0, 1.0], nll=1.0 + abs(i - 3), method=method, train={"lr": 10.0**-i})
        for i in range(1, 9)
        for method in ("lora", "vera")
    ]
    figure = training(frame(found), curves(found))
    assert len(figure.axes[0].lines) == 2
    assert "lowest nll, which flatters it" in figure.get_supxlabel().replace("\n", " ")


def test_the_gap_is_nll_minus_the_final_training_loss() -> None:
    found = [run([9.0] * 9 + [loss], nll=2.0, seed=seed) for seed, loss in enumerate((0.5, 1.0))]
    runs, points = frame(found), curves(found)
    assert gaps(runs, points)["gap"].tolist() == [1.5, 1.0]
    axes = gap(runs, points).axes[0]
    assert [text.get_text() for text in axes.texts] == ["+1.250 [+1.000, +1.500]"]
    joined = [list(line.get_xdata()) for line in axes.lines if len(line.get_xdata()) == 2]
    assert [0.75, 2.0] in joined


@pytest.mark.parametrize("draw", [training, gap])
def test_without_curves_there_is_nothing_to_draw(draw: object) -> None:
    assert callable(draw)
    for found in ([], [records.record(status="failed", curve=())], [records.record(curve=())]):
        with pytest.raises(NothingToDraw, match="nothing to draw"):
            draw(frame(found), curves(found))


def test_two_devices_have_panels_of_their_own() -> None:
    gpu = records.environment(device_name="H100")
    found = [run([1.0, 0.5]), run([3.0, 2.5], device="cuda", environment=gpu)]
    figure = training(frame(found), curves(found))
    titles = {axes.get_title(loc="left") for axes in figure.axes} - {""}
    assert titles == {"reviews, cpu: AMD EPYC, 2 threads", "reviews, cuda: H100"}
    assert isinstance(curves(found), pd.DataFrame)
