"""How claims about quality are judged: like with like, only where something was learned, on the
metric first and on nll where that leaves it open."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from math import isclose
from typing import NamedTuple

from peftbench.analysis.blocks import Arm, Block, Run, Value
from peftbench.analysis.grouping import ROUNDING
from peftbench.analysis.learning import above_all, gains, least
from peftbench.analysis.results import Results
from peftbench.article.claim import (
    MIN_SEEDS,
    SEVERAL_TASKS,
    Case,
    Claim,
    Decision,
    Effect,
    Verdict,
    above,
    compare,
)
from peftbench.article.pairs import Pair
from peftbench.wording import Words, sentence

# Over the floors in nll: what a reference must have learned before being close to it means much.
GAINED_MARGINS = 10
READINGS: tuple[Value, ...] = ("metric", "nll")
NATS_UNIT = Words("nats of nll, positive is better", "nll 之差(nat),正为优")
BY_NLL = Words("Read on nll, since the metric leaves it open", "主指标未能定论,故按 nll 判定")
CONTRADICTION = Words(
    "metric and nll contradict each other in {0} of them", "其中 {0} 组主指标与 nll 相互矛盾"
)
FEW_TASKS = Words("It takes {0} tasks, and there is {1}", "需要 {0} 个任务,目前 {1} 个")


class Margins(NamedTuple):
    """The least difference that a claim asks for; below 0: the most that may be lacking. A point of
    accuracy goes with about 0.7 points of nll, which sets the margins in nats beside those in
    points; a language model's nll is per token, where 0.01 is 1 % of the perplexity."""

    points: float  # of the primary metric
    nats: float  # of nll per example
    nats_per_token: float

    def of(self, runs: Iterable[Run], name: Value) -> float:
        """What holds for a reading of the runs of a block."""
        if name == "metric":
            return self.points
        return self.nats_per_token if generates(runs) else self.nats


CLOSE = Margins(-0.02, -0.03, -0.02)  # the most that is called close
LITTLE_LOSS = Margins(-0.015, -0.015, -0.01)  # the most that is called almost no loss
GAIN = Margins(0.015, 0.01, 0.01)  # the least that is called better

Judge = Callable[[Pair, Value], Case | None]


def in_words(margins: Margins) -> Words:
    """Margins as a rule states them."""
    points, nats, per_token = map(abs, margins)
    return Words(
        "{0} (metric) or {1} nats of nll ({2} a token of a language model)",
        "{0}(主指标)或 nll 的 {1} nat(语言模型每词元 {2})",
    ).format(points, nats, per_token)


def generates(runs: Iterable[Run]) -> bool:
    """Whether the model is a language model, which has no new head."""
    footprints = [run.record.footprint for run in runs if run.record.footprint]
    return bool(footprints) and all(footprint.head_params == 0 for footprint in footprints)


def has_learned(results: Results, block: Block, arm: Arm, name: Value = "metric") -> bool:
    """Whether an arm is above the frozen model, and above every constant answer, over MIN_SEEDS
    seeds or more."""
    if block.first("frozen") is None or not arm.done:
        return False
    over = gains(results, block, arm, name)
    return all(gain.seeds >= MIN_SEEDS for gain in over) and above_all(over) is True


def learners(results: Results, pair: Pair, name: Value = "metric") -> int:
    """How many of the two arms learned something."""
    return sum(has_learned(results, pair.block, arm, name) for arm in (pair.ours, pair.theirs))


def sound(results: Results, candidates: Iterable[Pair], at_least: int = 1) -> list[Pair]:
    """The pairs with enough seeds of which so many arms learned something, by either reading."""
    return [
        pair
        for pair in candidates
        if pair.seeds >= MIN_SEEDS
        and max(learners(results, pair, name) for name in READINGS) >= at_least
    ]


def difference(results: Results, pair: Pair, name: Value) -> Effect | None:
    """How much better ours is than theirs, with its interval over seeds and examples: exactly as
    good where every seed gave the same model."""
    if _identical(pair):
        return Effect(0.0, 0.0, 0.0)
    known = results.differences(pair.block, pair.theirs, name, [pair.ours])[pair.ours]
    if known.difference is None or known.interval is None:
        return None
    return Effect(known.difference, known.interval.low, known.interval.high)


def _identical(pair: Pair) -> bool:
    """Whether both arms have the same metric and nll with every seed, but for rounding."""
    values = [
        (ours.value(name), theirs.value(name)) for ours, theirs in pair.by_seed for name in READINGS
    ]
    return all(
        one is not None and other is not None and isclose(one, other, rel_tol=ROUNDING)
        for one, other in values
    )


@dataclass(frozen=True)
class Quality:
    """Judges pairs by how much better ours is than theirs, in one reading."""

    results: Results
    margins: Margins

    def __call__(self, pair: Pair, name: Value) -> Case | None:
        if not self.comparable(pair, name):
            return None
        effects = [(pair.runs, difference(self.results, pair, name))]
        for case in compare(effects, above, self.margins.of(pair.runs, name)):
            # what learned nothing is close to nothing, wherever the reference is
            close = case.decision == "supported" and self.closeness
            if close and not self._learned(pair, pair.ours, name):
                return case._replace(decision="undecided")
            return case
        return None

    @property
    def closeness(self) -> bool:
        return self.margins.points < 0

    def comparable(self, pair: Pair, name: Value) -> bool:
        """Whether enough was learned with enough seeds: by the reference where a claim is about
        being close to it, by either where it is about being better."""
        if pair.seeds < MIN_SEEDS:
            return False
        if not self.closeness:
            return learners(self.results, pair, name) > 0
        return self._learned(pair, pair.theirs, name) and (
            name == "metric"
            or self._gained(pair) >= GAINED_MARGINS * -self.margins.of(pair.runs, name)
        )

    def _learned(self, pair: Pair, arm: Arm, name: Value) -> bool:
        return has_learned(self.results, pair.block, arm, name)

    def _gained(self, pair: Pair) -> float:
        """How far the reference's nll is below its floors, at the least."""
        over = gains(self.results, pair.block, pair.theirs, "nll")
        return min((end for gain in over if (end := least(gain)) is not None), default=0.0)


def quality_verdict(
    claim: Claim,
    candidates: Sequence[Pair],
    judge: Judge,
    missing: Words,
    note: Words | None = None,
) -> Verdict:
    """The verdict on the metric; where that is undecided, the one on nll, unless a comparison's
    metric contradicts it."""
    cases, contradictions = _readings(candidates, judge)
    notes = [note] if note else []
    if contradictions:
        notes.append(CONTRADICTION.format(contradictions))
    verdicts = {
        name: over_tasks(
            claim.verdict(cases[name], missing, Words.joined(notes) if notes else None)
        )
        for name in READINGS
    }
    metric, nll = verdicts["metric"], verdicts["nll"]
    against = opposite(nll.decision)
    by_nll = (
        metric.decision == "undecided"
        and (nll.decision != "undecided" or not cases["metric"])
        and cases["nll"]
        and all(case.decision != against for case in cases["metric"])
    )
    if not by_nll:
        return replace(metric, by_chance=metric.by_chance + nll.by_chance)
    reason = sentence(BY_NLL)
    return replace(
        nll,
        reading=NATS_UNIT,
        reason=Words.joined([nll.reason, reason], " "),
        by_chance=metric.by_chance + nll.by_chance,
    )


def _readings(candidates: Sequence[Pair], judge: Judge) -> tuple[Mapping[Value, list[Case]], int]:
    """The cases of each reading, undecided where the two contradict; in how many they do."""
    cases: dict[Value, list[Case]] = {name: [] for name in READINGS}
    contradictions = 0
    for pair in candidates:
        both: dict[Value, Case | None] = {name: judge(pair, name) for name in READINGS}
        metric, nll = both["metric"], both["nll"]
        if metric and nll and metric.decision == opposite(nll.decision) != "undecided":
            contradictions += 1
            both = {
                name: case and case._replace(decision="undecided") for name, case in both.items()
            }
        for name, case in both.items():
            if case:
                cases[name].append(case)
    return cases, contradictions


def opposite(decision: Decision) -> Decision:
    turned: dict[Decision, Decision] = {"supported": "refuted", "refuted": "supported"}
    return turned.get(decision, "undecided")


def over_tasks(verdict: Verdict) -> Verdict:
    """A verdict that rests on too few tasks is undecided, and says so."""
    tasks = {run.record.spec.task for run in verdict.runs}
    if not verdict.runs or len(tasks) >= SEVERAL_TASKS:
        return verdict
    few = sentence(FEW_TASKS.format(SEVERAL_TASKS, len(tasks)))
    return replace(verdict, decision="undecided", reason=Words.joined([verdict.reason, few], " "))
