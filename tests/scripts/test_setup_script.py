"""Where set-up takes Python and torch from. Nothing is installed and no network is asked."""

from __future__ import annotations

import ast
import importlib.util
import os
import sys
import tomllib
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture
def setup() -> ModuleType:
    spec = importlib.util.spec_from_file_location("gptloom_setup_script", ROOT / "scripts" / "setup.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def source(
    setup: ModuleType,
    monkeypatch: pytest.MonkeyPatch,
    *,
    asked: str = "",
    configured: tuple[str, ...] = (),
    driver: bool = False,
    reachable: bool = True,
    platform: str = "linux",
) -> list[str]:
    monkeypatch.setattr(setup, "pip_sources", lambda python: list(configured))
    monkeypatch.setattr(setup, "has_nvidia_driver", lambda: driver)
    monkeypatch.setattr(setup, "offers_torch", lambda python, index: reachable)
    monkeypatch.setattr(sys, "platform", platform)
    return setup.torch_source(Path(sys.executable), asked)


CPU = ["--index-url", "https://download.pytorch.org/whl/cpu"]


def test_torch_is_the_cpu_build_where_there_is_no_driver(setup, monkeypatch) -> None:  # type: ignore[no-untyped-def]
    assert source(setup, monkeypatch) == CPU
    assert source(setup, monkeypatch, driver=True) == []
    assert source(setup, monkeypatch, platform="darwin") == []


def test_what_pip_is_configured_with_is_used_alone(setup, monkeypatch, capsys) -> None:  # type: ignore[no-untyped-def]
    assert source(setup, monkeypatch, configured=("find-links",)) == []
    assert "find-links" in capsys.readouterr().out


def test_the_index_asked_for_wins(setup, monkeypatch) -> None:  # type: ignore[no-untyped-def]
    given = source(setup, monkeypatch, asked="https://example.org/simple", configured=("index-url",))
    assert given == ["--index-url", "https://example.org/simple"]


def test_an_index_out_of_reach_is_replaced_and_the_size_told(setup, monkeypatch, capsys) -> None:  # type: ignore[no-untyped-def]
    assert source(setup, monkeypatch, reachable=False) == []
    said = capsys.readouterr().out
    assert "did not answer" in said and "GB" in said and "TORCH_INDEX" in said


def test_pip_is_asked_for_its_sources(setup, monkeypatch, tmp_path) -> None:  # type: ignore[no-untyped-def]
    for name in [name for name in os.environ if name.startswith("PIP_")]:
        monkeypatch.delenv(name)
    config = tmp_path / "pip.conf"
    config.write_text("[global]\ntimeout = 60\n[install]\nfind-links = /wheels\n", encoding="utf-8")
    monkeypatch.setenv("PIP_CONFIG_FILE", str(config))
    assert "find-links" in setup.pip_sources(Path(sys.executable))
    monkeypatch.setenv("PIP_INDEX_URL", "https://example.org/simple")
    assert {"index-url", "find-links"} <= set(setup.pip_sources(Path(sys.executable)))


def test_an_index_that_nobody_answers_for_is_out_of_reach(setup, monkeypatch) -> None:  # type: ignore[no-untyped-def]
    for name in [name for name in os.environ if name.startswith("PIP_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    assert not setup.offers_torch(Path(sys.executable), "http://127.0.0.1:9/simple")


def test_pythons_that_do_not_fit_are_told_apart(setup, monkeypatch, tmp_path) -> None:  # type: ignore[no-untyped-def]
    assert setup.judge([sys.executable]) is None
    assert setup.judge([sys.executable, "-c", "raise SystemExit(3)"]) == "does not run"
    monkeypatch.setattr(setup, "OLDEST", (3, 99))
    assert setup.judge([sys.executable]) == f"is Python {sys.version_info[0]}.{sys.version_info[1]}"


def test_without_a_fitting_python_it_says_what_was_found(setup, monkeypatch, capsys) -> None:  # type: ignore[no-untyped-def]
    monkeypatch.setattr(setup, "OLDEST", (3, 98))
    monkeypatch.setattr(setup, "candidates", lambda: [[sys.executable]])
    with pytest.raises(SystemExit) as ended:
        setup.make_venv()
    said = capsys.readouterr().err
    assert ended.value.code == 1 and "needs Python 3.98" in said and sys.executable in said


def test_every_dependency_is_pinned() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    needed = [*project["dependencies"], *project["optional-dependencies"]["dev"]]
    pins = (ROOT / "constraints.txt").read_text(encoding="utf-8")
    pinned = {line.partition("==")[0].lower().replace("_", "-") for line in pins.splitlines() if "==" in line}
    assert {name.partition(">=")[0].lower().replace("_", "-") for name in needed} <= pinned
    assert "+" not in pins.replace("#", "") and " @ " not in pins and "gptloom==" not in pins


def test_the_script_starts_on_an_old_python() -> None:
    ast.parse((ROOT / "scripts" / "setup.py").read_text(encoding="utf-8"), feature_version=(3, 7))
