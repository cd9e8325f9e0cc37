"""Guards through the command line: what diverges, what is poisoned, and what does not fit into memory."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

import gptloom as package
from gptloom.data.batches import TokenBatches
from gptloom.model.reference import finished_checkpoints
from gptloom.observe.events import read_events
from gptloom.stages import training as stage
from gptloom.train.objective import NextToken
from gptloom.train.rollback import excluded_windows
from gptloom.train.run import read_state

PLAIN = ("--sample-tokens", 0, "--eval-every", 1000, "--optimizer", "adamw")


def guards(run: Path) -> list[dict[str, Any]]:
    return [event for event in read_events(run / "events.jsonl") if event["type"] == "guard"]


@pytest.mark.slow
def test_a_learning_rate_far_too_high_is_diagnosed(pretrain: Any, tmp_path: Path) -> None:
    done = pretrain("--max-steps", 60, "--lr", 1e3, "--warmup", 0, "--optimizer", "muon", "--precision", "bf16")
    assert done.code == 3, done.err
    told = done.err[done.err.index("stopped: ") :].splitlines()
    assert "learning rate 1.00e+03, bfloat16" in told[0]
    assert sum("gradient norm" in line and line.startswith("  step ") for line in told) == 10
    assert any("blocks.0." in line for line in told)  # which tensor
    assert told[-3] == "  1. a third of the learning rate: --lr 3.3e+02"
    assert read_state(tmp_path / "run").state == "failed"
    assert guards(tmp_path / "run")[-1]["action"] == "training stopped"


@pytest.mark.slow
def test_a_loss_that_stays_worse_than_knowing_nothing_is_divergence(pretrain: Any, tmp_path: Path) -> None:
    done = pretrain("--max-steps", 400, "--lr", 10, *PLAIN)
    assert done.code == 3, done.err
    assert "the training has diverged: the mean loss" in done.err and "far above that of knowing nothing" in done.err
    (guard,) = guards(tmp_path / "run")
    assert guard["action"] == "training stopped" and 100 <= guard["step"] < 150
    assert guard["diagnosis"] in done.err


class Poison:
    """From step 12 on, twelve steps' windows become poison, by their text, wherever they come again."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.step, self.attempt, self.poisoned = 0, 0, set()  # type: tuple[int, int, set[bytes]]
        clean = NextToken.loss

        def loss(objective: NextToken, model: Any, batch: Any) -> dict[str, torch.Tensor]:
            rows = {row.numpy().tobytes() for row in batch.ids}
            if torch.is_grad_enabled() and 12 <= self.step < 24 and self.attempt == 0:
                self.poisoned |= rows
            terms = clean(objective, model, batch)
            return {"next_token": terms["next_token"] * (torch.inf if rows & self.poisoned else 1.0)}

        monkeypatch.setattr(NextToken, "loss", loss)

    def __call__(self, event: dict[str, Any], run: Any) -> None:
        self.step, self.attempt = run.state.step, event.get("attempt", self.attempt)


@pytest.mark.slow
def test_poisoned_text_is_left_behind_and_shown(
    text: Path, gptloom: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shape = {"n_layer": 2, "d_model": 16, "n_head": 2, "context": 16, "batch_tokens": 256, "micro_batch": 8}
    seen: dict[int, TokenBatches] = {}
    real = TokenBatches.batch

    def batch(self: TokenBatches, step: int, excluded: Any = ()) -> Any:
        seen[step] = real(self, step, excluded)
        return seen[step]

    monkeypatch.setattr(TokenBatches, "batch", batch)
    run = tmp_path / "run"
    poison = Poison(monkeypatch)
    package.pretrain(
        data=[str(text)], out=str(run), max_steps=30, save_every=5, eval_every=100, sample_tokens=0, threads=1,
        log=["none"], quiet=True, callbacks=[poison], **shape,
    )  # fmt: skip
    (back,) = [guard for guard in guards(run) if "to_step" in guard]
    assert (back["to_step"], back["step"]) == (10, 22) and "leaving out 176 windows of text" in back["action"]
    assert back["text"].startswith("row ")
    assert len(excluded_windows(guards(run))) == 11 * 16
    assert read_state(run).state == "finished" and read_state(run).step == 30
    for step in (5, 12, 25):  # before the trouble, in its place, after it
        shown = package.data_show(str(run), step=step, rows=16)
        assert [window.ids[:-1] for window in shown] == seen[step - 1].ids.tolist()
    # An extension goes on in the same order.
    assert gptloom("resume", run, "--max-steps", 34, "--quiet").code == 0
    assert len(excluded_windows(guards(run))) == 11 * 16
    assert list(finished_checkpoints(run))[-1] == 34


def test_out_of_memory_in_training_names_three_levers(pretrain: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_room(*given: object) -> None:
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes.")

    monkeypatch.setattr("gptloom.train.loop.forward_backward", no_room)
    done = pretrain("--max-steps", 5, *PLAIN)
    assert done.code == 2, done.err
    told = done.err[done.err.index("out of memory: ") :]
    places = [told.index(lever) for lever in ("1. --micro-batch 4", "2. --recompute", "3. --context 8")]
    assert places == sorted(places) and told.count("saves about") == 3


def test_auto_takes_the_whole_batch_where_it_fits(pretrain: Any, tmp_path: Path) -> None:
    assert pretrain("--max-steps", 2, "--micro-batch", "auto", *PLAIN).code == 0
    option = yaml.safe_load((tmp_path / "run" / "config.yaml").read_text(encoding="utf-8"))["options"]["micro_batch"]
    assert option == {"value": 16, "source": "derived", "rule": "auto: all of the batch"}


@pytest.mark.slow
def test_auto_halves_what_does_not_fit(pretrain: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clean = NextToken.loss

    def loss(objective: NextToken, model: Any, batch: Any) -> dict[str, torch.Tensor]:
        if len(batch.ids) > 5:
            raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes.")
        return clean(objective, model, batch)

    monkeypatch.setattr(NextToken, "loss", loss)
    done = pretrain("--max-steps", 2, "--micro-batch", "auto", *PLAIN)
    assert done.code == 0 and "--micro-batch 4: the memory does not hold 8 at a time" in done.err
    assert gptloom_events_say(tmp_path / "run") == 256
    given = pretrain("--max-steps", 2, "--micro-batch", 8, *PLAIN, out="given")
    assert given.code == 2 and "1. --micro-batch 4" in given.err
    assert not (tmp_path / "given").exists()


def gptloom_events_say(run: Path) -> int:
    """Tokens of a step, by the start event."""
    return next(event["tokens_per_step"] for event in read_events(run / "events.jsonl") if event["type"] == "start")


LIMITED = """
import resource, sys
import torch
from gptloom.cli.main import main
from gptloom.train.hooks import Save

save = Save.__call__


def save_without_limit(self, event, run):  # the threads that write a checkpoint need room of their own
    if event["type"] == "train":
        resource.setrlimit(resource.RLIMIT_AS, (-1, -1))
    return save(self, event, run)


Save.__call__ = save_without_limit
torch.set_num_threads(1)
used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + (500 << 20), -1))
sys.exit(main(sys.argv[1:]))
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="RLIMIT_AS bounds allocations on Linux only")
def test_auto_in_real_memory_that_is_too_small(text: Path, tmp_path: Path) -> None:
    call = f"""pretrain --data {text} --out {tmp_path / "run"} --n-layer 4 --d-model 128 --n-head 2 --context 32
        --batch-tokens 32768 --max-steps 1 --threads 1 --log none --sample-tokens 0 --split none --precision fp32"""
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}

    def limited(*more: str) -> subprocess.CompletedProcess[str]:
        program = [sys.executable, "-c", LIMITED, *call.split(), *more]
        return subprocess.run(program, env=environment, capture_output=True, text=True, timeout=300, check=False)

    refused = limited("--micro-batch", "1024")
    assert refused.returncode == 2 and "1. --micro-batch 512 (saves about" in refused.stderr, refused.stderr
    done = limited("--micro-batch", "auto")
    assert done.returncode == 0, done.stderr
    option = yaml.safe_load((tmp_path / "run" / "config.yaml").read_text(encoding="utf-8"))["options"]["micro_batch"]
    assert 1 <= option["value"] < 1024 and "the memory does not hold" in option["rule"]
    assert stage.FINAL and (tmp_path / "run" / stage.FINAL / "model.safetensors").is_file()
