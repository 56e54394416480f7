"""Stores whose truth is known and that once got a wrong verdict: through the ordinary Record and
Store, each comes out as it must."""

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import records
from made_up import predictions, run
from test_claims import (
    NOISE,
    TUNED,
    against,
    arm,
    asked,
    delta,
    few,
    floor,
    gaps,
    on_tasks,
    points_of,
    speeds,
    stability,
)

from peftbench import tables
from peftbench.analysis.blocks import Run
from peftbench.analysis.learning import learned, none_learned
from peftbench.analysis.results import Results
from peftbench.article.verdicts import verdicts
from peftbench.record import Record
from peftbench.store import Store

EXAMPLES = 400
QUALITY = ("F2", "FA3", "V3", "D1", "P2", "L4")
Model = Callable[[int, np.random.Generator], pd.DataFrame]  # predictions of a seed


def read(
    folder: Path, stored: Iterable[Record], tables: dict[str, pd.DataFrame] | None = None
) -> Results:
    folder.mkdir(exist_ok=True)
    store = Store(folder / "results")
    for record in stored:
        store.write(
            record.model_copy(update={"predictions": None}),
            None if tables is None else tables[Run(record).key],
        )
    return Results.read(store)


def decisions(results: Results) -> dict[str, str]:
    return {verdict.claim.id: verdict.decision for verdict in verdicts(results)}


def reasons(results: Results) -> dict[str, str]:
    return {verdict.claim.id: verdict.reason.en for verdict in verdicts(results)}


def trained(
    models: dict[str, Model], seeds: int = 5, **changed: Any
) -> tuple[list[Record], dict[str, pd.DataFrame]]:
    """Runs of each method on two tasks with the predictions of its model."""
    stored: list[Record] = []
    by_key: dict[str, pd.DataFrame] = {}
    for task in ("reviews", "sst2"):
        for method, model in models.items():
            for seed in range(seeds):
                table = model(seed, np.random.default_rng([seed, len(method), len(task)]))
                record = run(table, method=method, seed=seed, task=task, **changed)
                stored.append(record)
                by_key[Run(record).key] = table
    return stored, by_key


def target() -> np.ndarray:
    return (np.arange(EXAMPLES) % 10 < 7).astype(float)  # 70 % of label 1


def constant(label: int, probability: float) -> Model:
    """Answers `label` always, at this probability, whatever the seed."""

    def model(seed: int, random: np.random.Generator) -> pd.DataFrame:
        right = target() == label
        nll = -np.log(np.where(right, probability, 1 - probability))
        return predictions(right.astype(float), target(), nll + 1e-4 * random.normal(size=EXAMPLES))

    return model


def skilled(accuracy: float) -> Model:
    """Right with this probability, on examples of its own with each seed."""

    def model(seed: int, random: np.random.Generator) -> pd.DataFrame:
        right = random.random(EXAMPLES) < accuracy
        nll = np.where(right, 0.1, 1.5) + 0.01 * random.normal(size=EXAMPLES)
        return predictions(right.astype(float), target(), nll)

    return model


def test_another_constant_answer_is_nothing_learned(tmp_path: Path) -> None:
    """The frozen model always says 0, right in 30 %; the trained ones always say 1, in 70 %."""
    methods = ("full", "lora", "lora-fa", "vera", "delta-lora", "lora+")
    models = {"frozen": constant(0, 0.6)} | {method: constant(1, 0.69) for method in methods}
    results = read(tmp_path, *trained(models))
    assert {decisions(results)[claim] for claim in QUALITY} == {"undecided"}
    for block in results.final:
        assert none_learned(results, block)
        assert learned(results, block, block.arms[0]) is False
    sections = tables.comparison(results).sheet("en").sections
    for section in sections:
        assert section.about.startswith("No arm has learned anything here")
        assert not section.marked


def test_what_beats_every_constant_has_learned(tmp_path: Path) -> None:
    models = {"frozen": constant(0, 0.6), "full": skilled(0.9), "lora": skilled(0.9)}
    results = read(tmp_path, *trained(models))
    for block in results.final:
        for method in ("full", "lora"):
            assert (one := block.first(method))
            assert learned(results, block, one) is True
    assert decisions(results)["F2"] == "supported"


def test_arms_of_other_steps_are_not_compared(tmp_path: Path) -> None:
    steps = {"frozen": 100, "full": 100, "lora": 100, "lora-fa": 4000, "lora+": 4000}
    stored = [
        record
        for method, count in steps.items()
        for record in arm(
            method,
            0.5 if method == "frozen" else 0.8 + 0.05 * (count == 4000),
            noise=0.001,
            train={"steps": count},
            study=TUNED,
        )
    ]
    results = read(tmp_path, on_tasks(stored))
    known = decisions(results)
    assert known["FA3"] == known["P2"] == known["P1"] == "undecided"
    table = tables.comparison(results)
    assert not any(section.marked for section in table.sheet("en").sections)
    assert all("steps" in " ".join(section.notes) for section in table.sheet("en").sections)


def test_unequal_trials_are_no_fair_comparison(tmp_path: Path) -> None:
    stored = [
        *floor(),
        *arm("full", 0.8),
        *arm("lora", 0.8),
        *arm("lora-fa", 0.8, noise=0.001, study=TUNED),
    ]
    results = read(tmp_path, on_tasks(stored))
    assert decisions(results)["FA3"] == "undecided"
    assert "equally many trials" in reasons(results)["FA3"]
    only = [record for record in on_tasks(stored) if record.spec.method != "lora"]
    assert "equally many trials" in reasons(read(tmp_path / "only", only, None))["F2"]


def test_a_reference_at_the_floor_has_nothing_to_be_close_to(tmp_path: Path) -> None:
    stored = [*floor(), *arm("full", 0.5, noise=0.001), *arm("lora", 0.67, noise=0.001)]
    assert decisions(read(tmp_path, on_tasks(stored)))["F2"] == "undecided"


def test_the_same_answers_are_equal(tmp_path: Path) -> None:
    """LoRA-FA answers as LoRA does, Delta-LoRA as its control: equal is close, and is no gain."""
    same = skilled(0.9)
    models = {"frozen": constant(0, 0.6), "lora": same}
    stored, known = trained(models)
    for method in ("lora-fa", "delta-lora"):
        for record in [one for one in stored if one.spec.method == "lora"]:
            table = known[Run(record).key]
            twin = run(table, method=method, seed=record.spec.seed, task=record.spec.task)
            stored.append(twin)
            known[Run(twin).key] = table
    results = read(tmp_path, stored, known)
    assert decisions(results)["FA3"] == "supported"
    assert decisions(read(tmp_path / "delta", delta(0.8)))["D1"] == "refuted"


def test_learning_twice_as_fast_to_the_same_end_is_faster(tmp_path: Path) -> None:
    slow = np.r_[np.linspace(1.0, 0.2, 80), np.full(20, 0.2)]
    fast = np.r_[np.linspace(1.0, 0.2, 40), np.full(60, 0.2)]
    stored = [
        record.model_copy(
            update={
                "curve": tuple(
                    points_of(
                        (fast if record.spec.method == "lora+" else slow)
                        + 0.02 * np.random.default_rng(record.spec.seed).normal(size=100)
                    )
                )
            }
        )
        for record in speeds(8.0)
    ]
    assert decisions(read(tmp_path, stored))["P1"] == "supported"


def test_what_is_seen_once_cannot_be_overfitted(tmp_path: Path) -> None:
    results = read(tmp_path, gaps(0.2, 0.001, steps=10))
    assert decisions(results)["V2"] == "undecided"
    assert "seen" in reasons(results)["V2"]
    assert decisions(read(tmp_path / "many", gaps(0.2, 0.001)))["V2"] == "supported"


def test_a_gap_of_less_training_is_not_judged(tmp_path: Path) -> None:
    results = read(tmp_path, gaps(0.1, 0.001, end=0.4))
    assert decisions(results)["V2"] == "undecided"
    assert "+0.200" in reasons(results)["V2"]


def test_the_same_gain_at_every_size_is_nothing_special_to_few_samples(tmp_path: Path) -> None:
    assert decisions(read(tmp_path, few(0.83, 0.001, many=0.83001)))["V3"] == "refuted"


@pytest.mark.parametrize("start_step", [0, 100_000])
def test_delta_lora_that_is_lora_is_not_judged(tmp_path: Path, start_step: int) -> None:
    results = read(tmp_path, delta(0.9, noise=0.001, start_step=start_step))
    assert decisions(results)["D1"] == decisions(results)["D2"] == "undecided"
    assert "K = 0" in reasons(results)["D1"]
    assert "K = 0" in reasons(results)["D2"]


@pytest.mark.parametrize("times", [1.2, 2.0, 50.0])
def test_both_ways_of_storing_delta_lora_are_named(tmp_path: Path, times: float) -> None:
    """As factors, or W itself."""

    def larger(record: Record) -> Record:
        footprint = record.footprint
        assert footprint
        size = int(times * (footprint.adapter_file_bytes or 0))
        grown = footprint.model_copy(update={"adapter_file_bytes": size})
        return record.model_copy(update={"footprint": grown})

    stored = [
        larger(record) if record.spec.method == "delta-lora" else record
        for record in delta(0.9, noise=0.001)
    ]
    results = read(tmp_path, stored)
    expected = "refuted" if times == 50 else "supported"
    assert decisions(results)["D2"] == expected
    assert "as factors" in reasons(results)["D2"]
    assert "W itself" in reasons(results)["D2"]


def test_one_collapsed_seed_in_each_variant_is_no_instability(tmp_path: Path) -> None:
    def collapsed(stored: Iterable[Record]) -> list[Record]:
        return [
            record.model_copy(update={"metrics": record.metrics | {"accuracy": 0.5, "nll": 0.8}})
            if record.spec.seed == 3 and record.spec.method not in ("lora", "frozen")
            else record
            for record in stored
        ]

    pattern = tuple(np.random.default_rng(1).permutation(NOISE))
    results = read(tmp_path, collapsed(stability(0.01, 0.01, pattern=pattern)))
    assert decisions(results)["L4"] == "undecided"


@pytest.mark.parametrize("tails", [2.5, 30.0])
def test_equally_unstable_methods_are_rarely_called_less_stable(tails: float) -> None:
    """The level of L4's test, with normal and with heavy tails."""
    from peftbench.article.lora import _spread

    random, wrong, rounds = np.random.default_rng(5), 0, 1500
    for _ in range(rounds):
        ours, theirs = random.standard_t(tails, (2, 10))
        spread = _spread(ours.tolist(), theirs.tolist())
        assert spread
        wrong += spread.low > 0 or spread.high < 0
    assert wrong / rounds <= 0.07


def test_equal_learning_rates_are_no_likeness(tmp_path: Path) -> None:
    """Tuning gave LoRA-FA the learning rate of LoRA at alpha 48; its partner is the one at its own
    alpha."""
    rates = {"lora": 3e-4, "alpha 48": 1e-3, "lora-fa": 1e-3}
    stored = [
        *floor(study=TUNED),
        *arm("lora", 0.8, noise=0.001, study=TUNED, train={"lr": rates["lora"], "head_lr": 1e-3}),
        *arm(
            "lora",
            0.7,
            noise=0.001,
            study=TUNED,
            args={"alpha": 48.0},
            train={"lr": rates["alpha 48"], "head_lr": 2e-3},
        ),
        *arm(
            "lora-fa",
            0.8,
            noise=0.0015,
            study=TUNED,
            train={"lr": rates["lora-fa"], "head_lr": 2e-3},
        ),
    ]
    results = read(tmp_path, on_tasks(stored))
    (verdict,) = [verdict for verdict in verdicts(results) if verdict.claim.id == "FA3"]
    partners = {
        run.record.spec.args["alpha"] for run in verdict.runs if run.record.spec.method == "lora"
    }
    assert partners == {16.0}


def test_metric_and_nll_that_contradict_each_other_decide_nothing(tmp_path: Path) -> None:
    stored = [
        record.model_copy(
            update={"metrics": record.metrics | {"nll": 0.9 + 0.001 * NOISE[record.spec.seed]}}
        )
        if record.spec.method == "lora-fa"
        else record
        for record in against("lora-fa", "lora", 0.8, noise=0.001)
    ]
    results = read(tmp_path, stored)
    assert decisions(results)["FA3"] == "undecided"
    assert "contradict" in reasons(results)["FA3"]


def test_nll_decides_where_the_metric_leaves_it_open(tmp_path: Path) -> None:
    nlls = {"lora-fa": NOISE, "lora": NOISE[::-1]}
    stored = [
        record.model_copy(
            update={
                "metrics": record.metrics
                | {"nll": 0.5 + 0.001 * nlls[record.spec.method][record.spec.seed]}
            }
        )
        for record in against("lora-fa", "lora", 0.79, noise=0.05)
        if record.spec.method != "frozen"
    ]
    results = read(tmp_path, [*on_tasks(floor()), *stored])
    (verdict,) = [verdict for verdict in verdicts(results) if verdict.claim.id == "FA3"]
    assert verdict.decision == "supported"
    assert verdict.unit.en.startswith("nats")
    assert "nll" in verdict.reason.en


def test_one_task_is_too_few(tmp_path: Path) -> None:
    one = [
        record
        for record in against("lora-fa", "lora", 0.8, noise=0.001)
        if record.spec.task == "sst2"
    ]
    results = read(tmp_path, one)
    assert decisions(results)["FA3"] == "undecided"
    assert "2 tasks" in reasons(results)["FA3"]


def test_a_printed_interval_agrees_with_its_verdict(tmp_path: Path) -> None:
    """Two of three comparisons support the claim, the third is wide open: so is their mean."""
    wide = [
        asked(record, task="rte")
        for record in against("lora-fa", "lora", 0.80, noise=0.1, task="reviews")
    ]
    stored = [*against("lora-fa", "lora", 0.79, noise=0.001), *wide]
    results = read(tmp_path, stored)
    (verdict,) = [verdict for verdict in verdicts(results) if verdict.claim.id == "FA3"]
    assert verdict.effect
    assert verdict.decision == "undecided"
    assert verdict.effect.low < -0.015 < verdict.effect.high


def test_what_chance_would_give_is_printed(tmp_path: Path) -> None:
    from peftbench.article.verdicts import Verdicts

    results = read(tmp_path, against("lora-fa", "lora", 0.8, noise=0.001))
    made = sum(verdict.by_chance for verdict in verdicts(results))
    notes = Verdicts(results).sheet("en").sections[0].notes
    assert f"Of {made} comparisons" in notes[-1]
    assert made > 0
    assert records.SCORE
