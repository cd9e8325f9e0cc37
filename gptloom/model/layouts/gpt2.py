"""The layout of ``GPT2LMHeadModel``: matrices stored [in, out] (Conv1D), queries, keys and values fused in one."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from gptloom.config.errors import Problem
from gptloom.config.model import ModelConfig
from gptloom.model.layouts.layout import Fields, Layout, Rule
from gptloom.model.layouts.parts import ACTIVATIONS, attention_dropout, conv1d, fused_conv1d, layer, spelling
from gptloom.model.layouts.task_heads import decoder_classes


class GPT2Layout(Layout):
    """GPT-2 as ``transformers`` has it."""

    family = "gpt2"
    model_type = "gpt2"
    architecture = "GPT2LMHeadModel"
    task_classes = decoder_classes("GPT2")
    prefix = "transformer."
    embedding = "transformer.wte.weight"
    fixed = {"norm": "layernorm", "positions": "learned", "qk_norm": "none", "bias": True}  # noqa: RUF012

    def describe(self, config: ModelConfig) -> dict[str, Any]:
        return {
            **describe_sizes(config),
            "n_inner": None if config.d_ff == 4 * config.d_model else config.d_ff,
            "activation_function": spelling(config.activation, ACTIVATIONS),
        }

    def read(self, fields: Fields) -> dict[str, Any]:
        fields.must_be("scale_attn_weights", True)
        for name in ("scale_attn_by_inverse_layer_idx", "reorder_and_upcast_attn", "add_cross_attention"):
            fields.must_be(name, False)
        return {
            **read_sizes(fields, vocab_size=50257, context=1024),
            "d_ff": fields.get("n_inner", 0),
            "activation": fields.choice("activation_function", ACTIVATIONS, "gelu_new"),
            "init": "gpt2",
        }

    def is_buffer(self, name: str) -> bool:
        return name.endswith((".attn.bias", ".attn.masked_bias"))  # the causal mask, in the oldest files

    def outer_rules(self, config: ModelConfig) -> Iterator[Rule]:
        yield Rule(self.embedding, ("embedding.weight",))
        yield Rule("transformer.wpe.weight", ("position_embedding.weight",))
        yield from layer("transformer.ln_f", "norm")

    def block_rules(self, config: ModelConfig, index: int) -> Iterator[Rule]:
        return conv1d_block(index)


def describe_sizes(config: ModelConfig) -> dict[str, Any]:
    """The fields that GPT-1 and GPT-2 have in common."""
    return {
        "vocab_size": config.vocab_size,
        "n_positions": config.context,
        "n_embd": config.d_model,
        "n_layer": config.n_layer,
        "n_head": config.n_head,
        "resid_pdrop": config.dropout,
        "embd_pdrop": config.dropout,
        "attn_pdrop": attention_dropout(config),
        "layer_norm_epsilon": config.norm_eps,
        "initializer_range": 0.02,
    }


def read_sizes(fields: Fields, vocab_size: int, context: int) -> dict[str, Any]:
    """The same fields read; ``vocab_size`` and ``context`` where they are absent."""
    dropout = fields.get("resid_pdrop", 0.1)
    if fields.get("embd_pdrop", 0.1) != dropout:
        text = f"embd_pdrop is {fields.get('embd_pdrop', 0.1)!r}, resid_pdrop {dropout!r}; gptloom has one for both"
        fields.problems.append(Problem(text, fields.where, "the same number in both"))
    return {
        "vocab_size": fields.get("vocab_size", vocab_size),
        "context": fields.get("n_positions", context),
        "n_layer": fields.get("n_layer", 12),
        "n_head": fields.get("n_head", 12),
        "d_model": fields.get("n_embd", 768),
        "norm_eps": fields.get("layer_norm_epsilon", 1e-5),
        "tied_head": fields.get("tie_word_embeddings", True),
        **fields.dropouts("resid_pdrop", "attn_pdrop", 0.1),
    }


def conv1d_block(index: int) -> Iterator[Rule]:
    """The tensors of one block, which GPT-1 and GPT-2 name alike."""
    theirs, ours = f"transformer.h.{index}", f"blocks.{index}"
    yield from layer(f"{theirs}.ln_1", f"{ours}.attention_norm")
    yield from fused_conv1d(f"{theirs}.attn.c_attn", f"{ours}.attention")
    yield from conv1d(f"{theirs}.attn.c_proj", f"{ours}.attention.out")
    yield from layer(f"{theirs}.ln_2", f"{ours}.mlp_norm")
    yield from conv1d(f"{theirs}.mlp.c_fc", f"{ours}.mlp.up")
    yield from conv1d(f"{theirs}.mlp.c_proj", f"{ours}.mlp.down")
