"""Learning rates: the width of the good region has a closed form, medians count divergence as
worst, nothing is dropped unsaid."""

import math

import numpy as np
import pytest
import records
from hypothesis import given
from hypothesis import strategies as st

from peftbench.analysis.frame import frame
from peftbench.analysis.learning_rates import bins, by_learning_rate, good_region
from peftbench.figures import COLOURS, NothingToDraw, lr_sensitivity
from peftbench.record import Record


def trial(lr: float, nll: float | None = None, **changed: object) -> Record:
    metrics = {} if nll is None else {"accuracy": 1 - nll, "nll": nll}
    return records.record(split="valid", train={"lr": lr}, metrics=metrics, **changed)


@given(st.floats(0.2, 2), st.floats(0.05, 3), st.floats(-4, -2))
def test_the_good_region_of_a_parabola(best: float, curvature: float, middle: float) -> None:
    """best (1 + c x^2) <= 1.02 best where |x| <= sqrt(0.02 / c)."""
    logs = np.linspace(middle - 1, middle + 1, 2001)
    region = good_region(list(10**logs), list(best * (1 + curvature * (logs - middle) ** 2)))
    assert region is not None
    half = math.sqrt(0.02 / curvature)
    assert region.decades == pytest.approx(2 * half, abs=1e-3)
    assert math.log10(region.low) == pytest.approx(middle - half, abs=1e-3)
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
    assert good_region([1e-4, 1e-3], [math.nan, math.inf]) is None
    assert good_region([], []) is None


@given(st.lists(st.floats(-5, -1), min_size=1, max_size=40), st.integers(1, 5))
def test_bins_hold_neighbours_only(logs: list[float], per_decade: int) -> None:
    lrs = [10**log for log in logs]
    found = bins(lrs, per_decade)
    for lr, middle in zip(lrs, found, strict=True):
        assert abs(math.log10(lr / middle)) <= 1 / per_decade + 1e-9
    pairs = sorted(zip(lrs, found, strict=True))
    assert [middle for _, middle in pairs] == sorted(middle for _, middle in pairs)


def test_a_grid_is_its_own_bins() -> None:
    grid = [1e-4, 3e-4, 1e-3, 3e-3] * 2
    assert bins(grid) == grid
    many = list(np.geomspace(1e-4, 1e-3, 50))
    assert len(set(bins(many))) == 5


def test_a_run_that_diverged_counts_as_worst_and_one_ended_early_in_no_median() -> None:
    found = [trial(1e-3, nll, seed=seed) for seed, nll in enumerate((0.25, 0.5, 0.75))]
    found += [
        trial(1e-3, seed=3, status="diverged"),
        trial(1e-3, seed=4, status="pruned"),
        trial(1e-3, seed=5, status="failed"),
    ]
    (row,) = by_learning_rate(frame(found)).to_dict("records")
    assert (row["n"], row["diverged"], row["pruned"]) == (3, 1, 1)
    assert (row["nll"], row["nll.low"], row["nll.high"]) == (
        0.625,
        0.25,
        0.75,
    )  # of 0.25, 0.5, 0.75 and infinity
    assert (row["metric"], row["metric.low"], row["metric.high"]) == (0.375, 0.25, 0.75)


def test_where_most_diverged_the_median_is_infinite() -> None:
    found = [trial(1e-3, 0.5), *(trial(1e-3, seed=seed, status="diverged") for seed in (1, 2))]
    (row,) = by_learning_rate(frame(found)).to_dict("records")
    assert (row["nll"], row["metric"]) == (math.inf, -math.inf)


def test_runs_on_test_are_no_tuning() -> None:
    found = [records.record(train={"lr": 10.0**-i}) for i in (2, 3)]
    assert by_learning_rate(frame(found)).empty
    with pytest.raises(NothingToDraw, match="valid split"):
        lr_sensitivity(frame(found))
    with pytest.raises(NothingToDraw, match="two learning rates"):
        lr_sensitivity(frame([trial(1e-3, 0.5)]))


def test_the_figure_shows_medians_marks_and_widths() -> None:
    found = [
        trial(lr, nll, seed=seed)
        for lr, nll in ((1e-4, 1.04), (1e-3, 1.0), (1e-2, 1.02))
        for seed in (0, 1)
    ]
    found += [trial(1e-1, seed=seed, status="diverged") for seed in (0, 1)] + [
        trial(1e-2, seed=2, status="pruned")
    ]
    found += [trial(1e-3, 2.0, method="frozen"), trial(1e-3, method="vera", status="out-of-memory")]
    figure = lr_sensitivity(frame(found))
    metric, nll, regions = figure.axes
    for axes, values in ((metric, [-0.04, 0.0, -0.02]), (nll, [1.04, 1.0, 1.02])):
        (line,) = [line for line in axes.lines if len(line.get_xdata()) == 3]
        assert list(line.get_ydata()) == pytest.approx(values)
        assert axes.get_xscale() == "log"
        marks = {str(line.get_marker()): list(line.get_xdata()) for line in axes.lines}
        assert marks["x"] == [0.1]
        assert marks["|"] == [0.01]
    assert [text.get_text() for text in regions.texts] == [
        "1.5",
        "decades",
    ]  # half of the left decade, all of the right one
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
    figure = lr_sensitivity(frame([trial(1e-4, 1.0), trial(1e-3, 1.01)]))
    assert figure.axes[2].texts[0].get_text() == "at least 1.0"
