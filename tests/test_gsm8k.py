"""GSM8K: the right answers score everything however they are written, and the scores are
lm-evaluation-harness' but for what is listed."""

import functools
import itertools
import re
from pathlib import Path
from statistics import fmean

import pytest

from peftbench.metrics.harness import FILTERS, agrees
from peftbench.metrics.modules import ExactNumber
from peftbench.metrics.number import final_number, last_number
from peftbench.tasks.base import Example, Split, bare
from peftbench.tasks.gsm8k import GSM8K

METRICS = ("exact_match", "flexible_match", "strict-match", "flexible-extract")
SPLITS: tuple[Split, ...] = ("train", "valid", "test")

GOLD = {  # number -> worked answer that ends with it
    "7": " 3 + 4 = 7\n#### 7",
    "18": " 9 * 2 = $18\n#### 18",
    "40": "#### 40",
    "0": " 1 - 1 = 0\n#### 0",
    "2.5": "#### 2.5",
    "1234": " 1000 + 234 = 1234\n#### 1,234",
    "1450000": "#### 1,450,000",
    "-10": " 5 - 15 = -10\n#### -10",
}
# v: the number, c: the number with commas, g: the worked answer
ANSWERS = {
    "worked": "{g}",
    "only": " #### {v}",
    "commas": "#### {c}",
    "units": "#### {v} apples",
    "percent": "#### {v}%",
    "sign last": "#### {v}$",
    "full stop": "#### {c}.",
    "bold line": "**#### {v}**",
    "goes on": "#### {v}\n\nQuestion: 5 and 6?",
    "spaces": "#### {v}   ",
    "two marks": "#### 99\n#### {v}",
    "corrected": "#### {v}\n#### 99",
    "five hashes": "##### {v}",
    "three hashes": "### {v}",
    "sum": "#### 3 + 4 = {v}",
    "boxed": r"#### \boxed{{{v}}}",
    "next line": "####\n{v}",
    "words": "#### Answer: {v}",
    "factor": "#### {v} * 1",
    "text": "The answer is {v}",
    "sentence": "The answer is {v}.",
    "clause": "It is {c}, I think",
    "pays": "She pays ${c}.",
    "or": "{v} or 99",
    "list": "1, 2, {v}",
    "step": "Step 2: {v} apples.",
    "quote": '"{v}"',
    "dash": "{v} -",
    "of text": "It is {v}%.",
    "x": "It is {v}x.",
    "gap": "He has $ {v}",
    "parentheses": "#### ({v})",
    "dollar gap": "#### $ {v}",
    "power": "#### {v}e0",
    "nothing": "",
    "no number": "#### none",
    "only dots": "#### ...",
    "only comma": "#### ,",
    "other": "#### 99",
    # what the two read differently
    "dollars": "#### ${c}",
    "dollars.": "#### ${c}.",
    "euros": "#### €{v}",
    "bold": "#### **{v}**",
    "plus": "#### +{v}",
    "no space": "####{v}",
    "two spaces": "####  {v}",
    "tab": "####\t{v}",
    "minus": "#### -{v}",
    "long minus": "#### −{v}",
    "tenths": "#### {v}.0",
    "cents": "#### ${v}.00",
    "price": "She pays ${v}.00",
    "zeros": "#### 0{v}",
    "dots": "It is {v}...",
    "..": "#### {v}..",
    "range": "from 3-{v}",
    "glued": "3,{v}",
    "ratio": "It is {v}/1",
    "time": "at {v}:00",
}
WRITTEN_WITH_A_SIGN = {"plus", "minus", "long minus", "zeros", "range"}  # -10 in these is no number
WRITTEN_WITH_DECIMALS = {"tenths", "cents", "price"}  # 2.5 in these is none

# Every answer above on which lm-evaluation-harness disagrees: what we say of some numbers there and
# it denies, and why.
STRICT = {
    **dict.fromkeys(
        ["dollars", "dollars.", "euros", "cents"], (True, "its pattern has no currency")
    ),
    **dict.fromkeys(["bold", "plus"], (True, "its pattern has no mark and no plus")),
    **dict.fromkeys(
        ["no space", "two spaces", "tab"], (True, "its pattern has one space, no more, no less")
    ),
    **dict.fromkeys(
        ["tenths", "zeros"], (True, "it compares digits, not numbers: 7.0 and 07 are not 7")
    ),
    "minus": (True, "it compares digits, not numbers: -0 is not 0"),
    "long minus": (True, "-0 again, with the sign U+2212"),
    "..": (True, "it takes off one full stop"),
}
FLEXIBLE = {
    **dict.fromkeys(
        ["tenths", "cents", "price", "zeros"],
        (True, "it compares digits, not numbers: 7.0, 7.00 and 07 are not 7"),
    ),
    "minus": (True, "it compares digits, not numbers: -0 is not 0"),
    "long minus": (False, "it does not know the sign U+2212, and takes -7 for 7"),
    **dict.fromkeys(["dots", ".."], (True, "it takes off one full stop of several")),
    "range": (True, "it takes any hyphen before a number for a minus"),
    "glued": (True, "it takes any comma between digits for a thousands' one"),
    "ratio": (True, "it takes a fraction for two numbers"),
    "time": (True, "it compares digits, not numbers: the 00 of 0:00 is not 0"),
}


# Strict-match and flexible-extract of answers to "#### 1,234", by the code of lm-evaluation-harness
# 0.4.13 (RegexFilter, exact_match_hf_evaluate).
HARNESS = {
    "#### 1234": (1, 1),
    "#### 1,234": (1, 1),
    "#### 12,34": (1, 1),
    "#### 1234.": (1, 1),
    "#### 1,234.00": (0, 0),
    "#### $1,234": (0, 1),
    "#### **1234**": (0, 1),
    "**#### 1234**": (1, 1),
    "####1234": (0, 1),
    "####  1234": (0, 1),
    "#### +1234": (0, 1),
    "#### 1234..": (0, 0),
    "#### 1234 apples": (1, 1),
    "#### 1234\n#### 5": (1, 0),
    "#### 5\n#### 1234": (0, 1),
    "It is $1,234.": (0, 1),
    "It is 1234, 5": (0, 0),
    "It is 5, 1234": (0, 1),
    "5-1234": (0, 0),
    "1234 ...": (0, 0),
    "#### -1234": (0, 0),
    "[invalid]": (0, 0),
    "": (0, 0),
}


@pytest.mark.parametrize("answer", HARNESS)
def test_the_harness_metrics_are_its_own(answer: str) -> None:
    example = Example(id="0", text="?", target=" 1,000 + 234 = $1,234\n#### 1,234")
    metrics = GSM8K().score([example], [answer]).metrics
    assert (metrics["strict-match"], metrics["flexible-extract"]) == HARNESS[answer]


@pytest.mark.parametrize(
    ("answer", "right"),
    [("#### 12,0", 0), ("#### 1,20", 0), ("#### 12", 1), ("#### 12,", 1), ("#### 1,2", 1)],
)
def test_every_comma_after_the_marks_is_left_out(answer: str, right: int) -> None:
    example = Example(id="0", text="?", target="#### 12")
    assert GSM8K().score([example], [answer]).metrics["exact_match"] == right


def cases() -> list[tuple[str, str, str]]:
    """(name, answer, gold) of all pairs that make sense."""
    cases = []
    for (name, form), (number, gold) in itertools.product(ANSWERS.items(), GOLD.items()):
        if (number == "-10" and name in WRITTEN_WITH_A_SIGN) or (
            number == "2.5" and name in WRITTEN_WITH_DECIMALS
        ):
            continue
        commas = number if "." in number else f"{int(number):,}"
        cases.append((name, form.format(v=number, c=commas, g=gold), gold))
    return cases


def test_scores_are_those_of_lm_evaluation_harness_but_for_what_is_listed() -> None:
    assert len(cases()) >= 400
    for ours, other, listed in (
        (final_number, "strict-match", STRICT),
        (last_number, "flexible-extract", FLEXIBLE),
    ):
        different: dict[str, set[bool]] = {}
        for name, answer, gold in cases():
            mine = ours(answer) == final_number(gold)
            if mine != agrees(other, answer, gold):
                different.setdefault(name, set()).add(mine)
        assert different == {name: {mine} for name, (mine, _) in listed.items()}


def test_the_metrics_are_the_four_readings() -> None:
    answers, golds = zip(*((answer, gold) for _, answer, gold in cases()), strict=True)
    metrics = ExactNumber(keep_in_memory=True).compute(predictions=answers, references=golds)
    numbers = [final_number(gold) for gold in golds]
    assert metrics == {
        "exact_match": sum(
            final_number(answer) == number for answer, number in zip(answers, numbers, strict=True)
        )
        / len(golds),
        "flexible_match": sum(
            last_number(answer) == number for answer, number in zip(answers, numbers, strict=True)
        )
        / len(golds),
    } | {name: fmean(map(functools.partial(agrees, name), answers, golds)) for name in FILTERS}


def test_splits_are_disjoint_and_cover_the_official_ones() -> None:
    ids = {split: {example.id for example in GSM8K().examples(split)} for split in SPLITS}
    official = {"train": ids["train"] | ids["valid"], "test": ids["test"]}
    assert {name: {i.partition("/")[0] for i in ids} for name, ids in official.items()} == {
        "train": {"train"},
        "test": {"test"},
    }
    assert sorted(official["train"]) == sorted(f"train/{i}" for i in range(200))
    assert ids["train"].isdisjoint(ids["valid"])
    assert ids["valid"]


def test_a_worked_answer_follows_its_question() -> None:
    example = GSM8K().examples("test")[0]
    assert (
        example.text
        == "Question: Ann has 201 apples and buys 5 more. How many apples does she have?\nAnswer:"
    )
    assert example.target == " She has 201 + 5 = 206 apples.\n#### 206"


def test_the_right_answers_score_one_and_others_zero() -> None:
    task, examples = GSM8K(), GSM8K().examples("test")
    right = task.score(examples, [example.target for example in examples])
    assert (right.metrics, right.per_example) == (
        dict.fromkeys(METRICS, 1.0),
        [1.0] * len(examples),
    )
    wrong = task.score(examples, [f" {example.target}1" for example in examples])
    assert (wrong.metrics, wrong.per_example) == (
        dict.fromkeys(METRICS, 0.0),
        [0.0] * len(examples),
    )
    assert task.score([], []).metrics == {"exact_match": None}


def test_an_oracle_scores_everything_on_the_real_data(real_hub: Path) -> None:
    task = GSM8K()
    counts, texts = {}, []
    for split in SPLITS:
        examples = task.examples(split)
        counts[split] = len(examples)
        texts += [bare(example.text) for example in examples]
        targets = [str(example.target) for example in examples]
        assert not any(
            "<<" in target or ">>" in target or "\nQuestion:" in target for target in targets
        )
        for answers in (
            targets,
            [f"{target}." for target in targets],
            [re.sub("#### ", "#### $", target) for target in targets],
        ):
            strict = float("#### $" not in answers[0])
            metrics = task.score(examples, answers).metrics
            assert metrics == dict.fromkeys(METRICS, 1.0) | {"strict-match": strict}
        plain = [
            re.sub(
                r"(?s).*#### (.*)",
                lambda match: f"It is {match[1].replace(',', '')}.00 dollars.",
                target,
            )
            for target in targets
        ]
        assert task.score(examples, plain).metrics == {
            "exact_match": 0.0,
            "flexible_match": 1.0,
            "strict-match": 0.0,
            "flexible-extract": 0.0,  # it compares digits: 7.00 is not 7
        }
    assert (counts["train"] + counts["valid"], counts["test"]) == (7473, 1319)
    assert 300 < counts["valid"] < 450
    assert len(set(texts)) == len(texts)
