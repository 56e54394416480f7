"""The article's closing table: a technique, what it is recommended for, Hugging Face's support;
beside it what was measured."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

import numpy as np

from peftbench.analysis.blocks import Arm, Block, grouped
from peftbench.analysis.estimates import Difference, best
from peftbench.analysis.labels import names
from peftbench.analysis.learning import learned
from peftbench.analysis.measures import mean
from peftbench.analysis.results import Results
from peftbench.markup import AbstractTable, Section, Sheet
from peftbench.servable.answer import Servable
from peftbench.servable.arms import servable
from peftbench.servable.rules import SGLANG, VLLM
from peftbench.tables.cells import ALONE, REFERENCE, bracket, interval_cells, nothing
from peftbench.tables.peft_offers import PEFT_OFFERS, PeftOffers
from peftbench.tables.statements import STATEMENTS
from peftbench.wording import NONE, Lang, Words, decimal, ranged

LEGEND = Words(
    "recommended for, Hugging Face, as stated: what the article says. peft {0} offers: its public "
    f"names for the technique, read from its source on {{1}}. servable: as {VLLM} and {SGLANG} "
    "read adapters, by their sources; after export: once `peftbench export --to lora` has made a "
    "LoRA file of it; ?: it depends on the head. All else is read off the store. best "
    "on: tasks where the paired test over the same seeds and examples says that the technique is "
    "better than each of the other four, at 5 % after Holm's correction; better, worse than LoRA "
    "on: where it says so of LoRA. Differences to LoRA: of the primary metric, positive is better, "
    "with 95 % intervals; {{best}}: by more than chance, by these tests. peak, tok/s × LoRA: the "
    "ratio of means on one device, and its range over tasks and devices. A technique with several "
    f"settings stands with its first. {ALONE.en} – means that there is none.",
    "推荐场景与“文中所述”来自文章;peft {0} 提供的接口于 {1} 读自其源代码;"
    f"可直接服务:依据 {VLLM} 与 {SGLANG} 的源代码;导出之后:先用 `peftbench export --to lora` "
    "转成 LoRA 文件;?:取决于分类头。其余各格来自结果库。"
    "最优的任务:在相同种子与样本上的配对检验,经 Holm 校正后在 5 % 水平上优于其余四种技术中的每一种;"
    "优于、劣于 LoRA:同一检验对 LoRA 的结论。"
    "与 LoRA 之差:主要指标之差(正值为优)及 95 % 区间;{{best}}:按上述检验显著。"
    "峰值内存、速度相对 LoRA:同一设备上均值之比及其在各任务与设备间的范围。"
    f"一种技术有多个设置时取第一个。{ALONE.zh}–:没有。",
)
TITLE = Words("The article's closing table, measured", "文章结尾的表格,逐格实测")
HEADER = (
    Words("technique", "技术"),
    Words("recommended for", "推荐场景"),
    Words("best on", "最优的任务"),
    Words("better than LoRA on", "优于 LoRA 的任务"),
    Words("worse than LoRA on", "劣于 LoRA 的任务"),
    Words("Hugging Face, as stated", "Hugging Face 支持(文中所述)"),
    Words("servable", "可直接服务"),
    Words("peft {0} offers", "peft {0} 提供"),
)
NOT_SERVED = Words("not served as it is: {0} ({1})", "不能直接提供服务:{0}({1})")
NO_SUCH_NAME = Words("nothing of this name", "没有同名的接口")
NOT_MEASURED = Words("no run of these techniques is done", "这些技术没有已完成的运行")
DIFFERENCES = Words("Differences to LoRA", "与 LoRA 之差")
TASK = Words("task", "任务")
HIGHEST = Words("highest mean", "均值最高")
PEAK_RATIO = Words("peak × LoRA", "峰值内存相对 LoRA")
SPEED_RATIO = Words("tok/s × LoRA", "速度相对 LoRA")


Verdict = Literal["best", "better", "worse", "undecided"]  # of all; than LoRA
SHOWN: tuple[Verdict, ...] = ("best", "better", "worse")
OTHERS = tuple(method for method in STATEMENTS if method != REFERENCE)


@dataclass(frozen=True)
class Technique:
    """What was measured of a technique, by task."""

    highest: dict[str, bool] = field(default_factory=dict)
    # tasks where it alone has the highest mean: whether by more than chance
    differences: dict[str, Difference] = field(default_factory=dict)  # to LoRA
    peak: dict[str, float] = field(default_factory=dict)  # relative to LoRA
    speed: dict[str, float] = field(default_factory=dict)  # relative to LoRA
    servable: dict[str, Servable] = field(default_factory=dict)

    def on(self, verdict: Verdict) -> list[str]:
        """The tasks whose difference to LoRA has a verdict; best: those where it alone has the
        highest mean by more than chance."""
        if verdict == "best":
            return [task for task, sure in self.highest.items() if sure]
        return [task for task, effect in self.differences.items() if _verdict(effect) == verdict]

    def served(self, lang: Lang) -> str:
        """How it can be served, with the tasks where that is not the same on all of them."""
        tasks = grouped(self.servable, lambda task: self.servable[task].words()[lang])
        if len(tasks) < 2:
            return next(iter(tasks), NONE)
        return "; ".join(f"{text} ({', '.join(own)})" for text, own in tasks.items())


@dataclass(frozen=True)
class Closing(AbstractTable):
    """The closing table; `empty` says why nothing was measured."""

    techniques: Mapping[str, Technique]  # by method
    tasks: tuple[str, ...]
    offers: PeftOffers
    empty: Words

    def sheet(self, lang: Lang) -> Sheet:
        sections = [self._statements(lang), *([self._differences(lang)] if self.tasks else [])]
        offers = self.offers
        legend = LEGEND.format(offers.version, offers.read.isoformat())
        return Sheet(sections, legend[lang], "")

    def _statements(self, lang: Lang) -> Section:
        header = [words.format(self.offers.version)[lang] for words in HEADER]
        rows = [
            [
                statement.name,
                statement.recommended_for[lang],
                *(", ".join(self.techniques[method].on(verdict)) or NONE for verdict in SHOWN),
                statement.support[lang],
                self.techniques[method].served(lang),
                ", ".join(self.offers.names[method]) or NO_SUCH_NAME[lang],
            ]
            for method, statement in STATEMENTS.items()
        ]
        notes = [note[lang] for note in self._not_served()] if self.tasks else [self.empty[lang]]
        return Section(TITLE[lang], "", header, rows, frozenset(range(len(HEADER))), notes=notes)

    def _not_served(self) -> list[Words]:
        """Each reason once, with its source."""
        answers = [
            own for technique in self.techniques.values() for own in technique.servable.values()
        ]
        obstacles = dict.fromkeys(
            each for own in answers for each in (own.vllm, own.sglang) if each
        )
        return [NOT_SERVED.format(each.text, each.source) for each in obstacles]

    def _differences(self, lang: Lang) -> Section:
        """A row per task: the highest mean, and the other techniques' differences to LoRA; then
        what they cost relative to it."""
        others = [self.techniques[method] for method in OTHERS]
        rows: list[list[str]] = []
        marked: set[tuple[int, int]] = set()
        for i, task in enumerate(self.tasks):
            tops = [method for method in STATEMENTS if task in self.techniques[method].highest]
            effects = [technique.differences.get(task) for technique in others]
            name = STATEMENTS[tops[0]].name if tops else NONE
            rows.append([task, name, *map(_effect, effects)])
            sure = [any(task in self.techniques[method].on("best") for method in tops)]
            sure += [effect is not None and _verdict(effect) != "undecided" for effect in effects]
            marked |= {(i, j) for j, is_sure in enumerate(sure, 1) if is_sure}
        rows.append([PEAK_RATIO[lang], NONE, *(ranged(one.peak.values()) for one in others)])
        rows.append([SPEED_RATIO[lang], NONE, *(ranged(one.speed.values()) for one in others)])
        header = [TASK[lang], HIGHEST[lang], *(STATEMENTS[method].name for method in OTHERS)]
        return Section(DIFFERENCES[lang], "", header, rows, frozenset({0, 1}), frozenset(marked))

    def rows(self) -> list[dict[str, Any]]:
        return [self._row(method) for method in STATEMENTS]

    def _row(self, method: str) -> dict[str, Any]:
        statement, technique = STATEMENTS[method], self.techniques[method]
        differences = technique.differences.items()
        return {
            "method": method,
            "technique": statement.name,
            "recommended_for": statement.recommended_for["en"],
            "highest_on": list(technique.highest),
            **{f"{verdict}_on": technique.on(verdict) for verdict in get_args(Verdict)},
            "differences": {task: _difference_cells(effect) for task, effect in differences},
            "peak_relative": technique.peak,
            "tokens_per_second_relative": technique.speed,
            "servable": {task: own.as_data() for task, own in technique.servable.items()},
            "support_stated": statement.support["en"],
            "peft_version": self.offers.version,
            "peft_offers": list(self.offers.names[method]),
        }


def closing(results: Results, offers: PeftOffers = PEFT_OFFERS) -> Closing:
    """The article's closing table with each cell measured, over all runs that answer a question."""
    techniques = {method: Technique() for method in STATEMENTS}
    blocks = {block: arms for block in results.final if (arms := _present(block))}
    tasks = names(list(blocks))
    for task, (block, arms) in zip(tasks, blocks.items(), strict=True):
        for method, arm in arms.items():
            head = any(run.record.footprint.head_params for run in arm.done if run.record.footprint)
            techniques[method].servable[task] = servable(arm.spec, head=head)
        if top := _highest(results, block, arms):
            techniques[top[0]].highest[task] = top[1]
        if REFERENCE in arms:
            differences = results.differences(block, arms[REFERENCE], "metric", arms.values())
            for arm, difference in differences.items():
                techniques[arm.method].differences[task] = difference
    places = {costs: arms for block, arms in blocks.items() for costs in results.costs_of(block)}
    for name, (costs, arms) in zip(names(list(places)), places.items(), strict=True):
        for method, ratio in _relative(costs, arms, "peak_bytes").items():
            techniques[method].peak[name] = ratio
        for method, ratio in _relative(costs, arms, "tokens_per_second").items():
            techniques[method].speed[name] = ratio
    empty = NOT_MEASURED if results.final else nothing(len(results.trials))
    return Closing(techniques, tuple(tasks), offers, empty)


def _present(block: Block) -> dict[str, Arm]:
    """The first arm of each technique that has a run that is done."""
    return {method: arm for method in STATEMENTS if (arm := block.first(method))}


def _highest(results: Results, block: Block, arms: Mapping[str, Arm]) -> tuple[str, bool] | None:
    """Which of several techniques alone has the highest mean, and whether by more than chance; None
    where that one has learned nothing."""
    values = {method: results.values(arm, "metric") for method, arm in arms.items()}
    means = {method: own.numbers.mean() for method, own in values.items()}
    top = [method for method in means if means[method] == np.max([*means.values()])]
    if len(means) < 2 or len(top) != 1:  # a NaN is equal to none of them
        return None
    if learned(results, block, arms[top[0]]) is False:
        return None
    return top[0], best([*values.values()], 1.0) is not None


def _relative(costs: Block, arms: Mapping[str, Arm], measure: str) -> dict[str, float]:
    """A measure of the same arms in a cost block, relative to LoRA's."""
    here = {method: own for method, arm in arms.items() if (own := costs.same_settings(arm))}
    means = {method: mean(own, measure) for method, own in here.items()}
    base = means.pop(REFERENCE, None)
    return {method: value / base for method, value in means.items() if value and base}


def _verdict(effect: Difference) -> Verdict:
    return "better" if effect.is_better else "worse" if effect.is_worse else "undecided"


def _effect(difference: Difference | None) -> str:
    if difference is None:
        return NONE
    return decimal(difference.difference, "+.4f") + bracket(difference.interval, "+.3f")


def _difference_cells(difference: Difference) -> dict[str, Any]:
    cells = dict(vars(difference))
    seeds, interval = cells.pop("seeds"), cells.pop("interval")
    return cells | interval_cells(interval) | {"n": seeds}
