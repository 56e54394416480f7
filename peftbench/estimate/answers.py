"""Estimates for a person, and as data."""

from collections.abc import Iterable, Sequence
from dataclasses import asdict
from typing import Any

from tabulate import tabulate

from peftbench.estimate.forecast import Forecast
from peftbench.estimate.setting import Setting
from peftbench.wording import count, size

PHASES = {"forward": "the forward pass", "backward": "the backward pass", "update": "the update"}
CAVEAT = "An estimate: from shapes alone, nothing was run (docs/estimate.md: how far off it is)."


def as_data(forecast: Forecast) -> dict[str, Any]:
    """As JSON values."""
    return asdict(forecast) | {"peak_parts": forecast.peak_parts.model_dump()}


def described(forecast: Forecast) -> str:
    """An estimate in words, without a newline at its end."""
    setting, parts = forecast.setting, forecast.peak_parts.model_dump()
    trained = forecast.trained_params
    share = trained / (forecast.total_params - forecast.head_params)
    each = " on each GPU" if setting.gpus > 1 else ""
    made_of = ", ".join(
        f"{part} {size(n)}" for part, n in sorted(parts.items(), key=lambda item: -item[1]) if n
    )
    others = ", ".join(
        f"{PHASES[phase]} {size(n)}"
        for phase, n in forecast.phase_bytes.items()
        if phase != forecast.peak_phase
    )
    lines = {
        "parameters": f"{trained:,} trained of {forecast.total_params:,} ({share:.3%})"
        + (f", and a head of {forecast.head_params:,}" if forecast.head_params else ""),
        "at rest": f"{size(forecast.at_rest_bytes)}{each}",
        "peak": f"{size(forecast.peak_bytes)}{each} in {PHASES[forecast.peak_phase]}: {made_of}",
        "elsewhere": others,
        "reserved": f"{size(forecast.reserved_low)} to {size(forecast.reserved_high)}{each} of the "
        f"GPU's memory, likeliest {size(forecast.reserved_bytes)}",
        "a step": "no step is taken"
        if forecast.flops_per_step is None
        else f"{forecast.flops_per_step / 1e12:,.3g} TFLOPs{each}",
        "file": "the method has no file"
        if forecast.adapter_file_bytes is None
        else size(forecast.adapter_file_bytes),
    }
    shown = (f"  {name:<10} {text}" for name, text in lines.items() if text)
    return "\n".join([f"{setting.model}, {arm(setting)}, {step(setting)}", *shown, CAVEAT])


def arm(setting: Setting) -> str:
    """The method and its hyperparameters, as far as they were given."""
    arguments = ", ".join(f"{name} {_value(value)}" for name, value in sorted(setting.args.items()))
    return f"{setting.method} ({arguments})" if arguments else setting.method


def step(setting: Setting) -> str:
    """All else that was asked but the model."""
    micro = "" if setting.micro_batch is None else f" in micro-batches of {setting.micro_batch}"
    parts = [
        f"{setting.batch} x {setting.length} tokens{micro}",
        setting.precision,
        "" if setting.base == "plain" else f"{setting.base} base",
        "checkpointing" if setting.checkpointing else "",
        "" if setting.attention == "fused" else "math attention",
        "" if setting.optimizer == "fused" else "foreach AdamW",
        "" if setting.implementation == "ours" else "transformers and peft",
        "" if setting.gpus == 1 else f"{setting.gpus} GPUs, {setting.sharding}",
    ]
    return ", ".join(part for part in parts if part)


def _value(value: Any) -> str:
    return "+".join(map(str, value)) if isinstance(value, list | tuple) else str(value)


HEADINGS = (
    "method",
    "trained",
    "at rest",
    "peak",
    "in",
    "weights",
    "activations",
    "gradients",
    "optimizer",
    "other",
    "reserved",
    "file",
)


def table(forecasts: Sequence[Forecast]) -> str:
    """Estimates as tables in Markdown, one for each model and step."""
    blocks: dict[str, list[Forecast]] = {}
    for forecast in forecasts:
        asked = forecast.setting
        blocks.setdefault(f"{asked.model}, {step(asked)}", []).append(forecast)
    texts = [
        "\n".join([name, "", markdown(HEADINGS, map(_row, of))]) for name, of in blocks.items()
    ]
    return "\n\n".join([*texts, CAVEAT])


def _row(forecast: Forecast) -> list[str]:
    parts = forecast.peak_parts
    return [
        arm(forecast.setting),
        count(forecast.trained_params),
        size(forecast.at_rest_bytes),
        size(forecast.peak_bytes),
        forecast.peak_phase,
        *(
            size(getattr(parts, name))
            for name in ("weights", "activations", "gradients", "optimizer", "other")
        ),
        f"{size(forecast.reserved_low)} to {size(forecast.reserved_high)}",
        "–" if forecast.adapter_file_bytes is None else size(forecast.adapter_file_bytes),
    ]


def markdown(headings: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    return tabulate([[*row] for row in rows], [*headings], tablefmt="pipe")
