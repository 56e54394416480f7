"""The methods' autograd functions and dropout: gradients, dtypes, odd inputs, what is left out."""

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils.checkpoint import checkpoint

from peftbench.methods.dropout import Dropout, dropout, hasten, kept_share
from peftbench.methods.kernels import low_rank_linear, scaled_projection
from peftbench.methods.vera import Projection

IN, OUT, RANK = 5, 7, 3
Layer = Callable[..., Tensor]


def base(dtype: torch.dtype, bias: bool = True) -> nn.Linear:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Linear(IN, OUT, bias=bias, dtype=dtype).requires_grad_(False)


def trained(shapes: list[tuple[int, ...]], dtype: torch.dtype) -> list[Tensor]:
    rng = torch.Generator().manual_seed(1)
    return [torch.randn(shape, generator=rng).to(dtype).requires_grad_() for shape in shapes]


def low_rank(linear: nn.Linear) -> tuple[Layer, Layer, list[tuple[int, ...]]]:
    """The function, its equation in plain operations, and the shapes of what is trained."""

    def equation(x: Tensor, A: Tensor, B: Tensor) -> Tensor:
        return F.linear(x, linear.weight + 1.5 * (B @ A).to(linear.weight.dtype), linear.bias)

    return (
        lambda x, A, B: low_rank_linear(linear, x, A, B, 1.5),
        equation,
        [(RANK, IN), (OUT, RANK)],
    )


def vector_based(linear: nn.Linear) -> tuple[Layer, Layer, list[tuple[int, ...]]]:
    rng = torch.Generator().manual_seed(2)
    A, B = torch.randn(RANK, IN, generator=rng), torch.randn(OUT, RANK, generator=rng)
    A, B = A.to(linear.weight), B.to(linear.weight)

    def ours(x: Tensor, b: Tensor, d: Tensor) -> Tensor:
        return scaled_projection(linear, x, F.linear(x.reshape(-1, IN), A), b, d, B)

    def equation(x: Tensor, b: Tensor, d: Tensor) -> Tensor:
        change = (b[:, None] * B.to(b.dtype)) @ (d[:, None] * A.to(d.dtype))
        return F.linear(x, linear.weight + change.to(linear.weight.dtype), linear.bias)

    return ours, equation, [(OUT,), (RANK,)]


KINDS = pytest.mark.parametrize("kind", [low_rank, vector_based], ids=lambda kind: kind.__name__)


def inputs(shape: tuple[int, ...], dtype: torch.dtype, strided: bool = False) -> Tensor:
    x = torch.randn(*shape, generator=torch.Generator().manual_seed(3)).to(dtype)
    if strided:
        x = x.transpose(0, -2).contiguous().transpose(0, -2)
        assert not x.is_contiguous()
    return x.requires_grad_()


@KINDS
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("shape", [(IN,), (0, IN), (1, IN), (4, IN), (2, 3, IN)])
def test_gradients_are_those_of_finite_differences(
    kind: Any, shape: tuple[int, ...], bias: bool
) -> None:
    ours, equation, shapes = kind(base(torch.float64, bias))
    tensors = [inputs(shape, torch.float64), *trained(shapes, torch.float64)]
    torch.testing.assert_close(ours(*tensors), equation(*tensors))
    assert torch.autograd.gradcheck(ours, tensors)


@KINDS
@pytest.mark.parametrize(
    ("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.bfloat16, 0.05)], ids=str
)
@pytest.mark.parametrize("strided", [False, True])
def test_each_dtype_agrees_with_the_equation_in_float64(
    kind: Any, dtype: torch.dtype, tolerance: float, strided: bool
) -> None:
    linear = base(dtype)
    ours, _, shapes = kind(linear)
    _, equation, _ = kind(copy.deepcopy(linear).double())
    # what is trained stays float32 beside a bfloat16 base
    tensors = [inputs((2, 3, IN), dtype, strided), *trained(shapes, torch.float32)]
    wide = [tensor.detach().double().requires_grad_() for tensor in tensors]
    y, expected = ours(*tensors), equation(*wide)
    assert y.dtype == dtype
    g = torch.randn(y.shape, generator=torch.Generator().manual_seed(4))
    gradients = torch.autograd.grad(y, tensors, g.to(dtype))
    for one, other, of in zip(
        gradients, torch.autograd.grad(expected, wide, g.double()), tensors, strict=True
    ):
        assert one.dtype == of.dtype
        error = (one.double() - other).norm() / other.norm()
        assert error < tolerance


@KINDS
def test_functions_work_under_fake_tensors_and_under_checkpointing(kind: Any) -> None:
    linear = base(torch.float32)
    ours, _, shapes = kind(linear)
    tensors = [inputs((2, 3, IN), torch.float32), *trained(shapes, torch.float32)]
    plain = torch.autograd.grad(ours(*tensors).square().sum(), tensors)
    again: Any = checkpoint(ours, *tensors, use_reentrant=False)
    for one, other in zip(plain, torch.autograd.grad(again.square().sum(), tensors), strict=True):
        assert torch.equal(one, other)
    with FakeTensorMode(allow_non_fake_inputs=True) as mode:
        fake = [mode.from_tensor(tensor) for tensor in tensors]
        gradients = torch.autograd.grad(ours(*fake).sum(), fake)
    assert [g.shape for g in gradients] == [tensor.shape for tensor in tensors]


def test_a_base_weight_that_wants_a_gradient_is_refused() -> None:
    linear = base(torch.float32).requires_grad_(True)
    A, B = trained([(RANK, IN), (OUT, RANK)], torch.float32)
    with pytest.raises(ValueError, match="frozen"):
        low_rank_linear(linear, torch.ones(2, IN), A, B, 1.0)


# -- the product that VeRA's layers share


def test_layers_on_one_input_share_the_first_product_and_its_gradient() -> None:
    linears = [base(torch.float64) for _ in range(3)]
    projection = Projection(RANK, linears, torch.Generator().manual_seed(0))
    x = inputs((4, IN), torch.float64)
    u = projection.down(x)
    assert projection.down(x) is u
    assert projection.down(x + 0) is not u
    u = projection.down(x)
    with torch.no_grad():
        x.add_(1)  # the same tensor, another value
    torch.testing.assert_close(projection.down(x), F.linear(x, projection.A))


def test_a_product_made_without_gradients_is_not_shared_with_a_step() -> None:
    linears = [base(torch.float64)]
    projection = Projection(RANK, linears, torch.Generator().manual_seed(0))
    x = inputs((4, IN), torch.float64)
    with torch.no_grad():
        kept = projection.down(x)
    assert not kept.requires_grad
    assert projection.down(x).requires_grad


# -- dropout


@pytest.mark.parametrize("p", [0.1, 0.25, 0.5, 0.9])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_dropout_drops_as_many_as_asked_and_keeps_the_mean(p: float, dtype: torch.dtype) -> None:
    torch.manual_seed(5)
    x = torch.ones(300, 401, dtype=dtype, requires_grad=True)
    y = dropout(x, p)
    share = (y != 0).double().mean().item()
    error = (p * (1 - p) / x.numel()) ** 0.5
    assert abs(share - (1 - p)) < 4 * error
    assert abs(kept_share(p) - (1 - p)) < 1e-5
    kept = y[y != 0].detach()
    torch.testing.assert_close(kept, torch.full_like(kept, 1 / kept_share(p)))
    (gradient,) = torch.autograd.grad(y.sum(), x)
    assert torch.equal(gradient, y)  # of ones: the same mask, the same factor


def test_masks_of_neighbours_are_independent() -> None:
    """Four elements come of one word: none may say anything of the next."""
    torch.manual_seed(6)
    kept = (dropout(torch.ones(400_000), 0.5) != 0).double() - 0.5
    for distance in (1, 2, 3, 4):
        correlation = 4 * (kept[:-distance] * kept[distance:]).mean().item()
        assert abs(correlation) < 4 / kept.numel() ** 0.5


def test_dropout_follows_torchs_generator_and_is_off_in_evaluation() -> None:
    x, module = torch.randn(30, 41), Dropout(0.3)
    drawn = []
    for seed in (0, 0, 1):
        torch.manual_seed(seed)
        drawn.append(module(x))
    assert torch.equal(drawn[0], drawn[1])
    assert not torch.equal(drawn[0], drawn[2])
    assert module.eval()(x) is x


def test_a_network_is_hastened_where_it_has_torchs_own_dropout() -> None:
    class Other(nn.Dropout):
        pass

    net = nn.Sequential(nn.Dropout(0.2), nn.Sequential(nn.Dropout(0.0), Other(0.5)))
    hasten(net)
    assert [type(m) for m in net.modules() if isinstance(m, nn.Dropout)] == [
        Dropout,
        Dropout,
        Other,
    ]
