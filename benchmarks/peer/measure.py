"""A comparison: tokens a second of all sides in turn, peak bytes, bytes kept, losses."""

import statistics
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from peer.sides import Lap, Pair, repeatable
from peer.work import Work
from peftbench.training.footprint import step_peak


@dataclass(frozen=True, kw_only=True)
class Row:
    """Ours beside one of the others, on one model, task and method."""

    model: str
    task: str
    method: str
    against: str  # defaults, grouped or identical
    ratio: float  # of our real tokens a second to theirs: median of the repeats
    low: float  # least of the repeats
    high: float
    peak_ratio: float  # of peak bytes in a step on the same batch
    kept_ratio: float  # of bytes kept for the backward pass
    ours_rate: float  # real tokens a second, median
    their_rate: float
    ours_peak_bytes: int
    their_peak_bytes: int
    ours_kept_bytes: int
    their_kept_bytes: int
    ours_loss: float  # mean over the repeats, dropout on; batches differ unless identical
    their_loss: float
    loss_difference: float | None  # identical: the largest in a repeat without dropout
    batch_size: int
    steps: int
    repeats: int


@dataclass(frozen=True)
class Bytes:
    """Of one step."""

    peak: int
    kept: int


def compare(work: Work, against: Sequence[str], device: torch.device) -> list[Row]:
    """A row for each of `against`. The sides take turns, in an order that moves on by one in each
    repeat."""
    pair = Pair(work, device)
    difference = largest_difference(pair) if "identical" in against else None
    sides = {name: side for name, side in pair.sides().items() if name in ("ours", *against)}
    laps: dict[str, list[Lap]] = {name: [] for name in sides}
    for repeat in range(work.repeats):
        names = [*sides]
        for name in names[repeat % len(names) :] + names[: repeat % len(names)]:
            laps[name].append(sides[name](repeat))
    ours, theirs = step_bytes(pair)
    return [
        row(work, name, laps["ours"], laps[name], (ours, theirs), difference) for name in against
    ]


def row(
    work: Work,
    against: str,
    ours: Sequence[Lap],
    theirs: Sequence[Lap],
    step: tuple[Bytes, Bytes],
    difference: float | None,
) -> Row:
    """The laps of each repeat as ratios."""
    ratios = [one.rate / other.rate for one, other in zip(ours, theirs, strict=True)]
    return Row(
        model=work.model,
        task=work.task,
        method=work.method,
        against=against,
        ratio=statistics.median(ratios),
        low=min(ratios),
        high=max(ratios),
        peak_ratio=step[0].peak / step[1].peak,
        kept_ratio=step[0].kept / step[1].kept,
        ours_rate=statistics.median(lap.rate for lap in ours),
        their_rate=statistics.median(lap.rate for lap in theirs),
        ours_peak_bytes=step[0].peak,
        their_peak_bytes=step[1].peak,
        ours_kept_bytes=step[0].kept,
        their_kept_bytes=step[1].kept,
        ours_loss=statistics.fmean(loss for lap in ours for loss in lap.losses),
        their_loss=statistics.fmean(loss for lap in theirs for loss in lap.losses),
        loss_difference=difference if against == "identical" else None,
        batch_size=work.batch_size,
        steps=work.steps,
        repeats=work.repeats,
    )


def largest_difference(pair: Pair) -> float:
    """Of the losses of ours and theirs over the steps of a repeat, from equal weights, on the same
    batches, without dropout."""
    with without_dropout(pair.tuning.model.net), without_dropout(pair.theirs):
        ours, theirs = pair.ours(0).losses, pair.identical(0).losses
    return max(abs(one - other) for one, other in zip(ours, theirs, strict=True))


@contextmanager
def without_dropout(net: nn.Module) -> Iterator[None]:
    """Within it, no dropout layer of the network drops anything."""
    layers: list[Any] = [m for m in net.modules() if isinstance(getattr(m, "p", None), float)]
    before = [layer.p for layer in layers]
    for layer in layers:
        layer.p = 0.0
    try:
        yield
    finally:
        for layer, p in zip(layers, before, strict=True):
            layer.p = p


def step_bytes(pair: Pair) -> tuple[Bytes, Bytes]:
    """Ours and theirs, on the largest batch of the last repeat. The weights move."""
    largest = max(
        pair.batches(pair.work.repeats - 1),
        key=lambda batch: len(batch) * max(pair.lengths[i] for i in batch),
    )
    items = [pair.items[i] for i in largest]
    tuning, optimizer = pair.tuning, pair.tuning.optimizer
    assert optimizer is not None
    step = tuning.spec.train.steps + 1
    with repeatable(True):
        ours = bytes_of(
            tuning.model.net,
            lambda: pair.our_losses(largest),
            optimizer,
            lambda: tuning.method.update(tuning.model.net, optimizer, step),
        )
    other = pair.plain_optimizer()
    with repeatable(False):
        theirs = bytes_of(pair.theirs, lambda: [pair.their_loss(items)], other, other.step)
    return ours, theirs


def bytes_of(
    net: nn.Module,
    losses: Callable[[], Iterable[Tensor]],
    optimizer: torch.optim.Optimizer,
    update: Callable[[], Any],
) -> Bytes:
    """Of one training step, by the project's own tracker; the step before makes the optimizer's
    state. losses: as of footprint.step_peak."""
    net.train()
    for loss in losses():
        loss.backward()
    update()
    optimizer.zero_grad(set_to_none=True)
    kept = kept_bytes(net, losses)
    peak, _, _ = step_peak(net, losses, optimizer, update)
    optimizer.zero_grad(set_to_none=True)
    return Bytes(peak, kept)


def kept_bytes(net: nn.Module, losses: Callable[[], Iterable[Tensor]]) -> int:
    """What autograd keeps of the first forward pass for the backward pass: every storage once, but
    those of parameters and buffers, which are there anyway."""
    weights = {t.untyped_storage()._cdata for t in (*net.parameters(), *net.buffers())}
    kept: dict[int, Any] = {}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage._cdata not in weights:
            kept[storage._cdata] = storage
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        next(iter(losses()))
    return sum(storage.nbytes() for storage in kept.values())
