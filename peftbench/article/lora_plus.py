"""LoRA+ against LoRA: convergence (P1), final metrics (P2)."""

from peftbench.analysis.blocks import Run
from peftbench.analysis.loss_curves import TAIL, curve, steps_to_reach
from peftbench.analysis.results import Results
from peftbench.article.claim import (
    FASTER_TIMES,
    GAIN_POINTS,
    OVER_SEEDS,
    Claim,
    Verdict,
    above,
    compare,
)
from peftbench.article.pairs import Pair, compare_quality, lack, mean_ratio, pairs, sound, trials
from peftbench.wording import Words

SEVERAL_TASKS = 2  # the least that are called several benchmarks


P1 = Claim(
    id="P1",
    text=Words("LoRA+ converges faster", "LoRA+ 收敛更快"),
    unit=Words(
        "steps to LoRA's final loss, LoRA / LoRA+", "达到 LoRA 最终损失的步数之比,LoRA / LoRA+"
    ),
    rule=Words(
        "Steps until the training loss, smoothed over {0:.0%} of the curve, is as low as LoRA's at"
        " its end (never: one past the end): LoRA takes at least {1} times as many, both tuned with"
        " equally many trials, at equal steps and batch, {2}.",
        "训练损失(按曲线 {0:.0%} 平滑)达到 LoRA 末值所需步数(未达到则计为末步加一):"
        "LoRA 至少为 {1} 倍;两者调参试验次数、步数与批大小相同,{2}。",
    ).format(TAIL, FASTER_TIMES, OVER_SEEDS),
)


def converges_faster(results: Results) -> Verdict:
    tuned, missing = _equally_tuned(results)
    speeds = (
        (pair.runs, mean_ratio(_speed(*runs) for runs in pair.by_seed)) for pair in sound(tuned)
    )
    cases = compare(speeds, above, FASTER_TIMES)
    return P1.verdict(cases, missing)


def _speed(ours: Run, theirs: Run) -> float | None:
    """The steps after which LoRA reaches its final loss, by those after which LoRA+ does."""
    plus, lora = curve(ours, "train_loss"), curve(theirs, "train_loss")
    own, reached = steps_to_reach(lora, lora), steps_to_reach(plus, lora)
    return own.steps / reached.steps if own and reached else None


def _equally_tuned(results: Results) -> tuple[list[Pair], Words]:
    """The pairs whose arms were both tuned, with equally many trials; and what is missing where
    none of them can be judged."""
    candidates = pairs(results.final, "lora+", "lora")
    tuned = [
        pair
        for pair in candidates
        if trials(pair.ours) and trials(pair.ours) == trials(pair.theirs)
    ]
    if tuned or not candidates:
        return tuned, lack(tuned, "lora+", "lora")
    return tuned, Words(
        "No block has both methods tuned with equally many trials",
        "没有两种方法以相同试验次数调参的分组",
    )


P2 = Claim(
    id="P2",
    text=Words(
        "LoRA+ ends with higher metrics on several benchmarks", "LoRA+ 在多个基准上最终指标更高"
    ),
    rule=Words(
        "Metric at least {0} above LoRA's, both tuned with equally many trials, on at least {1}"
        " tasks, {2}.",
        "两者调参试验次数相同时,主指标至少比 LoRA 高 {0},至少 {1} 个任务,{2}。",
    ).format(GAIN_POINTS, SEVERAL_TASKS, OVER_SEEDS),
)


def ends_higher_on_several_benchmarks(results: Results) -> Verdict:
    tuned, missing = _equally_tuned(results)
    cases = compare_quality(results, tuned, GAIN_POINTS)
    tasks = {run.record.spec.task for one in cases for run in one.runs}
    enough = len(tasks) >= SEVERAL_TASKS
    few = Words("it takes {0} tasks, and there is {1}", "需要 {0} 个任务,目前 {1} 个")
    return P2.verdict(
        cases,
        missing,
        None if enough else few.format(SEVERAL_TASKS, len(tasks)),
        enough=enough,
    )
