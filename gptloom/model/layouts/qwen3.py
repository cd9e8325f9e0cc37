"""The layout of ``Qwen3ForCausalLM``, in which every ``modern`` model is written."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from gptloom.config.model import ModelConfig
from gptloom.model.layouts.layout import Fields, Layout, Rule


class Qwen3Layout(Layout):
    """Qwen3 as ``transformers`` has it, with full attention in every layer."""

    family = "modern"
    model_type = "qwen3"
    architecture = "Qwen3ForCausalLM"
    prefix = "model."
    embedding = "model.embed_tokens.weight"
    fixed = {  # noqa: RUF012 - a constant of the family
        "norm": "rmsnorm",
        "embedding_norm": False,
        "positions": "rotary",
        "qk_norm": "before_rotary",
        "activation": "swiglu",
        "bias": False,
        "logit_softcap": None,
    }

    def describe(self, config: ModelConfig) -> dict[str, Any]:
        return {
            "vocab_size": config.vocab_size,
            "max_position_embeddings": config.context,
            "hidden_size": config.d_model,
            "intermediate_size": config.d_ff,
            "num_hidden_layers": config.n_layer,
            "num_attention_heads": config.n_head,
            "num_key_value_heads": config.n_kv_head,
            "head_dim": config.head_dim,
            "hidden_act": "silu",
            "rms_norm_eps": config.norm_eps,
            # Both spellings: transformers 5 reads rope_parameters, what is older reads rope_theta.
            "rope_theta": config.rope_theta,
            "rope_parameters": {"rope_type": "default", "rope_theta": config.rope_theta},
            "attention_bias": False,
            "attention_dropout": 0.0,
            "use_sliding_window": False,
            "initializer_range": 0.02,
        }

    def read(self, fields: Fields) -> dict[str, Any]:
        fields.must_be("hidden_act", "silu")
        fields.must_be("attention_bias", False)
        fields.must_be("attention_dropout", 0.0)
        fields.must_be("use_sliding_window", False)
        fields.each_must_be("layer_types", "full_attention")
        n_head = fields.get("num_attention_heads", 32)
        return {
            "vocab_size": fields.get("vocab_size", 151936),
            "context": fields.get("max_position_embeddings", 32768),
            "n_layer": fields.get("num_hidden_layers", 32),
            "n_head": n_head,
            "n_kv_head": fields.get("num_key_value_heads", n_head),
            "d_model": fields.get("hidden_size", 4096),
            "head_dim": fields.get("head_dim", 128),
            "d_ff": fields.get("intermediate_size", 22016),
            "norm_eps": fields.get("rms_norm_eps", 1e-6),
            "rope_theta": fields.plain_rotary(10_000.0),
            "tied_head": fields.get("tie_word_embeddings", False),
            "init": "modern",
        }

    def outer_rules(self, config: ModelConfig) -> Iterator[Rule]:
        yield Rule(self.embedding, ("embedding.weight",))
        yield Rule("model.norm.weight", ("norm.weight",))

    def block_rules(self, config: ModelConfig, index: int) -> Iterator[Rule]:
        names = {
            "input_layernorm": "attention_norm",
            "self_attn.q_proj": "attention.q",
            "self_attn.k_proj": "attention.k",
            "self_attn.v_proj": "attention.v",
            "self_attn.o_proj": "attention.out",
            "self_attn.q_norm": "attention.q_norm",
            "self_attn.k_norm": "attention.k_norm",
            "post_attention_layernorm": "mlp_norm",
            "mlp.gate_proj": "mlp.gate",
            "mlp.up_proj": "mlp.up",
            "mlp.down_proj": "mlp.down",
        }
        for theirs, ours in names.items():
            yield Rule(f"model.layers.{index}.{theirs}.weight", (f"blocks.{index}.{ours}.weight",))
