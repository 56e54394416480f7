"""Texts that a task both trains on and scores, or trains on twice, counted."""

import math
import os
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass

from peftbench.errors import InputError
from peftbench.tasks.base import AbstractTask, Example, Split, sample
from peftbench.tasks.text import bare

SCORED: tuple[Split, ...] = ("valid", "test")
SIMILAR = 0.8  # Jaccard index of two texts' shingles from which they are near duplicates
SHINGLE = 5  # characters, counted without case, spaces and punctuation
# examples of a scored split that are compared with all of train, the same ones each time
SEARCHED = 2000

Text = tuple[str, str]  # the bare text and pair of an example


@dataclass(frozen=True, kw_only=True)
class Leaks:
    """Counts for one task. `exact`, `near`: scored examples with an equal text, or only a similar
    one, in train."""

    task: str
    examples: Mapping[Split, int]
    train_duplicates: int  # train examples whose text stands there before, whatever their label
    exact: Mapping[Split, int]
    near: Mapping[Split, int]  # of those searched
    searched: Mapping[Split, int]


@dataclass(frozen=True, kw_only=True)
class Skipped:
    """A task whose data cannot be had, and why."""

    task: str
    skipped: str


def check(tasks: Mapping[str, type[AbstractTask]]) -> Iterator[Leaks | Skipped]:
    """The counts of each task in turn, or why there are none."""
    for name, kind in tasks.items():
        task = kind()
        try:
            yield count(name, {split: task.examples(split) for split in ("train", *SCORED)})
        except InputError as error:
            yield Skipped(task=name, skipped=str(error))


def count(name: str, splits: Mapping[Split, list[Example]]) -> Leaks:
    """Exact and near duplicates between the splits of one task."""
    frame = _frame([example.text for examples in splits.values() for example in examples])
    train = Counter(_text(example, frame) for example in splits["train"])
    exact, asked, searched = {}, {}, {}
    for split in SCORED:
        exact[split] = sum(_text(example, frame) in train for example in splits[split])
        chosen = sample(splits[split], SEARCHED)
        searched[split] = len(chosen)
        asked[split] = [text for example in chosen if (text := _text(example, frame)) not in train]
    found = similar(
        ["".join(text) for split in SCORED for text in asked[split]],
        ("".join(text) for text in train),
    )
    first = len(asked[SCORED[0]])
    return Leaks(
        task=name,
        examples={split: len(examples) for split, examples in splits.items()},
        train_duplicates=train.total() - len(train),
        exact=exact,
        near={SCORED[0]: sum(i < first for i in found), SCORED[1]: sum(i >= first for i in found)},
        searched=searched,
    )


def similar(asked: Sequence[str], others: Iterator[str]) -> set[int]:
    """Which of the texts asked for are at least SIMILAR to one of the others; exact, no text is
    sampled.

    A text y with n shingles that is similar to x shares at least SIMILAR * n of them, so that x
    holds one of any n - ceil(SIMILAR * n) + 1 shingles of y. The rarest so many are y's keys, and
    only texts that hold one are compared with y (prefix filtering; Chaudhuri, Ganti and Kaushik,
    ICDE 2006).
    """
    sets = [shingles(text) for text in asked]
    frequency = Counter(shingle for found in sets for shingle in found)
    index: dict[str, list[int]] = {}
    for i, found in enumerate(sets):
        keys = len(found) - math.ceil(SIMILAR * len(found) - 1e-9) + 1
        for shingle in sorted(found, key=lambda shingle: (frequency[shingle], shingle))[:keys]:
            index.setdefault(shingle, []).append(i)
    hits: set[int] = set()
    for text in others:
        other = shingles(text)
        candidates = {i for shingle in other & index.keys() for i in index[shingle]} - hits
        hits |= {i for i in candidates if jaccard(sets[i], other) >= SIMILAR}
    return hits


def shingles(text: str) -> set[str]:
    """All pieces of SHINGLE characters; a shorter text is one piece."""
    return {text[i : i + SHINGLE] for i in range(max(1, len(text) - SHINGLE + 1))}


def jaccard(one: Collection[str], other: Collection[str]) -> float:
    """Shared pieces, as a part of all pieces."""
    shared = len(set(one) & set(other))
    return shared / (len(one) + len(other) - shared)


HEADER = (
    f"{'':14}{'examples':^24}  {'twice in':>8}  {'in train as well':^16}  {f'similar (>= {SIMILAR}) to one there':^30}\n"
    f"{'task':14}{'train':>8}{'valid':>8}{'test':>8}  {'train':>8}  {'valid':>8}{'test':>8}  {'valid':>15}{'test':>15}"
)


def line(found: Leaks | Skipped) -> str:
    """One line under HEADER."""
    if isinstance(found, Skipped):
        return f"{found.task:14}skipped: {found.skipped}"
    cells = "".join(f"{found.examples[split]:>8}" for split in ("train", *SCORED))
    exact = "".join(f"{found.exact[split]:>8}" for split in SCORED)
    near = "".join(f"{f'{found.near[split]} of {found.searched[split]}':>15}" for split in SCORED)
    return f"{found.task:14}{cells}  {found.train_duplicates:>8}  {exact}  {near}"


def _frame(texts: Sequence[str]) -> tuple[int, int]:
    """How many characters all texts have in common at their beginning and end: a prompt's frame
    says nothing of an example."""
    start = len(os.path.commonprefix(texts))  # noqa: RUF071 - characters are meant
    end = len(os.path.commonprefix([text[start:][::-1] for text in texts]))  # noqa: RUF071
    return start, end


def _text(example: Example, frame: tuple[int, int]) -> Text:
    start, end = frame
    return bare(example.text[start : len(example.text) - end]), bare(example.pair or "")
