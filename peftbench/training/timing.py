"""What a run takes on its machine: seconds, rates, and CUDA's own count of memory."""

import copy
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

import numpy as np
import torch
from torch import nn

from peftbench.methods.base import AbstractMethod
from peftbench.methods.linear import layers, replaced
from peftbench.methods.quantized import QuantizedLinear
from peftbench.record import CudaMemory, CudaPeaks, Footprint, Latency, Spread, Timing
from peftbench.training.base import AbstractModel
from peftbench.training.environment import synchronize
from peftbench.training.evaluation import Evaluation
from peftbench.training.fine_tuning import FineTuning
from peftbench.training.loop import TrainingLog

LATENCY_TOKENS = 32
LATENCY_REPEATS = 7
Modules = Mapping[str, nn.Module]  # by the names at which to put them
Result = TypeVar("Result")


def timing(
    tuning: FineTuning, log: TrainingLog, evaluation: Evaluation, footprint: Footprint
) -> Timing:
    """Seconds and rates of a run; measures the latency."""
    seconds = sum(log.step_seconds)
    utilization = None
    if seconds and footprint.flops_per_step is not None:
        flops_per_token = footprint.flops_per_step / tuning.largest_batch().padded
        dtype = next(tuning.model.net.parameters()).dtype
        rate = gemm_peak(tuning.model.device, dtype)
        utilization = flops_per_token * log.padded / seconds / rate
    return Timing(
        step_seconds=spread(log.step_seconds) if seconds else None,
        train_seconds=log.train_seconds if tuning.optimizer is not None else None,
        tokens_per_second=log.tokens / seconds if seconds else None,
        utilization=utilization,
        eval_seconds=evaluation.seconds,
        generated_tokens_per_second=evaluation.generated_tokens_per_second,
        latency_seconds=latency(tuning.method, tuning.model, tuning.spec.seed),
    )


@torch.inference_mode()
def latency(method: AbstractMethod, model: AbstractModel, seed: int) -> Latency:
    """Seconds of a forward pass of one sequence of 32 tokens, in each form that there is.

    Where its weights lie in memory changes the speed of a layer by a per cent or two, and a merged
    layer is always new; so the layers of every form are new in each round. The plain form is timed
    twice, as `base` and as `control`: by how much they differ, the measurement errs. Merged layers
    beside a quantised base would be a plain model, which is larger and no form of this one. seed:
    of the order of the forms.
    """
    net = model.net.eval()
    # any token but padding
    ids = torch.full((1, LATENCY_TOKENS), int(model.pad == 0), device=model.device)
    inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    plain = method.plain(net)
    adapted = {name: net.get_submodule(name) for name in plain or {}}
    forms: dict[str, Callable[[], Modules]] = {"adapted": lambda: copy.deepcopy(adapted)}
    if plain is not None:
        base = dict(plain)
        forms |= dict.fromkeys(("base", "control"), lambda: copy.deepcopy(base))
    if not layers(net, QuantizedLinear) and method.merged(net) is not None:
        forms["merged"] = lambda: method.merged(net) or {}
    rng = np.random.default_rng(seed)
    return Latency(**interleaved(net, forms, lambda: net(**inputs), model.device, rng))


def spread(seconds: Sequence[float]) -> Spread:
    """Median and interquartile range."""
    low, median, high = np.percentile(seconds, [25, 50, 75])
    return Spread(median=float(median), iqr=float(high - low), n=len(seconds))


def interleaved(
    net: nn.Module,
    forms: Mapping[str, Callable[[], Modules]],
    call: Callable[[], Any],
    device: torch.device,
    rng: np.random.Generator,
) -> dict[str, Spread]:
    """Seconds of `call` with each form's modules in the network: LATENCY_REPEATS rounds, each in an
    order of its own. The modules are made, put there, warmed up by one call and released again
    outside the time, so that those of one form exist at a time."""
    seconds: dict[str, list[float]] = {name: [] for name in forms}
    names = list(forms)
    for _ in range(LATENCY_REPEATS):
        for i in rng.permutation(len(names)):
            with replaced(net, forms[names[i]]()):
                call()
                seconds[names[i]].append(seconds_of(call, device))
    return {name: spread(values) for name, values in seconds.items()}


def seconds_of(call: Callable[[], Any], device: torch.device) -> float:
    """How long a call takes on the device."""
    synchronize(device)
    start = time.perf_counter()
    call()
    synchronize(device)
    return time.perf_counter() - start


def gemm_peak(
    device: torch.device, dtype: torch.dtype, size: int = 1024, repeats: int = 8
) -> float:
    """FLOP/s of the fastest of a few square matrix products: the rate that utilization is relative
    to."""
    a, b = (torch.ones(size, size, device=device, dtype=dtype) for _ in range(2))
    return 2 * size**3 / min(seconds_of(lambda: torch.mm(a, b), device) for _ in range(repeats))


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
