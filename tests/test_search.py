"""The search: equal budgets, resume, dead workers, several workers, widening, ending early, and the
file that it writes."""

import json
import math
import os
import statistics
import threading
from collections import Counter
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pytest
from optuna.pruners import NopPruner
from optuna.trial import TrialState
from records import record as make_record
from replay import Replay, replay

from peftbench import cli
from peftbench.errors import InputError
from peftbench.experiment import Experiment, expand, read_experiment
from peftbench.methods import METHODS
from peftbench.methods.base import Range
from peftbench.record import Point
from peftbench.spec import RunSpec
from peftbench.store import Store
from peftbench.suite import Watch
from peftbench.tasks import TASKS
from peftbench.training.run import Outcome
from peftbench.tuning import search
from peftbench.tuning import tuned_file as tuned
from peftbench.tuning.dead_workers import me, requeue_dead
from peftbench.tuning.space import edges, fresh_seeds, may_prune, quests, trial_runs, widened
from peftbench.tuning.studies import halving, study_name

FILE = """
question = "Which rates?"
model = "minilm-l6"
task = ["reviews"]
seeds = [0, 1]
train = { steps = 27, batch_size = 4 }
search = { trials = 9, pruner = "halving" }

[[arm]]
method = "lora"
space = { "train.head_lr" = false }

[[arm]]
method = "lora+"
space = { "train.head_lr" = false }

[[arm]]
method = "frozen"
space = { "train.head_lr" = false }
"""
FOLDER = "cpu-amd-epyc-2-threads"  # of the made-up records


def loss(spec: RunSpec, step: int, best: float = 1e-3) -> float:
    """A made-up curve: the nearer the learning rate to the best one (in decades), the lower at
    every step."""
    return 0.3 + 0.1 * math.log10(spec.train.lr / best) ** 2 + 0.5 / (1 + step)


class Made:
    """An executor that trains nothing: its runs follow `loss`."""

    def __init__(self, curve: Any = loss, die_after: int | None = None) -> None:
        self.curve, self.die_after = curve, die_after
        self.ran: list[RunSpec] = []

    def submit(self, spec: RunSpec, watch: Watch | None = None) -> Future[Outcome]:
        if self.die_after is not None and len(self.ran) >= self.die_after:
            raise KeyboardInterrupt
        self.ran.append(spec)
        future: Future[Outcome] = Future()
        future.set_result(Outcome(self._record(spec, watch), None))
        return future

    def _record(self, spec: RunSpec, watch: Watch | None) -> Any:
        curve: list[Point] = []
        for step in range(1, spec.train.steps + 1):
            every = spec.train.eval_every
            nll = (
                self.curve(spec, step)
                if every and step % every == 0 and step < spec.train.steps
                else None
            )
            if nll is not None and not math.isfinite(nll):
                break
            curve.append(Point(step=step, train_loss=1.0, valid_loss=nll))
            if nll is not None and watch is not None and watch(step, nll):
                return make_record(spec=spec, status="pruned", curve=tuple(curve))
        if not math.isfinite(self.curve(spec, spec.train.steps)):
            return make_record(spec=spec, status="diverged", curve=tuple(curve))
        return make_record(
            spec=spec,
            curve=tuple(curve),
            metrics={"accuracy": 0.5, "nll": self.curve(spec, spec.train.steps)},
        )

    def close(self) -> None:
        pass


def experiment(folder: Path, text: str = FILE) -> Experiment:
    file = folder / "e.toml"
    file.write_text(text)
    return read_experiment(file)


def carry_out(
    folder: Path, what: Experiment, *executors: Made, journal: str = "studies.journal"
) -> list[search.Found]:
    folder.mkdir(exist_ok=True)
    storage = search.open_storage(str(folder / journal))
    tunings = search.prepare("e", what, storage)
    return search.search(
        what,
        storage,
        tunings,
        Store(folder / "results"),
        FOLDER,
        executors or (Made(),),
        say=lambda line: None,
    )


def trials(
    folder: Path, journal: str = "studies.journal"
) -> dict[str, list[optuna.trial.FrozenTrial]]:
    storage = search.open_storage(str(folder / journal))
    return {
        study.study_name: storage.get_all_trials(study._study_id)
        for study in storage.get_all_studies()
    }


def test_every_arm_gets_its_trials_and_no_more_and_the_best_is_found(tmp_path: Path) -> None:
    found = carry_out(tmp_path, experiment(tmp_path))
    assert [each.quest.arm.method for each in found] == [
        "lora",
        "lora+",
    ]  # frozen has nothing to tune here
    for each in found:
        assert sum(each.states.values()) == 9
        assert each.values is not None
        assert each.nll == pytest.approx(
            sum(
                loss(spec, 27)
                for spec in trial_runs(experiment(tmp_path), each.quest, each.values, None)
            )
            / 2
        )
    for name, members in trials(tmp_path).items():
        assert len(members) == 9, name
        done = [trial for trial in members if trial.state is TrialState.COMPLETE]
        best = min(done, key=lambda trial: abs(math.log10(trial.params["train.lr"]) + 3))
        assert min(done, key=lambda trial: trial.value).number == best.number


def test_a_trial_is_an_ordinary_run_on_valid_that_says_its_study(tmp_path: Path) -> None:
    carry_out(tmp_path, experiment(tmp_path))
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
    carry_out(tmp_path / "whole", what)
    with pytest.raises(KeyboardInterrupt):
        carry_out(tmp_path / "cut", what, Made(die_after=after))
    again = Made()
    carry_out(tmp_path / "cut", what, again)
    assert [
        [(t.params, t.value, t.state) for t in members]
        for members in trials(tmp_path / "cut").values()
    ] == [
        [(t.params, t.value, t.state) for t in members]
        for members in trials(tmp_path / "whole").values()
    ]
    more = Made()
    carry_out(tmp_path / "cut", what, more)
    assert not more.ran
    assert len({spec.run_id for spec in again.ran}) == len(again.ran)


def test_runs_that_the_store_has_cost_nothing(tmp_path: Path) -> None:
    what = experiment(tmp_path, FILE.replace("halving", "none"))
    carry_out(tmp_path, what)
    other = Made()
    carry_out(tmp_path, what, other, journal="other.journal")  # as after the storage was lost
    assert not other.ran


def test_several_workers_repeat_no_trial_and_lose_none(tmp_path: Path) -> None:
    what = experiment(
        tmp_path, FILE.replace("trials = 9", "trials = 20").replace("halving", "none")
    )
    made = [Made() for _ in range(4)]
    results = Store(tmp_path / "results")

    def work(mine: list[Made]) -> None:  # a storage of its own, as another process has
        storage = search.open_storage(str(tmp_path / "studies.journal"))
        search.search(
            what,
            storage,
            search.prepare("e", what, storage),
            results,
            FOLDER,
            mine,
            say=lambda line: None,
        )

    threads = [threading.Thread(target=work, args=(made[i : i + 2],)) for i in (0, 2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [len(members) for members in trials(tmp_path).values()] == [20, 20]
    assert {trial.state for members in trials(tmp_path).values() for trial in members} == {
        TrialState.COMPLETE
    }
    ran = [spec.run_id for each in made for spec in each.ran]
    assert len(ran) == len(set(ran)) == 2 * 20 * 2


def test_a_dead_workers_trial_is_tried_once_more_and_then_has_failed(tmp_path: Path) -> None:
    what = experiment(tmp_path)
    storage = search.open_storage(str(tmp_path / "studies.journal"))
    tunings = search.prepare("e", what, storage)
    dead = storage.get_all_trials(tunings[0].study_id)[0]._trial_id
    said: list[str] = []
    for _ in range(2):
        assert storage.set_trial_state_values(dead, TrialState.RUNNING)
        storage.set_trial_user_attr(dead, "worker", me() | {"born": "at another time"})
        requeue_dead(what, storage, tunings, said.append)
    assert storage.get_trial(dead).state is TrialState.FAIL
    assert [line.rpartition(": ")[2] for line in said] == ["tried again", "failed"]
    found = carry_out(tmp_path, what)
    assert sum(found[0].states.values()) == 9
    assert found[0].states["its worker died, twice"] == 1


def test_a_living_workers_trial_is_left_alone(tmp_path: Path) -> None:
    what = experiment(tmp_path)
    storage = search.open_storage(str(tmp_path / "studies.journal"))
    tunings = search.prepare("e", what, storage)
    mine, elsewhere = (trial._trial_id for trial in storage.get_all_trials(tunings[0].study_id)[:2])
    for trial, worker in (
        (mine, me()),
        (elsewhere, {"host": "elsewhere", "pid": os.getpid(), "born": "long ago"}),
    ):
        storage.set_trial_state_values(trial, TrialState.RUNNING)
        storage.set_trial_user_attr(trial, "worker", worker)
    requeue_dead(what, storage, tunings, lambda line: None)
    assert {storage.get_trial(trial).state for trial in (mine, elsewhere)} == {TrialState.RUNNING}


def test_a_best_value_on_the_edge_widens_the_range_once_for_all_arms(tmp_path: Path) -> None:
    text = FILE.replace("trials = 9", 'trials = 30, sampler = "random"').replace("halving", "none")
    found = carry_out(
        tmp_path, experiment(tmp_path, text), Made(lambda spec, step: loss(spec, step, best=1.0))
    )
    lora, plus = (each.dimensions["train.lr"] for each in found)
    assert isinstance(lora, Range)
    assert isinstance(plus, Range)
    assert (lora.low, lora.high) == (1e-4, pytest.approx(1e-1))
    assert (plus.low, plus.high) == (1e-5, pytest.approx(1e-2))
    rates = [
        [trial.params["train.lr"] for trial in members] for members in trials(tmp_path).values()
    ]
    assert all(
        max(each[:20]) <= limit < max(each[20:])
        for each, limit in zip(rates, (1e-2, 1e-3), strict=True)
    )


def test_an_interrupted_trial_names_no_worker_and_counts_nothing(tmp_path: Path) -> None:
    """Or whoever claims it next is taken for the one that let it go, until it says who it is."""
    with pytest.raises(KeyboardInterrupt):
        carry_out(tmp_path, experiment(tmp_path), Made(die_after=1))
    (given_back,) = (
        trial
        for members in trials(tmp_path).values()
        for trial in members
        if "worker" in trial.user_attrs
    )
    assert given_back.state is TrialState.WAITING
    assert [given_back.user_attrs[name] for name in ("worker", "runs", "steps")] == [None, [], 0]


def test_a_grid_has_edges_that_widen_nobodys_range(tmp_path: Path) -> None:
    grid = 'sampler = "grid"\nspace = { "train.lr" = [3e-4, 2e-4, 1e-4], "train.head_lr" = false }'
    text = FILE.replace("trials = 9", "trials = 3").replace("halving", "none")
    text = text.replace(
        'method = "lora+"\nspace = { "train.head_lr" = false }',
        f'method = "lora"\nargs = {{ rank = 4 }}\n{grid}',
    )
    lora, gridded = carry_out(tmp_path, experiment(tmp_path, text))
    assert gridded.edges == {("train.lr", True)}
    assert lora.dimensions == lora.quest.dimensions
    assert str(gridded.quest) == "lora (rank 4) on reviews"
    assert "(edge: high end of its range)" in tuned.summary(gridded)


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


def test_diverged_trials_count_and_are_never_the_best(tmp_path: Path) -> None:
    found = carry_out(
        tmp_path,
        experiment(tmp_path),
        Made(lambda spec, step: math.inf if spec.train.lr > 5e-4 else loss(spec, step)),
    )
    assert all(each.values is None or each.values["train.lr"] <= 5e-4 for each in found)
    assert any(each.states.get("diverged") for each in found)
    assert all(sum(each.states.values()) == 9 for each in found)


def test_a_grid_runs_each_of_its_points_to_the_end(tmp_path: Path) -> None:
    grid = 'sampler = "grid"\nspace = { "train.lr" = [1e-4, 1e-3, 1e-2], "args.ratio" = [1, 4, 16], "train.head_lr" = false }'
    text = FILE.replace(
        'method = "lora+"\nspace = { "train.head_lr" = false }', f'method = "lora+"\n{grid}'
    )
    found = carry_out(tmp_path, experiment(tmp_path, text))[1]
    members = trials(tmp_path)[found.study.name]
    assert {(trial.params["train.lr"], trial.params["args.ratio"]) for trial in members} == {
        (a, b) for a in (1e-4, 1e-3, 1e-2) for b in (1, 4, 16)
    }
    assert {trial.state for trial in members} == {TrialState.COMPLETE}
    assert found.values == {"train.lr": 1e-3, "args.ratio": 1}


def test_the_tuned_file_runs_what_was_found_on_test_with_fresh_seeds(tmp_path: Path) -> None:
    what = experiment(tmp_path)
    found = carry_out(tmp_path, what)
    file = tmp_path / "tuned.toml"
    tuned.write(file, tuned.experiment_file(what, "e.toml", found))
    specs = expand(read_experiment(file), METHODS, TASKS)
    assert {spec.split for spec in specs} == {"test"}
    assert {spec.seed for spec in specs} == {2, 3, 4, 5, 6}
    assert {spec.method for spec in specs} == {"lora", "lora+", "frozen"}
    for each in found:
        for spec in (spec for spec in specs if spec.method == each.quest.arm.method):
            assert each.values is not None
            assert spec.train.lr == each.values["train.lr"]
            assert spec.train.eval_every is None
            assert spec.study == each.study
            assert (spec.study.trials, spec.study.trial) == (9, None)
    assert f"trial {(found[0].best or 0) + 1}" in file.read_text()


def test_fresh_seeds_are_not_those_tuned_on() -> None:
    assert fresh_seeds([0, 2], 3) == [1, 3, 4]


def test_learning_rates_span_two_decades_at_least() -> None:
    for name, method in METHODS.items():
        for key, dimension in method.space.items():
            if key.endswith("lr"):
                assert dimension.log, name
                assert dimension.high / dimension.low >= 99.99, name


@pytest.mark.parametrize(
    ("space", "said"),
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
        ('{ "args.dropout" = { low = 0, high = 1.5 } }', "dropout"),
    ],
)
def test_a_space_that_cannot_be_searched_is_refused_in_one_line(
    tmp_path: Path, space: str, said: str
) -> None:
    what = experiment(
        tmp_path,
        FILE.replace(
            'method = "lora"\nspace = { "train.head_lr" = false }',
            f'method = "lora"\nspace = {space}',
        ),
    )
    with pytest.raises(InputError) as told:
        quests(what)
    assert "lora" in str(told.value).lower()
    assert said in str(told.value)
    assert "\n" not in str(told.value)


def test_unequal_budgets_are_refused(tmp_path: Path) -> None:
    grid = 'method = "lora"\nsampler = "grid"\nspace = { "train.lr" = [1e-4, 1e-3], "train.head_lr" = false }'
    what = experiment(
        tmp_path, FILE.replace('method = "lora"\nspace = { "train.head_lr" = false }', grid)
    )
    with pytest.raises(
        InputError, match=r"grid has 2 points, and search\.trials gives every arm 9"
    ):
        quests(what)


@pytest.mark.parametrize(
    "url",
    [
        "sqlite:////nowhere/at/all.db",
        "postgresql://nobody@127.0.0.1:1/none",
        "what://ever",
        "/proc/no.journal",
    ],
)
def test_a_storage_out_of_reach_is_one_line(url: str) -> None:
    with pytest.raises(InputError) as told:
        search.open_storage(url)
    assert url in str(told.value)
    assert "\n" not in str(told.value)


def test_sqlite_is_as_good_a_storage(tmp_path: Path) -> None:
    what = experiment(tmp_path)
    storage = search.open_storage(f"sqlite:///{tmp_path}/studies.db")
    tunings = search.prepare("e", what, storage)
    found = search.search(
        what, storage, tunings, Store(tmp_path / "results"), FOLDER, [Made()], say=lambda line: None
    )
    assert all(sum(each.states.values()) == 9 for each in found)


def test_run_and_search_refuse_each_others_files(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    experiment(tmp_path)
    plain = tmp_path / "plain.toml"
    plain.write_text(FILE.replace('search = { trials = 9, pruner = "halving" }', ""))
    for command, file, said in (
        ("run", tmp_path / "e.toml", "peftbench search"),
        ("search", plain, "[search]"),
    ):
        monkeypatch.setattr(
            "sys.argv", ["peftbench", command, str(file), "--store", str(tmp_path / "results")]
        )
        with pytest.raises(SystemExit) as ended:
            cli.main()
        assert ended.value.code == 2
        assert said in capsys.readouterr().err


def test_what_a_study_is_called_changes_with_what_it_is(tmp_path: Path) -> None:
    def names(text: str) -> set[str]:
        what = experiment(tmp_path, text)
        return {study_name("e", what, quest) for quest in quests(what)}

    assert names(FILE) == names(FILE)
    for change in (
        ("steps = 27", "steps = 28"),
        ("trials = 9", "trials = 10"),
        ("seeds = [0, 1]", "seeds = [0]"),
    ):
        assert not names(FILE) & names(FILE.replace(*change))


# Full-length trials on `valid`: SmolLM2-135M with LoRA on code (12 learning rates), MiniLM with
# LoRA+ on reviews (4 rates x 4 ratios).
CURVES = json.loads((Path(__file__).parent / "curves.json").read_text())


def replays(name: str, pruner: Any, orders: int = 60) -> list[Replay]:
    """In many orders, the method's own learning rate first, as in every search."""
    rng = np.random.default_rng(0)
    first = next(i for i, trial in enumerate(CURVES[name]) if trial["lr"] == 1e-3)
    curves = [[tuple(point) for point in trial["curve"]] for trial in CURVES[name]]
    found = []
    for _ in range(orders):
        others = [i for i in rng.permutation(len(curves)) if i != first]
        found.append(replay([curves[i] for i in (first, *others)], pruner(curves[0][0][0])))
    return found


def test_ending_trials_early_takes_a_third_of_the_steps_and_finds_as_good_a_learning_rate() -> None:
    found = replays("language model", halving)
    assert max(each.regret for each in found) <= 0.01
    assert statistics.median(each.share for each in found) <= 0.35


def test_without_a_pruner_a_replay_takes_everything_and_loses_nothing() -> None:
    assert {
        (each.share, each.regret)
        for each in replays("language model", lambda rung: NopPruner(), orders=3)
    } == {(1.0, 0.0)}


def test_a_new_heads_first_losses_say_too_little_so_that_its_trials_run_to_the_end(
    tmp_path: Path,
) -> None:
    assert statistics.median(each.regret for each in replays("new head", halving)) > 0.01
    what = experiment(tmp_path, FILE.replace(', pruner = "halving"', ""))
    assert not any(may_prune(what.search, quest) for quest in quests(what) if what.search)
    code = experiment(
        tmp_path, FILE.replace(', pruner = "halving"', "").replace("reviews", "humaneval")
    )
    assert all(
        may_prune(code.search, quest) for quest in quests(code) if code.search and quest.dimensions
    )


def test_every_arm_first_tries_the_settings_that_it_has(tmp_path: Path) -> None:
    carry_out(tmp_path, experiment(tmp_path))
    first = {name.split()[2]: members[0].params for name, members in trials(tmp_path).items()}
    assert first == {
        "lora": {"train.lr": METHODS["lora"].lr},
        "lora+": {"train.lr": METHODS["lora+"].lr, "args.ratio": 16.0},
    }
