"""A run whose disk is full, on a real small volume: a tmpfs, which root may mount, and anyone inside ``unshare -rm``."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from ranks import run_ranks
from volumes import small_volume

from gptloom.config.errors import EndedElsewhere, UserError
from gptloom.config.model import ModelConfig
from gptloom.model.reference import finished_checkpoints
from gptloom.model.store import load_model
from gptloom.observe.events import EventLog, read_events
from gptloom.train import disk, saver
from gptloom.train.checkpoint import newest_sound
from gptloom.train.disk import DiskFull, PatientLog, free_bytes, is_full
from gptloom.train.hooks import Save
from gptloom.train.objective import NextToken
from gptloom.train.run import read_state
from gptloom.train.saver import Saver
from gptloom.train.snapshot import About
from gptloom.train.world import World

CONFIG = ModelConfig(vocab_size=29, context=12, n_layer=2, n_head=2, d_model=16, d_ff=32)
FILLER = "filler"
SMALL = 50_000  # bytes that are enough for events and state, not for a checkpoint


@pytest.fixture
def volume(tmp_path: Path) -> Iterator[Path]:
    """One megabyte."""
    with small_volume(tmp_path / "volume", 1) as folder:
        yield folder


@pytest.fixture(autouse=True)
def look_often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(disk, "LOOK_EVERY", 0.02)


@pytest.fixture
def train_on(train: Any, volume: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    """Trains in the volume, saving every 2 steps and keeping one checkpoint; ``fill`` is a hook."""

    def start(fill: Any, *, steps: int = 6, aside: bool = False, minutes: float = 5.0) -> Path:
        from gptloom.train.run import Run

        create = Run.create
        monkeypatch.setattr(Run, "create", lambda path, settings: create(volume / "run", settings))
        hook = Save(Saver(about, aside=aside, wait_for_disk=minutes), every=2, keep_last=1)
        train(steps=steps, objective=NextToken(), hooks=[fill, hook])
        return volume / "run"

    return start


def about(run: Any, folder: Path) -> About:
    return About(CONFIG, None, {}, {})


def fill_up(folder: Path, leave: int) -> None:
    with (folder / FILLER).open("wb") as file:
        file.write(bytes(max(0, free_bytes(folder) - leave)))


class Fill:
    """A hook that fills the volume when the first checkpoint stands; once the run has said that it waits, it is helped."""

    def __init__(self, volume: Path, help: Callable[[Path], object] | None = None) -> None:
        self.volume, self.help = volume, help or self._make_room
        self.states: list[tuple[str, str]] = []  # of the run, just before there is room again
        self.kept: list[int] = []
        self.filled = False

    def __call__(self, event: dict[str, Any], run: Any) -> None:
        if event["type"] == "train" and event["step"] == 3:
            for thread in threading.enumerate():
                if thread.name == "saving":  # the first one, aside: it is to stand before the next begins
                    thread.join(20)
        if event["type"] == "checkpoint" and not self.filled:
            self.filled = True
            fill_up(self.volume, SMALL)
            threading.Thread(target=self._watch, args=(run.path,), daemon=True).start()

    def _watch(self, run: Path) -> None:
        end = time.monotonic() + 20
        while time.monotonic() < end:
            if guards(run):
                self.help(run)
                return
            time.sleep(0.01)

    def _make_room(self, run: Path) -> None:
        state = read_state(run)
        self.states.append((state.state, state.reason))
        self.kept = list(finished_checkpoints(run))
        (self.volume / FILLER).unlink()


def guards(run: Path) -> list[tuple[int, str, str]]:
    return [(e["step"], e["reason"], e["action"]) for e in read_events(run / "events.jsonl") if e["type"] == "guard"]


def assert_it_paused_and_went_on(fill: Fill, run: Path) -> None:
    assert fill.states == [("paused", "the disk is full")]
    assert fill.kept == [2]  # though only one is to be kept: the new one did not stand yet
    (step, reason, action), (_, room, on) = guards(run)
    assert step in (4, 5, 6)  # of a save aside: when the training next looked
    assert "the disk is full" in reason and "checkpoint of step 4 needs" in reason
    assert action == "waits up to 5 minutes for room" and "room" in room and on.startswith("goes on after")
    assert list(finished_checkpoints(run)) == [6] and not list((run / "checkpoints").glob(".*"))
    assert read_state(run).state == "finished"
    assert newest_sound(run)[0] == 6
    load_model(run / "checkpoints" / "step-00000006" / "model")


def test_a_run_waits_before_a_save_that_would_not_fit(train_on: Any, volume: Path) -> None:
    fill = Fill(volume)
    assert_it_paused_and_went_on(fill, train_on(fill))


def test_what_a_killed_save_has_left_does_not_stand_in_the_way(train_on: Any, volume: Path) -> None:
    left = volume / "run" / "checkpoints" / ".step-00000099.part"

    def leave(event: dict[str, Any], run: Any) -> None:
        if event["type"] == "train" and event["step"] == 1:
            left.mkdir(parents=True)
            fill_up(left, SMALL)

    run = train_on(leave)
    assert list(finished_checkpoints(run)) == [6] and not left.exists() and not guards(run)


@pytest.mark.parametrize("aside", [False, True])
def test_a_disk_that_fills_up_in_mid_save(train_on: Any, volume: Path, monkeypatch: Any, aside: bool) -> None:
    """Nobody has seen it coming: the system's error arrives while the files are written."""
    monkeypatch.setattr(disk, "free_bytes", lambda path: 1 << 40)
    fill = Fill(volume)
    assert_it_paused_and_went_on(fill, train_on(fill, aside=aside))


def test_a_disk_that_stays_full_ends_the_run_and_spares_the_last_checkpoint(train_on: Any, volume: Path) -> None:
    with pytest.raises(DiskFull) as end:
        train_on(Fill(volume, lambda run: None), minutes=0.005)
    run = volume / "run"
    (problem,) = end.value.problems
    assert isinstance(end.value, UserError) and problem.where == str(run)
    assert "there was no room for 0.005 minutes" in problem.what and "are free" in problem.what
    assert problem.mend == f"make room, then gptloom resume {run}: it goes on from step 2"
    assert list(finished_checkpoints(run)) == [2] and newest_sound(run)[0] == 2
    assert not list((run / "checkpoints").glob(".*"))


def test_who_waits_for_room_still_hears_a_stop(train_on: Any, volume: Path) -> None:
    fill = Fill(volume, lambda run: (run / "stop").touch())
    with pytest.raises(DiskFull, match="asked to stop"):
        train_on(fill)
    assert list(finished_checkpoints(volume / "run")) == [2]


def test_a_log_that_finds_no_room_keeps_what_it_could_not_write(volume: Path) -> None:
    log = PatientLog(EventLog(volume / "events.jsonl"))
    assert "time" in log.append("start", step=0)
    fill_up(volume, 0)
    long = "x" * 5000
    events = [log.append("guard", step=step, sync=True, reason=long, action="none") for step in (1, 2)]
    assert [(e["step"], "time" in e) for e in events] == [(1, False), (2, False)]
    assert [e["step"] for e in read_events(volume / "events.jsonl")] == [0]
    (volume / FILLER).unlink()
    assert "time" in log.append("train", step=3, loss=1.0)
    assert [(e["type"], e["step"]) for e in read_events(volume / "events.jsonl")] == [
        ("start", 0),
        ("guard", 1),
        ("guard", 2),
        ("train", 3),
    ]
    fill_up(volume, 0)
    log.append("guard", step=4, reason=long, action="none")
    log.close()  # what nobody can write is no reason to fail


def test_a_full_disk_is_known_by_number_or_by_words() -> None:
    assert is_full(OSError(28, "No space left on device"))
    assert is_full(RuntimeError("Error while serializing: I/O error: No space left on device (os error 28)"))
    assert not is_full(OSError(5, "Input/output error")) and not is_full(ValueError("full"))


# ---- several processes -----------------------------------------------------------------------------------------------


def one_finds_it_full(world: World, folder: str) -> dict[str, list[Any]]:
    """How three trainings end of which the second process finds the disk full so many times."""
    from test_async_checkpoint import spread_training

    disk.LOOK_EVERY = 0.02
    write = saver.write_files
    ends = {}
    for name, times, aside, minutes in (("now", 2, False, 1.0), ("aside", 2, True, 1.0), ("for ever", 99, False, 0.0)):
        left = [times]

        def failing(snapshot: Any, left: list[int] = left) -> dict[str, str]:
            sums = write(snapshot)
            if world.rank == 1 and left[0]:
                left[0] -= 1
                raise OSError(28, "No space left on device")
            return sums

        saver.write_files = failing
        try:
            spread_training(world, Path(folder) / name, aside=aside, minutes=minutes)
            ends[name] = ["done", left[0]]
        except (DiskFull, EndedElsewhere) as end:
            ends[name] = [type(end).__name__, str(end)]
    return ends


@pytest.mark.slow
def test_one_process_without_room_makes_all_wait_and_all_give_up_together(tmp_path: Path) -> None:
    first, second = run_ranks(one_finds_it_full, 2, folder=str(tmp_path))
    for name in ("now", "aside"):
        assert first[name] == ["done", 2] and second[name] == ["done", 0]
        run = tmp_path / name
        assert list(finished_checkpoints(run)) == [2, 4] and newest_sound(run)[0] == 4
        said = [reason.partition(":")[0] for _, reason, _ in guards(run)]
        assert said == ["the disk is full", "there is room on the disk again"]
    assert first["for ever"][0] == "DiskFull" and "it starts again" in first["for ever"][1]
    assert second["for ever"][0] == "EndedElsewhere"
    state = json.loads((tmp_path / "for ever" / "state.json").read_text(encoding="utf-8"))
    assert state["state"] != "running" and not finished_checkpoints(tmp_path / "for ever")
