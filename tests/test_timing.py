"""Seconds and rates: what is in the time and what is not; whose peaks CUDA's are."""

import time
import weakref
from collections.abc import Callable
from functools import partial
from itertools import chain
from typing import Any, ClassVar

import numpy as np
import pytest
import tiny
import torch
from test_methods import ARMS, _name, method_of
from test_run import spec
from torch import Tensor, nn

from peftbench.methods import METHODS
from peftbench.methods.base import AbstractMethod
from peftbench.methods.linear import layers
from peftbench.record import CudaPeaks, Latency, Spread
from peftbench.training import run, timing
from peftbench.training.scoring import score
from peftbench.training.timing import interleaved, latency, spread, with_cuda_peaks

CPU = torch.device("cpu")


def test_spread_is_median_and_interquartile_range() -> None:
    seconds = spread([float(i) for i in range(1, 102)])
    assert (seconds.median, seconds.iqr, seconds.n) == (51, 50, 101)


class Putting:
    """In place of `replaced`: keeps which forms were put into the network, and takes its time."""

    entered: ClassVar[list[str]] = []
    seconds = 0.0

    def __init__(self, net: nn.Module, modules: dict[str, nn.Module]) -> None:
        (self.name,) = modules

    def __enter__(self) -> None:
        self.entered.append(self.name)
        time.sleep(self.seconds)

    def __exit__(self, *error: object) -> None:
        time.sleep(self.seconds)


@pytest.fixture
def putting(monkeypatch: pytest.MonkeyPatch) -> type[Putting]:
    monkeypatch.setattr(Putting, "entered", [])
    monkeypatch.setattr(timing, "replaced", Putting)
    return Putting


def interleave(names: str, seed: int, call: Callable[[], Any] = int) -> dict[str, Spread]:
    net = nn.Identity()
    forms = {name: lambda name=name: {name: net} for name in names}
    return interleaved(net, forms, call, CPU, np.random.default_rng(seed))


def test_interleaving_times_the_call_and_not_the_entry(
    monkeypatch: pytest.MonkeyPatch, putting: type[Putting]
) -> None:
    monkeypatch.setattr(putting, "seconds", 0.02)
    monkeypatch.setattr(timing, "LATENCY_REPEATS", 4)
    spreads = interleave("ab", 0, lambda: time.sleep(0.001))
    assert all(0.001 <= value.median < 0.015 and value.n == 4 for value in spreads.values())


def test_forms_are_timed_in_an_order_of_each_round_that_the_seed_decides(
    putting: type[Putting],
) -> None:
    orders: list[list[str]] = []
    for seed in (1, 1, 2):
        putting.entered.clear()
        interleave("abcd", seed)
        orders.append(["".join(putting.entered[i : i + 4]) for i in range(0, 4 * 7, 4)])
    assert all(sorted(order) == [*"abcd"] for rounds in orders for order in rounds)
    assert len(set(orders[0])) > 1
    assert orders[0] == orders[1] != orders[2]


class Toy:
    """Of a model, what latency looks at."""

    def __init__(self, net: Any, pad: int) -> None:
        self.net, self.pad, self.device = net, pad, CPU


@pytest.mark.parametrize("pad", [0, tiny.VOCABULARY - 1])
@pytest.mark.parametrize("arm", ARMS, ids=_name)
def test_latency_is_measured_in_the_forms_that_a_method_has(arm: Any, pad: int) -> None:
    method, net = method_of(arm), tiny.make(tiny.llama)
    tiny.attach(method, net)
    modules = dict(net.named_modules())
    seconds = latency(method, Toy(net, pad), 0)  # type: ignore[arg-type]
    assert (seconds.base is None) == (seconds.control is None) == (arm[0] == "full")
    assert (seconds.merged is None) == (arm[0] in ("full", "frozen"))
    assert dict(net.named_modules()) == modules


def test_latency_of_a_method_without_other_forms() -> None:
    method, net = tiny.BiasShift(), tiny.make(tiny.llama)
    method.attach(net, torch.Generator())
    seconds = latency(method, Toy(net, 0), 0)  # type: ignore[arg-type]
    assert seconds.base is seconds.merged is seconds.control is None
    assert seconds.adapted.n == 7


class Clock:
    """Time that passes in forward passes of `net` alone: a second each, and NEW of it more where a
    linear layer's weights lie elsewhere than at first."""

    NEW = 0.017

    def __init__(self, net: nn.Module, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now, self.at_first = 0.0, _weights(net)
        net.register_forward_pre_hook(self.tick)
        monkeypatch.setattr(time, "perf_counter", lambda: self.now)

    def tick(self, net: nn.Module, args: object) -> None:
        self.now += 1 + self.NEW * (not _weights(net) <= self.at_first)


def _weights(net: nn.Module) -> set[int]:
    return {layer.weight.data_ptr() for layer in layers(net, nn.Linear).values()}


@pytest.fixture
def lora_net() -> tuple[AbstractMethod, nn.Module]:
    method, net = METHODS["lora"].build({}), tiny.make(tiny.llama)
    tiny.attach(method, net)
    return method, net


def test_where_weights_lie_is_no_latency_of_merging(
    monkeypatch: pytest.MonkeyPatch, lora_net: tuple[AbstractMethod, nn.Module]
) -> None:
    """New weights are slower than the loaded ones: every form has new ones."""
    method, net = lora_net
    Clock(net, monkeypatch)
    merged = method.merged(net)
    assert merged
    mixed: dict[str, Any] = {"base": lambda: method.plain(net), "merged": lambda: merged}
    ids = torch.ones(1, 4, dtype=torch.long)
    rng = np.random.default_rng(0)
    seconds = interleaved(net, mixed, lambda: net(input_ids=ids), CPU, rng)
    assert seconds["merged"].median / seconds["base"].median == pytest.approx(1.017)
    fair = latency(method, Toy(net, 0), 0)  # type: ignore[arg-type]
    medians = [getattr(fair, form).median for form in Latency.model_fields]
    assert medians == pytest.approx([1.017] * 4)


def test_copies_of_one_form_exist_at_a_time(
    monkeypatch: pytest.MonkeyPatch, lora_net: tuple[AbstractMethod, nn.Module]
) -> None:
    method, net = lora_net
    made: list[weakref.ref[Tensor]] = []
    alive: list[int] = []

    def watched(make: Callable[[], timing.Modules]) -> timing.Modules:
        alive.append(sum(weight() is not None for weight in made))
        modules = make()
        linears = [layers(module, nn.Linear).values() for module in modules.values()]
        made.extend(weakref.ref(layer.weight) for layer in chain(*linears))
        return modules

    def interleaving(net: nn.Module, forms: Any, *rest: Any) -> dict[str, Spread]:
        return interleaved(net, {name: partial(watched, forms[name]) for name in forms}, *rest)

    monkeypatch.setattr(timing, "interleaved", interleaving)
    latency(method, Toy(net, 0), 0)  # type: ignore[arg-type]
    assert made
    assert set(alive) == {0}


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
