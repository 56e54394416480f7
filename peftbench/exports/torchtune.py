"""torchtune: a YAML file, a module of the components that it has not, and the tokens as lines."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from peftbench.errors import InputError
from peftbench.exports.recipe import Adapter, Recipe
from peftbench.exports.scripts import rendered
from peftbench.exports.tool import Tool, yaml_file

PARTS = "peftbench_parts"  # the module beside the file
DTYPES = {"float32": "fp32", "bf16": "bf16"}
# transformers' names of the linear layers, and torchtune's; it adapts the MLP's all or none
ATTENTION = {
    "q_proj": "q_proj",
    "k_proj": "k_proj",
    "v_proj": "v_proj",
    "o_proj": "output_proj",
}
MLP = frozenset({"gate_proj", "up_proj", "down_proj"})


def settings(recipe: Recipe) -> dict[str, Any]:
    """The keys and values of the file."""
    train, adapter = recipe.train, recipe.adapter
    family, sizes = _network(recipe.config)
    whole = adapter is None
    model: dict[str, Any] = {
        "_component_": f"torchtune.models.{family}.{'' if whole else 'lora_'}{family}"
    }
    content: dict[str, Any] = {
        "output_dir": "trained",
        "model": model | sizes | ({} if adapter is None else _adapter(adapter)),
        "tokenizer": {"_component_": f"{PARTS}.Padding", "pad_id": recipe.rows.pad},
        "checkpointer": _checkpointer(recipe, family),
        "resume_from_checkpoint": False,
        "dataset": {"_component_": f"{PARTS}.rows", "file": "train.jsonl"},
        "shuffle": False,
        "seed": recipe.spec.seed,
        "epochs": 1,
        "max_steps_per_epoch": train.steps,
        "batch_size": recipe.rows.micro_batch,
        "gradient_accumulation_steps": recipe.rows.accumulation,
        "optimizer": {
            "_component_": "torch.optim.AdamW",
            "lr": train.lr,
            "betas": [train.beta1, train.beta2],
            "eps": train.eps,
            "weight_decay": train.weight_decay,
            "fused": True,
        },
        "lr_scheduler": {"_component_": f"{PARTS}.schedule"},
        "loss": {"_component_": "torchtune.modules.loss.CEWithChunkedOutputLoss"},
        "clip_grad_norm": train.clip,
        "compile": False,
        "device": "cuda",
        "dtype": DTYPES[train.precision],
        "enable_activation_checkpointing": train.checkpointing,
        "enable_activation_offloading": False,
        "metric_logger": {
            "_component_": "torchtune.training.metric_logging.DiskLogger",
            "log_dir": "trained/logs",
        },
        "log_every_n_steps": 1,
        "log_peak_memory_stats": False,
    }
    return content | ({"optimizer_in_bwd": False} if whole else {"save_adapter_weights_only": True})


def _adapter(adapter: Adapter) -> dict[str, Any]:
    names = set(adapter.targets)
    return {
        "lora_attn_modules": [ours for name, ours in ATTENTION.items() if name in names],
        "apply_lora_to_mlp": names >= MLP,
        "apply_lora_to_output": False,
        "lora_rank": adapter.rank,
        "lora_alpha": adapter.alpha,
        "lora_dropout": adapter.dropout,
    }


def _network(config: Any) -> tuple[str, dict[str, Any]]:
    """The family whose builder makes the network, and what the builder is told. Raises InputError
    where none does."""
    rope = dict(getattr(config, "rope_parameters", None) or {})
    kind, tied = rope.get("rope_type", "default"), bool(config.tie_word_embeddings)
    sizes: dict[str, Any] = {
        "vocab_size": config.vocab_size,
        "num_layers": config.num_hidden_layers,
        "num_heads": config.num_attention_heads,
        "num_kv_heads": config.num_key_value_heads,
        "embed_dim": config.hidden_size,
        "intermediate_dim": config.intermediate_size,
        "max_seq_len": config.max_position_embeddings,
        "norm_eps": config.rms_norm_eps,
        "rope_base": rope.get("rope_theta"),
    }
    family = {
        ("llama", "default", False): "llama3",  # with Llama 2's sizes it is Llama 2
        ("llama", "llama3", False): "llama3_1",
        ("llama", "llama3", True): "llama3_2",
        ("mistral", "default", False): "mistral",
        ("qwen2", "default", False): "qwen2",
        ("qwen2", "default", True): "qwen2",
    }.get((config.model_type, kind, tied))
    if family is None or not _plain(config):
        raise InputError(
            f"--to torchtune: it has no builder for this network ({config.model_type}, "
            f"{kind} RoPE, embeddings {'tied' if tied else 'not tied'}); it has Llama 2, Llama 3, "
            "Mistral and Qwen2 as published: take --to peft"
        )
    if kind == "llama3":
        sizes["scale_factor"] = rope["factor"]
    if family == "qwen2":
        sizes["tie_word_embeddings"] = tied
    return family, sizes


def _plain(config: Any) -> bool:
    """Whether nothing else of the network is other than the builders make it."""
    rope = dict(getattr(config, "rope_parameters", None) or {})
    fixed = {"low_freq_factor": 1.0, "high_freq_factor": 4.0}
    fixed["original_max_position_embeddings"] = 8192
    head = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    return (
        all(rope.get(key, value) == value for key, value in fixed.items())
        and head * config.num_attention_heads == config.hidden_size
        and config.hidden_act == "silu"
        and not getattr(config, "mlp_bias", False)
        and not (config.model_type == "llama" and config.attention_bias)
        and not (config.model_type == "mistral" and config.sliding_window)
        and not getattr(config, "use_sliding_window", False)
        and not getattr(config, "attention_dropout", 0.0)
    )


def _checkpointer(recipe: Recipe, family: str) -> dict[str, Any]:
    """It reads the files of a folder, whose names it must be told."""
    folder = _folder(recipe)
    types = {"llama3_1": "LLAMA3", "llama3": "LLAMA3"}
    return {
        "_component_": "torchtune.training.FullModelHFCheckpointer",
        "checkpoint_dir": str(folder),
        "checkpoint_files": sorted(path.name for path in folder.glob("*.safetensors")),
        "recipe_checkpoint": None,
        "output_dir": "trained",
        "model_type": types.get(family, family.upper()),
    }


def _folder(recipe: Recipe) -> Path:
    """Where the model's files lie here. Raises InputError where they do not."""
    place, revision = recipe.model
    if revision is None:
        return Path(place)
    import huggingface_hub  # takes a second

    try:
        return Path(
            huggingface_hub.snapshot_download(place, revision=revision, local_files_only=True)
        )
    except (OSError, ValueError) as error:
        raise InputError(
            f"--to torchtune: it reads model {place} from files, which are not here: fetch them by "
            f"`hf download {place} --revision {revision}`"
        ) from error


def _files(recipe: Recipe, header: str) -> dict[str, bytes]:
    return {
        "torchtune.yaml": yaml_file(header, settings(recipe)),
        f"{PARTS}.py": rendered("torchtune.py.jinja", recipe, header),
        "train.jsonl": recipe.rows.as_lines().encode(),
    }


def _limits(recipe: Recipe) -> Iterator[str]:
    if recipe.adapter is None:
        return
    names = set(recipe.adapter.targets)
    if names - ATTENTION.keys() - MLP or not (names >= MLP or names.isdisjoint(MLP)):
        yield (
            f"args.targets = {', '.join(sorted(names))}: it adapts any of q_proj, k_proj, v_proj "
            "and o_proj, and gate_proj, up_proj and down_proj together or not at all"
        )


def _notes(recipe: Recipe) -> Iterator[str]:
    yield "It needs torchao 0.10."
    yield (
        f"{PARTS}.py holds what torchtune has not: rows that are tokens already, and a schedule "
        "whose first step has a learning rate."
    )


TORCHTUNE = Tool(
    name="torchtune",
    version="torchtune 0.6.1",
    start="tune run {kind}_finetune_single_device --config torchtune.yaml",
    methods=frozenset({"full", "lora"}),
    kinds=frozenset({"generation"}),
    # bf16 is bfloat16 throughout (recipes/lora_finetune_single_device.py); there is no autocast
    adapters=frozenset({"float32", "bf16"}),
    full=frozenset({"float32", "bf16"}),
    bases=frozenset({"plain"}),  # its NF4 is torchao's, whose scales have other codes
    whole_alpha=False,
    decays_all=True,
    exact_warmup=True,
    files=_files,
    limits=_limits,
    notes=_notes,
)
