"""Delta-LoRA against LoRA: maths and code (D1), what must be stored (D2)."""

import math
from statistics import fmean

from peftbench.analysis.blocks import Run
from peftbench.analysis.measures import measure
from peftbench.analysis.results import Results
from peftbench.article.claim import (
    GAIN_POINTS,
    OVER_SEEDS,
    Claim,
    Decision,
    Effect,
    Verdict,
    above,
    below,
    both,
    compare,
)
from peftbench.article.pairs import (
    SHAPE,
    Settings,
    exact,
    gain,
    lack,
    less,
    most_seeds,
    pairs,
    sound,
)
from peftbench.wording import Words

MATHS_AND_CODE = ("gsm8k", "gsm_symbolic", "humaneval", "mbpp", "stdlib_code")
GROWTH_SHARE = 0.05  # of the plain model's bytes: the most that is called a little


D1 = Claim(
    id="D1",
    text=Words("Delta-LoRA is better on maths and code", "Delta-LoRA 在数学、代码任务上更好"),
    rule=Words(
        "On {0}: metric at least {2} above LoRA's and above that of LoRA with alpha x (1 + lambda),"
        " {3}; the effect is the smaller of the two.",
        "在 {1} 上:主指标比 LoRA 以及 alpha × (1 + lambda) 的 LoRA 都至少高 {2},{3};"
        "效应取二者中较小者。",
    ).format(", ".join(MATHS_AND_CODE), "、".join(MATHS_AND_CODE), GAIN_POINTS, OVER_SEEDS),
)


def is_better_on_maths_and_code(results: Results) -> Verdict:
    """Against LoRA, and against LoRA with the step size that Delta-LoRA's update of W amounts
    to."""
    blocks = [block for block in results.final if block.question.task in MATHS_AND_CODE]
    plain = pairs(
        blocks, "delta-lora", "lora", SHAPE, usable=lambda ours, theirs: not _control(ours, theirs)
    )
    controlled = pairs(blocks, "delta-lora", "lora", SHAPE, usable=_control)
    controls = {pair.block: pair for pair in sound(controlled)}
    gains: list[tuple[tuple[Run, ...], Effect]] = []
    for pair in sound(plain):
        control = controls.get(pair.block)
        if control and (ours := gain(results, pair)) and (other := gain(results, control)):
            gains.append(((*pair.runs, *control.runs), Effect(*map(min, ours, other))))
    missing = Words(
        "There is no LoRA with alpha x (1 + lambda) beside Delta-LoRA",
        "没有 alpha × (1 + lambda) 的 LoRA 作对照",
    )
    if controlled or not plain:
        missing = lack(min(plain, controlled, key=most_seeds), "delta-lora", "lora")
    return D1.verdict(compare(gains, above, GAIN_POINTS), missing)


def _control(ours: Settings, theirs: Settings) -> bool:
    return math.isclose((1 + ours["lambda"]) * ours["alpha"], theirs["alpha"], rel_tol=1e-6)


D2 = Claim(
    id="D2",
    text=Words("With Delta-LoRA the model grows a little", "Delta-LoRA 使模型略微变大"),
    unit=Words("extra bytes to store, part of the model's", "额外存储字节占模型之比"),
    rule=Words(
        "Bytes stored beside the plain model, less LoRA's at equal rank and targets: above 0 and at"
        " most {0:.0%} of the weights' bytes.",
        "秩与目标层相同时,模型之外需存储的字节减去 LoRA 的:大于 0 且不超过权重字节的 {0:.0%}。",
    ).format(GROWTH_SHARE),
)


def grows_the_model_a_little(results: Results) -> Verdict:
    candidates = pairs(results.costs, "delta-lora", "lora", SHAPE)
    growths = ((pair.runs, exact(_growth(*runs) for runs in pair.by_seed)) for pair in candidates)
    files, updated = (
        [ratio for pair in candidates for ratio in pair.ratios(name)]
        for name in ("adapter_file_bytes", "updatable_params")
    )
    note = Words(
        "what is stored is {0:.2f} times LoRA's adapter and {1:.1f} times as many parameters change"
        " their value; merged into the model, neither makes it larger",
        "需存储的文件是 LoRA 适配器的 {0:.2f} 倍,值有变化的参数是其 {1:.1f} 倍;"
        "合并后两者都不使模型变大",
    )
    return D2.verdict(
        compare(growths, _a_little, GROWTH_SHARE),
        lack(candidates, "delta-lora", "lora", 1),
        note.format(fmean(files), fmean(updated)) if files and updated else None,
    )


def _growth(ours: Run, theirs: Run) -> float | None:
    """The bytes that are stored beside the model beyond LoRA's, as a part of the weights' bytes."""
    extra = less(measure(ours, "adapter_file_bytes"), measure(theirs, "adapter_file_bytes"))
    weights = measure(theirs, "peak.weights")
    return extra / weights if extra is not None and weights else None


def _a_little(growth: Effect, most: float) -> Decision:
    """Above 0 and at most `most`."""
    return both(above(growth, math.ulp(0.0)), below(growth, most))
