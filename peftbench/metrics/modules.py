"""The metrics as `evaluate` modules, which need no hub. Importing them imports torch, which takes
seconds."""

import math
import warnings
from collections import Counter
from collections.abc import Sequence
from typing import Any, ClassVar

import datasets
from evaluate.info import MetricInfo
from evaluate.module import Metric
from scipy import stats
from sklearn.metrics import accuracy_score, f1_score, matthews_corrcoef

from peftbench.metrics.harness import FILTERS, agrees
from peftbench.metrics.number import final_number, last_number

Values = Sequence[Any]
Scores = dict[str, float | None]
KS = (1, 5, 10, 25, 50, 100)  # of pass@k


class AbstractMetric(Metric):
    """A metric of predictions against references. A subclass is final."""

    prediction: ClassVar[str]  # the dtype of each, a name that `datasets` knows
    reference: ClassVar[str]
    paper: ClassVar[str] = ""

    def _info(self) -> MetricInfo:
        dtypes = {"predictions": self.prediction, "references": self.reference}
        return MetricInfo(
            description=self.__doc__ or "",
            citation=self.paper,
            features=datasets.Features(
                {name: datasets.Value(dtype) for name, dtype in dtypes.items()}
            ),
        )

    def _compute(  # pyright: ignore[reportIncompatibleMethodOverride]
        self, predictions: Values, references: Values
    ) -> Scores:
        raise NotImplementedError


class Classification(AbstractMetric):
    """accuracy of label indices, and F1 averaged over the labels that occur, each with the same
    weight."""

    prediction = reference = "int64"

    def _compute(self, predictions: Values, references: Values) -> Scores:
        return {
            "accuracy": float(accuracy_score(references, predictions)),
            "macro_f1": float(f1_score(references, predictions, average="macro")),
        }


class Binary(AbstractMetric):
    """accuracy of labels 0 and 1; f1 of label 1, None where it is neither right nor predicted
    anywhere; matthews_correlation, 0 for a constant prediction."""

    prediction = reference = "int64"
    paper = "arXiv:1804.07461"

    def _compute(self, predictions: Values, references: Values) -> Scores:
        f1 = float(f1_score(references, predictions, zero_division=math.nan))  # type: ignore[arg-type]
        constant = len({*predictions, *references}) == 1  # scikit-learn warns of it
        correlation = 0.0 if constant else float(matthews_corrcoef(references, predictions))
        return {
            "accuracy": float(accuracy_score(references, predictions)),
            "f1": None if math.isnan(f1) else f1,
            "matthews_correlation": correlation,
        }


class Correlation(AbstractMetric):
    """pearson and spearman; None where undefined: fewer than two numbers, a constant side, a number
    that is not finite."""

    prediction = reference = "float64"
    paper = "arXiv:1804.07461"

    def _compute(self, predictions: Values, references: Values) -> Scores:
        if len(predictions) < 2 or not all(map(math.isfinite, [*predictions, *references])):
            return {"pearson": None, "spearman": None}
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", stats.ConstantInputWarning)
            warnings.simplefilter("ignore", stats.NearConstantInputWarning)
            pearson: Any = stats.pearsonr(predictions, references)
            spearman: Any = stats.spearmanr(predictions, references)
        values = {"pearson": float(pearson.statistic), "spearman": float(spearman.statistic)}
        return {name: None if math.isnan(value) else value for name, value in values.items()}


class ExactNumber(AbstractMetric):
    """Whether a worked answer has the reference's number after `####` (exact_match), or as its last
    one (flexible_match); beside them lm-evaluation-harness' two, which compare digits instead of
    numbers, under its names: strict-match and flexible-extract."""

    prediction = reference = "string"
    paper = "arXiv:2110.14168"

    def _compute(self, predictions: Values, references: Values) -> Scores:
        gold = [final_number(text) for text in references]
        if None in gold:
            raise ValueError(
                f"a reference without a final number: {references[gold.index(None)]!r}"
            )
        pairs = [*zip(predictions, gold, strict=True)]
        exact = sum(final_number(text) == number for text, number in pairs)
        flexible = sum(last_number(text) == number for text, number in pairs)
        right = {"exact_match": exact, "flexible_match": flexible}
        for name in FILTERS:
            answers = zip(predictions, references, strict=True)
            right[name] = sum(agrees(name, text, reference) for text, reference in answers)
        return {name: count / len(gold) for name, count in right.items()}


class PassAtK(AbstractMetric):
    """pass@k for every k of KS for which all problems have enough answers: how likely one of k
    answers to a problem passes its tests, averaged over the problems. predictions: whether an
    answer passed; references: its problem."""

    prediction, reference = "bool", "string"
    paper = "arXiv:2107.03374"

    def _compute(self, predictions: Values, references: Values) -> Scores:
        samples, passed = Counter(references), Counter[str]()
        for problem, prediction in zip(references, predictions, strict=True):
            passed[problem] += prediction
        means: Scores = {}
        for k in KS:
            if k <= min(samples.values()):
                chances = [estimate(n, passed[problem], k) for problem, n in samples.items()]
                means[f"pass@{k}"] = sum(chances) / len(chances)
        return means


def estimate(samples: int, passed: int, k: int) -> float:
    """The part of all choices of k among the samples in which one passes, the unbiased estimate of
    pass@k (arXiv:2107.03374, equation 1)."""
    choices = math.comb(samples, k)
    return (choices - math.comb(samples - passed, k)) / choices


METRICS: dict[str, type[AbstractMetric]] = {
    "classification": Classification,
    "binary": Binary,
    "correlation": Correlation,
    "exact_number": ExactNumber,
    "pass_at_k": PassAtK,
}
