"""What others measured: memory of fine-tuning on GPUs, with the settings it was measured with."""

from dataclasses import dataclass, replace
from typing import Literal

from peftbench.estimate.setting import Setting

GB, GIB = 10**9, 2**30
Q_AND_V = ("q_proj", "v_proj")


@dataclass(frozen=True, kw_only=True)
class Anchor:
    """A published number."""

    source: str
    what: str
    setting: Setting
    measured: float  # bytes
    # allocated: the peak of live tensors (max_memory_allocated, active); reserved: of what the
    # allocator holds
    kind: Literal["allocated", "reserved"]
    unstated: str = ""  # what the source does not say: then the number is shown, not scored


# What litgpt's QLoRA takes beyond the forecast is in proportion to tokens, layers and widths.
OLD_BITSANDBYTES = (
    "the version of bitsandbytes: before 0.43.2 it kept the input of every frozen layer"
)
LITGPT_TABLES = "Lightning-AI/litgpt, tutorials/resource-tables.md"
LITGPT_CONFIGS = "Lightning-AI/litgpt, config_hub/finetune"
METHOD_COMPARISON = "huggingface/peft, method_comparison/MetaMathQA"
TORCHTUNE = "pytorch/torchtune, README.md"
TUTORIAL = "pytorch/torchtune, LoRA tutorial"

# litgpt's LoRA is as peft's with the adapters in the base's dtype.
LITGPT = Setting(
    model="meta-llama/Llama-2-7b-hf",
    method="lora",
    args={"rank": 8, "dropout": 0.05, "targets": Q_AND_V},
    batch=1,
    length=1304,
    precision="bf16",
    implementation="peft",
    adapters="base",
    optimizer="foreach",
)
HUB = replace(LITGPT, args={"rank": 32, "dropout": 0.05, "targets": Q_AND_V}, length=512)
# The base in bfloat16, adapters in float32, no autocast, torch's own AdamW.
PEFT = Setting(
    model="meta-llama/Llama-3.2-3B",
    method="lora",
    args={"rank": 32, "targets": Q_AND_V},
    batch=4,
    length=768,
    precision="bf16",
    implementation="peft",
    optimizer="foreach",
)
TUNE = Setting(
    model="meta-llama/Llama-3.2-3B",
    method="full",
    batch=2,
    length=4096,
    precision="bf16",
    implementation="peft",
)
IN_4_BITS = Setting(
    model="meta-llama/Llama-2-7b-hf",
    method="lora",
    args={"rank": 64},
    batch=4,
    length=512,
    precision="bf16",
    base="nf4",
    implementation="peft",
)


def _litgpt(what: str, gb: float, setting: Setting, source: str = LITGPT_TABLES) -> Anchor:
    return Anchor(
        source=source,
        what=what,
        setting=setting,
        measured=gb * GB,
        kind="allocated",
        unstated="" if setting.base == "plain" else OLD_BITSANDBYTES,
    )


def _peft(what: str, gib: float, setting: Setting) -> Anchor:
    return Anchor(
        source=METHOD_COMPARISON,
        what=what,
        setting=setting,
        measured=gib * GIB,
        kind="reserved",
    )


def _args(setting: Setting, method: str, **args: object) -> Setting:
    return replace(setting, method=method, args=args)


ANCHORS = (
    _litgpt("Llama-2-7B, LoRA r 8, 1 x 1304", 21.30, LITGPT),
    _litgpt("Llama-2-7B, LoRA r 8, 2 x 1304", 29.07, replace(LITGPT, batch=2)),
    _litgpt("Llama-2-7B, LoRA r 8, 1 x 1304, nf4-dq", 13.84, replace(LITGPT, base="nf4")),
    _litgpt(
        "Llama-2-13B, LoRA r 8, 1 x 1304",
        38.12,
        replace(LITGPT, model="meta-llama/Llama-2-13b-hf"),
    ),
    _litgpt("Llama-2-7B, LoRA r 32, 2 x 512", 19.77, replace(HUB, batch=2), LITGPT_CONFIGS),
    _litgpt(
        "Llama-2-7B, QLoRA r 32, 2 x 512", 13.68, replace(HUB, batch=2, base="nf4"), LITGPT_CONFIGS
    ),
    _litgpt(
        "Mistral-7B, LoRA r 32, 2 x 512",
        20.66,
        replace(HUB, model="mistralai/Mistral-7B-v0.1", batch=2),
        LITGPT_CONFIGS,
    ),
    _litgpt(
        "Mistral-7B, QLoRA r 32, 2 x 512",
        14.29,
        replace(HUB, model="mistralai/Mistral-7B-v0.1", batch=2, base="nf4"),
        LITGPT_CONFIGS,
    ),
    _litgpt(
        "Llama-3-8B, LoRA r 32, 1 x 512",
        19.73,
        replace(HUB, model="meta-llama/Meta-Llama-3-8B"),
        LITGPT_CONFIGS,
    ),
    _litgpt(
        "Llama-3-8B, QLoRA r 32, 2 x 512",
        17.41,
        replace(HUB, model="meta-llama/Meta-Llama-3-8B", batch=2, base="nf4"),
        LITGPT_CONFIGS,
    ),
    _litgpt(
        "Llama-3.2-3B, LoRA r 32, 1 x 512",
        9.67,
        replace(HUB, model="meta-llama/Llama-3.2-3B"),
        LITGPT_CONFIGS,
    ),
    _litgpt(
        "Llama-3.2-3B, QLoRA r 32, 2 x 512",
        10.30,
        replace(HUB, model="meta-llama/Llama-3.2-3B", batch=2, base="nf4"),
        LITGPT_CONFIGS,
    ),
    Anchor(
        source=TORCHTUNE,
        what="Llama-3.2-3B, full, 2 x 4096 packed",
        setting=TUNE,
        measured=60.0 * GIB,
        kind="allocated",
    ),
    Anchor(
        source=TORCHTUNE,
        what="the same with compilation, chunked loss, checkpointing",
        setting=replace(TUNE, checkpointing=True, implementation="ours"),
        measured=24.9 * GIB,
        kind="allocated",
    ),
    _peft("full", 36.20, _args(PEFT, "full")),
    _peft("full, on another day", 35.90, _args(PEFT, "full")),
    _peft("LoRA r 32, q and v", 20.76, PEFT),
    _peft("LoRA r 64, q and v", 21.00, _args(PEFT, "lora", rank=64, targets=Q_AND_V)),
    _peft("rsLoRA r 64, q and v", 21.01, _args(PEFT, "lora", rank=64, targets=Q_AND_V)),
    _peft(
        "LoRA r 10, MLP",
        23.00,
        _args(PEFT, "lora", rank=10, targets=("gate_proj", "up_proj", "down_proj")),
    ),
    _peft("VeRA r 256, q and v", 20.14, _args(PEFT, "vera", rank=256, targets=Q_AND_V)),
    _peft("LoRA-FA r 32, q and v", 18.82, _args(PEFT, "lora-fa", rank=32, targets=Q_AND_V)),
    Anchor(
        source=TUTORIAL,
        what="Llama-2-7B, LoRA r 8, q and v, 2 x alpaca, checkpointing",
        setting=replace(LITGPT, batch=2, checkpointing=True, implementation="ours"),
        measured=15.57 * GB,
        kind="reserved",
        unstated="the longest text, here litgpt's 1304 tokens; GB or GiB",
    ),
    Anchor(
        source=TUTORIAL,
        what="the same, r 64, all linear layers",
        setting=replace(
            LITGPT, args={"rank": 64}, batch=2, checkpointing=True, implementation="ours"
        ),
        measured=17.04 * GB,
        kind="reserved",
        unstated="as above",
    ),
    Anchor(
        source="arXiv:2310.11454, table 12",
        what="LLaMA-7B, LoRA r 64, 4 bits, 4 x Alpaca",
        setting=IN_4_BITS,
        measured=23.42 * GB,
        kind="reserved",
        unstated="length, checkpointing, how it was measured; here 512 tokens",
    ),
    Anchor(
        source="arXiv:2310.11454, table 12",
        what="LLaMA-7B, VeRA r 64, 4 bits, 4 x Alpaca",
        setting=replace(IN_4_BITS, method="vera"),
        measured=21.69 * GB,
        kind="reserved",
        unstated="as above",
    ),
)
