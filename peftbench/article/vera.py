"""VeRA against LoRA: trained parameters (V1), overfitting (V2), few samples (V3)."""

import math
from statistics import fmean

from peftbench.analysis.blocks import Run, grouped
from peftbench.analysis.loss_curves import TAIL, curve
from peftbench.analysis.results import Results
from peftbench.article.claim import GAIN_POINTS, OVER_SEEDS, Claim, Verdict, above, below, compare
from peftbench.article.pairs import Pair, compare_quality, exact, lack, less, mean, pairs, sound
from peftbench.wording import Words

VERY_FEW_SHARE = 0.1  # of LoRA's trained parameters
GAP_NATS_PER_TOKEN = 0.01  # the least that is called less overfitting
FEW_EXAMPLES = 1000  # the most training examples that are called few samples


V1 = Claim(
    id="V1",
    text=Words("VeRA trains very few parameters", "VeRA 可训练参数极少"),
    unit=Words("trained parameters, VeRA / LoRA", "训练参数之比,VeRA / LoRA"),
    rule=Words(
        "Trained parameters at most {0:.0%} of LoRA's on the same targets; the head is in neither.",
        "目标层相同时,训练参数至多为 LoRA 的 {0:.0%}(均不计分类头)。",
    ).format(VERY_FEW_SHARE),
)


def trains_very_few_parameters(results: Results) -> Verdict:
    candidates = pairs(results.final, "vera", "lora", ("targets",))
    shares = ((pair.runs, exact(pair.ratios("trained_params"))) for pair in candidates)
    cases = compare(shares, below, VERY_FEW_SHARE)
    return V1.verdict(cases, lack(candidates, "vera", "lora", 1))


V2 = Claim(
    id="V2",
    text=Words("VeRA overfits less", "VeRA 更不易过拟合"),
    unit=Words("nats per token, LoRA's gap - VeRA's", "每词元 nat,LoRA 差距 − VeRA 差距"),
    rule=Words(
        "Test nll less the training nll of the curve's last {0:.0%}: VeRA's gap at least {1} below"
        " LoRA's, at equal steps and batch, {2}; both must score above the frozen model.",
        "测试 nll 减训练曲线末 {0:.0%} 的 nll:步数与批大小相同时,VeRA 的差距至少比 LoRA 小 {1},"
        "{2};二者都须胜过冻结模型。",
    ).format(TAIL, GAP_NATS_PER_TOKEN, OVER_SEEDS),
)


def overfits_less(results: Results) -> Verdict:
    candidates = pairs(results.final, "vera", "lora", ("targets",))
    learned = sound(candidates, 2)
    gaps = (
        (pair.runs, mean(less(_gap(lora), _gap(vera)) for vera, lora in pair.by_seed))
        for pair in learned
    )
    ends = (mean(less(_end(vera), _end(lora)) for vera, lora in pair.by_seed) for pair in learned)
    behind = [end.value for end in ends if end]
    note = Words(
        "VeRA's training nll ends {0:+.3f} from LoRA's, and what was not learned cannot be"
        " overfitted",
        "VeRA 的训练 nll 末值与 LoRA 相差 {0:+.3f},没学到的也谈不上过拟合",
    )
    return V2.verdict(
        compare(gaps, above, GAP_NATS_PER_TOKEN),
        lack(candidates, "vera", "lora"),
        note.format(fmean(behind)) if behind else None,
    )


def _end(run: Run) -> float | None:
    """The training nll at the end of a curve that is long enough."""
    losses = curve(run, "train_loss")
    return losses.end() if losses.long_enough else None


def _gap(run: Run) -> float | None:
    """How much more the test nll is than the training nll at the end."""
    return less(run.value("nll"), _end(run))


V3 = Claim(
    id="V3",
    text=Words("VeRA excels with few samples", "VeRA 在小样本下表现突出"),
    rule=Words(
        "Where a task was trained on several numbers of examples: at the least of them, {0} or"
        " fewer, metric at least {1} above LoRA's, {2}.",
        "任务在多种训练样本数下运行时:在最少者(不超过 {0})处主指标至少比 LoRA 高 {1},{2}。",
    ).format(FEW_EXAMPLES, GAIN_POINTS, OVER_SEEDS),
)


def excels_with_few_samples(results: Results) -> Verdict:
    candidates = pairs(results.final, "vera", "lora", ("targets",))
    few: list[Pair] = []
    for series in grouped(candidates, _but_for_examples).values():
        by_size = grouped(series, _examples)
        if len(by_size) > 1 and (least := min(by_size)) <= FEW_EXAMPLES:
            few += by_size[least]
    cases = compare_quality(results, few, GAIN_POINTS)
    missing = Words(
        "On no task were vera and lora trained with several numbers of examples, the least of them"
        " {0} or fewer",
        "没有任务以多种训练样本数(最少者不超过 {0})训练过 vera 与 lora",
    ).format(FEW_EXAMPLES)
    return V3.verdict(cases, lack(few, "vera", "lora") if few else missing)


def _but_for_examples(pair: Pair) -> tuple[object, ...]:
    """What blocks share that differ in the number of training examples only: steps and batch may
    follow that number."""
    question = pair.block.question
    data = question.data.model_copy(update={"train": None})
    return question.model, question.task, question.task_version, data, question.dtype


def _examples(pair: Pair) -> float:
    """The training examples that were asked for; all of them are the most."""
    return pair.block.question.data.train or math.inf
