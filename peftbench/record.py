"""What a run leaves behind (schema 2)."""

from datetime import datetime
from typing import Literal

from pydantic import Field, NonNegativeFloat, NonNegativeInt

from peftbench.spec import FrozenModel, RunSpec

SCHEMA = 2
Status = Literal["done", "pruned", "diverged", "out-of-memory", "timed-out", "failed"]


class Point(FrozenModel):
    """One step of the training curve; losses are nll per supervised token."""

    step: NonNegativeInt
    train_loss: float | None = None
    valid_loss: float | None = None
    lr: float | None = None


class Parts(FrozenModel):
    """What the bytes at the peak were made of."""

    weights: NonNegativeInt
    gradients: NonNegativeInt
    optimizer: NonNegativeInt
    activations: NonNegativeInt
    other: NonNegativeInt


class Spread(FrozenModel):
    """Seconds: median and interquartile range of n timed repetitions."""

    median: NonNegativeFloat
    iqr: NonNegativeFloat
    n: NonNegativeInt


class Latency(FrozenModel):
    """Seconds of one forward pass of one sequence. A method that leaves the model as it is has
    neither an adapted nor a merged form; one that cannot be merged has no merged form."""

    base: Spread | None = None
    """The plain model; null where it cannot be had back from the trained one."""
    adapted: Spread
    """The model as the method leaves it."""
    merged: Spread | None = None
    """With the adapter merged into the weights."""


class Footprint(FrozenModel):
    """Parameters, bytes and FLOPs, each null where the run had no such thing."""

    trained_params: NonNegativeInt
    """Without the classification head."""
    head_params: NonNegativeInt
    updatable_params: NonNegativeInt
    """Parameters whose value the method changes (Delta-LoRA's W counts)."""
    total_params: NonNegativeInt
    """Of the plain model, head included."""
    optimizer_bytes: NonNegativeInt
    adapter_file_bytes: NonNegativeInt | None
    """What must be stored or shipped beside the plain model; null: the method has no file."""
    peak_bytes: NonNegativeInt
    """Live tensor bytes at the peak of one training step on the largest batch; of a forward pass
    where nothing is trained."""
    peak_parts: Parts
    flops_per_step: NonNegativeInt | None
    """Counted on the largest batch; null: nothing is trained."""


class Timing(FrozenModel):
    """Seconds and rates, each null where the run had no such thing (the frozen language model takes
    no step)."""

    step_seconds: Spread | None
    """Of a training step, warm-up dropped."""
    train_seconds: NonNegativeFloat | None
    """Of all training steps: no evaluation, no set-up."""
    tokens_per_second: NonNegativeFloat | None
    """Real tokens, no padding, over the timed steps."""
    utilization: NonNegativeFloat | None
    """FLOP/s over the timed steps (padding counts) relative to the measured peak of a matrix
    product."""
    eval_seconds: NonNegativeFloat
    generated_tokens_per_second: NonNegativeFloat | None
    latency_seconds: Latency | None


class CudaPeaks(FrozenModel):
    """CUDA's own peaks in each phase, in bytes."""

    train: NonNegativeInt | None
    eval: NonNegativeInt | None


class CudaMemory(FrozenModel):
    """What CUDA's allocator counted."""

    allocated_bytes: CudaPeaks
    reserved_bytes: CudaPeaks


class Dtypes(FrozenModel):
    """The dtypes that tensors of the run had, each list in alphabetical order."""

    weights: tuple[str, ...]
    """Of parameters and buffers that are not trained."""
    trained: tuple[str, ...]
    """Of what is trained, the head included."""
    optimizer: tuple[str, ...]
    """Of the optimizer's moments."""
    logits: tuple[str, ...]
    """Of the network's output, before the loss, which is always computed in float32."""


class Data(FrozenModel):
    """The data that the run saw."""

    source: str
    revision: str | None
    fingerprint: str
    """SHA-256 over the examples used, in order."""
    counts: dict[str, NonNegativeInt]
    """Examples of each split, and truncated ones."""


class Environment(FrozenModel):
    """Where the run took place."""

    commit: str | None
    """Of peftbench's own checkout; null where it is none."""
    dirty: bool | None
    python: str
    torch: str
    transformers: str
    threads: NonNegativeInt
    device_name: str
    load_at_start: float | None
    """Load average over one minute; null where the system has none."""
    load_at_end: float | None = None
    sandbox: str | None = None
    """What confined generated code, if any was run."""


class Predictions(FrozenModel):
    """The parquet file beside the record."""

    rows: NonNegativeInt
    sha256: str


class Record(FrozenModel):
    """One run: what was to be done, what came out, what it cost."""

    run_id: str
    schema_version: Literal[2] = Field(default=SCHEMA, alias="schema")
    started: datetime
    """UTC."""
    seconds: NonNegativeFloat
    """Wall clock of the whole run."""
    device: str
    """The device's type: cpu, cuda."""
    status: Status
    error: str | None = None
    """The error's last line."""
    spec: RunSpec
    primary: str
    """The metric that the task is known by."""
    metrics: dict[str, float | None]
    """A metric that is undefined here (one class only, say) is null."""
    curve: tuple[Point, ...] = ()
    footprint: Footprint | None = None
    timing: Timing | None = None
    cuda: CudaMemory | None = None
    """null on other devices."""
    dtypes: Dtypes | None = None
    data: Data | None = None
    environment: Environment
    predictions: Predictions | None = None
