"""The article's claims in its order, judged by the runs of a store, and the table of verdicts."""

from collections import Counter
from dataclasses import dataclass
from typing import Any

from peftbench.analysis.intervals import ALPHA, CONFIDENCE
from peftbench.analysis.results import Results
from peftbench.article import delta_lora, full_fine_tuning, lora, lora_fa, lora_plus, vera
from peftbench.article.claim import SEVERAL_TASKS, Decision, Effect, Verdict
from peftbench.markup import AbstractTable, Section, Sheet
from peftbench.wording import NONE, Lang, Words, sentence, significant

JUDGES = (
    full_fine_tuning.has_a_file_of_a_hundred_gigabytes,
    full_fine_tuning.needs_hundreds_of_gigabytes,
    full_fine_tuning.peft_comes_close_with_a_tiny_part,
    full_fine_tuning.weights_are_low_dimensional,
    lora.trains_few_parameters,
    lora.merged_has_no_latency,
    lora.adapter_takes_a_few_megabytes,
    lora.is_most_stable,
    lora_fa.needs_less_memory,
    lora_fa.trains_faster,
    lora_fa.loses_almost_no_quality,
    vera.trains_very_few_parameters,
    vera.overfits_less,
    vera.excels_with_few_samples,
    delta_lora.is_better_on_maths_and_code,
    delta_lora.grows_the_model_a_little,
    lora_plus.converges_faster,
    lora_plus.ends_higher_on_several_benchmarks,
)
RULES = Words(
    "Rules, fixed before the runs. A comparison is one pair of arms in one block: same model, task,"
    " data, precision, steps and batch size. What models have learned is compared whatever device"
    " they ran on, and a seed counts once; bytes and seconds are compared on one device and"
    " software stack, and seconds only of runs that had the machine to themselves. A comparison"
    " supports a claim if the whole {0:.0%} interval is on the claim's side of the margin, refutes"
    " it if all of it is on the other, and is undecided otherwise. A claim is supported if most"
    " comparisons support it and none refutes it, refuted if most refute it and none supports it."
    " It is undecided too where the mean effect, printed beside it, says otherwise. Quality is"
    " compared between arms with equally many trials, on at least {1} tasks, and only where"
    " something was learned: the interval over seeds and examples lies above the frozen model and"
    " above the best constant answer. It is read on the task's metric first, and on nll where the"
    " metric leaves it open. Of several arms the tuned ones, then those with the most equal"
    " settings but for learning rates are compared. Effects are means over comparisons, intervals"
    " the means of their ends, or the range of what is counted exactly. Nothing is corrected for"
    " there being many claims; the last line says what chance would give.",
    "判定规则(运行之前已固定)。一组比较是同一分组(模型、任务、数据、精度、步数与批大小相同)中的"
    "一对设置。学习效果不分设备一并比较,每个种子只计一次;字节与时间只在同一设备与软件栈内比较,"
    "且时间只取独占机器的运行。{0:.0%} 区间全部在界限的有利一侧则支持,全部在另一侧则反驳,否则未定。"
    "多数比较支持且无一反驳则论断成立;多数反驳且无一支持则论断被反驳;"
    "若旁边所列平均效应与此不符,则未定。效果只在调参次数相同的设置间比较,至少 {1} 个任务,"
    "且仅在学有所得之处:对种子与样本的区间高于冻结模型,也高于最优的恒定回答。"
    "先看任务的主指标,主指标未能定论时再看 nll。"
    "同一方法有多个设置时,先取经过调参的,再取除学习率外相同设置最多的。"
    "效应为各组比较的均值,区间为两端的均值;精确计数的给出范围。"
    "未对论断数量作校正;末行给出仅凭偶然会有多少。",
).format(CONFIDENCE, SEVERAL_TASKS)
BY_CHANCE = Words(
    "Of {0} comparisons that chance could have decided, it would decide about {1:.1f} wrongly if"
    " every true effect stood at its margin, and fewer the farther they stand from it",
    "共有 {0} 组比较可能由偶然决定:若所有真实效应恰在界限上,约有 {1:.1f} 组被误判;离界限越远越少",
)
HEADER = (
    Words("claim", "编号"),
    Words("the article says", "文章的说法"),
    Words("verdict", "结论"),
    Words("effect", "效应"),
    Words("unit", "单位"),
    Words("runs", "运行数"),
)
CHINESE: dict[Decision, str] = {"supported": "成立", "refuted": "被反驳", "undecided": "未定"}
NOTE = Words("{0}: {1} Rule: {2}", "{0}: {1}规则:{2}")


def verdicts(results: Results) -> list[Verdict]:
    """A verdict for each of the article's claims, in its order."""
    return [judge(results) for judge in JUDGES]


@dataclass(frozen=True)
class Verdicts(AbstractTable):
    """The table of verdicts."""

    results: Results

    def sheet(self, lang: Lang) -> Sheet:
        judged = verdicts(self.results)
        rows = [
            [
                verdict.claim.id,
                verdict.claim.text[lang],
                Words(verdict.decision, CHINESE[verdict.decision])[lang],
                _effect(verdict.effect),
                verdict.unit[lang],
                str(len(verdict.runs) or NONE),
            ]
            for verdict in judged
        ]
        notes = [
            NOTE.format(verdict.claim.id, verdict.reason, verdict.claim.rule)[lang]
            for verdict in judged
        ]
        by_chance = sum(verdict.by_chance for verdict in judged)
        notes.append(sentence(BY_CHANCE.format(by_chance, ALPHA * by_chance))[lang])
        header = [name[lang] for name in HEADER]
        wrapped = {1: 0.34, 3: 0.2, 4: 0.2}
        section = Section("", "", header, rows, frozenset(range(5)), notes=notes, wrapped=wrapped)
        return Sheet([section], RULES[lang], "")

    def rows(self) -> list[dict[str, Any]]:
        devices = Counter(record.run_id for record in self.results.records)
        return [
            {
                "claim": verdict.claim.id,
                "text": verdict.claim.text.en,
                "verdict": verdict.decision,
                "effect": verdict.effect and verdict.effect.value,
                "low": verdict.effect and verdict.effect.low,
                "high": verdict.effect and verdict.effect.high,
                "unit": verdict.unit.en,
                "rule": verdict.claim.rule.en,
                "reason": verdict.reason.en,
                "run_ids": [  # keys where several devices have a run of that id
                    run.key if devices[run.record.run_id] > 1 else run.record.run_id
                    for run in verdict.runs
                ],
            }
            for verdict in verdicts(self.results)
        ]


def _effect(effect: Effect | None) -> str:
    if effect is None:
        return NONE
    value, low, high = map(significant, effect)
    return f"{value} [{low}, {high}]"
