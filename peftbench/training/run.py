"""One run: names become objects, objects become a record."""

import os
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pandas as pd
import torch
import transformers

from peftbench.errors import InputError
from peftbench.methods import METHODS, files
from peftbench.methods.base import AbstractMethod
from peftbench.record import SCHEMA, Cost, Data, Environment, Point, Record, Status
from peftbench.sandbox import execute
from peftbench.spec import RunSpec
from peftbench.tasks import TASKS
from peftbench.tasks.base import AbstractTask, Example, Split, fingerprint, sample
from peftbench.training import loop, measure, singular_values
from peftbench.training.cost import cost
from peftbench.training.evaluation import Loaded, evaluate, likelihood
from peftbench.training.generation import lacks_memory
from peftbench.training.models import AbstractSubject, load, skeleton


@dataclass(frozen=True)
class Outcome:
    """A record and, if the run came that far, one row per scored example."""

    record: Record
    predictions: pd.DataFrame | None


def prepare(specs: Sequence[RunSpec]) -> None:
    """Try everything that can be wrong with a spec and is cheap to try: the task's data, the
    model's configuration, the method's fit to its structure. Raises InputError."""
    for spec in {(spec.task, spec.data, *_splits(spec)): spec for spec in specs}.values():
        task = TASKS[spec.task]()
        for split in _splits(spec):
            _examples(task, split, None, spec.task)
        _shots(task, spec)
    seen: set[tuple[Any, ...]] = set()
    for spec in specs:
        key = (spec.model, spec.task, spec.method, repr(spec.args))
        if key in seen:
            continue
        seen.add(key)
        task = TASKS[spec.task]
        METHODS[spec.method].build(spec.args).attach(
            skeleton(spec.model, task.kind, _labels(task)), torch.Generator()
        )


@dataclass(frozen=True)
class Found:
    """What a run that ended well has to say."""

    metrics: dict[str, float | None]
    curve: tuple[Point, ...]
    cost: Cost
    data: Data
    predictions: pd.DataFrame


def _never(step: int, valid_nll: float) -> bool:
    return False


def run(
    spec: RunSpec, adapter_folder: Path | None = None, enough: Callable[[int, float], bool] = _never
) -> Outcome:
    """Carry out `spec`; `enough` sees every step with a valid nll and says whether to end there.

    That, divergence, lack of memory and failures are records with a status; nothing is raised but
    KeyboardInterrupt.
    """
    started, start = datetime.now(UTC), time.perf_counter()
    _prepare_process(spec.seed)
    device = measure.choose_device()
    environment = measure.environment(
        device, execute.confinement() if TASKS[spec.task].kind == "generation" else None
    )
    found: Found | None = None
    status: Status = "done"
    problem: str | None = None
    curve: tuple[Point, ...] = ()
    try:
        found = _run(spec, device, adapter_folder, enough)
        curve = found.curve
    except loop.PrunedError as error:
        status, problem, curve = "pruned", str(error), error.curve
    except loop.DivergenceError as error:
        status, problem, curve = "diverged", str(error), error.curve
    except (torch.OutOfMemoryError, MemoryError) as error:
        status, problem = "out-of-memory", _last_line(error)
    except InputError as error:
        status, problem = "failed", str(error)
    # whatever a model, a task or a method can raise: the suite goes on, and the record says what it
    # was
    except Exception as error:
        status, problem = "out-of-memory" if lacks_memory(error) else "failed", _last_line(error)
        traceback.print_exc()
    record = _record(
        spec,
        status,
        problem,
        started,
        time.perf_counter() - start,
        device,
        environment,
        curve,
        found,
    )
    return Outcome(record, found.predictions if found else None)


def ended(spec: RunSpec, status: Status, error: str, started: datetime, seconds: float) -> Record:
    """The record of a run whose process ended before it could write one."""
    device = measure.choose_device()
    return _record(
        spec, status, error, started, seconds, device, measure.environment(device), (), None
    )


def _record(
    spec: RunSpec,
    status: Status,
    error: str | None,
    started: datetime,
    seconds: float,
    device: torch.device,
    environment: Environment,
    curve: tuple[Point, ...],
    found: Found | None,
) -> Record:
    return Record(
        schema=SCHEMA,
        run_id=spec.run_id,
        started=started,
        seconds=seconds,
        device=device.type,
        status=status,
        error=error,
        spec=spec,
        primary=TASKS[spec.task].primary,
        metrics=found.metrics if found else {},
        curve=curve,
        cost=found.cost if found else None,
        data=found.data if found else None,
        environment=environment,
    )


def _last_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[-1]}" if lines else type(error).__name__


def _labels(task: type[AbstractTask]) -> int:
    return len(task.labels) if task.kind == "classification" else 1


def _prepare_process(seed: int) -> None:
    """Seed what draws from global generators (a new head's initial values, dropout masks) and
    demand repeatable kernels."""
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # needed by deterministic cuBLAS
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    torch.manual_seed(seed)
    torch.use_deterministic_algorithms(
        True, warn_only=True
    )  # a model may need a CUDA kernel that has no repeatable form
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()


def _run(
    spec: RunSpec,
    device: torch.device,
    adapter_folder: Path | None,
    enough: Callable[[int, float], bool],
) -> Found:
    task, method = TASKS[spec.task](), METHODS[spec.method].build(spec.args)
    limits: dict[Split, int | None] = {
        "train": spec.data.train,
        "valid": spec.data.valid,
        "test": spec.data.test,
    }
    examples: dict[Split, list[Example]] = {
        split: _examples(task, split, limits[split], spec.task) for split in _splits(spec)
    }
    shots = _shots(task, spec)

    subject = load(
        spec.model,
        task.kind,
        _labels(type(task)),
        device=device,
        dtype=measure.choose_dtype(device, spec.train.dtype),
        max_length=spec.data.max_length,
    )
    total_params = sum(p.numel() for p in subject.net.parameters())
    data = {
        split: Loaded(found, [subject.encode(example) for example in found])
        for split, found in examples.items()
    }
    cuda = measure.CudaMeter(device)

    before = (
        singular_values.weights(subject.net)
        if method.keeps == "model" and spec.split == "test"
        else {}
    )
    optimizer = attach(method, subject, spec)
    batches = loop.plan(
        [item.length for item in data["train"].items],
        spec.train.batch_size,
        spec.train.steps,
        spec.seed,
    )
    torch.manual_seed(spec.seed)  # the same dropout masks follow, whatever loading drew
    training = loop.Training()
    if optimizer is not None:
        with cuda.phase("train"):
            training = _train(spec, method, subject, optimizer, data, batches, enough)

    with cuda.phase("eval"):
        scored = evaluate(subject, task, data[spec.split], spec.data, spec.seed, shots)
    if adapter_folder is not None:
        files.save(
            method, subject.net, subject.head, adapter_folder / spec.run_id, base_model=spec.model
        )
    costs = cost(
        spec,
        method,
        subject,
        optimizer,
        data["train"].items,
        batches,
        training,
        scored,
        cuda,
        total_params,
    )
    curve = training.curve
    if spec.split == "valid":
        curve.append(Point(step=len(training.curve), valid_loss=scored.metrics["nll"]))
    counts = {str(split): len(part.items) for split, part in data.items()}
    counts |= {
        f"{split}_truncated": sum(item.truncated for item in part.items)
        for split, part in data.items()
    }
    counts |= {f"{spec.split}_{name}": number for name, number in scored.counts.items()}
    return Found(
        metrics=scored.metrics | (singular_values.spectra(before, subject.net) if before else {}),
        curve=tuple(curve),
        cost=costs,
        data=Data(
            source=task.source.name,
            revision=task.source.revision,
            fingerprint=fingerprint(examples),
            counts=counts,
        ),
        predictions=scored.predictions,
    )


def _splits(spec: RunSpec) -> list[Split]:
    """The splits that a run reads."""
    wanted: list[Split] = ["train", *(["valid"] if spec.train.eval_every else []), spec.split]
    return list(dict.fromkeys(wanted))


def _examples(task: AbstractTask, split: Split, n: int | None, name: str) -> list[Example]:
    """`n` examples of a split. Raises InputError where there are none."""
    found = sample(task.examples(split), n)
    if not found:
        raise InputError(f"task {name!r}: split {split!r} is empty")
    return found


def _shots(task: AbstractTask, spec: RunSpec) -> list[Example]:
    """The training examples before every prompt: the same for all prompts and seeds, and among
    those trained on.

    Raises InputError where there are fewer of those.
    """
    wanted = spec.data.shots
    if not wanted:
        return []
    examples = task.examples("train")
    trained = len(sample(examples, spec.data.train))
    if trained < wanted:
        raise InputError(
            f"data.shots = {wanted}, but task {spec.task!r} trains on {trained} examples only"
        )
    return sample(examples, wanted)


def attach(
    method: AbstractMethod, subject: AbstractSubject, spec: RunSpec
) -> torch.optim.Optimizer | None:
    """Attach the method, add the head's own group, and make the optimizer; None where nothing is
    trained."""
    method.attach(subject.net, torch.Generator().manual_seed(spec.seed))
    head = subject.head_parameters()
    for parameter in head:
        parameter.requires_grad_(True)
    outside = {id(parameter) for parameter in head}
    own = [p for p in subject.net.parameters() if p.requires_grad and id(p) not in outside]
    groups = method.param_groups(own, subject.net, spec.train.lr) if own else []
    groups.append({"params": head, "lr": spec.train.head_lr})
    return loop.make_optimizer(groups, spec.train) if own or head else None


def _train(
    spec: RunSpec,
    method: AbstractMethod,
    subject: AbstractSubject,
    optimizer: torch.optim.Optimizer,
    data: dict[str, Loaded],
    batches: list[list[int]],
    enough: Callable[[int, float], bool],
) -> loop.Training:
    items = data["train"].items

    def forward(step: int) -> loop.Step:
        batch = subject.collate([items[i] for i in batches[step - 1]])
        scored = subject.score(batch)
        return loop.Step(scored.nll.sum() / scored.count.sum(), batch.tokens, batch.padded)

    return loop.train(
        subject.net,
        optimizer,
        spec.train,
        forward,
        update=lambda step: method.update(subject.net, optimizer, step),
        evaluate=lambda: likelihood(subject, data["valid"].items).mean,
        enough=enough,
        device=subject.device,
    )
