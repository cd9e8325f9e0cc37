"""What a step trains on: one batch of token ids with everything a model or an objective may ask about them.

B rows, T tokens.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Self

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
    document_ids: Tensor | None = None  # int64 [B, T]: attention stays inside a stretch of equal ids
    segment_ids: Tensor | None = None  # int64 [B, T]: BERT's sentence A / B
    padding_mask: Tensor | None = None  # bool [B, T]: True where there is a token, False where there is padding
    # int64 [B]: whether B follows A in the text; 0 = it does, 1 = it does not, -1 = this row is no pair
    pair_labels: Tensor | None = None
    # The answers of a task, of B / group examples: int64 classes or right choices [B / group], float32 scores
    # [B / group], int64 tags [B, T] (-100 = none) or int64 [B, 2] first and last token of a span (-100 = none here)
    labels: Tensor | None = None
    group: int = 1  # so many rows in a row belong to one example (choices, both orders of a pair) and stay together

    def __post_init__(self) -> None:
        rows = len(self.ids)
        if rows % self.group:
            raise ValueError(f"{rows} rows do not divide into groups of {self.group}")
        for name, tensor in self._tensors().items():
            expected = self.ids.shape
            if name in ("pair_labels", "labels"):  # one for each row, or for each example, of whatever shape
                count = rows if name == "pair_labels" else rows // self.group
                expected = torch.Size([count, *tensor.shape[1:]]) if name == "labels" else torch.Size([count])
            if tensor.shape != expected:
                raise ValueError(f"{name} has shape {tuple(tensor.shape)}, not {tuple(expected)} as the ids ask")

    def _tensors(self) -> dict[str, Tensor]:
        named = {field.name: getattr(self, field.name) for field in fields(self)}
        return {name: tensor for name, tensor in named.items() if isinstance(tensor, Tensor)}

    @property
    def rows(self) -> int:
        """What micro-batches are counted in."""
        return len(self.ids)

    @property
    def tokens(self) -> int:
        """Number of ids, padding included: B * T."""
        return self.ids.numel()

    def to(self, device: torch.device | str) -> Self:
        """The same batch on ``device``; the copy does not wait where memory is pinned."""
        moved = {name: tensor.to(device, non_blocking=True) for name, tensor in self._tensors().items()}
        return type(self)(**moved, group=self.group)

    def trimmed(self) -> Self:
        """The same without the columns in which every row is padded, as views; padding must be on the right."""
        if self.padding_mask is None:
            return self
        width, whole = int(self.padding_mask.sum(dim=1).max()), self.ids.shape
        cut = {
            name: tensor[:, :width] if tensor.shape[:2] == whole else tensor for name, tensor in self._tensors().items()
        }
        if bool(cut["padding_mask"].all()):
            del cut["padding_mask"]
        return type(self)(**cut, group=self.group)

    def split(self, rows: int) -> list[Self]:
        """Micro-batches of at most ``rows`` rows, in order, as views; a group is never cut, however many rows it has."""
        if rows < 1:
            raise ValueError(f"a micro-batch needs at least one row, not {rows}")
        examples = max(1, rows // self.group)
        cuts = {
            name: tensor.split(examples if name == "labels" else examples * self.group)
            for name, tensor in self._tensors().items()
        }
        parts = zip(*cuts.values(), strict=True)
        return [type(self)(**dict(zip(cuts, part, strict=True)), group=self.group) for part in parts]
