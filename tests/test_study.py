"""What the pages show of the study is the store's, wherever it stands in them."""

from pathlib import Path

import pytest
import records
import study

from peftbench.analysis.results import Results
from peftbench.errors import InputError
from peftbench.spec import DataSpec

MADE = Results(tuple(records.study()))


def page(name: str, text: str = "old") -> str:
    return f"before\n<!-- {name} -->\n\n{text}\n\n<!-- end -->\nafter\n"


def test_a_part_is_made_anew_and_the_rest_is_left() -> None:
    parts = {"verdicts": lambda results: "new \\1 text"}
    text = page("other") + page("verdicts") + page("third")
    made = page("verdicts", "new \\1 text")
    assert study.page(text, parts, MADE) == text.replace(page("verdicts"), made)


@pytest.mark.parametrize("text", ["", page("other"), page("verdicts") * 2])
def test_a_part_without_a_single_place_is_named(text: str) -> None:
    with pytest.raises(InputError, match="no single <!-- verdicts -->"):
        study.page(text, {"verdicts": study.verdicts}, MADE)


def test_the_one_table_is_that_of_the_most_examples() -> None:
    few = [
        records.record(method=method, task="sst2", seed=seed, data=DataSpec(train=64))
        for method in ("full", "frozen", "lora")
        for seed in range(3)
    ]
    many = [
        records.record(method=method, task="sst2", seed=seed, data=DataSpec(train=2048))
        for method in ("full", "frozen", "vera")
        for seed in range(3)
    ]
    shown = study.one_table(Results((*few, *many, *records.study(("reviews",)))))
    assert shown.count("### ") == 1
    assert "vera" in shown
    assert "train=2048" in shown.replace(",", "")
    with pytest.raises(InputError, match="no runs on sst2"):
        study.one_table(Results(tuple(records.study(("reviews",)))))


def test_every_claim_has_its_verdict_and_its_reason() -> None:
    verdicts, reasons = study.verdicts(MADE).splitlines()[2:], study.reasons(MADE).splitlines()
    assert len(verdicts) == len(reasons) == 18
    assert [line.split("|")[1].strip() for line in verdicts] == [
        line.split("**")[1] for line in reasons
    ]


def test_a_page_that_is_not_current_is_noticed_and_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(study, "ROOT", tmp_path)
    monkeypatch.setattr(study, "PAGES", {"README.md": {"verdicts": study.verdicts}})
    monkeypatch.setattr(study.Results, "read", lambda store: MADE)
    file = tmp_path / "README.md"
    file.write_text(page("verdicts"))
    monkeypatch.setattr("sys.argv", ["study.py", "--store", str(tmp_path), "--check"])
    assert study.main() == 1
    assert "README.md is not what the store says" in capsys.readouterr().err
    assert file.read_text() == page("verdicts")
    monkeypatch.setattr("sys.argv", ["study.py", "--store", str(tmp_path)])
    assert study.main() == 0
    assert file.read_text() == page("verdicts", study.verdicts(MADE))
    monkeypatch.setattr("sys.argv", ["study.py", "--store", str(tmp_path), "--check"])
    assert study.main() == 0
