"""What each method costs: parameters, bytes, seconds, a section for each device."""

from dataclasses import dataclass
from functools import partial
from typing import Any

from peftbench.analysis.blocks import Arm, Block
from peftbench.analysis.measures import PARAMETERS, PARTS, mean, seed_ratios
from peftbench.analysis.results import Results
from peftbench.markup import AbstractTable, Section, Sheet
from peftbench.tables.cells import (
    ALONE,
    METHOD,
    PEAK,
    PER_CENT,
    REFERENCE,
    SPEED,
    TRAINED,
    busy_notes,
    left_out,
    question_cells,
    sheet_of,
    titles,
    whole,
)
from peftbench.wording import Lang, Words, count, decimal, mebibytes, per_cent, ranged, size

LEGEND = Words(
    "Means over the seeds that are done; in parentheses the range of seeds. trained: parameters "
    "the method trains, the classification head left out, and their share of the model's. updated: "
    "parameters whose values it changes. adapter: what must be stored beside the plain model. "
    "peak: live tensor bytes at the peak of a training step, in MiB of 1,048,576 bytes, and what "
    "it is made of. tok/s: real tokens, without padding; × lora: relative to the first lora arm of "
    "the block, seed by seed. utilization: of the device's measured rate of matrix products, "
    "padding counted. adapted/base and merged/base: seconds of one forward pass with the adapter "
    "beside the model, and merged into it, relative to the plain model; control/base: of the plain "
    "model timed once more, which differs from 1 by the measurement alone. "
    f"{ALONE.en} – means that there is no such number.",
    "数值为已完成种子的均值,括号内为各种子的范围。可训练参数:不含分类头,及其占模型的百分比。"
    "更新参数:数值会被改变的参数。适配器文件:除原模型外须保存的内容。"
    "峰值:一个训练步内存活张量的峰值字节数(1 MiB = 1,048,576 字节)及其构成。"
    "词元/秒:真实词元,不含填充;相对 LoRA:与同组第一个 lora 逐种子相比。"
    "利用率:相对实测矩阵乘法速率,计入填充。"
    "延迟:一次前向计算的时间,未合并及合并后,相对原模型;对照:原模型再计时一次,"
    f"与 1 之差仅为测量误差。{ALONE.zh}–:没有该数值。",
)
HEADER = (
    METHOD,
    TRAINED,
    PER_CENT,
    Words("updated", "更新参数"),
    Words("adapter", "适配器文件"),
    PEAK,
    Words("weights", "权重"),
    Words("gradients", "梯度"),
    Words("optimizer", "优化器"),
    Words("activations", "激活"),
    Words("other", "其他"),
    SPEED,
    Words("× lora", "相对 LoRA"),
    Words("ms/step", "毫秒/步"),
    Words("utilization", "利用率"),
    Words("adapted/base", "未合并延迟/原模型"),
    Words("merged/base", "合并后延迟/原模型"),
)
CONTROL = Words("control/base", "对照延迟/原模型")  # a last column, where any run has it
MEASURES = (
    *PARAMETERS,
    *("adapter_file_bytes", "peak_bytes", *PARTS),
    *("tokens_per_second", "step_seconds", "utilization"),
    *("latency.base", "latency.adapted", "latency.merged", "latency.control"),
)


@dataclass(frozen=True, eq=False)
class Costs(AbstractTable):
    """Cost blocks, each with the arms that have a run that is done."""

    blocks: tuple[Block, ...]
    trials: int
    studies: int

    def sheet(self, lang: Lang) -> Sheet:
        controlled = any(
            _ratios(block, arm)["control"] for block in self.blocks for arm in block.arms
        )
        header = [words[lang] for words in (*HEADER, CONTROL)[: len(HEADER) + controlled]]
        sections = [
            Section(
                *titles(block, lang),
                header,
                [_cells(block, arm)[: len(header)] for arm in block.arms],
                frozenset({0}),
                notes=busy_notes(block.arms, lang),
            )
            for block in self.blocks
        ]
        return sheet_of(sections, LEGEND, self.trials, self.studies, lang)

    def rows(self) -> list[dict[str, Any]]:
        return [_row(block, arm) for block in self.blocks for arm in block.arms]


def costs(results: Results) -> Costs:
    """The costs of all arms but the trials of searches."""
    blocks = [block.only(arm for arm in block.arms if arm.done) for block in results.costs]
    return Costs(tuple(block for block in blocks if block.arms), *left_out(results))


def _ratios(block: Block, arm: Arm) -> dict[str, list[float]]:
    """Of the runs whose seconds count: tokens per second relative to LoRA's, seed by seed, and
    latencies relative to the plain model's."""
    lora, runs = block.first(REFERENCE), arm.timed
    return {
        "relative": seed_ratios(runs, lora.timed if lora else (), "tokens_per_second"),
        "adapted": seed_ratios(runs, runs, "latency.adapted", "latency.base"),
        "merged": seed_ratios(runs, runs, "latency.merged", "latency.base"),
        "control": seed_ratios(runs, runs, "latency.control", "latency.base"),
    }


def _cells(block: Block, arm: Arm) -> list[str]:
    mean_of, ratios = partial(mean, arm), _ratios(block, arm)
    seconds = mean_of("step_seconds")
    return [
        arm.label,
        count(mean_of("trained_params")),
        per_cent(mean_of("trained_share")),
        count(mean_of("updatable_params")),
        size(mean_of("adapter_file_bytes")),
        mebibytes(mean_of("peak_bytes")),
        *(mebibytes(mean_of(part)) for part in PARTS),
        decimal(mean_of("tokens_per_second"), ",.0f"),
        ranged(ratios["relative"]),
        decimal(seconds and 1000 * seconds, ",.1f"),
        decimal(mean_of("utilization"), ".0%"),
        ranged(ratios["adapted"]),
        ranged(ratios["merged"]),
        ranged(ratios["control"]),
    ]


def _row(block: Block, arm: Arm) -> dict[str, Any]:
    question, share = block.question, mean(arm, "trained_share")
    return {
        **vars(block.place),
        **question_cells(question),
        **{name: getattr(question, name) for name in ("base", "precision", "steps", "batch_size")},
        "method": arm.method,
        "label": arm.label,
        "seeds": len(arm.done),
        "timed": len(arm.timed),
        "trained_per_cent": share and 100 * share,
        **{name: whole(name, mean(arm, name)) for name in MEASURES},
        **_ratios(block, arm),
    }
