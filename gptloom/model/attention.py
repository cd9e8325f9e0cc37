"""Attention: one mask description, understood by the fused kernels and by the plain twin that writes the softmax out.

Legend: B batch, T queries, S keys, D width, H heads, G key/value heads, K head size.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gptloom.config.model import ModelConfig
from gptloom.model.cpu_attention import causal_attention
from gptloom.model.norm import make_norm


@dataclass(frozen=True)
class Mask:
    """Who sees whom: causal, and optionally only real tokens, and only within the same document.

    ``key_valid`` [B, S] is False at padding; ``documents`` [B, T] gives each token its document's number.
    """

    key_valid: Tensor | None = None
    documents: Tensor | None = None

    def visible(self, length: int) -> Tensor | None:
        """[B, 1, T, S] bool, True where query t may see key s; None when the causal rule alone says it all."""
        if self.key_valid is None and self.documents is None:
            return None
        given = self.key_valid if self.key_valid is not None else self.documents
        assert given is not None
        index = torch.arange(length, device=given.device)
        visible = (index[None, :] <= index[:, None])[None]
        if self.key_valid is not None:
            # A padded query still sees itself, so that no row of the softmax is empty.
            visible = visible & (self.key_valid[:, None, :] | (index[None, :] == index[:, None]))
        if self.documents is not None:
            visible = visible & (self.documents[:, :, None] == self.documents[:, None, :])
        return visible[:, None]


@dataclass(frozen=True)
class LayerCache:
    """One layer's share of a ``KVCache``: keys and values [B, G, S, K] and the positions [B, T] being written now."""

    k: Tensor
    v: Tensor
    positions: Tensor

    def extend(self, k: Tensor, v: Tensor) -> None:
        """Writes k, v [B, G, T, K] at each row's own positions."""
        rows = torch.arange(k.shape[0], device=k.device)[:, None]
        # Indexing with a slice between two index tensors puts the indexed axes first: [B, T, G, K].
        self.k[rows, :, self.positions] = k.transpose(1, 2)
        self.v[rows, :, self.positions] = v.transpose(1, 2)


def plain_attention(
    q: Tensor, k: Tensor, v: Tensor, visible: Tensor | None, dropout: float = 0.0
) -> tuple[Tensor, Tensor]:
    """The reference: q [B, H, T, K], k, v [B, G, S, K] -> output [B, H, T, K] and the weights [B, H, T, S]."""
    groups = q.shape[1] // k.shape[1]
    k, v = k.repeat_interleave(groups, dim=1), v.repeat_interleave(groups, dim=1)
    if visible is None:
        visible = torch.ones(q.shape[2], k.shape[2], dtype=torch.bool, device=q.device).tril()
    scores = q @ k.transpose(-2, -1) * q.shape[-1] ** -0.5
    weights = scores.masked_fill(~visible, float("-inf")).softmax(dim=-1)
    return F.dropout(weights, dropout) @ v, weights


def attend(q: Tensor, k: Tensor, v: Tensor, visible: Tensor | None, dropout: float = 0.0) -> Tensor:
    """The fast path: as ``plain_attention``, by whichever kernel is fastest here."""
    if visible is None and q.device.type == "cpu" and torch.is_grad_enabled():
        groups = q.shape[1] // k.shape[1]
        if groups > 1:
            k, v = k.repeat_interleave(groups, dim=1), v.repeat_interleave(groups, dim=1)
        seed = torch.randint(2**31, ()) if dropout else torch.zeros((), dtype=torch.int64)
        flat = [t.reshape(-1, *t.shape[2:]) for t in (q, k, v)]
        out, _ = causal_attention(*flat, dropout, seed)
        return out.view(q.shape)
    if visible is not None and q.shape[2] == 1 and torch.compiler.is_compiling():
        return one_query_attention(q, k, v, visible)
    gqa = q.shape[1] != k.shape[1]
    return F.scaled_dot_product_attention(
        q, k, v, attn_mask=visible, dropout_p=dropout, is_causal=visible is None, enable_gqa=gqa
    )


def one_query_attention(q: Tensor, k: Tensor, v: Tensor, visible: Tensor) -> Tensor:
    """``attend`` for one query a row, as products and sums that a compiler fuses: they read the cache at memory speed."""
    batch, heads, _, size = q.shape
    grouped = q.view(batch, k.shape[1], heads // k.shape[1], 1, size).float()  # [B, G, H/G, 1, K]
    scores = (grouped * k[:, :, None].float()).sum(-1) * size**-0.5  # [B, G, H/G, S]
    weights = scores.masked_fill(~visible, float("-inf")).softmax(dim=-1)
    return (weights[..., None] * v[:, :, None].float()).sum(-2).view(q.shape).to(q.dtype)


def rotary_table(positions: Tensor, config: ModelConfig, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """cos and sin [B or 1, 1, T, K/2] of the angles position * theta^(-2i/K) (RoFormer, section 3.2.2).

    Computed afresh in fp32 (fp64 for fp64 models): a table kept in bf16 would lose the far positions.
    """
    wide = torch.promote_types(dtype, torch.float32)
    exponent = (
        torch.arange(0, config.head_dim, 2, device=positions.device, dtype=torch.int64).to(wide) / config.head_dim
    )
    angles = positions[:, None, :, None].to(wide) * (1.0 / config.rope_theta**exponent)
    return angles.cos(), angles.sin()


def rotate(x: Tensor, table: tuple[Tensor, Tensor]) -> Tensor:
    """Turns the pairs (i, i + K/2) of x [B, H, T, K] by their angles."""
    cos, sin = table
    first, second = x.chunk(2, dim=-1)
    return torch.cat((first * cos - second * sin, second * cos + first * sin), dim=-1)


class Attention(nn.Module):
    """Multi-head attention with separate q, k, v: sharding, LoRA, Muon and the layouts all want them apart."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.head_dim = config.head_dim
        self.dropout = config.dropout
        self.norm_first = config.qk_norm == "before_rotary"
        self.q = nn.Linear(config.d_model, config.n_head * config.head_dim, bias=config.bias)
        self.k = nn.Linear(config.d_model, config.n_kv_head * config.head_dim, bias=config.bias)
        self.v = nn.Linear(config.d_model, config.n_kv_head * config.head_dim, bias=config.bias)
        self.out = nn.Linear(config.n_head * config.head_dim, config.d_model, bias=config.bias)
        with_norm = config.qk_norm != "none"
        self.q_norm = make_norm(config, config.head_dim) if with_norm else nn.Identity()
        self.k_norm = make_norm(config, config.head_dim) if with_norm else nn.Identity()

    def forward(
        self,
        x: Tensor,
        rotary: tuple[Tensor, Tensor] | None,
        visible: Tensor | None,
        cache: LayerCache | None = None,
        weights: list[Tensor] | None = None,
    ) -> Tensor:
        """x [B, T, D] -> [B, T, D]. With ``weights`` the plain twin runs and appends its weights [B, H, T, S]."""
        batch, length, _ = x.shape
        q, k, v = (
            linear(x).view(batch, length, -1, self.head_dim).transpose(1, 2) for linear in (self.q, self.k, self.v)
        )
        if self.norm_first:
            q, k = self.q_norm(q), self.k_norm(k)
        if rotary is not None:
            q, k = rotate(q, rotary).to(x.dtype), rotate(k, rotary).to(x.dtype)
        if not self.norm_first:
            q, k = self.q_norm(q), self.k_norm(k)
        if cache is not None:
            cache.extend(k, v)
            assert visible is not None
            k, v = cache.k[:, :, : visible.shape[-1]], cache.v[:, :, : visible.shape[-1]]
        dropout = self.dropout if self.training else 0.0
        if weights is None:
            out = attend(q, k, v, visible, dropout)
        else:
            out, seen = plain_attention(q, k, v, visible, dropout)
            weights.append(seen)
        return self.out(out.transpose(1, 2).reshape(batch, length, -1))
