"""What runs of a store took that are like one that is still to be done: bytes and seconds."""

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from statistics import fmean

from peftbench.analysis.blocks import Run, canonical, grouped
from peftbench.analysis.measures import measure
from peftbench.record import Record
from peftbench.spec import RunSpec

# What changes neither bytes nor seconds of a run.
NO_COST = (
    *("seed", "limits", "train.lr", "train.head_lr", "train.schedule", "train.warmup"),
    *("train.weight_decay", "train.beta1", "train.beta2", "train.eps"),
)
# What changes seconds, and no bytes of a training step.
NO_BYTES = ("split", "train.steps", "train.eval_every")
RESERVED = ("cuda_reserved_bytes.train", "cuda_reserved_bytes.eval")


@dataclass(frozen=True, kw_only=True)
class RunSeconds:
    """Wall clock of whole runs on one device, of those that had the machine to themselves."""

    device_name: str
    runs: int
    mean: float
    least: float
    most: float


@dataclass(frozen=True, kw_only=True)
class RunBytes:
    """The most that like runs took."""

    runs: int
    device_names: tuple[str, ...]
    peak_bytes: int  # live tensors at the peak of a training step
    reserved_bytes: int | None  # by CUDA's allocator, training or scoring; None: no run knows
    flops_per_step: int | None  # None: nothing is trained


class LikeRuns:
    """The runs of a store on one kind of device."""

    def __init__(self, records: Iterable[Record], device: str) -> None:
        """device: cpu or cuda."""
        runs = [Run(record) for record in records if record.device == device]
        self._near = grouped(runs, lambda run: _near(run.record.spec))

    def seconds(self, spec: RunSpec, varied: Collection[str] = ()) -> tuple[RunSeconds, ...]:
        """What whole runs took, the device with most of them first; none: there are none.

        varied: dotted keys, such as "args.rank", in which like runs may differ.
        """
        alone = [run for run in self._like(spec, varied) if run.done and run.alone]
        by_device = grouped(alone, lambda run: run.record.environment.device_name)
        made = [_seconds(name, runs) for name, runs in by_device.items()]
        return tuple(sorted(made, key=lambda each: (-each.runs, each.device_name)))

    def bytes(self, spec: RunSpec) -> RunBytes | None:
        """The most that runs took whose training steps are the same; None: there are none."""
        runs = [run for run in self._like(spec, NO_BYTES) if run.record.footprint]
        peaks = _known(runs, "peak_bytes")
        if not peaks:
            return None
        reserved = [number for name in RESERVED for number in _known(runs, name)]
        flops = [run.record.footprint.flops_per_step for run in runs if run.record.footprint]
        return RunBytes(
            runs=len(runs),
            device_names=_device_names(runs),
            peak_bytes=max(peaks),
            reserved_bytes=max(reserved, default=None),
            flops_per_step=max((n for n in flops if n is not None), default=None),
        )

    def lacked_memory(self, spec: RunSpec) -> tuple[str, ...]:
        """The devices on which a run with the same training steps ended for lack of memory."""
        runs = self._like(spec, NO_BYTES)
        return _device_names(run for run in runs if run.record.status == "out-of-memory")

    def _like(self, spec: RunSpec, varied: Collection[str]) -> list[Run]:
        """The runs with the same costs as far as the spec decides them, whatever is varied."""
        wanted = in_common(spec, varied)
        near = self._near.get(_near(spec), [])
        return [run for run in near if in_common(run.record.spec, varied) == wanted]


def in_common(spec: RunSpec, varied: Collection[str] = ()) -> str:
    """Equal for specs that differ in nothing but NO_COST and the dotted keys in `varied`."""
    content = spec.identity()
    for key in (*NO_COST, *varied):
        table, _, name = key.partition(".")
        if name:
            content[table].pop(name, None)
        else:
            content.pop(table, None)
    return canonical(content)


def _near(spec: RunSpec) -> tuple[str, str, str]:
    return spec.model, spec.task, spec.method


def _known(runs: Iterable[Run], name: str) -> list[int]:
    return [int(number) for run in runs if (number := measure(run, name)) is not None]


def _device_names(runs: Iterable[Run]) -> tuple[str, ...]:
    return tuple(sorted({run.record.environment.device_name for run in runs}))


def _seconds(device_name: str, runs: Sequence[Run]) -> RunSeconds:
    taken = [run.record.seconds for run in runs]
    return RunSeconds(
        device_name=device_name,
        runs=len(taken),
        mean=fmean(taken),
        least=min(taken),
        most=max(taken),
    )
