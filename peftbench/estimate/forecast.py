"""The answer: what a step of training takes, part by part, and when it takes most."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from peftbench.errors import InputError
from peftbench.estimate.depth import SHALLOWEST, at_depth
from peftbench.estimate.network import (
    all_kinds_of_layer,
    configuration,
    layers_of,
    with_layers,
)
from peftbench.estimate.reserved import reserved
from peftbench.estimate.setting import Setting
from peftbench.estimate.sharding import on_each_gpu
from peftbench.estimate.structure import Structure, structure
from peftbench.estimate.trace import Bytes, Trace, trace
from peftbench.record import Parts
from peftbench.tasks.base import TaskKind
from peftbench.training.footprint import Phase, Stage


@dataclass(frozen=True, kw_only=True)
class Forecast:
    """Of one step, on each GPU; nothing in it was measured."""

    setting: Setting
    total_params: int  # of the plain model, head included
    head_params: int
    trained_params: int  # without the head
    at_rest_bytes: int  # between two steps: weights, buffers, the optimizer's state
    peak_bytes: int  # live tensors at the peak
    peak_parts: Parts
    peak_phase: Phase  # the phase of the step that the peak is in
    phase_bytes: Mapping[Phase, int]  # the peak of each phase
    reserved_bytes: int  # of the GPU's memory, the likeliest; and its interval
    reserved_low: int
    reserved_high: int
    flops_per_step: int | None  # None: nothing is trained
    adapter_file_bytes: int | None  # None: the method has no file
    layers: int | None  # transformer blocks of the model; None: its configuration does not say
    traced: tuple[int, ...]  # at how many blocks a step was traced


def forecast(setting: Setting) -> Forecast:
    """Raises InputError on what the model, the method or the machine cannot do."""
    config, kind = configuration(setting)
    whole, layers = structure(setting, config, kind), layers_of(config)
    step, traced = _step(setting, config, kind, whole, layers)
    peaks = {stage: on_each_gpu(bytes_, step, setting) for stage, bytes_ in step.peaks.items()}
    stage, parts = max(peaks.items(), key=lambda item: sum(item[1].values()))
    rest = on_each_gpu(
        {"weights": step.weights, "optimizer": step.optimizer}, step, setting, at_rest=True
    )
    peak = sum(parts.values())
    low, middle, high = reserved(peak)
    trains = whole.trained_params + whole.head_params > 0
    flops = step.flops * setting.batch // setting.items
    return Forecast(
        setting=setting,
        total_params=whole.total_params,
        head_params=whole.head_params,
        trained_params=whole.trained_params,
        at_rest_bytes=sum(rest.values()),
        peak_bytes=peak,
        peak_parts=Parts(**parts),
        peak_phase=stage.phase,
        phase_bytes=_by_phase(peaks),
        reserved_bytes=middle,
        reserved_low=low,
        reserved_high=high,
        flops_per_step=flops if trains else None,
        adapter_file_bytes=whole.adapter_file_bytes,
        layers=layers,
        traced=traced,
    )


def peaks_at(
    setting: Setting, steps: Sequence[tuple[int, int, Mapping[str, Any]]]
) -> list[Mapping[Stage, Bytes]]:
    """The bytes at the peak of each stage, on one GPU, at several batches, lengths and
    hyperparameters. Raises InputError."""
    config, kind = configuration(setting)
    whole, layers = structure(setting, config, kind), layers_of(config)
    distinct: dict[str, Mapping[Stage, Bytes]] = {}
    for batch, length, args in steps:
        if repr((batch, length, args)) not in distinct:
            asked = replace(setting, batch=batch, length=length, args=args)
            step, _ = _step(asked, config, kind, whole, layers)
            distinct[repr((batch, length, args))] = step.peaks
    return [distinct[repr(step)] for step in steps]


def _step(
    setting: Setting, config: Any, kind: TaskKind, whole: Structure, layers: int | None
) -> tuple[Trace, tuple[int, ...]]:
    """The step of the whole network, and at how many layers it was traced: at two small numbers of
    them where all layers are alike, else at all."""
    if whole.window is not None and setting.length > whole.window:
        raise InputError(
            f"length = {setting.length}: the window of {setting.model} is {whole.window} tokens"
        )
    shallow = max(SHALLOWEST, all_kinds_of_layer(config))
    if layers is not None and layers > shallow + 1:
        few = shallow, shallow + 1
        first, second = (trace(setting, with_layers(config, n), kind, n) for n in few)
        step = at_depth(first, second, layers)
        if step.total_params == whole.total_params:
            return step, few
    return trace(setting, config, kind, layers or 0), (layers,) if layers else ()


def _by_phase(peaks: Mapping[Stage, Bytes]) -> dict[Phase, int]:
    phases: dict[Phase, int] = {}
    for stage, parts in peaks.items():
        phases[stage.phase] = max(phases.get(stage.phase, 0), sum(parts.values()))
    return phases
