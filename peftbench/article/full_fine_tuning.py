"""Why not full fine-tuning: its size (F1), what little of it suffices (F2), and why (F3)."""

from statistics import fmean

from peftbench.analysis.blocks import Run
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
from peftbench.article.llama_shapes import LLAMA_7B, Shape
from peftbench.article.pairs import VARIANTS, exact, gain, lack, pairs, runs_of, sound
from peftbench.wording import Words

FILE_GB, TRAINING_GB = 100, 200  # the article's "100+" and "hundreds"
# Bytes of a parameter in training with Adam: all bfloat16 (2 + 2 + 2 + 2), and mixed precision with
# master weights and float32 gradients.
LEAST_STATE_BYTES, MOST_STATE_BYTES = 8, 18
CLOSE_POINTS = 0.02  # of the primary metric: the most that is called close
TINY_SHARE = 0.05  # of the parameters: the most that is called a tiny part
DIRECTIONS = 8  # the first singular values, which stand for a matrix if they hold
ENERGY_SHARE = 0.9  # of the sum of squares


F1 = Claim(
    id="F1",
    text=Words(
        "A 7B model's file is 100+ GB, and full fine-tuning needs hundreds of GB",
        "7B 模型文件超过 100 GB,全量微调需要数百 GB 显存",
    ),
    unit=Words("GB (file)", "GB(文件)"),
    rule=Words(
        "Llama-2-7B's parameters at 2 to 4 bytes (file) and {0} to {1} bytes (weights, gradients,"
        " Adam). Supported if the file takes {2} GB and training {3} GB at the least, refuted if"
        " either takes less at the most.",
        "Llama-2-7B 参数按每个 2 至 4 字节(文件)与 {0} 至 {1} 字节(权重、梯度、Adam)计。"
        "文件下限达 {2} GB 且训练下限达 {3} GB 则支持;任一上限不到则反驳。",
    ).format(LEAST_STATE_BYTES, MOST_STATE_BYTES, FILE_GB, TRAINING_GB),
)


def needs_hundreds_of_gigabytes(results: Results, shape: Shape = LLAMA_7B) -> Verdict:
    """Arithmetic on a model's parameters: no run is needed."""
    params = shape.params() / 1e9
    file = Effect(params * 2, params * 2, params * 4)
    least, most = params * LEAST_STATE_BYTES, params * MOST_STATE_BYTES
    decision = both(above(file, FILE_GB), above(Effect(least, least, most), TRAINING_GB))
    reason = Words(
        "Computed, not measured: {0:.2f} G parameters are {1:.1f} GB in 16 bit and {2:.1f} GB in"
        " 32 bit; weights, gradients and Adam's moments take {3:.0f} to {4:.0f} GB, and activations"
        " come on top",
        "计算所得,并非实测:{0:.2f} G 参数在 16 位下为 {1:.1f} GB,32 位下为 {2:.1f} GB;"
        "权重、梯度与 Adam 矩共需 {3:.0f} 至 {4:.0f} GB,激活另计",
    )
    return F1.decided(decision, file, reason.format(params, file.low, file.high, least, most))


F2 = Claim(
    id="F2",
    text=Words(
        "PEFT trains a tiny part of the parameters and comes close to full fine-tuning",
        "PEFT 只训练极小部分参数,效果接近全量微调",
    ),
    rule=Words(
        "Each PEFT method against full fine-tuning: trained share at most {0:.0%}, and metric at"
        " most {1} lower, {2}.",
        "各 PEFT 方法对比全量微调:训练参数占比不超过 {0:.0%},且主指标至多低 {1},{2}。",
    ).format(TINY_SHARE, CLOSE_POINTS, OVER_SEEDS),
)


def peft_comes_close_with_a_tiny_part(results: Results) -> Verdict:
    candidates = [
        pair for method in ("lora", *VARIANTS) for pair in pairs(results.final, method, "full")
    ]
    cases: list[Case] = []
    shares: list[float] = []
    for pair in sound(candidates):
        quality = gain(results, pair)
        share = exact(measure(run, "trained_share") for run in pair.ours.runs)
        if quality and share:
            shares.append(share.value)
            decision = both(above(quality, -CLOSE_POINTS), below(share, TINY_SHARE))
            cases.append(Case(decision, quality, pair.runs))
    note = Words(
        "they train {0:.2%} of the parameters at the most", "训练参数至多占 {0:.2%}"
    ).format(max(shares, default=0))
    any_peft = Words("a PEFT method", "某种 PEFT 方法")
    return F2.verdict(cases, lack(candidates, any_peft, "full"), note)


F3 = Claim(
    id="F3",
    text=Words(
        "A weight's information sits in a low-dimensional subspace", "权重矩阵的信息处于低维子空间"
    ),
    unit=Words("part of W's squared singular values", "W 奇异值平方和之占比"),
    rule=Words(
        "The first {0} singular values of W hold at least {1:.0%} of the sum of squares, mean over"
        " layers (full fine-tuning's W and dW).",
        "W 的前 {0} 个奇异值占平方和至少 {1:.0%}(各层平均;取自全量微调的 W 与 dW)。",
    ).format(DIRECTIONS, ENERGY_SHARE),
)


def weights_are_low_dimensional(results: Results) -> Verdict:
    full = [
        [run for run in runs if _energy(run, "weight") is not None]
        for runs in runs_of(results.final, "full")
    ]
    shares = ((runs, exact(_energy(run, "weight") for run in runs)) for runs in full)
    changes = [
        change.value for runs in full if (change := exact(_energy(run, "change") for run in runs))
    ]
    missing = Words(
        "No record holds singular values of W and of its change",
        "尚无记录包含 W 及其变化量的奇异值",
    )
    note = Words("of the change dW they hold {0:.1%}", "变化量 dW 的相应占比为 {0:.1%}")
    return F3.verdict(
        compare(shares, above, ENERGY_SHARE),
        missing,
        note.format(fmean(changes)) if changes else None,
    )


def _energy(run: Run, part: str) -> float | None:
    return run.record.metrics.get(f"energy{DIRECTIONS}.{part}")
