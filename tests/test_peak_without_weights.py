"""The estimate of a step's peak bytes from shapes alone is what the same step takes with memory."""

from pathlib import Path
from typing import Any

import peak_without_weights as estimate
import pytest

from peftbench.errors import InputError
from peftbench.experiment import expand, read_experiment
from peftbench.methods import METHODS
from peftbench.spec import RunSpec
from peftbench.tasks import TASKS

SHAPE: dict[str, Any] = {
    "vocab_size": 61,
    "hidden_size": 24,
    "intermediate_size": 40,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "tie_word_embeddings": True,
}
HIDDEN, INNER, KEYS = 24, 40, 12
PARAMETERS = (
    61 * HIDDEN
    + HIDDEN
    + 2
    * (
        2 * HIDDEN * HIDDEN
        + 2 * HIDDEN * KEYS
        + 3 * HIDDEN * INNER  # seven linear layers
        + HIDDEN
        + 2 * KEYS  # biases of q, k, v
        + 2 * HIDDEN  # norms
    )
)


class RealTensors:
    """In the place of FakeTensorMode: tensors with memory."""

    def __init__(self, **_: bool) -> None: ...

    def __enter__(self) -> None: ...

    def __exit__(self, *_: object) -> None: ...


def spec(folder: Path, method: str, **settings: Any) -> RunSpec:
    file = folder / "e.toml"
    file.write_text(
        f'question = "q"\nmodel = "tiny"\ntask = ["gsm8k"]\narm = [{{ method = "{method}" }}]'
    )
    forced = {"data__max_length": 16, "train__batch_size": 4} | settings
    (only,) = expand(
        read_experiment(file),
        METHODS,
        TASKS,
        [(key.replace("__", "."), value) for key, value in forced.items()],
        auto_precision="bf16-mixed",
    )
    return only


@pytest.mark.parametrize(
    ("method", "settings"),
    [
        ("full", {}),
        ("frozen", {}),
        ("delta-lora", {}),
        ("vera", {"base": "nf4"}),
        ("lora", {"base": "nf4", "train__micro_batch": 2, "train__checkpointing": True}),
    ],
)
def test_peaks_without_memory_are_those_with_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, method: str, settings: dict[str, Any]
) -> None:
    if "base" in settings:
        pytest.importorskip("bitsandbytes", reason="a quantised base needs it")
    run = spec(tmp_path, method, **settings)
    without = estimate.peak(run, SHAPE)
    monkeypatch.setattr(estimate, "FakeTensorMode", RealTensors)
    assert estimate.peak(run, SHAPE) == without


def test_weights_moments_and_gradients_of_full_fine_tuning_are_float32(tmp_path: Path) -> None:
    parts = estimate.peak(spec(tmp_path, "full"), SHAPE).parts
    assert parts.weights == pytest.approx(4 * PARAMETERS, rel=0.01)  # and positions' frequencies
    assert parts.optimizer == pytest.approx(2 * parts.weights, rel=0.02)
    frozen = estimate.peak(spec(tmp_path, "frozen"), SHAPE).parts
    assert frozen.weights == pytest.approx(2 * PARAMETERS, rel=0.01)
    assert frozen.gradients == frozen.optimizer == 0


def test_an_arm_that_differs_in_its_rate_alone_is_estimated_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(estimate.SHAPES, "tiny", SHAPE)
    runs = [spec(tmp_path, "lora", train__lr=lr) for lr in (1e-4, 1e-3)]
    longer = spec(tmp_path, "lora", data__max_length=24)
    small, large = estimate.peaks([*runs, longer])
    assert small.peak_bytes < large.peak_bytes


def test_a_model_without_a_shape_is_refused_in_one_line(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="unknown model 'tiny'") as error:
        list(estimate.peaks([spec(tmp_path, "lora")]))
    assert "\n" not in str(error.value)
