"""One clock for every side: when each optimizer step ended."""

import time
from typing import Any, Self

import torch
from accelerate.optimizer import AcceleratedOptimizer
from torch.optim.optimizer import register_optimizer_step_post_hook

from peftbench.training.environment import synchronize


class Clock:
    """Within it, notes when each step of any optimizer has ended, so that a span holds all that a
    side does between two of them: its loop, batches, forward and backward."""

    def __init__(self, device: torch.device) -> None:
        self.ends: list[float] = []
        self._device = device

    def __enter__(self) -> Self:
        self._hook = register_optimizer_step_post_hook(self._note)
        return self

    def __exit__(self, *_: object) -> None:
        self._hook.remove()

    def _note(self, optimizer: torch.optim.Optimizer, *_: Any) -> None:
        if not isinstance(optimizer, AcceleratedOptimizer):  # whose step is another's
            synchronize(self._device)
            self.ends.append(time.perf_counter())

    def seconds(self, first: int, last: int) -> float:
        """From the end of step `first` to the end of step `last`, counted from 1. Raises ValueError
        where steps were not seen."""
        if len(self.ends) != last:
            raise ValueError(f"{len(self.ends)} optimizer steps were seen, not {last}")
        return self.ends[last - 1] - self.ends[first - 1]
