"""The article's claims in a sentence each, and the rules that decide about them: fixed here,
margins and all, before the runs."""

from dataclasses import dataclass

from peftbench.article.evidence import CONFIDENCE, MIN_SEEDS, MIN_TIMED

GAIN = 0.005  # of the primary metric: the least that is called better
LOSS = 0.01  # the most that is called "almost no loss"
CLOSE = 0.02  # the most that is called "close to full fine-tuning"
TINY = 0.05  # the most of the parameters that is called a tiny part
REDUCTION = 0.9  # by which LoRA's trained parameters are said to be fewer
FILE_GB, TRAINING_GB = 100, 200  # GB: the article's "100+" for a file and "hundreds" for training
ENERGY, DIRECTIONS = (
    0.9,
    8,
)  # the part of a matrix's squared singular values that its first ones must hold to stand for it
LATENCY = 1.05  # merged against base: more is extra latency
FEW_MB = 10  # MB: the most that "a few MB" can mean
MEMORY = 0.99  # peak against LoRA's: more is not less memory
FASTER = 1.02  # times LoRA's speed: less is not faster
VERY_FEW = 0.1  # of LoRA's trained parameters
GAP = 0.01  # nats per token: the least that is called less overfitting
FEW_SAMPLES = 1000  # training examples
GROWTH = 0.05  # of the plain model's bytes: the most that is called a little
SEVERAL = 2  # benchmarks
TAIL = 0.1  # of a training curve: its end, and the window that smooths it
POINTS = 10  # of a training curve: with fewer it is not judged
MATHS_AND_CODE = ("gsm8k", "gsm_symbolic", "humaneval", "mbpp", "stdlib_code")


@dataclass(frozen=True)
class Words:
    """A text in both languages."""

    en: str
    zh: str

    def __add__(self, other: "Words") -> "Words":
        return Words(
            f"{self.en}; {other.en}" if self.en else other.en,
            f"{self.zh};{other.zh}" if self.zh else other.zh,
        )


@dataclass(frozen=True)
class Claim:
    """What the article says, and the rule that decides about it."""

    text: Words
    unit: Words
    rule: Words


LLAMA_RANK = 8  # of the adapter whose size is computed
STATE_BYTES = (
    8,
    18,
    # a parameter in training with Adam: all bfloat16 (2+2+2+2) to mixed precision with master
    # weights
    # and float32 gradients
)

_SEEDS = Words(f"over at least {MIN_SEEDS} shared seeds", f"至少 {MIN_SEEDS} 个共同种子")
_POINTS = Words("primary metric, 0 to 1", "主指标,0 至 1")
_RATIO = Words("times", "倍")
ALL = Words(
    f"A comparison is one pair of arms in one block: same model, task, data, device and software stack. It supports a claim if the whole "
    f"{CONFIDENCE:.0%} interval is on the claim's side of the margin, refutes it if all of it is on the other, and is undecided "
    "otherwise. A claim is "
    "supported if most comparisons support it and none refutes it, refuted if most refute it and none supports it. Scores and losses "
    "count only where one "
    "of the two arms scores above the frozen model. Of several arms the tuned ones, then those with the most equal settings are compared. "
    "Effects are means over comparisons, intervals the means of their ends, or the range of what is counted exactly. "
    "Nothing is corrected for there being many claims.",
    f"一组比较是同一分组(模型、任务、数据、设备与软件栈相同)中的一对设置。{CONFIDENCE:.0%} 区间全部在界限的有利一侧则支持,"
    "全部在另一侧则反驳,否则未定。"
    "多数比较支持且无一反驳则论断成立;多数反驳且无一支持则论断被反驳。得分与损失只在两者之一胜过冻结模型时才算数。"
    "同一方法有多个设置时,先取经过调参的,再取相同设置最多的。效应为各组比较的均值,区间为两端的均值;精确计数的给出范围。"
    "未对论断数量作校正。",
)

CLAIMS: dict[str, Claim] = {
    "F1": Claim(
        Words(
            "A 7B model's file is 100+ GB, and full fine-tuning needs hundreds of GB",
            "7B 模型文件超过 100 GB,全量微调需要数百 GB 显存",
        ),
        Words("GB (file)", "GB(文件)"),
        Words(
            f"Llama-2-7B's parameters at 2 to 4 bytes (file) and {STATE_BYTES[0]} to {STATE_BYTES[1]} bytes (weights, gradients, "
            "Adam). Supported if the file "
            f"takes {FILE_GB} GB and training {TRAINING_GB} GB at the least, refuted if either takes less at the most.",
            f"Llama-2-7B 参数按每个 2 至 4 字节(文件)与 {STATE_BYTES[0]} 至 {STATE_BYTES[1]} 字节(权重、梯度、Adam)计。文件下限达 "
            f"{FILE_GB} GB "
            f"且训练下限达 {TRAINING_GB} GB 则支持;任一上限不到则反驳。",
        ),
    ),
    "F2": Claim(
        Words(
            "PEFT trains a tiny part of the parameters and comes close to full fine-tuning",
            "PEFT 只训练极小部分参数,效果接近全量微调",
        ),
        _POINTS,
        Words(
            f"Each PEFT method against full fine-tuning: trained share at most {TINY:.0%}, and metric at most {CLOSE} lower, {_SEEDS.en}.",
            f"各 PEFT 方法对比全量微调:训练参数占比不超过 {TINY:.0%},且主指标至多低 {CLOSE},{_SEEDS.zh}。",
        ),
    ),
    "F3": Claim(
        Words(
            "A weight's information sits in a low-dimensional subspace",
            "权重矩阵的信息处于低维子空间",
        ),
        Words("part of W's squared singular values", "W 奇异值平方和之占比"),
        Words(
            f"The first {DIRECTIONS} singular values of W hold at least {ENERGY:.0%} of the sum of squares, mean over layers (full "
            "fine-tuning's W and dW).",
            f"W 的前 {DIRECTIONS} 个奇异值占平方和至少 {ENERGY:.0%}(各层平均;取自全量微调的 W 与 dW)。",
        ),
    ),
    "L1": Claim(
        Words("LoRA trains at least 90 % fewer parameters", "LoRA 可训练参数减少 90 % 以上"),
        Words("part of the parameters not trained", "未训练参数占比"),
        Words(
            f"Trained parameters of every LoRA arm are at least {REDUCTION:.0%} fewer than the model's; the head is in neither.",
            f"各 LoRA 设置的训练参数比模型参数少至少 {REDUCTION:.0%}(均不计分类头)。",
        ),
    ),
    "L2": Claim(
        Words("Merged, LoRA has no extra latency", "LoRA 合并后推理零额外延迟"),
        Words("latency, merged / base", "延迟之比,合并后 / 原模型"),
        Words(
            f"Latency merged at most {LATENCY} times the plain model's, over at least {MIN_TIMED} runs of a block.",
            f"合并后延迟至多为原模型的 {LATENCY} 倍,同组至少 {MIN_TIMED} 次运行。",
        ),
    ),
    "L3": Claim(
        Words(
            "LoRA's adapter takes a few MB, even for a 70B model",
            "即使 70B 模型,LoRA 适配器也只有几 MB",
        ),
        Words("MB, Llama-2-70B", "MB,Llama-2-70B"),
        Words(
            f"Adapter of rank {LLAMA_RANK} for Llama-2-70B, computed: from q and v at 2 bytes to all linear layers at 4, or at the "
            "bytes a parameter that "
            f"files in the store take. Supported if the largest is at most {FEW_MB} MB, refuted if the smallest is more.",
            f"Llama-2-70B、秩 {LLAMA_RANK} 的适配器大小(计算值):从 q、v 每参数 2 字节到全部线性层 4 字节(或库中文件的每参数字节数)。"
            f"最大者不超过 {FEW_MB} MB 则支持;最小者超过则反驳。",
        ),
    ),
    "L4": Claim(
        Words("LoRA is the most stable", "LoRA 最稳定"),
        Words(
            "standard deviation over seeds, the other's / LoRA's",
            "种子间标准差之比,其他方法 / LoRA",
        ),
        Words(
            f"Each other PEFT method against LoRA, {_SEEDS.en}: diverged runs by Fisher's exact test where it is significant, else the "
            "ratio of standard deviations of the metric (F interval) is above 1; both must score above the frozen model.",
            f"其他各 PEFT 方法对比 LoRA,{_SEEDS.zh}:发散次数若经 Fisher 精确检验显著则以此为准,"
            "否则主指标标准差之比(F 区间)大于 1;二者都须胜过冻结模型。",
        ),
    ),
    "FA1": Claim(
        Words("LoRA-FA needs less memory than LoRA", "LoRA-FA 比 LoRA 更省显存"),
        Words("peak bytes, LoRA-FA / LoRA", "峰值字节之比,LoRA-FA / LoRA"),
        Words(
            f"Peak bytes of a training step at most {MEMORY} times LoRA's at every shared seed, at equal rank, targets, dropout, batch "
            "and dtype.",
            f"在秩、目标层、dropout、批大小与数据类型相同时,每个共同种子下训练步的峰值字节至多为 LoRA 的 {MEMORY} 倍。",
        ),
    ),
    "FA2": Claim(
        Words("LoRA-FA trains faster than LoRA", "LoRA-FA 训练更快"),
        Words("tokens per second, LoRA-FA / LoRA", "每秒词元数之比,LoRA-FA / LoRA"),
        Words(
            f"Tokens per second at least {FASTER} times LoRA's, over at least {MIN_TIMED} shared seeds, settings equal as in FA1.",
            f"每秒词元数至少为 LoRA 的 {FASTER} 倍,至少 {MIN_TIMED} 个共同种子,设置同 FA1。",
        ),
    ),
    "FA3": Claim(
        Words("LoRA-FA loses almost no quality", "LoRA-FA 几乎不损失效果"),
        _POINTS,
        Words(
            f"Metric at most {LOSS} below LoRA's, at equal rank and targets, {_SEEDS.en}.",
            f"秩与目标层相同时,主指标至多比 LoRA 低 {LOSS},{_SEEDS.zh}。",
        ),
    ),
    "V1": Claim(
        Words("VeRA trains very few parameters", "VeRA 可训练参数极少"),
        Words("trained parameters, VeRA / LoRA", "训练参数之比,VeRA / LoRA"),
        Words(
            f"Trained parameters at most {VERY_FEW:.0%} of LoRA's on the same targets; the head is in neither.",
            f"目标层相同时,训练参数至多为 LoRA 的 {VERY_FEW:.0%}(均不计分类头)。",
        ),
    ),
    "V2": Claim(
        Words("VeRA overfits less", "VeRA 更不易过拟合"),
        Words("nats per token, LoRA's gap - VeRA's", "每词元 nat,LoRA 差距 − VeRA 差距"),
        Words(
            f"Test nll less the training nll of the curve's last {TAIL:.0%}: VeRA's gap at least {GAP} below LoRA's, at equal steps "
            f"and batch, {_SEEDS.en}; both must score above the frozen model.",
            f"测试 nll 减训练曲线末 {TAIL:.0%} 的 nll:步数与批大小相同时,VeRA 的差距至少比 LoRA 小 {GAP},"
            f"{_SEEDS.zh};二者都须胜过冻结模型。",
        ),
    ),
    "V3": Claim(
        Words("VeRA excels with few samples", "VeRA 在小样本下表现突出"),
        _POINTS,
        Words(
            f"Where a task was trained on several numbers of examples: at the least of them, {FEW_SAMPLES} or fewer, metric at least "
            f"{GAIN} above "
            f"LoRA's, {_SEEDS.en}.",
            f"任务在多种训练样本数下运行时:在最少者(不超过 {FEW_SAMPLES})处主指标至少比 LoRA 高 {GAIN},{_SEEDS.zh}。",
        ),
    ),
    "D1": Claim(
        Words("Delta-LoRA is better on maths and code", "Delta-LoRA 在数学、代码任务上更好"),
        _POINTS,
        Words(
            f"On {', '.join(MATHS_AND_CODE)}: metric at least {GAIN} above LoRA's and above that of LoRA with alpha x (1 + lambda), "
            f"{_SEEDS.en}; the "
            "effect is the smaller of the two.",
            f"在 {'、'.join(MATHS_AND_CODE)} 上:主指标比 LoRA 以及 alpha × (1 + lambda) 的 LoRA 都至少高 {GAIN},{_SEEDS.zh};"
            "效应取二者中较小者。",
        ),
    ),
    "D2": Claim(
        Words("With Delta-LoRA the model grows a little", "Delta-LoRA 使模型略微变大"),
        Words("extra bytes to store, part of the model's", "额外存储字节占模型之比"),
        Words(
            f"Bytes stored beside the plain model, less LoRA's at equal rank and targets: above 0 and at most {GROWTH:.0%} of the "
            "weights' bytes.",
            f"秩与目标层相同时,模型之外需存储的字节减去 LoRA 的:大于 0 且不超过权重字节的 {GROWTH:.0%}。",
        ),
    ),
    "P1": Claim(
        Words("LoRA+ converges faster", "LoRA+ 收敛更快"),
        Words(
            "steps to LoRA's final loss, LoRA / LoRA+", "达到 LoRA 最终损失的步数之比,LoRA / LoRA+"
        ),
        Words(
            f"Steps until the training loss, smoothed over {TAIL:.0%} of the curve, is as low as LoRA's at its end: LoRA takes at "
            f"least {FASTER} times as "
            f"many, both tuned with equally many trials, at equal steps and batch, {_SEEDS.en}.",
            f"训练损失(按曲线 {TAIL:.0%} 平滑)达到 LoRA 末值所需步数:LoRA 至少为 {FASTER} 倍;两者调参试验次数、步数与批大小相同,"
            f"{_SEEDS.zh}。",
        ),
    ),
    "P2": Claim(
        Words(
            "LoRA+ ends with higher metrics on several benchmarks", "LoRA+ 在多个基准上最终指标更高"
        ),
        _POINTS,
        Words(
            f"Metric at least {GAIN} above LoRA's, both tuned with equally many trials, on at least {SEVERAL} tasks, {_SEEDS.en}.",
            f"两者调参试验次数相同时,主指标至少比 LoRA 高 {GAIN},至少 {SEVERAL} 个任务,{_SEEDS.zh}。",
        ),
    ),
}
