"""Where the seconds of a training step go: products, attention, random numbers, copies, pointwise
operations, the rest; and at which rate products are made, beside the machine's best."""

import re
import time
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile
from torch.utils.flop_counter import FlopCounterMode

from peer.sides import Pair
from peer.work import WARM_UP, Work
from peftbench.training.rates import gemm_peak

# The first that a name of an operation matches says where its time belongs.
KINDS: Mapping[str, str] = {
    "products": r"^(aten|mkldnn)::(_?addmm_?|mm|bmm|baddbmm|_?(mkldnn_)?linear\w*)$",
    "attention": r"scaled_dot_product|_flash_attention|_efficient_attention",
    "random numbers": r"bernoulli|dropout|random|uniform|normal_|exponential",
    "copies and casts": (
        r"copy|clone|contiguous|::cat|::to$|reorder|fill_|zero_|index|gather|scatter|embedding"
    ),
    "optimizer": r"_fused_adam|_foreach|Optimizer",
    "pointwise and sums": r"^aten::",
}
GEMM_SIZES = (1024, 2048)
ACTIVITIES = {
    "cpu": [ProfilerActivity.CPU],
    "cuda": [ProfilerActivity.CPU, ProfilerActivity.CUDA],
}


@dataclass(frozen=True, kw_only=True)
class StepProfile:
    """Of the timed steps of one side."""

    side: str  # ours or identical
    model: str
    task: str
    method: str
    tokens: float  # of a batch, with padding, in the mean
    step_seconds: float  # without the profiler
    shares: dict[str, float]  # of the time in the profiler, by KINDS and "outside operations"
    products_rate: float  # FLOP/s while products are made
    best_rate: float  # FLOP/s of the machine's best square product
    products_part: float  # the first by the second


def kind_of(operation: str) -> str:
    """Which of KINDS an operation is of; "rest": of none."""
    return next((kind for kind, names in KINDS.items() if re.search(names, operation)), "rest")


def batch_size_for(pair: Pair, tokens: int) -> int:
    """Examples of a batch that has about `tokens` tokens."""
    return max(1, round(tokens * len(pair.lengths) / sum(pair.lengths)))


def profiles(work: Work, tokens: int, device: torch.device) -> list[StepProfile]:
    """Of ours and of peft's network on the same batches of about `tokens` tokens."""
    pair = Pair(work, device)
    pair.resize(batch_size_for(pair, tokens))
    best = max(gemm_peak(device, torch.float32, n) for n in GEMM_SIZES)
    return [profiled(pair, side, best) for side in ("ours", "identical")]


def profiled(pair: Pair, side: str, best: float) -> StepProfile:
    """The steps of one repeat: warmed up, timed, profiled, and their FLOPs counted."""
    lap = pair.sides()[side]
    lap(0)
    seconds = lap(0).seconds / pair.work.steps
    with profile(activities=ACTIVITIES[pair.device.type]) as profiler:
        start = time.perf_counter()
        lap(0)
        total = time.perf_counter() - start
    spans: defaultdict[str, float] = defaultdict(float)
    for event in profiler.key_averages():
        spans[kind_of(event.key)] += own_seconds(event, pair.device)
    spans["outside operations"] = max(0.0, total - sum(spans.values()))
    with FlopCounterMode(display=False) as counter:
        lap(0)
    flops = product_flops(counter)
    padded = [
        len(batch) * max(pair.lengths[i] for i in batch) for batch in pair.batches(0)[WARM_UP:]
    ]
    rate = flops / spans["products"]
    return StepProfile(
        side=side,
        model=pair.work.model,
        task=pair.work.task,
        method=pair.work.method,
        tokens=sum(padded) / len(padded),
        step_seconds=seconds,
        shares={kind: spans[kind] / total for kind in (*KINDS, "rest", "outside operations")},
        products_rate=rate,
        best_rate=best,
        products_part=rate / best,
    )


def own_seconds(event: Any, device: torch.device) -> float:
    """Of an operation without those inside it."""
    name = "self_device_time_total" if device.type == "cuda" else "self_cpu_time_total"
    return getattr(event, name) / 1e6


def product_flops(counter: FlopCounterMode) -> int:
    """Those of KINDS' products."""
    return sum(
        flops
        for operation, flops in counter.get_flop_counts()["Global"].items()
        if kind_of(str(operation).replace(".", "::", 1)) == "products"
    )
