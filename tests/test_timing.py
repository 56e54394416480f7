"""Seconds and rates: what is in the time and what is not; whose peaks CUDA's are."""

import time
from collections.abc import Callable
from typing import Any

import pytest
import tiny
import torch
from test_methods import ARMS, _name, method_of
from test_run import spec
from torch import nn

from peftbench.methods.linear import AbstractAdapted, layers
from peftbench.record import CudaPeaks
from peftbench.training import run, timing
from peftbench.training.scoring import score
from peftbench.training.timing import gemm_peak, interleaved, latency, spread, with_cuda_peaks

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


class Meter:
    """In place of CUDA's allocator: its current bytes and the peak since the last reset."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.current = self.peak = 10
        monkeypatch.setattr(torch.cuda, "reset_peak_memory_stats", self.reset)
        monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda device: self.peak)
        monkeypatch.setattr(torch.cuda, "max_memory_reserved", lambda device: 2 * self.peak)

    def reset(self, device: torch.device) -> None:
        self.peak = self.current

    def use(self, size: int) -> None:
        """Allocate so much beside what there is, and free it."""
        self.peak = max(self.peak, self.current + size)


def test_peaks_are_those_of_the_stage(monkeypatch: pytest.MonkeyPatch) -> None:
    meter = Meter(monkeypatch)
    meter.use(1000)
    assert with_cuda_peaks(torch.device("cuda"), lambda: meter.use(200)) == (None, (210, 420))
    assert with_cuda_peaks(torch.device("cuda"), lambda: meter.use(30)) == (None, (40, 80))
    assert with_cuda_peaks(CPU, lambda: meter.use(30)) == (None, ())


def test_a_run_takes_the_peaks_of_its_training_and_of_its_evaluation(
    monkeypatch: pytest.MonkeyPatch, small_encoder: str
) -> None:
    """Whatever the other stages take, before, between and after."""
    meter = Meter(monkeypatch)
    takes = {"set_up": 500, "train": 200, "evaluate": 30, "spectra": 700, "footprint": 1000}

    def metered(stage: str) -> Callable[..., Any]:
        function = getattr(run, stage)

        def call(*args: Any) -> Any:
            meter.use(takes[stage])
            # the stages themselves run on the CPU
            return function(args[0], CPU) if stage == "set_up" else function(*args)

        return call

    for stage in takes:
        monkeypatch.setattr(run, stage, metered(stage))
    fields, _ = run._stages(spec(small_encoder), torch.device("cuda"), None, run.never, score)
    assert fields["cuda"].allocated_bytes == CudaPeaks(train=210, eval=40)
    assert fields["cuda"].reserved_bytes == CudaPeaks(train=420, eval=80)
