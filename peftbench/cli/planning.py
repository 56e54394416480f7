"""`peftbench plan`."""

import json
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Literal

import typer
from rich.console import Console

from peftbench.cli.typed import (
    RESULTS,
    OnlyOption,
    SetOption,
    StoreOption,
    one_line,
    show,
    typed_only,
    typed_path,
    typed_settings,
)
from peftbench.door import planning

PLAN_EXAMPLE = "Example: peftbench plan experiments/glue.toml --gpu A100-80GB --gpu 24 --workers 8"


File = Annotated[
    Path,
    typer.Argument(
        help="An experiment file (TOML), also one with a table [search].", parser=typed_path
    ),
]
GPUs = Annotated[
    list[str] | None,
    typer.Option(
        metavar="NAME|GIB",
        help="A GPU by name, such as A100-80GB, or as GiB that training can have, such as 24; "
        "again, or separated by commas, for more.",
    ),
]
Kind = Annotated[
    Literal["cuda", "cpu"] | None,
    typer.Option(
        help="The kind of device that the runs are for. [cuda with --gpu, else this machine's]"
    ),
]
Workers = Annotated[int, typer.Option(min=1, help="How many runs at a time.")]
Rate = Annotated[
    float | None,
    typer.Option(
        help="TFLOP/s that your own runs reach: hours of the training steps of runs that have no "
        "like runs."
    ),
]


def plan_command(
    file: File,
    store: StoreOption = RESULTS,
    gpu: GPUs = None,
    device: Kind = None,
    workers: Workers = 1,
    tflops: Rate = None,
    only: OnlyOption = None,
    settings: SetOption = None,
    format: Annotated[Literal["text", "json"], typer.Option(help="How to print it.")] = "text",
) -> None:
    """Say what an experiment will cost before anything runs: runs, of which the store has so many,
    memory, seconds and hours, and what would not fit on which GPU.

    Memory is measured where the store has runs with the same settings, else an estimate from shapes
    alone. Seconds are measured of such runs, or not known: none are made up.
    """
    from peftbench.planning import answer

    names = [name for text in gpu or () for name in text.split(",")]
    with _progress() as begin:
        costs = planning.planned_costs(
            file,
            store,
            gpus=names,
            device=device,
            only=typed_only(only),
            settings=typed_settings(settings),
            workers=workers,
            tflops=tflops,
            begin=begin,
        )
    if format == "json":
        show(json.dumps(answer.as_data(costs), indent=2, allow_nan=False))
    else:
        show(answer.described(costs))


@contextmanager
def _progress() -> Iterator[Callable[[str], object]]:
    """Words for a person who waits, on stderr where it is a terminal."""
    if not sys.stderr.isatty():
        yield lambda text: None
        return
    console = Console(stderr=True, markup=False, highlight=False, emoji=False)
    with console.status("") as status:
        yield lambda text: status.update(one_line(f"estimating {text}"))
