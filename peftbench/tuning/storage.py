"""Studies in an Optuna storage: their waiting trials, and what a trial draws from and with."""

import hashlib
import math
import time
from collections.abc import Callable, Container, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import optuna
from optuna.distributions import FloatDistribution, IntDistribution
from optuna.pruners import BasePruner, NopPruner, SuccessiveHalvingPruner
from optuna.samplers import BaseSampler, RandomSampler, TPESampler
from optuna.storages import BaseStorage
from optuna.trial import FrozenTrial, TrialState

from peftbench.errors import InputError
from peftbench.methods.base import Range
from peftbench.silence import Witness
from peftbench.store import Store
from peftbench.tuning.bracket import ValueSampler, bracketed
from peftbench.tuning.heartbeat import GAP_SECONDS
from peftbench.tuning.journal import open_journal
from peftbench.tuning.server import open_server
from peftbench.tuning.space import Dimensions, Grid, Side, edges, widened
from peftbench.tuning.storage_errors import storage_errors
from peftbench.tuning.studies import Study

# Successive halving: a third of the trials go on at 1/9 of the steps, a third of those at 1/3.
REDUCTION = 3
RANDOM_TRIALS = 5  # that TPE draws before it models
CREATOR_SECONDS = 10  # in which the process that fills a study adds its next trial
POLL_SECONDS = 0.2


@dataclass(frozen=True)
class Search:
    """A search in progress: all studies of an experiment that have something to tune, and where
    their trials and records are kept."""

    studies: Sequence[Study]
    storage: BaseStorage
    store: Store
    folder: str  # the device's in the store
    say: Callable[[str], object]  # called with a line for each thing that happened
    # of the workers of all machines
    witness: Witness = field(default_factory=lambda: Witness(GAP_SECONDS))

    def trials(
        self, study: Study, states: Container[TrialState] | None = None
    ) -> list[FrozenTrial]:
        """A study's trials by their number, or those of them that are in one of the states. Those
        beyond its budget, from two processes that filled it at once, are none of them."""
        study_id = self.storage.get_study_id_from_name(study.name)
        trials = self.storage.get_all_trials(study_id, states=states)
        return [trial for trial in trials if trial.number < study.search.trials]

    def all_trials(self) -> dict[str, list[FrozenTrial]]:
        """The trials of every study, by its name."""
        return {study.name: self.trials(study) for study in self.studies}

    def dimensions(self, study: Study, number: int) -> Dimensions:
        """What a trial may draw from: the arm's ranges; after the first trials those widened for
        all arms of the task where any arm's best value was on an edge.

        It depends on ended trials only, so that all workers get the same answer.
        """
        if number < study.first_trials or study.sampler == "grid":
            return study.dimensions
        sides: set[Side] = set()
        for other in self.studies:
            if other.task == study.task and other.sampler != "grid":
                best = best_trial(self.trials(other)[: study.first_trials])
                sides |= edges(other.dimensions, best.params) if best else set()
        return widened(study.dimensions, sides)

    def sampler(self, study: Study, number: int) -> BaseSampler:
        """The sampler of one trial: the same draws for the same seed, study, number and results of
        the trials that it knows."""
        if study.sampler == "bracket":
            return ValueSampler(self._bracketed(study, number))
        text = f"{study.search.seed} {study.name} {number}"
        seed = int.from_bytes(hashlib.sha256(text.encode()).digest()[:4])
        if study.sampler == "tpe":
            return TPESampler(n_startup_trials=RANDOM_TRIALS, seed=seed)
        return RandomSampler(seed)

    def _bracketed(self, study: Study, number: int) -> float:
        """What a trial draws of the one number that its study varies."""
        ((key, range),) = self.dimensions(study, number).items()
        assert isinstance(range, Range)
        earlier = self.trials(study)[: study.earlier_trials(number)]
        tried = [(trial.params[key], _nll(trial)) for trial in earlier]
        return bracketed(range, number, study.first_trials, tried, study.points()[0].get(key))


def open_storage(url: str, say: Callable[[str], object] = print) -> BaseStorage:
    """The storage at an Optuna URL (grpc://HOST:PORT for its proxy), or the journal file at a path.

    say: called with a line if a journal had to be mended, or a server is gone and waited for.
    Raises InputError, in one line without a password, if it cannot be reached or read.
    """
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    with storage_errors(url):
        storage = open_server(url, say) if "://" in url else open_journal(Path(url), say)
        storage.get_all_studies()
    return storage


def create_studies(
    studies: Iterable[Study], storage: BaseStorage, say: Callable[[str], object] = print
) -> list[Study]:
    """Create the studies that are not there yet, with all their trials waiting; returns all that
    have something to tune.

    say: called with a line for a study that is there with the sampler that was the default before.
    Raises InputError if a trial was given up, as earlier versions did.
    """
    tunable = [study for study in studies if study.dimensions]
    names = {stored.study_name for stored in storage.get_all_studies()}
    for study in tunable:
        default = study.given_sampler is None
        if default and study.name not in names and study.name_with("tpe") in names:
            say(
                f"{study}: begins anew with sampler {study.sampler!r}, the default for one number: "
                "its trials in the storage were drawn by 'tpe', and sampler = \"tpe\" goes on with "
                "them"
            )
        try:
            stored = optuna.create_study(
                study_name=study.name, storage=storage, direction="minimize"
            )
        except optuna.exceptions.DuplicatedStudyError:
            stored = optuna.load_study(study_name=study.name, storage=storage)
            _wait_until_filled(stored)
        for point in study.points()[len(stored.get_trials(deepcopy=False)) :]:
            stored.enqueue_trial(dict(point))
        if any(trial.state is TrialState.FAIL for trial in stored.get_trials(deepcopy=False)):
            raise InputError(
                f"study {study.name!r} has trials that were given up, which cannot be tried again: "
                "use another --storage; runs that the store has are not repeated"
            )
        stored.set_user_attr("ready", True)
    return tunable


def _wait_until_filled(stored: optuna.Study) -> None:
    """Wait while another process adds the trials of a study, unless it was killed: then several
    that wait may fill it at once, and what a trial is given goes by its number."""
    count, deadline = -1, 0.0
    while not stored.user_attrs.get("ready"):
        if (trials := len(stored.get_trials(deepcopy=False))) > count:
            count, deadline = trials, time.monotonic() + CREATOR_SECONDS
        elif time.monotonic() >= deadline:
            return
        time.sleep(POLL_SECONDS)


def best_trial(trials: Iterable[FrozenTrial]) -> FrozenTrial | None:
    """The trial with the lowest nll, the first of several; None if none has come to its end."""
    complete = [trial for trial in trials if trial.state is TrialState.COMPLETE]
    return min(complete, key=lambda trial: (trial.value, trial.number), default=None)


def _nll(trial: FrozenTrial) -> float:
    """Of an ended trial; infinite if it did not come to its end."""
    return (
        math.inf if trial.value is None or trial.state is not TrialState.COMPLETE else trial.value
    )


def distribution(dimension: Range | Grid) -> FloatDistribution | IntDistribution:
    """A dimension as Optuna has it. A grid's values were given to its trials, and only have to lie
    in it."""
    if isinstance(dimension, tuple):
        return FloatDistribution(min(dimension), max(dimension))
    if dimension.integer:
        return IntDistribution(int(dimension.low), int(dimension.high), log=dimension.log)
    return FloatDistribution(dimension.low, dimension.high, log=dimension.log)


def make_pruner(study: Study) -> BasePruner:
    """Asynchronous successive halving on valid nll (Li et al., arXiv:1810.05934), or none."""
    first_rung = study.runs({})[0].train.eval_every
    return halving(first_rung) if study.may_prune and first_rung else NopPruner()


def halving(first_rung: int) -> BasePruner:
    """Successive halving whose first decision falls after `first_rung` steps."""
    return SuccessiveHalvingPruner(min_resource=first_rung, reduction_factor=REDUCTION)
