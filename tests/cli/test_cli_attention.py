"""``gptloom attention``: the page is written once, by every door; what stands in the way is said before any work."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import gptloom
from gptloom.cli.main import main

GIVEN = ["attention", "modern-nano", "--untrained", "--text", "a <b>loom</b>"]


def test_the_page_and_the_figures(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "attention.html"
    assert main([*GIVEN, "--out", str(out), "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["page"] == str(out) and len(document["tokens"]) == 13
    assert out.read_text(encoding="utf-8").startswith("<!doctype html>")
    row = document["weights"][0][0][12]
    assert sum(row) == pytest.approx(1, abs=1e-3) and len(row) == 13
    assert sorted(path.name for path in tmp_path.iterdir()) == ["attention.html"]


def test_python_gives_the_path_and_the_figures(tmp_path: Path) -> None:
    made = gptloom.attention("modern-nano", text="loom", out=tmp_path / "page.html", untrained=True)
    assert made.path == tmp_path / "page.html" and made.path.is_file()
    assert tuple(made.seen.maps.weights.shape)[2:] == (4, 4)
    assert made.seen.expected.kind == "next"


def test_an_existing_page_is_left_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "attention.html"
    out.write_text("mine", encoding="utf-8")
    assert main([*GIVEN, "--out", str(out)]) == 2
    assert out.read_text(encoding="utf-8") == "mine" and "--overwrite" in capsys.readouterr().err
    assert main([*GIVEN, "--out", str(out), "--overwrite"]) == 0
    captured = capsys.readouterr()
    assert "13 tokens" in captured.err and captured.out.strip() == str(out)
    assert out.stat().st_size > 10_000


@pytest.mark.parametrize(
    ("extra", "said"),
    [
        (["--out", "none/at/all.html"], "does not exist"),
        (["--out", "."], "it is a folder"),
        (["--second", "b", "--out", "new.html"], "reads one text"),
    ],
)
def test_refusals(
    extra: list[str], said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main([*GIVEN, *extra]) == 2
    assert said in capsys.readouterr().err and list(tmp_path.iterdir()) == []


def test_a_preset_needs_the_word_untrained(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["attention", "modern-nano", "--text", "a", "--out", str(tmp_path / "a.html")]) == 2
    assert "--untrained" in capsys.readouterr().err
