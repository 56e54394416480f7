"""The search: equal budgets, resume, dead workers, several workers, widening, ending early, and the
file that it writes."""

import json
import math
import multiprocessing
import os
import signal
import statistics
import sys
import threading
from collections import Counter
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from optuna.distributions import IntDistribution
from optuna.pruners import NopPruner
from optuna.trial import TrialState
from pruning import Replay, replay
from records import record as make_record
from searching import (
    ALONE,
    FILE,
    FakeExecutor,
    begin,
    experiment,
    loss,
    search,
    studies_of,
    trials,
)

from peftbench import cli
from peftbench.errors import InputError
from peftbench.experiment import Experiment, expand, read_experiment
from peftbench.methods import METHODS, OURS
from peftbench.methods.base import Range
from peftbench.record import Record
from peftbench.spec import Precision, RunSpec, StudyReference
from peftbench.store import Store
from peftbench.tasks import TASKS
from peftbench.training.executor import Watch
from peftbench.training.run import RunResult
from peftbench.tuning import tuned_file
from peftbench.tuning.dead_workers import requeue_dead, this_process
from peftbench.tuning.space import edges, limited, limits, widened
from peftbench.tuning.storage import (
    distribution,
    halving,
)
from peftbench.tuning.worker import Worker


def test_every_arm_gets_its_trials_and_no_more_and_the_best_is_found(tmp_path: Path) -> None:
    results = search(tmp_path, experiment(tmp_path))
    methods = [result.study.arm.method for result in results]
    assert methods == ["lora", "lora+"]  # frozen has nothing to tune here
    for result in results:
        assert sum(result.states.values()) == 9
        assert result.lacking == 0
        assert result.best is not None
        losses = [loss(spec, 27) for spec in result.study.runs(result.best.params)]
        assert result.best.value == pytest.approx(sum(losses) / 2)
    for name, members in trials(tmp_path).items():
        assert len(members) == 9, name
        complete = [trial for trial in members if trial.state is TrialState.COMPLETE]
        best = min(complete, key=lambda trial: abs(math.log10(trial.params["train.lr"]) + 3))
        assert best.value == min(trial.value for trial in complete if trial.value is not None)


def test_a_trial_is_an_ordinary_run_on_valid_that_says_its_study(tmp_path: Path) -> None:
    search(tmp_path, experiment(tmp_path))
    records = list(Store(tmp_path / "results").read_all())
    assert {record.spec.split for record in records} == {"valid"}
    names = Counter(
        (record.spec.study.name, record.spec.study.trial) for record in records if record.spec.study
    )
    assert {name for name, _ in names} == set(trials(tmp_path))
    bare = records[0].spec.model_copy(update={"study": None})
    assert bare.run_id == records[0].spec.run_id


@pytest.mark.parametrize("after", [0, 1, 7, 20])
def test_interrupted_anywhere_it_ends_as_if_it_had_not_been(tmp_path: Path, after: int) -> None:
    what = experiment(tmp_path)
    search(tmp_path / "whole", what)
    with pytest.raises(KeyboardInterrupt):
        search(tmp_path / "cut", what, FakeExecutor(die_after=after))
    again = FakeExecutor()
    search(tmp_path / "cut", what, again)
    cut, whole = (
        [[(t.params, t.value, t.state) for t in members] for members in trials(folder).values()]
        for folder in (tmp_path / "cut", tmp_path / "whole")
    )
    assert cut == whole
    more = FakeExecutor()
    search(tmp_path / "cut", what, more)
    assert not more.ran
    assert len({spec.run_id for spec in again.ran}) == len(again.ran)


def test_runs_that_the_store_has_cost_nothing(tmp_path: Path) -> None:
    what = experiment(tmp_path, FILE.replace("halving", "none"))
    search(tmp_path, what)
    other = FakeExecutor()
    search(tmp_path, what, other, url="other.journal")  # as after the storage was lost
    assert not other.ran


def test_several_workers_repeat_no_trial_and_lose_none(tmp_path: Path) -> None:
    what = experiment(
        tmp_path, FILE.replace("trials = 9", "trials = 20").replace("halving", "none")
    )
    executors = [FakeExecutor() for _ in range(4)]

    def work(own: list[FakeExecutor]) -> None:  # a storage of its own, as another process has
        search(tmp_path, what, *own)

    threads = [threading.Thread(target=work, args=(executors[i : i + 2],)) for i in (0, 2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [len(members) for members in trials(tmp_path).values()] == [20, 20]
    assert {trial.state for members in trials(tmp_path).values() for trial in members} == {
        TrialState.COMPLETE
    }
    ran = [spec.run_id for executor in executors for spec in executor.ran]
    assert len(ran) == len(set(ran)) == 2 * 20 * 2


class KilledExecutor(FakeExecutor):
    """An executor whose process is killed in its run number `after`."""

    def __init__(self, after: int) -> None:
        super().__init__()
        self.after = after

    def submit(self, spec: RunSpec, watch: Watch | None = None) -> Future[RunResult]:
        if len(self.ran) == self.after:
            os.kill(os.getpid(), signal.SIGKILL)
        return super().submit(spec, watch)


def _search_killed(folder: Path, what: Experiment) -> None:
    """Three searches, each killed in one of its runs."""
    for after in (4, 0, 0):
        child = os.fork()
        if not child:
            search(folder, what, KilledExecutor(after))
        _, status = os.waitpid(child, 0)
        assert os.WTERMSIG(status) == signal.SIGKILL


RANDOM = FILE.replace("trials = 9", 'trials = 9, sampler = "random"').replace("halving", "none")


@pytest.mark.slow
@pytest.mark.parametrize("text", [RANDOM, ALONE], ids=["random", "bracket"])
def test_killed_again_and_again_in_one_trial_it_ends_as_if_it_had_not_been(
    tmp_path: Path, text: str
) -> None:
    what = experiment(tmp_path, text)
    search(tmp_path / "whole", what)
    context = multiprocessing.get_context("forkserver")
    process = context.Process(target=_search_killed, args=(tmp_path / "cut", what))
    process.start()
    process.join(60)
    assert process.exitcode == 0
    results = search(tmp_path / "cut", what)
    assert not any(result.lacking for result in results)
    cut, whole = (
        [[(t.params, t.value, t.state) for t in members] for members in trials(folder).values()]
        for folder in (tmp_path / "cut", tmp_path / "whole")
    )
    assert cut == whole


def test_a_dead_workers_trial_is_tried_twice_in_one_command_and_again_in_the_next(
    tmp_path: Path,
) -> None:
    what = experiment(tmp_path, FILE.replace("halving", "none"))
    lines: list[str] = []
    begun = begin(tmp_path, what, say=lines.append)
    storage = begun.storage
    lost = begun.trials(begun.studies[0])[0]._trial_id
    command, restarted = (
        Worker(begun, FakeExecutor(), threading.Event(), {lost: losses}) for losses in (0, 2)
    )
    for number in (0, 0):  # nobody has claimed it since: it is the first in turn
        claimed = command.claim(begun.all_trials())
        assert claimed is not None
        assert (claimed[1]._trial_id, claimed[1].number) == (lost, number)
        storage.set_trial_user_attr(lost, "worker", this_process() | {"born": "at another time"})
        requeue_dead(begun)
    assert [line.rpartition(": ")[2] for line in lines] == ["it waits again"] * 2
    command.work()
    assert storage.get_trial(lost).state is TrialState.WAITING
    waiting = begun.all_trials()
    assert {
        len([t for t in each if t.number >= 6 and t.state is TrialState.WAITING])
        for each in waiting.values()
    } == {3}  # the later ones of both arms wait for it
    restarted.work()
    assert {t.state for each in begun.all_trials().values() for t in each} == {TrialState.COMPLETE}


def test_what_ends_its_worker_comes_last(tmp_path: Path) -> None:
    begun = begin(tmp_path, experiment(tmp_path))
    first = begun.trials(begun.studies[0])[0]
    begun.storage.set_trial_user_attr(first._trial_id, "losses", 2)
    worker = Worker(begun, FakeExecutor(), threading.Event(), {first._trial_id: 2})
    claimed = worker.claim(begun.all_trials())
    order = [claimed and (str(claimed[0]), claimed[1].number)]
    assert order == [("lora+ on reviews", 0)]


@pytest.mark.parametrize("status", ["failed", "timed-out"])
def test_while_an_arm_lacks_a_trial_no_file_is_written_and_the_same_command_tries_again(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    status: Any,
) -> None:
    class Failing(FakeExecutor):
        def _record(self, spec: RunSpec, watch: Watch | None) -> Record:
            if spec.method == "lora" and spec.study and spec.study.trial == 8:
                return make_record(spec=spec, status=status, error="no luck")
            return super()._record(spec, watch)

    def command(executor: FakeExecutor) -> tuple[int, str]:
        monkeypatch.setattr("peftbench.training.executor.LocalExecutor", lambda **_: executor)
        with pytest.raises(SystemExit) as ended:
            cli.main()
        return ended.value.code or 0, capsys.readouterr().out.splitlines()[-1]  # type: ignore[return-value]

    experiment(tmp_path, FILE.replace("seeds = [0, 1]", "seeds = [0]"))
    monkeypatch.setattr(
        "sys.argv",
        ["peftbench", "search", str(tmp_path / "e.toml"), "--store", str(tmp_path / "results")],
    )
    failing, mended = Failing(), FakeExecutor()
    code, last = command(failing)
    assert code == 1
    assert last == (
        "no experiment file is written: lora on reviews lacks 1 of 9 trials; "
        "the same command tries them again"
    )
    assert [spec.study.trial for spec in failing.ran if spec.study and spec.method == "lora"].count(
        8
    ) == 2
    assert not [*(tmp_path / "tuned").iterdir()]
    code, last = command(mended)
    assert (code, last) == (0, f"wrote {tmp_path / 'tuned' / 'e.toml'}")
    assert [spec.study and spec.study.trial for spec in mended.ran] == [8]


@pytest.mark.parametrize(
    ("option", "value", "words"),
    [
        ("--out", "{folder}", "it is a folder"),
        ("--out", "", "not the name of a file"),
        ("--out", "/proc/tuned.toml", "/proc/tuned.toml"),
        ("--out", "/dev/null/tuned.toml", "/dev/null"),
        ("--out", "{folder}/e.toml/tuned.toml", "there is a file"),
        ("--storage", "", "name a journal file"),
        ("--storage", "{folder}", "not a regular file"),
        ("--storage", "/proc/s.journal", "/proc/s.journal"),
    ],
)
def test_what_cannot_be_written_is_said_before_the_first_trial(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    option: str,
    value: str,
    words: str,
) -> None:
    executor = FakeExecutor()
    monkeypatch.setattr("peftbench.training.executor.LocalExecutor", lambda **_: executor)
    experiment(tmp_path)
    arguments = ["search", str(tmp_path / "e.toml"), "--store", str(tmp_path / "results")]
    chosen = value.format(folder=tmp_path)
    monkeypatch.setattr("sys.argv", ["peftbench", *arguments, option, chosen])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert ended.value.code == 2
    message = capsys.readouterr().err
    assert words in message
    assert message.count("\n") == 1
    assert not executor.ran


def test_a_trial_that_an_earlier_version_gave_up_is_said_before_the_first_one(
    tmp_path: Path,
) -> None:
    what = experiment(tmp_path)
    begun = begin(tmp_path, what)
    lost = begun.trials(begun.studies[0])[0]._trial_id
    begun.storage.set_trial_state_values(lost, TrialState.FAIL)
    with pytest.raises(InputError, match="use another --storage"):
        begin(tmp_path, what)


def test_later_trials_wait_for_the_first_ones_of_all_arms(tmp_path: Path) -> None:
    begun = begin(tmp_path, experiment(tmp_path))
    worker = Worker(begun, FakeExecutor(), threading.Event(), {})
    first = [trial._trial_id for study in begun.studies for trial in begun.trials(study)[:6]]
    for trial in first:
        begun.storage.set_trial_state_values(trial, TrialState.RUNNING)
    for trial in first[1:]:
        begun.storage.set_trial_state_values(trial, TrialState.COMPLETE, [1.0])
    assert worker.claim(begun.all_trials()) is None
    begun.storage.set_trial_state_values(first[0], TrialState.COMPLETE, [1.0])
    claimed = worker.claim(begun.all_trials())
    assert claimed is not None
    assert (claimed[0].arm.method, claimed[1].number) == ("lora", 6)


def test_a_living_workers_trial_is_left_alone(tmp_path: Path) -> None:
    begun = begin(tmp_path, experiment(tmp_path))
    storage = begun.storage
    own, elsewhere = (trial._trial_id for trial in begun.trials(begun.studies[0])[:2])
    for trial, worker in (
        (own, this_process()),
        (elsewhere, {"host": "elsewhere", "pid": os.getpid(), "born": "long ago"}),
    ):
        storage.set_trial_state_values(trial, TrialState.RUNNING)
        storage.set_trial_user_attr(trial, "worker", worker)
    requeue_dead(begun)
    assert {storage.get_trial(trial).state for trial in (own, elsewhere)} == {TrialState.RUNNING}


def test_a_best_value_on_the_edge_widens_the_range_once_for_all_arms(tmp_path: Path) -> None:
    text = FILE.replace("trials = 9", 'trials = 30, sampler = "random"').replace("halving", "none")
    executor = FakeExecutor(lambda spec, step: loss(spec, step, best=1.0))
    results = search(tmp_path, experiment(tmp_path, text), executor)
    lora, plus = (result.dimensions["train.lr"] for result in results)
    assert isinstance(lora, Range)
    assert isinstance(plus, Range)
    assert (lora.low, lora.high) == (1e-4, pytest.approx(1e-1))
    assert (plus.low, plus.high) == (1e-5, pytest.approx(1e-2))
    for members, limit in zip(trials(tmp_path).values(), (1e-2, 1e-3), strict=True):
        rates = [trial.params["train.lr"] for trial in members]
        assert max(rates[:20]) <= limit < max(rates[20:])


def test_an_interrupted_trial_names_no_worker_and_counts_nothing(tmp_path: Path) -> None:
    """Or whoever claims it next is taken for the one that gave it back, until it says who it is."""
    with pytest.raises(KeyboardInterrupt):
        search(tmp_path, experiment(tmp_path), FakeExecutor(die_after=1))
    (given_back,) = (
        trial
        for members in trials(tmp_path).values()
        for trial in members
        if "worker" in trial.user_attrs
    )
    assert given_back.state is TrialState.WAITING
    assert [given_back.user_attrs[name] for name in ("worker", "steps")] == [None, 0]


def test_a_grids_edges_widen_no_range(tmp_path: Path) -> None:
    grid = 'sampler = "grid"\nspace = { "train.lr" = [3e-4, 2e-4, 1e-4], "train.head_lr" = false }'
    text = FILE.replace("trials = 9", "trials = 3").replace("halving", "none")
    text = text.replace(
        'method = "lora+"\nspace = { "train.head_lr" = false }',
        f'method = "lora"\nargs = {{ rank = 4 }}\n{grid}',
    )
    lora, gridded = search(tmp_path, experiment(tmp_path, text))
    assert gridded.edges == {("train.lr", True)}
    assert lora.dimensions == lora.study.dimensions
    assert str(gridded.study) == "lora (rank 4) on reviews"
    assert "(edge: high end of its range)" in tuned_file.summary(gridded)


def test_edges_and_widening_in_closed_form() -> None:
    space = {
        "train.lr": Range(1e-4, 1e-2, log=True),
        "args.ratio": Range(1, 64, log=True, least=1),
        "args.k": Range(0, 10, integer=True),
    }
    assert edges(space, {"train.lr": 1.1e-4, "args.ratio": 1, "args.k": 10}) == {
        ("train.lr", False),
        ("args.k", True),
    }
    assert edges(space, {"train.lr": 1e-3, "args.ratio": 63, "args.k": 5}) == {("args.ratio", True)}
    grid = {"train.lr": (1e-4, 1e-3, 1e-2), "args.ratio": (1, 16)}
    assert edges(grid, {"train.lr": 1e-2, "args.ratio": 16}) == {("train.lr", True)}
    assert edges(grid, {"train.lr": 1e-4, "args.ratio": 1}) == {("train.lr", False)}
    assert edges(grid, {"train.lr": 1e-3, "args.ratio": 1}) == set()
    wide = widened(
        space, {("train.lr", False), ("args.ratio", True), ("args.k", True), ("args.other", True)}
    )
    assert wide == {
        "train.lr": Range(1e-5, 1e-2, log=True),
        "args.ratio": Range(1, 640, log=True, least=1),
        "args.k": Range(0, 20, integer=True),
    }


@pytest.mark.parametrize(
    ("key", "given", "high", "limit"),
    [
        ("args.rank", Range(4, 64, log=True, integer=True), False, 1),
        ("args.rank", Range(4, 64, integer=True), False, 1),
        ("args.rank", Range(1, 65_536, integer=True), True, 65_536),
        ("train.weight_decay", Range(0.1, 0.9), False, 0),
        ("train.weight_decay", Range(1e-323, 1, log=True), False, 5e-324),
        ("train.lr", Range(1e-4, 1e-2), False, 5e-324),
        ("train.lr", Range(1e-4, 1e308, log=True), True, sys.float_info.max),
        ("train.warmup", Range(0.3, 0.9), True, math.nextafter(1, 0)),
        ("train.beta2", Range(0.9, 0.99), True, math.nextafter(1, 0)),
        ("args.dropout", Range(0.2, 0.8), True, math.nextafter(1, 0)),
    ],
)
def test_widening_ends_where_the_key_does(key: str, given: Range, high: bool, limit: float) -> None:
    best = {key: given.high if high else given.low}
    dimensions = limited({key: given}, METHODS["lora"])
    for _ in range(9):
        dimensions = widened(dimensions, {(key, high)})
        distribution(dimensions[key])
    widest = dimensions[key]
    assert isinstance(widest, Range)
    assert (widest.high if high else widest.low) == limit
    assert edges(dimensions, {key: limit}) == set()
    assert limits(dimensions, {key: limit}) == {(key, high)}
    if best[key] != limit:
        assert edges(limited({key: given}, METHODS["lora"]), best) == {(key, high)}


def test_a_best_value_at_the_limit_of_its_key_is_no_edge(tmp_path: Path) -> None:
    space = 'space = { "args.rank" = { low = 4, high = 64 }, "train.lr" = false }'
    text = FILE.replace("trials = 9", 'trials = 30, sampler = "random"').replace("halving", "none")
    text = text.replace('space = { "train.head_lr" = false }', space, 1)
    executor = FakeExecutor(lambda spec, step: 1 + spec.args.get("rank", 0) / 100)
    result = search(tmp_path, experiment(tmp_path, text), executor)[0]
    wide = result.dimensions["args.rank"]
    assert isinstance(wide, Range)
    assert (wide.low, wide.high) == (1, 64)
    assert result.best is not None
    assert result.best.params["args.rank"] <= 4
    assert result.edges == set()
    assert "(low end of its range: the limit of what the key allows)" in tuned_file.summary(result)


def test_a_value_drawn_beyond_what_the_key_allows_is_drawn_again(tmp_path: Path) -> None:
    """Earlier versions widened without limits, and such a trial waits in their journals."""
    text = FILE.replace(
        'method = "lora"\nspace = { "train.head_lr" = false }',
        'method = "lora"\nspace = { "train.lr" = false, "train.head_lr" = false, '
        '"args.rank" = { low = 4, high = 64, integer = true } }',
    )
    what = experiment(tmp_path, text)
    begun = begin(tmp_path, what)
    late = begun.trials(begun.studies[0])[7]._trial_id
    begun.storage.set_trial_param(late, "args.rank", -20, IntDistribution(-56, 64))
    results = search(tmp_path, what)
    assert [result.lacking for result in results] == [0, 0]
    params = begun.storage.get_trial(late).params
    assert 1 <= params["args.rank"] <= 4


def test_what_a_study_was_called_it_is_called(tmp_path: Path) -> None:
    """The limits of keys do not change the names under which trials are stored."""
    names = [study.name for study in studies_of(experiment(tmp_path))]
    assert names == [
        "e reviews lora c9c3ce2e",
        "e reviews lora+ e5adb41e",
        "e reviews frozen 0abb42f9",
    ]


def test_diverged_trials_count_and_are_never_the_best(tmp_path: Path) -> None:
    executor = FakeExecutor(
        lambda spec, step: math.inf if spec.train.lr > 5e-4 else loss(spec, step)
    )
    results = search(tmp_path, experiment(tmp_path), executor)
    best = [result.best for result in results if result.best is not None]
    assert all(trial.params["train.lr"] <= 5e-4 for trial in best)
    assert any(result.states.get("diverged") for result in results)
    assert all(sum(result.states.values()) == 9 for result in results)


def test_a_grid_runs_each_of_its_points_to_the_end(tmp_path: Path) -> None:
    grid = (
        'sampler = "grid"\nspace = { "train.lr" = [1e-4, 1e-3, 1e-2], "args.ratio" = [1, 4, 16], '
        '"train.head_lr" = false }'
    )
    text = FILE.replace(
        'method = "lora+"\nspace = { "train.head_lr" = false }', f'method = "lora+"\n{grid}'
    )
    result = search(tmp_path, experiment(tmp_path, text))[1]
    members = trials(tmp_path)[result.study.name]
    assert {(trial.params["train.lr"], trial.params["args.ratio"]) for trial in members} == {
        (a, b) for a in (1e-4, 1e-3, 1e-2) for b in (1, 4, 16)
    }
    assert {trial.state for trial in members} == {TrialState.COMPLETE}
    assert result.best is not None
    assert result.best.params == {"train.lr": 1e-3, "args.ratio": 1}


def test_the_tuned_file_runs_what_was_found_on_test_with_fresh_seeds(tmp_path: Path) -> None:
    what = experiment(tmp_path)
    results = search(tmp_path, what)
    file = tmp_path / "tuned.toml"
    tuned_file.write(file, tuned_file.experiment_file(what, "e.toml", results))
    specs = expand(read_experiment(file), METHODS, TASKS, auto_precision="float32")
    assert {spec.split for spec in specs} == {"test"}
    assert {spec.seed for spec in specs} == {2, 3, 4, 5, 6}
    assert {spec.method for spec in specs} == {"lora", "lora+", "frozen"}
    for result in results:
        best = result.best
        assert best is not None
        for spec in (spec for spec in specs if spec.method == result.study.arm.method):
            assert spec.train.lr == best.params["train.lr"]
            assert spec.train.eval_every is None
            assert spec.study == StudyReference(name=result.study.name, trials=9, trial=None)
        assert f"trial {best.number + 1};" in file.read_text()


def test_the_tuned_file_keeps_the_bases_of_the_search(tmp_path: Path) -> None:
    two = FILE.replace('task = ["reviews"]', 'task = ["reviews", { name = "rte", base = "int8" }]')
    two = two.replace('method = "lora+"', 'method = "lora+"\nbase = "plain"')
    what = experiment(tmp_path, f'base = "nf4"\n{two}')
    file = tmp_path / "tuned.toml"
    file.write_text(tuned_file.experiment_file(what, "e.toml", []))
    specs = expand(read_experiment(file), METHODS, TASKS, auto_precision="float32")
    assert {(spec.task, spec.method, spec.base) for spec in specs} == {
        ("reviews", "lora", "nf4"),
        ("reviews", "lora+", "plain"),
        ("reviews", "frozen", "nf4"),
        ("rte", "lora", "int8"),
        ("rte", "lora+", "plain"),
        ("rte", "frozen", "int8"),
    }


def test_a_task_with_two_models_is_refused_in_one_line(tmp_path: Path) -> None:
    two = '["reviews", { name = "rte" }, { name = "reviews", model = "smollm2-135m" }]'
    text = FILE.replace('["reviews"]', two)
    with pytest.raises(InputError, match=r"'reviews' .* one search file for each model") as error:
        studies_of(experiment(tmp_path, text))
    assert "\n" not in str(error.value)


def test_fresh_seeds_are_not_those_tuned_on() -> None:
    assert tuned_file.fresh_seeds([0, 2], 3) == [1, 3, 4]


def test_learning_rates_span_two_decades_at_least() -> None:
    for name, method in OURS.items():
        for key, dimension in method.space.items():
            if key.endswith("lr"):
                assert dimension.log, name
                assert dimension.high / dimension.low >= 99.99, name


@pytest.mark.parametrize(
    ("space", "words"),
    [
        ('{ "train.lr" = { low = 1e-2, high = 1e-4, log = true } }', "low end must lie below"),
        ('{ "train.lr" = { low = 1e-3, high = 1e-3 } }', "low end must lie below"),
        ('{ "train.lr" = { low = 0, high = 1e-3, log = true } }', "must lie above 0"),
        ('{ "train.lr" = { low = 1e-4 } }', "low = ..., high"),
        ('{ "train.lr" = { low = 1e-4, hihg = 1, high = 1 } }', "did you mean 'high'"),
        ('{ "train.lr" = { low = "a", high = 1 } }', "a number is needed"),
        ('{ "train.lr" = [1e-4, 1e-3] }', "needs a range"),
        ('{ "train.lr" = [] }', "list of different numbers"),
        ('{ "train.learning_rate" = { low = 1e-4, high = 1 } }', "known: batch_size"),
        ('{ "args.ratio" = { low = 1, high = 4 } }', "unknown key"),
        ('{ "data.train" = { low = 1, high = 4 } }', "train.KEY"),
        ('{ "args.rank" = { low = 0.5, high = 4 } }', "rank"),
        ('{ "args.dropout" = { low = 0, high = 1.5 } }', "numbers from 0 to below 1"),
        ('{ "args.rank" = { low = 0, high = 4 } }', "whole numbers above 0"),
        ('{ "args.rank" = { low = 1.5, high = 4 } }', "must be whole numbers"),
        ('{ "args.rank" = { low = 1, high = 1e17 } }', "whole numbers above 0"),
        ('{ "args.rank" = { low = 1, high = 8, least = 2 } }', "must not pass least = 2"),
        ('{ "args.rank" = { low = 1, high = 8, most = 4 } }', "must not pass most = 4"),
        ('{ "args.targets" = { low = 1, high = 8 } }', "unknown key"),
        ('{ "train.beta2" = { low = 0.9, high = 1 } }', "numbers from 0 to below 1"),
        ('{ "train.lr" = { low = 0, high = 1 } }', "numbers above 0"),
        ('{ "train.lr" = { low = -1, high = 1 } }', "numbers above 0"),
        ('{ "train.lr" = { low = 1e-3, high = inf } }', "high: a number is needed"),
        ('{ "train.lr" = { low = nan, high = 1 } }', "low: a number is needed"),
        ('{ "train.lr" = { low = true, high = 1 } }', "low: a number is needed"),
        ('{ "train.lr" = { low = 1e-4, high = [1] } }', "high: a number is needed"),
        ('{ "train.lr" = { low = 1e-4, high = { low = 1 } } }', "high: a number is needed"),
        ('{ "train.lr" = { low = 1e-4, high = 1, log = 1 } }', "log: true or false is needed"),
        ('{ "train.lr" = { low = 1e-4, high = 1, step = 1 } }', "unknown key"),
        ('{ "train.lr" = { low = 1e-4, high = HUGE } }', "high: a number is needed"),
        ('{ "train.lr" = HUGE }', "low = ..., high"),
        ('{ "train.lr" = true }', "low = ..., high"),
        ('{ "train.lr" = "wide" }', "low = ..., high"),
        ('{ "train.lr" = {} }', "low = ..., high"),
        ('{ "train.lr" = [HUGE] }', "list of different numbers"),
        ('{ "train.lr" = [1e-4, nan] }', "list of different numbers"),
        ('{ "train.lr" = [1e-4, "a"] }', "list of different numbers"),
        ('{ "train.lr" = [1e-4, true] }', "list of different numbers"),
        ('{ "train.lr" = [[1e-4]] }', "list of different numbers"),
        ('{ "train.lr" = [1e-4, 1e-4] }', "list of different numbers"),
    ],
)
def test_a_space_that_cannot_be_searched_is_refused_in_one_line(
    tmp_path: Path, space: str, words: str
) -> None:
    what = experiment(
        tmp_path,
        FILE.replace(
            'method = "lora"\nspace = { "train.head_lr" = false }',
            f'method = "lora"\nspace = {space.replace("HUGE", "1" + "0" * 400)}',
        ),
    )
    with pytest.raises(InputError) as error:
        studies_of(what)
    assert "lora" in str(error.value).lower()
    assert words in str(error.value)
    assert "\n" not in str(error.value)
    assert len(str(error.value)) < 400


@pytest.mark.parametrize(
    ("table", "words"),
    [
        ("trials = 0", "trials"),
        ("trials = 1.5", "trials"),
        ("trials = [9]", "trials"),
        ("trials = 10_001", "at most 10000"),
        ("trials = HUGE", "trials"),
        ("trials = 9, seed = HUGE", "seed"),
        ("trials = 9, seed = -1", "seed"),
        ("trials = 9, test_seeds = HUGE", "test_seeds"),
        ("trials = 9, sampler = 3", "sampler"),
        ("trials = 9, sampler = { name = 'tpe' }", "sampler"),
        ("trials = 9, pruner = []", "pruner"),
        ("trails = 9", "trials"),
        ("", "trials"),
    ],
)
def test_a_table_that_cannot_be_carried_out_is_refused_in_one_line(
    tmp_path: Path, table: str, words: str
) -> None:
    text = FILE.replace('trials = 9, pruner = "halving"', table.replace("HUGE", f"1{'0' * 400}"))
    with pytest.raises(InputError) as error:
        studies_of(experiment(tmp_path, text))
    assert words in str(error.value)
    assert "\n" not in str(error.value)


def test_a_grid_of_far_too_many_points_is_only_counted(tmp_path: Path) -> None:
    names = ("train.lr", "train.weight_decay", "train.warmup", "args.alpha", "args.dropout")
    values = [place / 1000 for place in range(1, 100)]
    space = ", ".join(f'"{name}" = {values}' for name in names)
    arm = f'method = "lora"\nsampler = "grid"\nspace = {{ "train.head_lr" = false, {space} }}'
    text = FILE.replace('method = "lora"\nspace = { "train.head_lr" = false }', arm)
    with pytest.raises(InputError, match=f"{99**5} points"):
        studies_of(experiment(tmp_path, text))


def test_unequal_budgets_are_refused(tmp_path: Path) -> None:
    grid = (
        'method = "lora"\nsampler = "grid"\n'
        'space = { "train.lr" = [1e-4, 1e-3], "train.head_lr" = false }'
    )
    what = experiment(
        tmp_path, FILE.replace('method = "lora"\nspace = { "train.head_lr" = false }', grid)
    )
    with pytest.raises(
        InputError, match=r"grid has 2 points, and search\.trials gives every arm 9"
    ):
        studies_of(what)


def test_an_arm_with_nothing_to_tune_is_no_grid_of_one_point(tmp_path: Path) -> None:
    what = experiment(
        tmp_path,
        FILE.replace('method = "frozen"', 'method = "frozen"\nsampler = "grid"'),
    )
    assert [bool(study.dimensions) for study in studies_of(what)] == [True, True, False]


def test_sqlite_is_as_good_a_storage(tmp_path: Path) -> None:
    results = search(tmp_path, experiment(tmp_path), url=f"sqlite:///{tmp_path}/studies.db")
    assert all(sum(result.states.values()) == 9 for result in results)


def test_run_and_search_refuse_each_others_files(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    experiment(tmp_path)
    plain = tmp_path / "plain.toml"
    plain.write_text(FILE.replace('search = { trials = 9, pruner = "halving" }', ""))
    for command, file, words in (
        ("run", tmp_path / "e.toml", "peftbench search"),
        ("search", plain, "[search]"),
    ):
        monkeypatch.setattr(
            "sys.argv", ["peftbench", command, str(file), "--store", str(tmp_path / "results")]
        )
        with pytest.raises(SystemExit) as ended:
            cli.main()
        assert ended.value.code == 2
        assert words in capsys.readouterr().err


def test_what_a_study_is_called_changes_with_what_it_is(tmp_path: Path) -> None:
    def names(text: str, auto_precision: Precision = "float32") -> set[str]:
        return {study.name for study in studies_of(experiment(tmp_path, text), auto_precision)}

    assert names(FILE) == names(FILE)
    for change in (
        ("steps = 27", "steps = 28"),
        ("trials = 9", "trials = 10"),
        ("seeds = [0, 1]", "seeds = [0]"),
        ('"train.head_lr" = false', '"train.head_lr" = { low = 1e-4, high = 1e-2, log = true }'),
    ):
        assert not names(FILE) & names(FILE.replace(*change))
    assert not names(FILE) & names(FILE, "bf16-mixed")
    assert names(FILE) == names(FILE.replace("[[arm]]", "limits.seconds = 5\n[[arm]]", 1))
    randomly = FILE.replace('method = "lora"', 'method = "lora"\nsampler = "random"')
    assert len(names(FILE) - names(randomly)) == 1
    fixed = FILE.replace("steps = 27", 'steps = 27, precision = "float32"')
    assert names(fixed) == names(fixed, "bf16-mixed") == names(FILE)


def test_what_auto_comes_to_is_part_of_every_trials_run_ids(tmp_path: Path) -> None:
    what = experiment(tmp_path)
    for single, half in zip(studies_of(what), studies_of(what, "bf16-mixed"), strict=True):
        assert {spec.train.precision for spec in half.runs({})} == {"bf16-mixed"}
        ids = [{spec.run_id for spec in study.runs({})} for study in (single, half)]
        assert not ids[0] & ids[1]


# Full-length trials on `valid`: SmolLM2-135M with LoRA on code (12 learning rates), MiniLM with
# LoRA+ on reviews (4 rates x 4 ratios).
CURVES = json.loads((Path(__file__).parent / "curves.json").read_text())


def replays(name: str, pruner: Any, orders: int = 60) -> list[Replay]:
    """In many orders, the method's own learning rate first, as in every search."""
    rng = np.random.default_rng(0)
    first = next(i for i, trial in enumerate(CURVES[name]) if trial["lr"] == 1e-3)
    curves = [[tuple(point) for point in trial["curve"]] for trial in CURVES[name]]
    results = []
    for _ in range(orders):
        others = [i for i in rng.permutation(len(curves)) if i != first]
        results.append(replay([curves[i] for i in (first, *others)], pruner(curves[0][0][0])))
    return results


def test_ending_trials_early_takes_a_third_of_the_steps_and_finds_as_good_a_learning_rate() -> None:
    results = replays("language model", halving)
    assert max(result.regret for result in results) <= 0.01
    assert statistics.median(result.share for result in results) <= 0.35


def test_without_a_pruner_a_replay_takes_everything_and_loses_nothing() -> None:
    results = replays("language model", lambda rung: NopPruner(), orders=3)
    assert {(result.share, result.regret) for result in results} == {(1.0, 0.0)}


def test_a_new_heads_first_losses_say_too_little_so_that_its_trials_run_to_the_end(
    tmp_path: Path,
) -> None:
    assert statistics.median(result.regret for result in replays("new head", halving)) > 0.01
    what = experiment(tmp_path, FILE.replace(', pruner = "halving"', ""))
    assert not any(study.may_prune for study in studies_of(what))
    code = experiment(
        tmp_path, FILE.replace(', pruner = "halving"', "").replace("reviews", "humaneval")
    )
    assert all(study.may_prune for study in studies_of(code))


def test_every_arm_first_tries_the_settings_that_it_has(tmp_path: Path) -> None:
    search(tmp_path, experiment(tmp_path))
    first = {name.split()[2]: members[0].params for name, members in trials(tmp_path).items()}
    assert first == {
        "lora": {"train.lr": METHODS["lora"].lr},
        "lora+": {"train.lr": METHODS["lora+"].lr, "args.ratio": 16.0},
    }
