"""Forecasts of many models and methods at one step, as a file (peftbench.at_scale)."""

from collections.abc import Callable, Iterable
from dataclasses import replace

from peftbench.at_scale import AtScale
from peftbench.errors import InputError
from peftbench.estimate.forecast import forecast
from peftbench.estimate.setting import Setting

# From half a billion parameters to seventy: one family, so that a line is a line.
MODELS = tuple(f"Qwen/Qwen2.5-{size}" for size in ("0.5B", "1.5B", "3B", "7B", "14B", "32B", "72B"))


def grid(
    models: Iterable[str], settings: Iterable[Setting], say: Callable[[str], object]
) -> list[AtScale]:
    """Each of the settings for each of the models. say: called with a line for each that a model
    cannot have. Raises InputError where no model can have any."""
    rows: list[AtScale] = []
    asked = list(settings)
    for model in models:
        for setting in asked:
            try:
                rows.append(at_scale(replace(setting, model=model)))
            except InputError as error:
                say(f"{model}, {setting.method}: skipped: {error}")
    if not rows:
        raise InputError("no model can have any of these settings")
    return rows


def at_scale(setting: Setting) -> AtScale:
    """One forecast as a row."""
    made = forecast(setting)
    names = ("method", "implementation", "precision", "base", "batch", "length")
    numbers = ("total_params", "trained_params", "at_rest_bytes", "peak_bytes", "reserved_bytes")
    return AtScale(
        model=setting.model,
        args=dict(setting.args),
        peak_parts=made.peak_parts.model_dump(),
        adapter_file_bytes=made.adapter_file_bytes,
        **{name: getattr(setting, name) for name in names},
        **{name: getattr(made, name) for name in numbers},
    )
