"""LoRA-FA against LoRA: memory (FA1), speed (FA2), quality (FA3)."""

from statistics import fmean

from peftbench.analysis.measures import measure
from peftbench.analysis.results import Results
from peftbench.article.claim import (
    FASTER_TIMES,
    MIN_TIMED_RUNS,
    OVER_SEEDS,
    Claim,
    Verdict,
    above,
    below,
    compare,
)
from peftbench.article.llama import LLAMA_7B, LLAMA_70B, called, llama
from peftbench.article.pairs import (
    SHAPE,
    Pair,
    equally_tuned,
    exact,
    lack,
    less,
    mean_ratio,
    most_seeds,
    pairs,
)
from peftbench.article.quality import LITTLE_LOSS, Quality, in_words, quality_verdict
from peftbench.wording import Words

MEMORY_TIMES = 0.99  # of LoRA's peak: more is not less memory
EQUAL_COSTS = (*SHAPE, "dropout")  # settings that bytes and seconds depend on


FA1 = Claim(
    id="FA1",
    text=Words("LoRA-FA needs less memory than LoRA", "LoRA-FA 比 LoRA 更省显存"),
    unit=Words("peak bytes, LoRA-FA / LoRA", "峰值字节之比,LoRA-FA / LoRA"),
    rule=Words(
        "Peak bytes of a training step at most {0} times LoRA's at every shared seed, at equal"
        " rank, targets, dropout, batch and dtype. Bytes are those of live tensors: what an"
        " allocator reserves beyond them is left out, and so is activation checkpointing, under"
        " which little is left for LoRA-FA to save.",
        "在秩、目标层、dropout、批大小与数据类型相同时,"
        "每个共同种子下训练步的峰值字节至多为 LoRA 的 {0} 倍。字节为存活张量的字节;"
        "分配器额外保留的部分不计在内,也未涉及激活重算(此时 LoRA-FA 可省者已不多)。",
    ).format(MEMORY_TIMES),
)


def needs_less_memory(results: Results) -> Verdict:
    candidates = pairs(results.costs, "lora-fa", "lora", EQUAL_COSTS)
    peaks = ((pair.runs, exact(pair.ratios("peak_bytes"))) for pair in candidates)
    at_scale = Words.joined([_at_scale(LLAMA_7B), _at_scale(LLAMA_70B)])
    activations = Words("activations are {0:.0%} of the gap in bytes", "字节差额中激活占 {0:.0%}")
    shares = [share for pair in candidates if (share := _activations_share(pair)) is not None]
    measured = [activations.format(fmean(shares))] if shares else []
    note = Words.joined([*measured, at_scale])
    cases = compare(peaks, below, MEMORY_TIMES, counted=True)
    return FA1.verdict(cases, lack(candidates, "lora-fa", "lora", 1), note)


def _at_scale(model: str) -> Words:
    """How much of what LoRA-FA saves is the method's, and how much an implementation's that keeps
    x for each adapted layer in float32."""
    lora, ours = (llama(model, method) for method in ("lora", "lora-fa"))
    peft_lora, peft_fa = (
        llama(model, method, implementation="peft", precision="bf16")
        for method in ("lora", "lora-fa")
    )
    method, cast = (
        more.peak_bytes - less.peak_bytes for more, less in ((lora, ours), (peft_lora, peft_fa))
    )
    return Words(
        "by forecast for {0}, all linear layers, {1} x {2} tokens, LoRA-FA's peak is {3:.0%} of"
        " LoRA's: it saves {4:.1f} GB, and {5:.1f} GB beside an implementation that keeps x for"
        " each layer in float32, of which {6:.0%} is the method",
        "据估算,{0}、全部线性层、{1} x {2} 词元时,LoRA-FA 的峰值为 LoRA 的 {3:.0%}:"
        "节省 {4:.1f} GB;若实现为每层另存 float32 的 x,则为 {5:.1f} GB,其中 {6:.0%} 来自方法",
    ).format(
        *(called(model), lora.batch, lora.length),
        *(ours.peak_bytes / lora.peak_bytes, method / 1e9, cast / 1e9, method / cast),
    )


def _activations_share(pair: Pair) -> float | None:
    """How much of the bytes that LoRA-FA saves is activations; None where it saves none."""
    saved, activations = (
        sum(less(measure(lora, name), measure(ours, name)) or 0 for ours, lora in pair.by_seed)
        for name in ("peak_bytes", "peak.activations")
    )
    return activations / saved if saved > 0 else None


FA2 = Claim(
    id="FA2",
    text=Words("LoRA-FA trains faster than LoRA", "LoRA-FA 训练更快"),
    unit=Words("tokens per second, LoRA-FA / LoRA", "每秒词元数之比,LoRA-FA / LoRA"),
    rule=Words(
        "Tokens per second at least {0} times LoRA's, over at least {1} shared seeds, settings"
        " equal as in FA1.",
        "每秒词元数至少为 LoRA 的 {0} 倍,至少 {1} 个共同种子,设置同 FA1。",
    ).format(FASTER_TIMES, MIN_TIMED_RUNS),
)


def trains_faster(results: Results) -> Verdict:
    candidates = pairs(results.costs, "lora-fa", "lora", EQUAL_COSTS, runs=lambda arm: arm.timed)
    speeds = (
        (pair.runs, mean_ratio(pair.ratios("tokens_per_second"), MIN_TIMED_RUNS))
        for pair in candidates
    )
    missing = Words(
        "It takes {0} seeds of which both lora-fa and lora have a timed run on one device, and"
        " there are at most {1}",
        "需要 lora-fa 与 lora 在同一设备上共有 {0} 个有效计时的种子,目前最多 {1} 个",
    )
    lacking = missing.format(MIN_TIMED_RUNS, most_seeds(candidates))
    return FA2.verdict(compare(speeds, above, FASTER_TIMES), lacking)


FA3 = Claim(
    id="FA3",
    text=Words("LoRA-FA loses almost no quality", "LoRA-FA 几乎不损失效果"),
    rule=Words(
        "At most {0} worse than LoRA, at equal rank, targets and trials, {1}; both must have"
        " learned.",
        "秩、目标层与调参次数相同时,至多比 LoRA 差 {0},{1};二者都须学有所得。",
    ).format(in_words(LITTLE_LOSS), OVER_SEEDS),
)


def loses_almost_no_quality(results: Results) -> Verdict:
    candidates = pairs(results.final, "lora-fa", "lora", SHAPE, fair=equally_tuned)
    unfair = pairs(results.final, "lora-fa", "lora", SHAPE)
    missing = lack(candidates, "lora-fa", "lora", unfair=unfair)
    return quality_verdict(FA3, candidates, Quality(results, LITTLE_LOSS), missing)
