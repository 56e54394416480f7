"""Runs that train nothing, for fresh processes: what takes the place of `training.run.run`."""

import json
import multiprocessing
import os
import signal
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
from records import record as make_record

from peftbench.spec import RunSpec
from peftbench.training.environment import choose_device, describe_environment
from peftbench.training.run import RunResult
from peftbench.training.shares import cores


def result(spec: RunSpec, **what: Any) -> RunResult:
    """A run that is done, whose note says where it took place and `what`."""
    device = choose_device()
    place = {
        "cores": cores(),
        "gpu": os.environ.get("CUDA_VISIBLE_DEVICES"),
        "threads": torch.get_num_threads(),
        "pid": os.getpid(),
    }
    made = make_record(
        spec=spec,
        started=datetime.now(UTC),
        device=device.type,
        environment=describe_environment(device),
        notes=(json.dumps(place | what),),
    )
    return RunResult(made, None)


def says_where(spec: RunSpec, folder: Path, *_: Any, **__: Any) -> RunResult:
    """Ends when as many runs are in progress as the spec has steps."""
    (folder / f"{spec.seed}.begun").touch()
    while len([*folder.glob("*.begun")]) < spec.train.steps:
        time.sleep(0.01)
    return result(spec)


def first_ends(spec: RunSpec, folder: Path, *_: Any, **__: Any) -> RunResult:
    """The run with seed 0 ends once another has begun, which never ends."""
    if spec.seed:
        (folder / "pid").write_text(str(os.getpid()))
        (folder / "pid").rename(folder / "other")
        time.sleep(1000)
    while not (folder / "other").exists():
        time.sleep(0.01)
    return result(spec)


def kills_its_worker_once(spec: RunSpec, folder: Path, *_: Any, **__: Any) -> RunResult:
    """Ends the process that had the run carried out, in the first try."""
    if _tries(folder) == 1:
        worker = multiprocessing.parent_process()
        assert worker is not None
        assert worker.pid is not None
        os.kill(worker.pid, signal.SIGKILL)
        time.sleep(1000)
    return result(spec)


def raises(spec: RunSpec, folder: Path, *_: Any, **__: Any) -> RunResult:
    _tries(folder)
    raise RuntimeError("no luck")


def _tries(folder: Path) -> int:
    """How often this was called, now included."""
    with (folder / "tries").open("a") as file:
        file.write("x")
    return (folder / "tries").stat().st_size
