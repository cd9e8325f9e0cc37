"""Launchers of several machines, played by several on this one: meeting, losing and finding each other again."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from gptloom.config.errors import UserError
from gptloom.train.crew import Crew
from gptloom.train.hosts import work_together
from gptloom.train.meeting import Meeting
from gptloom.train.network import free_port, interface_towards, own_place
from gptloom.train.wire import Wire

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="127.0.0.2 stands for a second machine")

NODES = ["127.0.0.1", "127.0.0.2", "127.0.0.3"]
LAUNCHER = """
import signal, sys
from gptloom.config.errors import UserError
from gptloom.train.crew import Crew
from gptloom.train import hosts, meeting
from gptloom.train.launch import run_crew
hosts.GRACE = meeting.GRACE = meeting.SETTLE = 1.0
place, port, elastic, timeout, processes, worker, *nodes = sys.argv[1:]
crew = Crew((sys.executable, '-S', '-c', worker), int(processes))
try:
    sys.exit(run_crew(crew, nodes, int(place), int(port), elastic == 'True', float(timeout), []))
except UserError as error:
    sys.exit(f'{error}\\nexit code 2')
"""
KNOWN = """
import json, os, signal, sys, time
rank, size, restarts = [int(os.environ[name]) for name in ('RANK', 'WORLD_SIZE', 'TORCHELASTIC_RESTART_COUNT')]
folder = {folder!r}
heard = []
signal.signal(signal.SIGTERM, lambda number, frame: heard.append(number))
def note(**what):
    with open(os.path.join(folder, 'log'), 'a') as log:
        log.write(json.dumps(dict(rank=rank, size=size, restarts=restarts, **what)) + '\\n')
def wait_for(name):
    while not os.path.exists(os.path.join(folder, name)) and not heard: time.sleep(0.02)
"""


class Machines:
    """Launchers by place, each a process; ``log`` is what their workers noted."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.port = folder, free_port()
        self.launchers: dict[int, subprocess.Popen[str]] = {}

    def start(
        self, place: int, code: str, *, of: int = 2, elastic: bool = False, timeout: float = 30, processes: int = 1
    ) -> None:
        worker = KNOWN.format(folder=str(self.folder)) + code
        options = [place, self.port, elastic, timeout, processes, worker, *NODES[:of]]
        call = [sys.executable, "-c", LAUNCHER, *map(str, options)]
        self.launchers[place] = subprocess.Popen(call, stderr=subprocess.PIPE, text=True)

    def end(self, place: int) -> tuple[int, str]:
        """Exit code and messages, once it has ended."""
        launcher = self.launchers.pop(place)
        _, said = launcher.communicate(timeout=40)
        return launcher.returncode, said

    def kill(self, place: int) -> None:
        """As a machine that loses its power: launcher and workers at once."""
        launcher = self.launchers.pop(place)
        children = subprocess.run(["ps", "-o", "pid=", "--ppid", str(launcher.pid)], capture_output=True, text=True)
        subprocess.run(["kill", "-9", str(launcher.pid), *children.stdout.split()])
        launcher.communicate()

    def log(self) -> list[dict[str, int]]:
        path = self.folder / "log"
        return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []

    def wait_until(self, condition: Callable[[], bool]) -> None:
        until = time.monotonic() + 30
        while not condition():
            assert time.monotonic() < until, self.log()
            time.sleep(0.02)


@pytest.fixture
def machines(tmp_path: Path) -> Iterator[Machines]:
    machines = Machines(tmp_path)
    yield machines
    for place in list(machines.launchers):
        machines.kill(place)


def test_ranks_follow_the_order_of_nodes_and_the_first_is_the_master(machines: Machines) -> None:
    code = (
        "note(local=int(os.environ['LOCAL_RANK']), address=os.environ['MASTER_ADDR'], port=os.environ['MASTER_PORT'])"
    )
    machines.start(2, code, of=3, processes=1)
    machines.start(1, code, of=3, processes=2)
    machines.start(0, code, of=3, processes=2)
    assert [machines.end(place)[0] for place in (0, 1, 2)] == [0, 0, 0]
    log = sorted(machines.log(), key=lambda line: line["rank"])
    assert [(line["rank"], line["local"]) for line in log] == [(0, 0), (1, 1), (2, 0), (3, 1), (4, 0)]
    assert {(line["size"], line["address"]) for line in log} == {(5, "127.0.0.1")}
    assert len({line["port"] for line in log}) == 1 and log[0]["port"] != machines.port


def test_a_machine_with_another_command_is_refused(machines: Machines) -> None:
    machines.start(0, "note()")
    machines.start(1, "note(other=1)")
    code, said = machines.end(1)
    assert code == 1 and "the command here differs from that on 127.0.0.1" in said and "other=1" in said
    machines.start(1, "note()")
    assert (machines.end(0)[0], machines.end(1)[0]) == (0, 0)  # the right one is still taken


def test_a_command_given_twice_on_a_machine_disturbs_nobody(machines: Machines) -> None:
    code = "note()\nwait_for('finish')"
    for place in (0, 1):
        machines.start(place, code)
    machines.wait_until(lambda: len(machines.log()) == 2)
    taking_part = machines.launchers[1]
    machines.start(1, code)
    refused, said = machines.end(1)
    assert refused == 1 and "127.0.0.2 takes part already" in said
    machines.launchers[1] = taking_part
    (machines.folder / "finish").touch()
    assert (machines.end(0)[0], machines.end(1)[0]) == (0, 0)


def test_a_machine_that_does_not_come_is_named(machines: Machines) -> None:
    machines.start(0, "note()", timeout=1)
    code, said = machines.end(0)
    assert code == 2 and "127.0.0.2 did not come within 1 s" in said


def test_a_first_machine_that_does_not_answer_is_named(machines: Machines) -> None:
    machines.start(1, "note()", timeout=1)
    code, said = machines.end(1)
    assert code == 1 and f"127.0.0.1 did not answer at port {machines.port} within 1 s" in said


def test_a_lost_machine_ends_the_run_on_the_others(machines: Machines) -> None:
    for place in (0, 1):
        machines.start(place, "note(); time.sleep(60)", processes=2)
    machines.wait_until(lambda: len(machines.log()) == 4)
    machines.kill(1)
    code, said = machines.end(0)
    assert code == 3 and "stopped: 127.0.0.2 (processes 2 to 3) is gone" in said


def test_a_lost_first_machine_ends_the_run_on_the_others(machines: Machines) -> None:
    for place in (0, 1):
        machines.start(place, "note(); time.sleep(60)")
    machines.wait_until(lambda: len(machines.log()) == 2)
    machines.kill(0)
    code, said = machines.end(1)
    assert code == 3 and "stopped: 127.0.0.1 is gone" in said


def test_a_killed_worker_ends_the_run_everywhere_and_is_named(machines: Machines) -> None:
    code = "note()\nif rank: os.kill(os.getpid(), 9)\ntime.sleep(60)"
    machines.start(0, code)
    machines.start(1, code)
    for place in (0, 1):
        ended, said = machines.end(place)
        assert ended == 3 and "process 1 (pid" in said and "on 127.0.0.2) was killed by SIGKILL" in said


def test_elastic_goes_on_without_a_lost_machine_and_takes_it_back(machines: Machines) -> None:
    code = "note()\nwait_for('finish')"
    for place in (0, 1):
        machines.start(place, code, elastic=True)
    machines.wait_until(lambda: len(machines.log()) == 2)
    machines.kill(1)
    machines.wait_until(lambda: len(machines.log()) == 3)
    assert machines.log()[-1] == {"rank": 0, "size": 1, "restarts": 1}
    machines.start(1, code, elastic=True)
    machines.wait_until(lambda: len(machines.log()) == 5)
    assert {(line["size"], line["restarts"]) for line in machines.log()[3:]} == {(2, 2)}
    (machines.folder / "finish").touch()
    (first, said), (second, _) = machines.end(0), machines.end(1)
    assert (first, second) == (0, 0)
    assert "127.0.0.2 (process 1) is gone (connection closed): starting again from the last checkpoint" in said
    assert "127.0.0.2 is here: starting again" in said


@pytest.mark.slow
def test_elastic_starts_all_again_after_a_killed_worker(machines: Machines) -> None:
    code = "note()\nif rank and not restarts: os.kill(os.getpid(), 9)\nif not restarts: time.sleep(60)"
    machines.start(0, code, elastic=True)
    machines.start(1, code, elastic=True)
    assert (machines.end(0)[0], machines.end(1)[0]) == (0, 0)
    assert sorted((line["restarts"], line["rank"]) for line in machines.log()) == [(0, 0), (0, 1), (1, 0), (1, 1)]


def test_elastic_does_not_repeat_a_users_mistake(machines: Machines) -> None:
    machines.start(0, "note()\nsys.exit(2)", elastic=True)
    machines.start(1, "note()\nsys.exit(2)", elastic=True)
    assert (machines.end(0)[0], machines.end(1)[0]) == (2, 2)
    assert len(machines.log()) == 2


def test_elastic_waits_for_a_first_machine_that_is_started_again(machines: Machines) -> None:
    code = "note()\nwait_for('finish')"
    for place in (0, 1):
        machines.start(place, code, elastic=True)
    machines.wait_until(lambda: len(machines.log()) == 2)
    machines.kill(0)
    machines.start(0, code, elastic=True)
    machines.wait_until(lambda: len(machines.log()) == 4)
    (machines.folder / "finish").touch()
    assert (machines.end(0)[0], machines.end(1)[0]) == (0, 0)


def test_a_signal_to_one_machine_reaches_its_workers_and_all_end_well(machines: Machines) -> None:
    code = "note()\nwait_for('saved')\nopen(os.path.join(folder, 'saved'), 'w').close()"
    for place in (0, 1):
        machines.start(place, code)
    machines.wait_until(lambda: len(machines.log()) == 2)
    machines.launchers[1].terminate()
    assert (machines.end(0)[0], machines.end(1)[0]) == (0, 0)


def test_ctrl_c_while_waiting_ends_it_for_all(machines: Machines) -> None:
    machines.start(0, "note()", of=3)
    machines.start(1, "note()", of=3)
    said = machines.launchers[0].stderr
    assert said is not None and any("127.0.0.2 is here; waiting for 127.0.0.3" in line for line in said)
    machines.launchers[1].terminate()
    assert (machines.end(1)[0], machines.end(0)[0]) == (130, 130)
    assert machines.log() == []


def test_strangers_at_the_port_disturb_nobody(machines: Machines) -> None:
    machines.start(0, "note()")
    words = [
        b"GET / HTTP/1.1\r\n\r\n",
        b'{"type": 3}\n',
        b'{"type": "hello", "node": 9, "command": []}\n',
        b'{"type": "hello", "node": -1, "command": [], "processes": 1, "port": 1}\n',
        b"[1]\n",
        b"\xff\xfe\n",
    ]
    for word in words:
        with connected(machines.port) as stranger:
            stranger.sendall(word)
            stranger.settimeout(10)
            assert stranger.recv(100) == b""  # shown the door
    machines.start(1, "note()")
    assert (machines.end(0)[0], machines.end(1)[0]) == (0, 0)


def connected(port: int) -> socket.socket:
    until = time.monotonic() + 20
    while True:
        try:
            return socket.create_connection(("127.0.0.1", port))
        except OSError:
            assert time.monotonic() < until
            time.sleep(0.05)


# ---- mistakes, each before anything is started -----------------------------------------------------------------------


def problems_of(nodes: list[str]) -> list[str]:
    with pytest.raises(UserError) as refused:
        own_place(nodes)
    return [problem.what for problem in refused.value.problems]


def test_all_names_that_do_not_resolve_are_named() -> None:
    said = problems_of(["localhost", "no-such-host.invalid", "nor-this.invalid"])
    assert len(said) == 2 and "'no-such-host.invalid' does not resolve" in said[0] and "'nor-this.invalid'" in said[1]


def test_this_machine_must_be_one_of_them() -> None:
    assert (
        "is none of --nodes 203.0.113.1 203.0.113.2" in problems_of(["203.0.113.1", "203.0.113.2"])[0]
    )  # RFC 5737: nobody's


def test_a_machine_is_named_once() -> None:
    assert problems_of(["localhost", "203.0.113.1", "203.0.113.1"]) == ["--nodes names 203.0.113.1 twice"]
    assert "localhost and 127.0.0.1 are the same machine" in problems_of(["localhost", "127.0.0.1"])[0]


def test_this_machines_place_among_the_nodes() -> None:
    assert own_place(["203.0.113.1", "localhost", "203.0.113.3"]) == 1


def test_a_port_in_use_is_named() -> None:
    with socket.create_server(("", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(UserError, match=f"port {port} cannot be used on this machine: .*in use"):
            Meeting(NODES, [], port, elastic=False, timeout=5)
        with pytest.raises(UserError, match="in use"):
            work_together(Crew(("true",), 1), deque(), nodes=NODES, place=0, port=port, elastic=False, timeout=5)


def test_the_interface_towards_oneself_is_the_loopback() -> None:
    assert interface_towards("127.0.0.1") == "lo"
    assert interface_towards("no-such-host.invalid") is None


# ---- the wire --------------------------------------------------------------------------------------------------------


def test_documents_arrive_whole_whatever_the_pieces() -> None:
    left, right = socket.socketpair()
    wire = Wire(right)
    for piece in (b'{"type": "a", "x"', b': 1}\n{"type": "beat"}\n{"ty', b'pe": "b"}\n'):
        left.sendall(piece)
        time.sleep(0.01)
    assert wire.receive(1) == [{"type": "a", "x": 1}, {"type": "b"}]
    left.close()
    with pytest.raises(ConnectionError, match="is gone"):
        wire.receive(1)


def test_silence_is_a_lost_connection(monkeypatch: pytest.MonkeyPatch) -> None:
    left, right = socket.socketpair()
    monkeypatch.setattr("gptloom.train.wire.SILENCE", 0.05)
    wire = Wire(right)
    time.sleep(0.1)
    with pytest.raises(ConnectionError, match="has not answered"):
        wire.receive()
    left.close()
