"""Why not full fine-tuning: its size (F1), what little of it suffices (F2), and why (F3)."""

from collections.abc import Sequence
from statistics import fmean

from peftbench.analysis.blocks import Run, Value, grouped
from peftbench.analysis.measures import measure
from peftbench.analysis.results import Results
from peftbench.article.claim import (
    OVER_SEEDS,
    Case,
    Claim,
    Effect,
    Verdict,
    above,
    below,
    both,
    compare,
)
from peftbench.article.llama import LLAMA_7B, llama
from peftbench.article.pairs import VARIANTS, Pair, equally_tuned, exact, lack, pairs, runs_of
from peftbench.article.quality import CLOSE, Quality, in_words, quality_verdict
from peftbench.at_scale import AtScale
from peftbench.wording import Words

FILE_GB, TRAINING_GB = 100, 200  # the article's "100+" and "hundreds"
# Bytes of a parameter in training with Adam: all bfloat16 (2 + 2 + 2 + 2), and mixed precision with
# master weights and float32 gradients.
LEAST_STATE_BYTES, MOST_STATE_BYTES = 8, 18
TINY_SHARE = 0.05  # of the parameters: the most that is called a tiny part
DIRECTIONS = 8  # the first singular values, which stand for a matrix if they hold
MORE_DIRECTIONS = 64  # of which the note tells as well
ENERGY_SHARE = 0.9  # of the sum of squares


F1_FILE = Claim(
    id="F1a",
    text=Words("A 7B model's file is 100+ GB", "7B 模型文件超过 100 GB"),
    unit=Words("GB, Llama-2-7B", "GB,Llama-2-7B"),
    rule=Words(
        "Llama-2-7B's parameters at 2 to 4 bytes. Supported if the file takes {0} GB at the least,"
        " refuted if it takes less at the most.",
        "Llama-2-7B 参数按每个 2 至 4 字节计。下限达 {0} GB 则支持,上限不到则反驳。",
    ).format(FILE_GB),
)


def has_a_file_of_a_hundred_gigabytes(
    results: Results, rows: Sequence[AtScale] | None = None
) -> Verdict:
    """Arithmetic on a model's parameters: no run is needed. rows: as of `llama`."""
    params = llama(LLAMA_7B, "full", rows=rows).total_params / 1e9
    file = Effect(params * 2, params * 2, params * 4)
    reason = Words(
        "Computed, not measured: {0:.2f} G parameters are {1:.1f} GB in 16 bit, the effect, and"
        " {2:.1f} GB in 32 bit",
        "计算所得,并非实测:{0:.2f} G 参数在 16 位下为 {1:.1f} GB(即效应),32 位下为 {2:.1f} GB",
    )
    return F1_FILE.decided(above(file, FILE_GB), file, reason.format(params, file.low, file.high))


F1_MEMORY = Claim(
    id="F1b",
    text=Words(
        "Full fine-tuning of a 7B model needs hundreds of GB", "7B 模型全量微调需要数百 GB 显存"
    ),
    unit=Words("GB, Llama-2-7B", "GB,Llama-2-7B"),
    rule=Words(
        "Llama-2-7B's parameters at {0} to {1} bytes (weights, gradients, Adam). Supported if"
        " training takes {2} GB at the least, refuted if it takes less at the most.",
        "Llama-2-7B 参数按每个 {0} 至 {1} 字节(权重、梯度、Adam)计。"
        "下限达 {2} GB 则支持,上限不到则反驳。",
    ).format(LEAST_STATE_BYTES, MOST_STATE_BYTES, TRAINING_GB),
)


def needs_hundreds_of_gigabytes(results: Results, rows: Sequence[AtScale] | None = None) -> Verdict:
    """Arithmetic on a model's parameters: no run is needed. rows: as of `llama`."""
    naive, mixed = (
        llama(LLAMA_7B, "full", precision=precision, rows=rows)
        for precision in ("bf16", "bf16-mixed")
    )
    params = mixed.total_params / 1e9
    least, most = params * LEAST_STATE_BYTES, params * MOST_STATE_BYTES
    state = Effect(least, least, most)
    reason = Words(
        "Computed, not measured: all in bfloat16 {0:.0f} GB, the effect; with float32 master"
        " weights and gradients {1:.0f} GB. Activations come on top and are not counted: they grow"
        " with batch and length, and checkpointing takes most of them away. By forecast a step of"
        " {2} x {3} tokens in bfloat16 with torch's default AdamW peaks at {4:.0f} GB, one of {5} x"
        " {6} in mixed precision at {7:.0f} GB",
        "计算所得,并非实测:全部 bfloat16 为 {0:.0f} GB(即效应);含 float32 主权重与梯度为"
        " {1:.0f} GB。激活另计:随批大小与长度增长,激活重算可省去大部分。据估算,{2} x {3} 词元、"
        "bfloat16、torch 默认 AdamW 的训练步峰值为 {4:.0f} GB,"
        "{5} x {6} 词元、混合精度为 {7:.0f} GB",
    ).format(
        *(least, most),
        *(naive.batch, naive.length, naive.peak_bytes / 1e9),
        *(mixed.batch, mixed.length, mixed.peak_bytes / 1e9),
    )
    return F1_MEMORY.decided(above(state, TRAINING_GB), state, reason)


F2 = Claim(
    id="F2",
    text=Words(
        "PEFT trains a tiny part of the parameters and comes close to full fine-tuning",
        "PEFT 只训练极小部分参数,效果接近全量微调",
    ),
    rule=Words(
        "Each PEFT method against full fine-tuning, both with equally many trials: trained share at"
        " most {0:.0%}, and at most {1} worse, {2}; both must have learned.",
        "各 PEFT 方法对比全量微调,调参次数相同:训练参数占比不超过 {0:.0%},且至多差 {1},{2};"
        "二者都须学有所得。",
    ).format(TINY_SHARE, in_words(CLOSE), OVER_SEEDS),
)


def peft_comes_close_with_a_tiny_part(results: Results) -> Verdict:
    candidates, unfair = (
        [
            pair
            for method in ("lora", *VARIANTS)
            for pair in pairs(results.final, method, "full", fair=fair)
        ]
        for fair in (equally_tuned, lambda ours, theirs: True)
    )
    shares = {
        pair: exact(measure(run, "trained_share") for run in pair.ours.runs) for pair in candidates
    }
    quality = Quality(results, CLOSE)

    def judge(pair: Pair, name: Value) -> Case | None:
        case, share = quality(pair, name), shares[pair]
        if case is None or share is None:
            return None
        tiny = below(share, TINY_SHARE)
        if tiny == "supported":
            return case
        return case._replace(decision=both(case.decision, tiny), surplus=None)

    known = [share.value for share in shares.values() if share]
    note = Words(
        "they train {0:.2%} of the parameters at the most", "训练参数至多占 {0:.2%}"
    ).format(max(known, default=0))
    any_peft = Words("a PEFT method", "某种 PEFT 方法")
    return quality_verdict(
        F2, candidates, judge, lack(candidates, any_peft, "full", unfair=unfair), note
    )


F3 = Claim(
    id="F3",
    text=Words(
        "A weight's information sits in a low-dimensional subspace", "权重矩阵的信息处于低维子空间"
    ),
    unit=Words("part of W's squared singular values", "W 奇异值平方和之占比"),
    rule=Words(
        "The first {0} singular values of W hold at least {1:.0%} of the sum of squares, mean over"
        " layers, once for each model.",
        "W 的前 {0} 个奇异值占平方和至少 {1:.0%}(各层平均),每个模型计一次。",
    ).format(DIRECTIONS, ENERGY_SHARE),
)


def weights_are_low_dimensional(results: Results) -> Verdict:
    full = [
        run
        for runs in runs_of(results.final, "full")
        for run in runs
        if _energy(run, "weight") is not None
    ]
    by_model = grouped(full, lambda run: run.record.spec.model).values()
    shares = ((runs, exact(_energy(run, "weight") for run in runs)) for runs in by_model)
    missing = Words(
        "No record holds singular values of W and of its change",
        "尚无记录包含 W 及其变化量的奇异值",
    )
    return F3.verdict(
        compare(shares, above, ENERGY_SHARE, counted=True),
        missing,
        Words.joined(notes) if (notes := [*_of_changes(full), *_of_truncated(full)]) else None,
    )


def _of_changes(full: Sequence[Run]) -> list[Words]:
    """How much of the change of the weights lies in its first directions, where records know it."""
    few, more = (
        exact(_energy(run, "change", directions) for run in full)
        for directions in (DIRECTIONS, MORE_DIRECTIONS)
    )
    note = Words(
        "of the change dW, which is what low-rank methods stand for, {0} hold {1:.0%} and {2} hold"
        " {3:.0%}",
        "低秩方法所近似的变化量 dW 中,前 {0} 个占 {1:.0%},前 {2} 个占 {3:.0%}",
    )
    if few is None or more is None:
        return []
    return [note.format(DIRECTIONS, few.value, MORE_DIRECTIONS, more.value)]


def _of_truncated(full: Sequence[Run]) -> list[Words]:
    """What models score with the first directions of dW alone, beside the whole of it: means over
    the runs that know both, of each score."""
    parts: list[Words] = []
    readings: dict[Value, Words] = {
        "metric": Words("primary metric", "主指标"),
        "nll": Words.same("nll"),
    }
    for name, label in readings.items():
        scores = [
            (near, whole)
            for run in full
            if (near := _truncated(run, name)) is not None
            and (whole := run.value(name)) is not None
        ]
        if scores:
            part = Words("{0} {1:.4f} instead of {2:.4f}", "{0} {1:.4f},完整时 {2:.4f}")
            parts.append(part.format(label, *map(fmean, zip(*scores, strict=True))))
    if not parts:
        return []
    note = Words(
        "with the first {0} of dW alone the model scores: {1} (means over the runs that know both)",
        "仅保留 dW 的前 {0} 个时:{1}(对二者均已知的运行取均值)",
    )
    return [note.format(DIRECTIONS, Words.joined(parts, ", "))]


def _truncated(run: Run, name: Value) -> float | None:
    metric = run.record.primary if name == "metric" else name
    return run.record.metrics.get(f"{metric}.rank{DIRECTIONS}")


def _energy(run: Run, part: str, directions: int = DIRECTIONS) -> float | None:
    return run.record.metrics.get(f"energy{directions}.{part}")
