"""The comparison with peft is fair and says what it measured: equal tokens and losses on both
sides, bytes that can be counted by hand, ratios of one repeat, targets that can be missed."""

import dataclasses
import json
import statistics
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from peftbench.errors import InputError

pytest.importorskip("peft", reason="peft is the peer to compare with, a development dependency")

import vs_peft
from peer import measured as measurements
from peer import scale as at_scale
from peer import step_profile, work
from peer.clock import Clock
from peer.measure import (
    Bytes,
    Row,
    compare,
    kept_bytes,
    largest_difference,
    row,
    step_bytes,
    without_dropout,
)
from peer.measured import Machine, Measured
from peer.overhead import Overhead
from peer.page import SMOLLM2, TARGETS, Target, comparison, page
from peer.scale import SUPERVISED, ScaleRow
from peer.sides import Lap, Pair
from peer.work import ARGUMENTS, WARM_UP, Work, evenly, full_batches

ROOT = Path(__file__).parent.parent
CPU = torch.device("cpu")
pytestmark = [
    # peft 0.21 reads an attribute that transformers 5.23 has renamed.
    pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning"),
    # Trainer's data loader pins memory only where there is an accelerator, and says so.
    pytest.mark.filterwarnings("ignore:'pin_memory' argument is set as true:UserWarning"),
]
SHAPE = {
    "vocab_size": 61,
    "hidden_size": 24,
    "intermediate_size": 40,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 6,
    "max_position_embeddings": 1024,
    "tie_word_embeddings": True,
}


@pytest.fixture(autouse=True)
def few_examples(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(work, "MEGABATCH", 3)


encoder_alone = pytest.mark.parametrize("place", ["encoder"], indirect=True)


@pytest.fixture(params=["encoder", "decoder"])
def place(request: pytest.FixtureRequest, small_encoder: str, small_decoder: str) -> Any:
    """A small model, and a packaged task for it."""
    if request.param == "encoder":
        return small_encoder, "reviews"
    return small_decoder, "gsm_symbolic"


def job(place: tuple[str, str], method: str = "lora", **values: int) -> Work:
    sizes = {"batch_size": 4, "steps": 3, "repeats": 1} | values
    return Work(model=place[0], task=place[1], method=method, **sizes)


# -- both sides


# what differs from lora in its optimizer alone, and what peft has no part in
SLOW = {"lora-fa", "lora-fa corrected", "lora+", "full"}


@pytest.mark.parametrize(
    "method",
    [pytest.param(m, marks=[pytest.mark.slow] if m in SLOW else []) for m in ARGUMENTS],
)
def test_losses_agree_from_equal_weights_on_the_same_batches(place: Any, method: str) -> None:
    pair = Pair(job(place, method), CPU)
    # peft corrects LoRA-FA's gradient in bfloat16
    assert largest_difference(pair) <= (1e-3 if method == "lora-fa corrected" else 1e-5)
    losses = pair.ours(0).losses
    assert len(losses) == WARM_UP + 3
    assert len(set(losses)) > 1


@contextmanager
def seen(net: Any) -> Iterator[list[int]]:
    """The real tokens of each forward pass: the trunk gets the mask, and embeds the tokens."""
    trunk = getattr(net, "get_base_model", lambda: net)().base_model
    mask: list[int] = []
    tokens: list[int] = []
    hooks = [
        trunk.register_forward_pre_hook(
            lambda _, args, inputs: mask.append(int(inputs["attention_mask"].sum())),
            with_kwargs=True,
        ),
        trunk.get_input_embeddings().register_forward_pre_hook(
            lambda *_: tokens.append(mask[-1]),
        ),
    ]
    yield tokens
    for hook in hooks:
        hook.remove()


def test_every_side_is_credited_with_the_tokens_that_its_network_saw(place: Any) -> None:
    pair = Pair(job(place), CPU)
    laps: dict[str, Lap] = {}
    counted: dict[str, int] = {}
    for name, side in pair.sides().items():
        with seen(pair.tuning.model.net if name == "ours" else pair.theirs) as tokens:
            laps[name] = side(1)
        assert len(tokens) == WARM_UP + 3
        counted[name] = sum(tokens[WARM_UP:])
    assert {name: lap.tokens for name, lap in laps.items()} == counted
    assert laps["ours"].tokens == laps["identical"].tokens
    assert all(lap.seconds > 0 for lap in laps.values())


@encoder_alone
def test_trainer_groups_by_length_only_where_it_is_told_to(place: Any) -> None:
    pair = Pair(job(place, batch_size=4, steps=4), CPU)

    def padding(strategy: str, folder: str) -> float:
        trainer = pair._trainer(0, strategy, folder)
        trainer._get_train_sampler(trainer.train_dataset)
        lengths = [[pair.lengths[i] for i in batch] for batch in trainer.batches]
        return sum(4 * max(b) for b in lengths) / sum(map(sum, lengths))

    assert padding("group_by_length", "unused") < padding("random", "unused") - 0.02


@encoder_alone
def test_a_comparison_has_a_row_against_each(place: Any) -> None:
    rows = compare(job(place, repeats=2), ("defaults", "identical"), CPU)
    assert [row.against for row in rows] == ["defaults", "identical"]
    for each in rows:
        assert each.low <= each.ratio <= each.high
        assert each.peak_ratio == each.ours_peak_bytes / each.their_peak_bytes
    assert rows[0].loss_difference is None
    assert rows[1].loss_difference is not None
    assert rows[1].loss_difference <= 1e-5
    text = comparison(rows)
    assert text.count("\n") == 3
    assert "| identical | " in text


def test_a_method_that_peft_does_not_offer_is_refused(place: Any) -> None:
    with pytest.raises(InputError, match="delta-lora"):
        job(place, "delta-lora")


# -- batches, clock, ratios


@pytest.mark.parametrize("seed", range(5))
def test_batches_of_a_repeat_stand_for_the_epoch(seed: int) -> None:
    lengths = torch.randint(5, 80, (400,), generator=torch.Generator().manual_seed(seed)).tolist()
    order = sorted(range(400), key=lambda i: -lengths[i])  # as Trainer has them: longest first
    batches = full_batches(order, 8)
    assert len(batches) == 50

    def size(batch: list[int]) -> int:
        return max(lengths[i] for i in batch)

    chosen = evenly(batches, lengths, 10, seed)
    assert len(chosen) == WARM_UP + 10
    assert all(batch in batches for batch in chosen)
    assert len({tuple(batch) for batch in chosen[WARM_UP:]}) == 10
    mean = statistics.fmean(map(size, batches))
    assert statistics.fmean(map(size, chosen[WARM_UP:])) == pytest.approx(mean, rel=0.1)
    assert (
        statistics.fmean(map(size, batches[:10])) > 1.5 * mean
    )  # what follows each other does not


def test_an_incomplete_batch_is_left_out() -> None:
    assert full_batches(range(7), 3) == [[0, 1, 2], [3, 4, 5]]


def test_the_clock_sees_every_optimizer_step_and_misses_none() -> None:
    weight = nn.Parameter(torch.ones(3))
    optimizer = torch.optim.AdamW([weight])
    with Clock(CPU) as clock:
        for _ in range(3):
            weight.sum().backward()
            optimizer.step()
    optimizer.step()
    assert len(clock.ends) == 3
    assert clock.seconds(1, 3) == clock.ends[2] - clock.ends[0] > 0
    with pytest.raises(ValueError, match="3 optimizer steps"):
        clock.seconds(1, 4)


def test_a_ratio_is_of_one_repeat_and_their_median_is_told() -> None:
    ours = [Lap(100, s, [1.0]) for s in (1.0, 2.0, 1.0)]
    theirs = [Lap(80, s, [3.0]) for s in (1.0, 4.0, 4.0)]
    made = row(job(("m", "reviews")), "defaults", ours, theirs, (Bytes(3, 1), Bytes(4, 2)), None)
    assert (made.low, made.ratio, made.high) == (1.25, 2.5, 5.0)  # not the ratio of the medians
    assert (made.peak_ratio, made.kept_ratio) == (0.75, 0.5)
    assert (made.ours_rate, made.their_rate) == (100, 20)


# -- bytes


def test_kept_bytes_are_what_autograd_saves_once_each() -> None:
    net = nn.Sequential(nn.Linear(100, 200, bias=False), nn.ReLU(), nn.Linear(200, 50, bias=False))
    x = torch.randn(64, 100)
    # relu's result, which the second layer keeps too, and x; weights are there anyway
    assert kept_bytes(net, lambda: [net(x).sum()]) == 4 * 64 * (200 + 100)
    net[0].requires_grad_(False)
    assert kept_bytes(net, lambda: [net(x).sum()]) == 4 * 64 * 200
    net.requires_grad_(False)
    assert kept_bytes(net, lambda: [net(x).sum()]) == 0


def test_both_sides_bytes_are_of_the_same_batch(small_encoder: str) -> None:
    """Full fine-tuning of the same network with the same optimizer takes the same bytes."""
    pair = Pair(job((small_encoder, "reviews"), "full"), CPU)
    with without_dropout(pair.tuning.model.net), without_dropout(pair.theirs):
        ours, theirs = step_bytes(pair)
    assert ours.peak == pytest.approx(theirs.peak, rel=0.02)
    assert ours.kept == pytest.approx(theirs.kept, rel=0.02)


@pytest.mark.parametrize("method", at_scale.ARMS)
def test_bytes_without_memory_are_those_with_it(
    method: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(at_scale, "LENGTH", 16)
    monkeypatch.setitem(at_scale.ARMS, "vera", {"rank": 256})

    def both() -> list[Bytes]:
        theirs = at_scale.theirs_at_scale(method, 8, SHAPE, autocast=True)
        return [at_scale.ours_at_scale(method, 8, SHAPE), theirs]

    fake = both()
    monkeypatch.setattr(at_scale, "FakeTensorMode", RealTensors)
    assert both() == fake
    parameters = sum(p.numel() for p in at_scale.network(SHAPE).parameters())
    assert all(each.peak > 2 * parameters for each in fake)


class RealTensors:
    """In the place of FakeTensorMode: tensors with memory."""

    def __init__(self, **_: bool) -> None: ...

    def __enter__(self) -> None: ...

    def __exit__(self, *_: object) -> None: ...


# -- profile


@pytest.mark.parametrize(
    ("operation", "kind"),
    [
        ("aten::addmm", "products"),
        ("aten::addmm_", "products"),
        ("aten::bmm", "products"),
        ("aten::mkldnn_linear", "products"),
        ("mkldnn::_linear_pointwise", "products"),
        ("aten::_scaled_dot_product_flash_attention_for_cpu", "attention"),
        ("aten::bernoulli_", "random numbers"),
        ("aten::native_dropout", "random numbers"),
        ("aten::copy_", "copies and casts"),
        ("aten::_to_copy", "copies and casts"),
        ("aten::_fused_adamw_", "optimizer"),
        ("aten::gelu_backward", "pointwise and sums"),
        ("aten::add", "pointwise and sums"),
        ("autograd::engine::evaluate_function: AddmmBackward0", "rest"),
    ],
)
def test_what_kind_an_operation_is_of(operation: str, kind: str) -> None:
    assert step_profile.kind_of(operation) == kind


@encoder_alone
def test_a_profile_accounts_for_the_whole_step(place: Any) -> None:
    (ours, theirs) = step_profile.profiles(job(place, steps=2), 300, CPU)
    assert (ours.side, theirs.side) == ("ours", "identical")
    for each in (ours, theirs):
        assert sum(each.shares.values()) == pytest.approx(1, abs=0.1)
        assert each.shares["products"] > 0
        assert 0 < each.products_part < 1.5
        assert each.tokens == pytest.approx(300, rel=0.8)
    assert ours.tokens == theirs.tokens


# -- what is kept, and the page

MACHINE = Machine(device="a machine", threads=2, torch="1", transformers="2", peft="3")


def a_row(method: str, against: str, ratio: float, place: tuple[str, str]) -> Row:
    laps = [Lap(100, 1.0, [0.5])], [Lap(100, ratio, [0.5])]
    made = row(job(("m", "reviews"), method), against, *laps, (Bytes(3, 1), Bytes(4, 2)), 1e-7)
    return dataclasses.replace(made, model=place[0], task=place[1])


def target(work: str, against: str) -> Target:
    (each,) = [t for t in TARGETS if (t.work, t.against) == (work, against)]
    return each


def test_a_target_is_reached_by_all_its_arms_or_missed_or_not_measured() -> None:
    nothing = Measured(machine=MACHINE)
    one = target("SmolLM2, GSM8K: LoRA", "defaults")
    assert one.verdict(nothing) == "not measured"
    assert one.verdict(nothing.with_rows([a_row("lora", "defaults", 2.01, SMOLLM2)])) == "reached"
    assert (
        one.verdict(nothing.with_rows([a_row("lora", "defaults", 1.99, SMOLLM2)])) == "**missed**"
    )
    packaged = a_row("lora", "defaults", 2.01, ("smollm2-135m", "gsm_symbolic"))
    assert one.verdict(nothing.with_rows([packaged])) == "not measured"
    three = target("MiniLM, SST-2: LoRA, LoRA-FA, LoRA+", "grouped")
    place = ("minilm-l6", "sst2")
    some = nothing.with_rows([a_row(m, "grouped", 1.4, place) for m in ("lora", "lora-fa")])
    assert three.verdict(some) == "not measured"
    assert three.verdict(some.with_rows([a_row("lora+", "grouped", 1.4, place)])) == "reached"
    assert three.verdict(some.with_rows([a_row("lora+", "grouped", 1.2, place)])) == "**missed**"


def scale_row(method: str, supervised: int, ours: int, theirs: str = "bfloat16 base") -> ScaleRow:
    return ScaleRow(
        method=method,
        supervised=supervised,
        theirs=theirs,
        peak_ratio=ours / 100,
        kept_ratio=1.0,
        ours_peak_bytes=ours,
        their_peak_bytes=100,
        ours_kept_bytes=1,
        their_kept_bytes=1,
    )


def test_a_target_of_bytes_is_judged_by_every_number_of_supervised_tokens() -> None:
    (lora, vera, lora_fa) = [t for t in TARGETS if t.work.startswith("peak bytes")]
    nothing = Measured(machine=MACHINE)
    rows = [scale_row(m, n, 60) for m in ("lora", "vera", "lora-fa") for n in SUPERVISED]
    all_good = dataclasses.replace(nothing, scale=tuple(rows))
    assert [t.verdict(all_good) for t in (lora, vera, lora_fa)] == ["reached"] * 3
    assert [t.verdict(nothing) for t in (lora, vera, lora_fa)] == ["not measured"] * 3
    worse = [scale_row(m, SUPERVISED[1], 75) for m in ("lora", "vera")]
    cheaper = [scale_row("lora", SUPERVISED[1], 40), *rows[2:]]
    autocast = [scale_row("lora", SUPERVISED[1], 99, "bfloat16 base, autocast")]
    bad = dataclasses.replace(nothing, scale=(rows[0], *worse))
    assert [t.verdict(bad) for t in (lora, vera)] == ["**missed**", "**missed**"]
    dear = dataclasses.replace(nothing, scale=(rows[0], *cheaper))
    assert lora_fa.verdict(dear) == "**missed**"
    both = dataclasses.replace(nothing, scale=(*rows, *autocast))
    assert lora.verdict(both) == "reached"


def test_wall_time_is_beside_training_and_evaluation() -> None:
    (each,) = [t for t in TARGETS if t.work.startswith("wall time")]
    for wall, verdict in ((109.0, "reached"), (112.0, "**missed**")):
        made = Overhead(runs=20, wall_seconds=wall, pure_seconds=100.0)
        assert each.verdict(Measured(machine=MACHINE, overhead=made)) == verdict


def test_what_is_kept_is_read_again_and_replaced_by_what_is_newer(tmp_path: Path) -> None:
    file, place = tmp_path / "kept.json", ("minilm-l6", "sst2")
    nothing = measurements.read(file, MACHINE)
    assert nothing == Measured(machine=MACHINE)
    first = nothing.with_rows([a_row("lora", name, 2.0, place) for name in ("defaults", "grouped")])
    again = first.with_rows([a_row("lora", "grouped", 3.0, place)])
    whole = dataclasses.replace(
        again,
        scale=(scale_row("lora", 5, 60),),
        overhead=Overhead(runs=20, wall_seconds=2.0, pure_seconds=1.0),
    )
    measurements.write(file, whole)
    assert measurements.read(file, MACHINE) == whole
    assert [(r.against, r.ratio) for r in whole.rows] == [("defaults", 2.0), ("grouped", 3.0)]
    each = Work(model=place[0], task=place[1], method="lora", batch_size=1, steps=1, repeats=1)
    assert not vs_peft.lacks(whole, each, "grouped")
    assert vs_peft.lacks(whole, each, "identical")
    measurements.check_machine(whole, MACHINE)
    with pytest.raises(InputError, match="name another file"):
        measurements.check_machine(whole, dataclasses.replace(MACHINE, threads=3))
    file.write_text("{}")
    with pytest.raises(InputError, match=r"kept\.json"):
        measurements.read(file, MACHINE)


def test_the_command_prints_the_kept_rows_and_writes_the_page(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    kept = Measured(machine=MACHINE).with_rows([a_row("lora", "defaults", 1.5, SMOLLM2)])
    measurements.write(tmp_path / "kept.json", kept)
    command = ["--parts", "--store", str(tmp_path / "kept.json")]
    assert vs_peft.main([*command, "--write", str(tmp_path / "p.md"), "--format", "json"]) == 0
    (printed,) = json.loads(capsys.readouterr().out)
    assert (printed["model"], printed["task"], printed["method"]) == (*SMOLLM2, "lora")
    assert {"against", "ratio", "low", "high", "peak_ratio"} <= printed.keys()
    text = (tmp_path / "p.md").read_text()
    assert "SmolLM2, GSM8K: LoRA | defaults | at least 2 | lora 1.50 | **missed**" in text
    assert all(each.work in text for each in TARGETS)
    assert vs_peft.main([*command, "--write", str(tmp_path / "no" / "p.md")]) == 2


def test_the_page_is_what_the_kept_measurements_say() -> None:
    kept = measurements.read(ROOT / "benchmarks" / "vs_peft.json", MACHINE)
    assert (ROOT / "docs" / "performance.md").read_text(encoding="utf-8") == page(kept)


def test_without_dropout_nothing_is_dropped_and_afterwards_it_is_again() -> None:
    net, x = nn.Sequential(nn.Dropout(0.5)), torch.ones(1000)

    def dropped() -> Tensor:
        return (net(x) == 0).sum()

    with without_dropout(net):
        assert dropped() == 0
    assert dropped() > 0
