"""LoRA+ against LoRA: a planted optimum is found, steps to LoRA's loss are those of the curves, and
what is no grid is not drawn as one."""

import math
from collections.abc import Iterator

import numpy as np
import pandas as pd
import pytest
import records
from numpy.testing import assert_allclose

from peftbench.analysis.frame import frame
from peftbench.analysis.lora_plus_grid import best_ratio, grids, table, to_lora, tuned
from peftbench.analysis.loss_curves import curves
from peftbench.figures import NothingToDraw, lora_plus_ratio
from peftbench.record import Point, Record

LRS, RATIOS = (1e-4, 3e-4, 1e-3), (1.0, 2.0, 4.0, 8.0, 16.0)
BEST = {1e-4: 8.0, 3e-4: 4.0, 1e-3: 2.0}  # planted
ARGS = {"rank": 8, "alpha": 16.0, "dropout": 0.0, "targets": "all-linear"}
STEPS = 40


def planted(lr: float, ratio: float) -> float:
    """The nll: lowest at BEST, and of all learning rates at 3e-4."""
    return 0.5 + 0.01 * math.log2(ratio / BEST[lr]) ** 2 + 0.05 * abs(math.log10(lr / 3e-4))


def run(lr: float, ratio: float, seed: int, nll: float, **changed: object) -> Record:
    """A training loss that falls straight to `nll` at a speed that grows with the ratio; valid
    losses at every tenth step."""
    curve = tuple(
        Point(
            step=step,
            train_loss=nll + max(0, 1 - step * (1 + ratio) / 100),
            valid_loss=nll if step % 10 == 0 else None,
            lr=lr,
        )
        for step in range(1, STEPS + 1)
    )
    name, args = ("lora", ARGS) if ratio == 1 else ("lora+", ARGS | {"ratio": ratio})
    values = {
        "split": "valid",
        "seed": seed,
        "args": args,
        "train": {"lr": lr, "steps": STEPS},
        "curve": curve,
    }
    return records.record(
        **{"method": name, "metrics": {"accuracy": 1 - nll, "nll": nll}} | values | changed
    )


def study(noise: float = 0.0, seeds: int = 3) -> Iterator[Record]:
    rng = np.random.default_rng(0)
    for seed in range(seeds):
        for lr in LRS:
            for ratio in RATIOS:
                yield run(lr, ratio, seed, planted(lr, ratio) + noise * rng.normal())


@pytest.fixture(scope="module")
def grid() -> pd.DataFrame:
    (found,) = grids(frame(study()))
    return found


def test_the_tables_hold_the_means(grid: pd.DataFrame) -> None:
    for value, sign in (("nll", 1), ("metric", -1)):
        found = table(grid, value)
        assert (list(found.index), list(found.columns)) == (list(LRS), list(RATIOS))
        expected = [
            [planted(lr, ratio) if sign == 1 else 1 - planted(lr, ratio) for ratio in RATIOS]
            for lr in LRS
        ]
        assert_allclose(found.to_numpy(), expected)


def test_a_planted_optimum_is_found(grid: pd.DataFrame) -> None:
    found = best_ratio(grid, np.random.default_rng(0))
    assert dict(zip(found["lr"], found["ratio"], strict=True)) == BEST
    assert found["low"].tolist() == found["high"].tolist() == list(BEST.values())
    assert set(found["n"]) == {3}


def test_with_noise_the_interval_holds_the_optimum_and_is_wider() -> None:
    (noisy,) = grids(frame(study(noise=0.02, seeds=8)))
    found = best_ratio(noisy, np.random.default_rng(0))
    assert all(
        low <= BEST[lr] <= high
        for lr, low, high in zip(found["lr"], found["low"], found["high"], strict=True)
    )
    assert (found["low"] < found["high"]).any()


def test_one_seed_gives_no_interval() -> None:
    (single,) = grids(frame(study(seeds=1)))
    assert best_ratio(single, np.random.default_rng(0))[["low", "high"]].isna().all(axis=None)


def test_a_ratio_that_diverged_is_never_the_best() -> None:
    found = [
        record
        for record in study()
        if not (
            record.spec.args.get("ratio") == 4.0
            and record.spec.train.lr == 3e-4
            and record.spec.seed == 1
        )
    ]
    found.append(run(3e-4, 4.0, 1, 0.0, status="diverged", metrics={}, error="nan"))
    (grid,) = grids(frame(found))
    assert table(grid, "nll").loc[3e-4, 4.0] == math.inf
    assert table(grid, "metric").loc[3e-4, 4.0] == -math.inf
    best = best_ratio(grid, np.random.default_rng(0))
    assert dict(zip(best["lr"], best["ratio"], strict=True)) == BEST | {3e-4: 2.0}


def test_each_ratio_is_tuned_over_the_same_number_of_learning_rates(grid: pd.DataFrame) -> None:
    found = tuned(grid)
    assert set(found["trials"]) == {len(LRS)}
    for ratio, members in found.groupby("ratio"):
        assert set(members["lr"]) == {min(LRS, key=lambda lr, r=ratio: planted(lr, float(str(r))))}
        assert sorted(members["seed"]) == [0, 1, 2]


@pytest.mark.parametrize("window", [1, 5])
def test_steps_to_loras_loss_are_those_of_the_curves(grid: pd.DataFrame, window: int) -> None:
    """Recomputed by hand: the first step at which the running mean of the ratio's own curve is at
    or below LoRA's last one."""
    found = to_lora(tuned(grid), curves(study()), window)
    half = window // 2
    target = [1 - step * 2 / 100 for step in range(1, STEPS + 1)]
    lora = planted(3e-4, 1.0) + np.mean(target[-window:])
    for _, row in found.iterrows():
        own = [
            planted(row["lr"], row["ratio"]) + max(0, 1 - step * (1 + row["ratio"]) / 100)
            for step in range(1, STEPS + 1)
        ]
        means = {i + 1: np.mean(own[i - half : i + half + 1]) for i in range(half, STEPS - half)}
        assert row["train_steps"] == min(
            step for step, mean in means.items() if mean <= lora + 1e-12
        )
        reached = planted(row["lr"], row["ratio"]) <= planted(3e-4, 1.0)
        assert row["valid_steps"] == 10 if reached else math.isnan(row["valid_steps"])
    own = found.query("ratio == 1")
    assert set(own["train_steps"]) == {STEPS - half}
    assert set(own["valid_steps"]) == {10}


def test_a_loss_that_is_never_reached_is_unknown() -> None:
    found = [run(lr, ratio, 0, 0.5 if ratio == 1 else 5.0) for lr in LRS for ratio in RATIOS]
    (grid,) = grids(frame(found))
    steps = to_lora(tuned(grid), curves(found), 1)
    assert steps.query("ratio == 1")["train_steps"].notna().all()
    assert steps.query("ratio != 1")[["train_steps", "valid_steps"]].isna().all(axis=None)
    note = (
        lora_plus_ratio(frame(found), curves(found), np.random.default_rng(0))
        .get_supxlabel()
        .replace("\n", " ")
    )
    assert "4 of 5 runs never reach LoRA's final training loss" in note


def test_runs_with_other_settings_are_another_grid() -> None:
    others = [
        run(lr, ratio, 0, 0.1, train={"lr": lr, "steps": 7}) for lr in LRS[:2] for ratio in RATIOS
    ]
    (found,) = grids(frame([*study(), *others]))
    assert set(found["train.steps"]) == {STEPS}


def test_what_samplers_drew_beside_a_grid_is_not_in_it() -> None:
    drawn = [run(1e-4 * 1.3**i, 1.7 + i, 0, 0.1) for i in range(20)] + [
        run(1e-4 * 1.3 ** (i + 0.5), 1, 0, 0.1) for i in range(20)
    ]
    (found,) = grids(frame([*study(), *drawn]))
    assert len(found) == 3 * len(LRS) * len(RATIOS)
    assert (sorted(set(found["lr"])), sorted(set(found["ratio"]))) == (sorted(LRS), sorted(RATIOS))


def test_scattered_trials_and_test_runs_are_no_grid() -> None:
    rng = np.random.default_rng(0)
    scattered = [run(10 ** rng.uniform(-4, -3), 2 ** rng.uniform(0, 5), 0, 0.5) for _ in range(30)]
    on_test = [run(lr, ratio, 0, 0.5, split="test") for lr in LRS for ratio in RATIOS]
    for found in ([], scattered, on_test, [run(1e-4, ratio, 0, 0.5) for ratio in RATIOS]):
        assert grids(frame(found)) == []
        with pytest.raises(NothingToDraw, match="grid"):
            lora_plus_ratio(frame(found), curves(found), np.random.default_rng(0))


def test_the_figure_frames_lora_and_the_best_and_prints_every_cell() -> None:
    found = list(study())
    figure = lora_plus_ratio(frame(found), curves(found), np.random.default_rng(0))
    metric, nll, steps, final = figure.axes
    assert [text.get_text() for text in metric.texts] == [
        f"{1 - planted(lr, ratio):.3f}" for lr in LRS for ratio in RATIOS
    ]
    frames = [patch for patch in nll.patches if patch.get_width() < 1]
    places = {round(patch.get_y() + 0.4): RATIOS[round(patch.get_x() + 0.44)] for patch in frames}
    assert {LRS[row]: ratio for row, ratio in places.items()} == BEST
    assert metric.get_xticklabels()[0].get_text() == "1 (LoRA)"
    assert len(steps.containers) == 2
    (line,) = final.containers
    assert list(line[0].get_ydata()) == pytest.approx(
        [1 - min(planted(lr, ratio) for lr in LRS) for ratio in RATIOS]
    )
    assert "3 learning rates for each ratio" in figure.get_supxlabel()


def test_without_lora_the_grid_is_drawn_and_what_lacks_is_said() -> None:
    found = [record for record in study() if record.spec.method == "lora+"]
    figure = lora_plus_ratio(frame(found), curves(found), np.random.default_rng(0))
    assert [text.get_text() for text in figure.axes[2].texts] == ["unknown"]
    assert "not drawn: lora" in figure.get_supxlabel().replace("\n", " ")
