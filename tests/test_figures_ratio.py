"""LoRA+ against LoRA: a planted optimum is found, steps to LoRA's loss are those of the curves, and
what is no grid is not drawn as one."""

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pytest
import records
from matplotlib.figure import Figure

from peftbench.analysis.blocks import Run
from peftbench.analysis.lora_plus_grid import (
    FEWEST,
    Grid,
    best_ratios,
    grids,
    steps_to_lora,
    tuned,
)
from peftbench.analysis.loss_curves import Loss, window
from peftbench.analysis.results import Results
from peftbench.figures.lora_plus_ratio import lora_plus_ratio
from peftbench.figures.panels import NothingToDraw
from peftbench.record import Point, Record

LRS, RATIOS = (1e-4, 3e-4, 1e-3), (1.0, 2.0, 4.0, 8.0, 16.0)
BEST = {1e-4: 8.0, 3e-4: 4.0, 1e-3: 2.0}  # planted
ARGS = {"rank": 8, "alpha": 16.0, "dropout": 0.0, "targets": "all-linear"}
Tuned = Mapping[float, Sequence[Run]]
STEPS, SPEED = 40, 97  # a prime number, so that no two losses are equal but for rounding


def planted(lr: float, ratio: float) -> float:
    """The nll: lowest at BEST, and of all learning rates at 3e-4."""
    return 0.5 + 0.01 * math.log2(ratio / BEST[lr]) ** 2 + 0.05 * abs(math.log10(lr / 3e-4))


def run(lr: float, ratio: float, seed: int, nll: float, **changed: Any) -> Record:
    """A training loss that falls straight to `nll` at a speed that grows with the ratio; valid
    losses at every tenth step."""
    curve = tuple(
        Point(
            step=step,
            train_loss=nll + max(0, 1 - step * (1 + ratio) / SPEED),
            valid_loss=nll if step % 10 == 0 else None,
            lr=lr,
        )
        for step in range(1, STEPS + 1)
    )
    name, args = ("lora", ARGS) if ratio == 1 else ("lora+", ARGS | {"ratio": ratio})
    values = {
        "method": name,
        "metrics": {"accuracy": 1 - nll, "nll": nll},
        "split": "valid",
        "seed": seed,
        "args": args,
        "train": {"lr": lr, "steps": STEPS},
        "curve": curve,
    }
    return records.record(**values | changed)


def study(noise: float = 0.0, seeds: int = 3) -> Iterator[Record]:
    rng = np.random.default_rng(0)
    for seed in range(seeds):
        for lr in LRS:
            for ratio in RATIOS:
                yield run(lr, ratio, seed, planted(lr, ratio) + noise * rng.normal())


def grids_of(made: Iterable[Record]) -> list[Grid]:
    return grids(Results(tuple(made)).tuning)


def figure_of(made: Iterable[Record]) -> Figure:
    return lora_plus_ratio(Results(tuple(made)))


def note(figure: Figure) -> str:
    return figure.get_supxlabel().replace("\n", " ")


@pytest.fixture(scope="module")
def grid() -> Grid:
    (grid,) = grids_of(study())
    return grid


def best_of(grid: Grid) -> dict[float, float]:
    return {best.lr: best.ratio for best in best_ratios(grid)}


def test_the_cells_hold_the_means(grid: Grid) -> None:
    assert (grid.lrs, grid.ratios) == (list(LRS), list(RATIOS))
    for ratio in RATIOS:
        nll = {lr: planted(lr, ratio) for lr in LRS}
        assert grid.means(ratio, "nll") == pytest.approx(nll)
        metric = {lr: 1 - value for lr, value in nll.items()}
        assert grid.means(ratio, "metric") == pytest.approx(metric)
    assert grid.means(5.0, "nll") == {}


def test_a_planted_optimum_is_found(grid: Grid) -> None:
    assert best_of(grid) == BEST
    for best in best_ratios(grid):
        assert best.interval == (best.ratio, best.ratio)
        assert best.seeds == 3


def test_with_noise_the_interval_holds_the_optimum_and_is_wider() -> None:
    (noisy,) = grids_of(study(noise=0.02, seeds=8))
    intervals = {best.lr: best.interval for best in best_ratios(noisy)}
    assert set(intervals) == set(BEST)
    widths: list[float] = []
    for lr, interval in intervals.items():
        assert interval is not None
        low, high = interval
        assert low <= BEST[lr] <= high
        widths.append(high - low)
    assert max(widths) > 0


def test_the_interval_of_a_learning_rate_does_not_move_with_others() -> None:
    (noisy,) = grids_of(study(noise=0.02, seeds=8))
    (fewer,) = grids_of(record for record in study(0.02, 8) if record.spec.train.lr != LRS[0])
    assert best_ratios(fewer) == best_ratios(noisy)[1:]


def test_one_seed_gives_no_interval() -> None:
    (single,) = grids_of(study(seeds=1))
    assert [best.interval for best in best_ratios(single)] == [None] * len(LRS)


def test_a_ratio_that_diverged_is_never_the_best() -> None:
    def diverged(record: Record) -> bool:
        spec = record.spec
        return (spec.args.get("ratio"), spec.train.lr, spec.seed) == (4.0, 3e-4, 1)

    made = [record for record in study() if not diverged(record)]
    made.append(run(3e-4, 4.0, 1, 0.0, status="diverged", metrics={}, error="nan"))
    (grid,) = grids_of(made)
    assert grid.means(4.0, "nll")[3e-4] == math.inf
    assert grid.means(4.0, "metric")[3e-4] == -math.inf
    assert best_of(grid) == BEST | {3e-4: 2.0}


def test_each_ratio_is_tuned_over_the_same_number_of_learning_rates(grid: Grid) -> None:
    for ratio, runs in tuned(grid).items():
        assert list(grid.means(ratio, "nll")) == list(LRS)
        assert lr_of(runs) == min(LRS, key=lambda lr, r=ratio: planted(lr, r))
        assert sorted(run.seed for run in runs) == [0, 1, 2]
    assert list(tuned(grid)) == list(RATIOS)


def lr_of(runs: Iterable[Run]) -> float:
    """The one learning rate that runs have."""
    (lr,) = {run.record.spec.train.lr for run in runs}
    return lr


def steps(ratios: Tuned, loss: Loss) -> dict[float, set[tuple[float, bool]]]:
    """By ratio: steps to LoRA's loss of its runs, and whether they never reach it."""
    by_ratio = steps_to_lora(ratios, loss)
    assert list(by_ratio) == list(ratios)
    return {
        ratio: {(reached.steps, reached.never) for reached in of_ratio}
        for ratio, of_ratio in by_ratio.items()
    }


def test_steps_to_loras_training_loss_are_those_of_the_curves(grid: Grid) -> None:
    """Recomputed by hand: the first step at which the running mean of the ratio's own curve is at
    or below LoRA's at half of its steps."""
    ratios, width = tuned(grid), window(STEPS)
    assert width == 5
    half = width // 2
    target = [1 - step * 2 / SPEED for step in range(1, STEPS + 1)]
    middle = STEPS // 2
    lora = planted(3e-4, 1.0) + np.mean(target[middle - 1 - half : middle + half])
    by_ratio = steps(ratios, "train_loss")
    for ratio, runs in ratios.items():
        own = [
            planted(lr_of(runs), ratio) + max(0, 1 - step * (1 + ratio) / SPEED)
            for step in range(1, STEPS + 1)
        ]
        means = {i + 1: np.mean(own[i - half : i + half + 1]) for i in range(half, STEPS - half)}
        first = min(step for step, mean in means.items() if mean <= lora)
        assert by_ratio[ratio] == {(first, False)}
    assert by_ratio[1.0] == {(middle, False)}


def test_steps_to_loras_valid_loss_follow_the_same_rule_with_few_points(grid: Grid) -> None:
    ratios = tuned(grid)
    assert FEWEST["valid_loss"] == 1
    by_ratio = steps(ratios, "valid_loss")
    for ratio, runs in ratios.items():
        reached = planted(lr_of(runs), ratio) <= planted(3e-4, 1.0)
        assert by_ratio[ratio] == {(10, False) if reached else (STEPS + 1, True)}
    assert by_ratio[1.0] == {(10, False)}


def test_a_loss_that_is_never_reached_is_drawn_after_the_last_step() -> None:
    made = [run(lr, ratio, 0, 0.5 if ratio == 1 else 5.0) for lr in LRS for ratio in RATIOS]
    (grid,) = grids_of(made)
    last = STEPS - window(STEPS) // 2
    ends: dict[Loss, int] = {"train_loss": last, "valid_loss": STEPS}
    for loss, end in ends.items():
        by_ratio = steps(tuned(grid), loss)
        assert not any(never for _, never in by_ratio.pop(1.0))
        assert set.union(*by_ratio.values()) == {(end + 1, True)}
    figure = figure_of(made)
    train, valid = figure.axes[2].containers
    for drawn, end in ((train, last), (valid, STEPS)):
        assert np.asarray(drawn[0].get_ydata()).tolist()[1:] == [end + 1] * 4
    for name in ("training", "valid"):
        text = f"4 of 5 runs never reach LoRA's {name} loss at half of its steps: drawn one step"
        assert f"{text} after the last" in note(figure)


def test_runs_of_a_seed_that_lora_lacks_are_counted() -> None:
    made = [*study(seeds=2), *(run(lr, r, 2, planted(lr, r)) for lr in LRS for r in RATIOS[1:])]
    figure = figure_of(made)
    assert "4 of 14 runs have no training loss of LoRA to reach" in note(figure)


def test_runs_with_other_settings_are_another_grid() -> None:
    others = [
        run(lr, ratio, 0, 0.1, train={"lr": lr, "steps": STEPS, "warmup": 0.5})
        for lr in LRS[:2]
        for ratio in RATIOS
    ]
    (grid,) = grids_of([*study(), *others])
    assert {run.record.spec.train.warmup for run in grid.runs} == {0.06}


def test_runs_with_other_steps_are_another_block_with_a_grid_of_its_own() -> None:
    others = [
        run(lr, ratio, 0, 0.1, train={"lr": lr, "steps": 7}) for lr in LRS[:2] for ratio in RATIOS
    ]
    both = grids_of([*study(), *others])
    assert [grid.block.question.steps for grid in both] == [7, STEPS]


def test_what_samplers_drew_beside_a_grid_is_not_in_it() -> None:
    drawn = [run(1e-4 * 1.3**i, 1.7 + i, 0, 0.1) for i in range(20)]
    drawn += [run(1e-4 * 1.3 ** (i + 0.5), 1, 0, 0.1) for i in range(20)]
    (grid,) = grids_of([*study(), *drawn])
    assert len(grid.runs) == 3 * len(LRS) * len(RATIOS)
    assert (grid.lrs, grid.ratios) == (sorted(LRS), sorted(RATIOS))


def test_scattered_trials_and_test_runs_are_no_grid() -> None:
    rng = np.random.default_rng(0)
    scattered = [run(10 ** rng.uniform(-4, -3), 2 ** rng.uniform(0, 5), 0, 0.5) for _ in range(30)]
    on_test = [run(lr, ratio, 0, 0.5, split="test") for lr in LRS for ratio in RATIOS]
    for made in ([], scattered, on_test, [run(1e-4, ratio, 0, 0.5) for ratio in RATIOS]):
        assert grids_of(made) == []
        with pytest.raises(NothingToDraw, match="grid"):
            figure_of(made)


def test_the_figure_frames_lora_and_the_best_and_prints_every_cell() -> None:
    figure = figure_of(study())
    metric, nll, steps, final = figure.axes
    texts = [f"{1 - planted(lr, ratio):.3f}" for lr in LRS for ratio in RATIOS]
    assert [text.get_text() for text in metric.texts] == texts
    frames: Any = [patch for patch in nll.patches if getattr(patch, "get_width")() < 1]  # noqa: B009
    places = {round(patch.get_y() + 0.4): RATIOS[round(patch.get_x() + 0.44)] for patch in frames}
    assert {LRS[row]: ratio for row, ratio in places.items()} == BEST
    assert metric.get_xticklabels()[0].get_text() == "1 (LoRA)"
    assert len(steps.containers) == 2
    (line,) = final.containers
    best = [1 - min(planted(lr, ratio) for lr in LRS) for ratio in RATIOS]
    assert np.asarray(line[0].get_ydata()).tolist() == pytest.approx(best)
    assert "3 learning rates for each ratio" in note(figure)


def test_without_lora_the_grid_is_drawn_and_what_lacks_is_said() -> None:
    figure = figure_of(record for record in study() if record.spec.method == "lora+")
    assert [text.get_text() for text in figure.axes[2].texts] == ["unknown"]
    assert "not drawn: lora" in note(figure)
