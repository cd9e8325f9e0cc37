"""What the parity tests of decoders share: everything two models compute, padded or not, and decoding with a cache."""

from __future__ import annotations

from types import ModuleType
from typing import Any

import pytest
import side_by_side
import torch
import torch.nn.functional as F
import transformers
from torch import Tensor
from transformers import modeling_rope_utils

from gptloom.model.attention import Mask
from gptloom.model.cache import KVCache
from gptloom.model.transformer import Transformer


def differences(
    ours: Transformer, theirs: transformers.PreTrainedModel, ids: Tensor, side: str = "none"
) -> dict[str, float]:
    """How far logits, hidden states (once at their worst number, once in L2 norm), the loss and every gradient (in L2
    norm; the worst one) lie apart, relatively.

    Where rows are padded on a ``side``, only real tokens are compared, and only they are learned.
    """
    valid = torch.ones_like(ids, dtype=torch.bool) if side == "none" else side_by_side.padding(side, *ids.shape)
    positions = (valid.cumsum(1) - 1).clamp(min=0)
    result = theirs(ids, attention_mask=valid.long(), position_ids=positions, output_hidden_states=True)
    mask = None if side == "none" else Mask(key_valid=valid)
    states = side_by_side.block_outputs(ours, lambda: ours.hidden(ids, positions, mask))
    logits = ours.logits(states[-1])
    targets = ids[:, 1:].masked_fill(~(valid[:, :-1] & valid[:, 1:]), -100).flatten()
    loss, wanted = (
        F.cross_entropy(scores[:, :-1].flatten(0, 1), targets, ignore_index=-100) for scores in (logits, result.logits)
    )
    ours.zero_grad()
    theirs.zero_grad()
    loss.backward()
    wanted.backward()
    pairs = zip(states, result.hidden_states[1:], strict=True)
    return {
        "logits": side_by_side.relative(logits[valid], result.logits[valid]),
        "hidden": max(side_by_side.relative(mine[valid], reference[valid]) for mine, reference in pairs),
        "logits, in norm": _in_norm(logits[valid], result.logits[valid]),
        "hidden, in norm": _in_norm(states[-1][valid], result.hidden_states[-1][valid]),
        "loss": abs(loss.item() - wanted.item()) / max(1.0, wanted.item()),
        "gradients": side_by_side.gradients(ours, theirs),
    }


def _in_norm(found: Tensor, wanted: Tensor) -> float:
    return float(((found - wanted).norm() / wanted.norm()).detach())


def decoded(model: Transformer, ids: Tensor, prompt: int) -> Tensor:
    """Logits [B, T, V] with a cache: the first ``prompt`` tokens at once, then one after the other."""
    rows, length = ids.shape
    cache = KVCache(model.config, rows, length, model.embedding.weight.dtype)
    positions = torch.arange(length).expand(rows, length)
    parts = [(0, prompt), *((place, place + 1) for place in range(prompt, length))]
    with torch.no_grad():
        hidden = [model.hidden(ids[:, a:b], positions[:, a:b], cache=cache, reach=b) for a, b in parts]
        return model.logits(torch.cat(hidden, dim=1))


class _Wide:
    """``torch``, in which fp32 is fp64."""

    float = float32 = torch.float64

    def __getattr__(self, name: str) -> Any:
        return getattr(torch, name)


def keep_float64(patch: pytest.MonkeyPatch, *modules: ModuleType) -> None:
    """Takes the fp32 casts out of norms, rotary tables and softmax of these modules of ``transformers``, whose own
    formulas then run in fp64. Only models that are opened afterwards are wholly so."""
    for module in (modeling_rope_utils, *modules):
        patch.setattr(module, "torch", _Wide())
