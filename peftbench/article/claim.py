"""A claim of the article, the comparisons that are made for it, and the verdict they add up to."""

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

from peftbench.analysis.blocks import Run
from peftbench.analysis.estimates import Results
from peftbench.wording import Words

Decision = Literal["supported", "refuted", "undecided"]

MIN_SEEDS = 5  # shared by both arms, for scores and losses
MIN_TIMED_RUNS = 3  # the same for seconds
# Margins and words of several claims.
GAIN_POINTS = 0.005  # of the primary metric: the least that is called better
FASTER_TIMES = 1.02  # of the other's speed: the least that is called faster
POINTS_UNIT = Words("primary metric, 0 to 1", "主指标,0 至 1")
OVER_SEEDS = Words("over at least {0} shared seeds", "至少 {0} 个共同种子").format(MIN_SEEDS)


class Effect(NamedTuple):
    """What was measured or counted, with its interval or range."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Comparison:
    """What a pair of arms, or one arm, says of a claim. effect: None where only counts speak."""

    decision: Decision
    effect: Effect | None
    runs: tuple[Run, ...]  # that it rests on


@dataclass(frozen=True, kw_only=True)
class Claim:
    """What the article says, the rule that decides about it, and the function that applies it."""

    id: str
    text: Words
    unit: Words  # of the effect
    rule: Words
    judge: "Callable[[Results], Verdict]" = field(repr=False)

    def verdict(
        self,
        comparisons: Sequence[Comparison],
        lack: Words,
        note: Words | None = None,
        *,
        enough: bool = True,
    ) -> "Verdict":
        """What comparisons add up to. lack: what is missing where there are none; note: what else
        is to be said of them; enough: whether they are as many as the rule asks for."""
        reason = Words.joined([_counts(comparisons), *([note] if note else [])])
        return self.decided(
            together(comparisons) if enough else "undecided",
            pooled(comparisons),
            reason if comparisons else lack,
            tuple(dict.fromkeys(run for one in comparisons for run in one.runs)),
        )

    def decided(
        self, decision: Decision, effect: Effect | None, reason: Words, runs: tuple[Run, ...] = ()
    ) -> "Verdict":
        sentence = Words(f"{reason.en[:1].upper()}{reason.en[1:]}.", f"{reason.zh}。")
        return Verdict(self, decision, effect, sentence, runs)


@dataclass(frozen=True)
class Verdict:
    """What the runs of a store say of a claim."""

    claim: Claim
    decision: Decision
    effect: Effect | None  # in the claim's unit; None where nothing was measured
    reason: Words
    runs: tuple[Run, ...]  # that it rests on


def _counts(comparisons: Sequence[Comparison]) -> Words:
    counts = Counter(one.decision for one in comparisons)
    return Words(
        "supported in {0} and refuted in {1} of {2} comparison{3}",
        "{2} 组比较中 {0} 组支持、{1} 组反驳",
    ).format(
        counts["supported"],
        counts["refuted"],
        len(comparisons),
        "s" if len(comparisons) > 1 else "",
    )


def above(effect: Effect, margin: float) -> Decision:
    """Supported if the whole interval is at least the margin, refuted if all of it is less."""
    if effect.low >= margin:
        return "supported"
    return "refuted" if effect.high < margin else "undecided"


def below(effect: Effect, margin: float) -> Decision:
    """Supported if the whole interval is at most the margin, refuted if all of it is more."""
    if effect.high <= margin:
        return "supported"
    return "refuted" if effect.low > margin else "undecided"


def both(*decisions: Decision) -> Decision:
    """Supported if all are, refuted if any is."""
    if "refuted" in decisions:
        return "refuted"
    return "supported" if set(decisions) == {"supported"} else "undecided"


def together(comparisons: Sequence[Comparison]) -> Decision:
    """Supported if most comparisons are and none is refuted, refuted if most are and none is
    supported."""
    counts = Counter(one.decision for one in comparisons)
    if 2 * counts["supported"] > len(comparisons) and not counts["refuted"]:
        return "supported"
    if 2 * counts["refuted"] > len(comparisons) and not counts["supported"]:
        return "refuted"
    return "undecided"


def pooled(comparisons: Iterable[Comparison]) -> Effect | None:
    """Means of the effects and of the intervals' ends: as wide as the mean's interval if all errors
    went together, so never too narrow. Where each is a point, the least and the greatest of
    them."""
    effects = [one.effect for one in comparisons if one.effect]
    if not effects:
        return None
    values, lows, highs = zip(*effects, strict=True)
    mean = sum(values) / len(values)
    if lows == highs:
        return Effect(mean, min(lows), max(highs))
    return Effect(mean, sum(lows) / len(lows), sum(highs) / len(highs))
