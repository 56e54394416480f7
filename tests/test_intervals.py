"""Intervals cover and tests reject as often as they say, and every number is that of an independent
computation."""

import itertools
from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
import pytest
from made_up import answers, column, rng, study
from scipy import stats as scipy_stats
from sklearn.metrics import f1_score, matthews_corrcoef

from peftbench.analysis.blocks import Run
from peftbench.analysis.estimates import Values, best
from peftbench.analysis.intervals import (
    ALPHA,
    CORRELATION,
    POSITIVE,
    SHARE,
    Scale,
    half_width,
    holm,
    improvement,
    p_value,
    rejects,
    sign_flip,
    student_interval,
    variances,
)
from peftbench.analysis.predictions import MATTHEWS, by_example


def test_one_level_decides_and_includes_its_edge() -> None:
    assert rejects(ALPHA)
    assert not rejects(ALPHA + 1e-12)
    assert not rejects(None)


def test_student_s_interval_is_the_half_width_of_seeds_alone() -> None:
    for values in rng().normal(0.5, 1, (20, 6)):
        interval = student_interval(values)
        half = half_width(values, None)
        assert interval == pytest.approx((values.mean() - half, values.mean() + half), rel=1e-9)
    assert student_interval(np.array([0.3])) is None
    assert student_interval(np.full(4, 0.3)) == (0.3, 0.3)


# -- the test and the interval ----


def test_variances_are_those_of_the_analysis_of_variance() -> None:
    u = rng().normal(size=(4, 30)) + rng(1).normal(size=(4, 1)) + rng(2).normal(size=30)
    grand = u.mean()
    a = sum((row.mean() - grand) ** 2 for row in u) / 3 / 4
    b = sum((column.mean() - grand) ** 2 for column in u.T) / 29 / 30
    rest = sum(
        (u[s, i] - u[s].mean() - u[:, i].mean() + grand) ** 2
        for s, i in itertools.product(range(4), range(30))
    )
    c = rest / (3 * 29) / (4 * 30)
    v, df = zip(*variances(u.mean(1), u), strict=True)
    assert v == pytest.approx([a, a + b - c], rel=1e-10)
    assert df == pytest.approx([3, (a + b - c) ** 2 / (a**2 / 3 + (b - c) ** 2 / 29)], rel=1e-10)


def test_several_seeds_alone_are_student_s_t_test() -> None:
    d = rng().normal(0.5, 1, (50, 6))
    theirs: Any = scipy_stats.ttest_1samp(d, 0, axis=1)
    assert p_value(d, None) == pytest.approx(theirs.pvalue, rel=1e-10)
    expected = theirs.confidence_interval()
    assert d.mean(1) - half_width(d, None) == pytest.approx(expected.low, rel=1e-9)


def test_where_nothing_tells_there_is_no_answer() -> None:
    assert np.isnan(p_value(np.array([0.3]), None))
    assert np.isnan(p_value(np.array([0.3, 0.3]), None))
    assert np.isnan(half_width(np.array([0.3, 0.3]), None))
    rounded = np.array([0.81, 0.72, 0.73]) - np.array([0.71, 0.62, 0.63])
    assert rounded.var() > 0
    assert np.isnan(p_value(rounded, None))
    assert p_value(np.zeros(3), np.zeros((3, 9))) == 1


@pytest.mark.parametrize(("seeds", "luck"), [*itertools.product((2, 3, 5, 8), (0.0, 0.2, 0.6))])
def test_a_method_against_itself_is_rejected_in_five_per_cent(seeds: int, luck: float) -> None:
    right = answers(rng(seeds), (4000, seeds, 100), luck)
    d = right[:, 0] - right[:, 1]
    rejected = (p_value(d.mean(-1), d) < 0.05).mean()
    assert rejected <= 0.07
    assert (
        rejected >= 0.03 or seeds == 2
    )  # two seeds of few examples are often alike by chance, which is not taken for certainty


@pytest.mark.parametrize("n", [200, 1000])
def test_one_seed_s_test_rejects_in_five_per_cent(n: int) -> None:
    right = answers(rng(n), (4000, 1, n), 0.0)
    d = right[:, 0] - right[:, 1]
    assert 0.03 <= (p_value(d.mean(-1), d) < 0.05).mean() <= 0.07


@pytest.mark.parametrize(("seeds", "effect"), [(3, 1.5), (5, 0.8), (5, 1.2), (10, 0.7)])
def test_a_planted_effect_is_found_as_often_as_theory_says(seeds: int, effect: float) -> None:
    n, sd = 100, 1.0
    d = rng(seeds).normal(effect, sd, (6000, seeds, 1)) + rng(seeds + 1).normal(
        0, 0.5, (6000, seeds, n)
    )
    true = np.sqrt(sd**2 + 0.25 / n)  # of a seed's mean over examples
    edge = scipy_stats.t.ppf(0.975, seeds - 1)
    noncentral = scipy_stats.nct(seeds - 1, effect / true * np.sqrt(seeds))
    power = noncentral.sf(edge) + noncentral.cdf(-edge)
    assert 0.2 < power < 0.9
    assert (p_value(d.mean(-1), d) < 0.05).mean() == pytest.approx(
        power, abs=4 * np.sqrt(power * (1 - power) / 6000)
    )


def test_an_effect_of_examples_is_found_as_often_as_theory_says() -> None:
    """Where seeds agree, it is the examples that limit what can be known: a normal test of N of
    them."""
    n = 100
    d = 0.25 + rng().normal(0, 1, (4000, 1, n)) + rng(1).normal(0, 0.02, (4000, 5, n))
    power = float(scipy_stats.norm.sf(1.96 - 0.25 * np.sqrt(n)))
    assert (p_value(d.mean(-1), d) < 0.05).mean() == pytest.approx(
        power, abs=4 * np.sqrt(power * (1 - power) / 4000)
    )


@pytest.mark.parametrize(
    ("seeds", "luck", "ease"), [*itertools.product((2, 3, 5), (0.0, 0.1, 0.3), (0.0, 1.0))]
)
def test_intervals_cover_the_truth(seeds: int, luck: float, ease: float) -> None:
    random = rng(seeds)
    u = (
        random.normal(0, luck, (3000, seeds, 1))
        + random.normal(0, ease, (3000, 1, 100))
        + random.normal(0, 1, (3000, seeds, 100))
    )
    covered = (np.abs(u.mean((-1, -2))) < half_width(u.mean(-1), u)).mean()
    assert 0.93 <= covered <= 0.985  # two seeds are the widest


def test_small_tests_are_those_of_scipy() -> None:
    x = rng().normal(0.7, 1, 7)
    exact = scipy_stats.permutation_test(
        (x,), np.mean, permutation_type="samples", n_resamples=10_000
    )
    assert sign_flip(x) == pytest.approx(exact.pvalue, rel=1e-9)
    assert sign_flip(np.ones(5)) == 2 / 2**5
    assert sign_flip(np.ones(1)) is None
    y = rng(1).normal(0, 1, 5).round()
    assert improvement(x.round(), y) == scipy_stats.mannwhitneyu(x.round(), y).statistic / 35


def test_holm_rejects_what_its_steps_reject() -> None:
    for p in rng().uniform(0, 0.06, (200, 6)):
        steps = list(enumerate(sorted(p)))
        passed = {
            value
            for _, value in itertools.takewhile(lambda step: step[1] <= 0.05 / (6 - step[0]), steps)
        }
        assert {
            value for value, adjusted in zip(p, holm(p.tolist()), strict=True) if rejects(adjusted)
        } == passed
    assert holm([0.01, None, 0.02]) == pytest.approx([0.02, None, 0.02])


@pytest.mark.parametrize(
    ("scale", "mean"), [(SHARE, 0.02), (SHARE, 0.97), (CORRELATION, -0.9), (POSITIVE, 0.05)]
)
def test_an_interval_stays_in_its_range_and_leans_to_the_middle(scale: Scale, mean: float) -> None:
    low, high = scale.interval(mean, 0.2)
    assert scale.low < low < mean < high < scale.high
    towards_the_middle = mean < (scale.low + min(scale.high, 1)) / 2
    assert (high - mean > mean - low) == towards_the_middle
    narrow = scale.interval(mean, 1e-6)
    assert narrow == pytest.approx((mean - 1e-6, mean + 1e-6), rel=1e-4, abs=1e-10)
    for outside in (scale.low, scale.high):
        if np.isfinite(outside):
            assert scale.interval(outside, 0.1) == (outside - 0.1, outside + 0.1)


@pytest.mark.parametrize("share", [0.03, 0.5, 0.9])
def test_a_share_s_interval_covers_it(share: float) -> None:
    """Seeds and examples as they are in a run; with few right answers as well."""
    right = (rng(4).random((4000, 5, 277)) < share).astype(float)
    half = half_width(right.mean(-1), right)
    ends = [SHARE.interval(*pair) for pair in zip(right.mean((-1, -2)), half, strict=True)]
    assert 0.93 <= np.mean([low <= share <= high for low, high in ends]) <= 0.985


def test_seeds_that_agree_by_chance_are_not_certain() -> None:
    """Two seeds whose means are equal, as few right answers out of few often are: what examples say
    against each other counts."""
    d = np.zeros((2, 50))
    d[0, :20], d[0, 20:30], d[1, 20:40], d[1, 40:] = 1, -1, 1, -1
    (c, _), _ = variances(d.mean(1), d)
    assert d.mean(1).std() == 0
    assert p_value(d.mean(1), d) > 0.1
    assert half_width(d.mean(1), d) > 12 * np.sqrt(c)
    assert c > 0


@pytest.mark.parametrize(("gap", "low", "high"), [(0.0, 0.02, 0.06), (2.0, 0.6, 1.0)])
def test_the_best_of_several_is_named_only_by_more_than_chance(
    gap: float, low: float, high: float
) -> None:
    random, named = rng(2), []
    for _ in range(1500):
        values = random.normal(0, 1, (4, 5)) + np.array([[0.0], [gap], [-5], [-5]])
        found = best([Values(tuple(range(5)), each, None) for each in values], 1.0)
        assert found in (None, int(values.mean(1).argmax()))
        named.append(found is not None)
    assert low <= np.mean(named) <= high
    scores = np.arange(5) / 10
    assert best([Values(tuple(range(5)), scores, None)], 1.0) is None
    lower = [
        Values(tuple(range(5)), scores + gain, None)
        for gain in (np.array([0.1, 0.11, 0.12, 0.1, 0.11]), 0.0)
    ]
    assert best(lower, 1.0) == 0
    assert best(lower, -1.0) == 1
    assert best([*lower, Values((0,), np.array([np.nan]), None)], 1.0) == 0


# -- predictions ----


def spearman(x: Any, y: Any) -> float:
    result: Any = scipy_stats.spearmanr(x, y)
    return float(result.statistic)


@pytest.mark.parametrize(
    "name", ["accuracy", "matthews_correlation", "f1", "nll", "pearson", "spearman"]
)
def test_what_an_example_stands_for_is_what_leaving_it_out_changes(name: str) -> None:
    (_, *_, record), tables = study(1, 60)
    table = tables[Run(record).key].assign(count=rng().integers(1, 5, 60))
    if name in ("pearson", "spearman"):
        table = table.assign(answer=rng(1).normal(3, 1, 60), target=rng(2).normal(2, 1, 60))
    value: dict[str, Callable[[pd.DataFrame], float]] = {
        "accuracy": lambda t: column(t, "score").mean(),
        "matthews_correlation": lambda t: matthews_corrcoef(t["target"], t["answer"]),
        "f1": lambda t: f1_score(t["target"], t["answer"]),
        "spearman": lambda t: spearman(t["answer"], t["target"]),
        "nll": lambda t: column(t, "nll").sum() / column(t, "count").sum(),
        "pearson": lambda t: np.corrcoef(t["answer"], t["target"])[0, 1],
    }
    found = by_example(name, np.array([value[name](table)]), [table])
    assert found is not None
    assert found.values() == pytest.approx([value[name](table)], rel=1e-9)
    each = found.scores()[0]
    assert each.mean() == pytest.approx(value[name](table), rel=1e-9)
    if name == "accuracy":
        assert each == pytest.approx(table["score"].to_numpy())
    else:
        without = np.array([value[name](table.drop(index=i)) for i in table.index])
        assert each - each.mean() == pytest.approx(
            59 * (without.mean() - without), rel=1e-6, abs=1e-9
        )
    assert (
        by_example(name, np.array([value[name](table) + 0.001]), [table]) is None
    )  # not what the record says


def test_leaving_out_one_of_many_tied_ranks_is_what_scipy_says() -> None:
    x = rng(1).normal(0, 2, 150).round()
    y = (x + rng(2).normal(0, 1, 150)).round()
    table = pd.DataFrame({"id": range(150), "answer": x, "target": y})
    found = by_example("spearman", np.array([spearman(x, y)]), [table])
    assert found is not None
    each = found.scores()[0]
    without = np.array([spearman(np.delete(x, i), np.delete(y, i)) for i in range(150)])
    assert each - each.mean() == pytest.approx(149 * (without.mean() - without), abs=1e-9)


def test_several_answers_to_an_example_are_one_example() -> None:
    (*_, record), tables = study(1, 30)
    once = tables[Run(record).key]
    table = pd.concat(
        [once.assign(sample=i, score=rng(i).integers(0, 2, 30).astype(float)) for i in range(4)],
        ignore_index=True,
    )
    unasked = once.assign(id=once["id"] + "x", score=np.nan)
    table = pd.concat([table, unasked], ignore_index=True).assign(answer="text")
    found = by_example("pass@1", np.array([table["score"].mean()]), [table])
    assert found is not None
    assert len(found.ids) == 30
    means: Any = table.dropna().groupby("id", sort=False)["score"].mean()
    assert found.scores()[0] == pytest.approx(means.to_numpy())
    both = pd.concat([once, unasked])
    found = by_example("nll", np.array([both["nll"].mean()]), [table])
    assert found is not None
    assert len(found.ids) == 60
    assert by_example("matthews_correlation", np.array([0.5]), [table]) is None


def test_a_constant_answer_has_a_matthews_correlation_of_0() -> None:
    assert MATTHEWS.value(np.array([30.0, 0, 12, 0])) == 0
