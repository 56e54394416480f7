"""Counts of the texts that a task both trains on and scores, or trains on twice."""

import math
import os
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from peftbench.errors import InputError
from peftbench.tasks.base import AbstractTask, Example, Split, bare, sample

SCORED: tuple[Split, ...] = ("valid", "test")
SIMILAR = 0.8  # Jaccard index of two texts' shingles from which they are near duplicates
SHINGLE = 5  # characters, counted without case, spaces and punctuation
SEARCHED = 2000  # examples of a scored split that are compared with all of train

Text = tuple[str, ...]  # the bare text and pair of an example, in alphabetical order


@dataclass(frozen=True, kw_only=True)
class Leaks:
    """Counts for one task."""

    task: str
    examples: Mapping[Split, int]
    train_duplicates: int  # train examples whose text occurs earlier in train, with any label
    exact: Mapping[Split, int]  # scored examples whose text is in train
    near: Mapping[Split, int]  # of those searched: with a similar text in train, but no equal one
    searched: Mapping[Split, int]


@dataclass(frozen=True, kw_only=True)
class Skipped:
    """A task whose data are not available, and why."""

    task: str
    skipped: str


def duplicates_of(tasks: Mapping[str, type[AbstractTask]]) -> Iterator[Leaks | Skipped]:
    """The counts of each task in turn, or why there are none."""
    for name, task_type in tasks.items():
        task = task_type()
        try:
            yield count(name, {split: task.examples(split) for split in ("train", *SCORED)})
        except InputError as error:
            yield Skipped(task=name, skipped=str(error))


def count(name: str, splits: Mapping[Split, list[Example]]) -> Leaks:
    """Exact and near duplicates between the splits of one task. A pair is the same the other way
    round, whether or not the task asks the same of it: a model has seen both its texts."""
    frame = _frame([example.text for examples in splits.values() for example in examples])
    texts = {
        split: [_text(example, frame) for example in examples] for split, examples in splits.items()
    }
    train = Counter(texts["train"])
    samples = {split: sample(texts[split], SEARCHED) for split in SCORED}
    new = [
        (split, "".join(text)) for split in SCORED for text in samples[split] if text not in train
    ]
    hits = similar([text for _, text in new], ("".join(text) for text in train))
    near = Counter(new[i][0] for i in hits)
    return Leaks(
        task=name,
        examples={split: len(examples) for split, examples in splits.items()},
        train_duplicates=train.total() - len(train),
        exact={split: sum(text in train for text in texts[split]) for split in SCORED},
        near={split: near[split] for split in SCORED},
        searched={split: len(samples[split]) for split in SCORED},
    )


def similar(queries: Sequence[str], others: Iterator[str]) -> set[int]:
    """The indices of the queries that are at least SIMILAR to one of the others; exact, since every
    text is compared.

    A text y with n shingles that is similar to x shares at least SIMILAR * n of them, so that x
    holds one of any n - ceil(SIMILAR * n) + 1 shingles of y. The rarest so many are y's keys, and
    only texts that hold one are compared with y (prefix filtering; Chaudhuri, Ganti and Kaushik,
    ICDE 2006).
    """
    sets = [shingles(text) for text in queries]
    frequency = Counter(shingle for pieces in sets for shingle in pieces)
    index: dict[str, list[int]] = {}
    for i, pieces in enumerate(sets):
        keys = len(pieces) - math.ceil(SIMILAR * len(pieces) - 1e-9) + 1
        for shingle in sorted(pieces, key=lambda shingle: (frequency[shingle], shingle))[:keys]:
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


def jaccard(one: set[str], other: set[str]) -> float:
    """Jaccard index: shared pieces as a part of all pieces."""
    return len(one & other) / len(one | other)


def table(results: Iterable[Leaks | Skipped]) -> str:
    """The counts as text, a line for each task."""
    from tabulate import tabulate

    headers = ["task", "train", *SCORED, "train,\ntwice"]
    headers += [f"{split},\nin train" for split in SCORED]
    headers += [f"{split}, similar\n(>= {SIMILAR}) to train" for split in SCORED]
    rows, skipped = [], []
    for result in results:
        if isinstance(result, Skipped):
            skipped.append(f"{result.task}  skipped: {result.skipped}")
            continue
        examples = [result.examples[split] for split in ("train", *SCORED)]
        exact = [result.exact[split] for split in SCORED]
        near = [f"{result.near[split]} of {result.searched[split]}" for split in SCORED]
        rows.append([result.task, *examples, result.train_duplicates, *exact, *near])
    alignment = ("left", *["right"] * (len(headers) - 1))
    lines = tabulate(rows, headers, tablefmt="plain", colalign=alignment)
    return "\n".join([lines, *skipped])


def _frame(texts: Sequence[str]) -> tuple[int, int]:
    """The number of characters that all texts share at their beginning and at their end: the frame
    of a prompt, which is no part of an example."""
    start = len(os.path.commonprefix(texts))  # noqa: RUF071 - characters, not folders
    end = len(os.path.commonprefix([text[start:][::-1] for text in texts]))  # noqa: RUF071
    return start, end


def _text(example: Example, frame: tuple[int, int]) -> Text:
    start, end = frame
    text = bare(example.text[start : len(example.text) - end])
    return tuple(sorted([text, bare(example.pair or "")]))
