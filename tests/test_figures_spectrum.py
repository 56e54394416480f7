"""The figure of singular values: its lines are the records' shares, and it says so where there are
none."""

import pytest
import records

from peftbench.analysis.frame import frame
from peftbench.figures import NothingToDraw, singular_values
from peftbench.record import Record

SHARES = {1: (0.25, 0.5), 8: (0.5, 0.75), 64: (0.75, 1.0)}


def run(shift: float = 0.0, **changed: object) -> Record:
    metrics = {
        "accuracy": 0.5,
        "nll": 0.5,
        "effective_rank.weight": 300.0,
        "effective_rank.change": 12.0,
    }
    for k, (weight, change) in SHARES.items():
        metrics |= {f"energy{k}.weight": weight - shift, f"energy{k}.change": change - shift}
    return records.record(method="full", metrics=metrics, **changed)


def test_lines_are_means_over_seeds_and_bands_hold_them() -> None:
    axes = singular_values(frame([run(0.0, seed=1), run(0.125, seed=2)])).axes[0]
    for place, line in enumerate(axes.get_lines()):
        assert line.get_xdata().tolist() == list(SHARES)
        assert line.get_ydata().tolist() == [pair[place] - 0.0625 for pair in SHARES.values()]
        band = axes.collections[place].get_paths()[0].vertices[:, 1]
        assert (band.min(), band.max()) == (SHARES[1][place] - 0.125, SHARES[64][place])


def test_a_panel_for_each_task() -> None:
    titles = [
        axes.get_title(loc="left")
        for axes in singular_values(frame([run(task="reviews"), run(task="sst2")])).axes
    ]
    assert [title for title in titles if title] == ["reviews", "sst2"]


def test_nothing_to_draw_says_what_is_missing() -> None:
    with pytest.raises(
        NothingToDraw, match="no run of full fine-tuning on test has singular values"
    ):
        singular_values(frame([records.record(method="lora")]))
