"""What a run leaves behind (schema 2)."""

from collections.abc import Callable, Sequence
from typing import Annotated, Any, Literal, overload

from pydantic import (
    AwareDatetime,
    Field,
    GetPydanticSchema,
    NonNegativeFloat,
    NonNegativeInt,
    WrapSerializer,
    WrapValidator,
)

from peftbench.spec import Count, FrozenModel, RunSpec

SCHEMA = 2
Status = Literal["done", "pruned", "diverged", "out-of-memory", "timed-out", "failed", "skipped"]


class Point(FrozenModel):
    """A step of the training curve, with what was measured there."""

    step: NonNegativeInt
    """Counted from 1."""
    train_loss: float | None = None
    """Mean nll per supervised token of the step's batch, before the step."""
    valid_loss: float | None = None
    """Mean nll per supervised token of the valid split, after the step."""
    lr: float | None = None
    """Of the optimizer's first group: what the method trains, for LoRA+ its A."""


ReadCurve = Callable[[str, str], Sequence[Point]]


class StoredCurve(Sequence[Point]):
    """A training curve that stays in the file of its record until it is looked at: most of a large
    store's bytes are curves, and tables need none. `read` is given the file's name and digest, and
    may raise InputError."""

    __slots__ = ("_name", "_points", "_read", "_sha256")

    def __init__(self, read: ReadCurve, name: str, sha256: str) -> None:
        self._read, self._name, self._sha256 = read, name, sha256
        self._points: tuple[Point, ...] | None = None

    def _whole(self) -> tuple[Point, ...]:
        if self._points is None:
            self._points = tuple(self._read(self._name, self._sha256))
        return self._points

    @overload
    def __getitem__(self, index: int) -> Point: ...
    @overload
    def __getitem__(self, index: slice) -> tuple[Point, ...]: ...
    def __getitem__(self, index: int | slice) -> Point | tuple[Point, ...]:
        return self._whole()[index]

    def __len__(self) -> int:
        return len(self._whole())

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Sequence) and self._whole() == tuple(other)

    def __hash__(self) -> int:
        return hash(self._whole())

    def __reduce__(self) -> tuple[type, tuple[tuple[Point, ...]]]:
        return tuple, (self._whole(),)  # another process has it whole


def _points(value: Any, validate: Callable[[Any], tuple[Point, ...]]) -> Sequence[Point]:
    return value if isinstance(value, StoredCurve) else validate(value)


def _as_tuple(curve: Sequence[Point], serialize: Callable[[tuple[Point, ...]], Any]) -> Any:
    return serialize(tuple(curve))


Curve = Annotated[
    Sequence[Point],
    GetPydanticSchema(lambda _, schema_of: schema_of(tuple[Point, ...])),
    WrapValidator(_points),
    WrapSerializer(_as_tuple),
]


class Parts(FrozenModel):
    """What the live tensor bytes at the peak were made of."""

    weights: NonNegativeInt
    """Parameters and buffers."""
    gradients: NonNegativeInt
    optimizer: NonNegativeInt
    """The optimizer's state."""
    activations: NonNegativeInt
    """What the forward pass keeps."""
    other: NonNegativeInt
    """What the backward pass, recomputed blocks included, and the update hold for a while."""


class Spread(FrozenModel):
    """Seconds of several timed repetitions."""

    median: NonNegativeFloat
    iqr: NonNegativeFloat
    """Interquartile range."""
    n: NonNegativeInt
    """How many repetitions were timed."""


class Latency(FrozenModel):
    """Seconds of one forward pass of one sequence, in each form of the model: full fine-tuning has
    neither a plain nor a merged form, the frozen model no merged form."""

    base: Spread | None = None
    """The plain model; null: the method's changes cannot be taken out of the model."""
    adapted: Spread
    """The model as the method leaves it."""
    merged: Spread | None = None
    """With the adapter merged into the weights; null: the method has nothing to merge, or cannot be
    merged, or the base is quantised, which merged layers are not."""
    control: Spread | None = None
    """The plain model once more: how far it is from `base` is the error of the measurement; null:
    as for `base`, or not measured in older records."""


class Footprint(FrozenModel):
    """Parameters, bytes and FLOPs, each null where the run had no such thing."""

    trained_params: NonNegativeInt
    """Parameters that the method trains, without the classification head."""
    head_params: NonNegativeInt
    """Parameters of the classification head."""
    updatable_params: NonNegativeInt
    """Parameters whose value the method changes, without the head (Delta-LoRA's W counts)."""
    total_params: NonNegativeInt
    """Parameters of the plain model, head included."""
    optimizer_bytes: NonNegativeInt
    """Of the optimizer's state."""
    adapter_file_bytes: NonNegativeInt | None
    """What must be stored or shipped beside the plain model; null: the method has no file."""
    peak_bytes: NonNegativeInt
    """Live tensor bytes at the peak of one training step on the largest batch, with its
    micro-batches and checkpointing, but not compiled; of a forward pass where nothing is
    trained."""
    peak_parts: Parts
    """What was alive at that peak."""
    flops_per_step: NonNegativeInt | None
    """Counted on the whole of the largest batch; what `train.checkpointing` computes a second time
    counts twice. null: nothing is trained."""
    micro_batch: Count | None = None
    """Examples of a step that were on the device at a time, at the most: of `train.micro_batch`
    auto, the number found. null: the whole batch, where the spec names none."""

    @property
    def trained_share(self) -> float:
        """Trained parameters as a part of the model's, the head left out of both."""
        return self.trained_params / (self.total_params - self.head_params)


class Timing(FrozenModel):
    """Seconds and rates, each null where the run had no such thing (the frozen language model takes
    no step)."""

    step_seconds: Spread | None
    """Of a training step; the first steps, which warm up, and those in which something was compiled
    are left out. null also where no step is left."""
    train_seconds: NonNegativeFloat | None
    """Of all training steps, compilation included, without evaluation and set-up."""
    compile_seconds: NonNegativeFloat | None = None
    """Of the training steps, compilation; null: nothing was compiled."""
    tokens_per_second: NonNegativeFloat | None
    """Real tokens, no padding, over the timed steps."""
    utilization: NonNegativeFloat | None
    """FLOP/s over the timed steps (padding counts) relative to the measured peak of a matrix
    product."""
    eval_seconds: NonNegativeFloat
    """Of scoring the split, generation included."""
    generated_tokens_per_second: NonNegativeFloat | None
    """Over the generated answers; null: none was generated."""
    latency_seconds: Latency | None
    """Of a forward pass, with and without the method, in random order; null: a trial of a search,
    or another run on valid, which does without."""


class CudaPeaks(FrozenModel):
    """CUDA's own peaks in each phase, in bytes."""

    train: NonNegativeInt | None
    """While training."""
    eval: NonNegativeInt | None
    """While scoring."""


class CudaMemory(FrozenModel):
    """What CUDA's allocator counted."""

    allocated_bytes: CudaPeaks
    """Bytes of live tensors."""
    reserved_bytes: CudaPeaks
    """Bytes that the allocator held, free blocks included."""


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
    """A hub id, or the package that holds the data."""
    revision: str | None
    """The hub's revision or the package's version."""
    fingerprint: str
    """SHA-256 over the examples used, in order."""
    counts: dict[str, NonNegativeInt]
    """Examples of each split, and truncated ones."""


class Environment(FrozenModel):
    """Where the run took place."""

    commit: str | None
    """Of peftbench's own checkout; null where it is none."""
    dirty: bool | None
    """Whether tracked files of the checkout had been changed; null where there is none."""
    python: str
    torch: str
    transformers: str
    threads: NonNegativeInt
    """That torch used on the CPU."""
    spin_count: str | None = None
    """GOMP_SPINCOUNT, how often an idle thread looks for work before it sleeps: chosen at the start
    by whether others use the machine, unless the user has set it; null: not set, or not recorded
    in older records."""
    device_name: str
    """The GPU's name; a CPU's model and threads."""
    load_at_start: float | None
    """Load average over one minute; null: not known."""
    load_at_end: float | None = None
    """The same when the run had ended."""
    runs_at_once: Count | None = None
    """Runs that shared the machine at a time, this one included: the places there that runs were
    given to, each with a GPU or cores of its own. Seconds count where it is 1; bytes are the run's
    own. null: not known, or not recorded in older records."""
    bitsandbytes: str | None = None
    """null: the base was plain."""
    sandbox: str | None = None
    """What confined generated code; `audit hook only`: nothing that could be called so; null: none
    was run."""


class Predictions(FrozenModel):
    """The parquet file beside the record."""

    rows: NonNegativeInt
    """One for each scored example."""
    sha256: str
    """Of the file."""


class Record(FrozenModel):
    """One run: what was to be done, what came out, what it cost."""

    run_id: str
    """16 hexadecimal digits: a digest of the spec."""
    schema_version: Literal[2] = Field(default=SCHEMA, alias="schema")
    """Raised when the meaning of records changes."""
    started: AwareDatetime
    """UTC."""
    seconds: NonNegativeFloat
    """Wall clock of the whole run."""
    device: str
    """The device's type: cpu, cuda."""
    status: Status
    """done: scored; pruned: a search ended it early; diverged: a loss that is not finite; skipped:
    the method cannot do the model or the task."""
    error: str | None = None
    """The error's last line; null: the run is done. `scoring: ...`: all is there but the scores of
    answers."""
    spec: RunSpec
    """What was to be done."""
    primary: str
    """The metric that the task is known by."""
    metrics: dict[str, float | None]
    """Scores of the split by name; null: undefined here (one class only, for example)."""
    curve: Curve = ()
    """The training curve, a point for each step."""
    footprint: Footprint | None = None
    """null: the run is not done."""
    timing: Timing | None = None
    """null: the run is not done."""
    cuda: CudaMemory | None = None
    """null: the run is not done, or ran on another device."""
    dtypes: Dtypes | None = None
    """null: the run is not done."""
    data: Data | None = None
    """null: the run is not done."""
    notes: tuple[str, ...] = ()
    """What a reader of the numbers should know of this run."""
    environment: Environment
    """Where the run took place."""
    predictions: Predictions | None = None
    """null: the run left none."""
