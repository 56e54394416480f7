"""Tiny models with random weights in folders of their own, and the specs of short runs on them."""

from pathlib import Path
from typing import Any

import torch
import transformers
from tokenizers import Tokenizer
from tokenizers.models import BPE
from tokenizers.pre_tokenizers import ByteLevel

from peftbench.methods import METHODS
from peftbench.spec import DataSpec, LimitSpec, Precision, RunSpec, TrainSpec
from peftbench.tasks import TASKS

SPECIAL = ("<pad>", "<unk>", "<end>")
VOCABULARY = 256 + len(SPECIAL)
STEPS = 8
DATA = DataSpec(train=64, valid=4, test=4, generate=0, max_length=64)
# Weights as large as those of trained models, so that logits differ and errors show in the loss.
SPREAD = 0.15


def decoder(scratch: Path, width: int = 64) -> str:
    """The folder of a Llama of two layers that reads bytes; made where there is none."""
    config = transformers.LlamaConfig(
        **_shape(width),
        num_key_value_heads=2,
        tie_word_embeddings=True,
        bos_token_id=2,
        eos_token_id=2,
    )
    return _saved(transformers.LlamaForCausalLM, config, scratch / f"decoder-{width}")


def encoder(scratch: Path, width: int = 64) -> str:
    """Likewise a BERT, with dropout."""
    config = transformers.BertConfig(**_shape(width))
    return _saved(transformers.BertModel, config, scratch / f"encoder-{width}")


def _shape(width: int) -> dict[str, Any]:
    return {
        "vocab_size": VOCABULARY,
        "hidden_size": width,
        "intermediate_size": 2 * width,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "max_position_embeddings": 512,
        "initializer_range": SPREAD,
        "pad_token_id": 0,
    }


def _saved(kind: Any, config: transformers.PretrainedConfig, folder: Path) -> str:
    if folder.is_dir():
        return str(folder)
    transformers.utils.logging.disable_progress_bar()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        kind(config).save_pretrained(folder)
    _tokenizer().save_pretrained(folder)
    return str(folder)


def _tokenizer() -> Any:
    """A token for each byte."""
    letters = sorted(ByteLevel.alphabet())
    vocabulary = {token: i for i, token in enumerate([*SPECIAL, *letters])}
    tokenizer = Tokenizer(BPE(vocab=vocabulary, merges=[], unk_token="<unk>"))
    tokenizer.pre_tokenizer = ByteLevel(add_prefix_space=False)
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", unk_token="<unk>", eos_token="<end>"
    )


def spec(
    model: str,
    method: str,
    task: str,
    precision: Precision = "float32",
    seed: int = 0,
    batch_size: int = 4,
    data: DataSpec = DATA,
    **args: Any,
) -> RunSpec:
    """A short run; args: those of the method that differ from their defaults."""
    kind = METHODS[method].of(args)
    return RunSpec(
        model=model,
        task=task,
        task_version=TASKS[task].version,
        method=method,
        method_version=kind.version,
        args=kind.complete(args),
        train=TrainSpec(
            steps=STEPS, batch_size=batch_size, lr=kind.lr, precision=precision, warmup=0
        ),
        data=data,
        seed=seed,
        split="test",
        limits=LimitSpec(),
    )
