"""The layout of GPT-3 with its banded layers: GPT-2's tensors under a model type of our own.

No class of ``transformers`` computes banded layers with biases and fused Conv1D matrices, so none may believe that the
folder is its own. The dense variants of GPT-3 are written as GPT-2.
"""

from __future__ import annotations

from typing import Any

from gptloom.config.model import ModelConfig
from gptloom.model.layouts.gpt2 import GPT2Layout
from gptloom.model.layouts.layout import Fields


class GPT3Layout(GPT2Layout):
    """GPT-2 and two fields more: how far banded layers see, and which layers they are."""

    family = "gpt3"
    model_type = "gptloom-gpt3"
    architecture = "GPT3LMHeadModel"
    task_classes = ()

    def describe(self, config: ModelConfig) -> dict[str, Any]:
        return {**super().describe(config), "window": config.window, "banded": config.banded}

    def read(self, fields: Fields) -> dict[str, Any]:
        banded = fields.get("banded", "alternate")
        return {
            **super().read(fields),
            "window": fields.get("window"),
            "banded": tuple(banded) if isinstance(banded, list) else banded,
        }
