"""Axolotl: a YAML file, and the tokens as JSON lines."""

from collections.abc import Iterator
from typing import Any

from peftbench.exports.recipe import Recipe
from peftbench.exports.tool import SCHEDULES, Tool, adamw, yaml_file


def settings(recipe: Recipe) -> dict[str, Any]:
    """The keys and values of the file."""
    train, (model, revision) = recipe.train, recipe.model
    content: dict[str, Any] = {"base_model": model}
    if revision is not None:
        content["revision_of_model"] = revision
    content |= _adapter(recipe)
    return content | {
        # the columns input_ids, attention_mask and labels say that the rows are tokens
        "datasets": [{"path": "train.jsonl", "ds_type": "json", "type": None}],
        "dataset_prepared_path": "prepared",
        "val_set_size": 0.0,
        "sequence_len": recipe.spec.data.max_length,
        "sample_packing": False,
        "pad_to_sequence_len": False,
        "curriculum_sampling": True,
        "shuffle_merged_datasets": False,
        "group_by_length": False,
        "output_dir": "trained",
        "num_epochs": 1,
        "max_steps": train.steps,
        "micro_batch_size": recipe.rows.micro_batch,
        "gradient_accumulation_steps": recipe.rows.accumulation,
        "optimizer": "adamw_torch_fused",
        **adamw(train),
        "lr_scheduler": SCHEDULES[train.schedule],
        "warmup_steps": recipe.warmup_steps,
        "bf16": train.precision == "bf16-mixed",
        "fp16": False,
        "tf32": False,
        "gradient_checkpointing": train.checkpointing,
        "gradient_checkpointing_kwargs": {"use_reentrant": False},
        "seed": recipe.spec.seed,
        "logging_steps": 1,
        "save_strategy": "no",
    }


def _adapter(recipe: Recipe) -> dict[str, Any]:
    adapter = recipe.adapter
    if adapter is None:
        return {}
    content: dict[str, Any] = {
        "adapter": "qlora" if recipe.spec.base == "nf4" else "lora",
        "load_in_4bit": recipe.spec.base == "nf4",
        "load_in_8bit": False,
        "lora_r": adapter.rank,
        "lora_alpha": int(adapter.alpha or 0),
        "lora_dropout": adapter.dropout,
        "lora_target_modules": list(adapter.targets),
        "peft_autocast_adapter_dtype": True,
        # its own kernels round otherwise
        "lora_mlp_kernel": False,
        "lora_qkv_kernel": False,
        "lora_o_kernel": False,
    }
    if adapter.ratio is not None:
        content["loraplus_lr_ratio"] = adapter.ratio
    return content


def _files(recipe: Recipe, header: str) -> dict[str, bytes]:
    return {
        "axolotl.yaml": yaml_file(header, settings(recipe)),
        "train.jsonl": recipe.rows.as_lines().encode(),
    }


def _limits(recipe: Recipe) -> Iterator[str]:
    if recipe.warmup_steps == 1:
        yield (
            f"train.warmup = {recipe.train.warmup:g} is one step of {recipe.train.steps}, of which "
            "it makes two: 0 or more steps than one are what it can say"
        )


def _notes(recipe: Recipe) -> Iterator[str]:
    yield "It passes over a key that it does not know: after an edit look at the keys again."
    if recipe.adapter is not None and recipe.adapter.ratio is not None:
        yield "Its versions up to 0.19 drop weight_decay where loraplus_lr_ratio is set."


AXOLOTL = Tool(
    name="axolotl",
    version="Axolotl 0.21.0",
    start="axolotl train axolotl.yaml",
    methods=frozenset({"full", "lora", "lora+"}),
    kinds=frozenset({"generation"}),
    # its schema has no bf16 = "full" any more
    adapters=frozenset({"float32", "bf16-mixed"}),
    # bf16 loads a whole model in bfloat16, and its norms and embeddings in float32
    # (utils/config/__init__.py, resolve_dtype; loaders/model.py, _configure_embedding_dtypes)
    full=frozenset({"float32"}),
    bases=frozenset({"plain", "nf4"}),
    whole_alpha=True,
    decays_all=False,
    exact_warmup=False,
    files=_files,
    limits=_limits,
    notes=_notes,
)
