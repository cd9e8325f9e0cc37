"""What goes wrong with several processes: one clear message, exit code 2, nothing half-written, nobody left behind.

Everything here is the real command in processes of its own; ``--processes`` starts more of them.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

import gptloom as package
from gptloom.config.errors import UserError
from gptloom.model.reference import finished_checkpoints
from gptloom.train.run import read_state

pytestmark = pytest.mark.skipif(os.name == "nt", reason="Windows has no such signals")

MODEL = ("--n-layer", 2, "--d-model", 16, "--n-head", 2, "--context", 16, "--tokenizer", "chars")
REST = ("--batch-tokens", 256, "--micro-batch", 8, "--device", "cpu", "--threads", 1, "--log", "none")
LONG = ("--max-steps", 30_000, "--log-every", 1, "--eval-every", 10_000, "--save-every", 5, "--sample-tokens", 0)
TWO = ("--processes", 2)
WITHIN = 120.0  # seconds for anything: what takes longer hangs


class Started:
    """``gptloom ARGUMENTS`` at work, with all that it starts."""

    def __init__(self, folder: Path, arguments: Sequence[object], environment: Mapping[str, str]) -> None:
        self._out, self._err = (folder / f"{time.monotonic_ns()}.{name}" for name in ("out", "err"))
        with self._out.open("wb") as out, self._err.open("wb") as err:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "gptloom", *map(str, arguments)],
                cwd=folder,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=err,
                env={**os.environ, "OMP_NUM_THREADS": "1", **environment},
                start_new_session=True,
            )
        self._seen: set[int] = set()

    @property
    def workers(self) -> list[int]:
        """Process ids, the first rank's first."""
        listed = subprocess.run(
            ["ps", "-A", "-o", "pid=,ppid="], capture_output=True, text=True, check=True, timeout=20
        )
        pairs = [tuple(map(int, line.split())) for line in listed.stdout.splitlines()]
        found = sorted(pid for pid, parent in pairs if parent == self.process.pid)
        self._seen.update(found)
        return found

    def end(self, within: float = WITHIN) -> tuple[int, str, str]:
        """Exit code, stdout and stderr; fails on a hang, on what is left behind, and on a traceback."""
        assert self.workers is not None  # those that work now must be gone then
        try:
            code = self.process.wait(within)
        except subprocess.TimeoutExpired:
            self.kill()
            pytest.fail(f"it hangs:\n{self._err.read_text()}")
        left = [pid for pid in self._seen if Path(f"/proc/{pid}").exists()]
        out, err = self._out.read_text(encoding="utf-8"), self._err.read_text(encoding="utf-8")
        assert not left and "Traceback" not in err, err
        return code, out, err

    def kill(self) -> None:
        for pid in (*self.workers, self.process.pid):
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue
        self.process.wait()


class Bench:
    """A folder with a text, in which commands are started; the run they make is ``run``."""

    def __init__(self, folder: Path, text: Path) -> None:
        self.folder, self.text, self.run = folder, text, folder / "run"
        self.training = ("pretrain", "--data", text, *MODEL, *REST)
        self._started: list[Started] = []

    def start(self, *arguments: object, **environment: str) -> Started:
        self._started.append(Started(self.folder, arguments, environment))
        return self._started[-1]

    def pretrain(self, *options: object, **environment: str) -> Started:
        return self.start(*self.training, "--out", self.run, *options, **environment)

    def refused(self, *arguments: object) -> str:
        """The one message of a command that ends with code 2."""
        return one_message(*self.start(*arguments).end())

    def ranks(self, *options: Sequence[object], other_code: Path | None = None) -> list[tuple[int, str, str]]:
        """One training by a process for each of ``options``, started as ``torchrun`` does; how each of them ended."""
        with socket.socket() as found:
            found.bind(("127.0.0.1", 0))
            port = str(found.getsockname()[1])
        size = str(len(options))
        shared = {"WORLD_SIZE": size, "LOCAL_WORLD_SIZE": size, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
        started = []
        for rank, given in enumerate(options):
            own = {"RANK": str(rank), "LOCAL_RANK": str(rank)}
            if other_code is not None and rank == len(options) - 1:
                own["PYTHONPATH"] = str(other_code)
            started.append(self.pretrain("--max-steps", 4, *given, **shared, **own))
        return [process.end() for process in started]

    def step(self) -> int:
        """How far the run is; -1 before its first event."""
        path = self.run / "events.jsonl"
        lines = path.read_text(encoding="utf-8").split("\n")[:-1] if path.exists() else []
        return max((json.loads(line)["step"] for line in lines), default=-1)

    def wait_for(self, condition: Callable[[], bool], started: Started) -> None:
        until = time.monotonic() + WITHIN
        while not condition():
            assert started.process.poll() is None, started.end()
            assert time.monotonic() < until, "it hangs"
            time.sleep(0.05)

    def wait_for_steps(self, steps: int, started: Started) -> None:
        before = self.step()
        self.wait_for(lambda: self.step() >= before + steps, started)

    def close(self) -> None:
        for process in self._started:
            if process.process.poll() is None:
                process.kill()


@pytest.fixture
def bench(tmp_path: Path, text: Path) -> Iterator[Bench]:
    bench = Bench(tmp_path, text)
    yield bench
    bench.close()


def messages(err: str) -> list[str]:
    """What is said of errors: the lines that begin with one, each with those that belong to it."""
    found: list[str] = []
    for line in err.splitlines():
        if line.startswith(("error", "stopped")):
            found.append(line)
        elif found and line.startswith("  "):
            found[-1] += "\n" + line
    return found


def one_message(code: int, out: str, err: str) -> str:
    said = messages(err)
    assert code == 2 and len(said) == 1, (code, err)
    assert "\n  try: " in said[0] and said[0].startswith("error: ")
    return said[0]


def silent(code: int, out: str, err: str) -> bool:
    return code == 2 and not out and not err.strip()


# ---- how many, and how the model is shared ---------------------------------------------------------------------------


@pytest.mark.slow
def test_what_options_tell_is_refused_before_anything_is_started(bench: Bench) -> None:
    """Of all that tests/stages/test_stages_conflicts.py lists: the ways to share that cannot be."""
    said = messages(bench.pretrain("--processes", 3, "--strategy", "hsdp", "--port", 1234, "--offload").end()[2])
    assert [line.partition(" is")[0].split()[1] for line in said] == ["--strategy", "--offload", "--port", "3"]
    assert "this training is on the CPU" in said[1] and "try: --batch-tokens 240, or 2 processes" in said[3]
    assert not bench.run.exists()


@pytest.mark.slow
def test_what_only_the_text_tells_is_refused_by_the_first_process(bench: Bench) -> None:
    """The size of the model and its context follow from the text here, so that the workers find out."""
    training = ("pretrain", "--data", bench.text, *REST, "--out", bench.run, "--tokenizer", "chars")
    said = bench.refused(*training, *TWO, "--batch-tokens", 250)
    assert "--batch-tokens 250 is not a multiple of the context" in said
    said = bench.refused(*training, "--processes", 3, "--batch-tokens", 4096)
    assert "3 processes cannot share a batch of" in said and "or 2 processes" in said
    said = bench.refused("pretrain", "--data", bench.folder / "nowhere.txt", "--out", bench.run, *TWO)
    assert "no such file or folder" in said and "nowhere.txt" in said
    assert not bench.run.exists()


# ---- started by torchrun ---------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_ranks_with_other_options_are_named(bench: Bench) -> None:
    first, second = bench.ranks(("--lr", 0.01, "--seed", 3), ("--lr", 0.02, "--seed", 3, "--quiet"))
    said = one_message(*first)
    assert "--lr differs between the processes: 0.01 at process 0" in said and "0.02 at process 1" in said
    assert silent(*second) and not bench.run.exists()


@pytest.mark.slow
def test_ranks_with_other_code_are_named(bench: Bench, tmp_path: Path) -> None:
    other = tmp_path / "other"
    shutil.copytree(Path(package.__file__).parent, other / "gptloom", ignore=shutil.ignore_patterns("__pycache__"))
    with (other / "gptloom" / "data" / "order.py").open("a", encoding="utf-8") as file:
        file.write("\n# an order of my own\n")
    first, second = bench.ranks((), (), other_code=other)
    said = one_message(*first)
    assert "the code of gptloom differs between the processes" in said and "the same installation everywhere" in said
    assert silent(*second) and not bench.run.exists()


@pytest.mark.slow
def test_another_number_than_torchrun_started_is_refused(bench: Bench) -> None:
    first, second = bench.ranks(("--processes", 3), ("--processes", 3))
    assert "--processes says 3, and torchrun has started 2" in one_message(*first) and silent(*second)
    (alone,) = bench.ranks(TWO)
    assert "--processes says 2, and torchrun has started 1" in one_message(*alone)
    assert not bench.run.exists()


@pytest.mark.slow
def test_what_is_wrong_with_all_ranks_is_said_once(bench: Bench) -> None:
    first, second = bench.ranks(("--strategy", "hsdp"), ("--strategy", "hsdp"))
    assert "--strategy hsdp shards within each of several machines" in one_message(*first) and silent(*second)
    (alone,) = bench.ranks(("--strategy", "fsdp"))
    assert "--strategy does nothing: there is only one process" in one_message(*alone)
    first, second = bench.ranks(*[("--dry-run", "--json", "--decay", 0.1, "--schedule", "cosine")] * 2)
    assert "--decay is for --schedule trapezoid" in one_message(*first) and silent(*second)
    assert "--decay" in json.loads(first[1])["error"][0]["what"]
    assert not bench.run.exists()


@pytest.mark.slow
def test_a_dry_run_under_torchrun_has_one_answer(bench: Bench) -> None:
    (code, out, _), (code_2, out_2, err_2) = bench.ranks(*[("--dry-run", "--json", "--strategy", "fsdp")] * 2)
    assert (code, code_2) == (0, 0) and (out_2, err_2) == ("", "")
    assert json.loads(out)["options"]["strategy"] == "fsdp" and not bench.run.exists()


# ---- checkpoints of other runs, and other processes than before ------------------------------------------------------


def swap_checkpoint(run: Path, other: Path) -> None:
    shutil.rmtree(run / "checkpoints")
    shutil.copytree(other / "checkpoints", run / "checkpoints")


@pytest.mark.slow
def test_a_checkpoint_of_another_size_is_refused(bench: Bench) -> None:
    options = (*bench.training, "--max-steps", 2, "--sample-tokens", 0, *TWO, "--strategy", "fsdp")
    wide = bench.folder / "wide"
    assert bench.start(*options, "--out", bench.run).end()[0] == 0
    assert bench.start(*options, "--out", wide, "--d-model", 32).end()[0] == 0
    swap_checkpoint(bench.run, wide)
    for processes in ((), ("--processes", 1)):
        said = bench.refused("resume", bench.run, "--max-steps", 4, *processes)
        assert "the model is not of this run's size: d_model is 32 in the weights and 16 in the run" in said
        assert str(bench.run) in said and "put the checkpoint of this run back" in said


@pytest.mark.slow
def test_a_checkpoint_of_another_preset_or_a_derived_size_is_refused(gptloom: Any, text: Path, tmp_path: Path) -> None:
    common = ("--data", text, *REST, "--tokenizer", "chars", "--context", 16, "--sample-tokens", 0, "--max-steps", 1)
    for name, size in {"nano": ("--model", "nano"), "family": ("--model", "modern"), "own": ("--d-model", 16)}.items():
        assert gptloom("pretrain", *common, "--out", tmp_path / name, *size).code == 0
    for name, difference in (("nano", "d_model is 16 in the weights"), ("family", "number of parameters is")):
        swap_checkpoint(tmp_path / name, tmp_path / "own")
        refused = gptloom("resume", tmp_path / name, "--max-steps", 2)
        assert difference in one_message(refused.code, refused.out, refused.err)


@pytest.mark.slow
def test_a_run_goes_on_with_processes_that_fit_only(bench: Bench) -> None:
    assert bench.pretrain("--max-steps", 2, *TWO).end()[0] == 0
    before = sorted(bench.run.rglob("*"))
    more = ("resume", bench.run, "--max-steps", 4)
    said = bench.refused(*more, "--processes", 3)
    assert "3 processes cannot share a batch of 16 rows of 16 tokens evenly" in said
    assert sorted(bench.run.rglob("*")) == before
    assert read_state(bench.run).step == 2


def test_resuming_with_less_memory_says_what_would_fit(
    pretrain: Any, gptloom: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """In this process, where the memory can be faked."""
    assert pretrain("--max-steps", 2, "--sample-tokens", 0).code == 0
    monkeypatch.setattr("gptloom.stages.machine.device_memory", lambda device, processes=1: 10**8)
    refused = gptloom("resume", tmp_path / "run", "--max-steps", 4)
    assert "of memory in a process, which has 100 MB" in one_message(refused.code, refused.out, refused.err)
    assert "try: a machine with more memory" in refused.err and read_state(tmp_path / "run").step == 2


# ---- how they end ----------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_signals_and_stop_end_all_processes_well_and_resume_starts_as_many(bench: Bench) -> None:
    training = bench.pretrain(*LONG, *TWO)
    for ask, reason in (("SIGTERM", "SIGTERM"), ("SIGINT", "SIGINT"), ("stop", "stop was asked for")):
        bench.wait_for_steps(4, training)
        assert len(training.workers) == 2
        if ask == "stop":
            assert bench.start("stop", bench.run).end()[0] == 0
        else:
            training.process.send_signal(getattr(signal, ask))
        code, _, err = training.end()
        assert code == 0 and not messages(err), err
        state = read_state(bench.run)
        assert (state.state, state.reason) == ("paused", reason) and state.step in finished_checkpoints(bench.run)
        training = bench.start("resume", bench.run)
    bench.wait_for_steps(1, training)
    training.process.send_signal(signal.SIGTERM)
    assert training.end()[0] == 0
    alone = bench.start("resume", bench.run, "--processes", 1)
    bench.wait_for_steps(3, alone)
    assert not alone.workers  # no process but itself
    alone.process.send_signal(signal.SIGTERM)
    code, _, err = alone.end()
    assert code == 0 and "processes changed since the checkpoint (2, now 1)" in err


@pytest.mark.slow
@pytest.mark.parametrize("victim", [0, 1])
def test_a_killed_process_is_named_and_the_run_goes_on(bench: Bench, victim: int) -> None:
    training = bench.pretrain(*LONG, *TWO)
    bench.wait_for_steps(7, training)
    pid = training.workers[victim]
    os.kill(pid, signal.SIGKILL)
    code, _, err = training.end()
    said = messages(err)
    assert code == 3 and f"stopped: process {victim} (pid {pid}) was killed by SIGKILL" in said[0], err
    assert all(line.startswith("stopped:") for line in said)
    resumed = bench.start("resume", bench.run)
    bench.wait_for_steps(5, resumed)
    resumed.process.send_signal(signal.SIGTERM)
    assert resumed.end()[0] == 0 and read_state(bench.run).state == "paused"


@pytest.mark.slow
def test_a_second_training_into_the_same_folder_is_refused(bench: Bench) -> None:
    training = bench.pretrain(*LONG, *TWO)
    bench.wait_for_steps(1, training)
    for options in (TWO, (*TWO, "--overwrite"), ("--dry-run",)):
        said = bench.refused(*bench.training, "--out", bench.run, *options)
        assert "another process is training in this folder" in said and "gptloom follow" in said
    training.process.send_signal(signal.SIGTERM)
    assert training.end()[0] == 0
    said = bench.refused(*bench.training, "--out", bench.run, *TWO)
    assert "there is a run in this folder already" in said and "gptloom resume" in said


# ---- what is shown ---------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_one_document_and_quiet(bench: Bench) -> None:
    brief = ("--max-steps", 2, "--sample-tokens", 0, *TWO)
    code, out, _ = bench.pretrain(*brief, "--json").end()
    assert code == 0 and json.loads(out)["state"] == "finished"
    code, out, err = bench.pretrain(*brief, "--quiet", "--overwrite").end()
    assert (code, out, err) == (0, "", "")
    code, out, err = bench.start(*bench.training, "--dry-run", "--json", "--processes", 4, "--strategy", "fsdp").end()
    document = json.loads(out)
    assert code == 0 and document["dry_run"] and document["options"]["processes"] == 4
    assert "memory: of each of 4 processes" in err


@pytest.mark.slow
def test_python_starts_processes_too(text: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    options: dict[str, Any] = {
        "n_layer": 1,
        "d_model": 16,
        "n_head": 2,
        "context": 16,
        "batch_tokens": 64,
        "threads": 1,
    }
    options |= {"data": text, "out": tmp_path / "run", "max_steps": 2, "log": "none", "processes": 2}
    with pytest.raises(UserError, match="callbacks cannot be sent to other processes"):
        package.pretrain(**options, callbacks=[print])
    run = package.pretrain(**options, quiet=True, sample=["--the king"], sample_tokens=3)
    assert run.state.state == "finished" and run.events[0]["processes"] == 2
    assert next(event["prompt"] for event in run.events if event["type"] == "sample") == "--the king"
    assert capfd.readouterr() == ("", "")
