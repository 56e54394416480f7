"""What a planned run takes of a device's memory: as like runs took, else by estimate."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Literal

from peftbench.analysis.like_runs import LikeRuns, RunBytes
from peftbench.errors import InputError
from peftbench.estimate.answers import arm as arm_name
from peftbench.estimate.asked import of_run
from peftbench.estimate.fits import what_makes_it_fit
from peftbench.estimate.forecast import Forecast, forecast
from peftbench.estimate.reserved import reserved
from peftbench.estimate.setting import Setting
from peftbench.planning.gpus import Gpu
from peftbench.shapes import known_shape
from peftbench.spec import RunSpec, split_revision

Fits = Literal["surely", "likely", "no", "unknown"]


@dataclass(frozen=True, kw_only=True)
class Memory:
    """Of one run on one device."""

    spec: RunSpec
    measured_runs: int  # 0: an estimate, of a training step alone
    peak_bytes: int  # live tensors at the peak of a training step
    reserved_bytes: int  # of a GPU's memory: the likeliest
    reserved_high: int  # and the most
    flops_per_step: int | None  # None: nothing is trained

    @property
    def measured(self) -> bool:
        return self.measured_runs > 0


@dataclass(frozen=True, kw_only=True)
class OnGpu:
    """Whether a run fits into a GPU's memory."""

    gpu: str
    fits: Fits
    micro_batch: int | None = None  # of train.micro_batch = "auto", where the whole batch does not
    changes: tuple[str, ...] = ()  # what makes a step fit that does not; empty: nothing known
    why: str = ""  # where it is no question of memory


class Forecasts:
    """Forecasts, each traced once."""

    def __init__(self, begin: Callable[[str], object]) -> None:
        """begin: called with a few words before each is made."""
        self._begin = begin
        self._made: dict[str, Forecast | InputError] = {}

    def __call__(self, setting: Setting) -> Forecast:
        """Raises InputError on what cannot be."""
        key = repr(setting)
        if key not in self._made:
            self._begin(f"{len(self._made) + 1}: {arm_name(setting)}, {setting.model}")
            try:
                self._made[key] = forecast(setting)
            except InputError as error:
                self._made[key] = error
        made = self._made[key]
        if isinstance(made, InputError):
            raise made
        return made


def setting_of(spec: RunSpec, device: Literal["cuda", "cpu"]) -> Setting:
    """The largest step of a run; of a well-known model by its shape, without the hub."""
    shape = known_shape(split_revision(spec.model)[0])
    return replace(of_run(spec), device=device, model=shape.name if shape else spec.model)


def memory(
    spec: RunSpec, device: Literal["cuda", "cpu"], like: LikeRuns, forecasts: Forecasts
) -> Memory:
    """Measured where the store has like runs. Raises InputError where there is no estimate."""
    measured = like.bytes(spec)
    if measured is not None:
        return _measured(spec, measured)
    made = forecasts(setting_of(spec, device))
    return Memory(
        spec=spec,
        measured_runs=0,
        peak_bytes=made.peak_bytes,
        reserved_bytes=made.reserved_bytes,
        reserved_high=made.reserved_high,
        flops_per_step=made.flops_per_step,
    )


def _measured(spec: RunSpec, measured: RunBytes) -> Memory:
    """Where no run knows what CUDA reserved, what it would reserve beside the live tensors."""
    _, likely, high = reserved(measured.peak_bytes)
    return Memory(
        spec=spec,
        measured_runs=measured.runs,
        peak_bytes=measured.peak_bytes,
        reserved_bytes=likely if measured.reserved_bytes is None else measured.reserved_bytes,
        reserved_high=high if measured.reserved_bytes is None else measured.reserved_bytes,
        flops_per_step=measured.flops_per_step,
    )


def on_gpu(of: Memory | None, gpu: Gpu, forecasts: Forecasts) -> OnGpu:
    """Whether a run fits, and where it does not, what would. of: None where nothing is known."""
    if of is None:
        return OnGpu(gpu=gpu.name, fits="unknown")
    if of.spec.train.precision != "float32" and not gpu.bfloat16:
        return OnGpu(gpu=gpu.name, fits="no", why="no bfloat16")
    if of.reserved_high <= gpu.usable_bytes:
        return OnGpu(gpu=gpu.name, fits="surely")
    if of.reserved_bytes <= gpu.usable_bytes:
        return OnGpu(gpu=gpu.name, fits="likely")
    try:
        return _with_less(setting_of(of.spec, "cuda"), of.spec, gpu, forecasts)
    except InputError:  # what was measured has no estimate, or what would fit lacks a package
        return OnGpu(gpu=gpu.name, fits="no")


def _with_less(setting: Setting, spec: RunSpec, gpu: Gpu, forecasts: Forecasts) -> OnGpu:
    """A run whose whole batch does not fit: "auto" halves it as the run would."""
    if spec.train.micro_batch == "auto":
        for size in _halves(setting.batch):
            made = forecasts(replace(setting, micro_batch=size))
            if made.reserved_high <= gpu.usable_bytes:
                return OnGpu(gpu=gpu.name, fits="surely", micro_batch=size)
    changes = what_makes_it_fit(setting, gpu.gib, forecasts)
    return OnGpu(gpu=gpu.name, fits="no", changes=changes)


def _halves(batch: int) -> Iterator[int]:
    while batch > 1:
        batch //= 2
        yield batch
