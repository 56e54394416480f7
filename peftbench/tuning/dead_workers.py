"""Workers that died: their trials wait again once, and have failed the second time."""

import functools
import os
import socket
from collections.abc import Callable, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import optuna
from optuna.storages import BaseStorage
from optuna.trial import FrozenTrial, TrialState

from peftbench.experiment import Experiment
from peftbench.tuning.space import trial_runs
from peftbench.tuning.studies import Tuning

SLACK_SECONDS = 60  # beyond its runs' limits, after which a trial must be over
CLAIM_SECONDS = 10  # in which a worker that has claimed a trial says who it is


def requeue_dead(
    experiment: Experiment,
    storage: BaseStorage,
    tunings: Sequence[Tuning],
    say: Callable[[str], None],
) -> None:
    """Let trials whose worker has died wait again, with the values that they have; those that it
    happens to twice have failed."""
    for tuning in tunings:
        for trial in storage.get_all_trials(tuning.study_id, states=(TrialState.RUNNING,)):
            specs = trial_runs(experiment, tuning.quest, {}, None)
            if not _dead(trial, sum(spec.limits.seconds for spec in specs) + SLACK_SECONDS):
                continue
            name = f"trial {trial.number + 1} of {tuning.quest}"
            try:
                if trial.user_attrs.get("retried"):
                    storage.set_trial_user_attr(trial._trial_id, "status", "its worker died, twice")
                    storage.set_trial_state_values(trial._trial_id, TrialState.FAIL)
                    say(f"{name}: its worker died again: failed")
                else:
                    storage.set_trial_user_attr(trial._trial_id, "retried", True)
                    _wait_again(storage, trial)
                    say(f"{name}: its worker died: tried again")
            except optuna.exceptions.UpdateFinishedTrialError:
                pass  # it has come to its end after all


def let_go(storage: BaseStorage, tunings: Sequence[Tuning]) -> None:
    """Trials of ours that were interrupted wait again; that is no worker's death."""
    for tuning in tunings:
        for trial in storage.get_all_trials(tuning.study_id, states=(TrialState.RUNNING,)):
            if trial.user_attrs.get("worker") == me():
                _wait_again(storage, trial)


def _wait_again(storage: BaseStorage, trial: FrozenTrial) -> None:
    """Give a trial back as if nobody had begun it; its worker's name first, or whoever claims it
    next would be taken for that one."""
    for name, value in {"worker": None, "runs": [], "steps": 0}.items():
        storage.set_trial_user_attr(trial._trial_id, name, value)
    storage.set_trial_state_values(trial._trial_id, TrialState.WAITING)


def _dead(trial: FrozenTrial, limit_seconds: float) -> bool:
    """Whether a running trial's worker is gone: its process, if it was one of this machine, or its
    time is over."""
    assert trial.datetime_start is not None
    age = (datetime.now() - trial.datetime_start).total_seconds()
    worker = trial.user_attrs.get("worker")
    if worker is None:
        return age > CLAIM_SECONDS
    here = worker["host"] == socket.gethostname()
    return age > limit_seconds or (here and worker["born"] != _born(worker["pid"]))


@functools.cache
def me() -> dict[str, Any]:
    return {"host": socket.gethostname(), "pid": os.getpid(), "born": _born(os.getpid())}


def _born(pid: int) -> str | None:
    """What tells a process from a later one of the same number, its boot and its start in clock
    ticks; None if there is no such process."""
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
