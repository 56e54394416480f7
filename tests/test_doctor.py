"""The checks of a machine: each is ok where all is right, and not where what it looks at is
broken."""

import dataclasses
import json
import os
import subprocess
import sys
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from peftbench import assets, cli, doctor
from peftbench.doctor import (
    confinement,
    data,
    device,
    memory,
    models,
    quantized,
    report,
    surroundings,
    training,
)
from peftbench.doctor.finding import Finding, carried_out
from peftbench.errors import InputError
from peftbench.methods import METHODS, OURS
from peftbench.methods.low_rank import LowRank
from peftbench.store import Store
from peftbench.training import rates
from peftbench.training.footprint import state_tensors
from peftbench.training.rates import Rates

CPU, CUDA = torch.device("cpu"), torch.device("cuda")


@pytest.fixture(scope="module")
def scratch(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("scratch")


# -- findings


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (InputError("run `make setup`\nand more"), "run `make setup`"),
        (ZeroDivisionError("by zero"), "ZeroDivisionError: by zero"),
    ],
)
def test_a_check_that_raises_is_failed_and_says_why_in_a_line(error: Exception, said: str) -> None:
    def check() -> Finding:
        raise error

    finding = carried_out(check)
    assert (finding.status, finding.found) == ("failed", said)


def test_the_others_go_on_where_one_raises(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def boom() -> Finding:
        raise RuntimeError("boom")

    monkeypatch.setattr(
        doctor, "checks", lambda *_: {"one": boom, "two": lambda: Finding("ok", "")}
    )
    assert [(n, f.status) for n, f in doctor.examine(Store(tmp_path))] == [
        ("one", "failed"),
        ("two", "ok"),
    ]


@pytest.mark.parametrize("place", [CPU, CUDA], ids=str)
def test_every_method_is_checked_on_the_cpu_and_on_a_gpu(
    place: torch.device, tmp_path: Path
) -> None:
    names = [*doctor.checks(Store(tmp_path), False, place, tmp_path)]
    assert {*OURS} <= {*names}
    on_gpu = {name.removesuffix(doctor.ON_GPU) for name in names if name.endswith(doctor.ON_GPU)}
    assert on_gpu == ({*OURS} if place == CUDA else {"methods"})
    assert max(map(len, names)) < report.NAME


# -- the device


def test_a_gpu_that_torch_does_not_use_is_a_warning(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(device, "_driver", lambda: None)
    assert device.device(CPU).status == "ok"
    monkeypatch.setattr(device, "_driver", lambda: "570.1")
    finding = device.device(CPU)
    assert (finding.status, "570.1" in finding.found) == ("warning", True)


def test_the_drivers_version_is_asked_of_its_program(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = tmp_path / "nvidia-smi"
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    program.write_text("#!/bin/sh\necho 570.1\necho 570.1\n")
    program.chmod(0o755)
    assert device._driver() == "570.1"
    program.write_text("#!/bin/sh\necho no driver\nexit 9\n")
    assert device._driver() is None


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> dict[str, int]:
    """CUDA's answers about a GPU that is not there; free and total bytes may be changed."""
    answers = {"free": 79 * 2**30, "total": 80 * 2**30}
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda place: "Some GPU")
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda place: (9, 0))
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda place: 0)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: True)
    monkeypatch.setattr(
        torch.cuda,
        "get_device_properties",
        lambda place: types.SimpleNamespace(total_memory=answers["total"]),
    )
    monkeypatch.setattr(
        torch.cuda, "mem_get_info", lambda place: (answers["free"], answers["total"])
    )
    return answers


def test_a_gpu_is_described(gpu: dict[str, int], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(device, "_driver", lambda: "570.1")
    finding = device.device(CUDA)
    assert finding.status == "ok"
    for part in ("Some GPU", "80.0 GiB", "9.0", "570.1", torch.__version__, "1 more"):
        assert part in finding.found


def idle(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(device, "load_average", lambda: 0.1)
    monkeypatch.setattr(device, "usable_cores", lambda: 64.0)


def test_an_idle_machine_is_ok(monkeypatch: pytest.MonkeyPatch, gpu: dict[str, int]) -> None:
    idle(monkeypatch)
    assert device.load(CPU).status == device.load(CUDA).status == "ok"


@pytest.mark.parametrize(
    ("place", "name", "value"),
    [
        (CPU, "load_average", 1.7),
        (CUDA, "load_average", 1.7),
        (CPU, "usable_cores", 0.5),
        (CUDA, "free", 60 * 2**30),
    ],
)
def test_what_takes_from_the_machine_is_a_warning(
    place: torch.device,
    name: str,
    value: float,
    monkeypatch: pytest.MonkeyPatch,
    gpu: dict[str, int],
) -> None:
    idle(monkeypatch)
    if name == "free":
        gpu["free"] = int(value)
    else:
        monkeypatch.setattr(device, name, lambda: value)
    assert device.load(place).status == "warning"


@pytest.mark.parametrize(("text", "share"), [("max 100000", 1.0), ("50000 100000", None)])
def test_a_control_groups_quota_counts(
    text: str, share: float | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(device, "CGROUP", tmp_path / "absent")
    cores = device.usable_cores()
    assert cores >= 1
    monkeypatch.setattr(device, "CGROUP", tmp_path / "cpu.max")
    device.CGROUP.write_text(f"{text}\n")
    assert device.usable_cores() == (cores * share if share else 0.5)


def test_products_in_less_than_float32_are_failed(monkeypatch: pytest.MonkeyPatch) -> None:
    assert device.exactness(CPU).status == "ok"
    product = Tensor.__matmul__

    def tf32(x: Tensor) -> Tensor:
        """Rounded to ten bits behind the point, where it is float32."""
        if x.dtype != torch.float32:
            return x
        return ((x.view(torch.int32) + 2**12) & ~(2**13 - 1)).view(torch.float32)

    monkeypatch.setattr(Tensor, "__matmul__", lambda a, b: product(tf32(a), tf32(b)))
    finding = device.exactness(CPU)
    assert finding.status == "failed"
    assert "error of 0.0003" in finding.found or "error of 0.0004" in finding.found
    monkeypatch.setattr(Tensor, "__matmul__", lambda a, b: product(a, b) * float("nan"))
    assert device.exactness(CPU).status == "failed"


@pytest.mark.parametrize(
    ("place", "measured", "supported", "status", "said"),
    [
        (CPU, Rates(4e11, 2e9), True, "ok", "bf16-mixed is refused"),
        (CPU, Rates(4e11, 3e12), True, "ok", '"bf16-mixed" is faster'),
        (CUDA, Rates(5e13, 7e14), True, "ok", '"auto" is bf16-mixed'),
        (CUDA, Rates(5e13, 1e13), True, "warning", "float32 50 TFLOP/s, bfloat16 10 TFLOP/s"),
        (CUDA, Rates(5e13, 1e13), False, "warning", '"auto" is float32'),
    ],
)
def test_rates_say_which_precision_to_take(
    place: torch.device,
    measured: Rates,
    supported: bool,
    status: str,
    said: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def gemm_peak(place: torch.device, dtype: torch.dtype, size: int) -> float:
        return measured.float32 if dtype == torch.float32 else measured.bfloat16

    for module in (rates, device):
        monkeypatch.setattr(module, "probe", lambda place: measured)
    monkeypatch.setattr(device, "gemm_peak", gemm_peak)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: supported)
    finding = device.precision(place)
    assert (finding.status, said in finding.found) == (status, True), finding.found


# -- training


def test_equal_runs_are_equal_until_something_draws_from_elsewhere(
    scratch: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert training.repeatability(scratch, CPU).status == "ok"
    forward, noise = LowRank.forward, torch.Generator().manual_seed(0)

    def noisy(self: LowRank, x: Tensor) -> Tensor:
        return forward(self, x) * (1 + 1e-6 * torch.randn((), generator=noise))

    monkeypatch.setattr(LowRank, "forward", noisy)
    finding = training.repeatability(scratch, CPU)
    assert finding.status == "failed"
    assert "losses from step 1 on" in finding.found


def test_weights_that_differ_are_noticed_where_losses_do_not(
    scratch: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    runs = iter([torch.zeros(2), torch.tensor([0.0, 1e-30])])
    monkeypatch.setattr(
        training,
        "trained",
        lambda *_: training.Trained([1.0, 2.0], {"w": next(runs)}, set(), set(), 0),
    )
    finding = training.repeatability(scratch, CPU)
    assert (finding.status, "1 of 1 weights" in finding.found) == ("failed", True)


def test_a_kernel_that_torch_calls_unrepeatable_is_a_warning(
    scratch: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trained = training.trained

    def warning(*arguments: Any) -> Any:
        import warnings

        warnings.warn(f"scatter {training.UNREPEATABLE}, but", stacklevel=1)
        return trained(*arguments)

    monkeypatch.setattr(training, "trained", warning)
    assert training.repeatability(scratch, CPU).status == "warning"


def test_a_seed_that_changes_nothing_is_noticed(
    scratch: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert training.seeds(scratch, CPU).status == "ok"
    set_up = training.set_up
    monkeypatch.setattr(
        training, "set_up", lambda spec, place: set_up(spec.model_copy(update={"seed": 0}), place)
    )
    assert training.seeds(scratch, CPU).status == "failed"


@pytest.mark.parametrize("name", OURS)
def test_every_method_is_right_here(name: str, scratch: Path) -> None:
    finding = training.method(scratch, CPU, name)
    assert finding.status == "ok", finding.found
    count = training.reference(models.decoder(scratch), name).count
    assert (count > 0) == (name != "frozen")
    assert f"trains its {count:,} parameters" in finding.found


@pytest.fixture
def forgotten() -> Iterator[None]:
    """No run of a broken method is kept for other tests."""
    training.reference.cache_clear()
    yield
    training.reference.cache_clear()


@pytest.mark.parametrize("factor", [1.001, float("nan")])
def test_losses_that_are_wrong_in_float32_alone_are_noticed(
    factor: float, scratch: Path, monkeypatch: pytest.MonkeyPatch, forgotten: None
) -> None:
    training.reference(models.decoder(scratch), "lora")
    forward = LowRank.forward
    monkeypatch.setattr(
        LowRank,
        "forward",
        lambda self, x: forward(self, x) * (factor if x.dtype == torch.float32 else 1),
    )
    if factor == factor:
        finding = training.method(scratch, CPU, "lora")
        assert (finding.status, "from those in float64" in finding.found) == ("failed", True)
    else:
        assert carried_out(lambda: training.method(scratch, CPU, "lora")).status == "failed"


@pytest.mark.parametrize(
    ("after", "said"),
    [("writes to the base", "does not declare"), ("takes a step back", "as they were")],
)
def test_a_method_that_trains_something_else_is_noticed(
    after: str, said: str, scratch: Path, monkeypatch: pytest.MonkeyPatch, forgotten: None
) -> None:
    update = METHODS["lora"].update

    def broken(self: Any, model: Any, optimizer: Any, step: int) -> None:
        layer = next(m for m in model.modules() if isinstance(m, LowRank))
        a = layer.A.detach().clone()
        update(self, model, optimizer, step)
        with torch.no_grad():
            if after == "writes to the base":
                layer.base.weight.add_(1e-3)
            else:
                layer.A.copy_(a)

    monkeypatch.setattr(METHODS["lora"], "update", broken)
    finding = training.method(scratch, CPU, "lora")
    assert (finding.status, said in finding.found) == ("failed", True), finding.found


def test_losses_are_apart_by_the_worst_of_them() -> None:
    assert training.apart([1.0, 2.02], [1.0, 2.0]) == pytest.approx(0.01)
    assert training.apart([1.0], [1.0, 2.0]) == float("inf")
    worst = training.apart([1.0, float("nan"), 2.0], [1.0, 1.0, 1.0])
    assert worst != worst


# -- the tracker


@pytest.mark.parametrize(
    ("tracked", "allocated", "status"),
    [
        (95, 100, "ok"),
        (105, 100, "ok"),
        (80, 100, "warning"),
        (40, 100, "failed"),
        (9, 0, "failed"),
    ],
)
def test_the_trackers_peak_has_to_be_cudas(tracked: int, allocated: int, status: str) -> None:
    assert memory.judged(tracked, allocated).status == status


def test_what_a_step_adds_is_measured_from_what_lives_before(
    scratch: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert memory.peaks(scratch, CPU).status == "skipped"
    tuning = training.set_up(models.spec(models.decoder(scratch), "full", training.GENERATION), CPU)
    training.train(tuning, training.never)
    calls: list[str] = []
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda place: calls.append("now") or 1000)
    monkeypatch.setattr(torch.cuda, "reset_peak_memory_stats", lambda place: calls.append("reset"))
    monkeypatch.setattr(
        torch.cuda, "max_memory_allocated", lambda place: calls.append("peak") or 5000
    )
    tracked, allocated = memory.measured(tuning, CPU)
    assert (calls, allocated) == (["now", "reset", "peak"], 4000)
    net, optimizer, batch = tuning.model.net, tuning.optimizer, tuning.largest_batch()
    with memory.unchanged(net, optimizer):
        net.train()
        peak, _, _ = memory.step_peak(net, lambda: tuning.losses(batch), optimizer, lambda: None)
    before = [*net.parameters(), *net.buffers(), *state_tensors(optimizer)]
    assert peak - sum(tensor.nbytes for tensor in before) == tracked
    assert 0 < tracked < peak


# -- the sandbox


def test_programs_are_held_here() -> None:
    finding = confinement.confinement()
    assert finding.status == ("ok" if confinement.execute.confined() else "warning"), finding.found


@pytest.mark.parametrize("name", confinement.ATTEMPTS)
def test_a_program_that_nothing_holds_gets_what_it_tries_for(name: str, tmp_path: Path) -> None:
    """Or its being refused would mean nothing. An audit hook does not hold it."""
    path = tmp_path / "file"
    path.write_text(confinement.SECRET)
    source = f"PATH = {str(path)!r}\n{confinement.ATTEMPTS[name]}"
    hook = "import sys\nsys.addaudithook(lambda event, args: event == 'open' and 1 / 0)\n"
    program = confinement.PROGRAM.format(source=source) + hook + "print(solve())\n"
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=False
    )
    assert done.stdout == "achieved\n", done.stderr
    harmed = path.read_text() != confinement.SECRET or len([*tmp_path.iterdir()]) > 1
    assert harmed == (name in ("write a file", "make a file"))


@pytest.mark.parametrize(
    ("fate", "confined", "status"),
    [
        ("PermissionError: [Errno 13]", True, "ok"),
        ("achieved", True, "failed"),
        ("SyntaxError: in the program", True, "warning"),
        ("achieved", False, "warning"),
    ],
)
def test_what_programs_meet_is_judged(
    fate: str, confined: bool, status: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(confinement, "attempted", lambda source, path: fate)
    monkeypatch.setattr(confinement.execute, "confined", lambda: confined)
    monkeypatch.setattr(confinement.execute, "confinement", lambda: "layers")
    assert confinement.confinement().status == status


def test_a_harmed_file_is_noticed_whatever_a_program_says(monkeypatch: pytest.MonkeyPatch) -> None:
    def harm(source: str, path: Path) -> str:
        path.with_suffix(".new").touch()
        return "PermissionError: of course"

    monkeypatch.setattr(confinement, "attempted", harm)
    monkeypatch.setattr(confinement.execute, "confined", lambda: True)
    assert confinement.confinement().status == "failed"


# -- what lies around


def test_packaged_assets_have_to_be_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    assert surroundings.packaged().status == "ok"
    broken = {
        name: dataclasses.replace(weights, sha256="0" * 64)
        for name, weights in assets.MODELS.items()
    }
    monkeypatch.setattr(assets, "MODELS", broken)
    finding = carried_out(surroundings.packaged)
    assert (finding.status, "make setup" in finding.found) == ("failed", True)


@pytest.mark.parametrize(
    ("free", "status"), [(50 * 2**30, "ok"), (2**30, "warning"), (2**20, "failed")]
)
def test_free_space_is_judged(
    free: int, status: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        surroundings.shutil, "disk_usage", lambda path: types.SimpleNamespace(free=free)
    )
    finding = surroundings.disk(Store(tmp_path / "no" / "such" / "folder"))
    assert finding.status == status
    assert all(name in finding.found for name in ("results", "cache", "temporary files"))


def test_a_store_has_to_be_writable_and_is_left_as_it_was(tmp_path: Path) -> None:
    assert surroundings.writable(Store(tmp_path / "results")).status == "ok"
    assert not [*tmp_path.iterdir()]
    file = tmp_path / "file"
    file.touch()
    for root in (file, tmp_path / "no" / "folder", file / "results"):
        store = Store(root)
        assert carried_out(lambda store=store: surroundings.writable(store)).status == "failed"


def test_a_compiler_has_to_compile(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    own = tmp_path / "compiler"
    monkeypatch.setenv("CXX", str(own))
    assert surroundings.compiler(CPU).status == "skipped"
    for text, status in (("exit 0", "ok"), ("echo fatal error: no >&2; exit 1", "warning")):
        own.write_text(f"#!/bin/sh\n{text}\n")
        own.chmod(0o755)
        assert surroundings.compiler(CPU).status == status
    assert "fatal error: no" in surroundings.compiler(CPU).found


def test_a_mirror_is_looked_through(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PEFTBENCH_HUB", str(tmp_path / "absent"))
    assert data.mirror_or_cache().status == "failed"
    monkeypatch.setenv("PEFTBENCH_HUB", str(tmp_path))
    assert data.mirror_or_cache().status == "warning"
    for name in data.sources():
        (tmp_path / name).mkdir(parents=True)
    assert data.mirror_or_cache().status == "warning"  # empty folders
    for name in data.sources():
        (tmp_path / name / "test.parquet").touch()
    assert data.mirror_or_cache().status == "ok"


def test_a_cache_has_to_be_writable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PEFTBENCH_HUB")
    monkeypatch.setattr(data.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    (tmp_path / "hub" / "datasets--openai--gsm8k").mkdir(parents=True)
    finding = data.mirror_or_cache()
    assert (finding.status, "holds openai/gsm8k" in finding.found) == ("ok", True)
    monkeypatch.setattr(data.os, "access", lambda path, mode: False)
    assert data.mirror_or_cache().status == "warning"


def test_the_hub_is_asked_only_where_it_may_be(monkeypatch: pytest.MonkeyPatch) -> None:
    class Api:
        def dataset_info(self, name: str, timeout: float) -> None:
            asked.append(name)
            if len(asked) > 1:
                raise OSError("no route")

    asked: list[str] = []
    monkeypatch.setattr(data.huggingface_hub, "HfApi", Api)
    monkeypatch.setattr(data.constants, "HF_HUB_OFFLINE", True)
    assert data.reach(ask=False).status == data.reach(ask=True).status == "skipped"
    monkeypatch.setattr(data.constants, "HF_HUB_OFFLINE", False)
    assert data.reach(ask=False).status == "skipped"
    assert not asked
    assert data.reach(ask=True).status == "ok"
    finding = data.reach(ask=True)
    assert (finding.status, "no route" in finding.found) == ("failed", True)


def test_products_with_quantised_weights_are_ok_here() -> None:
    pytest.importorskip("bitsandbytes")
    finding = quantized.base(CPU)
    assert finding.status == "ok", finding.found


@pytest.mark.parametrize("noise", [0.0, 0.5, float("nan")])
@pytest.mark.parametrize("kind", quantized.ERRORS)
def test_quantised_weights_that_are_exact_or_wrong_are_noticed(
    kind: str, noise: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("bitsandbytes")
    forward = quantized.QuantizedLinear.forward
    exact = torch.randn(quantized.OUT, quantized.IN, generator=torch.Generator().manual_seed(0))

    def broken(self: quantized.QuantizedLinear, x: Tensor) -> Tensor:
        return (1 + noise) * (x @ exact.t()) if self.format == kind else forward(self, x)

    monkeypatch.setattr(quantized.QuantizedLinear, "forward", broken)
    finding = quantized.base(CPU)
    assert (finding.status, f"; in {kind} it should be" in finding.found) == ("failed", True)


def test_an_extra_that_is_not_installed_is_skipped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "bitsandbytes", None)
    assert quantized.base(CPU).status == "skipped"


# -- the command

FINDINGS = {
    "one": Finding("ok", "all right"),
    "two": Finding("warning", "a \x1b[31mred " + "word " * 60, "do this"),
    "three": Finding("skipped", "no reason"),
}


def call(
    arguments: list[str], findings: dict[str, Finding], monkeypatch: pytest.MonkeyPatch
) -> tuple[int, list[Any]]:
    """The exit status of the command, and what the checks were given."""
    given: list[Any] = []

    def examine(store: Store, ask_hub: bool) -> Any:
        given.extend((store, ask_hub))
        return iter(findings.items())

    monkeypatch.setattr(doctor, "examine", examine)
    monkeypatch.setattr("sys.argv", ["peftbench", "doctor", *arguments])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    return int(ended.value.code or 0), given


@pytest.mark.parametrize("form", ["text", "json"])
def test_the_exit_status_is_1_where_a_check_failed(
    form: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    arguments = ["--format", form, "--store", "there"]
    assert call(arguments, FINDINGS, monkeypatch) == (0, [Store(Path("there")), False])
    failed = FINDINGS | {"four": Finding("failed", "broken")}
    assert call([*arguments, "--hub"], failed, monkeypatch) == (1, [Store(Path("there")), True])


def test_json_is_a_list_of_the_findings(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    call(["--format", "json"], FINDINGS, monkeypatch)
    rows = json.loads(capsys.readouterr().out)
    assert [row.pop("name") for row in rows] == [*FINDINGS]
    assert [Finding(**row) for row in rows] == [*FINDINGS.values()]


@pytest.mark.parametrize("columns", [20, 80, 300])
def test_lines_fit_the_terminal_and_say_all(
    columns: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", str(columns))
    call([], FINDINGS, monkeypatch)
    output = capsys.readouterr().out
    assert "\x1b" not in output
    lines = output.splitlines()
    assert max(map(len, lines)) <= min(max(columns, report.NARROW), report.WIDE)
    assert lines[0].split() == ["ok", "one", "all", "right"]
    assert output.count("word") == 60
    assert "-> do this" in output
    assert lines[-1] == "3 checks: 1 ok, 1 warning, 1 skipped"
