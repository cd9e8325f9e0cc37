"""The one Transformer. Its ModelConfig makes it a GPT, a BERT, a Llama or a ``modern`` model; no class per family.

Legend: B batch, T tokens, D width, V vocabulary.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gptloom.config.model import ModelConfig
from gptloom.model.attention import Mask, Sight, band_tiles
from gptloom.model.block import Block, activate
from gptloom.model.cache import KVCache
from gptloom.model.dropout import Dropout
from gptloom.model.init import init_weights
from gptloom.model.norm import make_norm
from gptloom.model.rotary import rotary_table
from gptloom.model.task_head import TaskHead


class MaskedHead(nn.Module):
    """BERT's way from hidden states to words: a layer and a norm before the output matrix, a bias after it."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.activation = config.activation
        self.dense = nn.Linear(config.d_model, config.d_model)
        self.norm = make_norm(config, config.d_model)
        self.bias = nn.Parameter(torch.zeros(config.vocab_size))

    def forward(self, hidden: Tensor) -> Tensor:
        """hidden [..., D] -> [..., D], what the output matrix multiplies."""
        return self.norm(activate(self.activation, self.dense(hidden)))


class Transformer(nn.Module):
    """Token ids in, hidden states out (``hidden``); ``logits`` turns hidden states into scores of words."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.embedding = nn.Embedding(config.vocab_size, config.d_model)
        learned = config.positions == "learned"
        self.position_embedding = nn.Embedding(config.context, config.d_model) if learned else None
        self.segment_embedding = nn.Embedding(config.segments, config.d_model) if config.segments else None
        self.embedding_norm = make_norm(config, config.d_model) if config.embedding_norm else None
        self.dropout = Dropout(config.dropout)
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.n_layer))
        self.norm = make_norm(config, config.d_model) if config.norm_place == "pre" else None
        self.masked_head = MaskedHead(config) if config.masked_head else None
        self.pooler = nn.Linear(config.d_model, config.d_model) if config.pooler else None
        self.pair_head = nn.Linear(config.d_model, 2) if config.pair_head else None
        self.task_head = TaskHead(config.task_head, config.d_model) if config.task_head else None
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
        segments: Tensor | None = None,
    ) -> Tensor:
        """ids [B, T] -> the last hidden states [B, T, D], normed.

        positions: [B, T], default 0..T-1. With a ``cache`` they say where each row's tokens go and what they see; pass
        ``reach`` = 1 + the largest position so that only that much of the cache is read. With ``weights`` the plain
        attention runs and appends each layer's weights [B, H, T, S]. ``segments`` [B, T]: BERT's sentences, default 0.
        """
        if positions is None:
            positions = torch.arange(ids.shape[1], device=ids.device)[None]
        if cache is not None:
            assert mask is None, "a cache masks by position"
            positions = positions.expand(ids.shape)
        x = self.embedding(ids)
        if self.position_embedding is not None:
            x = x + self.position_embedding(positions)
        if self.segment_embedding is not None:
            x = x + self.segment_embedding(torch.zeros_like(ids) if segments is None else segments)
        if self.embedding_norm is not None:
            x = self.embedding_norm(x)
        x = self.dropout(x)
        rotary = rotary_table(positions, self.config, x.dtype) if self.config.positions == "rotary" else None
        windows = [self.config.window_of(layer) for layer in range(self.config.n_layer)]
        sights = {window: self._sight(window, positions, mask, cache, reach) for window in set(windows)}
        for index, block in enumerate(self.blocks):
            layer_cache = None if cache is None else cache.layer(index, positions)
            x = block(x, rotary, sights[windows[index]], layer_cache, weights)
        return x if self.norm is None else self.norm(x)

    def _sight(
        self, window: int | None, positions: Tensor, mask: Mask | None, cache: KVCache | None, reach: int | None
    ) -> Sight:
        """Who sees whom in the layers of that ``window``."""
        if cache is not None:
            return cache.sight(positions, cache.length if reach is None else reach, window)
        length, causal = positions.shape[-1], self.config.mask == "causal"
        if mask is not None and (mask.key_valid is not None or mask.documents is not None):
            return mask.sight(causal, window)
        banded = window is not None and window < length
        tiles = band_tiles(length, window, positions.device) if banded and causal and positions.is_cuda else None
        return Sight(causal, window if banded else None, tiles=tiles)

    def head_input(self, hidden: Tensor) -> Tensor:
        """hidden [..., D] -> [..., D], what the output matrix multiplies: the same, but for BERT's head."""
        return hidden if self.masked_head is None else self.masked_head(hidden)

    @property
    def head_bias(self) -> Tensor | None:
        """What is added to the scores [V], where anything is."""
        return None if self.masked_head is None else self.masked_head.bias

    def logits(self, hidden: Tensor) -> Tensor:
        """hidden [..., D] -> scores [..., V]."""
        return softcap(F.linear(self.head_input(hidden), self.head_weight, self.head_bias), self.config.logit_softcap)

    def pooled(self, hidden: Tensor) -> Tensor:
        """hidden [B, T, D] -> [B, D]: tanh of a layer over the first token, [CLS] (Devlin et al. 2019, appendix A.1)."""
        assert self.pooler is not None, "this model has no pooler"
        return torch.tanh(self.pooler(hidden[:, 0]))

    def summary(self, hidden: Tensor) -> Tensor:
        """hidden [B, T, D] -> [B, D]: what stands for a text by its first token: BERT's pooled [CLS], or the state itself."""
        return hidden[:, 0] if self.pooler is None else self.pooled(hidden)

    def pair_logits(self, hidden: Tensor) -> Tensor:
        """hidden [B, T, D] -> [B, 2]: how well the second sentence follows the first (0), and how well it does not (1)."""
        assert self.pair_head is not None, "this model has no pair head"
        return self.pair_head(self.pooled(hidden))

    def forward(self, ids: Tensor, positions: Tensor | None = None, mask: Mask | None = None) -> Tensor:
        """ids [B, T] -> logits [B, T, V]."""
        return self.logits(self.hidden(ids, positions, mask))


def softcap(logits: Tensor, cap: float | None) -> Tensor:
    """c tanh(logits / c): bounds the scores (Gemma 2, section 2); the logits themselves when ``cap`` is None."""
    return logits if cap is None else cap * torch.tanh(logits / cap)
