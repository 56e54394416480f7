"""The results in a store: its blocks, and what their arms reach and how they differ."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import NamedTuple

import numpy as np
import pandas as pd

from peftbench.analysis.blocks import Arm, Block, Run, Value
from peftbench.analysis.estimates import (
    BETTER,
    Difference,
    Estimate,
    Values,
    best,
    differences,
    estimate,
)
from peftbench.analysis.grouping import cost_blocks, counted, quality_blocks
from peftbench.analysis.predictions import best_constant, by_example
from peftbench.record import Record
from peftbench.store import Store, run_key

Predictions = Callable[[str], pd.DataFrame]  # those of a run, by its key


class OfArm(NamedTuple):
    """A value of an arm, and of the best constant predictor of its test examples; None where none
    is known."""

    values: Values
    constant: Values | None


@dataclass(frozen=True, eq=False)
class Results:
    """What tables, figures, claims and the page are made from: records and their predictions.

    predictions: those of a run by its key; without them intervals cover seeds only.
    """

    records: tuple[Record, ...]
    predictions: Predictions | None = None
    _values: dict[tuple[str, ...], dict[Value, OfArm]] = field(default_factory=dict)
    _estimates: dict[tuple[Block, Value], dict[Arm, Estimate]] = field(default_factory=dict)

    @classmethod
    def read(cls, store: Store) -> "Results":
        """All that a store holds. Raises InputError that names a file that cannot be trusted."""
        records = tuple(store.read_all())
        with_predictions = {run_key(record): record for record in records if record.predictions}
        return cls(records, lambda key: store.predictions_of(with_predictions[key]))

    @cached_property
    def _final_runs(self) -> list[Run]:
        return counted(self.records, "final")

    @cached_property
    def final(self) -> tuple[Block, ...]:
        """The quality blocks of the runs that answer a question."""
        return quality_blocks(self._final_runs)

    @cached_property
    def costs(self) -> tuple[Block, ...]:
        """The cost blocks of the same runs."""
        return cost_blocks(self._final_runs)

    def costs_of(self, block: Block) -> tuple[Block, ...]:
        """The cost blocks of the question of a quality block: one for each place."""
        return tuple(costs for costs in self.costs if costs.question == block.question)

    @cached_property
    def tuning(self) -> tuple[Block, ...]:
        """The quality blocks of the runs on valid."""
        return quality_blocks(counted(self.records, "tuning"))

    @cached_property
    def trials(self) -> tuple[Run, ...]:
        """The runs that answer no question: trials of searches."""
        return tuple(counted(self.records, "trials"))

    def values(self, arm: Arm, name: Value) -> Values:
        """A value of an arm that has a run that is done. Predictions are read once, and only where
        all of the runs left some."""
        return self._of_arm(arm, name).values

    def above_constant(self, arm: Arm, name: Value) -> Difference | None:
        """How much better an arm that has a run that is done is than the best constant predictor of
        its test examples; None where there is none, or predictions do not give the value."""
        known = self._of_arm(arm, name)
        if known.constant is None or known.values.by_example is None:
            return None
        return differences([known.values], known.constant, BETTER[name])[0]

    def _of_arm(self, arm: Arm, name: Value) -> OfArm:
        key = tuple(run.key for run in arm.done)
        if key not in self._values:
            self._values[key] = self._read(arm.done)
        return self._values[key][name]

    def _read(self, runs: Sequence[Run]) -> dict[Value, OfArm]:
        tables: list[pd.DataFrame] = []
        if self.predictions and all(run.record.predictions for run in runs):
            tables = [self.predictions(run.key) for run in runs]
        seeds = tuple(run.seed for run in runs)
        both: dict[Value, OfArm] = {}
        for name in BETTER:
            numbers = np.array([run.value(name) for run in runs], float)  # None becomes NaN
            metric = runs[0].record.primary if name == "metric" else "nll"
            complete = tables and np.isfinite(numbers).all()
            by_seed = by_example(metric, numbers, tables) if complete else None
            answer = None
            if tables:
                answer = best_constant(metric, runs[0].record.primary, tables[0], len(seeds))
            constant = answer and Values(seeds, answer.values(), answer)
            both[name] = OfArm(Values(seeds, numbers, by_seed), constant)
        return both

    def estimates(self, block: Block, name: Value) -> dict[Arm, Estimate]:
        """Of every arm of the block that has a run that is done."""
        if (block, name) not in self._estimates:
            self._estimates[block, name] = self._estimated(block, name)
        return self._estimates[block, name]

    def _estimated(self, block: Block, name: Value) -> dict[Arm, Estimate]:
        of_arms = {arm: self.values(arm, name) for arm in block.arms if arm.done}
        top = best(list(of_arms.values()), BETTER[name])
        return {
            arm: replace(estimate(values), best=place == top)
            for place, (arm, values) in enumerate(of_arms.items())
        }

    def differences(
        self, block: Block, reference: Arm, name: Value, arms: Iterable[Arm] | None = None
    ) -> dict[Arm, Difference]:
        """How much better each of `arms` (by default all others of the block that have a run that
        is done) is than the reference, corrected as one family."""
        compared = block.arms if arms is None else arms
        others = [arm for arm in compared if arm is not reference and arm.done]
        values = [self.values(arm, name) for arm in others]
        base = self.values(reference, name)
        return dict(zip(others, differences(values, base, BETTER[name]), strict=True))
