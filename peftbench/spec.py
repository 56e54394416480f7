"""The frozen, complete spec of a run, and how values that a person wrote are checked."""

import hashlib
import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal, TypeVar

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    NonNegativeFloat,
    PositiveFloat,
    StrictInt,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)

from peftbench.errors import InputError, shown, unknown

ScoredSplit = Literal["valid", "test"]
Precision = Literal["float32", "bf16-mixed", "bf16"]
Base = Literal["plain", "nf4", "int8"]
Pooling = Literal["model", "mean"]
Model = TypeVar("Model", bound=BaseModel)


class FrozenModel(BaseModel):
    """Immutable; refuses unknown keys, values that do not fit their type, infinities and NaN."""

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        allow_inf_nan=False,
        serialize_by_alias=True,
        use_attribute_docstrings=True,  # docs/reference.md prints them
    )


# Bounds of what a person may write: any more is a slip, and would fill the memory before it fails.
Count = Annotated[int, Field(gt=0, lt=2**31)]
CountOrZero = Annotated[int, Field(ge=0, lt=2**31)]
Steps = Annotated[int, Field(gt=0, le=1_000_000)]  # a record's curve has a point for each
Seed = Annotated[StrictInt, Field(ge=0, lt=2**63)]  # what torch's generators take


class Settings(FrozenModel):
    """What a person writes: true and false are no numbers."""

    @field_validator("*", mode="before")
    @classmethod
    def _no_boolean(cls, value: Any, info: ValidationInfo) -> Any:
        if isinstance(value, bool) and info.field_name:
            field = cls.model_fields[info.field_name]
            if bounds(cls, field.alias or info.field_name):
                raise ValueError("input should be a number, not true or false")
        return value


# As the first precision was named before there was another: ids of its runs stay.
DTYPES: dict[Precision, str] = {"float32": "float32"}


def _absent(value: Any) -> bool:
    """Of a field that is left out of a record, and of the run's id, unless it says something."""
    return value is None or value is False


class TrainSpec(Settings):
    """How a run trains: the same for all arms of an experiment, except for what an arm sets itself
    (usually its learning rate)."""

    steps: Steps = 100
    """Optimizer steps."""
    batch_size: Count = 16
    """Examples per optimizer step."""
    lr: PositiveFloat
    """Peak learning rate of the method's own parameters; the method names a default."""
    head_lr: PositiveFloat = 1e-3
    """Peak learning rate of a classification head, a parameter group of its own in every method."""
    schedule: Literal["linear", "cosine", "constant"] = "linear"
    """What the learning rates do after the warm-up: fall to 0 (linear, cosine) or stay."""
    warmup: float = Field(default=0.06, ge=0, lt=1)
    """Fraction of the steps in which the learning rates rise linearly."""
    weight_decay: NonNegativeFloat = 0.0
    """AdamW's decoupled weight decay."""
    beta1: float = Field(default=0.9, ge=0, lt=1)
    """AdamW's decay rate of the first moment."""
    beta2: float = Field(default=0.999, ge=0, lt=1)
    """AdamW's decay rate of the second moment."""
    eps: NonNegativeFloat = 1e-8
    """AdamW's epsilon."""
    clip: PositiveFloat | None = 1.0
    """Maximum global gradient norm; null: no clipping."""
    precision: Precision
    """float32: everything. bf16-mixed: what is trained and its optimizer state are float32, frozen
    weights are bfloat16, and products are made in bfloat16; full fine-tuning keeps float32 weights.
    bf16: everything is bfloat16, the naive form, in which small steps are lost. An experiment file
    may also say "auto", its default: bf16-mixed on a CUDA device that has bfloat16, else float32. A
    run's spec holds the result."""
    eval_every: Count | None = None
    """Steps between evaluations of valid nll; null: none before the end."""
    micro_batch: Count | Literal["auto"] | None = Field(default=None, exclude_if=_absent)
    """Examples of a step that are on the device at a time, those of like length together; gradients
    accumulate, and the loss is the mean over the supervised tokens of the whole batch all the same.
    auto: the largest number that fits, found before training by halving from the whole batch; the
    record's footprint says it. null: the whole batch. It changes bytes and seconds, and results by
    rounding; where the model or the method has dropout, its masks are others."""
    checkpointing: bool = Field(default=False, exclude_if=_absent)
    """Whether each transformer block keeps its input only, and is computed again for the backward
    pass, with the same dropout: fewer bytes, more seconds, the same results."""
    compile: bool = Field(default=False, exclude_if=_absent)
    """Whether the transformer blocks are compiled for training, which needs a C++ compiler: fewer
    seconds a step after some that compile, and results that differ by rounding; where the model or
    the method has dropout, its masks are others. What was compiled stays in the folder that the
    variable TORCHINDUCTOR_CACHE_DIR names, by default torchinductor_ and the user's name in the
    system's folder for temporary files, so that a second run of the same model starts faster."""

    @field_validator("micro_batch", mode="before")
    @classmethod
    def _number_or_auto(cls, value: Any) -> Any:
        if isinstance(value, str) and value != "auto":
            raise ValueError('input should be a number of examples, or "auto"')
        return value

    @model_validator(mode="before")
    @classmethod
    def _precision_of_a_dtype(cls, values: Any) -> Any:
        """Records from before there was a `precision` name the dtype of the base weights."""
        if isinstance(values, dict) and values.get("dtype") in DTYPES.values():
            names = {dtype: precision for precision, dtype in DTYPES.items()}
            values = {name: value for name, value in values.items() if name != "dtype"} | {
                "precision": names[values["dtype"]]
            }
        return values


class DataSpec(Settings):
    """How much of a task's data a run uses; null means all of it."""

    train: Count | None = None
    """Training examples."""
    valid: Count | None = None
    """Examples of the valid split."""
    test: Count | None = None
    """Examples of the test split."""
    generate: CountOrZero | None = None
    """How many of the scored examples are answered by generation."""
    max_length: Count = 512
    """Most tokens of an example; longer examples are cut, and the record counts them. The prompt of
    a generated answer may be as long as the model's context window."""
    max_new_tokens: Count = 256
    """Most tokens of a generated answer."""
    shots: CountOrZero = 0
    """Solved training examples before the prompt of a generated answer; training and nll do without
    them."""
    samples: Count = 1
    """Answers generated per example."""
    temperature: Annotated[float, Field(ge=0, validate_default=True)] = 0.0
    """Temperature of generation; 0: greedy."""

    @field_validator("temperature")
    @classmethod
    def _samples_differ(cls, temperature: float, info: ValidationInfo) -> float:
        if temperature == 0 and info.data.get("samples", 1) > 1:
            raise ValueError(
                "several samples need a temperature above 0: greedy answers are all the same"
            )
        return temperature


class LimitSpec(Settings):
    """Limits at which a run is ended from outside."""

    seconds: Count = 7200
    """Wall-clock seconds, after which a run is ended and recorded as timed out."""


class StudyReference(Settings):
    """The study (the tuning of one arm on one task) that a run belongs to."""

    name: str
    """The study's name in the storage of the search."""
    trials: Count
    """Number of trials, the same for every arm."""
    trial: CountOrZero | None = None
    """Number of the trial that this run is part of; null: a run with the settings found."""


def _own_head(pooling: Pooling) -> bool:
    return pooling == "model"


def _plain(base: Base) -> bool:
    return base == "plain"


class RunSpec(FrozenModel):
    """One run, complete: every default and version is filled in, so that equal specs mean equal
    runs."""

    model: str
    """A packaged model's name, a local folder, or a hub model as `id@commit`."""
    pooling: Pooling = Field(default="model", exclude_if=_own_head)
    """What a classifier's head reads. model: what transformers' head of the model's family reads;
    it is then left out of the record and of the run's id. mean: the mean of the last hidden states
    over all tokens, by one linear layer."""
    base: Base = Field(default="plain", exclude_if=_plain)
    """How the frozen linear layers' weights are kept. plain: as `train.precision` says; it is then
    left out of the record and of the run's id. nf4: in 4 bits, as QLoRA does; int8: in 8 bits, with
    evenly spaced values in blocks of 64, which is not LLM.int8()."""
    task: str
    """The task's name."""
    task_version: int
    """Version of the task; another one means that its examples or scores are others."""
    method: str
    """The method's name."""
    method_version: int
    """Version of the method; another one means that it computes something else."""
    args: dict[str, Any]
    """The method's hyperparameters, defaults included."""
    train: TrainSpec
    """How the run trains."""
    data: DataSpec
    """What it trains on and is scored on."""
    seed: Seed
    """Seed of initial values, dropout and the order of the data."""
    split: ScoredSplit
    """The split that is scored."""
    limits: LimitSpec
    """When it is ended from outside."""
    study: StudyReference | None = None
    """The study that the settings come from. It changes nothing in the run and is not part of its
    id."""

    @property
    def run_id(self) -> str:
        """16 hexadecimal digits: SHA-256 of the canonical JSON of all fields but `study`."""
        return digest(self.identity())[:16]

    def identity(self) -> dict[str, Any]:
        """All fields but `study`, as JSON values, named as they always were."""
        content = self.model_dump(mode="json", exclude={"study"})
        if self.train.precision in DTYPES:
            del content["train"]["precision"]
            content["train"]["dtype"] = DTYPES[self.train.precision]
        return content


def split_revision(model: str) -> tuple[str, str | None]:
    """A hub model's id and, where the name says one, its branch, tag or commit."""
    name, _, revision = model.partition("@")
    return name, revision or None


def is_commit(revision: str | None) -> bool:
    """Whether this is the full name of a commit, which always means the same files."""
    return re.fullmatch("[0-9a-f]{40}", revision or "") is not None


def digest(content: Mapping[str, Any]) -> str:
    """SHA-256 of the content's canonical JSON. Raises ValueError on NaN."""
    text = json.dumps(content, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


def validated(kind: type[Model], values: Mapping[str, Any], where: str) -> Model:
    """`kind(**values)`. Raises InputError that names a wrong key or value, its place (`where`), and
    what would be right."""
    try:
        return kind(**values)
    except ValidationError as error:
        first = error.errors()[0]
        path = [part if len(part) < 50 else shown(part) for part in map(str, first["loc"])]
        if first["type"] == "extra_forbidden":
            owner = kind
            for part in path[:-1]:  # down to the model in which the key is unknown
                owner = _inner(owner, part)
            raise InputError(
                str(unknown(f"key in {'.'.join([where, *path[:-1]])}", path[-1], keys(owner)))
            ) from error
        # an error of several values together has no path
        unsaid = first["type"] == "missing" or not path
        given = "" if unsaid else f" (given: {shown(first['input'])})"
        place = ": ".join([where, ".".join(path)] if path else [where])
        raise InputError(f"{place}: {first['msg'][0].lower()}{first['msg'][1:]}{given}") from error


def keys(kind: type[BaseModel]) -> list[str]:
    """The keys that a person may write for `kind`: a field's alias where it has one (`lambda`
    cannot be a name in Python)."""
    return [field.alias or name for name, field in kind.model_fields.items()]


@dataclass(frozen=True)
class Bounds:
    """What a number may be: from `low` to `high`. An end that is `open` is not allowed itself, and
    an infinite one is no end."""

    integer: bool
    low: float
    high: float
    low_open: bool
    high_open: bool


def bounds(kind: type[BaseModel], key: str) -> Bounds | None:
    """What the field of `kind` that a person writes as `key` allows: `bounds(TrainSpec, "beta1")`
    is 0 to 1, without 1. None: no number, or no such key."""
    field = kind.model_json_schema()["properties"].get(key, {})
    numbers = [
        part for part in field.get("anyOf", [field]) if part.get("type") in ("integer", "number")
    ]
    if not numbers:
        return None
    number = numbers[0]
    low_open, high_open = "exclusiveMinimum" in number, "exclusiveMaximum" in number
    return Bounds(
        integer=number["type"] == "integer",
        low=number.get("exclusiveMinimum" if low_open else "minimum", -math.inf),
        high=number.get("exclusiveMaximum" if high_open else "maximum", math.inf),
        low_open=low_open,
        high_open=high_open,
    )


def _inner(owner: type[BaseModel], part: str) -> type[BaseModel]:
    """The model class inside field `part` of `owner`; `owner` itself for an index or a dictionary's
    key."""
    field = owner.model_fields.get(part)
    candidates = [field.annotation] if field else []
    while candidates:
        kind = candidates.pop()
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            return kind
        candidates.extend(getattr(kind, "__args__", ()))
    return owner
