"""Made-up records: complete, consistent, and different wherever a test asks for it."""

import random
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pandas as pd

from peftbench.record import (
    CudaMemory,
    CudaPeaks,
    Data,
    Dtypes,
    Environment,
    Footprint,
    Latency,
    Parts,
    Point,
    Record,
    Spread,
    Timing,
)
from peftbench.spec import DataSpec, LimitSpec, RunSpec, TrainSpec

TOTAL, HEAD = 22_713_986, 770  # parameters of the made-up model
TRAINED = {
    "full": TOTAL - HEAD,
    "frozen": 0,
    "lora": 663_552,
    "lora-fa": 331_776,
    "vera": 23_808,
    "delta-lora": 663_552,
    "lora+": 663_552,
}
PEAK = {
    "full": 480e6,
    "frozen": 121e6,
    "lora": 196e6,
    "lora-fa": 171e6,
    "vera": 163e6,
    "delta-lora": 254e6,
    "lora+": 197e6,
}
SCORE = {
    "full": 0.84,
    "frozen": 0.62,
    "lora": 0.81,
    "lora-fa": 0.79,
    "vera": 0.76,
    "delta-lora": 0.805,
    "lora+": 0.82,
}
ARGS: dict[str, dict[str, Any]] = {
    "full": {},
    "frozen": {},
    "lora": {"rank": 8, "alpha": 16.0, "dropout": 0.0, "targets": "all-linear"},
    "lora-fa": {"rank": 8, "alpha": 16.0, "dropout": 0.0, "targets": "all-linear"},
    "vera": {"rank": 256, "d_initial": 0.1, "targets": "all-linear"},
    "delta-lora": {
        "rank": 8,
        "alpha": 16.0,
        "lambda": 0.5,
        "start_step": 10,
        "targets": "all-linear",
    },
    "lora+": {"rank": 8, "alpha": 16.0, "ratio": 16.0, "targets": "all-linear"},
}
STARTED = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)


def spec(**changed: Any) -> RunSpec:
    """A spec; `args` and `train` are laid over the defaults, everything else replaces them."""
    method = changed.get("method", "lora")
    values: dict[str, Any] = {
        "model": "minilm",
        "task": "reviews",
        "task_version": 1,
        "method": method,
        "method_version": 1,
        "data": DataSpec(),
        "seed": 0,
        "split": "test",
        "limits": LimitSpec(),
    }
    args = ARGS.get(method, {"rank": 8}) | changed.pop("args", {})
    train: dict[str, Any] = {"lr": 3e-4, "precision": "float32"}
    train |= changed.pop("train", {})
    return RunSpec(**values | changed, args=args, train=TrainSpec(**train))


def environment(**changed: Any) -> Environment:
    values: dict[str, Any] = {
        "commit": "0" * 40,
        "dirty": False,
        "python": "3.11.9",
        "torch": "2.13.0",
        "transformers": "5.20.1",
        "threads": 2,
        "device_name": "AMD EPYC, 2 threads",
        "load_at_start": 0.25,
        "load_at_end": 0.9,
    }
    return Environment(**values | changed)


def takes_steps(method: str, *, generation: bool) -> bool:
    """Whether the run trains anything: a frozen language model has not even a head to train."""
    return method != "frozen" or not generation


def footprint(method: str, *, generation: bool) -> Footprint:
    """Parameters, bytes and FLOPs of a run of `method`."""
    trained, peak = TRAINED.get(method, 10_000), int(PEAK.get(method, 2e8))
    return Footprint(
        trained_params=trained,
        head_params=HEAD,
        updatable_params=TOTAL - HEAD if method == "delta-lora" else trained,
        total_params=TOTAL,
        optimizer_bytes=8 * (trained + HEAD),
        adapter_file_bytes=4 * trained + 512,
        peak_bytes=peak,
        peak_parts=Parts(
            weights=4 * TOTAL,
            gradients=4 * trained,
            optimizer=8 * trained,
            activations=1000,
            other=peak % 1000,
        ),
        flops_per_step=10**11 if takes_steps(method, generation=generation) else None,
    )


def timing(method: str, rng: random.Random, *, generation: bool) -> Timing:
    """Seconds and rates of a run of `method`."""
    steps = takes_steps(method, generation=generation)
    seconds = rng.uniform(0.05, 0.09)
    plain = Spread(median=0.004, iqr=0.0002, n=50)
    return Timing(
        step_seconds=Spread(median=seconds, iqr=seconds / 20, n=90) if steps else None,
        train_seconds=seconds * 100 if steps else None,
        tokens_per_second=600 / seconds if steps else None,
        utilization=0.5 if steps else None,
        eval_seconds=2.5,
        generated_tokens_per_second=41.0 if generation else None,
        latency_seconds=Latency(
            base=plain, adapted=plain.model_copy(update={"median": 0.005}), merged=plain
        ),
    )


def controlled(record: Record, ratio: float = 1.02) -> Record:
    """The record with the plain model timed twice, `ratio` times as long the second time."""
    assert record.timing
    assert record.timing.latency_seconds
    assert record.timing.latency_seconds.base
    base = record.timing.latency_seconds.base
    control = base.model_copy(update={"median": ratio * base.median})
    latency = record.timing.latency_seconds.model_copy(update={"control": control})
    timing = record.timing.model_copy(update={"latency_seconds": latency})
    return record.model_copy(update={"timing": timing})


def dtypes() -> Dtypes:
    float32 = ("float32",)
    return Dtypes(weights=float32, trained=float32, optimizer=float32, logits=float32)


def cuda_memory(method: str) -> CudaMemory:
    peak = int(PEAK.get(method, 2e8))
    return CudaMemory(
        allocated_bytes=CudaPeaks(train=peak, eval=None),
        reserved_bytes=CudaPeaks(train=None, eval=None),
    )


def record(*, status: str = "done", error: str | None = None, **changed: Any) -> Record:
    """A record. A keyword that names a field of Record changes the record, any other its spec; so
    does `data` where it is a DataSpec."""
    names = [
        name
        for name in changed
        if name in Record.model_fields and not isinstance(changed[name], DataSpec)
    ]
    own = {name: changed.pop(name) for name in names}
    run = own.pop("spec", None) or spec(**changed)
    rng = random.Random(run.run_id)
    score = SCORE.get(run.method, 0.7) + rng.gauss(0, 0.01)
    values: dict[str, Any] = {
        "run_id": run.run_id,
        "started": STARTED + timedelta(seconds=run.seed % 2**30),
        "seconds": 31.5,
        "device": "cpu",
        "status": status,
        "error": error,
        "spec": run,
        "primary": "accuracy",
        "metrics": {},
        "curve": tuple(Point(step=step, train_loss=1 / (step + 1), lr=1e-4) for step in range(10)),
        "data": Data(
            source="packaged",
            revision=None,
            fingerprint="f" * 64,
            counts={"train": run.data.train or 4000, "test": 50, "truncated": 0},
        ),
        "environment": environment(),
    }
    if status == "done":
        generation = run.task in ("gsm", "code")
        values |= {
            "metrics": {"accuracy": score, "f1": score - 0.01, "nll": 1.3 - score, "mcc": None},
            "footprint": footprint(run.method, generation=generation),
            "timing": timing(run.method, rng, generation=generation),
            "dtypes": dtypes(),
        }
        values["cuda"] = cuda_memory(run.method) if own.get("device") == "cuda" else None
    elif error is None:
        values["error"] = f"the run ended: {status}"
    return Record(**values | own)


def predictions(**changed: Any) -> pd.DataFrame:
    """A table of predictions. A keyword replaces a column, or adds one."""
    columns: dict[str, Any] = {
        "id": ["a", "b"],
        "target": [None, None],
        "nll": [0.5, 0.25],
        "count": [1, 2],
        "answer": ["1", "2|\n"],
        "score": [1.0, None],
    }
    return pd.DataFrame(columns | changed)


def many(n: int) -> list[Record]:
    """So many records of all methods on five tasks."""
    methods = [*ARGS]
    return [record(method=methods[i % 7], task=f"task{i % 5}", seed=i // 35) for i in range(n)]


def study(tasks: tuple[str, ...] = ("reviews", "sst2", "gsm"), seeds: int = 3) -> Iterator[Record]:
    """Every method on every task, with an arm more of LoRA and two runs that failed."""
    for seed in range(seeds):
        for task in tasks:
            for method in ARGS:
                yield record(method=method, task=task, seed=seed)
            yield record(method="lora", task=task, seed=seed, args={"alpha": 48.0})
    yield record(
        method="lora+",
        task=tasks[0],
        seed=seeds,
        status="diverged",
        error="loss is nan | step 17\nlast line",
    )
    yield record(
        method="galore", task=tasks[0], seed=0, status="failed", error="KeyError: 'weight'"
    )
