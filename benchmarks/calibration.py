"""How often intervals hold the truth and tests reject, on made-up runs whose truth is known: the
table of docs/statistics.md.

Every number goes through the code that makes the tables: predictions become `ByExample`, and
`estimate`, `differences` and `best` judge them.
"""

import argparse
import itertools
import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from marked import remade
from scipy import optimize, special, stats

from peftbench.analysis.estimates import Values, best, differences, estimate
from peftbench.analysis.intervals import ALPHA, CONFIDENCE, Array, rejects, variances
from peftbench.analysis.predictions import STATISTICS, ByExample, by_example
from peftbench.errors import InputError

Random = np.random.Generator
SEEDS = (3, 5, 10, 20)
EXAMPLES = (277, 872, 1319)  # the test splits of RTE, SST-2 and GSM8K
REPLICATIONS, QUICK = 400, 100
# Arms: two that tie, three that are worse by the effect, two that are worse by far.
TIE, GAP, FAR = (0, 1, 5, 6), (0, 2, 3, 4), 5.0
WORSE = np.array([0.0, 0.0, 1.0, 1.0, 1.0, FAR, FAR])  # in effects
EVEN = (1.0,) * len(WORSE)  # how widely each arm's seeds spread, relative to what was measured
# One arm's seeds spread three times as widely: one of those that tie, or another of their block.
WIDE = 3.0
UNEVEN = {"one of the two": (WIDE, *EVEN[1:]), "another arm": (*EVEN[:5], WIDE, 1.0)}
RANGE = 0.99  # cells outside this range of the binomial distribution are marked


# -- runs whose truth is known ----


@dataclass(frozen=True)
class Model:
    """Where the runs of a value come from.

    draw: a generator, the arms' true values (A,), their spreads (A,), S and N -> the columns of
    their predictions, each broadcast to (A, S, N).
    """

    name: str  # in predictions
    truth: float  # an arm's value over all runs and examples
    effect: float  # that the power is about
    sign: float  # makes positive better
    draw: Callable[[Random, Array, Array, int, int], dict[str, Array]]


EASE, OWN_LUCK = 2.5, 0.16  # logits: sd of examples, and of a run for each label
NODES, WEIGHTS = np.polynomial.hermite_e.hermegauss(31)
WEIGHTS = WEIGHTS / WEIGHTS.sum()  # of a standard normal distribution


def root(function: Callable[[float], float], low: float, high: float) -> float:
    """Where a function is 0, between two places at which its signs differ."""
    place: Any = optimize.brentq(function, low, high)
    return float(place)


def levels(
    value_at: Callable[[float, float], float], truth: float, ends: tuple[float, float]
) -> dict[tuple[float, float], float]:
    """Where an arm's level is by its true value and the spread of its seeds, which moves a mean
    that is not linear in luck. value_at: a level and a spread -> the value."""
    return {
        (value, spread): root(lambda at, v=value, s=spread: value_at(at, s) - v, *ends)
        for value in (truth - 0.02 * np.unique(WORSE)).tolist()
        for spread in (1.0, WIDE)
    }


def value_of_logit(name: str, positive: float, logit: float, spread: float) -> float:
    """The mean over runs of accuracy, Matthews or F1 on endlessly many examples."""
    luck = logit + OWN_LUCK * spread * NODES
    right = special.expit(luck[:, None] + EASE * NODES) @ WEIGHTS  # at each luck of a run
    ones, zeros = right[:, None], right[None]  # luck is independent for the two labels
    tp, tn = np.broadcast_arrays(positive * ones, (1 - positive) * zeros)
    cells = {"matthews_correlation": [tp, tn, 1 - positive - tn, positive - tp]}
    cells |= {"f1": [tp, 1 - positive - tn, positive - tp], "accuracy": [tp + tn, np.ones_like(tp)]}
    return float(WEIGHTS @ STATISTICS_OF[name](np.stack(cells[name], -1)) @ WEIGHTS)


STATISTICS_OF: dict[str, Callable[[Array], Array]] = {
    "accuracy": lambda sums: sums[..., 0],
    **{name: statistic.value for name, statistic in STATISTICS.items()},
}


def binary(name: str, positive: float) -> Model:
    """Answers of which a logit says how probably they are right: an example's ease and a run's luck
    with each of the two labels."""
    value_at = partial(value_of_logit, name, positive)
    truth = value_at(2.3, 1.0)
    known = levels(value_at, truth, (-4, 6))

    def draw(random: Random, values: Array, spreads: Array, s: int, n: int) -> dict[str, Array]:
        target = (random.random(n) < positive).astype(int)
        luck = OWN_LUCK * random.normal(size=(len(values), s, 2)) * spreads[:, None, None]
        middle = np.array([known[pair] for pair in zip(values, spreads, strict=True)])
        logit = middle[:, None, None] + luck[..., target] + EASE * random.normal(size=n)
        right = random.random(logit.shape) < special.expit(logit)
        return {"target": target, "answer": np.where(right, target, 1 - target), "score": right}

    return Model(name, truth, 0.02, 1.0, draw)


def correlation(name: str) -> Model:
    """Numbers that are normal with the targets; examples are hard for all runs alike."""
    luck, hard = 0.03, 0.7  # sd of a run's correlation after artanh; a share of variance
    to_rho: Callable[[Array], Array] = {
        "pearson": lambda rho: rho,
        "spearman": lambda rho: 6 / np.pi * np.arcsin(rho / 2),
    }[name]

    def value_at(z: float, spread: float) -> float:
        return float(to_rho(np.tanh(z + luck * spread * NODES)) @ WEIGHTS)

    truth = value_at(1.1, 1.0)
    known = levels(value_at, truth, (0, 3))

    def draw(random: Random, values: Array, spreads: Array, s: int, n: int) -> dict[str, Array]:
        middle = np.array([known[pair] for pair in zip(values, spreads, strict=True)])
        rho = np.tanh(
            middle[:, None] + luck * spreads[:, None] * random.normal(size=(len(values), s))
        )
        rho = rho[..., None]
        target, shared = random.normal(size=(2, n))
        error = np.sqrt(hard) * shared + np.sqrt(1 - hard) * random.normal(size=(len(rho), s, n))
        return {"target": target, "answer": rho * target + np.sqrt(1 - rho**2) * error}

    return Model(name, truth, 0.02, 1.0, draw)


def nats(truth: float, ease: float, counts: Sequence[int]) -> Model:
    """nll that is gamma over examples, a run's luck and an example's in a run multiply it; longer
    examples are easier by the token."""
    luck, own = 0.01, 40.0  # sd of a run's log; gamma shape of an example in a run
    lengths = np.array(counts, float)
    middle = lengths.sum() / (lengths**0.85).sum()

    def draw(random: Random, values: Array, spreads: Array, s: int, n: int) -> dict[str, Array]:
        count = random.choice(lengths, n)
        sd = luck * spreads[:, None]
        run = np.exp(sd * random.normal(size=(len(values), s)) - sd**2 / 2) * values[:, None]
        example = middle * count**0.85 * random.gamma(ease, 1 / ease, n)
        each = random.gamma(own, 1 / own, (*run.shape, n))
        return {"nll": run[..., None] * example * each, "count": count}

    return Model("nll", truth, 0.02, -1.0, draw)


MODELS: dict[str, Model] = {
    "accuracy": binary("accuracy", 0.5),
    "Matthews": binary("matthews_correlation", 0.7),
    "F1": binary("f1", 0.7),
    "Pearson": correlation("pearson"),
    "Spearman": correlation("spearman"),
    "nll": nats(0.5, 1.0, (1,)),
    "nll per token": nats(1.0, 9.0, (10, 20, 40, 80, 160, 320)),
}
RECORDED: dict[str, Callable[[Any], float]] = {  # of a table, apart from the code under test
    "accuracy": lambda t: t["score"].to_numpy(float).mean(),
    "matthews_correlation": lambda t: np.corrcoef(t["answer"], t["target"])[0, 1],
    "f1": lambda t: 2 * (t["answer"] * t["target"]).sum() / (t["answer"] + t["target"]).sum(),
    "pearson": lambda t: np.corrcoef(t["answer"], t["target"])[0, 1],
    "spearman": lambda t: np.corrcoef(t["answer"].rank(), t["target"].rank())[0, 1],
    "nll": lambda t: t["nll"].sum() / t["count"].sum(),
}


def block(model: Model, random: Random, spreads: Sequence[float], s: int, n: int) -> list[Values]:
    """The values of all arms in one made-up block."""
    true = model.truth - model.sign * model.effect * WORSE
    columns = model.draw(random, true, np.array(spreads), s, n)
    shape = (len(true), s, n)
    flat = {name: np.broadcast_to(c, shape).reshape(-1) for name, c in columns.items()}
    table = pd.DataFrame({"id": np.arange(np.prod(shape)), **flat})
    # An example's features are its own, so that one table can hold all runs; Spearman's hang on a
    # run's other examples.
    runs = len(true) * s if model.name == "spearman" else 1
    tables = [table.iloc[rows] for rows in np.split(np.arange(len(table)), runs)]
    read = [by_example(model.name, np.array([RECORDED[model.name](one)]), [one]) for one in tables]
    known = [one for one in read if one is not None]
    if len(known) < runs:
        raise RuntimeError(f"the predictions do not give {model.name} again")
    arms = np.concatenate([one.features[0] for one in known]).reshape(*shape, -1)
    statistic, ids = known[0].statistic, pd.RangeIndex(n)
    each = [ByExample(statistic, ids, arm) for arm in arms]
    return [Values(tuple(range(s)), arm.values(), arm) for arm in each]


# -- what is judged ----


def prior(variance: Array, df: float) -> tuple[float, float]:
    """Degrees of freedom and middle of the distribution that the true variances come from, by the
    mean and variance of the logarithms (Smyth 2004, section 6.2)."""
    logs = np.log(variance) - special.digamma(df / 2) + np.log(df / 2)
    spread = float(logs.var(ddof=1) - special.polygamma(1, df / 2))
    if spread <= special.polygamma(1, 1e6):
        return np.inf, float(variance.mean())
    half = root(lambda x: float(special.polygamma(1, x)) - spread, 1e-3, 1e6)
    return 2 * half, float(np.exp(logs.mean() + special.digamma(half) - np.log(half)))


def pooled_p(arms: Sequence[Values]) -> float:
    """p of the first arm against the second, as `p_value`, but the variance over seeds is drawn
    towards that of all pairs of arms: moderated, as limma's."""
    s, pairs = len(arms[0].seeds), list(itertools.combinations(arms, 2))
    seeds = np.stack([one.numbers - other.numbers for one, other in pairs])  # (P, S)
    own_df = s - 1
    variance = seeds.var(-1, ddof=1) / s
    if not variance.min() > 0:
        return np.nan
    prior_df, middle = prior(variance, own_df)
    share = 1.0 if np.isinf(prior_df) else prior_df / (prior_df + own_df)
    a = share * middle + (1 - share) * variance[0]
    df = min(own_df + prior_df, (len(arms) - 1) * own_df)  # no more than all seeds together have
    ours, theirs = (arm.by_example for arm in arms[:2])
    if ours is None or theirs is None:
        raise RuntimeError("made-up arms have predictions")
    (alone, _), (both, _) = variances(seeds[0], ours.scores() - theirs.scores())
    e = float(both - alone)
    both_df = (a + e) ** 2 / (a**2 / df + e**2 / (len(ours.ids) - 1))
    mean = abs(float(seeds[0].mean()))
    tails = [2 * stats.t.sf(mean / np.sqrt(v), k) for v, k in ((a, df), (a + e, both_df))]
    return float(max(tails))


def judged(model: Model, arms: Sequence[Values]) -> dict[str, bool]:
    """What the analysis says of one made-up block."""
    (real,) = differences([arms[2]], arms[0], model.sign)
    own = estimate(arms[0]).interval
    tied, ahead = ([arms[place] for place in places] for places in (TIE, GAP))
    return {
        **judged_equal(model, arms),
        "difference": real.interval is not None
        and real.interval.low <= -model.effect <= real.interval.high,
        "mean": own is not None and own.low <= model.truth <= own.high,
        "power": real.is_worse,
        "* tie": best(tied, model.sign) is not None,
        "* gap": best(ahead, model.sign) == 0,
        "power pooled": rejects(pooled_p(ahead)),
    }


def judged_equal(model: Model, arms: Sequence[Values]) -> dict[str, bool]:
    """What it says of the two that are equal."""
    (same,) = differences([arms[1]], arms[0], model.sign)
    pooled = pooled_p([arms[place] for place in TIE])
    return {"A/A": rejects(same.p), "A/A pooled": rejects(pooled)}


# What a column is where all is right; None where that depends on seeds and examples.
COLUMNS: dict[str, float | None] = {
    "A/A": ALPHA,
    "difference": CONFIDENCE,
    "mean": CONFIDENCE,
    "power": None,
    "* tie": ALPHA,
    "* gap": None,
    "A/A pooled": ALPHA,
    "power pooled": None,
}
UNEVEN_COLUMNS = ("A/A", "A/A pooled")


@dataclass(frozen=True)
class Cell:
    """A row of a table."""

    value: str
    seeds: int
    examples: int
    wide: str = ""  # whose seeds spread more, a key of UNEVEN

    def replicated(self, places: range) -> list[dict[str, bool]]:
        """Each replication has its own generator, so that more of them change none."""
        spreads, model = UNEVEN.get(self.wide, EVEN), MODELS[self.value]
        table = ["", *UNEVEN].index(self.wide)
        key = (list(MODELS).index(self.value), self.seeds, self.examples, table)
        judge = judged_equal if self.wide else judged
        return [
            judge(
                model,
                block(model, np.random.default_rng([*key, i]), spreads, self.seeds, self.examples),
            )
            for i in places
        ]


def cells() -> Iterator[Cell]:
    """The grid. An example's part in Spearman's correlation takes the square of N operations:
    fewer cells."""
    for value, seeds, examples in itertools.product(MODELS, SEEDS, EXAMPLES):
        if value != "Spearman" or (seeds <= 5 and examples == EXAMPLES[0]):
            yield Cell(value, seeds, examples)


def uneven_cells() -> Iterator[Cell]:
    for value, wide, seeds in itertools.product(("accuracy", "nll"), UNEVEN, SEEDS):
        yield Cell(value, seeds, 872, wide)


Rates = dict[Cell, dict[str, float]]


def measured(grid: Sequence[Cell], replications: int, workers: int) -> Rates:
    """How often each of the columns is true, in every cell."""
    step = 25
    parts = [
        (c, range(i, min(i + step, replications)))
        for c in grid
        for i in range(0, replications, step)
    ]
    # Long ones first, so that the workers end together.
    parts.sort(key=lambda part: -part[0].seeds * part[0].examples)
    found: dict[Cell, list[dict[str, bool]]] = {cell: [] for cell in grid}
    with ProcessPoolExecutor(workers) as pool:
        for (cell, _), part in zip(parts, pool.map(_replicated, parts), strict=True):
            found[cell] += part
    return {
        cell: {name: float(np.mean([one[name] for one in each])) for name in each[0]}
        for cell, each in found.items()
    }


def _replicated(part: tuple[Cell, range]) -> list[dict[str, bool]]:
    cell, places = part
    return cell.replicated(places)


# -- the tables ----


def mark(name: str, rate: float, replications: int) -> str:
    """ "!" where a rate is bolder than chance explains, "°" where it is more cautious."""
    nominal = COLUMNS[name]
    if nominal is None:
        return ""
    low, high = stats.binom.interval(RANGE, replications, nominal)
    times = round(rate * replications)
    above, below = ("!", "°") if nominal == ALPHA else ("°", "!")
    return above if times > high else below if times < low else ""


def tables(rates: Rates, replications: int) -> str:
    """Both as Markdown."""
    even = {cell: rate for cell, rate in rates.items() if not cell.wide}
    uneven = {cell: rate for cell, rate in rates.items() if cell.wide}
    head = f"{replications} replications; 99 % of right cells lie within " + ", ".join(
        f"{low / replications:.3f} to {high / replications:.3f} of {nominal}"
        for nominal in (ALPHA, CONFIDENCE)
        for low, high in [stats.binom.interval(RANGE, replications, nominal)]
    )
    parts = [f"{head}. `!` is bolder, `°` more cautious than that."]
    first = ["value", "seeds", "examples"]
    parts.append(_markdown(first, tuple(COLUMNS), even, replications))
    parts.append("One arm's seeds spread three times as widely as the others':")
    parts.append(_markdown([*first, "which"], UNEVEN_COLUMNS, uneven, replications))
    return "\n\n".join(parts)


def _markdown(first: Sequence[str], names: Sequence[str], rates: Rates, replications: int) -> str:
    lines = [[*first, *(name.replace("*", "\\*") for name in names)]]
    lines.append([":--", *["--:"] * (len(lines[0]) - 1)])
    for cell, rate in rates.items():
        key = [cell.value, str(cell.seeds), f"{cell.examples:,}", cell.wide][: len(first)]
        numbers = [f"{rate[name]:.3f}{mark(name, rate[name], replications)}" for name in names]
        lines.append([*key, *numbers])
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__,
        epilog="Example: python benchmarks/calibration.py --write docs/statistics.md",
    )
    parser.add_argument(
        "--replications",
        type=int,
        default=REPLICATIONS,
        help=f"made-up blocks in a cell (default: {REPLICATIONS})",
    )
    parser.add_argument(
        "--quick",
        action="store_const",
        dest="replications",
        const=QUICK,
        help=f"{QUICK} replications instead of {REPLICATIONS}",
    )
    parser.add_argument(
        "--workers", type=int, default=os.cpu_count() or 1, help="processes (default: all cores)"
    )
    parser.add_argument("--write", type=Path, help="the page whose tables are made anew")
    options = parser.parse_args()
    start = time.monotonic()
    rates = measured([*cells(), *uneven_cells()], options.replications, options.workers)
    text = tables(rates, options.replications)
    print(text)
    print(f"{time.monotonic() - start:.0f} s, {options.workers} workers", file=sys.stderr)
    if options.write:
        page = options.write.read_text(encoding="utf-8")
        try:
            written = remade(page, "calibration", text)
        except InputError as error:
            print(f"{options.write}: {error}", file=sys.stderr)
            return 2
        options.write.write_text(written, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
