"""What a run takes on its machine: seconds, rates, and CUDA's own count of memory."""

import functools
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from typing import Any, Literal

import numpy as np
import torch

from peftbench.methods.base import AbstractMethod
from peftbench.methods.linear import replaced
from peftbench.record import CudaMemory, CudaPeaks, Footprint, Latency, Spread, Timing
from peftbench.training.environment import synchronize
from peftbench.training.evaluation import Evaluation
from peftbench.training.fine_tuning import FineTuning
from peftbench.training.loop import TrainingLog
from peftbench.training.models import AbstractModel

LATENCY_TOKENS = 32
LATENCY_REPEATS = 7


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
    modules = {"base": method.plain(net), "merged": method.merged(net), "adapted": {}}
    forms = {
        name: functools.partial(replaced, net, form)
        for name, form in modules.items()
        if form is not None
    }
    return Latency(**interleaved(forms, lambda: net(**inputs), model.device, LATENCY_REPEATS))


def spread(seconds: Iterable[float]) -> Spread:
    """Median and interquartile range."""
    values = list(seconds)
    low, median, high = np.percentile(values, [25, 50, 75])
    return Spread(median=float(median), iqr=float(high - low), n=len(values))


def interleaved(
    forms: Mapping[str, Callable[[], AbstractContextManager[object]]],
    call: Callable[[], Any],
    device: torch.device,
    repeats: int,
) -> dict[str, Spread]:
    """Seconds of `call` within each of `forms`, in turn: a warm-up round, then `repeats`. To enter
    and to leave takes no part in the time."""
    seconds: dict[str, list[float]] = {name: [] for name in forms}
    for round_ in range(repeats + 1):
        for name, form in forms.items():
            with form():
                synchronize(device)
                start = time.perf_counter()
                call()
                synchronize(device)
                if round_ > 0:
                    seconds[name].append(time.perf_counter() - start)
    return {name: spread(values) for name, values in seconds.items()}


def gemm_peak(
    device: torch.device, dtype: torch.dtype, size: int = 1024, repeats: int = 8
) -> float:
    """FLOP/s of the fastest of a few square matrix products: the rate that utilization is relative
    to."""
    a, b = (torch.ones(size, size, device=device, dtype=dtype) for _ in range(2))
    best = float("inf")
    for _ in range(repeats):
        synchronize(device)
        start = time.perf_counter()
        torch.mm(a, b)
        synchronize(device)
        best = min(best, time.perf_counter() - start)
    return 2 * size**3 / best


class CudaMeter:
    """CUDA's own peak counters, phase by phase; on another device there are none."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self._allocated: dict[str, int] = {}
        self._reserved: dict[str, int] = {}

    @contextmanager
    def phase(self, name: Literal["train", "eval"]) -> Iterator[None]:
        """Record the peaks of what runs inside."""
        if self.device.type != "cuda":
            yield
            return
        torch.cuda.reset_peak_memory_stats(self.device)
        yield
        self._allocated[name] = torch.cuda.max_memory_allocated(self.device)
        self._reserved[name] = torch.cuda.max_memory_reserved(self.device)

    def peaks(self) -> CudaMemory | None:
        """None: the device is no CUDA device."""
        if self.device.type != "cuda":
            return None
        allocated, reserved = (
            CudaPeaks(train=peak.get("train"), eval=peak.get("eval"))
            for peak in (self._allocated, self._reserved)
        )
        return CudaMemory(allocated_bytes=allocated, reserved_bytes=reserved)
