"""The comparison of methods: a section for each block."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from peftbench.analysis.blocks import Arm, Block, Value
from peftbench.analysis.estimates import BETTER, Estimate
from peftbench.analysis.learning import learned, metric_at_floor, none_learned
from peftbench.analysis.measures import MEASURES, PARAMETERS, complete_mean, mean
from peftbench.analysis.results import Results
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
    interval_cells,
    left_out,
    question_cells,
    sheet_of,
    titles,
    whole,
)
from peftbench.tables.comparison_notes import (
    NOTHING_LEARNED,
    Estimates,
    at_floor,
    notes_of,
    other_training,
)
from peftbench.wording import NONE, Lang, Words, count, decimal, mebibytes, per_cent, sentence

LEGEND = Words(
    "Means over the seeds that are done, with 95 % intervals over seeds and test examples; a note "
    "says where they cover less. ↑ higher is better, ↓ lower is better. {best}: better than every "
    "other arm of its block by more than chance: the paired test over the same seeds and examples "
    "rejects at 5 % against each of them. Nothing is marked where no arm passes it, and nothing "
    "that was not learned. †: not learned, which is to say not above the frozen model and the best "
    "constant answer by more than chance. nll: nats per supervised token. trained: parameters the "
    "method trains, the classification head left out, and their share of the model's. peak: live "
    "tensor bytes at the peak of a training step, 1 MiB = 1,048,576 bytes. tok/s: real tokens, "
    "without padding. "
    f"{ALONE.en} trials: how many the search that found the arm's settings spent. – means that "
    "there is no such number: settings that no search found, a frozen language model, which takes "
    "no step, or a run that is not done and measured nothing.",
    "数值为已完成种子的均值及 95 % 区间(种子与测试样本);涵盖较少时另有注明。↑ 越高越好,↓ 越低越好。"
    "{best}:显著优于同组其他每一方法,即在相同种子与样本上的配对检验,"
    "对每一对都在 5 % 水平上拒绝;没有方法通过时不作标记,未学到的也不作标记。"
    "†:未学到,即未显著胜过冻结模型与最优的恒定回答。nll:每个监督词元的 nat 数。"
    "可训练参数:不含分类头,及其占模型的百分比。"
    "峰值:一个训练步内存活张量的峰值字节数,1 MiB = 1,048,576 字节。词元/秒:真实词元,不含填充。"
    f"{ALONE.zh}调参次数:找到该设置的搜索所用的试验次数。"
    "–:没有该数值(设置并非搜索所得、冻结的语言模型不训练、或运行未完成)。",
)
UNLEARNED = "†"
TRIALS = Words("trials", "调参次数")
SEEDS = Words("seeds", "种子数")
OF = Words("{0} of {1}", "{0} / {1}")


@dataclass(frozen=True, eq=False)
class ComparedArm:
    """An arm with what it reaches, None where no run is done, and the arm of the same settings in
    the block of its costs, None where there is none."""

    arm: Arm
    metric: Estimate | None
    nll: Estimate | None
    learned: Mapping[Value, bool | None]  # None: not known
    costs: Arm | None

    def estimate(self, name: Value) -> Estimate | None:
        return self.metric if name == "metric" else self.nll

    def best(self, name: Value) -> bool:
        """Whether it is better than all others by more than chance, and has learned something."""
        estimate = self.estimate(name)
        return estimate is not None and estimate.best and self.learned[name] is not False

    def mean(self, name: str) -> float | None:
        """Of a measure: of what does not depend on the device over all runs."""
        arm = self.arm if name in (*PARAMETERS, "trained_share") else self.costs
        return arm and mean(arm, name)


@dataclass(frozen=True, eq=False)
class ComparedBlock:
    """The arms that may be compared with each other."""

    block: Block
    rows: tuple[ComparedArm, ...]
    costs: Block | None  # of the one place that has all arms
    leads: Value  # what the arms are to be told apart by
    before: Words | None  # what a reader has to know before the numbers
    notes: tuple[Words, ...]

    @property
    def scores(self) -> tuple[Value, ...]:
        """In the order of their columns."""
        return (self.leads, *(name for name in BETTER if name != self.leads))


@dataclass(frozen=True, eq=False)
class Comparison(AbstractTable):
    """A comparison, one block after another; how many runs are trials of searches, and of how many
    studies."""

    blocks: tuple[ComparedBlock, ...]
    trials: int
    studies: int

    def sheet(self, lang: Lang) -> Sheet:
        sections = [_section(compared, lang) for compared in self.blocks]
        return sheet_of(sections, LEGEND, self.trials, self.studies, lang)

    def rows(self) -> list[dict[str, Any]]:
        return [_row(compared, row) for compared in self.blocks for row in compared.rows]


def comparison(results: Results) -> Comparison:
    """The comparison of all runs that answer a question."""
    blocks = tuple(_compared(results, block) for block in results.final)
    return Comparison(blocks, *left_out(results))


def _compared(results: Results, block: Block) -> ComparedBlock:
    estimates: Estimates = {name: results.estimates(block, name) for name in BETTER}
    metric, nll = estimates["metric"], estimates["nll"]
    costs = _costs(results, block)
    rows = [
        ComparedArm(
            arm,
            metric.get(arm),
            nll.get(arm),
            {name: _learned(results, block, arm, name) for name in BETTER},
            costs and costs.same_settings(arm),
        )
        for arm in block.arms
    ]
    leads: Value = "metric"
    before = NOTHING_LEARNED if none_learned(results, block) else None
    if not before and metric_at_floor(results, block):
        leads, before = "nll", at_floor(block, nll)
    place = costs and costs.place
    notes = (*notes_of(block, estimates, place), *other_training(block, results.final))
    return ComparedBlock(block, tuple(rows), costs, leads, before, notes)


def _costs(results: Results, block: Block) -> Block | None:
    """The costs at the place where all arms were done; of several such the one where the most runs
    were timed, and then were done."""
    done = [arm for arm in block.arms if arm.done]
    places = [
        costs
        for costs in results.costs_of(block)
        if all((own := costs.same_settings(arm)) and own.done for arm in done)
    ]
    return max(places, key=_timed_and_done, default=None)


def _timed_and_done(block: Block) -> tuple[int, int]:
    """How many of its runs were timed, and were done."""
    timed, done = zip(*((len(arm.timed), len(arm.done)) for arm in block.arms), strict=True)
    return sum(timed), sum(done)


def _learned(results: Results, block: Block, arm: Arm, name: Value) -> bool | None:
    """The frozen model is not asked."""
    return None if arm.method == "frozen" else learned(results, block, arm, name)


def _section(compared: ComparedBlock, lang: Lang) -> Section:
    costs = (TRAINED, PER_CENT, PEAK, SPEED, TRIALS, SEEDS)
    titles_of_scores = {"metric": f"{compared.block.primary} ↑", "nll": "nll ↓"}
    scores = [titles_of_scores[name] for name in compared.scores]
    header = [METHOD[lang], *scores, *(words[lang] for words in costs)]
    rows = [
        [
            row.arm.label,
            *(_score(row.estimate(name), row.learned[name]) for name in compared.scores),
            count(row.mean("trained_params")),
            per_cent(row.mean("trained_share")),
            mebibytes(row.mean("peak_bytes")),
            decimal(row.mean("tokens_per_second"), ",.0f"),
            decimal(row.arm.trials, "d"),
            _seeds(row.arm, lang),
        ]
        for row in compared.rows
    ]
    marked = frozenset(
        (i, j)
        for i, row in enumerate(compared.rows)
        for j, name in enumerate(compared.scores, 1)
        if row.best(name)
    )
    title, circumstances = titles(compared.block, lang)
    if compared.before:
        circumstances = f"{sentence(compared.before)[lang]} {circumstances}"
    notes = [note[lang] for note in compared.notes]
    notes += busy_notes([row.costs for row in compared.rows if row.costs], lang)
    return Section(
        title,
        circumstances,
        header,
        rows,
        frozenset({0, len(header) - 1}),
        marked,
        notes,
    )


def _score(estimate: Estimate | None, learned: bool | None) -> str:
    if estimate is None:
        return NONE
    mark = UNLEARNED if learned is False else ""
    return decimal(estimate.mean, ".4f") + mark + bracket(estimate.interval, ".3f")


def _seeds(arm: Arm, lang: Lang) -> str:
    """How many seeds are done; if none is, what became of them."""
    done = len(arm.done)
    if not done:
        return ", ".join(dict.fromkeys(run.record.status for run in arm.runs))
    return str(done) if done == len(arm.runs) else OF.format(done, len(arm.runs))[lang]


def _row(compared: ComparedBlock, row: ComparedArm) -> dict[str, Any]:
    """An arm with unrounded numbers."""
    block = compared.block
    arm, places = row.arm, [vars(place) for place in block.places]
    alone = places[0] if len(places) == 1 else dict.fromkeys(places[0])
    return {
        **alone,
        "places": places,
        "place_of_costs": vars(compared.costs.place) if compared.costs else None,
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
        "leads": compared.leads,
        **_score_cells("metric", row),
        **_score_cells("nll", row),
        **{name: whole(name, row.mean(name)) for name in MEASURES},
        "metrics": {name: _metric(arm, name) for name in _metric_names(block)},
        "failures": [
            {"seed": run.seed, "status": run.record.status, "error": run.record.error}
            for run in arm.runs
            if not run.done
        ],
    }


def _score_cells(name: Value, row: ComparedArm) -> dict[str, Any]:
    estimate = row.estimate(name) or Estimate(None, None, None)
    parts = {
        "std": estimate.std,
        **interval_cells(estimate.interval),
        "best": row.best(name),
        "learned": row.learned[name],
    }
    return {name: estimate.mean} | {f"{name}.{part}": cell for part, cell in parts.items()}


def _metric_names(block: Block) -> list[str]:
    """The metrics that any arm of the block has."""
    names = {name for run in block.runs if run.done for name in run.record.metrics}
    return sorted(
        name for name in names if any(_metric(arm, name) is not None for arm in block.arms)
    )


def _metric(arm: Arm, name: str) -> float | None:
    return complete_mean([run.record.metrics.get(name) for run in arm.done])
