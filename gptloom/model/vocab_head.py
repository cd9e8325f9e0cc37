"""The vocabulary head in chunks: linear -> soft-cap -> cross-entropy and their gradients, without all logits at once.

For 50,257 ids the logits are the largest tensor of a step. Here a chunk of tokens at a time becomes logits, loss and
gradient while it is in the cache; sums are in fp32 at least. ``plain_cross_entropy`` is the slow twin.

Legend: N tokens, D width, V vocabulary, n tokens in a chunk.
"""

from __future__ import annotations

import threading
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from gptloom.model.transformer import softcap

LOGIT_BYTES = 256 << 20  # of a chunk's logits: big products, bounded memory
ROWS_BYTES = 4 << 20  # of the fp32 rows worked on at a time on a CPU: stays in the cache


def cross_entropy(
    hidden: Tensor,
    weight: Tensor,
    targets: Tensor,
    weights: Tensor | None = None,
    cap: float | None = None,
    bias: Tensor | None = None,
) -> Tensor:
    """hidden [..., D], weight [V, D], bias [V], targets [...] -> the fp32 sum of weights * -log p(target)."""
    flat_weights = torch.ones(targets.numel(), device=hidden.device) if weights is None else weights.reshape(-1)
    flat = hidden.reshape(-1, hidden.shape[-1])
    result: Tensor = _ChunkedCrossEntropy.apply(flat, weight, bias, targets.reshape(-1), flat_weights, cap)
    return result


def plain_cross_entropy(
    hidden: Tensor,
    weight: Tensor,
    targets: Tensor,
    weights: Tensor | None = None,
    cap: float | None = None,
    bias: Tensor | None = None,
) -> Tensor:
    """The reference of ``cross_entropy``: all logits at once, gradients by autograd."""
    logits = softcap(F.linear(hidden, weight, bias), cap)
    wide = logits.to(torch.promote_types(logits.dtype, torch.float32)).view(-1, weight.shape[0])
    losses = F.cross_entropy(wide, targets.reshape(-1), reduction="none")
    return losses.sum() if weights is None else (losses * weights.reshape(-1)).sum()


_kept = threading.local()


def _scratch(rows: int, columns: int, like: Tensor) -> Tensor:
    """[rows, columns] to write logits into, the same memory at every call of a thread.

    Memory that is new costs a page fault per 4 kB when it is first written: for logits as much as half their product.
    """
    buffer: Tensor | None = getattr(_kept, "buffer", None)
    size = rows * columns
    if buffer is None or buffer.numel() < size or (buffer.dtype, buffer.device) != (like.dtype, like.device):
        _kept.buffer = buffer = torch.empty(size, dtype=like.dtype, device=like.device)
    return buffer[:size].view(rows, columns)


class _ChunkedCrossEntropy(torch.autograd.Function):
    """All gradients are made in the forward pass, where the logits are at hand."""

    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        targets: Tensor,
        weights: Tensor,
        cap: float | None,
    ) -> Tensor:
        wide = torch.promote_types(hidden.dtype, torch.float32)
        wants_hidden, wants_weight, wants_bias = ctx.needs_input_grad[:3]
        total = torch.zeros((), dtype=wide, device=hidden.device)
        grad_hidden = torch.empty_like(hidden) if wants_hidden else None
        grad_weight: Tensor | None = None
        grad_bias = torch.zeros(len(weight), dtype=wide, device=hidden.device) if wants_bias else None
        vocabulary = weight.shape[0]
        # Products over a length that is odd in the processor's units are a quarter slower.
        columns = -(-vocabulary // 64) * 64
        chunk = min(max(1, hidden.shape[0]), max(1, LOGIT_BYTES // (columns * hidden.element_size())))
        buffer = _scratch(chunk, columns, hidden)
        buffer[:, vocabulary:] = 0
        for start in range(0, hidden.shape[0], chunk):
            part = slice(start, start + chunk)
            rows, row_weights = hidden[part], weights[part, None].to(wide)
            padded = buffer[: rows.shape[0]]
            logits = padded[:, :vocabulary]
            if bias is None:
                torch.mm(rows, weight.t(), out=logits)
            else:
                torch.addmm(bias, rows, weight.t(), out=logits)
            total += _loss_and_gradient(logits, targets[part], row_weights, cap, any(ctx.needs_input_grad))
            # A token's weight scales its row of [n, D] instead of its row of [n, V].
            if grad_hidden is not None:
                torch.mm(logits, weight, out=grad_hidden[part])
                grad_hidden[part] *= row_weights
            if grad_bias is not None:
                grad_bias += (row_weights.to(logits.dtype).t() @ logits)[0]
            if wants_weight:
                product = (padded.t() @ (rows * row_weights).to(rows.dtype))[:vocabulary]
                if chunk == hidden.shape[0]:
                    grad_weight = product
                elif grad_weight is None:
                    grad_weight = product.to(wide)
                else:
                    grad_weight += product
        ctx.gradients, ctx.dtype = (grad_hidden, grad_weight, grad_bias), weight.dtype
        return total

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        if ctx.gradients is None:
            raise RuntimeError("a second backward through the vocabulary head: the first one used its gradients up")
        grad_hidden, grad_weight, grad_bias = ctx.gradients
        ctx.gradients = None
        if grad_hidden is not None:
            grad_hidden = grad_hidden.mul_(grad)
        if grad_weight is not None:
            grad_weight = grad_weight.mul_(grad).to(ctx.dtype)
        if grad_bias is not None:
            grad_bias = grad_bias.mul_(grad).to(ctx.dtype)
        return grad_hidden, grad_weight, grad_bias, None, None, None


def _loss_and_gradient(
    logits: Tensor, targets: Tensor, row_weights: Tensor, cap: float | None, gradient: bool
) -> Tensor:
    """Weighted sum of the losses of ``logits`` [n, V], which is overwritten by each row's own gradient where wanted."""
    wide = row_weights.dtype
    step = logits.shape[0]
    if logits.device.type == "cpu":
        step = max(1, ROWS_BYTES // (logits.shape[1] * 4))
    total = torch.zeros((), dtype=wide, device=logits.device)
    for start in range(0, logits.shape[0], step):
        part = slice(start, start + step)
        scores = logits[part] if cap is None else softcap(logits[part].to(wide), cap)
        target = targets[part, None]
        highest, place = scores.max(dim=1, keepdim=True)
        probabilities = torch.softmax(scores, dim=1, dtype=wide)
        log_sum = highest.to(wide) - probabilities.gather(1, place).log()
        total += ((log_sum - scores.gather(1, target).to(wide)) * row_weights[part]).sum()
        if gradient:
            probabilities.scatter_add_(1, target, torch.full_like(log_sum, -1.0))
            logits[part] = probabilities if cap is None else probabilities.mul_(1 - (scores / cap).square())
    return total
