"""The layout of ``Qwen3ForCausalLM``, in which every ``modern`` model is written."""

from __future__ import annotations

from gptloom.model.layouts.llama_like import LLAMA, NORMS
from gptloom.model.layouts.qwen2 import QWEN_SIZES, QwenLayout
from gptloom.model.layouts.task_heads import decoder_classes


class Qwen3Layout(QwenLayout):
    """Qwen3 as ``transformers`` has it: queries and keys are normed before they are turned."""

    family = "modern"
    model_type = "qwen3"
    architecture = "Qwen3ForCausalLM"
    task_classes = decoder_classes("Qwen3", tokens="score", span_prefix="transformer.")
    fixed = LLAMA | {"qk_norm": "before_rotary", "mlp_bias": False}
    bias_fields = {"attention_bias": ("qkv_bias", "out_bias")}  # noqa: RUF012 - a constant
    sizes = QWEN_SIZES | {"head_dim": 128}
    norms = NORMS | {"self_attn.q_norm": "attention.q_norm", "self_attn.k_norm": "attention.k_norm"}
