"""What arms and blocks are called, and what a block is in words."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from peftbench.analysis.blocks import Block, Key, Run, canonical, grouped, settings_of
from peftbench.spec import RunSpec
from peftbench.wording import Lang, Words, method_name, model_name

ALL_DATA = Words("all data", "全部数据")
SPLIT = Words("{0} split", "{0} 划分")
VERSION = Words("task version {0}", "任务版本 {0}")
STEPS = Words("{0} steps of {1}", "{0} 步,批大小 {1}")
BASES = {
    "plain": Words("plain base", "未量化的基座"),
    "nf4": Words("base in 4 bits (nf4)", "4 位基座(nf4)"),
    "int8": Words("base in 8 bits (int8)", "8 位基座(int8)"),
}
POOLINGS = {
    "mean": Words("mean pooling", "平均池化"),
    "model": Words("the model's own pooling", "模型自带池化"),
}


def arm_labels(arms: Mapping[Key, Sequence[Run]]) -> dict[Key, str]:
    """A label for every arm of a question."""
    return spec_labels({key: runs[0].record.spec for key, runs in arms.items()})


def spec_labels(arms: Mapping[Key, RunSpec]) -> dict[Key, str]:
    """A label for every arm of a question, by the spec of one of its runs: the method, with as many
    of the args, then of the training settings, in which arms of that method differ as tell them
    apart."""
    names = {key: method_name(spec.method, spec.args) for key, spec in arms.items()}
    labels: dict[Key, str] = {}
    for method, keys in grouped(arms, lambda key: names[key]).items():
        telling = telling_apart(
            {key: settings_of(arms[key]) | {"version": arms[key].method_version} for key in keys}
        )
        for key, texts in telling.items():
            parts = [f"{name.removeprefix('train.')}={text}" for name, text in texts.items()]
            labels[key] = _joined(method, parts)
    return labels


def _joined(method: str, parts: Sequence[str]) -> str:
    if not parts:
        return method
    name, bracket, variants = method.removesuffix(")").partition(" (")
    return f"{name} ({', '.join([*([variants] if bracket else []), *parts])})"


def telling_apart(settings: Mapping[Key, Mapping[str, Any]]) -> dict[Key, dict[str, str]]:
    """As many settings of each, by name, as tell all of them apart, the first names first."""
    telling: dict[Key, dict[str, str]] = {key: {} for key in settings}
    for name in dict.fromkeys(name for own in settings.values() for name in own):
        texts = _texts({key: own[name] for key, own in settings.items() if name in own})
        longer = {
            key: own | ({name: texts[key]} if key in texts else {}) for key, own in telling.items()
        }
        if _distinct(longer.values()) > _distinct(telling.values()):
            telling = longer
    return telling


def _distinct(texts: Iterable[Mapping[str, str]]) -> int:
    return len({tuple(own.items()) for own in texts})


def _texts(values: Mapping[Key, Any]) -> dict[Key, str]:
    """Values as they are written: floats with as few digits, three at least, as keep them
    distinct."""
    floats = {value for value in values.values() if isinstance(value, float)}
    digits = next(
        n for n in range(3, 18) if len({f"{value:.{n}g}" for value in floats}) == len(floats)
    )
    return {key: _setting_text(value, digits) for key, value in values.items()}


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
    """By name: what all runs of a block have in common, in words; the task is a title, and not
    among them."""
    question = block.question
    limits = question.data.model_dump(exclude_defaults=True).items()
    places = (block.place,) if block.place else block.places
    return {
        "model": model_name(question.model),
        "pooling": POOLINGS[question.pooling][lang],
        "split": SPLIT.format(question.split)[lang],
        "task_version": VERSION.format(question.task_version)[lang],
        "data": ", ".join(f"{name}={value}" for name, value in limits) or ALL_DATA[lang],
        "training": STEPS.format(f"{question.steps:,}", question.batch_size)[lang],
        "base": BASES[question.base][lang],
        "precision": question.precision,
        "place": ", ".join(dict.fromkeys(map(str, places))),
        "stack": ", ".join(dict.fromkeys(place.stack for place in places)),
    }


def telling(block: Block, lang: Lang = "en") -> dict[str, str]:
    """The facts without those that go without saying: a model pools as it does by itself, and its
    weights are kept plain."""
    usual = {"pooling": "model", "base": "plain"}
    return {
        name: text
        for name, text in facts(block, lang).items()
        if name not in usual or getattr(block.question, name) != usual[name]
    }


def differing(blocks: Sequence[Block]) -> set[str]:
    """The names of the facts in which blocks differ."""
    by_block = [facts(block) for block in blocks]
    return {name for own in by_block for name in own if own[name] != by_block[0][name]}


def names(blocks: Sequence[Block]) -> list[str]:
    """A name for each block: its task, with what tells it from the other blocks of that task."""
    names: list[str] = []
    for block in blocks:
        task = block.question.task
        apart = differing([other for other in blocks if other.question.task == task])
        known = facts(block).items()
        names.append(", ".join([task, *(text for name, text in known if name in apart)]))
    return names
