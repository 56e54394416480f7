"""Learning rates: the width of the good region has a closed form, medians count divergence as
worst, nothing is dropped unsaid."""

import math
from collections.abc import Iterable
from typing import Any

import numpy as np
import pytest
import records
from hypothesis import given
from hypothesis import strategies as st

from peftbench.analysis.learning_rates import (
    LearningRate,
    Middle,
    bins,
    by_learning_rate,
    good_region,
)
from peftbench.analysis.results import Results
from peftbench.figures.lr_sensitivity import lr_sensitivity
from peftbench.figures.panels import NothingToDraw
from peftbench.figures.style import COLOURS
from peftbench.record import Record


def trial(lr: float, nll: float | None = None, **changed: Any) -> Record:
    metrics = {} if nll is None else {"accuracy": 1 - nll, "nll": nll}
    return records.record(split="valid", train={"lr": lr}, metrics=metrics, **changed)


def results(made: Iterable[Record]) -> Results:
    return Results(tuple(made))


def only(made: Iterable[Record]) -> LearningRate:
    """The one learning rate of the one method of the one block."""
    (block,) = results(made).tuning
    ((learning_rate,),) = by_learning_rate(block).values()
    return learning_rate


@given(st.floats(0.2, 2), st.floats(0.05, 3), st.floats(-4, -2))
def test_the_good_region_of_a_parabola(best: float, curvature: float, middle: float) -> None:
    """best (1 + c x^2) <= 1.02 best where |x| <= sqrt(0.02 / c)."""
    logs = np.linspace(middle - 1, middle + 1, 2001)
    region = good_region(list(10**logs), list(best * (1 + curvature * (logs - middle) ** 2)))
    assert region is not None
    half = math.sqrt(0.02 / curvature)
    assert region.decades == pytest.approx(2 * half, abs=1e-3)
    assert math.log10(region.low) == pytest.approx(middle - half, abs=1e-3)
    assert math.log10(region.best) == pytest.approx(middle, abs=1e-6)
    assert not region.open_low
    assert not region.open_high


@given(st.floats(0.01, 10), st.floats(0.01, 10), st.floats(0.001, 0.5))
def test_the_good_region_of_two_slopes_is_exact(
    left: float, right: float, tolerance: float
) -> None:
    """Straight lines over the logarithm: the region ends where they reach the limit, or with the
    last learning rate."""
    region = good_region([1e-4, 1e-3, 1e-2], [1 + left, 1.0, 1 + right], tolerance)
    assert region is not None
    assert region.decades == pytest.approx(min(tolerance / left, 1) + min(tolerance / right, 1))
    assert (region.open_low, region.open_high) == (left <= tolerance, right <= tolerance)


def test_the_good_region_ends_before_a_learning_rate_that_diverged() -> None:
    region = good_region([1e-4, 1e-3, 1e-2, 1e-1], [1.0, 1.01, math.inf, 1.0])
    assert region is not None
    assert (region.low, region.high) == pytest.approx((1e-4, 1e-3))
    assert (region.open_low, region.open_high) == (True, False)


def test_the_good_region_is_connected_to_the_best() -> None:
    region = good_region([1e-4, 1e-3, 1e-2], [1.0, 2.0, 1.001])
    assert region is not None
    assert region.high < 1e-3


def test_without_a_finite_value_there_is_no_region() -> None:
    assert good_region([1e-4, 1e-3], [None, math.inf]) is None
    assert good_region([], []) is None


@given(st.lists(st.floats(-5, -1), min_size=1, max_size=40), st.integers(1, 5))
def test_bins_hold_neighbours_only(logs: list[float], per_decade: int) -> None:
    lrs = [10**log for log in logs]
    middles = bins(lrs, per_decade)
    for lr, middle in zip(lrs, middles, strict=True):
        assert abs(math.log10(lr / middle)) <= 1 / per_decade + 1e-9
    pairs = sorted(zip(lrs, middles, strict=True))
    assert [middle for _, middle in pairs] == sorted(middle for _, middle in pairs)


def test_a_grid_is_its_own_bins() -> None:
    grid = [1e-4, 3e-4, 1e-3, 3e-3] * 2
    assert bins(grid) == grid
    many = list(np.geomspace(1e-4, 1e-3, 50))
    assert len(set(bins(many))) == 5


def test_a_run_that_diverged_counts_as_worst_and_one_ended_early_in_no_median() -> None:
    made = [trial(1e-3, nll, seed=seed) for seed, nll in enumerate((0.25, 0.5, 0.75))]
    for seed, status in enumerate(("diverged", "pruned", "failed"), 3):
        made.append(trial(1e-3, seed=seed, status=status))
    rate = only(made)
    counts = [rate.count(status) for status in ("done", "diverged", "pruned")]
    assert (rate.lr, counts) == (1e-3, [3, 1, 1])
    # The medians of 0.25, 0.5, 0.75 and infinity, which is the worst.
    assert rate.middle("nll") == Middle(0.625, 0.25, 0.75)
    assert rate.middle("metric") == Middle(0.375, 0.25, 0.75)


def test_where_most_diverged_the_median_is_infinite() -> None:
    diverged = [trial(1e-3, seed=seed, status="diverged") for seed in (1, 2)]
    rate = only([trial(1e-3, 0.5), *diverged])
    assert rate.middle("nll").median == math.inf
    assert rate.middle("metric").median == -math.inf


def test_where_no_run_has_a_value_there_is_no_median() -> None:
    rate = only([trial(1e-3, status="pruned")])
    assert rate.middle("nll") == rate.middle("metric") == Middle(None, None, None)


def test_runs_on_test_are_no_tuning() -> None:
    made = [records.record(train={"lr": 10.0**-i}) for i in (2, 3)]
    assert not results(made).tuning
    with pytest.raises(NothingToDraw, match="valid split"):
        lr_sensitivity(results(made))
    with pytest.raises(NothingToDraw, match="two learning rates"):
        lr_sensitivity(results([trial(1e-3, 0.5)]))


def test_the_figure_shows_medians_marks_and_widths() -> None:
    medians = ((1e-4, 1.04), (1e-3, 1.0), (1e-2, 1.02))
    made = [trial(lr, nll, seed=seed) for lr, nll in medians for seed in (0, 1)]
    made += [trial(1e-1, seed=seed, status="diverged") for seed in (0, 1)]
    made += [trial(1e-2, seed=2, status="pruned")]
    made += [trial(1e-3, 2.0, method="frozen")]
    made += [trial(1e-3, method="vera", status="out-of-memory")]
    figure = lr_sensitivity(results(made))
    metric, nll, regions = figure.axes
    for axes, values in ((metric, [-0.04, 0.0, -0.02]), (nll, [1.04, 1.0, 1.02])):
        (line,) = [line for line in axes.lines if len(np.asarray(line.get_xdata())) == 3]
        assert np.asarray(line.get_ydata()).tolist() == pytest.approx(values)
        assert axes.get_xscale() == "log"
        marks = {str(line.get_marker()): list(np.asarray(line.get_xdata())) for line in axes.lines}
        assert marks["x"] == [0.1]
        assert marks["|"] == [0.01]
    # Half of the left decade, all of the right one.
    assert [text.get_text() for text in regions.texts] == ["1.5", "decades"]
    assert {str(line.get_color()) for line in regions.lines} == {COLOURS["lora"]}
    note = figure.get_supxlabel().replace("\n", " ")
    for part in (
        "second learning rate: frozen (reviews)",
        "not drawn: out-of-memory (reviews)",
        "ended early",
        "diverged",
    ):
        assert part in note


def test_a_region_without_an_end_says_at_least() -> None:
    figure = lr_sensitivity(results([trial(1e-4, 1.0), trial(1e-3, 1.01)]))
    assert figure.axes[2].texts[0].get_text() == "at least 1.0"
