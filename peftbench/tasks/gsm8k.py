"""gsm8k: grade-school word problems with worked answers (arXiv:2110.14168)."""

from collections.abc import Sequence
from typing import ClassVar

from peftbench.metrics.number import without_calculator
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
from peftbench.tasks.worked_answers import score_worked


class GSM8K(AbstractTask):
    """Prompts as in lm-evaluation-harness 0.4.13, lm_eval/tasks/gsm8k/gsm8k.yaml; an answer ends
    with its `#### number`.

    test: the official one. valid: 5 % of the official train split. The calculator annotations are
    removed, since no calculator is used here.
    """

    version: ClassVar[int] = 1
    source: ClassVar[Source] = Source(
        name="openai/gsm8k",
        revision="740312add88f781978c0658806c59bc2815b9866",
        licence="MIT",
        config="main",
    )
    kind: ClassVar[TaskKind] = "generation"
    primary: ClassVar[str] = "exact_match"
    stops: ClassVar[tuple[str, ...]] = ("\nQuestion:",)

    def examples(self, split: Split) -> list[Example]:
        official = "test" if split == "test" else "train"
        examples: list[Example] = []
        for i, row in enumerate(rows(self.source, official, ("question", "answer"))):
            question, worked = row["question"].strip(), without_calculator(row["answer"]).strip()
            if split == "test" or held_out(bare(question), 0.05) == (split == "valid"):
                examples.append(
                    Example(
                        id=f"{official}/{i}",
                        text=f"Question: {question}\nAnswer:",
                        target=f" {worked}",
                    )
                )
        return examples

    def score(self, examples: Sequence[Example], answers: Sequence[Answer]) -> Scores:
        return score_worked(examples, answers)
