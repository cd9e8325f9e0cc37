"""What each head of a model looks at in one text: its weights, the scores before them, and how large what it takes is.

Legend: B batch, L layers, H heads, T queries, S keys (as many), D width, K head size.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor

from gptloom.model.attention import Attention, Sight, attention_scores
from gptloom.model.block import Block
from gptloom.model.transformer import Transformer


@dataclass(frozen=True)
class Reading:
    """One row as a model reads it: ids, BERT's segments where it has them, and which tokens only frame the text."""

    ids: tuple[int, ...]
    frame: tuple[bool, ...]
    segments: tuple[int, ...] | None = None

    def __len__(self) -> int:
        return len(self.ids)


@dataclass(frozen=True)
class AttentionMaps:
    """What the heads of a model do with one row; on the CPU, in fp32. Another library's model tells its weights alone.

    Attributes:
        weights: [L, H, T, S], the softmax: how much query t takes from key s.
        hidden: [T, D], the last hidden states.
        scores: [L, H, T, S], what the softmax is of, q k / sqrt(K); -inf where t does not see s.
        value_sizes: [L, H, S], the length of the value vector of s as it reaches the residual stream, through the
            head's part of the output matrix. Times the weight it is the size of what the head takes from s, the
            norm of alpha f(x) of Kobayashi et al. 2020, "Attention is not only a weight".
        taken: [L, T, S], the length of what all heads of a layer together take from s: the norm of their sum.
    """

    weights: Tensor
    hidden: Tensor
    scores: Tensor | None = None
    value_sizes: Tensor | None = None
    taken: Tensor | None = None


@torch.no_grad()
def attention_maps(model: Transformer, reading: Reading) -> AttentionMaps:
    """Runs ``model`` over one row and looks into the attention of every block.

    The model runs as it always does; beside each attention a hook computes the plain softmax once more, from the same
    input.
    """
    model.eval()
    device = model.head_weight.device
    layers: list[tuple[Tensor, ...]] = []

    def look(attention: Attention, arguments: tuple[Any, ...]) -> None:
        layers.append(_look(attention, *arguments[:3]))

    ids = torch.tensor([reading.ids], device=device)
    segments = None if reading.segments is None else torch.tensor([reading.segments], device=device)
    hooks = [cast(Block, block).attention.register_forward_pre_hook(look) for block in model.blocks]
    try:
        hidden = model.hidden(ids, segments=segments)[0]
    finally:
        for hook in hooks:
            hook.remove()
    weights, scores, value_sizes, taken = (torch.stack(kind) for kind in zip(*layers, strict=True))
    return AttentionMaps(weights, hidden.float().cpu(), scores, value_sizes, taken)


def _look(attention: Attention, x: Tensor, rotary: tuple[Tensor, Tensor] | None, sight: Sight) -> tuple[Tensor, ...]:
    """Of the row x [1, T, D]: weights and scores [H, T, S], sizes of values [H, S] and of what all heads take [T, S]."""
    q, k, v = attention.project(x, rotary)
    scores = attention_scores(q, k, sight, attention.scale)[0].float()  # [H, T, S]
    weights = scores.softmax(-1)
    heads = v[0].repeat_interleave(q.shape[1] // k.shape[1], dim=0).float()  # [H, S, K]
    matrix = attention.out.weight.float().unflatten(1, (q.shape[1], attention.head_dim))  # [D, H, K]
    values = torch.einsum("hsk,dhk->hsd", heads, matrix)
    taken = torch.stack([torch.einsum("hs,hsd->sd", row, values).norm(dim=-1) for row in weights.unbind(1)])
    return weights.cpu(), scores.cpu(), values.norm(dim=-1).cpu(), taken.cpu()
