"""A network that computes something else in a batch, with a cache or beside adapters is refused
before anything trains."""

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import records
import torch
import torch.nn.functional as F
import transformers
import zoo
from test_generation import spec
from torch import nn
from transformers.models.llama.modeling_llama import LlamaMLP

from peftbench.door.lines import progress_line
from peftbench.errors import InputError
from peftbench.methods import METHODS
from peftbench.methods.linear import left_out
from peftbench.spec import DataSpec
from peftbench.suite import Progress
from peftbench.tasks.base import Example
from peftbench.training import checks
from peftbench.training.base import AbstractModel, Item
from peftbench.training.fine_tuning import check_specs, set_up
from peftbench.training.generation import generate
from peftbench.training.models import load
from peftbench.training.run import run

TEXTS = ["a", "one two three", "the quick brown fox jumps over the lazy dog", "4 + 5 ="]
Network = transformers.LlamaForCausalLM
forward: Any = Network.forward
mlp = LlamaMLP.forward


def subject(folder: Path, name: str, encoder: bool = False) -> tuple[Any, list[Item]]:
    (kind,) = [kind for kind in (zoo.DECODERS, zoo.ENCODERS)[encoder] if kind.name == name]
    torch.manual_seed(0)
    model = load(
        zoo.save(kind, encoder, folder),
        "classification" if encoder else "generation",
        2,
        device=torch.device("cpu"),
        dtype=torch.float32,
        max_length=64,
    )
    targets = [0, 1, 0, 1] if encoder else [" b", " 1 2", " x", " 9"]
    pairs = zip(TEXTS, targets, strict=True)
    return model, [model.encode(Example(id=t, text=t, target=target)) for t, target in pairs]


@functools.wraps(forward)
def swallowed(self: Any, past_key_values: Any = None, **inputs: Any) -> Any:
    """As a network whose cache has another name."""
    return forward(self, **inputs)


@functools.wraps(forward)
def misplaced(self: Any, past_key_values: Any = None, **inputs: Any) -> Any:
    """Every token but the prompt's stands one place too far."""
    if past_key_values is not None and past_key_values.get_seq_length():
        inputs["position_ids"] = inputs["position_ids"] + 1
    return forward(self, past_key_values=past_key_values, **inputs)


@functools.wraps(forward)
def unmasked(self: Any, attention_mask: Any = None, **inputs: Any) -> Any:
    """Padding is read like any other token."""
    return forward(self, attention_mask=torch.ones_like(attention_mask), **inputs)


@pytest.mark.parametrize("broken", [swallowed, misplaced, unmasked])
def test_answers_that_would_be_wrong_are_refused(
    broken: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, _ = subject(tmp_path, "llama")
    checks.check_cache(model, TEXTS)
    monkeypatch.setattr(model.net, "forward", functools.partial(broken, model.net))
    with pytest.raises(InputError, match=r"\(llama\).* (with the cache than without|cache empty)"):
        checks.check_cache(model, TEXTS)


def test_a_run_whose_answers_would_be_wrong_fails_before_it_trains(
    small_decoder: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps: list[int] = []
    monkeypatch.setattr("peftbench.training.run.train", lambda *_: steps.append(1))
    monkeypatch.setattr(Network, "forward", misplaced)
    record = run(spec(small_decoder)).record
    assert record.status == "failed"
    assert record.error is not None
    assert "with the cache than without" in record.error
    assert steps == []


def test_padding_that_is_read_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model, items = subject(tmp_path, "llama")
    checks.check_padding(model, items)
    monkeypatch.setattr(model.net, "forward", functools.partial(unmasked, model.net))
    with pytest.raises(InputError, match=r"\(llama\): .* other logits in a padded batch"):
        checks.check_padding(model, items)


@pytest.mark.parametrize(
    ("name", "refused"), [("bert", False), ("mobilebert", True), ("fnet", True)]
)
def test_padding_is_tried_on_classifiers_too(name: str, refused: bool, tmp_path: Path) -> None:
    model, items = subject(tmp_path, name, encoder=True)
    if not refused:
        checks.check_padding(model, items)
        return
    with pytest.raises(InputError, match="other logits in a padded batch"):
        checks.check_padding(model, items)


def bypassing(self: Any, x: torch.Tensor) -> torch.Tensor:
    gate, up = self.gate_proj(x), F.linear(x, self.up_proj.weight)
    return self.down_proj(self.act_fn(gate) * up)


def in_both_ways(self: Any, x: torch.Tensor) -> torch.Tensor:
    return mlp(self, x) + F.linear(x, self.up_proj.weight).mean()


def fused_in_training(self: Any, x: torch.Tensor) -> torch.Tensor:
    return bypassing(self, x) if self.training else mlp(self, x)


def unreached(self: Any, x: torch.Tensor) -> torch.Tensor:
    """As an expert that no token is sent to; the dtype of its weight is asked for."""
    return self.act_fn(self.gate_proj(x.to(self.up_proj.weight.dtype))).mean(-1, keepdim=True) + x


def attached(model: AbstractModel, items: list[Item], method: str, **args: Any) -> None:
    built = METHODS[method].build(args)
    built.attach(model.net, torch.Generator().manual_seed(0))
    wanted = [(name, p.requires_grad) for name, p in model.net.named_parameters()]
    checks.check_adapters(model, built, items)
    assert [(name, p.requires_grad) for name, p in model.net.named_parameters()] == wanted


@pytest.mark.parametrize("method", ["lora", "vera", "delta-lora"])
@pytest.mark.parametrize("code", [bypassing, in_both_ways, fused_in_training])
def test_weights_that_go_past_the_layers_forward_are_refused(
    method: str,
    code: Callable[..., torch.Tensor],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model, items = subject(tmp_path, "llama")
    monkeypatch.setattr(LlamaMLP, "forward", code)
    with pytest.raises(InputError, match=r"weights of model\.layers\.0\.mlp\.up_proj, .*1\.mlp"):
        attached(model, items, method)


@pytest.mark.parametrize(
    ("code", "method", "args"),
    [
        (bypassing, "lora", {"targets": ["q_proj", "gate_proj"]}),
        (bypassing, "full", {}),
        (bypassing, "frozen", {}),
        (unreached, "lora", {}),
        (mlp, "lora", {}),
    ],
)
def test_other_layers_are_adapted(
    code: Callable[..., torch.Tensor],
    method: str,
    args: dict[str, Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model, items = subject(tmp_path, "llama")
    monkeypatch.setattr(LlamaMLP, "forward", code)
    attached(model, items, method, **args)


def test_what_the_networks_code_raises_is_one_line(
    small_decoder: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def raising(self: nn.Module, **_: Any) -> Any:
        raise TypeError("first line\nno such argument")

    monkeypatch.setattr(Network, "forward", raising)
    record = run(spec(small_decoder)).record
    assert record.error is not None
    assert record.error.endswith(
        "(llama) in float32 cannot read its first examples: TypeError: no such argument"
    )
    assert "Traceback" not in capsys.readouterr().err


def test_a_model_without_a_cache_is_refused_before_anything_runs(tmp_path: Path) -> None:
    (kind,) = [kind for kind in zoo.DECODERS if kind.name == "openai-gpt"]
    with pytest.raises(InputError, match=r"\(openai-gpt\) takes no cache"):
        check_specs([spec(zoo.save(kind, False, tmp_path))])


def test_one_prompt_is_enough(tmp_path: Path) -> None:
    checks.check_cache(subject(tmp_path, "llama")[0], TEXTS[:1])


@pytest.mark.parametrize(
    ("name", "note"),
    [
        ("llama", None),
        (
            "qwen3_moe",
            "adapts 6,144 of 18,688 parameters in linear maps (32.9 %), not those of "
            "model.layers.*.mlp.experts.gate_up_proj, model.layers.*.mlp.experts.down_proj, "
            "model.layers.*.mlp.gate.weight",
        ),
    ],
)
@pytest.mark.parametrize("method", ["lora", "vera"])
def test_what_all_linear_does_not_reach_is_counted(
    name: str, note: str | None, method: str, tmp_path: Path
) -> None:
    model, items = subject(tmp_path, name)
    assert left_out(model.net) is None
    attached(model, items, method)
    assert left_out(model.net) == note


def test_a_note_stands_in_the_record(tmp_path: Path) -> None:
    (kind,) = [kind for kind in zoo.DECODERS if kind.name == "qwen3_moe"]
    wanted = spec(zoo.save(kind, False, tmp_path), max_length=200)
    record = run(wanted).record
    assert record.status == "done"
    (note,) = record.notes
    assert note.startswith("all-linear adapts 6,144 of 18,688 parameters in linear maps (32.9 %)")
    assert note in progress_line(Progress(record, 1, 1, 0.0))


def test_the_end_of_a_long_prompt_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model, _ = subject(tmp_path, "llama")
    text = " ".join(map(str, range(60)))
    prompt = model.tokenizer(text)["input_ids"]
    answer = [
        *model.tokenizer(" b", add_special_tokens=False)["input_ids"],
        model.tokenizer.eos_token_id,
    ]
    item = model.encode(Example(id="0", text=text, target=" b"))
    assert item.tokens == [*prompt[len(answer) - 64 :], *answer]
    read: list[list[int]] = []

    def watched(input_ids: torch.Tensor, **inputs: Any) -> Any:
        read.append(input_ids[0].tolist())
        return forward(model.net, input_ids=input_ids, **inputs)

    monkeypatch.setattr(model.net, "forward", watched)
    generate(model, [text], 4, (), 1)
    assert len(prompt) > model.window - 4
    assert read[0] == prompt[4 - model.window :]


def test_what_no_step_reaches_is_noted(small_decoder: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(LlamaMLP, "forward", unreached)
    record = run(spec(small_decoder)).record
    assert record.status == "done"
    # A and B of rank 8 for up_proj and down_proj, 32 by 64, of two layers
    assert record.notes == ("3,072 trained parameters had no gradient in any step",)


def test_the_checks_draw_nothing_of_a_run(
    small_encoder: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Dropout masks of the training are those that they are without checks."""
    asked = records.spec(
        task="reviews",
        model=small_encoder,
        args={"targets": "all-linear"},
        data=DataSpec(train=8, test=4),
    )

    def drawn() -> torch.Tensor:
        set_up(asked, torch.device("cpu"))
        return torch.get_rng_state()

    with_checks = drawn()
    for check in ("check_padding", "check_adapters"):
        monkeypatch.setattr(checks, check, lambda *arguments: None)
    assert torch.equal(with_checks, drawn())
