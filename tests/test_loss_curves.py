"""Smoothing and steps to a loss: exact on straight lines, one definition, and never told apart from
reached."""

import numpy as np
import pytest
import records

from peftbench.analysis.blocks import Run
from peftbench.analysis.loss_curves import Curve, curve, steps_to_reach, window
from peftbench.record import Point


def falling(slope: float, steps: int = 100, start: float = 2.0) -> Curve:
    """Losses on a straight line."""
    at = np.arange(1, steps + 1, dtype=float)
    return Curve(at, start - slope * at)


@pytest.mark.parametrize(
    ("points", "width"), [(1, 1), (19, 1), (20, 3), (39, 3), (45, 5), (100, 11), (400, 41)]
)
def test_a_window_is_odd_and_a_tenth_of_the_points(points: int, width: int) -> None:
    assert window(points) == width


def test_smoothing_leaves_a_straight_line_as_it_is() -> None:
    line = falling(0.01)
    smooth = line.smoothed(7)
    assert smooth.losses == pytest.approx(line.losses[3:-3])
    assert list(smooth.steps) == list(line.steps[3:-3])
    assert len(falling(0.01, 5).smoothed(7).losses) == 0
    noisy = Curve(line.steps, line.losses + np.where(line.steps % 2, 0.1, -0.1))
    assert np.abs(noisy.smoothed(9).losses - line.losses[4:-4]).max() < 0.012


def test_the_end_of_a_curve_is_the_mean_of_its_last_tenth() -> None:
    assert falling(0.01).end() == pytest.approx(2 - 0.01 * 95.5)
    assert falling(1.0, 3).end() == -1
    assert falling(1.0, 0).end() is None


@pytest.mark.parametrize("times", [1.0, 1.25, 2.0])
def test_who_falls_k_times_as_fast_takes_a_kth_of_the_steps(times: float) -> None:
    slope = 2.0**-7  # exact in binary, so that no rounding decides
    theirs = falling(slope)
    reached = steps_to_reach(falling(slope * times), theirs)
    assert reached is not None
    halfway = theirs.steps[-1] / 2
    assert not reached.never
    assert reached.steps == np.ceil(halfway / times)


def test_what_is_never_reached_counts_one_past_the_end_and_says_so() -> None:
    reached = steps_to_reach(falling(0.004), falling(0.01))
    assert reached is not None
    assert reached.never
    assert reached.steps == falling(0.01).smoothed().steps[-1] + 1


def test_a_short_curve_reaches_nothing() -> None:
    assert steps_to_reach(falling(0.01, 9), falling(0.01)) is None
    assert steps_to_reach(falling(0.01), falling(0.01, 9)) is None


def test_a_run_s_curve_has_the_losses_of_one_kind() -> None:
    points = (
        Point(step=1, train_loss=2.0, lr=0.1),
        Point(step=2, train_loss=1.5, valid_loss=1.7, lr=0.1),
        Point(step=3, train_loss=1.2, lr=0.1),
        Point(step=3, valid_loss=1.4),
    )
    run = Run(records.record(curve=points))
    assert list(curve(run, "train_loss").losses) == [2.0, 1.5, 1.2]
    assert list(curve(run, "valid_loss").steps) == [2, 3]
    assert list(curve(run, "valid_loss").losses) == [1.7, 1.4]
