"""``--overwrite`` never deletes what the new run reads: base, rows, text, adapter and its base, by whatever name."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from gptloom.config.errors import UserError
from gptloom.config.finetune import FinetuneOptions
from gptloom.config.resolve import resolve
from gptloom.config.sft import SftOptions
from gptloom.stages.finetune.conflicts import check_options as check_finetune
from gptloom.stages.overwriting import about_overwriting
from gptloom.stages.sft.stage import check_options as check_sft


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """As a run lies on disk: a checkpoint, the best step, its adapter, and rows that somebody put beside them."""
    folder = tmp_path / "bb"
    for model in (folder / "final", folder / "checkpoints" / "step-00000005" / "model"):
        model.mkdir(parents=True)
        (model / "config.json").write_text("{}", encoding="utf-8")
    (folder / "checkpoints" / "step-00000005" / "state.json").write_text("{}", encoding="utf-8")
    for name in ("state.json", "rows.jsonl"):
        (folder / name).write_text('{"best_step": 5}', encoding="utf-8")
    adapter_in(folder / "adapter", folder / "final")
    return folder


def adapter_in(folder: Path, base: Path) -> Path:
    folder.mkdir()
    described = {"peft_type": "LORA", "r": 2, "lora_alpha": 4, "base_model_name_or_path": str(base.resolve())}
    (folder / "adapter_config.json").write_text(json.dumps(described), encoding="utf-8")
    return folder


def named(**given: Any) -> list[str]:
    """What would be deleted, of an instruction tuning."""
    options = resolve(SftOptions, {"base": "nothing", "data": ["nothing"], "overwrite": True, **given}).options
    return [str(problem.where) for problem in about_overwriting(options)]


def test_all_that_is_read_stays(run: Path, tmp_path: Path) -> None:
    rows, out = str(run / "rows.jsonl"), str(run)
    for base in (str(run), f"{run}@5", f"{run}@best", f"hf:{run}/final", f"{run}/adapter"):
        assert named(base=base, out=out) == [base], base
    for name in ("data", "valid", "replay_data"):
        for text in (rows, f"{rows}@0.5", f"{tmp_path}/*/rows.jsonl"):
            assert named(**{name: [text], "out": out}) == [text], name
    assert named(template=rows, adapter=f"{run}/adapter", out=out) == [rows, f"{run}/adapter"]
    assert named(base=str(run), out=str(tmp_path)) == [str(run)], "a folder around it is no better"


def test_what_a_name_stands_for_counts(run: Path, tmp_path: Path) -> None:
    """A link, the base of an adapter from elsewhere, the checkpoint that is the best, text that is replayed."""
    link = tmp_path / "link"
    link.symlink_to(run)
    assert named(base=str(link), out=str(run)) == [str(link)] and named(base=str(run), out=str(link)) == [str(run)]
    far = str(adapter_in(tmp_path / "far", run / "final"))
    assert named(base=far, out=str(run)) == [far] and named(adapter=far, out=str(run)) == [far]
    other, text = tmp_path / "other", run / "text"
    text.mkdir()
    other.mkdir()
    (run / "final").rename(other / "final")
    (other / "state.json").write_text("{}", encoding="utf-8")
    (other / "data").symlink_to(text)
    assert named(base=str(other), out=str(run)) == [str(other)]
    kept = f"{run}/checkpoints/step-00000005"
    assert named(base=str(run), out=kept) == [str(run)]


def test_nothing_else_is_in_the_way(run: Path, tmp_path: Path) -> None:
    rows = str(run / "rows.jsonl")
    assert named(base=str(run), data=[rows], out=str(tmp_path / "new")) == []
    assert named(base="hf:gpt2", data=[f"{rows}@0"], out=str(tmp_path / "new")) == []
    assert named(base=str(run), out=str(run), overwrite=False) == [], "refused anyway: there is a run"


@pytest.mark.parametrize(
    ("check", "options", "given"),
    [(check_sft, SftOptions, {}), (check_finetune, FinetuneOptions, {"task": "classify"})],
)
def test_every_tuning_asks(run: Path, check: Callable[[Any], None], options: Any, given: dict[str, Any]) -> None:
    asked = resolve(options, {"base": str(run), "data": ["rows.jsonl"], "out": str(run), "overwrite": True, **given})
    with pytest.raises(UserError, match="--overwrite would delete what this training reads") as refused:
        check(asked)
    (problem,) = refused.value.problems
    assert problem.where == str(run) and problem.mend == "another --out"
