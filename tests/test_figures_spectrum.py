"""The figure of singular values: its lines are the records' shares, and it says so where there are
none."""

from typing import Any

import numpy as np
import pytest
import records

from peftbench.analysis.results import Results
from peftbench.figures.panels import NothingToDraw
from peftbench.figures.singular_values import singular_values
from peftbench.record import Record

SHARES = {1: (0.25, 0.5), 8: (0.5, 0.75), 64: (0.75, 1.0)}


def run(shift: float = 0.0, **changed: Any) -> Record:
    ranks = {"effective_rank.weight": 300.0, "effective_rank.change": 12.0}
    metrics = {"accuracy": 0.5, "nll": 0.5} | ranks
    for k, (weight, change) in SHARES.items():
        metrics |= {f"energy{k}.weight": weight - shift, f"energy{k}.change": change - shift}
    return records.record(method="full", metrics=metrics, **changed)


def test_lines_are_means_over_seeds_and_bands_hold_them() -> None:
    figure = singular_values(Results((run(0.0, seed=1), run(0.125, seed=2))))
    axes = figure.axes[0]
    for place, line in enumerate(axes.get_lines()):
        means = [pair[place] - 0.0625 for pair in SHARES.values()]
        assert np.asarray(line.get_xydata()).T.tolist() == [list(SHARES), means]
        band = np.asarray(axes.collections[place].get_paths()[0].vertices)[:, 1]
        assert (band.min(), band.max()) == (SHARES[1][place] - 0.125, SHARES[64][place])
    legend = figure.axes[1].get_legend()
    assert legend is not None
    ranks = [text.get_text().rpartition(" ")[2] for text in legend.get_texts()]
    assert ranks == ["300", "12"]


def test_a_panel_for_each_task() -> None:
    figure = singular_values(Results((run(task="reviews"), run(task="sst2"))))
    titles = [axes.get_title(loc="left") for axes in figure.axes]
    assert [title for title in titles if title] == ["reviews", "sst2"]


def test_nothing_to_draw_says_what_is_missing() -> None:
    missing = "no run of full fine-tuning on test has singular values"
    with pytest.raises(NothingToDraw, match=missing):
        singular_values(Results((records.record(method="lora"),)))
