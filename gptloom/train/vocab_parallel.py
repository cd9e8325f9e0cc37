"""The vocabulary head shared by several processes: each holds some rows of the output matrix and never sees all logits.

Legend: N tokens, D width, V vocabulary, W the rows of it held here, n tokens in a chunk.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.tensor import DTensor

from gptloom.model.transformer import softcap
from gptloom.model.vocab_head import LOGIT_BYTES, cross_entropy


def shared_cross_entropy(
    hidden: Tensor,
    weight: Tensor,
    targets: Tensor,
    weights: Tensor | None = None,
    cap: float | None = None,
    bias: Tensor | None = None,
) -> Tensor:
    """``model.vocab_head.cross_entropy``, also for a weight [V, D] whose rows lie in the processes of a DTensor's mesh.

    hidden [..., D], targets [...] and weights [...] are the same at all of them; so is the result.
    """
    if not isinstance(weight, DTensor):
        return cross_entropy(hidden, weight, targets, weights, cap, bias)
    assert bias is None, "check_heads refuses to share a model whose head has a bias"
    flat_weights = torch.ones(targets.numel(), device=hidden.device) if weights is None else weights.reshape(-1)
    first, group = _rows_before(weight), weight.device_mesh.get_group()
    flat = hidden.reshape(-1, hidden.shape[-1])
    result: Tensor = _SharedCrossEntropy.apply(
        flat, weight.to_local(), targets.reshape(-1), flat_weights, cap, first, group
    )
    return result


def shared_logits(hidden: Tensor, weight: DTensor, cap: float | None) -> Tensor:
    """hidden [..., D] -> scores [..., V], gathered from all processes; for a few tokens, without gradients."""
    mine = softcap(hidden @ weight.to_local().t(), cap)
    rows = -(-weight.shape[0] // weight.device_mesh.size())  # torch.chunk's size: only the last ones may be smaller
    padded = torch.nn.functional.pad(mine, (0, rows - mine.shape[-1])).contiguous()
    parts = [torch.empty_like(padded) for _ in range(weight.device_mesh.size())]
    dist.all_gather(parts, padded, group=weight.device_mesh.get_group())
    return torch.cat(parts, dim=-1)[..., : weight.shape[0]]


def _rows_before(weight: DTensor) -> int:
    mesh = weight.device_mesh
    return min(weight.shape[0], -(-weight.shape[0] // mesh.size()) * mesh.get_local_rank())


class _SharedCrossEntropy(torch.autograd.Function):
    """As Megatron-LM's (Shoeybi et al. 2019, section 3): largest score, sum of exponentials and the target's score are
    reduced, [n] each; both gradients are made in the forward pass."""

    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        weight: Tensor,
        targets: Tensor,
        weights: Tensor,
        cap: float | None,
        first: int,
        group: dist.ProcessGroup,
    ) -> Tensor:
        wide = torch.promote_types(hidden.dtype, torch.float32)
        total = torch.zeros((), dtype=wide, device=hidden.device)
        wants = any(ctx.needs_input_grad[:2])
        grad_hidden = torch.empty_like(hidden, dtype=wide) if wants else None
        grad_weight = torch.zeros_like(weight, dtype=wide) if wants else None
        chunk = max(1, LOGIT_BYTES // max(1, weight.shape[0] * 4))
        for start in range(0, hidden.shape[0], chunk):
            part = slice(start, start + chunk)
            rows, row_weights = hidden[part], weights[part, None].to(wide)
            scores = softcap((rows @ weight.t()).to(wide), cap)
            local = targets[part, None] - first
            held = (local >= 0) & (local < weight.shape[0])
            place = local.clamp(0, max(0, weight.shape[0] - 1))
            highest = (
                scores.amax(dim=1, keepdim=True) if weight.shape[0] else scores.new_full((len(rows), 1), -torch.inf)
            )
            dist.all_reduce(highest, dist.ReduceOp.MAX, group=group)
            exponentials = (scores - highest).exp_()
            of_target = (scores.gather(1, place) * held) if weight.shape[0] else torch.zeros_like(highest)
            sums = torch.cat((exponentials.sum(dim=1, keepdim=True), of_target), dim=1)
            dist.all_reduce(sums, group=group)
            total += ((sums[:, :1].log() + highest - sums[:, 1:]) * row_weights).sum()
            if grad_hidden is None or grad_weight is None:
                continue
            gradient = exponentials.div_(sums[:, :1])
            if weight.shape[0]:
                gradient.scatter_add_(1, place, -held.to(wide))
            if cap is not None:
                gradient *= 1 - (scores / cap).square()
            gradient = (gradient * row_weights).to(hidden.dtype)
            grad_hidden[part] = gradient @ weight
            grad_weight += gradient.t() @ rows
        if grad_hidden is not None:
            dist.all_reduce(grad_hidden, group=group)
            grad_hidden = grad_hidden.to(hidden.dtype)
        ctx.gradients = grad_hidden, None if grad_weight is None else grad_weight.to(weight.dtype)
        return total

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        grad_hidden, grad_weight = ctx.gradients
        ctx.gradients = None
        return grad_hidden * grad, grad_weight * grad, None, None, None, None, None
