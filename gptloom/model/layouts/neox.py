"""The layout of ``GPTNeoXForCausalLM``: attention and MLP side by side, each head's query, key and value fused."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

from gptloom.config.errors import Problem
from gptloom.config.model import ModelConfig
from gptloom.model.layouts.layout import Fields, Layout, Rule
from gptloom.model.layouts.parts import ACTIVATIONS, attention_dropout, fused_by_head, layer, spelling
from gptloom.model.layouts.rope import describe_rope, read_rope, rope_object
from gptloom.model.layouts.task_heads import decoder_classes


class NeoXLayout(Layout):
    """GPT-NeoX as ``transformers`` has it; Pythia is of this family."""

    family = "neox"
    model_type = "gpt_neox"
    architecture = "GPTNeoXForCausalLM"
    task_classes = decoder_classes("GPTNeoX")
    prefix = "gpt_neox."
    embedding = "gpt_neox.embed_in.weight"
    head = "embed_out.weight"
    bare = ("embed_out.",)
    fixed = {  # noqa: RUF012 - a constant of the family
        "norm": "layernorm",
        "positions": "rotary",
        "qk_norm": "none",
        "bias": True,
    }

    def describe(self, config: ModelConfig) -> dict[str, Any]:
        rope, share = describe_rope(config), _share(config.rotary_dim, config.head_dim)
        return {
            "vocab_size": config.vocab_size,
            "max_position_embeddings": config.context,
            "hidden_size": config.d_model,
            "intermediate_size": config.d_ff,
            "num_hidden_layers": config.n_layer,
            "num_attention_heads": config.n_head,
            "hidden_act": spelling(config.activation, ACTIVATIONS),
            "layer_norm_eps": config.norm_eps,
            "use_parallel_residual": config.parallel_residual,
            "attention_bias": bool(config.qkv_bias),
            "hidden_dropout": config.dropout,
            "attention_dropout": attention_dropout(config),
            # Both spellings: transformers 5 reads rope_parameters, what is older reads the other two.
            "rotary_pct": share,
            "rotary_emb_base": config.rope_theta,
            **rope,
            "rope_parameters": rope["rope_parameters"] | {"partial_rotary_factor": share},
            "initializer_range": 0.02,
        }

    def read(self, fields: Fields) -> dict[str, Any]:
        with_bias, context = fields.get("attention_bias", True), fields.get("max_position_embeddings", 2048)
        n_head, d_model = fields.get("num_attention_heads", 64), fields.get("hidden_size", 6144)
        return {
            "vocab_size": fields.get("vocab_size", 50432),
            "context": context,
            "n_layer": fields.get("num_hidden_layers", 44),
            "n_head": n_head,
            "d_model": d_model,
            "d_ff": fields.get("intermediate_size", 24576),
            "norm_eps": fields.get("layer_norm_eps", 1e-5),
            "parallel_residual": fields.get("use_parallel_residual", True),
            "activation": fields.choice("hidden_act", ACTIVATIONS, "gelu"),
            "qkv_bias": with_bias,
            "out_bias": with_bias,
            **read_rope(fields, context, fields.get("rotary_emb_base", 10_000.0)),
            "rotary_dim": _rotary_dim(fields, d_model, n_head),
            "tied_head": fields.get("tie_word_embeddings", False),
            **fields.dropouts("hidden_dropout", "attention_dropout", 0.0),
            "init": "neox",
        }

    def spelled(self, name: str) -> str:
        return self.head if name == "lm_head.weight" else super().spelled(name)

    def is_buffer(self, name: str) -> bool:
        # The causal mask and the rotary table, in old files.
        return name.endswith((".attention.bias", ".attention.masked_bias", ".rotary_emb.inv_freq"))

    def outer_rules(self, config: ModelConfig) -> Iterator[Rule]:
        yield Rule(self.embedding, ("embedding.weight",))
        yield from layer("gpt_neox.final_layer_norm", "norm")

    def block_rules(self, config: ModelConfig, index: int) -> Iterator[Rule]:
        theirs, ours = f"gpt_neox.layers.{index}", f"blocks.{index}"
        yield from layer(f"{theirs}.input_layernorm", f"{ours}.attention_norm")
        fused = f"{theirs}.attention.query_key_value"
        yield from fused_by_head(fused, f"{ours}.attention", config.n_head, config.qkv_bias)
        yield from layer(f"{theirs}.attention.dense", f"{ours}.attention.out", config.out_bias)
        yield from layer(f"{theirs}.post_attention_layernorm", f"{ours}.mlp_norm")
        yield from layer(f"{theirs}.mlp.dense_h_to_4h", f"{ours}.mlp.up", config.mlp_bias)
        yield from layer(f"{theirs}.mlp.dense_4h_to_h", f"{ours}.mlp.down", config.mlp_bias)


def _share(rotary_dim: int, head_dim: int) -> float:
    """The share of a head that is rotated, such that int(share * head_dim), as it is read, is ``rotary_dim`` again."""
    share = rotary_dim / head_dim
    return share if int(head_dim * share) == rotary_dim else math.nextafter(share, 1.0)


def _rotary_dim(fields: Fields, d_model: Any, n_head: Any) -> int:
    """How much of each head is rotated; a share that leaves nothing is a problem."""
    _, rope = rope_object(fields)
    share = (rope or {}).get("partial_rotary_factor", fields.get("rotary_pct", 0.25))
    if not all(isinstance(number, int | float) and number > 0 for number in (share, d_model, n_head)):
        text = f"rotary_pct (partial_rotary_factor) is {share!r}; expected a share of {d_model!r} / {n_head!r}"
        fields.problems.append(Problem(text, fields.where))
        return 0
    return int(d_model // n_head * share)
