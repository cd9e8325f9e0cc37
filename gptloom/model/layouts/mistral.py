"""The layout of ``MistralForCausalLM``: Llama's without biases, every layer limited to one window or none."""

from __future__ import annotations

from typing import Any

from gptloom.config.model import ModelConfig
from gptloom.model.layouts.layout import Fields
from gptloom.model.layouts.llama_like import LLAMA, LlamaLikeLayout
from gptloom.model.layouts.task_heads import decoder_classes


class MistralLayout(LlamaLikeLayout):
    """Mistral as ``transformers`` has it."""

    family = "mistral"
    model_type = "mistral"
    architecture = "MistralForCausalLM"
    task_classes = decoder_classes("Mistral", tokens="score")
    fixed = LLAMA | {"qk_norm": "none", "qkv_bias": False, "out_bias": False, "mlp_bias": False}
    sizes = {  # noqa: RUF012 - a constant
        "vocab_size": 32000,
        "max_position_embeddings": 131072,
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
        "hidden_size": 4096,
        "head_dim": None,
        "intermediate_size": 14336,
    }

    def describe_windows(self, config: ModelConfig) -> dict[str, Any]:
        return {"sliding_window": config.window_of(0)}

    def read_windows(self, fields: Fields, n_layer: int) -> dict[str, Any]:
        window = fields.get_or_null("sliding_window", 4096)
        # Mistral's class obeys no list of layers; one that says otherwise is a Ministral under the wrong name.
        fields.each_must_be("layer_types", "full_attention" if window is None else "sliding_attention")
        return {"window": window, "banded": "none" if window is None else "all"}
