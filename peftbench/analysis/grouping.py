"""Records to blocks: which runs count, and which of them may be compared."""

from collections.abc import Callable, Iterable, Sequence
from typing import Any, Literal

from peftbench.analysis.blocks import (
    Arm,
    Block,
    Place,
    Question,
    Run,
    grouped,
    method_order,
)
from peftbench.analysis.labels import arm_labels
from peftbench.record import Record
from peftbench.spec import RunSpec

ROUNDING = 1e-4  # relative: results of one run that differ by more differ by more than rounding

Purpose = Literal["final", "tuning", "trials"]


def counted(records: Iterable[Record], purpose: Purpose) -> list[Run]:
    """The runs that count. final: all that answer a question, so none that is a trial of a search.
    tuning: all that were scored on valid, the trials among them. trials: those of searches."""
    return [Run(record) for record in records if _counts(record.spec, purpose)]


def _counts(spec: RunSpec, purpose: Purpose) -> bool:
    if purpose == "tuning":
        return spec.split == "valid"
    is_trial = spec.study is not None and spec.study.trial is not None
    return is_trial == (purpose == "trials")


def quality_blocks(runs: Iterable[Run]) -> tuple[Block, ...]:
    """Blocks for what models have learned. A seed that was done several times counts once, as it
    was first done."""
    return _blocks(runs, lambda run: None)


def cost_blocks(runs: Iterable[Run]) -> tuple[Block, ...]:
    """Blocks for parameters, bytes and seconds: of one device and software each. Seconds count of
    `Arm.timed` only."""
    return _blocks(runs, lambda run: Place.of(run.record))


def _blocks(runs: Iterable[Run], place: Callable[[Run], Place | None]) -> tuple[Block, ...]:
    blocks: list[Block] = []
    for question, members in _by_question(runs).items():
        labels = _labels(members)
        for where, local in grouped(members, place).items():
            arms, repeats = [], []
            for repeated in grouped(local, lambda run: run.settings_key).values():
                label, by_seed = labels[repeated[0]], grouped(repeated, lambda run: run.seed)
                arms.append(Arm(label, tuple(_first(same) for same in by_seed.values())))
                repeats += [(label, seed) for seed, same in by_seed.items() if _differ(same)]
            blocks.append(Block(question, tuple(arms), where, tuple(repeats)))
    return tuple(blocks)


def labelled(runs: Iterable[Run]) -> dict[Run, str]:
    """Each run, repeated ones too, with the label that its arm has among all of them; in the order
    of blocks, methods, settings and seeds."""
    labels: dict[Run, str] = {}
    for members in _by_question(runs).values():
        labels |= _labels(members)
    return labels


def _by_question(runs: Iterable[Run]) -> dict[Question, list[Run]]:
    return grouped(sorted(runs, key=_order), lambda run: Question.of(run.record.spec))


def _labels(runs: Iterable[Run]) -> dict[Run, str]:
    """The label of each run's arm among the runs of one question."""
    arms = grouped(runs, lambda run: run.settings_key)
    labels = arm_labels(arms)
    return {run: labels[key] for key, same in arms.items() for run in same}


def _first(runs: Sequence[Run]) -> Run:
    """Of runs of one arm and seed the one that counts: the first that is done, else the first."""
    return min(runs, key=lambda run: (not run.done, run.record.started))


def _differ(runs: Sequence[Run]) -> bool:
    """Whether results of one arm and seed differ by more than rounding."""
    for name in ("metric", "nll"):
        values = [value for run in runs if run.done and (value := run.value(name)) is not None]
        if values and max(values) - min(values) > ROUNDING * max(map(abs, values)):
            return True
    return False


def _order(run: Run) -> tuple[Any, ...]:
    """Where a run stands among all: by its block, its method, its settings and its seed."""
    spec = run.record.spec
    data = dict(spec.data).values()
    question = (spec.model, spec.pooling, spec.task, spec.task_version, spec.split, *data)
    shared = (spec.base, spec.train.precision, spec.train.steps, spec.train.batch_size)
    return (
        *map(_sortable, (*question, *shared)),
        method_order(run.method),
        spec.method_version,
        [*map(_sortable, run.settings.values())],
        (run.settings_key, spec.seed, run.record.run_id, run.key),
    )


def _sortable(value: Any) -> tuple[bool, float, str]:
    """Numbers by size, then everything else by its text."""
    number = isinstance(value, int | float)
    return not number, value if number else 0, "" if number else str(value)
