"""The tasks: sound, disjoint, deterministic, and scored so that the right answer gets everything
and none gets nothing."""

import functools
import itertools
import math
import subprocess
import sys
from collections.abc import Sequence
from fractions import Fraction
from typing import Any

import hypothesis
import pytest
from hypothesis import strategies

from peftbench.metrics.modules import Classification, ExactNumber
from peftbench.metrics.number import final_number, last_number, without_calculator
from peftbench.tasks import TASKS, gsm_symbolic, stdlib_code
from peftbench.tasks.base import Example, Split, bare, fingerprint, held_out
from peftbench.tasks.gsm_symbolic import GSMSymbolic
from peftbench.tasks.humaneval import HumanEval, problems
from peftbench.tasks.reviews import Reviews

SPLITS: tuple[Split, ...] = ("train", "valid", "test")
# `make setup` installs their data; the tasks from the hub are tested with a mirror of it
PACKAGED = ("reviews", "gsm_symbolic", "humaneval")
every_task = pytest.mark.parametrize("name", PACKAGED)
every_split = pytest.mark.parametrize("split", SPLITS)


@functools.cache
def splits(name: str) -> dict[Split, list[Example]]:
    return {split: TASKS[name]().examples(split) for split in SPLITS}


@every_task
def test_splits_are_disjoint(name: str) -> None:
    examples = [example for split in splits(name).values() for example in split]
    assert len({example.id for example in examples}) == len(examples)
    texts = [
        {(bare(example.text), bare(example.pair or "")) for example in split}
        for split in splits(name).values()
    ]
    assert all(one.isdisjoint(other) for one, other in itertools.combinations(texts, 2))


@every_task
@pytest.mark.parametrize("split", SPLITS[:2])
def test_no_text_is_trained_on_twice(name: str, split: Split) -> None:
    examples = splits(name)[split]
    assert len({(bare(example.text), bare(example.pair or "")) for example in examples}) == len(
        examples
    )


@every_task
@every_split
def test_examples_are_sound(name: str, split: Split) -> None:
    task, examples = TASKS[name], splits(name)[split]
    assert len(examples) >= 100
    for example in examples:
        assert example.text.strip()
        if task.kind == "classification":
            assert example.target in range(len(task.labels))
            assert example.text == example.text.strip()
        if task.kind == "generation":
            assert isinstance(example.target, str)
            assert example.target.strip()
            assert not any(stop in example.target for stop in task.stops)


def test_examples_are_the_same_in_another_process() -> None:
    source = f"""
import sys
from peftbench.tasks import TASKS
from peftbench.tasks.base import fingerprint
for name in {PACKAGED}:
    print(fingerprint({{split: TASKS[name]().examples(split) for split in {SPLITS}}}))
print("torch" in sys.modules)
"""
    other = subprocess.run(
        [sys.executable, "-c", source], capture_output=True, text=True, check=True
    ).stdout.split()
    # nor does reading data import torch
    assert other == [*(fingerprint(splits(name)) for name in PACKAGED), "False"]


@every_task
@every_split
def test_the_right_answers_score_one(name: str, split: Split) -> None:
    task, examples = TASKS[name](), splits(name)[split]
    scores = task.score(examples, [example.target for example in examples])
    assert set(scores.metrics.values()) <= {1.0, None}
    assert scores.metrics[task.primary] == 1.0 or split != "test"
    assert scores.per_example == [1.0] * len(examples)


@every_task
@every_split
def test_no_answer_scores_zero(name: str, split: Split) -> None:
    task, examples = TASKS[name](), splits(name)[split][::5]
    if task.kind == "classification":
        wrong = [1 - int(example.target) for example in examples]
    else:
        wrong = [""] * len(examples)
    scores = task.score(examples, wrong)
    assert set(scores.metrics.values()) <= {0.0, None}
    assert scores.per_example == [0.0] * len(examples)


@every_task
def test_each_score_belongs_to_its_example(name: str) -> None:
    task, examples = TASKS[name](), splits(name)["valid"][:10]
    wrong = 1 - int(examples[3].target) if task.kind == "classification" else "####"
    answers = [wrong if i == 3 else example.target for i, example in enumerate(examples)]
    assert task.score(examples, answers).per_example == [0.0 if i == 3 else 1.0 for i in range(10)]


@every_task
def test_no_examples_have_no_score(name: str) -> None:
    scores = TASKS[name]().score([], [])
    assert (set(scores.metrics.values()), scores.per_example) == ({None}, [])


def test_reviews_are_balanced() -> None:
    for examples in splits("reviews").values():
        assert sum(int(example.target) for example in examples) / len(examples) == pytest.approx(
            0.5, abs=0.02
        )


def test_reviews_metrics() -> None:
    examples = [
        Example(id=str(i), text="x", target=target) for i, target in enumerate([0, 0, 0, 1])
    ]
    metrics = Reviews().score(examples, [0, 0, 0, 0]).metrics
    assert metrics["accuracy"] == 0.75
    # F1 of label 0: precision 3/4, recall 1
    assert metrics["macro_f1"] == pytest.approx((6 / 7 + 0) / 2)
    assert Classification(keep_in_memory=True).compute(predictions=[1], references=[1]) == {
        "accuracy": 1.0,
        "macro_f1": 1.0,
    }


def test_templates_are_disjoint() -> None:
    parts = {split: gsm_symbolic.templates(split) for split in SPLITS}
    assert [len(parts[split]) for split in SPLITS] == [
        gsm_symbolic.TEMPLATES[split] for split in SPLITS
    ]
    assert sorted(itertools.chain.from_iterable(parts.values())) == sorted(
        set(range(100)) - gsm_symbolic.UNSOUND
    )
    for split, examples in splits("gsm_symbolic").items():
        used = {int(example.id.partition("/")[0]) for example in examples}
        assert used == set(parts[split])


def test_examples_of_gsm_symbolic_are_drawn_once() -> None:
    """Yet whoever asks has a list of their own."""
    once, again = (TASKS["gsm_symbolic"]().examples("test") for _ in "ab")
    assert once is not again
    assert all(one is other for one, other in zip(once, again, strict=True))


def test_generators_leave_no_modules_behind() -> None:
    gsm_symbolic.generators()
    assert not [name for name in sys.modules if name.startswith(("reasoning_gym", "generators_"))]


def test_gsm_symbolic_scores_the_number_after_the_marks() -> None:
    example = Example(id="1", text="Question: ?\nAnswer:", target=" 3 + 4 = 7\n#### 7.0")
    task = GSMSymbolic()
    for answer, exact, flexible in [
        (" #### 7", 1, 1),
        (" 3 + 4 = 7\n#### $7.00.", 1, 1),
        (" it is 7", 0, 1),
        ("#### 8\nno, 7", 0, 1),
        ("#### 7\nor 8", 1, 0),
        ("#### seven", 0, 0),
    ]:
        scores = task.score([example], [answer])
        assert scores.metrics["exact_match"] == exact
        assert scores.metrics["flexible_match"] == flexible
        assert scores.per_example == [exact]


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("7", 7),
        ("7.0", 7),
        ("7.", 7),
        ("-7", -7),
        ("+7", 7),
        ("−7", -7),
        ("1,234", 1234),
        ("1,234,567.50", Fraction("1234567.5")),
        ("$1,234.5", Fraction("1234.5")),
        ("-$5", -5),
        ("$-5", -5),
        ("20%", 20),
        ("7 apples", 7),
        ("**7**", 7),
        (".5", Fraction(1, 2)),
        ("3/4", Fraction(3, 4)),
        ("7 and 8", 7),
        ("12/0", None),
        ("x", None),
        ("", None),
        ("9" * 5000, None),
        ("007", 7),
        ("1,2", 12),
        ("1,2345", 12345),
        ("12,0", 120),
        ("12, 0", 12),
    ],
)
def test_the_number_after_the_marks(text: str, number: Fraction | int | None) -> None:
    assert final_number(f"It is 3.\n#### {text}") == number


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("so 3 + 4 = 7.", 7),
        ("10-7", 7),
        ("from 10 to -7", -7),
        ("(5)-3", 3),
        ("1,234 apples", 1234),
        ("$3 each, 2 of them", 2),
        ("none", None),
        ("x2", 2),
        ("7 / 2 = 3.5 hours.", Fraction(7, 2)),
        ("1, 2, 3", 3),
    ],
)
def test_the_last_number(text: str, number: Fraction | int | None) -> None:
    assert last_number(text) == number


@hypothesis.given(
    strategies.decimals(
        allow_nan=False, allow_infinity=False, min_value=-(10**9), max_value=10**9, places=2
    )
)
def test_a_number_survives_how_it_is_written(value: object) -> None:
    dollars = f"-${str(value)[1:]}" if str(value).startswith("-") else f"${value:,}"
    for text in (f"{value}", f"{value:,}", f"{value:,} dollars.", dollars):
        assert final_number(f"1 #### {text}") == Fraction(str(value))
        assert last_number(f"1 or {text}") == Fraction(str(value))


def test_exact_number_refuses_a_reference_without_a_number() -> None:
    with pytest.raises(ValueError, match="without a final number: 'seven'"):
        ExactNumber(keep_in_memory=True).compute(predictions=["#### 7"], references=["seven"])


def test_calculator_annotations_are_removed() -> None:
    annotated = "He has 48/2 = <<48/2=24>>24 left, 2 << 3."
    assert without_calculator(annotated) == "He has 48/2 = 24 left, 2 << 3."


def test_humaneval_holds_out_whole_modules() -> None:
    modules = {
        split: {example.id.partition(".")[0] for example in splits("humaneval")[split]}
        for split in SPLITS[:2]
    }
    assert modules["train"].isdisjoint(modules["valid"])


def test_humaneval_runs_its_tests_on_the_completed_prompt() -> None:
    example = next(
        example for example in splits("humaneval")["test"] if example.id == "HumanEval/53"
    )
    task = HumanEval()
    for answer, passed in [
        ("    return x + y\n", 1.0),
        ("    return y + x", 1.0),
        ("    return x - y", 0.0),
        ("  return x", 0.0),
    ]:
        scores = task.score([example], [answer])
        assert scores.metrics["pass@1"] == passed
        assert scores.per_example == [passed]
    assert task.score([example], ["    return y + x"]).metrics["ast_match"] == 0.0


def test_functions_without_tests_are_scored_by_their_tree() -> None:
    example = Example(
        id="m.f", text='def f(x):\n    """Twice."""\n', target="    # why\n    return 2 * x\n"
    )
    scores = HumanEval().score(
        [example] * 4,
        ["    return 2*x", "    return x * 2\n", "    return 2 * (", "    return 2 * x\nf(1)\n"],
    )
    assert scores.metrics == {"pass@1": None, "ast_match": 0.25}
    assert scores.per_example == [1.0, 0.0, 0.0, 0.0]


def test_standard_library_functions_are_cut_exactly() -> None:
    for function in stdlib_code.functions():
        tree = stdlib_code.parsed(f"{function.text}{function.target}")
        assert tree is not None
        assert tree.name == function.id.rpartition(".")[2]
        assert function.text.rstrip().endswith(('"""', "'''", '"', "'"))
    join = next(function for function in stdlib_code.functions() if function.id == "shlex.join")
    docstring = '"""Return a shell-escaped string from *split_command*."""'
    assert join.text == f"def join(split_command):\n    {docstring}\n"
    assert join.target == "    return ' '.join(quote(arg) for arg in split_command)\n"


def test_no_humaneval_problem_is_trained_on() -> None:
    heads = {bare(problem["prompt"]) for problem in problems().values()}
    assert heads.isdisjoint(bare(function.text) for function in stdlib_code.functions())


@pytest.mark.parametrize("part", [0.004, 0.005, 0.015, 0.02, 0.05, 0.1, 0.15, 0.25, 0.5])
def test_the_hash_holds_out_the_part_it_is_asked_for(part: float) -> None:
    n = math.ceil(100 / part)  # so that half as many are ten deviations away
    count = sum(held_out(f"text {i}", part) for i in range(n))
    assert abs(count - part * n) <= 3 * math.sqrt(n * part * (1 - part))


def test_what_is_held_out_stays_so() -> None:
    members = {
        part: [i for i in range(40) if held_out(f"text {i}", part)] for part in (0.0, 0.1, 0.15)
    }
    assert members == {
        0.0: [],
        0.1: [12, 13, 19, 20, 26, 30],
        0.15: [6, 12, 13, 17, 19, 20, 26, 30, 34],
    }
    valid = {example.id.partition(".")[0] for example in splits("humaneval")["valid"]}
    asked = {"ast", "csv", "dis", "inspect", "json", "logging", "random", "shlex", "shutil"}
    assert valid & asked == {"dis", "inspect", "json", "logging", "shlex"}


HELD_OUT = {  # of the official train split
    **{"cola": 0.1, "sst2": 0.02, "mrpc": 0.1, "stsb": 0.1, "qqp": 0.005, "mnli": 0.004},
    **{"qnli": 0.015, "rte": 0.1, "wnli": 0.1, "gsm8k": 0.05, "mbpp": 0.15},
}


@pytest.mark.parametrize("name", HELD_OUT)
def test_valid_is_the_part_of_train_that_the_task_says(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    part = HELD_OUT[name]
    n = math.ceil(100 / part)

    def made(
        source: object, split: str, columns: Sequence[str], *_: object
    ) -> list[dict[str, Any]]:
        numbers = range(n) if split == "train" else [n]
        row: dict[str, Any] = {"label": 0, "test_list": ["assert f()"], "code": "def f(): pass"}
        return [dict.fromkeys(columns, f"text {i}") | row | {"task_id": i} for i in numbers]

    monkeypatch.setattr(sys.modules[TASKS[name].__module__], "rows", made)
    train, valid = ({e.id for e in TASKS[name]().examples(split)} for split in SPLITS[:2])
    assert train.isdisjoint(valid)
    assert len(train | valid) == n
    assert abs(len(valid) - part * n) <= 3 * math.sqrt(n * part * (1 - part))


def test_reviews_has_the_parts_that_it_says() -> None:
    counts = {split: len(examples) for split, examples in splits("reviews").items()}
    n = sum(counts.values())
    for split, part in {"test": 0.15, "valid": 0.1}.items():
        assert abs(counts[split] - part * n) <= 3 * math.sqrt(n * part * (1 - part))
