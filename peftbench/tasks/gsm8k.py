"""gsm8k: grade-school word problems with worked answers (arXiv:2110.14168)."""

from peftbench.metrics.number import without_calculator
from peftbench.tasks.base import Example, Source, Split, bare, held_out
from peftbench.tasks.hub import rows
from peftbench.tasks.scoring import AbstractWorked, worked_example


class GSM8K(AbstractWorked):
    """School problems, each with a worked answer.

    test: the official one. valid: 5 % of the official train split. The calculator annotations are
    removed, since no calculator is used here.
    """

    version = 2
    source = Source(
        name="openai/gsm8k",
        revision="740312add88f781978c0658806c59bc2815b9866",
        licence="MIT",
        config="main",
    )

    def examples(self, split: Split) -> list[Example]:
        official = "test" if split == "test" else "train"
        examples: list[Example] = []
        for i, row in enumerate(rows(self.source, official, ("question", "answer"))):
            question, worked = row["question"].strip(), without_calculator(row["answer"]).strip()
            if split == "test" or held_out(bare(question), 0.05) == (split == "valid"):
                examples.append(worked_example(f"{official}/{i}", question, worked))
        return examples
