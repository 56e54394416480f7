"""What a task is: examples of text, and scores of answers; it knows nothing of tokens or models."""

import abc
import hashlib
import json
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal, TypeVar

Split = Literal["train", "valid", "test"]
TaskKind = Literal["classification", "regression", "generation"]
Item = TypeVar("Item")
Answer = str | int | float  # generated text, the index of a label, or a number


@dataclass(frozen=True, kw_only=True)
class Source:
    """Where a task's data come from."""

    name: str  # a hub id, or the package that holds the data
    licence: str
    revision: str | None = None  # a hub revision or the package's version
    config: str | None = None  # the hub's configuration


@dataclass(frozen=True, kw_only=True)
class Example:
    """One example. `text` is the whole prompt (generation) or the first sentence; `target` the
    right answer."""

    id: str  # unique within its split
    text: str
    # generation: the text that must follow `text`, its leading space included; else a label's index
    # or a number
    target: Answer
    pair: str | None = None  # the second sentence of a pair
    subset: str = ""  # a part of the split that is scored on its own (MNLI: matched, mismatched)


@dataclass(frozen=True)
class Scores:
    """Metrics of all answers, and the score of each."""

    metrics: dict[str, float | None]  # by name; None where undefined
    per_example: Sequence[float | None]  # in [0, 1]; None where the metric has no such part


class AbstractTask(abc.ABC):
    """A task. A subclass is final."""

    version: ClassVar[int]  # raise it when examples or scores change
    source: ClassVar[Source]
    kind: ClassVar[TaskKind]
    primary: ClassVar[str]  # the metric the task is known by; higher is better
    labels: ClassVar[tuple[str, ...]] = ()  # classification: names in the order of their indices
    stops: ClassVar[tuple[str, ...]] = ()  # generation: the answer ends before the first of these
    runs_code: ClassVar[bool] = False  # whether scoring runs answers as programs, confined

    @abc.abstractmethod
    def examples(self, split: Split) -> list[Example]:
        """All examples of a split, always in the same order. Raises InputError if the source cannot
        be read."""

    @abc.abstractmethod
    def score(self, examples: Sequence[Example], answers: Sequence[Answer]) -> Scores:
        """Score one answer per example. An example that occurs several times, in a row or not, was
        answered several times."""


def storable(text: str) -> str:
    """A text with a question mark for every lone surrogate, which is no character and fits in no
    file."""
    return text.encode("utf-8", "replace").decode("utf-8")


def bare(text: str) -> str:
    """A text without case, spaces and punctuation: texts that differ in nothing else are
    duplicates."""
    return "".join(filter(str.isalnum, text.casefold()))


def held_out(text: str, part: float) -> bool:
    """Whether an example of the official train split belongs to `valid`: a fixed hash of its text,
    true for `part` of them."""
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") < part * 2**64


def sample(examples: list[Item], n: int | None) -> list[Item]:
    """`n` of the examples, in their order, the same ones for every seed; a larger n includes those
    of a smaller one. None: all."""
    if n is None or n >= len(examples):
        return examples
    order = random.Random(0).sample(range(len(examples)), len(examples))
    return [examples[i] for i in sorted(order[:n])]


def few_shot(shots: Sequence[Example], example: Example) -> str:
    """An example's prompt after solved examples, separated by empty lines (as in
    lm-evaluation-harness)."""
    return "".join(f"{shot.text}{shot.target}\n\n" for shot in shots) + example.text


def fingerprint(splits: Mapping[Split, list[Example]]) -> str:
    """SHA-256 over the examples of all splits, in order."""
    digest = hashlib.sha256()
    for split in sorted(splits):
        for example in splits[split]:
            digest.update(
                json.dumps([split, vars(example)], sort_keys=True, ensure_ascii=False).encode()
            )
    return digest.hexdigest()
