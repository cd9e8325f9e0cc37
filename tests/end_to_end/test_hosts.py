"""``gptloom pretrain --nodes`` on two hosts: network namespaces of this machine, joined by a cable that can be cut."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from gptloom.config.run_folder import STOP
from gptloom.train.run import read_state

pytestmark = pytest.mark.slow

NAMES = (f"gptloom-{os.getpid()}-a", f"gptloom-{os.getpid()}-b")
NODES = ("10.77.0.1", "10.77.0.2")  # seen in the namespaces only
SHAPE = ("--n-layer", "2", "--d-model", "16", "--n-head", "2", "--context", "16", "--vocab-size", "300")
BATCH = ("--batch-tokens", "256", "--micro-batch", "4", "--device", "cpu", "--threads", "1", "--log", "none")
PACE = ("--save-every", "10", "--log-every", "1", "--eval-every", "1000", "--sample-tokens", "0")
A_MINUTE = 60


def ip(*words: str) -> str:
    return subprocess.run(["ip", *words], check=True, capture_output=True, text=True, timeout=20).stdout


class Hosts:
    """Two hosts that see one disk. ``start`` gives them the command; a host that is killed loses all its processes."""

    def __init__(self, folder: Path, text: Path) -> None:
        self.run, self.text = folder / "run", text
        self.started: dict[int, subprocess.Popen[str]] = {}

    def start(self, host: int, *options: str) -> None:
        training = ["pretrain", "--data", str(self.text), "--out", str(self.run), "--nodes", *NODES]
        command = [sys.executable, "-m", "gptloom", *training, *SHAPE, *BATCH, *PACE, *options]
        self.started[host] = subprocess.Popen(
            ["ip", "netns", "exec", NAMES[host], *command],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )

    def end(self, host: int, within: float = 120) -> tuple[int, str]:
        """Exit code and what was printed; fails when it takes longer."""
        process = self.started.pop(host)
        printed, _ = process.communicate(timeout=within)
        return process.returncode, printed

    def kill(self, host: int) -> None:
        """Every process at once, with no time for a word; what the kernel then tells the other host is that they ended."""
        for pid in ip("netns", "pids", NAMES[host]).split():
            subprocess.run(["kill", "-9", pid], check=False, stderr=subprocess.DEVNULL)
        if host in self.started:
            self.started.pop(host).communicate(timeout=20)

    def cut_cable(self) -> None:
        """From here on nothing arrives, and nobody is told."""
        ip("-n", NAMES[0], "link", "set", "cable-a", "down")

    def mend_cable(self) -> None:
        ip("-n", NAMES[0], "link", "set", "cable-a", "up")

    def events(self, kind: str) -> list[dict[str, Any]]:
        path = self.run / "events.jsonl"
        lines = path.read_text().split("\n")[:-1] if path.exists() else []
        return [event for event in map(json.loads, lines) if event["type"] == kind]

    def wait_until(self, condition: Callable[[], bool]) -> None:
        until = time.monotonic() + 120
        while not condition():
            ended = [host for host, process in self.started.items() if process.poll() is not None]
            assert not ended and time.monotonic() < until, "\n".join(self.end(host)[1] for host in ended)
            time.sleep(0.1)

    def wait_for_checkpoint(self) -> None:
        self.wait_until(lambda: bool(self.events("checkpoint")))


@pytest.fixture
def hosts(tmp_path: Path, text: Path) -> Iterator[Hosts]:
    if shutil.which("ip") is None:
        pytest.skip("two hosts need the command ip (package iproute2)")
    remove()
    try:
        for name in NAMES:
            ip("netns", "add", name)
            ip("-n", name, "link", "set", "lo", "up")
        ip("link", "add", "cable-a", "netns", NAMES[0], "type", "veth", "peer", "name", "cable-b", "netns", NAMES[1])
        for name, end, address in zip(NAMES, ("cable-a", "cable-b"), NODES, strict=True):
            ip("-n", name, "addr", "add", f"{address}/24", "dev", end)
            ip("-n", name, "link", "set", end, "up")
    except subprocess.CalledProcessError as error:
        remove()
        pytest.skip(f"network namespaces cannot be made here: {error.stderr.strip()}")
    hosts = Hosts(tmp_path, text)
    yield hosts
    for host in (0, 1):
        hosts.kill(host)
    remove()


def remove() -> None:
    for name in NAMES:
        subprocess.run(["ip", "netns", "del", name], check=False, capture_output=True)


def test_two_hosts_train_one_model(hosts: Hosts) -> None:
    for host in (0, 1):
        hosts.start(host, "--max-steps", "20", "--processes", "1")
    (first, said), (second, other) = hosts.end(0), hosts.end(1)
    assert (first, second) == (0, 0), said + other
    assert [event["processes"] for event in hosts.events("start")] == [2]
    assert [event["step"] for event in hosts.events("train")] == list(range(1, 21))  # written once
    assert (hosts.run / "final" / "config.json").exists()
    assert "step 20/20" in said and "step" not in other.lower()  # the first host shows the progress


def test_a_host_that_dies_ends_the_run_on_the_other(hosts: Hosts) -> None:
    for host in (0, 1):
        hosts.start(host, "--max-steps", "100000")
    hosts.wait_for_checkpoint()
    hosts.kill(1)
    code, said = hosts.end(0, within=A_MINUTE)
    assert code == 3, said
    assert "stopped: 10.77.0.2 (process 1) is gone" in said and "Traceback" not in said
    state = read_state(hosts.run)
    assert state.state == "failed" and "10.77.0.2" in state.reason and "is lost" in state.reason


def test_a_cut_cable_ends_the_run_on_both(hosts: Hosts) -> None:
    for host in (0, 1):
        hosts.start(host, "--max-steps", "100000")
    hosts.wait_for_checkpoint()
    hosts.cut_cable()
    began = time.monotonic()
    code, said = hosts.end(0, within=A_MINUTE)
    other_code, other = hosts.end(1, within=A_MINUTE - (time.monotonic() - began))
    assert (code, other_code) == (3, 3), said + other
    assert "process 1 on" in said and "gave no sign of life for 30 s" in said
    assert "stopped: 10.77.0.2 (process 1) has not answered for" in said
    assert "stopped: the store of this training, at process 0, has not answered" in other
    assert "stopped: 10.77.0.1 has not answered for" in other
    state = read_state(hosts.run)
    assert state.state == "failed" and "gave no sign of life" in state.reason


def test_elastic_goes_on_with_the_host_that_is_left_and_takes_the_other_back(hosts: Hosts) -> None:
    options = ("--max-steps", "100000", "--elastic")
    for host in (0, 1):
        hosts.start(host, *options)
    hosts.wait_for_checkpoint()
    hosts.kill(1)
    hosts.wait_until(lambda: len(hosts.events("start")) == 2)
    hosts.wait_until(lambda: hosts.events("train")[-1]["attempt"] == 1)
    hosts.start(1, *options)
    hosts.wait_until(lambda: len(hosts.events("start")) == 3)
    hosts.wait_until(lambda: hosts.events("train")[-1]["attempt"] == 2)
    (hosts.run / STOP).touch()
    (code, said), (other_code, other) = hosts.end(0), hosts.end(1)
    assert (code, other_code) == (0, 0), said + other
    first, alone, together = hosts.events("start")
    assert [start["processes"] for start in (first, alone, together)] == [2, 1, 2]
    assert alone["step"] > 0 and alone["step"] % 10 == 0  # from a checkpoint
    # The one that was alone saved before it let the other in: nothing it did is lost.
    assert together["step"] == hosts.events("end")[1]["step"] > alone["step"]
    assert read_state(hosts.run).state == "paused"


def test_elastic_takes_a_host_back_whose_cable_is_mended(hosts: Hosts) -> None:
    for host in (0, 1):
        hosts.start(host, "--max-steps", "100000", "--elastic")
    hosts.wait_for_checkpoint()
    hosts.cut_cable()
    hosts.wait_until(lambda: len(hosts.events("start")) == 2)
    time.sleep(10)  # the other side notices later than this one
    hosts.mend_cable()
    hosts.wait_until(lambda: len(hosts.events("start")) == 3)
    (hosts.run / STOP).touch()
    (code, said), (other_code, other) = hosts.end(0), hosts.end(1)
    assert (code, other_code) == (0, 0), said + other
    assert [start["processes"] for start in hosts.events("start")] == [2, 1, 2]
    assert "10.77.0.1 has not answered for" in other and "its return is waited for" in other


def test_a_killed_worker_is_started_again_on_every_host(hosts: Hosts) -> None:
    for host in (0, 1):
        hosts.start(host, "--max-steps", "100000", "--elastic")
    hosts.wait_for_checkpoint()
    launcher = hosts.started[1].pid
    workers = [pid for pid in ip("netns", "pids", NAMES[1]).split() if int(pid) != launcher]
    subprocess.run(["kill", "-9", *workers], check=True)
    hosts.wait_until(lambda: len(hosts.events("start")) == 2)
    (hosts.run / STOP).touch()
    (code, said), (other_code, other) = hosts.end(0), hosts.end(1)
    assert (code, other_code) == (0, 0), said + other
    assert [start["processes"] for start in hosts.events("start")] == [2, 2]
    assert "on 10.77.0.2) was killed by SIGKILL" in said and "starting again from the last checkpoint" in said
