"""What a fine-tuning minimises: the loss of the task, and GPT-1's next-word loss beside it.

Legend: B examples, N rows, T tokens, C scores.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gptloom.config.task import HeadConfig
from gptloom.data.batch import Batch
from gptloom.data.task_inputs import IGNORED
from gptloom.model.task_head import TaskModel, head_scores, task_hidden
from gptloom.model.transformer import Transformer
from gptloom.model.vocab_head import cross_entropy


class TaskLoss:
    """L = task + weight * next word (GPT-1, section 3.2).

    The task's items are examples, of tags the labelled words; with ``class_weights`` [C] each counts as much as its
    class. A number's loss is the squared error. A span's is the mean of those of its first and its last token (BERT,
    section 4.2). The next-word loss is a mean over the words of each row, then over rows (GPT-1, train.py): the batch's
    weights say so.
    """

    def __init__(
        self,
        head: HeadConfig,
        *,
        class_weights: Tensor | None = None,
        label_smoothing: float = 0.0,
        lm_weight: float = 0.0,
    ) -> None:
        self.head, self.class_weights, self.label_smoothing = head, class_weights, label_smoothing
        self.weights: Mapping[str, float] = {"task": 1.0, **({"next_word": lm_weight} if lm_weight else {})}

    def count(self, batch: Batch) -> dict[str, float]:
        labels = _labels(batch)
        counts = {"task": self._task_items(labels)}
        if "next_word" in self.weights:
            counts["next_word"] = float(batch.weights.sum())
        return counts

    def loss(self, model: nn.Module, batch: Batch) -> dict[str, Tensor]:
        task_model = cast(TaskModel, model)
        hidden = task_hidden(task_model, batch.ids, batch.padding_mask, batch.segment_ids, batch.positions)
        scores = head_scores(task_model, hidden, batch.padding_mask, batch.group)
        losses = {"task": self.task_loss(scores, batch)}
        if "next_word" in self.weights:
            assert isinstance(model, Transformer)
            cap = model.config.logit_softcap
            losses["next_word"] = cross_entropy(hidden, model.head_weight, batch.targets, batch.weights, cap)
        return losses

    def task_loss(self, scores: Tensor, batch: Batch) -> Tensor:
        """The fp32 sum of the task's loss over the examples of ``batch``, from what ``task_scores`` gave for it."""
        labels, wide = _labels(batch), scores.to(torch.promote_types(scores.dtype, torch.float32))
        if labels.is_floating_point():
            return F.mse_loss(wide.squeeze(-1), labels, reduction="sum")
        if self.head.kind == "span":
            if batch.padding_mask is not None:  # no answer begins or ends in padding
                wide = wide.masked_fill(~batch.padding_mask[:, :, None], -torch.inf)
            return (
                self._cross_entropy(wide[..., 0], labels[:, 0]) + self._cross_entropy(wide[..., 1], labels[:, 1])
            ) / 2
        if self.head.kind == "tokens":
            return self._cross_entropy(wide.flatten(0, 1), labels.flatten())
        return self._cross_entropy(wide, labels)

    def _cross_entropy(self, scores: Tensor, labels: Tensor) -> Tensor:
        """scores [..., C], labels [...] -> their sum."""
        weights = None if self.class_weights is None else self.class_weights.to(scores.device)
        return F.cross_entropy(
            scores,
            labels,
            weight=weights,
            ignore_index=IGNORED,
            reduction="sum",
            label_smoothing=self.label_smoothing,
        )

    def _task_items(self, labels: Tensor) -> float:
        if labels.is_floating_point():
            return float(labels.numel())
        if self.head.kind == "span":
            return float((labels[:, 0] != IGNORED).sum())
        labelled = labels[labels != IGNORED]
        if self.class_weights is None:
            return float(labelled.numel())
        return float(self.class_weights[labelled.cpu()].sum())


def _labels(batch: Batch) -> Tensor:
    assert batch.labels is not None, "these batches hold no labels"
    return batch.labels
