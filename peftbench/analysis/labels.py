"""What arms and blocks are called, and what a block is in words."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from peftbench.analysis.blocks import Block, Key, Run, canonical, grouped
from peftbench.spec import DataSpec
from peftbench.wording import Lang, Words

ALL_DATA = Words("all data", "全部数据")
SPLIT = Words("{0} split", "{0} 划分")
VERSION = Words("task version {0}", "任务版本 {0}")
STEPS = Words("{0} steps of {1}", "{0} 步,批大小 {1}")
FACTS = ("model", "split", "task_version", "data", "training", "dtype", "place", "stack")


def arm_labels(arms: Mapping[Key, Sequence[Run]]) -> dict[Key, str]:
    """A label for every arm of a question: the method, with as many of the args, then of the
    training settings, in which arms of that method differ as tell them apart."""
    labels: dict[Key, str] = {}
    for method, keys in grouped(arms, lambda key: arms[key][0].record.spec.method).items():
        runs = {key: arms[key][0] for key in keys}
        settings = {
            key: run.settings | {"version": run.record.spec.method_version}
            for key, run in runs.items()
        }
        parts: dict[Key, list[str]] = {key: [] for key in keys}
        for name in dict.fromkeys(name for key in keys for name in settings[key]):
            having = [key for key in keys if name in settings[key]]
            texts = _texts(settings[key][name] for key in having)
            longer = {key: [*parts[key]] for key in keys}
            for key in having:
                text = texts[canonical(settings[key][name])]
                longer[key].append(f"{name.removeprefix('train.')}={text}")
            if _distinct(longer.values()) > _distinct(parts.values()):
                parts = longer
        for key in keys:
            labels[key] = f"{method} ({', '.join(parts[key])})" if parts[key] else method
    return labels


def _distinct(parts: Iterable[Sequence[str]]) -> int:
    return len(set(map(tuple, parts)))


def _texts(values: Iterable[Any]) -> dict[str, str]:
    """How each value is written, by its JSON: floats with as few digits, three at least, as keep
    them distinct."""
    distinct = {canonical(value): value for value in values}
    floats = {value for value in distinct.values() if isinstance(value, float)}
    digits = next(
        n for n in range(3, 18) if len({f"{value:.{n}g}" for value in floats}) == len(floats)
    )
    return {key: _setting_text(value, digits) for key, value in distinct.items()}


def _setting_text(value: Any, digits: int) -> str:
    match value:
        case float():
            return f"{value:.{digits}g}"
        case list() | tuple():
            return "+".join(map(str, value))
        case str():
            return value
        case _:
            return canonical(value)


def facts(block: Block, lang: Lang = "en") -> dict[str, str]:
    """By FACTS: what all runs of a block have in common, in words; the task is a title, and not
    among them."""
    question = block.question
    defaults = DataSpec()
    limits = [f"{key}={value}" for key, value in question.data if value != getattr(defaults, key)]
    places = (block.place,) if block.place else block.places
    return {
        "model": question.model,
        "split": SPLIT.format(question.split)[lang],
        "task_version": VERSION.format(question.task_version)[lang],
        "data": ", ".join(limits) or ALL_DATA[lang],
        "training": STEPS.format(f"{question.steps:,}", question.batch_size)[lang],
        "dtype": question.dtype,
        "place": ", ".join(dict.fromkeys(map(str, places))),
        "stack": ", ".join(dict.fromkeys(place.stack for place in places)),
    }


def differing(blocks: Sequence[Block]) -> set[str]:
    """The FACTS in which blocks differ."""
    every = [facts(block) for block in blocks]
    return {name for name in FACTS if len({known[name] for known in every}) > 1}


def names(blocks: Sequence[Block]) -> list[str]:
    """A name for each block: its task, with what tells it from the other blocks of that task."""
    texts: list[str] = []
    for block in blocks:
        same = [other for other in blocks if other.question.task == block.question.task]
        apart = differing(same)
        texts.append(
            ", ".join(
                [
                    block.question.task,
                    *(text for name, text in facts(block).items() if name in apart),
                ]
            )
        )
    return texts
