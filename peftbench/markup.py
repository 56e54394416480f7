"""Sheets of cells as Markdown, LaTeX, CSV and JSON: nothing here knows what a table is about."""

import csv
import io
import json
import re
import textwrap
import unicodedata
from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from typing import Any, Literal

from peftbench.wording import Lang

Format = Literal["md", "csv", "latex", "json"]
WIDTH = 140  # columns of a terminal


@dataclass(frozen=True)
class Section:
    """One grid of cells: texts, not yet escaped."""

    title: str
    about: str
    header: list[str]
    rows: list[list[str]]
    left: set[int]  # columns of words
    marked: set[tuple[int, int]] = field(
        default_factory=set
    )  # places (row, column) of what is best
    notes: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Sheet:
    """A table as people read it. legend: `{best}` in it is what marks the best. Without sections,
    `empty` says what is missing."""

    sections: list[Section]
    legend: str
    empty: str
    notes: list[str] = field(default_factory=list)


class AbstractTable(ABC):
    """A table: as people read it, and as programs do. A subclass is final."""

    @abstractmethod
    def sheet(self, lang: Lang) -> Sheet: ...

    @abstractmethod
    def rows(self) -> list[dict[str, Any]]:
        """Unrounded numbers, in bytes and seconds, by the names that records use."""


def render(table: AbstractTable, format: Format, lang: Lang = "en") -> str:
    """A table as text, without a newline at its end. Markdown is laid out for a terminal; csv and
    json know no language."""
    match format:
        case "md":
            return _md(table.sheet(lang))
        case "latex":
            return _latex(table.sheet(lang), lang)
        case "csv":
            return _csv(table.rows())
        case "json":
            return json.dumps(table.rows(), indent=1, allow_nan=False, ensure_ascii=False)


_MARKDOWN = re.compile(
    r"[\\|`*<\[]|(?<![^\W_])_|_(?![^\W_])"
)  # an underscore inside a word means nothing in Markdown
_LATEX = str.maketrans(
    {char: f"\\{char}" for char in "&%$#_{}"}
    | {
        "\\": r"\textbackslash{}",
        "~": r"\textasciitilde{}",
        "^": r"\textasciicircum{}",
        "<": "$<$",
        ">": "$>$",
        "|": "$|$",
    }
    | {
        "±": r"$\pm$",
        "↑": r"$\uparrow$",
        "↓": r"$\downarrow$",
        "×": r"$\times$",
        "–": "--",
        "…": r"\dots{}",
        "`": r"\textasciigrave{}",
    }
)


def printable(text: str) -> str:
    """Text on one line, without the control characters that move a terminal's cursor."""
    return " ".join("".join(char if char.isprintable() else " " for char in text).split())


def _escaped(text: str) -> str:
    return _MARKDOWN.sub(lambda match: f"\\{match[0]}", printable(text))


def _cell(text: str) -> str:
    """A table's cell: a bracket starts no link there, since no parenthesis follows."""
    return re.sub(r"\\\[(?=[-+\d.]+, [-+\d.]+\])", "[", _escaped(text))


def _tex(text: str) -> str:
    return printable(text).translate(_LATEX)


def _wide(text: str) -> int:
    """Columns of a terminal."""
    return sum(2 if unicodedata.east_asian_width(char) in "WF" else 1 for char in text)


def _md(sheet: Sheet) -> str:
    if not sheet.sections:
        return sheet.empty
    parts: list[str] = []
    for section in sheet.sections:
        starred = {
            column for _, column in section.marked
        }  # a star or a space, so that the digits stay in line
        rows = [
            [
                _cell(cell) + ("*" if (i, j) in section.marked else " " if j in starred else "")
                for j, cell in enumerate(row)
            ]
            for i, row in enumerate(section.rows)
        ]
        notes = "\n".join(f"- {_escaped(note)}" for note in section.notes)
        about = [_escaped(section.about)] if section.about else []
        parts += [
            f"## {_escaped(section.title)}",
            *about,
            _grid(section, rows),
            *([notes] if notes else []),
        ]
    return "\n\n".join([*parts, *map(_filled, sheet.notes), _filled(sheet.legend.format(best="*"))])


def _filled(text: str) -> str:
    """A paragraph in lines of a terminal's width; Chinese, which has no spaces to break at, on one
    line."""
    return (
        textwrap.fill(_escaped(text), WIDTH)
        if text.isascii() or _wide(text) < 1.2 * len(text)
        else _escaped(text)
    )


def _grid(section: Section, rows: list[list[str]]) -> str:
    """A Markdown table whose columns stand in line in a terminal: words to the left, numbers to the
    right."""
    header = [_escaped(cell) for cell in section.header]
    widths = [max(map(_wide, column)) for column in zip(header, *rows, strict=True)]
    left = [i in section.left for i in range(len(widths))]

    def padded(cell: str, width: int, at_left: bool) -> str:
        room = " " * (width - _wide(cell))
        return f" {cell}{room} " if at_left else f" {room}{cell} "

    rule = [
        "-" * (width + 1) + ("-" if at_left else ":")
        for width, at_left in zip(widths, left, strict=True)
    ]
    lines = [
        [padded(*place) for place in zip(row, widths, left, strict=True)] for row in [header, *rows]
    ]
    return "\n".join(f"|{'|'.join(line)}|" for line in [lines[0], rule, *lines[1:]])


def _latex(sheet: Sheet, lang: Lang) -> str:
    if not sheet.sections:
        return f"% {sheet.empty}"
    parts = [r"% needs \usepackage{booktabs}" + (r" and \usepackage{ctex}" if lang == "zh" else "")]
    for section in sheet.sections:
        caption = ". ".join(_tex(text) for text in (section.title, section.about) if text)
        columns = "".join("l" if i in section.left else "r" for i in range(len(section.header)))
        lines = [
            r"\begin{table}",
            r"\centering",
            rf"\caption{{{caption}.}}",
            rf"\begin{{tabular}}{{{columns}}}",
            r"\toprule",
            rf"{' & '.join(map(_tex, section.header))} \\",
            r"\midrule",
        ]
        for i, row in enumerate(section.rows):
            cells = [
                rf"\textbf{{{_tex(cell)}}}" if (i, j) in section.marked else _tex(cell)
                for j, cell in enumerate(row)
            ]
            lines.append(rf"{' & '.join(cells)} \\")
        lines += [r"\bottomrule", r"\end{tabular}"]
        notes = [
            *section.notes,
            *sheet.notes,
            sheet.legend.format(best="bold" if lang == "en" else "粗体"),
        ]
        lines += [rf"\par{{\footnotesize {_tex(note)}\par}}" for note in notes]
        parts.append("\n".join([*lines, r"\end{table}"]))
    return "\n\n".join(parts)


def _csv(rows: list[dict[str, Any]]) -> str:
    """Lists and dictionaries as JSON, but for `metrics`, each of which has a column."""
    flat: list[dict[str, Any]] = []
    for row in rows:
        cells = {
            name: json.dumps(each, ensure_ascii=False) if isinstance(each, dict | list) else each
            for name, each in row.items()
        }
        cells.pop("metrics", None)
        flat.append(
            cells | {f"metrics.{name}": each for name, each in row.get("metrics", {}).items()}
        )
    out = io.StringIO()
    writer = csv.DictWriter(
        out, list(dict.fromkeys(name for row in flat for name in row)), lineterminator="\n"
    )
    if flat:
        writer.writeheader()
    writer.writerows(flat)
    return out.getvalue().rstrip("\n")
