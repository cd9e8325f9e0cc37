"""What a step trains on: one batch of token ids with everything a model or an objective may ask about them.

B rows, T tokens.
"""

from __future__ import annotations

from dataclasses import dataclass, fields

import torch
from torch import Tensor


@dataclass(frozen=True)
class Batch:
    """Token ids, what should follow them, and how much each of these predictions counts.

    ``None`` in an optional field means: positions count from 0 in each row, which is one
    document, one segment, and unpadded.
    """

    ids: Tensor  # int64 [B, T]
    targets: Tensor  # int64 [B, T]: the id to be predicted at each place
    weights: Tensor  # float32 [B, T]: weight of each prediction in the loss, 0 = none
    positions: Tensor | None = None  # int64 [B, T]
    document_ids: Tensor | None = None  # int64 [B, T]: attention stays inside equal ids
    segment_ids: Tensor | None = None  # int64 [B, T]: BERT's sentence A / B
    padding_mask: Tensor | None = None  # bool [B, T]: True where there is a token, False where there is padding
    # int64 [B]: whether B follows A in the text; 0 = it does, 1 = it does not, -1 = this row is no pair
    pair_labels: Tensor | None = None

    def __post_init__(self) -> None:
        for name, tensor in self._tensors().items():
            expected = self.ids.shape[:1] if name == "pair_labels" else self.ids.shape
            if tensor.shape != expected:
                raise ValueError(f"{name} has shape {tuple(tensor.shape)}, not {tuple(expected)} as the ids ask")

    def _tensors(self) -> dict[str, Tensor]:
        named = {field.name: getattr(self, field.name) for field in fields(self)}
        return {name: tensor for name, tensor in named.items() if tensor is not None}

    @property
    def tokens(self) -> int:
        """Number of ids, padding included: B * T."""
        return self.ids.numel()

    def to(self, device: torch.device | str) -> Batch:
        """The same batch on ``device``; the copy does not wait where memory is pinned."""
        return Batch(**{name: tensor.to(device, non_blocking=True) for name, tensor in self._tensors().items()})

    def split(self, rows: int) -> list[Batch]:
        """Micro-batches of at most ``rows`` rows, in order, as views."""
        if rows < 1:
            raise ValueError(f"a micro-batch needs at least one row, not {rows}")
        cuts = {name: tensor.split(rows) for name, tensor in self._tensors().items()}
        return [Batch(**dict(zip(cuts, parts, strict=True))) for parts in zip(*cuts.values(), strict=True)]
