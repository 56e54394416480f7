"""A small mirror of the hub's data sets, in the hub's own layout, so that their tasks are tested
without a network."""

import itertools
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import datasets

from peftbench.tasks import glue
from peftbench.tasks.base import bare, held_out

GLUE: dict[str, type[glue.AbstractGlue]] = {
    "cola": glue.CoLA,
    "sst2": glue.SST2,
    "mrpc": glue.MRPC,
    "stsb": glue.STSB,
    "qqp": glue.QQP,
    "mnli": glue.MNLI,
    "qnli": glue.QNLI,
    "rte": glue.RTE,
    "wnli": glue.WNLI,
}
TRAIN, VALID, TEST = 60, 12, 24  # rows that become the examples of these splits

Row = dict[str, Any]


def write(
    root: Path, name: str, configs: Mapping[str, Mapping[str, datasets.Dataset | Sequence[Row]]]
) -> None:
    """The data set `name` below `root`: README.md with the configurations, one parquet file per
    split."""
    lines = ["---", "configs:"]
    for config, splits in configs.items():
        lines += [f"- config_name: {config}", "  data_files:"]
        for split, rows in splits.items():
            path = root / name / config / f"{split}-00000-of-00001.parquet"
            path.parent.mkdir(parents=True, exist_ok=True)
            data = (
                rows
                if isinstance(rows, datasets.Dataset)
                else datasets.Dataset.from_list(list(rows))
            )
            data.to_parquet(path)
            lines += [f"  - split: {split}", f"    path: {config}/{split}-*"]
    (root / name / "README.md").write_text("\n".join([*lines, "---", ""]), encoding="utf-8")


def write_all(root: Path) -> None:
    """Every data set that a task takes from the hub."""
    datasets.disable_progress_bars()
    write(root, "nyu-mll/glue", {config: glue_rows(config) for config in GLUE})
    write(
        root,
        "openai/gsm8k",
        {
            "main": {
                "train": [*itertools.islice(_sums(), 200)],
                "test": [*itertools.islice(_sums(), 200, 220)],
            }
        },
    )
    splits = {
        "train": range(601, 661),
        "validation": range(511, 531),
        "test": range(11, 41),
        "prompt": range(1, 11),
    }
    write(
        root,
        "google-research-datasets/mbpp",
        {"full": {split: [*map(_program, ids)] for split, ids in splits.items()}},
    )


def glue_rows(config: str) -> dict[str, datasets.Dataset]:
    """A GLUE data set with its columns, labels and splits; official tests have hidden labels, as on
    the hub."""
    task = GLUE[config]
    texts = (
        f"The {animal} number {k} sees {k % 7} birds. "
        for k, animal in zip(itertools.count(), itertools.cycle(["dog", "cat"]))
    )
    kept: dict[bool, list[str]] = {False: [], True: []}
    while len(kept[True]) < VALID or len(kept[False]) < TRAIN + 2 * TEST:
        text = next(texts)
        kept[held_out(bare(text), task.part)].append(text)
    names = list(task.labels)
    label = datasets.ClassLabel(names=names) if names else datasets.Value("float32")
    features = datasets.Features(
        {column: datasets.Value("string") for column in task.columns}
        | {"label": label, "idx": datasets.Value("int32")}
    )

    def rows(first: Sequence[str], hidden: bool = False) -> datasets.Dataset:
        examples: list[Row] = []
        for i, text in enumerate(first):
            sentences = [text, f"There are {i} birds."][: len(task.columns)]
            target = -1 if hidden else i % len(names) if names else i % 11 / 2
            texts = dict(zip(task.columns, sentences, strict=True))
            examples.append(texts | {"label": target, "idx": i})
        return datasets.Dataset.from_list(examples, features=features)

    other = kept[False][TRAIN:]
    parts = [
        other[i * TEST // len(task.tests) : (i + 1) * TEST // len(task.tests)]
        for i in range(len(task.tests))
    ]
    tests = {split: rows(part) for split, part in zip(task.tests, parts, strict=True)}
    hidden = {
        split.replace("validation", "test"): rows(other[TEST : TEST + 5], hidden=True)
        for split in task.tests
    }
    return {"train": rows([*kept[False][:TRAIN], *kept[True][:VALID]])} | tests | hidden


def _sums() -> Iterator[Row]:
    """Problems in GSM8K's format, calculator marks included."""
    for k in itertools.count(1):
        question = f"Ann has {k} apples and buys {k % 9 + 2} more. How many apples does she have?"
        total = k + k % 9 + 2
        worked = f"She has {k} + {k % 9 + 2} = <<{k}+{k % 9 + 2}={total}>>{total} apples."
        yield {"question": question, "answer": f"{worked}\n#### {total:,}"}


def _program(k: int) -> Row:
    """A problem in MBPP's format."""
    return {
        "task_id": k,
        "text": f"Write a function to add {k} to a number.",
        "code": f"def add_{k}(x):\r\n    return x + {k}",
        "test_list": [
            f"assert add_{k}(0) == {k}",
            f"assert add_{k}(1) == {k + 1}",
            f"assert add_{k}(-1) == {k - 1}",
        ],
        "test_setup_code": "",
        "challenge_test_list": [],
    }
