"""Starting processes on one machine: what they are given, how their ends are told, signals, and starting again."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from gptloom.config.errors import UserError
from gptloom.train import launch as launching
from gptloom.train.crew import Crew, Restarts
from gptloom.train.launch import check_gpus, is_worker, launch, run_crew
from gptloom.train.workers import Ending, cause_of

posix = pytest.mark.skipif(sys.platform == "win32", reason="POSIX signals")


@pytest.fixture(autouse=True)
def no_worker(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.delenv("RANK", raising=False)
    monkeypatch.setattr(launching, "GRACE", 1.0)
    yield


def crew(code: str, processes: int = 2, threads: int | None = None) -> Crew:
    """Workers that run ``code``, in which ``rank``, ``restarts`` and ``end(signal)`` are known."""
    known = (
        "import os, signal, sys, time\n"
        "rank, restarts = int(os.environ['RANK']), int(os.environ['TORCHELASTIC_RESTART_COUNT'])\n"
        "def end(name): os.kill(os.getpid(), getattr(signal, name)); time.sleep(9)\n"
    )
    return Crew((sys.executable, "-S", "-c", known + code), processes, threads)


def run(workers: Crew, elastic: bool = False) -> int:
    return run_crew(workers, [], 0, 29400, elastic, 20.0, [])


# ---- what workers are given ------------------------------------------------------------------------------------------


def test_a_worker_gets_what_torchrun_would_give_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr("gptloom.train.crew.cores", lambda: 7)
    write = (
        f"import json; open(r'{tmp_path}/' + str(rank), 'w').write(json.dumps([dict(os.environ), sys.stdin.read()]))"
    )
    with (tmp_path / "typed").open("w") as typed:
        typed.write("y\n")
    with (tmp_path / "typed").open() as typed:
        before = os.dup(0)
        os.dup2(typed.fileno(), 0)
        try:
            assert run(crew(write)) == 0
        finally:
            os.dup2(before, 0)
            os.close(before)
    (first, first_read), (second, second_read) = [json.loads((tmp_path / name).read_text()) for name in "01"]
    assert (first["RANK"], first["LOCAL_RANK"], second["RANK"], second["LOCAL_RANK"]) == ("0", "0", "1", "1")
    assert {first[name] for name in ("WORLD_SIZE", "LOCAL_WORLD_SIZE")} == {"2"}
    assert first["MASTER_ADDR"] == "127.0.0.1" and first["MASTER_PORT"] == second["MASTER_PORT"]
    assert first["TORCHELASTIC_RESTART_COUNT"] == "0" and first["OMP_NUM_THREADS"] == "3"
    assert (first_read, second_read) == ("y\n", "")  # a question can be answered once


def test_threads_are_left_to_the_workers_when_the_user_said_how_many(monkeypatch: pytest.MonkeyPatch) -> None:
    code = "sys.exit(0 if 'OMP_NUM_THREADS' not in os.environ else 5)"
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    assert run(crew(code, threads=4)) == 0
    assert run(crew(code)) == 5


def test_a_worker_is_known_by_its_rank_and_starts_no_others(monkeypatch: pytest.MonkeyPatch) -> None:
    assert not is_worker()
    monkeypatch.setenv("RANK", "0")
    assert is_worker()
    with pytest.raises(AssertionError):
        launch(["doctor"], processes=2, port=29400, elastic=False, timeout=5)


def test_launch_runs_gptloom_itself(capfd: pytest.CaptureFixture[str]) -> None:
    assert launch(["--version"], processes=2, port=29400, elastic=False, timeout=5, device="cpu") == 0
    assert capfd.readouterr().out.count("gptloom ") == 2


# ---- how they end ----------------------------------------------------------------------------------------------------


@posix
def test_a_killed_worker_is_named_with_its_signal_and_the_others_are_ended(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    began = time.monotonic()
    assert (
        run(
            crew(
                f"open(r'{tmp_path}/' + str(rank), 'w').write(str(os.getpid()))\nrank and end('SIGKILL')\ntime.sleep(60)"
            )
        )
        == 3
    )
    assert time.monotonic() - began < 30  # the sleeper was not waited for
    assert f"stopped: process 1 (pid {(tmp_path / '1').read_text()}) was killed by SIGKILL" in capsys.readouterr().err
    with pytest.raises(ProcessLookupError):
        os.kill(int((tmp_path / "0").read_text()), 0)


@posix
def test_the_others_may_say_what_they_know(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(launching, "GRACE", 20.0)
    up = f"r'{tmp_path}/up'"
    last_words = (
        f"open({up} if not rank else os.devnull, 'w').close()\nwhile not os.path.exists({up}): time.sleep(0.02)\n"
        f"rank and end('SIGSEGV')\ntime.sleep(0.8)\nopen(r'{tmp_path}/said', 'w').close()"
    )
    assert run(crew(last_words)) == 3
    assert (tmp_path / "said").exists()


def test_a_fault_is_named_with_its_exit_code_and_becomes_the_launchers(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(crew("sys.exit(1 if rank == 1 else 3)")) == 1
    assert "error: process 1 (pid" in (said := capsys.readouterr().err) and "ended with exit code 1" in said


@pytest.mark.parametrize("code", [2, 3, 130])
def test_what_a_worker_has_explained_is_not_said_again(code: int, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(crew(f"sys.exit({code} if rank else 3)")) == code
    assert capsys.readouterr().err == ""


def test_the_cause_is_a_kill_before_a_fault_before_a_users_mistake_before_an_alarm() -> None:
    alarm, mistake, fault, kill = Ending(0, 1, 3), Ending(1, 2, 2), Ending(2, 3, 1), Ending(3, 4, -9)
    everyone = [alarm, mistake, fault, kill]
    while everyone:
        assert cause_of(everyone) is everyone[-1]
        everyone.pop()
    assert (kill.exit_code, fault.exit_code) == (3, 1)


# ---- signals ---------------------------------------------------------------------------------------------------------

LAUNCHER = """
import signal, sys
from gptloom.train.crew import Crew
from gptloom.train.launch import run_crew
worker = '''{worker}'''
sys.exit(run_crew(Crew((sys.executable, '-S', '-c', worker), 2), [], 0, 29400, False, 20.0, [{more}]))
"""
SAVES = """
import os, signal, time
heard = []
for name in ('SIGTERM', 'SIGINT', 'SIGHUP', 'SIGUSR1'): signal.signal(getattr(signal, name), lambda n, f: heard.append(n))
open(os.path.join({folder!r}, 'ready' + os.environ['RANK']), 'w').close()
while not heard: time.sleep(0.02)
time.sleep(0.3)
open(os.path.join({folder!r}, 'saved' + os.environ['RANK']), 'w').write(str(heard[0]))
"""
IGNORES = """
import os, signal, time
for name in ('SIGTERM', 'SIGINT'): signal.signal(getattr(signal, name), signal.SIG_IGN)
open(os.path.join({folder!r}, 'ready' + os.environ['RANK']), 'w').close()
time.sleep(60)
"""


def start(folder: Path, worker: str, more: str = "") -> subprocess.Popen[bytes]:
    """A launcher of two workers that are ready to hear signals."""
    code = LAUNCHER.format(worker=worker.format(folder=str(folder)), more=more)
    process = subprocess.Popen([sys.executable, "-c", code])
    until = time.monotonic() + 20
    while not all((folder / f"ready{rank}").exists() for rank in (0, 1)):
        assert time.monotonic() < until and process.poll() is None
        time.sleep(0.02)
    return process


@posix
@pytest.mark.parametrize("name", ["SIGTERM", "SIGINT", "SIGHUP", "SIGUSR1"])
def test_signals_reach_every_worker_who_save_and_the_launcher_ends_well(name: str, tmp_path: Path) -> None:
    number = getattr(signal, name)
    process = start(tmp_path, SAVES, more=f"{int(signal.SIGUSR1)}")
    process.send_signal(number)
    assert process.wait(20) == 0
    assert [(tmp_path / f"saved{rank}").read_text() for rank in (0, 1)] == [str(int(number))] * 2


@posix
def test_a_second_ctrl_c_leaves_at_once(tmp_path: Path) -> None:
    process = start(tmp_path, IGNORES)
    process.send_signal(signal.SIGINT)
    time.sleep(0.5)
    assert process.poll() is None
    process.send_signal(signal.SIGINT)
    assert process.wait(20) == 130


@posix
def test_workers_that_hear_nothing_yet_are_broken_off(tmp_path: Path) -> None:
    quiet = IGNORES.replace("signal.SIG_IGN", "signal.SIG_DFL")
    process = start(tmp_path, quiet)
    process.send_signal(signal.SIGTERM)
    assert process.wait(20) == 130


# ---- starting again --------------------------------------------------------------------------------------------------


@posix
def test_elastic_starts_again_after_a_kill_and_counts(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code = f"open(r'{tmp_path}/' + str(restarts), 'a').write(str(rank))\nif restarts < 2 and rank: end('SIGKILL')"
    assert run(crew(code), elastic=True) == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == ["0", "1", "2"]
    assert capsys.readouterr().err.count("starting again from the last checkpoint") == 2


def test_elastic_gives_up_on_a_fault_that_persists(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code = f"open(r'{tmp_path}/' + str(restarts), 'a').close()\nsys.exit(1)"
    assert run(crew(code), elastic=True) == 1
    assert len(list(tmp_path.iterdir())) == 3
    assert "not started again: it failed 3 times in a row" in capsys.readouterr().err


@pytest.mark.parametrize("code", [2, 3, 130])
def test_elastic_does_not_repeat_what_was_decided(code: int, tmp_path: Path) -> None:
    assert run(crew(f"open(r'{tmp_path}/' + str(restarts), 'a').close()\nsys.exit({code})"), elastic=True) == code
    assert len(list(tmp_path.iterdir())) == 1


def test_failures_long_after_a_start_do_not_count_as_a_row() -> None:
    restarts = Restarts(soon=100)
    assert all(restarts.allow(1, lasted=101, lost=False) for _ in range(10))
    assert restarts.allow(1, lasted=3, lost=False) and not restarts.allow(1, lasted=3, lost=False)
    assert Restarts(soon=100).allow(3, lasted=3, lost=True)  # what the others ended with is a consequence


# ---- mistakes --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("count", "device", "what", "mend"),
    [
        (1, "cuda", "2 processes, but 1 GPU here", "--processes 1"),
        (1, "auto", "2 processes, but 1 GPU here", "--processes 1"),
        (0, "cuda", "2 processes, but no GPUs here", "--device cpu"),
    ],
)
def test_more_processes_than_gpus(
    count: int, device: str, what: str, mend: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("torch.cuda.device_count", lambda: count)
    with pytest.raises(UserError) as refused:
        launch(["--version"], processes=2, port=29400, elastic=False, timeout=5, device=device)
    assert (refused.value.problems[0].what, refused.value.problems[0].mend) == (what, mend)


def test_a_cpu_takes_any_number_of_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.device_count", lambda: 0)
    check_gpus(64, "auto")
    check_gpus(64, "cpu")
