"""Run folders from outside: lists, following, lineage, the machine."""

from __future__ import annotations

import json
import threading
from pathlib import Path
from typing import Any

import pytest

from gptloom.config.errors import UserError
from gptloom.observe import machine
from gptloom.observe.events import EventLog
from gptloom.observe.lineage import lineage, tree_lines
from gptloom.observe.runs import find_runs, follow_events, list_runs, read_run


def make_run(folder: Path, state: str = "running") -> Path:
    folder.mkdir(parents=True)
    with EventLog(folder / "events.jsonl") as log:
        log.append("start", step=0, steps=10, model="modern-nano")
        log.append("train", step=4, loss=2.5)
        log.append("evaluate", step=4, valid_loss=2.75, bits_per_byte=1.5)
    (folder / "state.json").write_text(json.dumps({"state": state, "reason": None, "step": 4}), encoding="utf-8")
    return folder


def test_a_running_state_counts_only_with_a_live_lock(tmp_path: Path) -> None:
    make_run(tmp_path / "a")
    make_run(tmp_path / "group" / "b")
    make_run(tmp_path / "c", state="finished")
    states = {run.path.name: run.state for run in list_runs(tmp_path, lambda folder: folder.name == "a")}
    assert states == {"a": "running", "b": "broken off", "c": "finished"}


def test_a_summary_has_the_last_figures_and_is_json(tmp_path: Path) -> None:
    [run] = list_runs(make_run(tmp_path / "a").parent, lambda _: True)
    found = json.loads(json.dumps(run.as_json()))
    expected = {"model": "modern-nano", "step": 4, "steps": 10, "loss": 2.5, "valid_loss": 2.75, "bits_per_byte": 1.5}
    assert {key: found[key] for key in expected} == expected
    assert found["size"] == sum(path.stat().st_size for path in (tmp_path / "a").iterdir())


def test_one_unreadable_run_does_not_hide_the_others(tmp_path: Path) -> None:
    make_run(tmp_path / "good")
    bad = make_run(tmp_path / "bad")
    (bad / "events.jsonl").write_text('{"version": 99, "type": "start", "attempt": 0, "step": 0}\n', encoding="utf-8")
    found = {run.path.name: run for run in list_runs(tmp_path, lambda _: True)}
    assert found["good"].state == "running"
    assert found["bad"].state == "unreadable" and "version 99" in (found["bad"].reason or "")


def test_runs_inside_a_run_are_not_listed(tmp_path: Path) -> None:
    outer = make_run(tmp_path / "outer")
    make_run(outer / "data" / "inner")
    assert find_runs(tmp_path) == [outer]


def test_a_mistyped_run_is_told_its_neighbour(tmp_path: Path) -> None:
    make_run(tmp_path / "plays")
    with pytest.raises(UserError, match="no such run folder") as caught:
        read_run(tmp_path / "play")
    assert "plays" in (caught.value.problems[0].mend or "")
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match=r"neither events\.jsonl nor state\.json"):
        read_run(tmp_path / "empty")


def test_following_replays_an_old_end_goes_on_and_stops_at_the_new_one(tmp_path: Path) -> None:
    folder = make_run(tmp_path / "a")
    events = folder / "events.jsonl"
    old_end = {"version": 1, "time": 4e9, "type": "end", "attempt": 0, "step": 4, "state": "paused"}
    with events.open("a", encoding="utf-8") as file:
        file.write(json.dumps(old_end) + "\n")
    seen: list[dict[str, Any]] = []
    replayed = threading.Event()

    def follow() -> None:
        for event in follow_events(folder, lambda _: True, poll=0.001):
            seen.append(event)
            if event == old_end:
                replayed.set()

    reader = threading.Thread(target=follow, daemon=True)
    reader.start()
    assert replayed.wait(timeout=20)
    with EventLog(events, attempt=1) as log:
        new = [log.append("start", step=4), log.append("train", step=5, loss=2.0), log.append("end", step=5)]
    reader.join(timeout=20)
    assert not reader.is_alive()
    assert [event["type"] for event in seen[:4]] == ["start", "train", "evaluate", "end"] and seen[4:] == new


def test_following_ends_when_nobody_works_on_the_run(tmp_path: Path) -> None:
    folder = make_run(tmp_path / "a")
    assert [event["type"] for event in follow_events(folder, lambda _: False)] == ["start", "train", "evaluate"]


def model(folder: Path, content: str, parents: list[tuple[str, str]]) -> Path:
    """A model folder whose hash is ``content`` and whose parents are named relative to it."""
    folder.mkdir()
    (folder / "content").write_text(content, encoding="utf-8")
    record = {
        "stage": "pretrain",
        "step": 1200,
        "parents": [{"path": path, "hash": digest} for path, digest in parents],
    }
    (folder / "gptloom.json").write_text(json.dumps({"version": 1, "lineage": record}), encoding="utf-8")
    return folder


def test_lineage_is_a_tree_with_what_is_gone_changed_or_circular(tmp_path: Path) -> None:
    model(tmp_path / "base", "bbb", [("../top", "ttt")])
    model(tmp_path / "other", "new", [])
    top = model(tmp_path / "top", "ttt", [("../base", "bbb"), ("../other", "old"), ("../gone", "ggg")])
    tree = lineage(top, lambda folder: (folder / "content").read_text(encoding="utf-8"))
    assert [line.replace(str(tmp_path), "").replace("\\", "/") for line in tree_lines(tree)] == [
        "/top  (ttt, pretrain to step 1,200)",
        "├─ /base  (bbb, pretrain to step 1,200)",
        "│  └─ /top  (ttt, its own ancestor)",
        "├─ /other  (old, changed since: now new)",
        "└─ /gone  (ggg, not here any more)",
    ]
    assert tree.as_json()["parents"][0]["parents"][0]["note"] == "its own ancestor"
    with pytest.raises(UserError, match=r"no gptloom\.json"):
        lineage(tmp_path / "gone", lambda folder: "")


def test_a_checkpoint_is_no_run(tmp_path: Path) -> None:
    checkpoint = tmp_path / "step-00000005"
    (checkpoint / "model").mkdir(parents=True)
    (checkpoint / "state.json").write_text("{}", encoding="utf-8")
    assert find_runs(tmp_path) == []


def test_the_machine_is_described_in_json() -> None:
    info = machine.machine_info()
    assert json.loads(json.dumps(info)) == info
    assert info["gptloom"] and info["torch"] and info["cores"] >= 1 and info["cpu"]
    assert info["memory_total"] is None or 0 < info["memory_available"] <= info["memory_total"]


def test_a_containers_limit_bounds_the_memory(tmp_path: Path) -> None:
    meminfo, limit = tmp_path / "meminfo", tmp_path / "memory.max"
    meminfo.write_text("MemTotal:  8000 kB\nMemFree:  100 kB\nMemAvailable:  6000 kB\n", encoding="utf-8")
    assert machine._linux_memory(meminfo, limit) == (8000 * 1024, 6000 * 1024)
    limit.write_text("max\n", encoding="utf-8")
    assert machine._linux_memory(meminfo, limit) == (8000 * 1024, 6000 * 1024)
    limit.write_text(f"{1024 * 1024}\n", encoding="utf-8")
    assert machine._linux_memory(meminfo, limit) == (1024 * 1024, 1024 * 1024)


def test_memory_of_a_mac_is_free_and_inactive_pages() -> None:
    text = (
        "Mach Virtual Memory Statistics: (page size of 16384 bytes)\n"
        "Pages free:      100.\nPages active:    900.\nPages inactive:   20.\n"
    )
    assert machine._mac_available(text) == 120 * 16384
