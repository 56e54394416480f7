"""The comparison of methods as text: a block for each model, task, device and software stack, and never two of those in one."""

import csv
import io
import json
import re
import textwrap
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal

import pandas as pd

from peftbench.frame import BLOCK, MEASURED, PARTS, PEAKS, TRAIN, arms, distinct
from peftbench.spec import DataSpec

Format = Literal["md", "csv", "latex", "json"]
NONE = "–"
WHOLE = {*(name for name in MEASURED if name.endswith(("_params", "_bytes", ".n"))), *PARTS, *PEAKS, "flops_per_step", "train.eval_every"}
EMPTY = "There is nothing to compare: the store holds no records yet; `peftbench run FILE.toml` makes some."
LEGEND = (
    "Means over the seeds that are done, ± their standard deviation if there are several. ↑ higher is better, ↓ lower is better, "
    "{best} is the best of its block as printed: no claim that the difference is more than chance. nll: nats per supervised token. "
    "trained: parameters the method trains, the classification head left out, and their share of the model's. updated: parameters whose "
    "values it changes. peak: live tensor bytes at the peak of a training step, 1 MiB = 1,048,576 bytes. tok/s: real tokens, without "
    "padding. file: what must be stored beside the plain model. – means that there is no such number: a frozen language model takes no "
    "step, and a run that is not done measured nothing."
)


@dataclass(frozen=True)
class Block:
    """The arms that may be compared with each other; rows are dictionaries, unknown values NaN."""

    about: dict[str, Any]  # what all of them agree in: the columns of frame.BLOCK
    arms: list[dict[str, Any]]  # the rows of frame.arms
    failures: list[dict[str, Any]]  # the runs that are not done, rows of frame.frame
    examples: int  # how many different sets of examples the runs saw

    @property
    def primary(self) -> str:
        return self.arms[0]["primary"]


@dataclass(frozen=True)
class Table:
    """A comparison, one block after another."""

    blocks: tuple[Block, ...]


def comparison(runs: pd.DataFrame) -> Table:
    """The comparison of all runs of a frame, in its order."""
    unique = distinct(runs)
    failures = _by_block(unique.query("status != 'done'"))
    examples = _by_block(unique.dropna(subset=["fingerprint"]).drop_duplicates([*BLOCK, "fingerprint"]))
    found = _by_block(arms(unique))
    return Table(
        tuple(
            Block(dict(zip(BLOCK, key, strict=True)), members, failures.get(key, []), len(examples.get(key, [])))
            for key, members in found.items()
        )
    )


def _by_block(rows: pd.DataFrame) -> dict[tuple[Any, ...], list[dict[str, Any]]]:
    grouped: dict[tuple[Any, ...], list[dict[str, Any]]] = {}
    for row in rows.to_dict("records"):
        grouped.setdefault(tuple(row[name] for name in BLOCK), []).append({str(name): value for name, value in row.items()})
    return grouped


def render(table: Table, format: Format) -> str:
    """The comparison as text, without a newline at its end. Markdown is laid out for a terminal of 140 columns."""
    return {"md": _md, "csv": _csv, "latex": _latex, "json": _json}[format](table)


# -- cells -----------------------------------------------------------------------------------------------------------


def human(count: float) -> str:
    """A count in at most three significant digits: 663.6 k is 664 k."""
    for limit, unit in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if count >= 0.9995 * limit:
            return f"{_three(count / limit)} {unit}"
    return f"{count:.0f}"


def size(count: float) -> str:
    """Bytes with a binary unit."""
    for power, unit in ((3, "GiB"), (2, "MiB"), (1, "KiB")):
        if count >= 0.9995 * 1024**power:
            return f"{_three(count / 1024**power)} {unit}"
    return f"{count:.0f} B"


def _three(value: float) -> str:
    """Three significant digits, and never an exponent."""
    return f"{value:.{0 if value >= 99.95 else 1 if value >= 9.995 else 2}f}"


def _number(value: float, format: str) -> str:
    return NONE if pd.isna(value) else f"{value:{format}}"


def _scores(arms: list[dict[str, Any]], name: str, lower: bool) -> tuple[list[str], int | None]:
    """The cells of a metric, and which of them is strictly the best as printed; None if there is no single best."""
    means = [_number(arm[name], ".4f") for arm in arms]
    cells = [mean if pd.isna(arm[f"{name}.std"]) else f"{mean} ± {arm[f'{name}.std']:.4f}" for mean, arm in zip(means, arms, strict=True)]
    printed = sorted((mean for mean in means if mean != NONE), key=float, reverse=not lower)
    best = means.index(printed[0]) if len(printed) > 1 and printed[0] != printed[1] else None
    return cells, best


def _share(arm: dict[str, Any]) -> str:
    """The trained parameters in per cent of the model's, the head left out of both."""
    part = 100 * arm["trained_params"] / (arm["total_params"] - arm["head_params"])
    return _number(part, ".3g" if part < 10 else ".1f")


def _seeds(arm: dict[str, Any], block: Block) -> str:
    """How many seeds are done; if none is, what became of them."""
    if arm["seeds"]:
        return str(arm["seeds"]) if arm["seeds"] == arm["runs"] else f"{arm['seeds']} of {arm['runs']}"
    return ", ".join(dict.fromkeys(run["status"] for run in block.failures if run["arm"] == arm["arm"]))


def _cells(block: Block) -> tuple[list[str], list[list[str]], set[tuple[int, int]]]:
    """A block's header, its rows, and the places (row, column) of the best values."""
    metric, best_metric = _scores(block.arms, "metric", lower=False)
    nll, best_nll = _scores(block.arms, "nll", lower=True)
    header = ["method", f"{block.primary} ↑", "nll ↓", "trained", "%", "updated", "peak MiB", "tok/s", "ms/step", "file", "seeds"]
    rows = [
        [
            arm["label"],
            metric[i],
            nll[i],
            NONE if pd.isna(arm["trained_params"]) else human(arm["trained_params"]),
            _share(arm),
            NONE if pd.isna(arm["updatable_params"]) else human(arm["updatable_params"]),
            _number(arm["peak_bytes"] / 2**20, ",.1f"),
            _number(arm["tokens_per_second"], ",.0f"),
            _number(1000 * arm["step_seconds"], ",.1f"),
            NONE if pd.isna(arm["adapter_file_bytes"]) else size(arm["adapter_file_bytes"]),
            _seeds(arm, block),
        ]
        for i, arm in enumerate(block.arms)
    ]
    return header, rows, {(row, column) for column, row in ((1, best_metric), (2, best_nll)) if row is not None}


def described(about: dict[str, Any], names: Iterable[str]) -> list[str]:
    """What some of the columns of frame.BLOCK say, in words; the task itself is a title and not among them."""
    limits = {key: value for key, value in json.loads(about["data"]).items() if value != getattr(DataSpec(), key)}
    place = f"{about['device']}: {about['device_name']}"
    words = {
        "model": about["model"],
        "split": f"{about['split']} split",
        "task_version": f"task version {about['task_version']}",
        "data": ", ".join(f"{key}={value}" for key, value in limits.items()) or "all data",
        "device": place,
        "device_name": place,
        "stack": about["stack"],
    }
    return list(dict.fromkeys(words[name] for name in words if name in set(names)))


def _titles(block: Block) -> tuple[str, str]:
    """What a block compares, and under which circumstances."""
    about = block.about
    return f"{about['task']}, {about['model']}", "; ".join(described(about, {*BLOCK} - {"model"}))


def _notes(block: Block) -> list[str]:
    """A line for each way in which runs of an arm failed, and a warning if the examples were not the same."""
    ways: dict[tuple[str, str, str], list[str]] = {}
    for run in block.failures:
        lines = [] if pd.isna(run["error"]) else [line for line in run["error"].splitlines() if line.strip()]
        error = _printable(lines[-1]) if lines else "no error was recorded"
        ways.setdefault((run["label"], run["status"], error if len(error) <= 200 else f"{error[:199]}…"), []).append(str(run["seed"]))
    notes = [
        f"{label}, seed{'s' if len(seeds) > 1 else ''} {', '.join(seeds)}: {status}: {error}"
        for (label, status, error), seeds in ways.items()
    ]
    if block.examples > 1:
        notes.append(f"these runs saw {block.examples} different sets of examples: their scores do not compare")
    return notes


def _printable(text: str) -> str:
    """Text on one line, without the control characters that move a terminal's cursor."""
    return " ".join("".join(char if char.isprintable() else " " for char in text).split())


# -- formats ---------------------------------------------------------------------------------------------------------

_MARKDOWN = re.compile(r"[\\|`*<\[]|(?<![^\W_])_|_(?![^\W_])")  # an underscore inside a word means nothing in Markdown
_LATEX = str.maketrans(
    {char: f"\\{char}" for char in "&%$#_{}"}
    | {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "<": "$<$", ">": "$>$", "|": "$|$"}
    | {"±": r"$\pm$", "↑": r"$\uparrow$", "↓": r"$\downarrow$", "–": "--", "…": r"\dots{}", "`": r"\textasciigrave{}"}
)


def _escaped(text: str) -> str:
    return _MARKDOWN.sub(lambda match: f"\\{match[0]}", _printable(text))


def _tex(text: str) -> str:
    return _printable(text).translate(_LATEX)


def _md(table: Table) -> str:
    if not table.blocks:
        return EMPTY
    parts: list[str] = []
    for block in table.blocks:
        header, rows, best = _cells(block)
        starred = {column for _, column in best}  # a star or a space, so that the digits stay in line
        rows = [
            [_escaped(cell) + ("*" if (i, j) in best else " " if j in starred else "") for j, cell in enumerate(row)]
            for i, row in enumerate(rows)
        ]
        title, circumstances = map(_escaped, _titles(block))
        notes = "\n".join(f"- {_escaped(note)}" for note in _notes(block))
        parts += [f"## {title}", circumstances, _grid(header, rows), *([notes] if notes else [])]
    return "\n\n".join([*parts, textwrap.fill(_escaped(LEGEND.format(best="*")), 140)])


def _grid(header: list[str], rows: list[list[str]]) -> str:
    """A Markdown table whose columns stand in line in a terminal: the first and the last to the left, numbers to the right."""
    header = [_escaped(cell) for cell in header]
    widths = [max(map(len, column)) for column in zip(header, *rows, strict=True)]
    left = [i in (0, len(widths) - 1) for i in range(len(widths))]
    rule = ["-" * (width + 1) + ("-" if at_left else ":") for width, at_left in zip(widths, left, strict=True)]
    lines = [
        [f" {cell:<{width}} " if at_left else f" {cell:>{width}} " for cell, width, at_left in zip(row, widths, left, strict=True)]
        for row in [header, *rows]
    ]
    return "\n".join(f"|{'|'.join(line)}|" for line in [lines[0], rule, *lines[1:]])


def _latex(table: Table) -> str:
    if not table.blocks:
        return f"% {EMPTY}"
    parts = [r"% needs \usepackage{booktabs}"]
    for block in table.blocks:
        header, rows, best = _cells(block)
        title, circumstances = map(_tex, _titles(block))
        lines = [
            r"\begin{table}",
            r"\centering",
            rf"\caption{{{title}. {circumstances}.}}",
            rf"\begin{{tabular}}{{l{'r' * (len(header) - 2)}l}}",
            r"\toprule",
            rf"{' & '.join(map(_tex, header))} \\",
            r"\midrule",
        ]
        for i, row in enumerate(rows):
            cells = [rf"\textbf{{{_tex(cell)}}}" if (i, j) in best else _tex(cell) for j, cell in enumerate(row)]
            lines.append(rf"{' & '.join(cells)} \\")
        lines += [r"\bottomrule", r"\end{tabular}"]
        lines += [rf"\par{{\footnotesize {_tex(note)}\par}}" for note in [*_notes(block), LEGEND.format(best="bold")]]
        parts.append("\n".join([*lines, r"\end{table}"]))
    return "\n\n".join(parts)


def _csv(table: Table) -> str:
    rows: list[dict[str, Any]] = []
    for row in _rows(table):
        metrics = row.pop("metrics")
        row |= {name: json.dumps(row[name], ensure_ascii=False) for name in ("data", "args", "train", "failures")}
        rows.append(row | {f"metrics.{name}": value for name, value in metrics.items()})
    out = io.StringIO()
    writer = csv.DictWriter(out, list(dict.fromkeys(name for row in rows for name in row)), lineterminator="\n")
    if rows:
        writer.writeheader()
    writer.writerows(rows)
    return out.getvalue().rstrip("\n")


def _json(table: Table) -> str:
    return json.dumps(_rows(table), indent=1, allow_nan=False, ensure_ascii=False)


def _rows(table: Table) -> list[dict[str, Any]]:
    """Every arm with unrounded numbers, in bytes and seconds, by the names that records use."""
    return [
        {
            **block.about,
            "data": json.loads(block.about["data"]),
            **{name: arm[name] for name in ("method", "method_version", "label")},
            "args": json.loads(arm["args"]),
            "train": {name.removeprefix("train."): _value(name, arm[name]) for name in TRAIN},
            "runs": arm["runs"],
            "seeds": arm["seeds"],
            "primary": block.primary,
            **{name: _value(name, arm[name]) for name in ("metric", "metric.std", "nll", "nll.std", *MEASURED)},
            "metrics": {name.removeprefix("metric."): _value(name, arm[name]) for name in _metrics(block)},
            "failures": [
                {"seed": run["seed"], "status": run["status"], "error": _value("error", run["error"])}
                for run in block.failures
                if run["arm"] == arm["arm"]
            ],
        }
        for block in table.blocks
        for arm in block.arms
    ]


def _metrics(block: Block) -> list[str]:
    """The columns of the metrics that any arm of the block has."""
    names = [name for name in block.arms[0] if name.startswith("metric.") and name != "metric.std"]
    return [name for name in names if any(not pd.isna(arm[name]) for arm in block.arms)]


def _value(name: str, value: Any) -> Any:
    """A cell as JSON has it: None for what is unknown, a whole number where only such make sense."""
    if pd.isna(value):
        return None
    whole = isinstance(value, float) and value.is_integer() and name in WHOLE
    return int(value) if whole else value
