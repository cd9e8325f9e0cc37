"""Causal attention for training on a CPU: batched matrix products over blocks of queries, forwards and backwards.

PyTorch's fused CPU kernel is slow backwards and gives way to an unfused path with dropout. Here a block of queries
meets only the keys it may see, so that almost half of the square is never computed, and everything heavy is a batched
matrix product. The plain twin in ``attention.py`` is the reference.

Legend: N batch x heads, T tokens, K head size, b queries in a block.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

BLOCK = 128  # queries at a time: small enough to skip most of the upper triangle, big enough to keep the products busy
KEEP_BYTES = 64 << 20  # a layer's attention weights are kept for the backward pass up to this size, else computed again


def _blocks(length: int) -> Iterator[tuple[int, int]]:
    for start in range(0, length, BLOCK):
        yield start, min(start + BLOCK, length)


def _future(rows: int, like: Tensor) -> Tensor:
    """[b, b] -inf above the diagonal: what the last ``rows`` queries must not see among the last ``rows`` keys."""
    return torch.full((rows, rows), float("-inf"), dtype=like.dtype, device=like.device).triu_(1)


def _weights(q: Tensor, k: Tensor, start: int, stop: int, scale: float) -> Tensor:
    """Softmax weights [N, b, stop] of the queries start..stop over the keys 0..stop."""
    scores = torch.bmm(q[:, start:stop], k[:, :stop].transpose(1, 2)).mul_(scale)
    scores[:, :, start:] += _future(stop - start, scores)
    return torch.softmax(scores, dim=-1)


def _keep_mask(shape: torch.Size, dropout: float, seed: Tensor, start: int, like: Tensor) -> Tensor:
    """0 or 1/(1-p), redrawn identically in the backward pass from (seed, block)."""
    generator = torch.Generator(device=like.device).manual_seed(int(seed) + start)
    # One random byte a weight: p is met to within 1/256 and the scale is exact for the p used.
    threshold = round(dropout * 256)
    kept = torch.empty(shape, dtype=torch.uint8, device=like.device).random_(0, 256, generator=generator) >= threshold
    return kept.to(like.dtype).mul_(256 / (256 - threshold))


@torch.library.custom_op("gptloom::causal_attention", mutates_args=())
def causal_attention(q: Tensor, k: Tensor, v: Tensor, dropout: float, seed: Tensor) -> tuple[Tensor, Tensor]:
    """q, k, v [N, T, K] -> output [N, T, K] and the attention weights, flat (empty when they would be too big to keep).

    ``seed``, of the dropout, is a tensor []: as a number it would be part of a compiled graph, and each draw a new graph.
    """
    n, length, head_dim = q.shape
    scale = head_dim**-0.5
    out = torch.empty_like(q)
    sizes = [n * (stop - start) * stop for start, stop in _blocks(length)]
    keep = sum(sizes) * q.element_size() <= KEEP_BYTES
    kept = q.new_empty(sum(sizes) if keep else 0)
    offset = 0
    for (start, stop), size in zip(_blocks(length), sizes, strict=True):
        weights = _weights(q, k, start, stop, scale)
        if keep:
            kept[offset : offset + size] = weights.view(-1)
            offset += size
        if dropout:
            weights = weights * _keep_mask(weights.shape, dropout, seed, start, weights)
        out[:, start:stop] = torch.bmm(weights, v[:, :stop])
    return out, kept


@causal_attention.register_fake
def _(q: Tensor, k: Tensor, v: Tensor, dropout: float, seed: Tensor) -> tuple[Tensor, Tensor]:
    n, length, _ = q.shape
    size = sum(n * (stop - start) * stop for start, stop in _blocks(length))
    return torch.empty_like(q), q.new_empty(size if size * q.element_size() <= KEEP_BYTES else 0)


@torch.library.custom_op("gptloom::causal_attention_backward", mutates_args=())
def _backward(
    grad: Tensor, q: Tensor, k: Tensor, v: Tensor, kept: Tensor, dropout: float, seed: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    n, length, head_dim = q.shape
    scale = head_dim**-0.5
    grad = grad.contiguous()
    grad_q = torch.empty_like(q)
    # Each block of queries adds to the keys and values before it: sums of up to T/128 products, so in fp32 at least.
    wide = torch.promote_types(q.dtype, torch.float32)
    grad_k, grad_v = (torch.zeros(q.shape, dtype=wide, device=q.device) for _ in range(2))
    offset = 0
    for start, stop in _blocks(length):
        rows, size = stop - start, n * (stop - start) * stop
        if kept.numel():
            weights = kept[offset : offset + size].view(n, rows, stop)
            offset += size
        else:
            weights = _weights(q, k, start, stop, scale)
        grad_rows = grad[:, start:stop]
        grad_weights = torch.bmm(grad_rows, v[:, :stop].transpose(1, 2))
        if dropout:
            keep = _keep_mask(weights.shape, dropout, seed, start, weights)
            grad_weights.mul_(keep)
            grad_v[:, :stop] += torch.bmm((weights * keep).transpose(1, 2), grad_rows)
        else:
            grad_v[:, :stop] += torch.bmm(weights.transpose(1, 2), grad_rows)
        grad_scores = torch._softmax_backward_data(grad_weights, weights, -1, weights.dtype).mul_(scale)
        grad_q[:, start:stop] = torch.bmm(grad_scores, k[:, :stop])
        grad_k[:, :stop] += torch.bmm(grad_scores.transpose(1, 2), q[:, start:stop])
    return grad_q, grad_k.to(q.dtype), grad_v.to(q.dtype)


@_backward.register_fake
def _(
    grad: Tensor, q: Tensor, k: Tensor, v: Tensor, kept: Tensor, dropout: float, seed: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    return torch.empty_like(q), torch.empty_like(k), torch.empty_like(v)


def _setup(ctx: torch.autograd.function.FunctionCtx, inputs: tuple, output: tuple) -> None:
    q, k, v, ctx.dropout, seed = inputs  # type: ignore[attr-defined]
    ctx.save_for_backward(q, k, v, output[1], seed)
    ctx.mark_non_differentiable(output[1])
    ctx.set_materialize_grads(False)  # else zeros as big as the weights are made, as their gradient


def _autograd(ctx: torch.autograd.function.FunctionCtx, grad: Tensor | None, _: Tensor) -> tuple[Tensor | None, ...]:
    if grad is None:
        return (None,) * 5
    q, k, v, kept, seed = ctx.saved_tensors  # type: ignore[attr-defined]
    return (*_backward(grad, q, k, v, kept, ctx.dropout, seed), None, None)  # type: ignore[attr-defined]


causal_attention.register_autograd(_autograd, setup_context=_setup)
