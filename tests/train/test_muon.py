"""Muon against torch's: alone, and spread over real processes in every layout that a model is trained in."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.distributed as dist
from ranks import run_ranks
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor, Replicate, Shard, distribute_tensor
from torch.distributed.tensor.parallel import ColwiseParallel, RowwiseParallel, parallelize_module

from gptloom.train import muon
from gptloom.train.muon import Muon, deal, orthogonalised
from gptloom.train.world import World

SHAPES = [(16, 16), (48, 16), (16, 48), (33, 7), (6, 40), (16, 16), (3, 5)]
STEPS = 20
RATES = {"lr": 0.02, "weight_decay": 0.1, "momentum": 0.95}


def drawn(seed: int, shapes: list[tuple[int, int]] = SHAPES) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(shape, generator=generator) for shape in shapes]


def reference(matrices: list[Tensor]) -> torch.optim.Muon:
    return torch.optim.Muon(matrices, **RATES, nesterov=True, adjust_lr_fn="match_rms_adamw")


def stepped(optimizer: torch.optim.Optimizer, matrices: list[Tensor], steps: range) -> None:
    for step in steps:
        for matrix, gradient in zip(matrices, drawn(100 + step), strict=True):
            matrix.grad = gradient
        optimizer.step()


def test_alone_it_is_torchs_muon_bit_for_bit() -> None:
    theirs, ours = drawn(0), drawn(0)
    stepped(reference(theirs), theirs, range(10))
    stepped(Muon(ours, **RATES), ours, range(10))
    assert all(torch.equal(a, b) for a, b in zip(ours, theirs, strict=True))
    assert not torch.equal(ours[0], drawn(0)[0])


def test_it_goes_on_from_the_state_of_torchs_muon() -> None:
    theirs = drawn(0)
    before = reference(theirs)
    stepped(before, theirs, range(5))
    ours = [matrix.clone() for matrix in theirs]
    after = Muon(ours, **RATES)
    for mine, other in zip(ours, theirs, strict=True):
        assert before.state[other].keys() == {"momentum_buffer"}
        after.state[mine]["momentum_buffer"] = before.state[other]["momentum_buffer"].clone()
    stepped(before, theirs, range(5, 10))
    stepped(after, ours, range(5, 10))
    assert all(torch.equal(a, b) for a, b in zip(ours, theirs, strict=True))


def test_what_has_no_gradient_stays() -> None:
    frozen, moved = drawn(0)[:2]
    optimizer = Muon([frozen, moved], **RATES)
    before = frozen.clone()
    moved.grad = torch.ones_like(moved)
    optimizer.step()
    assert torch.equal(frozen, before) and frozen not in optimizer.state


def test_vectors_are_refused() -> None:
    with pytest.raises(ValueError, match="matrices only"):
        Muon([torch.zeros(3)], **RATES)


def test_work_is_dealt_evenly() -> None:
    assert deal([1.0, 5.0, 4.0, 2.0], 2) == [[1, 0], [2, 3]]
    layers = [3.0] * 4 + [9.0] * 3
    hands = deal(layers * 12, 8)
    loads = [sum((layers * 12)[index] for index in hand) for hand in hands]
    assert sorted(index for hand in hands for index in hand) == list(range(84))
    assert max(loads) <= 1.05 * sum(loads) / 8
    assert deal([1.0], 3) == [[0], [], []]


# ---- several processes -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("layouts", "size"),
    [
        pytest.param(["whole", "rows", "columns"], 2, marks=pytest.mark.slow),
        pytest.param(["whole", "rows", "hsdp", "mixed"], 4, marks=pytest.mark.slow),
    ],
)
def test_processes_together_are_one_process_bit_for_bit(layouts: list[str], size: int) -> None:
    results = run_ranks(train_matrices, size, layouts=layouts)
    for layout in layouts:
        found = [result[layout] for result in results]
        assert [result["different"] for result in found] == [[]] * size, layout
        shares = [result["orthogonalised"] for result in found]
        assert sum(shares) == STEPS * len(SHAPES), "each matrix is orthogonalised once a step"
        assert min(shares) > 0


@pytest.mark.slow
def test_in_many_rounds_the_result_is_the_same() -> None:
    for result in run_ranks(train_matrices, 2, layouts=["whole", "rows"], round_bytes=1):
        assert [(found["different"], found["rounds"]) for found in result.values()] == [([], 4)] * 2


@pytest.mark.slow
def test_fsdp_and_tensor_parallel_layers_move_as_in_one_process() -> None:
    """The real placements of ``fully_shard`` over ``parallelize_module``, on one gradient for all."""
    assert run_ranks(compare_layers, 4, tensors=[1, 2, 4]) == [[0.0] * 3] * 4


@pytest.mark.slow
def test_a_gradient_that_is_laid_out_otherwise_is_refused() -> None:
    for error in run_ranks(step_with_whole_gradient, 2):
        assert "not laid out" in error


def train_matrices(world: World, layouts: list[str], round_bytes: int = muon.ROUND_BYTES) -> dict[str, Any]:
    muon.ROUND_BYTES = round_bytes
    return {layout: compare_matrices(layout) for layout in layouts}


def compare_matrices(layout: str) -> dict[str, Any]:
    """Steps on given gradients: which of the matrices differ from those of a lone process here."""
    calls = 0

    def counting(update: Tensor) -> Tensor:
        nonlocal calls
        calls += 1
        return orthogonalised(update)

    muon.orthogonalised = counting
    whole, ours = drawn(0), [spread(layout, index, tensor) for index, tensor in enumerate(drawn(0))]
    theirs, optimizer = reference(whole), Muon(ours, **RATES, group=dist.group.WORLD)
    different = set()
    for step in range(STEPS):
        for index, gradient in enumerate(drawn(100 + step)):
            whole[index].grad, ours[index].grad = gradient, spread(layout, index, gradient)
        theirs.step()
        optimizer.step()
        for index, (mine, other) in enumerate(zip(ours, whole, strict=True)):
            buffers = optimizer.state[mine]["momentum_buffer"], theirs.state[other]["momentum_buffer"]
            if not torch.equal(full(mine), other) or not torch.equal(full(buffers[0]), buffers[1]):
                different.add(index)
    (division,) = optimizer._divisions.values()
    return {"different": sorted(different), "orthogonalised": calls, "rounds": len(division.rounds)}


def spread(layout: str, index: int, tensor: Tensor) -> Tensor:
    """``tensor`` as the processes of a training in ``layout`` hold it."""
    size = dist.get_world_size()
    if layout == "whole" or (layout == "mixed" and index % 3 == 0):
        return tensor.clone()
    if layout == "hsdp":
        return distribute_tensor(tensor, init_device_mesh("cpu", (2, size // 2)), [Replicate(), Shard(0)])
    if layout == "mixed" and index % 3 == 1:
        return distribute_tensor(tensor, init_device_mesh("cpu", (2, size // 2)), [Shard(0), Shard(1)])
    return distribute_tensor(tensor, init_device_mesh("cpu", (size,)), [Shard(int(layout == "columns"))])


def compare_layers(world: World, tensors: list[int]) -> list[float]:
    """Layers of data and tensor parallel processes beside the same alone: how far apart the weights end."""
    return [largest_difference(tensor) for tensor in tensors]


def largest_difference(tensor: int) -> float:
    def layers() -> nn.Sequential:
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(16, 24, bias=False), nn.ReLU(), nn.Linear(24, 12, bias=False))

    alone, together = layers(), layers()
    mesh = init_device_mesh("cpu", (4 // tensor, tensor), mesh_dim_names=("shards", "tensor"))
    if tensor > 1:
        parallelize_module(together, mesh["tensor"], {"0": ColwiseParallel(), "2": RowwiseParallel()})
    for layer in together:
        fully_shard(layer, mesh=mesh["shards"])
    fully_shard(together, mesh=mesh["shards"])
    theirs, ours = reference(list(alone.parameters())), Muon(together.parameters(), **RATES, group=dist.group.WORLD)
    for step in range(STEPS):
        inputs = torch.randn(8, 16, generator=torch.Generator().manual_seed(step))
        together(inputs).square().sum().backward()
        for lone, shared in zip(alone.parameters(), together.parameters(), strict=True):
            lone.grad = full(shared.grad)  # the sums of the layers' products differ by rounding; Muon's must not
        theirs.step()
        ours.step()
        ours.zero_grad()
    pairs = zip(alone.parameters(), together.parameters(), strict=True)
    return max(float((full(shared) - lone).abs().max()) for lone, shared in pairs)


def step_with_whole_gradient(world: World) -> str:
    mesh = init_device_mesh("cpu", (world.size,))
    matrix = distribute_tensor(torch.zeros(4, 4), mesh, [Shard(0)])
    matrix.grad = distribute_tensor(torch.ones(4, 4), mesh, [Replicate()])
    try:
        Muon([matrix], **RATES, group=dist.group.WORLD).step()
    except ValueError as error:
        return str(error)
    return ""


def full(tensor: Tensor) -> Tensor:
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor
