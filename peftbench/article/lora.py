"""LoRA: few trained parameters (L1), no latency (L2), small files (L3), stability (L4)."""

import math
from collections.abc import Collection
from itertools import chain
from statistics import median

from scipy import stats

from peftbench.analysis.blocks import canonical, grouped
from peftbench.analysis.intervals import CONFIDENCE, rejects
from peftbench.analysis.measures import measure
from peftbench.analysis.results import Results
from peftbench.article.claim import (
    MIN_SEEDS,
    MIN_TIMED_RUNS,
    OVER_SEEDS,
    Case,
    Claim,
    Effect,
    Verdict,
    above,
    below,
    compare,
)
from peftbench.article.llama_shapes import LLAMA_70B, Shape
from peftbench.article.pairs import (
    VARIANTS,
    Pair,
    exact,
    lack,
    learners,
    less,
    mean_ratio,
    pairs,
    runs_of,
)
from peftbench.record import Spread
from peftbench.wording import Words

REDUCTION_SHARE = 0.9  # of the parameters, which LoRA is said not to train
LATENCY_TIMES = 1.05  # merged by base: more is extra latency
FEW_MB = 10  # the most that "a few MB" can mean
LLAMA_RANK = 8  # of the adapter whose size is computed


L1 = Claim(
    id="L1",
    text=Words("LoRA trains at least 90 % fewer parameters", "LoRA 可训练参数减少 90 % 以上"),
    unit=Words("part of the parameters not trained", "未训练参数占比"),
    rule=Words(
        "Trained parameters of every LoRA arm are at least {0:.0%} fewer than the model's; the head"
        " is in neither.",
        "各 LoRA 设置的训练参数比模型参数少至少 {0:.0%}(均不计分类头)。",
    ).format(REDUCTION_SHARE),
)


def trains_few_parameters(results: Results) -> Verdict:
    lora = [run for run in chain(*runs_of(results.final, "lora")) if run.record.footprint]
    arms = grouped(lora, lambda run: (run.record.spec.model, canonical(run.record.spec.args)))
    untrained = (
        (runs, exact(less(1, measure(run, "trained_share")) for run in runs))
        for runs in arms.values()
    )
    missing = Words("No run of LoRA on a test split is done", "没有在测试集上完成的 LoRA 运行")
    return L1.verdict(compare(untrained, above, REDUCTION_SHARE), missing)


L2 = Claim(
    id="L2",
    text=Words("Merged, LoRA has no extra latency", "LoRA 合并后推理零额外延迟"),
    unit=Words("latency, merged / base", "延迟之比,合并后 / 原模型"),
    rule=Words(
        "Latency merged at most {0} times the plain model's, over at least {1} timed runs of a"
        " block.",
        "合并后延迟至多为原模型的 {0} 倍,同组至少 {1} 次有效计时的运行。",
    ).format(LATENCY_TIMES, MIN_TIMED_RUNS),
)


def merged_has_no_latency(results: Results) -> Verdict:
    blocks = [
        {
            run: (latency.merged, latency.base)
            for run in timed
            if (timing := run.record.timing)
            and (latency := timing.latency_seconds)
            and latency.merged
            and latency.base
        }
        for timed in runs_of(results.costs, "lora", lambda arm: arm.timed)
    ]
    ratios = ((tuple(known), _latency_ratio(known.values())) for known in blocks)
    missing = Words(
        "It takes {0} timed runs of LoRA in a block, and there are at most {1}",
        "同组需要 {0} 次有效计时的 LoRA 运行,目前最多 {1} 次",
    )
    most = max(map(len, blocks), default=0)
    cases = compare(ratios, below, LATENCY_TIMES)
    return L2.verdict(cases, missing.format(MIN_TIMED_RUNS, most))


def _latency_ratio(latencies: Collection[tuple[Spread, Spread]]) -> Effect | None:
    """Merged by base over runs, with the wider of two intervals: from the spread between runs, and
    from that within them."""
    between = mean_ratio(
        (merged.median / base.median for merged, base in latencies), MIN_TIMED_RUNS
    )
    if between is None:
        return None
    variance = sum(_relative_error(spread) ** 2 for spreads in latencies for spread in spreads)
    within = math.sqrt(variance) / len(latencies) * float(stats.norm.ppf((1 + CONFIDENCE) / 2))
    factor = max(math.exp(within), between.high / between.value)
    return Effect(between.value, between.value / factor, between.value * factor)


def _relative_error(seconds: Spread) -> float:
    """Of the median of normal times: sigma is iqr / 1.349, and a median's standard error 1.2533
    sigma / sqrt(n)."""
    return 1.2533 * seconds.iqr / 1.349 / seconds.median / math.sqrt(seconds.n)


L3 = Claim(
    id="L3",
    text=Words(
        "LoRA's adapter takes a few MB, even for a 70B model",
        "即使 70B 模型,LoRA 适配器也只有几 MB",
    ),
    unit=Words("MB, Llama-2-70B", "MB,Llama-2-70B"),
    rule=Words(
        "Adapter of rank {0} for Llama-2-70B, computed: from q and v at 2 bytes to all linear"
        " layers at 4, or at the bytes a parameter that files in the store take. Supported if the"
        " largest is at most {1} MB, refuted if the smallest is more.",
        "Llama-2-70B、秩 {0} 的适配器大小(计算值):从 q、v 每参数 2 字节到全部线性层 4 字节"
        "(或库中文件的每参数字节数)。最大者不超过 {1} MB 则支持;最小者超过则反驳。",
    ).format(LLAMA_RANK, FEW_MB),
)


def adapter_takes_a_few_megabytes(results: Results, shape: Shape = LLAMA_70B) -> Verdict:
    """Arithmetic on a model's shape, with the bytes that a parameter takes in the store's files."""
    file_bytes = {
        run: footprint.adapter_file_bytes / (footprint.trained_params + footprint.head_params)
        for run in chain(*runs_of(results.final, "lora"))
        if (footprint := run.record.footprint)
        and footprint.adapter_file_bytes is not None
        and footprint.trained_params
    }
    stored = [median(file_bytes.values())] if file_bytes else []
    least, most = shape.lora(LLAMA_RANK, ("q", "v")) / 1e6, shape.lora(LLAMA_RANK) / 1e6
    megabytes = Effect(most * 2, least * min(2, *stored, 4), most * max(2, *stored, 4))
    reason = Words(
        "Computed from layers x rank x sum(in + out) for {0} layers of width {1} and rank {2}:"
        " {3:.1f} MB (q and v, 16 bit) to {4:.0f} MB (all linear layers, 32 bit); the effect is"
        " that of all linear layers in 16 bit",
        "按 层数 × 秩 × Σ(in + out) 计算({0} 层、宽 {1}、秩 {2}):{3:.1f} MB(q、v,16 位)"
        "至 {4:.0f} MB(全部线性层,32 位);效应为全部线性层、16 位",
    ).format(shape.layers, shape.hidden, LLAMA_RANK, least * 2, most * 4)
    files = Words(
        "adapter files in the store take {0:.2f} bytes a trained parameter",
        "库中适配器文件每个训练参数占 {0:.2f} 字节",
    )
    reason = Words.joined([reason, *(files.format(size) for size in stored)])
    return L3.decided(below(megabytes, FEW_MB), megabytes, reason, tuple(file_bytes))


L4 = Claim(
    id="L4",
    text=Words("LoRA is the most stable", "LoRA 最稳定"),
    unit=Words(
        "standard deviation over seeds, the other's / LoRA's", "种子间标准差之比,其他方法 / LoRA"
    ),
    rule=Words(
        "Each other PEFT method against LoRA, {0}: diverged runs by Fisher's exact test where it is"
        " significant, else the ratio of standard deviations of the metric (F interval) is above 1;"
        " both must score above the frozen model.",
        "其他各 PEFT 方法对比 LoRA,{0}:发散次数若经 Fisher 精确检验显著则以此为准,"
        "否则主指标标准差之比(F 区间)大于 1;二者都须胜过冻结模型。",
    ).format(OVER_SEEDS),
)


def is_most_stable(results: Results) -> Verdict:
    candidates = [
        pair
        for method in VARIANTS
        for pair in pairs(
            results.final,
            method,
            "lora",
            runs=lambda arm: [run for run in arm.runs if run.record.status in ("done", "diverged")],
        )
    ]
    enough = [pair for pair in candidates if pair.seeds >= MIN_SEEDS]
    cases = [one for pair in enough if (one := _stability(pair))]
    another = Words("another method", "其他方法")
    return L4.verdict(cases, lack(candidates, another, "lora"))


def _stability(pair: Pair) -> Case | None:
    """A significant difference in diverged runs goes first, then the standard deviations."""
    spread = _spread(pair)
    lost = [pair.seeds - len(arm.done) for arm in (pair.ours, pair.theirs)]
    table = [[diverged, pair.seeds - diverged] for diverged in lost]
    if rejects(float(stats.fisher_exact(table).pvalue)):  # pyright: ignore[reportAttributeAccessIssue]
        return Case("supported" if lost[0] > lost[1] else "refuted", spread, pair.runs)
    return spread and Case(above(spread, 1), spread, pair.runs)


def _spread(pair: Pair) -> Effect | None:
    """Our standard deviation over seeds by theirs, with the F interval; None where one has too few
    seeds, does not vary, or has learned nothing."""
    scores = [
        [value for run in arm.done if (value := run.value("metric")) is not None]
        for arm in (pair.ours, pair.theirs)
    ]
    if min(map(len, scores)) < MIN_SEEDS or learners(pair) < 2:
        return None
    ours, theirs = map(stats.tstd, scores)
    if min(ours, theirs) <= 0:
        return None
    ratio = float(ours / theirs)
    ends = [(1 + CONFIDENCE) / 2, (1 - CONFIDENCE) / 2]
    low, high = stats.f.ppf(ends, *(len(values) - 1 for values in scores))
    return Effect(ratio, ratio / math.sqrt(low), ratio / math.sqrt(high))
