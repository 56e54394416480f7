"""Any method of peft as an arm: its args, steps, files and name, and what peft cannot do."""

import json
import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import peft
import peft_methods
import pytest
import torch
import transformers
from peft_methods import arms, run_spec, tried
from real_step import tracked_peak

from peftbench import wording
from peftbench.doctor.models import DATA, decoder, spec
from peftbench.door import exporting, running, searching
from peftbench.errors import InputError
from peftbench.estimate.forecast import forecast
from peftbench.estimate.setting import Setting
from peftbench.exports.plain_lora import plain_lora
from peftbench.exports.recipe import adapter_of
from peftbench.methods import METHODS, files
from peftbench.methods.peft_method import UNTRAINABLE, peft_types, rows_of_types
from peftbench.methods.peft_network import merged_layer, peft_network, tuner_layers
from peftbench.spec import bounds
from peftbench.training.fine_tuning import check_specs, set_up
from peftbench.training.generation import Running, generate
from peftbench.training.loop import train
from peftbench.training.run import never, run

CPU = torch.device("cpu")
PEFT = METHODS["peft"]
# Of every kind one: layers, initial values that change the base, allocation of ranks, sparse
# tensors, random values that are frozen, biases, prompts in the text and in the cache.
SOME = (
    *(
        "LORA (dora)",
        "LORA (pissa)",
        "LORA (lora_ga)",
        "LORA (bias)",
        "ADALORA",
        "IA3",
        "LN_TUNING",
    ),
    *("SHIRA", "VERA", "PROMPT_TUNING", "PREFIX_TUNING", "POLY"),
)
# Why a method is skipped on a model, by a word of the reason.
SKIPPED = {
    **{(kind, which): why for kind, why in UNTRAINABLE.items() for which in ("encoder", "decoder")},
    ("ADAPTION_PROMPT", "encoder"): "Unsupported model type",
    ("LORA (corda)", "encoder"): "no dimensions",
    ("LORA (eva)", "encoder"): "not enough values",
    **{
        (kind, "encoder"): "language models only"
        for kind in ("PREFIX_TUNING", "PROMPT_TUNING", "P_TUNING")
    },
}


@pytest.fixture(scope="module")
def scratch(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("scratch")


@pytest.mark.parametrize("which", ["encoder", "decoder"])
@pytest.mark.parametrize(
    "name",
    [n if n in SOME else pytest.param(n, marks=pytest.mark.slow) for n in arms()],
)
def test_a_method_trains_what_it_declares_and_its_file_restores_it(
    scratch: Path, name: str, which: Any
) -> None:
    found = tried(scratch, name, arms()[name], which)
    if why := SKIPPED.get((name, which)):
        assert (found.status, why in found.why) == ("skipped", True), found
    else:
        assert found.status == "works", found
        assert found.params is not None
        assert found.params > 0


@pytest.mark.parametrize("name", ["LORA", "VERA", "SHIRA"])
def test_another_seed_has_other_random_values(scratch: Path, name: str) -> None:
    """Frozen ones too: peft draws VeRA's from a key that is the same for all seeds."""
    changed, _, _ = tried(scratch, name, arms()[name], "decoder").seeded.partition(" of ")
    assert int(changed) >= {"LORA": 14, "VERA": 2, "SHIRA": 14}[name]


def test_every_method_of_peft_is_tried() -> None:
    assert {args["peft_type"] for args in arms().values()} == set(peft_types())
    works = [kind for kind in peft_types() if (kind, "decoder") not in SKIPPED]
    assert len(works) >= 25


# -- args


@pytest.mark.parametrize("name", arms())
def test_complete_args_are_json_and_complete(name: str) -> None:
    full = PEFT.complete(arms()[name])
    assert PEFT.complete(json.loads(json.dumps(full))) == full
    assert full["peft_type"] == arms()[name]["peft_type"]


@pytest.mark.parametrize(
    ("args", "said"),
    [
        ({"peft_type": "LORAX"}, "unknown peft_type 'LORAX': did you mean 'LORA'?"),
        ({"peft_type": "LORA", "alpha": 3}, "unknown key in peft LORA: args 'alpha'"),
        ({"peft_type": "OFT", "oft_blok_size": 3}, "did you mean 'oft_block_size'?"),
        ({"peft_type": "LORA", "r": "many"}, "peft LORA: args: r: input should be a valid integer"),
        ({"peft_type": "LORA", "r": True}, "r: value error, input should be a number"),
        ({"peft_type": "ADALORA", "orth_reg_weight": -1}, "`orth_reg_weight` should be greater"),
        ({"peft_type": "LORA", "corda_config": {"cache_file": "x.pt"}}, "pickled values"),
        ({"peft_type": "LORA", "task_type": "CAUSAL_LM"}, "unknown key in peft LORA: args"),
        ({"peft_type": "VERA", "projection_prng_key": 1}, "unknown key in peft VERA: args"),
    ],
)
def test_wrong_args_are_named(args: dict[str, Any], said: str) -> None:
    with pytest.raises(InputError, match=re.escape(said)):
        PEFT.build(args)


def test_the_order_of_targets_changes_no_args() -> None:
    one, other = (
        PEFT.complete({"peft_type": "LORA", "target_modules": names})
        for names in (["q_proj", "v_proj"], ["v_proj", "q_proj", "v_proj"])
    )
    assert one == other


def test_a_space_may_vary_any_number_of_a_configuration() -> None:
    assert bounds(PEFT.of({"peft_type": "FOURIERFT"}), "scaling") is not None
    assert bounds(PEFT.of({"peft_type": "LORA"}), "use_dora") is None


def test_every_method_is_described_with_its_args() -> None:
    rows = {row["name"]: row for row in rows_of_types()}
    assert {f"peft: {kind}" for kind in peft_types()} == rows.keys()
    assert rows["peft: LORA"]["args"]["r"] == 8
    assert "skipped" in rows["peft: XLORA"]
    assert rows["peft: IA3"]["version"] == PEFT.of({"peft_type": "IA3"}).version > 2000


@pytest.mark.parametrize(
    ("args", "name"),
    [
        ({"peft_type": "LORA"}, "peft: LORA"),
        ({"peft_type": "LORA", "use_dora": True}, "peft: LORA (dora)"),
        ({"peft_type": "LORA", "init_lora_weights": "pissa"}, "peft: LORA (pissa)"),
        ({"peft_type": "OFT"}, "peft: OFT"),
    ],
)
def test_a_method_is_called_what_it_is(args: dict[str, Any], name: str) -> None:
    assert wording.method_name("peft", PEFT.complete(args)) == name


# -- training


def test_a_layer_in_the_head_is_refused(scratch: Path) -> None:
    args = {"peft_type": "LORA", "target_modules": ["query", "classifier"]}
    with pytest.raises(InputError, match="target_modules: classifier is part of the head"):
        set_up(run_spec(scratch, args, "encoder"), CPU)


def test_what_peft_cannot_do_is_a_record_that_says_so(scratch: Path) -> None:
    wanted = run_spec(scratch, {"peft_type": "MISS", "r": 999}, "decoder")
    assert "(999) must be" in check_specs([wanted])[wanted.run_id]
    record = run(wanted).record
    assert record.status == "skipped"
    assert record.error is not None
    assert record.error.startswith("peft: MISS: `r` (999) must be less than or equal to")


@pytest.mark.parametrize("name", arms())
def test_what_works_is_not_skipped_before_it_is_tried(scratch: Path, name: str) -> None:
    """On the meta device torch cannot do all that it can with values."""
    wanted = {which: run_spec(scratch, arms()[name], which) for which in ("encoder", "decoder")}
    reasons = check_specs([*wanted.values()])
    skipped = {which for which, one in wanted.items() if one.run_id in reasons}
    assert skipped <= {which for which in wanted if (name, which) in SKIPPED}


def test_a_search_leaves_out_what_peft_cannot_do(scratch: Path, tmp_path: Path) -> None:
    file = tmp_path / "search.toml"
    arms = "".join(
        f"""
        [[arm]]
        method = "peft"
        args = {{ peft_type = "MISS", r = {r}, target_modules = "all-linear" }}
        space = {{ "train.lr" = {{ low = 1e-4, high = 1e-2, log = true }} }}
        """
        for r in (4, 999)
    )
    file.write_text(
        f"""
        question = "?"
        model = {json.dumps(decoder(scratch))}
        train = {{ steps = 2, batch_size = 2 }}
        data = {{ train = 8, valid = 4, max_length = 64, generate = 0 }}
        search = {{ trials = 1, pruner = "none" }}
        task = ["gsm_symbolic"]
        {arms}""",
        encoding="utf-8",
    )
    said: list[str] = []
    found = searching.search(file, tmp_path / "store", say=said.append)
    assert [result.study.arm.args["r"] for result in found] == [4]
    assert any("999" in line and "skipped: peft: MISS" in line for line in said)
    assert "999" in (tmp_path / "tuned" / "search.toml").read_text(encoding="utf-8")


def test_adalora_trains_with_its_penalty_and_ends_at_its_budget(scratch: Path) -> None:
    args = {"peft_type": "ADALORA", "init_r": 6, "target_r": 2, "tinit": 1, "tfinal": 2}
    tuning = set_up(run_spec(scratch, args, "decoder"), CPU)
    batch = tuning.batch(1)
    *parts, penalty = tuning.losses(batch)
    assert len(parts) == len(batch)
    matrices = [
        p @ p.T if "lora_A" in name else p.T @ p
        for name, p in tuning.model.net.named_parameters()
        if "lora_A" in name or "lora_B" in name
    ]
    norms = [(product - torch.eye(len(product))).norm() for product in matrices]
    torch.testing.assert_close(penalty, 0.5 * sum(norms) / len(norms))
    log = train(tuning, never)
    first = sum(part.item() for part in parts)
    assert log.curve[0].train_loss == pytest.approx(first, rel=1e-6)  # without the penalty
    pattern = peft_network(tuning.model.net).wrapped.peft_config["default"].rank_pattern
    assert pattern is not None
    kept = sum(sum(rows) for rows in pattern.values())
    assert kept == 2 * len(pattern) < 6 * len(pattern)


@pytest.mark.parametrize("kind", ["PROMPT_TUNING", "P_TUNING", "PREFIX_TUNING"])
def test_answers_after_a_prompt_do_not_depend_on_what_is_beside_them(
    scratch: Path, kind: str
) -> None:
    tuning = set_up(run_spec(scratch, arms()[kind], "decoder"), CPU)
    train(tuning, never)
    model: Any = tuning.model
    model.net.eval()
    prompts = ["What is 3 + 4?", "A much longer question about 12 apples: how many?", "7"]
    together = generate(model, prompts, 6, (), batch_tokens=10_000).answers
    alone = [generate(model, [prompt], 6, (), batch_tokens=10_000).answers[0] for prompt in prompts]
    in_turn = generate(model, prompts, 6, (), batch_tokens=80).answers
    assert together == alone == in_turn


def test_eva_begins_with_directions_of_the_data(scratch: Path) -> None:
    """A's rows are orthonormal, as singular vectors are and drawn values are not."""
    tuning = set_up(run_spec(scratch, arms()["LORA (eva)"], "decoder"), CPU)
    for layer in tuner_layers(tuning.model.net).values():
        A = layer.lora_A["default"].weight.detach()  # (r, in)
        torch.testing.assert_close(A @ A.T, torch.eye(len(A)), rtol=1e-4, atol=1e-4)


@pytest.mark.filterwarnings("ignore")  # peft's own
@pytest.mark.parametrize("kind", ["PROMPT_TUNING", "P_TUNING", "PREFIX_TUNING"])
def test_without_padding_a_prompt_is_pefts(scratch: Path, kind: str) -> None:
    """peft's own forward is the oracle, and the prompt is no part of what it leaves alone."""
    tuning = set_up(run_spec(scratch, arms()[kind], "decoder"), CPU)
    train(tuning, never)
    net, item = tuning.model.net.eval(), tuning.data["train"].items[0]
    ids = torch.tensor([item.tokens])
    with torch.inference_mode():
        ours = net(**tuning.model.collate([item]).inputs).logits[:, -ids.shape[1] :]
        wrapped = peft_network(net).wrapped.eval()
        theirs = wrapped(input_ids=ids, attention_mask=torch.ones_like(ids)).logits
    torch.testing.assert_close(ours, theirs[:, -ids.shape[1] :], rtol=1e-5, atol=1e-5)
    plain = peft_methods.plain_net(tuning.spec).eval()
    with torch.inference_mode():
        assert (plain(input_ids=ids).logits - ours).abs().max() > 0.01


def test_only_columns_that_no_row_has_read_are_trimmed() -> None:
    """A row that begins with virtual tokens in the cache has its padding behind them."""
    for mask, kept in (
        ([[0, 0, 1, 1], [0, 1, 1, 1]], 3),
        ([[1, 0, 0, 1], [1, 0, 1, 1]], 4),
        ([[0, 1, 0, 1], [0, 1, 1, 1]], 3),
    ):
        width = len(mask[0])
        states = torch.arange(2.0 * width).view(2, 1, width, 1)
        layer = SimpleNamespace(keys=states, values=states + 1)
        cache: Any = SimpleNamespace(layers=[layer])
        left = Running([0, 1], torch.zeros(2), torch.tensor(mask), cache).trimmed()
        assert left.mask.tolist() == [row[width - kept :] for row in mask]
        assert torch.equal(layer.keys, states[:, :, width - kept :])
        assert torch.equal(layer.values, states[:, :, width - kept :] + 1)


def test_merging_leaves_the_layer_as_it_was(scratch: Path) -> None:
    tuning = set_up(run_spec(scratch, arms()["LN_TUNING"], "decoder"), CPU)
    train(tuning, never)
    name, layer = next(iter(tuner_layers(tuning.model.net).items()))
    before = {key: tensor.clone() for key, tensor in layer.state_dict().items()}
    merged = merged_layer(layer)
    after = layer.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(before[key], after[key]) for key in before), name
    assert not torch.equal(merged.weight, layer.base_layer.weight)  # type: ignore[arg-type]


@pytest.mark.parametrize("base", ["plain", "nf4"])
def test_peft_lora_on_equal_initial_values_trains_as_ours(scratch: Path, base: Any) -> None:
    """Also on a quantised base."""
    pytest.importorskip("bitsandbytes")
    args = {"peft_type": "LORA", "r": 4, "lora_alpha": 8, "target_modules": "all-linear"}
    theirs = spec(decoder(scratch), "peft", "gsm_symbolic", **args)
    ours = spec(decoder(scratch), "lora", "gsm_symbolic", rank=4, alpha=8.0)
    losses = []
    start: dict[str, Any] = {}
    for wanted in (theirs, ours):
        tuning = set_up(wanted.model_copy(update={"base": base}), CPU)
        with torch.no_grad():
            for name, parameter in tuning.model.net.named_parameters():
                if not parameter.requires_grad:
                    continue
                key = name.replace("lora_", "").replace(".default.weight", "")
                parameter.copy_(start.setdefault(key, parameter.clone()))
        losses.append([point.train_loss for point in train(tuning, never).curve])
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)
    assert DATA.train is not None


@pytest.mark.parametrize("name", ["LORA (dora)", "LORA (pissa)", "ADALORA", "IA3", "VERA"])
@pytest.mark.filterwarnings("ignore")  # peft's own
def test_peft_opens_what_is_saved(scratch: Path, tmp_path: Path, name: str) -> None:
    tuning = set_up(run_spec(scratch, arms()[name], "decoder"), CPU)
    train(tuning, never)
    net, folder = tuning.model.net, tmp_path / "adapter"
    files.save(tuning.method, net, (), folder, base_model=tuning.spec.model)
    plain = transformers.AutoModelForCausalLM.from_pretrained(tuning.spec.model)
    opened = peft.PeftModel.from_pretrained(plain, str(folder)).eval()
    torch.testing.assert_close(
        peft_methods.logits(tuning, opened), peft_methods.logits(tuning), rtol=1e-4, atol=1e-4
    )


@pytest.mark.filterwarnings("ignore")  # peft's own
@pytest.mark.parametrize("name", ["LORA", "LORA (rslora)", "LORA (pissa)", "ADALORA", "VERA"])
def test_an_adapter_of_low_rank_becomes_a_plain_lora(
    scratch: Path, tmp_path: Path, name: str
) -> None:
    tuning = set_up(run_spec(scratch, arms()[name], "decoder"), CPU)
    train(tuning, never)
    files.save(tuning.method, tuning.model.net, (), tmp_path, base_model=tuning.spec.model)
    widths = {name: layer.in_features for name, layer in tuner_layers(tuning.model.net).items()}
    folder = tmp_path / "plain"
    folder.mkdir()
    for file, content in plain_lora(tmp_path, lambda: widths).items():
        (folder / file).write_bytes(content)
    config = json.loads((folder / "adapter_config.json").read_text(encoding="utf-8"))
    assert (config["peft_type"], config.get("use_rslora", False)) == ("LORA", False)
    plain = transformers.AutoModelForCausalLM.from_pretrained(tuning.spec.model)
    opened = peft.PeftModel.from_pretrained(plain, str(folder)).eval()
    torch.testing.assert_close(
        peft_methods.logits(tuning, opened), peft_methods.logits(tuning), rtol=1e-4, atol=1e-4
    )


def test_dora_is_no_plain_lora(scratch: Path, tmp_path: Path) -> None:
    tuning = set_up(run_spec(scratch, arms()["LORA (dora)"], "decoder"), CPU)
    files.save(tuning.method, tuning.model.net, (), tmp_path, base_model=tuning.spec.model)
    with pytest.raises(InputError, match="LoRA with use_dora is no plain LoRA"):
        plain_lora(tmp_path, dict)


@pytest.mark.filterwarnings("ignore")  # peft's own
def test_a_run_of_pefts_is_exported_as_a_user_would(scratch: Path, tmp_path: Path) -> None:
    file = tmp_path / "experiment.toml"
    arms = "".join(
        f"""
        [[arm]]
        method = "peft"
        args = {{ peft_type = "{kind}", r = 4, target_modules = "all-linear" }}
        """
        for kind in ("LORA", "VERA")
    )
    file.write_text(
        f"""
        question = "?"
        model = {json.dumps(decoder(scratch))}
        train = {{ steps = 2, batch_size = 2, warmup = 0 }}
        data = {{ train = 8, test = 4, max_length = 64, generate = 0 }}
        task = ["gsm_symbolic"]
        {arms}""",
        encoding="utf-8",
    )
    store, adapters = tmp_path / "store", tmp_path / "adapters"
    lora, vera = running.run(file, store, adapters=adapters, say=lambda _: None)
    keys = [f"{folder.name}/{lora.run_id}" for folder in store.iterdir() if folder.is_dir()]
    for record in (lora, vera):
        out = tmp_path / record.run_id
        key = keys[0].replace(lora.run_id, record.run_id)
        exporting.export(key, to="lora", out=out, store=store, adapters=adapters)
        config = json.loads((out / "adapter_config.json").read_text(encoding="utf-8"))
        assert (config["peft_type"], config["r"]) == ("LORA", 4)
    for tool in ("peft", "axolotl"):
        exporting.export(keys[0], to=tool, out=tmp_path / tool, store=store)
    assert "r=4" in (tmp_path / "peft" / "train_peft.py").read_text(encoding="utf-8").replace(
        " ", ""
    )
    with pytest.raises(InputError, match="peft_type = 'VERA'"):
        exporting.export(
            keys[0].replace(lora.run_id, vera.run_id), to="peft", out=tmp_path / "no", store=store
        )


@pytest.mark.parametrize(
    ("args", "said"),
    [
        ({"r": 4, "lora_alpha": 8, "target_modules": "all-linear"}, None),
        ({"r": 4, "target_modules": ["q_proj"]}, None),
        ({"r": 4, "use_dora": True, "target_modules": "all-linear"}, "use_dora = True"),
        ({"r": 4}, "target_modules = None"),
        ({"peft_type": "IA3", "target_modules": "all-linear"}, "peft_type = 'IA3'"),
    ],
)
def test_plain_lora_of_peft_has_a_recipe(
    scratch: Path, args: dict[str, Any], said: str | None
) -> None:
    wanted = spec(decoder(scratch), "peft", "gsm_symbolic", **args)
    if said:
        with pytest.raises(InputError, match=re.escape(said)):
            adapter_of(wanted)
        return
    ours = adapter_of(wanted)
    assert ours is not None
    assert (ours.rank, ours.scale) == (4, args.get("lora_alpha", 8) / 4)


@pytest.mark.parametrize("name", ["LORA (dora)", "LORA (pissa)", "IA3", "VERA", "PREFIX_TUNING"])
def test_a_forecast_is_the_real_step(scratch: Path, name: str) -> None:
    wanted = run_spec(scratch, arms()[name], "decoder")
    setting = Setting(
        model=wanted.model,
        method="peft",
        args=wanted.args,
        batch=3,
        length=20,
        precision="float32",
        device="cpu",
    )
    made = forecast(setting)
    assert made.peak_bytes == pytest.approx(tracked_peak(setting), rel=0.001)
    assert made.trained_params == tried(scratch, name, arms()[name], "decoder").params


# -- the page


REPRODUCTIONS = 4


def reproductions() -> list[tuple[str, str]]:
    """Each one's code, and what it prints."""
    text = peft_methods.TEXT.read_text(encoding="utf-8")
    return re.findall(r"```python\n(.*?)```\n+```text\n(.*?)```", text, re.S)


def test_the_page_says_what_is_wrong_and_shows_it() -> None:
    assert len(reproductions()) == REPRODUCTIONS


@pytest.mark.slow
@pytest.mark.parametrize("place", range(REPRODUCTIONS))
def test_a_reproduction_prints_what_the_page_says(place: int) -> None:
    code, said = reproductions()[place]
    ran = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code], capture_output=True, text=True, check=True
    )
    assert ran.stdout == said
