"""mbpp: write a Python function from a sentence and a test (arXiv:2108.07732)."""

import re
from collections.abc import Sequence
from typing import Any

from peftbench.sandbox.execute import execute
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
from peftbench.tasks.scoring import check_all, pass_rates

COLUMNS = ("task_id", "text", "code", "test_list", "test_setup_code")
SECONDS = 10.0  # of processor time: the slowest reference, of problem 123, takes 3 to 5


class MBPP(AbstractTask):
    """Prompts as in bigcode-evaluation-harness, bigcode_eval/tasks/mbpp.py: a docstring of the
    description and the first of three tests. An answer passes with all three; the challenge tests
    are not used.

    test: the official 500 problems. valid: 15 % of the official train split's 374, by description;
    train: the rest, without the three descriptions that are in test too. The official validation
    and prompt splits are not used. The harness's stop "\\nclass" is not used, since a reference
    (342) has a class after its first line.
    """

    version = 1
    source = Source(
        name="google-research-datasets/mbpp",
        revision="4bb6404fdc6cacfda99d4ac4205087b89d32030c",
        licence="CC-BY-4.0",
        config="full",
    )
    kind = "generation"
    primary = "pass@1"
    runs_code = True
    stops = ("\nassert", '\n"""', "\nprint", "\nif", "\n<|/", "\n```")

    def examples(self, split: Split) -> list[Example]:
        test = self._rows("test")
        if split == "test":
            return [example(row) for row in test]
        tested = {bare(row["text"]) for row in test}
        train = [row for row in self._rows("train") if bare(row["text"]) not in tested]
        return [
            example(row) for row in train if held_out(bare(row["text"]), 0.15) == (split == "valid")
        ]

    def score(self, examples: Sequence[Example], answers: Sequence[Answer]) -> Scores:
        if not examples:
            return Scores(pass_rates([], []), [])
        problems = {str(row["task_id"]): row for row in (*self._rows("train"), *self._rows("test"))}
        passed = check_all(
            lambda example, answer: float(passes(problems[example.id], answer)), examples, answers
        )
        return Scores(pass_rates(examples, passed), passed)

    def _rows(self, official: str) -> list[dict[str, Any]]:
        return rows(self.source, official, COLUMNS)


def example(row: dict[str, Any]) -> Example:
    """The example of a problem: its prompt and its reference."""
    prompt = f'"""\n{row["text"].strip()}\n{row["test_list"][0].strip()}\n"""\n'
    return Example(
        id=str(row["task_id"]), text=prompt, target=row["code"].replace("\r\n", "\n").rstrip()
    )


def passes(row: dict[str, Any], answer: str) -> bool:
    """Whether the answer passes the problem's tests."""
    tests = "\n".join([row["test_setup_code"], *row["test_list"]])
    setup = "import sys"  # the tests of problem 596 expect it of the solution
    # the tests take from a solution what the reference defines
    names = re.findall(r"^(?:def|class) +(\w+)", row["code"], re.MULTILINE)
    return execute(answer, tests, setup=setup, remote=names, seconds=SECONDS).passed
