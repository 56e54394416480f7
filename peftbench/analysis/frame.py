"""Records as a table: one row per run, then one per arm; which runs may be compared, and what arms
are called, is decided here."""

import json
from collections import defaultdict
from collections.abc import Iterable, Mapping
from typing import Any

import pandas as pd

from peftbench.record import CudaPeaks, Parts, Record, Spread
from peftbench.spec import RunSpec, TrainSpec

METHODS = (
    "full",
    "frozen",
    "lora",
    "lora-fa",
    "vera",
    "delta-lora",
    "lora+",
)  # the order of rows, legends and colours

# Only runs that agree in all of these are compared: seconds and bytes mean nothing between devices
# or software stacks, scores nothing
# between tasks or different examples.
BLOCK = ["device", "device_name", "stack", "model", "task", "task_version", "split", "data"]
ARM = [*BLOCK, "arm"]

COSTS = [
    "trained_params",
    "head_params",
    "updatable_params",
    "total_params",
    "optimizer_bytes",
    "adapter_file_bytes",
    "peak_bytes",
    "train_seconds",
    "eval_seconds",
    "tokens_per_second",
    "generated_tokens_per_second",
    "flops_per_step",
    "utilization",
]
PARTS = [f"peak.{part}" for part in Parts.model_fields]
PEAKS = [
    f"{name}.{phase}"
    for name in ("cuda_allocated_bytes", "cuda_reserved_bytes")
    for phase in CudaPeaks.model_fields
]
SPREADS = [
    "step_seconds",
    "latency.base",
    "latency.adapted",
    "latency.merged",
]  # the median; beside it .iqr and .n
MEASURED = [
    *COSTS,
    *PARTS,
    *PEAKS,
    *(f"{name}{part}" for name in SPREADS for part in ("", ".iqr", ".n")),
]
IDENTITY = [
    *BLOCK,
    "method",
    "method_version",
    "label",
    "arm",
    "args",
    "seed",
    "run_id",
    "status",
    "error",
    "primary",
    "fingerprint",
]
STUDY = [
    "study",
    "trials",
    "trial",
    # the search that found the settings, the trials it gave each arm, and which trial a run itself
    # is
]
TRAIN = [f"train.{key}" for key in TrainSpec.model_fields]
CANONICAL = json.JSONEncoder(
    sort_keys=True, separators=(",", ":")
)  # made once: json.dumps would make one for every value


def order(method: str) -> tuple[int, str]:
    """Where a method stands: the known ones first, in their order, then others alphabetically."""
    return (METHODS.index(method), "") if method in METHODS else (len(METHODS), method)


def frame(records: Iterable[Record]) -> pd.DataFrame:
    """One row per run, ordered by block, method, arm and seed.

    Costs are flat, in bytes and seconds; `metric` is the primary metric; `arm` is the identity of
    an arm (method, version, args, train) and `label` its shortest name among the arms of its method
    on the same model, task and split; `examples` is how many the run trained on, `predictions` how
    many rows of them it left. What is unknown is NaN.
    """
    found = sorted(
        ((record.spec, _row(record)) for record in records), key=lambda pair: _place(*pair)
    )
    labels = _labels(found)
    rows = [
        row | {"label": labels[spec.model, spec.task, spec.split, spec.method, row["arm"]]}
        for spec, row in found
    ]
    metrics = sorted({key for row in rows for key in row if key.startswith("metric.")})
    values = ["seconds", "examples", "predictions", "metric", "nll", *metrics, *MEASURED]
    numbers = ["trials", "trial", *values, "train.clip", "train.eval_every"]
    names = [*IDENTITY, *STUDY, "started", *values, *TRAIN]
    made = pd.DataFrame(rows, columns=names)
    return made.astype(dict.fromkeys(numbers, float) | {"started": "datetime64[us, UTC]"})


def arms(runs: pd.DataFrame) -> pd.DataFrame:
    """One row per arm of each block, in the order of `runs`: means over the seeds that are done,
    and how many of the runs those are.

    `metric.std` and `nll.std` are standard deviations over seeds (NaN for one seed). A mean is NaN
    where a done run lacks the value. `trials` is the most that a search spent on the arm's
    settings, NaN if none did.
    """
    unique = distinct(runs)
    unique = unique.assign(done=unique["status"] == "done")
    grouped = unique.groupby(ARM, sort=False)
    named = unique.drop_duplicates(ARM).set_index(ARM)[
        ["method", "method_version", "label", "args", "primary", *TRAIN]
    ]
    counts = pd.DataFrame(
        {"runs": grouped.size(), "seeds": grouped["done"].sum(), "trials": grouped["trials"].max()}
    )
    done = unique[unique["done"]].groupby(ARM, sort=False)
    values = [
        "metric",
        "nll",
        *(name for name in runs.columns if name.startswith("metric.")),
        *MEASURED,
    ]
    means = pd.DataFrame({name: done[name].mean(skipna=False) for name in values})
    spread = pd.DataFrame(
        {f"{name}.std": done[name].std(skipna=False) for name in ("metric", "nll")}
    )
    return named.join(counts).join(means).join(spread).reset_index()


def settled(runs: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The runs that are evidence, and the trials of searches, which are not: they were made to
    choose."""
    return runs.query("trial.isna()"), runs.query("trial.notna()")


def distinct(runs: pd.DataFrame) -> pd.DataFrame:
    """The runs without repetitions of one arm and seed (under another time limit): a run that is
    done is kept before one that is not."""
    done_first = runs.assign(done=runs["status"] == "done").sort_values(
        "done", ascending=False, kind="stable"
    )
    return done_first.drop_duplicates([*ARM, "seed"]).sort_index().drop(columns="done")


def _row(record: Record) -> dict[str, Any]:
    """One run, flat."""
    spec, environment = record.spec, record.environment
    args, train = _json(spec.args), spec.train.model_dump(mode="json")
    return {
        "device": record.device,
        "device_name": environment.device_name,
        "stack": f"torch {environment.torch}, transformers {environment.transformers}",
        "model": spec.model,
        "task": spec.task,
        "task_version": spec.task_version,
        "split": spec.split,
        "data": _json(spec.data.model_dump(mode="json")),
        "method": spec.method,
        "method_version": spec.method_version,
        "arm": _json([spec.method, spec.method_version, spec.args, train]),
        "args": args,
        "seed": spec.seed,
        "run_id": record.run_id,
        "status": record.status,
        "error": record.error,
        "started": record.started,
        "study": spec.study and spec.study.name,
        "trials": spec.study and spec.study.trials,
        "trial": None if spec.study is None else spec.study.trial,
        "seconds": record.seconds,
        "examples": record.data and record.data.counts.get("train"),
        "predictions": record.predictions and record.predictions.rows,
        "primary": record.primary,
        "metric": record.metrics.get(record.primary),
        "nll": record.metrics.get("nll"),
        "fingerprint": record.data and record.data.fingerprint,
        **{f"metric.{name}": value for name, value in record.metrics.items()},
        **_cost(record),
        **{f"train.{key}": value for key, value in train.items()},
    }


def _cost(record: Record) -> dict[str, float | None]:
    """The costs of a run, flat; none for a run that did not come that far."""
    cost = record.cost
    if cost is None:
        return {}
    latency = cost.latency_seconds
    return {
        **{name: getattr(cost, name) for name in COSTS},
        **{f"peak.{part}": getattr(cost.peak_parts, part) for part in Parts.model_fields},
        **_peaks("cuda_allocated_bytes", cost.cuda_allocated_bytes),
        **_peaks("cuda_reserved_bytes", cost.cuda_reserved_bytes),
        **_spread("step_seconds", cost.step_seconds),
        **_spread("latency.base", latency.base),
        **_spread("latency.adapted", latency.adapted),
        **_spread("latency.merged", latency.merged),
    }


def _peaks(name: str, peaks: CudaPeaks | None) -> dict[str, float | None]:
    return {f"{name}.train": peaks.train, f"{name}.eval": peaks.eval} if peaks else {}


def _spread(name: str, spread: Spread | None) -> dict[str, float | None]:
    return {name: spread.median, f"{name}.iqr": spread.iqr, f"{name}.n": spread.n} if spread else {}


def _json(value: Any) -> str:
    return CANONICAL.encode(value)


def _place(spec: RunSpec, row: Mapping[str, Any]) -> tuple[Any, ...]:
    """Where a run stands among all."""
    block = [row[name] for name in BLOCK]
    values = [*sorted(spec.args.items()), *spec.train]
    return (
        block,
        order(spec.method),
        [_sortable(value) for _, value in values],
        row["arm"],
        spec.seed,
        row["run_id"],
    )


def _sortable(value: Any) -> tuple[bool, float, str]:
    """Numbers by size, then everything else by its text."""
    number = isinstance(value, int | float)
    return not number, value if number else 0, "" if number else str(value)


def _labels(found: Iterable[tuple[RunSpec, dict[str, Any]]]) -> dict[tuple[str, ...], str]:
    """A label for every (model, task, split, method, arm): the method, with the settings in which
    its arms differ there."""
    groups: defaultdict[tuple[str, ...], dict[str, RunSpec]] = defaultdict(dict)
    for spec, row in found:
        groups[spec.model, spec.task, spec.split, spec.method][row["arm"]] = spec
    labels: dict[tuple[str, ...], str] = {}
    for group, members in groups.items():
        settings = [_settings(spec) for spec in members.values()]
        told: list[list[str]] = [[] for _ in members]
        for key in dict.fromkeys(key for each in settings for key in each):
            if len({_json(each.get(key)) if key in each else "" for each in settings}) > 1:
                text = _texts([each[key] for each in settings if key in each])
                for parts, each in zip(told, settings, strict=True):
                    if key in each:
                        parts.append(f"{key[1]}={text[_json(each[key])]}")
        for arm, parts in zip(members, told, strict=True):
            labels[*group, arm] = f"{group[-1]} ({', '.join(parts)})" if parts else group[-1]
    return labels


def _settings(spec: RunSpec) -> dict[tuple[str, str], Any]:
    """All that tells arms of one method apart, by where it stands and its name."""
    args = {("args", key): spec.args[key] for key in sorted(spec.args)}
    return (
        args
        | {("train", key): value for key, value in spec.train}
        | {("", "version"): spec.method_version}
    )


def _texts(values: Iterable[Any]) -> dict[str, str]:
    """How each value is written, by its JSON: floats with as few digits, three at least, as keep
    them distinct."""
    distinct = {_json(value): value for value in values}
    floats = {value for value in distinct.values() if isinstance(value, float)}
    digits = next(
        n for n in range(3, 18) if len({f"{value:.{n}g}" for value in floats}) == len(floats)
    )
    return {key: _text(value, digits) for key, value in distinct.items()}


def _text(value: Any, digits: int) -> str:
    match value:
        case float():
            return f"{value:.{digits}g}"
        case list() | tuple():
            return "+".join(str(each) for each in value)
        case str():
            return value
        case _:
            return _json(value)
