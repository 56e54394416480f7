"""Whether an answer gives the right number: the one after `####` (exact), or the last one in it (flexible)."""

import re
from collections.abc import Sequence
from fractions import Fraction

import datasets
from evaluate.info import MetricInfo
from evaluate.module import Metric

NUMBER = re.compile(
    r"""
    (?P<prefix> (?<![\w)]) [-+−$€£]{1,3} )?                         # a sign is none between two numbers: "10-7" holds 10 and 7
    (?P<value> (?: [0-9]{1,3} (?:,[0-9]{3})+ (?![0-9]) | [0-9]+ )   # commas in groups of three
               (?: \.[0-9]+ )? | \.[0-9]+ )                         # decimals; a full stop is none
    (?: / (?P<divisor> [0-9]+ ) )?                                  # units and % may follow
    """,
    re.VERBOSE,
)
FINAL = re.compile(rf"\#\#\#\#[ \t*]*{NUMBER.pattern}", re.VERBOSE)


def final_number(text: str) -> Fraction | None:
    """The number after `####`, the first if the text goes on after its answer; None where there is none.

    openai/grade-school-math, grade_school_math/dataset.py, ANS_RE; beyond it, currencies, fractions and 7.0 = 7 are understood.
    """
    match = FINAL.search(text)
    return _number(match) if match else None


def last_number(text: str) -> Fraction | None:
    """The last number in a text; None where there is none."""
    matches = list(NUMBER.finditer(text))
    return _number(matches[-1]) if matches else None


def without_calculator(text: str) -> str:
    """GSM8K's worked answers without their calculator annotations, `<<48/2=24>>`."""
    return re.sub(r"<<[^<>\n]*>>", "", text)


def _number(match: re.Match[str]) -> Fraction | None:
    try:
        value = Fraction(match["value"].replace(",", "")) / int(match["divisor"] or 1)
    except (ValueError, ZeroDivisionError):  # more digits than Python converts; division by zero
        return None
    return -value if set(match["prefix"] or "") & {"-", "−"} else value


class ExactNumber(Metric):
    """exact_match and flexible_match of texts against worked answers that end with `#### number`."""

    def _info(self) -> MetricInfo:
        text = datasets.Value("string")
        return MetricInfo(
            description=__doc__ or "",
            citation="arXiv:2110.14168",
            inputs_description="predictions, references: texts",
            features=datasets.Features({"predictions": text, "references": text}),
        )

    def _compute(self, predictions: Sequence[str], references: Sequence[str]) -> dict[str, float]:  # pyright: ignore[reportIncompatibleMethodOverride]
        gold = [final_number(text) for text in references]
        if None in gold:
            raise ValueError(f"a reference without a final number: {references[gold.index(None)]!r}")
        exact = sum(final_number(text) == number for text, number in zip(predictions, gold, strict=True))
        flexible = sum(last_number(text) == number for text, number in zip(predictions, gold, strict=True))
        return {"exact_match": exact / len(gold), "flexible_match": flexible / len(gold)}
