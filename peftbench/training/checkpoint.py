"""A stored model is used whole or not at all: its weights, its head, its tokenizer."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from torch import nn
from transformers import AutoTokenizer

from peftbench.errors import InputError, first_line
from peftbench.tasks.base import TaskKind

POOLER = "pooler"  # the module of a trunk behind its layers, which not every checkpoint has
# Plain words, of which a tokenizer for English knows most.
PROBE = "The house is small, but a man and two children live in it. What is 12 + 30?"
# The last state is the answer's, which only padding on the left leaves in its place.
SUMMARISE_LAST = {"xlnet"}


def check_classifier(name: str, kind: TaskKind, config: Any) -> None:
    """Raises InputError where a model's classifier would read a padded batch wrongly."""
    if kind == "generation":
        return
    if config.is_encoder_decoder or config.model_type in SUMMARISE_LAST:
        why = "an encoder-decoder" if config.is_encoder_decoder else "padded on the left"
        raise InputError(
            f"model {name!r} ({config.model_type}) is {why}, which classification and regression "
            "do not support: choose an encoder (BERT, RoBERTa, DeBERTa) or a decoder (Llama, GPT-2)"
        )


def check_whole(name: str, net: Any, report: Mapping[str, Any]) -> frozenset[str]:
    """The names of the parameters that are new to the task, from transformers' report on loading;
    `net.task_head` becomes the names of the modules that are trained whatever the method: all that
    lies outside the trunk of a classifier, and the trunk's pooler where it is not stored.

    Raises InputError that names a missing, unknown or wrongly shaped tensor of anything else.
    """
    trunk = net.base_model
    prefix = next((f"{path}." for path, each in net.named_modules() if each is trunk and path), "")
    outside = () if net.can_generate() else _outside(net, trunk)
    missing, wrong = set(report["missing_keys"]), {key: s for key, *s in report["mismatched_keys"]}
    behind = getattr(trunk, POOLER, None) or nn.Module()
    pooler = {f"{prefix}{POOLER}.{key}" for key in behind.state_dict()}
    head = outside
    if pooler and pooler <= missing and not net.can_generate():
        head = (f"{prefix}{POOLER}", *outside)
    new = {key for key in missing | set(wrong) if key.startswith(tuple(f"{h}." for h in head))}
    for key, (stored, needed) in sorted(wrong.items()):
        if key not in new:
            raise InputError(
                f"model {name!r}: the stored {key!r} has the shape {tuple(stored)}, "
                f"the configuration asks for {tuple(needed)}"
            )
    if lost := sorted(missing - new):
        raise InputError(f"model {name!r}: its files lack {_some(lost)}")
    # an Identity stands where the network has no use for what is stored (mean_pooling.py)
    parts = {part for part, each in trunk.named_children() if not isinstance(each, nn.Identity)}
    unknown = sorted(report["unexpected_keys"])
    # heads of other tasks lie outside the trunk
    if inside := [key for key in unknown if key.removeprefix(prefix).split(".")[0] in parts]:
        raise InputError(
            f"model {name!r}: its configuration has no place for the stored {_some(inside)}"
        )
    net.task_head = head
    return frozenset(new)


def _outside(net: nn.Module, trunk: nn.Module) -> tuple[str, ...]:
    children = net.named_children()
    return tuple(name for name, each in children if each is not trunk and [*each.parameters()])


def _some(keys: list[str]) -> str:
    more = f" and {len(keys) - 1} more" if len(keys) > 1 else ""
    return f"{keys[0]!r}{more}"


def torn_file(place: str) -> Path | None:
    """The first of a folder's safetensors files that cannot be opened."""
    for path in sorted(Path(place).glob("*.safetensors")):
        try:
            with safe_open(path, framework="pt"):
                pass
        except SafetensorError:
            return path
    return None


def read_tokenizer(name: str, place: str, revision: str) -> Any:
    """The tokenizer at a folder or hub id. Raises InputError."""
    try:
        return AutoTokenizer.from_pretrained(place, revision=revision, trust_remote_code=False)
    # what a family's own reader raises differs
    except (OSError, ValueError, TypeError, KeyError, AttributeError, ImportError) as error:
        raise InputError(
            f"model {name!r}: its tokenizer cannot be read: {first_line(error)}"
        ) from error


def check_tokenizer(tokenizer: Any, net: Any, name: str) -> None:
    """Raises InputError where most of a plain text is unknown to the tokenizer, or where it has
    tokens that the network does not know."""
    tokens = tokenizer(PROBE, add_special_tokens=False)["input_ids"]
    unknown = sum(token == tokenizer.unk_token_id for token in tokens)
    if 2 * unknown >= len(tokens):
        raise InputError(
            f"model {name!r}: its tokenizer knows {len(tokens) - unknown} of the {len(tokens)} "
            "tokens of a plain text (are the tokenizer's files there?)"
        )
    rows, largest = net.get_input_embeddings().num_embeddings, max(_used(tokenizer))
    if largest >= rows:
        raise InputError(
            f"model {name!r}: its tokenizer has {largest + 1} tokens, its embedding {rows}"
        )


def _used(tokenizer: Any) -> Iterable[int]:
    """The tokens that text becomes, and those that are put around it; a token that was added for
    another use, such as images, has no row in some embeddings."""
    special = [t for t in tokenizer.special_tokens_map.values() if isinstance(t, str)]
    named = set(tokenizer.convert_tokens_to_ids(special))
    return [
        token
        for token in tokenizer.get_vocab().values()
        if token in named or token not in tokenizer.added_tokens_decoder
    ]
