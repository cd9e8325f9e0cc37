"""What only accelerators can show: offload, and NCCL beside gloo."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from ranks import run_ranks

from gptloom.config.model import ModelConfig
from gptloom.data.batch import Batch
from gptloom.train.assemble import fresh_model
from gptloom.train.loop import forward_backward
from gptloom.train.objective import NextToken
from gptloom.train.optimizers import Optimizer, OptimizerSettings
from gptloom.train.parallel import Parallel, local
from gptloom.train.run import LoopSettings, Run, RunState
from gptloom.train.world import World

CONFIG = ModelConfig(vocab_size=64, context=32, n_layer=2, n_head=4, d_model=64)

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two GPUs"),
]


def train_a_little(world: World, strategy: str, tensor: int, offload: bool, tmp: str) -> dict:
    device = torch.device("cuda", world.local_rank)
    torch.cuda.set_device(device)
    parallel = Parallel(world, strategy, device, tensor=tensor, offload=offload)
    model = fresh_model(CONFIG, 1, parallel, torch.float32)
    optimizer = Optimizer(model, OptimizerSettings(kind="adamw", lr=3e-3), torch.float32, parallel)
    run = Run(Path(tmp), LoopSettings(5, micro_batch=2), RunState(), parallel)
    losses = []
    for step in range(5):
        ids = torch.randint(64, (8, 33), generator=torch.Generator().manual_seed(step))
        batch = Batch(ids[:, :-1].contiguous(), ids[:, 1:].contiguous(), torch.ones(8, 32))
        losses.append(forward_backward(run, NextToken(parallel.cross_entropy), batch, model, optimizer)["next_token"])
        optimizer.gradient_norm()
        optimizer.step()
        optimizer.zero_grad()
    where = {local(master).device.type for master in optimizer.masters.tensors.values()}
    return {"losses": losses, "where": sorted(where)}


def test_offload_keeps_masters_in_the_memory_of_the_cpu(tmp_path) -> None:
    given = {"strategy": "fsdp", "tensor": 1, "tmp": str(tmp_path)}
    here, there = (run_ranks(train_a_little, 2, offload=offload, **given)[0] for offload in (False, True))
    assert (here["where"], there["where"]) == (["cuda"], ["cpu"])
    assert there["losses"] == pytest.approx(here["losses"], rel=1e-5)


def test_strategies_agree_on_gpus(tmp_path) -> None:
    whole = run_ranks(train_a_little, 2, strategy="ddp", tensor=1, offload=False, tmp=str(tmp_path))[0]
    for strategy, tensor in (("fsdp", 1), ("ddp", 2)):
        found = run_ranks(train_a_little, 2, strategy=strategy, tensor=tensor, offload=False, tmp=str(tmp_path))[0]
        assert found["losses"] == pytest.approx(whole["losses"], rel=1e-4)
