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
    for question, arms_of_question in _by_question(runs).items():
        labels = arm_labels(arms_of_question)
        by_place: dict[Place | None, dict[str, list[Run]]] = {}
        for key, members in arms_of_question.items():
            for where, local in grouped(members, place).items():
                by_place.setdefault(where, {})[key] = local
        for where, local_arms in by_place.items():
            arms, repeats = [], []
            for key, repeated in local_arms.items():
                label, by_seed = labels[key], grouped(repeated, lambda run: run.seed)
                arms.append(Arm(label, tuple(_first(same) for same in by_seed.values())))
                repeats += [(label, seed) for seed, same in by_seed.items() if _differ(same)]
            blocks.append(Block(question, tuple(arms), where, tuple(repeats)))
    return tuple(blocks)


def labelled(runs: Iterable[Run]) -> dict[Run, str]:
    """Each run, repeated ones too, with the label that its arm has among all of them; in the order
    of blocks, methods, settings and seeds."""
    labels: dict[Run, str] = {}
    for arms in _by_question(runs).values():
        label_of = arm_labels(arms)
        labels |= {run: label_of[key] for key, same in arms.items() for run in same}
    return labels


def _by_question(runs: Iterable[Run]) -> dict[Question, dict[str, list[Run]]]:
    """The runs of each arm of each question, by the arms' settings; in the order of blocks,
    methods, settings and seeds. What equal specs but for their seeds have in common is worked out
    once."""
    alike = grouped(runs, _spec_without_seed).values()
    questions: dict[Question, dict[str, list[Run]]] = {}
    for same in sorted(alike, key=lambda same: _order(same[0])):
        arms = questions.setdefault(Question.of(same[0].record.spec), {})
        arms.setdefault(same[0].settings_key, []).extend(same)
    for arms in questions.values():
        for members in arms.values():
            members.sort(key=lambda run: (run.seed, run.record.run_id, run.key))
    return questions


def _spec_without_seed(run: Run) -> str:
    return run.record.spec.model_dump_json(exclude={"seed", "study"})


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
    """Where the runs of an arm stand among all: by their block, their method and their settings."""
    spec = run.record.spec
    data = dict(spec.data).values()
    question = (spec.model, spec.pooling, spec.task, spec.task_version, spec.split, *data)
    shared = (spec.base, spec.train.precision, spec.train.steps, spec.train.batch_size)
    return (
        *map(_sortable, (*question, *shared)),
        method_order(run.method),
        spec.method_version,
        [*map(_sortable, run.settings.values())],
        run.settings_key,
    )


def _sortable(value: Any) -> tuple[bool, float, str]:
    """Numbers by size, then everything else by its text."""
    number = isinstance(value, int | float)
    return not number, value if number else 0, "" if number else str(value)
