"""GLUE: the nine tasks of Wang et al., 2019 (arXiv:1804.07461), from the hub's nyu-mll/glue."""

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from peftbench.errors import InputError
from peftbench.tasks.base import (
    AbstractTask,
    Answer,
    Example,
    Scores,
    Source,
    Split,
    bare,
    held_out,
)
from peftbench.tasks.hub import rows
from peftbench.tasks.scoring import MetricName, computed, right_labels

RATING = (0.0, 5.0)  # STS-B: from no shared meaning to the same meaning


class AbstractGlue(AbstractTask):
    """A task of GLUE, with the hub's columns and order of labels. A subclass is final.

    test: the official validation split, since the official test labels are hidden (-1) and never
    read. valid: the examples of the official train split whose first sentence a hash picks, so that
    equal texts, and all pairs with one premise, stay on one side. What is in test word for word (19
    sentences of CoLA, 5 of SST-2) is in neither train nor valid. Where the order of a pair does not
    matter (`symmetric`), a pair that stands the other way round in test is neither in train nor in
    valid, and one that does so in valid is not in train; a premise and its hypothesis are another
    question when they change places. Spaces around a text are removed: a decoder could derive the
    answer from a space.
    """

    version = 1
    kind = "classification"
    primary = "accuracy"
    metric: ClassVar[MetricName] = "classification"
    columns: ClassVar[tuple[str, ...]] = ("sentence1", "sentence2")  # or a single one
    part: ClassVar[float] = 0.1  # of the official train split that is valid
    tests: ClassVar[Mapping[str, str]] = {"validation": ""}  # official split: its subset
    symmetric: ClassVar[bool] = False  # whether a pair the other way round is the same question

    def examples(self, split: Split) -> list[Example]:
        test: list[Example] = []
        for official, subset in self.tests.items():
            test += self._official(official, subset)
        if split == "test":
            return test
        parts: dict[bool, list[Example]] = {False: [], True: []}  # by whether they are held out
        for example in self._official("train"):
            parts[held_out(bare(example.text), self.part)].append(example)
        seen = {self._question(example) for example in test}
        if split == "train" and self.symmetric:
            seen |= {self._question(example) for example in parts[True]}
        examples = parts[split == "valid"]
        return [example for example in examples if self._question(example) not in seen]

    def score(self, examples: Sequence[Example], answers: Sequence[Answer]) -> Scores:
        if not examples:
            return Scores({self.primary: None}, [])
        targets = [example.target for example in examples]
        metrics = computed(self.metric, answers, targets)
        for subset in filter(None, self.tests.values()):
            places = [i for i, example in enumerate(examples) if example.subset == subset]
            value = None
            if places:
                part = [answers[i] for i in places], [targets[i] for i in places]
                value = computed(self.metric, *part)[self.primary]
            metrics[f"{self.primary}_{subset}"] = value
        if self.kind == "regression":  # one example has no correlation
            return Scores(metrics, [None] * len(examples))
        return Scores(metrics, right_labels(examples, answers))

    def _question(self, example: Example) -> tuple[str, ...]:
        """What is equal for examples that ask the same."""
        texts = bare(example.text), bare(example.pair or "")
        return tuple(sorted(texts)) if self.symmetric else texts

    def _official(self, split: str, subset: str = "") -> list[Example]:
        """The examples of an official split, checked."""
        examples: list[Example] = []
        for i, row in enumerate(rows(self.source, split, [*self.columns, "label"], self.labels)):
            where = f"task {self.source.config!r}, split {split!r}, row {i}"
            for column in self.columns:
                if not isinstance(row[column], str):
                    raise InputError(f"{where}: {column} is {row[column]!r}; it must be a text")
            text, pair = [*(row[column].strip() for column in self.columns), None][:2]
            label = self._checked(row["label"], where)
            examples.append(
                Example(id=f"{split}/{i}", text=text, pair=pair, target=label, subset=subset)
            )
        return examples

    def _checked(self, label: Any, where: str) -> int | float:
        """The label, if it is a valid one."""
        if self.kind == "regression":
            low, high = RATING
            if type(label) in (int, float) and low <= label <= high:
                return float(label)
            allowed = f"a number from {low:g} to {high:g}"
        else:
            if type(label) is int and label in range(len(self.labels)):
                return label
            names = (f"{index} ({name})" for index, name in enumerate(self.labels))
            allowed = f"one of {', '.join(names)}"
        raise InputError(f"{where}: label is {label!r}; it must be {allowed}")


def _source(config: str, licence: str = "none stated") -> Source:
    return Source(
        name="nyu-mll/glue",
        revision="bcdcba79d07bc864c1c254ccfcedcce55bcc9a8c",
        licence=licence,
        config=config,
    )


class CoLA(AbstractGlue):
    """Is a sentence grammatical? Scored by Matthews correlation, since 70 % are."""

    source = _source("cola", "none; research use")
    primary = "matthews_correlation"
    metric = "binary"
    labels = ("unacceptable", "acceptable")
    columns = ("sentence",)


class SST2(AbstractGlue):
    """Is a phrase of a movie review positive? The phrases are parts of sentences, so that those of
    valid overlap with those of train."""

    source = _source("sst2")
    labels = ("negative", "positive")
    columns = ("sentence",)
    part = 0.02


class MRPC(AbstractGlue):
    """Do two sentences of the news say the same? GLUE asks for F1 and accuracy; accuracy leads, as
    in the tables of LoRA and VeRA."""

    version = 2
    symmetric = True
    source = _source("mrpc")
    metric = "binary"
    labels = ("not_equivalent", "equivalent")


class STSB(AbstractGlue):
    """How alike in meaning are two sentences, from 0 to 5? Pearson correlation leads, as in the
    tables of LoRA and VeRA."""

    version = 2
    symmetric = True
    source = _source("stsb")
    kind = "regression"
    primary = "pearson"
    metric = "correlation"


class QQP(AbstractGlue):
    """Do two questions of Quora ask the same? F1 and accuracy, as for MRPC."""

    version = 2
    symmetric = True
    source = _source("qqp")
    metric = "binary"
    labels = ("not_duplicate", "duplicate")
    columns = ("question1", "question2")
    part = 0.005


class MNLI(AbstractGlue):
    """Does a premise entail a hypothesis, contradict it, or neither? Accuracy over both test sets,
    of train's genres and of others."""

    version = 2
    source = _source("mnli", "OANC, CC BY-SA 3.0, CC BY 3.0")
    labels = ("entailment", "neutral", "contradiction")
    columns = ("premise", "hypothesis")
    part = 0.004
    tests: ClassVar[Mapping[str, str]] = {
        "validation_matched": "matched",
        "validation_mismatched": "mismatched",
    }


class QNLI(AbstractGlue):
    """Does a sentence hold the answer to a question?"""

    version = 2
    source = _source("qnli", "CC BY-SA 4.0")
    labels = ("entailment", "not_entailment")
    columns = ("question", "sentence")
    part = 0.015


class RTE(AbstractGlue):
    """Does a text entail a sentence?"""

    version = 2
    source = _source("rte")
    labels = ("entailment", "not_entailment")


class WNLI(AbstractGlue):
    """Does a sentence entail another that says who its pronoun is? Test holds hypotheses of train
    with other labels."""

    version = 2
    source = _source("wnli")
    labels = ("not_entailment", "entailment")
