"""The layout of ``NanoChatForCausalLM``, in which every ``fast`` model is written.

Its rotation turns the other way: (x1 cos + x2 sin, x2 cos - x1 sin). That is ours with the two halves of each head
exchanged, and attention does not see an exchange made in queries and keys alike. So the rows of q and k are exchanged.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from typing import Any

from torch import Tensor

from gptloom.config.model import ModelConfig
from gptloom.model.layouts.layout import Fields, Rule
from gptloom.model.layouts.llama_like import ATTENTION, LlamaLikeLayout


def _exchange_halves(tensor: Tensor, head_dim: int) -> Tensor:
    """[H K, ...] -> [H K, ...] with the halves of each head's K rows exchanged; its own inverse."""
    return tensor.unflatten(0, (-1, 2, head_dim // 2)).flip(1).flatten(0, 2)


def _write_exchanged(tensors: list[Tensor], head_dim: int) -> Tensor:
    return _exchange_halves(tensors[0], head_dim)


def _read_exchanged(tensor: Tensor, head_dim: int) -> list[Tensor]:
    return [_exchange_halves(tensor, head_dim)]


class NanoChatLayout(LlamaLikeLayout):
    """nanochat as ``transformers`` has it: no norm has a gain, so none is stored."""

    family = "fast"
    model_type = "nanochat"
    architecture = "NanoChatForCausalLM"
    fixed = {  # noqa: RUF012 - a constant of the family
        "norm": "rmsnorm_plain",
        "embedding_norm": True,
        "positions": "rotary",
        "qk_norm": "after_rotary",
        "activation": "relu2",
        "mlp_bias": False,
        "banded": "none",
    }
    activation = ("relu2",)
    init = "fast"
    bias_fields = {"attention_bias": ("qkv_bias", "out_bias")}  # noqa: RUF012 - a constant
    sizes = {  # noqa: RUF012 - a constant
        "vocab_size": 50304,
        "max_position_embeddings": 2048,
        "num_hidden_layers": 12,
        "num_attention_heads": 6,
        "num_key_value_heads": None,
        "hidden_size": 768,
        "head_dim": None,
        "intermediate_size": 8192,
    }
    matrices = ATTENTION | {"mlp.fc1": ("mlp.up", "mlp_bias"), "mlp.fc2": ("mlp.down", "mlp_bias")}
    norms = {}  # noqa: RUF012 - none has a gain

    def describe(self, config: ModelConfig) -> dict[str, Any]:
        return super().describe(config) | {"final_logit_softcapping": config.logit_softcap}

    def read(self, fields: Fields) -> dict[str, Any]:
        return super().read(fields) | {"logit_softcap": fields.get_or_null("final_logit_softcapping", 15.0)}

    def outer_rules(self, config: ModelConfig) -> Iterator[Rule]:
        yield Rule(self.embedding, ("embedding.weight",))

    def block_rules(self, config: ModelConfig, index: int) -> Iterator[Rule]:
        write = partial(_write_exchanged, head_dim=config.head_dim)
        read = partial(_read_exchanged, head_dim=config.head_dim)
        for rule in super().block_rules(config, index):
            turned = ".q_proj." in rule.theirs or ".k_proj." in rule.theirs
            yield replace(rule, write=write, read=read) if turned else rule
