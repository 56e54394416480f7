"""What the numbers of a compared block cannot say: failures, unequal runs, what intervals cover."""

from collections.abc import Iterable, Mapping
from dataclasses import replace

from peftbench.analysis.blocks import Arm, Block, Place, Value, grouped
from peftbench.analysis.estimates import Estimate, Over
from peftbench.analysis.labels import STEPS
from peftbench.wording import Words, decimal, shortened

Estimates = Mapping[Value, Mapping[Arm, Estimate]]  # of the arms that have a run that is done
FAILED = Words("{0}, seed {1}: {2}: {3}", "{0}, 种子 {1}: {2}: {3}")
ALL_FAILED = Words("{0}, seeds {1}: {2}: {3}", "{0}, 种子 {1}: {2}: {3}")
NO_ERROR = Words("no error was recorded", "没有记录错误")
EXAMPLES_DIFFER = Words(
    "these runs saw {0} different sets of examples: their scores do not compare",
    "这些运行用了 {0} 组不同的样本:分数不可比较",
)
RESULTS_DIFFER = Words(
    "done several times, with results that differ by more than rounding: {0}; the first counts",
    "重复运行且结果之差超出舍入误差:{0};以第一次为准",
)
REPEATED = Words("{0} (seeds: {1})", "{0}(种子:{1})")
SEVERAL_PLACES = Words(
    "these runs come from {0} devices or software stacks, whose costs do not compare: "
    "peftbench table --kind costs shows them apart",
    "这些运行来自 {0} 种设备或软件环境,其成本不可比较:peftbench table --kind costs 将其分开列出",
)
COSTS_OF = Words(
    "runs come from {0} devices or software stacks; peak and tok/s are those of {1}: "
    "peftbench table --kind costs shows the others",
    "运行来自 {0} 种设备或软件环境;峰值与词元/秒取自 {1}:peftbench table --kind costs 列出其余",
)
COVERS_LESS: dict[Over | None, Words] = {
    "examples": Words(
        "the intervals of {0} cover examples (one seed) only",
        "{0} 的区间只涵盖测试样本(只有一个种子)",
    ),
    "seeds": Words(
        "the intervals of {0} cover seeds (no predictions give it by example) only",
        "{0} 的区间只涵盖种子(没有逐样本的预测可以复现该数值)",
    ),
    None: Words(
        "no interval for {0}: one number alone, or numbers that do not vary, "
        "do not tell how sure they are",
        "{0} 没有区间:单个数值或完全相同的数值说明不了不确定性",
    ),
}
UNEQUAL = Words(
    "unequal tuning: {0} trials; a difference may come from the tuning",
    "调参预算不等:{0} 次;差异可能来自调参",
)
NOT_TUNED = Words("none", "无")
NOTHING_LEARNED = Words(
    "No arm has learned anything here: none is above the frozen model and the best constant answer"
    " by more than chance, so that nothing is ranked",
    "此处没有方法学到东西:均未显著胜过冻结模型与最优的恒定回答,故不作排名",
)
AT_FLOOR = Words(
    "{0} is at its floor for every arm, 0 or not above the frozen model and the best constant "
    "answer by more than chance: nll comes first, and the order of its means is {1}",
    "所有方法的 {0} 均处于下限,即为 0 或未显著胜过冻结模型与最优的恒定回答:故以 nll 为先,"
    "其均值由低到高为 {1}",
)
OTHER_TRAINING = Words(
    "arms trained for {0} stand in tables of their own: their scores do not compare with these",
    "训练 {0} 的设置另列表格:其分数与此处不可比较",
)


def at_floor(block: Block, nll: Mapping[Arm, Estimate]) -> Words:
    """That the metric tells no arm from another, and their order by nll."""
    means = {arm.label: one.mean for arm, one in nll.items() if one.mean is not None}
    order = sorted(means, key=lambda label: means[label])
    return AT_FLOOR.format(
        block.primary, _listed(f"{label} ({decimal(means[label], '.4f')})" for label in order)
    )


def notes_of(block: Block, estimates: Estimates, place: Place | None) -> list[Words]:
    """A line for each way in which runs failed, and warnings. place: that of the costs."""
    notes = [*_failures(block), *_of_runs(block)]
    examples = {run.record.data.fingerprint for run in block.runs if run.record.data}
    if len(examples) > 1:
        notes.append(EXAMPLES_DIFFER.format(len(examples)))
    if block.repeats:
        seeds_of = grouped(block.repeats, lambda repeat: repeat[0])
        arms = [
            REPEATED.format(label, _listed(seed for _, seed in repeats))
            for label, repeats in seeds_of.items()
        ]
        notes.append(RESULTS_DIFFER.format(Words.joined(arms, ", ")))
    notes += [*_covered(block, estimates), *_budgets(block)]
    if place and block.places != (place,):
        places = {*block.places, place}
        notes.append(COSTS_OF.format(len(places), f"{place}, {place.stack}"))
    elif len(block.places) > 1:
        notes.append(SEVERAL_PLACES.format(len(block.places)))
    return notes


def other_training(block: Block, blocks: Iterable[Block]) -> list[Words]:
    """A line where the same question was asked with other steps or batch sizes as well."""
    own = block.question
    others = [
        STEPS.format(f"{question.steps:,}", question.batch_size)
        for other in blocks
        if (question := other.question) != own
        and replace(question, steps=own.steps, batch_size=own.batch_size) == own
    ]
    return [OTHER_TRAINING.format(Words.joined(others, ", "))] if others else []


def _failures(block: Block) -> list[Words]:
    """A line for each way in which runs of an arm failed; a run that a search ended early did
    not."""
    failed = [
        (arm.label, run.record)
        for arm in block.arms
        for run in arm.runs
        if run.record.status not in ("done", "pruned")
    ]
    ways = grouped(
        failed, lambda run: (run[0], run[1].status, shortened(run[1].error or "", most=200))
    )
    return [
        (ALL_FAILED if len(runs) > 1 else FAILED).format(
            label, _listed(record.spec.seed for _, record in runs), status, error or NO_ERROR
        )
        for (label, status, error), runs in ways.items()
    ]


def _of_runs(block: Block) -> list[Words]:
    """What the runs' records say of themselves: a line for each note, with the arms it is of."""
    noted = [(note, arm.label) for arm in block.arms for r in arm.runs for note in r.record.notes]
    return [
        Words.same("{0}: {1}").format(_listed(dict.fromkeys(label for _, label in those)), note)
        for note, those in grouped(noted, lambda each: each[0]).items()
    ]


def _covered(block: Block, estimates: Estimates) -> list[Words]:
    """What intervals cover, where it is not seeds and examples: a line for each kind of less."""
    less: dict[Over | None, list[str]] = {}
    for name, by_arm in estimates.items():
        labels: dict[Over | None, list[str]] = {}
        for arm, estimate in by_arm.items():
            if estimate.mean is not None:
                over = estimate.interval and estimate.interval.over
                labels.setdefault(over, []).append(arm.label)
        for over, those in labels.items():
            who = "" if len(those) == len(by_arm) else f" ({', '.join(those)})"
            less.setdefault(over, []).append((block.primary if name == "metric" else name) + who)
    return [
        COVERS_LESS[over].format(", ".join(values))
        for over, values in less.items()
        if over in COVERS_LESS
    ]


def _budgets(block: Block) -> list[Words]:
    """A warning where arms were not tuned alike."""
    budgets = grouped(block.arms, lambda arm: arm.trials)
    if len(budgets) < 2:
        return []
    parts = [
        Words.same("{0}: {1}").format(
            _listed(arm.label for arm in arms), NOT_TUNED if trials is None else trials
        )
        for trials, arms in budgets.items()
    ]
    return [UNEQUAL.format(Words.joined(parts))]


def _listed(items: Iterable[object]) -> str:
    return ", ".join(map(str, items))
