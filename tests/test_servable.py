"""What vLLM and SGLang serve: each rule of theirs on either side of it, and what the closing table
and `peftbench show` say."""

import json
from pathlib import Path
from typing import Any

import peft
import pytest
import records
import tiny
import torch
from sheets import rows, seeds

from peftbench import cli
from peftbench.analysis.results import Results
from peftbench.markup import as_text
from peftbench.methods import METHODS, OURS
from peftbench.record import Record
from peftbench.servable import rules
from peftbench.servable.arms import servable
from peftbench.store import Store
from peftbench.tables import closing


def said(*, head: bool = False, **changed: Any) -> str:
    return servable(records.spec(**changed), head=head).words().en


def peft_args(**changed: Any) -> dict[str, Any]:
    """All settings of peft's LoRA as JSON has them, as an arm's args."""
    config = peft.LoraConfig(target_modules=["q_proj", "v_proj"], r=8, lora_alpha=16).to_dict()
    return config | {"peft_type": "LORA", "target_modules": ["q_proj", "v_proj"]} | changed


def on_peft(*, head: bool = False, pooling: str = "model", **changed: Any) -> tuple[str, ...]:
    """What keeps vLLM and SGLang from it; empty: nothing."""
    spec = records.spec(method="peft", pooling=pooling).model_copy(
        update={"args": peft_args(**changed)}
    )
    answer = servable(spec, head=head)
    return tuple(each.text.en if each else "" for each in (answer.vllm, answer.sglang))


@pytest.mark.parametrize(
    ("method", "words"),
    [
        ("lora", "vLLM, SGLang"),
        ("lora-fa", "vLLM, SGLang"),
        ("lora+", "vLLM, SGLang"),
        ("delta-lora", "vLLM, SGLang"),
        ("vera", "after export"),
        ("full", "as a whole model"),
        ("frozen", "the base alone"),
        ("somebody's", "vLLM?, SGLang?"),
    ],
)
def test_a_language_model_of_each_method(method: str, words: str) -> None:
    assert said(method=method) == words


@pytest.mark.parametrize("method", OURS)
@pytest.mark.parametrize("head", [True, False])
def test_something_is_known_of_every_method_of_ours(method: str, head: bool) -> None:
    args = METHODS[method].complete({})
    answer = servable(records.spec(method=method, args=args), head=head)
    for obstacle in (answer.vllm, answer.sglang):
        assert obstacle is None or "nothing is known" not in obstacle.text.en


@pytest.mark.parametrize(
    ("method", "pooling", "words"),
    [
        ("lora", "model", "vLLM?"),
        ("lora", "mean", "no"),
        ("vera", "model", "vLLM?, after export"),
        ("full", "model", "as a whole model"),
        ("full", "mean", "no"),
        ("frozen", "model", "no"),
    ],
)
def test_a_trained_head_is_served_where_it_is_one_layer_of_the_right_name(
    method: str, pooling: str, words: str
) -> None:
    assert said(method=method, pooling=pooling, head=True) == words


@pytest.mark.parametrize(
    ("method", "args", "words"),
    [
        ("lora", {"rank": 512}, "vLLM, SGLang"),
        ("lora", {"rank": 513}, "SGLang"),
        ("vera", {"rank": 1024}, "SGLang, after export"),
        ("delta-lora", {"rank": 256, "start_step": 1}, "vLLM, SGLang"),
        ("delta-lora", {"rank": 257, "start_step": 1}, "SGLang"),
        ("delta-lora", {"rank": 257, "start_step": 0}, "vLLM, SGLang"),
        ("delta-lora", {"rank": 257, "start_step": 100}, "SGLang"),
        ("delta-lora", {"rank": 257, "start_step": 101}, "vLLM, SGLang"),  # after the last step
        ("lora", {"targets": ["q_proj", "v_proj"]}, "vLLM, SGLang"),
        ("lora", {"targets": ["self_attn.q_proj"]}, "vLLM"),
        ("lora", {"targets": ["k_proj", "q_proj"]}, "vLLM"),
        ("lora", {"targets": ["up_proj"]}, "vLLM"),
        ("lora", {"targets": ["gate_proj", "o_proj"]}, "vLLM, SGLang"),
        ("lora", {"rank": "many"}, "vLLM?, SGLang?"),
        ("lora", {"targets": 7}, "vLLM?, SGLang?"),
        ("delta-lora", {"start_step": None}, "vLLM?, SGLang?"),
    ],
)
def test_ranks_and_layers(method: str, args: dict[str, Any], words: str) -> None:
    assert said(method=method, args=args) == words


def test_a_certain_obstacle_comes_before_one_that_depends() -> None:
    answer = servable(records.spec(args={"rank": 513}), head=True)
    assert answer.vllm == rules.VLLM_RANK


@pytest.mark.parametrize("start_step", [0, 1, 3, 4])
def test_the_rank_of_delta_loras_file_is_the_one_it_saves(start_step: int) -> None:
    """A rank is refused from 513 on: 257 twice, or 513 once."""
    method = METHODS["delta-lora"].build({"rank": 2, "start_step": start_step})
    model = tiny.make(tiny.llama)
    method.attach(model, torch.Generator().manual_seed(0))
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.0)
    for step in range(1, 4):
        method.update(model, optimizer, step)
    saved = {layer.settings()["r"] for _, layer in tiny.adapted(model)}
    for rank in (256, 257, 512, 513):
        args = {"rank": rank, "start_step": start_step}
        answer = servable(
            records.spec(method="delta-lora", args=args, train={"steps": 3}), head=False
        )
        (times,) = {of_two // 2 for of_two in saved}
        assert (answer.vllm is None) == (times * rank <= 512)


@pytest.mark.parametrize(
    ("changed", "vllm", "sglang"),
    [
        ({}, "", ""),
        ({"use_dora": True}, "DoRA", "DoRA"),
        ({"use_rslora": True}, "", "takes alpha / r for the scale of all layers"),
        ({"rank_pattern": {"q_proj": 4}}, "", "takes alpha / r for the scale of all layers"),
        ({"alpha_pattern": {"q_proj": 4}}, "", "takes alpha / r for the scale of all layers"),
        ({"rank_pattern": {"q_proj": 8}, "alpha_pattern": {"v_proj": 16}}, "", ""),
        ({"rank_pattern": {"q_proj": 600}}, "rank above 512", rules.SGLANG_SCALE.text.en),
        ({"r": 512}, "", ""),
        ({"r": 513}, "rank above 512", ""),
        ({"bias": "lora_only"}, "trained biases", "trained biases"),
        ({"lora_bias": True}, "trained biases", "trained biases"),
        ({"init_lora_weights": "gaussian"}, "", ""),
        ({"init_lora_weights": False}, "", ""),
        ({"init_lora_weights": "pissa_niter_16"}, "", ""),  # saved with twice the rank
        ({"init_lora_weights": "olora", "use_rslora": True}, "", ""),
        ({"init_lora_weights": "olora", "r": 256}, "", ""),
        ({"init_lora_weights": "olora", "r": 257}, "rank above 512", ""),
        ({"init_lora_weights": "loftq"}, *[rules.CHANGED_BASE.en] * 2),
        (
            {"init_lora_weights": "pissa", "rank_pattern": {"q_proj": 4}},
            rules.CHANGED_BASE.en,
            rules.SGLANG_SCALE.text.en,
        ),
        ({"init_lora_weights": "gaussian", "rank_pattern": {"q_proj": 8}}, "", ""),
        ({"init_lora_weights": "eva", "eva_config": {"rho": 2.0}}, "", ""),
        ({"modules_to_save": ["embed_tokens"]}, "a trained head", "a trained head"),
        ({"layer_replication": [[0, 4]]}, "replicated layers", "replicated layers"),
        ({"trainable_token_indices": [1]}, "trained tokens", "trained tokens"),
        ({"target_modules": "all-linear"}, "", ""),
        ({"target_modules": ".*q_proj"}, "", "target_modules must be a list"),
        ({"target_modules": ["q_proj"]}, "", rules.SGLANG_TOGETHER.text.en),
        ({"kasa_config": {"beta": 1}}, *["nothing is known here of kasa_config"] * 2),
        ({"kasa_config": {"beta": 1}, "use_dora": True}, "DoRA", "DoRA"),
        ({"r": "8x"}, *["nothing is known here of its args"] * 2),
    ],
    ids=lambda value: str(value) if isinstance(value, dict) else "",
)
def test_pefts_lora(changed: dict[str, Any], vllm: str, sglang: str) -> None:
    assert on_peft(**changed) == (vllm, sglang)


def test_a_head_beside_pefts_lora() -> None:
    assert on_peft(head=True, pooling="mean") == ("a trained head", "a trained head")
    assert on_peft(head=True) == (rules.VLLM_SOME_HEADS.text.en, "a trained head")
    assert on_peft(head=True, use_dora=True)[0] == "DoRA"


@pytest.mark.parametrize("kind", ["IA3", "C3A", "BOFT", "PREFIX_TUNING"])
def test_other_methods_of_peft_are_not_served(kind: str) -> None:
    spec = records.spec(method="peft").model_copy(update={"args": {"peft_type": kind}})
    answer = servable(spec, head=False)
    assert answer.words().en == "no"
    assert answer.vllm == rules.VLLM_NOT_LORA


def test_every_setting_of_the_installed_pefts_lora_was_looked_at_or_is_off() -> None:
    """A plain adapter is served: no default of the installed version is unknown."""
    assert on_peft() == ("", "")
    unread = {name for name in peft_args() if name not in rules.READ}
    assert unread == {
        "arrow_config",
        "kasa_config",
        "monteclora_config",
        "target_parameters",
        "velora_config",
    }


# -- where it is shown -------------------------------------------------------------------------


def cells(*members: Record) -> dict[str, str]:
    """The column's cells by technique."""
    (section, *_) = closing(Results(members)).sheet("en").sections
    column = list(section.header).index("servable")
    return {row[0]: row[column] for row in section.rows}


def without_head(record: Record) -> Record:
    assert record.footprint
    cost = record.footprint.model_copy(update={"head_params": 0})
    return record.model_copy(update={"footprint": cost})


def test_the_closing_table_says_how_each_technique_is_served() -> None:
    language = [
        without_head(record)
        for method in ("lora", "vera", "delta-lora")
        for record in seeds(method, [0.7, 0.8], task="gsm")
    ]
    assert cells(*language) == {
        "LoRA": "vLLM, SGLang",
        "LoRA-FA": "–",
        "VeRA": "after export",
        "Delta-LoRA": "vLLM, SGLang",
        "LoRA+": "–",
    }
    classified = seeds("lora", [0.7, 0.8], pooling="mean")
    assert cells(*language, *classified)["LoRA"] == "no (reviews); vLLM, SGLang (gsm)"
    text = as_text(closing(Results((*language, *classified))), "md")
    assert "- not served as it is: a trained head (vLLM 0.33.0: vllm/lora/peft" in text
    assert "- not served as it is: a trained head (SGLang 0.5.23: " in text
    assert any("no (reviews)" in cell for row in rows(text) for cell in row)
    chinese = as_text(closing(Results(tuple(classified))), "md", "zh")
    assert "可直接服务" in chinese
    assert "不能直接提供服务:训练过的分类头" in chinese


def test_rows_for_programs_say_why_and_where_that_was_read() -> None:
    (row, *_) = closing(Results(tuple(seeds("lora", [0.7, 0.8], pooling="mean")))).rows()
    answer = row["servable"]["reviews"]
    assert answer["form"] == "adapter"
    assert answer["vllm"] == {
        "why": "a trained head",
        "certain": True,
        "source": "vLLM 0.33.0: vllm/lora/peft_helper.py, PEFTHelper._validate_features",
    }


@pytest.mark.parametrize("status", ["done", "failed"])
def test_show_says_it_beside_the_record(
    status: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    record = records.record(status=status)
    Store(tmp_path).write(record)
    monkeypatch.setattr("sys.argv", ["peftbench", "show", record.run_id, "--store", str(tmp_path)])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert not ended.value.code
    shown = json.loads(capsys.readouterr().out)
    served = shown.pop("servable")
    assert Record.model_validate(shown) == record
    if status == "failed":
        assert served is None
    else:
        assert served["sglang"]["why"] == "a trained head"


@pytest.mark.parametrize(
    ("args", "said"),
    [
        ({"peft_type": "VERA", "target_modules": "all-linear"}, "after export"),
        ({"peft_type": "ADALORA", "target_modules": "all-linear"}, "after export"),
        ({"peft_type": "VERA", "r": 1024, "target_modules": "all-linear"}, "SGLang, after export"),
        ({"peft_type": "IA3", "target_modules": "all-linear"}, "no"),
    ],
)
def test_pefts_methods_that_become_lora(args: dict[str, Any], said: str) -> None:
    full = METHODS["peft"].complete(args)
    spec = records.spec(method="peft").model_copy(update={"args": full})
    assert servable(spec, head=False).words()["en"] == said
