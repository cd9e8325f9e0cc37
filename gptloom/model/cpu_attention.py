"""Attention for training on a CPU: batched matrix products over blocks of queries, forwards and backwards.

PyTorch's fused CPU kernel is slow backwards and gives way to an unfused path with dropout. Here a block of queries
meets only the stretch of keys that the rules let it see, so that almost half of a causal square and nearly all of a
narrow band's is never computed, and everything heavy is a batched matrix product. The plain twin in ``attention.py`` is
the reference.

Legend: N batch x heads, T tokens, K head size, b queries in a block, s keys they meet.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from gptloom.model.dropout import kept

BLOCK = 128  # queries at a time: small enough to skip most of what is not seen, big enough to keep the products busy
KEEP_BYTES = 64 << 20  # a layer's attention weights are kept for the backward pass up to this size, else computed again


@dataclass(frozen=True)
class _Tile:
    """A block of queries, and the stretch of keys that any of them may see."""

    start: int
    stop: int
    first: int
    last: int

    @property
    def size(self) -> int:
        return (self.stop - self.start) * (self.last - self.first)


def _tiles(length: int, causal: bool, window: int | None) -> Iterator[_Tile]:
    for start in range(0, length, BLOCK):
        stop = min(start + BLOCK, length)
        first = 0 if window is None else max(0, start - window + 1)
        ahead = length if window is None else min(length, stop + window - 1)
        yield _Tile(start, stop, first, stop if causal else ahead)


def _kept_size(q: Tensor, causal: bool, window: int | None) -> int:
    """Numbers of all attention weights together, 0 when they would be too big to keep."""
    size = q.shape[0] * sum(tile.size for tile in _tiles(q.shape[1], causal, window))
    return size if size * q.element_size() <= KEEP_BYTES else 0


def _unseen(tile: _Tile, causal: bool, window: int | None, like: Tensor) -> Tensor | None:
    """[b, s] -inf where a query of the tile must not see a key; None where all see all."""
    if not causal and window is None:
        return None
    query = torch.arange(tile.start, tile.stop, device=like.device)[:, None]
    key = torch.arange(tile.first, tile.last, device=like.device)[None, :]
    hidden = key > query if causal else torch.zeros_like(key > query)
    if window is not None:
        hidden |= query - key >= window
        if not causal:
            hidden |= key - query >= window
    return torch.zeros(hidden.shape, dtype=like.dtype, device=like.device).masked_fill_(hidden, float("-inf"))


def _weights(
    q: Tensor, k: Tensor, valid: Tensor | None, tile: _Tile, causal: bool, window: int | None, scale: float
) -> Tensor:
    """Softmax weights [N, b, s] of the queries of ``tile`` over its keys."""
    scores = torch.bmm(q[:, tile.start : tile.stop], k[:, tile.first : tile.last].transpose(1, 2)).mul_(scale)
    unseen = _unseen(tile, causal, window, scores)
    if unseen is not None:
        scores += unseen
    if valid is not None:
        _hide_padding(scores, valid, tile)
    return torch.softmax(scores, dim=-1)


def _hide_padding(scores: Tensor, valid: Tensor, tile: _Tile) -> None:
    """Sets scores [N, b, s] to -inf at padding; a padded query still sees itself, so that no row is empty."""
    rows = scores.view(len(valid), -1, *scores.shape[1:])  # [B, H, b, s]
    keys = torch.arange(tile.first, tile.last, device=scores.device)
    queries = torch.arange(tile.start, tile.stop, device=scores.device)
    hidden = ~valid[:, None, None, tile.first : tile.last] & (queries[:, None] != keys[None, :])
    rows.masked_fill_(hidden, float("-inf"))


def _keep_mask(shape: torch.Size, dropout: float, seed: Tensor, start: int, like: Tensor) -> Tensor:
    """0 or 1/(1-p), redrawn identically in the backward pass from (seed, block)."""
    bits = 8 if 1 / 64 <= dropout <= 63 / 64 else 16  # a byte is too coarse at the ends
    stays, factor = kept(shape, dropout, bits, torch.Generator().manual_seed(int(seed) + start))
    return stays.to(like.dtype).mul_(factor)


@torch.library.custom_op("gptloom::block_attention", mutates_args=())
def block_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    valid: Tensor | None,
    causal: bool,
    window: int | None,
    scale: float,
    dropout: float,
    seed: Tensor,
) -> tuple[Tensor, Tensor]:
    """q, k, v [N, T, K] -> output [N, T, K] and the attention weights, flat (empty when they would be too big to keep).

    ``valid`` [B, T] is False at padding, N being B times the heads. ``seed``, of the dropout, is a tensor []: as a number
    it would be part of a compiled graph, and each draw a new graph.
    """
    out = torch.empty_like(q)
    all_weights = q.new_empty(_kept_size(q, causal, window))
    offset = 0
    for tile in _tiles(q.shape[1], causal, window):
        weights = _weights(q, k, valid, tile, causal, window, scale)
        if all_weights.numel():
            all_weights[offset : offset + weights.numel()] = weights.view(-1)
            offset += weights.numel()
        if dropout:
            weights = weights * _keep_mask(weights.shape, dropout, seed, tile.start, weights)
        out[:, tile.start : tile.stop] = torch.bmm(weights, v[:, tile.first : tile.last])
    return out, all_weights


@block_attention.register_fake
def _(
    q: Tensor, k: Tensor, v: Tensor, valid: Tensor | None, causal: bool, window: int | None, *_: object
) -> tuple[Tensor, Tensor]:
    return torch.empty_like(q), q.new_empty(_kept_size(q, causal, window))


@torch.library.custom_op("gptloom::block_attention_backward", mutates_args=())
def _backward(
    grad: Tensor,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    all_weights: Tensor,
    valid: Tensor | None,
    causal: bool,
    window: int | None,
    scale: float,
    dropout: float,
    seed: Tensor,
) -> tuple[Tensor, Tensor, Tensor]:
    n, length, _ = q.shape
    grad = grad.contiguous()
    grad_q = torch.empty_like(q)
    # Each block of queries adds to the keys and values it met: sums of many products, so in fp32 at least.
    wide = torch.promote_types(q.dtype, torch.float32)
    grad_k, grad_v = (torch.zeros(q.shape, dtype=wide, device=q.device) for _ in range(2))
    offset = 0
    for tile in _tiles(length, causal, window):
        rows, keys = slice(tile.start, tile.stop), slice(tile.first, tile.last)
        if all_weights.numel():
            weights = all_weights[offset : offset + n * tile.size].view(n, tile.stop - tile.start, -1)
            offset += n * tile.size
        else:
            weights = _weights(q, k, valid, tile, causal, window, scale)
        grad_rows = grad[:, rows]
        grad_weights = torch.bmm(grad_rows, v[:, keys].transpose(1, 2))
        if dropout:
            keep = _keep_mask(weights.shape, dropout, seed, tile.start, weights)
            grad_weights.mul_(keep)
            grad_v[:, keys] += torch.bmm((weights * keep).transpose(1, 2), grad_rows)
        else:
            grad_v[:, keys] += torch.bmm(weights.transpose(1, 2), grad_rows)
        grad_scores = torch._softmax_backward_data(grad_weights, weights, -1, weights.dtype).mul_(scale)
        grad_q[:, rows] = torch.bmm(grad_scores, k[:, keys])
        grad_k[:, keys] += torch.bmm(grad_scores.transpose(1, 2), q[:, rows])
    return grad_q, grad_k.to(q.dtype), grad_v.to(q.dtype)


@_backward.register_fake
def _(grad: Tensor, q: Tensor, k: Tensor, v: Tensor, *_: object) -> tuple[Tensor, Tensor, Tensor]:
    return torch.empty_like(q), torch.empty_like(k), torch.empty_like(v)


def _setup(ctx: torch.autograd.function.FunctionCtx, inputs: tuple, output: tuple) -> None:
    q, k, v, valid, *ctx.rules, seed = inputs  # type: ignore[attr-defined]
    ctx.save_for_backward(q, k, v, output[1], valid, seed)
    ctx.mark_non_differentiable(output[1])
    ctx.set_materialize_grads(False)  # else zeros as big as the weights are made, as their gradient


def _autograd(ctx: torch.autograd.function.FunctionCtx, grad: Tensor | None, _: Tensor) -> tuple[Tensor | None, ...]:
    if grad is None:
        return (None,) * 9
    q, k, v, all_weights, valid, seed = ctx.saved_tensors  # type: ignore[attr-defined]
    gradients = _backward(grad, q, k, v, all_weights, valid, *ctx.rules, seed)  # type: ignore[attr-defined]
    return (*gradients, *(None,) * 6)


block_attention.register_autograd(_autograd, setup_context=_setup)
