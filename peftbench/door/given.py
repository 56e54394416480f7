"""What every door is given: an experiment, the part of it that is wanted, a store."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

from peftbench.errors import InputError, unknown
from peftbench.experiment import Experiment, expand, read_experiment, select
from peftbench.record import Status
from peftbench.spec import Precision, RunSpec
from peftbench.store import Store, store_at

Choice = str | int
Selection = Mapping[str, Choice | Iterable[Choice]]


@dataclass(frozen=True)
class Wanted:
    """The part of an experiment that is to be carried out."""

    name: str  # of the experiment: its file
    part: Experiment
    settings: Mapping[str, Any]
    statuses: frozenset[str]  # runs that ended so are tried again

    def specs(self, auto_precision: Precision) -> list[RunSpec]:
        """Its runs, in their order. auto_precision: what "auto" comes to. Raises InputError."""
        from peftbench.methods import METHODS
        from peftbench.tasks import TASKS

        settings = self.settings.items()
        return expand(self.part, METHODS, TASKS, settings, auto_precision=auto_precision)


def wanted_part(
    experiment: Experiment | Path | str,
    only: Selection | None,
    settings: Mapping[str, Any] | None,
    retry: str | Iterable[str] = (),
) -> Wanted:
    """What the caller of a door wants to be carried out. Raises InputError."""
    name, _, part = selected(experiment, only)
    if part.search:
        raise InputError(f"{name} is a search: `peftbench search` carries it out")
    statuses = frozenset({retry} if isinstance(retry, str) else retry)
    known = {*get_args(Status)} - {"done"}
    for status in statuses - known:
        raise unknown("status in --retry", status, known)
    return Wanted(name, part, settings or {}, statuses)


def selected(
    experiment: Experiment | Path | str,
    only: Selection | None,
    commit_of: Callable[[str], str] | None = None,
) -> tuple[str, Path | None, Experiment]:
    """What an experiment is called, its file if it has one, and the part that is wanted, with the
    commits of its hub models. commit_of: what says them; None: the hub. Raises InputError."""
    from peftbench.training.revisions import pinned

    values = {
        key: {str(choice) for choice in ([given] if isinstance(given, Choice) else given)}
        for key, given in (only or {}).items()
    }
    if isinstance(experiment, Experiment):
        return "the experiment", None, pinned(select(experiment, values), commit_of)
    file = Path(experiment)
    return str(file), file, pinned(select(read_experiment(file), values), commit_of)


def store_of(store: Store | Path | str) -> Store:
    """The store that is meant."""
    return store if isinstance(store, Store) else store_at(store)
