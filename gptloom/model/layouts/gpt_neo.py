"""The layout of ``GPTNeoForCausalLM``: GPT-2's shape with local layers, scores that are not divided, and plain matrices."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from gptloom.config.errors import Problem
from gptloom.config.model import ModelConfig
from gptloom.model.layouts.bands import banded_layers, read_bands
from gptloom.model.layouts.layout import Fields, Layout, Rule
from gptloom.model.layouts.parts import ACTIVATIONS, attention_dropout, layer, spelling
from gptloom.model.layouts.task_heads import decoder_classes

_GLOBAL, _LOCAL = "global", "local"


class GPTNeoLayout(Layout):
    """GPT-Neo as ``transformers`` has it: queries, keys and values have no biases, all else has."""

    family = "gpt_neo"
    model_type = "gpt_neo"
    architecture = "GPTNeoForCausalLM"
    task_classes = decoder_classes("GPTNeo")
    prefix = "transformer."
    embedding = "transformer.wte.weight"
    fixed = {  # noqa: RUF012 - a constant of the family
        "norm": "layernorm",
        "positions": "learned",
        "scale_attention": False,
        "qk_norm": "none",
        "qkv_bias": False,
        "out_bias": True,
        "mlp_bias": True,
    }

    def describe(self, config: ModelConfig) -> dict[str, Any]:
        kinds = [_LOCAL if banded else _GLOBAL for banded in banded_layers(config)]
        return {
            "vocab_size": config.vocab_size,
            "max_position_embeddings": config.context,
            "hidden_size": config.d_model,
            "intermediate_size": config.d_ff,
            "num_layers": config.n_layer,
            "num_heads": config.n_head,
            "attention_types": [[kinds, 1]],
            "attention_layers": kinds,
            "window_size": config.window or 256,  # without local layers it says nothing, but must be a number
            "activation_function": spelling(config.activation, ACTIVATIONS),
            "layer_norm_epsilon": config.norm_eps,
            "resid_dropout": config.dropout,
            "embed_dropout": config.dropout,
            "attention_dropout": attention_dropout(config),
            "initializer_range": 0.02,
        }

    def read(self, fields: Fields) -> dict[str, Any]:
        fields.must_be("is_causal", True)
        dropout = fields.get("resid_dropout", 0.0)
        if fields.get("embed_dropout", 0.0) != dropout:
            text = f"embed_dropout is {fields.get('embed_dropout', 0.0)!r}, resid_dropout {dropout!r}"
            fields.problems.append(
                Problem(f"{text}; gptloom has one for both", fields.where, "the same number in both")
            )
        n_layer = fields.get("num_layers", fields.get("num_hidden_layers", 24))
        kinds = _layer_kinds(fields, n_layer)
        return {
            "vocab_size": fields.get("vocab_size", 50257),
            "context": fields.get("max_position_embeddings", 2048),
            "n_layer": n_layer,
            "n_head": fields.get("num_heads", fields.get("num_attention_heads", 16)),
            "d_model": fields.get("hidden_size", 2048),
            "d_ff": fields.get("intermediate_size", 0),
            "norm_eps": fields.get("layer_norm_epsilon", 1e-5),
            **read_bands([kind == _LOCAL for kind in kinds], fields.get("window_size", 256)),
            "activation": fields.choice("activation_function", ACTIVATIONS, "gelu_new"),
            "tied_head": fields.get("tie_word_embeddings", True),
            **fields.dropouts("resid_dropout", "attention_dropout", 0.0),
            "init": "gpt2",
        }

    def is_buffer(self, name: str) -> bool:
        return name.endswith((".attention.bias", ".attention.masked_bias"))  # the causal mask, in old files

    def outer_rules(self, config: ModelConfig) -> Iterator[Rule]:
        yield Rule(self.embedding, ("embedding.weight",))
        yield Rule("transformer.wpe.weight", ("position_embedding.weight",))
        yield from layer("transformer.ln_f", "norm")

    def block_rules(self, config: ModelConfig, index: int) -> Iterator[Rule]:
        theirs, ours = f"transformer.h.{index}", f"blocks.{index}"
        yield from layer(f"{theirs}.ln_1", f"{ours}.attention_norm")
        for part in "qkv":
            yield from layer(f"{theirs}.attn.attention.{part}_proj", f"{ours}.attention.{part}", bias=False)
        yield from layer(f"{theirs}.attn.attention.out_proj", f"{ours}.attention.out")
        yield from layer(f"{theirs}.ln_2", f"{ours}.mlp_norm")
        yield from layer(f"{theirs}.mlp.c_fc", f"{ours}.mlp.up")
        yield from layer(f"{theirs}.mlp.c_proj", f"{ours}.mlp.down")


def _layer_kinds(fields: Fields, n_layer: int) -> list[str]:
    """``global`` or ``local`` for each layer, from [[kinds, how often], ...]; all global where that makes no sense."""
    types = fields.get("attention_types", [[[_GLOBAL, _LOCAL], 12]])
    try:
        kinds = [str(kind) for names, count in types for kind in list(names) * count]
    except (TypeError, ValueError):
        text = f"attention_types is {types!r}; expected a list like [[['{_GLOBAL}', '{_LOCAL}'], 12]]"
        fields.problems.append(Problem(text, fields.where))
        return []
    listed = fields.get("attention_layers", kinds)
    problems = []
    if unknown := sorted(set(kinds) - {_GLOBAL, _LOCAL}):
        problems.append(f"attention_types has {', '.join(unknown)}; gptloom has only {_GLOBAL} and {_LOCAL}")
    if len(kinds) != n_layer:
        problems.append(f"attention_types has {len(kinds)} layers; there are num_layers {n_layer}")
    if listed != kinds:
        problems.append("attention_layers says otherwise than attention_types")
    fields.problems += [Problem(problem, fields.where) for problem in problems]
    return [] if problems else kinds
