"""The layout of ``OpenAIGPTLMHeadModel``: the blocks of GPT-2's files with the norms after each branch, and none at the end."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from gptloom.config.model import ModelConfig
from gptloom.model.layouts.gpt2 import conv1d_block, describe_sizes, read_sizes
from gptloom.model.layouts.layout import Fields, Layout, Rule
from gptloom.model.layouts.parts import spelling
from gptloom.model.layouts.task_heads import decoder_classes

ACTIVATIONS = {"gelu": "gelu_tanh", "relu": "relu"}  # this family's "gelu" is the tanh form


class GPT1Layout(Layout):
    """GPT-1 as ``transformers`` has it."""

    family = "gpt1"
    model_type = "openai-gpt"
    architecture = "OpenAIGPTLMHeadModel"
    task_classes = decoder_classes("OpenAIGPT", tokens=None, span=None)
    prefix = "transformer."
    embedding = "transformer.tokens_embed.weight"
    fixed = {  # noqa: RUF012 - a constant of the family
        "norm": "layernorm",
        "norm_place": "post",
        "positions": "learned",
        "qk_norm": "none",
        "bias": True,
    }

    def describe(self, config: ModelConfig) -> dict[str, Any]:
        return {**describe_sizes(config), "afn": spelling(config.activation, ACTIVATIONS)}

    def read(self, fields: Fields) -> dict[str, Any]:
        return {
            **read_sizes(fields, vocab_size=40478, context=512),
            "activation": fields.choice("afn", ACTIVATIONS, "gelu"),
            "init": "gpt1",
        }

    def is_buffer(self, name: str) -> bool:
        return name.endswith((".attn.bias", "position_ids"))  # the causal mask and 0, 1, 2, ..., in old files

    def outer_rules(self, config: ModelConfig) -> Iterator[Rule]:
        yield Rule(self.embedding, ("embedding.weight",))
        yield Rule("transformer.positions_embed.weight", ("position_embedding.weight",))

    def block_rules(self, config: ModelConfig, index: int) -> Iterator[Rule]:
        return conv1d_block(index)
