"""The door to a search."""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from peftbench.door.given import Selection, selected, store_of
from peftbench.door.places import this_device
from peftbench.errors import InputError
from peftbench.experiment import Experiment
from peftbench.store import Store

if TYPE_CHECKING:
    from peftbench.training.executor import LocalExecutor
    from peftbench.tuning.search import StudyResult
    from peftbench.tuning.storage import Search


def search(
    experiment: Experiment | Path | str,
    store: Store | Path | str = "results",
    *,
    only: Selection | None = None,
    storage: str | None = None,
    workers: int = 1,
    unconfined: bool = False,
    out: Path | str | None = None,
    say: Callable[[str], object] = print,
) -> list["StudyResult"]:
    """Tune every arm of an experiment on every task with the same number of trials, and write an
    experiment file with the settings found.

    experiment: the path of an experiment file (TOML) with a table [search], or such an
        `Experiment`.
    store: the folder of results, or a `Store`; every trial's runs are records there.
    only: as in `run`.
    storage: where the trials are kept: the path of a journal file, or an Optuna URL
        (sqlite:///FILE, postgresql://..., grpc://HOST:PORT). None: `studies.journal` in the store.
    workers: trials at a time on this machine, each on a GPU of its own while there are enough.
    unconfined: as in `run`.
    out: the experiment file to write. None: `tuned/NAME.toml` beside the experiment's file; an
        `Experiment` has none, and nothing is written.
    say: called with lines for a person: each trial, each study's result.

    Returns what each study found (`result.best.params`, `result.best.value`: the settings and
    their nll on valid; `result.lacking`: trials that were lost twice, without which no experiment
    file is written). Raises InputError as `run` does. Interrupted by whatever means, the same call
    goes on.

    Example:

        for result in peftbench.search("experiments/loraplus_ratio.toml", workers=2):
            print(result.study, result.best and result.best.params)
    """
    from peftbench.tuning import tuned_file
    from peftbench.tuning.search import carry_out
    from peftbench.tuning.storage_errors import lost_connections

    if workers < 1:
        raise InputError(f"workers: at least one is needed (given: {workers})")
    name, file, part = selected(experiment, only)
    out = file.parent / "tuned" / file.name if out is None and file is not None else out
    if out is not None:
        tuned_file.prepare(Path(out))
    stem = file.stem if file else "experiment"
    place = _place_of_trials(storage, store)
    begun = _begin_search(part, name, stem, store, place, unconfined, say)
    with lost_connections(place):
        found = carry_out(begun, _executors(workers, unconfined))
    for result in found:
        say(tuned_file.summary(result))
    if shortage := tuned_file.shortage(found):
        say(f"no experiment file is written: {shortage}")
    elif out is not None:
        tuned_file.write(Path(out), tuned_file.experiment_file(part, name, found))
        say(f"wrote {out}")
    return found


def _place_of_trials(storage: str | None, store: Store | Path | str) -> str:
    """The path or URL of a search's storage. storage: what the caller names; None: a journal in the
    store. Raises InputError where a store cannot hold one."""
    if storage is not None:
        return storage
    kept = store_of(store)
    if isinstance(kept.root, str):
        raise InputError(
            f"store {kept}: a search's trials cannot be kept there, they change: name --storage, "
            "a journal file or postgresql://..."
        )
    return str(kept.root / "studies.journal")


def _executors(workers: int, unconfined: bool) -> list["LocalExecutor"]:
    """Where the trials of a search take place, so many at a time."""
    from peftbench.training import processes
    from peftbench.training.executor import LocalExecutor
    from peftbench.training.shares import shares_of_trials

    processes.prepare(workers)
    return [
        LocalExecutor(unconfined=unconfined, shares=[share], runs_at_once=workers)
        for share in shares_of_trials(workers)
    ]


def _begin_search(
    experiment: Experiment,
    name: str,
    stem: str,
    store: Store | Path | str,
    place: str,
    unconfined: bool,
    say: Callable[[str], object],
) -> "Search":
    """The studies of an experiment, checked and created. stem: with which their names begin;
    place: the storage's path or URL."""
    from peftbench.training.fine_tuning import check_specs
    from peftbench.training.run import check_confinement
    from peftbench.tuning.storage import Search, create_studies, open_storage
    from peftbench.tuning.storage_errors import masked, storage_errors
    from peftbench.tuning.studies import studies

    folder, precision = this_device()
    planned = studies(experiment, stem, precision)
    runs = [(study, study.runs({})) for study in planned]
    specs = [spec for _, own in runs for spec in own]
    reasons = check_specs(specs)
    planned = []
    for study, own in runs:
        if why := next((reasons[spec.run_id] for spec in own if spec.run_id in reasons), None):
            say(f"{study}: skipped: {why}")
        else:
            planned.append(study)
    check_confinement(specs, unconfined)
    results = store_of(store)
    results.ensure_writable()
    opened = open_storage(place, say)
    with storage_errors(place):
        tunable = create_studies(planned, opened, say)
    for study in planned:
        if study not in tunable:
            say(f"{study}: nothing to tune")
    say(f"{name}: {len(tunable)} studies in {masked(place)}")
    return Search(tunable, opened, results, folder, say)
