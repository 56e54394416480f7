"""Tuning with Optuna: every arm gets the same number of trials, each an ordinary run on `valid` in
the store.

All trials of a study wait in its storage from the beginning, so that none can be added beyond the
budget, and are claimed one by one by workers in any number of processes and machines. A trial's
sampler is seeded with its number, or draws by the results of rounds that have ended (bracket.py):
one that was interrupted gets the same values again.
"""

import itertools
import threading
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from dataclasses import dataclass

from optuna.trial import FrozenTrial, TrialState

from peftbench.training.executor import Executor
from peftbench.tuning.constant import any_learned
from peftbench.tuning.dead_workers import give_back, losses, requeue_dead
from peftbench.tuning.space import Dimensions, Side, edges, limits
from peftbench.tuning.storage import Search, best_trial
from peftbench.tuning.studies import Study
from peftbench.tuning.worker import Worker


@dataclass(frozen=True)
class StudyResult:
    """What a finished study found."""

    study: Study
    dimensions: Dimensions  # as the last trials saw them
    # with its number, params (the values) and value (valid nll, a mean over the seeds); None if no
    # trial came to its end
    best: FrozenTrial | None
    edges: set[Side]  # on which the best values lie
    limits: set[Side]  # likewise ends beyond which nothing is allowed
    outermost: set[Side]  # sides on which a bracket has tried nothing beyond the best value
    learned: bool | None  # whether a trial beats the best constant predictor; None: unknown
    states: dict[str, int]  # how many trials ended in which way
    lacking: int  # trials that have not ended: they were lost, or wait for one that was
    steps: int  # that all trials together took
    full_steps: int  # that they would have taken if none had ended early


def carry_out(search: Search, executors: Sequence[Executor]) -> list[StudyResult]:
    """Carry out all trials, with a worker for each executor, and return what each study found.

    KeyboardInterrupt ends the runs in progress; their trials wait again, and the next search goes
    on from there.
    """
    stop = threading.Event()
    requeue_dead(search)
    trials = itertools.chain.from_iterable(search.all_trials().values())
    before = {trial._trial_id: losses(trial) for trial in trials}
    try:
        with ThreadPoolExecutor(len(executors)) as threads:
            workers = [
                threads.submit(Worker(search, executor, stop, before).work)
                for executor in executors
            ]
            try:
                wait(workers, return_when=FIRST_EXCEPTION)
            finally:
                stop.set()
                for executor in executors:
                    executor.close()
    finally:
        give_back(search)
    for worker in workers:
        worker.result()  # raises what it raised
    return [_result(search, study) for study in search.studies]


def _result(search: Search, study: Study) -> StudyResult:
    trials = search.trials(study)
    best = best_trial(trials)
    dimensions = search.dimensions(study, study.first_trials)
    return StudyResult(
        study=study,
        dimensions=dimensions,
        best=best,
        edges=edges(dimensions, best.params) if best else set(),
        limits=limits(dimensions, best.params) if best else set(),
        outermost=_outermost(trials, best) if best and study.sampler == "bracket" else set(),
        learned=any_learned(search, study),
        states=Counter(map(_status, trials)),
        lacking=sum(not trial.state.is_finished() for trial in trials),
        steps=sum(trial.user_attrs.get("steps", 0) for trial in trials),
        full_steps=len(trials) * sum(spec.train.steps for spec in study.runs({})),
    )


def _outermost(trials: Sequence[FrozenTrial], best: FrozenTrial) -> set[Side]:
    """The sides on which nothing was tried beyond the best values."""
    return {
        (key, high)
        for key, value in best.params.items()
        for high in (False, True)
        if value == (max if high else min)(t.params[key] for t in trials if key in t.params)
    }


def _status(trial: FrozenTrial) -> str:
    """How a trial has ended, or was lost."""
    if trial.state is TrialState.COMPLETE:
        return "complete"  # even if it was lost before
    return trial.user_attrs.get("status", trial.state.name.lower())
