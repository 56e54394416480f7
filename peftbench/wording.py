"""What tables say in words, in English and in Chinese."""

from typing import Literal

Lang = Literal["en", "zh"]

# Keys are the English words themselves where these are short; what a person typed or a record says
# (methods, tasks, models, metrics,
# statuses, errors) is the same in every language.
CHINESE = {
    "method": "方法",
    "trained": "可训练参数",
    "updated": "更新参数",
    "seeds": "种子数",
    "trials": "调参次数",
    "peak MiB": "峰值 MiB",
    "tok/s": "词元/秒",
    "× lora": "相对 LoRA",
    "ms/step": "毫秒/步",
    "adapter": "适配器文件",
    "weights": "权重",
    "gradients": "梯度",
    "optimizer": "优化器",
    "activations": "激活",
    "other": "其他",
    "utilization": "利用率",
    "adapted/base": "未合并延迟/原模型",
    "merged/base": "合并后延迟/原模型",
    "technique": "技术",
    "recommended for": "推荐场景",
    "best on": "最优的任务",
    "task": "任务",
    "highest mean": "均值最高",
    "Differences to LoRA": "与 LoRA 之差",
    "better than LoRA on": "优于 LoRA 的任务",
    "worse than LoRA on": "劣于 LoRA 的任务",
    "peak × LoRA": "峰值内存相对 LoRA",
    "tok/s × LoRA": "速度相对 LoRA",
    "Hugging Face, as stated": "Hugging Face 支持(文中所述)",
    "installed peft": "已安装的 peft",
    "of": "/",
    "none": "无",
    "all data": "全部数据",
    "seed {0}": "种子 {0}",
    "seeds {0}": "种子 {0}",
    "no error was recorded": "没有记录错误",
    "{0} split": "{0} 划分",
    "task version {0}": "任务版本 {0}",
    "these runs saw {0} different sets of examples: their scores do not compare": "这些运行用了 {0} 组不同的样本:分数不可比较",
    "unequal tuning: {0} trials; a difference may be the tuning's": "调参预算不等:{0} 次;差异可能来自调参",
    "the intervals of {0} cover {1} only": "{0} 的区间只涵盖{1}",
    "no interval for {0}: one number alone, or numbers that do not vary, do not tell how sure they are": (
        "{0} 没有区间:单个数值或完全相同的数值说明不了不确定性"
    ),
    "examples (one seed)": "测试样本(只有一个种子)",
    "seeds (no predictions give it by example)": "种子(没有逐样本的预测可以复现该数值)",
    "left out: trials of searches (runs: {0}, studies: {1})": "未列入:{1} 项超参搜索中的 {0} 次试验",
    "peft is not installed": "未安装 peft",
    "nothing of this name": "没有同名的接口",
    "general fine-tuning, production": "通用微调、生产部署",
    "little memory": "显存受限环境",
    "few samples, quick experiments": "小样本、快速实验",
    "high-precision tasks (maths, code)": "高精度任务(如数学/代码)",
    "chasing the best result": "追求 SOTA 性能",
    "complete": "完整支持",
    "yes, needs custom work": "支持,需自定义",
    "community implementation": "社区实现",
    "experimental": "实验性",
    "yes, by setting the learning rates": "支持,需设置学习率",
    "The article's closing table, measured": "文章结尾的表格,逐格实测",
}

EMPTY = "There is nothing to compare: the store holds no records yet; `peftbench run FILE.toml` makes some."
ONLY_TRIALS = "There is nothing to compare: all {0} runs in the store are trials of searches; a run with tuned settings is none of them."
LONG = {
    EMPTY: "没有可以比较的内容:结果库还没有记录;用 `peftbench run FILE.toml` 生成。",
    ONLY_TRIALS: "没有可以比较的内容:结果库中的 {0} 个运行都属于超参搜索;用调好的设置运行后才有比较。",
}

COMPARISON = (
    "Means over the seeds that are done, with 95 % intervals over seeds and test examples; a note says where they cover less. ↑ higher is "
    "better, ↓ lower is better. {best}: better than every other arm of its block by more than chance: the paired test over the same seeds "
    "and examples rejects at 5 % against each of them, after Holm's correction. Nothing is marked where no arm passes it. nll: nats per "
    "supervised token. trained: parameters the method trains, the classification head left out, and their share of the model's. peak: "
    "live tensor bytes at the peak of a training step, 1 MiB = 1,048,576 bytes. tok/s: real tokens, without padding. trials: how many the "
    "search spent that found the arm's settings. – means that there is no such number: settings that no search found, a frozen language "
    "model, which takes no step, or a run that is not done and measured nothing."
)
COSTS = (
    "Means over the seeds that are done; in parentheses the range of seeds. trained: parameters the method trains, the classification head "
    "left out, and their share of the model's. updated: parameters whose values it changes. adapter: what must be stored beside the plain "
    "model. peak: live tensor bytes at the peak of a training step, in MiB of 1,048,576 bytes, and what it is made of. tok/s: real tokens, "
    "without padding; × lora: relative to the first lora arm of the block, seed by seed. utilization: of the device's measured rate of "
    "matrix products, padding counted. adapted/base and merged/base: seconds of one forward pass with the adapter beside the model, and "
    "merged into it, relative to the plain model. – means that there is no such number."
)
CLOSING = (
    "recommended for, Hugging Face, as stated: what the article says. All else is read off the store and the installed package. best on: "
    "tasks where the paired test over the same seeds and examples says that the technique is better than each of the other four, at 5 % "
    "after Holm's correction; better, worse than LoRA on: where it says so of LoRA. Differences to LoRA: of the primary metric, positive "
    "is better, with 95 % intervals; {best}: by more than chance, by these tests. peak, tok/s × LoRA: the ratio of means, and its range "
    "over tasks. A technique with several settings stands with its first. – means that there is none."
)
LEGENDS = {
    COMPARISON: (
        "数值为已完成种子的均值及 95 % 区间(种子与测试样本);涵盖较少时另有注明。↑ 越高越好,↓ 越低越好。"
        "{best}:显著优于同组其他每一方法,即在相同种子与样本上的配对检验,经 Holm 校正后对每一对都在 5 % 水平上拒绝;"
        "没有方法通过时不作标记。nll:每个监督词元的 nat 数。可训练参数:不含分类头,及其占模型的百分比。"
        "峰值:一个训练步内存活张量的峰值字节数,1 MiB = 1,048,576 字节。词元/秒:真实词元,不含填充。"
        "调参次数:找到该设置的搜索所用的试验次数。–:没有该数值(设置并非搜索所得、冻结的语言模型不训练、或运行未完成)。"
    ),
    COSTS: (
        "数值为已完成种子的均值,括号内为各种子的范围。可训练参数:不含分类头,及其占模型的百分比。更新参数:数值会被改变的参数。"
        "适配器文件:除原模型外须保存的内容。峰值:一个训练步内存活张量的峰值字节数(1 MiB = 1,048,576 字节)及其构成。"
        "词元/秒:真实词元,不含填充;相对 LoRA:与同组第一个 lora 逐种子相比。利用率:相对实测矩阵乘法速率,计入填充。"
        "延迟:一次前向计算的时间,未合并及合并后,相对原模型。–:没有该数值。"
    ),
    CLOSING: (
        "推荐场景与“文中所述”来自文章;其余各格来自结果库与已安装的软件包。最优的任务:在相同种子与样本上的配对检验,"
        "经 Holm 校正后在 5 % 水平上优于其余四种技术中的每一种;优于、劣于 LoRA:同一检验对 LoRA 的结论。"
        "与 LoRA 之差:主要指标之差(正值为优)及 95 % 区间;{best}:按上述检验显著。"
        "峰值内存、速度相对 LoRA:均值之比及其在各任务间的范围。一种技术有多个设置时取第一个。–:没有。"
    ),
}
TRANSLATED = CHINESE | LONG | LEGENDS


def say(words: str, lang: Lang, *values: object) -> str:
    """Words in a language, {0} and so on filled in. Raises KeyError where a translation is missing."""
    text = words if lang == "en" else TRANSLATED[words]
    return text.format(*values) if values else text
