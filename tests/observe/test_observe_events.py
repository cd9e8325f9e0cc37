"""The event log: what is written is what is read, whatever a crash or a resume does to it."""

from __future__ import annotations

import json
import math
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from gptloom.config.errors import UserError
from gptloom.observe import events
from gptloom.observe.events import EventLog, next_attempt, read_events, tail_events


def steps_of(found: list[dict[str, Any]], type: str) -> list[int]:
    return [event["step"] for event in found if event["type"] == type]


def test_an_event_is_read_back_exactly_as_append_returned_it(tmp_path: Path) -> None:
    with EventLog(tmp_path / "events.jsonl", attempt=2) as log:
        written = log.append("train", step=5, sync=True, loss=1.25, losses={"lm": 1.25}, lr=(1e-3, 2))
    assert read_events(tmp_path / "events.jsonl") == [written]
    assert (written["version"], written["attempt"], written["lr"]) == (1, 2, [1e-3, 2])
    assert abs(written["time"] - time.time()) < 60


def test_text_of_any_kind_stays_on_one_line(tmp_path: Path) -> None:
    text = 'a\nb\u2028c "quoted" é 🙂 \ud800'
    with EventLog(tmp_path / "events.jsonl") as log:
        written = log.append("sample", step=1, prompt="p", text=text)
    assert (tmp_path / "events.jsonl").read_bytes().count(b"\n") == 1
    assert read_events(tmp_path / "events.jsonl") == [written]
    assert written["text"] == text.replace("\ud800", "?")


def test_numbers_that_are_not_finite_become_null_and_the_log_stays_valid_json(tmp_path: Path) -> None:
    with EventLog(tmp_path / "events.jsonl") as log:
        written = log.append("train", step=1, loss=math.nan, losses={"lm": math.inf}, history=[1.0, -math.inf])
    line = (tmp_path / "events.jsonl").read_text(encoding="utf-8")
    read = json.loads(line, parse_constant=lambda name: pytest.fail(f"{name} is not JSON"))
    assert (
        read == written and read["loss"] is None and read["losses"] == {"lm": None} and read["history"] == [1.0, None]
    )


def test_a_field_the_log_sets_itself_or_an_unknown_type_is_a_programmers_error(tmp_path: Path) -> None:
    with EventLog(tmp_path / "events.jsonl") as log:
        with pytest.raises(AssertionError, match="time"):
            log.append("train", step=1, time=3)
        with pytest.raises(AssertionError, match="trian"):
            log.append("trian", step=1)
    assert read_events(tmp_path / "events.jsonl") == []


def test_lines_a_later_attempt_wrote_again_are_dropped_but_guards_never(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    with EventLog(path, attempt=0) as log:
        log.append("start", step=0)
        for step in (10, 20, 30):
            log.append("train", step=step, loss=1.0)
            log.append("evaluate", step=step, valid_loss=1.0)
            log.append("sample", step=step, prompt="", text="")
            log.append("checkpoint", step=step, path="p", kind="last")
        log.append("guard", step=31, reason="spike", action="skip")
    with EventLog(path, attempt=1) as log:
        log.append("start", step=20)
        log.append("train", step=30, loss=2.0)
    with EventLog(path, attempt=2) as log:
        log.append("start", step=10)
        log.append("train", step=20, loss=3.0)
    found = read_events(path)
    assert [(e["step"], e["loss"]) for e in found if e["type"] == "train"] == [(10, 1.0), (20, 3.0)]
    assert steps_of(found, "evaluate") == steps_of(found, "sample") == [10]
    assert steps_of(found, "guard") == [31]
    assert steps_of(found, "checkpoint") == [10, 20, 30]
    assert steps_of(found, "start") == [0, 20, 10]


def test_a_torn_last_line_is_dropped_at_every_cut_and_the_next_writer_removes_it(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    with EventLog(path) as log:
        first = log.append("train", step=1, loss=1.0)
        log.append("train", step=2, loss=2.0)
    content = path.read_bytes()
    end_of_first = content.index(b"\n") + 1
    for cut in range(end_of_first, len(content)):
        path.write_bytes(content[:cut])
        assert read_events(path) == [first]
    with EventLog(path, attempt=1) as log:
        again = log.append("train", step=2, loss=3.0)
    assert read_events(path) == [first, again]


def test_a_disk_that_takes_half_a_line_leaves_only_whole_lines(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "events.jsonl"
    log = EventLog(path)
    first = log.append("train", step=1, loss=1.0)
    whole_file = log._file

    class FullDisk:
        def write(self, line: bytes) -> int:
            return whole_file.write(line[:7])

        def __getattr__(self, name: str) -> Any:
            return getattr(whole_file, name)

    monkeypatch.setattr(log, "_file", FullDisk())
    with pytest.raises(OSError, match="part of a line"):
        log.append("train", step=2, loss=2.0)
    monkeypatch.setattr(log, "_file", whole_file)
    third = log.append("train", step=3, loss=3.0)
    log.close()
    assert read_events(path) == [first, third]


def test_a_newer_version_is_refused_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "events.jsonl"
    with EventLog(path) as log:
        log.append("start", step=0)
        monkeypatch.setattr(events, "VERSION", 7)
        log.append("train", step=1, loss=1.0)
    monkeypatch.undo()
    with pytest.raises(UserError, match=r"events\.jsonl:2: events of version 7, .* up to version 1"):
        read_events(path)


def test_a_damaged_line_in_the_middle_is_named(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    with EventLog(path) as log:
        log.append("start", step=0)
    path.write_bytes(path.read_bytes() + b"garbage\n[1]\n")
    with pytest.raises(UserError, match=r"events\.jsonl:2: not an event: 'garbage'"):
        read_events(path)


def test_attempts_are_counted_and_a_missing_log_is_empty(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    assert read_events(path) == [] and next_attempt(path) == 0
    for attempt in (0, 1):
        with EventLog(path, attempt=next_attempt(path)) as log:
            assert log.append("start", step=0)["attempt"] == attempt
    assert next_attempt(path) == 2


def test_tail_replays_follows_and_waits_for_the_rest_of_a_half_written_line(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    done = threading.Event()
    seen: list[dict[str, Any]] = []
    reader = threading.Thread(target=lambda: seen.extend(tail_events(path, poll=0.001, stop=done.is_set)), daemon=True)
    reader.start()  # before the file exists
    with EventLog(path) as log:
        written = [log.append("start", step=0), log.append("train", step=1, loss=1.0)]
        last = log.append("train", step=2, loss=2.0)
    line = (json.dumps({**last, "step": 3}) + "\n").encode()
    for part in (line[:9], line[9:-1], line[-1:]):
        with path.open("ab") as file:
            file.write(part)
        time.sleep(0.005)
    done.set()
    reader.join(timeout=20)
    assert not reader.is_alive()
    assert seen == [*written, last, {**last, "step": 3}]


def test_tail_begins_with_what_still_holds(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    for attempt in (0, 1):
        with EventLog(path, attempt) as log:
            log.append("start", step=0)
            log.append("train", step=1, loss=float(attempt))
    assert [e["loss"] for e in tail_events(path, stop=lambda: True) if e["type"] == "train"] == [1.0]
