"""Estimates of arms and their differences: paired, honest about what they cover, and those of an
independent computation."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import records
from made_up import Tables, answers, column, predictions, rng, run, study
from scipy import stats as scipy_stats

from peftbench import store as storing
from peftbench.analysis import predictions as by_examples
from peftbench.analysis.blocks import Arm, Run, Value
from peftbench.analysis.estimates import Difference, Estimate, Interval
from peftbench.analysis.intervals import CORRELATION, SHARE
from peftbench.analysis.results import Results
from peftbench.record import Predictions, Record
from peftbench.store import Store

BOTH: tuple[Value, ...] = ("metric", "nll")


def results(found: list[Record], tables: Tables | None = None) -> Results:
    return Results(tuple(found), tables.__getitem__ if tables is not None else None)


def estimated(made: Results, name: Value = "metric") -> dict[str, Estimate]:
    """By the label of an arm."""
    return {
        arm.label: estimate
        for block in made.final
        for arm, estimate in made.estimates(block, name).items()
    }


def compared(made: Results, method: str = "lora", name: Value = "metric") -> dict[str, Difference]:
    """By the method: differences to the first arm of one, over all blocks that have it."""
    return {
        arm.method: difference
        for block in made.final
        if (reference := block.first(method))
        for arm, difference in made.differences(block, reference, name).items()
    }


def ends(interval: Interval | None) -> tuple[float, float]:
    assert interval is not None
    return interval.low, interval.high


@pytest.mark.parametrize("primary", ["accuracy", "matthews_correlation"])
def test_intervals_hold_the_mean_of_seeds_and_say_what_they_cover(primary: str) -> None:
    found, tables = study(5, 200, primary=primary)
    of_seeds = {
        method: [r.metrics[primary] or 0.0 for r in found if r.spec.method == method]
        for method in ("full", "lora", "vera")
    }
    metric, nll = (estimated(results(found, tables), name) for name in BOTH)
    assert list(metric) == ["full", "lora", "vera"]
    for method, values in of_seeds.items():
        assert metric[method].mean == pytest.approx(np.mean(values))
        assert metric[method].std == pytest.approx(np.std(values, ddof=1))
        low, high = ends(metric[method].interval)
        mean = float(np.mean(values))
        assert low < mean < high
        alone = scipy_stats.sem(values) * scipy_stats.t.ppf(0.975, 4)
        scale = CORRELATION if primary == "matthews_correlation" else SHARE
        assert scale.forth(high) - scale.forth(low) >= 2 * alone * scale.slope(mean) * 0.999
        low, high = ends(nll[method].interval)
        assert low < (nll[method].mean or 0) < high
        for estimate in (metric[method], nll[method]):
            assert estimate.interval is not None
            assert estimate.interval.over == "seeds and examples"
    seeds = estimated(results(found))["lora"]
    assert seeds.interval is not None
    assert seeds.interval.over == "seeds"
    assert seeds.interval.high - (seeds.mean or 0) == pytest.approx(
        scipy_stats.sem(of_seeds["lora"]) * scipy_stats.t.ppf(0.975, 4)
    )
    assert estimated(results(found, tables)) == metric  # the same every time


def test_one_seed_s_interval_covers_examples_only() -> None:
    found, tables = study(1, 400)
    (estimate, *_) = estimated(results(found, tables)).values()
    p = estimate.mean or 0
    assert estimate.interval is not None
    assert estimate.interval.over == "examples"
    low, high = ends(estimate.interval)
    half = 1.966 * np.sqrt(p * (1 - p) / 399)
    assert (low, high) == pytest.approx(SHARE.interval(p, half), rel=1e-3)
    (alone, *_) = estimated(results(found)).values()
    assert (alone.mean, alone.std, alone.interval) == (p, None, None)


def test_an_interval_ends_where_the_metric_does() -> None:
    found, tables = study(2, 40, better=3.0)
    full = estimated(results(found, tables))["full"]
    assert full.mean is not None
    assert full.mean > 0.9
    assert 0.97 < ends(full.interval)[1] <= 1
    assert ends(full.interval)[0] < full.mean


def test_predictions_that_are_not_those_of_the_record_are_not_used() -> None:
    def over(made: Results, name: Value) -> set[str | None]:
        return {e.interval and e.interval.over for e in estimated(made, name).values()}

    found, tables = study(3, 100)
    wrong = {key: table.assign(score=1 - table["score"]) for key, table in tables.items()}
    assert over(results(found, wrong), "metric") == {"seeds"}
    assert over(results(found, wrong), "nll") == {"seeds and examples"}
    kept = [
        record.model_copy(update={"predictions": None}) if record.spec.seed == 0 else record
        for record in found
    ]
    assert over(results(kept, tables), "nll") == {"seeds"}


def test_an_arm_that_lacks_a_value_has_no_mean_of_the_others() -> None:
    found = [
        records.record(seed=0),
        records.record(seed=1, metrics={"accuracy": None, "nll": 0.4}),
        records.record(method="full", seed=0),
        records.record(method="full", seed=1),
    ]
    made = results(found)
    assert estimated(made)["lora"] == Estimate(None, None, None)
    assert estimated(made, "nll")["lora"].interval is not None
    assert compared(made) == {"full": Difference(seeds=2)}


def test_differences_are_paired_by_seed_and_positive_is_better() -> None:
    found, tables = study(4, 300)
    found = [r for r in found if (r.spec.method, r.spec.seed) != ("full", 2)]
    metrics = {(r.spec.method, r.spec.seed): r.metrics for r in found}
    made = results(found, tables)
    for name, metric, sign in zip(BOTH, ("accuracy", "nll"), (1, -1), strict=True):
        differences = compared(made, "lora", name)
        full, vera = differences["full"], differences["vera"]
        expected = [
            sign * ((metrics["full", s][metric] or 0) - (metrics["lora", s][metric] or 0))
            for s in (0, 1, 3)
        ]
        assert full.difference == pytest.approx(np.mean(expected))
        assert ends(full.interval)[0] > 0
        assert full.p is not None
        assert vera.p is not None
        assert full.p < 0.05 < vera.p
        assert full.improvement == 1
        assert full.p_holm == pytest.approx(2 * full.p)
        assert full.p_flip == 0.25
        assert full.is_better
        assert not full.is_worse
        assert not vera.is_better
        assert (full.seeds, vera.seeds) == (3, 4)
        mirrored = compared(made, "full", name)["lora"]
        assert mirrored.difference == pytest.approx(-(full.difference or 0))
        assert mirrored.p == pytest.approx(full.p)
        assert mirrored.is_worse == (mirrored.p_holm is not None and mirrored.p_holm <= 0.05)


def test_one_seed_is_student_s_test_over_examples() -> None:
    found, tables = study(1, 300, better=0.4)
    of_method = {record.spec.method: tables[Run(record).key] for record in found}
    full = compared(results(found, tables))["full"]
    d = column(of_method["full"], "score") - column(of_method["lora"], "score")
    test: Any = scipy_stats.ttest_1samp(d, 0)
    assert full.p == pytest.approx(test.pvalue)
    assert full.interval is not None
    assert full.interval.over == "examples"
    inverted = test.confidence_interval(0.95)
    assert ends(full.interval) == pytest.approx((inverted.low, inverted.high))
    n = column(of_method["lora"], "nll") - column(of_method["full"], "nll")
    nll = compared(results(found, tables), name="nll")["full"]
    expected: Any = scipy_stats.ttest_1samp(n, 0)
    assert nll.p == pytest.approx(expected.pvalue)
    assert {d.p for d in compared(results(found)).values()} == {None}


def test_only_shared_examples_are_compared() -> None:
    found, tables = study(2, 200)
    records_, less = [], {}
    for record in found:
        table = tables[Run(record).key]
        if record.spec.method == "full":
            table = table.iloc[50:]
            record = run(table, method="full", seed=record.spec.seed)
        records_.append(record)
        less[Run(record).key] = table
    tails: dict[str, list[float]] = {}
    for record in records_:
        scores = less[Run(record).key].set_index("id")["score"]["test/50":]
        tails.setdefault(record.spec.method, []).append(float(scores.mean()))
    full = compared(results(records_, less))["full"]
    assert full.difference == pytest.approx(np.mean(tails["full"]) - np.mean(tails["lora"]))


def test_a_reference_is_the_first_arm_of_a_method_that_is_done() -> None:
    found = [
        records.record(method=method, seed=seed, args={"alpha": alpha})
        for method, alpha in (("full", 1.0), ("lora", 16.0), ("lora", 48.0))
        for seed in range(3)
    ]
    (block,) = results(found).final
    assert (lora := block.first("lora"))
    assert lora.label == "lora (alpha=16)"
    assert block.first("vera") is None
    lost = [
        records.record(spec=record.spec, status="failed")
        if record.spec.args.get("alpha") == 16.0
        else record
        for record in found
    ]
    (block,) = results(lost).final
    assert (lora := block.first("lora"))
    assert lora.label == "lora (alpha=48)"


def test_a_family_is_what_is_compared_with_one_arm() -> None:
    found, tables = study(4, 300)
    made = results(found, tables)
    (block,) = made.final
    lora, full = block.first("lora"), block.first("full")
    assert lora
    assert full
    (alone,) = made.differences(block, lora, "metric", [full]).values()
    assert alone.p == alone.p_holm


@pytest.mark.parametrize("joins", [{"task": "sst2"}, {"args": {"rank": 3}}, {"device": "cuda"}])
def test_an_interval_does_not_move_when_something_joins_the_store(joins: dict[str, Any]) -> None:
    found, tables = study(3, 100)
    table = tables[Run(found[0]).key]
    others = [run(table, method="lora", seed=7 + seed, **joins) for seed in range(3)]
    if "device" in joins:  # else it would be further seeds of the same arm
        others = [run(table, method="delta-lora", seed=seed, **joins) for seed in range(3)]
    more = tables | {Run(record).key: table for record in others}
    before, after = results(found, tables), results([*found, *others], more)

    def of(made: Results, name: Value) -> tuple[list[Any], list[Any]]:
        block = next(b for b in made.final if len([a for a in b.arms if a.method == "vera"]))
        arms = {arm.method: arm for arm in block.arms if arm.spec.args.get("rank") != 3}
        mine = [arms[method] for method in ("full", "lora", "vera")]
        estimates = made.estimates(block, name)
        differences = made.differences(block, arms["lora"], name, [arms["full"], arms["vera"]])
        return [estimates[arm].interval for arm in mine], list(differences.values())

    for name in BOTH:
        assert of(before, name) == of(after, name)


def test_predictions_are_those_of_the_run_s_device(tmp_path: Path) -> None:
    found, tables = study(2, 50)
    store = Store(tmp_path / "results")
    for record in found[:4]:
        table = tables[Run(record).key]
        store.write(record, table)
        if record.spec.method == "lora":
            continue
        elsewhere = table.assign(nll=table["nll"] + 1)
        seed = 5 + record.spec.seed
        store.write(run(elsewhere, method=record.spec.method, seed=seed, device="cuda"), elsewhere)
    made = Results.read(store)
    (block,) = made.final
    nll = made.estimates(block, "nll")
    full = block.first("full")
    assert full
    assert [place.device for place in block.places] == ["cpu", "cuda"]
    assert (interval := nll[full].interval)
    assert interval.over == "seeds and examples"
    assert [round(b - a, 6) for a, b in zip(_nll(full)[:2], _nll(full)[2:], strict=True)] == [1, 1]


def _nll(arm: Arm) -> list[float]:
    return [run.value("nll") or 0 for run in arm.runs]


@pytest.mark.slow
def test_a_store_s_method_against_itself() -> None:
    """Ten runs of one method; again and again two hands of them, on resampled examples, each hand
    called a method."""
    seeds, blocks, n = 3, 600, 60
    random = rng(3)
    right = answers(random, (10, n), 0.3)[0]
    nll = random.gamma(2, 0.2, n) + random.gamma(2, 0.1, (10, n)) + random.normal(0, 0.03, (10, 1))
    found: list[Record] = []
    tables: Tables = {}
    columns = {"accuracy": "score", "nll": "nll"}
    for block in range(blocks):
        picked, rows = random.permutation(10)[: 2 * seeds], random.integers(0, n, n)
        for i, which in enumerate(picked):
            table = predictions(right[which, rows], np.ones(n), nll[which, rows])
            record = records.record(
                model=f"m{block}",
                method=("lora", "vera")[i % 2],
                seed=i // 2,
                metrics={metric: column(table, name).mean() for metric, name in columns.items()},
                predictions=Predictions(rows=n, sha256=""),
            )
            found.append(record)
            tables[Run(record).key] = table
    made = results(found, tables)
    for name in BOTH:
        differences = [
            difference
            for block in made.final
            if (lora := block.first("lora"))
            for difference in made.differences(block, lora, name).values()
        ]
        assert len(differences) == blocks
        assert (
            0.03 <= np.mean([(d.p if d.p is not None else 1) < 0.05 for d in differences]) <= 0.07
        )
        outside = [d.interval.low > 0 or d.interval.high < 0 for d in differences if d.interval]
        assert 0.03 <= sum(outside) / blocks <= 0.07


def test_a_table_reads_a_record_once_although_it_has_predictions(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stored = Store(tmp_path / "results")
    for seed in range(3):
        stored.write(records.record(seed=seed), records.predictions())
    results = Results.read(stored)
    monkeypatch.setattr(storing, "parsed", None)
    (block,) = results.final
    assert results.estimates(block, "nll")


@pytest.mark.parametrize("name", ["accuracy", "nll"])
def test_ids_that_stand_once_give_what_ids_that_repeat_give(name: str) -> None:
    """An answer more to the last example, like its first, changes nothing."""
    table = records.predictions(
        id=["b", "a", None, "c"], target=1, nll=[1.0, 2.0, 3.0, 0.5], count=1, answer=1,
        score=[1.0, None, 0.5, 0.0],
    )  # fmt: skip
    twice = pd.concat([table, table.tail(1)], ignore_index=True)
    statistic = by_examples.STATISTICS.get(name, by_examples.MEAN)
    one, several = (by_examples._features(statistic, each) for each in (table, twice))
    assert one
    assert several
    assert list(one[0]) == list(several[0])
    assert one[1].tolist() == several[1].tolist()
