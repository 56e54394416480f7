"""What runs cost, by the flat names of tables, figures and exports: parameters, bytes, seconds."""

from collections.abc import Callable, Iterable
from statistics import fmean

from peftbench.analysis.blocks import Arm, Run
from peftbench.record import CudaMemory, CudaPeaks, Footprint, Latency, Parts, Spread, Timing

# Counted or measured once, whatever else the machine does; seconds count of runs alone only.
COUNTED = tuple(name for name in Footprint.model_fields if name != "peak_parts")
PARTS = tuple(f"peak.{part}" for part in Parts.model_fields)
CUDA_PEAKS = tuple(
    f"cuda_{kind}.{phase}" for kind in CudaMemory.model_fields for phase in CudaPeaks.model_fields
)
RATES = tuple(name for name in Timing.model_fields if not name.endswith("seconds"))
SECONDS = ("step_seconds", *(f"latency.{form}" for form in Latency.model_fields))
SPREADS = tuple(f"{name}{part}" for name in SECONDS for part in ("", ".iqr", ".n"))
TIMED = (*RATES, "train_seconds", "eval_seconds", *SPREADS)
MEASURES = (*COUNTED, *PARTS, *CUDA_PEAKS, *TIMED)


def measure(run: Run, name: str) -> float | None:
    """One of MEASURES; `.median` is left out of a spread's name. None where the run lacks it."""
    record = run.record
    owner, _, part = name.rpartition(".")
    if name in COUNTED:
        return getattr(record.footprint, name, None)
    if name in PARTS:
        return getattr(record.footprint and record.footprint.peak_parts, part, None)
    if name in CUDA_PEAKS:
        peaks = getattr(record.cuda, owner.removeprefix("cuda_"), None)
        return getattr(peaks, part, None)
    if name in SPREADS:
        is_median = name in SECONDS
        found = _spread(record.timing, name if is_median else owner)
        return getattr(found, "median" if is_median else part, None)
    return getattr(record.timing, name, None)


def _spread(timing: Timing | None, name: str) -> Spread | None:
    if name == "step_seconds":
        return timing and timing.step_seconds
    return getattr(timing and timing.latency_seconds, name.removeprefix("latency."), None)


def mean(arm: Arm, name: str) -> float | None:
    """The mean of a measure over the runs that are done (of a time: that had the machine to
    themselves); None where there is no such run or one of them lacks it."""
    runs = arm.timed if name in TIMED else arm.done
    values = [measure(run, name) for run in runs]
    numbers = [value for value in values if value is not None]
    return fmean(numbers) if numbers and len(numbers) == len(values) else None


def trained_share(arm: Arm) -> float | None:
    """The trained parameters as a part of the model's, the head left out of both."""
    return run_trained_share(arm.done[0]) if arm.done else None


def run_trained_share(run: Run) -> float | None:
    footprint = run.record.footprint
    if footprint is None:
        return None
    return footprint.trained_params / (footprint.total_params - footprint.head_params)


def seed_ratios(
    runs: Iterable[Run], others: Iterable[Run], value: Callable[[Run], float | None]
) -> list[float]:
    """A value of runs relative to that of others of the same seed, which stand next to each other
    in time."""
    base = {run.seed: value(run) for run in others}
    pairs = [(value(run), base.get(run.seed)) for run in runs]
    return [own / other for own, other in pairs if own is not None and other]
