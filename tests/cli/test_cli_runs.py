"""runs, follow, stop, report and lineage, in-process."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

import gptloom
from gptloom.cli.main import main
from gptloom.config.errors import UserError
from gptloom.config.run_folder import STOP
from gptloom.observe.events import EventLog
from gptloom.train.lock import RunLock


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    code = main(arguments)
    captured = capsys.readouterr()
    return code, captured.out, captured.err


@pytest.fixture
def plays(tmp_path: Path) -> Path:
    """A run that is said to be running, and that nobody works on."""
    folder = tmp_path / "runs" / "plays"
    folder.mkdir(parents=True)
    with EventLog(folder / "events.jsonl") as log:
        log.append("start", step=0, steps=4, model="modern-nano")
        for step in (1, 2):
            log.append("train", step=step, loss=3.5, lr=0.1, tokens=step * 100)
        log.append("evaluate", step=2, valid_loss=3.25, bits_per_byte=1.5)
        log.append("sample", step=2, prompt="To", text=" be")
    (folder / "state.json").write_text('{"state": "running", "step": 2}', encoding="utf-8")
    settings = {"lr": {"value": 0.1, "source": "command line"}, "clip": {"value": 1.0, "source": "default"}}
    (folder / "config.yaml").write_text(json.dumps({"version": 1, "options": settings}), encoding="utf-8")
    return folder


def test_the_list_is_a_table_and_one_document(plays: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run(capsys, "runs", str(plays.parent))
    assert code == 0
    assert [word in out for word in (str(plays), "broken off", "2/4", "3.250", "1.500")] == [True] * 5
    code, out, err = run(capsys, "runs", str(plays.parent), "--json")
    assert (code, err) == (0, "")
    assert [(row["path"], row["state"], row["step"]) for row in json.loads(out)] == [(str(plays), "broken off", 2)]
    assert [row.path for row in gptloom.runs(plays.parent)] == [plays]


def test_no_runs_is_no_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(capsys, "runs", str(tmp_path / "nothing"))[0] == 0
    assert run(capsys, "runs", str(tmp_path), "--json")[1] == "[]\n"


def test_show_has_samples_and_the_options_that_were_chosen(plays: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run(capsys, "runs", "show", str(plays))
    assert code == 0 and "To be" in out and "0.1  (command line)" in out and "clip" not in out
    shown = json.loads(run(capsys, "runs", "show", str(plays), "--json")[1])
    assert shown["options"]["clip"]["value"] == 1.0 and shown["samples"][0]["text"] == " be"


def test_follow_replays_a_run_and_says_that_nobody_works_on_it(plays: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = run(capsys, "follow", str(plays))
    assert code == 0 and "gptloom resume" in err
    assert out.splitlines()[0].startswith("started, to step 4") and "valid 1.500 bits/byte" in out
    events = json.loads(run(capsys, "follow", str(plays), "--json")[1])
    assert [event["type"] for event in events] == ["start", "train", "train", "evaluate", "sample"]
    assert list(gptloom.follow(plays)) == events


def test_stop_leaves_a_request_only_where_somebody_works(plays: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, _, err = run(capsys, "stop", str(plays))
    assert code == 2 and "broken off" in err and not (plays / STOP).exists()
    lock = RunLock(plays)
    lock.acquire()
    try:
        code, _, err = run(capsys, "stop", str(plays))
    finally:
        lock.release()
    assert code == 0 and (plays / STOP).is_file() and "gptloom follow" in err


def test_report_writes_the_page_and_the_picture(plays: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("matplotlib")
    code, out, _ = run(capsys, "report", str(plays))
    assert code == 0 and out.splitlines() == [str(plays / "report.html"), str(plays / "loss.png")]
    assert "broken off" in (plays / "report.html").read_text(encoding="utf-8")
    assert (plays / "loss.png").read_bytes().startswith(b"\x89PNG")


def test_where_there_is_no_loss_no_picture_is_promised(
    plays: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gptloom.observe.pictures.can_draw", lambda: False)
    assert "gptloom[plots]" in run(capsys, "report", str(plays))[2]
    (plays / "events.jsonl").unlink()  # as of features, which are fitted at once
    code, out, err = run(capsys, "report", str(plays))
    assert code == 0 and out.splitlines() == [str(plays / "report.html")] and "gptloom[plots]" not in err


@pytest.mark.parametrize("command", [("runs", "show"), ("follow",), ("stop",), ("report",)])
def test_a_mistyped_run_names_its_neighbour(
    command: tuple[str, ...], plays: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, _, err = run(capsys, *command, str(plays.parent / "play"))
    assert code == 2 and "no such run folder" in err and str(plays) in err


@pytest.mark.parametrize("command", [("runs", "show"), ("report",), ("lineage",)])
def test_a_comparison_is_not_taken_for_a_run(
    command: tuple[str, ...], plays: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (plays.parent / "comparison.json").write_text("{}", encoding="utf-8")
    code, _, err = run(capsys, *command, str(plays.parent))
    assert code == 2 and err.count("a comparison of several runs") == 1
    assert (plays.parent / "comparison.md").as_posix() in err and f"name one of them: {plays.as_posix()}" in err


def model_folder(folder: Path, parents: list[dict[str, str]]) -> Path:
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps({"name": folder.name}), encoding="utf-8")
    record: dict[str, Any] = {"stage": "pretrain", "step": 7, "parents": parents}
    (folder / "gptloom.json").write_text(json.dumps({"version": 1, "lineage": record}), encoding="utf-8")
    return folder


def test_lineage_is_a_tree(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    base = model_folder(tmp_path / "base", [])
    child = model_folder(tmp_path / "child", [{"path": "../base", "hash": gptloom.lineage(base).hash}])
    code, out, _ = run(capsys, "lineage", str(child))
    assert code == 0 and out.splitlines()[1].startswith(f"└─ {base}  (") and out.count("pretrain to step 7") == 2
    document = json.loads(run(capsys, "lineage", str(child), "--json")[1])
    assert document["parents"][0]["note"] is None
    (base / "config.json").write_text("{}", encoding="utf-8")
    assert "changed since" in run(capsys, "lineage", str(child))[1]
    with pytest.raises(UserError, match="a preset"):
        gptloom.lineage("modern-nano")
