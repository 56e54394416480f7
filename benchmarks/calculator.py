"""Make peftbench/page/calculator.json, the formulas of the page's calculator, for every model in
peftbench.shapes that it lacks; without the file, for all.

python benchmarks/calculator.py
"""

import json
import multiprocessing
import sys
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict
from importlib.resources import files
from pathlib import Path
from typing import Any

from peftbench.estimate.formula import formulas
from peftbench.estimate.network import configuration
from peftbench.estimate.reserved import HIGH, LIKELY, LOW
from peftbench.estimate.setting import Setting
from peftbench.estimate.structure import structure
from peftbench.methods import OURS
from peftbench.output import write_whole
from peftbench.shapes import SHAPES

FILE = Path(str(files("peftbench.page") / "calculator.json"))


# These take LoRA's bytes to the byte (tests/test_calculator.py).
AS_LORA = ("lora+", "delta-lora")


def entry(model: str) -> dict[str, Any]:
    """What the calculator knows of a model."""
    asked = Setting(model=model, method="frozen")
    window = structure(asked, *configuration(asked)).window
    stages = {
        method: [asdict(each) for each in formulas(model, method, window)]
        for method in OURS
        if method not in AS_LORA
    }
    methods = {
        method: {
            "ranked": "rank" in OURS[method].complete({}),
            "stages": stages["lora" if method in AS_LORA else method],
        }
        for method in OURS
    }
    return {"window": window, "methods": methods}


def main() -> int:
    models: dict[str, Any] = json.loads(FILE.read_text())["models"] if FILE.exists() else {}
    missing = [name for name in SHAPES if name not in models]
    with ProcessPoolExecutor(2, multiprocessing.get_context("spawn")) as pool:
        for model, made in zip(missing, pool.map(entry, missing), strict=True):
            print(model, file=sys.stderr, flush=True)
            models[model] = made
            content = {"reserved": [LOW, LIKELY, HIGH], "models": models}
            text = json.dumps(content, separators=(",", ":"), sort_keys=True)
            write_whole(FILE, f"{text}\n".encode())
    return 0


if __name__ == "__main__":
    sys.exit(main())
