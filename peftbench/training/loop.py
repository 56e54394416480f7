"""The one training loop: batches, schedule, steps. It knows no method, no task and no tokens."""

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from peftbench.record import Point
from peftbench.spec import TrainSpec
from peftbench.training.measure import synchronize

# steps at the start whose time does not count: allocations, kernels chosen, optimizer state made
WARM_UP = 2
POOL = 32  # batches that are sorted by length together


class EndedError(Exception):
    """Training has ended before its last step; `curve` is what there is."""

    def __init__(self, message: str, curve: Sequence[Point]) -> None:
        super().__init__(message)
        self.curve = tuple(curve)


class DivergenceError(EndedError):
    """The loss or the gradient is no longer finite."""


class PrunedError(EndedError):
    """Whoever watches the validation loss has seen enough."""


class InvariantError(Exception):
    """A parameter requires a gradient that should not, or the other way round."""


def plan(lengths: Sequence[int], batch_size: int, steps: int, seed: int) -> list[list[int]]:
    """Which examples make up the batch of each step: `steps` lists of indices.

    Epoch after epoch in a new random order; within a pool of 32 batches examples of like length
    share a batch (padding is computed like anything else), and the pool's batches come in random
    order. An epoch's incomplete last batch is left out, unless it is the only one.
    """
    rng = torch.Generator().manual_seed(seed)
    batches: list[list[int]] = []
    size = min(batch_size, len(lengths))
    while len(batches) < steps:
        order = torch.randperm(len(lengths), generator=rng).tolist()
        order = order[: len(order) // size * size]
        for start in range(0, len(order), size * POOL):
            pool = sorted(order[start : start + size * POOL], key=lambda i: lengths[i])
            cuts = [pool[i : i + size] for i in range(0, len(pool), size)]
            batches.extend(cuts[i] for i in torch.randperm(len(cuts), generator=rng).tolist())
    return batches[:steps]


def factor(spec: TrainSpec, step: int) -> float:
    """What the peak learning rates are multiplied with at a step, counted from 1: linear warm-up,
    then the schedule down to 0."""
    warmup = math.ceil(spec.warmup * spec.steps)
    if step <= warmup:
        return step / warmup
    if spec.schedule == "constant":
        return 1.0
    left = (spec.steps - step + 1) / (
        spec.steps - warmup
    )  # 1 at the first step after the warm-up, above 0 at the last
    return left if spec.schedule == "linear" else 0.5 * (1 - math.cos(math.pi * left))


def make_optimizer(groups: list[dict[str, Any]], spec: TrainSpec) -> torch.optim.AdamW:
    """AdamW; `peak` in each group keeps the learning rate that the schedule multiplies."""
    groups = [group | {"peak": group["lr"]} for group in groups if group["params"]]
    return torch.optim.AdamW(
        groups,
        betas=(spec.beta1, spec.beta2),
        eps=spec.eps,
        weight_decay=spec.weight_decay,
        fused=True,
    )


@dataclass
class Training:
    """What the loop leaves: the curve, and of each timed step its seconds and tokens."""

    curve: list[Point] = field(default_factory=list)
    train_seconds: float = 0.0  # all steps, warm-up included
    step_seconds: list[float] = field(default_factory=list)  # warm-up dropped, as in the two below
    tokens: int = 0
    padded: int = 0


@dataclass(frozen=True)
class Step:
    """A batch's loss as a mean over supervised tokens, and the batch's real and padded tokens."""

    loss: Tensor
    tokens: int
    padded: int


def train(
    net: nn.Module,
    optimizer: torch.optim.Optimizer,
    spec: TrainSpec,
    forward: Callable[[int], Step],
    update: Callable[[int], None],
    evaluate: Callable[[], float],
    enough: Callable[[int, float], bool],
    device: torch.device,
) -> Training:
    """Take spec.steps steps.

    forward(step): the loss of that step's batch (steps count from 1); update(step): the optimizer's
    step; evaluate(): valid nll, called every spec.eval_every steps; enough(step, valid nll):
    whether to stop there. Raises DivergenceError, PrunedError, and InvariantError where what
    requires a gradient is not what the optimizer was given.
    """
    declared = {id(p) for group in optimizer.param_groups for p in group["params"]}
    parameters = list(net.parameters())
    trained = [
        p for p in parameters if id(p) in declared
    ]  # in the network's order: the clipped norm is the same for any grouping
    out = Training()
    net.train()
    for step in range(1, spec.steps + 1):
        scale = factor(spec, step)
        for group in optimizer.param_groups:
            group["lr"] = group["peak"] * scale
        if any(p.requires_grad != (id(p) in declared) for p in parameters):
            raise InvariantError(
                f"step {step}: the parameters that require a gradient are not those that the optimizer holds"
            )
        synchronize(device)
        start = time.perf_counter()
        result = forward(step)
        result.loss.backward()
        norm = nn.utils.get_total_norm([p.grad for p in trained if p.grad is not None])
        if spec.clip is not None:
            nn.utils.clip_grads_with_norm_(trained, spec.clip, norm)
        loss = result.loss.item()
        if not math.isfinite(loss) or not math.isfinite(norm.item()):
            raise DivergenceError(
                f"step {step} of {spec.steps}: loss {loss:.4g}, gradient norm {norm.item():.4g}",
                out.curve,
            )
        update(step)
        optimizer.zero_grad(set_to_none=True)
        synchronize(device)
        seconds = time.perf_counter() - start
        out.train_seconds += seconds
        if step > min(WARM_UP, spec.steps - 1):
            out.step_seconds.append(seconds)
            out.tokens += result.tokens
            out.padded += result.padded
        valid = None
        if spec.eval_every and step % spec.eval_every == 0 and step < spec.steps:
            valid = evaluate()
            net.train()
            if not math.isfinite(valid):
                raise DivergenceError(
                    f"step {step} of {spec.steps}: valid nll {valid:.4g}", out.curve
                )
        out.curve.append(
            Point(step=step, train_loss=loss, valid_loss=valid, lr=optimizer.param_groups[0]["lr"])
        )
        if valid is not None and enough(step, valid):
            raise PrunedError(
                f"ended after step {step} of {spec.steps}: valid nll {valid:.4g}", out.curve
            )
    if {id(p) for p in optimizer.state} != declared:
        raise InvariantError("the optimizer's state is not that of the parameters it was given")
    return out
