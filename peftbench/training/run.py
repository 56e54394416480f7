"""One run: its stages in order, and the record that they leave."""

import time
import traceback
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from torch import Tensor

from peftbench.errors import InputError, UnsupportedError
from peftbench.methods import files
from peftbench.methods.linear import layers, left_out, replaced
from peftbench.methods.quantized import QuantizedLinear
from peftbench.record import Data, Dtypes, Environment, Point, Record
from peftbench.sandbox import execute
from peftbench.spec import RunSpec
from peftbench.tasks import TASKS
from peftbench.tasks.base import fingerprint, storable
from peftbench.training.environment import choose_device, describe_environment, load_average
from peftbench.training.evaluation import Evaluation, evaluate, evaluate_forward
from peftbench.training.fine_tuning import FineTuning, set_up
from peftbench.training.footprint import footprint
from peftbench.training.generation import lacks_memory
from peftbench.training.loop import EndedError, Watch, train
from peftbench.training.micro_batches import fitted
from peftbench.training.requantization import requantized
from peftbench.training.scoring import Scorer, one_line, score_apart
from peftbench.training.singular_values import (
    TRUNCATED_RANK,
    spectra,
    trained_weights,
    truncated,
)
from peftbench.training.timing import cuda_memory, timing, with_cuda_peaks

FEW_TOKENS = 8  # of the example that shows the logits' dtype


@dataclass(frozen=True)
class RunResult:
    """A record and, if the run came that far, one row per scored example."""

    record: Record
    predictions: pd.DataFrame | None


def never(step: int, valid_nll: float) -> bool:
    """The watch that ends no run."""
    return False


def check_confinement(specs: Iterable[RunSpec], unconfined: bool) -> None:
    """Raise InputError if some of the runs execute what a model wrote where the system does not
    confine it and `unconfined` does not permit that."""
    tasks = sorted({spec.task for spec in specs if TASKS[spec.task].runs_code})
    if tasks and not unconfined and not execute.confined():
        raise InputError(
            f"task {', '.join(tasks)}: runs programs that a model wrote, and this system does not "
            f"confine them ({execute.confinement()}): permit it by --unconfined (from Python: "
            "unconfined=True), or leave the task out"
        )


def run(
    spec: RunSpec,
    adapter_folder: Path | None = None,
    watch: Watch = never,
    scorer: Scorer = score_apart,
    *,
    unconfined: bool = False,
) -> RunResult:
    """Carry out `spec`.

    adapter_folder: where the files of the trained model go, in a folder named by the run's id.
    watch: sees every step with a valid nll and says whether to end there. unconfined: a task may
    run programs that a model wrote although the system does not confine them. A run that it ends,
    divergence, lack of memory and failures are records with a status; nothing is raised but
    KeyboardInterrupt.
    scorer: asks the task for the scores of generated answers. Without them the run is failed, and
    leaves everything else.
    """
    started, start, device = datetime.now(UTC), time.perf_counter(), choose_device()
    runs_code = TASKS[spec.task].runs_code
    confinement = execute.confinement() if runs_code else None
    environment = describe_environment(device, confinement, spec.base)
    predictions: pd.DataFrame | None = None
    try:
        check_confinement([spec], unconfined)
        outcome, predictions = _stages(spec, device, adapter_folder, watch, scorer)
    # whatever a model, a task or a method can raise: the record says what it was
    except Exception as error:
        outcome = _failure(error)
    environment = environment.model_copy(update={"load_at_end": load_average()})
    return RunResult(make_record(spec, started, start, environment, outcome), predictions)


def make_record(
    spec: RunSpec,
    started: datetime,
    start: float,
    environment: Environment,
    outcome: dict[str, Any],
) -> Record:
    """The record of a run that began at `started`, by the performance counter at `start`. outcome:
    the fields that say how it went."""
    fields: dict[str, Any] = {"metrics": {}} | outcome
    return Record(
        run_id=spec.run_id,
        started=started,
        seconds=time.perf_counter() - start,
        device=choose_device().type,
        spec=spec,
        primary=TASKS[spec.task].primary,
        environment=environment,
        **fields,
    )


def _stages(
    spec: RunSpec,
    device: torch.device,
    adapter_folder: Path | None,
    watch: Watch,
    scorer: Scorer,
) -> tuple[dict[str, Any], pd.DataFrame]:
    """The stages of a run that ends well, but for its scores: fields of its record, and its
    predictions."""
    tuning = fitted(set_up(spec, device))
    net, head = tuning.model.net, tuning.model.head
    before = trained_weights(net) if spec.split == "test" else {}
    log, train_peaks = with_cuda_peaks(device, lambda: train(tuning, watch))
    evaluation, eval_peaks = with_cuda_peaks(device, lambda: evaluate(tuning, scorer))
    changes = spectra(before, net) | truncated_scores(before, tuning) | requantized(net)
    if adapter_folder is not None:
        folder = adapter_folder / spec.run_id
        tokenizer = tuning.model.tokenizer
        files.save(tuning.method, net, head, folder, base_model=spec.model, tokenizer=tokenizer)
    size = footprint(tuning)
    curve = log.curve
    if spec.split == "valid":  # its nll after the last step belongs to the curve
        curve = [*curve, Point(step=len(curve), valid_loss=evaluation.metrics["nll"])]
    unscored = evaluation.unscored
    return {
        "status": "done" if unscored is None else "failed",
        "error": None if unscored is None else f"scoring: {unscored}",
        "metrics": evaluation.metrics | changes,
        "curve": curve,
        "footprint": size,
        "timing": timing(tuning, log, evaluation, size),
        "cuda": cuda_memory(train_peaks, eval_peaks),
        "dtypes": dtypes(tuning),
        "data": _data(tuning, evaluation),
        "notes": notes(tuning),
    }, evaluation.predictions


def truncated_scores(before: Mapping[str, Tensor], tuning: FineTuning) -> dict[str, float | None]:
    """What the network scores with the first eight directions of each weight's change alone, and
    everything else as it was trained: `nll.rank8`, and the primary metric likewise. before: the
    weights at first; empty without weights."""
    if not before:
        return {}
    with replaced(tuning.model.net, truncated(before, tuning.model.net)):
        scores = evaluate_forward(tuning)
    return {f"{name}.rank{TRUNCATED_RANK}": value for name, value in scores.items()}


def _failure(error: Exception) -> dict[str, Any]:
    """What a record says of a run that an error ended."""
    if isinstance(error, EndedError):
        return {"status": error.status, "error": str(error), "curve": error.curve}
    if isinstance(error, InputError):
        status = "skipped" if isinstance(error, UnsupportedError) else "failed"
        return {"status": status, "error": storable(str(error))}
    if not (short := lacks_memory(error)):
        traceback.print_exception(error)
    return {"status": "out-of-memory" if short else "failed", "error": one_line(error)}


def dtypes(tuning: FineTuning) -> Dtypes:
    """Those of the tensors there are: the optimizer has moments from its first step on."""
    net, optimizer = tuning.model.net.eval(), tuning.optimizer
    parameters = list(net.parameters())
    quantized = {layer.format for layer in layers(net, QuantizedLinear).values()}
    # a buffer of integers, such as the numbers of positions, says nothing about precision
    buffers = [buffer for buffer in net.buffers() if buffer.is_floating_point()]
    states = optimizer.state.values() if optimizer is not None else ()
    inputs = tuning.model.collate(tuning.data["train"].items[:1]).inputs
    with torch.inference_mode(), tuning.model.computing():
        output = net(**{name: tensor[:, :FEW_TOKENS] for name, tensor in inputs.items()})
    return Dtypes(
        weights=_names([*(p for p in parameters if not p.requires_grad), *buffers], quantized),
        trained=_names(p for p in parameters if p.requires_grad),
        optimizer=_names(m for state in states for name, m in state.items() if name != "step"),
        logits=_names([output.logits]),
    )


def notes(tuning: FineTuning) -> tuple[str, ...]:
    """What a reader of the numbers should know: how much of the base is quantised, that
    "all-linear" does not reach all, or that no step reached all that is trained."""
    found: list[str] = []
    if quantized := list(layers(tuning.model.net, QuantizedLinear).values()):
        kept = sum(layer.in_features * layer.out_features for layer in quantized)
        found.append(
            f"{kept:,} of {tuning.total_params:,} parameters are kept as {tuning.spec.base}; what "
            "is merged is dequantised and stays plain (metrics.requantized: what quantising it "
            "again would lose)"
        )
    if getattr(tuning.method, "targets", None) == "all-linear" and (
        missed := left_out(tuning.model.net)
    ):
        found.append(f"all-linear {missed}")
    if (optimizer := tuning.optimizer) is not None:
        still = [
            p.numel()
            for g in optimizer.param_groups
            for p in g["params"]
            if p not in optimizer.state
        ]
        if still:
            found.append(f"{sum(still):,} trained parameters had no gradient in any step")
    return tuple(found)


def _names(tensors: Iterable[Tensor], others: Iterable[str] = ()) -> tuple[str, ...]:
    names = {str(tensor.dtype).removeprefix("torch.") for tensor in tensors}
    return tuple(sorted(names.union(others)))


def _data(tuning: FineTuning, evaluation: Evaluation) -> Data:
    counts: dict[str, int] = {}
    for split, part in tuning.data.items():
        counts[split] = len(part.items)
        counts[f"{split}_truncated"] = sum(item.truncated for item in part.items)
    counts |= {f"{tuning.spec.split}_{name}": n for name, n in evaluation.counts.items()}
    return Data(
        source=tuning.task.source.name,
        revision=tuning.task.source.revision,
        fingerprint=fingerprint({split: part.examples for split, part in tuning.data.items()}),
        counts=counts,
    )
