"""A model under another configuration: more tokens, a head, other dropout; what it knew stays."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from gptloom.config.model import ModelConfig
from gptloom.model.transformer import Transformer


def grown(opened: Transformer, new_ids: range, seed: int, changes: Mapping[str, Any]) -> Transformer:
    """``opened`` with ``changes`` in its configuration and rows for ``new_ids``; what is new comes from ``seed``.

    New rows of the embedding are N(0, 0.02), as GPT-1's (train.py), whatever the initialisation of the others was.
    """
    fields = opened.config.model_dump()
    fields |= {"vocab_size": max(opened.config.vocab_size, new_ids.stop), **changes}
    model = Transformer.initialised(ModelConfig(**fields), seed)
    with torch.no_grad():
        state = opened.state_dict()
        for name, parameter in model.named_parameters():
            if name not in state or name.startswith("task_head."):
                continue
            stored = state[name]
            parameter[: len(stored)].copy_(stored)
            if name == "embedding.weight":
                drawn = torch.Generator().manual_seed(seed)
                rows = parameter[new_ids.start : new_ids.stop]
                rows.copy_(torch.empty(rows.shape).normal_(std=0.02, generator=drawn))
    return model
