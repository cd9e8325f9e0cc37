"""recipes, config explain and doctor, in-process."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from pydantic import Field

import gptloom
from gptloom.cli.main import main
from gptloom.config.errors import UserError
from gptloom.config.options import BudgetOptions
from gptloom.config.recipes import recipe_names
from gptloom.config.resolve import resolve, write_config


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    code = main(arguments)
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def document(capsys: pytest.CaptureFixture[str], *arguments: str) -> Any:
    code, out, err = run(capsys, *arguments, "--json")
    assert (code, err) == (0, "")
    return json.loads(out)


def test_recipes_list_and_show(capsys: pytest.CaptureFixture[str]) -> None:
    listed = document(capsys, "recipes", "list")
    assert [row["name"] for row in listed] == recipe_names()
    shown = document(capsys, "recipes", "show", recipe_names()[0])
    assert shown["options"] and shown["line"] == listed[0]["line"]
    _, out, _ = run(capsys, "recipes", "show", recipe_names()[0])
    assert "#" in out, "the sources of the values are shown"


def test_recipes_copy_never_overwrites_unasked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    name = recipe_names()[0]
    copied = document(capsys, "recipes", "copy", name)["path"]
    assert gptloom.recipes_show(copied).options == gptloom.recipes_show(name).options
    Path("mine.yaml").write_text("x", encoding="utf-8")
    code, _, err = run(capsys, "recipes", "copy", name, "--out", "mine.yaml")
    assert code == 2 and "it exists already" in err and "mine.yaml" in err and "--overwrite" in err
    assert Path("mine.yaml").read_text(encoding="utf-8") == "x"
    assert run(capsys, "recipes", "copy", name, "--out", "mine.yaml", "--overwrite")[0] == 0
    assert run(capsys, "recipes", "copy", name, "--out", "no/where.yaml")[0] == 2


class Sample(BudgetOptions):
    data: list[str] = Field([], description="text files")


@pytest.fixture
def run_folder(tmp_path: Path) -> Path:
    resolved = resolve(Sample, {"data": ["a.txt"]}, {"max_epochs": 2}, "tiny", "command line")
    write_config(tmp_path / "config.yaml", resolved.derive("max_steps", 2000, "10 minutes at 3.3 steps/s"), "pretrain")
    return tmp_path


def test_config_explain_says_who_set_what(run_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = document(capsys, "config", "explain", str(run_folder))
    assert found["data"] == {"value": ["a.txt"], "source": "command line"}
    assert found["max_epochs"] == {"value": 2.0, "source": "recipe tiny"}
    assert found["max_minutes"] == {"value": None, "source": "default"}
    assert found["max_steps"] == {"value": 2000, "source": "derived", "rule": "10 minutes at 3.3 steps/s"}


def test_config_explain_one_key(run_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    _, out, _ = run(capsys, "config", "explain", str(run_folder), "max-steps")
    _header, line = out.splitlines()
    assert line.split("  ")[0] == "max_steps" and line.endswith("10 minutes at 3.3 steps/s")
    assert gptloom.config_explain(run_folder, "max_steps")["max_steps"].value == 2000
    code, _, err = run(capsys, "config", "explain", str(run_folder), "max_stepz")
    assert code == 2 and "max_steps" in err


def test_config_explain_needs_a_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, _, err = run(capsys, "config", "explain", str(tmp_path))
    assert code == 2 and "is not a run" in err
    with pytest.raises(UserError, match="run is missing"):
        gptloom.config_explain()


def fake_peak(monkeypatch: pytest.MonkeyPatch) -> None:
    """Measuring takes most of a second, and a test asserts no speed."""
    monkeypatch.setattr("gptloom.train.machine_speed.matrix_peak", lambda dtype, device: 2e11)


def test_doctor_examines_and_suggests(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    fake_peak(monkeypatch)
    monkeypatch.setattr("shutil.which", lambda name: None)
    monkeypatch.setattr("gptloom.cli.doctor._installed", lambda module: module != "pyarrow")
    found = document(capsys, "doctor")
    assert found["machine"]["gptloom"] == gptloom.__version__
    assert found["matrix_peak"]["fp32"] == 2e11
    assert found["extras"] == {"hub": True, "data": False, "plots": True, "eval": True, "wandb": True}
    assert found["compiler"] is None
    if found["device"] == "cpu":
        assert any("torch.compile" in suggestion for suggestion in found["suggestions"])
    code, out, _ = run(capsys, "doctor")
    assert code == 0 and 'pip install "gptloom[data]"' in out and "200 GFLOP/s" in out


def test_doctor_knows_the_extras_of_the_package() -> None:
    import re
    import tomllib

    from gptloom.cli.doctor import EXTRAS

    project = Path(__file__).parents[2] / "pyproject.toml"
    extras = tomllib.loads(project.read_text(encoding="utf-8"))["project"]["optional-dependencies"]
    assert set(EXTRAS) == set(extras) - {"dev", "bench"}
    for name, (modules, _) in EXTRAS.items():
        assert list(modules) == [re.split("[<>=]", wanted)[0] for wanted in extras[name]], name
