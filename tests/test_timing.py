"""Seconds and rates: what is in the time and what is not; whose peaks CUDA's are."""

import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from typing import Any

import numpy as np
import pytest
import tiny
import torch
from test_methods import ARMS, _name, method_of
from test_run import spec
from torch import nn

from peftbench.methods import METHODS
from peftbench.methods.linear import layers, replaced
from peftbench.record import CudaPeaks, Latency, Spread
from peftbench.training import run, timing
from peftbench.training.scoring import score
from peftbench.training.timing import interleaved, latency, spread, with_cuda_peaks

CPU = torch.device("cpu")


def test_spread_is_median_and_interquartile_range() -> None:
    seconds = spread([float(i) for i in range(1, 102)])
    assert (seconds.median, seconds.iqr, seconds.n) == (51, 50, 101)


class Putting:
    """Forms that say which of them was entered, and take their time for it."""

    def __init__(self, seconds: float = 0.0) -> None:
        self.entered: list[str] = []
        self.seconds = seconds

    @contextmanager
    def form(self, name: str) -> Iterator[None]:
        self.entered.append(name)
        time.sleep(self.seconds)
        yield
        time.sleep(self.seconds)


def interleave(
    names: str, seed: int, putting: Putting, call: Callable[[], Any] = int
) -> dict[str, Spread]:
    forms = {name: partial(putting.form, name) for name in names}
    return interleaved(forms, call, CPU, np.random.default_rng(seed))


def test_interleaving_times_the_call_and_not_the_entry(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(timing, "LATENCY_REPEATS", 4)
    spreads = interleave("ab", 0, Putting(0.02), lambda: time.sleep(0.001))
    assert all(0.001 <= value.median < 0.015 and value.n == 4 for value in spreads.values())


def test_slow_forms_are_timed_in_fewer_rounds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(timing, "LATENCY_SECONDS", 0.1)
    counts = {
        seconds: {value.n for value in interleave("ab", 0, Putting(seconds)).values()}
        for seconds in (0.0, 0.03)
    }
    assert counts == {0.0: {timing.LATENCY_REPEATS}, 0.03: {timing.FEWEST_REPEATS}}


def test_forms_are_timed_in_an_order_of_each_round_that_the_seed_decides() -> None:
    orders: list[list[str]] = []
    for seed in (1, 1, 2):
        putting = Putting()
        interleave("abcd", seed, putting)
        orders.append(["".join(putting.entered[i : i + 4]) for i in range(0, 4 * 7, 4)])
    assert all(sorted(order) == [*"abcd"] for rounds in orders for order in rounds)
    assert len(set(orders[0])) > 1
    assert orders[0] == orders[1] != orders[2]


class Toy:
    """Of a model, what latency looks at."""

    def __init__(self, net: Any, pad: int) -> None:
        self.net, self.pad, self.device = net, pad, CPU

    def computing(self) -> AbstractContextManager[None]:
        return nullcontext()


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


@torch.no_grad()
@pytest.mark.parametrize("arm", ARMS, ids=_name)
def test_each_form_computes_what_it_says_and_leaves_no_trace(arm: Any) -> None:
    method, net = method_of(arm), tiny.make(tiny.llama)
    trained = tiny.attach(method, net)
    rng = torch.Generator().manual_seed(0)
    for parameter in trained:  # away from a change of zero
        parameter.add_(0.05 * torch.randn(parameter.shape, generator=rng, dtype=parameter.dtype))
    ids = torch.arange(3, 9)[None]
    plain, merged = method.plain(net), method.merged(net)
    expected = {"adapted": net(ids).logits}
    if plain is not None:
        with replaced(net, plain):
            expected |= dict.fromkeys(("base", "control"), net(ids).logits)
    if merged is not None:
        with replaced(net, merged):
            expected["merged"] = net(ids).logits
    before = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    forms = timing.forms_of(method, net)
    assert forms.keys() == expected.keys()
    for name, form in [*forms.items(), *forms.items()]:
        with form():
            assert torch.equal(net(ids).logits, expected[name]), name
    after = net.state_dict()
    assert after.keys() == before.keys()
    assert all(torch.equal(tensor, after[name]) for name, tensor in before.items())


@torch.no_grad()
def test_weights_come_back_after_an_error() -> None:
    method, net = METHODS["lora"].build({}), tiny.make(tiny.llama)
    for parameter in tiny.attach(method, net):
        parameter.fill_(0.1)
    before = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    with pytest.raises(KeyError), timing.forms_of(method, net)["merged"]():
        raise KeyError
    assert all(torch.equal(before[name], tensor) for name, tensor in net.state_dict().items())


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


def test_where_weights_lie_is_no_latency_of_merging(monkeypatch: pytest.MonkeyPatch) -> None:
    """New weights are slower than the loaded ones: no form has any."""
    method, net = METHODS["lora"].build({}), tiny.make(tiny.llama)
    tiny.attach(method, net)
    Clock(net, monkeypatch)
    merged = method.merged(net)
    assert merged
    ids = torch.ones(1, 4, dtype=torch.long)
    elsewhere: dict[str, timing.Form] = {"merged": lambda: replaced(net, merged)}
    rng = np.random.default_rng(0)
    seconds = interleaved(elsewhere, lambda: net(input_ids=ids), CPU, rng)
    assert seconds["merged"].median == pytest.approx(1.017)
    fair = latency(method, Toy(net, 0), 0)  # type: ignore[arg-type]
    assert [getattr(fair, form).median for form in Latency.model_fields] == pytest.approx([1.0] * 4)


def test_layers_that_share_a_weight_get_it_back() -> None:
    first, second = nn.Linear(3, 3, bias=False), nn.Linear(3, 3, bias=False)
    second.weight = first.weight
    net = nn.Sequential(first, second)
    weight = first.weight.detach().clone()
    merged = {name: nn.Linear(3, 3, bias=False) for name in ("0", "1")}
    with timing.in_place_of(net, {"0": first, "1": second}, merged):
        assert not torch.equal(first.weight, weight)
    assert torch.equal(first.weight, weight)


def test_merged_layers_of_another_dtype_stand_by_themselves() -> None:
    """As those of a base that is kept in fewer bits."""
    plain, merged = nn.Linear(3, 2), nn.Linear(3, 2, dtype=torch.float64)
    net, weight = nn.Sequential(plain), plain.weight.detach().clone()
    with timing.in_place_of(net, {"0": plain}, {"0": merged}):
        assert net.get_submodule("0") is merged
    assert torch.equal(plain.weight, weight)


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
