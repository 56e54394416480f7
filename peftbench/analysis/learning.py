"""Whether an arm has learned anything: better, by more than chance, than the frozen model and than
answering always the same."""

from collections.abc import Sequence

from peftbench.analysis.blocks import Arm, Block, Value
from peftbench.analysis.estimates import BETTER, Difference
from peftbench.analysis.results import Results


def gains(results: Results, block: Block, arm: Arm, name: Value) -> list[Difference]:
    """How much better an arm is than each floor that is known: the frozen model, and the best
    constant predictor where answers are labels or numbers."""
    floor = block.first("frozen")
    over_frozen = list(results.differences(block, floor, name, [arm]).values()) if floor else []
    over_constant = results.above_constant(arm, name)
    return [*over_frozen, *([over_constant] if over_constant else [])]


def least(gain: Difference) -> float | None:
    """The lower end of a difference's interval; the difference itself where several seeds agree."""
    if gain.interval is not None:
        return gain.interval.low
    return gain.difference if gain.seeds > 1 else None


def learned(results: Results, block: Block, arm: Arm, name: Value = "metric") -> bool | None:
    """Whether the whole interval over seeds and examples lies above every floor that is known; None
    where none is, or nothing says how sure the differences are."""
    return above_all(gains(results, block, arm, name)) if arm.done else None


def above_all(over: Sequence[Difference]) -> bool | None:
    """Whether all of these gains are more than chance; None where that is not known."""
    ends = [least(gain) for gain in over]
    known = [end for end in ends if end is not None]
    if any(end <= 0 for end in known):
        return False
    return True if known and len(known) == len(ends) else None


def floor(results: Results, block: Block, arm: Arm, name: Value = "metric") -> float | None:
    """The highest value of a floor that an arm stands above or below; None where none is known."""
    mean = results.estimates(block, name)[own].mean if (own := block.same_settings(arm)) else None
    over = [
        gain.difference for gain in gains(results, block, arm, name) if gain.difference is not None
    ]
    return None if mean is None or not over else mean - BETTER[name] * min(over)


def none_learned(results: Results, block: Block) -> bool:
    """Whether every arm that trains is known to have learned nothing, by either reading."""
    arms = [arm for arm in block.arms if arm.method != "frozen" and arm.done]
    return bool(arms) and all(
        learned(results, block, arm, name) is False for arm in arms for name in ("metric", "nll")
    )


def metric_at_floor(results: Results, block: Block) -> bool:
    """Whether the metric tells no arm from another: it is 0 for all, or every arm that trains is
    known to be no better than a floor."""
    arms = [arm for arm in block.arms if arm.method != "frozen" and arm.done]
    if not arms:
        return False
    if all(learned(results, block, arm) is False for arm in arms):
        return True
    return {one.mean for one in results.estimates(block, "metric").values()} == {0.0}
