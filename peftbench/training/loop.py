"""The training loop: schedule, steps, and what ends them."""

import math
import time
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import nn

from peftbench.record import Point
from peftbench.spec import TrainSpec
from peftbench.training.compilation import Clock
from peftbench.training.environment import synchronize
from peftbench.training.evaluation import likelihood
from peftbench.training.fine_tuning import FineTuning, accumulate
from peftbench.training.transformer_blocks import as_trained

# steps at the start whose time does not count: allocations, kernels chosen, optimizer state made
WARM_UP = 2
Watch = Callable[[int, float], bool]  # (step, valid nll) -> whether to end there


class EndedError(Exception):
    """Training has ended before its last step; `curve` holds the steps until then."""

    def __init__(self, status: Literal["diverged", "pruned"], message: str, curve: list[Point]):
        super().__init__(message)
        self.status = status  # diverged: the loss or the gradient is not finite; pruned: by `watch`
        self.curve = curve


class InvariantError(Exception):
    """A parameter requires a gradient that should not, or the other way round."""


def factor(spec: TrainSpec, step: int) -> float:
    """What the peak learning rates are multiplied with at a step, counted from 1: linear warm-up,
    then the schedule down to 0."""
    warmup = math.ceil(spec.warmup * spec.steps)
    if step <= warmup:
        return step / warmup
    if spec.schedule == "constant":
        return 1.0
    # 1 at the first step after the warm-up, above 0 at the last
    left = (spec.steps - step + 1) / (spec.steps - warmup)
    return left if spec.schedule == "linear" else 0.5 * (1 - math.cos(math.pi * left))


@dataclass
class TrainingLog:
    """What training leaves: the curve, and of each timed step its seconds and tokens. Timed are
    the steps after the warm-up in which nothing was compiled."""

    curve: list[Point] = field(default_factory=list)
    train_seconds: float = 0.0  # all steps, warm-up and compilation included
    compile_seconds: float | None = None  # of those, compilation; None: nothing is compiled
    step_seconds: list[float] = field(default_factory=list)
    tokens: int = 0
    padded: int = 0


def train(tuning: FineTuning, watch: Watch) -> TrainingLog:
    """Take the steps of a run; none where nothing is trained. Every spec.train.eval_every steps
    `watch` is asked.

    Raises EndedError where they end early, and InvariantError where what requires a gradient is not
    what the optimizer was given.
    """
    log, spec, clock = TrainingLog(), tuning.spec.train, Clock()
    if tuning.optimizer is None:
        return log
    torch.manual_seed(tuning.spec.seed)  # equal dropout masks, whatever was drawn before
    with (
        as_trained(tuning.model.net, checkpointing=spec.checkpointing, compiled=spec.compile),
        clock.running() if spec.compile else nullcontext(),
    ):
        _steps(tuning, tuning.optimizer, log, watch, clock)
    log.compile_seconds = clock.seconds if spec.compile else None
    return log


def _steps(
    tuning: FineTuning,
    optimizer: torch.optim.Optimizer,
    log: TrainingLog,
    watch: Watch,
    clock: Clock,
) -> None:
    net, device, spec = tuning.model.net, tuning.model.device, tuning.spec.train
    declared = {id(p) for group in optimizer.param_groups for p in group["params"]}
    parameters = list(net.parameters())
    # in the network's order, so that the clipped norm is the same for any grouping
    trained = [p for p in parameters if id(p) in declared]
    reached: set[int] = set()  # parameters that had a gradient
    net.train()
    for step in range(1, spec.steps + 1):
        place, scale = f"step {step} of {spec.steps}", factor(spec, step)
        for group in optimizer.param_groups:
            group["lr"] = group["peak"] * scale
        if any(p.requires_grad != (id(p) in declared) for p in parameters):
            raise InvariantError(f"{place}: what requires a gradient is not what is trained")
        compiled = clock.times
        synchronize(device)
        start = time.perf_counter()
        batch = tuning.batch(step)
        # on CUDA: waits for the device once
        # a method's penalty is no part of the loss that is recorded
        loss = sum(part.item() for part in accumulate(tuning.losses(batch))[: len(batch)])
        norm = clipped(trained, spec.clip)
        reached |= {id(p) for p in trained if p.grad is not None}
        if not math.isfinite(loss) or not math.isfinite(norm):
            message = f"{place}: loss {loss:.4g}, gradient norm {norm:.4g}"
            raise EndedError("diverged", message, log.curve)
        tuning.method.update(net, optimizer, step)
        optimizer.zero_grad(set_to_none=True)
        synchronize(device)
        seconds = time.perf_counter() - start
        log.train_seconds += seconds
        if step > min(WARM_UP, spec.steps - 1) and clock.times == compiled:
            log.step_seconds.append(seconds)
            log.tokens += sum(part.tokens for part in batch)
            log.padded += sum(part.padded for part in batch)
        valid = None
        if spec.eval_every and step % spec.eval_every == 0 and step < spec.steps:
            valid = likelihood(tuning.model, tuning.data["valid"].items).mean
            net.train()
            if not math.isfinite(valid):
                raise EndedError("diverged", f"{place}: valid nll {valid:.4g}", log.curve)
        rate = optimizer.param_groups[0]["lr"]
        log.curve.append(Point(step=step, train_loss=loss, valid_loss=valid, lr=rate))
        if valid is not None and watch(step, valid):
            raise EndedError("pruned", f"ended after {place}: valid nll {valid:.4g}", log.curve)
    # an expert that no token was sent to, or a pooler that the head does not read, has none
    if {id(p) for p in optimizer.state} != reached:
        raise InvariantError("the optimizer's state is not that of the parameters with a gradient")


def clipped(trained: list[nn.Parameter], most: float | None) -> float:
    """The norm of all gradients together, which are then scaled down to `most`."""
    norm = nn.utils.get_total_norm([p.grad for p in trained if p.grad is not None])
    if most is not None:
        nn.utils.clip_grads_with_norm_(trained, most, norm)
    return norm.item()
