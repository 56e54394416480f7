"""Make peftbench/at_scale.json: the forecasts that the figure of memory at scale draws, and those
of 7B and 70B that claims of the article are judged by.

    python benchmarks/at_scale.py [--check]
"""

import argparse
import sys
from collections.abc import Iterator
from typing import Any

from peftbench.at_scale import SHIPPED, AtScale, read, written
from peftbench.estimate.grid import MODELS, at_scale
from peftbench.estimate.setting import PEFT_HAS, Setting
from peftbench.methods import OURS
from peftbench.output import write_whole

STEP: dict[str, Any] = {"batch": 4, "length": 768}
LLAMAS = ("meta-llama/Llama-2-7b-hf", "meta-llama/Llama-2-70b-hf")


def settings() -> Iterator[Setting]:
    for model in (*MODELS, *LLAMAS):
        for method in OURS:
            yield Setting(model=model, method=method, **STEP)
    for model in LLAMAS:
        # the pure form of full fine-tuning, with what torch's AdamW holds by default
        yield Setting(
            model=model, method="full", precision="bf16", optimizer="foreach", batch=1, length=768
        )
        for method in PEFT_HAS:
            if method not in ("full", "frozen"):
                yield Setting(
                    model=model, method=method, implementation="peft", precision="bf16", **STEP
                )
        others: list[tuple[str, dict[str, Any]]] = [
            ("lora", {"targets": ["q_proj", "v_proj"]}),
            ("delta-lora", {"start_step": 100}),
            *(("vera", {"rank": rank}) for rank in (64, 256, 1024)),
        ]
        for method, args in others:
            yield Setting(model=model, method=method, args=args, **STEP)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--check", action="store_true", help="write nothing; exit status 1 if the file is another"
    )
    options = parser.parse_args()
    rows: list[AtScale] = []
    for setting in settings():
        print(f"{setting.model}, {setting.method}", file=sys.stderr, flush=True)
        rows.append(at_scale(setting))
    if options.check:
        return int(written(rows) != written(read()))
    write_whole(SHIPPED, written(rows).encode())
    return 0


if __name__ == "__main__":
    sys.exit(main())
