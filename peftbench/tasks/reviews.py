"""reviews: whether a snippet of a movie review is positive, from packaged data."""

import io
import tarfile
from collections.abc import Sequence
from typing import ClassVar

from peftbench.assets import REVIEWS_VERSION, reviews_archive
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
from peftbench.tasks.text import bare

INNER = f"vaderSentiment-{REVIEWS_VERSION}/additional_resources/hutto_ICWSM_2014.tar.gz"
MEMBER = "hutto_ICWSM_2014/movieReviewSnippets_GroundTruth.txt"
AMBIGUOUS = 0.5  # of the ratings' range [-4, 4]


class Reviews(AbstractTask):
    """Rotten Tomatoes snippets with the mean rating of 20 people, from -4 to 4 (Hutto and Gilbert,
    ICWSM 2014).

    Positive means a rating of at least 0.5, negative one of at most -0.5; the 5 % between, where
    the raters take no side, are left out. Texts that differ in nothing but case, spaces and
    punctuation count once. A hash of the text puts 15 % into test and 10 % into valid.
    """

    version: ClassVar[int] = 1
    source: ClassVar[Source] = Source(
        name="vaderSentiment", revision=REVIEWS_VERSION, licence="MIT", config="movieReviewSnippets"
    )
    kind: ClassVar[TaskKind] = "classification"
    primary: ClassVar[str] = "accuracy"
    labels: ClassVar[tuple[str, ...]] = ("negative", "positive")

    def examples(self, split: Split) -> list[Example]:
        examples: list[Example] = []
        seen: set[str] = set()
        for line in _table().splitlines():
            name, rating, text = line.split("\t")
            key = bare(text)
            if abs(float(rating)) < AMBIGUOUS or key in seen:
                continue
            seen.add(key)
            part = "test" if held_out(key, 0.15) else "valid" if held_out(key, 0.25) else "train"
            if part == split:
                examples.append(Example(id=name, text=text.strip(), target=int(float(rating) > 0)))
        return examples

    def score(self, examples: Sequence[Example], answers: Sequence[Answer]) -> Scores:
        # imports torch, which takes seconds
        from peftbench.metrics.classification import Classification

        if not examples:
            return Scores({"accuracy": None, "macro_f1": None}, [])
        targets = [example.target for example in examples]
        metrics = Classification(keep_in_memory=True).compute(
            predictions=answers, references=targets
        )
        right = [float(answer == target) for answer, target in zip(answers, targets, strict=True)]
        return Scores(metrics or {}, [*right])


def _table() -> str:
    """One line per snippet: id, mean rating, text."""
    return _member(_member(reviews_archive().read_bytes(), INNER), MEMBER).decode("utf-8")


def _member(archive: bytes, name: str) -> bytes:
    """A file of a tar archive, read in memory."""
    with tarfile.open(fileobj=io.BytesIO(archive)) as tar:
        file = tar.extractfile(name)
        assert file is not None  # the archive is verified: this member is a regular file
        return file.read()
