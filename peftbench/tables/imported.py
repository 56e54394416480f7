"""What others measured, in tables of their own: one for each task and model. Nothing is marked as
best and nothing is set against our runs: their data, scores, memory and seconds are others."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from peftbench.analysis.blocks import grouped
from peftbench.analysis.labels import telling_apart
from peftbench.imported.record import ImportedRecord
from peftbench.markup import AbstractTable, Section, Sheet
from peftbench.tables.cells import METHOD, PER_CENT, SPEED, TRAINED
from peftbench.wording import NONE, Lang, Words, count, decimal, per_cent, shortened, size

EMPTY = Words(
    "Nothing was imported: `peftbench import peft-method-comparison FOLDER` reads in what others "
    "measured.",
    "没有导入任何结果:用 `peftbench import peft-method-comparison FOLDER` 读入他人的测量结果。",
)
LEGEND = Words(
    "Measured by others, as their files say it: no claim, interval, figure or recommendation rests "
    "on it. A row is one run with one seed: nothing says which differences are chance. max, mean: "
    "what the accelerator's allocator held, at most (evaluation included) and after a step on "
    "average; our tables count live tensor bytes. train: with the evaluation at the end. trained, "
    "%: of all parameters, the adapter's included. – means that the file does not say it.",
    "他人的测量结果,照其文件所述:不用于任何结论、推荐、区间或图。"
    "每行是一个种子的一次运行,无法判断差异是否出于偶然。"
    "最大、平均:加速器分配器占用内存的最大值(含评测)与每步之后的平均值;我们的表格统计存活张量的字节数。"
    "训练:包含最后的评测。可训练 %:占全部参数(含适配器)的比例。–:文件中没有。",
)
TITLE = Words("Measured by others: {0}, {1}", "他人的测量:{0},{1}")
SCORE = Words("score", "得分")
THEIR_NAME = Words("their name", "其名称")
Column = tuple[Words, Callable[[ImportedRecord], str]]
COLUMNS: tuple[Column, ...] = (
    (TRAINED, lambda record: count(record.trained_params)),
    (PER_CENT, lambda record: per_cent(record.trained_share)),
    (Words("max", "最大内存"), lambda record: size(record.max_reserved_bytes)),
    (Words("mean", "平均内存"), lambda record: size(record.mean_reserved_bytes)),
    (Words("train s", "训练 秒"), lambda record: decimal(record.train_seconds, ",.0f")),
    (SPEED, lambda record: decimal(record.tokens_per_second, ",.0f")),
    (Words("file", "文件"), lambda record: size(record.file_bytes)),
    (Words("peft", "peft 版本"), lambda record: record.software.peft or NONE),
    (Words("date", "日期"), lambda record: f"{record.created:%Y-%m-%d}"),
)
# What is said once where all results of a section agree in it, else in a column.
SHARED: tuple[tuple[Words, Words, Callable[[ImportedRecord], int | None]], ...] = (
    (Words("steps", "步数"), Words("{0} steps", "{0} 步"), lambda record: record.steps),
    (Words("seed", "种子"), Words("seed {0}", "种子 {0}"), lambda record: record.seed),
)
NOT_SCORED = Words("{0}: {1}{2}", "{0}:{1}{2}")

# Of a configuration: what says where the model is, or with what the file was written.
UNTOLD = {
    "peft_type",
    "peft_version",
    "auto_mapping",
    "base_model_name_or_path",
    "revision",
    "inference_mode",
    "task_type",
}
TOLD = ("max_steps", "batch_size", "optimizer_type", "optimizer_kwargs")  # of training settings
OFF = {"null", "false", "{}"}  # what goes without saying in a label
USUAL_OPTIMIZER = "AdamW"  # another one may make a method: lora-fa, lora+


@dataclass(frozen=True)
class Group:
    """The results on one task with one model of one source, with a label each."""

    records: Sequence[ImportedRecord]
    labels: Sequence[str]

    @property
    def first(self) -> ImportedRecord:
        return self.records[0]

    @property
    def primary(self) -> str | None:
        """The score, where all name the same one."""
        names = {record.primary for record in self.records if record.primary}
        return names.pop() if len(names) == 1 else None

    def facts(self, lang: Lang) -> str:
        """Where they come from, what they were measured with, and what they agree in."""
        software = [record.software for record in self.records]
        agreed = [(words, self._only(value)) for _, words, value in SHARED]
        return "; ".join(
            [
                f"{self.first.source.repository}, {self.first.source.folder}",
                *_known(own.device for own in software),
                *(f"torch {version}" for version in _known(own.torch for own in software)),
                *(words.format(f"{n:,}")[lang] for words, n in agreed if n is not None),
            ]
        )

    def columns(self) -> list[Column]:
        """All but the method and its score."""
        differing: list[Column] = [
            (name, lambda record, value=value: decimal(value(record), ",d"))
            for name, _, value in SHARED
            if self._only(value) is None
        ]
        return [*COLUMNS, *differing, (THEIR_NAME, lambda record: record.experiment)]

    def _only(self, value: Callable[[ImportedRecord], int | None]) -> int | None:
        """The value of all of them; None if there is none."""
        values = {value(record) for record in self.records}
        return values.pop() if len(values) == 1 else None


@dataclass(frozen=True)
class Imported(AbstractTable):
    """All that was imported; without any, `EMPTY`."""

    groups: tuple[Group, ...]

    def sheet(self, lang: Lang) -> Sheet:
        sections = [_section(group, lang) for group in self.groups]
        return Sheet(sections, LEGEND[lang], EMPTY[lang])

    def rows(self) -> list[dict[str, Any]]:
        return [
            _row(record, label)
            for group in self.groups
            for record, label in zip(group.records, group.labels, strict=True)
        ]


def imported(records: Iterable[ImportedRecord]) -> Imported:
    """The table of imported records, in the order of tasks, models, methods and dates."""
    ordered = sorted(records, key=_order)
    groups = grouped(ordered, lambda r: (r.source.repository, r.task, r.model)).values()
    return Imported(tuple(Group(own, _labels(own)) for own in groups))


def _order(record: ImportedRecord) -> tuple[Any, ...]:
    where = (record.source.repository, record.task, record.model)
    return (*where, _name(record), record.experiment, record.created, record.imported_id)


def _labels(records: Sequence[ImportedRecord]) -> list[str]:
    """The method of each, with as many of its settings as tell it from the others of that method;
    what is off goes without saying."""
    parts: dict[str, dict[str, str]] = {}
    for same in grouped(records, _name).values():
        settings = {record.imported_id: _settings(record) for record in same}
        common = set.intersection(*map(set, settings.values()))
        parts |= telling_apart(
            {
                key: {name: value for name, value in own.items() if name in common}
                for key, own in settings.items()
            }
        )
    labels: list[str] = []
    for record in records:
        told = parts[record.imported_id].items()
        texts = [f"{name}={text}" for name, text in told if text not in OFF]
        labels.append(_name(record) + (f" ({', '.join(texts)})" if texts else ""))
    return labels


def _name(record: ImportedRecord) -> str:
    """The method, with its optimizer where that is another than most have."""
    optimizer = record.train.get("optimizer_type") or USUAL_OPTIMIZER
    return record.method if optimizer == USUAL_OPTIMIZER else f"{record.method}, {optimizer}"


def _settings(record: ImportedRecord) -> dict[str, Any]:
    """The method's configuration, then what may tell trainings apart. Lists of names have no order:
    they were sets."""
    told = {name: record.train[name] for name in TOLD if name in record.train}
    return {
        name: sorted(value) if _are_names(value) else value
        for name, value in (record.config | told).items()
        if name not in UNTOLD
    }


def _are_names(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(inner, str) for inner in value)


def _known(texts: Iterable[str | None]) -> list[str]:
    return sorted({text for text in texts if text})


def _section(group: Group, lang: Lang) -> Section:
    first, columns = group.first, group.columns()
    header = [METHOD[lang], group.primary or SCORE[lang], *(words[lang] for words, _ in columns)]
    rows = [
        [label, decimal(record.score, ".4f"), *(text(record) for _, text in columns)]
        for record, label in zip(group.records, group.labels, strict=True)
    ]
    notes = [_note(record)[lang] for record in group.records if record.status != "success"]
    title = TITLE.format(first.task, first.model)[lang]
    left = frozenset({0, len(header) - 1})
    return Section(title, group.facts(lang), header, rows, left, notes=notes)


def _note(record: ImportedRecord) -> Words:
    """Why a result has no score."""
    error = shortened(record.error or "", 200)
    return NOT_SCORED.format(record.experiment, record.status, f" ({error})" if error else "")


def _row(record: ImportedRecord, label: str) -> dict[str, Any]:
    """Everything but the settings as they are, by the names that imported records use."""
    cells = record.model_dump(mode="json", exclude={"source", "software", "schema_version"})
    return {
        "label": label,
        **cells,
        "primary_score": record.score,
        **{f"source.{name}": value for name, value in record.source},
        **{f"software.{name}": value for name, value in record.software},
    }
