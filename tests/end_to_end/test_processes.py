"""Several processes train what one would: the real command with every strategy, and checkpoints that move between them.

A run is held against another by everything it left (gptloom/stages/compare_runs.py): losses and validation within the
tolerance, tensors within a hundred times that, since AdamW moves a weight with next to no gradient by its rounding.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from gptloom.model.reference import finished_checkpoints
from gptloom.model.store import load_model
from gptloom.observe.events import read_events
from gptloom.stages.compare_runs import compare_losses, compare_runs

ADAMW, MUON = 1e-5, 1e-3  # relative; Muon's orthogonalisation rounds to bf16
STEPS = 20
SHAPE = ("--n-layer", 2, "--d-model", 32, "--n-head", 4, "--context", 16, "--dropout", 0.0, "--tokenizer", "chars")
BATCH = ("--batch-tokens", 256, "--micro-batch", 2, "--precision", "fp32", "--seed", 3, "--schedule", "cosine")
PACE = ("--max-steps", STEPS, "--log-every", 1, "--eval-every", 10, "--save-every", 10, "--limit-batches", 2)
REST = ("--device", "cpu", "--threads", 1, "--log", "none", "--no-compile", "--sample-tokens", 0)
FSDP, TENSOR = ("--strategy", "fsdp"), ("--tensor-parallel", 2)
Train = Callable[..., Path]


@pytest.fixture
def train(gptloom: Any, text: Path, tmp_path: Path) -> Train:
    """A training of 20 steps, by default on one process with AdamW; returns its folder."""

    def run(name: str, *options: object, processes: int = 1, optimizer: str = "adamw") -> Path:
        several = ("--processes", processes) if processes > 1 else ()
        given = (*SHAPE, *BATCH, *PACE, *REST, "--optimizer", optimizer, *several, *options)
        done = gptloom("pretrain", "--data", text, "--out", tmp_path / name, *given)
        assert done.code == 0, done.err
        return tmp_path / name

    return run


def assert_alike(ours: Path, theirs: Path, tolerance: float) -> None:
    beyond = compare_runs(ours, theirs).beyond(tolerance)
    assert not beyond, [part.told(tolerance) for part in beyond]


def broken_off_at_10(run: Path, name: str) -> Path:
    """A copy of ``run`` as a crash after its checkpoint of step 10 would have left it."""
    copy = run.with_name(name)
    shutil.copytree(run, copy)
    shutil.rmtree(copy / "final")
    shutil.rmtree(copy / "checkpoints" / "step-00000020")
    state = json.loads((copy / "state.json").read_text(encoding="utf-8"))
    (copy / "state.json").write_text(
        json.dumps({**state, "state": "running", "reason": "", "step": 10}), encoding="utf-8"
    )
    return copy


# ---- the same curve --------------------------------------------------------------------------------------------------


def test_two_processes_train_what_one_would(train: Train) -> None:
    alone, two = train("alone"), train("two", processes=2)
    assert_alike(two, alone, ADAMW)
    start, *_, end = read_events(two / "events.jsonl")
    assert start["parallel"] == "2 processes: 2 whole copies of the model" and end["state"] == "finished"
    assert (two / "final" / "model.safetensors").exists()


@pytest.mark.slow
def test_shards_train_what_one_process_would_and_open_anywhere(train: Train, gptloom: Any) -> None:
    alone, sharded = train("alone"), train("sharded", *FSDP, processes=2)
    assert_alike(sharded, alone, ADAMW)
    at_10 = finished_checkpoints(sharded)[10]
    assert sorted(path.name for path in (at_10 / "model").glob("shard-*"))  # in pieces
    said = gptloom("generate", f"{sharded}@10", "--prompt", "the old", "--max-tokens", 8, "--temperature", 0, "--json")
    same = gptloom("generate", f"{alone}@10", "--prompt", "the old", "--max-tokens", 8, "--temperature", 0, "--json")
    texts = [answer.document[0]["completions"][0]["text"] for answer in (said, same)]
    assert texts[0] and texts[0] == texts[1]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("processes", "options"),
    [(2, TENSOR), (4, FSDP), (4, (*FSDP, *TENSOR)), (4, TENSOR), (2, (*FSDP, "--recompute"))],
    ids=["tensor", "fsdp-4", "fsdp-tensor", "copies-tensor", "fsdp-recompute"],
)
def test_every_way_to_share_has_the_curve_of_one_process(
    train: Train, processes: int, options: tuple[object, ...]
) -> None:
    assert_alike(train("shared", *options, processes=processes), train("alone"), ADAMW)


@pytest.mark.slow
@pytest.mark.parametrize("options", [(), FSDP, TENSOR], ids=["copies", "fsdp", "tensor"])
def test_muon_has_the_curve_of_one_process(train: Train, options: tuple[object, ...]) -> None:
    quiet = ("--lr", 0.005, "--embedding-lr", 0.001)  # at high rates the rounding of bf16 grows from step to step
    shared = train("shared", *options, *quiet, processes=2, optimizer="muon")
    alone = train("alone", *quiet, optimizer="muon")
    beyond = [part.told(MUON) for part in compare_losses(shared, alone) if part.distance > part.allowed(MUON)]
    assert not beyond


@pytest.mark.slow
def test_torchrun_is_the_same(train: Train, text: Path, tmp_path: Path) -> None:
    """``torchrun`` itself, and another number of nodes' worth of options left to it."""
    ours = train("ours", *FSDP, processes=2)
    given = (*SHAPE, *BATCH, *PACE, *REST, "--optimizer", "adamw", *FSDP)
    launcher = ("torch.distributed.run", "--standalone", "--nproc-per-node", 2, "-m", "gptloom", "--")
    command = [sys.executable, "-m", *launcher, "pretrain", "--data", text, "--out", tmp_path / "theirs", *given]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [str(word) for word in command], env=environment, capture_output=True, text=True, timeout=180, check=False
    )
    assert done.returncode == 0, done.stderr
    comparison = compare_runs(tmp_path / "theirs", ours)
    assert comparison.exact, [part.told(0.0) for part in comparison.beyond(0.0)]


# ---- checkpoints that move -------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_shards_go_on_on_any_number_of_processes(train: Train, gptloom: Any) -> None:
    straight = train("straight", *FSDP, processes=2)
    for processes in (1, 2, 4):
        run = broken_off_at_10(straight, f"on-{processes}")
        done = gptloom("resume", run, *(("--processes", processes) if processes != 2 else ()))
        assert done.code == 0, done.err
        starts = [event for event in read_events(run / "events.jsonl") if event["type"] == "start"]
        assert [start["step"] for start in starts] == [0, 10] and starts[-1]["processes"] == processes
        assert_alike(run, straight, 0.0 if processes == 2 else ADAMW)
        if processes == 1:  # what other processes say goes past this one
            assert "not bit for bit" in done.err


@pytest.mark.slow
@pytest.mark.parametrize(("before", "options"), [(1, ()), (2, ()), (2, TENSOR)], ids=["one", "copies", "tensor"])
def test_other_checkpoints_go_on_on_other_numbers(
    train: Train, gptloom: Any, before: int, options: tuple[object, ...]
) -> None:
    straight = train("straight", *options, processes=before)
    for after in {1: (2,), 2: (1, 4)}[before]:
        run = broken_off_at_10(straight, f"on-{after}")
        done = gptloom("resume", run, "--processes", after)
        assert done.code == 0, done.err
        assert_alike(run, straight, ADAMW)


@pytest.mark.slow
def test_a_base_model_in_shards_is_trained_further(train: Train, gptloom: Any, text: Path, tmp_path: Path) -> None:
    """The last checkpoint of a sharded run as BASE of another on several processes, and of one on a single process."""
    first = train("first", *FSDP, processes=2)
    further = ("--data", text, *BATCH, *PACE, *REST, "--optimizer", "adamw", "--max-steps", 4)
    for name, options in (("alone", ()), ("two", ("--processes", 2, *FSDP))):
        done = gptloom("pretrain", f"{first}@last", *further, "--out", tmp_path / name, *options)
        assert done.code == 0, done.err
    assert_alike(tmp_path / "two", tmp_path / "alone", ADAMW)
    base, trained = (load_model(path)[0] for path in (first / "final", tmp_path / "two" / "final"))
    assert not torch.equal(base.embedding.weight, trained.embedding.weight)
