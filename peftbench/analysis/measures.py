"""What runs cost, by the flat names of tables, figures and exports: parameters, bytes, seconds."""

from collections.abc import Iterable, Sequence
from statistics import fmean
from typing import Any

from peftbench.analysis.blocks import Arm, Run
from peftbench.record import CudaMemory, CudaPeaks, Footprint, Latency, Parts, Timing

# Each with its place in a record.
COUNTED = {name: f"footprint.{name}" for name in Footprint.model_fields if name != "peak_parts"}
PARTS = {f"peak.{part}": f"footprint.peak_parts.{part}" for part in Parts.model_fields}
CUDA_PEAKS = {
    f"cuda_{kind}.{phase}": f"cuda.{kind}.{phase}"
    for kind in CudaMemory.model_fields
    for phase in CudaPeaks.model_fields
}
RATES = tuple(name for name in Timing.model_fields if not name.endswith("seconds"))
SPREADS = {"step_seconds": "timing.step_seconds"} | {
    f"latency.{form}": f"timing.latency_seconds.{form}" for form in Latency.model_fields
}
# Seconds and what follows from them count of runs alone only. `.median` is left out of names.
WHOLE = ("train_seconds", "compile_seconds", "eval_seconds")
TIMED = {name: f"timing.{name}" for name in (*RATES, *WHOLE)} | {
    name + end: f"{place}.{part}"
    for name, place in SPREADS.items()
    for end, part in (("", "median"), (".iqr", "iqr"), (".n", "n"))
}
MEASURES = COUNTED | PARTS | CUDA_PEAKS | TIMED
# The same on every device.
PARAMETERS = ("trained_params", "head_params", "updatable_params", "total_params")
PLACES = {
    name: place.split(".")
    for name, place in (MEASURES | {"trained_share": "footprint.trained_share"}).items()
}


def measure(run: Run, name: str) -> float | None:
    """One of MEASURES, or the trained share; None where the run lacks it."""
    value: Any = run.record
    for part in PLACES[name]:
        value = getattr(value, part, None)
    return value


def mean(arm: Arm, name: str) -> float | None:
    """The mean of a measure over the runs that are done (of a time: that had the machine to
    themselves); None where there is no such run or one of them lacks it."""
    runs = arm.timed if name in TIMED else arm.done
    return complete_mean([measure(run, name) for run in runs])


def complete_mean(values: Sequence[float | None]) -> float | None:
    """None where there is no value, or one is unknown."""
    numbers = [value for value in values if value is not None]
    return fmean(numbers) if numbers and len(numbers) == len(values) else None


def seed_ratios(
    runs: Iterable[Run], others: Iterable[Run], name: str, name_of_others: str = ""
) -> list[float]:
    """A measure of runs relative to that, or another one, of others of the same seed, which stand
    next to each other in time."""
    base = {run.seed: measure(run, name_of_others or name) for run in others}
    pairs = [(measure(run, name), base.get(run.seed)) for run in runs]
    return [own / other for own, other in pairs if own is not None and other]
