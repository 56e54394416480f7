"""GLUE: the nine tasks of Wang et al., 2019 (arXiv:1804.07461), from the hub's nyu-mll/glue."""

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal

from peftbench.errors import InputError
from peftbench.tasks.base import (
    AbstractTask,
    Answer,
    Example,
    Kind,
    Scores,
    Source,
    Split,
    held_out,
)
from peftbench.tasks.hub import rows
from peftbench.tasks.text import bare

Metric = Literal["classification", "binary", "correlation"]
RATING = (0.0, 5.0)  # STS-B: from no shared meaning to the same meaning


class AbstractGlue(AbstractTask):
    """A task of GLUE, with the hub's columns and order of labels. A subclass is final.

    test: the official validation split, since the official test labels are hidden (-1) and never
    read. valid: the examples of the official train split whose first sentence a hash picks, so that
    equal texts, and all pairs with one premise, stay on one side. Whatever stands in test word for
    word (19 sentences of CoLA, 5 of SST-2) is in neither train nor valid. Texts lose the spaces
    around them: a decoder would read its answer off a space.
    """

    version: ClassVar[int] = 1
    kind: ClassVar[Kind] = "classification"
    primary: ClassVar[str] = "accuracy"
    metric: ClassVar[Metric] = "classification"
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
        taken = {(bare(example.text), bare(example.pair or "")) for example in test}
        first = {text for text, _ in taken}  # asked first: it spares most of the second sentences
        chosen = []
        for example in self._official("train"):
            text = bare(example.text)
            if held_out(text, self.part) != (split == "valid"):
                continue
            if text not in first or (text, bare(example.pair or "")) not in taken:
                chosen.append(example)
        return chosen

    def score(self, examples: Sequence[Example], answers: Sequence[Answer]) -> Scores:
        if not examples:
            return Scores({self.primary: None}, [])
        targets = [example.target for example in examples]
        metrics = _computed(self.metric, answers, targets)
        for subset in filter(None, self.tests.values()):
            chosen = [i for i, example in enumerate(examples) if example.subset == subset]
            found = (
                _computed(self.metric, [answers[i] for i in chosen], [targets[i] for i in chosen])
                if chosen
                else {}
            )
            metrics[f"{self.primary}_{subset}"] = found.get(self.primary)
        if self.kind == "regression":  # a correlation has no part that is one example's
            return Scores(metrics, [None] * len(examples))
        return Scores(
            metrics,
            [float(answer == target) for answer, target in zip(answers, targets, strict=True)],
        )

    def _official(self, split: str, subset: str = "") -> list[Example]:
        """The examples of an official split, checked."""
        made = []
        for i, row in enumerate(rows(self.source, split, [*self.columns, "label"])):
            where = f"task {self.source.config!r}, split {split!r}, row {i}"
            for column in self.columns:
                if not isinstance(row[column], str):
                    raise InputError(f"{where}: {column} is {row[column]!r}; it must be a text")
            text, pair = ([row[column].strip() for column in self.columns] + [None])[:2]
            made.append(
                Example(
                    id=f"{split}/{i}",
                    text=text,
                    pair=pair,
                    target=self._target(row["label"], where),
                    subset=subset,
                )
            )
        return made

    def _target(self, label: Any, where: str) -> int | float:
        """The label, if it is one."""
        if self.kind == "regression":
            low, high = RATING
            if (
                isinstance(label, int | float)
                and not isinstance(label, bool)
                and low <= label <= high
            ):
                return float(label)
            raise InputError(
                f"{where}: label is {label!r}; it must be a number from {low:g} to {high:g}"
            )
        if (
            isinstance(label, int)
            and not isinstance(label, bool)
            and label in range(len(self.labels))
        ):
            return label
        known = ", ".join(f"{index} ({name})" for index, name in enumerate(self.labels))
        raise InputError(f"{where}: label is {label!r}; it must be one of {known}")


def _computed(
    metric: Metric, answers: Sequence[Answer], targets: Sequence[Answer]
) -> dict[str, float | None]:
    """What one of our metrics says. They import torch and transformers, which takes seconds, hence
    late."""
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
    metric: ClassVar[Metric] = "binary"
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
    metric: ClassVar[Metric] = "binary"
    labels: ClassVar[tuple[str, ...]] = ("not_equivalent", "equivalent")
    columns: ClassVar[tuple[str, ...]] = ("sentence1", "sentence2")


class STSB(AbstractGlue):
    """How alike in meaning are two sentences, from 0 to 5? Pearson correlation leads, as in the
    tables of LoRA and VeRA."""

    source: ClassVar[Source] = _source("stsb")
    kind: ClassVar[Kind] = "regression"
    primary: ClassVar[str] = "pearson"
    metric: ClassVar[Metric] = "correlation"
    columns: ClassVar[tuple[str, ...]] = ("sentence1", "sentence2")


class QQP(AbstractGlue):
    """Do two questions of Quora ask the same? F1 and accuracy, as for MRPC."""

    source: ClassVar[Source] = _source("qqp")
    metric: ClassVar[Metric] = "binary"
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
