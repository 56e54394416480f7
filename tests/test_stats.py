"""Intervals cover and tests reject as often as they say, and every number is that of an independent
computation."""

import functools
import itertools
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import records
from scipy import stats as scipy_stats
from sklearn.metrics import matthews_corrcoef

from peftbench.analysis import estimates as stats
from peftbench.analysis import intervals as inference
from peftbench.analysis.estimates import Evidence, best, differences, intervals, performance_profile
from peftbench.analysis.frame import ARM, frame
from peftbench.analysis.intervals import (
    Array,
    half_width,
    holm,
    improvement,
    interval,
    p_value,
    sign_flip,
    sign_test,
    variances,
)
from peftbench.analysis.predictions import MATTHEWS, scored
from peftbench.record import Predictions, Record
from peftbench.store import Store

Tables = dict[str, pd.DataFrame]


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


# -- made-up data
# ----------------------------------------------------------------------------------------------------


def answers(
    random: np.random.Generator,
    shape: tuple[int, ...],
    run: float,
    method: float = 0.0,
    examples: float = 1.0,
) -> Array:
    """Right (1) or wrong (0) answers of two methods: (..., 2, S, N). Logits of an example's ease,
    and of a run's luck with sd `run`; the first method is better by `method`."""
    *many, seeds, n = shape
    logit = (
        1
        + random.normal(0, examples, (*many, 1, 1, n))
        + random.normal(0, run, (*many, 2, seeds, 1))
    )
    logit[..., 0, :, :] += method
    return (random.random((*many, 2, seeds, n)) < 1 / (1 + np.exp(-logit))).astype(float)


def predictions(score: Array, target: Array, nll: Array) -> pd.DataFrame:
    """What a run of a binary task leaves."""
    columns = {
        "sample": 0,
        "target": target.astype(int),
        "nll": nll,
        "count": 1,
        "answer": np.where(score == 1, target, 1 - target),
    }
    return pd.DataFrame({"id": [f"test/{i}" for i in range(len(score))], **columns, "score": score})


def run(table: pd.DataFrame, primary: str = "accuracy", **changed: object) -> Record:
    """A record whose metrics are those of its predictions."""
    metrics = {
        "accuracy": float(table["score"].mean()),
        "matthews_correlation": float(matthews_corrcoef(table["target"], table["answer"])),
        "nll": float(table["nll"].sum() / table["count"].sum()),
    }
    return records.record(
        metrics=metrics,
        primary=primary,
        predictions=Predictions(rows=len(table), sha256=""),
        **changed,
    )


def study(
    seeds: int, n: int, better: float = 1.0, primary: str = "accuracy"
) -> tuple[list[Record], Tables]:
    """Runs of full (better by a logit), lora and vera."""
    random = rng(7)
    target = random.integers(0, 2, n)
    found, tables = [], {}
    for method, gain in {"full": better, "lora": 0.0, "vera": 0.0}.items():
        for seed, right in enumerate(answers(random, (seeds, n), 0.1, gain)[0]):
            table = predictions(
                right, target, random.gamma(2, 0.2, n) - 0.1 * gain + 0.5 * (1 - right)
            )
            record = run(table, primary, method=method, seed=seed)
            found.append(record)
            tables[record.run_id] = table
    return found, tables


# -- the test and the interval
# ---------------------------------------------------------------------------------------


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
    v, df = variances(u.mean(1), u)
    assert v == pytest.approx([a, a + b - c], rel=1e-10)
    assert df == pytest.approx([3, (a + b - c) ** 2 / (a**2 / 3 + (b - c) ** 2 / 29)], rel=1e-10)


def test_several_seeds_alone_are_student_s_t_test() -> None:
    d = rng().normal(0.5, 1, (50, 6))
    assert p_value(d, None) == pytest.approx(
        scipy_stats.ttest_1samp(d, 0, axis=1).pvalue, rel=1e-10
    )
    expected = scipy_stats.ttest_1samp(d, 0, axis=1).confidence_interval()
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
def test_one_seed_s_sign_test_rejects_in_five_per_cent(n: int) -> None:
    right = answers(rng(n), (4000, 1, n), 0.0)
    p = np.array([sign_test(d) for d in right[:, 0, 0] - right[:, 1, 0]])
    assert 0.03 <= (p < 0.05).mean() <= 0.07


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
    power = scipy_stats.norm.sf(1.96 - 0.25 * np.sqrt(n))
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
    d = np.array([1.0, 1, 1, -1, 1, 1, 0, 0, 1])
    assert sign_test(d) == scipy_stats.binomtest(6, 7).pvalue
    assert sign_test(np.zeros(4)) == 1
    x = rng().normal(0.7, 1, 7)
    exact = scipy_stats.permutation_test(
        (x,), np.mean, permutation_type="samples", n_resamples=10_000
    )
    assert sign_flip(x) == pytest.approx(exact.pvalue, rel=1e-9)
    assert sign_flip(np.ones(5)) == 2 / 2**5
    assert np.isnan(sign_flip(np.ones(1)))
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
            value for value, adjusted in zip(p, holm(p), strict=True) if adjusted <= 0.05
        } == passed
    some = holm(np.array([0.01, np.nan, 0.02]))
    assert some[[0, 2]] == pytest.approx([0.02, 0.02])
    assert np.isnan(some[1])


def test_an_interval_is_as_wide_as_told_and_leans_as_the_resamples_do() -> None:
    low, high = interval(1.0, 0.5, rng().normal(1, 9, 20_000))
    assert high - low == pytest.approx(1)
    assert low == pytest.approx(0.5, abs=0.02)
    low, high = interval(0.0, 0.5, rng().exponential(1, 20_000) - 1)
    assert high - low == pytest.approx(1)
    assert -low == pytest.approx(0.975 / (0.975 + 2.69), abs=0.02)
    assert interval(1.0, 0.5, np.ones(9)) == (0.5, 1.5)


def test_seeds_that_agree_by_chance_are_not_certain() -> None:
    """Two seeds whose means are equal, as few right answers out of few often are: what examples say
    against each other counts."""
    d = np.zeros((2, 50))
    d[0, :20], d[0, 20:30], d[1, 20:40], d[1, 40:] = 1, -1, 1, -1
    c = variances(d.mean(1), d)[0]
    assert d.mean(1).std() == 0
    assert p_value(d.mean(1), d) > 0.1
    assert half_width(d.mean(1), d) > 12 * np.sqrt(c[0])
    assert c[0] > 0


@pytest.mark.parametrize(("gap", "low", "high"), [(0.0, 0.02, 0.06), (2.0, 0.6, 1.0)])
def test_the_best_of_several_is_named_only_by_more_than_chance(
    gap: float, low: float, high: float
) -> None:
    random, named = rng(2), []
    for _ in range(1500):
        values = random.normal(0, 1, (4, 5)) + np.array([[0.0], [gap], [-5], [-5]])
        found = best([Evidence(tuple(range(5)), each, None) for each in values], 1.0)
        assert found in (None, int(values.mean(1).argmax()))
        named.append(found is not None)
    assert low <= np.mean(named) <= high
    scores = np.arange(5) / 10
    assert best([Evidence(tuple(range(5)), scores, None)], 1.0) is None
    lower = [
        Evidence(tuple(range(5)), scores + gain, None)
        for gain in (np.array([0.1, 0.11, 0.12, 0.1, 0.11]), 0.0)
    ]
    assert best(lower, 1.0) == 0
    assert best(lower, -1.0) == 1
    assert best([*lower, Evidence((0,), np.array([np.nan]), None)], 1.0) == 0


# -- predictions
# -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["accuracy", "matthews_correlation", "nll", "pearson"])
def test_a_value_on_resampled_examples_is_that_of_the_resampled_rows(name: str) -> None:
    (_, *_, record), tables = study(1, 60)
    table = tables[record.run_id].assign(count=rng().integers(1, 5, 60))
    if name == "pearson":
        table = table.assign(answer=rng(1).normal(3, 1, 60), target=rng(2).normal(2, 1, 60))
    value: dict[str, Callable[[pd.DataFrame], float]] = {
        "accuracy": lambda t: t["score"].mean(),
        "matthews_correlation": lambda t: matthews_corrcoef(t["target"], t["answer"]),
        "nll": lambda t: t["nll"].sum() / t["count"].sum(),
        "pearson": lambda t: scipy_stats.pearsonr(t["answer"], t["target"]).statistic,
    }
    found = scored(name, np.array([value[name](table)]), [table])
    assert found is not None
    assert found.values() == pytest.approx([value[name](table)], rel=1e-9)
    for weights in rng(3).multinomial(60, np.full(60, 1 / 60), 20):
        expected = value[name](table.loc[np.repeat(table.index, weights)])
        assert found.resampled(weights[None].astype(float)) == pytest.approx(expected, rel=1e-9)
    each = found.each()[0]
    assert each.mean() == pytest.approx(value[name](table), rel=1e-9)
    if name == "accuracy":
        assert each == pytest.approx(table["score"].to_numpy())
    else:
        without = np.array([value[name](table.drop(index=i)) for i in table.index])
        assert each - each.mean() == pytest.approx(
            59 * (without.mean() - without), rel=1e-6, abs=1e-9
        )
    assert (
        scored(name, np.array([value[name](table) + 0.001]), [table]) is None
    )  # not what the record says


def test_several_answers_to_an_example_are_one_example() -> None:
    (*_, record), tables = study(1, 30)
    once = tables[record.run_id]
    table = pd.concat(
        [once.assign(sample=i, score=rng(i).integers(0, 2, 30).astype(float)) for i in range(4)],
        ignore_index=True,
    )
    unasked = once.assign(id=once["id"] + "x", score=np.nan)
    table = pd.concat([table, unasked], ignore_index=True).assign(answer="text")
    found = scored("pass@1", np.array([table["score"].mean()]), [table])
    assert found is not None
    assert len(found.ids) == 30
    assert found.each()[0] == pytest.approx(
        table.dropna().groupby("id", sort=False)["score"].mean().to_numpy()
    )
    both = pd.concat([once, unasked])
    found = scored("nll", np.array([both["nll"].mean()]), [table])
    assert found is not None
    assert len(found.ids) == 60
    assert scored("matthews_correlation", np.array([0.5]), [table]) is None


def test_a_constant_answer_has_a_matthews_correlation_of_0() -> None:
    assert MATTHEWS.value(np.array([30.0, 0, 12, 0])) == 0


# -- frames
# ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("primary", ["accuracy", "matthews_correlation"])
def test_intervals_hold_the_mean_of_seeds_and_say_what_they_cover(primary: str) -> None:
    found, tables = study(5, 200, primary=primary)
    runs = frame(found)
    table = intervals(runs, tables.__getitem__, rng())
    assert list(table["method"]) == ["full", "lora", "vera"]
    assert set(ARM) <= set(table.columns)
    for _, row in table.iterrows():
        values = [
            record.metrics[primary] or 0.0
            for record in found
            if record.spec.method == row["method"]
        ]
        assert row["n"] == 5
        assert row["mean"] == pytest.approx(np.mean(values))
        assert row["median"] == pytest.approx(np.median(values))
        assert row["iqm"] == pytest.approx(np.mean(sorted(values)[1:4]))
        assert row["low"] < row["mean"] < row["high"]
        assert row["over"] == row["nll.over"] == "seeds and examples"
        assert row["nll.low"] < row["nll.mean"] < row["nll.high"]
        alone = scipy_stats.sem(values) * scipy_stats.t.ppf(0.975, 4)
        assert row["high"] - row["low"] >= 2 * alone * 0.999
    seeds = intervals(runs, None, rng())
    assert set(seeds["over"]) == {"seeds"}
    values = [record.metrics[primary] or 0.0 for record in found if record.spec.method == "lora"]
    assert seeds["high"][1] - seeds["mean"][1] == pytest.approx(
        scipy_stats.sem(values) * scipy_stats.t.ppf(0.975, 4)
    )
    pd.testing.assert_frame_equal(intervals(runs, tables.__getitem__, rng()), table)


def test_one_seed_s_interval_covers_examples_only() -> None:
    found, tables = study(1, 400)
    table = intervals(frame(found), tables.__getitem__, rng())
    assert set(table["n"]) == {1}
    assert set(table["over"]) == {"examples"}
    p = table["mean"][0]
    assert table["high"][0] - table["low"][0] == pytest.approx(
        2 * 1.966 * np.sqrt(p * (1 - p) / 399), rel=1e-3
    )
    alone = intervals(frame(found), None, rng())
    assert alone["over"].isna().all()
    assert alone["low"].isna().all()
    assert (alone["mean"] == table["mean"]).all()


def test_an_interval_ends_where_the_metric_does() -> None:
    found, tables = study(2, 40, better=3.0)
    full = intervals(frame(found), tables.__getitem__, rng()).iloc[0]
    assert full["mean"] > 0.9
    assert full["high"] == 1
    assert full["low"] < full["mean"]


def test_predictions_that_are_not_those_of_the_record_are_not_used() -> None:
    found, tables = study(3, 100)
    wrong = {key: table.assign(score=1 - table["score"]) for key, table in tables.items()}
    table = intervals(frame(found), wrong.__getitem__, rng())
    assert set(table["over"]) == {"seeds"}
    assert set(table["nll.over"]) == {"seeds and examples"}
    kept = [
        record.model_copy(update={"predictions": None}) if record.spec.seed == 0 else record
        for record in found
    ]
    assert set(intervals(frame(kept), tables.__getitem__, rng())["nll.over"]) == {"seeds"}


def test_an_arm_that_lacks_a_value_has_no_mean_of_the_others() -> None:
    found = [
        records.record(seed=0),
        records.record(seed=1, metrics={"accuracy": None, "nll": 0.4}),
        records.record(method="full", seed=0),
    ]
    (row,) = intervals(frame(found), None, rng()).query("method == 'lora'").to_dict("records")
    assert np.isnan(row["mean"])
    assert np.isnan(row["low"])
    assert row["nll.low"] < row["nll.mean"]
    other = differences(frame([*found, records.record(method="full", seed=1)]), "lora", None, rng())
    assert other["difference"].isna().all()


def test_differences_are_paired_by_seed_and_positive_is_better() -> None:
    found, tables = study(4, 300)
    found = [record for record in found if (record.spec.method, record.spec.seed) != ("full", 2)]
    table = differences(frame(found), "lora", tables.__getitem__, rng()).set_index("method")
    metric = {(record.spec.method, record.spec.seed): record.metrics for record in found}
    for name, prefix, sign in (("accuracy", "", 1), ("nll", "nll.", -1)):
        d = [
            sign * ((metric["full", s][name] or 0) - (metric["lora", s][name] or 0))
            for s in (0, 1, 3)
        ]
        assert table.loc["full", f"{prefix}difference"] == pytest.approx(np.mean(d))
        assert table.loc["full", f"{prefix}low"] > 0
        assert table.loc["full", f"{prefix}p"] < 0.05 < table.loc["vera", f"{prefix}p"]
        assert table.loc["full", f"{prefix}improvement"] == 1
        assert table.loc["full", f"{prefix}p_holm"] == pytest.approx(
            2 * table.loc["full", f"{prefix}p"]
        )
        assert table.loc["full", f"{prefix}p_flip"] == 0.25
    assert table["n"].to_dict() == {"full": 3, "vera": 4}
    assert set(table["reference"]) == {"lora"}
    mirrored = differences(frame(found), "full", tables.__getitem__, rng()).set_index("method")
    assert mirrored.loc["lora", "difference"] == pytest.approx(-table.loc["full", "difference"])
    assert mirrored.loc["lora", "p"] == pytest.approx(table.loc["full", "p"])


def test_one_seed_is_mcnemar_s_exact_test() -> None:
    found, tables = study(1, 300, better=0.4)
    ids = {record.spec.method: record.run_id for record in found}
    table = differences(frame(found), "lora", tables.__getitem__, rng()).set_index("method")
    d = tables[ids["full"]]["score"] - tables[ids["lora"]]["score"]
    assert (
        table.loc["full", "p"]
        == scipy_stats.binomtest(int((d > 0).sum()), int((d != 0).sum())).pvalue
    )
    assert table.loc["full", "over"] == "examples"
    n = tables[ids["lora"]]["nll"] - tables[ids["full"]]["nll"]
    assert table.loc["full", "nll.p"] == pytest.approx(scipy_stats.ttest_1samp(n, 0).pvalue)
    assert differences(frame(found), "lora", None, rng())["p"].isna().all()


def test_only_shared_examples_are_compared() -> None:
    found, tables = study(2, 200)
    less = {
        record.run_id: tables[record.run_id].iloc[50:]
        if record.spec.method == "full"
        else tables[record.run_id]
        for record in found
    }
    found = [
        run(less[record.run_id], method=record.spec.method, seed=record.spec.seed)
        if record.spec.method == "full"
        else record
        for record in found
    ]
    table = differences(frame(found), "lora", less.__getitem__, rng()).set_index("method")
    tail = {
        record.run_id: less[record.run_id].set_index("id")["score"]["test/50":].mean()
        for record in found
    }
    full, lora = (
        np.mean([tail[record.run_id] for record in found if record.spec.method == method])
        for method in ("full", "lora")
    )
    assert table.loc["full", "difference"] == pytest.approx(full - lora)


def test_a_reference_is_a_label_or_the_first_arm_of_a_method() -> None:
    found = [
        records.record(method=m, seed=s, args={"alpha": a})
        for m, a in (("full", 1.0), ("lora", 16.0), ("lora", 48.0))
        for s in range(3)
    ]
    assert set(differences(frame(found), "lora", None, rng())["reference"]) == {"lora (alpha=16)"}
    assert set(differences(frame(found), "lora (alpha=48)", None, rng())["reference"]) == {
        "lora (alpha=48)"
    }
    assert differences(frame(found), "vera", None, rng()).empty
    assert differences(frame([]), "lora", None, rng()).empty
    assert intervals(frame([]), None, rng()).empty
    assert list(differences(frame([]), "lora", None, rng()).columns) == list(
        differences(frame(found), "lora", None, rng()).columns
    )


def test_different_devices_are_never_compared() -> None:
    found = [
        records.record(method=m, device=d, seed=s)
        for m in ("lora", "full")
        for d in ("cpu", "cuda")
        for s in range(2)
    ]
    table = differences(frame(found), "lora", None, rng())
    assert list(table["device"]) == ["cpu", "cuda"]
    assert list(table["method"]) == ["full", "full"]
    assert differences(frame(found[:2] + found[6:]), "lora", None, rng()).empty


def test_predictions_are_those_of_the_run_s_device(tmp_path: Path) -> None:
    found, tables = study(2, 50)
    store = Store(tmp_path / "results")
    for record in found[:4]:
        store.write(record, tables[record.run_id])
        other = tables[record.run_id].assign(nll=lambda table: table["nll"] + 1)
        store.write(
            run(other, method=record.spec.method, seed=record.spec.seed, device="cuda"), other
        )
    alone = run(tables[found[4].run_id], method="vera", seed=0)
    store.write(alone, tables[found[4].run_id])
    table = intervals(frame(store.read_all()), store.predictions, rng())
    assert (
        list(table["nll.over"])
        == ["seeds and examples"] * 2 + ["examples"] + ["seeds and examples"] * 2
    )
    assert table["nll.mean"][3] == pytest.approx(table["nll.mean"][0] + 1)


def test_a_store_s_method_against_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ten runs of one method; again and again two hands of them, on resampled examples, each hand
    called a method."""
    monkeypatch.setattr(
        stats, "example_weights", functools.partial(inference.example_weights, resamples=100)
    )
    seeds, blocks, n = 3, 600, 60
    random = rng(3)
    right = answers(random, (10, n), 0.3)[0]
    nll = random.gamma(2, 0.2, n) + random.gamma(2, 0.1, (10, n)) + random.normal(0, 0.03, (10, 1))
    found, tables = [], {}
    for block in range(blocks):
        picked, rows = random.permutation(10)[: 2 * seeds], random.integers(0, n, n)
        for i, which in enumerate(picked):
            table = predictions(right[which, rows], np.ones(n), nll[which, rows])
            metrics = {"accuracy": float(table["score"].mean()), "nll": float(table["nll"].mean())}
            made = Predictions(rows=n, sha256="")
            method = ("lora", "vera")[i % 2]
            record = records.record(
                model=f"m{block}", method=method, seed=i // 2, metrics=metrics, predictions=made
            )
            found.append(record)
            tables[record.run_id] = table
    table = differences(frame(found), "lora", tables.__getitem__, random)
    for prefix in ("", "nll."):
        assert len(table) == blocks
        assert 0.03 <= (table[f"{prefix}p"] < 0.05).mean() <= 0.07
        outside = (table[f"{prefix}low"] > 0) | (table[f"{prefix}high"] < 0)
        assert 0.03 <= outside.mean() <= 0.07


def test_a_performance_profile_counts_tasks_alike() -> None:
    scores = {
        ("a", "lora"): (0.1, 0.5),
        ("a", "full"): (0.9, 0.9),
        ("b", "lora"): (0.7, 0.8, 0.9, 1.0),
        ("b", "full"): (0.2,),
        ("a", "vera"): (0.5,),
    }
    found = [
        records.record(task=task, method=method, seed=seed, metrics={"accuracy": value, "nll": 0.1})
        for (task, method), values in scores.items()
        for seed, value in enumerate(values)
    ]
    profile = performance_profile(frame(found), [0.0, 0.5, 0.85])
    assert profile["lora"].tolist() == [1.0, (1 / 2 + 1) / 2, (0 + 1 / 2) / 2]
    assert profile["full"].tolist() == [1.0, 0.5, 0.5]
    assert list(profile.columns) == ["full", "lora"]  # vera lacks a task
