"""`peftbench work`, `status` and `merge`: many workers, one store."""

import json
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer
from rich.console import Console

from peftbench.cli.typed import (
    MOST_WORKERS,
    RESULTS,
    AdaptersOption,
    OnlyOption,
    SetOption,
    StoreOption,
    UnconfinedOption,
    interruptible,
    one_line,
    say,
    show,
    typed_only,
    typed_path,
    typed_settings,
    typed_store,
)
from peftbench.door import working
from peftbench.door.lines import run_name
from peftbench.errors import InputError
from peftbench.wording import duration

if TYPE_CHECKING:
    from peftbench.working.status import Running, Standing

WORK_EXAMPLE = "Example: peftbench work experiments/glue.toml --store s3://bucket/results"
STATUS_EXAMPLE = "Example: peftbench status experiments/glue.toml --store s3://bucket/results"
MERGE_EXAMPLE = "Example: peftbench merge from_gpu1 from_gpu2 --store results"
MOST_LINES = 20  # of runs of one kind that are named

FileArgument = Annotated[Path, typer.Argument(help="An experiment file (TOML).", parser=typed_path)]

RetryOption = Annotated[
    list[str] | None,
    typer.Option(help="Try runs that ended with this status before again (failed, ...)."),
]

SlurmOption = Annotated[
    int | None,
    typer.Option(
        min=1,
        max=MOST_WORKERS,
        metavar="WORKERS",
        help="Let Slurm start so many workers, with a GPU each, in place of being one.",
    ),
]

SlurmSettingOption = Annotated[
    list[str] | None,
    typer.Option(
        "--slurm-set",
        metavar="KEY=VALUE",
        help="A setting of sbatch, such as partition=gpu or time=600 (minutes).",
    ),
]

LogsOption = Annotated[
    Path,
    typer.Option(
        help="Where the scripts and the output of Slurm's jobs go.",
        parser=typed_path,
        metavar="<path>",
    ),
]


def work_command(
    file: FileArgument,
    store: StoreOption = RESULTS,
    only: OnlyOption = None,
    settings: SetOption = None,
    retry: RetryOption = None,
    adapters: AdaptersOption = None,
    unconfined: UnconfinedOption = False,
    slurm: SlurmOption = None,
    slurm_settings: SlurmSettingOption = None,
    logs: LogsOption = Path("slurm"),
) -> None:
    """Take part in an experiment: claim runs that no other worker has, until all are done.

    Give this command on as many machines as there are, at any time; they need to share the store
    and nothing else. What a worker that dies was doing is taken over two minutes later.
    """
    asked: dict[str, Any] = {
        "only": typed_only(only),
        "settings": typed_settings(settings),
        "retry": retry or [],
        "adapters": adapters,
        "unconfined": unconfined,
    }
    if slurm is not None:
        given = typed_settings(slurm_settings)
        jobs = working.submit_workers(file, store.root, slurm, logs=logs, slurm=given, **asked)
        say(one_line(f"{len(jobs)} jobs submitted ({jobs[0]} ...); they print to {logs}"))
        return
    if slurm_settings:
        raise InputError("--slurm-set needs --slurm WORKERS, and nothing else does")
    console = Console(markup=False, highlight=False, emoji=False)
    with interruptible(), ended_softly(), console.status("") as status:
        records = working.work(
            file,
            store,
            **asked,
            begin=lambda spec: status.update(one_line(run_name(spec))),
            say=lambda text: console.print(one_line(text), soft_wrap=True),
        )
    if {record.status for record in records} - {"done", "skipped"}:
        raise typer.Exit(1)


def status_command(
    file: FileArgument,
    store: StoreOption = RESULTS,
    only: OnlyOption = None,
    settings: SetOption = None,
    format: Annotated[Literal["text", "json"], typer.Option(help="How to print it.")] = "text",
) -> None:
    """Say how far an experiment is: done, running (where, since when), waiting, failed, and the
    time left by what like runs took."""
    standing = working.status(
        file,
        store,
        only=typed_only(only),
        settings=typed_settings(settings),
    )
    if format == "json":
        show(json.dumps(_as_data(standing), indent=2, allow_nan=False))
        return
    console = Console(markup=False, highlight=False, emoji=False)
    for line, style in _lines(standing, str(store)):
        console.print(one_line(line), style=style, soft_wrap=True)


def merge_command(
    sources: Annotated[
        list[str], typer.Argument(help="Stores to read: folders or URLs.", metavar="STORE...")
    ],
    store: StoreOption = RESULTS,
) -> None:
    """Copy the records of other stores into one, byte for byte.

    What is there stays. Each record that cannot be read, or contradicts one that is done there, is
    named, and the exit status is 2.
    """
    merged = working.merge(store, *map(typed_store, sources))
    for problem in merged.problems:
        say(one_line(problem), file=sys.stderr)
    say(f"{store}: {merged.new} records copied, {merged.known} were there already")
    if merged.problems:
        raise typer.Exit(2)


@contextmanager
def ended_softly() -> Iterator[None]:
    """SIGTERM, which a batch system sends before it kills, ends a worker as Ctrl-C does: its run is
    free for others at once."""

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _lines(standing: "Standing", store: str) -> Iterator[tuple[str, str]]:
    """What is said, each line with its style on a terminal."""
    counts = [f"{len(standing.done)} of {standing.total} runs done"]
    counts += [f"{n} {status}" for status, n in standing.statuses.items() if status != "done"]
    silent = [running for running in standing.running if running.silent]
    alive = [running for running in standing.running if not running.silent]
    counts += [f"{len(alive)} running", f"{len(standing.waiting)} waiting"]
    if silent:
        counts.append(f"{len(silent)} with a silent worker")
    yield f"{standing.name} in {store}: {', '.join(counts)}", "bold"
    yield from ((line, "green") for line in _cut([_running(each) for each in alive]))
    yield from ((line, "yellow") for line in _cut([_running(each) for each in silent]))
    ended = [
        f"{record.status}: {run_name(record.spec)}: {record.error}" for record in standing.ended
    ]
    yield from ((line, "red") for line in _cut(ended))
    for folder, seconds in standing.spent_seconds.items():
        yield f"spent: {duration(seconds)} on {folder}", ""
    if standing.waiting or alive:
        yield f"left: {_left(standing)}", ""


def _cut(lines: list[str]) -> list[str]:
    more = [f"and {len(lines) - MOST_LINES} more"] if len(lines) > MOST_LINES else []
    return [*lines[:MOST_LINES], *more]


def _running(running: "Running") -> str:
    holder = running.holder
    since = holder.since.astimezone(UTC)
    left = "" if running.left_seconds is None else f", about {duration(running.left_seconds)} left"
    where = f"on {holder.host}, process {holder.pid} ({holder.device}), since {since:%H:%M} UTC"
    if running.silent:
        heard = f"no sign of life for {duration(running.silent_seconds)}"
        return f"silent: {run_name(running.spec)} {where}: {heard}"
    return f"running: {run_name(running.spec)} {where}{left}"


def _left(standing: "Standing") -> str:
    if standing.waiting_seconds is None:
        return "not known: no run like some of those that wait is done"
    whole = duration(standing.waiting_seconds)
    if standing.left_seconds is None:
        return f"{whole} of runs that wait; how long that takes is not known"
    alive = sum(not running.silent for running in standing.running)
    workers = "1 worker" if alive == 1 else f"{alive} workers"
    return f"{whole} of runs that wait; about {duration(standing.left_seconds)} with {workers}"


def _as_data(standing: "Standing") -> dict[str, Any]:
    return {
        "experiment": standing.name,
        "runs": standing.total,
        "statuses": standing.statuses,
        "running": [
            {
                "run_id": running.spec.run_id,
                "run": run_name(running.spec),
                **running.holder.model_dump(mode="json"),
                "silent_seconds": running.silent_seconds,
                "left_seconds": running.left_seconds,
            }
            for running in standing.running
        ],
        "waiting": [spec.run_id for spec in standing.waiting],
        "ended": [
            {"run_id": record.run_id, "status": record.status, "error": record.error}
            for record in standing.ended
        ],
        "spent_seconds": standing.spent_seconds,
        "waiting_seconds": standing.waiting_seconds,
        "left_seconds": standing.left_seconds,
    }
