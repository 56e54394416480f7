"""LoRA: few trained parameters (L1), no latency (L2), small files (L3), stability (L4)."""

import math
from collections import defaultdict
from collections.abc import Iterable, Sequence
from itertools import chain
from statistics import median

import numpy as np
from scipy import stats

from peftbench.analysis.blocks import Arm, Block, Run, canonical, grouped
from peftbench.analysis.intervals import CONFIDENCE, rejects
from peftbench.analysis.learning import floor
from peftbench.analysis.learning_rates import TOLERANCE, by_learning_rate, good_region
from peftbench.analysis.measures import measure
from peftbench.analysis.results import Results
from peftbench.article.claim import (
    MIN_SEEDS,
    MIN_TIMED_RUNS,
    SEVERAL_TASKS,
    Case,
    Claim,
    Effect,
    Verdict,
    above,
    below,
    compare,
    pooled,
)
from peftbench.article.llama import LLAMA_70B, LORA_RANK, Q_AND_V, llama
from peftbench.article.pairs import (
    VARIANTS,
    Pair,
    equally_tuned,
    exact,
    lack,
    less,
    mean,
    mean_ratio,
    pairs,
    runs_of,
)
from peftbench.article.quality import over_tasks
from peftbench.at_scale import AtScale
from peftbench.record import Latency, Spread
from peftbench.wording import Words

REDUCTION_SHARE = 0.9  # of the parameters, which LoRA is said not to train
LATENCY_TIMES = 1.05  # merged by base: more is extra latency
FEW_MB = 10  # the most that "a few MB" can mean
LEAST_RANK, MOST_RANK = 1, 64  # that people use: their sizes are told as well
STABLE_SEEDS = 10  # with fewer a spread over seeds is known to a factor of two


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
    return L1.verdict(compare(untrained, above, REDUCTION_SHARE, counted=True), missing)


L2 = Claim(
    id="L2",
    text=Words("Merged, LoRA has no extra latency", "LoRA 合并后推理零额外延迟"),
    unit=Words("latency, merged / base", "延迟之比,合并后 / 原模型"),
    rule=Words(
        "Latency merged at most {0} times the plain model's, over at least {1} timed runs of a"
        " block; undecided where the plain model timed twice may differ by as much.",
        "合并后延迟至多为原模型的 {0} 倍,同组至少 {1} 次有效计时的运行;"
        "原模型两次计时之差可能达到此倍数时不作判断。",
    ).format(LATENCY_TIMES, MIN_TIMED_RUNS),
)


def merged_has_no_latency(results: Results) -> Verdict:
    blocks = [
        _controlled(
            {
                run: latency
                for run in timed
                if (timing := run.record.timing)
                and (latency := timing.latency_seconds)
                and latency.merged
                and latency.base
            }
        )
        for timed in runs_of(results.costs, "lora", lambda arm: arm.timed)
    ]
    cases: list[Case] = []
    controls: list[Effect] = []
    for known in blocks:
        control = _latency_ratio((each.control, each.base) for each in known.values())
        controls += [control] if control else []
        merged = _latency_ratio((each.merged, each.base) for each in known.values())
        cases += [
            case._replace(decision="undecided", surplus=None) if _coarse(control) else case
            for case in compare([(tuple(known), merged)], below, LATENCY_TIMES)
        ]
    missing = Words(
        "It takes {0} timed runs of LoRA in a block, and there are at most {1}",
        "同组需要 {0} 次有效计时的 LoRA 运行,目前最多 {1} 次",
    )
    most = max(map(len, blocks), default=0)
    return L2.verdict(cases, missing.format(MIN_TIMED_RUNS, most), _of_controls(controls))


def _controlled(known: dict[Run, Latency]) -> dict[Run, Latency]:
    """Of a block the runs that timed the plain model twice, if they are enough; else all."""
    twice = {run: latency for run, latency in known.items() if latency.control}
    return twice if len(twice) >= MIN_TIMED_RUNS else known


def _coarse(control: Effect | None) -> bool:
    """Whether the measurement may err by more than what it is to tell."""
    return control is not None and max(1 / control.low, control.high) > LATENCY_TIMES


def _of_controls(controls: Sequence[Effect]) -> Words:
    """What the plain model timed twice says of the measurement itself."""
    control = pooled(controls)
    if control is None:
        return Words(
            "these runs timed the plain model once, so the error of the measurement is not known",
            "这些运行只对原模型计时一次,测量误差未知",
        )
    note = Words(
        "the plain model timed twice: control / base {0:.3f} [{1:.3f}, {2:.3f}]",
        "原模型两次计时:对照 / 原模型 {0:.3f} [{1:.3f}, {2:.3f}]",
    ).format(*control)
    coarse = sum(map(_coarse, controls))
    if not coarse:
        return note
    too_coarse = Words(
        "in {0} of {1} block{2} with such a control the measurement is too coarse to tell",
        "{1} 个有对照的分组中 {0} 个的测量过粗,无法判断",
    )
    return Words.joined([note, too_coarse.format(coarse, len(controls), "s"[: len(controls) > 1])])


def _latency_ratio(latencies: Iterable[tuple[Spread | None, Spread | None]]) -> Effect | None:
    """One form by another over the runs that have both, with the wider of two intervals: from the
    spread between runs, and from that within them."""
    known = [(form, base) for form, base in latencies if form and base]
    between = mean_ratio((form.median / base.median for form, base in known), MIN_TIMED_RUNS)
    if between is None:
        return None
    variance = sum(_relative_error(spread) ** 2 for spreads in known for spread in spreads)
    within = math.sqrt(variance) / len(known) * float(stats.norm.ppf((1 + CONFIDENCE) / 2))
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
    ).format(LORA_RANK, FEW_MB),
)


def adapter_takes_a_few_megabytes(
    results: Results, rows: Sequence[AtScale] | None = None
) -> Verdict:
    """Arithmetic on a model's shape, with the bytes that a parameter takes in the store's files.
    rows: as of `llama`."""
    file_bytes = {
        run: footprint.adapter_file_bytes / (footprint.trained_params + footprint.head_params)
        for run in chain(*runs_of(results.final, "lora"))
        if (footprint := run.record.footprint)
        and footprint.adapter_file_bytes is not None
        and footprint.trained_params
    }
    stored = [median(file_bytes.values())] if file_bytes else []
    of_all = llama(LLAMA_70B, "lora", rows=rows)
    of_two = llama(LLAMA_70B, "lora", Q_AND_V, rows=rows)
    least, most = of_two.trained_params / 1e6, of_all.trained_params / 1e6
    megabytes = Effect(most * 2, least * min(2, *stored, 4), most * max(2, *stored, 4))
    reason = Words(
        "Computed from rank x sum(in + out) at rank {0}: {1:.1f} MB (q and v, 16 bit) to {2:.0f} MB"
        " (all linear layers, 32 bit); the effect is that of all linear layers in 16 bit, which is"
        " {3:.0f} MB at rank {4} and {5:,.0f} MB at rank {6}",
        "按 秩 × Σ(in + out) 计算,秩 {0}:{1:.1f} MB(q、v,16 位)至 {2:.0f} MB"
        "(全部线性层,32 位);效应为全部线性层、16 位,"
        "秩 {4} 时为 {3:.0f} MB,秩 {6} 时为 {5:,.0f} MB",
    ).format(
        *(LORA_RANK, least * 2, most * 4),
        *(most * 2 * LEAST_RANK / LORA_RANK, LEAST_RANK),
        *(most * 2 * MOST_RANK / LORA_RANK, MOST_RANK),
    )
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
        "metric's mean distance from its median over seeds, the other's - LoRA's",
        "主指标偏离种子中位数的平均距离之差,其他方法 − LoRA",
    ),
    rule=Words(
        "Each other PEFT method against LoRA, both with equally many trials, over at least {0}"
        " shared seeds, on at least {1} tasks: lost runs (diverged, or not above what answers"
        " always the same) by Fisher's exact test where it is significant, else the distances of"
        " the metric from its median, paired by seed (Brown and Forsythe), are greater than LoRA's."
        " Of both, most runs must have learned something.",
        "其他各 PEFT 方法对比 LoRA,调参次数相同,至少 {0} 个共同种子,至少 {1} 个任务:"
        "失败次数(发散,或不胜过恒定回答)若经 Fisher 精确检验显著则以此为准,"
        "否则按种子配对比较主指标与其中位数的距离(Brown–Forsythe),须大于 LoRA。"
        "二者多数运行须学有所得。",
    ).format(STABLE_SEEDS, SEVERAL_TASKS),
)


def is_most_stable(results: Results) -> Verdict:
    candidates, unfair = (
        [
            pair
            for method in VARIANTS
            for pair in pairs(results.final, method, "lora", runs=_ended, fair=fair)
        ]
        for fair in (equally_tuned, lambda ours, theirs: True)
    )
    enough = [pair for pair in candidates if pair.seeds >= STABLE_SEEDS]
    cases = [one for pair in enough if (one := _stability(results, pair))]
    missing = lack(
        candidates, Words("another method", "其他方法"), "lora", STABLE_SEEDS, unfair=unfair
    )
    return over_tasks(L4.verdict(cases, missing, _good_rates(results)))


def _ended(arm: Arm) -> list[Run]:
    return [run for run in arm.runs if run.record.status in ("done", "diverged")]


def _stability(results: Results, pair: Pair) -> Case | None:
    """A significant difference in lost runs goes first, then the distances from the median of the
    seeds that neither lost; None where most runs of an arm learned nothing."""
    kept = [_not_lost(results, pair.block, arm) for arm in (pair.ours, pair.theirs)]
    if any(
        2 * len(seeds) <= len(arm.done)
        for seeds, arm in zip(kept, (pair.ours, pair.theirs), strict=True)
        if arm.done
    ):
        return None
    lost = [pair.seeds - len(seeds) for seeds in kept]
    table = [[count, pair.seeds - count] for count in lost]
    shared = [seed for seed in kept[0] if seed in kept[1]]
    spread = _spread(*([seeds[seed] for seed in shared] for seeds in kept))
    if rejects(float(stats.fisher_exact(table).pvalue)):  # pyright: ignore[reportAttributeAccessIssue]
        return Case("supported" if lost[0] > lost[1] else "refuted", spread, pair.runs)
    cases = compare([(pair.runs, spread)], above, 0.0)
    return cases[0] if cases else None


def _not_lost(results: Results, block: Block, arm: Arm) -> dict[int, float]:
    """The metric by seed, of the runs that are done and above every floor; none where no floor is
    known."""
    least = floor(results, block, arm) if arm.done else None
    values = {run.seed: run.value("metric") for run in arm.done}
    return {
        seed: value
        for seed, value in values.items()
        if value is not None and least is not None and value > least
    }


def _spread(ours: Sequence[float], theirs: Sequence[float]) -> Effect | None:
    """How much farther our values are from their median than theirs, paired; None with too few, or
    where neither varies."""
    if len(ours) < MIN_SEEDS or not np.ptp([*ours, *theirs]):
        return None
    distances = [np.abs(np.array(values) - np.median(values)) for values in (ours, theirs)]
    return mean(float(one - other) for one, other in zip(*distances, strict=True))


def _good_rates(results: Results) -> Words | None:
    """How wide the region of good learning rates was in the searches, by method."""
    spans: defaultdict[str, list[float]] = defaultdict(list)
    for block in results.tuning:
        for arm, rates in by_learning_rate(block).items():
            medians = [rate.middle("nll").median for rate in rates]
            region = good_region([rate.lr for rate in rates], medians)
            if arm.method in ("lora", *VARIANTS) and len(rates) > 2 and region:
                spans[arm.method].append(region.high / region.low)
    if "lora" not in spans or len(spans) < 2:
        return None
    parts = [
        Words.same("{0} {1:.1f}").format(method, median(factors))
        for method, factors in spans.items()
    ]
    return Words(
        "learning rates whose nll is within {0:.0%} of the best span a factor of (median over"
        " searches) {1}",
        "nll 与最优相差 {0:.0%} 以内的学习率跨越的倍数(各次搜索的中位数):{1}",
    ).format(TOLERANCE, Words.joined(parts, ", "))
