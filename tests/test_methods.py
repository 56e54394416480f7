"""The methods against their equations: closed forms, identities, counts, and what they keep for the
backward pass."""

import copy
import json
from collections.abc import Callable
from typing import Any

import pytest
import tiny
import torch
import torch.nn.functional as F
import transformers
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from transformers import PreTrainedModel

from peftbench.errors import InputError
from peftbench.methods import METHODS, OURS
from peftbench.methods.base import AbstractMethod
from peftbench.methods.delta_lora import DeltaLowRank
from peftbench.methods.dropout import dropout
from peftbench.methods.linear import (
    AbstractAdapted,
    kaiming_uniform,
    layers,
    linear_layers,
    replaced,
)
from peftbench.methods.lora_fa import corrected
from peftbench.methods.low_rank import AbstractLowRank, LowRank
from peftbench.methods.vera import Projection, VectorBased
from peftbench.spec import TrainSpec

Build = Callable[[], PreTrainedModel]
ARMS: list[tuple[str, dict[str, Any]]] = [
    ("full", {}),
    ("frozen", {}),
    ("lora", {"rank": 3, "alpha": 5.0}),
    ("lora-fa", {"rank": 3, "alpha": 5.0}),
    ("lora-fa", {"rank": 3, "alpha": 5.0, "correction": True}),
    ("lora+", {"rank": 3, "alpha": 5.0, "ratio": 4.0}),
    ("vera", {"rank": 5}),
    ("delta-lora", {"rank": 3, "alpha": 5.0}),
    ("delta-lora", {"rank": 3, "alpha": 5.0, "start_step": 5}),
]
ADAPTERS = [arm for arm in ARMS if arm[0] not in ("full", "frozen")]
MODELS = [tiny.llama, tiny.roberta, tiny.linear_gpt2]
# Adam with eps 0 divides 0 by 0 where a gradient is exactly 0, as A's is at the first step
TINY_EPS = 1e-200

# Methods whose layers differ; the others have LoRA's, and differ in what is trained and how.
DISTINCT = ("full", "lora", "vera", "delta-lora")


def _name(value: Any) -> str:
    if callable(value):
        return value.__name__
    name, args = value
    return "-".join([name, *(key for key in ("correction", "start_step") if key in args)])


arms = pytest.mark.parametrize("arm", ARMS, ids=_name)
adapters = pytest.mark.parametrize("arm", ADAPTERS, ids=_name)
models = pytest.mark.parametrize("build", MODELS, ids=_name)


def method_of(arm: tuple[str, dict[str, Any]], **changes: Any) -> AbstractMethod:
    return METHODS[arm[0]].build(arm[1] | changes)


def logits(model: PreTrainedModel, seed: int = 99) -> Tensor:
    with torch.no_grad():
        return model(**tiny.batch(model, seed)).logits


def state(model: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def equal_bits(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[key], other[key]) for key in one)


def test_every_method_has_an_arm_here() -> None:
    assert {name for name, _ in ARMS} == set(OURS)


# -- the start


@arms
@models
def test_attached_model_computes_what_the_base_does(arm: Any, build: Build) -> None:
    model = tiny.make(build)
    before = logits(model)
    tiny.attach(method_of(arm), model)
    torch.testing.assert_close(logits(model), before, rtol=0, atol=1e-14)


@adapters
@models
def test_first_gradient_of_the_inner_factor_is_exactly_zero(arm: Any, build: Build) -> None:
    model = tiny.make(build)
    tiny.attach(method_of(arm), model)
    model(**tiny.batch(model)).loss.backward()
    for _, layer in tiny.adapted(model):
        inner, outer = (layer.d, layer.b) if isinstance(layer, VectorBased) else (layer.A, layer.B)
        assert inner.grad is None or not inner.grad.any()
        assert outer.grad is not None
        assert outer.grad.any()


@adapters
def test_a_seed_decides_the_initial_bits_and_torchs_own_generator_does_not(arm: Any) -> None:
    states = []
    for seed, noise in ((1, 5), (1, 6), (2, 5)):
        model = tiny.make(tiny.llama)
        with torch.random.fork_rng():
            torch.manual_seed(noise)
            untouched = torch.get_rng_state()
            tiny.attach(method_of(arm), model, seed=seed)
            assert torch.equal(torch.get_rng_state(), untouched)
        states.append(state(model))
    assert equal_bits(states[0], states[1])
    assert not equal_bits(states[0], states[2])


def test_on_the_meta_device_nothing_is_allocated() -> None:
    """Or a rank that fits no memory could not be checked in little of it."""
    shape = (10**9, 10**6)
    values = kaiming_uniform(shape, 1.0, torch.zeros(1, device="meta"), torch.Generator())
    assert (values.is_meta, tuple(values.shape), values.dtype) == (True, shape, torch.float32)


def test_initial_bits_do_not_hang_on_torchs_default_dtype() -> None:
    values = []
    for dtype in (torch.float32, torch.bfloat16):
        torch.set_default_dtype(dtype)
        try:
            values.append(
                kaiming_uniform(
                    (3, 5),
                    1.0,
                    torch.zeros(1, dtype=torch.float32),
                    torch.Generator().manual_seed(0),
                )
            )
        finally:
            torch.set_default_dtype(torch.float32)
    assert torch.equal(*values)


def test_initial_values_have_the_published_spread() -> None:
    base = nn.Linear(50, 400)
    layer = LowRank(base, rank=64, alpha=1.0, dropout=0.0, rng=torch.Generator().manual_seed(0))
    pair = Projection(64, [base], torch.Generator().manual_seed(0))
    for matrix, bound in (
        (layer.A, 50**-0.5),
        (pair.A, (6 / 50) ** 0.5),
        (pair.B, (6 / 64) ** 0.5),
    ):
        assert 0.99 * bound < matrix.abs().max() <= bound  # uniform over (-bound, bound)
        assert matrix.std().item() == pytest.approx(bound / 3**0.5, rel=0.03)


@adapters
def test_adapters_stay_float32_beside_a_bfloat16_base(arm: Any) -> None:
    model = tiny.make(tiny.llama, torch.bfloat16)
    trained = tiny.attach(method_of(arm), model)
    loss = model(**tiny.batch(model)).loss
    loss.backward()
    assert all(p.dtype == torch.float32 for p in trained)
    assert all(layer.base.weight.dtype == torch.bfloat16 for _, layer in tiny.adapted(model))
    assert loss.isfinite()
    assert logits(model).dtype == torch.bfloat16
    merged = method_of(arm).merged(model)
    assert merged is not None
    with replaced(model, merged):
        assert logits(model).dtype == torch.bfloat16


# -- what is trained

TRAINED = {
    "lora": ("A", "B"),
    "lora-fa": ("B",),
    "lora+": ("A", "B"),
    "vera": ("b", "d"),
    "delta-lora": ("A", "B"),
}


@arms
@pytest.mark.parametrize("build", [tiny.llama, tiny.roberta], ids=_name)
def test_exactly_the_declared_parameters_are_trained_at_every_step(arm: Any, build: Build) -> None:
    method, model, head = method_of(arm), tiny.make(build), tiny.HEADS[build]
    plain = state(model)
    trained = tiny.attach(method, model, head)
    declared = {id(p) for p in model.parameters()}
    if arm[0] != "full":
        declared = {
            id(getattr(layer, part)) for _, layer in tiny.adapted(model) for part in TRAINED[arm[0]]
        }
        declared |= {id(p) for name in head for p in model.get_submodule(name).parameters()}
    groups = [*method.param_groups(trained, model, 1e-2), *tiny.head_group(model, head, 1e-2)]
    if not declared:
        assert not any(group["params"] for group in groups)
        return
    optimizer = torch.optim.AdamW([group for group in groups if group["params"]], lr=1e-2)

    def check(step: int) -> None:
        model.train(step % 2 == 0)
        assert {id(p) for p in model.parameters() if p.requires_grad} == declared
        assert {id(p) for p in model.parameters() if p.grad is not None} == declared

    tiny.fit(
        model, optimizer, lambda step: method.update(model, optimizer, step), steps=8, before=check
    )
    held = [id(p) for group in optimizer.param_groups for p in group["params"]]
    assert len(held) == len(set(held))
    assert set(held) == declared
    assert {id(p) for p in optimizer.state} == declared
    frozen = {
        name.replace(".base.", "."): p
        for name, p in model.named_parameters()
        if id(p) not in declared
    }
    for name in frozen.keys() & plain.keys():
        assert torch.equal(frozen[name], plain[name]), f"{name} has changed although it is frozen"


# -- identities between the methods


def test_lora_plus_with_ratio_one_is_lora_bit_for_bit() -> None:
    results = []
    for name, args in (("lora", {}), ("lora+", {"ratio": 1.0})):
        model = tiny.make(tiny.llama)
        losses = tiny.train(METHODS[name].build({"rank": 3} | args), model, weight_decay=0.1)
        results.append((losses, state(model)))
    assert results[0][0] == results[1][0]
    assert equal_bits(results[0][1], results[1][1])


def test_lora_plus_whose_inner_rate_is_zero_is_lora_fa_bit_for_bit() -> None:
    model = tiny.make(tiny.llama)
    fixed = tiny.train(METHODS["lora-fa"].build({"rank": 3}), model, lr=1e-2)
    other = tiny.make(tiny.llama)
    method = METHODS["lora+"].build({"rank": 3, "ratio": 4.0})
    inner, outer = method.param_groups(tiny.attach(method, other), other, 1e-2 / 4)
    optimizer = torch.optim.AdamW([inner | {"lr": 0.0}, outer], weight_decay=0.0)
    assert outer["lr"] == 1e-2
    assert tiny.fit(other, optimizer, lambda step: method.update(other, optimizer, step)) == fixed
    assert equal_bits(state(model), state(other))


@pytest.mark.parametrize(("p", "q"), [(4.0, 0.5), (3.0, 7.0)])
def test_only_products_of_scale_initial_size_and_rate_matter(p: float, q: float) -> None:
    """(alpha, A_0, lr_A, lr_B) and (alpha / pq, p A_0, p lr_A, q lr_B) train alike ("LoRA Without
    Regret", 2025)."""
    histories, changes = [], []
    for inner, outer in ((1.0, 1.0), (p, q)):
        model = tiny.make(tiny.llama)
        method = METHODS["lora+"].build({"rank": 3, "alpha": 6.0 / (inner * outer), "ratio": 1.0})
        groups = method.param_groups(tiny.attach(method, model), model, 1e-2)
        for layer in layers(model, LowRank).values():
            layer.A.data.mul_(inner)
        groups[0]["lr"] *= inner
        groups[1]["lr"] *= outer
        optimizer = torch.optim.Adam(groups, eps=TINY_EPS)
        histories.append(
            tiny.fit(
                model, optimizer, lambda step, o=optimizer, m=model, k=method: k.update(m, o, step)
            )
        )
        changes.append([layer.delta() for layer in layers(model, LowRank).values()])
    assert histories[0] == pytest.approx(histories[1], rel=1e-9)
    for one, other in zip(*changes, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize("build", [tiny.llama, tiny.roberta], ids=_name)
def test_gradient_correction_projects_the_full_gradient_on_the_rows_of_a(build: Build) -> None:
    model = tiny.make(build)
    method = METHODS["lora-fa"].build({"rank": 3, "alpha": 5.0, "correction": True})
    tiny.train(method, model, steps=3)  # B is no longer zero
    full: dict[nn.Module, Tensor] = {}

    def note(layer: nn.Module, inputs: tuple[Tensor], output: Tensor) -> None:
        x = inputs[0].detach().flatten(0, -2)
        output.register_hook(lambda g: full.update({layer: g.flatten(0, -2).t() @ x}))

    for layer in layers(model, LowRank).values():
        layer.register_forward_hook(note)
    model.zero_grad()
    model(**tiny.batch(model)).loss.backward()
    for layer in layers(model, LowRank).values():
        A, G = layer.A, full[layer]  # dL/dW, as W + s B A is linear in W
        assert layer.B.grad is not None
        step = layer.scale * corrected(layer.B.grad, A, layer.scale) @ A
        torch.testing.assert_close(
            step, G @ A.t() @ torch.linalg.inv(A @ A.t()) @ A, rtol=1e-5, atol=1e-10
        )


def test_gradient_correction_is_what_the_optimizer_sees() -> None:
    before, after = {}, {}
    model = tiny.make(tiny.llama)
    method = METHODS["lora-fa"].build({"rank": 3, "alpha": 5.0, "correction": True})
    optimizer = torch.optim.SGD(tiny.attach(method, model), lr=0.5)

    def remember(step: int) -> None:
        before.update(
            {
                name: (layer.B.detach().clone(), layer.B.grad.clone())
                for name, layer in tiny.adapted(model)
            }
        )

    tiny.fit(
        model,
        optimizer,
        lambda step: method.update(model, optimizer, step),
        steps=1,
        before=remember,
    )
    after.update({name: layer.B for name, layer in tiny.adapted(model)})
    for name, layer in tiny.adapted(model):
        B, gradient = before[name]
        torch.testing.assert_close(
            after[name], B - 0.5 * corrected(gradient, layer.A, layer.scale), rtol=1e-12, atol=0
        )


# -- Delta-LoRA


class InPlace(nn.Module):
    """A layer of Algorithm 1 of arXiv:2309.02411 as it is printed: W is a constant of each step and
    written to after it."""

    def __init__(self, layer: DeltaLowRank) -> None:
        super().__init__()
        self.W, self.bias, self.scale = (
            layer.base.weight.detach().clone(),
            layer.base.bias,
            layer.scale,
        )
        self.A, self.B = (
            nn.Parameter(layer.A.detach().clone()),
            nn.Parameter(layer.B.detach().clone()),
        )

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.W, self.bias) + self.scale * F.linear(F.linear(x, self.A), self.B)


def train_in_place(
    model: PreTrainedModel, start_step: int, ratio: float, **options: Any
) -> list[float]:
    """Algorithm 1 on a model to which Delta-LoRA is attached and not yet trained."""
    for name, layer in list(tiny.adapted(model)):
        model.set_submodule(name, InPlace(layer))
    printed = [module for module in model.modules() if isinstance(module, InPlace)]
    optimizer = torch.optim.AdamW(
        [p for module in printed for p in (module.A, module.B)], **options
    )

    def update(step: int) -> None:
        products = [module.B.detach() @ module.A.detach() for module in printed]
        optimizer.step()
        if step > start_step:
            for module, product in zip(printed, products, strict=True):
                module.W += ratio * module.scale * (module.B.detach() @ module.A.detach() - product)

    return tiny.fit(model, optimizer, update)


@pytest.mark.parametrize("start_step", [0, 5])
@pytest.mark.parametrize("weight_decay", [0.0, 0.1])
@pytest.mark.parametrize("build", [tiny.llama, tiny.roberta], ids=_name)
def test_delta_lora_is_the_algorithm_of_its_paper(
    build: Build, start_step: int, weight_decay: float
) -> None:
    method = METHODS["delta-lora"].build(
        {"rank": 3, "alpha": 5.0, "lambda": 2.0, "start_step": start_step}
    )
    printed = tiny.make(build)
    tiny.attach(method, printed)
    expected = train_in_place(printed, start_step, 2.0, lr=1e-3, weight_decay=weight_decay)
    model = tiny.make(build)
    assert tiny.train(method, model, lr=1e-3, weight_decay=weight_decay) == pytest.approx(
        expected, rel=1e-12
    )
    for name, layer in tiny.adapted(model):
        module = printed.get_submodule(name)
        assert isinstance(module, InPlace)
        weight = module.W + module.scale * module.B @ module.A
        torch.testing.assert_close(layer.base.weight + layer.delta(), weight, rtol=0, atol=1e-12)


@pytest.mark.parametrize("start_step", [0, 5])
def test_delta_loras_weight_has_moved_by_the_difference_of_the_products(start_step: int) -> None:
    model = tiny.make(tiny.llama)
    method = METHODS["delta-lora"].build(
        {"rank": 3, "alpha": 5.0, "lambda": 2.0, "start_step": start_step}
    )
    optimizer = torch.optim.AdamW(tiny.attach(method, model), lr=1e-2)
    products: dict[str, Tensor] = {}

    def remember(step: int) -> None:
        if step == start_step + 1:
            products.update(
                {name: layer.B.detach() @ layer.A.detach() for name, layer in tiny.adapted(model)}
            )

    tiny.fit(model, optimizer, lambda step: method.update(model, optimizer, step), before=remember)
    for name, layer in tiny.adapted(model):
        product = layer.B @ layer.A
        moved = 2.0 * layer.scale * (product - products[name])
        torch.testing.assert_close(layer.delta(), layer.scale * product + moved, rtol=0, atol=1e-14)
        assert torch.linalg.matrix_rank(moved, rtol=1e-10) == (3 if start_step == 0 else 6)


def test_delta_lora_from_the_first_step_is_lora_with_a_larger_alpha() -> None:
    """The reason for a control arm in every comparison: lambda = 2 is three times LoRA's alpha, as
    far as Adam can tell."""
    results = []
    for name, args in (("delta-lora", {"alpha": 5.0, "lambda": 2.0}), ("lora", {"alpha": 15.0})):
        model = tiny.make(tiny.llama)
        losses = tiny.train(
            METHODS[name].build({"rank": 3} | args), model, lr=1e-3, eps=TINY_EPS, weight_decay=0.1
        )
        results.append((losses, [layer.delta() for _, layer in tiny.adapted(model)]))
    assert results[0][0] == pytest.approx(results[1][0], rel=1e-10)
    for one, other in zip(results[0][1], results[1][1], strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-9)


def test_delta_lora_without_ratio_is_lora_bit_for_bit() -> None:
    args = {"rank": 3, "alpha": 5.0}
    expected = tiny.train(METHODS["lora"].build(args), tiny.make(tiny.llama))
    assert (
        tiny.train(METHODS["delta-lora"].build(args | {"lambda": 0.0}), tiny.make(tiny.llama))
        == expected
    )


# -- counts


def roberta_base() -> PreTrainedModel:
    config = transformers.RobertaConfig(
        vocab_size=50265, max_position_embeddings=514, type_vocab_size=1
    )
    return transformers.RobertaForSequenceClassification(config)


def llama_3b() -> PreTrainedModel:
    config = transformers.LlamaConfig(
        vocab_size=128256,
        hidden_size=3072,
        intermediate_size=8192,
        num_hidden_layers=28,
        num_attention_heads=24,
        num_key_value_heads=8,
        tie_word_embeddings=True,
    )
    return transformers.LlamaForCausalLM(config)


ROBERTA_SHAPES = [(768, 768)] * 4 + [(768, 3072), (3072, 768)]  # (in, out) of a layer's linears
LLAMA_SHAPES = [(3072, 3072)] * 2 + [(3072, 1024)] * 2 + [(3072, 8192)] * 2 + [(8192, 3072)]


@pytest.mark.parametrize(
    ("build", "targets", "name", "rank", "expected"),
    [
        (roberta_base, ("query", "value"), "lora", 8, 294_912),
        (roberta_base, ("query", "value"), "lora+", 8, 294_912),
        (roberta_base, ("query", "value"), "delta-lora", 8, 294_912),
        (roberta_base, ("query", "value"), "lora-fa", 8, 147_456),
        (roberta_base, ("query", "value"), "vera", 1024, 43_008),
        (llama_3b, ("q_proj", "v_proj"), "lora", 32, 9_175_040),
        (llama_3b, ("q_proj", "v_proj"), "lora-fa", 32, 3_670_016),
        (llama_3b, ("q_proj", "v_proj"), "vera", 256, 129_024),
        (roberta_base, "all-linear", "lora", 8, 12 * sum(8 * (i + o) for i, o in ROBERTA_SHAPES)),
        (roberta_base, "all-linear", "lora-fa", 8, 12 * sum(8 * o for _, o in ROBERTA_SHAPES)),
        (roberta_base, "all-linear", "vera", 64, 12 * sum(64 + o for _, o in ROBERTA_SHAPES)),
        (llama_3b, "all-linear", "lora", 16, 28 * sum(16 * (i + o) for i, o in LLAMA_SHAPES)),
        (llama_3b, "all-linear", "lora-fa", 16, 28 * sum(16 * o for _, o in LLAMA_SHAPES)),
        (llama_3b, "all-linear", "vera", 64, 28 * sum(64 + o for _, o in LLAMA_SHAPES)),
        (llama_3b, "all-linear", "full", None, 3_212_749_824),
        (llama_3b, "all-linear", "frozen", None, 0),
    ],
)
def test_trained_parameters_are_as_published(
    build: Build, targets: Any, name: str, rank: int | None, expected: int
) -> None:
    with torch.device("meta"):
        model = build()
    args = {} if rank is None else {"rank": rank, "targets": targets}
    assert sum(p.numel() for p in tiny.attach(METHODS[name].build(args), model)) == expected


def test_delta_lora_counts_the_weights_that_move_without_a_gradient() -> None:
    with torch.device("meta"):
        model = roberta_base()
    method = METHODS["delta-lora"].build({})
    method.attach(model, torch.Generator())
    assert method.updatable(model) == 12 * sum(i * o for i, o in ROBERTA_SHAPES)


def test_a_model_attached_without_weights_has_the_same_tensors() -> None:
    """estimate counts on the meta device what a run trains on a real one."""
    for arm in ADAPTERS:
        real = tiny.make(tiny.llama, torch.float32)
        with torch.device("meta"):
            model = tiny.llama()
            tiny.attach(method_of(arm), model)  # inside, as a caller may well do
        tiny.attach(method_of(arm), real)
        assert all(tensor.is_meta for tensor in model.state_dict().values())
        shapes = [
            {name: (t.shape, t.dtype) for name, t in m.state_dict().items()} for m in (model, real)
        ]
        assert shapes[0] == shapes[1]


# -- what is kept for the backward pass


def kept(module: nn.Module, *inputs: Tensor) -> list[Tensor]:
    """What autograd keeps of a forward pass beside the module's own tensors: one tensor for each
    storage."""
    saved: dict[int, Tensor] = {}
    own = {tensor.untyped_storage().data_ptr() for tensor in module.state_dict().values()}

    def pack(tensor: Tensor) -> Tensor:
        pointer = tensor.untyped_storage().data_ptr()
        if pointer not in own:
            saved[pointer] = tensor  # held, so that no other tensor can get the same address
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        output = module(*inputs)
    assert output.requires_grad
    return list(saved.values())


TOKENS, IN, OUT, RANK = 7, 12, 20, 3


@pytest.mark.parametrize(
    ("name", "args", "expected"),
    [
        ("lora", {}, [IN, RANK]),
        ("lora+", {}, [IN, RANK]),
        ("lora-fa", {}, [RANK]),
        ("lora-fa", {"correction": True}, [RANK]),
        ("vera", {}, [RANK]),  # plain autograd would keep B (d * A x), OUT wide, too
        ("delta-lora", {}, [IN, RANK]),
        ("delta-lora", {"start_step": 1}, [IN, 2 * RANK]),
        ("frozen", {}, []),
    ],
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_layer_keeps_no_more_activations_than_its_gradients_need(
    name: str, args: Any, expected: list[int], dtype: torch.dtype
) -> None:
    model = nn.Sequential(nn.Linear(IN, OUT)).to(dtype)
    args = args if name == "frozen" else args | {"rank": RANK}
    method = METHODS[name].build(args)
    method.attach(model, torch.Generator())
    for layer in layers(model, DeltaLowRank).values():
        if not layer.moving:
            layer.start()
    x = torch.randn(TOKENS, IN, dtype=dtype, requires_grad=True)
    assert sorted(
        tensor.shape[1] for tensor in kept(model, x) if tensor.shape[0] == TOKENS
    ) == sorted(expected)


class Shared(nn.Module):
    """Three projections of one input, as in attention."""

    def __init__(self) -> None:
        super().__init__()
        self.q, self.k, self.v = nn.Linear(IN, OUT), nn.Linear(IN, OUT), nn.Linear(IN, OUT)

    def forward(self, x: Tensor) -> Tensor:
        return self.q(x) + self.k(x) + self.v(x)


@pytest.mark.parametrize("shape", [(TOKENS, IN), (2, TOKENS, IN)])
def test_lora_layers_on_one_input_keep_it_once(shape: tuple[int, ...]) -> None:
    model = Shared()
    METHODS["lora"].build({"rank": RANK}).attach(model, torch.Generator())
    x = 2 * torch.randn(shape, requires_grad=True)
    widths = sorted(tensor.shape[-1] for tensor in kept(model, x))
    assert widths == [RANK, RANK, RANK, IN]


# -- layers against their equation


def make_layer(kind: str, base: nn.Linear, rank: int, rng: torch.Generator) -> AbstractAdapted:
    """A layer in the middle of its training: no factor is zero."""
    layer: AbstractAdapted
    if kind == "low-rank":
        layer = LowRank(base, rank=rank, alpha=2.5, dropout=0.0, rng=rng)
    elif kind == "vector-based":
        wide = nn.Linear(
            base.in_features + 2, base.out_features + 3, dtype=base.weight.dtype
        )  # another layer of the model
        layer = VectorBased(
            base, projection=Projection(rank, [base, wide], rng), d_init=0.1, dropout=0.0
        )
    else:
        moving = kind == "delta, from the start"
        layer = DeltaLowRank(base, rank=rank, alpha=2.5, ratio=1.5, moving=moving, rng=rng)
    for parameter in (p for p in layer.parameters() if p is not base.weight and p is not base.bias):
        parameter.data.normal_(generator=rng)
    if isinstance(layer, DeltaLowRank) and kind != "delta, not begun":
        if kind == "delta, begun later":
            layer.start()
        for parameter in (layer.A, layer.B):
            parameter.data.add_(torch.randn(parameter.shape, generator=rng), alpha=0.5)
    return layer


@settings(deadline=None, max_examples=60, derandomize=True)
@given(
    kind=st.sampled_from(
        [
            "low-rank",
            "vector-based",
            "delta, not begun",
            "delta, from the start",
            "delta, begun later",
        ]
    ),
    sizes=st.tuples(*[st.integers(1, 9)] * 3),
    leading=st.sampled_from([(), (1,), (3,), (2, 3)]),
    bias=st.booleans(),
    seed=st.integers(0, 2**32 - 1),
)
def test_a_layer_computes_its_delta_and_the_gradients_of_its_method(
    kind: str, sizes: tuple[int, int, int], leading: tuple[int, ...], bias: bool, seed: int
) -> None:
    inside, outside, rank = sizes
    rng = torch.Generator().manual_seed(seed)
    base = nn.Linear(inside, outside, bias=bias, dtype=torch.float64).requires_grad_(False)
    layer = make_layer(kind, base, rank, rng)
    x = torch.randn(*leading, inside, dtype=torch.float64, generator=rng, requires_grad=True)
    g = torch.randn(*leading, outside, dtype=torch.float64, generator=rng)
    trained = [p for p in layer.parameters() if p.requires_grad]
    dense = F.linear(x, base.weight + layer.delta(), base.bias)
    y = layer(x)
    torch.testing.assert_close(y, dense)
    torch.testing.assert_close(layer.merged()(x), dense)
    expected = torch.autograd.grad(dense, [x, *trained], g)
    # Delta-LoRA's W is a constant of each step: of the (1 + lambda) s B A that it has become, A and
    # B see s B A alone.
    share = 1 / 2.5 if isinstance(layer, DeltaLowRank) and layer.moving else 1.0
    gradients = torch.autograd.grad(y, [x, *trained], g)
    torch.testing.assert_close(gradients[0], expected[0])
    for one, other in zip(gradients[1:], expected[1:], strict=True):
        torch.testing.assert_close(one, share * other)


@arms
@models
def test_plain_and_merged_forms_after_training(arm: Any, build: Build) -> None:
    """The plain form computes what the model did before, the merged one what it does now, both with
    plain linear layers; afterwards the model is the same modules with the same bits."""
    method, model, head = method_of(arm), tiny.make(build), tiny.HEADS[build]
    heads = {name: copy.deepcopy(model.get_submodule(name)) for name in head}
    before = logits(model)
    tiny.train(method, model, head, steps=8)
    adapted, bits, modules = logits(model), state(model), dict(model.named_modules())
    bases = {name: layer.base for name, layer in tiny.adapted(model)}
    plain, merged = method.plain(model), method.merged(model)
    assert (plain is None) == (arm[0] == "full")
    assert (merged is None) == (arm[0] in ("full", "frozen"))
    for _ in range(2):  # either may be entered again
        if plain is not None:
            with replaced(model, plain):
                assert not list(tiny.adapted(model))
                with replaced(model, heads):
                    assert torch.equal(logits(model), before)
        if merged is not None:
            with replaced(model, merged):
                assert not list(tiny.adapted(model))
                torch.testing.assert_close(logits(model), adapted, rtol=1e-10, atol=1e-12)
                assert not torch.allclose(adapted, before, atol=1e-3)  # something was merged
                for name, base in bases.items():
                    assert type(model.get_submodule(name)) is type(base)
        assert equal_bits(state(model), bits)
        assert list(dict(model.named_modules()).items()) == list(modules.items())
        assert torch.equal(logits(model), adapted)


def test_a_model_is_whole_again_when_a_form_is_left_by_an_error() -> None:
    model = tiny.make(tiny.llama)
    method = METHODS["lora"].build({})
    tiny.attach(method, model)
    names = [name for name, _ in tiny.adapted(model)]
    merged = method.merged(model)
    assert merged is not None
    with pytest.raises(ZeroDivisionError), replaced(model, merged):
        raise ZeroDivisionError
    assert [name for name, _ in tiny.adapted(model)] == names


def test_a_method_may_have_no_other_form_and_no_file() -> None:
    method, model = tiny.BiasShift(), tiny.make(tiny.roberta)
    method.attach(model, torch.Generator())
    assert method.plain(model) is method.merged(model) is method.file is None
    assert method.updatable(model) == 0


@pytest.mark.parametrize("name", ["lora", "lora-fa", "lora+", "vera"])
def test_dropout_drops_the_branchs_input_and_only_in_training(name: str) -> None:
    model = nn.Sequential(nn.Linear(IN, OUT)).double()
    METHODS[name].build({"rank": RANK, "dropout": 0.4}).attach(model, torch.Generator())
    ((_, layer),) = tiny.adapted(model)
    for part in ("B", "b"):
        if isinstance(getattr(layer, part, None), nn.Parameter):
            getattr(layer, part).data.normal_(generator=torch.Generator().manual_seed(1))
    x = torch.randn(TOKENS, IN, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    with torch.random.fork_rng():
        torch.manual_seed(3)
        y = layer(x)
        torch.manual_seed(3)
        torch.testing.assert_close(y, layer.base(x) + F.linear(dropout(x, 0.4), layer.delta()))
    layer.eval()
    torch.testing.assert_close(
        layer(x), F.linear(x, layer.base.weight + layer.delta(), layer.base.bias)
    )


# -- VeRA's shared pair


def test_vera_layers_share_one_pair_whatever_is_done_to_the_model() -> None:
    model = tiny.make(tiny.llama)
    tiny.attach(METHODS["vera"].build({"rank": 5}), model)
    for changed in (model, model.to(torch.float32), copy.deepcopy(model)):
        pairs = {
            tuple(m.untyped_storage().data_ptr() for m in layer.matrices())
            for _, layer in tiny.adapted(changed)
        }
        assert len(list(tiny.adapted(changed))) == 14
        assert len(pairs) == 1


def test_veras_inner_vector_starts_at_d_init() -> None:
    for args, expected in (({}, 0.1), ({"d_init": 1e-3}, 1e-3)):
        model = nn.Sequential(nn.Linear(IN, OUT)).double()
        METHODS["vera"].build({"rank": RANK} | args).attach(model, torch.Generator())
        (layer,) = layers(model, VectorBased).values()
        assert torch.equal(layer.d, torch.full((RANK,), expected, dtype=torch.float64))


def test_vera_takes_first_columns_and_first_rows_of_a_pair_as_large_as_the_largest_layers() -> None:
    model = tiny.make(tiny.llama)
    tiny.attach(METHODS["vera"].build({"rank": 5}), model)
    shapes = {(layer.base.out_features, layer.base.in_features) for _, layer in tiny.adapted(model)}
    assert len(shapes) > 2
    for layer in layers(model, VectorBased).values():
        A, B = layer.matrices()
        assert layer.projection.A.shape == (5, max(shape[1] for shape in shapes))
        assert layer.projection.B.shape == (max(shape[0] for shape in shapes), 5)
        assert torch.equal(A, layer.projection.A[:, : layer.base.in_features])
        assert torch.equal(B, layer.projection.B[: layer.base.out_features, :])


# -- targets and hyperparameters


@adapters
def test_the_order_of_targets_is_irrelevant(arm: Any) -> None:
    states = []
    for targets in (["v_proj", "q_proj", "down_proj"], ["down_proj", "q_proj", "v_proj"]):
        model = tiny.make(tiny.llama)
        tiny.train(method_of(arm, targets=targets), model, steps=2)
        states.append(state(model))
    assert equal_bits(*states)


@pytest.mark.parametrize(
    ("targets", "count"),
    [
        ("all-linear", 14),
        (("q_proj", "v_proj"), 4),
        ("q_proj", 2),
        (("self_attn.q_proj",), 2),
        (("0.self_attn.q_proj", "up_proj"), 3),
    ],
)
def test_targets_select_layers_by_the_end_of_their_name(targets: Any, count: int) -> None:
    model = tiny.make(tiny.llama)
    METHODS["lora"].build({"targets": targets}).attach(model, torch.Generator())
    assert len(list(tiny.adapted(model))) == count


@pytest.mark.parametrize(
    "build", [tiny.llama, tiny.bert, tiny.roberta, tiny.distilbert, tiny.linear_gpt2], ids=_name
)
def test_all_linear_is_every_linear_layer_but_the_head(build: Build) -> None:
    model = tiny.make(build)
    head = tiny.HEADS[build] or ("lm_head",)
    linears = {name for name, module in model.named_modules() if isinstance(module, nn.Linear)}
    chosen = set(linear_layers(model, "all-linear"))
    assert linears - chosen == {name for name in linears if name.split(".")[0] in head}
    assert chosen


@pytest.mark.parametrize(
    "targets", ["query", ("q_proj", "query"), ("proj",), ("lm_head",), ("",), ()]
)
@pytest.mark.parametrize("name", ["lora", "vera"])
def test_a_target_without_a_layer_is_named(name: str, targets: Any) -> None:
    model = tiny.make(tiny.llama)
    wrong = [t for t in ([targets] if isinstance(targets, str) else targets) if t != "q_proj"]
    with pytest.raises(InputError, match=f"target '{wrong[0]}'.*q_proj" if wrong else "targets"):
        METHODS[name].build({"targets": targets}).attach(model, torch.Generator())


def test_a_model_without_linear_layers_is_refused() -> None:
    with pytest.raises(InputError, match="GPT2LMHeadModel has no linear layer"):
        METHODS["lora"].build({}).attach(tiny.make(tiny.gpt2), torch.Generator())


@pytest.mark.parametrize(
    ("name", "args", "key"),
    [
        ("lora", {"rank": 0}, "rank"),
        ("lora", {"rank": 2.5}, "rank"),
        ("lora", {"alpha": -1.0}, "alpha"),
        ("lora", {"alpha": float("nan")}, "alpha"),
        ("lora", {"dropout": 1.0}, "dropout"),
        ("lora", {"dropout": -0.1}, "dropout"),
        ("lora-fa", {"correction": 3}, "correction"),
        ("lora+", {"ratio": 0.0}, "ratio"),
        ("vera", {"d_init": 0.0}, "d_init"),
        ("delta-lora", {"lambda": -1.0}, "lambda"),
        ("delta-lora", {"start_step": -1}, "start_step"),
        ("lora", {"rnk": 4}, "did you mean 'rank'"),
        ("vera", {"alpha": 8.0}, "alpha"),  # VeRA has none
        ("delta-lora", {"dropout": 0.1}, "dropout"),  # its derivation allows none
        ("full", {"rank": 4}, "rank"),
    ],
)
def test_a_hyperparameter_that_cannot_be_is_refused_by_name(name: str, args: Any, key: str) -> None:
    with pytest.raises(InputError, match=key):
        METHODS[name].build(args)


@pytest.mark.parametrize("name", sorted(OURS))
def test_a_default_and_the_same_value_written_out_are_the_same_spec(name: str) -> None:
    defaults = METHODS[name].complete({})
    assert json.dumps(METHODS[name].complete(defaults)) == json.dumps(defaults)
    numbers = {key: value for key, value in defaults.items() if isinstance(value, float)}
    assert json.dumps(
        METHODS[name].complete(
            {key: int(value) for key, value in numbers.items() if value == int(value)}
        )
    ) == json.dumps(defaults)


@pytest.mark.parametrize("name", sorted(OURS))
def test_what_a_search_varies_exists_and_may_take_both_ends(name: str) -> None:
    defaults = METHODS[name].complete({})
    for key, dimension in METHODS[name].space.items():
        table, _, argument = key.partition(".")
        assert table in ("train", "args")
        if table == "train":
            assert argument in TrainSpec.model_fields
            continue
        for end in (dimension.low, dimension.high):
            assert METHODS[name].complete({argument: end}) == defaults | {argument: end}


# -- GPT-2's layers


def test_linearized_model_computes_the_same_and_is_marked() -> None:
    published, model = tiny.make(tiny.gpt2), tiny.make(tiny.linear_gpt2)
    torch.testing.assert_close(logits(model), logits(published), rtol=0, atol=1e-14)
    assert len(linear_layers(model, "all-linear")) == 8
    assert model.lm_head.weight is model.transformer.wte.weight  # still tied


def test_low_rank_layers_tell_an_ordinary_loras_factors() -> None:
    for arm in ADAPTERS:
        model = tiny.make(tiny.llama)
        tiny.train(method_of(arm), model, steps=8)
        for layer in layers(model, AbstractLowRank).values():
            A, B = layer.factors()
            torch.testing.assert_close(layer.scale * B @ A, layer.delta())
