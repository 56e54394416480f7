"""A worker: claims trials one at a time and carries them out as ordinary runs."""

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import optuna
from optuna.distributions import IntDistribution
from optuna.storages import BaseStorage
from optuna.trial import FrozenTrial, Trial, TrialState

from peftbench.experiment import Experiment
from peftbench.record import Record
from peftbench.spec import RunSpec, StudyReference
from peftbench.store import Store
from peftbench.suite import Executor, Watch
from peftbench.tuning.dead_workers import me, requeue_dead
from peftbench.tuning.space import Values, may_prune, search_of, trial_runs
from peftbench.tuning.studies import (
    Tuning,
    dimensions_of,
    distributions,
    first_trials,
    make_pruner,
    make_sampler,
)

POLL_SECONDS = 1.0
FINISHED = (TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAIL)


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
        """Return when every trial of every study has ended, whoever carried it out. Raises what the
        storage raises."""
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
        return any(
            trial.state not in FINISHED
            for tuning in self.tunings
            for trial in self.storage.get_all_trials(tuning.study_id)
        )

    def _claim(self) -> tuple[Tuning, FrozenTrial] | None:
        """A trial that is ours now: low numbers first, all arms in turn. Later trials of a task
        wait for the first ones of all its arms."""
        first = first_trials(self.experiment)
        trials = {
            tuning.name: self.storage.get_all_trials(tuning.study_id) for tuning in self.tunings
        }
        open_tasks = {
            tuning.quest.entry.name
            for tuning in self.tunings
            if any(trial.state not in FINISHED for trial in trials[tuning.name][:first])
        }
        waiting = [
            (trial.number, place)
            for place, tuning in enumerate(self.tunings)
            for trial in trials[tuning.name]
            if trial.state is TrialState.WAITING
            and (trial.number < first or tuning.quest.entry.name not in open_tasks)
        ]
        for number, place in sorted(waiting):
            tuning = self.tunings[place]
            trial = trials[tuning.name][number]
            try:
                ours = self.storage.set_trial_state_values(trial._trial_id, TrialState.RUNNING)
            except optuna.exceptions.UpdateFinishedTrialError:
                continue  # another worker was faster, and is done with it by now
            if ours:
                self.storage.set_trial_user_attr(trial._trial_id, "worker", me())
                return tuning, self.storage.get_trial(trial._trial_id)
        return None

    def _carry_out(self, tuning: Tuning, frozen: FrozenTrial) -> None:
        search = search_of(self.experiment)
        dimensions = dimensions_of(
            self.experiment, self.storage, self.tunings, tuning, frozen.number
        )
        sampler = make_sampler(search, tuning, frozen.number)
        study = optuna.load_study(
            study_name=tuning.name,
            storage=self.storage,
            sampler=sampler,
            pruner=make_pruner(self.experiment, tuning),
        )
        trial = Trial(study, frozen._trial_id)
        values: Values = {
            key: trial.suggest_int(
                key, int(distribution.low), int(distribution.high), log=distribution.log
            )
            if isinstance(distribution, IntDistribution)
            else trial.suggest_float(key, distribution.low, distribution.high, log=distribution.log)
            for key, distribution in distributions(dimensions).items()
        }
        origin = StudyReference(name=tuning.name, trials=search.trials, trial=frozen.number)
        state, nll, why = TrialState.COMPLETE, 0.0, ""
        specs = trial_runs(self.experiment, tuning.quest, values, origin)
        for place, spec in enumerate(specs):
            before = place * spec.train.steps  # a validation's place among all of the trial's
            record = self._record(
                spec, _watch(trial, before) if may_prune(search, tuning.quest) else None
            )
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
        self.storage.set_trial_state_values(
            frozen._trial_id, state, [nll] if state is TrialState.COMPLETE else None
        )
        settings = ", ".join(f"{key} {value:.3g}" for key, value in values.items())
        outcome = f"nll {nll:.4g}" if state is TrialState.COMPLETE else why
        self.say(f"[{frozen.number + 1}/{search.trials}] {tuning.quest}: {settings}: {outcome}")

    def _record(self, spec: RunSpec, watch: Watch | None) -> Record | None:
        """The run's record, from the store if it is there; None if we were stopped."""
        if self.store.statuses(self.folder).get(spec.run_id, "failed") not in (
            "failed",
            "timed-out",
            "pruned",
        ):
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
    """Tell the storage a validation, unless the trial's dead worker has: equal specs have equal
    curves."""
    if step not in trial.study.get_trials(deepcopy=False)[trial.number].intermediate_values:
        trial.report(nll, step)


def _state(record: Record) -> TrialState:
    """How a trial ends with this run: settings that diverge or need too much memory are bad ones,
    which a sampler should learn from; a failure says nothing about them."""
    if record.status == "done":
        return TrialState.COMPLETE if record.metrics.get("nll") is not None else TrialState.PRUNED
    return (
        TrialState.PRUNED
        if record.status in ("pruned", "diverged", "out-of-memory")
        else TrialState.FAIL
    )


def _steps(record: Record) -> int:
    return sum(point.train_loss is not None for point in record.curve)
