"""Several documents in one row: attention is computed document by document, and nothing between them is.

The documents of a batch are laid out side by side, those of similar length in one group, the ordinary kernels run on
each group, and every token takes its result back to its own place.

Legend: B rows, T tokens of a row, H heads, K head size; d documents of a group, L tokens of its longest.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

SIMILAR = 0.75  # a document shorter than this share of the longest begins a group of its own
SHORT = 32  # tokens; documents up to here are one group: what they waste is less than what a group costs


@dataclass(frozen=True)
class Documents:
    """Where the documents of a batch lie. A document is a stretch of equal numbers in a row.

    ``runs`` [B, T] counts the documents through the batch. ``places`` [B T] says where each token lies among those of all
    groups, ``shapes`` how many documents a group has and how long its longest one is.
    """

    runs: Tensor
    places: Tensor
    shapes: tuple[tuple[int, int], ...]

    @classmethod
    def of(cls, numbers: Tensor) -> Documents:
        """``numbers`` [B, T]: equal within a document, and different from the document before it in the row."""
        begins = torch.ones_like(numbers, dtype=torch.bool)
        begins[:, 1:] = numbers[:, 1:] != numbers[:, :-1]
        runs = begins.flatten().cumsum(0) - 1
        starts = begins.flatten().nonzero()[:, 0].cpu()
        lengths = torch.diff(starts, append=torch.tensor([numbers.numel()]))
        order = torch.argsort(lengths, descending=True, stable=True)
        shapes = _groups(lengths[order].tolist())
        room = torch.repeat_interleave(
            torch.tensor([longest for _, longest in shapes]), torch.tensor([n for n, _ in shapes])
        )
        moved = torch.empty_like(starts)  # how far each document moves
        moved[order] = room.cumsum(0) - room - starts[order]
        places = torch.arange(numbers.numel()) + torch.repeat_interleave(moved, lengths)
        return cls(runs.view(numbers.shape), places.to(numbers.device), shapes)

    def spread(self, rows: Tensor) -> list[Tensor]:
        """rows [B, H, T, K] -> of each group [d, H, L, K], zeros behind the end of a document."""
        heads, size = rows.shape[1], rows.shape[3]
        counts = [documents * longest for documents, longest in self.shapes]
        laid_out: Tensor = _Spread.apply(rows.transpose(1, 2).reshape(-1, heads, size), self.places, sum(counts))
        parts = zip(laid_out.split(counts), self.shapes, strict=True)
        return [part.view(*shape, heads, size).transpose(1, 2) for part, shape in parts]

    def collect(self, groups: Sequence[Tensor]) -> Tensor:
        """Of each group [d, H, L, K] -> rows [B, H, T, K]: ``spread`` taken back."""
        heads, size = groups[0].shape[1], groups[0].shape[3]
        laid_out = torch.cat([group.transpose(1, 2).reshape(-1, heads, size) for group in groups])
        tokens: Tensor = _Collect.apply(laid_out, self.places)
        return tokens.view(*self.runs.shape, heads, size).transpose(1, 2)

    def real(self, valid: Tensor) -> list[Tensor]:
        """valid [B, T] -> of each group [d, L]: the same, and False behind the end of a document."""
        return [group[:, 0, :, 0] for group in self.spread(valid[:, None, :, None])]


def _groups(lengths: Sequence[int]) -> tuple[tuple[int, int], ...]:
    """(documents, longest) of each group; ``lengths`` come sorted, the longest first."""
    begins = [0]
    for index, length in enumerate(lengths):
        longest = lengths[begins[-1]]
        if longest > SHORT and length < SIMILAR * longest:
            begins.append(index)
    return tuple((end - begin, lengths[begin]) for begin, end in pairwise([*begins, len(lengths)]))


class _Spread(torch.autograd.Function):
    """Tokens [n, ...] to their places among ``count``, zeros elsewhere. By autograd, either way would add up gradients
    token by token; as no two tokens share a place, each is the other's gradient."""

    @staticmethod
    def forward(ctx: Any, tokens: Tensor, places: Tensor, count: int) -> Tensor:
        ctx.save_for_backward(places)
        return _put(tokens, places, count)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        return grad.index_select(0, ctx.saved_tensors[0]), None, None


class _Collect(torch.autograd.Function):
    """Tokens [n, ...] from their places."""

    @staticmethod
    def forward(ctx: Any, laid_out: Tensor, places: Tensor) -> Tensor:
        ctx.save_for_backward(places)
        ctx.count = len(laid_out)
        return laid_out.index_select(0, places)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        return _put(grad, ctx.saved_tensors[0], ctx.count), None


def _put(tokens: Tensor, places: Tensor, count: int) -> Tensor:
    laid_out = tokens.new_zeros(count, *tokens.shape[1:])
    laid_out[places] = tokens
    return laid_out
