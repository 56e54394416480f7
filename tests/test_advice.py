"""Advice from other tasks: what did best there is advised, and its regret is what that loses."""

import advice
import pytest
import records

from peftbench.analysis.results import Results
from peftbench.record import Record

SEEDS = 3
# by task and method
METRICS = {
    "reviews": {"lora": 0.80, "vera": 0.70, "full": 0.74},
    "sst2": {"lora": 0.90, "vera": 0.87, "full": 0.95},
    "cola": {"lora": 0.30, "vera": 0.32, "full": 0.26},
}


def results(metrics: dict[str, dict[str, float]] = METRICS) -> Results:
    found: list[Record] = []
    for task, arms in metrics.items():
        for method, mean in arms.items():
            for seed in range(SEEDS):
                scores = {"accuracy": mean + 0.001 * (seed - 1), "nll": 1 - mean}
                found.append(records.record(method=method, task=task, seed=seed, metrics=scores))
    return Results(tuple(found))


def test_the_arm_that_is_best_on_the_others_is_advised_and_pays_its_regret() -> None:
    rows = {row["task"]: row for row in advice.rows(results(), "metric")}
    # gains over the mean of all arms, on the two other tasks: lora 0, vera -.005, full .005
    assert (rows["reviews"]["advised"], rows["reviews"]["best"]) == ("full", "lora")
    assert rows["reviews"]["regret"] == pytest.approx(0.06)
    assert rows["reviews"]["regret_of_a_random_arm"] == pytest.approx(0.16 / 3)
    assert rows["reviews"]["regret_of_the_worst"] == pytest.approx(0.1)
    # lora .03, vera -.01, full -.02
    assert (rows["sst2"]["advised"], rows["sst2"]["best"]) == ("lora", "full")
    assert rows["sst2"]["regret"] == pytest.approx(0.05)
    # lora .023, vera -.042, full .018
    assert (rows["cola"]["advised"], rows["cola"]["best"]) == ("lora", "vera")
    assert rows["cola"]["regret"] == pytest.approx(0.02)


def test_an_arm_is_not_punished_for_the_tasks_that_it_ran_on() -> None:
    """VeRA is the best on the hard task, and was not run on the easy one."""
    metrics = {
        "reviews": {"lora": 0.80, "vera": 0.70, "full": 0.75},
        "sst2": {"lora": 0.90, "full": 0.95},
        "cola": {"lora": 0.20, "vera": 0.40, "full": 0.10},
    }
    rows = {row["task"]: row for row in advice.rows(results(metrics), "metric")}
    assert rows["reviews"]["advised"] == "vera"


def test_less_nll_is_better() -> None:
    by = {
        name: {row["task"]: row["advised"] for row in advice.rows(results(), name)}
        for name in ("metric", "nll")
    }
    assert by["metric"] == by["nll"]


def test_a_single_task_advises_nobody() -> None:
    alone = {"reviews": METRICS["reviews"]}
    assert list(advice.rows(results(alone), "metric")) == []
