"""What steps of models take that nobody here has trained: forecasts that `peftbench estimate` made,
kept as a file that figures and claims read without torch."""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from peftbench.errors import InputError
from peftbench.reading import MOST_RECORD_BYTES, read_bytes, read_object

SHIPPED = Path(__file__).with_name("at_scale.json")  # benchmarks/at_scale.py makes it


ROWS = "rows"  # the file's only key


@dataclass(frozen=True, kw_only=True)
class AtScale:
    """One step, of which nothing was measured. Bytes are of one GPU."""

    model: str
    method: str
    args: Mapping[str, Any]  # those that were asked for
    implementation: str  # ours, or peft's
    precision: str
    base: str
    batch: int
    length: int
    total_params: int
    trained_params: int
    at_rest_bytes: int
    peak_bytes: int
    peak_parts: Mapping[str, int]
    reserved_bytes: int
    adapter_file_bytes: int | None


def written(rows: Iterable[AtScale]) -> str:
    """The file's text: a row to a line."""
    lines = ",\n".join(json.dumps(asdict(row), sort_keys=True) for row in rows)
    return f'{{"{ROWS}": [\n{lines}\n]}}\n'


def read(path: Path = SHIPPED) -> list[AtScale]:
    """Raises InputError on a file that is none of these."""
    content = read_bytes(path, MOST_RECORD_BYTES)
    try:
        return [AtScale(**row) for row in read_object(content)[ROWS]]
    except (ValueError, TypeError, KeyError) as error:
        raise InputError(f"{path}: not a file of `peftbench estimate --grid`: {error}") from error


def only(rows: Sequence[AtScale], **wanted: Any) -> AtScale:
    """The one row with these values. Raises KeyError where there is none, or several."""
    chosen = [
        row for row in rows if all(getattr(row, key) == value for key, value in wanted.items())
    ]
    if len(chosen) != 1:
        raise KeyError(f"{len(chosen)} rows with {wanted}")
    return chosen[0]
