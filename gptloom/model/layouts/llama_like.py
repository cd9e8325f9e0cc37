"""What Llama, Mistral, Qwen2, Qwen3 and nanochat have in common: one set of field names and of tensor names.

A family says which of them it has: its ``fixed`` fields, its default sizes, and where biases and windows may be.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, ClassVar

from gptloom.config.errors import Problem
from gptloom.config.model import ModelConfig
from gptloom.model.layouts.layout import Fields, Layout, Rule
from gptloom.model.layouts.parts import attention_dropout, layer
from gptloom.model.layouts.rope import describe_rope, read_rope, rope_object

LLAMA = {"norm": "rmsnorm", "positions": "rotary", "activation": "swiglu"}

# Their name -> ours, and the field of ModelConfig that says whether there is a bias.
ATTENTION = {
    "self_attn.q_proj": ("attention.q", "qkv_bias"),
    "self_attn.k_proj": ("attention.k", "qkv_bias"),
    "self_attn.v_proj": ("attention.v", "qkv_bias"),
    "self_attn.o_proj": ("attention.out", "out_bias"),
}
GATED_MLP = {
    "mlp.gate_proj": ("mlp.gate", "mlp_bias"),
    "mlp.up_proj": ("mlp.up", "mlp_bias"),
    "mlp.down_proj": ("mlp.down", "mlp_bias"),
}
NORMS = {"input_layernorm": "attention_norm", "post_attention_layernorm": "mlp_norm"}


class LlamaLikeLayout(Layout):
    """The shared part; what is written here is Llama's, and the families change as little of it as they can."""

    prefix = "model."
    embedding = "model.embed_tokens.weight"
    activation: ClassVar[tuple[str, ...]] = ("silu", "swish")  # names of the one there is
    init: ClassVar[str] = "modern"  # of a new model of this shape; config.json has no place for it
    sizes: ClassVar[Mapping[str, int | None]]  # their class's own numbers, where config.json is silent
    bias_fields: ClassVar[Mapping[str, tuple[str, ...]]] = {}  # their fields -> ours that they set
    matrices: ClassVar[Mapping[str, tuple[str, str]]] = ATTENTION | GATED_MLP
    norms: ClassVar[Mapping[str, str]] = NORMS

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
            "hidden_act": self.activation[0],
            "rms_norm_eps": config.norm_eps,
            **describe_rope(config),
            **{theirs: getattr(config, ours[0]) for theirs, ours in self.bias_fields.items()},
            "attention_dropout": attention_dropout(config),
            **self.describe_windows(config),
            "initializer_range": 0.02,
        }

    def read(self, fields: Fields) -> dict[str, Any]:
        fields.must_be("hidden_act", *self.activation)
        fields.must_be("is_causal", True)
        if fields.get("per_layer_config"):
            fields.problems.append(
                Problem("per_layer_config is set; gptloom has one shape for all layers", fields.where)
            )
        rope = rope_object(fields)[1] or {}
        share = rope.get("partial_rotary_factor", fields.get("partial_rotary_factor"))
        if share not in (None, 1.0):
            # transformers turns whole heads here and ignores the field, others obey it: no reading would be right.
            fields.problems.append(
                Problem(f"partial_rotary_factor is {share!r}; gptloom has only 1.0 here", fields.where)
            )
        sizes = {name: fields.get(name, size) for name, size in self.sizes.items()}
        n_head = sizes["num_attention_heads"]
        # null says "as many as query heads" even where the class has a number of its own
        n_kv_head = fields.get_or_null("num_key_value_heads", self.sizes["num_key_value_heads"])
        context, n_layer = sizes["max_position_embeddings"], sizes["num_hidden_layers"]
        biases = {name: fields.get(theirs, False) for theirs, ours in self.bias_fields.items() for name in ours}
        return {
            "vocab_size": sizes["vocab_size"],
            "context": context,
            "n_layer": n_layer,
            "n_head": n_head,
            "n_kv_head": n_kv_head or n_head,
            "d_model": sizes["hidden_size"],
            "head_dim": sizes["head_dim"] or 0,
            "d_ff": sizes["intermediate_size"],
            "norm_eps": fields.get("rms_norm_eps", 1e-6),
            **read_rope(fields, context),
            **(self.read_windows(fields, n_layer) if isinstance(n_layer, int) else {}),
            **biases,
            "tied_head": fields.get("tie_word_embeddings", False),
            # None: as dropout, which is 0 here
            "attention_dropout": fields.get("attention_dropout", 0.0) or None,
            "init": self.init,
        }

    def describe_windows(self, config: ModelConfig) -> dict[str, Any]:
        """The fields of config.json that say how far each layer sees; families without windows have none."""
        return {}

    def read_windows(self, fields: Fields, n_layer: int) -> dict[str, Any]:
        """``window`` and ``banded`` of a ``ModelConfig``; for families without windows they are ``fixed``."""
        return {}

    def outer_rules(self, config: ModelConfig) -> Iterator[Rule]:
        yield Rule(self.embedding, ("embedding.weight",))
        yield Rule("model.norm.weight", ("norm.weight",))

    def block_rules(self, config: ModelConfig, index: int) -> Iterator[Rule]:
        block, ours = f"model.layers.{index}", f"blocks.{index}"
        for theirs, name in self.norms.items():
            yield from layer(f"{block}.{theirs}", f"{ours}.{name}", bias=False)
        for theirs, (name, bias) in self.matrices.items():
            yield from layer(f"{block}.{theirs}", f"{ours}.{name}", getattr(config, bias))
