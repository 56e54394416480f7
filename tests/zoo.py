"""Tiny random models of many families, in folders as a user's would be, and what becomes of
each."""

import functools
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import transformers
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers

VOCABULARY = 300
SPECIAL = {"pad": 0, "bos": 1, "eos": 2, "unk": 3, "cls": 4, "sep": 5, "mask": 6}
# under every name that families give them; a configuration keeps what it does not know
SHAPE: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "max_position_embeddings": 96,
    "pad_token_id": SPECIAL["pad"],
    "bos_token_id": SPECIAL["bos"],
    "eos_token_id": SPECIAL["eos"],
}


@dataclass(frozen=True)
class Family:
    """A family of transformers, by its `model_type`, and what is said where it is refused."""

    name: str
    changes: dict[str, Any] = field(default_factory=dict)
    refused: str | None = None  # part of the one line; None: it is right
    adapters: str | None = None  # likewise, of methods that adapt all linear layers
    unopened: str | None = None  # what peft says that does not open our files of it
    without: tuple[str, ...] = ()  # keys of SHAPE that the family computes itself


def family(
    name: str,
    *,
    refused: str | None = None,
    adapters: str | None = None,
    unopened: str | None = None,
    without: tuple[str, ...] = (),
    **changes: Any,
) -> Family:
    return Family(name, changes, refused, adapters, unopened, without)


PADDING = "other logits in a padded batch than alone"
NO_CACHE = "takes no cache of keys and values or states"
PAST = "dt_proj past the layers' forward"
EXPERTS: dict[str, Any] = {"num_experts": 4, "num_local_experts": 4, "num_experts_per_tok": 2}
DECODERS = [
    family("gpt2"),
    family("gpt_neo", attention_types=[[["global", "local"], 1]], window_size=8),
    family("gpt_neox"),
    family("gptj", rotary_dim=4),
    family("gpt_bigcode"),
    family("codegen", rotary_dim=4),
    family("opt", ffn_dim=48, word_embed_proj_dim=32),
    family("xglm", ffn_dim=48),
    family("biogpt"),
    family("bloom"),
    family("llama"),
    family("mistral", sliding_window=8),
    family("mixtral", **EXPERTS, sliding_window=None),
    family("qwen2"),
    family("qwen3"),
    family("qwen2_moe", **EXPERTS, moe_intermediate_size=16, shared_expert_intermediate_size=16),
    family("qwen3_moe", **EXPERTS, moe_intermediate_size=16),
    family("olmoe", **EXPERTS),
    family("gemma"),
    family("gemma2", sliding_window=8),
    family("gemma3_text", sliding_window=8),
    family("phi"),
    family("phi3"),
    family("falcon", without=("head_dim",), new_decoder_architecture=True),
    family("mpt"),
    family("persimmon"),
    family("stablelm"),
    family("starcoder2"),
    family("olmo"),
    family("olmo2"),
    family("cohere"),
    family("cohere2", sliding_window=8),
    family("granite"),
    family("smollm3"),
    family("glm"),
    family("glm4"),
    family("helium"),
    family("nemotron"),
    family("exaone4", sliding_window=8),
    family("mamba", adapters=PAST, state_size=4),
    family(
        "mamba2",
        unopened="incompatible with Mamba-based models",
        state_size=4,
        num_heads=8,
        n_groups=2,
        chunk_size=8,
    ),
    family("falcon_mamba", adapters=PAST, state_size=4),
    family("lfm2", layer_types=["conv", "full_attention"]),
    family(
        "recurrent_gemma",
        refused="in a padded batch than alone",
        lru_width=32,
        num_hidden_layers=3,
        attention_window_size=8,
    ),
    family(
        "jamba", adapters=PAST, **EXPERTS, attn_layer_offset=1, attn_layer_period=2, mamba_d_state=4
    ),
    family("openai-gpt", refused=NO_CACHE),
    family("ctrl", dff=48),
    family("xlnet", refused=NO_CACHE, without=("max_position_embeddings",), d_head=8),
    family("rwkv", refused=NO_CACHE),
    family("t5", refused="no causal language model"),
]
ENCODERS = [
    family("bert"),
    family("roberta"),
    family("xlm-roberta"),
    family("camembert"),
    family("distilbert"),
    family("electra", embedding_size=16),
    family("albert", embedding_size=16),
    family("deberta", pos_att_type=["c2p", "p2c"], relative_attention=True),
    family("deberta-v2", pos_att_type=["c2p", "p2c"], relative_attention=True),
    family("mpnet"),
    family("modernbert", local_attention=8),
    family("convbert", refused=PADDING, embedding_size=16, conv_kernel_size=3),
    family(
        "funnel", without=("num_hidden_layers",), architectures=[], block_sizes=[1, 1], d_head=8
    ),
    family("squeezebert", embedding_size=32),
    family("nystromformer", refused=PADDING),
    family("big_bird", attention_type="original_full"),
    family("longformer", attention_window=8),
    family("roformer"),
    family("ernie"),
    family("megatron-bert"),
    family("layoutlm"),
    family("fnet", refused=PADDING),
    family(
        "mobilebert",
        refused=PADDING,
        embedding_size=16,
        true_hidden_size=16,
        intra_bottleneck_size=16,
    ),
    family("xlm"),
    family("flaubert"),
    family(
        "xlnet", refused="is padded on the left", without=("max_position_embeddings",), d_head=8
    ),
    family(
        "t5", refused="is an encoder-decoder", eos_token_id=SPECIAL["sep"], decoder_start_token_id=0
    ),
    family("bart", refused="is an encoder-decoder", eos_token_id=SPECIAL["sep"]),
]


@functools.cache
def tokenizer(encoder: bool) -> transformers.PreTrainedTokenizerFast:
    """Bytes in pairs, with as many tokens as SHAPE says; an encoder's puts [CLS] and [SEP] around
    what it reads."""
    tokens = Tokenizer(models.BPE(unk_token="[UNK]"))
    tokens.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokens.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=[f"[{name.upper()}]" for name in SPECIAL],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokens.train_from_iterator(["the answer to the question of how many there are"] * 9, trainer)
    if encoder:
        tokens.post_processor = processors.BertProcessing(
            ("[SEP]", SPECIAL["sep"]), ("[CLS]", SPECIAL["cls"])
        )
    names = {f"{name}_token": f"[{name.upper()}]" for name in SPECIAL}
    return transformers.PreTrainedTokenizerFast(tokenizer_object=tokens, **names)


def configuration(kind: Family) -> Any:
    shape = {key: value for key, value in SHAPE.items() if key not in kind.without}
    return transformers.AutoConfig.for_model(kind.name, **shape | kind.changes)


def save(kind: Family, encoder: bool, folder: Path) -> str:
    """The folder with a model whose weights are large, so that all that stands before decides the
    next token; as initialised, a small model repeats the last."""
    config = configuration(kind)
    auto: Any = transformers.AutoModelForCausalLM
    if encoder or type(config) not in transformers.MODEL_FOR_CAUSAL_LM_MAPPING:
        auto = transformers.AutoModel
    with torch.random.fork_rng():
        torch.manual_seed(0)
        net: Any = auto.from_config(config)
        for name, weight in net.named_parameters():
            if weight.dim() >= 2 and not name.endswith("A_log"):
                weight.data.normal_(0, 0.25)
        net.save_pretrained(folder)
    tokenizer(encoder).save_pretrained(folder)
    return str(folder)


def names(kinds: Sequence[Family]) -> list[str]:
    return [kind.name for kind in kinds]
