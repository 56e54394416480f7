"""One run: its stages in order, and the record that they leave."""

import time
import traceback
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pandas as pd
import torch

from peftbench.errors import InputError
from peftbench.methods import files
from peftbench.record import Data, Environment, Point, Record, Status
from peftbench.sandbox import execute
from peftbench.spec import RunSpec
from peftbench.tasks import TASKS
from peftbench.tasks.base import fingerprint
from peftbench.training.dtypes import dtypes
from peftbench.training.environment import choose_device, describe_environment, load_average
from peftbench.training.evaluation import Evaluation, evaluate
from peftbench.training.fine_tuning import FineTuning, set_up
from peftbench.training.footprint import footprint
from peftbench.training.generation import lacks_memory
from peftbench.training.loop import DivergenceError, PrunedError, TrainingLog, Watch, train
from peftbench.training.singular_values import spectra, trained_weights
from peftbench.training.timing import CudaMeter, timing


@dataclass(frozen=True)
class RunResult:
    """A record and, if the run came that far, one row per scored example."""

    record: Record
    predictions: pd.DataFrame | None


def never(step: int, valid_nll: float) -> bool:
    """The watch that ends no run."""
    return False


def run(spec: RunSpec, adapter_folder: Path | None = None, watch: Watch = never) -> RunResult:
    """Carry out `spec`.

    adapter_folder: where the files of the trained model go, in a folder named by the run's id.
    watch: sees every step with a valid nll and says whether to end there. A run that it ends,
    divergence, lack of memory and failures are records with a status; nothing is raised but
    KeyboardInterrupt.
    """
    started, start, device = datetime.now(UTC), time.perf_counter(), choose_device()
    generates = TASKS[spec.task].kind == "generation"
    environment = describe_environment(device, execute.confinement() if generates else None)
    predictions: pd.DataFrame | None = None
    try:
        outcome, predictions = _stages(spec, device, adapter_folder, watch)
    # whatever a model, a task or a method can raise: the record says what it was
    except Exception as error:
        outcome = _failure(error)
    environment = environment.model_copy(update={"load_at_end": load_average()})
    seconds = time.perf_counter() - start
    return RunResult(_record(spec, started, seconds, device, environment, **outcome), predictions)


def _stages(
    spec: RunSpec, device: torch.device, adapter_folder: Path | None, watch: Watch
) -> tuple[dict[str, Any], pd.DataFrame]:
    """The stages of a run that ends well: fields of its record, and its predictions."""
    tuning = set_up(spec, device)
    net, optimizer, head = tuning.model.net, tuning.optimizer, tuning.model.head
    memory = CudaMeter(device)
    before = trained_weights(net) if spec.split == "test" else {}
    with memory.phase("train"):
        log = train(tuning, watch)
    with memory.phase("eval"):
        evaluation = evaluate(tuning)
    changes = spectra(before, net)
    if adapter_folder is not None:
        folder = adapter_folder / spec.run_id
        files.save(tuning.method, net, head, folder, base_model=spec.model)
    largest = tuning.largest_batch()
    size = footprint(
        tuning.method,
        net,
        optimizer,
        lambda: tuning.loss(largest),
        total_params=tuning.total_params,
        step=spec.train.steps + 1,
        head=head,
    )
    return {
        "status": "done",
        "metrics": evaluation.metrics | changes,
        "curve": _curve(spec, log, evaluation),
        "footprint": size,
        "timing": timing(tuning, log, evaluation, size),
        "cuda": memory.peaks(),
        "dtypes": dtypes(tuning),
        "data": _data(tuning, evaluation),
    }, evaluation.predictions


def record_of_lost_process(
    spec: RunSpec, status: Status, error: str, started: datetime, seconds: float
) -> Record:
    """The record of a run whose process ended before it could make one."""
    device = choose_device()
    environment = describe_environment(device)
    return _record(spec, started, seconds, device, environment, status=status, error=error)


def _failure(error: Exception) -> dict[str, Any]:
    """What a record says of a run that an error ended."""
    if isinstance(error, PrunedError):
        return {"status": "pruned", "error": str(error), "curve": error.curve}
    if isinstance(error, DivergenceError):
        return {"status": "diverged", "error": str(error), "curve": error.curve}
    if isinstance(error, InputError):
        return {"status": "failed", "error": str(error)}
    status: Status = "out-of-memory" if lacks_memory(error) else "failed"
    if status == "failed":
        traceback.print_exception(error)
    lines = str(error).strip().splitlines()
    name = type(error).__name__
    return {"status": status, "error": f"{name}: {lines[-1]}" if lines else name}


def _record(
    spec: RunSpec,
    started: datetime,
    seconds: float,
    device: torch.device,
    environment: Environment,
    **outcome: Any,
) -> Record:
    return Record(
        run_id=spec.run_id,
        started=started,
        seconds=seconds,
        device=device.type,
        spec=spec,
        primary=TASKS[spec.task].primary,
        environment=environment,
        metrics=outcome.pop("metrics", {}),
        **outcome,
    )


def _curve(spec: RunSpec, log: TrainingLog, evaluation: Evaluation) -> tuple[Point, ...]:
    """The training curve; where `valid` was scored, with its nll after the last step."""
    if spec.split != "valid":
        return tuple(log.curve)
    return (*log.curve, Point(step=len(log.curve), valid_loss=evaluation.metrics["nll"]))


def _data(tuning: FineTuning, evaluation: Evaluation) -> Data:
    counts = {str(split): len(part.items) for split, part in tuning.data.items()}
    counts |= {
        f"{split}_truncated": sum(item.truncated for item in part.items)
        for split, part in tuning.data.items()
    }
    counts |= {f"{tuning.spec.split}_{name}": n for name, n in evaluation.counts.items()}
    return Data(
        source=tuning.task.source.name,
        revision=tuning.task.source.revision,
        fingerprint=fingerprint({split: part.examples for split, part in tuning.data.items()}),
        counts=counts,
    )
