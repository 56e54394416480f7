"""What many tests share: small models in folders of their own, as a user's would be."""

import os
from collections.abc import Iterator
from pathlib import Path

# read when transformers is imported: no test reaches for a network
os.environ["HF_HUB_OFFLINE"] = "1"
if "PYTEST_XDIST_WORKER" in os.environ:  # read when torch is imported: each worker has a core
    os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault(
    "GOMP_SPINCOUNT", "1000"
)  # read when torch is imported: idle threads must not hold the cores for long

import datasets.config
import hypothesis
import mirror
import pytest
import torch
import transformers

from peftbench import assets
from peftbench.training import rates

GIVEN_HUB = os.environ.get("PEFTBENCH_HUB")

# A loaded machine is slow, not wrong.
hypothesis.settings.register_profile(
    "steady", deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow]
)
hypothesis.settings.load_profile("steady")


@pytest.fixture(scope="session", autouse=True)
def small_hub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Every test finds the hub's data sets in a small mirror, the same on every machine."""
    folder, cache = tmp_path_factory.mktemp("hub"), str(tmp_path_factory.mktemp("cache"))
    mirror.write_all(folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PEFTBENCH_HUB", str(folder))
        patch.setenv("HF_DATASETS_CACHE", cache)  # for processes that a test starts
        patch.setattr(datasets.config, "HF_DATASETS_CACHE", cache)
        yield folder


@pytest.fixture(autouse=True)
def bfloat16_at_speed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tiny models may train in bfloat16 wherever the tests run. Fresh processes measure for
    themselves."""
    monkeypatch.setattr(rates, "probe", lambda device: rates.Rates(1e11, 1e11))


@pytest.fixture
def real_hub(monkeypatch: pytest.MonkeyPatch) -> Path:
    """The mirror that PEFTBENCH_HUB named before the tests; without one, the test is skipped."""
    if not GIVEN_HUB:
        pytest.skip("PEFTBENCH_HUB names no mirror of the hub's data sets")
    monkeypatch.setenv("PEFTBENCH_HUB", GIVEN_HUB)
    return Path(GIVEN_HUB)


@pytest.fixture(scope="session")
def small_encoder(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A folder with a BERT of two layers and the packaged encoder's tokenizer."""
    folder = tmp_path_factory.mktemp("encoder")
    config = transformers.BertConfig(
        vocab_size=30522,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=128,
    )
    return _save(transformers.BertModel, config, "minilm-l6", folder)


@pytest.fixture(scope="session")
def small_decoder(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A folder with a Llama of two layers and the packaged decoder's tokenizer."""
    folder = tmp_path_factory.mktemp("decoder")
    config = transformers.LlamaConfig(
        vocab_size=49152,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=512,
        tie_word_embeddings=True,
        bos_token_id=1,
        eos_token_id=2,
    )
    return _save(transformers.LlamaForCausalLM, config, "smollm2-135m", folder)


@pytest.fixture(scope="session")
def bfloat16_decoder(small_decoder: str, tmp_path_factory: pytest.TempPathFactory) -> str:
    """A model that is stored in bfloat16, and whose embeddings are not tied."""
    folder = tmp_path_factory.mktemp("bfloat16")
    config = transformers.AutoConfig.from_pretrained(small_decoder, tie_word_embeddings=False)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = transformers.AutoModelForCausalLM.from_config(config)
    model.to(torch.bfloat16).save_pretrained(folder)
    transformers.AutoTokenizer.from_pretrained(small_decoder).save_pretrained(folder)
    return str(folder)


def _save(kind: type, config: transformers.PretrainedConfig, tokenizer: str, folder: Path) -> str:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        kind(config).save_pretrained(folder)
    transformers.AutoTokenizer.from_pretrained(assets.model_folder(tokenizer)).save_pretrained(
        folder
    )
    return str(folder)
