"""The results of huggingface/peft's own benchmark, one JSON file each, as its scripts have written
them since March 2025 (method_comparison/MetaMathQA/utils.py, log_results; image-gen/utils.py).

Over time they renamed `cuda_memory_*` to `accelerator_memory_*` and `gpu` to `accelerator`, moved
`model_sha` into `model_info`, and added parameter counts, the error, rates and further scores. What
a file lacks is None. One run each: they name a seed, 0 in all that were seen, and their script sets
torch's seed to 0 after it (utils.py, init_accelerator).
"""

import hashlib
import math
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any

from pydantic import (
    AliasChoices,
    AwareDatetime,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    NonNegativeFloat,
    NonNegativeInt,
)

from peftbench.errors import InputError
from peftbench.imported.record import ImportedRecord, ImportedStatus, Software, Source
from peftbench.reading import MOST_RECORD_BYTES, read_bytes, read_object
from peftbench.spec import validated

REPOSITORY = "github.com/huggingface/peft"
FOLDER = "method_comparison"
RESULTS = re.compile("(temporary_|cancelled_)?results")  # what they call folders of results
FULL = "full-finetuning"  # as they call what has no configuration
UNKNOWN_SIZE = 99_999_999  # what get_file_size says where it has failed
TEST = "test "  # before the name of the score that they rank by


def _finite(value: Any) -> Any:
    """JSON values with None in place of NaN and infinities, which Python's `json` writes and
    reads although JSON has none."""
    match value:
        case float():
            return value if math.isfinite(value) else None
        case dict():
            return {name: _finite(inner) for name, inner in value.items()}
        case list():
            return [_finite(inner) for inner in value]
        case _:
            return value


class Theirs(BaseModel):
    """A part of a file. Its types are as JSON has them; further keys are its owners' business."""

    model_config = ConfigDict(frozen=True, strict=True, protected_namespaces=())


class TrainConfig(Theirs):
    model_id: str
    seed: int | None = None
    max_steps: NonNegativeInt | None = None


class PeftConfig(Theirs):
    peft_type: str


def _text(value: Any) -> Any:
    if not isinstance(value, str):
        raise ValueError("input should be a time as text")
    return value


class RunInfo(Theirs):
    created_at: Annotated[AwareDatetime, Field(strict=False), BeforeValidator(_text)]
    experiment_name: str
    total_time: NonNegativeFloat | None = None
    train_config: TrainConfig
    peft_config: PeftConfig | None  # None: full fine-tuning
    error_msg: str | None = None


def _memory(name: str) -> Any:
    alias = AliasChoices(f"accelerator_{name}", f"cuda_{name}")
    return Field(default=None, validation_alias=alias)


class TrainInfo(Theirs):
    status: ImportedStatus
    metrics: list[dict[str, Any]]
    train_time: NonNegativeFloat | None = None
    file_size: NonNegativeInt | None = None
    num_trainable_params: NonNegativeInt | None = None
    num_total_params: NonNegativeInt | None = None
    memory_max: NonNegativeInt | None = _memory("memory_max")
    memory_reserved_avg: NonNegativeInt | None = _memory("memory_reserved_avg")


class ModelInfo(Theirs):
    sha: str | None = None


class PackageInfo(Theirs):
    peft: str | None = Field(default=None, validation_alias="peft-version")
    peft_commit: str | None = Field(default=None, validation_alias="peft-commit-hash")
    torch: str | None = Field(default=None, validation_alias="torch-version")
    transformers: str | None = Field(default=None, validation_alias="transformers-version")


class SystemInfo(Theirs):
    device: str | None = Field(default=None, validation_alias=AliasChoices("accelerator", "gpu"))


class MetaInfo(Theirs):
    model_sha: str | None = None
    model_info: ModelInfo = ModelInfo()
    package_info: PackageInfo = PackageInfo()
    system_info: SystemInfo = SystemInfo()


class ResultFile(Theirs):
    run_info: RunInfo
    train_info: TrainInfo
    meta_info: MetaInfo


def result_files(folder: Path) -> list[Path]:
    """The files of results in a folder: a task's folder `results`, the task's folder, or the one
    with all tasks. Raises InputError if there are none."""
    if not folder.is_dir():
        raise InputError(f"{folder}: there is no such folder")
    inside = (folder.glob("results/*.json"), folder.glob("*/results/*.json"))
    files = sorted(path for paths in inside for path in paths) or sorted(folder.glob("*.json"))
    if not files:
        raise InputError(
            f"{folder}: no file of results in it: name the folder {FOLDER} of a checkout of "
            f"{REPOSITORY}, or one of its folders TASK/results"
        )
    return files


def read_result(path: Path) -> ImportedRecord:
    """The record of a file of results. Raises InputError that names the file and the key that is
    missing or wrong, and what would be right."""
    content = read_bytes(path, MOST_RECORD_BYTES)
    try:
        values = _finite(read_object(content))
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path}: not a result's JSON: {error}") from error
    result = validated(ResultFile, values, str(path))
    last = _last(path, result.train_info)
    source = Source(
        repository=REPOSITORY,
        folder=FOLDER,
        file=path.name,
        sha256=hashlib.sha256(content).hexdigest(),
    )
    record = _record(result, values["run_info"], last, source, _task(path))
    try:
        record.model_dump_json()
    except ValueError as error:  # half a character
        raise InputError(f"{path}: holds what cannot be written again: {error}") from error
    return record


def _record(
    result: ResultFile,
    run: dict[str, Any],
    last: dict[str, float | None],
    source: Source,
    task: str,
) -> ImportedRecord:
    info, costs, meta = result.run_info, result.train_info, result.meta_info
    packages = meta.package_info
    return ImportedRecord(
        imported_id=source.sha256[:16],
        kind="peft-method-comparison",
        source=source,
        created=info.created_at,
        task=task,
        experiment=info.experiment_name,
        model=info.train_config.model_id,
        model_commit=meta.model_info.sha or meta.model_sha,
        method=info.peft_config.peft_type if info.peft_config else FULL,
        config=run["peft_config"] or {},
        train=run["train_config"],
        seed=info.train_config.seed,
        steps=info.train_config.max_steps,
        status=costs.status,
        error=info.error_msg or None,
        primary=next((name for name in last if name.startswith(TEST)), None),
        metrics=last,
        trained_params=costs.num_trainable_params,
        total_params=costs.num_total_params,
        max_reserved_bytes=costs.memory_max,
        mean_reserved_bytes=costs.memory_reserved_avg,
        train_seconds=costs.train_time,
        total_seconds=info.total_time,
        tokens_per_second=_rate(costs.metrics),
        file_bytes=None if costs.file_size == UNKNOWN_SIZE else costs.file_size,
        software=Software(
            peft=packages.peft,
            peft_commit=packages.peft_commit,
            torch=packages.torch,
            transformers=packages.transformers,
            device=meta.system_info.device,
        ),
    )


def _last(path: Path, info: TrainInfo) -> dict[str, float | None]:
    """What was measured at the end: the last entry, which alone has scores of the test split; empty
    where a run did not come so far. Raises InputError where one that did has none."""
    last = info.metrics[-1] if info.metrics else {}
    scores = {name: value for name, value in last.items() if name.startswith(TEST)}
    if info.status != "success" and not scores:
        return {}
    if not scores:
        raise InputError(
            f"{path}: train_info.metrics: the last entry of a run that succeeded must have a score "
            f"whose name begins with {TEST!r}"
        )
    for name, value in last.items():
        if isinstance(value, bool) or not isinstance(value, int | float | None):
            raise InputError(f"{path}: train_info.metrics: {name!r:.60} must be a number")
    return last


def _rate(metrics: Sequence[dict[str, Any]]) -> float | None:
    """Tokens per second over all steps, from the rates and seconds of the stretches between
    evaluations; None where any of them lacks one."""
    stretches = [entry for entry in metrics if not any(name.startswith(TEST) for name in entry)]
    pairs = [(entry.get("tokens / sec"), entry.get("train time")) for entry in stretches]
    numbers = list(_numbers(pairs))
    if not numbers or len(numbers) < len(pairs):
        return None
    seconds = sum(own for _, own in numbers)
    return _finite(sum(rate * own for rate, own in numbers) / seconds) if seconds else None


def _numbers(pairs: Sequence[tuple[Any, Any]]) -> Iterator[tuple[float, float]]:
    """The pairs of two numbers that are not negative."""
    for pair in pairs:
        if all(isinstance(n, int | float) and n >= 0 for n in pair):
            yield pair


def _task(path: Path) -> str:
    """The task of a file: its folder's name or, where that is `results`, the name of the one
    above."""
    folder = path.resolve().parent
    return folder.parent.name if RESULTS.fullmatch(folder.name) else folder.name
