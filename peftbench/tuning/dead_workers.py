"""Trials that were lost, to a worker's death or a run's failure: they wait again, with the values
that they have."""

import functools
import os
import socket
from datetime import datetime
from pathlib import Path
from typing import Any

import optuna
from optuna.storages import BaseStorage
from optuna.trial import FrozenTrial, TrialState

from peftbench.tuning.storage import Search

SLACK_SECONDS = 60  # beyond its runs' limits, after which a trial must be over
TRIES = 2  # of a trial in one command; the same command given again tries it again
CLAIM_SECONDS = 10  # in which a worker that has claimed a trial says who it is


def requeue_dead(search: Search) -> None:
    """Let trials whose worker has died wait again."""
    for study in search.studies:
        limit_seconds = sum(spec.limits.seconds for spec in study.runs({})) + SLACK_SECONDS
        for trial in search.trials(study, states=(TrialState.RUNNING,)):
            if not _dead(trial, limit_seconds):
                continue
            try:
                lose(search.storage, trial, "its worker died")
            except optuna.exceptions.UpdateFinishedTrialError:
                continue  # it has ended in the meantime
            search.say(f"trial {trial.number + 1} of {study}: its worker died: it waits again")


def lose(storage: BaseStorage, trial: FrozenTrial, status: str) -> None:
    """Let a trial wait again that was lost, and count that. status: how it was lost."""
    storage.set_trial_user_attr(trial._trial_id, "losses", losses(trial) + 1)
    storage.set_trial_user_attr(trial._trial_id, "status", status)
    _wait_again(storage, trial._trial_id)


def losses(trial: FrozenTrial) -> int:
    """How often a trial was lost."""
    return trial.user_attrs.get("losses", 0)


def give_back(search: Search) -> None:
    """Let this process's trials that were interrupted wait again; that counts as no worker's
    death."""
    for study in search.studies:
        for trial in search.trials(study, states=(TrialState.RUNNING,)):
            if trial.user_attrs.get("worker") == this_process():
                _wait_again(search.storage, trial._trial_id)


def _wait_again(storage: BaseStorage, trial_id: int) -> None:
    """Give a trial back as if nobody had begun it. Its worker's name goes first: else the next one
    to claim it would be taken for that worker."""
    storage.set_trial_user_attr(trial_id, "worker", None)
    storage.set_trial_user_attr(trial_id, "steps", 0)
    storage.set_trial_state_values(trial_id, TrialState.WAITING)


def _dead(trial: FrozenTrial, limit_seconds: float) -> bool:
    """Whether a running trial's worker is gone: its process has ended, if that was one of this
    machine, or its time is over."""
    assert trial.datetime_start is not None
    age = (datetime.now() - trial.datetime_start).total_seconds()
    worker = trial.user_attrs.get("worker")
    if worker is None:
        return age > CLAIM_SECONDS
    here = worker["host"] == socket.gethostname()
    return age > limit_seconds or (here and worker["born"] != _born(worker["pid"]))


@functools.cache
def this_process() -> dict[str, Any]:
    """What a trial says of its worker."""
    return {"host": socket.gethostname(), "pid": os.getpid(), "born": _born(os.getpid())}


def _born(pid: int) -> str | None:
    """What tells a process from a later one of the same number: the machine's boot and the
    process's start in clock ticks, where there is a /proc; None if there is no such process."""
    try:
        ticks = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]
        return f"{Path('/proc/sys/kernel/random/boot_id').read_text().strip()} {ticks}"
    except OSError:
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return None
        except PermissionError:
            pass
        return "alive"
