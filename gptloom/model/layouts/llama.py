"""The layout of ``LlamaForCausalLM`` (Llama 1 to 3.3, and the many models that were made in its shape)."""

from __future__ import annotations

from gptloom.config.errors import Problem
from gptloom.config.model import ModelConfig
from gptloom.model.layouts.layout import Fields
from gptloom.model.layouts.llama_like import LLAMA, LlamaLikeLayout
from gptloom.model.layouts.task_heads import decoder_classes


class LlamaLayout(LlamaLikeLayout):
    """Llama as ``transformers`` has it: biases where ``attention_bias`` and ``mlp_bias`` say so, full attention."""

    family = "llama"
    model_type = "llama"
    architecture = "LlamaForCausalLM"
    task_classes = decoder_classes("Llama", tokens="score", span_prefix="transformer.")
    fixed = LLAMA | {"qk_norm": "none", "banded": "none"}
    bias_fields = {"attention_bias": ("qkv_bias", "out_bias"), "mlp_bias": ("mlp_bias",)}  # noqa: RUF012 - a constant
    sizes = {  # noqa: RUF012 - a constant
        "vocab_size": 32000,
        "max_position_embeddings": 2048,
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
        "num_key_value_heads": None,
        "hidden_size": 4096,
        "head_dim": None,
        "intermediate_size": 11008,
    }

    def unfit(self, config: ModelConfig) -> list[Problem]:
        problems = super().unfit(config)
        if config.d_model % config.n_head:
            text = f"d_model {config.d_model} is not a multiple of n_head {config.n_head}; transformers refuses such Llamas"
            problems.append(Problem(text))
        return problems

    def read(self, fields: Fields) -> dict[str, object]:
        fields.must_be("pretraining_tp", 1)
        return super().read(fields)
