"""What a check of the machine comes to."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from peftbench.errors import InputError, first_line

Status = Literal["ok", "warning", "failed", "skipped"]


@dataclass(frozen=True)
class Finding:
    """What was found, and what to do where it is not as it should be; empty: nothing."""

    status: Status
    found: str
    advice: str = ""


Check = Callable[[], Finding]


def carried_out(check: Check) -> Finding:
    """What a check finds. One that raises is failed, whatever it raises: the others go on."""
    try:
        return check()
    except InputError as error:  # says itself what would be right
        return Finding("failed", first_line(error))
    except Exception as error:
        return Finding(
            "failed",
            f"{type(error).__name__}: {first_line(error)}",
            "the check itself could not be carried out: what it needs does not work here",
        )
