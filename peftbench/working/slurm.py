"""Workers that Slurm starts: an array of jobs, each of which claims runs until none is left."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from peftbench.errors import InputError, first_line, unknown

MINUTES = 24 * 60  # of a job, unless it is said; what it has not done then goes on in the next
OWN = {"array_parallelism", "map_count"}  # what the number of workers says


@dataclass(frozen=True)
class Job:
    """What each job of the array does. Slurm, through submitit, calls `checkpoint` before it takes
    a job's machine away or its time is over, and the job waits for its turn again."""

    work: Callable[..., Any]
    arguments: tuple[Any, ...]
    options: Mapping[str, Any] = field(default_factory=dict[str, Any])

    def __call__(self) -> None:
        self.work(*self.arguments, **self.options)

    def checkpoint(self) -> Any:
        """The same job again: what it was doing is claimed anew, by it or by another."""
        from submitit.helpers import DelayedSubmission

        return DelayedSubmission(self)


def submit(job: Job, workers: int, folder: Path, settings: Mapping[str, Any]) -> list[str]:
    """Put an array of so many equal jobs into Slurm's queue; returns their ids.

    folder: for the jobs' scripts and what they print; all machines must reach it.
    settings: of sbatch, by the names that submitit has for them ("partition", "time" in minutes,
        "gpus_per_node", "account", ...), over one GPU and MINUTES.
    Raises InputError where submitit or Slurm is missing, or Slurm refuses.
    """
    if workers < 1:
        raise InputError(f"workers: at least one is needed (given: {workers})")
    try:
        from submitit import SlurmExecutor
    except ImportError as error:
        raise InputError("--slurm needs submitit: pip install 'peftbench[slurm]'") from error
    known = SlurmExecutor._valid_parameters() - OWN
    for name in settings:
        if name not in known:
            raise unknown("setting of Slurm", name, known)
    if SlurmExecutor.affinity() < 0:
        raise InputError(
            "--slurm: there is no srun here: give the command where jobs are submitted"
        )
    try:
        executor = SlurmExecutor(folder)
        defaults = {"job_name": "peftbench", "time": MINUTES, "gpus_per_node": 1}
        executor.update_parameters(**{**defaults, **settings}, array_parallelism=workers)
        with executor.batch():
            jobs = [executor.submit(job) for _ in range(workers)]
        return [submitted.job_id for submitted in jobs]
    except Exception as error:  # submitit raises RuntimeErrors and others of its own
        raise InputError(f"Slurm: {first_line(error)}") from error
