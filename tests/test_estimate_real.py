"""The forecast of a step of a packaged model is what the step takes with its weights."""

from typing import Any

import pytest
from real_step import tracked_peak

from peftbench.estimate.forecast import forecast
from peftbench.estimate.setting import Setting
from peftbench.methods import OURS

MODELS = ("minilm-l6", "smollm2-135m")
LEAN = {"checkpointing": True, "micro_batch": 1}


CASES = [
    *((model, method, "float32", {}) for model in MODELS for method in OURS),
    *(
        (model, "lora", precision, lean)
        for model in MODELS
        for precision, lean in (("float32", LEAN), ("bf16-mixed", {}), ("bf16-mixed", LEAN))
    ),
]


@pytest.mark.slow
@pytest.mark.parametrize(("model", "method", "precision", "lean"), CASES)
def test_a_forecast_is_the_real_step(
    model: str, method: str, precision: Any, lean: dict[str, Any]
) -> None:
    """Few tokens, since bfloat16 crawls on most processors; benchmarks/validate_estimates.py tries
    every method in every way."""
    setting = Setting(
        model=model,
        method=method,
        batch=2,
        length=12,
        precision=precision,
        pooling="mean" if model == "minilm-l6" else "model",
        device="cpu",
        **lean,
    )
    assert forecast(setting).peak_bytes == pytest.approx(tracked_peak(setting), rel=0.001)
