"""Numbers, sizes and sentences as people read them, in English and in Chinese."""

import math
import re
import unicodedata
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

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

    def format(self, *values: object) -> "Words":
        """The text with {0} and so on filled in; values may be Words themselves."""
        langs: tuple[Lang, Lang] = ("en", "zh")
        said = [[v[lang] if isinstance(v, Words) else v for v in values] for lang in langs]
        return Words(self.en.format(*said[0]), self.zh.format(*said[1]))


def model_name(model: str) -> str:
    """A model as it is called; of a hub model's commit seven digits."""
    return re.sub("(@[0-9a-f]{7})[0-9a-f]{33}$", r"\1", model)


# Args of peft's methods that make another method of one.
VARIANTS = (
    "use_dora",
    "use_rslora",
    "use_qalora",
    "use_bdlora",
    "init_lora_weights",
    "init_weights",
)


def method_name(method: str, args: Mapping[str, Any]) -> str:
    """A method as it is called; one of peft's by what it is: `peft: LORA (dora)`."""
    if method != "peft":
        return method
    chosen = [(name, args.get(name)) for name in VARIANTS]
    variants = [
        value if isinstance(value, str) else name.removeprefix("use_")
        for name, value in chosen
        if isinstance(value, str) or (value and name.startswith("use_"))
    ]
    name = f"peft: {args.get('peft_type', '?')}"
    return f"{name} ({', '.join(variants)})" if variants else name


def sentence(text: Words) -> Words:
    """The text with a full stop."""
    return Words("{0}.", "{0}。").format(text)


def count(number: float | None) -> str:
    """A count in at most three significant digits: 663,552 is 664 k."""
    return _scaled(number, ((1e9, " G"), (1e6, " M"), (1e3, " k")), "")


def size(number: float | None) -> str:
    """Bytes with a binary unit."""
    return _scaled(number, ((2**30, " GiB"), (2**20, " MiB"), (2**10, " KiB")), " B")


def _scaled(number: float | None, units: Iterable[tuple[float, str]], unit: str) -> str:
    """In the first of the units that is not too large, with three significant digits and no
    exponent; else a whole number of `unit`."""
    if number is None:
        return NONE
    for scale, name in units:
        if number >= 0.9995 * scale:
            value = number / scale
            return f"{value:.{0 if value >= 99.95 else 1 if value >= 9.995 else 2}f}{name}"
    return f"{number:.0f}{unit}"


def duration(seconds: float) -> str:
    """A time in the unit that suits it: 45 s, 12 min, 3.4 h, 2.5 days."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    if seconds < 90 * 60:
        return f"{seconds / 60:.0f} min"
    hours = seconds / 3600
    return f"{hours:.1f} h" if hours < 48 else f"{hours / 24:.1f} days"


def mebibytes(number: float | None) -> str:
    return decimal(number and number / 2**20, ",.1f")


def decimal(number: float | None, format: str) -> str:
    return NONE if number is None else f"{number:{format}}"


def per_cent(share: float | None) -> str:
    """A part of a whole, 0 to 1, in per cent with three significant digits."""
    return decimal(share and 100 * share, ".1f" if share and share >= 0.1 else ".3g")


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
    """Text on one line, as a terminal may get it."""
    return for_terminal(" ".join(text.split()))


def for_terminal(text: str, most: int | None = None) -> str:
    """Text as a terminal may get it: characters that would move its cursor, change its colours,
    turn the direction of writing or cannot be encoded stand as JSON escapes them (so that JSON
    stays what it was); lines of more than `most` characters are cut in the middle. Spaces and
    newlines stay."""
    return "\n".join(_cut(_UNSEEN.sub(_escaped, line), most) for line in text.split("\n"))


# No ASCII that can be seen, no space: looked at one by one.
_UNSEEN = re.compile(r"[^ -~\t]")


def _escaped(match: re.Match[str]) -> str:
    char = match[0]
    if char.isprintable() or unicodedata.category(char) == "Zs":
        return char
    units = char.encode("utf-16-be", "surrogatepass").hex()
    return re.sub("....", r"\\u\g<0>", units)


def _cut(line: str, most: int | None) -> str:
    if most is None or len(line) <= most:
        return line
    middle = f"… ({len(line):,} characters) …"
    ends = most - len(middle)
    return f"{line[: ends - ends // 2]}{middle}{line[len(line) - ends // 2 :]}"


def shortened(text: str, most: int) -> str:
    """The last line of a text that is not empty, printable and of at most `most` characters; empty
    if there is none."""
    lines = [line for line in text.splitlines() if line.strip()]
    line = printable(lines[-1]) if lines else ""
    return line if len(line) <= most else f"{line[: most - 1]}…"
