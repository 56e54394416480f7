"""Studies in an Optuna storage: their names, their waiting trials, and what a trial draws from and
with."""

import hashlib
import json
import math
import time
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import optuna
from optuna.distributions import FloatDistribution, IntDistribution
from optuna.pruners import BasePruner, NopPruner, SuccessiveHalvingPruner
from optuna.samplers import BaseSampler, RandomSampler, TPESampler
from optuna.storages import BaseStorage, JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import FrozenTrial, TrialState

from peftbench.errors import InputError
from peftbench.experiment import Experiment, SearchTable
from peftbench.methods.base import Range
from peftbench.tuning.space import (
    Dimensions,
    Quest,
    Side,
    edges,
    may_prune,
    quests,
    search_of,
    starting_point,
    trial_runs,
    widened,
)

FIRST = (
    2 / 3
    # of the trials see the ranges as they stand; the others see them widened where a best value lay
    # on
    # an edge
)
# successive halving: a third of the trials go on at 1/9 of the steps, a third of those at 1/3
REDUCTION = 3
STARTUP = 5  # trials that TPE draws at random before it models
MAKER_SECONDS = 10  # in which whoever makes a study has filled it
POLL_SECONDS = 0.2


@dataclass(frozen=True)
class Tuning:
    """A quest and its study."""

    quest: Quest
    name: str
    study_id: int


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
                storage: BaseStorage = optuna.storages.GrpcStorageProxy(
                    host=host, port=int(port or 13000)
                )
                storage.wait_server_ready(timeout=MAKER_SECONDS)
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
    """What the study is called: its file, task and method, and a digest of all that its outcome
    hangs on."""
    what = [
        experiment.search,
        experiment.seeds,
        quest.entry,
        quest.arm,
        experiment.model,
        experiment.train,
        experiment.data,
    ]
    dimensions = {
        key: list(value) if isinstance(value, tuple) else value.__dict__
        for key, value in quest.dimensions.items()
    }
    text = json.dumps(
        [each.model_dump() if hasattr(each, "model_dump") else each for each in what]
        + [dimensions],
        sort_keys=True,
    )
    return f"{stem} {quest.entry.name} {quest.arm.method} {hashlib.sha256(text.encode()).hexdigest()[:8]}"


def prepare(stem: str, experiment: Experiment, storage: BaseStorage) -> list[Tuning]:
    """Make the studies that are not there yet, with all their trials waiting. Arms without anything
    to tune have none."""
    search = search_of(experiment)
    found: list[Tuning] = []
    for quest in quests(experiment):
        if not quest.dimensions:
            continue
        name = study_name(stem, experiment, quest)
        points = (
            quest.points()
            if quest.sampler == "grid"
            else [starting_point(experiment, quest), *[{}] * (search.trials - 1)]
        )
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
    """Wait until whoever made the study has filled it; not for ever, since that one may have been
    killed."""
    deadline = time.monotonic() + MAKER_SECONDS
    while not study.user_attrs.get("ready") and time.monotonic() < deadline:
        time.sleep(POLL_SECONDS)


def first_trials(experiment: Experiment) -> int:
    """How many trials of an arm come before ranges may be widened."""
    return math.ceil(FIRST * search_of(experiment).trials)


def dimensions_of(
    experiment: Experiment,
    storage: BaseStorage,
    tunings: Sequence[Tuning],
    tuning: Tuning,
    number: int,
) -> Dimensions:
    """What a trial may draw from: the arm's ranges; after the first trials those widened for all
    arms where any arm's best was on an edge.

    A function of trials that have ended, so that all workers find the same.
    """
    first = first_trials(experiment)
    if number < first or tuning.quest.sampler == "grid":
        return tuning.quest.dimensions
    sides: set[Side] = set()
    for other in tunings:
        if other.quest.entry == tuning.quest.entry and other.quest.sampler != "grid":
            best = best_of(storage.get_all_trials(other.study_id)[:first])
            sides |= edges(other.quest.dimensions, best.params) if best else set()
    return widened(tuning.quest.dimensions, sides)


def best_of(trials: Sequence[FrozenTrial]) -> FrozenTrial | None:
    """The trial with the lowest nll, the first of several; None if none has come to its end."""
    done = [trial for trial in trials if trial.state is TrialState.COMPLETE]
    return min(done, key=lambda trial: (trial.value, trial.number), default=None)


def distributions(dimensions: Dimensions) -> dict[str, FloatDistribution | IntDistribution]:
    """The dimensions as Optuna has them; a grid's values are given to its trials, and only have to
    lie in them."""
    found: dict[str, FloatDistribution | IntDistribution] = {}
    for key, value in dimensions.items():
        if isinstance(value, Range):
            kind = IntDistribution if value.integer else FloatDistribution
            found[key] = kind(value.low, value.high, log=value.log)  # type: ignore[arg-type]
        else:
            found[key] = FloatDistribution(min(value), max(value))
    return found


def make_sampler(search: SearchTable, tuning: Tuning, number: int) -> BaseSampler:
    """The sampler of one trial: equal for equal seeds, studies and numbers."""
    seed = int.from_bytes(
        hashlib.sha256(f"{search.seed} {tuning.name} {number}".encode()).digest()[:4]
    )
    return (
        TPESampler(n_startup_trials=STARTUP, seed=seed)
        if tuning.quest.sampler == "tpe"
        else RandomSampler(seed)
    )


def make_pruner(experiment: Experiment, tuning: Tuning) -> BasePruner:
    """Asynchronous successive halving on valid nll (Li et al., arXiv:1810.05934), or none."""
    if not may_prune(search_of(experiment), tuning.quest):
        return NopPruner()
    spec = trial_runs(experiment, tuning.quest, {}, None)[0]
    assert spec.train.eval_every is not None
    return halving(spec.train.eval_every)


def halving(first_rung: int) -> BasePruner:
    """Successive halving whose first decision falls after `first_rung` steps."""
    return SuccessiveHalvingPruner(min_resource=first_rung, reduction_factor=REDUCTION)
