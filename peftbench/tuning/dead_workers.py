"""Trials that were lost, to a worker's death or a run's failure: they wait again, with the values
that they have."""

import functools
import os
import socket
from contextlib import suppress
from pathlib import Path
from typing import Any

from optuna.exceptions import UpdateFinishedTrialError
from optuna.storages import BaseStorage
from optuna.trial import FrozenTrial, TrialState

from peftbench.tuning.heartbeat import SILENT_SECONDS, mark_of
from peftbench.tuning.storage import Search

TRIES = 2  # of a trial in one command; the same command given again tries it again
CLAIM_SECONDS = 10  # in which a worker that has claimed a trial says who it is


def requeue_dead(search: Search) -> None:
    """Let trials whose worker has died wait again."""
    for study in search.studies:
        for trial in search.trials(study, states=(TrialState.RUNNING,)):
            silent_seconds = search.witness.silent_seconds(trial._trial_id, mark_of(trial))
            if not _dead(trial, silent_seconds):
                continue
            now = search.storage.get_trial(trial._trial_id)
            if now.state is not TrialState.RUNNING or mark_of(now) != mark_of(trial):
                continue  # another worker has seen it too, and was faster
            try:
                lose(search.storage, now, "its worker died")
            except UpdateFinishedTrialError:
                continue  # it has ended in the meantime
            search.say(f"trial {trial.number + 1} of {study}: its worker died: it waits again")


def lose(storage: BaseStorage, trial: FrozenTrial, status: str) -> None:
    """Let a trial wait again that was lost, and count that: once, however many workers see it.
    status: how it was lost."""
    lost = _lost_claims(trial)
    if (claim := str(trial.datetime_start)) not in lost:
        storage.set_trial_user_attr(trial._trial_id, "losses", [*lost, claim])
    storage.set_trial_user_attr(trial._trial_id, "status", status)
    _wait_again(storage, trial._trial_id)


def losses(trial: FrozenTrial) -> int:
    """How often a trial was lost."""
    return len(_lost_claims(trial))


def _lost_claims(trial: FrozenTrial) -> list[str]:
    """When the workers claimed a trial that lost it; earlier versions only counted them."""
    lost = trial.user_attrs.get("losses", [])
    return [""] * lost if isinstance(lost, int) else lost


def give_back(search: Search) -> None:
    """Let this process's trials that were interrupted wait again; that counts as no worker's
    death."""
    for study in search.studies:
        for trial in search.trials(study, states=(TrialState.RUNNING,)):
            if trial.user_attrs.get("worker") == this_process():
                with suppress(UpdateFinishedTrialError):  # another worker has ended it
                    _wait_again(search.storage, trial._trial_id)


def _wait_again(storage: BaseStorage, trial_id: int) -> None:
    """Give a trial back as if nobody had begun it. Its worker's name goes first: else the next one
    to claim it would be taken for that worker."""
    storage.set_trial_user_attr(trial_id, "worker", None)
    storage.set_trial_user_attr(trial_id, "steps", 0)
    storage.set_trial_state_values(trial_id, TrialState.WAITING)


def _dead(trial: FrozenTrial, silent_seconds: float) -> bool:
    """Whether a running trial's worker is gone: its process has ended, if that was one of this
    machine, or it has shown no sign of life for too long."""
    worker = trial.user_attrs.get("worker")
    if worker is None:
        return silent_seconds > CLAIM_SECONDS
    here = worker.get("machine") == this_process()["machine"]
    return silent_seconds > SILENT_SECONDS or (here and worker["born"] != _born(worker["pid"]))


@functools.cache
def this_process() -> dict[str, Any]:
    """What a trial says of its worker. host: for people."""
    process = {"pid": os.getpid(), "born": _born(os.getpid())}
    return {"host": socket.gethostname(), "machine": _machine()} | process


def _machine() -> str:
    """What tells this machine, or the container, from others, where process numbers mean others:
    they may have one host name."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot} {Path('/proc/self/ns/pid').readlink()}"
    except OSError:
        return socket.gethostname()


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
