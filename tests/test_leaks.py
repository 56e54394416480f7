"""Leaks: planted duplicates are counted, similar texts as their definition says, and a task without
data is skipped by name."""

import dataclasses
import json
from collections.abc import Sequence
from typing import Any, ClassVar

import hypothesis
import pytest
from hypothesis import strategies
from typer.testing import CliRunner

from peftbench import tasks
from peftbench.cli import app
from peftbench.errors import InputError
from peftbench.tasks import duplicates as leaks
from peftbench.tasks.base import AbstractTask, Answer, Example, Scores, Source, Split
from peftbench.tasks.duplicates import Leaks, Skipped, count, jaccard, shingles, similar

LONG = "The quick brown fox jumps over the lazy dog and runs into the deep green forest"


def split(*texts: str, pair: str | None = None) -> list[Example]:
    return [Example(id=str(i), text=text, target=0, pair=pair) for i, text in enumerate(texts)]


class Planted(AbstractTask):
    """Two train examples are equal; valid holds a copy and a near copy, test a near copy twice and
    something new."""

    version: ClassVar[int] = 1
    source: ClassVar[Source] = Source(name="planted", licence="MIT")
    kind = "classification"
    primary: ClassVar[str] = "accuracy"

    def examples(self, split: Split) -> list[Example]:
        return globals()["split"](
            *{
                "train": [LONG, f"{LONG}!", "Nothing of the sort.", "Some other words."],
                "valid": ["nothing of the  SORT", f"{LONG}s", "All of this is new."],
                "test": [f"A {LONG}", f"{LONG}, too", "This is new as well."],
            }[split]
        )

    def score(self, examples: Sequence[Example], answers: Sequence[Answer]) -> Scores:
        raise NotImplementedError


class Absent(Planted):
    def examples(self, split: Split) -> list[Example]:
        raise InputError("no such data")


PLANTED = Leaks(
    task="planted",
    examples={"train": 4, "valid": 3, "test": 3},
    train_duplicates=1,
    exact={"valid": 1, "test": 0},
    near={"valid": 1, "test": 2},
    searched={"valid": 3, "test": 3},
)


def test_planted_duplicates_are_counted() -> None:
    assert [*leaks.duplicates_of({"planted": Planted, "absent": Absent})] == [
        PLANTED,
        Skipped(task="absent", skipped="no such data"),
    ]


def test_a_pair_is_one_text() -> None:
    same, other = split("A text.", pair="Its pair."), split("A text.", pair="Another.")
    assert count("", {"train": same, "valid": same, "test": other}).exact == {"valid": 1, "test": 0}


def test_a_pair_the_other_way_round_is_the_same_text() -> None:
    pair, turned = split("A text.", pair="Its pair."), split("its PAIR", pair="a text")
    counts = count("", {"train": [*pair, *turned], "valid": turned, "test": split("A text.")})
    assert counts.train_duplicates == 1
    assert counts.exact == {"valid": 1, "test": 0}


def test_a_frame_that_all_prompts_share_makes_none_similar() -> None:
    frame = f"{LONG}, {LONG[::-1]}: {{}} {LONG.upper()}"
    texts = [
        frame.format(text) for text in ("How many apples?", "Who is there?", "Why is it so late?")
    ]
    counts = count(
        "", {"train": split(texts[0]), "valid": split(texts[1]), "test": split(texts[2], texts[0])}
    )
    assert jaccard(shingles(texts[0]), shingles(texts[1])) > leaks.SIMILAR
    assert counts.near == {"valid": 0, "test": 0}
    assert counts.exact == {"valid": 0, "test": 1}


def test_only_so_many_are_searched_and_it_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(leaks, "SEARCHED", 2)
    counts = count(
        "",
        {
            "train": split(LONG),
            "valid": split(*[f"{LONG} {i}" for i in range(5)]),
            "test": split("x"),
        },
    )
    assert counts.searched == {"valid": 2, "test": 1}
    assert counts.near == {"valid": 2, "test": 0}


texts = strategies.lists(strategies.text("ab", max_size=14), max_size=8)


@hypothesis.given(texts, texts)
# 12 of 15 pieces: just similar, and the rarest 3 are not shared
@hypothesis.example(["tsrqponmlkjihgfedcb"], ["tsrqponmlkjihgfe"])
def test_similar_finds_what_comparing_everything_finds(
    queries: list[str], others: list[str]
) -> None:
    expected = {
        i
        for i, a in enumerate(queries)
        if any(jaccard(shingles(a), shingles(b)) >= leaks.SIMILAR for b in others)
    }
    assert similar(queries, iter(others)) == expected


def test_shingles_and_their_index() -> None:
    assert shingles("abcdefg") == {"abcde", "bcdef", "cdefg"}
    assert shingles("abc") == {"abc"}
    assert jaccard(shingles("abcdef"), shingles("bcdefg")) == 1 / 3


@pytest.fixture
def planted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tasks, "TASKS", {"planted": Planted, "absent": Absent})


def invoke(*arguments: str) -> Any:
    return CliRunner().invoke(app, ["list", *arguments])


@pytest.mark.usefixtures("planted")
def test_the_command_line_prints_a_table_or_json() -> None:
    table = invoke("tasks", "--check").output.splitlines()
    assert [line.split() for line in table[2:]] == [
        ["planted", *["4", "3", "3"], "1", *["1", "0"], *["1", "of", "3"], *["2", "of", "3"]],
        ["absent", "skipped:", "no", "such", "data"],
    ]
    assert len({len(line) for line in table[:3]}) == 1
    entries = json.loads(invoke("tasks", "--check", "--format", "json").output)
    assert entries[0] == {key: getattr(PLANTED, key) for key in entries[0]}
    assert set(entries[0]) == {field.name for field in dataclasses.fields(Leaks)}
    assert entries[1] == {"task": "absent", "skipped": "no such data"}


def test_only_tasks_are_checked() -> None:
    assert isinstance(invoke("models", "--check").exception, InputError)
