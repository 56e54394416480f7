"""What a run leaves behind (schema 1)."""

from datetime import datetime
from typing import Literal

from pydantic import Field, NonNegativeFloat, NonNegativeInt

from peftbench.spec import Frozen, RunSpec

SCHEMA = 1
Status = Literal["done", "pruned", "diverged", "out-of-memory", "timed-out", "failed"]


class Point(Frozen):
    """One step of the training curve; losses are nll per supervised token."""

    step: NonNegativeInt
    train_loss: float | None = None
    valid_loss: float | None = None
    lr: float | None = None


class Parts(Frozen):
    """What the bytes at the peak were made of."""

    weights: NonNegativeInt
    gradients: NonNegativeInt
    optimizer: NonNegativeInt
    activations: NonNegativeInt
    other: NonNegativeInt


class Spread(Frozen):
    """Seconds: median and interquartile range of n timed repetitions."""

    median: NonNegativeFloat
    iqr: NonNegativeFloat
    n: NonNegativeInt


class Latency(Frozen):
    """Seconds of one forward pass of one sequence: the plain model, with the adapter beside it, and merged."""

    base: Spread
    adapted: Spread
    merged: Spread


class CudaPeaks(Frozen):
    """CUDA's own peaks per phase, in bytes."""

    train: NonNegativeInt | None
    eval: NonNegativeInt | None


class Cost(Frozen):
    """Parameters, bytes and seconds. None where the run had no such thing (the frozen language model takes no step)."""

    trained_params: NonNegativeInt  # without the classification head
    head_params: NonNegativeInt
    updatable_params: NonNegativeInt  # parameters whose value the method changes (Delta-LoRA's W counts)
    total_params: NonNegativeInt  # of the plain model, head included
    optimizer_bytes: NonNegativeInt
    adapter_file_bytes: NonNegativeInt  # what must be stored or shipped beside the plain model
    peak_bytes: NonNegativeInt  # live tensor bytes at the peak of one training step on the largest batch
    peak_parts: Parts
    cuda_allocated_bytes: CudaPeaks | None
    cuda_reserved_bytes: CudaPeaks | None
    step_seconds: Spread | None  # warm-up dropped
    train_seconds: NonNegativeFloat  # optimizer steps only: no evaluation, no set-up
    eval_seconds: NonNegativeFloat
    tokens_per_second: NonNegativeFloat | None  # real tokens, no padding, over the timed steps
    generated_tokens_per_second: NonNegativeFloat | None
    flops_per_step: NonNegativeInt | None  # counted on the largest batch
    utilization: NonNegativeFloat | None  # FLOP/s over the timed steps (padding counts) relative to the measured GEMM peak
    latency_seconds: Latency


class Data(Frozen):
    """The data that the run saw."""

    source: str
    revision: str | None
    fingerprint: str  # SHA-256 over the examples used, in order
    counts: dict[str, NonNegativeInt]  # examples per split, and truncated ones


class Environment(Frozen):
    """Where the run took place."""

    commit: str | None
    dirty: bool | None
    python: str
    torch: str
    transformers: str
    threads: NonNegativeInt
    device_name: str
    load_average: float | None  # one minute, at the start; None where the system has none
    sandbox: str | None = None  # what confined generated code, if any was run


class Predictions(Frozen):
    """The parquet file beside the record."""

    rows: NonNegativeInt
    sha256: str


class Record(Frozen):
    """One run: what was to be done, what came out, what it cost."""

    run_id: str
    schema_version: Literal[1] = Field(SCHEMA, alias="schema")  # BaseModel has an attribute `schema` of its own
    started: datetime  # UTC
    seconds: NonNegativeFloat  # wall clock of the whole run
    device: str  # "cpu", "cuda"
    status: Status
    error: str | None = None  # the error's last line
    spec: RunSpec
    primary: str
    metrics: dict[str, float | None]  # a metric that is undefined here (one class only, say) is None
    curve: tuple[Point, ...] = ()
    cost: Cost | None = None
    data: Data | None = None
    environment: Environment
    predictions: Predictions | None = None
