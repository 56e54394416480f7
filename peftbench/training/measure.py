"""Instruments: each measures one thing and knows nothing of methods, models or tasks."""

import importlib.metadata
import os
import platform
import subprocess
import time
import weakref
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode

from peftbench.record import CudaPeaks, Environment, Parts, Spread

Part = Literal["weights", "gradients", "optimizer", "activations", "other"]


def synchronize(device: torch.device) -> None:
    """Wait until the device has done what it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def spread(seconds: Iterable[float]) -> Spread:
    """Median and interquartile range."""
    values = list(seconds)
    low, median, high = np.percentile(values, [25, 50, 75])
    return Spread(median=float(median), iqr=float(high - low), n=len(values))


class PeakBytes(TorchDispatchMode):
    """Live tensor bytes: current, at the peak, and what the peak is made of.

    Every storage that an operation returns is counted once from its birth until it is freed, on any
    device and under FakeTensorMode. Scratch memory inside one operation is not seen. What lives
    before must be told with `hold`; what is born counts as `phase`, which the caller sets.
    """

    def __init__(self) -> None:
        super().__init__()
        self.phase: Part = "activations"
        self.live: dict[Part, int] = dict.fromkeys(
            ("weights", "gradients", "optimizer", "activations", "other"), 0
        )
        self.peak_parts = dict(self.live)
        self.peak = 0
        self._part: dict[
            int, tuple[Part, int, Any]
        ] = {}  # storage's id -> part, bytes, weak reference

    def hold(self, part: Part, tensors: Iterable[Tensor]) -> None:
        """Count `tensors` as `part`, whether they were seen before or not."""
        for tensor in tensors:
            storage = tensor.untyped_storage()
            if (known := self._part.get(id(storage))) is not None:
                old, size, reference = known
                self.live[old] -= size
                self._part[id(storage)] = (part, size, reference)
            else:
                size = storage.nbytes()
                self._part[id(storage)] = (
                    part,
                    size,
                    weakref.ref(storage, self._forget(id(storage))),
                )
            self.live[part] += size
        self._note()

    def _forget(self, key: int) -> Callable[[Any], None]:
        def freed(_: Any) -> None:
            part, size, _ = self._part.pop(key)
            self.live[part] -= size

        return freed

    def _note(self) -> None:
        total = sum(self.live.values())
        if total > self.peak:
            self.peak, self.peak_parts = total, dict(self.live)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        born = [
            leaf
            for leaf in tree_leaves(result)
            if isinstance(leaf, Tensor) and id(leaf.untyped_storage()) not in self._part
        ]
        if born:
            self.hold(self.phase, born)
        return result

    def parts(self) -> Parts:
        """What the peak was made of, in bytes."""
        return Parts(**self.peak_parts)


def step_peak(
    net: nn.Module,
    loss: Callable[[], Tensor],
    optimizer: torch.optim.Optimizer | None,
    update: Callable[[], None],
) -> tuple[int, Parts, int]:
    """Peak bytes, their parts, and FLOPs of one training step: forward, backward, update. Without
    an optimizer: of a forward pass.

    Weights change, as in any step. The optimizer's state should exist already, as it does from the
    second step on.
    """
    counter = FlopCounterMode(display=False)
    trained = [parameter for parameter in net.parameters() if parameter.requires_grad]
    for parameter in trained:
        parameter.grad = None
    tracker = PeakBytes()
    hooks = [
        p.register_post_accumulate_grad_hook(lambda p: tracker.hold("gradients", [p.grad]))
        for p in trained
    ]  # type: ignore[arg-type]
    try:
        with counter, tracker:
            tracker.hold("weights", [*net.parameters(), *net.buffers()])
            if optimizer is None:
                with torch.inference_mode():
                    loss()
            else:
                tracker.hold("optimizer", state_tensors(optimizer))
                value = loss()
                tracker.phase = "other"
                value.backward()
                update()
    finally:
        for hook in hooks:
            hook.remove()
    return tracker.peak, tracker.parts(), counter.get_total_flops()


def state_tensors(optimizer: torch.optim.Optimizer) -> list[Tensor]:
    """Every tensor of the optimizer's state."""
    return [
        value
        for state in optimizer.state.values()
        for value in state.values()
        if isinstance(value, Tensor)
    ]


def optimizer_bytes(optimizer: torch.optim.Optimizer) -> int:
    """Bytes of the optimizer's state."""
    return sum(tensor.numel() * tensor.element_size() for tensor in state_tensors(optimizer))


def gemm_peak(
    device: torch.device, dtype: torch.dtype, size: int = 1024, repeats: int = 8
) -> float:
    """FLOP/s of the fastest of a few square matrix products: the rate that utilization is relative
    to."""
    a, b = (
        torch.ones(size, size, device=device, dtype=dtype),
        torch.ones(size, size, device=device, dtype=dtype),
    )
    best = float("inf")
    for _ in range(repeats):
        synchronize(device)
        start = time.perf_counter()
        torch.mm(a, b)
        synchronize(device)
        best = min(best, time.perf_counter() - start)
    return 2 * size**3 / best


def interleaved(
    arms: dict[str, Callable[[], None]], call: Callable[[], Any], device: torch.device, repeats: int
) -> dict[str, Spread]:
    """Seconds of `call` after each of `arms` was set up (which takes no part in the time), in turn:
    a warm-up round, then `repeats`."""
    seconds: dict[str, list[float]] = {name: [] for name in arms}
    for round_ in range(repeats + 1):
        for name, set_up in arms.items():
            set_up()
            synchronize(device)
            start = time.perf_counter()
            call()
            synchronize(device)
            if round_ > 0:
                seconds[name].append(time.perf_counter() - start)
    return {name: spread(values) for name, values in seconds.items()}


class CudaMeter:
    """CUDA's own peak counters, phase by phase; on another device there are none."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self._allocated: dict[str, int] = {}
        self._reserved: dict[str, int] = {}

    @contextmanager
    def phase(self, name: Literal["train", "eval"]) -> Iterator[None]:
        """Record the peaks of what runs inside; a phase that runs more than once keeps its highest."""
        if self.device.type != "cuda":
            yield
            return
        torch.cuda.reset_peak_memory_stats(self.device)
        yield
        self._allocated[name] = max(
            self._allocated.get(name, 0), torch.cuda.max_memory_allocated(self.device)
        )
        self._reserved[name] = max(
            self._reserved.get(name, 0), torch.cuda.max_memory_reserved(self.device)
        )

    def peaks(self) -> tuple[CudaPeaks | None, CudaPeaks | None]:
        """Allocated and reserved."""
        if self.device.type != "cuda":
            return None, None
        allocated, reserved = (
            CudaPeaks(train=peak.get("train"), eval=peak.get("eval"))
            for peak in (self._allocated, self._reserved)
        )
        return allocated, reserved


def choose_device() -> torch.device:
    """CUDA where there is one, else the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def choose_dtype(device: torch.device, wanted: str) -> torch.dtype:
    """The dtype of the base weights. A CPU without bfloat16 instructions is hundreds of times
    slower in it: there it is never "auto"."""
    if wanted != "auto":
        return getattr(torch, wanted)
    return (
        torch.bfloat16
        if device.type == "cuda" and torch.cuda.is_bf16_supported()
        else torch.float32
    )


def device_name(device: torch.device) -> str:
    """What the device is called; a CPU with the number of threads that torch uses on it."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    name = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        names = [
            line.partition(":")[2].strip()
            for line in cpuinfo.read_text().splitlines()
            if line.startswith("model name")
        ]
        name = names[0] if names else name
    return f"{name}, {torch.get_num_threads()} threads"


def environment(device: torch.device, sandbox: str | None = None) -> Environment:
    """Where this process runs."""
    commit, dirty = _git_state()
    return Environment(
        commit=commit,
        dirty=dirty,
        python=platform.python_version(),
        torch=torch.__version__,
        transformers=importlib.metadata.version("transformers"),
        threads=torch.get_num_threads(),
        device_name=device_name(device),
        load_average=os.getloadavg()[0] if hasattr(os, "getloadavg") else None,
        sandbox=sandbox,
    )


def _git_state() -> tuple[str | None, bool | None]:
    """Commit of the checkout that this package runs from, and whether tracked files differ from it;
    None where it is no checkout."""
    root = Path(__file__).parent.parent.parent
    if not (root / ".git").exists():
        return None, None
    try:
        commit = subprocess.run(
            ["git", "rev-parse", "HEAD"], cwd=root, capture_output=True, text=True, check=True
        )
        status = subprocess.run(
            ["git", "status", "--porcelain", "-uno"],
            cwd=root,
            capture_output=True,
            text=True,
            check=True,
        )
    except (OSError, subprocess.CalledProcessError):
        return None, None
    return commit.stdout.strip(), bool(status.stdout.strip())
