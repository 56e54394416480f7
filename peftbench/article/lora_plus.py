"""LoRA+ against LoRA: convergence (P1), final metrics (P2)."""

from peftbench.analysis.blocks import Run
from peftbench.analysis.loss_curves import curve
from peftbench.analysis.results import Results
from peftbench.article.claim import (
    OVER_SEEDS,
    SEVERAL_TASKS,
    Claim,
    Verdict,
    above,
    compare,
)
from peftbench.article.pairs import Pair, both_tuned, lack, mean, pairs
from peftbench.article.quality import GAIN, Quality, in_words, over_tasks, quality_verdict, sound
from peftbench.wording import Words

FASTER_NATS = 0.01  # of the mean training loss: the least that is called faster

P1 = Claim(
    id="P1",
    text=Words("LoRA+ converges faster", "LoRA+ 收敛更快"),
    unit=Words(
        "nats, mean training loss over all steps, LoRA - LoRA+",
        "全程平均训练损失之差(nat),LoRA − LoRA+",
    ),
    rule=Words(
        "The training loss, averaged over all steps (the area under its curve), is at least {0}"
        " nats below LoRA's, both tuned with equally many trials, at equal steps and batch, on at"
        " least {1} tasks, {2}.",
        "全程平均训练损失(曲线下面积)至少比 LoRA 低 {0} nat;两者调参试验次数、步数与批大小相同,"
        "至少 {1} 个任务,{2}。",
    ).format(FASTER_NATS, SEVERAL_TASKS, OVER_SEEDS),
)


def converges_faster(results: Results) -> Verdict:
    tuned, missing = _tuned(results)
    gains = (
        (pair.runs, mean(_gain(*runs) for runs in pair.by_seed)) for pair in sound(results, tuned)
    )
    return over_tasks(P1.verdict(compare(gains, above, FASTER_NATS), missing))


def _gain(ours: Run, theirs: Run) -> float | None:
    """How far the mean of our training losses is below that of theirs."""
    plus, lora = curve(ours, "train_loss"), curve(theirs, "train_loss")
    if not (plus.long_enough and lora.long_enough and len(plus.losses) == len(lora.losses)):
        return None
    return float(lora.losses.mean() - plus.losses.mean())


def _tuned(results: Results) -> tuple[list[Pair], Words]:
    """The pairs whose arms were both tuned, with equally many trials; and what is missing where
    none of them can be judged."""
    tuned = pairs(results.final, "lora+", "lora", fair=both_tuned)
    unfair = pairs(results.final, "lora+", "lora")
    return tuned, lack(tuned, "lora+", "lora", unfair=unfair)


P2 = Claim(
    id="P2",
    text=Words(
        "LoRA+ ends with higher metrics on several benchmarks", "LoRA+ 在多个基准上最终指标更高"
    ),
    rule=Words(
        "At least {0} better than LoRA, both tuned with equally many trials, on at least {1}"
        " tasks, {2}.",
        "两者调参试验次数相同时,至少比 LoRA 好 {0},至少 {1} 个任务,{2}。",
    ).format(in_words(GAIN), SEVERAL_TASKS, OVER_SEEDS),
)


def ends_higher_on_several_benchmarks(results: Results) -> Verdict:
    tuned, missing = _tuned(results)
    return quality_verdict(P2, tuned, Quality(results, GAIN), missing)
