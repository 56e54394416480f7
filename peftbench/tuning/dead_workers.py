"""Workers that died: a trial of theirs waits again; the second time it has failed."""

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
CLAIM_SECONDS = 10  # in which a worker that has claimed a trial says who it is


def requeue_dead(search: Search) -> None:
    """Let trials whose worker has died wait again, with the values that they have; those whose
    worker has died twice have failed."""
    for study in search.studies:
        limit_seconds = sum(spec.limits.seconds for spec in study.runs({})) + SLACK_SECONDS
        for trial in search.trials(study, states=(TrialState.RUNNING,)):
            if not _dead(trial, limit_seconds):
                continue
            storage, trial_id = search.storage, trial._trial_id
            name = f"trial {trial.number + 1} of {study}"
            try:
                if trial.user_attrs.get("retried"):
                    storage.set_trial_user_attr(trial_id, "status", "its worker died, twice")
                    storage.set_trial_state_values(trial_id, TrialState.FAIL)
                    search.say(f"{name}: its worker died again: failed")
                else:
                    storage.set_trial_user_attr(trial_id, "retried", True)
                    _wait_again(storage, trial_id)
                    search.say(f"{name}: its worker died: tried again")
            except optuna.exceptions.UpdateFinishedTrialError:
                pass  # it has ended in the meantime


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
