"""reviews: whether a snippet of a movie review is positive, from packaged data."""

import functools
import io
import tarfile
from collections.abc import Sequence

from peftbench.assets import REVIEWS_VERSION, reviews_archive
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
from peftbench.tasks.scoring import computed, right_labels

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

    version = 1
    source = Source(
        name="vaderSentiment", revision=REVIEWS_VERSION, licence="MIT", config="movieReviewSnippets"
    )
    kind = "classification"
    primary = "accuracy"
    labels = ("negative", "positive")

    def examples(self, split: Split) -> list[Example]:
        return [*_splits()[split]]

    def score(self, examples: Sequence[Example], answers: Sequence[Answer]) -> Scores:
        if not examples:
            return Scores({"accuracy": None, "macro_f1": None}, [])
        metrics = computed("classification", answers, [example.target for example in examples])
        return Scores(metrics, right_labels(examples, answers))


@functools.cache  # a run asks for two or three splits
def _splits() -> dict[Split, list[Example]]:
    splits: dict[Split, list[Example]] = {"train": [], "valid": [], "test": []}
    seen: set[str] = set()
    for line in _table().splitlines():
        name, rating, text = line.split("\t")
        key = bare(text)
        if abs(float(rating)) < AMBIGUOUS or key in seen:
            continue
        seen.add(key)
        part = "test" if held_out(key, 0.15) else "valid" if held_out(key, 0.25) else "train"
        splits[part].append(Example(id=name, text=text.strip(), target=int(float(rating) > 0)))
    return splits


def _table() -> str:
    """One line per snippet: id, mean rating, text."""
    content = reviews_archive().read_bytes()
    for name in (INNER, MEMBER):  # an archive in an archive, read in memory
        with tarfile.open(fileobj=io.BytesIO(content)) as tar:
            file = tar.extractfile(name)
            assert file is not None  # the archive is verified: this member is a regular file
            content = file.read()
    return content.decode("utf-8")
