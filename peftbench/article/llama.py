"""Llama-2 at 7B and 70B, which nobody here has trained, by forecast (peftbench.at_scale)."""

import functools
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from peftbench.at_scale import AtScale, only, read

LLAMA_7B, LLAMA_70B = (f"meta-llama/Llama-2-{size}-hf" for size in ("7b", "70b"))
LORA_RANK = 8  # LoRA's own default, of which the forecasts are
Implementation = Literal["ours", "peft"]
Q_AND_V = {"targets": ["q_proj", "v_proj"]}


@functools.cache
def shipped() -> tuple[AtScale, ...]:
    return tuple(read())


def llama(
    model: str,
    method: str,
    args: Mapping[str, Any] | None = None,
    *,
    implementation: Implementation = "ours",
    precision: str = "bf16-mixed",
    rows: Sequence[AtScale] | None = None,
) -> AtScale:
    """The forecast of a method on all linear layers, with its own defaults unless `args` says
    otherwise. rows: those to look in. None: those that are shipped."""
    return only(
        shipped() if rows is None else rows,
        model=model,
        method=method,
        args=dict(args or {}),
        implementation=implementation,
        precision=precision,
    )


def called(model: str) -> str:
    """As people call it."""
    return model.rpartition("/")[2].removesuffix("-hf")


def lora_params(model: str, rank: int) -> int:
    """What LoRA of a rank trains on all linear layers: rank x sum(in + out), and so in proportion
    to it."""
    return llama(model, "lora").trained_params * rank // LORA_RANK
