"""Running out of memory, pretended and real: what is recognised, what is halved, what the user is told."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from gptloom.config.errors import UserError
from gptloom.config.model import ModelConfig
from gptloom.data.batch import Batch
from gptloom.model.transformer import Transformer
from gptloom.observe.events import read_events
from gptloom.stages.preflight import measure
from gptloom.train.assemble import fresh_model
from gptloom.train.loop import fit
from gptloom.train.objective import NextToken
from gptloom.train.optimizers import Optimizer, OptimizerSettings
from gptloom.train.out_of_memory import (
    Lever,
    Levers,
    halvings,
    is_out_of_memory,
    largest_micro_batch,
    levers_named,
    rows_of_a_pass,
)
from gptloom.train.parallel import Parallel
from gptloom.train.run import LoopSettings, Run, RunState

CPU_TEXT = (
    "[enforce fail at alloc_cpu.cpp:121] DefaultCPUAllocator: can't allocate memory: you tried to allocate 99 bytes."
)


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB."),
        RuntimeError(CPU_TEXT),
        RuntimeError("MPS backend out of memory (MPS allocated: 9.00 GB)"),
        RuntimeError("CUDA error: out of memory"),
        RuntimeError("std::bad_alloc"),
        MemoryError(),
        OSError(errno.ENOMEM, "Cannot allocate memory"),
    ],
    ids=str,
)
def test_running_out_of_memory_is_recognised(error: BaseException) -> None:
    assert is_out_of_memory(error)


@pytest.mark.parametrize(
    "error",
    [RuntimeError("shapes do not match"), ValueError("out of memory"), OSError(errno.ENOSPC, "disk full")],
    ids=str,
)
def test_other_errors_are_not_taken_for_it(error: BaseException) -> None:
    assert not is_out_of_memory(error)


def fitting(limit: int, tried: list[int], error: type[Exception] = MemoryError):
    def try_rows(rows: int) -> None:
        tried.append(rows)
        if rows > limit:
            raise error("too much" if error is not RuntimeError else CPU_TEXT)

    return try_rows


@pytest.mark.parametrize("error", [MemoryError, RuntimeError, torch.OutOfMemoryError])
@pytest.mark.parametrize(("rows", "limit", "tries"), [(64, 64, [64]), (64, 9, [64, 32, 16, 8]), (6, 2, [6, 3, 1])])
def test_rows_are_halved_until_they_fit(error: type[Exception], rows: int, limit: int, tries: list[int]) -> None:
    tried: list[int] = []
    assert largest_micro_batch(fitting(limit, tried, error), rows) == tries[-1]
    assert tried == tries


def test_one_row_that_does_not_fit_and_other_errors_are_raised() -> None:
    tried: list[int] = []
    with pytest.raises(MemoryError):
        largest_micro_batch(fitting(0, tried), 4)
    assert tried == [4, 2, 1]
    with pytest.raises(KeyError):
        largest_micro_batch(fitting(0, [], KeyError), 4)


def test_what_is_said_names_the_levers_in_order() -> None:
    levers = Levers(12 << 30, [Lever("--micro-batch 4", 3 << 30), Lever("--recompute", 2 << 30)])
    with pytest.raises(UserError) as said, levers_named(lambda: levers):
        raise RuntimeError(CPU_TEXT)
    (problem,) = said.value.problems
    assert problem.what == "out of memory: this training was predicted to need 12.9 GB in a process"
    assert problem.mend == "1. --micro-batch 4 (saves about 3.2 GB), 2. --recompute (saves about 2.1 GB)"
    with pytest.raises(RuntimeError, match="DefaultCPUAllocator"), levers_named(None):
        raise RuntimeError(CPU_TEXT)
    with pytest.raises(RuntimeError, match="shapes"), levers_named(lambda: levers):
        raise RuntimeError("shapes do not match")


class Narrow(NextToken):
    """Next token with room for so many rows at a time, from the given forward pass on."""

    def __init__(self, room: int, begin: int) -> None:
        super().__init__()
        self.room, self.begin, self.passes = room, begin, 0

    def loss(self, model: Any, batch: Any) -> dict[str, torch.Tensor]:
        self.passes += 1
        if self.passes >= self.begin and len(batch.ids) > self.room:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return super().loss(model, batch)


def test_in_mid_run_the_rows_are_halved_and_the_batch_stays(train: Any) -> None:
    whole = train(steps=4, objective=NextToken())
    halved = train(steps=4, objective=Narrow(2, begin=2), micro_batch=8, halve=True)
    assert halved.losses == pytest.approx(whole.losses, rel=1e-6) and halved.distance(whole) < 1e-5
    events = read_events(halved.run.path / "events.jsonl")
    told = [(event["step"], event["micro_batch"], event["action"]) for event in events if event["type"] == "guard"]
    assert told == [
        (1, 4, "rows of a forward pass halved from 8 to 4, the batch is the same"),
        (1, 2, "rows of a forward pass halved from 4 to 2, the batch is the same"),
    ]
    assert halvings(events) == halved.run.halvings == [(1, 4), (1, 2)] and halvings([]) == []
    # What is done again takes the rows it had, and so ends with the same bits.
    rows = []
    for step in range(3):
        halved.run.state.step = step
        rows.append(rows_of_a_pass(halved.run))
    assert rows == [8, 2, 2]


@pytest.mark.parametrize(
    "given", [{"micro_batch": 4}, {"micro_batch": 1, "halve": True}], ids=["rows given", "one row"]
)
def test_elsewhere_the_rows_stay_and_the_run_ends(given: dict[str, Any], tmp_path: Path, train: Any) -> None:
    with pytest.raises(torch.OutOfMemoryError):
        train(objective=Narrow(0, begin=1), **given)
    folder = next(tmp_path.glob("run-*"))
    assert not any(event["type"] == "guard" for event in read_events(folder / "events.jsonl"))


REAL = """
import json, resource, sys
import torch
from gptloom.config.model import ModelConfig
from gptloom.data.batch import Batch
from gptloom.model.transformer import Transformer
from gptloom.stages.preflight import measure
from gptloom.train.objective import NextToken
from gptloom.train.optimizers import OptimizerSettings
from gptloom.train.out_of_memory import largest_micro_batch
from gptloom.train.parallel import Parallel

torch.set_num_threads(1)
config = ModelConfig(vocab_size=29, context=32, n_layer=2, n_head=2, d_model=64, d_ff=256)
batch = Batch(torch.zeros(512, 32, dtype=torch.int64), torch.ones(512, 32, dtype=torch.int64), torch.ones(512, 32))
tried = []

def try_rows(rows):
    tried.append(rows)
    measure(lambda: Transformer.initialised(config, 1), OptimizerSettings(), NextToken(), batch, micro_batch=rows,
            dtype=torch.float32, parallel=Parallel.alone(), compile=False, patience=0.01)

try_rows(2)  # what is loaded on first use
used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + (100 << 20), -1))
found = largest_micro_batch(try_rows, 512)
print(json.dumps({"found": found, "tried": tried[1:]}))
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="RLIMIT_AS bounds allocations on Linux only")
def test_real_memory_that_runs_out_is_halved_away() -> None:
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-c", REAL], env=environment, capture_output=True, text=True, timeout=100, check=False
    )
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    # A row keeps 2 layers x (14 x 64 + 4 x 256) numbers for each of 32 tokens: about half a megabyte.
    assert 16 <= result["found"] < 512 and result["tried"][0] == 512
    assert result["tried"] == [512 >> count for count in range(len(result["tried"]))]


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_an_accelerator_that_is_too_small_halves_at_start_and_in_mid_run(tmp_path: Path) -> None:
    device, config = torch.device("cuda", 0), ModelConfig(vocab_size=64, context=256, n_layer=4, n_head=4, d_model=256)
    ids = torch.randint(64, (512, 257), generator=torch.Generator().manual_seed(1))
    batch = Batch(ids[:, :-1].contiguous(), ids[:, 1:].contiguous(), torch.ones(512, 256))
    parallel = Parallel.alone(device)
    tried: list[int] = []

    def new_model() -> Transformer:
        return fresh_model(config, 1, parallel, torch.float32)

    def try_rows(rows: int) -> None:
        tried.append(rows)
        given = {"micro_batch": rows, "dtype": torch.float32, "parallel": parallel, "compile": False}
        measure(new_model, OptimizerSettings(), NextToken(), batch, **given)

    torch.cuda.set_per_process_memory_fraction((2 << 30) / torch.cuda.get_device_properties(0).total_memory)
    try:
        found = largest_micro_batch(try_rows, 512)
        assert 1 <= found < 512 and tried[0] == 512
        model = new_model()
        run = Run(tmp_path, LoopSettings(steps=2, micro_batch=512, halve=True), RunState(), parallel)
        fit(run, NextToken(), lambda step: batch, model, Optimizer(model, OptimizerSettings(), parallel=parallel))
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
    told = [event["micro_batch"] for event in read_events(tmp_path / "events.jsonl") if event["type"] == "guard"]
    assert told == [512 >> count for count in range(1, len(told) + 1)] and told[-1] <= found
    assert run.state.state == "finished"
