"""The comparison of methods: a section for each block, and what its numbers cannot say."""

from collections.abc import Iterable
from dataclasses import dataclass
from statistics import fmean
from typing import Any

from peftbench.analysis.blocks import Arm, Block, Value, grouped
from peftbench.analysis.estimates import BETTER, Estimate, Over, Results
from peftbench.analysis.measures import MEASURES, mean, trained_share
from peftbench.markup import AbstractTable, Section, Sheet
from peftbench.tables.cells import (
    ALONE,
    METHOD,
    PEAK,
    PER_CENT,
    SPEED,
    TRAINED,
    bracket,
    busy_notes,
    left_out_note,
    measured,
    nothing,
    question_cells,
    studies,
    titles,
)
from peftbench.wording import NONE, Lang, Words, count, decimal, mebibytes, per_cent, shortened

LEGEND = Words(
    "Means over the seeds that are done, with 95 % intervals over seeds and test examples; a note "
    "says where they cover less. ↑ higher is better, ↓ lower is better. {best}: better than every "
    "other arm of its block by more than chance: the paired test over the same seeds and examples "
    "rejects at 5 % against each of them, after Holm's correction. Nothing is marked where no arm "
    "passes it. nll: nats per supervised token. trained: parameters the method trains, the "
    "classification head left out, and their share of the model's. peak: live tensor bytes at the "
    "peak of a training step, 1 MiB = 1,048,576 bytes. tok/s: real tokens, without padding. "
    f"{ALONE.en} trials: how many the search that found the arm's settings spent. – means that "
    "there is no such number: settings that no search found, a frozen language model, which takes "
    "no step, or a run that is not done and measured nothing.",
    "数值为已完成种子的均值及 95 % 区间(种子与测试样本);涵盖较少时另有注明。↑ 越高越好,↓ 越低越好。"
    "{best}:显著优于同组其他每一方法,即在相同种子与样本上的配对检验,"
    "经 Holm 校正后对每一对都在 5 % 水平上拒绝;"
    "没有方法通过时不作标记。nll:每个监督词元的 nat 数。可训练参数:不含分类头,及其占模型的百分比。"
    "峰值:一个训练步内存活张量的峰值字节数,1 MiB = 1,048,576 字节。词元/秒:真实词元,不含填充。"
    f"{ALONE.zh}调参次数:找到该设置的搜索所用的试验次数。"
    "–:没有该数值(设置并非搜索所得、冻结的语言模型不训练、或运行未完成)。",
)
TRIALS = Words("trials", "调参次数")
SEEDS = Words("seeds", "种子数")
OF = Words("{0} of {1}", "{0} / {1}")
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
    "`peftbench table --kind costs` shows them apart",
    "这些运行来自 {0} 种设备或软件环境,其成本不可比较:`peftbench table --kind costs` 将其分开列出",
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


@dataclass(frozen=True, eq=False)
class ComparedArm:
    """An arm with what it reaches, None where no run is done, and the arm of the same settings in
    the cost block, None where there are several of those."""

    arm: Arm
    metric: Estimate | None
    nll: Estimate | None
    costs: Arm | None

    def estimate(self, name: Value) -> Estimate | None:
        return self.metric if name == "metric" else self.nll


@dataclass(frozen=True, eq=False)
class ComparedBlock:
    """The arms that may be compared with each other."""

    block: Block
    rows: tuple[ComparedArm, ...]


@dataclass(frozen=True, eq=False)
class Comparison(AbstractTable):
    """A comparison, one block after another; how many runs are trials of searches, and of how many
    studies."""

    blocks: tuple[ComparedBlock, ...]
    trials: int = 0
    studies: int = 0

    def sheet(self, lang: Lang) -> Sheet:
        sections = [_section(compared, lang) for compared in self.blocks]
        notes = left_out_note(self.trials, self.studies, lang)
        return Sheet(sections, LEGEND[lang], nothing(self.trials)[lang], notes)

    def rows(self) -> list[dict[str, Any]]:
        return [_row(compared.block, row) for compared in self.blocks for row in compared.rows]


def comparison(results: Results) -> Comparison:
    """The comparison of all runs that answer a question."""
    blocks = tuple(_compared(results, block) for block in results.final)
    return Comparison(blocks, len(results.trials), studies(results))


def _compared(results: Results, block: Block) -> ComparedBlock:
    metric, nll = (results.estimates(block, name) for name in BETTER)
    costs = [apart for apart in results.costs_of(block) if block.places == (apart.place,)]
    return ComparedBlock(
        block,
        tuple(
            ComparedArm(
                arm, metric.get(arm), nll.get(arm), costs[0].same_settings(arm) if costs else None
            )
            for arm in block.arms
        ),
    )


def _section(compared: ComparedBlock, lang: Lang) -> Section:
    block = compared.block
    metric, nll = Words.same(f"{block.primary} ↑"), Words.same("nll ↓")
    header = [METHOD, metric, nll, TRAINED, PER_CENT, PEAK, SPEED, TRIALS, SEEDS]
    rows = [
        [
            row.arm.label,
            _score(row.metric),
            _score(row.nll),
            count(row.costs and mean(row.costs, "trained_params")),
            per_cent(row.costs and trained_share(row.costs)),
            mebibytes(row.costs and mean(row.costs, "peak_bytes")),
            decimal(row.costs and mean(row.costs, "tokens_per_second"), ",.0f"),
            decimal(row.arm.trials, ".0f"),
            _seeds(row.arm, lang),
        ]
        for row in compared.rows
    ]
    marked = frozenset(
        (i, j)
        for i, row in enumerate(compared.rows)
        for j, estimate in ((1, row.metric), (2, row.nll))
        if estimate and estimate.best
    )
    left = frozenset({0, len(header) - 1})
    named = [words[lang] for words in header]
    return Section(*titles(block, lang), named, rows, left, marked, _notes(compared, lang))


def _score(estimate: Estimate | None) -> str:
    if estimate is None:
        return NONE
    return decimal(estimate.mean, ".4f") + bracket(estimate.interval, ".3f")


def _seeds(arm: Arm, lang: Lang) -> str:
    """How many seeds are done; if none is, what became of them."""
    done = len(arm.done)
    if not done:
        return ", ".join(dict.fromkeys(run.record.status for run in arm.runs))
    return str(done) if done == len(arm.runs) else OF.format(done, len(arm.runs))[lang]


def _notes(compared: ComparedBlock, lang: Lang) -> list[str]:
    """The ways in which runs failed, and warnings of what the numbers cannot say."""
    block = compared.block
    notes = [*_failures(block)]
    if len(block.fingerprints) > 1:
        notes.append(EXAMPLES_DIFFER.format(len(block.fingerprints)))
    if block.repeats:
        seeds_of = grouped(block.repeats, lambda repeat: repeat[0])
        arms = [
            REPEATED.format(label, _listed(seed for _, seed in repeats))
            for label, repeats in seeds_of.items()
        ]
        notes.append(RESULTS_DIFFER.format(Words.joined(arms, ", ")))
    notes += [*_covered(compared), *_budgets(block)]
    if len(block.places) > 1:
        notes.append(SEVERAL_PLACES.format(len(block.places)))
    costs = [row.costs for row in compared.rows if row.costs]
    return [note[lang] for note in notes] + busy_notes(costs, lang)


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


def _covered(compared: ComparedBlock) -> list[Words]:
    """What intervals cover, where it is not seeds and examples: a line for each kind of less."""
    done = [row for row in compared.rows if row.arm.done]
    known: list[tuple[str, Value, Over | None]] = [
        (row.arm.label, name, estimate.interval and estimate.interval.over)
        for row in done
        for name in BETTER
        if (estimate := row.estimate(name)) and estimate.mean is not None
    ]
    notes: list[Words] = []
    for over, lines in grouped(known, lambda line: line[2]).items():
        if over not in COVERS_LESS:
            continue
        values = [
            ("nll" if name == "nll" else compared.block.primary)
            + ("" if len(of) == len(done) else f" ({_listed(label for label, *_ in of)})")
            for name, of in grouped(lines, lambda line: line[1]).items()
        ]
        notes.append(COVERS_LESS[over].format(", ".join(values)))
    return notes


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


def _row(block: Block, row: ComparedArm) -> dict[str, Any]:
    """An arm with unrounded numbers."""
    arm, places = row.arm, [vars(place) for place in block.places]
    alone = places[0] if len(places) == 1 else dict.fromkeys(places[0])
    return {
        **alone,
        "places": places,
        **question_cells(block.question),
        "method": arm.method,
        "method_version": arm.spec.method_version,
        "label": arm.label,
        "args": arm.spec.args,
        "train": arm.spec.train.model_dump(),
        "runs": len(arm.runs),
        "seeds": len(arm.done),
        "trials": arm.trials,
        "primary": block.primary,
        **_score_cells("metric", row.metric),
        **_score_cells("nll", row.nll),
        **{name: measured(row.costs, name) for name in MEASURES},
        "metrics": {name: _metric(arm, name) for name in _metric_names(block)},
        "failures": [
            {"seed": run.seed, "status": run.record.status, "error": run.record.error}
            for run in arm.runs
            if not run.done
        ],
    }


def _score_cells(name: Value, estimate: Estimate | None) -> dict[str, Any]:
    estimate = estimate or Estimate(None, None, None)
    interval = estimate.interval
    return {
        name: estimate.mean,
        f"{name}.std": estimate.std,
        f"{name}.low": interval and interval.low,
        f"{name}.high": interval and interval.high,
        f"{name}.over": interval and interval.over,
        f"{name}.best": estimate.best,
    }


def _metric_names(block: Block) -> list[str]:
    """The metrics that any arm of the block has."""
    names = {name for run in block.runs if run.done for name in run.record.metrics}
    return [
        name for name in sorted(names) if any(_metric(arm, name) is not None for arm in block.arms)
    ]


def _metric(arm: Arm, name: str) -> float | None:
    """The mean over the seeds that are done; None where one lacks it."""
    values = [run.record.metrics.get(name) for run in arm.done]
    numbers = [value for value in values if value is not None]
    return fmean(numbers) if numbers and len(numbers) == len(values) else None
