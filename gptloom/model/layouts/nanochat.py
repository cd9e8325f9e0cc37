"""The layout of ``NanoChatForCausalLM``, in which every ``fast`` model is written.

Its rotation turns the other way: (x1 cos + x2 sin, x2 cos - x1 sin). That is ours with the two halves of each head
exchanged, and attention does not see an exchange made in queries and keys alike. So the rows of q and k are exchanged.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any

from torch import Tensor

from gptloom.config.errors import Problem
from gptloom.config.model import ModelConfig
from gptloom.model.layouts.layout import Fields, Layout, Rule


def _exchange_halves(tensor: Tensor, head_dim: int) -> Tensor:
    """[H K, D] -> [H K, D] with the halves of each head's K rows exchanged; its own inverse."""
    return tensor.view(-1, 2, head_dim // 2, tensor.shape[-1]).flip(1).reshape(tensor.shape)


def _write_exchanged(tensors: list[Tensor], head_dim: int) -> Tensor:
    return _exchange_halves(tensors[0], head_dim)


def _read_exchanged(tensor: Tensor, head_dim: int) -> list[Tensor]:
    return [_exchange_halves(tensor, head_dim)]


class NanoChatLayout(Layout):
    """nanochat as ``transformers`` has it: no norm has a gain, so none is stored."""

    family = "fast"
    model_type = "nanochat"
    architecture = "NanoChatForCausalLM"
    prefix = "model."
    embedding = "model.embed_tokens.weight"
    fixed = {  # noqa: RUF012 - a constant of the family
        "norm": "rmsnorm_plain",
        "embedding_norm": True,
        "positions": "rotary",
        "qk_norm": "after_rotary",
        "activation": "relu2",
        "bias": False,
    }

    def unfit(self, config: ModelConfig) -> list[Problem]:
        problems = super().unfit(config)
        if config.head_dim * config.n_head != config.d_model:
            problems.append(Problem(f"head_dim is {config.head_dim}; the nanochat layout has only d_model / n_head"))
        return problems

    def describe(self, config: ModelConfig) -> dict[str, Any]:
        return {
            "vocab_size": config.vocab_size,
            "max_position_embeddings": config.context,
            "hidden_size": config.d_model,
            "intermediate_size": config.d_ff,
            "num_hidden_layers": config.n_layer,
            "num_attention_heads": config.n_head,
            "num_key_value_heads": config.n_kv_head,
            "hidden_act": "relu2",
            "rms_norm_eps": config.norm_eps,
            "rope_parameters": {"rope_type": "default", "rope_theta": config.rope_theta},
            "final_logit_softcapping": config.logit_softcap,
            "attention_bias": False,
            "attention_dropout": 0.0,
            "initializer_range": 0.02,
        }

    def read(self, fields: Fields) -> dict[str, Any]:
        fields.must_be("hidden_act", "relu2")
        fields.must_be("attention_bias", False)
        fields.must_be("attention_dropout", 0.0)
        n_head = fields.get("num_attention_heads", 6)
        return {
            "vocab_size": fields.get("vocab_size", 50304),
            "context": fields.get("max_position_embeddings", 2048),
            "n_layer": fields.get("num_hidden_layers", 12),
            "n_head": n_head,
            "n_kv_head": fields.get("num_key_value_heads", n_head),
            "d_model": fields.get("hidden_size", 768),
            "head_dim": fields.get("head_dim", 0),
            "d_ff": fields.get("intermediate_size", 8192),
            "norm_eps": fields.get("rms_norm_eps", 1e-6),
            "rope_theta": fields.plain_rotary(10_000.0),
            "logit_softcap": fields.get_or_null("final_logit_softcapping", 15.0),
            "tied_head": fields.get("tie_word_embeddings", False),
            "init": "fast",
        }

    def outer_rules(self, config: ModelConfig) -> Iterator[Rule]:
        yield Rule(self.embedding, ("embedding.weight",))

    def block_rules(self, config: ModelConfig, index: int) -> Iterator[Rule]:
        theirs, ours = f"model.layers.{index}", f"blocks.{index}"
        write = partial(_write_exchanged, head_dim=config.head_dim)
        read = partial(_read_exchanged, head_dim=config.head_dim)
        for part in "qk":
            name = f"{theirs}.self_attn.{part}_proj.weight"
            yield Rule(name, (f"{ours}.attention.{part}.weight",), write, read)
        yield Rule(f"{theirs}.self_attn.v_proj.weight", (f"{ours}.attention.v.weight",))
        yield Rule(f"{theirs}.self_attn.o_proj.weight", (f"{ours}.attention.out.weight",))
        yield Rule(f"{theirs}.mlp.fc1.weight", (f"{ours}.mlp.up.weight",))
        yield Rule(f"{theirs}.mlp.fc2.weight", (f"{ours}.mlp.down.weight",))
