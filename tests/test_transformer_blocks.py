"""Blocks that are computed again, or compiled: the same results, and only while a step is taken."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import tiny
import torch
import transformers
import zoo
from stepping import Arm, changed, losses, steps, tuning_of, wanted
from test_methods import ARMS, DISTINCT, Build, _name, method_of
from test_micro_batches import cases
from test_run import CPU, done

from peftbench.errors import InputError
from peftbench.training import compilation
from peftbench.training.evaluation import evaluate
from peftbench.training.fine_tuning import check_specs, set_up
from peftbench.training.footprint import Flops, footprint, step_peak
from peftbench.training.run import run
from peftbench.training.transformer_blocks import as_trained, transformer_blocks


@pytest.fixture
def models(small_encoder: str, small_decoder: str) -> dict[str, str]:
    return {"reviews": small_encoder, "gsm_symbolic": small_decoder}


def test_blocks_are_the_layers_of_the_trunk() -> None:
    assert [type(block).__name__ for block in transformer_blocks(tiny.make(tiny.llama))] == [
        "LlamaDecoderLayer"
    ] * 2
    assert [type(block).__name__ for block in transformer_blocks(tiny.make(tiny.bert))] == [
        "BertLayer"
    ] * 2


def test_no_block_is_within_another() -> None:
    """Jamba's layers are of two kinds."""
    (kind,) = (kind for kind in zoo.DECODERS if kind.name == "jamba")
    net = transformers.AutoModelForCausalLM.from_config(zoo.configuration(kind))
    blocks = transformer_blocks(net)
    assert len(blocks) == 2
    for block in blocks:
        assert not set(blocks) & set(list(block.modules())[1:])


# -- checkpointing


@cases
def test_what_is_computed_again_is_the_same_to_the_bit(
    task: str, arm: Arm, models: dict[str, str]
) -> None:
    """Dropout included. But for VeRA, whose layers share a product with A where it is kept for the
    backward pass, and so add up gradients in another order."""
    tuning = tuning_of(models[task], task, arm)
    plain, weights = steps(tuning, 3, dropout=0.3)
    again, same = steps(tuning, 3, dropout=0.3, checkpointing=True)
    near = 1e-6 if arm[0] == "vera" else 0
    torch.testing.assert_close(losses(again), losses(plain), rtol=near, atol=near)
    torch.testing.assert_close(same, weights, rtol=near, atol=near)


def deep(build: Build) -> Any:
    """A network of six blocks."""
    net = tiny.make(build)
    net.config.num_hidden_layers = 6
    return type(net)(net.config)


@pytest.mark.parametrize(
    ("build", "arm"),
    [*((tiny.llama, arm) for arm in ARMS), (tiny.bert, ("lora", {"rank": 3}))],
    ids=_name,
)
def test_checkpointing_takes_fewer_bytes_and_another_forward_pass(arm: Arm, build: Build) -> None:
    net = deep(build)
    method = method_of(arm)
    groups = method.param_groups(tiny.attach(method, net), net, 1e-2)
    if not groups[0]["params"]:
        return
    optimizer = torch.optim.AdamW(groups, fused=True)
    ids = torch.randint(3, tiny.VOCABULARY, (8, 48))
    labels = ids if net.can_generate() else torch.zeros(8, dtype=torch.long)

    def losses() -> Iterator[torch.Tensor]:
        yield net(input_ids=ids, labels=labels).loss

    measured = []
    for checkpointing in (False, False, True):  # the first makes the optimizer's state
        with as_trained(net.train(), checkpointing=checkpointing):
            measured.append(step_peak(net, losses, optimizer, optimizer.step))
    _, (plain, parts, flops), (fewer, fewer_parts, more_flops) = measured
    assert fewer < 0.7 * plain
    assert fewer_parts.weights == parts.weights
    with Flops() as forward:
        for _ in losses():
            pass
    # VeRA's layers share a product only where it is kept for the backward pass
    most = 1.5 if arm[0] == "vera" else 1.0
    assert 0.5 * forward.total < more_flops - flops <= most * forward.total


def test_a_footprint_is_that_of_steps_with_checkpointing(small_decoder: str) -> None:
    tuning = tuning_of(small_decoder, "gsm_symbolic")
    plain, again = (footprint(changed(tuning, checkpointing=value)) for value in (False, True))
    assert plain.flops_per_step
    assert again.flops_per_step
    assert again.flops_per_step > plain.flops_per_step
    assert again.peak_parts.activations < plain.peak_parts.activations


def test_a_block_keeps_its_input_alone() -> None:
    """And the loss is no other."""
    net = tiny.make(tiny.llama, torch.float32)
    tiny.attach(method_of(("lora", {"rank": 3})), net)
    block = transformer_blocks(net)[1]
    sizes = []
    for checkpointing in (False, True):
        kept: dict[int, int] = {}

        def keep(tensor: torch.Tensor, kept: dict[int, int] = kept) -> torch.Tensor:
            storage = tensor.untyped_storage()
            kept[storage.data_ptr()] = storage.nbytes()
            return tensor

        states = torch.randn(4, 7, 24, requires_grad=True)
        places = torch.arange(7)[None]
        angles = net.model.rotary_emb(states, places)
        given = {p.untyped_storage().data_ptr() for p in net.parameters()}
        with (
            as_trained(net.train(), checkpointing=checkpointing),
            torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor),
        ):
            block(states, position_embeddings=angles)
        sizes.append(sum(size for place, size in kept.items() if place not in given))
    assert sizes[1] <= 4 * 4 * 7 * 24 < sizes[0] / 5


def test_outside_of_steps_blocks_are_plain(small_decoder: str) -> None:
    """What a run leaves on its network is nothing; and what is scored within training is scored in
    evaluation mode, where a cache is kept and nothing is computed again."""
    tuning = tuning_of(small_decoder, "gsm_symbolic")
    net = tuning.model.net
    plain = evaluate(tuning)
    with as_trained(net, checkpointing=True):
        within = evaluate(tuning)
        assert all("forward" in vars(block) for block in transformer_blocks(net))
    assert within.metrics == plain.metrics
    assert within.predictions.equals(plain.predictions)
    steps(tuning, 2, checkpointing=True)
    footprint(changed(tuning, checkpointing=True))
    assert not any("forward" in vars(block) for block in transformer_blocks(net))


@pytest.mark.parametrize("key", ["checkpointing", "compile"])
def test_a_network_without_blocks_is_refused_in_one_line(key: str, tmp_path: Path) -> None:
    (kind,) = (kind for kind in zoo.ENCODERS if kind.name == "albert")
    settings: Any = {key: True}
    spec = wanted(zoo.save(kind, True, tmp_path), "reviews", **settings)
    for refuse in (lambda: check_specs([spec]), lambda: set_up(spec, CPU)):
        with pytest.raises(InputError, match=rf"train\.{key}: model .*albert.* no transformer"):
            refuse()


def test_a_network_that_transformers_does_not_recompute_is_refused(
    small_encoder: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    kind = transformers.BertForSequenceClassification
    monkeypatch.setattr(kind, "supports_gradient_checkpointing", False)
    plain = wanted(small_encoder, "reviews")
    check_specs([plain])
    with pytest.raises(InputError, match=r"train\.checkpointing: .* does not support it"):
        check_specs([plain, wanted(small_encoder, "reviews", checkpointing=True)])


# -- compilation


def _traced_arms() -> Iterator[Any]:
    """Tracing takes half a minute."""
    for name in DISTINCT:
        arm = next(arm for arm in ARMS if arm[0] == name)
        yield pytest.param(arm, marks=[] if name == "lora" else [pytest.mark.slow])


@pytest.fixture
def traced(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """What is compiled is traced and taken apart into forward and backward pass, as ever, but then
    runs operation by operation: compiling it takes a minute."""

    def compiled(forward: Callable[..., Any]) -> Callable[..., Any]:
        return torch.compile(forward, dynamic=True, backend="aot_eager")

    monkeypatch.setattr(compilation, "compiled", compiled)
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


@pytest.mark.usefixtures("traced")
@pytest.mark.parametrize("arm", [*_traced_arms()], ids=_name)
def test_compiled_blocks_train_alike(arm: Arm, small_encoder: str) -> None:
    tuning = tuning_of(small_encoder, "reviews", arm)
    plain, _ = steps(tuning, 3)
    log, _ = steps(tuning, 3, compile=True)
    torch.testing.assert_close(losses(log), losses(plain), rtol=1e-5, atol=0)
    assert plain.compile_seconds is None
    assert log.compile_seconds
    assert log.compile_seconds < log.train_seconds


@pytest.mark.slow
@pytest.mark.usefixtures("traced")
def test_all_three_together_train_alike(small_decoder: str) -> None:
    tuning = tuning_of(small_decoder, "gsm_symbolic")
    plain, _ = steps(tuning, 4)
    log, _ = steps(tuning, 4, micro_batch=3, checkpointing=True, compile=True)
    torch.testing.assert_close(losses(log), losses(plain), rtol=1e-5, atol=0)


@pytest.mark.slow
@pytest.mark.usefixtures("traced")
def test_steps_that_compile_are_not_timed(
    small_decoder: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The shapes of two steps are enough; evaluation, between steps and after, compiles nothing."""
    spec = wanted(small_decoder, "gsm_symbolic", steps=8, eval_every=2, compile=True)
    record, _ = done(run(spec))
    assert record.timing
    assert record.timing.step_seconds
    assert record.timing.compile_seconds
    assert record.timing.train_seconds
    assert 1 <= record.timing.step_seconds.n <= 6
    assert record.timing.step_seconds.median < record.timing.compile_seconds
    before = torch._dynamo.utils.counters["stats"]["unique_graphs"]
    tuning = tuning_of(small_decoder, "gsm_symbolic")
    with as_trained(tuning.model.net, checkpointing=False, compiled=True):
        evaluate(tuning)
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == before


@pytest.mark.slow
@pytest.mark.usefixtures("traced")
def test_a_block_with_too_many_forms_is_an_error(
    small_encoder: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not one that is slow in silence."""
    monkeypatch.setitem(compilation.SETTINGS, "recompile_limit", 1)
    record = run(wanted(small_encoder, "reviews", steps=6, compile=True, micro_batch=7)).record
    assert record.status == "failed"
    assert "RecompileLimit" in (record.error or "")


def test_without_a_compiler_a_run_is_refused_in_one_line(
    small_encoder: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CXX", "no-such-compiler")
    check_specs([wanted(small_encoder, "reviews")])
    with pytest.raises(InputError, match=r"train\.compile: .* no C\+\+ compiler \(no-such"):
        check_specs([wanted(small_encoder, "reviews", compile=True)])


def test_the_footprint_is_that_of_the_plain_blocks(small_encoder: str) -> None:
    tuning = tuning_of(small_encoder, "reviews")
    assert footprint(changed(tuning, compile=True)) == footprint(tuning)


@pytest.mark.slow
def test_compiled_code_computes_the_same_and_equal_runs_equal_bits(small_decoder: str) -> None:
    tuning = tuning_of(small_decoder, "gsm_symbolic")
    every = {"micro_batch": 3, "checkpointing": True}
    (plain, _), (log, _) = (steps(tuning, 4, compile=value, **every) for value in (False, True))
    torch.testing.assert_close(losses(log), losses(plain), rtol=1e-5, atol=0)
    (log, weights), (again, same) = (steps(tuning, 4, 0.3, compile=True, **every) for _ in "ab")
    assert again.curve == log.curve
    torch.testing.assert_close(same, weights, rtol=0, atol=0)
