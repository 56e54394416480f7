"""LLaMA-Factory: a YAML file, and the tokens as a data set of `datasets` on disk."""

import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from peftbench.exports.recipe import Recipe
from peftbench.exports.tool import SCHEDULES, Tool, adamw, rounded_first, yaml_file

TOKENS = "tokens"  # the folder of the data set


def settings(recipe: Recipe) -> dict[str, Any]:
    """The keys and values of the file."""
    train, adapter, (model, revision) = recipe.train, recipe.adapter, recipe.model
    content: dict[str, Any] = {"model_name_or_path": model}
    if revision is not None:
        content["model_revision"] = revision
    content |= {"stage": "sft", "do_train": True}
    if adapter is None:
        content["finetuning_type"] = "full"
    else:
        content |= {
            "finetuning_type": "lora",
            "lora_rank": adapter.rank,
            "lora_alpha": int(adapter.alpha or 0),
            "lora_dropout": adapter.dropout,
            "lora_target": ",".join(adapter.targets),
        }
        if adapter.ratio is not None:
            content["loraplus_lr_ratio"] = adapter.ratio
    if recipe.spec.base == "nf4":
        content |= {
            "quantization_bit": 4,
            "quantization_method": "bnb",
            "quantization_type": "nf4",
            "double_quantization": True,
        }
    return content | {
        "dataset": TOKENS,  # it must be named, and is not read beside tokenized_path
        "tokenized_path": TOKENS,
        "template": "empty",
        "cutoff_len": recipe.spec.data.max_length,
        "disable_shuffling": True,
        "output_dir": "trained",
        "max_steps": train.steps,
        "per_device_train_batch_size": recipe.rows.micro_batch,
        "gradient_accumulation_steps": recipe.rows.accumulation,
        "optim": "adamw_torch_fused",
        **adamw(train),
        "lr_scheduler_type": SCHEDULES[train.schedule],
        "warmup_steps": recipe.warmup_steps,
        "bf16": train.precision == "bf16-mixed",
        "pure_bf16": train.precision == "bf16",
        "disable_gradient_checkpointing": not train.checkpointing,
        "use_reentrant_gc": False,
        "seed": recipe.spec.seed,
        "logging_steps": 1,
        "save_strategy": "no",
        "report_to": "none",
    }


def _files(recipe: Recipe, header: str) -> dict[str, bytes]:
    return {"llama_factory.yaml": yaml_file(header, settings(recipe))} | _tokens(recipe)


def _tokens(recipe: Recipe) -> dict[str, bytes]:
    """The files of the data set."""
    from datasets import Dataset, DatasetDict, disable_progress_bars  # takes seconds

    disable_progress_bars()
    data = DatasetDict({"train": Dataset.from_list(list(recipe.rows))})
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) / TOKENS
        data.save_to_disk(folder)
        paths = sorted(path for path in folder.rglob("*") if path.is_file())
        return {str(path.relative_to(scratch)): path.read_bytes() for path in paths}


def _notes(recipe: Recipe) -> Iterator[str]:
    yield (
        f"The rows lie in {TOKENS}/ as a data set of `datasets` (tokenized_path); `dataset` and "
        "`template` must be given, and are not read beside it."
    )
    yield "It refuses transformers above 5.6.0."


LLAMA_FACTORY = Tool(
    name="llama-factory",
    version="LLaMA-Factory 0.9.5",
    start="llamafactory-cli train llama_factory.yaml",
    methods=frozenset({"full", "lora", "lora+"}),
    kinds=frozenset({"generation"}),
    # Without bf16 a GPU loads the model in bfloat16 or float16 (extras/misc.py, infer_optim_dtype);
    # pure_bf16 leaves an adapter in the float32 that peft makes it in.
    adapters=frozenset({"bf16-mixed"}),
    full=frozenset({"bf16-mixed", "bf16"}),
    bases=frozenset({"plain", "nf4"}),
    whole_alpha=True,
    decays_all=False,
    exact_warmup=False,
    files=_files,
    limits=rounded_first,
    notes=_notes,
)
