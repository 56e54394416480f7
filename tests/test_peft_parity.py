"""The same numbers as huggingface/peft: training from equal weights, and files that either side can
open."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import tiny
import torch
from safetensors.torch import load_file
from test_adapters import MODELS, weights, write
from test_methods import ADAPTERS, _name, logits, method_of
from torch import nn
from transformers import PreTrainedModel

from peftbench.methods import METHODS
from peftbench.methods.adapter_file import CONFIG
from peftbench.methods.files import load, save
from peftbench.methods.linear import AbstractAdapted, TransposedLinear, layers, replace, replaced
from peftbench.methods.low_rank import LowRank

peft = pytest.importorskip(
    "peft", reason="peft is the peer to compare with, a development dependency"
)
pytestmark = pytest.mark.filterwarnings(
    # peft 0.21 reads an attribute that transformers 5.23 has renamed.
    "ignore:`is_gradient_checkpointing` is deprecated:FutureWarning"
)

Build = Callable[[], PreTrainedModel]
adapters = pytest.mark.parametrize("arm", ADAPTERS, ids=_name)
both = pytest.mark.parametrize("build", [tiny.llama, tiny.roberta], ids=_name)


def published(build: Build) -> PreTrainedModel:
    """The model as peft sees it: with GPT-2's own layers."""
    return tiny.make(tiny.gpt2 if build is tiny.linear_gpt2 else build, torch.float32)


def opened(build: Build, folder: Path, trainable: bool = False) -> Any:
    return peft.PeftModel.from_pretrained(published(build), folder, is_trainable=trainable).eval()


# -- training


def start(method: Any, build: Build, folder: Path) -> tuple[Any, Any, list[nn.Parameter]]:
    """Our model and peft's with equal weights, and what the method trains of ours."""
    model, head = tiny.make(build, torch.float32), tiny.HEADS[build]
    trained = tiny.attach(method, model, head)
    # the first gradient of A would be zero, and its correction untested
    for layer in layers(model, LowRank).values():
        layer.B.data.normal_(std=0.02, generator=torch.Generator().manual_seed(layer.B.shape[0]))
    save(method, model, head, folder, base_model="someone/tiny")
    return model, opened(build, folder, trainable=True), trained


def losses(
    method: Any, model: PreTrainedModel, groups: list[dict[str, Any]], **options: Any
) -> list[float]:
    settings: dict[str, Any] = {"weight_decay": 0.0} | options
    optimizer = torch.optim.AdamW(groups, **settings)
    return tiny.fit(model, optimizer, lambda step: method.update(model, optimizer, step))


def peft_losses(model: Any, optimizer: torch.optim.Optimizer) -> list[float]:
    return tiny.fit(model, optimizer, lambda step: optimizer.step())


def requiring(model: nn.Module) -> list[nn.Parameter]:
    return [p for p in model.parameters() if p.requires_grad]


def close(ours: list[float], theirs: list[float]) -> bool:
    assert ours[-1] < ours[1] - 0.01  # the same batch: something was learnt
    return ours == pytest.approx(theirs, abs=1e-5)


@both
@pytest.mark.parametrize(
    "arm", [("lora", {"rank": 3, "alpha": 5.0}), ("vera", {"rank": 5})], ids=_name
)
def test_lora_and_vera_train_like_pefts(arm: Any, build: Build, tmp_path: Path) -> None:
    method, lr = method_of(arm), 1e-2
    model, other, trained = start(method, build, tmp_path)
    ours = losses(
        method,
        model,
        [*method.param_groups(trained, model, lr), *tiny.head_group(model, tiny.HEADS[build], lr)],
    )
    assert close(
        ours, peft_losses(other, torch.optim.AdamW(requiring(other), lr=lr, weight_decay=0.0))
    )


@both
def test_lora_fa_trains_like_pefts_lora_with_a_frozen(build: Build, tmp_path: Path) -> None:
    method, lr = METHODS["lora-fa"].build({"rank": 3, "alpha": 5.0}), 1e-2
    model, other, trained = start(method, build, tmp_path)
    for name, parameter in other.named_parameters():
        if ".lora_A." in name:
            parameter.requires_grad_(False)
    ours = losses(
        method,
        model,
        [*method.param_groups(trained, model, lr), *tiny.head_group(model, tiny.HEADS[build], lr)],
    )
    assert close(
        ours, peft_losses(other, torch.optim.AdamW(requiring(other), lr=lr, weight_decay=0.0))
    )


@both
def test_corrected_lora_fa_trains_like_pefts(
    build: Build, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of peft's own AdamW, eps is added before the bias correction; both sides take one too small
    to matter."""
    from peft.optimizers import create_lorafa_optimizer, lorafa

    monkeypatch.setattr(
        lorafa, "is_bf16_available", lambda: False
    )  # else peft corrects in bfloat16
    method, lr = METHODS["lora-fa"].build({"rank": 3, "alpha": 5.0, "correction": True}), 1e-2
    model, other, trained = start(method, build, tmp_path)
    groups = [
        *method.param_groups(trained, model, lr),
        *tiny.head_group(model, tiny.HEADS[build], lr),
    ]
    ours = losses(method, model, groups, eps=1e-12)
    optimizer = create_lorafa_optimizer(other, r=3, lora_alpha=5, lr=lr)
    for group in optimizer.param_groups:
        group["eps"] = 1e-12
    assert close(ours, peft_losses(other, optimizer))


@both
def test_lora_plus_trains_like_pefts(build: Build, tmp_path: Path) -> None:
    """peft gives B's rate to every one-dimensional parameter, a head's bias among them; ours is
    told to do so here."""
    from peft.optimizers import create_loraplus_optimizer

    method, lr = METHODS["lora+"].build({"rank": 3, "alpha": 5.0, "ratio": 4.0}), 3e-3
    model, other, trained = start(method, build, tmp_path)
    head = [p for group in tiny.head_group(model, tiny.HEADS[build], lr) for p in group["params"]]
    groups = [
        *method.param_groups(trained, model, lr),
        {"params": [p for p in head if p.ndim > 1], "lr": lr},
        {"params": [p for p in head if p.ndim == 1], "lr": 4 * lr},
    ]
    ours = losses(method, model, groups)
    optimizer = create_loraplus_optimizer(other, torch.optim.AdamW, lr=lr, loraplus_lr_ratio=4.0)
    assert close(ours, peft_losses(other, optimizer))


# -- a trap


def inner_factors_frozen(model: nn.Module) -> bool:
    return not any(p.requires_grad for name, p in model.named_parameters() if ".lora_A." in name)


def test_pefts_disabled_adapter_thaws_lora_fas_inner_factor_and_nothing_thaws_ours(
    tmp_path: Path,
) -> None:
    """If the first half fails, peft has mended it: drop the test and the sentence about it in the
    documentation."""
    from peft.optimizers import create_lorafa_optimizer

    method = METHODS["lora-fa"].build({"rank": 3})
    model, other, trained = start(method, tiny.llama, tmp_path)
    create_lorafa_optimizer(other, r=3, lora_alpha=16, lr=1e-3)
    assert inner_factors_frozen(other)
    with other.disable_adapter():
        pass
    assert not inner_factors_frozen(other)

    declared = {id(p) for p in trained}
    model.train().eval().to(torch.float64).to(torch.float32).zero_grad()
    model.generate(torch.tensor([[5, 6]]), max_new_tokens=2, do_sample=False, pad_token_id=0)
    model.load_state_dict(model.state_dict())
    for layer in layers(model, AbstractAdapted).values():
        layer.merged()
    assert {id(p) for p in requiring(model)} == declared


# -- files


@adapters
@pytest.mark.parametrize("build", MODELS, ids=_name)
def test_peft_opens_our_files(arm: Any, build: Build, tmp_path: Path) -> None:
    model = write(arm, build, tmp_path)
    other = opened(build, tmp_path)
    torch.testing.assert_close(logits(other), logits(model), rtol=0, atol=1e-5)
    assert not torch.allclose(logits(published(build)), logits(model), atol=1e-3)
    other.merge_adapter()
    torch.testing.assert_close(logits(other), logits(model), rtol=0, atol=1e-5)


@adapters
@pytest.mark.parametrize("build", MODELS, ids=_name)
def test_our_files_say_what_pefts_own_would(arm: Any, build: Build, tmp_path: Path) -> None:
    write(arm, build, tmp_path / "ours")
    other = opened(build, tmp_path / "ours")
    other.save_pretrained(tmp_path / "theirs", save_embedding_layers=False)
    ours, theirs = load_file(weights(tmp_path / "ours")), load_file(weights(tmp_path / "theirs"))
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[key], theirs[key]) for key in ours)
    mine, their = (
        json.loads((tmp_path / side / CONFIG).read_text()) for side in ("ours", "theirs")
    )
    for key, value in mine.items():
        if key == "target_modules":  # peft shortens a long list, and keeps a set in no order
            continue
        if (
            key == "modules_to_save"
        ):  # peft adds the usual heads' names whether the model has them or not
            assert set(value or ()) <= set(their[key] or ())
            continue
        assert their[key] == value, key


@pytest.mark.parametrize("kind", ["lora", "vera"])
@both
def test_we_open_pefts_files(kind: str, build: Build, tmp_path: Path) -> None:
    targets = ["q_proj", "down_proj"] if build is tiny.llama else ["query", "output.dense"]
    task = "CAUSAL_LM" if build is tiny.llama else "SEQ_CLS"
    if kind == "lora":
        config = peft.LoraConfig(
            r=3, lora_alpha=7, target_modules=targets, task_type=task, init_lora_weights=False
        )
    else:
        config = peft.VeraConfig(r=5, target_modules=targets, task_type=task, init_weights=False)
    other = peft.get_peft_model(published(build), config).eval()
    other.save_pretrained(tmp_path, save_embedding_layers=False)
    if build is tiny.roberta:  # "score", which peft adds by itself, is no module of this model
        saved = json.loads((tmp_path / CONFIG).read_text())
        (tmp_path / CONFIG).write_text(json.dumps(saved | {"modules_to_save": ["classifier"]}))
    model = tiny.make(build, torch.float32)
    load(METHODS[kind].build({}), model, tmp_path)
    torch.testing.assert_close(logits(model), logits(other), rtol=0, atol=1e-5)


def test_a_model_with_both_layouts_opens_in_peft(tmp_path: Path) -> None:
    """peft then decides layer by layer, and warns each time that the file's one fan_in_fan_out does
    not fit."""

    def mixed() -> PreTrainedModel:
        model: Any = tiny.gpt2()
        for block in model.transformer.h:
            old = block.mlp.c_fc
            block.mlp.c_fc = nn.Linear(old.nx, old.nf)
        return model

    def linear() -> PreTrainedModel:
        model = mixed()
        tiny.linearize(model)
        return model

    method, model = METHODS["lora"].build({"rank": 3}), tiny.make(linear, torch.float32)
    kinds = {
        type(module) for name, module in model.named_modules() if name.endswith(("c_fc", "c_proj"))
    }
    assert kinds == {nn.Linear, TransposedLinear}
    tiny.train(method, model, steps=7)
    save(method, model, (), tmp_path, base_model="someone/tiny")
    with pytest.warns(UserWarning, match="fan_in_fan_out is set to"):
        other = peft.PeftModel.from_pretrained(tiny.make(mixed, torch.float32), tmp_path).eval()
    torch.testing.assert_close(logits(other), logits(model), rtol=0, atol=1e-5)
    merged = method.merged(model)
    assert merged is not None
    with replaced(model, merged):
        torch.testing.assert_close(
            logits(other.merge_and_unload()), logits(model), rtol=0, atol=1e-5
        )


class Inner(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.proj = nn.Linear(4, 4)


class Nested(nn.Module):
    """A layer whose full name is the end of another's."""

    def __init__(self) -> None:
        super().__init__()
        self.proj, self.deep = nn.Linear(4, 4), Inner()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.deep.proj(self.proj(x))


def test_peft_adapts_no_layer_whose_name_merely_ends_alike(tmp_path: Path) -> None:
    model = Nested()
    rng = torch.Generator().manual_seed(0)
    replace(model, {"proj": LowRank(model.proj, rank=2, alpha=2.0, dropout=0.0, rng=rng)})
    save(METHODS["lora"].build({}), model, (), tmp_path, base_model="someone/tiny")  # type: ignore[arg-type]
    config = peft.PeftConfig.from_pretrained(tmp_path)
    config.task_type = config.base_model_name_or_path = None  # a toy is no language model
    wrapped = peft.get_peft_model(Nested(), config)
    found = [
        name
        for name, module in wrapped.base_model.model.named_modules()
        if hasattr(module, "lora_A")
    ]
    assert found == ["proj"]
