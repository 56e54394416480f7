"""The article's claims, judged: a function each, from the evidence in a store to supported, refuted
or undecided."""

import json
import math
from collections import defaultdict
from collections.abc import Callable, Sequence
from statistics import fmean
from typing import Any

import numpy as np
import pandas as pd
from scipy import stats as distributions

from peftbench.article import rules
from peftbench.article.evidence import (
    CONFIDENCE,
    MIN_SEEDS,
    MIN_TIMED,
    Case,
    Evidence,
    Limits,
    Outcome,
    Pair,
    Row,
    above,
    below,
    block_of,
    both,
    column,
    exact,
    gather,
    known,
    learned,
    paired,
    pairs,
    pooled,
    quality,
    ratio,
    together,
)
from peftbench.article.llama_shapes import LLAMA_7B, LLAMA_70B, Shape
from peftbench.article.rules import Words
from peftbench.article.verdict import Verdict, render
from peftbench.record import Point, Record

__all__ = ["Verdict", "render", "verdicts"]

VARIANTS = ("lora-fa", "vera", "delta-lora", "lora+")
SHAPED = ("rank", "targets")
ALIKE = (
    *SHAPED,
    "dropout",
    "train.batch_size",
    "train.dtype",
)  # what arms must share whose bytes or seconds are compared
ANY_PEFT, ANOTHER = "a PEFT method", "another method"
LENGTH = ("train.steps", "train.batch_size")


def verdicts(
    runs: pd.DataFrame,
    records: Sequence[Record],
    predictions: Callable[[str], pd.DataFrame] | None,
    rng: np.random.Generator,
) -> list[Verdict]:
    """A verdict for each of the article's claims, in its order.

    runs: frame.frame of the records. predictions: those of a run by its id (Store.predictions).
    rng: for the bootstrap.
    """
    found = gather(runs, records, predictions, rng)
    return [
        f1(),
        *(
            judge(found)
            for judge in (f2, f3, l1, l2, l3, l4, fa1, fa2, fa3, v1, v2, v3, d1, d2, p1, p2)
        ),
    ]


# -- from comparisons to a verdict
# -----------------------------------------------------------------------------------


def _verdict(claim: str, cases: Sequence[Case], lack: Words, note: Words | None = None) -> Verdict:
    """The verdict that some comparisons come to; lack: what is missing where there are none."""
    run_ids = tuple(dict.fromkeys(run_id for case in cases for run_id in case.run_ids))
    return _made(
        claim, together(cases), pooled(cases), _counted(cases, note) if cases else lack, run_ids
    )


def _counted(cases: Sequence[Case], note: Words | None) -> Words:
    supported, refuted = (
        sum(case.outcome == each for case in cases) for each in ("supported", "refuted")
    )
    counted = Words(
        f"supported in {supported} and refuted in {refuted} of {len(cases)} comparison{'s' if len(cases) > 1 else ''}",
        f"{len(cases)} 组比较中 {supported} 组支持、{refuted} 组反驳",
    )
    return counted + note if note else counted


def _made(
    claim: str, outcome: Outcome, limits: Limits | None, reason: Words, run_ids: Sequence[str]
) -> Verdict:
    what = rules.CLAIMS[claim]
    effect, low, high = limits or (None, None, None)
    return Verdict(
        claim=claim,
        text=what.text.en,
        verdict=outcome,
        effect=effect,
        low=low,
        high=high,
        unit=what.unit.en,
        rule=what.rule.en,
        reason=f"{reason.en[:1].upper()}{reason.en[1:]}.",
        run_ids=tuple(run_ids),
        zh=(what.text.zh, what.unit.zh, what.rule.zh, f"{reason.zh}。"),
    )


def _lack(candidates: Sequence[Pair], ours: str, theirs: str, need: int = 1) -> Words:
    """Why nothing of what was found can be judged."""
    zh = {ANY_PEFT: "某种 PEFT 方法", ANOTHER: "其他方法"}.get(ours, ours)
    most = max((pair.seeds for pair in candidates), default=0)
    if not most:
        return Words(
            f"no runs of {ours} and {theirs} on a test split are done and comparable",
            f"没有 {zh} 与 {theirs} 在测试集上已完成且可比的运行",
        )
    if most < need:
        return Words(
            f"it takes {need} seeds that both {ours} and {theirs} have, and there are at most {most}",
            f"需要 {zh} 与 {theirs} 共有 {need} 个种子,目前最多 {most} 个",
        )
    if need == MIN_SEEDS:
        return Words(
            f"in no block with enough seeds do {ours} and {theirs} score above the frozen model as the rule asks and differ by a known "
            "interval",
            f"种子足够的分组中,{zh} 与 {theirs} 未按规则要求胜过冻结模型,或其差异没有可知的区间",
        )
    return Words("the records lack the numbers", "记录中缺少所需数值")


def _sound(found: Evidence, candidates: Sequence[Pair]) -> list[Pair]:
    """The pairs with enough seeds of which one arm at least learned something."""
    return [
        pair
        for pair in candidates
        if pair.seeds >= MIN_SEEDS and (learned(found, pair.ours) or learned(found, pair.theirs))
    ]


def _both_learned(found: Evidence, pair: Pair) -> bool:
    return learned(found, pair.ours) and learned(found, pair.theirs)


def _quality(
    found: Evidence, candidates: Sequence[Pair], threshold: float
) -> list[tuple[Pair, Case]]:
    """Whether the difference of the primary metric is at least the threshold, pair by pair."""
    sound = _sound(found, candidates)
    judged = zip(sound, quality(found, sound), strict=True)
    return [
        (pair, Case(above(limits, threshold), limits, pair.run_ids))
        for pair, limits in judged
        if limits
    ]


def _ids(rows: Sequence[Row]) -> tuple[str, ...]:
    return tuple(row["run_id"] for row in rows)


def _share(rows: Sequence[Row]) -> np.ndarray:
    """The trained parameters as a part of the model's, the head left out of both."""
    return column(rows, "trained_params") / (
        column(rows, "total_params") - column(rows, "head_params")
    )


# -- why not full fine-tuning
# ----------------------------------------------------------------------------------------


def f1(shape: Shape = LLAMA_7B) -> Verdict:
    """Arithmetic on a model's parameters; no run is needed."""
    params = shape.params() / 1e9
    file = params * 2, params * 2, params * 4
    least, most = (params * each for each in rules.STATE_BYTES)
    outcome = both(above(file, rules.FILE_GB), above((least, least, most), rules.TRAINING_GB))
    reason = Words(
        f"computed, not measured: {params:.2f} G parameters are {file[0]:.1f} GB in 16 bit and {file[2]:.1f} GB in 32 bit; weights, "
        f"gradients and Adam's moments take {least:.0f} to {most:.0f} GB, and activations come on top",
        f"计算所得,并非实测:{params:.2f} G 参数在 16 位下为 {file[0]:.1f} GB,32 位下为 {file[2]:.1f} GB;"
        f"权重、梯度与 Adam 矩共需 {least:.0f} 至 {most:.0f} GB,激活另计",
    )
    return _made("F1", outcome, file, reason, ())


def f2(found: Evidence) -> Verdict:
    candidates = [pair for method in ("lora", *VARIANTS) for pair in pairs(found, method, "full")]
    cases: list[Case] = []
    shares: list[float] = []
    for pair, case in _quality(found, candidates, -rules.CLOSE):
        if share := exact(_share(pair.ours)):
            shares.append(share[0])
            cases.append(
                Case(both(case.outcome, below(share, rules.TINY)), case.limits, case.run_ids)
            )
    note = (
        Words(
            f"they train {max(shares):.2%} of the parameters at the most",
            f"训练参数至多占 {max(shares):.2%}",
        )
        if shares
        else None
    )
    return _verdict("F2", cases, _lack(candidates, ANY_PEFT, "full", MIN_SEEDS), note)


def f3(found: Evidence) -> Verdict:
    weight, change = (f"metric.energy{rules.DIRECTIONS}.{part}" for part in ("weight", "change"))
    cases: list[Case] = []
    changes: list[float] = []
    for rows in found.blocks("full"):
        having = [
            row for row in rows if {weight, change} <= row.keys() and not pd.isna(row[weight])
        ]
        if limits := exact(column(having, weight)):
            cases.append(Case(above(limits, rules.ENERGY), limits, _ids(having)))
            changes.append(float(column(having, change).mean()))
    lack = Words(
        "no record holds singular values of W and of its change",
        "尚无记录包含 W 及其变化量的奇异值",
    )
    note = (
        Words(
            f"of the change dW they hold {fmean(changes):.1%}",
            f"变化量 dW 的相应占比为 {fmean(changes):.1%}",
        )
        if changes
        else None
    )
    return _verdict("F3", cases, lack, note)


# -- LoRA
# ------------------------------------------------------------------------------------------------------------


def l1(found: Evidence) -> Verdict:
    arms: defaultdict[tuple[str, str], list[Row]] = defaultdict(list)
    for block in found.blocks("lora"):
        for row in known(block, "trained_params", "total_params"):
            arms[row["model"], row["args"]].append(row)
    judged = [(rows, exact(1 - _share(rows))) for rows in arms.values()]
    cases = [
        Case(above(limits, rules.REDUCTION), limits, _ids(rows))
        for rows, limits in judged
        if limits
    ]
    return _verdict(
        "L1",
        cases,
        Words("no run of LoRA on a test split is done", "没有在测试集上完成的 LoRA 运行"),
    )


def l2(found: Evidence) -> Verdict:
    blocks = [known(block, "latency.base", "latency.merged") for block in found.blocks("lora")]
    judged = [(rows, _latency(rows)) for rows in blocks]
    cases = [
        Case(below(limits, rules.LATENCY), limits, _ids(rows)) for rows, limits in judged if limits
    ]
    most = max(map(len, blocks), default=0)
    lack = Words(
        f"it takes {MIN_TIMED} runs of LoRA in a block, and there are at most {most}",
        f"同组需要 {MIN_TIMED} 次 LoRA 运行,目前最多 {most} 次",
    )
    return _verdict("L2", cases, lack)


def _latency(rows: Sequence[Row]) -> Limits | None:
    """Merged against base over runs, with the wider of two intervals: from the spread between runs,
    and from that within them."""
    between = ratio(column(rows, "latency.merged"), column(rows, "latency.base"), MIN_TIMED)
    if between is None:
        return None
    variance = sum(
        (1.2533 * column(rows, f"{name}.iqr") / 1.349 / column(rows, name)) ** 2
        / column(rows, f"{name}.n")
        for name in ("latency.base", "latency.merged")
        # of the logarithm of a median of normal times: sigma is iqr / 1.349, and a median's error
        # 1.2533 sigma / sqrt(n)
    )
    error = math.sqrt(float(np.sum(variance))) / len(rows)
    half = max(
        error * float(distributions.norm.ppf((1 + CONFIDENCE) / 2)),
        math.log(between[2] / between[0]),
    )
    return between[0], between[0] * math.exp(-half), between[0] * math.exp(half)


def l3(found: Evidence, shape: Shape = LLAMA_70B) -> Verdict:
    rows = [
        row
        for block in found.blocks("lora")
        for row in known(block, "adapter_file_bytes")
        if row["trained_params"] > 0
    ]
    least, most = shape.lora(rules.LLAMA_RANK, ("q", "v")), shape.lora(rules.LLAMA_RANK)
    each = column(rows, "adapter_file_bytes") / (
        column(rows, "trained_params") + column(rows, "head_params")
    )
    sizes = [2.0, 4.0, *([float(np.median(each))] if rows else [])]
    low, high = least * min(sizes) / 1e6, most * max(sizes) / 1e6
    reason = Words(
        f"computed from layers x rank x sum(in + out) for {shape.layers} layers of width {shape.hidden} and rank {rules.LLAMA_RANK}: "
        f"{least * 2 / 1e6:.1f} MB (q and v, 16 bit) to {most * 4 / 1e6:.0f} MB (all linear layers, 32 bit); "
        f"the effect is that of all linear layers in 16 bit",
        f"按 层数 × 秩 × Σ(in + out) 计算({shape.layers} 层、宽 {shape.hidden}、秩 {rules.LLAMA_RANK}):"
        f"{least * 2 / 1e6:.1f} MB(q、v,16 位)至 {most * 4 / 1e6:.0f} MB(全部线性层,32 位);效应为全部线性层、16 位",
    )
    if rows:
        reason += Words(
            f"adapter files in the store take {sizes[2]:.2f} bytes a trained parameter",
            f"库中适配器文件每个训练参数占 {sizes[2]:.2f} 字节",
        )
    limits = most * 2 / 1e6, low, high
    return _made("L3", below(limits, rules.FEW_MB), limits, reason, _ids(rows))


def l4(found: Evidence) -> Verdict:
    candidates = [
        pair
        for method in VARIANTS
        for pair in pairs(found, method, "lora", statuses=("done", "diverged"))
    ]
    cases = [
        case for pair in candidates if pair.seeds >= MIN_SEEDS and (case := _stability(found, pair))
    ]
    return _verdict("L4", cases, _lack(candidates, ANOTHER, "lora", MIN_SEEDS))


def _stability(found: Evidence, pair: Pair) -> Case | None:
    """Their standard deviation over seeds against LoRA's with the F interval; a significant
    difference in diverged runs goes first."""
    done = [[row for row in rows if row["status"] == "done"] for rows in (pair.ours, pair.theirs)]
    ours, theirs = (column(known(rows, "metric"), "metric") for rows in done)
    limits: Limits | None = None
    if (
        min(len(ours), len(theirs)) >= MIN_SEEDS
        and ours.std() > 0
        and theirs.std() > 0
        and _both_learned(found, pair)
    ):
        spread = float(ours.std(ddof=1) / theirs.std(ddof=1))
        quantiles = distributions.f.ppf(
            [(1 + CONFIDENCE) / 2, (1 - CONFIDENCE) / 2], len(ours) - 1, len(theirs) - 1
        )
        low, high = (spread / math.sqrt(float(quantile)) for quantile in quantiles)
        limits = spread, low, high
    lost = [pair.seeds - len(rows) for rows in done]
    test: Any = distributions.fisher_exact(
        [[lost[0], pair.seeds - lost[0]], [lost[1], pair.seeds - lost[1]]]
    )
    if test.pvalue <= 1 - CONFIDENCE:
        return Case("supported" if lost[0] > lost[1] else "refuted", limits, pair.run_ids)
    return Case(above(limits, 1), limits, pair.run_ids) if limits else None


# -- LoRA-FA
# ---------------------------------------------------------------------------------------------------------


def fa1(found: Evidence) -> Verdict:
    candidates = pairs(found, "lora-fa", "lora", same=ALIKE)
    cases: list[Case] = []
    kept: list[float] = []
    for pair in candidates:
        if limits := exact(column(pair.ours, "peak_bytes") / column(pair.theirs, "peak_bytes")):
            cases.append(Case(below(limits, rules.MEMORY), limits, pair.run_ids))
        gap, activations = (
            float(np.nansum(column(pair.theirs, name) - column(pair.ours, name)))
            for name in ("peak_bytes", "peak.activations")
        )
        if gap > 0:
            kept.append(activations / gap)
    method, cast = LLAMA_7B.kept(), LLAMA_7B.kept_cast()
    note = Words(
        "records hold neither the layers' sizes nor the tokens at the peak, so that the closed form cannot be set against these runs; for "
        f"Llama-2-7B in 16 bit, all linear layers adapted, it gives {method:,} bytes a token and layer that the method saves and {cast:,} "
        f"where an implementation keeps x for each layer in float32: {method / cast:.0%} of that gap is the method, the rest is not",
        "记录中没有层的尺寸与峰值时的词元数,闭式无法与这些运行直接对照;对 16 位、适配全部线性层的 Llama-2-7B,"
        f"闭式给出每词元每层方法节省 {method:,} 字节,若实现为每层另存 float32 的 x 则为 {cast:,} 字节:"
        f"其中 {method / cast:.0%} 来自方法,其余来自实现",
    )
    if kept:
        note = (
            Words(
                f"activations are {fmean(kept):.0%} of the gap in bytes",
                f"字节差额中激活占 {fmean(kept):.0%}",
            )
            + note
        )
    return _verdict("FA1", cases, _lack(candidates, "lora-fa", "lora"), note)


def fa2(found: Evidence) -> Verdict:
    candidates = pairs(found, "lora-fa", "lora", same=ALIKE)
    speed = "tokens_per_second"
    ratios = [
        (pair, ratio(column(pair.ours, speed), column(pair.theirs, speed), MIN_TIMED))
        for pair in candidates
    ]
    cases = [
        Case(above(limits, rules.FASTER), limits, pair.run_ids) for pair, limits in ratios if limits
    ]
    return _verdict("FA2", cases, _lack(candidates, "lora-fa", "lora", MIN_TIMED))


def fa3(found: Evidence) -> Verdict:
    candidates = pairs(found, "lora-fa", "lora", same=SHAPED)
    cases = [case for _, case in _quality(found, candidates, -rules.LOSS)]
    return _verdict("FA3", cases, _lack(candidates, "lora-fa", "lora", MIN_SEEDS))


# -- VeRA
# ------------------------------------------------------------------------------------------------------------


def v1(found: Evidence) -> Verdict:
    candidates = pairs(found, "vera", "lora", same=("targets",))
    counts = [
        (pair, exact(column(pair.ours, "trained_params") / column(pair.theirs, "trained_params")))
        for pair in candidates
    ]
    cases = [
        Case(below(limits, rules.VERY_FEW), limits, pair.run_ids)
        for pair, limits in counts
        if limits
    ]
    return _verdict("V1", cases, _lack(candidates, "vera", "lora"))


def v2(found: Evidence) -> Verdict:
    candidates = pairs(found, "vera", "lora", same=("targets", *LENGTH))
    cases: list[Case] = []
    behind: list[float] = []
    for pair in _sound(found, candidates):
        if not _both_learned(found, pair):
            continue
        ours, theirs = (
            np.array([_end(found.record(row).curve) for row in rows])
            for rows in (pair.ours, pair.theirs)
        )
        if limits := paired(
            column(pair.theirs, "nll") - theirs, column(pair.ours, "nll") - ours, MIN_SEEDS
        ):
            cases.append(Case(above(limits, rules.GAP), limits, pair.run_ids))
            behind.append(float(np.nanmean(ours - theirs)))
    note = None
    if behind:
        note = Words(
            f"VeRA's training nll ends {fmean(behind):+.3f} from LoRA's, and what was not learned cannot be overfitted",
            f"VeRA 的训练 nll 末值与 LoRA 相差 {fmean(behind):+.3f},没学到的也谈不上过拟合",
        )
    return _verdict("V2", cases, _lack(candidates, "vera", "lora", MIN_SEEDS), note)


def _end(curve: Sequence[Point]) -> float:
    """The mean training loss over the end of a curve; NaN if it is too short."""
    losses = [point.train_loss for point in curve if point.train_loss is not None]
    return (
        fmean(losses[-math.ceil(rules.TAIL * len(losses)) :])
        if len(losses) >= rules.POINTS
        else math.nan
    )


def v3(found: Evidence) -> Verdict:
    sized: defaultdict[str, list[tuple[float, Pair]]] = defaultdict(list)
    for pair in pairs(found, "vera", "lora", same=("targets",)):
        row = pair.ours[0]
        data = json.loads(row["data"])
        size = data.pop("train")
        sized[json.dumps([data, *block_of(row | {"data": ""})])].append(
            (math.inf if size is None else size, pair)
        )
    least = [
        min(group, key=lambda each: each[0])
        for group in sized.values()
        if len({size for size, _ in group}) > 1
    ]
    few = [pair for size, pair in least if size <= rules.FEW_SAMPLES]
    cases = [case for _, case in _quality(found, few, rules.GAIN)]
    lack = Words(
        f"on no task were vera and lora trained with several numbers of examples, the least of them {rules.FEW_SAMPLES} or fewer",
        f"没有任务以多种训练样本数(最少者不超过 {rules.FEW_SAMPLES})训练过 vera 与 lora",
    )
    return _verdict("V3", cases, _lack(few, "vera", "lora", MIN_SEEDS) if few else lack)


# -- Delta-LoRA
# ------------------------------------------------------------------------------------------------------


def d1(found: Evidence) -> Verdict:
    def control(ours: Row, theirs: Row) -> bool:
        return math.isclose((1 + ours["lambda"]) * ours["alpha"], theirs["alpha"], rel_tol=1e-6)

    hard = found.on(rules.MATHS_AND_CODE)
    plain = pairs(
        hard,
        "delta-lora",
        "lora",
        same=SHAPED,
        usable=lambda ours, theirs: not control(ours, theirs),
    )
    controlled = pairs(hard, "delta-lora", "lora", same=SHAPED, usable=control)
    against = {
        block_of(pair.ours[0]): case for pair, case in _quality(hard, controlled, rules.GAIN)
    }
    cases: list[Case] = []
    for pair, case in _quality(hard, plain, rules.GAIN):
        other = against.get(block_of(pair.ours[0]))
        if other and case.limits and other.limits:
            effect, low, high = (min(each) for each in zip(case.limits, other.limits, strict=True))
            run_ids = tuple(dict.fromkeys((*case.run_ids, *other.run_ids)))
            cases.append(Case(both(case.outcome, other.outcome), (effect, low, high), run_ids))
    if plain and not controlled:
        lack = Words(
            "there is no LoRA with alpha x (1 + lambda) beside Delta-LoRA",
            "没有 alpha × (1 + lambda) 的 LoRA 作对照",
        )
    else:
        lack = _lack(
            min(
                (plain, controlled), key=lambda each: max((pair.seeds for pair in each), default=0)
            ),
            "delta-lora",
            "lora",
            MIN_SEEDS,
        )
    return _verdict("D1", cases, lack)


def d2(found: Evidence) -> Verdict:
    candidates = pairs(found, "delta-lora", "lora", same=SHAPED)
    cases: list[Case] = []
    files: list[float] = []
    updated: list[float] = []
    for pair in candidates:
        ours, theirs = (column(rows, "adapter_file_bytes") for rows in (pair.ours, pair.theirs))
        if limits := exact((ours - theirs) / column(pair.theirs, "peak.weights")):
            little, not_at_all = (
                limits[1] > 0 and limits[2] <= rules.GROWTH,
                limits[2] <= 0 or limits[1] > rules.GROWTH,
            )
            cases.append(
                Case(
                    "supported" if little else "refuted" if not_at_all else "undecided",
                    limits,
                    pair.run_ids,
                )
            )
            files.append(float(np.nanmean(ours / theirs)))
            updated.append(
                float(
                    np.nanmean(
                        column(pair.ours, "updatable_params")
                        / column(pair.theirs, "updatable_params")
                    )
                )
            )
    note = None
    if files:
        note = Words(
            f"what is stored is {fmean(files):.2f} times LoRA's adapter and {fmean(updated):.1f} times as many parameters change their "
            "value; merged into the model, neither makes it larger",
            f"需存储的文件是 LoRA 适配器的 {fmean(files):.2f} 倍,值有变化的参数是其 {fmean(updated):.1f} 倍;合并后两者都不使模型变大",
        )
    return _verdict("D2", cases, _lack(candidates, "delta-lora", "lora"), note)


# -- LoRA+
# -----------------------------------------------------------------------------------------------------------


def p1(found: Evidence) -> Verdict:
    candidates = pairs(found, "lora+", "lora", same=LENGTH)
    tuned = _equally_tuned(found, candidates)
    cases: list[Case] = []
    for pair in _sound(found, tuned):
        curves = [
            (found.record(one).curve, found.record(other).curve)
            for one, other in zip(pair.ours, pair.theirs, strict=True)
        ]
        steps = np.array([_reached(*each) for each in curves])
        if limits := ratio(steps[:, 1], steps[:, 0], MIN_SEEDS):
            cases.append(Case(above(limits, rules.FASTER), limits, pair.run_ids))
    return _verdict("P1", cases, _untuned(candidates, tuned))


def p2(found: Evidence) -> Verdict:
    candidates = pairs(found, "lora+", "lora")
    tuned = _equally_tuned(found, candidates)
    judged = _quality(found, tuned, rules.GAIN)
    tasks = {pair.ours[0]["task"] for pair, _ in judged}
    cases = [case for _, case in judged]
    if len(tasks) >= rules.SEVERAL or not cases:
        return _verdict("P2", cases, _untuned(candidates, tuned))
    few = Words(
        f"it takes {rules.SEVERAL} tasks, and there is {len(tasks)}",
        f"需要 {rules.SEVERAL} 个任务,目前 {len(tasks)} 个",
    )
    run_ids = dict.fromkeys(run_id for case in cases for run_id in case.run_ids)
    return _made("P2", "undecided", pooled(cases), _counted(cases, few), tuple(run_ids))


def _equally_tuned(found: Evidence, candidates: Sequence[Pair]) -> list[Pair]:
    return [
        pair
        for pair in candidates
        if (trials := found.trials(pair.ours)) is not None and trials == found.trials(pair.theirs)
    ]


def _untuned(candidates: Sequence[Pair], tuned: Sequence[Pair]) -> Words:
    if candidates and not tuned:
        return Words(
            "no block has both methods tuned with equally many trials",
            "没有两种方法以相同试验次数调参的分组",
        )
    return _lack(tuned, "lora+", "lora", MIN_SEEDS)


def _reached(ours: Sequence[Point], theirs: Sequence[Point]) -> tuple[float, float]:
    """The steps after which each curve first has a smoothed training loss as low as theirs has at
    its end; NaN where a curve is too short, and one step past the end where it is never reached."""
    curves = _smooth(ours), _smooth(theirs)
    if not all(curves):
        return math.nan, math.nan
    target = curves[1][-1][1]
    one, other = (
        next((step for step, loss in curve if loss <= target), curve[-1][0] + 1) for curve in curves
    )
    return float(one), float(other)


def _smooth(curve: Sequence[Point]) -> list[tuple[int, float]]:
    """(step, mean training loss over the window that ends there) once the window is full; empty if
    the curve is too short."""
    points = [(point.step, point.train_loss) for point in curve if point.train_loss is not None]
    window = math.ceil(rules.TAIL * len(points))
    ends = range(window, len(points) + 1) if len(points) >= rules.POINTS else ()
    return [
        (points[end - 1][0], fmean(loss for _, loss in points[end - window : end])) for end in ends
    ]
