"""A step at any depth from two shallow ones: transformer blocks are alike, so that the bytes at
each place of a step are a straight line in the number of blocks."""

from collections.abc import Mapping
from dataclasses import replace

from peftbench.estimate.trace import Bytes, Trace
from peftbench.training.footprint import Part, Stage

SHALLOWEST = 3  # a first block, a last one, and one between them


def at_depth(shallow: Trace, deep: Trace, layers: int) -> Trace:
    """The trace of a step with `layers` blocks. `deep` has one block more than `shallow`, which has
    SHALLOWEST or more.

    Between a block near the start and one near the end the bytes are a straight line in the block's
    number too, so that the peak of a phase is at one of its ends, and none is missed.
    """
    lines = {
        _place_at(stage, deep.layers, layers): (peak, deep.peaks[stage])
        for stage, peak in _counterparts(shallow, deep).items()
    }
    return Trace(
        layers=layers,
        total_params=_line(shallow.total_params, deep.total_params, shallow, layers),
        peaks={
            stage: _bytes(before, after, shallow, layers)
            for stage, (before, after) in lines.items()
        },
        weights=_line(shallow.weights, deep.weights, shallow, layers),
        optimizer=_line(shallow.optimizer, deep.optimizer, shallow, layers),
        gradients=_line(shallow.gradients, deep.gradients, shallow, layers),
        largest_block=deep.largest_block,
        gradients_of_block=deep.gradients_of_block,
        flops=_line(shallow.flops, deep.flops, shallow, layers),
    )


def _line(before: int, after: int, shallow: Trace, layers: int) -> int:
    return before + (after - before) * (layers - shallow.layers)


def _bytes(before: Bytes, after: Bytes, shallow: Trace, layers: int) -> dict[Part, int]:
    return {part: _line(before[part], after[part], shallow, layers) for part in before}


def _counterparts(shallow: Trace, deep: Trace) -> Mapping[Stage, Bytes]:
    """For each stage of `deep`, the bytes of the same one in `shallow`: the block as far from the
    start, or, of the later half, as far from the end."""
    return {
        stage: shallow.peaks[same]
        for stage in deep.peaks
        if (same := _place_at(stage, deep.layers, shallow.layers)) in shallow.peaks
    }


def _place_at(stage: Stage, layers: int, wanted: int) -> Stage:
    """The stage of a step with `layers` blocks in one with `wanted`."""
    if stage.place is None or not stage.place.isdecimal():
        return stage
    block = int(stage.place)
    from_end = block >= layers // 2
    return replace(stage, place=str(block + wanted - layers if from_end else block))
