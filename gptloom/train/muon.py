"""Muon for matrices that several processes hold, whole or in slices: each is orthogonalised by one of them.

Momentum and weights stay where they are; only the update of a matrix travels: its slices to the owner, the
orthogonalised slices back. Both ways it is bf16, which Newton-Schulz starts from and ends with, so the result has the
bits of a lone process. The processes of one group take part with the same matrices in the same order.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager, nullcontext
from itertools import chain, zip_longest
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.tensor import DTensor
from torch.distributed.tensor._utils import compute_local_shape_and_global_offset

from gptloom.train.parallel import local

COEFFICIENTS = (3.4445, -4.7750, 2.0315)
"""Of the quintic iteration (Jordan et al. 2024, "Muon: an optimizer for hidden layers in neural networks")."""
ITERATIONS = 5
ROUND_BYTES = 128 * 2**20
"""About as many bytes of updates are exchanged at once; a process always takes at least one matrix."""

Hands = list[list[int]]  # for each rank the matrices it orthogonalises


class Muon(torch.optim.Optimizer):
    """Muon with Nesterov momentum, its update scaled to AdamW's usual size (Liu et al. 2025, section 2.2).

    ``params`` are matrices: plain tensors that all processes of ``group`` hold with equal gradients, or DTensors sharded
    in any way over them. None: this process is alone. Alone the result is that of ``torch.optim.Muon`` with
    ``adjust_lr_fn="match_rms_adamw"``, bit for bit, and so is the state (``momentum_buffer``).
    """

    def __init__(
        self,
        params: Iterable[Tensor],
        lr: float,
        weight_decay: float = 0.1,
        momentum: float = 0.95,
        group: dist.ProcessGroup | None = None,
        waiting: AbstractContextManager[None] | None = None,
    ) -> None:
        """``waiting`` is entered around each exchange with the other processes, to time it."""
        super().__init__(params, {"lr": lr, "weight_decay": weight_decay, "momentum": momentum})
        self._processes = group
        self._waiting = nullcontext() if waiting is None else waiting
        self._divisions: dict[tuple[int, ...], Division] = {}
        if any(matrix.ndim != 2 for part in self.param_groups for matrix in part["params"]):
            raise ValueError("Muon takes matrices only")

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """One update of every matrix that has a gradient; the same ones at every process."""
        for part in self.param_groups:
            matrices = [matrix for matrix in part["params"] if matrix.grad is not None]
            if self._processes is None:
                for matrix in matrices:
                    self._move(matrix, orthogonalised(self._blend(matrix, part)), part)
            elif matrices:
                self._step_together(matrices, part)

    def _step_together(self, matrices: Sequence[Tensor], part: dict[str, Any]) -> None:
        assert self._processes is not None
        key = tuple(map(id, matrices))
        if key not in self._divisions:
            self._divisions[key] = Division(matrices, self._processes, self._waiting)
        division = self._divisions[key]
        for hands in division.rounds:
            blends = {index: self._blend(matrices[index], part) for hand in hands for index in hand}
            for index, update in division.orthogonalise(blends, hands).items():
                self._move(matrices[index], update, part)

    def _blend(self, matrix: Tensor, part: dict[str, Any]) -> Tensor:
        """Moves the momentum on; returns the gradient blended with it as Nesterov has it, of the local slice."""
        assert matrix.grad is not None
        state = self.state[matrix]
        if "momentum_buffer" not in state:
            state["momentum_buffer"] = torch.zeros_like(matrix.grad)
        gradient, buffer = local(matrix.grad), local(state["momentum_buffer"])
        buffer.lerp_(gradient, 1 - part["momentum"])
        return gradient.lerp(buffer, part["momentum"])

    def _move(self, matrix: Tensor, update: Tensor, part: dict[str, Any]) -> None:
        """Weight decay, then the update: ``[rows, columns]`` of the local slice, in bf16."""
        weight = local(matrix)
        weight.mul_(1 - part["lr"] * part["weight_decay"])
        weight.add_(update.to(weight.device), alpha=-part["lr"] * (0.2 * math.sqrt(max(matrix.shape))))


def orthogonalised(update: Tensor) -> Tensor:
    """About U V^T where ``update`` ``[rows, columns]`` is U S V^T, by Newton-Schulz iteration in bf16.

    The singular values end between 0.7 and 1.2 or so: the coefficients are chosen for speed, not to converge.
    """
    a, b, c = COEFFICIENTS
    tall = update.size(0) > update.size(1)
    x = update.to(torch.bfloat16, copy=True)
    x = x.T if tall else x  # the products are as small as can be
    x.div_(x.norm().clamp(min=1e-7))
    for _ in range(ITERATIONS):
        gram = x @ x.T
        polynomial = torch.addmm(gram, gram, gram, beta=b, alpha=c)
        x = torch.addmm(x, polynomial, x, beta=a)
    return x.T if tall else x


class Slice(NamedTuple):
    """The rectangle of a matrix that a process holds."""

    top: int
    left: int
    rows: int
    columns: int

    def of(self, whole: Tensor) -> Tensor:
        return whole[self.top : self.top + self.rows, self.left : self.left + self.columns]


class Division:
    """Who orthogonalises which of the matrices, in which order, and which slices travel for that."""

    def __init__(
        self, matrices: Sequence[Tensor], group: dist.ProcessGroup, waiting: AbstractContextManager[None]
    ) -> None:
        self.waiting = waiting
        self.group, self.rank, self.size = group, dist.get_rank(group), dist.get_world_size(group)
        self.shapes = [matrix.shape for matrix in matrices]
        self.device = _computing_device(matrices[0])
        self.slices = self._gather([_own_slice(matrix) for matrix in matrices])  # [matrix][rank]
        self.rounds = list(self._rounds(deal([_cost(*shape) for shape in self.shapes], self.size)))

    def orthogonalise(self, blends: dict[int, Tensor], hands: Hands) -> dict[int, Tensor]:
        """From the local slices of the matrices of one round to their orthogonalised slices, in bf16."""
        whole = self._collect(blends, hands)
        results = [orthogonalised(whole[index]) for index in hands[self.rank]]
        out = [
            [self.slices[index][rank].of(result) for index, result in zip(hands[self.rank], results, strict=True)]
            for rank in range(self.size)
        ]
        back = self._exchange(out, [[self.slices[index][self.rank] for index in hand] for hand in hands])
        return dict(zip(chain(*hands), chain(*back), strict=True))

    def _collect(self, blends: dict[int, Tensor], hands: Hands) -> dict[int, Tensor]:
        """The matrices of this process's hand, whole."""
        senders = {index: self._senders(index, owner) for owner, hand in enumerate(hands) for index in hand}
        if all(senders[index] == [owner] for owner, hand in enumerate(hands) for index in hand):
            return {index: blends[index].to(self.device) for index in hands[self.rank]}
        mine = hands[self.rank]
        out = [[blends[index] for index in hand if self.rank in senders[index]] for hand in hands]
        arriving = [[index for index in mine if rank in senders[index]] for rank in range(self.size)]
        back = self._exchange(
            out, [[self.slices[index][rank] for index in indices] for rank, indices in enumerate(arriving)]
        )
        whole = {index: torch.empty(self.shapes[index], dtype=torch.bfloat16, device=self.device) for index in mine}
        for rank, (indices, pieces) in enumerate(zip(arriving, back, strict=True)):
            for index, piece in zip(indices, pieces, strict=True):
                self.slices[index][rank].of(whole[index]).copy_(piece)
        return whole

    def _senders(self, index: int, owner: int) -> list[int]:
        """Of those that hold the same slice of a matrix one sends it: the owner itself, else the first."""
        holders: dict[Slice, int] = {}
        for rank in (owner, *range(self.size)):
            holders.setdefault(self.slices[index][rank], rank)
        return sorted(rank for part, rank in holders.items() if part.rows and part.columns)

    def _exchange(self, out: Sequence[Sequence[Tensor]], shapes: Sequence[Sequence[Slice]]) -> list[list[Tensor]]:
        """Sends ``out[r]`` to each rank r; returns what each rank has sent here, whose sizes are ``shapes[r]``."""
        sent = _flat([piece for pieces in out for piece in pieces], self.device)
        sizes = [[part.rows * part.columns for part in parts] for parts in shapes]
        received = torch.empty(sum(map(sum, sizes)), dtype=torch.bfloat16, device=self.device)
        with self.waiting:
            dist.all_to_all_single(
                received.view(torch.uint8),  # bytes: gloo does not know bf16
                sent.view(torch.uint8),
                [2 * sum(rank_sizes) for rank_sizes in sizes],
                [2 * sum(piece.numel() for piece in pieces) for pieces in out],
                group=self.group,
            )
        flat = iter(received.split([size for rank_sizes in sizes for size in rank_sizes]))
        return [[next(flat).view(part.rows, part.columns) for part in parts] for parts in shapes]

    def _gather(self, own: Sequence[Slice]) -> list[list[Slice]]:
        """Every process's slices."""
        mine = torch.tensor(own, device=self.device)
        everyone = [torch.empty_like(mine) for _ in range(self.size)]
        dist.all_gather(everyone, mine, group=self.group)
        return [[Slice(*part) for part in parts] for parts in torch.stack(everyone, dim=1).tolist()]

    def _rounds(self, hands: Hands) -> Iterable[Hands]:
        """The hands cut so that what is exchanged at once stays about ``ROUND_BYTES``."""
        cut: list[list[list[int]]] = []
        for hand in hands:
            parts: list[list[int]] = []
            room = 0
            for index in hand:
                size = 2 * self.shapes[index].numel()
                if size > room:
                    parts.append([])
                    room = ROUND_BYTES // self.size
                parts[-1].append(index)
                room -= size
            cut.append(parts)
        return (list(hands) for hands in zip_longest(*cut, fillvalue=[]))


def deal(costs: Sequence[float], size: int) -> Hands:
    """Which of ``size`` processes takes which item: the dearest first, each to the one with the least to do so far."""
    hands: Hands = [[] for _ in range(size)]
    loads = [0.0] * size
    for index in sorted(range(len(costs)), key=lambda index: -costs[index]):
        rank = loads.index(min(loads))
        hands[rank].append(index)
        loads[rank] += costs[index]
    return hands


def _cost(rows: int, columns: int) -> float:
    """Multiplications of one iteration: the Gram matrix, its square, and their product with the matrix."""
    short, long = sorted((rows, columns))
    return short * short * (2 * long + short)


def _own_slice(matrix: Tensor) -> Slice:
    """The slice of ``matrix`` here. ValueError when its gradient is laid out in another way."""
    if not isinstance(matrix, DTensor):
        return Slice(0, 0, *matrix.shape)
    gradient = matrix.grad
    if not isinstance(gradient, DTensor) or gradient.placements != matrix.placements:
        raise ValueError(f"a gradient is not laid out as its matrix ({matrix.placements})")
    shape, offset = compute_local_shape_and_global_offset(matrix.shape, matrix.device_mesh, matrix.placements)
    return Slice(offset[0], offset[1], shape[0], shape[1])


def _computing_device(matrix: Tensor) -> torch.device:
    """Where the processes compute: offloaded slices wait in the memory of the CPU."""
    return torch.device(matrix.device_mesh.device_type) if isinstance(matrix, DTensor) else matrix.device


def _flat(pieces: Sequence[Tensor], device: torch.device) -> Tensor:
    if not pieces:
        return torch.empty(0, dtype=torch.bfloat16, device=device)
    return torch.cat([piece.to(device, torch.bfloat16).reshape(-1) for piece in pieces])
