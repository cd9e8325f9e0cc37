"""The watchdog over real processes: one that hangs, one that is halted, long known work, a launcher that is gone."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from gptloom.config.errors import GuardStop
from gptloom.train.lost import lost_peer
from gptloom.train.watchdog import watching
from gptloom.train.world import World

PROGRAM = Path(__file__).with_name("launched_program.py")
posix = pytest.mark.skipif(sys.platform == "win32", reason="POSIX signals")


class Training:
    """``launched_program`` under its launcher."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.launcher: subprocess.Popen[str]

    def start(self, processes: int, *options: Any) -> None:
        call = [sys.executable, PROGRAM, "launch", processes, self.folder, *options]
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        self.launcher = subprocess.Popen([*map(str, call)], stderr=subprocess.PIPE, text=True, env=environment)

    def end(self) -> tuple[int, str]:
        _, said = self.launcher.communicate(timeout=90)
        return self.launcher.returncode, said

    def log(self) -> list[dict[str, Any]]:
        path = self.folder / "log"
        return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []

    def pid(self, rank: int) -> int:
        path = self.folder / f"pid{rank}"
        until = time.monotonic() + 60
        while not path.exists() or not path.read_text():
            assert time.monotonic() < until
            time.sleep(0.05)
        return int(path.read_text())


@pytest.fixture
def training(tmp_path: Path) -> Iterator[Training]:
    training = Training(tmp_path)
    yield training
    if training.launcher.poll() is None:
        training.launcher.kill()
        training.launcher.communicate()
    for path in tmp_path.glob("pid*"):
        with contextlib.suppress(ProcessLookupError, ValueError):
            os.kill(int(path.read_text()), signal.SIGKILL)


@posix
@pytest.mark.slow
@pytest.mark.parametrize("hung", [0, 1])
def test_when_one_hangs_every_stack_and_step_is_shown_and_the_run_ends(hung: int, training: Training) -> None:
    training.start(2, 50, "--rank", hung, "--at", 7, "--do", "hang", "--watch", 6)
    code, said = training.end()
    assert code == 3
    assert "stopped: no progress for" in said
    for rank in (0, 1):
        assert f"process {rank} on " in said
    assert said.count(": step 7, no progress for") == 2
    assert '"hang": lambda: time.sleep(600)' in said and "dist.all_reduce(ones)" in said
    assert said.count("thread MainThread") == 2 and "_converse" not in said  # not the watchdog's own
    assert training.log()[-1]["what"] == "failed" and "no progress" in training.log()[-1]["reason"]


@posix
@pytest.mark.slow
@pytest.mark.parametrize("halted", [0, 1])
def test_a_halted_process_is_named_by_the_others(halted: int, training: Training) -> None:
    training.start(2, 50, "--rank", halted, "--at", 7, "--do", "halt", "--silence", 8)
    code, said = training.end()
    assert code == 3
    if halted:
        assert "stopped: process 1 on" in said and "gave no sign of life for" in said
        assert training.log()[-1]["what"] == "failed"
    else:  # it keeps the store, which answers no more
        assert "stopped: the store of this training, at process 0, has not answered for 8 s" in said


@posix
@pytest.mark.slow
def test_long_known_work_is_waited_for(training: Training) -> None:
    training.start(2, 20, "--rank", 1, "--at", 7, "--do", "work", "--watch", 6)
    assert training.end() == (0, "")
    assert training.log()[-1] == {"size": 2, "restarts": 0, "step": 20, "what": "end"}


@posix
@pytest.mark.slow
def test_a_lost_process_is_said_in_words_at_the_other(training: Training) -> None:
    training.start(2, 50, "--rank", 1, "--at", 7, "--do", "kill")
    code, said = training.end()
    assert code == 3
    assert "stopped: process 1 (pid" in said and "was killed by SIGKILL" in said
    assert "stopped: the connection to " in said and "(process 1) is lost" in said and "(step 7)" in said
    assert "Traceback" not in said and "frame #" not in said


@posix
@pytest.mark.slow
def test_workers_whose_launcher_is_killed_save_and_end(training: Training) -> None:
    training.start(2, 100000, "--pause", 0.05)
    workers = [training.pid(rank) for rank in (0, 1)]
    time.sleep(2)
    training.launcher.kill()
    until = time.monotonic() + 30
    while any(alive(pid) for pid in workers):
        assert time.monotonic() < until
        time.sleep(0.1)
    assert training.log()[-1]["what"] == "end"
    assert int((training.folder / "checkpoint").read_text()) == training.log()[-1]["step"] > 0


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


# ---- one process -----------------------------------------------------------------------------------------------------


def test_a_process_alone_needs_no_watching() -> None:
    with watching(World(), 0.001) as dog:
        dog.progress()
        with dog.patience("nothing"):
            time.sleep(0.01)


def test_other_faults_pass_the_watchdog_as_they_are() -> None:
    with pytest.raises(RuntimeError, match="out of memory"), watching(World(), 60):
        raise RuntimeError("CUDA out of memory")
    with pytest.raises(GuardStop, match="hangs, or cannot be reached"), watching(World(), 60):
        raise RuntimeError("Timed out waiting 600000ms for recv operation to complete")


# ---- what errors mean ------------------------------------------------------------------------------------------------

ADVICE = "This is typically caused by a remote worker crashing. Check the logs of the remote worker."
GONE = [
    f"[/third_party/gloo/gloo/transport/tcp/pair.cc:553] Connection closed by peer [10.0.0.2]:29581. {ADVICE}",
    f"[/third_party/gloo/gloo/transport/tcp/pair.cc:537] Read error [10.0.0.2]:19884: Connection reset by peer. {ADVICE}",
]


@pytest.mark.parametrize("text", GONE)
def test_a_closed_connection_says_who_is_at_its_other_end(text: str) -> None:
    said = lost_peer(RuntimeError(text), {"10.0.0.2": "h2 (processes 8, 9)"})
    assert said is not None and "the connection to h2 (processes 8, 9) is lost" in said
    assert "a process at 10.0.0.2" in (lost_peer(RuntimeError(text)) or "")


@pytest.mark.parametrize(
    ("text", "meaning"),
    [
        ("Broken pipe", "the connection to a process of this training is lost"),
        ("NCCL error: remote process exited or there was a network error", "is lost"),
        ("[Rank 3] Watchdog caught collective operation timeout: WorkNCCL(...)", "did not take part in an exchange"),
        ("Timed out waiting 5000ms for recv operation to complete", "did not take part in an exchange"),
        ("Application timeout caused pair closure", "did not take part in an exchange"),
        ("wait timeout after 3000ms, keys: /nokey2", "did not take part in an exchange"),
    ],
)
def test_what_backends_write_when_another_is_gone(text: str, meaning: str) -> None:
    assert meaning in (lost_peer(RuntimeError(text)) or "")


def test_other_errors_are_about_something_else() -> None:
    assert lost_peer(RuntimeError("mat1 and mat2 shapes cannot be multiplied")) is None
    assert lost_peer(ValueError("Broken pipe")) is None
