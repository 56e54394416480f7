"""A base in 4 or 8 bits: what quantising loses, that training on it is training on the dequantised
weights, what it keeps, and what is refused."""

import copy
import gc
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import pytest
import tiny
import torch
import torch.nn.functional as F
from test_methods import ADAPTERS, _name, equal_bits, logits, method_of, state
from test_run import done, spec
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from transformers import PreTrainedModel
from transformers.models.llama.modeling_llama import LlamaMLP

from peftbench.errors import InputError
from peftbench.methods import METHODS
from peftbench.methods.base import AbstractMethod, Space
from peftbench.methods.files import load, save
from peftbench.methods.linear import (
    TransposedLinear,
    layers,
    left_out,
    linear_layers,
    replaced,
)
from peftbench.methods.low_rank import LowRank
from peftbench.methods.quantized import (
    Format,
    QuantizedLinear,
    library,
    parameter_count,
    values_of_codes,
)
from peftbench.training.fine_tuning import check_specs, set_up
from peftbench.training.footprint import PeakBytes, footprint
from peftbench.training.models import quantize
from peftbench.training.requantization import requantized
from peftbench.training.run import run

pytest.importorskip("bitsandbytes", reason="bitsandbytes keeps a base in 4 or 8 bits")

CPU = torch.device("cpu")
FORMATS: tuple[Format, ...] = ("nf4", "int8")
formats = pytest.mark.parametrize("base", FORMATS)
on_quantized = pytest.mark.parametrize("arm", [("frozen", {}), *ADAPTERS], ids=_name)
Build = Callable[[], PreTrainedModel]


def linear(
    out: int, width: int, dtype: torch.dtype = torch.float32, bias: bool = True
) -> nn.Linear:
    with torch.random.fork_rng():
        torch.manual_seed(out)
        layer = nn.Linear(width, out, bias=bias, dtype=dtype)
        return layer.requires_grad_(False)


def normal(out: int, width: int) -> nn.Linear:
    layer = linear(out, width)
    layer.weight.normal_(generator=torch.Generator().manual_seed(0))
    return layer


def dequantized(layer: QuantizedLinear) -> nn.Linear:
    """The plain layer with the same weight."""
    plain = nn.Linear(layer.in_features, layer.out_features, bias=False)
    plain.weight, plain.bias = nn.Parameter(layer.weight), layer.bias
    return plain.requires_grad_(False)


def pair(build: Build, base: Format) -> tuple[Any, Any]:
    """A quantised model, and the plain one with its dequantised weights."""
    quantized, plain = (tiny.make(build, torch.float32) for _ in range(2))
    quantize(quantized, base, CPU)
    for name, layer in layers(quantized, QuantizedLinear).items():
        with torch.no_grad():
            plain.get_submodule(name).weight.copy_(layer.weight)
    return quantized, plain


# -- what is stored


@pytest.mark.parametrize(("base", "low", "high"), [("nf4", 0.091, 0.094), ("int8", 0.005, 0.007)])
@pytest.mark.parametrize("shape", [(576, 1536), (24, 40), (30, 50)], ids=str)
def test_the_error_for_normal_weights(
    base: Format, low: float, high: float, shape: tuple[int, int]
) -> None:
    """Evenly spaced: 1 / (127 sqrt 12) of a block's largest, which is some 2.5 sigma."""
    layer = normal(*shape)
    weight = QuantizedLinear(layer, base).weight
    assert weight.shape == shape
    error = (weight - layer.weight).norm() / layer.weight.norm()
    slack = 0.004 * (shape[0] < 100)  # few blocks
    assert low - slack / 4 < error < high + slack


@pytest.mark.parametrize("shape", [(576, 1536), (24, 40)], ids=str)
def test_nf4_has_the_bits_of_qlora(shape: tuple[int, int]) -> None:
    layer, functional = normal(*shape), library()
    codes, told = functional.quantize_4bit(
        layer.weight, blocksize=64, compress_statistics=True, quant_type="nf4"
    )
    quantized = QuantizedLinear(layer, "nf4")
    assert torch.equal(quantized.codes, codes)
    assert torch.equal(quantized.scale_codes, told.absmax)
    assert torch.equal(quantized.weight, functional.dequantize_4bit(codes, told))


@formats
def test_the_weight_is_a_value_of_each_code_times_its_blocks_scale(base: Format) -> None:
    """Whatever kernel makes it, in blocks of 64 over the rows' ends."""
    layer = QuantizedLinear(normal(30, 50), base)
    codes = layer.codes.flatten().long()
    if base == "nf4":
        values = library().get_4bit_type("nf4", device="cpu")
        codes = torch.stack([codes >> 4, codes & 15], 1).flatten()
    else:
        values = layer.values.view(torch.float32)
        torch.testing.assert_close(values * 127, (values * 127).round(), rtol=0, atol=1e-4)
        assert (values * 127).round().unique().numel() == 255
    d, m = layer.scale_values.view(torch.float32), layer.scale_maxima.view(torch.float32)
    scales = layer.scale_offset.view(torch.float32) + m * d[layer.scale_codes.long()]
    expected = (values[codes] * scales.repeat_interleave(64)[:1500]).view(30, 50)
    torch.testing.assert_close(layer.weight, expected, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize(("base", "most"), [("nf4", 0.518), ("int8", 1.018)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_bytes_at_rest(base: Format, most: float, dtype: torch.dtype) -> None:
    layer = QuantizedLinear(linear(1536, 1536, dtype, bias=False), base)
    assert list(layer.parameters()) == []
    size = sum(buffer.nbytes for buffer in layer.buffers())
    bits = {"nf4": 0.5, "int8": 1}[base]
    assert bits + 1 / 64 < size / 1536**2 < most
    assert layer.weight.dtype == dtype


@formats
def test_what_is_stored_moves_and_copies_and_keeps_its_bits(base: Format) -> None:
    layer = QuantizedLinear(linear(24, 40), base)
    weight, held = layer.weight, state(layer)
    cast = copy.deepcopy(layer).to(torch.bfloat16).half().to(CPU)
    assert torch.equal(cast.weight, weight)
    assert cast.codes.data_ptr() != layer.codes.data_ptr()
    other = QuantizedLinear(linear(24, 40), base)
    other.codes.zero_()
    other.load_state_dict(held)
    assert torch.equal(other.weight, weight)


@formats
def test_the_weight_is_read_only(base: Format) -> None:
    layer = QuantizedLinear(linear(24, 40), base)
    assert not layer.weight.requires_grad
    with pytest.raises((AttributeError, KeyError)):
        layer.weight = nn.Parameter(torch.zeros(24, 40))  # type: ignore[misc]
    layer.requires_grad_(True)
    assert [name for name, _ in layer.named_parameters()] == ["bias"]


@formats
def test_only_the_trunks_linear_layers_are_quantised(base: Format) -> None:
    for build in (tiny.llama, tiny.bert_without_pooler, tiny.roberta, tiny.linear_gpt2):
        plain, model = tiny.make(build, torch.float32), tiny.make(build, torch.float32)
        quantize(model, base, CPU)
        assert layers(model, QuantizedLinear).keys() == linear_layers(plain, "all-linear").keys()
        for head in tiny.HEADS[build]:
            assert not layers(model.get_submodule(head), QuantizedLinear)
        assert parameter_count(model) == parameter_count(plain)
        assert parameter_count(plain) == sum(p.numel() for p in plain.parameters())
    assert plain.config.tie_word_embeddings
    assert model.get_output_embeddings().weight is model.get_input_embeddings().weight


# -- the layer


@formats
@pytest.mark.parametrize("shape", [(5, 40), (2, 3, 40), (0, 40), (40,)], ids=str)
@pytest.mark.parametrize("bias", [True, False])
def test_forward_and_backward_are_those_of_the_dequantised_layer(
    base: Format, shape: tuple[int, ...], bias: bool
) -> None:
    layer = QuantizedLinear(linear(24, 40, bias=bias), base)
    plain = dequantized(layer)
    results = []
    for each in (layer, plain):
        x = torch.randn(shape, generator=torch.Generator().manual_seed(1)).requires_grad_()
        biases = []
        if each.bias is not None:
            each.bias = nn.Parameter(each.bias.detach().clone())
            biases.append(each.bias)
        y = each(x)
        y.square().sum().backward()
        results.append((y.detach(), x.grad, *(b.grad for b in biases)))
    for own, other in zip(*results, strict=True):
        torch.testing.assert_close(own, other)


@formats
def test_under_autocast_it_computes_as_a_plain_layer_does(base: Format) -> None:
    layer = QuantizedLinear(linear(24, 40, torch.bfloat16), base)
    plain = dequantized(layer)
    results = []
    for each in (layer, plain):
        x = torch.randn(3, 40, generator=torch.Generator().manual_seed(1)).requires_grad_()
        with torch.autocast("cpu", torch.bfloat16):
            y = each(x)
        y.float().square().sum().backward()
        assert x.grad is not None
        results.append((y.detach(), x.grad))
    (own, own_grad), (other, other_grad) = results
    assert own.dtype == other.dtype == torch.bfloat16
    assert own_grad.dtype == other_grad.dtype == torch.float32
    torch.testing.assert_close(own, other)
    torch.testing.assert_close(own_grad, other_grad)


@formats
def test_no_weight_is_kept_for_the_backward_pass(base: Format) -> None:
    """Neither by autograd nor by the layer: after a forward pass of ten layers the bytes of their
    outputs alone are there."""
    net = nn.Sequential(*(QuantizedLinear(linear(64, 64), base) for _ in range(10)))
    x = torch.randn(4, 64, requires_grad=True)
    kept: list[Tensor] = []

    def pack(tensor: Tensor) -> Tensor:
        kept.append(tensor)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        y = net(x)
    assert kept == []
    y.sum().backward()
    with PeakBytes() as tracker:
        tracker.hold("weights", net.buffers())
        y = net(x)
        gc.collect()
        assert tracker.live["activations"] < 64 * 64 * 4  # one weight
        assert tracker.peak >= 64 * 64 * 4  # while it was used
    del y


@formats
@pytest.mark.parametrize("arm", ADAPTERS, ids=_name)
def test_no_weight_is_kept_beside_an_adapter(arm: Any, base: Format) -> None:
    net: Any = nn.Sequential(*(QuantizedLinear(linear(64, 64), base) for _ in range(3)))
    method_of(arm).attach(net, torch.Generator())
    kept: list[int] = []

    def pack(tensor: Tensor) -> Tensor:
        kept.append(tensor.numel())
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        net(torch.randn(4, 64, requires_grad=True)).sum()
    assert 0 < max(kept) < 64 * 64


# -- a model


@pytest.mark.parametrize(
    ("build", "base"),
    [(tiny.llama, "nf4"), (tiny.llama, "int8"), (tiny.roberta, "nf4"), (tiny.linear_gpt2, "nf4")],
    ids=lambda value: value if isinstance(value, str) else _name(value),
)
@on_quantized
def test_training_is_that_of_the_plain_model_with_the_dequantised_weights(
    arm: Any, build: Build, base: Format
) -> None:
    quantized, plain = pair(build, base)
    assert not torch.equal(logits(plain), logits(tiny.make(build, torch.float32)))
    torch.testing.assert_close(logits(quantized), logits(plain), rtol=0, atol=1e-6)
    held = state(copy.deepcopy(quantized))
    own, other = (
        tiny.train(method_of(arm), model, tiny.HEADS[build], steps=5, lr=1e-2)
        for model in (quantized, plain)
    )
    assert own == pytest.approx(other, abs=1e-5)
    assert arm[0] == "frozen" or own[3] < own[0] - 1e-3  # the same batch
    assert method_of(arm).updatable(quantized) == method_of(arm).updatable(plain)
    after = {key.replace(".base.", "."): value for key, value in state(quantized).items()}
    packed = {
        f"{name}.{part}"
        for name, layer in layers(pair(build, base)[0], QuantizedLinear).items()
        for part, _ in layer.named_buffers()
    }
    assert packed
    assert equal_bits({key: after[key] for key in packed}, {key: held[key] for key in packed})


@formats
@pytest.mark.parametrize("arm", ADAPTERS, ids=_name)
def test_merged_layers_are_plain_and_compute_the_same(arm: Any, base: Format) -> None:
    model, _ = pair(tiny.linear_gpt2, base)
    method = method_of(arm)
    tiny.train(method, model, steps=5)
    adapted = logits(model)
    plain, merged = method.plain(model), method.merged(model)
    assert plain is not None
    assert merged is not None
    assert all(isinstance(layer, QuantizedLinear) for layer in plain.values())
    assert {type(layer) for layer in merged.values()} == {TransposedLinear}
    with replaced(model, merged):
        torch.testing.assert_close(logits(model), adapted, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("targets", ["all-linear", ("q_proj",)], ids=str)
def test_what_adapters_reach_is_counted_as_on_a_plain_base(targets: Any) -> None:
    notes = []
    for model in pair(tiny.llama, "nf4"):
        METHODS["lora"].build({"targets": targets}).attach(model, torch.Generator())
        notes.append(left_out(model))
    sizes = [note and note.partition(", not")[0] for note in notes]
    assert sizes[0] == sizes[1]
    assert (notes[0] is None) == (targets == "all-linear")
    if notes[0] and notes[1]:
        assert "layers.*.mlp.up_proj.weight" in notes[0]
        assert set(notes[0].split()) == set(notes[1].split())


@formats
def test_what_quantising_a_merged_layer_loses(base: Format) -> None:
    """A change far below the steps between a layer's values is lost whole; one far above leaves the
    error that quantising has anyway."""
    model, _ = pair(tiny.llama, base)
    assert requantized(model) == {}
    METHODS["lora"].build({"rank": 24}).attach(model, torch.Generator().manual_seed(0))
    assert requantized(model) == {"requantized": None}
    lost = []
    for size in (1e-6, 1e4):
        for layer in layers(model, LowRank).values():
            layer.B.data.normal_(generator=torch.Generator().manual_seed(1)).mul_(size)
        value = requantized(model)["requantized"]
        assert value is not None
        lost.append(value)
    assert lost[0] > 0.5
    assert lost[1] == pytest.approx({"nf4": 0.092, "int8": 0.006}[base], rel=0.1)


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")
@pytest.mark.parametrize("kind", ["lora", "vera"])
def test_peft_opens_the_adapter_on_the_plain_model(kind: str, tmp_path: Path) -> None:
    peft = pytest.importorskip("peft", reason="the peer that opens our files")
    model, plain = pair(tiny.linear_gpt2, "nf4")
    method = METHODS[kind].build({"rank": 3})
    tiny.train(method, model, steps=7)
    save(method, model, (), tmp_path, base_model="someone/tiny")
    published = tiny.make(tiny.gpt2, torch.float32)
    with torch.no_grad():
        for name in layers(plain, TransposedLinear):
            published.get_submodule(name).weight.copy_(plain.get_submodule(name).weight.t())
    opened = peft.PeftModel.from_pretrained(published, tmp_path).eval()
    torch.testing.assert_close(logits(opened), logits(model), rtol=0, atol=1e-5)
    for restored in pair(tiny.linear_gpt2, "nf4"):  # and we on either
        load(METHODS[kind].build({}), restored, tmp_path)
        torch.testing.assert_close(logits(restored), logits(model), rtol=0, atol=1e-5)


# -- whole runs


def quantized_spec(model: str, base: Format = "nf4", **changes: Any) -> Any:
    return spec(model, **changes).model_copy(update={"base": base})


@pytest.mark.parametrize(
    ("method", "base", "task"),
    [
        ("frozen", "nf4", "reviews"),
        ("vera", "int8", "reviews"),
        ("delta-lora", "nf4", "reviews"),
        ("lora", "nf4", "gsm_symbolic"),
    ],
)
def test_a_run_from_end_to_end(
    method: str, base: Format, task: str, small_encoder: str, small_decoder: str
) -> None:
    model = small_encoder if task == "reviews" else small_decoder
    wanted = quantized_spec(model, base, method=method, task=task)
    few = {"test": 4, "generate": 1, "max_new_tokens": 2}
    data = wanted.data.model_copy(update=few)
    record, _ = done(run(wanted.model_copy(update={"data": data})))
    assert record.environment.bitsandbytes
    assert record.dtypes
    assert base in record.dtypes.weights
    assert f" parameters are kept as {base}; " in record.notes[0]
    assert ("requantized" in record.metrics) == (method != "frozen")
    latency = record.timing and record.timing.latency_seconds
    assert latency
    assert latency.base
    assert latency.merged is None


@pytest.mark.parametrize("method", ["lora", "vera", "delta-lora"])
def test_only_the_bytes_of_weights_differ_from_a_plain_base(
    method: str, small_encoder: str
) -> None:
    quantized, plain = (
        footprint(set_up(wanted, CPU))
        for wanted in (quantized_spec(small_encoder, method=method), spec(small_encoder, method))
    )
    for name in ("total_params", "trained_params", "updatable_params", "adapter_file_bytes"):
        assert getattr(quantized, name) == getattr(plain, name), name
    # two blocks of six weights and the pooler's; beside the codes 256 values for the scales of each
    weights = 2 * (4 * 32 * 32 + 2 * 32 * 64) + 32 * 32
    saved = plain.peak_parts.weights - quantized.peak_parts.weights
    assert saved + 13 * 1024 == pytest.approx((4 - 0.516) * weights, rel=0.01)


@pytest.mark.parametrize("method", ["vera", "delta-lora"])
def test_a_footprint_leaves_everything_as_it_was(method: str, small_encoder: str) -> None:
    tuning = set_up(quantized_spec(small_encoder, method=method), CPU)
    before = state(tuning.model.net)
    footprint(tuning)
    assert equal_bits(state(tuning.model.net), before)


def test_no_memory_is_needed_for_the_footprint_of_a_quantised_layer() -> None:
    values_of_codes("even")
    values_of_codes("dynamic")
    with FakeTensorMode():
        layer = QuantizedLinear(nn.Linear(8192, 28672, bias=False, dtype=torch.bfloat16), "nf4")
        x = torch.ones(4, 8192, dtype=torch.bfloat16, requires_grad=True)
        with PeakBytes() as tracker:
            tracker.hold("weights", layer.buffers())
            layer(x).sum().backward()
    weights = 8192 * 28672
    assert 0.515 * weights < tracker.peak_parts["weights"] < 0.518 * weights
    assert 2 * weights < tracker.peak - tracker.peak_parts["weights"] < 2.3 * weights


# -- what is refused


def past_its_forward(self: LlamaMLP, x: Tensor) -> Tensor:
    up = F.linear(x, self.up_proj.weight)
    return self.down_proj(self.act_fn(self.gate_proj(x)) * up)


def test_a_network_that_uses_a_quantised_weight_past_its_layer_is_refused(
    small_decoder: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(LlamaMLP, "forward", past_its_forward)
    with pytest.raises(InputError, match=r"weights of model.layers.0.mlp.up_proj, .*past the"):
        set_up(quantized_spec(small_decoder, task="gsm_symbolic"), CPU)


class Weights(AbstractMethod):
    """A contributed method that trains one kind of weight, by its name."""

    version: ClassVar[int] = 1
    paper: ClassVar[str] = "made up"
    lr: ClassVar[float] = 1e-3
    space: ClassVar[Space] = {}
    trains_weights: ClassVar[bool] = True

    part: str

    def attach(self, model: nn.Module, rng: torch.Generator) -> None:
        for name, parameter in model.named_parameters():
            parameter.requires_grad_(self.part in name)


@pytest.fixture
def contributed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(METHODS, "weights", Weights)


def of_weights(model: str, part: str) -> Any:
    values = quantized_spec(model).model_dump() | {"method": "weights", "args": {"part": part}}
    return type(quantized_spec(model)).model_validate(values)


@pytest.mark.parametrize(
    "check", [lambda spec: check_specs([spec]), lambda spec: set_up(spec, CPU)]
)
def test_a_method_that_trains_quantised_weights_is_refused(
    check: Callable[[Any], Any], small_encoder: str, contributed: None
) -> None:
    with pytest.raises(InputError, match=r"method 'full' trains weights that base = 'nf4' "):
        check(quantized_spec(small_encoder, method="full"))
    with pytest.raises(InputError, match=r"as that of bert.encoder.layer.1.output.dense: take"):
        check(of_weights(small_encoder, "layer.1.output.dense.weight"))
    check(of_weights(small_encoder, ".bias"))
    check(spec(small_encoder, "full"))


@pytest.mark.parametrize("part", [".bias", "LayerNorm.weight"])
def test_a_method_that_trains_other_parameters_runs(
    part: str, small_encoder: str, contributed: None
) -> None:
    record, _ = done(run(of_weights(small_encoder, part)))
    assert record.footprint
    assert record.footprint.trained_params > 0


def test_without_bitsandbytes_it_says_what_to_install(
    small_encoder: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    library.cache_clear()
    for name in ("bitsandbytes", "bitsandbytes.functional"):
        monkeypatch.setitem(sys.modules, name, None)
    check_specs([spec(small_encoder)])
    with pytest.raises(InputError, match=r"pip install 'peftbench\[quantized\]'$"):
        check_specs([quantized_spec(small_encoder)])
    record = run(quantized_spec(small_encoder)).record
    assert record.status == "failed"
    assert record.error
    assert "peftbench[quantized]" in record.error
