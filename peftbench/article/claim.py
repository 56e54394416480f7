"""A claim of the article, the cases that are made for or against it, and the verdict they add up
to."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

from peftbench.analysis.blocks import Run
from peftbench.wording import Words, sentence

Decision = Literal["supported", "refuted", "undecided"]

MIN_SEEDS = 5  # shared by both arms, for scores and losses
MIN_TIMED_RUNS = 3  # the same for seconds
SEVERAL_TASKS = 2  # the least that a verdict about quality rests on
# Margins and words of several claims.
FASTER_TIMES = 1.02  # of the other's speed: the least that is called faster
POINTS_UNIT = Words("primary metric, 0 to 1", "主指标,0 至 1")
OVER_SEEDS = Words("over at least {0} shared seeds", "至少 {0} 个共同种子").format(MIN_SEEDS)


class Effect(NamedTuple):
    """What was measured or counted, with its interval or range."""

    value: float
    low: float
    high: float


class Case(NamedTuple):
    """What a pair of arms, or one arm, says of a claim. effect: None where only counts speak."""

    decision: Decision
    effect: Effect | None
    runs: tuple[Run, ...]  # that it rests on
    surplus: Effect | None = None  # how far the effect is on the claim's side of its margin
    by_chance: bool = True  # whether chance could have decided it; not where things are counted


@dataclass(frozen=True, kw_only=True)
class Claim:
    """What the article says, and the rule that decides about it."""

    id: str
    text: Words
    unit: Words = POINTS_UNIT  # of the effect
    rule: Words

    def verdict(self, cases: Sequence[Case], lack: Words, note: Words | None = None) -> "Verdict":
        """What cases add up to. lack: what is missing where there are none; note: what else is to
        be said of them."""
        decisions: list[Decision] = [one.decision for one in cases]
        counts = Words(
            "Supported in {0} and refuted in {1} of {2} comparison{3}",
            "{2} 组比较中 {0} 组支持、{1} 组反驳",
        ).format(
            decisions.count("supported"),
            decisions.count("refuted"),
            len(decisions),
            "s" if len(decisions) > 1 else "",
        )
        return Verdict(
            claim=self,
            decision=agreed(cases),
            effect=pooled([one.effect for one in cases if one.effect]),
            reason=sentence(Words.joined([counts, note] if note else [counts]) if cases else lack),
            runs=tuple(dict.fromkeys(run for one in cases for run in one.runs)),
            by_chance=sum(one.by_chance for one in cases),
        )

    def decided(
        self, decision: Decision, effect: Effect | None, reason: Words, runs: tuple[Run, ...] = ()
    ) -> "Verdict":
        return Verdict(self, decision, effect, sentence(reason), runs)


@dataclass(frozen=True)
class Verdict:
    """What the runs of a store say of a claim."""

    claim: Claim
    decision: Decision
    effect: Effect | None  # None where nothing was measured
    reason: Words
    runs: tuple[Run, ...]  # that it rests on
    by_chance: int = 0  # comparisons that chance could have decided
    reading: Words | None = None  # the effect's unit, where it is not the claim's

    @property
    def unit(self) -> Words:
        """Of the effect."""
        return self.reading or self.claim.unit


def compare(
    effects: Iterable[tuple[Sequence[Run], Effect | None]],
    decide: Callable[[Effect, float], Decision],
    margin: float,
    *,
    counted: bool = False,
) -> list[Case]:
    """A comparison for each effect that is known, with the runs that it rests on. counted: the
    effects are counts, bytes or identities, which do not vary by chance."""
    return [
        Case(
            decide(effect, margin),
            effect,
            tuple(runs),
            _surplus(effect, decide, margin),
            by_chance=not counted and effect.low < effect.high,
        )
        for runs, effect in effects
        if effect
    ]


def _surplus(
    effect: Effect, decide: Callable[[Effect, float], Decision], margin: float
) -> Effect | None:
    value, low, high = (end - margin for end in effect)
    if decide is above:
        return Effect(value, low, high)
    return Effect(-value, -high, -low) if decide is below else None


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
    return "undecided" if "undecided" in decisions else "supported"


def together(decisions: Sequence[Decision]) -> Decision:
    """Supported if most cases are and none is refuted, refuted if most are and none is
    supported."""
    supported, refuted = decisions.count("supported"), decisions.count("refuted")
    if 2 * supported > len(decisions) and not refuted:
        return "supported"
    return "refuted" if 2 * refuted > len(decisions) and not supported else "undecided"


def agreed(cases: Sequence[Case]) -> Decision:
    """What cases decide together; undecided where the mean over them, which is printed beside the
    decision, says something else."""
    decision = together([one.decision for one in cases])
    mean = pooled([one.surplus for one in cases if one.surplus])
    if mean is None or decision == "undecided" or not all(one.surplus for one in cases):
        return decision
    return decision if above(mean, 0) == decision else "undecided"


def pooled(effects: Sequence[Effect]) -> Effect | None:
    """Means of the effects and of the intervals' ends: as wide as the mean's interval if all errors
    went together, so never too narrow. Where each is a point, the least and the greatest of
    them."""
    if not effects:
        return None
    value, low, high = (sum(part) / len(effects) for part in zip(*effects, strict=True))
    if all(effect.low == effect.high for effect in effects):
        low, high = min(effects).low, max(effects).high
    return bounded(value, low, high)


def bounded(value: float, low: float, high: float) -> Effect:
    """An effect whose value rounding has not put outside its interval."""
    return Effect(min(max(value, low), high), low, high)
