"""What a network must hold before anything trains: padding, the cache and adapters change nothing.

Each is tried on a few short examples, so that a family of models is either right or refused; which
families are is not known from their names.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from peftbench.errors import InputError
from peftbench.methods.base import AbstractMethod
from peftbench.methods.linear import replaced
from peftbench.training.base import AbstractModel, Item
from peftbench.training.generation import Work, about, lacks_memory
from peftbench.training.language_model import LanguageModel
from peftbench.training.scoring import one_line
from peftbench.wording import shortened

PADDED_TOKENS = (48, 24, 12, 6)  # of the examples that share a batch, all of unlike length
FEW_TOKENS = 16  # of the example that adapters are tried on
PROMPT_TOKENS = (16, 10, 6)  # of the prompts that are answered, all of unlike length
NEW_TOKENS = 4


@torch.inference_mode()
def check_padding(model: AbstractModel, items: Sequence[Item]) -> None:
    """Raises InputError where an example's logits depend on the padding beside it."""
    model.net.eval()
    longest = max(items, key=lambda item: len(item.tokens))
    some = [_cut(longest, most) for most in PADDED_TOKENS]
    with model.computing():
        together = _last_logits(model, some)
        alone = torch.cat([_last_logits(model, [item]) for item in some])
    if (error := _difference(model, together, alone)) is not None:
        lengths = f"{len(some[-1].tokens)} to {len(some[0].tokens)}"
        raise InputError(
            f"{about(model.net)}: examples of {lengths} tokens have other logits in a padded batch "
            f"than alone ({error:.2g} apart, relatively): it does not leave out padding"
        )


@torch.inference_mode()
def check_cache(model: LanguageModel, prompts: Sequence[str]) -> None:
    """Raises InputError where the first tokens of answers, made in a batch with a cache, do not
    follow from logits of the whole text alone. Rows end early and join, as in a run."""
    model.net.eval()
    encoded = [model.tokenizer(prompt)["input_ids"] for prompt in prompts[: len(PROMPT_TOKENS)]]
    longest = max(PROMPT_TOKENS) if model.window is None else max(model.window - NEW_TOKENS, 1)
    starts = [ids[-min(most, longest) :] for ids, most in zip(encoded, PROMPT_TOKENS, strict=False)]
    seen = _Seen([[] for _ in starts])
    work = Work(model, starts, NEW_TOKENS, _EndsOne(), seen)  # type: ignore[arg-type]
    # two rows, then another for the first
    work.finish(2 * (max(map(len, starts)) + NEW_TOKENS))
    cached = torch.stack(
        [
            logits
            for answer, new in zip(seen.logits, work.new, strict=True)
            for logits in answer[: len(new)]  # a finished row may go on beside others
        ]
    )
    with model.computing():
        whole = torch.cat(
            [
                model.net(**model.inputs(*model.pad_rows([[*start, *new[:-1]]], left=True)))
                .logits[0, len(start) - 1 :]
                .cpu()
                for start, new in zip(starts, work.new, strict=True)
            ]
        )
    if (error := _difference(model, cached, whole)) is not None:
        raise InputError(
            f"{about(model.net)}: the first tokens of its answers have other logits with the cache "
            f"than without ({error:.2g} apart, relatively): its answers would be wrong"
        )


def check_adapters(model: AbstractModel, method: AbstractMethod, items: Sequence[Item]) -> None:
    """Raises InputError where the network uses the weight of an adapted layer past the layer's
    forward, so that what the adapter adds would be lost.

    In the plain network each layer's forward computes with a constant weight, and whoever else asks
    for its weight gets one that a probe is added to. If the output has a gradient with respect to
    the probe, the weight went another way. An expert that no token reaches has none. Tried in both
    modes: fused kernels may be for training only.
    """
    plain = method.plain(model.net) or {}
    probed = {name: Probed(layer) for name, layer in plain.items() if isinstance(layer, nn.Linear)}
    if not probed:
        return
    short = _cut(items[0], FEW_TOKENS)
    lost: dict[str, None] = {}
    with replaced(model.net, {**plain, **probed}):
        for training in (True, False):
            model.net.train(training)
            with model.computing():
                logits = _last_logits(model, [short]).float()
            if logits.requires_grad:
                probes = [layer.probe for layer in probed.values()]
                gradients = torch.autograd.grad(logits.square().sum(), probes, allow_unused=True)
                reached = zip(probed, gradients, strict=True)
                lost |= dict.fromkeys(name for name, g in reached if g is not None)
    if lost:
        layers = shortened(", ".join(lost), most=200)
        raise InputError(
            f"{about(model.net)}: its code uses the weights of {layers} "
            "past the layers' forward, where an adapter would be lost: "
            "name other layers in args.targets"
        )


class Probed(nn.Linear):
    """A linear layer that computes what `layer` does, and whose `weight`, for others, is that of
    `layer` plus `probe`, a zero that wants a gradient."""

    def __init__(self, layer: nn.Linear) -> None:
        nn.Module.__init__(self)  # nn.Linear's own would make a weight
        self.in_features, self.out_features = layer.in_features, layer.out_features
        self.layer = layer
        self.probe = layer.weight.new_zeros((), requires_grad=True)

    @property
    def weight(self) -> Tensor:  # type: ignore[override]  # no parameter
        return self.layer.weight.detach() + self.probe

    @property
    def bias(self) -> Tensor | None:  # type: ignore[override]
        return self.layer.bias

    def forward(self, input: Tensor) -> Tensor:
        return F.linear(input, self.layer.weight.detach(), self.layer.bias)


@contextmanager
def named_failures(model: AbstractModel) -> Iterator[None]:
    """Makes an InputError of whatever the network's own code raises on its first examples."""
    try:
        yield
    except InputError:
        raise
    except Exception as error:  # a network's code may raise anything
        if lacks_memory(error):
            raise
        dtype = str(model.product_dtype).removeprefix("torch.")
        raise InputError(
            f"{about(model.net)} in {dtype} cannot read its first examples: {one_line(error)}"
        ) from error


@dataclass
class _Seen:
    """Draws the likeliest token, and keeps the logits of each prompt's tokens."""

    logits: list[list[Tensor]]

    def draw(self, logits: Tensor, prompts: Sequence[int], places: Sequence[int]) -> Tensor:
        for row, prompt, place in zip(logits, prompts, places, strict=True):
            if place == len(self.logits[prompt]):
                self.logits[prompt].append(row.cpu())
        return logits.argmax(-1)


@dataclass
class _EndsOne:
    """Ends the second answer that it is asked about, and no other."""

    asked: int = field(default=0)

    def reached(self, answer: list[int]) -> bool:
        self.asked += 1
        return self.asked == 2


def _cut(item: Item, most: int) -> Item:
    """Its end, of so many tokens at the most."""
    tokens, types = item.tokens[-most:], item.types and item.types[-most:]
    supervised = min(item.supervised, len(tokens) - 1)
    return replace(item, tokens=tokens, types=types, supervised=supervised)


def _last_logits(model: AbstractModel, items: Sequence[Item]) -> Tensor:
    """Of each item, those of its label or of the token after it: (items, labels or vocabulary)."""
    inputs = model.collate(items).inputs
    if not isinstance(model, LanguageModel):
        return model.net(**inputs).logits
    keep = {"logits_to_keep": 1} if "logits_to_keep" in model.accepted else {}
    return model.net(**inputs, **keep).logits[:, -1]


def _difference(model: AbstractModel, logits: Tensor, expected: Tensor) -> float | None:
    """How far apart they are relatively, where that is more than rounding makes in the network's
    dtype: of 44 families the most was 2e-6 in float32 (limit 3e-4) and 1e-2 in bfloat16 (9e-2)."""
    error = ((logits - expected).float().norm() / expected.float().norm()).item()
    return None if error <= torch.finfo(model.product_dtype).eps ** 0.5 else error
