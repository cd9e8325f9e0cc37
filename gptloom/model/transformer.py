"""The one Transformer. Its ModelConfig makes it a GPT-2, a ``modern`` or a ``fast`` model; no class per family.

Legend: B batch, T tokens, D width, V vocabulary.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gptloom.config.model import ModelConfig
from gptloom.model.attention import Mask, rotary_table
from gptloom.model.block import Block
from gptloom.model.cache import KVCache
from gptloom.model.init import init_weights
from gptloom.model.norm import make_norm


class Transformer(nn.Module):
    """Token ids in, hidden states out (``hidden``); ``logits`` turns hidden states into next-token scores."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.embedding = nn.Embedding(config.vocab_size, config.d_model)
        learned = config.positions == "learned"
        self.position_embedding = nn.Embedding(config.context, config.d_model) if learned else None
        self.embedding_norm = make_norm(config, config.d_model) if config.embedding_norm else None
        self.dropout = nn.Dropout(config.dropout)
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.n_layer))
        self.norm = make_norm(config, config.d_model)
        self.head = None if config.tied_head else nn.Linear(config.d_model, config.vocab_size, bias=False)

    @classmethod
    def initialised(cls, config: ModelConfig, seed: int) -> Transformer:
        """A fresh model whose weights depend on (config, seed) alone; the global generator is left as it was."""
        with torch.device("meta"):
            model = cls(config)
        model.to_empty(device="cpu")
        with torch.random.fork_rng(devices=[]), torch.no_grad():
            torch.manual_seed(seed)
            init_weights(model)
        return model

    @property
    def head_weight(self) -> Tensor:
        """The output matrix [V, D]: the token embedding itself when the head is tied."""
        return self.embedding.weight if self.head is None else self.head.weight

    def hidden(
        self,
        ids: Tensor,
        positions: Tensor | None = None,
        mask: Mask | None = None,
        cache: KVCache | None = None,
        reach: int | None = None,
        weights: list[Tensor] | None = None,
    ) -> Tensor:
        """ids [B, T] -> the normed hidden states [B, T, D].

        positions: [B, T], default 0..T-1. With a ``cache`` they say where each row's tokens go and what they see; pass
        ``reach`` = 1 + the largest position so that only that much of the cache is read. With ``weights`` the plain
        attention runs and appends each layer's weights [B, H, T, S].
        """
        if positions is None:
            positions = torch.arange(ids.shape[1], device=ids.device)[None]
        if cache is None:
            visible = mask.visible(ids.shape[1]) if mask is not None else None
        else:
            assert mask is None, "a cache masks by position"
            positions = positions.expand(ids.shape)
            visible = cache.visible(positions, cache.length if reach is None else reach)
        x = self.embedding(ids)
        if self.position_embedding is not None:
            x = x + self.position_embedding(positions)
        if self.embedding_norm is not None:
            x = self.embedding_norm(x)
        x = self.dropout(x)
        rotary = rotary_table(positions, self.config, x.dtype) if self.config.positions == "rotary" else None
        for index, block in enumerate(self.blocks):
            x = block(x, rotary, visible, None if cache is None else cache.layer(index, positions), weights)
        return self.norm(x)

    def logits(self, hidden: Tensor) -> Tensor:
        """hidden [..., D] -> scores [..., V]."""
        return softcap(F.linear(hidden, self.head_weight), self.config.logit_softcap)

    def forward(self, ids: Tensor, positions: Tensor | None = None, mask: Mask | None = None) -> Tensor:
        """ids [B, T] -> logits [B, T, V]."""
        return self.logits(self.hidden(ids, positions, mask))


def softcap(logits: Tensor, cap: float | None) -> Tensor:
    """c tanh(logits / c): bounds the scores (Gemma 2, section 2); the logits themselves when ``cap`` is None."""
    return logits if cap is None else cap * torch.tanh(logits / cap)
