"""The article's closing table as it stands there: what it says of each technique."""

from dataclasses import dataclass

from peftbench.wording import Words


@dataclass(frozen=True)
class Statement:
    """What the article says of a technique."""

    name: str
    recommended_for: Words
    support: Words  # by Hugging Face


STATEMENTS = {
    "lora": Statement(
        "LoRA",
        Words("general fine-tuning, production", "通用微调、生产部署"),
        Words("complete", "完整支持"),
    ),
    "lora-fa": Statement(
        "LoRA-FA",
        Words("little memory", "显存受限环境"),
        Words("yes, needs custom work", "支持,需自定义"),
    ),
    "vera": Statement(
        "VeRA",
        Words("few samples, quick experiments", "小样本、快速实验"),
        Words("community implementation", "社区实现"),
    ),
    "delta-lora": Statement(
        "Delta-LoRA",
        Words("high-precision tasks (maths, code)", "高精度任务(如数学/代码)"),
        Words("experimental", "实验性"),
    ),
    "lora+": Statement(
        "LoRA+",
        Words("chasing the best result", "追求 SOTA 性能"),
        Words("yes, by setting the learning rates", "支持,需设置学习率"),
    ),
}
