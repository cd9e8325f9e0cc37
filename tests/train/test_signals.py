"""Signals that save and end a run: in this process what is heard, in real ones what becomes of the training."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
import torch

from gptloom.config.errors import UserError
from gptloom.config.model import ModelConfig
from gptloom.config.signals import signals_named
from gptloom.model.reference import finished_checkpoints
from gptloom.model.transformer import Transformer
from gptloom.stages.compare_runs import compare_runs
from gptloom.stages.killing import Attempt, AttemptFailed, Moment
from gptloom.train.loop import fit
from gptloom.train.objective import NextToken
from gptloom.train.optimizers import Optimizer, OptimizerSettings
from gptloom.train.run import LoopSettings, Run, RunState, read_state

posix = pytest.mark.skipif(os.name == "nt", reason="Windows has no such signals")
STEPS = 100  # of about 15 ms: long enough to be interrupted, short enough to be finished
SHAPE = ["--n-layer", 2, "--d-model", 16, "--n-head", 2, "--context", 16, "--batch-tokens", 512, "--micro-batch", 8]
PACE = ["--max-steps", STEPS, "--log-every", 1, "--eval-every", 50, "--save-every", 50, "--limit-batches", 2]
REST = ["--dropout", 0.1, "--sample-tokens", 0, "--threads", 1, "--log", "none", "--no-compile"]


# ---- names -------------------------------------------------------------------------------------------------------


@posix
def test_names_with_and_without_sig_in_any_case() -> None:
    assert signals_named(["USR1", "SIGUSR2", "term", "sighup"]) == [
        signal.SIGUSR1,
        signal.SIGUSR2,
        signal.SIGTERM,
        signal.SIGHUP,
    ]


@posix
def test_wrong_names_are_refused_all_at_once() -> None:
    with pytest.raises(UserError) as refused:
        signals_named(["USR11", "USR1", "KILL", "SIGSTOP", "SEGV", "15"])
    said = {problem.what.split(":")[0]: problem for problem in refused.value.problems}
    assert list(said) == [f"--save-on-signal {name}" for name in ("USR11", "KILL", "SIGSTOP", "SEGV", "15")]
    assert "did you mean USR1 or USR2" in str(said["--save-on-signal USR11"].mend)
    assert "nothing can be saved" in said["--save-on-signal KILL"].what
    assert "broken" in said["--save-on-signal SEGV"].what


# ---- what is heard -----------------------------------------------------------------------------------------------


def training(folder: Path, hook, save_on_signal: list[str], steps: int = 6) -> Run:  # type: ignore[no-untyped-def]
    """A tiny training in this process."""
    from gptloom.data.batch import Batch

    def batch_of(step: int) -> Batch:
        ids = torch.randint(29, (2, 13), generator=torch.Generator().manual_seed(step))
        return Batch(ids[:, :-1].contiguous(), ids[:, 1:].contiguous(), torch.ones(2, 12))

    config = ModelConfig(vocab_size=29, context=12, n_layer=1, n_head=2, d_model=16, d_ff=32)
    model = Transformer.initialised(config, seed=4)
    run = Run.create(folder, LoopSettings(steps=steps))
    run.save_on_signal = save_on_signal
    return fit(run, NextToken(), batch_of, model, Optimizer(model, OptimizerSettings()), [hook])


def at_step(step: int, *numbers: int):  # type: ignore[no-untyped-def]
    """A hook that sends this process signals."""

    def send(event: dict, run: Run) -> None:
        if event["type"] == "train" and event["step"] == step:
            for number in numbers:
                os.kill(os.getpid(), number)

    return send


@posix
def test_a_signal_asked_for_pauses_and_its_handler_is_put_back(tmp_path: Path) -> None:
    def own(number: int, frame: object) -> None:
        raise AssertionError("the run's own handler is in place while it works")

    before = signal.signal(signal.SIGUSR1, own)
    try:
        run = training(tmp_path / "run", at_step(2, signal.SIGUSR1), ["usr1"])
        assert signal.getsignal(signal.SIGUSR1) is own
    finally:
        signal.signal(signal.SIGUSR1, before)
    assert (run.state.state, run.state.reason, run.state.step) == ("paused", "SIGUSR1", 2)


@posix
def test_asking_by_name_is_stronger_than_nohup(tmp_path: Path) -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        ignored = training(tmp_path / "one", at_step(2, signal.SIGHUP), [])
        heard = training(tmp_path / "two", at_step(2, signal.SIGHUP), ["HUP"])
        assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)
    assert (ignored.state.state, ignored.state.step) == ("finished", 6)
    assert (heard.state.state, heard.state.reason, heard.state.step) == ("paused", "SIGHUP", 2)


@posix
def test_a_second_ctrl_c_leaves_before_the_step_is_done(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        training(tmp_path / "run", at_step(3, signal.SIGINT, signal.SIGINT), [])
    state = read_state(tmp_path / "run")
    assert (state.state, state.reason, state.step) == ("failed", "broken off by a second Ctrl-C", 3)
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


@posix
def test_two_different_signals_are_no_second_ctrl_c(tmp_path: Path) -> None:
    run = training(tmp_path / "run", at_step(3, signal.SIGINT, signal.SIGTERM, signal.SIGHUP), [])
    assert (run.state.state, run.state.step) == ("paused", 3)


@posix
def test_outside_the_main_thread_the_option_is_refused(tmp_path: Path) -> None:
    refused: list[BaseException] = []

    def work() -> None:
        try:
            training(tmp_path / "run", lambda event, run: None, ["USR1"])
        except UserError as error:
            refused.append(error)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert "main thread" in str(refused[0])


# ---- real processes ----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("text") / "plays.txt"
    path.write_text("\n".join(f"The {n}th of {n * n} kings went down to river {n % 7}." for n in range(900)))
    return path


def pretrain(folder: Path, text: Path, *more: object) -> Attempt:
    command = ["pretrain", "--data", text, "--out", folder, *SHAPE, *PACE, *REST, *more]
    return Attempt(folder, command, folder.with_suffix(".log"), eval_every=50)


@pytest.fixture(scope="module")
def straight(text: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("straight") / "run"
    with pretrain(folder, text) as attempt:
        attempt.finish(120)
    return folder


def wait_for_step(attempt: Attempt, step: int) -> None:
    assert attempt.wait_for(Moment(step), 60), "it ended before"


def finished_equal(run: Path, straight: Path) -> bool:
    with Attempt(run, ["resume", run], run.with_suffix(".resume.log"), eval_every=50) as attempt:
        attempt.finish(120)
    return compare_runs(run, straight).exact


@posix
@pytest.mark.slow
@pytest.mark.parametrize("name", ["SIGTERM", "SIGINT", "SIGHUP", "SIGUSR1"])
def test_a_signal_saves_ends_well_and_resumes_to_the_bit(name: str, text: Path, straight: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    with pretrain(run, text, "--save-on-signal", "USR1") as attempt:
        wait_for_step(attempt, 10)
        attempt.send(getattr(signal, name))
        said = attempt.finish(60)  # with exit code 0
    assert (said["state"], said["reason"]) == ("paused", name)
    state = read_state(run)
    assert (state.state, state.reason) == ("paused", name) and 10 <= state.step < STEPS
    assert (run / "checkpoints" / f"step-{state.step:08d}" / "state.json").exists()
    assert finished_equal(run, straight)


@posix
@pytest.mark.slow
def test_gptloom_stop_from_another_terminal(text: Path, straight: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    with pretrain(run, text) as attempt:
        wait_for_step(attempt, 5)
        asked = subprocess.run([sys.executable, "-m", "gptloom", "stop", run], capture_output=True, check=False)
        said = attempt.finish(60)
    assert asked.returncode == 0
    assert (said["state"], said["reason"]) == ("paused", "stop was asked for")
    assert finished_equal(run, straight)


@posix
@pytest.mark.slow
def test_ctrl_c_twice_ends_with_130_in_mid_step(text: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    long_steps = ["--batch-tokens", 512 * 24, "--max-steps", 5]
    with pretrain(run, text, *long_steps) as attempt:
        wait_for_step(attempt, 1)
        attempt.send(signal.SIGINT)
        time.sleep(0.05)
        attempt.send(signal.SIGINT)
        with pytest.raises(AttemptFailed, match="ended with code 130"):
            attempt.finish(60)
    state = read_state(run)
    assert (state.state, state.reason) == ("failed", "broken off by a second Ctrl-C") and state.step < 3
    assert not finished_checkpoints(run)
    with Attempt(run, ["resume", run], run.with_suffix(".resume.log"), eval_every=50) as attempt:
        assert attempt.finish(120)["state"] == "finished"


@posix
@pytest.mark.slow
def test_under_nohup_a_lost_terminal_ends_nothing(text: Path, straight: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)  # what nohup does, and a process it starts inherits
    try:
        with pretrain(run, text) as attempt:
            wait_for_step(attempt, 10)
            attempt.send(signal.SIGHUP)
            assert attempt.finish(120)["state"] == "finished"
    finally:
        signal.signal(signal.SIGHUP, before)
    assert compare_runs(run, straight).exact


@posix
@pytest.mark.slow
def test_one_of_several_processes_hears_it_and_all_stop_at_that_step(text: Path, tmp_path: Path) -> None:
    several = ["--processes", 2, "--save-on-signal", "USR1"]
    with pretrain(tmp_path / "straight", text, *several) as attempt:
        attempt.finish(240)
    run = tmp_path / "run"
    with pretrain(run, text, *several) as attempt:
        wait_for_step(attempt, 10)
        os.kill(attempt.workers[-1], signal.SIGUSR1)
        said = attempt.finish(120)
    assert (said["state"], said["reason"]) == ("paused", "SIGUSR1")
    state = read_state(run)
    assert 10 <= state.step < STEPS and list(finished_checkpoints(run))[-1] == state.step
    assert finished_equal(run, tmp_path / "straight")


def test_a_wrong_name_is_refused_by_the_command(text: Path, tmp_path: Path) -> None:
    import gptloom

    with pytest.raises(UserError, match="--save-on-signal USR9"):
        gptloom.pretrain(data=text, out=tmp_path / "run", save_on_signal="USR9", max_steps=1, quiet=True, log="none")


def test_run_state_of_a_fresh_run_listens_to_nothing_further(tmp_path: Path) -> None:
    assert Run(tmp_path, LoopSettings(steps=1), RunState()).save_on_signal == []
