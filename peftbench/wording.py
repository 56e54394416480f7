"""Numbers, sizes and sentences as people read them, in English and in Chinese."""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

Lang = Literal["en", "zh"]
NONE = "–"


@dataclass(frozen=True)
class Words:
    """A text in both languages. Names that a person typed or a record holds (methods, tasks,
    metrics, statuses, errors) are the same in both."""

    en: str
    zh: str

    @classmethod
    def same(cls, text: str) -> "Words":
        return cls(text, text)

    @classmethod
    def joined(cls, texts: Iterable["Words"], separator: str = "; ") -> "Words":
        texts = list(texts)
        return cls(separator.join(t.en for t in texts), separator.join(t.zh for t in texts))

    def __getitem__(self, lang: Lang) -> str:
        return self.en if lang == "en" else self.zh

    def format(self, *values: object, **named: object) -> "Words":
        """The text with {0} and so on filled in; values may be Words themselves."""
        en, zh = (
            self[lang].format(
                *(_said(value, lang) for value in values),
                **{name: _said(value, lang) for name, value in named.items()},
            )
            for lang in ("en", "zh")
        )
        return Words(en, zh)


def _said(value: object, lang: Lang) -> object:
    return value[lang] if isinstance(value, Words) else value


def count(number: float | None) -> str:
    """A count in at most three significant digits: 663,552 is 664 k."""
    if number is None:
        return NONE
    for limit, unit in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if number >= 0.9995 * limit:
            return f"{_three_digits(number / limit)} {unit}"
    return f"{number:.0f}"


def size(number: float | None) -> str:
    """Bytes with a binary unit."""
    if number is None:
        return NONE
    for power, unit in ((3, "GiB"), (2, "MiB"), (1, "KiB")):
        if number >= 0.9995 * 1024**power:
            return f"{_three_digits(number / 1024**power)} {unit}"
    return f"{number:.0f} B"


def _three_digits(value: float) -> str:
    """Three significant digits without an exponent."""
    return f"{value:.{0 if value >= 99.95 else 1 if value >= 9.995 else 2}f}"


def mebibytes(number: float | None) -> str:
    return decimal(None if number is None else number / 2**20, ",.1f")


def decimal(number: float | None, format: str) -> str:
    return NONE if number is None else f"{number:{format}}"


def per_cent(share: float | None) -> str:
    """A part of a whole, 0 to 1, in per cent with three significant digits."""
    return decimal(
        None if share is None else 100 * share, ".3g" if share is None or share < 0.1 else ".1f"
    )


def significant(number: float) -> str:
    """Four significant digits without an exponent."""
    text = f"{number:.4g}"
    return f"{number:,.0f}" if "e+" in text else f"{number:.6f}" if "e-" in text else text


def ranged(values: Iterable[float | None], format: str = ".2f") -> str:
    """A mean, and the range of the values if they are not the same as printed: 1.02 (0.99–1.05)."""
    numbers = [value for value in values if value is not None and not math.isnan(value)]
    if not numbers:
        return NONE
    low, high = f"{min(numbers):{format}}", f"{max(numbers):{format}}"
    return f"{sum(numbers) / len(numbers):{format}}" + (f" ({low}–{high})" if low != high else "")


def printable(text: str) -> str:
    """Text on one line, without the control characters that move a terminal's cursor."""
    return " ".join("".join(char if char.isprintable() else " " for char in text).split())


def shortened(text: str, most: int) -> str:
    """The last line of a text that is not empty, printable and of at most `most` characters; empty
    if there is none."""
    lines = [line for line in text.splitlines() if line.strip()]
    line = printable(lines[-1]) if lines else ""
    return line if len(line) <= most else f"{line[: most - 1]}…"
