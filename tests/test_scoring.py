"""What scores answers raises on no text, and what goes wrong in it costs nothing but the scores."""

import multiprocessing
import os
import signal
import time
from collections.abc import Sequence
from pathlib import Path

import hypothesis
import pytest
from hypothesis import strategies
from test_run import spec

from peftbench.store import Store
from peftbench.tasks import TASKS
from peftbench.tasks.base import Answer, Example, Scores, storable
from peftbench.tasks.gsm_symbolic import GSMSymbolic
from peftbench.training import executor
from peftbench.training.executor import LocalExecutor
from peftbench.training.run import run
from peftbench.training.scoring import Scored, Scoring, score, score_apart

# pieces that nest, end or escape what reads them
PIECES = ["(", "[", "{", "-", "not ", "lambda: ", "x.", "####", "#### ", "-$", ",000", "9", "/0"]
PIECES += ["\0", "\ud800", "\\", '"""', "'", "\r", "\x0c", "\t", " ", "\n    ", "\ufeff", "if 1:\n"]
repeated = strategies.builds(
    lambda piece, times: piece * times,
    strategies.sampled_from(PIECES),
    strategies.integers(1, 1500),
)
any_text = strategies.text(strategies.characters(), max_size=30)  # lone surrogates, too
texts = strategies.lists(any_text | repeated, min_size=1, max_size=4).map("".join)
bodies = texts.map(lambda text: f"    return {text}")

GENERATION = [name for name, task in TASKS.items() if task.kind == "generation"]


@pytest.mark.parametrize("name", GENERATION)
def test_no_text_ends_the_scoring(name: str) -> None:
    task = TASKS[name]()
    example = task.examples("valid")[0]

    # an answer to a problem of MBPP takes two processes
    @hypothesis.settings(max_examples=5 if name == "mbpp" else 40)
    @hypothesis.given(texts | bodies)
    def scored(text: str) -> None:
        scores = task.score([example, example], [text, str(example.target)])
        assert scores.per_example[1] == 1.0
        assert scores.per_example[0] in (0.0, 1.0)

    scored()


@pytest.mark.parametrize("name", sorted({*TASKS} - {*GENERATION}))
def test_no_answer_of_a_model_ends_the_scoring(name: str) -> None:
    task = TASKS[name]()
    examples = task.examples("test")[:3]
    labels, numbers = strategies.integers(0, len(task.labels) - 1), strategies.floats(width=32)
    three = dict.fromkeys(("min_size", "max_size"), 3)

    @hypothesis.settings(max_examples=10)
    @hypothesis.given(strategies.lists(numbers if task.kind == "regression" else labels, **three))
    def scored(answers: list[float]) -> None:
        scores, unscored = score(Scoring(task, examples, answers))
        assert unscored is None
        assert len(scores.per_example) == 3

    scored()


@hypothesis.given(texts)
def test_a_storable_text_is_itself_without_surrogates(text: str) -> None:
    text_stored = storable(text)
    assert len(text_stored) == len(text)
    assert text_stored.encode("utf-8").decode("utf-8") == text_stored
    assert all(a == b or "\ud800" <= b <= "\udfff" for a, b in zip(text_stored, text, strict=True))


class Bad(GSMSymbolic):
    """Its scorer ends in its way."""

    way: str

    def score(self, examples: Sequence[Example], answers: Sequence[Answer]) -> Scores:
        return {
            "raises": self._raises,
            "crashes": lambda: os.kill(os.getpid(), signal.SIGSEGV),
            "exits": lambda: os._exit(3),
            "hangs": lambda: time.sleep(60),
            "nan": lambda: Scores({"exact_match": float("nan")}, [0.0] * len(answers)),
            "too few": lambda: Scores({"exact_match": 1.0}, [1.0]),
        }[self.way]() or Scores({}, [])

    def _raises(self) -> None:
        raise ValueError("first line\nlast line \ud800")


class Raises(Bad):
    way = "raises"


class Crashes(Bad):
    way = "crashes"


class Exits(Bad):
    way = "exits"


class Hangs(Bad):
    way = "hangs"


class NaN(Bad):
    way = "nan"


class TooFew(Bad):
    way = "too few"


WAYS = [
    (Raises, "ValueError: last line ?"),
    (Crashes, "the process was ended by SIGSEGV"),
    (Exits, "the process ended with exit status 3 and left no record"),
    (Hangs, "not done after 1 s"),
    (NaN, "ValueError: exact_match is nan"),
    (TooFew, "ValueError: 1 scores of 2 answers"),
]


@pytest.mark.parametrize(("task", "reason"), WAYS)
def test_however_a_scorer_ends_it_is_said(task: type[Bad], reason: str) -> None:
    examples = [Example(id="0", text="?", target=" #### 7")] * 2
    scores, unscored = score_apart(
        Scoring(task(), examples, ["1", "2"]), 60 if task is not Hangs else 1
    )
    assert unscored == reason
    assert (scores.metrics, scores.per_example) == ({}, [None, None])


def test_scoring_ends_with_who_asked_for_it() -> None:
    ours, theirs = multiprocessing.Pipe()
    theirs.close()
    _, unscored = score_apart(Scoring(Hangs(), [], []), 600, ours)
    assert unscored == "not done after 600 s"  # else it would have ended after 60


def test_scores_made_apart_are_the_tasks_own() -> None:
    examples = [Example(id="0", text="?", target=" #### 7")] * 2
    answers = ["#### 7", "#### 8"]
    scores = score_apart(Scoring(GSMSymbolic(), examples, answers))
    assert scores == (GSMSymbolic().score(examples, answers), None)


def test_what_scoring_costs_is_the_scores_alone(
    small_decoder: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted = spec(small_decoder, task="gsm_symbolic")
    whole = run(wanted)
    monkeypatch.setitem(TASKS, "gsm_symbolic", Crashes)
    failed = run(wanted, tmp_path / "adapters")
    assert failed.record.error == "scoring: the process was ended by SIGSEGV"
    assert failed.record.status == "failed"
    assert failed.record.metrics == {"nll": whole.record.metrics["nll"], "exact_match": None}
    for measured in ("curve", "footprint", "dtypes", "data"):
        assert getattr(failed.record, measured) == getattr(whole.record, measured)
    assert failed.record.timing is not None
    assert failed.predictions is not None
    assert whole.predictions is not None
    assert not list(failed.predictions["score"].dropna())
    kept = ["id", "sample", "nll", "count", "answer"]
    assert failed.predictions[kept].equals(whole.predictions[kept])
    assert (tmp_path / "adapters" / wanted.run_id).is_dir()
    store = Store(tmp_path / "store")
    assert store.write(failed.record, failed.predictions).predictions is not None
    assert store.check() == []
    assert store.predictions(wanted.run_id)["answer"].equals(whole.predictions["answer"])


def test_a_run_that_ends_while_it_is_scored_is_a_record(
    small_decoder: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    local = LocalExecutor()

    def ends(scoring: Scoring, *_: object) -> Scored:
        (process,) = local._processes
        process.kill()
        process.join()
        return Scores({}, [None] * len(scoring.answers)), "wanted no more"

    monkeypatch.setattr(executor, "score_apart", ends)
    record = local.submit(spec(small_decoder, task="gsm_symbolic")).result().record
    local.close()
    assert record.status == "failed"
    assert record.error is not None
    assert "SIGKILL" in record.error


def test_answers_are_scored_within_what_a_run_has_left(small_decoder: str) -> None:
    local = LocalExecutor()
    record = local.submit(spec(small_decoder, task="gsm_symbolic")).result().record
    local.close()
    assert record.status == "done", record.error
    assert record.metrics["exact_match"] is not None
