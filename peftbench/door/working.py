"""The doors to many machines that share a store: workers, how far they are, stores put together."""

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from peftbench.door.given import Selection, store_of, wanted_part
from peftbench.door.lines import ended_line
from peftbench.door.places import checked, this_device
from peftbench.experiment import Experiment
from peftbench.record import Record
from peftbench.spec import Precision, RunSpec
from peftbench.store import Store

if TYPE_CHECKING:
    from peftbench.working.merge import Merged
    from peftbench.working.status import Standing


def work(
    experiment: Experiment | Path | str,
    store: Store | Path | str = "results",
    *,
    only: Selection | None = None,
    settings: Mapping[str, Any] | None = None,
    retry: str | Iterable[str] = (),
    adapters: Path | str | None = None,
    unconfined: bool = False,
    begin: Callable[[RunSpec], object] | None = None,
    say: Callable[[str], object] = print,
) -> list[Record]:
    """Take part in an experiment: claim runs that no other worker has, one after another, until
    each has a record.

    Any number of workers on any number of machines may share a store, started and ended at any
    time. They need no coordinator: a run is claimed by a lease in the store, and taken over where
    its worker has shown no sign of life for two minutes. A record of any device counts, so that
    what is learned pools over devices; with precision "auto" devices of one kind belong together.

    A store that cannot be reached is asked again for six minutes, and a line says so.

    All arguments are as in `run`; retry: what has failed by now; what fails from now on is not
    tried again. Returns the records of this worker's own runs. Raises InputError where anything is
    wrong that can be seen before the first run. KeyboardInterrupt ends the run in progress, and
    others can claim it at once.

    Example:

        from peftbench.door.working import work

        work("experiments/quick.toml", "s3://bucket/results")
    """
    from peftbench.working.work import Worker

    kept, (folder, precision) = store_of(store), this_device()
    wanted = wanted_part(experiment, only, settings, retry)
    specs = wanted.specs(precision)
    make_executor = checked(specs, kept, adapters, unconfined)
    worker = Worker(kept, folder, specs, make_executor, wanted.statuses, say)
    say(f"{wanted.name}: {len(specs)} runs, {len(specs) - worker.left} of them in {kept} already")

    def end(record: Record, done: int, total: int) -> None:
        say(ended_line(record, done, total))

    return worker.work(begin or (lambda spec: None), end)


def submit_workers(
    experiment: Path | str,
    store: Path | str,
    workers: int,
    *,
    logs: Path | str = "slurm",
    slurm: Mapping[str, Any] | None = None,
    only: Selection | None = None,
    settings: Mapping[str, Any] | None = None,
    retry: str | Iterable[str] = (),
    adapters: Path | str | None = None,
    unconfined: bool = False,
) -> list[str]:
    """Let Slurm start workers: an array of jobs, each of which does what `work` does with the same
    arguments on a machine with one GPU. Returns at once, with the jobs' ids; `status` says how far
    they are.

    experiment, store, adapters: places that the machines of the jobs reach by the same names.
    workers: how many jobs. A job that is preempted, or whose time is over, waits for its turn again
        and goes on.
    logs: the folder for the jobs' scripts and what they print.
    slurm: settings of sbatch by submitit's names, such as {"partition": "gpu", "time": 600}.

    Raises InputError where the experiment is wrong, or Slurm cannot be asked or refuses.

    Example:

        from peftbench.door.working import submit_workers

        submit_workers("glue.toml", "results", 8, slurm={"partition": "gpu"})
    """
    from peftbench.working.slurm import Job, submit

    kept = store_of(store)
    # a mistake is better found here
    wanted_part(experiment, only, settings, retry).specs("float32")
    kept.ensure_writable()
    options: dict[str, Any] = {"only": only, "settings": settings, "retry": retry}
    options |= {"adapters": adapters and Path(adapters).absolute(), "unconfined": unconfined}
    place = kept.root if isinstance(kept.root, str) else kept.root.absolute()
    job = Job(work, (Path(experiment).absolute(), place), options)
    return submit(job, workers, Path(logs), slurm or {})


def status(
    experiment: Experiment | Path | str,
    store: Store | Path | str = "results",
    *,
    only: Selection | None = None,
    settings: Mapping[str, Any] | None = None,
) -> "Standing":
    """How far an experiment is, by its store alone: what is done, running (where, since when),
    waiting or failed, the seconds spent, and those to come by what like runs took.

    Arguments as in `run`. It counts the runs of every device, whatever this machine's is. Raises
    InputError that names a damaged record.

    Example:

        from peftbench.door.working import status

        standing = status("experiments/quick.toml", "results")
        print(len(standing.done), "of", standing.total)
    """
    from peftbench.working.status import standing

    kinds: list[Precision] = ["float32", "bf16-mixed"]  # what "auto" comes to, here and there
    wanted = wanted_part(experiment, only, settings)
    runs = [
        list({spec.run_id: spec for spec in alternatives}.values())
        for alternatives in zip(*map(wanted.specs, kinds), strict=True)
    ]
    return standing(wanted.name, runs, store_of(store))


def merge(into: Store | Path | str, *sources: Store | Path | str) -> "Merged":
    """Copy the records of stores into one, byte for byte. What is there stays: a record that
    contradicts one that is done there is named in `problems`, as is one that cannot be read.

    Raises InputError if a source is no store or `into` cannot be written.

    Example:

        from peftbench.door.working import merge

        merged = merge("results", "from_gpu1", "s3://bucket/results")
        print(merged.new, *merged.problems)
    """
    from peftbench.working.merge import merge

    return merge(store_of(into), [store_of(source) for source in sources])
