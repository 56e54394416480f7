"""The figure of memory at scale: the forecasts' numbers, a line for methods that need the same."""

from typing import Any

import pytest

from peftbench.at_scale import AtScale, read
from peftbench.figures.memory_at_scale import GIB, GPUS, memory_at_scale
from peftbench.figures.panels import NothingToDraw
from peftbench.figures.style import style
from peftbench.methods import OURS


def row(model: str, method: str, params: int, peak: int, **others: Any) -> AtScale:
    values: dict[str, Any] = {
        "args": {},
        "implementation": "ours",
        "precision": "bf16-mixed",
        "base": "plain",
        "batch": 4,
        "length": 768,
        "trained_params": 1,
        "at_rest_bytes": 1,
        "peak_parts": {},
        "reserved_bytes": peak,
        "adapter_file_bytes": None,
    }
    return AtScale(
        model=model, method=method, total_params=params, peak_bytes=peak, **values | others
    )


def numbers(values: Any) -> list[float]:
    return [float(value) for value in values]


def test_lines_go_through_the_forecasts() -> None:
    made = [
        row("b", "lora", 2 * 10**9, 6 * GIB),
        row("a", "lora", 10**9, 3 * GIB),
        row("a", "full", 10**9, 16 * GIB),
        row("b", "full", 2 * 10**9, 32 * GIB),
        row("a", "lora+", 10**9, 3 * GIB),
        row("b", "lora+", 2 * 10**9, 6 * GIB),
        row("b", "lora", 2 * 10**9, 1, args={"rank": 1}),
        row("b", "lora", 2 * 10**9, 2, implementation="peft"),
        row("b", "lora", 2 * 10**9, 3, length=9),
    ]
    (axes,) = memory_at_scale(made).axes
    lines = {line.get_label(): line for line in axes.get_lines() if line.get_marker() != "None"}
    assert set(lines) == {"full", "lora, lora+"}
    assert numbers(lines["lora, lora+"].get_xdata()) == [1, 2]
    assert numbers(lines["lora, lora+"].get_ydata()) == [3, 6]
    assert numbers(lines["full"].get_ydata()) == [16, 32]
    assert lines["full"].get_color() == style("full")[0]
    levels = [
        numbers(line.get_ydata())[0] for line in axes.get_lines() if line.get_marker() == "None"
    ]
    assert levels == list(GPUS)
    assert "nothing was run" in axes.get_title()


def test_one_model_is_no_line() -> None:
    with pytest.raises(NothingToDraw):
        memory_at_scale([row("a", "lora", 10**9, 3 * GIB)])
    with pytest.raises(NothingToDraw):
        memory_at_scale([])


def test_what_is_shipped_has_every_method() -> None:
    (axes,) = memory_at_scale(read()).axes
    names = ", ".join(str(line.get_label()) for line in axes.get_lines())
    for method in OURS:
        assert method in names
