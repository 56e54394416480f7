"""The page on statistics has every cell of the grid that its script measures, and the script judges
runs of a known truth as the tables judge real ones."""

import re
from pathlib import Path

import marked
import numpy as np
import pytest
from calibration import (
    COLUMNS,
    EVEN,
    FAR,
    GAP,
    MODELS,
    REPLICATIONS,
    UNEVEN_COLUMNS,
    WORSE,
    Cell,
    block,
    cells,
    mark,
    pooled_p,
    prior,
    tables,
    uneven_cells,
)
from made_up import rng
from scipy import stats

from peftbench.analysis.intervals import p_value

PAGE = Path(__file__).parents[1] / "docs" / "statistics.md"


def rows(text: str) -> list[list[str]]:
    """The cells of all rows of numbers in Markdown tables."""
    lines = [line for line in text.splitlines() if line.startswith("| ") and "---" not in line]
    table = [[each.strip() for each in line.strip("| ").split(" | ")] for line in lines]
    return [row for row in table if re.fullmatch(r"\d\.\d{3}[!°]?", row[-1])]


def test_the_page_has_every_cell_of_the_grid() -> None:
    between = marked.part("calibration").search(PAGE.read_text(encoding="utf-8"))
    assert between is not None
    assert between[0].count(f"{REPLICATIONS} replications") == 1
    number = r"[01]\.\d{3}[!°]?"
    expected = [(c, len(COLUMNS)) for c in cells()]
    expected += [(c, len(UNEVEN_COLUMNS)) for c in uneven_cells()]
    made = rows(between[0])
    assert len(made) == len(expected)
    for row, (cell, width) in zip(made, expected, strict=True):
        key = [
            cell.value,
            str(cell.seeds),
            f"{cell.examples:,}",
            *([cell.wide] if cell.wide else []),
        ]
        assert row[: len(key)] == key
        assert len(row) == len(key) + width
        assert all(re.fullmatch(number, each) for each in row[len(key) :])


@pytest.mark.parametrize("value", MODELS)
def test_made_up_arms_have_the_values_they_are_said_to_have(value: str) -> None:
    model = MODELS[value]
    seeds, n = (4, 277) if value == "Spearman" else (10, 2000)
    arms = block(model, rng(3), EVEN, seeds, n)
    means = [float(arm.numbers.mean()) for arm in arms]
    true = model.truth - model.sign * model.effect * WORSE
    assert means == pytest.approx(true, abs=0.1 if n < 1000 else 0.05)
    # Arms share their examples, so that their differences are known better.
    assert means[5] - means[0] == pytest.approx(-model.sign * model.effect * FAR, abs=0.03)


@pytest.mark.parametrize("value", ["accuracy", "F1", "nll per token"])
def test_a_test_rejects_equal_arms_seldom_and_an_interval_covers(value: str) -> None:
    judged = Cell(value, 5, 277).replicated(range(40))
    rate = {name: np.mean([one[name] for one in judged]) for name in COLUMNS}
    assert rate["A/A"] <= 0.2  # 8 of 40 where 2 are expected: one in 1,500
    assert rate["* tie"] <= 0.2
    assert rate["difference"] >= 0.8
    assert rate["mean"] >= 0.8


def test_replications_are_the_same_in_any_parts() -> None:
    cell = Cell("nll", 3, 277)
    assert cell.replicated(range(4)) == [*cell.replicated(range(2)), *cell.replicated(range(2, 4))]


def test_what_chance_does_not_explain_is_marked() -> None:
    assert [mark("A/A", rate, 400) for rate in (0.02, 0.05, 0.09)] == ["°", "", "!"]
    assert [mark("mean", rate, 400) for rate in (0.91, 0.95, 0.98)] == ["!", "", "°"]
    assert mark("power", 0.0, 400) == ""
    rates = {Cell("nll", 3, 277): dict.fromkeys(COLUMNS, 0.0)}
    assert rows(tables(rates, 400)) == [
        [
            "nll",
            "3",
            "277",
            "0.000°",
            "0.000!",
            "0.000!",
            "0.000",
            "0.000°",
            "0.000",
            "0.000°",
            "0.000",
        ]
    ]


def test_a_prior_is_found_again_from_the_variances_it_made() -> None:
    random, df, prior_df, middle = rng(), 4, 6.0, 2.0
    true = middle * prior_df / random.chisquare(prior_df, 40_000)
    found_df, found_middle = prior(true * random.chisquare(df, len(true)) / df, df)
    assert found_df == pytest.approx(prior_df, rel=0.1)
    assert found_middle == pytest.approx(middle, rel=0.03)
    equal = stats.chi2.ppf((np.arange(6) + 0.5) / 6, 8) / 8  # less varied than chance makes them
    assert prior(equal, df) == (np.inf, pytest.approx(equal.mean()))


def test_pooling_sees_more_than_one_pair_s_seeds() -> None:
    """Where one pair's seeds happen to agree, those of its block say that it is chance."""
    arms = [block(MODELS["nll"], rng(i), EVEN, 3, 277) for i in range(40)]
    own = [float(p_value(b[0].numbers - b[2].numbers, None)) for b in arms]
    pooled = [pooled_p([b[place] for place in GAP]) for b in arms]
    assert np.mean(np.array(pooled) < 0.05) > np.mean(np.array(own) < 0.05)
