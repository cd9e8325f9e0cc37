"""Where a training computes and whether there is room: foreseen for processes that are not started, and what would fit."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch

from gptloom.config.errors import UserError
from gptloom.config.model import ModelConfig, preset
from gptloom.config.pretrain import PretrainOptions
from gptloom.config.resolve import resolve
from gptloom.stages import machine as module
from gptloom.stages.machine import Machine, check_room, foresee_machine, process_memory, spread
from gptloom.train.world import World

CPU = torch.device("cpu")
LARGE = ModelConfig(**preset("modern-large") | {"context": 256})
GB = 10**9


def options(**given: Any) -> PretrainOptions:
    common = {"data": ["x.txt"], "context": 256, "batch_tokens": 2048, "micro_batch": 2}
    return resolve(PretrainOptions, {**common, **given}).options


def on(processes: int, machines: int = 1) -> Machine:
    return Machine(World(size=processes * machines, local_size=processes), CPU, torch.float32, 1e11)


def refused(monkeypatch: pytest.MonkeyPatch, folder: Path, machine: Machine, memory: float, **given: Any) -> str:
    """What is said when a machine has so many bytes, which its processes share."""
    monkeypatch.setattr(module, "device_memory", lambda device, processes=1: int(memory / processes))
    monkeypatch.setattr(module, "check_disk", lambda folder, needed: None)
    with pytest.raises(UserError) as error:
        check_room(options(**given), LARGE, machine, folder, checkpoints=1)
    (problem,) = error.value.problems
    assert problem.where == str(folder) and "of memory in a process, which has" in problem.what
    return str(problem.mend)


def test_a_run_that_goes_on_with_less_memory_says_what_would_fit(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    alone = process_memory(options(), LARGE, on(1))
    mend = refused(monkeypatch, tmp_path, on(2), 1.7 * alone, strategy="ddp")
    assert mend.split(", or ")[:3] == ["--recompute", "--strategy fsdp", "--processes 1"]
    mend = refused(monkeypatch, tmp_path, on(1), 0.8 * alone)
    machines = re.fullmatch(r"--strategy fsdp on (\d+) such machines \(--nodes\)", mend)
    assert machines is not None
    several = on(1, int(machines[1]))
    assert process_memory(options(strategy="fsdp"), LARGE, several) <= 0.8 * alone
    assert process_memory(options(strategy="fsdp"), LARGE, on(1, int(machines[1]) // 2)) > 0.8 * alone
    kept = process_memory(options(recompute=True), LARGE, on(1))
    assert "--recompute" in refused(monkeypatch, tmp_path, on(1), (alone + kept) / 2)
    assert refused(monkeypatch, tmp_path, on(1), 1000) == "a machine with more memory"


def test_only_numbers_of_processes_that_share_the_batch_are_offered(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    alone = process_memory(options(), LARGE, on(1))
    mend = refused(monkeypatch, tmp_path, on(4), 3.5 * alone, strategy="ddp")  # 8 rows: three do not divide them
    assert "--processes 2" in mend and "--processes 3" not in mend


def test_what_fits_is_let_through(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(module, "device_memory", lambda device, processes=1: None)
    check_room(options(), LARGE, on(2), tmp_path, checkpoints=1)
    monkeypatch.setattr(module, "device_memory", lambda device, processes=1: 1000 * GB)
    check_room(options(), LARGE, on(2), tmp_path, checkpoints=1)


def test_processes_that_are_not_started_are_foreseen(monkeypatch: pytest.MonkeyPatch) -> None:
    used: list[int | None] = []
    monkeypatch.setattr(torch, "set_num_threads", used.append)
    monkeypatch.setattr(module, "matrix_peak", lambda dtype, device: 1e11)
    monkeypatch.setattr(module, "cores", lambda: 8)
    world = World(size=12, local_size=4)
    foreseen = foresee_machine(options(device="cpu"), world)
    assert foreseen.world == world and foreseen.peak == 3e11  # four processes share a machine's cores
    foresee_machine(options(device="cpu", threads=1), world)
    foresee_machine(options(device="cpu", threads=5), world)
    assert used == [4, 8]


def test_tensor_parallelism_counts_only_where_it_takes_place() -> None:
    shared = options(tensor_parallel=2)
    assert process_memory(shared, LARGE, on(2)) < process_memory(shared, LARGE, on(3))
    assert process_memory(shared, LARGE, on(1)) == process_memory(options(), LARGE, on(1))


def test_a_lone_process_keeps_the_model_whole(capsys: pytest.CaptureFixture[str]) -> None:
    parallel = spread(options(strategy="fsdp"), World(), CPU)
    assert parallel.strategy == "one" and not parallel.sharded
    assert "one process now: the model is whole in it" in capsys.readouterr().err
