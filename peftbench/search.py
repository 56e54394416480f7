"""Tuning with Optuna: every arm gets the same number of trials, each an ordinary run on `valid` in the store.

All trials of a study wait in its storage from the beginning, so that a budget cannot be passed, and are claimed one by one by workers in
any number of processes and machines. A trial's sampler is seeded with its number: one that was interrupted gets the same values again.
"""

import functools
import hashlib
import json
import math
import os
import socket
import threading
import time
import warnings
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import optuna
from optuna.distributions import FloatDistribution, IntDistribution
from optuna.pruners import BasePruner, NopPruner, SuccessiveHalvingPruner
from optuna.samplers import BaseSampler, RandomSampler, TPESampler
from optuna.storages import BaseStorage, JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import FrozenTrial, Trial, TrialState

from peftbench.errors import InputError
from peftbench.methods._base import Range
from peftbench.record import Record
from peftbench.spaces import Dimensions, Quest, Side, Values, edges, may_prune, quests, trial_runs, widened
from peftbench.spec import Experiment, RunSpec, Search, Study
from peftbench.store import Store
from peftbench.suite import Executor, Watch

FIRST = 2 / 3  # of the trials see the ranges as they stand; the others see them widened where a best value lay on an edge
REDUCTION = 3  # successive halving: a third of the trials go on at 1/9 of the steps, a third of those at 1/3
STARTUP = 5  # trials that TPE draws at random before it models
SLACK_SECONDS = 60  # beyond its runs' limits, after which a trial must be over
CLAIM_SECONDS = 10  # in which a worker that has claimed a trial says who it is
POLL_SECONDS = 1.0
FINISHED = (TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAIL)


@dataclass(frozen=True)
class Tuning:
    """A quest and its study."""

    quest: Quest
    name: str
    study_id: int


@dataclass(frozen=True)
class Found:
    """What a finished study found."""

    quest: Quest
    study: Study
    dimensions: Dimensions  # as the last trials saw them
    values: Values | None  # of the best trial; None if no trial was done
    nll: float | None  # its valid nll, a mean over the seeds
    best: int | None  # its number
    edges: set[Side]  # on which the best values lie
    states: dict[str, int]  # how many trials ended how
    steps: int  # that all trials together took
    full_steps: int  # that they would have taken to their ends


def open_storage(url: str) -> BaseStorage:
    """The storage at an Optuna URL (grpc://HOST:PORT for its proxy), or the journal file at a path.

    Raises InputError in one line if it is not to be had.
    """
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        try:
            if url.startswith("grpc://"):
                host, _, port = url.removeprefix("grpc://").partition(":")
                storage: BaseStorage = optuna.storages.GrpcStorageProxy(host=host, port=int(port or 13000))
                storage.wait_server_ready(timeout=CLAIM_SECONDS)
            elif "://" in url:
                storage = optuna.storages.get_storage(url)
            else:
                Path(url).parent.mkdir(parents=True, exist_ok=True)
                storage = JournalStorage(JournalFileBackend(url))
            storage.get_all_studies()
        except Exception as error:  # whatever a database's driver raises
            raise InputError(
                f"storage {url}: {str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__}"
            ) from error
    return storage


def study_name(stem: str, experiment: Experiment, quest: Quest) -> str:
    """What the study is called: its file, task and method, and a digest of all that its outcome hangs on."""
    what = [experiment.search, experiment.seeds, quest.entry, quest.arm, experiment.model, experiment.train, experiment.data]
    dimensions = {key: list(value) if isinstance(value, tuple) else value.__dict__ for key, value in quest.dimensions.items()}
    text = json.dumps([each.model_dump() if hasattr(each, "model_dump") else each for each in what] + [dimensions], sort_keys=True)
    return f"{stem} {quest.entry.name} {quest.arm.method} {hashlib.sha256(text.encode()).hexdigest()[:8]}"


def prepare(stem: str, experiment: Experiment, storage: BaseStorage) -> list[Tuning]:
    """Make the studies that are not there yet, with all their trials waiting. Arms without anything to tune have none."""
    search = _of(experiment)
    found: list[Tuning] = []
    for quest in quests(experiment):
        if not quest.dimensions:
            continue
        name = study_name(stem, experiment, quest)
        points: list[Values] = quest.points() if quest.sampler == "grid" else [{}] * search.trials
        try:
            study = optuna.create_study(study_name=name, storage=storage, direction="minimize")
        except optuna.exceptions.DuplicatedStudyError:
            study = optuna.load_study(study_name=name, storage=storage)
            _await_maker(study)
        there = len(study.get_trials(deepcopy=False))
        for point in points[there:]:
            study.enqueue_trial(dict(point))
        study.set_user_attr("ready", True)
        found.append(Tuning(quest, name, storage.get_study_id_from_name(name)))
    return found


def _await_maker(study: optuna.Study) -> None:
    """Wait until whoever made the study has filled it; not for ever, since that one may have been killed."""
    deadline = time.monotonic() + CLAIM_SECONDS
    while not study.user_attrs.get("ready") and time.monotonic() < deadline:
        time.sleep(POLL_SECONDS / 5)


def _of(experiment: Experiment) -> Search:
    assert experiment.search is not None
    return experiment.search


@dataclass(frozen=True)
class Worker:
    """Claims trials and carries them out, one at a time, until none is left."""

    experiment: Experiment
    storage: BaseStorage
    tunings: Sequence[Tuning]
    store: Store
    folder: str  # the device's in the store
    executor: Executor
    say: Callable[[str], None]
    stop: threading.Event

    def work(self) -> None:
        """Return when every trial of every study has ended, whoever carried it out. Raises what the storage raises."""
        while not self.stop.is_set():
            claimed = self._claim()
            if claimed is not None:
                self._carry_out(*claimed)
            elif self._left():
                requeue_dead(self.experiment, self.storage, self.tunings, self.say)
                self.stop.wait(POLL_SECONDS)
            else:
                return

    def _left(self) -> bool:
        return any(trial.state not in FINISHED for tuning in self.tunings for trial in self.storage.get_all_trials(tuning.study_id))

    def _claim(self) -> tuple[Tuning, FrozenTrial] | None:
        """A trial that is ours now: low numbers first, all arms in turn. Later trials of a task wait for the first ones of all its arms."""
        first = first_trials(self.experiment)
        trials = {tuning.name: self.storage.get_all_trials(tuning.study_id) for tuning in self.tunings}
        open_tasks = {
            tuning.quest.entry.name for tuning in self.tunings if any(trial.state not in FINISHED for trial in trials[tuning.name][:first])
        }
        waiting = [
            (trial.number, place)
            for place, tuning in enumerate(self.tunings)
            for trial in trials[tuning.name]
            if trial.state is TrialState.WAITING and (trial.number < first or tuning.quest.entry.name not in open_tasks)
        ]
        for number, place in sorted(waiting):
            tuning = self.tunings[place]
            trial = trials[tuning.name][number]
            try:
                ours = self.storage.set_trial_state_values(trial._trial_id, TrialState.RUNNING)
            except optuna.exceptions.UpdateFinishedTrialError:
                continue  # another worker was faster, and is done with it by now
            if ours:
                self.storage.set_trial_user_attr(trial._trial_id, "worker", _me())
                return tuning, self.storage.get_trial(trial._trial_id)
        return None

    def _carry_out(self, tuning: Tuning, frozen: FrozenTrial) -> None:
        search = _of(self.experiment)
        dimensions = dimensions_of(self.experiment, self.storage, self.tunings, tuning, frozen.number)
        sampler = make_sampler(search, tuning, frozen.number)
        study = optuna.load_study(
            study_name=tuning.name, storage=self.storage, sampler=sampler, pruner=make_pruner(self.experiment, tuning)
        )
        trial = Trial(study, frozen._trial_id)
        values: Values = {
            key: trial.suggest_int(key, int(distribution.low), int(distribution.high), log=distribution.log)
            if isinstance(distribution, IntDistribution)
            else trial.suggest_float(key, distribution.low, distribution.high, log=distribution.log)
            for key, distribution in distributions(dimensions).items()
        }
        origin = Study(name=tuning.name, trials=search.trials, trial=frozen.number)
        state, nll, why = TrialState.COMPLETE, 0.0, ""
        specs = trial_runs(self.experiment, tuning.quest, values, origin)
        for place, spec in enumerate(specs):
            before = place * spec.train.steps  # a validation's place among all of the trial's
            record = self._record(spec, _watch(trial, before) if may_prune(search, tuning.quest) else None)
            if record is None:
                return
            state, why = _state(record), record.error or ""
            trial.set_user_attr("runs", [*trial.user_attrs.get("runs", []), record.run_id])
            trial.set_user_attr("steps", trial.user_attrs.get("steps", 0) + _steps(record))
            if state is not TrialState.COMPLETE:
                trial.set_user_attr("status", record.status)
                break
            final = record.metrics["nll"]
            assert final is not None
            nll += final / len(specs)
            _report(trial, before + spec.train.steps, final)
        self.storage.set_trial_state_values(frozen._trial_id, state, [nll] if state is TrialState.COMPLETE else None)
        settings = ", ".join(f"{key} {value:.3g}" for key, value in values.items())
        outcome = f"nll {nll:.4g}" if state is TrialState.COMPLETE else why
        name = f"{tuning.quest.arm.method} on {tuning.quest.entry.name}"
        self.say(f"[{frozen.number + 1}/{search.trials}] {name}: {settings}: {outcome}")

    def _record(self, spec: RunSpec, watch: Watch | None) -> Record | None:
        """The run's record, from the store if it is there; None if we were stopped."""
        if self.store.statuses(self.folder).get(spec.run_id, "failed") not in ("failed", "timed-out", "pruned"):
            return self.store.read(f"{self.folder}/{spec.run_id}")
        future = self.executor.submit(spec, watch)
        while not future.done():
            self.stop.wait(0.05)
            if self.stop.is_set():
                return None
        outcome = future.result()
        return self.store.write(outcome.record, outcome.predictions)


def _watch(trial: Trial, before: int) -> Watch:
    def watch(step: int, nll: float) -> bool:
        _report(trial, before + step, nll)
        return trial.should_prune()

    return watch


def _report(trial: Trial, step: int, nll: float) -> None:
    """Tell the storage a validation, unless the trial's dead worker has: equal specs have equal curves."""
    if step not in trial.study.get_trials(deepcopy=False)[trial.number].intermediate_values:
        trial.report(nll, step)


def _state(record: Record) -> TrialState:
    """How a trial ends with this run: settings that diverge or need too much memory are bad ones, which a sampler should learn from; a
    failure says nothing about them."""
    if record.status == "done":
        return TrialState.COMPLETE if record.metrics.get("nll") is not None else TrialState.PRUNED
    return TrialState.PRUNED if record.status in ("pruned", "diverged", "out-of-memory") else TrialState.FAIL


def _steps(record: Record) -> int:
    return sum(point.train_loss is not None for point in record.curve)


def first_trials(experiment: Experiment) -> int:
    """How many trials of an arm come before ranges may be widened."""
    return math.ceil(FIRST * _of(experiment).trials)


def dimensions_of(experiment: Experiment, storage: BaseStorage, tunings: Sequence[Tuning], tuning: Tuning, number: int) -> Dimensions:
    """What a trial may draw from: the arm's ranges; after the first trials those widened for all arms where any arm's best was on an edge.

    A function of trials that have ended, so that all workers find the same.
    """
    first = first_trials(experiment)
    if number < first or tuning.quest.sampler == "grid":
        return tuning.quest.dimensions
    sides: set[Side] = set()
    for other in tunings:
        if other.quest.entry == tuning.quest.entry:
            best = best_of(storage.get_all_trials(other.study_id)[:first])
            sides |= edges(other.quest.dimensions, best.params) if best else set()
    return widened(tuning.quest.dimensions, sides)


def best_of(trials: Sequence[FrozenTrial]) -> FrozenTrial | None:
    """The trial with the lowest nll, the first of several; None if none has come to its end."""
    done = [trial for trial in trials if trial.state is TrialState.COMPLETE]
    return min(done, key=lambda trial: (trial.value, trial.number), default=None)


def distributions(dimensions: Dimensions) -> dict[str, FloatDistribution | IntDistribution]:
    """The dimensions as Optuna has them; a grid's values are given to its trials, and only have to lie in them."""
    found: dict[str, FloatDistribution | IntDistribution] = {}
    for key, value in dimensions.items():
        if isinstance(value, Range):
            kind = IntDistribution if value.integer else FloatDistribution
            found[key] = kind(value.low, value.high, log=value.log)  # type: ignore[arg-type]
        else:
            found[key] = FloatDistribution(min(value), max(value))
    return found


def make_sampler(search: Search, tuning: Tuning, number: int) -> BaseSampler:
    """The sampler of one trial: equal for equal seeds, studies and numbers."""
    seed = int.from_bytes(hashlib.sha256(f"{search.seed} {tuning.name} {number}".encode()).digest()[:4])
    return TPESampler(n_startup_trials=STARTUP, seed=seed) if tuning.quest.sampler == "tpe" else RandomSampler(seed)


def make_pruner(experiment: Experiment, tuning: Tuning) -> BasePruner:
    """Asynchronous successive halving on valid nll (Li et al., arXiv:1810.05934), or none."""
    if not may_prune(_of(experiment), tuning.quest):
        return NopPruner()
    spec = trial_runs(experiment, tuning.quest, {}, None)[0]
    assert spec.train.eval_every is not None
    return halving(spec.train.eval_every)


def halving(first_rung: int) -> BasePruner:
    """Successive halving whose first decision falls after `first_rung` steps."""
    return SuccessiveHalvingPruner(min_resource=first_rung, reduction_factor=REDUCTION)


# -- workers that died -----------------------------------------------------------------------------------------------


def requeue_dead(experiment: Experiment, storage: BaseStorage, tunings: Sequence[Tuning], say: Callable[[str], None]) -> None:
    """Let trials whose worker has died wait again, with the values that they have; those that it happens to twice have failed."""
    for tuning in tunings:
        for trial in storage.get_all_trials(tuning.study_id, states=(TrialState.RUNNING,)):
            specs = trial_runs(experiment, tuning.quest, {}, None)
            if not _dead(trial, sum(spec.limits.seconds for spec in specs) + SLACK_SECONDS):
                continue
            name = f"trial {trial.number + 1} of {tuning.quest.arm.method} on {tuning.quest.entry.name}"
            try:
                if trial.user_attrs.get("retried"):
                    storage.set_trial_user_attr(trial._trial_id, "status", "its worker died, twice")
                    storage.set_trial_state_values(trial._trial_id, TrialState.FAIL)
                    say(f"{name}: its worker died again: failed")
                else:
                    storage.set_trial_user_attr(trial._trial_id, "retried", True)
                    storage.set_trial_user_attr(trial._trial_id, "runs", [])
                    storage.set_trial_user_attr(trial._trial_id, "steps", 0)
                    storage.set_trial_user_attr(trial._trial_id, "worker", None)
                    storage.set_trial_state_values(trial._trial_id, TrialState.WAITING)
                    say(f"{name}: its worker died: tried again")
            except optuna.exceptions.UpdateFinishedTrialError:
                pass  # it has come to its end after all


def _dead(trial: FrozenTrial, limit_seconds: float) -> bool:
    """Whether a running trial's worker is gone: its process, if it was one of this machine, or its time is over."""
    assert trial.datetime_start is not None
    age = (datetime.now() - trial.datetime_start).total_seconds()
    worker = trial.user_attrs.get("worker")
    if worker is None:
        return age > CLAIM_SECONDS
    here = worker["host"] == socket.gethostname()
    return age > limit_seconds or (here and worker["born"] != _born(worker["pid"]))


@functools.cache
def _me() -> dict[str, Any]:
    return {"host": socket.gethostname(), "pid": os.getpid(), "born": _born(os.getpid())}


def _born(pid: int) -> str | None:
    """What tells a process from a later one of the same number, its boot and its start in clock ticks; None if there is no such process."""
    try:
        ticks = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]
        return f"{Path('/proc/sys/kernel/random/boot_id').read_text().strip()} {ticks}"
    except OSError:
        return _alive(pid)


def _alive(pid: int) -> str | None:
    """Where there is no /proc: whether there is such a process."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return None
    except PermissionError:
        pass
    return "alive"


# -- all of it -------------------------------------------------------------------------------------------------------


def search(
    experiment: Experiment,
    storage: BaseStorage,
    tunings: Sequence[Tuning],
    store: Store,
    folder: str,
    executors: Sequence[Executor],
    say: Callable[[str], None],
) -> list[Found]:
    """Carry out all trials, with a worker for each executor, and return what was found.

    KeyboardInterrupt ends the runs in progress; their trials wait again, and the next search goes on from there.
    """
    stop = threading.Event()
    requeue_dead(experiment, storage, tunings, say)
    problems: list[BaseException] = []

    def work(executor: Executor) -> None:
        try:
            Worker(experiment, storage, tunings, store, folder, executor, say, stop).work()
        except BaseException as error:
            problems.append(error)
            stop.set()

    threads = [threading.Thread(target=work, args=(executor,)) for executor in executors]
    try:
        for thread in threads:
            thread.start()
        for thread in threads:
            while thread.is_alive():
                thread.join(0.2)
    finally:
        stop.set()
        for executor in executors:
            executor.close()
        for thread in threads:
            thread.join()
        _let_go(storage, tunings)
    if problems:
        raise problems[0]
    return [_found(experiment, storage, tunings, tuning) for tuning in tunings]


def _let_go(storage: BaseStorage, tunings: Sequence[Tuning]) -> None:
    """Trials of ours that were interrupted wait again; that is no worker's death."""
    for tuning in tunings:
        for trial in storage.get_all_trials(tuning.study_id, states=(TrialState.RUNNING,)):
            if trial.user_attrs.get("worker") == _me():
                storage.set_trial_user_attr(trial._trial_id, "runs", [])
                storage.set_trial_user_attr(trial._trial_id, "steps", 0)
                storage.set_trial_state_values(trial._trial_id, TrialState.WAITING)


def _found(experiment: Experiment, storage: BaseStorage, tunings: Sequence[Tuning], tuning: Tuning) -> Found:
    trials = storage.get_all_trials(tuning.study_id)
    best = best_of(trials)
    wide = dimensions_of(experiment, storage, tunings, tuning, first_trials(experiment))
    states: defaultdict[str, int] = defaultdict(int)
    for trial in trials:
        states[trial.user_attrs.get("status", trial.state.name.lower())] += 1
    per_trial = sum(spec.train.steps for spec in trial_runs(experiment, tuning.quest, {}, None))
    return Found(
        quest=tuning.quest,
        study=Study(name=tuning.name, trials=_of(experiment).trials),
        dimensions=wide,
        values=dict(best.params) if best else None,
        nll=best.value if best else None,
        best=best.number if best else None,
        edges=edges(wide, best.params) if best else set(),
        states=dict(states),
        steps=sum(trial.user_attrs.get("steps", 0) for trial in trials),
        full_steps=per_trial * len(trials),
    )
