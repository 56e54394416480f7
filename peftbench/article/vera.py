"""VeRA against LoRA: trained parameters (V1), overfitting (V2), few samples (V3)."""

import math
from collections.abc import Iterable
from statistics import fmean

from peftbench.analysis.blocks import Run, Value, grouped
from peftbench.analysis.loss_curves import TAIL, curve
from peftbench.analysis.results import Results
from peftbench.article.claim import (
    OVER_SEEDS,
    SEVERAL_TASKS,
    Case,
    Claim,
    Effect,
    Verdict,
    above,
    below,
    compare,
)
from peftbench.article.llama import LLAMA_7B, llama, lora_params
from peftbench.article.pairs import (
    Pair,
    equally_tuned,
    exact,
    lack,
    less,
    mean,
    once_for_each_model,
    pairs,
)
from peftbench.article.quality import (
    GAIN,
    Quality,
    difference,
    in_words,
    over_tasks,
    quality_verdict,
    sound,
)
from peftbench.wording import Words

VERY_FEW_SHARE = 0.1  # of LoRA's trained parameters
GAP_NATS_PER_TOKEN = 0.01  # the least that is called less overfitting
MANY_EPOCHS = 3  # with fewer there is little that could be overfitted
EQUAL_NATS = 0.03  # the most that training losses may end apart
VERA_RANKS, LORA_RANKS = (64, 256, 1024), (4, 8, 16)  # those that people use
FEW_EXAMPLES = 1000  # the most training examples that are called few samples


V1 = Claim(
    id="V1",
    text=Words("VeRA trains very few parameters", "VeRA 可训练参数极少"),
    unit=Words("trained parameters, VeRA / LoRA", "训练参数之比,VeRA / LoRA"),
    rule=Words(
        "Trained parameters at most {0:.0%} of LoRA's on the same targets, once for each model and"
        " pair of settings; the head is in neither.",
        "目标层相同时,训练参数至多为 LoRA 的 {0:.0%}(均不计分类头),每个模型与设置计一次。",
    ).format(VERY_FEW_SHARE),
)


def trains_very_few_parameters(results: Results) -> Verdict:
    candidates = pairs(results.final, "vera", "lora", ("targets",))
    once = once_for_each_model(candidates)
    shares = ((pair.runs, exact(pair.ratios("trained_params"))) for pair in once)
    cases = compare(shares, below, VERY_FEW_SHARE, counted=True)
    return V1.verdict(cases, lack(candidates, "vera", "lora", 1), _on_a_7b_model())


def _on_a_7b_model() -> Words:
    """The ratio depends on both ranks: what usual ones give on all linear layers of Llama-2-7B."""
    vera = [llama(LLAMA_7B, "vera", {"rank": rank}).trained_params for rank in VERA_RANKS]
    lora = [lora_params(LLAMA_7B, rank) for rank in LORA_RANKS]
    return Words(
        "on all linear layers of Llama-2-7B VeRA of rank {0} trains {1} M, LoRA of rank {2} {3} M:"
        " {4:.1%} to {5:.0%}",
        "在 Llama-2-7B 全部线性层上,VeRA 秩 {0} 训练 {1} M,LoRA 秩 {2} 训练 {3} M:"
        "{4:.1%} 至 {5:.0%}",
    ).format(
        *(_listed(VERA_RANKS), _listed(n / 1e6 for n in vera)),
        *(_listed(LORA_RANKS), _listed(n / 1e6 for n in lora)),
        *(min(vera) / max(lora), max(vera) / min(lora)),
    )


def _listed(numbers: Iterable[float]) -> str:
    return ", ".join(f"{number:,.3g}" if number < 100 else f"{number:,.0f}" for number in numbers)


V2 = Claim(
    id="V2",
    text=Words("VeRA overfits less", "VeRA 更不易过拟合"),
    unit=Words("nats per token, LoRA's gap - VeRA's", "每词元 nat,LoRA 差距 − VeRA 差距"),
    rule=Words(
        "Test nll less the training nll of the curve's last {0:.0%}: VeRA's gap at least {1} below"
        " LoRA's, at equal trials, steps and batch, on at least {2} tasks, {3}. Only where there is"
        " something to overfit and both could: every example was seen {4} times or more, both"
        " learned, and their training nll ends within {5}.",
        "测试 nll 减训练曲线末 {0:.0%} 的 nll:调参次数、步数与批大小相同时,VeRA 的差距至少比 LoRA"
        " 小 {1},至少 {2} 个任务,{3}。仅限可能过拟合之处:每个样本至少见过 {4} 次,"
        "二者都学有所得,且训练 nll 末值相差不超过 {5}。",
    ).format(TAIL, GAP_NATS_PER_TOKEN, SEVERAL_TASKS, OVER_SEEDS, MANY_EPOCHS, EQUAL_NATS),
)


def overfits_less(results: Results) -> Verdict:
    candidates, unfair = _vera_and_lora(results)
    overfitted = [pair for pair in candidates if _epochs(pair) >= MANY_EPOCHS]
    learned = sound(results, overfitted, 2)
    ends = {
        pair: mean(less(_end(vera), _end(lora)) for vera, lora in pair.by_seed) for pair in learned
    }
    alike = [pair for pair, end in ends.items() if end and _within(end, EQUAL_NATS)]
    gaps = (
        (pair.runs, mean(less(_gap(lora), _gap(vera)) for vera, lora in pair.by_seed))
        for pair in alike
    )
    if candidates and not overfitted:
        missing = Words(
            "In no block was every example seen {0} times, and what is seen less cannot be"
            " overfitted much",
            "没有分组使每个样本至少见过 {0} 次,无从谈过拟合",
        ).format(MANY_EPOCHS)
    elif learned and not alike:
        missing = Words(
            "In no block does VeRA's training nll end as low as LoRA's ({0:+.3f} on average), and"
            " what was not learned cannot be overfitted",
            "没有分组中 VeRA 的训练 nll 末值与 LoRA 相当(平均相差 {0:+.3f}),没学到的也谈不上过拟合",
        ).format(fmean(end.value for end in ends.values() if end) if any(ends.values()) else 0.0)
    else:
        missing = lack(candidates, "vera", "lora", unfair=unfair)
    return over_tasks(V2.verdict(compare(gaps, above, GAP_NATS_PER_TOKEN), missing))


def _vera_and_lora(results: Results) -> tuple[list[Pair], list[Pair]]:
    """The pairs that were tuned alike, and all."""
    everything = pairs(results.final, "vera", "lora", ("targets",))
    return pairs(results.final, "vera", "lora", ("targets",), fair=equally_tuned), everything


def _epochs(pair: Pair) -> float:
    """How often every example was seen; 0 where that is not known."""
    question, examples = pair.block.question, pair.ours.runs[0].examples
    return question.steps * question.batch_size / examples if examples else 0.0


def _within(effect: Effect, most: float) -> bool:
    return -most <= effect.low and effect.high <= most


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
    unit=Words(
        "primary metric: VeRA less LoRA, at few less at many examples",
        "主指标:VeRA 减 LoRA,样本少时减样本多时",
    ),
    rule=Words(
        "Where a task was trained on several numbers of examples, the least of them {0} or fewer:"
        " VeRA is better than LoRA there, and by at least {1} more than at the most, at equal"
        " trials, on at least {2} tasks, {3}.",
        "任务在多种训练样本数下运行、最少者不超过 {0} 时:VeRA 在最少处胜过 LoRA,"
        "且优势比最多处至少大 {1};调参次数相同,至少 {2} 个任务,{3}。",
    ).format(FEW_EXAMPLES, in_words(GAIN), SEVERAL_TASKS, OVER_SEEDS),
)


def excels_with_few_samples(results: Results) -> Verdict:
    candidates, unfair = _vera_and_lora(results)
    many: dict[Pair, Pair] = {}  # by the pair with the least examples
    for series in grouped(candidates, _but_for_examples).values():
        by_size = grouped(series, _examples)
        if len(by_size) > 1 and (least := min(by_size)) <= FEW_EXAMPLES:
            many |= {pair: by_size[max(by_size)][0] for pair in by_size[least]}
    quality = Quality(results, GAIN)

    def judge(few: Pair, name: Value) -> Case | None:
        if not quality.comparable(few, name) or not quality.comparable(many[few], name):
            return None
        at_few, at_many = (difference(results, pair, name) for pair in (few, many[few]))
        if not (at_few and at_many):
            return None
        runs = (*few.runs, *many[few].runs)
        (case,) = compare([(runs, _apart(at_few, at_many))], above, GAIN.of(few.runs, name))
        worse = at_few.low <= 0 and case.decision == "supported"
        return case._replace(decision="undecided") if worse else case

    missing = Words(
        "On no task were vera and lora trained with several numbers of examples, the least of them"
        " {0} or fewer",
        "没有任务以多种训练样本数(最少者不超过 {0})训练过 vera 与 lora",
    ).format(FEW_EXAMPLES)
    if many or not candidates:
        missing = lack([*many], "vera", "lora", unfair=unfair)
    return quality_verdict(V3, [*many], judge, missing)


def _apart(one: Effect, other: Effect) -> Effect:
    """One effect less another, of other runs: the errors add as if they were independent."""
    value = one.value - other.value
    half = math.hypot(one.high - one.low, other.high - other.low) / 2
    return Effect(value, value - half, value + half)


def _but_for_examples(pair: Pair) -> tuple[object, ...]:
    """What blocks share that differ in the number of training examples only: steps and batch may
    follow that number."""
    question = pair.block.question
    data = question.data.model_copy(update={"train": None})
    own = question.base, question.precision
    return question.model, question.task, question.task_version, data, *own


def _examples(pair: Pair) -> float:
    """The training examples that were asked for; all of them are the most."""
    return pair.block.question.data.train or math.inf
