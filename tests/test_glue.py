"""GLUE's tasks: columns, labels and splits as on the hub, no leaks, and metrics equal to their
definitions."""

import itertools
import math
from pathlib import Path
from typing import Any

import datasets
import hypothesis
import mirror
import numpy as np
import pytest
import torch
from hypothesis import strategies

from peftbench.errors import InputError
from peftbench.metrics.modules import Binary, Correlation
from peftbench.tasks import TASKS, glue
from peftbench.tasks.base import Example, Split, bare, fingerprint, held_out
from peftbench.training.models import load

SPLITS: tuple[Split, ...] = ("train", "valid", "test")
every_task = pytest.mark.parametrize("name", mirror.GLUE)


def splits(name: str) -> dict[Split, list[Example]]:
    return {split: mirror.GLUE[name]().examples(split) for split in SPLITS}


def binary(predictions: list[int], references: list[int]) -> dict[str, float | None]:
    return Binary(keep_in_memory=True).compute(predictions=predictions, references=references) or {}


def correlation(predictions: list[float], references: list[float]) -> dict[str, float | None]:
    return (
        Correlation(keep_in_memory=True).compute(predictions=predictions, references=references)
        or {}
    )


@every_task
def test_the_small_mirror_becomes_examples(name: str) -> None:
    task, examples = mirror.GLUE[name], splits(name)
    assert TASKS[name] is task
    assert [len(examples[split]) for split in SPLITS] == [mirror.TRAIN, mirror.VALID, mirror.TEST]
    rows = mirror.glue_rows(name)
    for split, example in [(part, example) for part in SPLITS for example in examples[part]]:
        official, _, i = example.id.rpartition("/")
        row = rows[official][int(i)]
        assert official == "train" if split != "test" else official in task.tests
        assert example.subset == ("" if split != "test" else task.tests[official])
        assert [example.text, example.pair] == (
            [row[column].strip() for column in task.columns] + [None]
        )[:2]
        assert example.target == row["label"]
        assert type(example.target) is (float if task.kind == "regression" else int)


@every_task
def test_splits_are_disjoint_and_ids_unique(name: str) -> None:
    by_split = splits(name)
    ids = [example.id for examples in by_split.values() for example in examples]
    assert len(set(ids)) == len(ids)
    first = [{bare(example.text) for example in examples} for examples in by_split.values()]
    assert all(one.isdisjoint(other) for one, other in itertools.combinations(first, 2))
    assert fingerprint(by_split) == fingerprint(splits(name))


@pytest.mark.parametrize(
    ("name", "columns", "labels"),
    [
        ("cola", "sentence", "unacceptable acceptable"),
        ("sst2", "sentence", "negative positive"),
        ("mrpc", "sentence1 sentence2", "not_equivalent equivalent"),
        ("stsb", "sentence1 sentence2", ""),
        ("qqp", "question1 question2", "not_duplicate duplicate"),
        ("mnli", "premise hypothesis", "entailment neutral contradiction"),
        ("qnli", "question sentence", "entailment not_entailment"),
        ("rte", "sentence1 sentence2", "entailment not_entailment"),
        ("wnli", "sentence1 sentence2", "not_entailment entailment"),
    ],
)
def test_columns_and_labels_are_the_hubs(name: str, columns: str, labels: str) -> None:
    task = mirror.GLUE[name]
    assert (task.columns, task.labels) == (tuple(columns.split()), tuple(labels.split()))
    assert (task.source.name, task.source.config) == ("nyu-mll/glue", name)


def make(
    root: Path,
    name: str,
    train: list[mirror.Row],
    validation: list[mirror.Row],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A mirror below `root` with these rows of one GLUE task."""
    mirror.write(
        root,
        "nyu-mll/glue",
        {name: {"train": train} | dict.fromkeys(mirror.GLUE[name].tests, validation)},
    )
    monkeypatch.setenv("PEFTBENCH_HUB", str(root))


def test_what_test_holds_is_in_neither_train_nor_valid(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    train = [{"sentence1": f"Text {i}.", "sentence2": "So it is.", "label": 0} for i in range(200)]
    again = [
        {"sentence1": f"TEXT, {i}", "sentence2": "so it is!", "label": 1} for i in range(0, 200, 2)
    ]
    other = [{"sentence1": f"Text {i}.", "sentence2": "Not so.", "label": 1} for i in range(200)]
    make(tmp_path, "rte", train, [*again, *other], monkeypatch)
    remaining = {example.id for split in SPLITS[:2] for example in glue.RTE().examples(split)}
    assert remaining == {
        f"train/{i}" for i in range(1, 200, 2)
    }  # a shared premise alone is no leak


@pytest.mark.parametrize("name", ["mrpc", "stsb", "qqp", "mnli", "qnli", "rte", "wnli"])
def test_a_pair_the_other_way_round_is_in_one_split_where_the_order_does_not_matter(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    task = mirror.GLUE[name]

    def pairs(numbers: range, turned: bool = False) -> list[mirror.Row]:
        texts = [[f"Text {i}.", f"Other {i}."][:: -1 if turned else 1] for i in numbers]
        return [dict(zip(task.columns, pair, strict=True)) | {"label": 1} for pair in texts]

    monkeypatch.setattr(task, "part", 0.3)
    train = [*pairs(range(100)), *pairs(range(50, 100), turned=True)]
    make(tmp_path, name, train, pairs(range(25), turned=True), monkeypatch)
    questions = {
        split: {frozenset((example.text, example.pair)) for example in examples}
        for split, examples in splits(name).items()
    }
    shared = [a & b for a, b in itertools.combinations(questions.values(), 2)]
    assert not any(shared) if task.symmetric else all(shared)
    assert task.symmetric == (name in ("mrpc", "stsb", "qqp"))


def test_equal_texts_and_equal_premises_stay_on_one_side(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    twice = [
        {"sentence1": text, "sentence2": f"{i}", "label": 0}
        for i in range(100)
        for text in (f"Text {i}.", f"text {i} ", f"TEXT - {i}")
    ]
    make(tmp_path, "rte", twice, [{"sentence1": "x", "sentence2": "y", "label": 0}], monkeypatch)
    train, valid = (
        {bare(example.text) for example in glue.RTE().examples(split)} for split in SPLITS[:2]
    )
    assert train.isdisjoint(valid)
    assert len(train) + len(valid) == 100
    assert valid == {text for text in train | valid if held_out(text, 0.1)} != set()


LABELS = "0 (unacceptable), 1 (acceptable)"


@pytest.mark.parametrize(
    ("name", "broken", "words"),
    [
        *(
            ("cola", {"label": label}, f"label is {label!r}; it must be one of {LABELS}")
            for label in (-1, 2, 7, None, 0.5, True, "1")
        ),
        *(
            ("stsb", {"label": label}, "it must be a number from 0 to 5")
            for label in (-1.0, 5.5, None, math.nan, math.inf, "3")
        ),
        ("cola", {"sentence": None}, "sentence is None; it must be a text"),
        ("cola", {"sentence": 3}, "sentence is 3; it must be a text"),
        ("qqp", {"question2": None}, "question2 is None; it must be a text"),
    ],
)
@pytest.mark.parametrize("split", ["train", "validation"])
def test_a_broken_row_is_named(
    name: str, broken: dict[str, Any], words: str, split: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    good = dict.fromkeys(mirror.GLUE[name].columns, "A text.") | {"label": 1}
    rows = {"train": [good] * 3, "validation": [good] * 3}
    rows[split] = [good, good | broken, good]
    monkeypatch.setattr(
        glue,
        "rows",
        lambda _, split, columns, labels: [
            {column: row[column] for column in columns} for row in rows[split]
        ],
    )
    with pytest.raises(InputError) as error:
        mirror.GLUE[name]().examples("train")
    assert f"task {name!r}, split {split!r}, row 1: " in str(error.value)
    assert words in str(error.value)


@pytest.mark.parametrize("name", [name for name in mirror.GLUE if name != "stsb"])
def test_labels_in_another_order_are_refused(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    task = mirror.GLUE[name]
    official = mirror.glue_rows(name)
    turned = datasets.ClassLabel(names=[*task.labels[::-1]])
    split = next(iter(task.tests))
    other = {split: official[split].cast_column("label", turned)}
    mirror.write(tmp_path, "nyu-mll/glue", {name: official | other})
    monkeypatch.setenv("PEFTBENCH_HUB", str(tmp_path))
    with pytest.raises(InputError, match=r"classes are .*; they must be ") as error:
        task().examples("test")
    assert str(error.value).endswith(", ".join(task.labels))


def test_a_missing_column_split_or_configuration_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    good = {"premise": "a", "hypothesis": "b", "label": 0}
    mirror.write(
        tmp_path,
        "nyu-mll/glue",
        {"mnli": {"train": [good], "validation_matched": [good]}, "rte": {"train": [good]}},
    )
    monkeypatch.setenv("PEFTBENCH_HUB", str(tmp_path))
    with pytest.raises(
        InputError, match="no split 'validation_mismatched'; it has: train, validation_matched"
    ):
        glue.MNLI().examples("test")
    with pytest.raises(InputError, match="no split 'validation'"):
        glue.RTE().examples("train")
    with pytest.raises(InputError, match="'cola': no such configuration; it has: mnli, rte"):
        glue.CoLA().examples("train")
    mirror.write(tmp_path, "nyu-mll/glue", {"cola": {"train": [good], "validation": [good]}})
    with pytest.raises(
        InputError, match="no column 'sentence'; it has: premise, hypothesis, label"
    ):
        glue.CoLA().examples("train")


@every_task
def test_right_and_wrong_answers(name: str) -> None:
    task, examples = mirror.GLUE[name](), splits(name)["test"]
    right = task.score(examples, [example.target for example in examples])
    assert right.metrics[task.primary] == pytest.approx(1.0)
    assert all(value is None or value == pytest.approx(1.0) for value in right.metrics.values())
    assert task.score([], []).metrics == {task.primary: None}
    if task.kind == "regression":
        assert right.per_example == [None] * len(examples)
        return
    assert right.per_example == [1.0] * len(examples)
    wrong = [(int(example.target) + 1) % len(task.labels) for example in examples]
    scores = task.score(examples, wrong)
    assert scores.per_example == [0.0] * len(examples)
    assert all(value is None or value <= 0 for value in scores.metrics.values())
    one = [wrong[0], *(example.target for example in examples[1:])]
    assert task.score(examples, one).per_example == [0.0] + [1.0] * (len(examples) - 1)
    assert task.score(examples, one).metrics["accuracy"] == 1 - 1 / len(examples)


def test_the_metrics_that_glue_asks_for() -> None:
    names = {
        name: set(task().score(splits(name)["test"], [1] * mirror.TEST).metrics)
        for name, task in mirror.GLUE.items()
    }
    assert {
        name: task.primary for name, task in mirror.GLUE.items() if task.primary != "accuracy"
    } == {
        "cola": "matthews_correlation",
        "stsb": "pearson",
    }
    assert {"f1", "accuracy"} <= names["mrpc"] & names["qqp"]
    assert names["stsb"] == {"pearson", "spearman"}
    assert {"accuracy", "accuracy_matched", "accuracy_mismatched"} <= names["mnli"]


def test_mnli_scores_its_halves_apart() -> None:
    targets, answers = [0, 1, 2, 2, 0, 1, 0, 2], [0, 2, 2, 2, 0, 0, 1, 0]
    examples = [
        Example(id=str(i), text="x", target=target, subset="matched" if i < 2 else "mismatched")
        for i, target in enumerate(targets)
    ]
    metrics = glue.MNLI().score(examples, answers).metrics
    assert [metrics[f"accuracy{part}"] for part in ("", "_matched", "_mismatched")] == [
        4 / 8,
        1 / 2,
        3 / 6,
    ]
    metrics = glue.MNLI().score(examples[:2], targets[:2]).metrics
    assert (metrics["accuracy"], metrics["accuracy_matched"], metrics["accuracy_mismatched"]) == (
        1.0,
        1.0,
        None,
    )


def test_two_labels_by_hand() -> None:
    # 3 true positives, 1 false positive, 2 false negatives, 4 true negatives
    references = [1] * 5 + [0] * 5
    predictions = [1, 1, 1, 0, 0, 1, 0, 0, 0, 0]
    assert binary(predictions, references) == pytest.approx(
        {
            "accuracy": 7 / 10,
            "f1": 6 / 9,
            "matthews_correlation": (3 * 4 - 1 * 2) / math.sqrt(4 * 5 * 5 * 6),
        }
    )
    assert binary([1] * 10, references) == pytest.approx(
        {"accuracy": 0.5, "f1": 2 / 3, "matthews_correlation": 0.0}
    )
    assert binary([0] * 10, references) == {"accuracy": 0.5, "f1": 0.0, "matthews_correlation": 0.0}
    assert binary([0] * 4, [0] * 4) == {"accuracy": 1.0, "f1": None, "matthews_correlation": 0.0}
    assert binary([1, 1], [1, 1]) == {"accuracy": 1.0, "f1": 1.0, "matthews_correlation": 0.0}
    assert binary([0, 1], [1, 0])["matthews_correlation"] == -1.0


@hypothesis.given(
    strategies.lists(
        strategies.tuples(strategies.integers(0, 1), strategies.integers(0, 1)),
        min_size=1,
        max_size=30,
    )
)
@hypothesis.settings(max_examples=40)
def test_two_labels_agree_with_their_definitions(pairs: list[tuple[int, int]]) -> None:
    predictions, references = map(list, zip(*pairs, strict=True))
    tp, tn = (sum(p == r == label for p, r in pairs) for label in (1, 0))
    fp, fn = (sum(p == label != r for p, r in pairs) for label in (1, 0))
    margin = math.sqrt((tp + fp) * (tp + fn) * (tn + fp) * (tn + fn))
    metrics = binary(predictions, references)
    assert metrics["accuracy"] == pytest.approx((tp + tn) / len(pairs))
    assert metrics["f1"] == (pytest.approx(2 * tp / (2 * tp + fp + fn)) if tp + fp + fn else None)
    correlation = (tp * tn - fp * fn) / margin if margin else 0.0
    assert metrics["matthews_correlation"] == pytest.approx(correlation)


def test_correlations_by_hand() -> None:
    metrics = correlation([1.0, 2.0, 3.0, 10.0], [1.0, 3.0, 2.0, 4.0])
    assert metrics["pearson"] == pytest.approx(np.corrcoef([1, 2, 3, 10], [1, 3, 2, 4])[0, 1])
    assert metrics["spearman"] == pytest.approx(1 - 6 * 2 / (4 * 15))  # ranks differ by 1 twice
    assert correlation([1.0, 2.0], [7.0, 3.0]) == pytest.approx({"pearson": -1.0, "spearman": -1.0})
    tied = correlation([1.0, 1.0, 2.0], [1.0, 2.0, 3.0])["spearman"]
    assert tied == pytest.approx(np.corrcoef([1.5, 1.5, 3], [1, 2, 3])[0, 1])


@pytest.mark.parametrize(
    ("predictions", "references"),
    [
        ([2.0] * 4, [1.0, 2.0, 3.0, 4.0]),
        ([1.0, 2.0], [3.0, 3.0]),
        ([1.0, math.nan, 3.0], [1.0, 2.0, 3.0]),
        ([1.0, math.inf, 3.0], [1.0, 2.0, 3.0]),
        ([1.0], [1.0]),
    ],
)
def test_an_undefined_correlation_is_none(
    predictions: list[float], references: list[float]
) -> None:
    assert correlation(predictions, references) == {"pearson": None, "spearman": None}


@every_task
def test_encoders_and_decoders_read_every_task(
    name: str, small_encoder: str, small_decoder: str
) -> None:
    task = mirror.GLUE[name]
    labels = len(task.labels) or 1
    examples = splits(name)["test"][:4]
    for model in (small_encoder, small_decoder):
        subject = load(
            model, task.kind, labels, device=torch.device("cpu"), dtype=torch.float32, max_length=64
        )
        subject.net.eval()
        items = [subject.encode(example) for example in examples]
        answer = subject.score(subject.collate(items)).answer
        assert answer is not None
        alone = torch.cat([subject.score(subject.collate([item])).answer for item in items])  # type: ignore[arg-type, misc]
        assert torch.allclose(answer.float(), alone.float(), atol=1e-5)  # padding is not read
        assert answer.dtype == (torch.float32 if task.kind == "regression" else torch.int64)


@pytest.mark.parametrize(
    ("name", "sizes", "names"),
    [
        ("cola", (7642, 890, 1043), ["unacceptable", "acceptable"]),
        ("sst2", (65950, 1394, 872), ["negative", "positive"]),
        ("rte", (2237, 253, 277), ["entailment", "not_entailment"]),
    ],
)
def test_the_real_data(
    name: str, sizes: tuple[int, int, int], names: list[str], real_hub: Path, tmp_path: Path
) -> None:
    by_split = splits(name)
    assert tuple(len(by_split[split]) for split in SPLITS) == sizes
    keys = [
        {(bare(example.text), bare(example.pair or "")) for example in examples}
        for examples in by_split.values()
    ]
    assert all(one.isdisjoint(other) for one, other in itertools.combinations(keys, 2))
    official: Any = datasets.load_dataset(
        str(real_hub / "nyu-mll/glue"), name, split="validation", cache_dir=str(tmp_path)
    )
    assert official.features["label"].names == names == list(mirror.GLUE[name].labels)
    assert official["label"] == [example.target for example in by_split["test"]]
    everything = {example.id for split in SPLITS[:2] for example in by_split[split]}
    # without what is in test
    assert len(everything) == {"cola": 8551 - 19, "sst2": 67349 - 5, "rte": 2490}[name]
