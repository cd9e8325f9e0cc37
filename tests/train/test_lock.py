"""The lock of a run folder, also where the disk does not pass locks on to other machines."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import threading
from pathlib import Path

import pytest

from gptloom.config.errors import UserError
from gptloom.train import lock
from gptloom.train.lock import RunLock, is_locked


@pytest.fixture
def hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lock, "BEAT", 0.05)
    monkeypatch.setattr(lock, "WATCH", 0.5)


def left_by(host: str, folder: Path) -> Path:
    path = folder / lock.NAME
    path.write_text(json.dumps({"pid": 7, "host": host, "since": 0}))
    os.utime(path, (0, 0))
    return path


def test_a_second_one_is_refused_until_the_first_lets_go(tmp_path: Path) -> None:
    first, second = RunLock(tmp_path), RunLock(tmp_path)
    first.acquire()
    with pytest.raises(UserError, match=f"process {os.getpid()} on"):
        second.acquire()
    assert is_locked(tmp_path)
    first.release()
    assert not is_locked(tmp_path)
    second.acquire()
    second.release()


def test_a_holder_on_another_machine_that_is_dead_is_replaced(tmp_path: Path, hasty: None) -> None:
    left_by("elsewhere", tmp_path)
    assert not is_locked(tmp_path)
    mine = RunLock(tmp_path)
    mine.acquire()
    assert json.loads((tmp_path / lock.NAME).read_text())["pid"] == os.getpid()
    mine.release()


def test_a_holder_on_another_machine_that_lives_is_respected(tmp_path: Path, hasty: None) -> None:
    path = left_by("elsewhere", tmp_path)
    done = threading.Event()
    beating = threading.Thread(target=lock._beat, args=(path, done))
    beating.start()
    try:
        with pytest.raises(UserError, match="process 7 on elsewhere"):
            RunLock(tmp_path).acquire()
        assert is_locked(tmp_path)
    finally:
        done.set()
        beating.join()
    assert json.loads(path.read_text())["host"] == "elsewhere"


def test_a_disk_without_locks_is_trained_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def none(*_: object) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(fcntl, "flock", none)
    mine = RunLock(tmp_path)
    mine.acquire()
    assert mine.held
    mine.release()


def test_the_holder_touches_its_file(tmp_path: Path, hasty: None) -> None:
    mine = RunLock(tmp_path)
    mine.acquire()
    path = tmp_path / lock.NAME
    os.utime(path, (0, 0))
    for _ in range(100):
        if path.stat().st_mtime > 0:
            break
        threading.Event().wait(0.05)
    else:
        pytest.fail("the lock is never touched")
    mine.release()
