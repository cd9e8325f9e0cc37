"""Attention: one mask description, understood by the fused kernels and by the plain twin that writes the softmax out.

Legend: B batch, T queries, S keys, D width, H heads, G key/value heads, K head size.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.attention.flex_attention import BlockMask, create_block_mask, flex_attention

from gptloom.config.model import ModelConfig
from gptloom.model.cpu_attention import block_attention
from gptloom.model.documents import Documents
from gptloom.model.norm import make_norm
from gptloom.model.rotary import rotate


@dataclass(frozen=True)
class Sight:
    """Who sees whom in one layer: rules, and a table where rules don't say it all.

    ``causal``: nobody sees what comes later. ``window``: nobody sees further back (and, if not causal, further ahead) than
    so many tokens, the own one included. ``key_valid`` [B, S] is False at padding, which is seen by nobody else.
    ``documents``: nobody sees another document; ``groups`` are the rules within each of their groups. ``visible``
    [B, 1, T, S], True where query t may see key s, stands for all the rules at once where it is given; ``tiles`` is the
    same for FlexAttention.
    """

    causal: bool = True
    window: int | None = None
    key_valid: Tensor | None = None
    documents: Documents | None = None
    groups: tuple[Sight, ...] = ()
    visible: Tensor | None = None
    tiles: BlockMask | None = None

    def table(self, length: int, device: torch.device) -> Tensor:
        """[B or 1, 1, T, S] bool: what the rules and the table come to, for ``length`` tokens that see one another."""
        if self.visible is not None:
            return self.visible
        index = torch.arange(length, device=device)
        seen = within(index[:, None], index[None, :], self.causal, self.window)[None]
        if self.key_valid is not None:
            # A padded query still sees itself, so that no row of the softmax is empty.
            seen = seen & (self.key_valid[:, None, :] | (index[None, :] == index[:, None]))
        if self.documents is not None:
            seen = seen & (self.documents.runs[:, :, None] == self.documents.runs[:, None, :])
        return seen[:, None]


def within(query: Tensor, key: Tensor, causal: bool, window: int | None) -> Tensor:
    """Bool, of the broadcast shape: whether the token at place ``query`` may see the one at ``key``."""
    seen = key <= query if causal else torch.ones((), dtype=torch.bool, device=query.device).expand_as(key <= query)
    if window is not None:
        seen = seen & (query - key < window)
        if not causal:
            seen = seen & (key - query < window)
    return seen


@dataclass(frozen=True)
class Mask:
    """What a batch adds to the rules of its model: only real tokens are seen, and only within the same document.

    ``key_valid`` [B, S] is False at padding; ``documents`` [B, T] numbers each token's document, which lies in one piece.
    """

    key_valid: Tensor | None = None
    documents: Tensor | None = None

    def sight(self, causal: bool = True, window: int | None = None) -> Sight:
        """The rules of a layer and these together."""
        if self._laid_out is None:
            return Sight(causal, window, self.key_valid)
        longest = [length for _, length in self._laid_out.shapes]
        valid: Sequence[Tensor | None] = [None] * len(longest)
        if self.key_valid is not None or not causal:  # else nobody sees what lies behind the end of a document
            everything = torch.ones_like(self._laid_out.runs, dtype=torch.bool)
            valid = self._laid_out.real(everything if self.key_valid is None else self.key_valid)
        groups = tuple(
            Sight(causal, window if window is not None and window < length else None, real)
            for length, real in zip(longest, valid, strict=True)
        )
        return Sight(causal, window, self.key_valid, self._laid_out, groups)

    @cached_property
    def _laid_out(self) -> Documents | None:
        """Once for all layers."""
        return None if self.documents is None else Documents.of(self.documents)


CAUSAL = Sight()


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


def attention_scores(q: Tensor, k: Tensor, sight: Sight = CAUSAL, scale: float | None = None) -> Tensor:
    """q [B, H, T, K], k [B, G, S, K] -> what the softmax is of, [B, H, T, S]: -inf where a query does not see a key.

    ``scale`` of the scores; 1 / sqrt(K) where None.
    """
    k = k.repeat_interleave(q.shape[1] // k.shape[1], dim=1)
    scores = q @ k.transpose(-2, -1) * (q.shape[-1] ** -0.5 if scale is None else scale)
    return scores.masked_fill(~sight.table(q.shape[2], q.device), float("-inf"))


def plain_attention(
    q: Tensor, k: Tensor, v: Tensor, sight: Sight = CAUSAL, dropout: float = 0.0, scale: float | None = None
) -> tuple[Tensor, Tensor]:
    """The reference: q [B, H, T, K], k, v [B, G, S, K] -> output [B, H, T, K] and the weights [B, H, T, S]."""
    weights = attention_scores(q, k, sight, scale).softmax(dim=-1)
    return F.dropout(weights, dropout) @ v.repeat_interleave(q.shape[1] // v.shape[1], dim=1), weights


def attend(
    q: Tensor, k: Tensor, v: Tensor, sight: Sight = CAUSAL, dropout: float = 0.0, scale: float | None = None
) -> Tensor:
    """The fast path: as ``plain_attention``, by whichever kernel is fastest here."""
    if sight.documents is not None:
        return document_attention(q, k, v, sight, dropout, scale)
    if sight.visible is None and q.device.type == "cpu" and torch.is_grad_enabled():
        groups = q.shape[1] // k.shape[1]
        if groups > 1:
            k, v = k.repeat_interleave(groups, dim=1), v.repeat_interleave(groups, dim=1)
        seed = torch.randint(2**31, ()) if dropout else torch.zeros((), dtype=torch.int64)
        flat = [t.reshape(-1, *t.shape[2:]) for t in (q, k, v)]
        factor = q.shape[-1] ** -0.5 if scale is None else scale
        out, _ = block_attention(*flat, sight.key_valid, sight.causal, sight.window, factor, dropout, seed)
        return out.view(q.shape)
    if sight.visible is not None and q.shape[2] == 1 and torch.compiler.is_compiling():
        return one_query_attention(q, k, v, sight.visible, scale)
    gqa = q.shape[1] != k.shape[1]
    # Outside of a compiled graph FlexAttention would write out all scores, slower than a mask.
    if sight.tiles is not None and not dropout and torch.compiler.is_compiling():
        return flex_attention(q, k, v, block_mask=sight.tiles, scale=scale, enable_gqa=gqa)
    rules = sight.visible is None and sight.window is None and sight.key_valid is None
    table = None if rules else sight.table(q.shape[2], q.device)
    return F.scaled_dot_product_attention(
        q, k, v, attn_mask=table, dropout_p=dropout, is_causal=rules and sight.causal, scale=scale, enable_gqa=gqa
    )


@torch.compiler.disable  # the groups differ from batch to batch, and each would be a graph of its own
def document_attention(
    q: Tensor, k: Tensor, v: Tensor, sight: Sight, dropout: float = 0.0, scale: float | None = None
) -> Tensor:
    """``attend`` for rows of several documents: the ordinary kernels on each group of them."""
    assert sight.documents is not None
    qs, ks, vs = (sight.documents.spread(rows) for rows in (q, k, v))
    groups = zip(qs, ks, vs, sight.groups, strict=True)
    return sight.documents.collect([attend(*group, dropout, scale) for group in groups])


@lru_cache(maxsize=16)
def band_tiles(length: int, window: int, device: torch.device) -> BlockMask:
    """FlexAttention's description of a causal band, made once a shape: whole tiles outside of it are never computed."""

    def seen(batch: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
        return within(query, key, True, window)

    return create_block_mask(seen, None, None, length, length, device=device)


def one_query_attention(q: Tensor, k: Tensor, v: Tensor, visible: Tensor, scale: float | None = None) -> Tensor:
    """``attend`` for one query a row, as products and sums that a compiler fuses: they read the cache at memory speed."""
    batch, heads, _, size = q.shape
    grouped = q.view(batch, k.shape[1], heads // k.shape[1], 1, size).float()  # [B, G, H/G, 1, K]
    scores = (grouped * k[:, :, None].float()).sum(-1) * (size**-0.5 if scale is None else scale)  # [B, G, H/G, S]
    weights = scores.masked_fill(~visible, float("-inf")).softmax(dim=-1)
    return (weights[..., None] * v[:, :, None].float()).sum(-2).view(q.shape).to(q.dtype)


class Attention(nn.Module):
    """Multi-head attention with separate q, k, v: sharding, LoRA, Muon and the layouts all want them apart."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.head_dim = config.head_dim
        self.dropout = config.dropout if config.attention_dropout is None else config.attention_dropout
        self.scale = None if config.scale_attention else 1.0
        self.norm_first = config.qk_norm == "before_rotary"
        inner, kv_inner = config.n_head * config.head_dim, config.n_kv_head * config.head_dim
        self.q = nn.Linear(config.d_model, inner, bias=bool(config.qkv_bias))
        self.k = nn.Linear(config.d_model, kv_inner, bias=bool(config.qkv_bias))
        self.v = nn.Linear(config.d_model, kv_inner, bias=bool(config.qkv_bias))
        self.out = nn.Linear(inner, config.d_model, bias=bool(config.out_bias))
        with_norm = config.qk_norm != "none"
        self.q_norm = make_norm(config, config.head_dim) if with_norm else nn.Identity()
        self.k_norm = make_norm(config, config.head_dim) if with_norm else nn.Identity()

    def project(self, x: Tensor, rotary: tuple[Tensor, Tensor] | None) -> tuple[Tensor, Tensor, Tensor]:
        """x [B, T, D] -> q [B, H, T, K] and k, v [B, G, T, K], normed and rotated: what ``attend`` takes."""
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
        return q, k, v

    def forward(
        self,
        x: Tensor,
        rotary: tuple[Tensor, Tensor] | None,
        sight: Sight,
        cache: LayerCache | None = None,
        weights: list[Tensor] | None = None,
    ) -> Tensor:
        """x [B, T, D] -> [B, T, D]. With ``weights`` the plain twin runs and appends its weights [B, H, T, S]."""
        batch, length, _ = x.shape
        q, k, v = self.project(x, rotary)
        if cache is not None:
            cache.extend(k, v)
            assert sight.visible is not None
            k, v = cache.k[:, :, : sight.visible.shape[-1]], cache.v[:, :, : sight.visible.shape[-1]]
        dropout = self.dropout if self.training else 0.0
        if weights is None:
            out = attend(q, k, v, sight, dropout, self.scale)
        else:
            out, seen = plain_attention(q, k, v, sight, dropout, self.scale)
            weights.append(seen)
        return self.out(out.transpose(1, 2).reshape(batch, length, -1))
