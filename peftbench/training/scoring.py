"""The task's scores of a run's answers, made so that nothing in them can end the run."""

import contextlib
import math
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from pathlib import Path

from peftbench.tasks.base import AbstractTask, Answer, Example, Scores, storable
from peftbench.training import processes

LIMIT = 1_000_000.0  # seconds: no system call waits longer than 24 days


@dataclass(frozen=True)
class Scoring:
    """Answers to be scored, one for each example."""

    task: AbstractTask
    examples: Sequence[Example]
    answers: Sequence[Answer]


# The scores, and in one line why there are none, if there are none.
Scored = tuple[Scores, str | None]
Scorer = Callable[[Scoring], Scored]


def score(scoring: Scoring) -> Scored:
    """The scores, made in this process: of labels and numbers."""
    try:
        scores = scoring.task.score(scoring.examples, scoring.answers)
        if len(scores.per_example) != len(scoring.answers):
            raise ValueError(f"{len(scores.per_example)} scores of {len(scoring.answers)} answers")
        for name, value in scores.metrics.items():
            if value is not None and not math.isfinite(value):
                raise ValueError(f"{name} is {value}")
    # whatever a task can raise: what was measured before is worth more than its scores
    except Exception as error:
        return _unscored(scoring, one_line(error))
    return scores, None


def score_apart(
    scoring: Scoring, seconds: float = LIMIT, asker: Connection | None = None
) -> Scored:
    """The scores, made in a process of their own, which may crash or take too long: of generated
    text. seconds: by the clock, for all answers. asker: to who waits for them; when it closes, they
    are wanted no more."""
    try:
        process, ours = processes.start(_work, dict(os.environ), scoring)
    except OSError as error:
        return _unscored(scoring, one_line(error))
    try:
        if ours not in wait([ours, *([asker] if asker else [])], min(seconds, LIMIT)):
            return _unscored(scoring, f"not done after {seconds:.0f} s")
        return ours.recv()
    except (EOFError, ConnectionError):
        return _unscored(scoring, processes.how_it_ended(process))
    finally:
        processes.end(process)
        ours.close()


def one_line(error: Exception) -> str:
    """The type of an error and the last line of its text."""
    last_line = storable(str(error)).strip().splitlines()[-1:]
    return ": ".join([type(error).__name__, *last_line])


def _unscored(scoring: Scoring, reason: str) -> Scored:
    return Scores({}, [None] * len(scoring.answers)), reason


def _work(parent_end: Connection, environment: dict[str, str], scoring: Scoring) -> None:
    os.environ.update(environment)  # the fork server's is that of its start
    with contextlib.suppress(OSError):  # when memory runs out, Linux ends this process, not the run
        Path("/proc/self/oom_score_adj").write_text("1000")
    parent_end.send(score(scoring))
