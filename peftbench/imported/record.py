"""A result that somebody else measured (schema 1). It is no run: nothing here made it, and no table
compares it with one."""

from typing import Any, Literal

from pydantic import AwareDatetime, Field, NonNegativeFloat, NonNegativeInt

from peftbench.spec import FrozenModel

SCHEMA = 1
Kind = Literal["peft-method-comparison"]
ImportedStatus = Literal["success", "failed", "canceled"]


class Source(FrozenModel):
    """Where a result comes from."""

    repository: str
    """Where its owners keep it."""
    folder: str
    """The repository's folder with such results."""
    file: str
    """The file's name."""
    sha256: str
    """Of the file."""


class Software(FrozenModel):
    """What it was measured with, each null where the source does not say it."""

    peft: str | None = None
    """Its version."""
    peft_commit: str | None = None
    """Of a checkout of peft."""
    torch: str | None = None
    """Its version."""
    transformers: str | None = None
    """Its version."""
    device: str | None = None
    """The accelerator's name."""


class ImportedRecord(FrozenModel):
    """One result of others: what was done, what came out, what it cost, each null where the source
    does not say it."""

    imported_id: str
    """16 hexadecimal digits: the beginning of the source's digest."""
    schema_version: Literal[1] = Field(default=SCHEMA, alias="schema")
    """Raised when the meaning of these records changes."""
    kind: Kind
    """Whose format it was read from."""
    source: Source
    """Where it comes from."""
    created: AwareDatetime
    """When it was begun."""
    task: str
    """As its owners call it."""
    experiment: str
    """As its owners call it."""
    model: str
    """The model's hub id."""
    model_commit: str | None = None
    """Of the model on the hub at that time."""
    method: str
    """peft's name of the method; `full-finetuning`: none."""
    config: dict[str, Any]
    """The method's configuration, all of it; empty: full fine-tuning."""
    train: dict[str, Any]
    """The training settings, all of them."""
    seed: int | None = None
    """The seed that the settings name."""
    steps: NonNegativeInt | None = None
    """Optimizer steps that the settings name."""
    status: ImportedStatus
    """success: scored."""
    error: str | None = None
    """Why it is not."""
    primary: str | None = None
    """The score that its owners rank by."""
    metrics: dict[str, float | None]
    """All that was measured at the end, by their names; null: not a number there."""
    trained_params: NonNegativeInt | None = None
    """Parameters that require a gradient."""
    total_params: NonNegativeInt | None = None
    """The adapter's included."""
    max_reserved_bytes: NonNegativeInt | None = None
    """The most that the accelerator's allocator held, free blocks included, evaluation included."""
    mean_reserved_bytes: NonNegativeInt | None = None
    """What it held after a step, on average."""
    train_seconds: NonNegativeFloat | None = None
    """As the source counts it: with the evaluation at the end, without those in between."""
    total_seconds: NonNegativeFloat | None = None
    """Of the whole script."""
    tokens_per_second: NonNegativeFloat | None = None
    """Real tokens of the steps over their seconds."""
    file_bytes: NonNegativeInt | None = None
    """Of the adapter's tensors; of full fine-tuning, of the model's."""
    software: Software
    """What it was measured with."""

    @property
    def score(self) -> float | None:
        """The primary score."""
        return self.metrics.get(self.primary) if self.primary else None

    @property
    def trained_share(self) -> float | None:
        """Trained parameters as a part of all."""
        if self.trained_params is None or not self.total_params:
            return None
        return self.trained_params / self.total_params
