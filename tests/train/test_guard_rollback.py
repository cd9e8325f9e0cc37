"""Repeated trouble: the run goes back, leaves the windows out, never loops, and is the same however it was killed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import guarded_training
import pytest
import torch
from guarded_training import ROWS, STEPS, train
from ranks import run_ranks

from gptloom.config.errors import GuardStop
from gptloom.model.reference import finished_checkpoints
from gptloom.observe.events import EventLog, read_events
from gptloom.train.diagnosis import examine
from gptloom.train.parallel import Parallel
from gptloom.train.rollback import ROLL_BACKS, excluded_windows, not_taken_back
from gptloom.train.run import Run
from gptloom.train.world import World


def guards(folder: Path) -> list[dict[str, Any]]:
    return [event for event in read_events(folder / "events.jsonl") if event["type"] == "guard"]


def backs(folder: Path) -> list[dict[str, Any]]:
    return [event for event in guards(folder) if "to_step" in event]


def result(folder: Path) -> dict[str, Any]:
    """What a run came to: every byte of its last weights and moments, its guard, and the text it left out."""
    last = finished_checkpoints(folder)[STEPS]
    document = json.loads((last / "state.json").read_text(encoding="utf-8"))
    weights = [(last / name).read_bytes() for name in document["xxh3_128"] if name.endswith(".safetensors")]
    assert len(weights) == 2
    return {
        "weights": weights,
        "guard": document["guard"],
        "tokens": document["run"]["tokens"],
        "left out": left_out(folder),
    }


def left_out(folder: Path) -> list[int]:
    return excluded_windows(read_events(folder / "events.jsonl"))


def weights(run: Run) -> dict[str, torch.Tensor]:
    return {name: tensor.detach().clone() for name, tensor in run.optimizer.masters.tensors.items()}


def test_a_run_goes_back_before_the_trouble_and_leaves_its_windows_out(tmp_path: Path) -> None:
    run = train(tmp_path / "run", 20, 34)
    (back,) = backs(run.path)
    # Steps 20 to 29 were refused (the first is 0); the update before them may have done the harm and goes with them.
    windows = [place.position for step in range(19, 30) for place in run.way_back.batches.describe(step)]
    assert left_out(run.path) == run.way_back.excluded == sorted(windows) and len(windows) == 11 * ROWS
    assert (back["step"], back["to_step"]) == (30, 18)
    assert back["action"] == "back to step 18, leaving out 88 windows of text" and back["reason"] == "the loss is inf"
    # What is left of the poison comes where it stands now, too short to be repeated trouble.
    skipped = [event["step"] for event in guards(run.path) if event["action"] == "update skipped"]
    assert skipped == [*range(21, 30), *range(20, 24)]
    assert run.state.state == "finished" and run.state.step == STEPS and run.state.tokens == STEPS * ROWS * 12


def test_the_result_is_that_of_a_run_that_never_saw_those_windows(tmp_path: Path) -> None:
    gone_back = train(tmp_path / "run", 20, 45)
    assert len(backs(gone_back.path)) == 2
    (tmp_path / "other").mkdir()
    with EventLog(tmp_path / "other" / "events.jsonl") as log:
        for back in backs(gone_back.path):
            log.append("guard", step=0, excluded=back["excluded"])
    straight = train(tmp_path / "other", 20, 45)
    assert len(backs(straight.path)) == 0 and straight.way_back.excluded == gone_back.way_back.excluded
    assert result(straight.path) == result(gone_back.path)


@pytest.mark.slow
def test_a_spike_is_skipped_and_repeated_spikes_are_left_behind(tmp_path: Path) -> None:
    given = {"factor": 3.0, "window": 12}
    once = train(tmp_path / "once", 20, 21, **given)
    assert [(event["step"], event["action"]) for event in guards(once.path)] == [(21, "update skipped")]
    repeated = train(tmp_path / "repeated", 20, 34, **given)
    (back,) = backs(repeated.path)
    assert (back["step"], back["to_step"]) == (30, 18) and "standard deviations above its mean" in back["reason"]
    assert len(repeated.way_back.excluded) == 11 * ROWS and repeated.state.state == "finished"


@pytest.mark.slow
@pytest.mark.parametrize("end", [34, 45])
def test_readers_see_every_step_once(tmp_path: Path, end: int) -> None:
    run = train(tmp_path / "run", 20, end)
    steps = [event["step"] for event in read_events(run.path / "events.jsonl") if event["type"] == "train"]
    assert steps == list(range(1, STEPS + 1))


@pytest.mark.slow
def test_it_never_loops(tmp_path: Path) -> None:
    with pytest.raises(GuardStop) as stopped:
        train(tmp_path / "run", 20, 200)
    found = backs(tmp_path / "run")
    assert len(found) == ROLL_BACKS
    sizes = [len(excluded_windows(found[: count + 1])) for count in range(len(found))]
    assert sizes == sorted(set(sizes))
    assert "the run went back 3 times within 1,000 steps, and it did not help" in str(stopped.value)
    last = guards(tmp_path / "run")[-1]
    assert last["action"] == "training stopped" and last["diagnosis"] == str(stopped.value)
    # Resumed, it counts what was tried before.
    with pytest.raises(GuardStop):
        train(tmp_path / "run", 20, 200)
    assert len(backs(tmp_path / "run")) == ROLL_BACKS


@pytest.mark.slow
def test_roll_backs_far_apart_do_not_add_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gptloom.train.rollback.ROLL_BACKS", 1)
    with pytest.raises(GuardStop):
        train(tmp_path / "near", 20, 45)
    monkeypatch.setattr("gptloom.train.rollback.STRETCH", 1)
    assert len(backs(train(tmp_path / "far", 20, 45).path)) == 2


def test_without_a_checkpoint_from_before_it_stops(tmp_path: Path) -> None:
    with pytest.raises(GuardStop, match="there is no checkpoint from before the trouble"):
        train(tmp_path / "run", 2, 20)
    assert guards(tmp_path / "run")[-1]["action"] == "training stopped"


@pytest.mark.slow
def test_the_checkpoint_from_before_is_kept_while_updates_are_refused(tmp_path: Path) -> None:
    run = train(tmp_path / "run", 20, 34, keep=1)  # step 24 is saved in the middle of the trouble
    assert [back["to_step"] for back in backs(run.path)] == [18]
    assert list(finished_checkpoints(run.path)) == [STEPS]


@pytest.mark.slow
def test_a_damaged_checkpoint_is_passed_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sound = train(tmp_path / "sound", 20, 34, keep=3)

    def harm(self: Any, event: dict[str, Any], run: Run) -> None:
        if event["type"] == "guard" and event["step"] == 29:
            file = finished_checkpoints(run.path)[18] / "optimizer.safetensors"
            file.write_bytes(file.read_bytes()[:-1])

    monkeypatch.setattr(guarded_training.Killer, "__call__", harm)
    run = train(tmp_path / "run", 20, 34, keep=3)
    assert [back["to_step"] for back in backs(run.path)] == [12]
    assert result(run.path) == result(sound.path)


@pytest.mark.slow
def test_bf16_copies_follow_their_masters_back(tmp_path: Path) -> None:
    run = train(tmp_path / "run", 20, 34, dtype=torch.bfloat16)
    assert len(backs(run.path)) == 1
    for name, parameter in run.model.named_parameters():
        assert torch.equal(parameter, run.optimizer.masters.tensors[name].to(torch.bfloat16))


def test_a_roll_back_that_was_decided_and_not_done_takes_back_its_checkpoints() -> None:
    kept = {step: Path(str(step)) for step in (12, 18, 24)}
    start, skip = {"type": "start"}, {"type": "guard", "action": "update skipped"}
    back = {"type": "guard", "to_step": 18}
    assert list(not_taken_back(kept, [start, skip, back])) == [12, 18]
    assert list(not_taken_back(kept, [start, back, start, skip])) == [12, 18, 24]
    assert list(not_taken_back(kept, [start, skip])) == [12, 18, 24]


def broken_off(folder: Path, where: str, end: int) -> None:
    """Kills a real process at ``where``, and lets another one go on."""
    call = [sys.executable, guarded_training.__file__, str(folder), "20", str(end)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    killed = subprocess.run([*call, where], env=environment, timeout=100, check=False, capture_output=True)
    assert killed.returncode == -signal.SIGKILL, killed.stderr.decode()
    subprocess.run(call, env=environment, timeout=100, check=True, capture_output=True)


@pytest.mark.slow
@pytest.mark.parametrize("where", ["refused-1", "refused-5", "refused-9", "decided", "back", "step-19", "step-25"])
def test_killed_anywhere_it_ends_the_same(tmp_path: Path, where: str) -> None:
    torch.set_num_threads(1)
    train(tmp_path / "whole", 20, 45)
    broken_off(tmp_path / "killed", where, 45)
    assert result(tmp_path / "killed") == result(tmp_path / "whole")
    assert len(left_out(tmp_path / "whole")) > 11 * ROWS


def gone_back_together(world: World, strategy: str, folder: str, kind: str) -> dict[str, Any]:
    parallel = Parallel(world, strategy, torch.device("cpu"))  # type: ignore[arg-type]
    run = train(Path(folder), 20, 34, keep=3, kind=kind, dropout=0.0, parallel=parallel)
    norms = [one.value for one in examine(run.optimizer)]
    return {"left out": run.way_back.excluded, "norms": norms, "taken": run.way_back.taken, "step": run.state.step}


@pytest.mark.slow
@pytest.mark.parametrize("strategy", ["ddp", "fsdp"])
def test_several_processes_go_back_together(tmp_path: Path, strategy: str) -> None:
    alone = train(tmp_path / "alone", 20, 34, kind="adamw", dropout=0.0)
    norms = [one.value for one in examine(alone.optimizer)]
    results = run_ranks(gone_back_together, 2, strategy=strategy, folder=str(tmp_path / "run"), kind="adamw")
    assert results[0] == results[1]
    assert results[0]["left out"] == alone.way_back.excluded == left_out(tmp_path / "run")
    assert results[0]["taken"] == [30] and results[0]["step"] == STEPS
    assert results[0]["norms"] == pytest.approx(norms, rel=1e-4)
    assert len(backs(tmp_path / "run")) == 1
