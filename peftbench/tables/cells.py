"""What tables share: cells, titles, and what they say of a store that answers no question."""

from collections.abc import Iterable, Sequence
from typing import Any

from peftbench.analysis.blocks import SPARE_LOAD, Arm, Block, Question
from peftbench.analysis.estimates import Interval
from peftbench.analysis.labels import telling
from peftbench.analysis.measures import TIMED
from peftbench.analysis.results import Results
from peftbench.markup import Section, Sheet
from peftbench.wording import Lang, Words, decimal

REFERENCE = "lora"  # the method that others are compared with

EMPTY = Words(
    "There is nothing to compare: the store holds no records yet; "
    "`peftbench run FILE.toml` makes some.",
    "没有可以比较的内容:结果库还没有记录;用 `peftbench run FILE.toml` 生成。",
)
ONLY_TRIALS = Words(
    "There is nothing to compare: all {0} runs in the store are trials of searches. "
    "Run the experiment file that `peftbench search` wrote.",
    "没有可以比较的内容:结果库中的 {0} 个运行都是超参搜索的试验。"
    "请运行 `peftbench search` 写出的实验文件。",
)
LEFT_OUT = Words(
    "left out: trials of searches (runs: {0}, studies: {1})",
    "未列入:{1} 项超参搜索中的 {0} 次试验",
)
BUSY = Words(
    "seconds and rates leave out {0} of {1} runs: the machine was busy with other work",
    "时间与速率未计入 {1} 个运行中的 {0} 个:运行期间机器另有负载",
)
ALONE = Words(
    "Seconds and rates are of runs that had the machine to themselves: at the start and at the end "
    f"the load average was at most {SPARE_LOAD:g} above the run's own threads.",
    f"时间与速率只计独占机器的运行:开始与结束时的平均负载至多比其自身线程数高 {SPARE_LOAD:g}。",
)
METHOD = Words("method", "方法")
TRAINED = Words("trained", "可训练参数")
PEAK = Words("peak MiB", "峰值 MiB")
SPEED = Words("tok/s", "词元/秒")
PER_CENT = Words.same("%")


def nothing(trials: int) -> Words:
    """Why a table is empty."""
    return ONLY_TRIALS.format(trials) if trials else EMPTY


def left_out(results: Results) -> tuple[int, int]:
    """How many runs are trials of searches, and of how many studies."""
    studies = [run.record.spec.study for run in results.trials]
    return len(studies), len({study.name for study in studies if study})


def sheet_of(
    sections: Sequence[Section], legend: Words, trials: int, studies: int, lang: Lang
) -> Sheet:
    """Sections with what they have in common, and what they leave out."""
    notes = [LEFT_OUT.format(trials, studies)[lang]] if trials else []
    return Sheet(sections, legend[lang], nothing(trials)[lang], notes)


def busy_notes(arms: Iterable[Arm], lang: Lang) -> list[str]:
    """How many runs' seconds do not count."""
    runs = [run for arm in arms for run in arm.done]
    busy = sum(not run.alone for run in runs)
    return [BUSY.format(busy, len(runs))[lang]] if busy else []


def titles(block: Block, lang: Lang) -> tuple[str, str]:
    """What a block compares, and under which circumstances."""
    words = telling(block, lang)
    return f"{block.question.task}, {words.pop('model')}", "; ".join(words.values())


def bracket(interval: Interval | None, format: str) -> str:
    """An interval behind a mean; nothing where there is none."""
    if interval is None:
        return ""
    return f" [{decimal(interval.low, format)}, {decimal(interval.high, format)}]"


def interval_cells(interval: Interval | None) -> dict[str, Any]:
    """An interval in a row of JSON."""
    return vars(interval) if interval else dict.fromkeys(("low", "high", "over"))


def question_cells(question: Question) -> dict[str, Any]:
    """What a row of JSON says of its block."""
    names = ("model", "pooling", "task", "task_version", "split")
    return {name: getattr(question, name) for name in names} | {"data": question.data.model_dump()}


def whole(name: str, value: float | None) -> float | None:
    """The mean of a measure, as a whole number where only such make sense."""
    counts = name not in TIMED or name.endswith(".n")
    return int(value) if value is not None and counts and value.is_integer() else value
