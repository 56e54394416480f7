"""A verdict on a claim, and verdicts as text."""

import csv
import io
import json
from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any, Literal

from peftbench.article.evidence import Outcome
from peftbench.article.rules import ALL

Format = Literal["md", "csv", "latex", "json"]
Language = Literal["en", "zh"]
SAID = ("text", "unit", "rule", "reason")
NONE = "–"
OUTCOMES = {"supported": "成立", "refuted": "被反驳", "undecided": "未定"}
HEADERS = {
    "en": ("claim", "the article says", "verdict", "effect", "unit", "why", "runs"),
    "zh": ("编号", "文章的说法", "结论", "效应", "单位", "依据", "运行数"),
}
RULES = {"en": "Rules, fixed before the runs", "zh": "判定规则(运行之前已固定)"}


@dataclass(frozen=True)
class Verdict:
    """The outcome of a claim. `effect`, `low` and `high` are in `unit`; None where nothing was
    measured."""

    claim: str
    text: str
    verdict: Outcome
    effect: float | None
    low: float | None
    high: float | None
    unit: str
    rule: str
    reason: str
    run_ids: tuple[str, ...]
    zh: tuple[str, str, str, str] = ("", "", "", "")  # text, unit, rule and reason in Chinese


def render(verdicts: Sequence[Verdict], format: Format, lang: Language = "en") -> str:
    """The verdicts as text, without a newline at its end."""
    said = [_in(verdict, lang) for verdict in verdicts]
    return {"md": _md, "csv": _csv, "latex": _latex, "json": _json}[format](said, lang)


def _in(verdict: Verdict, lang: Language) -> dict[str, Any]:
    """A verdict's fields, in one language; the outcome stays the English word, so that programs can
    tell it."""
    row = {
        field.name: getattr(verdict, field.name) for field in fields(verdict) if field.name != "zh"
    }
    return row | dict(zip(SAID, verdict.zh, strict=True)) if lang == "zh" else row


def _number(value: float) -> str:
    """Four significant digits, and never an exponent."""
    whole = f"{value:.4g}"
    return f"{value:,.0f}" if "e+" in whole else f"{value:.6f}" if "e-" in whole else whole


def _effect(row: dict[str, Any]) -> str:
    if row["effect"] is None:
        return NONE
    return f"{_number(row['effect'])} [{_number(row['low'])}, {_number(row['high'])}]"


def _cells(row: dict[str, Any], lang: Language) -> list[str]:
    outcome = OUTCOMES[row["verdict"]] if lang == "zh" else row["verdict"]
    return [
        row["claim"],
        row["text"],
        outcome,
        _effect(row),
        row["unit"],
        row["reason"],
        str(len(row["run_ids"])) if row["run_ids"] else NONE,
    ]


def _md(said: list[dict[str, Any]], lang: Language) -> str:
    lines = [
        HEADERS[lang],
        ["---"] * len(HEADERS[lang]),
        *([_marked(cell) for cell in _cells(row, lang)] for row in said),
    ]
    table = "\n".join(f"| {' | '.join(line)} |" for line in lines)
    rules = "\n".join(f"- {row['claim']}: {_marked(row['rule'])}" for row in said)
    return f"{table}\n\n{RULES[lang]}\n\n{_marked(getattr(ALL, lang))}\n\n{rules}"


def _marked(text: str) -> str:
    """Text that Markdown shows as it is."""
    return "".join(f"\\{char}" if char in "\\|`*<_" else char for char in text)


def _latex(said: list[dict[str, Any]], lang: Language) -> str:
    chosen = [0, 1, 2, 3, 4]
    rows = [" & ".join(_tex(_cells(row, lang)[i]) for i in chosen) + r" \\" for row in said]
    header = " & ".join(_tex(HEADERS[lang][i]) for i in chosen) + r" \\"
    return "\n".join(
        [
            r"% needs \usepackage{booktabs}" + (r" and \usepackage{ctex}" if lang == "zh" else ""),
            r"\begin{table}",
            r"\centering",
            r"\small",
            r"\begin{tabular}{lp{0.34\linewidth}lp{0.2\linewidth}p{0.2\linewidth}}",
            r"\toprule",
            header,
            r"\midrule",
            *rows,
            r"\bottomrule",
            r"\end{tabular}",
            *(
                rf"\par{{\footnotesize {_tex(row['claim'])}: {_tex(row['reason'])} {_tex(row['rule'])}\par}}"
                for row in said
            ),
            rf"\par{{\footnotesize {_tex(getattr(ALL, lang))}\par}}",
            r"\end{table}",
        ]
    )


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
    | {"–": "--", "−": "$-$", "×": r"$\times$", "Σ": r"$\Sigma$", "[": "{[}"}
)


def _tex(text: str) -> str:
    return text.translate(_LATEX)


def _csv(said: list[dict[str, Any]], lang: Language) -> str:
    out = io.StringIO()
    writer = csv.DictWriter(
        out, [field.name for field in fields(Verdict) if field.name != "zh"], lineterminator="\n"
    )
    writer.writeheader()
    writer.writerows(row | {"run_ids": " ".join(row["run_ids"])} for row in said)
    return out.getvalue().rstrip("\n")


def _json(said: list[dict[str, Any]], lang: Language) -> str:
    return json.dumps(said, indent=1, allow_nan=False, ensure_ascii=False)
