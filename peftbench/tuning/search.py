"""Tuning with Optuna: every arm gets the same number of trials, each an ordinary run on `valid` in
the store.

All trials of a study wait in its storage from the beginning, so that a budget cannot be passed, and
are claimed one by one by workers in any number of processes and machines. A trial's sampler is
seeded with its number: one that was interrupted gets the same values again.
"""

import threading
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from optuna.storages import BaseStorage

from peftbench.experiment import Experiment
from peftbench.spec import StudyReference
from peftbench.store import Store
from peftbench.suite import Executor
from peftbench.tuning.dead_workers import let_go, requeue_dead
from peftbench.tuning.space import Dimensions, Quest, Side, Values, edges, search_of, trial_runs
from peftbench.tuning.studies import (
    Tuning,
    best_of,
    dimensions_of,
    first_trials,
    open_storage,
    prepare,
)
from peftbench.tuning.worker import Worker

__all__ = ["Found", "Tuning", "open_storage", "prepare", "search"]


@dataclass(frozen=True)
class Found:
    """What a finished study found."""

    quest: Quest
    study: StudyReference
    dimensions: Dimensions  # as the last trials saw them
    values: Values | None  # of the best trial; None if no trial was done
    nll: float | None  # its valid nll, a mean over the seeds
    best: int | None  # its number
    edges: set[Side]  # on which the best values lie
    states: dict[str, int]  # how many trials ended how
    steps: int  # that all trials together took
    full_steps: int  # that they would have taken to their ends


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

    KeyboardInterrupt ends the runs in progress; their trials wait again, and the next search goes
    on from there.
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
        let_go(storage, tunings)
    if problems:
        raise problems[0]
    return [_found(experiment, storage, tunings, tuning) for tuning in tunings]


def _found(
    experiment: Experiment, storage: BaseStorage, tunings: Sequence[Tuning], tuning: Tuning
) -> Found:
    trials = storage.get_all_trials(tuning.study_id)
    best = best_of(trials)
    wide = dimensions_of(experiment, storage, tunings, tuning, first_trials(experiment))
    states: defaultdict[str, int] = defaultdict(int)
    for trial in trials:
        states[trial.user_attrs.get("status", trial.state.name.lower())] += 1
    per_trial = sum(spec.train.steps for spec in trial_runs(experiment, tuning.quest, {}, None))
    return Found(
        quest=tuning.quest,
        study=StudyReference(name=tuning.name, trials=search_of(experiment).trials),
        dimensions=wide,
        values=dict(best.params) if best else None,
        nll=best.value if best else None,
        best=best.number if best else None,
        edges=edges(wide, best.params) if best else set(),
        states=dict(states),
        steps=sum(trial.user_attrs.get("steps", 0) for trial in trials),
        full_steps=per_trial * len(trials),
    )
