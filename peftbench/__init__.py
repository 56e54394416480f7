"""Compare parameter-efficient fine-tuning methods on the same model, data, tuning budget and
device. From Python: `peftbench.run`, `search`, `planned_costs`, `compare`, `claims` and `export`,
all documented in door/.
"""

from typing import TYPE_CHECKING

__version__ = "0.1.0"
__all__ = ["claims", "compare", "export", "planned_costs", "run", "search"]

if TYPE_CHECKING:
    from peftbench.door.exporting import export
    from peftbench.door.planning import planned_costs
    from peftbench.door.running import run
    from peftbench.door.searching import search
    from peftbench.door.stored import claims, compare
else:
    _FILES = {
        "claims": "stored",
        "compare": "stored",
        "export": "exporting",
        "planned_costs": "planning",
        "run": "running",
        "search": "searching",
    }

    def __getattr__(name: str) -> object:
        """The functions of the door, imported when they are asked for: the sandbox imports this
        package where nothing but the standard library can be read."""
        if name not in __all__:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        from importlib import import_module

        return getattr(import_module(f"peftbench.door.{_FILES[name]}"), name)

    def __dir__() -> list[str]:
        return sorted({*globals(), *__all__})
