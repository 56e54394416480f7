"""Made-up result files of huggingface/peft's benchmark, and imported records."""

import json
from pathlib import Path
from typing import Any

from peftbench.imported.method_comparison import read_result
from peftbench.imported.record import ImportedRecord

THEIRS = Path(__file__).parent / "method_comparison"  # real ones


def content(**changed: Any) -> dict[str, Any]:
    """A result; a keyword such as `train_info__status` replaces one value, None removes its key."""
    values: dict[str, Any] = {
        "run_info": {
            "created_at": "2026-07-16T00:03:20+00:00",
            "total_time": 100.0,
            "experiment_name": "lora/tiny-rank8",
            "train_config": {"model_id": "some/model", "seed": 0, "max_steps": 50},
            "peft_config": {"peft_type": "LORA", "r": 8, "use_dora": False},
            "error_msg": "",
        },
        "train_info": {
            "accelerator_memory_reserved_avg": 10,
            "accelerator_memory_max": 20,
            "train_time": 90.5,
            "file_size": 1000,
            "num_trainable_params": 50,
            "num_total_params": 1050,
            "status": "success",
            "metrics": [
                {"step": 25, "tokens / sec": 100.0, "train time": 1.0},
                {"step": 50, "tokens / sec": 400.0, "train time": 2.0},
                {"step": 50, "test accuracy": 0.5, "train loss": 1.5},
            ],
        },
        "meta_info": {
            "model_info": {"sha": "a" * 40},
            "package_info": {"peft-version": "0.19.2", "torch-version": "2.13.0"},
            "system_info": {"accelerator": "NVIDIA L40S"},
        },
    }
    for path, value in changed.items():
        *owners, name = path.split("__")
        part = values
        for owner in owners:
            part = part[owner]
        if value is None:
            del part[name]
        else:
            part[name] = value
    return values


def write(folder: Path, name: str = "lora--tiny", **changed: Any) -> Path:
    """A file in the folder `Maths/results` below `folder`."""
    path = folder / "Maths" / "results" / f"{name}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content(**changed)))
    return path


def imported(folder: Path, name: str = "lora--tiny", **changed: Any) -> ImportedRecord:
    return read_result(write(folder, name, **changed))
