"""The KV cache: keys and values of every layer in tensors of static shape, each row at its own position.

Legend: B rows, G key/value heads, S cache length, K head size, T new tokens.
"""

from __future__ import annotations

from copy import copy

import torch
from torch import Tensor

from gptloom.config.model import ModelConfig
from gptloom.model.attention import LayerCache, Sight, within

BUCKET = 64  # attention reads the cache up to a multiple of this, so that short sequences don't pay for a long cache


class KVCache:
    """Room for ``length`` tokens in each of ``batch`` rows. Nothing is ever cleared: a row sees only positions <= its own,
    and every position is written before it is first seen, so a row can be reused for another sequence at once."""

    def __init__(
        self,
        config: ModelConfig,
        batch: int,
        length: int,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
    ) -> None:
        self.length = length
        shape = (config.n_layer, batch, config.n_kv_head, length, config.head_dim)
        self.k = torch.zeros(shape, dtype=dtype, device=device)
        self.v = torch.zeros(shape, dtype=dtype, device=device)

    @property
    def batch(self) -> int:
        """Number of rows."""
        return self.k.shape[1]

    def rows(self, start: int, stop: int) -> KVCache:
        """A view of the rows start..stop: what is written to it is written here."""
        view = copy(self)
        view.k, view.v = self.k[:, start:stop], self.v[:, start:stop]
        return view

    def copy_row(self, source: KVCache, start: int, target: int, length: int) -> None:
        """Copies the first ``length`` tokens of row ``start`` of ``source`` (this cache or another) to row ``target``."""
        self.k[:, target, :, :length] = source.k[:, start, :, :length]
        self.v[:, target, :, :length] = source.v[:, start, :, :length]

    def layer(self, index: int, positions: Tensor) -> LayerCache:
        """Layer ``index``, about to be written at ``positions`` [B, T]."""
        return LayerCache(self.k[index], self.v[index], positions)

    def sight(self, positions: Tensor, reach: int, window: int | None = None) -> Sight:
        """What [B, T] tokens at ``positions`` see of the first S' >= ``reach`` ones, S' a multiple of the bucket (or the
        whole cache): ``visible`` [B, 1, T, S']."""
        seen = min(-(-reach // BUCKET) * BUCKET, self.length)
        keys = torch.arange(seen, device=positions.device)
        return Sight(True, window, visible=within(positions[:, :, None], keys, True, window)[:, None])
