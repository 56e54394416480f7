"""What a run takes on its machine: seconds, rates, and CUDA's own count of memory."""

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

import numpy as np
import torch
from torch import nn

from peftbench.methods.base import AbstractMethod
from peftbench.methods.linear import replaced
from peftbench.record import CudaMemory, CudaPeaks, Footprint, Latency, Spread, Timing
from peftbench.training.base import AbstractModel
from peftbench.training.environment import synchronize
from peftbench.training.evaluation import Evaluation
from peftbench.training.fine_tuning import FineTuning
from peftbench.training.loop import TrainingLog

LATENCY_TOKENS = 32
LATENCY_REPEATS = 7
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
        latency_seconds=latency(tuning.method, tuning.model),
    )


@torch.inference_mode()
def latency(method: AbstractMethod, model: AbstractModel) -> Latency:
    """Seconds of a forward pass of one sequence of 32 tokens, in each form that there is."""
    net = model.net.eval()
    # any token but padding
    ids = torch.full((1, LATENCY_TOKENS), int(model.pad == 0), device=model.device)
    inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    forms = {"base": method.plain(net), "merged": method.merged(net), "adapted": {}}
    available = {name: modules for name, modules in forms.items() if modules is not None}
    return Latency(**interleaved(net, available, lambda: net(**inputs), model.device))


def spread(seconds: Sequence[float]) -> Spread:
    """Median and interquartile range."""
    low, median, high = np.percentile(seconds, [25, 50, 75])
    return Spread(median=float(median), iqr=float(high - low), n=len(seconds))


def interleaved(
    net: nn.Module,
    forms: Mapping[str, Mapping[str, nn.Module]],
    call: Callable[[], Any],
    device: torch.device,
) -> dict[str, Spread]:
    """Seconds of `call` with each form's modules in the network, in turn: a warm-up round, then
    LATENCY_REPEATS. To put them there and back takes no part in the time."""
    seconds: dict[str, list[float]] = {name: [] for name in forms}
    for _ in range(1 + LATENCY_REPEATS):
        for name, modules in forms.items():
            with replaced(net, modules):
                seconds[name].append(seconds_of(call, device))
    return {name: spread(values[1:]) for name, values in seconds.items()}


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
