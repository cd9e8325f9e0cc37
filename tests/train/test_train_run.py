from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from gptloom.config.errors import UserError
from gptloom.observe.events import read_events
from gptloom.train.lock import RunLock, is_locked
from gptloom.train.objective import NextToken
from gptloom.train.run import LoopSettings, Run, RunState, prepare_folder, read_state

SCRIPT = Path(__file__).parent / "tiny_training.py"
posix = pytest.mark.skipif(os.name == "nt", reason="Windows has no such signals")


def events_of(run: Run, kind: str) -> list[dict]:
    return [event for event in read_events(run.path / "events.jsonl") if event["type"] == kind]


# ---- hooks and events --------------------------------------------------------------------------------------------


def test_hooks_see_every_event_in_the_order_listed(train) -> None:
    calls: list[tuple[str, str, int]] = []

    def first(event, run) -> None:
        calls.append(("first", event["type"], event["step"]))
        if event["type"] == "train" and event["step"] == 1:
            run.emit("evaluate", valid_loss=1.0)

    def second(event, run) -> None:
        calls.append(("second", event["type"], event["step"]))

    train(steps=2, hooks=[first, second])
    expected = []
    for kind, step in [("start", 0), ("train", 1), ("evaluate", 1), ("train", 2), ("closing", 2), ("end", 2)]:
        expected += [("first", kind, step), ("second", kind, step)]
    assert calls == expected


def test_stop_ends_the_run_after_the_step(train) -> None:
    def enough(event, run) -> str | None:
        return "stop" if event["step"] == 2 else None

    done = train(steps=9, hooks=[enough])
    assert (done.run.state.step, done.run.state.state) == (2, "finished")
    assert done.run.state.reason == "enough asked to stop"
    assert [event["type"] for event in done.seen[-2:]] == ["closing", "end"]


def test_train_events_are_written_every_so_often_and_hold_what_is_promised(train) -> None:
    done = train(steps=11, log_every=4, flops_per_token=1e3, peak_flops=1e9)
    written = events_of(done.run, "train")
    assert [event["step"] for event in written] == [1, 4, 8, 11]
    assert [event["step"] for event in done.seen if event["type"] == "train"] == list(range(1, 12))
    head = {"version", "time", "type", "attempt", "step"}
    numbers = {"loss", "losses", "lr", "grad_norm", "tokens", "tokens_per_second", "mfu"}
    assert all(set(event) == head | numbers for event in written)
    last = written[-1]
    assert last["loss"] == pytest.approx(last["losses"]["next_token"] + 0.25 * last["losses"]["length"])
    assert last["tokens"] == 11 * 96 == done.run.state.tokens
    assert events_of(done.run, "start")[0]["steps"] == 11
    assert events_of(done.run, "end")[0]["state"] == "finished"


def test_a_hook_that_fails_fails_the_run(tmp_path, train) -> None:
    def broken(event, run) -> None:
        if event["step"] == 2:
            raise OSError("no space left on the disk")

    with pytest.raises(OSError, match="no space"):
        train(hooks=[broken])
    folder = next(tmp_path.glob("run-*"))
    assert read_state(folder).state == "failed"
    assert read_state(folder).reason == "no space left on the disk"
    assert not is_locked(folder)


# ---- states ------------------------------------------------------------------------------------------------------


def test_the_stop_request_pauses_and_is_used_up(train) -> None:
    def ask(event, run) -> None:
        if event["step"] == 2 and event["type"] == "train":
            (run.path / "stop").touch()

    done = train(steps=9, hooks=[ask])
    state = read_state(done.run.path)
    assert (state.state, state.step, state.reason) == ("paused", 2, "stop was asked for")
    assert not done.run.stopping.startswith("finished")
    again = Run(done.run.path, LoopSettings(steps=9), RunState(step=2))
    with again.working():
        assert not (done.run.path / "stop").exists()


def test_states_of_other_makers_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="not a run folder"):
        read_state(tmp_path)
    (tmp_path / "state.json").write_text("{", encoding="utf-8")
    with pytest.raises(UserError, match="not valid JSON"):
        read_state(tmp_path)
    (tmp_path / "state.json").write_text('{"version": 2}', encoding="utf-8")
    with pytest.raises(UserError, match="newer gptloom"):
        read_state(tmp_path)


def test_folders_are_never_overwritten_unasked(tmp_path: Path, train) -> None:
    run = train(steps=1).run.path
    with pytest.raises(UserError, match=r"a run in this folder already.*(\n.*)*--overwrite"):
        prepare_folder(run, overwrite=False)
    prepare_folder(run, overwrite=True)
    assert list(run.iterdir()) == []
    other = tmp_path / "other"
    other.mkdir()
    (other / "letter.txt").write_text("dear", encoding="utf-8")
    for overwrite in (False, True):
        with pytest.raises(UserError, match="holds no run"):
            prepare_folder(other, overwrite=overwrite)
        with pytest.raises(UserError, match="a file of this name"):
            prepare_folder(other / "letter.txt", overwrite=overwrite)
    assert (other / "letter.txt").exists()


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    if os.name == "nt" or os.geteuid() == 0:
        blocker = tmp_path / "file"  # root may write anywhere, but not below a file
        blocker.touch()
        target = blocker / "run"
    else:
        tmp_path.chmod(0o500)
        target = tmp_path / "run"
    with pytest.raises(UserError, match="cannot be written"):
        prepare_folder(target, overwrite=False)


# ---- lock --------------------------------------------------------------------------------------------------------


def test_a_second_process_is_refused_with_the_first_ones_number(tmp_path: Path) -> None:
    hold = "import sys; from pathlib import Path; from gptloom.train.lock import RunLock\n"
    hold += "lock = RunLock(Path(sys.argv[1])); lock.acquire(); print('held', flush=True); sys.stdin.read()"
    command = [sys.executable, "-c", hold, tmp_path]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        assert is_locked(tmp_path)
        with pytest.raises(UserError, match=f"process {process.pid} on "):
            RunLock(tmp_path).acquire()
        process.kill()
    assert not is_locked(tmp_path)  # a dead one holds nothing
    lock = RunLock(tmp_path)
    lock.acquire()
    assert json.loads((tmp_path / "lock").read_text(encoding="utf-8"))["pid"] == os.getpid()
    lock.release()
    assert not is_locked(tmp_path)


def test_a_run_holds_its_lock_while_it_works(train) -> None:
    held: list[bool] = []
    done = train(hooks=[lambda event, run: held.append(is_locked(run.path))])
    assert held and all(held)
    assert not is_locked(done.run.path)
    assert not is_locked(done.run.path / "nowhere")


# ---- signals -----------------------------------------------------------------------------------------------------


def at_step(command: list, step: int, *signals: int) -> tuple[int, list[int]]:
    """Sends ``signals``, a moment apart, once ``step`` is done; the exit code and the steps that were done."""
    with subprocess.Popen([sys.executable, SCRIPT, *command], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        steps = []
        for line in process.stdout:
            steps.append(int(line))
            if steps[-1] == step:
                for number in signals:
                    process.send_signal(number)
                    time.sleep(0.1)
    return process.returncode, steps


@posix
@pytest.mark.parametrize("name", [pytest.param("SIGTERM", marks=pytest.mark.slow), "SIGINT"])
def test_a_signal_saves_and_pauses(tmp_path: Path, name: str) -> None:
    code, steps = at_step([tmp_path / "run", "adamw", "500", "0.2"], 3, getattr(signal, name))
    state = read_state(tmp_path / "run")
    assert (code, state.state, state.reason) == (0, "paused", name)
    assert state.step == len(steps) < 6
    assert (tmp_path / "run" / "checkpoints" / f"step-{state.step:08d}" / "state.json").exists()


@pytest.mark.slow
@posix
def test_a_second_ctrl_c_leaves_at_once(tmp_path: Path) -> None:
    code, steps = at_step([tmp_path / "run", "adamw", "500", "1"], 2, signal.SIGINT, signal.SIGINT)
    state = read_state(tmp_path / "run")
    assert code != 0 and steps == [1, 2]
    assert (state.state, state.reason) == ("failed", "broken off by a second Ctrl-C")


@posix
def test_a_signal_that_is_ignored_stays_ignored(train) -> None:
    """nohup ignores SIGHUP, so that logging out ends nothing."""
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        done = train(hooks=[lambda event, run: os.kill(os.getpid(), signal.SIGHUP)])
    finally:
        signal.signal(signal.SIGHUP, before)
    assert (done.run.state.state, done.run.state.step) == ("finished", 3)


@posix
def test_handlers_are_put_back(train) -> None:
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)]
    train()
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)] == before


def test_trains_outside_the_main_thread(train) -> None:
    import threading

    done: list = []
    thread = threading.Thread(target=lambda: done.append(train(objective=NextToken())))
    thread.start()
    thread.join()
    assert done[0].run.state.state == "finished"
