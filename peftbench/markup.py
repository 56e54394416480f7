"""Sheets of cells as Markdown, LaTeX, CSV and JSON: nothing here knows what a table is about."""

import json
import re
import textwrap
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from tabulate import tabulate
from wcwidth import wcswidth

from peftbench.wording import Lang, for_terminal, printable

if TYPE_CHECKING:
    from pandas import DataFrame

Format = Literal["md", "csv", "latex", "json"]
WIDTH = 140  # columns of a terminal
MOST = 1000  # characters of a Markdown table's title or cell


@dataclass(frozen=True)
class Section:
    """One grid of cells: texts, not yet escaped."""

    title: str
    about: str
    header: Sequence[str]
    rows: Sequence[Sequence[str]]
    left: frozenset[int]  # columns of words
    marked: frozenset[tuple[int, int]] = frozenset()  # places (row, column) of what is best
    notes: Sequence[str] = ()
    wrapped: Mapping[int, float] = field(default_factory=dict)
    # columns of sentences, and their part of the line's width in LaTeX


@dataclass(frozen=True)
class Sheet:
    """A table as people read it. legend: `{best}` in it is what marks the best. Without sections,
    `empty` says what is missing."""

    sections: Sequence[Section]
    legend: str
    empty: str
    notes: Sequence[str] = ()


class AbstractTable(ABC):
    """A table: as people read it, and as programs do. A subclass is final."""

    @abstractmethod
    def sheet(self, lang: Lang) -> Sheet: ...

    @abstractmethod
    def rows(self) -> list[dict[str, Any]]:
        """Unrounded numbers, in bytes and seconds, by the names that records use."""


def as_text(table: AbstractTable, format: Format, lang: Lang = "en") -> str:
    """A table as text, without a newline at its end. Markdown is laid out for a terminal; csv and
    json know no language."""
    match format:
        case "md":
            return _markdown(table.sheet(lang))
        case "latex":
            return _latex(table.sheet(lang), lang)
        case "csv":
            return as_frame(table).to_csv(index=False, lineterminator="\n").rstrip("\n")
        case "json":
            return json.dumps(table.rows(), indent=1, allow_nan=False, ensure_ascii=False)


def as_frame(table: AbstractTable) -> "DataFrame":
    """A row for each of the table's: each of `metrics` has a column of its own, other lists and
    dictionaries are JSON."""
    import pandas

    flat = [
        {
            name: json.dumps(cell, ensure_ascii=False) if isinstance(cell, dict | list) else cell
            for name, cell in row.items()
            if name != "metrics"
        }
        | {f"metrics.{name}": cell for name, cell in row.get("metrics", {}).items()}
        for row in table.rows()
    ]
    return pandas.DataFrame(flat, dtype=object)


# An underscore inside a word means nothing in Markdown.
_MARKDOWN = re.compile(r"[\\|`*<\[]|(?<![^\W_])_|_(?![^\W_])")
_LATEX = str.maketrans(
    {char: f"\\{char}" for char in "&%$#_{}"}
    | {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}"}
    | {"<": "$<$", ">": "$>$", "|": "$|$", "±": r"$\pm$", "×": r"$\times$", "Σ": r"$\Sigma$"}
    | {"↑": r"$\uparrow$", "↓": r"$\downarrow$", "−": "$-$", "–": "--", "…": r"\dots{}"}
    | {"`": r"\textasciigrave{}", "[": "{[}"}
)


def escaped(text: str) -> str:
    """Text that Markdown shows as it is."""
    return _MARKDOWN.sub(lambda match: f"\\{match[0]}", printable(text))


def _cell(text: str) -> str:
    """A table's cell: a bracket starts no link there, since no parenthesis follows."""
    return re.sub(r"\\\[(?=[-+\d.,]+, [-+\d.,]+\])", "[", escaped(for_terminal(text, MOST)))


def _tex(text: str) -> str:
    return printable(text).translate(_LATEX)


def _markdown(sheet: Sheet) -> str:
    if not sheet.sections:
        return sheet.empty
    parts: list[str] = []
    for section in sheet.sections:
        parts += [f"## {escaped(for_terminal(section.title, MOST))}"] if section.title else []
        parts += [escaped(for_terminal(section.about, MOST))] if section.about else []
        parts.append(_grid(section))
        if section.notes:
            parts.append("\n".join(f"- {escaped(note)}" for note in section.notes))
    return "\n\n".join([*parts, *map(_filled, sheet.notes), _filled(sheet.legend.format(best="*"))])


def _grid(section: Section) -> str:
    """A Markdown table whose columns stand in line in a terminal: words to the left, numbers to the
    right, and a star or a space behind the numbers of a column where any is marked."""
    starred = {column for _, column in section.marked}
    rows = [
        [
            _cell(cell) + ("*" if (i, j) in section.marked else " " if j in starred else "")
            for j, cell in enumerate(row)
        ]
        for i, row in enumerate(section.rows)
    ]
    aligned = ["left" if i in section.left else "right" for i in range(len(section.header))]
    header = [escaped(cell) for cell in section.header]
    return tabulate(
        rows,
        header,
        "pipe",
        disable_numparse=True,
        colalign=aligned,
        preserve_whitespace=True,  # the space in place of a star
    )


def _filled(text: str) -> str:
    """A paragraph in lines of a terminal's width; Chinese, which has no spaces to break at, on one
    line."""
    text = escaped(text)
    return textwrap.fill(text, WIDTH) if wcswidth(text) < 1.2 * len(text) else text


def _latex(sheet: Sheet, lang: Lang) -> str:
    if not sheet.sections:
        return f"% {sheet.empty}"
    package = r" and \usepackage{ctex}" if lang == "zh" else ""
    parts = [rf"% needs \usepackage{{booktabs}}{package}"]
    for section in sheet.sections:
        caption = ". ".join(_tex(text) for text in (section.title, section.about) if text)
        columns = ["l" if i in section.left else "r" for i in range(len(section.header))]
        for i, part in section.wrapped.items():
            columns[i] = rf"p{{{part}\linewidth}}"
        lines = [r"\begin{table}", r"\centering", r"\small"]
        lines += [rf"\caption{{{caption}.}}"] if caption else []
        lines += [rf"\begin{{tabular}}{{{''.join(columns)}}}", r"\toprule"]
        lines += [rf"{' & '.join(map(_tex, section.header))} \\", r"\midrule"]
        for i, row in enumerate(section.rows):
            cells = [
                rf"\textbf{{{_tex(cell)}}}" if (i, j) in section.marked else _tex(cell)
                for j, cell in enumerate(row)
            ]
            lines.append(rf"{' & '.join(cells)} \\")
        lines += [r"\bottomrule", r"\end{tabular}"]
        legend = sheet.legend.format(best="bold" if lang == "en" else "粗体")
        notes = [*section.notes, *sheet.notes, legend]
        lines += [rf"\par{{\footnotesize {_tex(note)}\par}}" for note in notes if note]
        parts.append("\n".join([*lines, r"\end{table}"]))
    return "\n\n".join(parts)
