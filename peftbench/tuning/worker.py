"""A worker: claims trials one at a time and carries them out as ordinary runs."""

import itertools
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import optuna
from optuna.distributions import IntDistribution
from optuna.exceptions import UpdateFinishedTrialError
from optuna.trial import FrozenTrial, Trial, TrialState

from peftbench.record import Record
from peftbench.spec import RunSpec
from peftbench.training.executor import Executor, Watch
from peftbench.tuning.dead_workers import TRIES, lose, losses, requeue_dead, this_process
from peftbench.tuning.heartbeat import Heart
from peftbench.tuning.space import Dimensions, Values
from peftbench.tuning.storage import Search, distribution, make_pruner
from peftbench.tuning.studies import Study

POLL_SECONDS = 1.0
TRIED_AGAIN = ("failed", "timed-out", "pruned")  # a stored run with this status does not count


@dataclass(frozen=True)
class Worker:
    """Claims trials and carries them out, one at a time, until none is left."""

    search: Search
    executor: Executor
    stop: threading.Event
    losses_before: Mapping[int, int]  # the command: of each trial, by its id

    def work(self) -> None:
        """Return when every trial of every study has ended, in this worker or another, but for
        those lost too often in this command and those that wait for them. Raises what the storage
        raises."""
        while not self.stop.is_set():
            trials = self.search.all_trials()
            claimed = self.claim(trials)
            if claimed is not None:
                study, trial = claimed
                try:
                    self._carry_out(study, trial)
                except UpdateFinishedTrialError:
                    # this one was taken for dead, as when its machine was suspended
                    self.search.say(
                        f"trial {trial.number + 1} of {study}: another worker has ended it"
                    )
            elif self._claimable(trials) or any(map(_running, trials.values())):
                requeue_dead(self.search)
                self.stop.wait(POLL_SECONDS)
            else:
                return

    def claim(self, trials: Mapping[str, list[FrozenTrial]]) -> tuple[Study, FrozenTrial] | None:
        """A trial that is now this worker's."""
        storage = self.search.storage
        for number, place in self._claimable(trials):
            study = self.search.studies[place]
            trial_id = trials[study.name][number]._trial_id
            try:
                if storage.set_trial_state_values(trial_id, TrialState.RUNNING):
                    storage.set_trial_user_attr(trial_id, "worker", this_process())
                    return study, storage.get_trial(trial_id)
            except UpdateFinishedTrialError:
                continue  # another worker was faster, and has already ended it
        return None

    def _claimable(self, trials: Mapping[str, list[FrozenTrial]]) -> list[tuple[int, int]]:
        """Number and study of the trials that this worker may claim: low numbers first, all arms in
        turn, and last those that were lost so often that they may end their worker. The later
        trials of a task wait for the first ones of all its arms, and a bracket's for its earlier
        rounds."""
        ended = {name: _ended_without_a_gap(each) for name, each in trials.items()}
        open_tasks = {
            study.task.name
            for study in self.search.studies
            if ended[study.name] < study.first_trials
        }
        waiting = [
            (losses(trial) >= TRIES, trial.number, place)
            for place, study in enumerate(self.search.studies)
            for trial in trials[study.name]
            if trial.state is TrialState.WAITING
            and losses(trial) - self.losses_before.get(trial._trial_id, 0) < TRIES
            and (trial.number < study.first_trials or study.task.name not in open_tasks)
            and study.earlier_trials(trial.number) <= ended[study.name]
        ]
        return [(number, place) for _, number, place in sorted(waiting)]

    def _carry_out(self, study: Study, claimed: FrozenTrial) -> None:
        """Run the trial with each seed and store how it ended; leave it as it is if stopped."""
        search, number = self.search, claimed.number
        given = dict(study.points()[number])
        if claimed.system_attrs.get("fixed_params") != given:  # two filled the study at once
            search.storage.set_trial_system_attr(claimed._trial_id, "fixed_params", given)
        stored = optuna.load_study(
            study_name=study.name,
            storage=search.storage,
            sampler=search.sampler(study, number),
            pruner=make_pruner(study),
        )
        trial = Trial(stored, claimed._trial_id)
        values = _draw(trial, search.dimensions(study, number))
        state, nll, steps, status, error = TrialState.COMPLETE, 0.0, 0, "", ""
        specs = study.runs(values, study.reference(number))
        heart = Heart(search.storage, claimed._trial_id)
        for place, spec in enumerate(specs):
            before = place * spec.train.steps  # a validation's place among all of the trial's
            record = self._record(spec, heart, _watch(trial, before) if study.may_prune else None)
            if record is None:
                return
            state, status, error = _state(record), record.status, record.error or ""
            steps += sum(point.train_loss is not None for point in record.curve)
            trial.set_user_attr("steps", steps)
            if state is not TrialState.COMPLETE:
                trial.set_user_attr("status", status)
                break
            final = record.metrics["nll"]
            assert final is not None
            nll += final / len(specs)
            _report(trial, before + spec.train.steps, final)
        complete = state is TrialState.COMPLETE
        if state is TrialState.WAITING:
            lose(search.storage, claimed, status)
            error = f"{error}: it waits again"
        else:
            result = [nll] if complete else None
            search.storage.set_trial_state_values(claimed._trial_id, state, result)
        settings = ", ".join(f"{key} {value:.3g}" for key, value in values.items())
        search.say(
            f"[{number + 1}/{study.search.trials}] {study}: {settings}: "
            f"{f'nll {nll:.4g}' if complete else error}"
        )

    def _record(self, spec: RunSpec, heart: Heart, watch: Watch | None) -> Record | None:
        """The run's record, from the store if it is there; None if this worker was stopped."""
        store = self.search.store
        stored = store.find(f"{self.search.folder}/{spec.run_id}")
        if stored is not None and stored.status not in TRIED_AGAIN:
            return stored
        future = self.executor.submit(spec, watch)
        while not future.done():
            self.stop.wait(0.05)
            if self.stop.is_set():
                return None
            heart.beat()
        result = future.result()
        return store.write(result.record, result.predictions)


def _ended_without_a_gap(trials: Sequence[FrozenTrial]) -> int:
    """How many of a study's trials have ended, up to the first one that has not."""
    return sum(1 for _ in itertools.takewhile(lambda trial: trial.state.is_finished(), trials))


def _running(trials: Sequence[FrozenTrial]) -> bool:
    return any(trial.state is TrialState.RUNNING for trial in trials)


def _draw(trial: Trial, dimensions: Dimensions) -> Values:
    """The trial's values: those it was begun or waited with, the others drawn by its sampler."""
    values, begun = dict[str, float](), trial.params
    for key, dimension in dimensions.items():
        range = distribution(dimension)
        if key not in begun:
            suggest = (
                trial.suggest_int if isinstance(range, IntDistribution) else trial.suggest_float
            )
            values[key] = suggest(key, range.low, range.high, log=range.log)  # type: ignore[arg-type]
            continue
        values[key] = min(max(begun[key], range.low), range.high)
        if values[key] != begun[key]:  # an earlier version widened beyond what the key allows
            trial.storage.set_trial_param(trial._trial_id, key, values[key], range)
    return values


def _watch(trial: Trial, before: int) -> Watch:
    def watch(step: int, nll: float) -> bool:
        _report(trial, before + step, nll)
        return trial.should_prune()

    return watch


def _report(trial: Trial, step: int, nll: float) -> None:
    """Store a validation, unless the trial's dead worker has: equal specs have equal curves."""
    if step not in trial.study.get_trials(deepcopy=False)[trial.number].intermediate_values:
        trial.report(nll, step)


def _state(record: Record) -> TrialState:
    """How a trial ends with this run: settings that diverge or need too much memory are bad ones,
    from which a sampler should learn; a failure says nothing about them, and the trial waits."""
    if record.status == "done":
        return TrialState.COMPLETE if record.metrics.get("nll") is not None else TrialState.PRUNED
    bad_settings = record.status in ("pruned", "diverged", "out-of-memory")
    return TrialState.PRUNED if bad_settings else TrialState.WAITING
