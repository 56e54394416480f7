"""Power before a study: the spread of pilots by a closed form, the seeds that a margin takes."""

import numpy as np
import power
import pytest
from made_up import predictions, run
from scipy import special

from peftbench.analysis.results import Results
from peftbench.record import Record
from peftbench.store import run_key

SEEDS, EXAMPLES = 4, 50


def pilots() -> tuple[Results, np.ndarray, np.ndarray]:
    """Two arms whose difference in nll is one of the seed plus one of the example."""
    rng = np.random.default_rng(0)
    of_seeds, of_examples = rng.normal(0, 0.03, SEEDS), rng.normal(0, 0.2, EXAMPLES)
    target = rng.integers(0, 2, EXAMPLES).astype(float)
    found: list[Record] = []
    tables = {}
    for seed in range(SEEDS):
        nll = 1 + rng.random(EXAMPLES)
        for method, more in (("lora", 0.0), ("vera", of_seeds[seed] + of_examples)):
            table = predictions(np.ones(EXAMPLES), target, nll + more)
            made = run(table, method=method, seed=seed, split="valid")
            found.append(made)
            tables[run_key(made)] = table
    return Results(tuple(found), tables.__getitem__), of_seeds, of_examples


def test_the_spread_of_pilots_is_that_of_seeds_and_of_examples() -> None:
    results, of_seeds, of_examples = pilots()
    (block,) = results.tuning
    known = power.spread(results, block, "nll")
    assert known
    assert known[2:] == (SEEDS, EXAMPLES, 1)
    assert known.over_seeds == pytest.approx(of_seeds.var(ddof=1))
    assert known.over_examples == pytest.approx(of_examples.var(ddof=1))


@pytest.mark.parametrize("examples", [2000, 8000])
def test_so_many_seeds_suffice_and_one_less_does_not(examples: int) -> None:
    spread, margin = power.Spread(0.01**2, 0.2**2, 3, 100, 1), 0.015
    seeds = power.seeds_for(margin, spread, examples)
    assert seeds

    def needed(seeds: int) -> float:
        """The margin that so many seeds take."""
        t = special.stdtrit(seeds - 1, 0.975) + special.stdtrit(seeds - 1, 0.8)
        return t * np.sqrt(0.01**2 / seeds + 0.2**2 / examples)

    assert needed(seeds) <= margin < needed(seeds - 1)


def test_no_number_of_seeds_makes_up_for_few_examples() -> None:
    assert power.seeds_for(0.015, power.Spread(0.01**2, 0.2**2, 3, 100, 1), 50) is None


def test_each_claim_is_asked_with_its_own_margin() -> None:
    rows = list(power.rows(pilots()[0], {"reviews": 872}))
    margins = {(row["reading"], row["claim"]): row["margin"] for row in rows}
    assert margins["nll", "F2"] == 0.03
    assert margins["nll", "FA3"] == 0.015
    assert margins["nll", "P2, V3"] == 0.01
    assert {row["test_examples"] for row in rows} == {872}
