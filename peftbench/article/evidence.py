"""What all claims share: which arms are compared with which, what a comparison shows, and how
comparisons add up to one outcome."""

import json
import math
from collections import Counter, defaultdict
from collections.abc import Callable, Container, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray
from scipy import stats as distributions

from peftbench.analysis import estimates
from peftbench.analysis.frame import BLOCK, distinct
from peftbench.record import Record

Outcome = Literal["supported", "refuted", "undecided"]
Row = dict[str, Any]  # of frame.frame
Limits = tuple[float, float, float]  # effect, low, high

MIN_SEEDS = 5  # shared by both arms, for scores and losses
MIN_TIMED = 3  # the same for seconds
CONFIDENCE = 0.95


@dataclass(frozen=True)
class Evidence:
    """The runs that claims rest on, and what else is known of them."""

    runs: Mapping[tuple[Any, ...], list[Row]]  # by block
    records: Mapping[tuple[str, str, str], Record]  # by device, device name and run id
    devices: Mapping[str, int]  # how many have a run of that id
    predictions: Callable[[str], pd.DataFrame] | None
    rng: np.random.Generator

    def record(self, row: Row) -> Record:
        return self.records[row["device"], row["device_name"], row["run_id"]]

    def trials(self, rows: Iterable[Row]) -> int | None:
        """How many trials tuned an arm; None if it was not tuned, or its runs disagree."""
        studies = [self.record(row).spec.study for row in rows]
        found = {study.trials if study else None for study in studies}
        return found.pop() if len(found) == 1 else None

    def blocks(self, *methods: str, statuses: Sequence[str] = ("done",)) -> list[list[Row]]:
        """The runs of some methods that ended in one of some ways, block by block."""
        chosen = (
            [row for row in block if row["method"] in methods and row["status"] in statuses]
            for block in self.runs.values()
        )
        return [block for block in chosen if block]

    def on(self, tasks: Container[str]) -> "Evidence":
        """The evidence on some tasks."""
        return replace(
            self,
            runs={block: rows for block, rows in self.runs.items() if rows[0]["task"] in tasks},
        )


def gather(
    runs: pd.DataFrame,
    records: Sequence[Record],
    predictions: Callable[[str], pd.DataFrame] | None,
    rng: np.random.Generator,
) -> Evidence:
    """The evidence in the runs on test splits; what was run to tune is none."""
    known = {
        (record.device, record.environment.device_name, record.run_id): record for record in records
    }
    blocks: defaultdict[tuple[Any, ...], list[Row]] = defaultdict(list)
    for row in distinct(runs).to_dict("records"):
        if row["split"] == "test":
            blocks[block_of(row)].append({str(name): value for name, value in row.items()})
    return Evidence(blocks, known, Counter(run_id for _, _, run_id in known), predictions, rng)


def block_of(row: Mapping[Any, Any]) -> tuple[Any, ...]:
    return tuple(row[name] for name in BLOCK)


def column(rows: Iterable[Row], name: str) -> NDArray[np.float64]:
    """A column's numbers, NaN where they are unknown."""
    return np.array([row[name] for row in rows], dtype=float)


def known(rows: Iterable[Row], *names: str) -> list[Row]:
    """The rows in which some columns are known."""
    return [row for row in rows if not any(pd.isna(row[name]) for name in names)]


@dataclass(frozen=True)
class Pair:
    """Two arms of one block over the seeds that both have: a row a seed, in the same order."""

    ours: list[Row]
    theirs: list[Row]

    @property
    def seeds(self) -> int:
        return len(self.ours)

    @property
    def run_ids(self) -> tuple[str, ...]:
        return tuple(row["run_id"] for row in (*self.ours, *self.theirs))


@dataclass(frozen=True)
class Case:
    """One comparison: what it says of the claim, its effect and interval (None where only counts
    speak), and the runs it rests on."""

    outcome: Outcome
    limits: Limits | None
    run_ids: tuple[str, ...]


def pairs(
    found: Evidence,
    method: str,
    reference: str,
    same: Sequence[str] = (),
    statuses: Sequence[str] = ("done",),
    usable: Callable[[Row, Row], bool] = lambda ours, theirs: True,
) -> list[Pair]:
    """For each block the pair of arms of the two methods that compares best.

    Both agree in the settings `same`; tuned arms go before others, then more equal settings, then
    more shared seeds, then the order of the frame. usable: what else the settings of the two must
    fulfil. No score has a part in the choice.
    """
    made: list[Pair] = []
    for block in found.blocks(method, reference, statuses=statuses):
        best: tuple[tuple[int, ...], Pair] | None = None
        for ours in _arms(block, method):
            for theirs in _arms(block, reference):
                mine, other = settings(ours[0]), settings(theirs[0])
                if any(mine.get(name) != other.get(name) for name in same) or not usable(
                    mine, other
                ):
                    continue
                pair = _shared(ours, theirs)
                tuned = sum(found.trials(rows) is not None for rows in (ours, theirs))
                rank = (
                    tuned,
                    sum(name in other and mine[name] == other[name] for name in mine),
                    pair.seeds,
                )
                if pair.seeds and (best is None or rank > best[0]):
                    best = (rank, pair)
        if best:
            made.append(best[1])
    return made


def settings(row: Row) -> dict[str, Any]:
    """The settings of a run's arm: its args by their names, and how it trains as train.NAME."""
    _, _, args, train = json.loads(row["arm"])
    return args | {f"train.{name}": value for name, value in train.items()}


def _arms(block: Iterable[Row], method: str) -> list[list[Row]]:
    """The rows of each arm of a method."""
    grouped: defaultdict[str, list[Row]] = defaultdict(list)
    for row in block:
        if row["method"] == method:
            grouped[row["arm"]].append(row)
    return list(grouped.values())


def _shared(ours: Iterable[Row], theirs: Iterable[Row]) -> Pair:
    """The seeds that both arms ran, on the same examples where those are known."""
    by_seed = {row["seed"]: row for row in theirs}
    both = [
        (row, by_seed[row["seed"]])
        for row in sorted(ours, key=lambda row: row["seed"])
        if row["seed"] in by_seed
    ]
    both = [
        (one, other)
        for one, other in both
        if len({each["fingerprint"] for each in known((one, other), "fingerprint")}) < 2
    ]
    return Pair([one for one, _ in both], [other for _, other in both])


def learned(found: Evidence, arm: Sequence[Row]) -> bool:
    """Whether an arm scores above the frozen model: paired interval over MIN_SEEDS seeds or more,
    all of it above zero.

    That two arms are alike, or that one is steady, says nothing where nothing was learned.
    """
    floors = _arms(
        (row for row in found.runs[block_of(arm[0])] if row["status"] == "done"), "frozen"
    )
    if not floors:
        return False
    pair = _shared((row for row in arm if row["status"] == "done"), floors[0])
    limits = paired(column(pair.ours, "metric"), column(pair.theirs, "metric"), MIN_SEEDS)
    return limits is not None and limits[1] > 0


def paired(ours: ArrayLike, theirs: ArrayLike, least: int) -> Limits | None:
    """The mean of ours - theirs over seeds with Student's interval; None with fewer than `least`
    seeds."""
    differences = np.asarray(ours, float) - np.asarray(theirs, float)
    differences = differences[np.isfinite(differences)]
    if len(differences) < max(least, 2):
        return None
    error = float(differences.std(ddof=1)) / math.sqrt(len(differences))
    half = float(distributions.t.ppf((1 + CONFIDENCE) / 2, len(differences) - 1)) * error
    mean = float(differences.mean())
    return mean, mean - half, mean + half


def ratio(ours: ArrayLike, theirs: ArrayLike, least: int) -> Limits | None:
    """The geometric mean of ours / theirs over seeds with Student's interval of its logarithm. All
    are positive, or NaN where unknown."""
    limits = paired(np.log(np.asarray(ours, float)), np.log(np.asarray(theirs, float)), least)
    return limits and (math.exp(limits[0]), math.exp(limits[1]), math.exp(limits[2]))


def exact(values: ArrayLike) -> Limits | None:
    """What is counted and not estimated: mean, least and greatest; None if nothing is known."""
    numbers = np.asarray(values, float)
    numbers = numbers[np.isfinite(numbers)]
    if not len(numbers):
        return None
    least, most = float(numbers.min()), float(numbers.max())
    return (
        min(max(float(numbers.mean()), least), most),
        least,
        most,
    )  # rounding must not put the mean outside


def quality(found: Evidence, candidates: Iterable[Pair]) -> list[Limits | None]:
    """For each pair the difference of the primary metric, ours - theirs, with its interval over
    seeds and examples; None where unknown.

    Predictions are not asked for where a run left none, or where several devices have runs of those
    ids.
    """
    candidates = list(candidates)
    batches: defaultdict[tuple[str, str, bool], list[Pair]] = defaultdict(list)
    for pair in candidates:
        readable = all(
            found.record(row).predictions and found.devices[row["run_id"]] == 1
            for row in (*pair.theirs, *pair.ours)
        )
        batches[pair.ours[0]["method"], pair.theirs[0]["method"], readable].append(pair)
    limits: dict[tuple[Any, ...], Limits] = {}
    for (
        (_, reference, readable),
        batch,
    ) in (
        batches.items()
    ):  # at most one pair a block, so that each has the reference it was chosen with
        rows = pd.DataFrame([row for pair in batch for row in (*pair.theirs, *pair.ours)])
        for row in estimates.differences(
            rows, reference, found.predictions if readable else None, found.rng
        ).to_dict("records"):
            each = float(row["difference"]), float(row["low"]), float(row["high"])
            if all(map(math.isfinite, each)):
                limits[*block_of(row), row["arm"]] = each
    return [limits.get((*block_of(pair.ours[0]), pair.ours[0]["arm"])) for pair in candidates]


def above(limits: Limits, threshold: float) -> Outcome:
    """Supported if the whole interval is at least the threshold, refuted if all of it is less."""
    return (
        "supported"
        if limits[1] >= threshold
        else "refuted"
        if limits[2] < threshold
        else "undecided"
    )


def below(limits: Limits, threshold: float) -> Outcome:
    """Supported if the whole interval is at most the threshold, refuted if all of it is more."""
    return (
        "supported"
        if limits[2] <= threshold
        else "refuted"
        if limits[1] > threshold
        else "undecided"
    )


def both(*outcomes: Outcome) -> Outcome:
    """Supported if all are, refuted if any is."""
    return (
        "refuted"
        if "refuted" in outcomes
        else "supported"
        if set(outcomes) == {"supported"}
        else "undecided"
    )


def together(cases: Sequence[Case]) -> Outcome:
    """Supported if most comparisons are and none is refuted, refuted if most are and none is
    supported."""
    counts = Counter(case.outcome for case in cases)
    if 2 * counts["supported"] > len(cases) and not counts["refuted"]:
        return "supported"
    if 2 * counts["refuted"] > len(cases) and not counts["supported"]:
        return "refuted"
    return "undecided"


def pooled(cases: Iterable[Case]) -> Limits | None:
    """Means of the effects and of the intervals' ends: as wide as the mean's interval if all errors
    went together, so never too narrow. Where each is exact, the least and the greatest of them."""
    found = [case.limits for case in cases if case.limits]
    if not found:
        return None
    effects, lows, highs = (list(values) for values in zip(*found, strict=True))
    mean = sum(effects) / len(effects)
    return (
        (mean, min(lows), max(highs))
        if lows == highs
        else (mean, sum(lows) / len(lows), sum(highs) / len(highs))
    )
