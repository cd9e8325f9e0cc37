"""Heads that answer instead of writing: from hidden states to scores of classes, choices, tokens or spans.

Legend: B examples, G sequences of each example (its choices, or both orders of a pair), N = B G, T tokens, D width,
C scores.
"""

from __future__ import annotations

from typing import Literal, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gptloom.config.task import HeadConfig, Pooling
from gptloom.model.attention import Mask


class TaskHead(nn.Module):
    """Dropout, a layer with tanh where asked for, and the scores."""

    def __init__(self, config: HeadConfig, width: int) -> None:
        super().__init__()
        self.config = config
        self.pooler = nn.Linear(width, width) if config.pooler else None
        self.score = nn.Linear(width, config.n_labels, bias=config.bias)

    def forward(self, features: Tensor, group: int = 1) -> Tensor:
        """features [N, ..., D] -> [N, ..., C]; the ``group`` sequences of an example share their dropout (GPT-1, train.py)."""
        if self.pooler is not None:
            features = torch.tanh(self.pooler(features))
        if self.training and self.config.dropout:
            grouped = features.unflatten(0, (-1, group))
            kept = F.dropout(torch.ones_like(grouped[:, :1]), self.config.dropout)
            features = (grouped * kept).flatten(0, 1)
        return self.score(features)


class BodyConfig(Protocol):
    """The part of a configuration that matters here."""

    @property
    def mask(self) -> Literal["causal", "bidirectional"]: ...


class TaskModel(Protocol):
    """What a fine-tuning may ask of a model, ours or another library's."""

    task_head: TaskHead | None

    @property
    def config(self) -> BodyConfig: ...

    def hidden(
        self, ids: Tensor, positions: Tensor | None = None, mask: Mask | None = None, *, segments: Tensor | None = None
    ) -> Tensor:
        """ids [N, T] -> the last hidden states [N, T, D]."""

    def summary(self, hidden: Tensor) -> Tensor:
        """hidden [N, T, D] -> [N, D]: the first token, through the body's own pooler where it has one."""


def task_scores(
    model: TaskModel,
    ids: Tensor,
    valid: Tensor | None = None,
    segments: Tensor | None = None,
    positions: Tensor | None = None,
    group: int = 1,
) -> Tensor:
    """ids [N, T] -> scores: [B, C] of sequences, [B, G] of choices, [N, T, C] of tokens and spans.

    ``valid`` [N, T] is False at padding.
    """
    hidden = task_hidden(model, ids, valid, segments, positions)
    return head_scores(model, hidden, valid, group)


def task_hidden(
    model: TaskModel,
    ids: Tensor,
    valid: Tensor | None = None,
    segments: Tensor | None = None,
    positions: Tensor | None = None,
) -> Tensor:
    """ids [N, T] -> hidden [N, T, D]; at padding, which is on the right, they mean nothing."""
    # Who reads from left to right never sees what is on the right: there a mask would only cost time.
    seen = valid is None or model.config.mask == "causal"
    return model.hidden(ids, positions, None if seen else Mask(key_valid=valid), segments=segments)


def head_scores(model: TaskModel, hidden: Tensor, valid: Tensor | None, group: int = 1) -> Tensor:
    """The part of ``task_scores`` after the body: hidden [N, T, D] -> scores."""
    head = model.task_head
    assert head is not None, "this model has no head for a task"
    if head.config.kind in ("tokens", "span"):
        return head(hidden)
    features = pool(model, hidden, valid, head.config.pooling)
    if head.config.kind == "choice":
        return head(features, group).view(-1, group)
    if head.config.orders == 2:
        features, group = features.view(-1, 2, features.shape[-1]).sum(1), 1
    return head(features, group)


def pool(model: TaskModel, hidden: Tensor, valid: Tensor | None, pooling: Pooling) -> Tensor:
    """hidden [N, T, D] -> [N, D]: the first token, the last one that is no padding, or the mean of those that are none."""
    if pooling == "first":
        return model.summary(hidden)
    if pooling == "last":
        if valid is None:
            return hidden[:, -1]
        places = torch.arange(hidden.shape[1], device=hidden.device)
        last = (places * valid).amax(dim=1)
        return hidden[torch.arange(len(hidden), device=hidden.device), last]
    if valid is None:
        return hidden.mean(dim=1)
    kept = valid[:, :, None].to(hidden.dtype)
    return (hidden * kept).sum(1) / kept.sum(1)
