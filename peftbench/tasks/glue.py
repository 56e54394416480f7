"""GLUE: the nine tasks of Wang et al., 2019 (arXiv:1804.07461), from the hub's nyu-mll/glue."""

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal

from peftbench.errors import InputError
from peftbench.tasks.base import (
    AbstractTask,
    Answer,
    Example,
    Scores,
    Source,
    Split,
    TaskKind,
    held_out,
)
from peftbench.tasks.hub import rows
from peftbench.tasks.text import bare

MetricName = Literal["classification", "binary", "correlation"]
RATING = (0.0, 5.0)  # STS-B: from no shared meaning to the same meaning


class AbstractGlue(AbstractTask):
    """A task of GLUE, with the hub's columns and order of labels. A subclass is final.

    test: the official validation split, since the official test labels are hidden (-1) and never
    read. valid: the examples of the official train split whose first sentence a hash picks, so that
    equal texts, and all pairs with one premise, stay on one side. What is in test word for word (19
    sentences of CoLA, 5 of SST-2) is in neither train nor valid. Spaces around a text are removed:
    a decoder could derive the answer from a space.
    """

    version: ClassVar[int] = 1
    kind: ClassVar[TaskKind] = "classification"
    primary: ClassVar[str] = "accuracy"
    metric: ClassVar[MetricName] = "classification"
    columns: ClassVar[tuple[str, ...]]  # one or two sentences
    part: ClassVar[float] = 0.1  # of the official train split that is valid
    tests: ClassVar[Mapping[str, str]] = {"validation": ""}  # official split: its subset

    def examples(self, split: Split) -> list[Example]:
        test = [
            example
            for official, subset in self.tests.items()
            for example in self._official(official, subset)
        ]
        if split == "test":
            return test
        tested = {(bare(example.text), bare(example.pair or "")) for example in test}
        # compared before the pair, which spares `bare` of most pairs
        tested_first = {text for text, _ in tested}
        examples: list[Example] = []
        for example in self._official("train"):
            text = bare(example.text)
            if held_out(text, self.part) != (split == "valid"):
                continue
            if text not in tested_first or (text, bare(example.pair or "")) not in tested:
                examples.append(example)
        return examples

    def score(self, examples: Sequence[Example], answers: Sequence[Answer]) -> Scores:
        if not examples:
            return Scores({self.primary: None}, [])
        targets = [example.target for example in examples]
        metrics = _computed(self.metric, answers, targets)
        for subset in filter(None, self.tests.values()):
            indices = [i for i, example in enumerate(examples) if example.subset == subset]
            value = None
            if indices:
                part = [answers[i] for i in indices], [targets[i] for i in indices]
                value = _computed(self.metric, *part)[self.primary]
            metrics[f"{self.primary}_{subset}"] = value
        if self.kind == "regression":  # one example has no correlation
            return Scores(metrics, [None] * len(examples))
        right = [float(answer == target) for answer, target in zip(answers, targets, strict=True)]
        return Scores(metrics, [*right])

    def _official(self, split: str, subset: str = "") -> list[Example]:
        """The examples of an official split, checked."""
        examples: list[Example] = []
        for i, row in enumerate(rows(self.source, split, [*self.columns, "label"])):
            where = f"task {self.source.config!r}, split {split!r}, row {i}"
            for column in self.columns:
                if not isinstance(row[column], str):
                    raise InputError(f"{where}: {column} is {row[column]!r}; it must be a text")
            sentences = [row[column].strip() for column in self.columns]
            examples.append(
                Example(
                    id=f"{split}/{i}",
                    text=sentences[0],
                    pair=sentences[1] if len(sentences) == 2 else None,
                    target=self._target(row["label"], where),
                    subset=subset,
                )
            )
        return examples

    def _target(self, label: Any, where: str) -> int | float:
        """The label, if it is a valid one."""
        if self.kind == "regression":
            low, high = RATING
            is_number = isinstance(label, int | float) and not isinstance(label, bool)
            if is_number and low <= label <= high:
                return float(label)
            raise InputError(
                f"{where}: label is {label!r}; it must be a number from {low:g} to {high:g}"
            )
        is_index = isinstance(label, int) and not isinstance(label, bool)
        if is_index and label in range(len(self.labels)):
            return label
        allowed = ", ".join(f"{index} ({name})" for index, name in enumerate(self.labels))
        raise InputError(f"{where}: label is {label!r}; it must be one of {allowed}")


def _computed(
    metric: MetricName, answers: Sequence[Answer], targets: Sequence[Answer]
) -> dict[str, float | None]:
    """The values of one of our metrics, imported late, since importing torch takes seconds."""
    if metric == "correlation":
        from peftbench.metrics.correlation import Correlation as Module
    elif metric == "binary":
        from peftbench.metrics.binary import Binary as Module
    else:
        from peftbench.metrics.classification import Classification as Module
    return dict(Module(keep_in_memory=True).compute(predictions=answers, references=targets) or {})


def _source(config: str, licence: str = "none stated") -> Source:
    return Source(
        name="nyu-mll/glue",
        revision="bcdcba79d07bc864c1c254ccfcedcce55bcc9a8c",
        licence=licence,
        config=config,
    )


class CoLA(AbstractGlue):
    """Is a sentence grammatical? Scored by Matthews correlation, since 70 % are."""

    source: ClassVar[Source] = _source("cola", "none; research use")
    primary: ClassVar[str] = "matthews_correlation"
    metric: ClassVar[MetricName] = "binary"
    labels: ClassVar[tuple[str, ...]] = ("unacceptable", "acceptable")
    columns: ClassVar[tuple[str, ...]] = ("sentence",)


class SST2(AbstractGlue):
    """Is a phrase of a movie review positive? The phrases are parts of sentences, so that those of
    valid overlap with those of train."""

    source: ClassVar[Source] = _source("sst2")
    labels: ClassVar[tuple[str, ...]] = ("negative", "positive")
    columns: ClassVar[tuple[str, ...]] = ("sentence",)
    part: ClassVar[float] = 0.02


class MRPC(AbstractGlue):
    """Do two sentences of the news say the same? GLUE asks for F1 and accuracy; accuracy leads, as
    in the tables of LoRA and VeRA."""

    source: ClassVar[Source] = _source("mrpc")
    metric: ClassVar[MetricName] = "binary"
    labels: ClassVar[tuple[str, ...]] = ("not_equivalent", "equivalent")
    columns: ClassVar[tuple[str, ...]] = ("sentence1", "sentence2")


class STSB(AbstractGlue):
    """How alike in meaning are two sentences, from 0 to 5? Pearson correlation leads, as in the
    tables of LoRA and VeRA."""

    source: ClassVar[Source] = _source("stsb")
    kind: ClassVar[TaskKind] = "regression"
    primary: ClassVar[str] = "pearson"
    metric: ClassVar[MetricName] = "correlation"
    columns: ClassVar[tuple[str, ...]] = ("sentence1", "sentence2")


class QQP(AbstractGlue):
    """Do two questions of Quora ask the same? F1 and accuracy, as for MRPC."""

    source: ClassVar[Source] = _source("qqp")
    metric: ClassVar[MetricName] = "binary"
    labels: ClassVar[tuple[str, ...]] = ("not_duplicate", "duplicate")
    columns: ClassVar[tuple[str, ...]] = ("question1", "question2")
    part: ClassVar[float] = 0.005


class MNLI(AbstractGlue):
    """Does a premise entail a hypothesis, contradict it, or neither? Accuracy over both test sets,
    of train's genres and of others."""

    source: ClassVar[Source] = _source("mnli", "OANC, CC BY-SA 3.0, CC BY 3.0")
    labels: ClassVar[tuple[str, ...]] = ("entailment", "neutral", "contradiction")
    columns: ClassVar[tuple[str, ...]] = ("premise", "hypothesis")
    part: ClassVar[float] = 0.004
    tests: ClassVar[Mapping[str, str]] = {
        "validation_matched": "matched",
        "validation_mismatched": "mismatched",
    }


class QNLI(AbstractGlue):
    """Does a sentence hold the answer to a question?"""

    source: ClassVar[Source] = _source("qnli", "CC BY-SA 4.0")
    labels: ClassVar[tuple[str, ...]] = ("entailment", "not_entailment")
    columns: ClassVar[tuple[str, ...]] = ("question", "sentence")
    part: ClassVar[float] = 0.015


class RTE(AbstractGlue):
    """Does a text entail a sentence?"""

    source: ClassVar[Source] = _source("rte")
    labels: ClassVar[tuple[str, ...]] = ("entailment", "not_entailment")
    columns: ClassVar[tuple[str, ...]] = ("sentence1", "sentence2")


class WNLI(AbstractGlue):
    """Does a sentence entail another that says who its pronoun is? Test holds hypotheses of train
    with other labels."""

    source: ClassVar[Source] = _source("wnli")
    labels: ClassVar[tuple[str, ...]] = ("not_entailment", "entailment")
    columns: ClassVar[tuple[str, ...]] = ("sentence1", "sentence2")
