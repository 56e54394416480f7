"""Searches without training: an experiment, and an executor whose runs follow a made-up curve."""

import math
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import optuna
from records import record as make_record

from peftbench.experiment import Experiment, read_experiment
from peftbench.record import Point, Record
from peftbench.spec import Precision, RunSpec
from peftbench.store import Store
from peftbench.training.executor import Watch
from peftbench.training.run import RunResult
from peftbench.tuning.search import StudyResult, carry_out
from peftbench.tuning.storage import Search, create_studies, open_storage
from peftbench.tuning.studies import Study, studies

FILE = """
question = "Which rates?"
model = "minilm-l6"
pooling = "model"  # as when the names of studies were pinned
task = ["reviews"]
seeds = [0, 1]
train = { steps = 27, batch_size = 4 }
search = { trials = 9, pruner = "halving" }

[[arm]]
method = "lora"
space = { "train.head_lr" = false }

[[arm]]
method = "lora+"
space = { "train.head_lr" = false }

[[arm]]
method = "frozen"
space = { "train.head_lr" = false }
"""
# Of one number, to the end of every trial.
ALONE = FILE.replace('\n[[arm]]\nmethod = "lora+"\nspace = { "train.head_lr" = false }\n', "")
ALONE = ALONE.replace(', pruner = "halving"', "")
FOLDER = "cpu-amd-epyc-2-threads"  # of the made-up records


def loss(spec: RunSpec, step: int, best: float = 1e-3) -> float:
    """A made-up curve: the nearer the learning rate to the best one (in decades), the lower at
    every step."""
    return 0.3 + 0.1 * math.log10(spec.train.lr / best) ** 2 + 0.5 / (1 + step)


class FakeExecutor:
    """An executor that trains nothing: its runs follow `curve`."""

    def __init__(
        self, curve: Any = loss, die_after: int | None = None, predictions: Any = None
    ) -> None:
        """predictions: makes a run's table of them."""
        self.curve, self.die_after, self.predictions = curve, die_after, predictions
        self.ran: list[RunSpec] = []

    def submit(self, spec: RunSpec, watch: Watch | None = None) -> Future[RunResult]:
        if self.die_after is not None and len(self.ran) >= self.die_after:
            raise KeyboardInterrupt
        self.ran.append(spec)
        future: Future[RunResult] = Future()
        record, table = self._record(spec, watch), None
        if self.predictions is not None and record.status == "done":
            table = self.predictions()
        future.set_result(RunResult(record, table))
        return future

    def _record(self, spec: RunSpec, watch: Watch | None) -> Record:
        points: list[Point] = []
        for step in range(1, spec.train.steps + 1):
            every = spec.train.eval_every
            validated = every and step % every == 0 and step < spec.train.steps
            nll = self.curve(spec, step) if validated else None
            if nll is not None and not math.isfinite(nll):
                break
            points.append(Point(step=step, train_loss=1.0, valid_loss=nll))
            if nll is not None and watch is not None and watch(step, nll):
                return make_record(spec=spec, status="pruned", curve=tuple(points))
        final = self.curve(spec, spec.train.steps)
        if not math.isfinite(final):
            return make_record(spec=spec, status="diverged", curve=tuple(points))
        metrics = {"accuracy": 0.5, "nll": final}
        return make_record(spec=spec, curve=tuple(points), metrics=metrics)

    def places(self) -> int:
        return 1

    def close(self) -> None:
        pass


def experiment(folder: Path, text: str = FILE) -> Experiment:
    file = folder / "e.toml"
    file.write_text(text)
    return read_experiment(file)


def studies_of(what: Experiment, auto_precision: Precision = "float32") -> list[Study]:
    return studies(what, "e", auto_precision)


def begin(folder: Path, what: Experiment, url: str = "studies.journal", say: Any = None) -> Search:
    folder.mkdir(exist_ok=True)
    say = say or (lambda line: None)
    storage = open_storage(url if "://" in url else str(folder / url), say)
    return Search(
        studies=create_studies(studies_of(what), storage, say),
        storage=storage,
        store=Store(folder / "results"),
        folder=FOLDER,
        say=say,
    )


def search(
    folder: Path, what: Experiment, *executors: FakeExecutor, url: str = "studies.journal"
) -> list[StudyResult]:
    return carry_out(begin(folder, what, url), executors or (FakeExecutor(),))


def trials(folder: Path) -> dict[str, list[optuna.trial.FrozenTrial]]:
    storage = open_storage(str(folder / "studies.journal"))
    return {
        study.study_name: storage.get_all_trials(study._study_id)
        for study in storage.get_all_studies()
    }
