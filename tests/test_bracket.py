"""The search of one number: it converges, repeats nothing, and draws the same values however it was
carried out."""

import itertools
import math
import threading
from collections.abc import Callable
from pathlib import Path

import bracket as replays
import numpy as np
import pandas as pd
import pytest
import scipy.stats
from optuna.trial import TrialState
from records import record as make_record
from searching import ALONE, FILE, FakeExecutor, begin, experiment, loss, search, studies_of, trials

from peftbench.errors import InputError
from peftbench.experiment import Sampler
from peftbench.methods.base import Range
from peftbench.metrics.constant import constant_nlls
from peftbench.record import Record
from peftbench.spec import RunSpec
from peftbench.training.executor import Watch
from peftbench.tuning.bracket import SECTION, bracketed, next_values, round_start
from peftbench.tuning.space import place_in
from peftbench.tuning.tuned_file import experiment_file, summary
from peftbench.tuning.worker import Worker

RATES = Range(1e-4, 1e-2, log=True)
SHARES = Range(0, 0.8)


def drawn(
    dimension: Range, trials: int, nll: Callable[[float], float], own: float | None = None
) -> list[float]:
    """What the trials of a study draw, by the nll of their place in the range."""
    tried: list[tuple[float, float]] = []
    for number in range(trials):
        value = bracketed(dimension, number, math.ceil(trials * 2 / 3), tried, own)
        tried.append((value, nll(place_in(dimension, value))))
    return [value for value, _ in tried]


def valley(peak: float, *, cliff: bool = False) -> Callable[[float], float]:
    """A curve with one minimum; cliff: beyond it training soon diverges, as with learning rates."""

    def nll(place: float) -> float:
        if cliff and place > peak + 0.1:
            return math.inf
        return 0.5 - math.exp(-((6 * (place - peak)) ** 2)) / 2

    return nll


@pytest.mark.parametrize("dimension", [RATES, SHARES])
@pytest.mark.parametrize("cliff", [False, True])
@pytest.mark.parametrize(("trials", "within"), [(4, 0.17), (8, 0.05), (12, 0.02)])
def test_it_finds_the_minimum_within_its_trials(
    dimension: Range, cliff: bool, trials: int, within: float
) -> None:
    for peak in np.linspace(0.1, 0.9, 33):
        values = drawn(dimension, trials, valley(peak, cliff=cliff))
        assert min(abs(place_in(dimension, value) - peak) for value in values) <= within


def test_the_rounds_of_a_study() -> None:
    assert [round_start(number, 8) for number in range(12)] == [
        0,
        0,
        0,
        3,
        3,
        5,
        5,
        7,
        8,
        8,
        10,
        10,
    ]
    assert [round_start(number, 3) for number in range(4)] == [0, 0, 0, 3]
    assert [round_start(number, 2) for number in range(3)] == [0, 0, 2]
    assert [round_start(number, 1) for number in range(1)] == [0]


@pytest.mark.parametrize("own", [1e-3, 1.2e-3, 2e-3, 9e-3, 1e-4])
def test_the_arms_own_value_comes_first_in_place_of_the_nearest(own: float) -> None:
    thirds = [10 ** (-4 + 2 * part) for part in (1 / 6, 1 / 2, 5 / 6)]
    first = [bracketed(RATES, number, 8, [], own) for number in range(3)]
    assert first[0] == own
    nearest = min(thirds, key=lambda value: abs(math.log(value / own)))
    assert first[1:] == pytest.approx([value for value in thirds if value != nearest])


def test_golden_sections_around_the_best_in_closed_form() -> None:
    shares = Range(0, 1)
    tried = [(0.25, 0.6), (0.5, 0.4), (0.75, 0.5)]
    assert next_values(shares, tried, 2) == pytest.approx([0.5 + SECTION / 4, 0.5 - SECTION / 4])
    # nothing was tried above the best: the range's end
    assert next_values(shares, [(0.25, 0.6), (0.5, 0.4)], 2) == pytest.approx(
        [0.5 - SECTION / 4, 1]
    )
    assert next_values(shares, [(0.25, 0.6), (1.0, 0.4)], 1) == pytest.approx([1 - SECTION * 0.75])
    # the wider side first where neither neighbour has an nll
    assert next_values(shares, [(0.1, math.inf), (0.5, 0.4), (0.7, math.inf)], 1) == pytest.approx(
        [0.5 - SECTION * 0.4]
    )


@pytest.mark.parametrize(
    "nll",
    [
        valley(0.4),
        valley(0),
        valley(1),
        lambda place: 0.5,
        lambda place: math.inf,
        lambda place: math.sin(1e4 * place),
    ],
    ids=["valley", "low end", "high end", "level", "diverges", "noise"],
)
@pytest.mark.parametrize("dimension", [RATES, SHARES, Range(-1, 1), Range(5e-324, 1e308, log=True)])
def test_no_value_is_repeated_and_none_lies_beyond_the_range(
    dimension: Range, nll: Callable[[float], float]
) -> None:
    values = drawn(dimension, 100, nll)
    assert len(set(values)) == 100
    assert all(dimension.low <= value <= dimension.high for value in values)


def test_where_all_trials_diverge_the_widest_parts_are_tried() -> None:
    places = [place_in(RATES, value) for value in drawn(RATES, 5, lambda x: math.inf)]
    assert places == pytest.approx([1 / 6, 1 / 2, 5 / 6, 1 / 3, 2 / 3])


def test_a_round_does_not_know_its_own_results() -> None:
    tried = [
        (value, valley(0.4)(place_in(RATES, value))) for value in drawn(RATES, 12, valley(0.4))
    ]
    for number in range(12):
        start = round_start(number, 8)
        assert bracketed(RATES, number, 8, tried[:start]) == tried[number][0]
        assert (
            bracketed(RATES, number, 8, [*tried[:start], *[(2e-3, -9.0)] * 9]) == tried[number][0]
        )


def params(folder: Path) -> list[list[tuple[dict[str, float], float | None, TrialState]]]:
    return [[(t.params, t.value, t.state) for t in each] for each in trials(folder).values()]


def diverging(spec: RunSpec, step: int) -> float:
    return math.inf if spec.train.lr > 2e-3 else loss(spec, step)


@pytest.mark.parametrize("curve", [loss, diverging])
def test_two_workers_draw_what_one_draws(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, curve: Callable[[RunSpec, int], float]
) -> None:
    monkeypatch.setattr("peftbench.tuning.worker.POLL_SECONDS", 0.01)
    what = experiment(tmp_path, ALONE)
    search(tmp_path / "one", what, FakeExecutor(curve))
    search(tmp_path / "two", what, FakeExecutor(curve), FakeExecutor(curve))
    assert params(tmp_path / "one") == params(tmp_path / "two")


def test_a_round_is_claimed_side_by_side_and_the_next_waits_for_it(tmp_path: Path) -> None:
    begun = begin(tmp_path, experiment(tmp_path, ALONE))
    storage, (study,) = begun.storage, begun.studies
    worker = Worker(begun, FakeExecutor(), threading.Event(), {})

    def claimed() -> list[int]:
        numbers: list[int] = []
        while claim := worker.claim(begun.all_trials()):
            numbers.append(claim[1].number)
        return numbers

    def end(number: int) -> None:
        trial = begun.trials(study)[number]
        storage.set_trial_state_values(trial._trial_id, TrialState.COMPLETE, [1.0])

    assert claimed() == [0, 1, 2]
    end(0)
    end(1)
    assert claimed() == []
    end(2)
    assert claimed() == [3, 4]


def test_a_lost_trial_keeps_the_later_rounds_waiting_for_the_same_command(tmp_path: Path) -> None:
    class Failing(FakeExecutor):
        def _record(self, spec: RunSpec, watch: Watch | None) -> Record:
            if spec.study and spec.study.trial == 3:
                return make_record(spec=spec, status="failed", error="no luck")
            return super()._record(spec, watch)

    what = experiment(tmp_path, ALONE)
    (lacking,) = search(tmp_path / "cut", what, Failing())
    assert lacking.lacking == 5  # one of the second round, and the four trials after it
    search(tmp_path / "cut", what)
    search(tmp_path / "whole", what)
    assert params(tmp_path / "cut") == params(tmp_path / "whole")


def samplers(folder: Path, text: str) -> list[Sampler]:
    return [study.sampler for study in studies_of(experiment(folder, text))]


def test_the_default_is_bracket_for_one_number_and_tpe_for_others(tmp_path: Path) -> None:
    assert samplers(tmp_path, FILE) == ["bracket", "tpe", "tpe"]  # the last varies nothing
    ranks = '"args.rank" = { low = 1, high = 8 }, "train.lr" = false, "train.head_lr" = false'
    whole = FILE.replace('"train.head_lr" = false', ranks, 1)
    assert samplers(tmp_path, whole)[0] == "tpe"
    table = FILE.replace("trials = 9", 'trials = 9, sampler = "random"')
    assert samplers(tmp_path, table) == ["random"] * 3
    arm = table.replace('method = "lora"', 'method = "lora"\nsampler = "bracket"')
    assert samplers(tmp_path, arm) == ["bracket", "random", "random"]


@pytest.mark.parametrize(
    ("space", "words"),
    [
        ("{}", "train.lr, train.head_lr"),
        ('{ "train.head_lr" = false, "args.rank" = { low = 1, high = 8 } }', "args.rank"),
        (
            '{ "train.lr" = false, "train.head_lr" = false, "args.rank" = { low = 1, high = 8 } }',
            "not whole (here: args.rank)",
        ),
        ('{ "train.lr" = [1e-4, 1e-3], "train.head_lr" = false }', "needs a range"),
    ],
)
def test_what_a_bracket_cannot_search_is_refused(tmp_path: Path, space: str, words: str) -> None:
    text = ALONE.replace('{ "train.head_lr" = false }', space, 1)
    text = text.replace("trials = 9", 'trials = 9, sampler = "bracket"')
    with pytest.raises(InputError) as error:
        studies_of(experiment(tmp_path, text))
    assert "arm 'lora': space" in str(error.value)
    assert words in str(error.value)


def test_a_study_that_tpe_began_by_default_is_said_to_begin_anew(tmp_path: Path) -> None:
    """It is called what it was called when tpe was the default for one number too."""
    before = FILE.replace('method = "lora"', 'method = "lora"\nsampler = "tpe"')
    begun = begin(tmp_path, experiment(tmp_path, before))
    assert begun.studies[0].name == "e reviews lora d705a65a"
    lines: list[str] = []
    begin(tmp_path, experiment(tmp_path), say=lines.append)
    begin(tmp_path, experiment(tmp_path), say=lines.append)
    begin(tmp_path, experiment(tmp_path, before), say=lines.append)
    (line,) = lines
    assert line.startswith("lora on reviews: begins anew with sampler 'bracket'")
    assert 'sampler = "tpe" goes on' in line


@pytest.mark.parametrize(("best", "high"), [(1.0, True), (1e-7, False)])
def test_a_minimum_beyond_the_range_widens_it(tmp_path: Path, best: float, high: bool) -> None:
    text = ALONE.replace("trials = 9", "trials = 12")
    executor = FakeExecutor(lambda spec, step: loss(spec, step, best))
    (result,) = search(tmp_path, experiment(tmp_path, text), executor)
    (members,) = trials(tmp_path).values()
    rates = [trial.params["train.lr"] for trial in members]
    assert all(1e-4 <= rate <= 1e-2 for rate in rates[:8])
    assert result.best is not None
    found = result.best.params["train.lr"]
    assert found > 2e-2 if high else found < 5e-5
    assert result.outermost == {("train.lr", high)}


def test_what_was_not_tried_beyond_the_best_value_is_said(tmp_path: Path) -> None:
    text = ALONE.replace("trials = 9", "trials = 4")
    executor = FakeExecutor(lambda spec, step: loss(spec, step, 1e-2))
    (result,) = search(tmp_path, experiment(tmp_path, text), executor)
    assert result.edges == set()
    assert "train.lr 0.00464 (nothing higher was tried);" in summary(result)


def test_where_all_trials_diverge_the_study_ends_with_its_budget(tmp_path: Path) -> None:
    (result,) = search(
        tmp_path, experiment(tmp_path, ALONE), FakeExecutor(lambda spec, step: math.inf)
    )
    assert result.states == {"diverged": 9}
    assert (result.best, result.lacking, result.learned) == (None, 0, None)
    (members,) = trials(tmp_path).values()
    assert len({trial.params["train.lr"] for trial in members}) == 9


@pytest.mark.parametrize(("trials", "spared"), [(4, 0.005), (8, 0.001)])
def test_replayed_on_a_known_curve_it_comes_nearer_than_grid_and_tpe(
    trials: int, spared: float
) -> None:
    curves = replays.curves_in_file(Path(__file__).parent / "curves.json")
    curve = next(curve for _, curve in curves if len(curve) == 12)
    means = {
        sampler: replays.regrets(sampler, curve, trials, [*np.linspace(0.1, 0.9, 30)]).mean()
        for sampler in ("grid", "tpe", "bracket")
    }
    assert means["bracket"] + spared < min(means["grid"], means["tpe"])


SHARE = 0.6  # of the larger class


def gaining(gain: float) -> Callable[[], pd.DataFrame]:
    """Predictions of 100 examples, better than the shares' entropy by `gain` in the mean, spread by
    a standard deviation of 0.5."""

    def table() -> pd.DataFrame:
        targets = np.arange(100) < 100 * SHARE
        spread = 0.5 * np.where(np.arange(100) % 2, 1, -1)
        share = np.where(targets, SHARE, 1 - SHARE)
        columns = {"target": targets.astype(int), "nll": spread - np.log(share) - gain}
        return pd.DataFrame(columns).assign(
            id=[*map(str, range(100))], subset=None, sample=0, count=1, answer=0, score=0.0
        )

    return table


@pytest.mark.parametrize(
    ("gain", "learned"), [(0.2, True), (0.11, True), (0.09, False), (0.0, False), (-0.2, False)]
)
def test_a_search_in_which_nothing_was_learned_says_so_and_no_edge(
    tmp_path: Path, gain: float, learned: bool
) -> None:
    executor = FakeExecutor(lambda spec, step: loss(spec, step, 1e-2), predictions=gaining(gain))
    what = experiment(tmp_path, ALONE.replace("trials = 9", "trials = 4"))
    (result,) = search(tmp_path, what, executor)
    assert result.learned is learned
    line = summary(result)
    assert ("nothing was learned at any trial" in line) is not learned
    assert ("nothing higher was tried" in line) is learned
    assert line in experiment_file(what, "e.toml", [result])


def test_one_trial_that_learned_is_enough(tmp_path: Path) -> None:
    """It need not be the best one."""
    runs = itertools.count()

    def table() -> pd.DataFrame:
        return gaining(0.2 if next(runs) // 2 == 1 else 0.0)()  # two seeds a trial

    what = experiment(tmp_path, ALONE.replace("trials = 9", "trials = 3"))
    (result,) = search(tmp_path, what, FakeExecutor(predictions=table))
    assert result.learned is True


@pytest.mark.parametrize("task", ["reviews", "humaneval"])
def test_where_no_constant_is_known_nothing_is_said(tmp_path: Path, task: str) -> None:
    """Records without predictions, and a task whose answers are generated."""
    text = ALONE.replace("reviews", task).replace("trials = 9", "trials = 3")
    tables = gaining(-1.0) if task == "humaneval" else None
    (result,) = search(tmp_path, experiment(tmp_path, text), FakeExecutor(predictions=tables))
    assert result.learned is None
    assert "learned" not in summary(result)


def test_the_best_constant_predictors_nll() -> None:
    shares = constant_nlls(np.array([0, 0, 0, 2]), regression=False)
    assert shares == pytest.approx(-np.log([0.75, 0.75, 0.75, 0.25]))
    numbers = constant_nlls(np.array([1.0, 3.0]), regression=True)
    assert numbers == pytest.approx(-scipy.stats.norm.logpdf([1.0, 3.0], 2, 1))
