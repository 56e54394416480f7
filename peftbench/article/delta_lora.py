"""Delta-LoRA against LoRA: maths and code (D1), what must be stored (D2)."""

import math
from collections.abc import Callable
from statistics import fmean
from typing import TypeGuard

from peftbench.analysis.blocks import Run, Value
from peftbench.analysis.measures import measure
from peftbench.analysis.results import Results
from peftbench.article.claim import (
    MIN_SEEDS,
    OVER_SEEDS,
    SEVERAL_TASKS,
    Case,
    Claim,
    Decision,
    Effect,
    Verdict,
    above,
    below,
    both,
    compare,
)
from peftbench.article.llama import LLAMA_7B, LLAMA_70B, called, llama
from peftbench.article.pairs import (
    SHAPE,
    Pair,
    Settings,
    equally_tuned,
    exact,
    lack,
    less,
    most_seeds,
    once_for_each_model,
    pairs,
)
from peftbench.article.quality import GAIN, Quality, difference, in_words, quality_verdict
from peftbench.wording import Words

MATHS_AND_CODE = ("gsm8k", "gsm_symbolic", "humaneval", "mbpp", "stdlib_code")
GROWTH_SHARE = 0.05  # of the plain model's bytes: the most that is called a little


D1 = Claim(
    id="D1",
    text=Words("Delta-LoRA is better on maths and code", "Delta-LoRA 在数学、代码任务上更好"),
    rule=Words(
        "On {0}: at least {1} better than LoRA and than LoRA with alpha x (1 + lambda), at equal"
        " trials, on at least {2} tasks, {3}; the effect is the smaller of the two. W must move"
        " from a step K > 0 on: from the start, it is LoRA with alpha x (1 + lambda).",
        "在 {4} 上:比 LoRA 以及 alpha × (1 + lambda) 的 LoRA 都至少好 {1},调参次数相同,"
        "至少 {2} 个任务,{3};效应取二者中较小者。W 须从 K > 0 步起更新:"
        "若从头更新,即为 alpha × (1 + lambda) 的 LoRA。",
    ).format(
        ", ".join(MATHS_AND_CODE),
        in_words(GAIN),
        SEVERAL_TASKS,
        OVER_SEEDS,
        "、".join(MATHS_AND_CODE),
    ),
)
MOVES_FROM_THE_START = Words(
    "Every run of delta-lora has K = 0 or ends before step K, where it is LoRA",
    "delta-lora 的运行均为 K = 0 或在第 K 步前结束,即等同 LoRA",
)


def is_better_on_maths_and_code(results: Results) -> Verdict:
    """Against LoRA, and against LoRA with the step size that Delta-LoRA's update of W amounts
    to."""
    blocks = [block for block in results.final if block.question.task in MATHS_AND_CODE]
    everything = pairs(blocks, "delta-lora", "lora", SHAPE)

    def paired(usable: Callable[[Settings, Settings], bool]) -> list[Pair]:
        return pairs(blocks, "delta-lora", "lora", SHAPE, usable=usable, fair=equally_tuned)

    plain = paired(lambda ours, theirs: _moves_later(ours) and not _control(ours, theirs))
    controlled = paired(lambda ours, theirs: _moves_later(ours) and _control(ours, theirs))
    controls = {pair.block: pair for pair in controlled}
    quality = Quality(results, GAIN)

    def judge(pair: Pair, name: Value) -> Case | None:
        control = controls.get(pair.block)
        if control is None or not (quality.comparable(pair, name) and control.seeds >= MIN_SEEDS):
            return None
        gains = [difference(results, one, name) for one in (pair, control)]
        known = [gain for gain in gains if gain]
        if len(known) < len(gains):
            return None
        effects = [((*pair.runs, *control.runs), Effect(*map(min, *known)))]
        return compare(effects, above, GAIN.of(pair.runs, name))[0]

    missing = Words(
        "There is no LoRA with alpha x (1 + lambda) beside Delta-LoRA",
        "没有 alpha × (1 + lambda) 的 LoRA 作对照",
    )
    if everything and not any(_moves_later(pair.ours.settings) for pair in everything):
        missing = MOVES_FROM_THE_START
    elif controlled or not plain:
        missing = lack(
            min(plain, controlled, key=most_seeds), "delta-lora", "lora", unfair=everything
        )
    return quality_verdict(D1, plain, judge, missing)


def _control(ours: Settings, theirs: Settings) -> bool:
    ratio, alpha, other = ours.get("lambda"), ours.get("alpha"), theirs.get("alpha")
    if not (_is_number(ratio) and _is_number(alpha) and _is_number(other)):
        return False
    return math.isclose((1 + ratio) * alpha, other, rel_tol=1e-6)


def _moves_later(settings: Settings) -> bool:
    """Whether W moves from a step K > 0 on that the run reaches."""
    start = settings.get("start_step")
    return _is_number(start) and 0 < start < settings["train.steps"]


def _is_number(value: object) -> TypeGuard[int | float]:
    """A record of another origin may lack an argument, or hold anything there."""
    return isinstance(value, int | float)


D2 = Claim(
    id="D2",
    text=Words("With Delta-LoRA the model grows a little", "Delta-LoRA 使模型略微变大"),
    unit=Words("extra bytes to store, part of the model's", "额外存储字节占模型之比"),
    rule=Words(
        "Bytes stored beside the plain model, less LoRA's at equal rank and targets, once for each"
        " model: above 0 and at most {0:.0%} of the weights' bytes. K > 0, as in D1.",
        "秩与目标层相同时,模型之外需存储的字节减去 LoRA 的,每个模型计一次:"
        "大于 0 且不超过权重字节的 {0:.0%}。同 D1,须 K > 0。",
    ).format(GROWTH_SHARE),
)


def grows_the_model_a_little(results: Results) -> Verdict:
    everything = pairs(results.costs, "delta-lora", "lora", SHAPE)
    later = pairs(
        results.costs, "delta-lora", "lora", SHAPE, usable=lambda ours, _: _moves_later(ours)
    )
    candidates = once_for_each_model(later)
    growths = ((pair.runs, exact(_growth(*runs) for runs in pair.by_seed)) for pair in candidates)
    files, updated = (
        [ratio for pair in candidates for ratio in pair.ratios(name)]
        for name in ("adapter_file_bytes", "updatable_params")
    )
    note = Words(
        "stored as factors, what moved W is in an adapter {0:.2f} times as large as LoRA's; stored"
        " as W itself, as the paper's form does, all {1:.1f} times as many parameters that change"
        " their value are stored again; merged into the model, neither makes it larger",
        "以因子存储时,适配器为 LoRA 的 {0:.2f} 倍;按论文形式存储 W 本身时,值有变化的参数"
        "(LoRA 的 {1:.1f} 倍)须全部另存;合并后两者都不使模型变大",
    )
    measured = [note.format(fmean(files), fmean(updated))] if files and updated else []
    missing = lack(candidates, "delta-lora", "lora", 1)
    return D2.verdict(
        compare(growths, _a_little, GROWTH_SHARE, counted=True),
        MOVES_FROM_THE_START if everything and not later else missing,
        Words.joined([*measured, *map(_at_scale, (LLAMA_7B, LLAMA_70B))]),
    )


def _at_scale(model: str) -> Words:
    """What must be stored beside a model that nobody here has trained, where W moves from a later
    step on."""
    lora, delta = llama(model, "lora"), llama(model, "delta-lora", {"start_step": 100})
    assert lora.adapter_file_bytes
    assert delta.adapter_file_bytes
    return Words(
        "by forecast for {0} the adapter takes {1:.0f} MB, LoRA's {2:.0f} MB: {3:.2%} of the"
        " weights in 16 bit more",
        "据估算,{0} 的适配器为 {1:.0f} MB,LoRA 为 {2:.0f} MB:多出 16 位权重的 {3:.2%}",
    ).format(
        called(model),
        *(delta.adapter_file_bytes / 1e6, lora.adapter_file_bytes / 1e6),
        (delta.adapter_file_bytes - lora.adapter_file_bytes) / (2 * lora.total_params),
    )


def _growth(ours: Run, theirs: Run) -> float | None:
    """The bytes that are stored beside the model beyond LoRA's, as a part of the weights' bytes."""
    extra = less(measure(ours, "adapter_file_bytes"), measure(theirs, "adapter_file_bytes"))
    weights = measure(theirs, "peak.weights")
    return extra / weights if extra is not None and weights else None


def _a_little(growth: Effect, most: float) -> Decision:
    """Above 0 and at most `most`."""
    return both(above(growth, math.ulp(0.0)), below(growth, most))
