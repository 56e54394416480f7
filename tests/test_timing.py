"""Seconds and rates: what is in the time and what is not."""

import time
from typing import Any

import pytest
import tiny
import torch
from test_methods import ARMS, _name, method_of
from torch import nn

from peftbench.methods.linear import AbstractAdapted, layers
from peftbench.training import timing
from peftbench.training.timing import gemm_peak, interleaved, latency, spread

CPU = torch.device("cpu")


def test_spread_is_median_and_interquartile_range() -> None:
    seconds = spread([float(i) for i in range(1, 102)])
    assert (seconds.median, seconds.iqr, seconds.n) == (51, 50, 101)


def test_interleaving_times_the_call_and_not_the_entry(monkeypatch: pytest.MonkeyPatch) -> None:
    entered: list[str] = []

    class Slow:
        def __init__(self, net: nn.Module, modules: dict[str, nn.Module]) -> None:
            (self.name,) = modules

        def __enter__(self) -> None:
            entered.append(self.name)
            time.sleep(0.02)

        def __exit__(self, *error: object) -> None:
            time.sleep(0.02)

    monkeypatch.setattr(timing, "replaced", Slow)
    monkeypatch.setattr(timing, "LATENCY_REPEATS", 4)
    net = nn.Identity()
    spreads = interleaved(net, {"a": {"a": net}, "b": {"b": net}}, lambda: time.sleep(0.001), CPU)
    assert entered == ["a", "b"] * 5
    assert all(0.001 <= value.median < 0.015 and value.n == 4 for value in spreads.values())


class Toy:
    """Of a model, what latency looks at."""

    def __init__(self, net: Any, pad: int) -> None:
        self.net, self.pad, self.device = net, pad, CPU


@pytest.mark.parametrize("pad", [0, tiny.VOCABULARY - 1])
@pytest.mark.parametrize("arm", ARMS, ids=_name)
def test_latency_is_measured_in_the_forms_that_a_method_has(arm: Any, pad: int) -> None:
    method, net = method_of(arm), tiny.make(tiny.llama)
    tiny.attach(method, net)
    names = list(layers(net, AbstractAdapted))
    seconds = latency(method, Toy(net, pad))  # type: ignore[arg-type]
    assert (seconds.base is None) == (arm[0] == "full")
    assert (seconds.merged is None) == (arm[0] in ("full", "frozen"))
    assert list(layers(net, AbstractAdapted)) == names


def test_latency_of_a_method_without_other_forms() -> None:
    method, net = tiny.BiasShift(), tiny.make(tiny.llama)
    method.attach(net, torch.Generator())
    seconds = latency(method, Toy(net, 0))  # type: ignore[arg-type]
    assert seconds.base is seconds.merged is None
    assert seconds.adapted.n == 7


def test_gemm_peak_is_a_rate() -> None:
    assert 1e8 < gemm_peak(CPU, torch.float32, size=256) < 1e14
