"""Compare parameter-efficient fine-tuning methods on the same model, data, tuning budget and
device. From Python: `peftbench.run`, `search`, `planned_costs`, `compare`, `claims` and `export`,
all documented in door.py.
"""

from typing import TYPE_CHECKING

__version__ = "0.1.0"
__all__ = ["claims", "compare", "export", "planned_costs", "run", "search"]

if TYPE_CHECKING:
    from peftbench.door import claims, compare, export, planned_costs, run, search
else:

    def __getattr__(name: str) -> object:
        """The functions of the door, imported when they are asked for: the sandbox imports this
        package where nothing but the standard library can be read."""
        if name not in __all__:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        from peftbench import door

        return getattr(door, name)

    def __dir__() -> list[str]:
        return sorted({*globals(), *__all__})
