"""Shapes of well-known models: as much of their config.json as parameters, bytes and FLOPs depend
on, as plain numbers, so that a question about them needs no network."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from peftbench.errors import unknown


@dataclass(frozen=True)
class Shape:
    """A model's sizes; `config.json` at https://huggingface.co/NAME is where they come from."""

    name: str  # at the hub
    family: str  # transformers' model_type
    sizes: Mapping[str, Any]  # by the names of config.json

    @property
    def source(self) -> str:
        return f"https://huggingface.co/{self.name}/blob/main/config.json"


def _encoder(
    name: str, family: str, hidden: int, layers: int, vocabulary: int, positions: int, types: int
) -> Shape:
    """BERT and its kin, whose heads are 64 wide, and whose MLP is four times as wide as they."""
    return Shape(
        name,
        family,
        {
            "hidden_size": hidden,
            "intermediate_size": 4 * hidden,
            "num_hidden_layers": layers,
            "num_attention_heads": hidden // 64,
            "vocab_size": vocabulary,
            "max_position_embeddings": positions,
            "type_vocab_size": types,
        },
    )


def _decoder(
    name: str,
    family: str,
    hidden: int,
    inner: int,
    layers: int,
    heads: tuple[int, int],
    vocabulary: int,
    window: int,
    *,
    tied: bool = False,
    **others: Any,
) -> Shape:
    """heads: of queries, and of keys and values. tied: whether the output layer is the embedding.
    others: further keys of config.json."""
    return Shape(
        name,
        family,
        {
            "hidden_size": hidden,
            "intermediate_size": inner,
            "num_hidden_layers": layers,
            "num_attention_heads": heads[0],
            "num_key_value_heads": heads[1],
            "vocab_size": vocabulary,
            "max_position_embeddings": window,
            "tie_word_embeddings": tied,
            **others,
        },
    )


def _llama_2(size: str, hidden: int, inner: int, layers: int, heads: tuple[int, int]) -> Shape:
    name = f"meta-llama/Llama-2-{size}-hf"
    return _decoder(name, "llama", hidden, inner, layers, heads, 32000, 4096)


def _llama_3(
    name: str, hidden: int, inner: int, layers: int, heads: tuple[int, int], window: int = 131072
) -> Shape:
    """From 3.1 on the window is 131,072; below 8B the embedding is tied."""
    return _decoder(
        f"meta-llama/{name}",
        "llama",
        hidden,
        inner,
        layers,
        heads,
        128256,
        window,
        tied=hidden < 4096,
        head_dim=64 if hidden == 2048 else 128,
    )


def _smollm2(size: str, hidden: int, inner: int, layers: int, heads: tuple[int, int]) -> Shape:
    name = f"HuggingFaceTB/SmolLM2-{size}"
    return _decoder(name, "llama", hidden, inner, layers, heads, 49152, 8192, tied=True)


def _qwen_2_5(
    size: str, hidden: int, inner: int, layers: int, heads: tuple[int, int], window: int
) -> Shape:
    """Up to 3B the embedding is tied, and 128 rows shorter."""
    name, tied = f"Qwen/Qwen2.5-{size}", hidden < 3584
    vocabulary = 151936 if tied else 152064
    return _decoder(name, "qwen2", hidden, inner, layers, heads, vocabulary, window, tied=tied)


def _qwen_3(size: str, hidden: int, inner: int, layers: int, heads: tuple[int, int]) -> Shape:
    """Up to 4B the embedding is tied; heads are 128 wide whatever the model's width."""
    return _decoder(
        f"Qwen/Qwen3-{size}",
        "qwen3",
        hidden,
        inner,
        layers,
        heads,
        151936,
        40960,
        tied=hidden < 4096,
        head_dim=128,
    )


def _gemma_3(
    size: str,
    hidden: int,
    inner: int,
    layers: int,
    heads: tuple[int, int],
    head_dim: int,
    vocabulary: int = 262208,
    window: int = 131072,
    sliding: int = 1024,
) -> Shape:
    """The language model alone: from 4B on there is an encoder of images before it."""
    return _decoder(
        f"google/gemma-3-{size}-pt",
        "gemma3_text",
        hidden,
        inner,
        layers,
        heads,
        vocabulary,
        window,
        tied=True,
        head_dim=head_dim,
        sliding_window=sliding,
    )


_ALL = (
    _encoder("google-bert/bert-base-uncased", "bert", 768, 12, 30522, 512, 2),
    _encoder("google-bert/bert-large-uncased", "bert", 1024, 24, 30522, 512, 2),
    _encoder("FacebookAI/roberta-base", "roberta", 768, 12, 50265, 514, 1),
    _encoder("FacebookAI/roberta-large", "roberta", 1024, 24, 50265, 514, 1),
    _smollm2("135M", 576, 1536, 30, (9, 3)),
    _smollm2("360M", 960, 2560, 32, (15, 5)),
    _smollm2("1.7B", 2048, 8192, 24, (32, 32)),
    _llama_2("7b", 4096, 11008, 32, (32, 32)),
    _llama_2("13b", 5120, 13824, 40, (40, 40)),
    _llama_2("70b", 8192, 28672, 80, (64, 8)),
    _llama_3("Meta-Llama-3-8B", 4096, 14336, 32, (32, 8), window=8192),
    _llama_3("Meta-Llama-3-70B", 8192, 28672, 80, (64, 8), window=8192),
    _llama_3("Llama-3.1-8B", 4096, 14336, 32, (32, 8)),
    _llama_3("Llama-3.1-70B", 8192, 28672, 80, (64, 8)),
    _llama_3("Llama-3.2-1B", 2048, 8192, 16, (32, 8)),
    _llama_3("Llama-3.2-3B", 3072, 8192, 28, (24, 8)),
    _qwen_2_5("0.5B", 896, 4864, 24, (14, 2), 32768),
    _qwen_2_5("1.5B", 1536, 8960, 28, (12, 2), 131072),
    _qwen_2_5("3B", 2048, 11008, 36, (16, 2), 32768),
    _qwen_2_5("7B", 3584, 18944, 28, (28, 4), 131072),
    _qwen_2_5("14B", 5120, 13824, 48, (40, 8), 131072),
    _qwen_2_5("32B", 5120, 27648, 64, (40, 8), 131072),
    _qwen_2_5("72B", 8192, 29568, 80, (64, 8), 131072),
    _qwen_3("0.6B", 1024, 3072, 28, (16, 8)),
    _qwen_3("1.7B", 2048, 6144, 28, (16, 8)),
    _qwen_3("4B", 2560, 9728, 36, (32, 8)),
    _qwen_3("8B", 4096, 12288, 36, (32, 8)),
    _qwen_3("14B", 5120, 17408, 40, (40, 8)),
    _qwen_3("32B", 5120, 25600, 64, (64, 8)),
    _decoder(
        "mistralai/Mistral-7B-v0.1",
        *("mistral", 4096, 14336, 32, (32, 8), 32000, 32768),
        sliding_window=4096,
    ),
    _decoder(
        "mistralai/Mistral-7B-v0.3",
        *("mistral", 4096, 14336, 32, (32, 8), 32768, 32768),
        sliding_window=None,
    ),
    _gemma_3("1b", 1152, 6912, 26, (4, 1), 256, 262144, 32768, 512),
    _gemma_3("4b", 2560, 10240, 34, (8, 4), 256),
    _gemma_3("12b", 3840, 15360, 48, (16, 8), 256),
    _gemma_3("27b", 5376, 21504, 62, (32, 16), 128),
)
SHAPES = {shape.name: shape for shape in _ALL}
_SHORT = {name.rpartition("/")[2].lower(): name for name in SHAPES}


def known_shape(name: str) -> Shape | None:
    """The shape of a model that is named as at the hub, in whatever case, or without its owner:
    Llama-2-7b-hf. A variant (instruction-tuned, a coder) has a name of its own. None: not here."""
    full = _SHORT.get(name.rpartition("/")[2].lower())
    return SHAPES[full] if full is not None and name.lower() in _names(full) else None


def _names(full: str) -> tuple[str, str]:
    return full.lower(), full.rpartition("/")[2].lower()


def shape(name: str) -> Shape:
    """The same. Raises InputError that names the nearest."""
    found = known_shape(name)
    if found is None:
        raise unknown("model", name, SHAPES)
    return found
