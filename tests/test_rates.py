"""Measured rates of products, and which precisions they allow."""

import time
from typing import Any

import pytest
import torch

from peftbench.errors import InputError
from peftbench.spec import Precision
from peftbench.training import rates
from peftbench.training.fine_tuning import check_specs, set_up
from peftbench.training.rates import Rates, check_precision, gemm_peak

CPU, CUDA = torch.device("cpu"), torch.device("cuda")
PROBE = rates.probe  # before a fixture of all tests takes its place


def products(monkeypatch: pytest.MonkeyPatch, seconds: dict[torch.dtype, float]) -> list[Any]:
    """Let a product of the probe's smallest size take so long, by dtype, and larger ones as much
    longer as they have more to do; returns (dtype, size) of each product that is made."""
    made: list[Any] = []

    def measured(call: Any, device: torch.device) -> float:
        call()
        dtype, size = made[-1]
        return seconds[dtype] * (size / rates.PROBE_SIZES[0]) ** 3

    monkeypatch.setattr(rates, "seconds_of", measured)
    monkeypatch.setattr(torch, "mm", lambda a, b: made.append((a.dtype, len(a))))
    PROBE.cache_clear()
    monkeypatch.setattr(rates, "probe", PROBE)
    return made


def test_a_rate_is_that_of_the_fastest_product(monkeypatch: pytest.MonkeyPatch) -> None:
    seconds = iter([0.5, 0.25, 0.125, 0.25])
    monkeypatch.setattr(rates, "seconds_of", lambda call, device: next(seconds))
    assert gemm_peak(CPU, torch.float32, size=64, repeats=4) == 2 * 64**3 / 0.125
    assert next(seconds, None) is None


def test_no_product_is_begun_once_the_time_is_over(monkeypatch: pytest.MonkeyPatch) -> None:
    taken: list[float] = []
    monkeypatch.setattr(rates, "seconds_of", lambda call, device: taken.append(1.5) or 1.5)
    gemm_peak(CPU, torch.float32, size=64, repeats=8, seconds=4)
    assert len(taken) == 3
    taken.clear()
    gemm_peak(CPU, torch.float32, size=64, repeats=8, seconds=1)
    assert len(taken) == 1


def test_a_measured_rate_is_one_that_a_machine_may_have() -> None:
    assert 1e8 < gemm_peak(CPU, torch.float32, size=256) < 1e14


def test_the_probe_stops_at_its_smallest_products_where_bfloat16_crawls(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    made = products(monkeypatch, {torch.float32: 2e-4, torch.bfloat16: 0.1})
    assert PROBE(CPU).float32 / PROBE(CPU).bfloat16 == pytest.approx(500)
    assert {size for _, size in made} == {rates.PROBE_SIZES[0]}
    assert made.count((torch.bfloat16, rates.PROBE_SIZES[0])) == 1


def test_the_probe_takes_well_below_a_second_and_is_made_once() -> None:
    PROBE.cache_clear()
    start = time.perf_counter()
    first = PROBE(CPU)
    assert time.perf_counter() - start < 1
    assert PROBE(CPU) is first


@pytest.mark.parametrize("precision", ["bf16-mixed", "bf16"])
@pytest.mark.parametrize(("factor", "allowed"), [(0.25, True), (1.9, True), (2.1, False)])
def test_a_precision_is_refused_where_bfloat16_is_less_than_half_as_fast(
    precision: Precision, factor: float, allowed: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = products(monkeypatch, {torch.float32: 1e-4, torch.bfloat16: factor * 1e-4})
    if allowed:
        check_precision(precision, CPU)
    else:
        with pytest.raises(InputError) as refused:
            check_precision(precision, CPU)
        text = str(refused.value)
        assert "\n" not in text
        for part in (f'"{precision}"', "41.9 GFLOP/s", "20 GFLOP/s", '"float32"'):
            assert part in text
    assert {size for _, size in made} == {*rates.PROBE_SIZES}


def test_nothing_is_measured_for_float32(monkeypatch: pytest.MonkeyPatch) -> None:
    made = products(monkeypatch, {torch.float32: 1e-4, torch.bfloat16: 1.0})
    check_precision("float32", CPU)
    assert not made


@pytest.mark.parametrize("supported", [True, False])
def test_cuda_is_asked_and_not_measured(supported: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    made = products(monkeypatch, {torch.float32: 1e-4, torch.bfloat16: 1.0})
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: supported)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "Old GPU")
    check_precision("float32", CUDA)
    if supported:
        check_precision("bf16-mixed", CUDA)
    else:
        with pytest.raises(InputError, match=r'^train\.precision = "bf16-mixed": Old GPU has no'):
            check_precision("bf16-mixed", CUDA)
    assert not made


def test_runs_are_refused_before_the_first_and_on_their_own_machine(
    small_encoder: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from test_run import spec

    wanted = [spec(small_encoder), spec(small_encoder, precision="bf16-mixed")]
    check_specs(wanted)
    monkeypatch.setattr(rates, "probe", lambda device: Rates(1e11, 1e8))
    check_specs(wanted[:1])
    for refused in (lambda: check_specs(wanted), lambda: set_up(wanted[1], CPU)):
        with pytest.raises(InputError, match="GFLOP/s in bfloat16"):
            refused()
