"""What a run takes on its machine: seconds, rates, and CUDA's own count of memory."""

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any, TypeVar

import numpy as np
import torch
from torch import nn

from peftbench.methods.base import AbstractMethod
from peftbench.methods.linear import layers, replaced
from peftbench.methods.quantized import QuantizedLinear
from peftbench.record import CudaMemory, CudaPeaks, Footprint, Latency, Spread, Timing
from peftbench.training.base import AbstractModel
from peftbench.training.evaluation import Evaluation
from peftbench.training.fine_tuning import FineTuning
from peftbench.training.loop import TrainingLog
from peftbench.training.rates import gemm_peak, seconds_of

LATENCY_TOKENS = 32
LATENCY_REPEATS = 7  # rounds at the most
FEWEST_REPEATS = 3
LATENCY_SECONDS = 4.0  # after which no round begins but for the fewest
Modules = Mapping[str, nn.Module]  # by the names at which to put them
Form = Callable[[], AbstractContextManager[None]]  # within it, the network has this form
Result = TypeVar("Result")


def timing(
    tuning: FineTuning, log: TrainingLog, evaluation: Evaluation, footprint: Footprint
) -> Timing:
    """Seconds and rates of a run. The latency is measured in final runs: nothing that is read of a
    trial rests on it, and searches would spend a sixth of their time there."""
    seconds = sum(log.step_seconds)
    utilization = None
    final = tuning.spec.split == "test"
    if seconds and footprint.flops_per_step is not None:
        flops_per_token = footprint.flops_per_step / sum(
            batch.padded for batch in tuning.largest_batch()
        )
        rate = gemm_peak(tuning.model.device, tuning.model.product_dtype)
        utilization = flops_per_token * log.padded / seconds / rate
    return Timing(
        step_seconds=spread(log.step_seconds) if seconds else None,
        train_seconds=log.train_seconds if tuning.optimizer is not None else None,
        compile_seconds=log.compile_seconds,
        tokens_per_second=log.tokens / seconds if seconds else None,
        utilization=utilization,
        eval_seconds=evaluation.seconds,
        generated_tokens_per_second=evaluation.generated_tokens_per_second,
        latency_seconds=latency(tuning.method, tuning.model, tuning.spec.seed) if final else None,
    )


@torch.inference_mode()
def latency(method: AbstractMethod, model: AbstractModel, seed: int) -> Latency:
    """Seconds of a forward pass of one sequence of 32 tokens, in each form that there is.

    Where its weights lie in memory changes the speed of a layer by a per cent or two; so those of
    every form lie where the model's own do. The plain form is timed twice, as `base` and as
    `control`: by how much they differ, the measurement errs. seed: of the order of the forms.
    """
    net = model.net.eval()
    # any token but padding
    ids = torch.full((1, LATENCY_TOKENS), int(model.pad == 0), device=model.device)
    inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    rng = np.random.default_rng(seed)
    forms = forms_of(method, net)
    with model.computing():
        return Latency(**interleaved(forms, lambda: net(**inputs), model.device, rng))


def forms_of(method: AbstractMethod, net: nn.Module) -> dict[str, Form]:
    """The forms that there are of a network with the method attached. The merged weights are the
    only tensors that are made. Merged layers beside a quantised base would be a plain model, which
    is larger and no form of this one."""
    plain = method.plain(net)
    merged = None if layers(net, QuantizedLinear) else method.merged(net)
    forms: dict[str, Form] = {"adapted": nullcontext}
    if plain is not None:
        forms |= dict.fromkeys(("base", "control"), lambda: replaced(net, plain))
    if merged is not None:
        forms["merged"] = lambda: in_place_of(net, plain or {}, merged)
    return forms


@contextmanager
def in_place_of(net: nn.Module, plain: Modules, merged: Modules) -> Iterator[None]:
    """Within it, the merged layers stand in the network. Where one differs from the plain layer in
    the values of its weight only, these lie in the plain weight's memory meanwhile."""
    alike = {name: plain[name] for name in merged if _alike(plain.get(name), merged[name])}
    pairs = [(layer.weight, merged[name].weight) for name, layer in alike.items()]
    with replaced(net, {**merged, **alike}):
        exchange(pairs)
        try:
            yield
        finally:
            exchange(reversed(pairs))  # layers may share a weight


def _alike(one: nn.Module | None, other: nn.Module) -> bool:
    """Whether two linear layers differ in the values of their weights only."""
    if not (isinstance(one, nn.Linear) and isinstance(other, nn.Linear)):
        return False
    a, b = one.weight, other.weight
    return one.bias is other.bias and (a.shape, a.dtype) == (b.shape, b.dtype)


@torch.no_grad()
def exchange(pairs: Iterable[tuple[Any, Any]]) -> None:
    """Give each of two tensors the values of the other."""
    for one, other in pairs:
        values = one.clone()
        one.copy_(other)
        other.copy_(values)


def spread(seconds: Sequence[float]) -> Spread:
    """Median and interquartile range."""
    low, median, high = np.percentile(seconds, [25, 50, 75])
    return Spread(median=float(median), iqr=float(high - low), n=len(seconds))


def interleaved(
    forms: Mapping[str, Form],
    call: Callable[[], Any],
    device: torch.device,
    rng: np.random.Generator,
) -> dict[str, Spread]:
    """Seconds of `call` within each form: rounds that are each in an order of their own,
    LATENCY_REPEATS of them, or fewer where the model is large for the machine. A form is entered,
    warmed up by one call and left again outside the time."""
    seconds: dict[str, list[float]] = {name: [] for name in forms}
    names = list(forms)
    start = time.perf_counter()
    for repeat in range(LATENCY_REPEATS):
        if repeat >= FEWEST_REPEATS and time.perf_counter() - start > LATENCY_SECONDS:
            break
        for i in rng.permutation(len(names)):
            with forms[names[i]]():
                call()
                seconds[names[i]].append(seconds_of(call, device))
    return {name: spread(values) for name, values in seconds.items()}


def with_cuda_peaks(
    device: torch.device, stage: Callable[[], Result]
) -> tuple[Result, tuple[int, ...]]:
    """What a stage returns, and CUDA's peaks of allocated and of reserved bytes meanwhile; none on
    another device."""
    if device.type != "cuda":
        return stage(), ()
    torch.cuda.reset_peak_memory_stats(device)
    result = stage()
    peaks = torch.cuda.max_memory_allocated(device), torch.cuda.max_memory_reserved(device)
    return result, peaks


def cuda_memory(train: tuple[int, ...], evaluation: tuple[int, ...]) -> CudaMemory | None:
    """The peaks of both stages; None on another device."""
    peaks = [CudaPeaks(train=t, eval=e) for t, e in zip(train, evaluation, strict=True)]
    return CudaMemory(allocated_bytes=peaks[0], reserved_bytes=peaks[1]) if peaks else None
