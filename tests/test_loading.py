"""Weights come to the device tensor by tensor, in the dtype that they are wanted in."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import transformers

ALLOWED = 1.1  # times the bytes of the weights

# What is allocated is limited from the moment at which all is imported.
LOAD = """
import resource, sys
from pathlib import Path
import torch
from peftbench.training.checkpoint import read_tokenizer
from peftbench.training.models import load

folder, dtype, allowed = sys.argv[1], getattr(torch, sys.argv[2]), int(sys.argv[3])
read_tokenizer(folder, folder, "main")  # reads what it needs once
(line,) = [each for each in Path("/proc/self/status").read_text().splitlines() if "VmData" in each]
limit = int(line.split()[1]) * 1024 + allowed
resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
model = load(folder, "generation", 1, device=torch.device("cpu"), dtype=dtype, max_length=8)
print(sum(p.nbytes for p in model.net.parameters()))
"""


@pytest.fixture(scope="module")
def billion(small_decoder: str, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, int]:
    """A checkpoint of a thousand million parameters in bfloat16, in shards, and its bytes."""
    folder = tmp_path_factory.mktemp("billion")
    shutil.copytree(small_decoder, folder, dirs_exist_ok=True)
    (folder / "model.safetensors").unlink()
    config = transformers.AutoConfig.from_pretrained(small_decoder)
    config.update({"hidden_size": 2048, "intermediate_size": 5632, "num_hidden_layers": 22})
    config.update({"num_attention_heads": 16, "num_key_value_heads": 4, "head_dim": 128})
    with torch.device("meta"):
        net = transformers.AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
    net = net.to_empty(device="cpu")
    for parameter in net.parameters():
        parameter.data.fill_(0.01)
    net.tie_weights()
    net.save_pretrained(folder, max_shard_size="500MB")
    size = sum(parameter.nbytes for parameter in net.parameters())
    assert size > 1.9e9
    return folder, size


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="limits memory by RLIMIT_DATA")
@pytest.mark.parametrize(("dtype", "enough"), [("bfloat16", True), ("float32", False)])
def test_a_billion_parameters_load_in_little_more_than_their_bytes(
    dtype: str, enough: bool, billion: tuple[Path, int]
) -> None:
    """In float32 they are twice as many bytes, which shows that the limit is one."""
    folder, size = billion
    done = subprocess.run(
        [sys.executable, "-c", LOAD, str(folder), dtype, str(round(ALLOWED * size))],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode == 0) == enough, done.stderr[-800:]
    if enough:
        assert int(done.stdout) == size
