"""The door to what an experiment will cost."""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from peftbench.door.given import Selection, selected, store_of
from peftbench.errors import InputError, unknown
from peftbench.experiment import Experiment
from peftbench.spec import Precision
from peftbench.store import Store

if TYPE_CHECKING:
    from peftbench.planning.costs import PlannedCosts
    from peftbench.planning.gpus import Gpu


def planned_costs(
    experiment: Experiment | Path | str,
    store: Store | Path | str = "results",
    *,
    gpus: Iterable[str | float] = (),
    device: Literal["cuda", "cpu"] | None = None,
    only: Selection | None = None,
    settings: Mapping[str, Any] | None = None,
    workers: int = 1,
    tflops: float | None = None,
    begin: Callable[[str], object] | None = None,
) -> "PlannedCosts":
    """Say what an experiment or a search will cost, without running or loading anything of it: how
    many runs there are, the memory of each arm, seconds, hours, and what would not fit.

    experiment: the path of an experiment file (TOML), with or without a table [search], or an
        `Experiment`.
    store: the folder of results, or a `Store`: runs that it has are not to come, and runs like
        those to come say what they will take.
    gpus: GPUs that it is to fit into, by name ("A100-80GB") or as numbers of GiB.
    device: the kind that the runs are for. None: "cuda" where GPUs are named, else this machine's.
    only: as in `run`.
    settings: as in `run`; a search takes none.
    workers: how many runs are carried out at a time.
    tflops: TFLOP/s that your own runs reach, for an answer about runs that have no like runs.
    begin: called with a few words before each estimate is made, of which there may be many.

    Returns a row for each arm on each task and model (`costs.rows`) and the totals. Bytes are
    measured where the store has like runs, else an estimate; seconds are measured, or None.
    Raises InputError as `run` does.

    Example:

        costs = peftbench.planned_costs("experiments/glue.toml", gpus=["A100-80GB", 24])
        print(costs.to_come, costs.measured_seconds, costs.unknown_runs)
        for row in costs.rows:
            print(row.label, row.memory, row.seconds, [on.fits for on in row.on])
    """
    from peftbench.planning import arms, costs
    from peftbench.planning.commits import commit_of
    from peftbench.planning.gpus import gpu

    asked = [gpu(str(each)) for each in gpus]
    kind, precision = _planned_device(device, asked)
    _check_numbers(workers, tflops)
    kept, notes = store_of(store), list[str]()
    records = list(kept.read_all())
    title, file, part = selected(experiment, only, commit_of(records, notes.append))
    planned = arms.planned(part, file.stem if file else "experiment", settings or {}, precision)
    return costs.PlannedCosts(
        name=title,
        store=str(kept.root),
        device=kind,
        rows=costs.rows(planned, records, kind, asked, begin or (lambda text: None)),
        workers=workers,
        flops_per_second=None if tflops is None else tflops * 1e12,
        later_runs=arms.later_runs(part),
        notes=tuple(notes),
    )


def _planned_device(
    device: Literal["cuda", "cpu"] | None, gpus: "Sequence[Gpu]"
) -> tuple[Literal["cuda", "cpu"], Precision]:
    """The kind of device, and what the precision "auto" comes to there. Raises InputError."""
    from peftbench.training.environment import auto_precision, choose_device

    if device not in (None, "cuda", "cpu"):
        raise unknown("device", str(device), ("cuda", "cpu"))
    if gpus and device == "cpu":
        raise InputError("GPUs are named, and the device is cpu: leave one of them out")
    if len({gpu.bfloat16 for gpu in gpus}) > 1:
        without = next(gpu.name for gpu in gpus if not gpu.bfloat16)
        raise InputError(
            f"GPU {without} has no bfloat16 and others have, so that runs there would be others: "
            "ask about them apart"
        )
    if gpus:
        return "cuda", gpus[0].auto_precision
    if device == "cuda":
        return "cuda", "bf16-mixed"
    here = choose_device()
    if device == "cpu" or here.type == "cpu":
        return "cpu", "float32"
    return "cuda", auto_precision(here)


def _check_numbers(workers: int, tflops: float | None) -> None:
    """Raises InputError."""
    if workers < 1:
        raise InputError(f"workers: at least one is needed (given: {workers})")
    if tflops is not None and not (math.isfinite(tflops) and tflops > 0):
        raise InputError(f"tflops: a number above 0 is needed, such as 150 (given: {tflops:g})")
