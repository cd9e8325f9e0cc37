"""The layout of ``GPT2LMHeadModel``: matrices stored [in, out] (Conv1D), queries, keys and values fused in one."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from gptloom.config.errors import Problem
from gptloom.config.model import ModelConfig
from gptloom.model.layouts.layout import Fields, Layout, Rule


def _transpose(tensors: list[Tensor]) -> Tensor:
    return tensors[0].T


def _untranspose(tensor: Tensor) -> list[Tensor]:
    return [tensor.T]


def _fuse(tensors: list[Tensor]) -> Tensor:
    return torch.cat(tensors)


def _split(tensor: Tensor) -> list[Tensor]:
    return list(tensor.chunk(3))


def _fuse_transposed(tensors: list[Tensor]) -> Tensor:
    return torch.cat(tensors).T


def _split_transposed(tensor: Tensor) -> list[Tensor]:
    return list(tensor.T.chunk(3))


def _conv1d(theirs: str, ours: str) -> Iterator[Rule]:
    yield Rule(f"{theirs}.weight", (f"{ours}.weight",), _transpose, _untranspose)
    yield Rule(f"{theirs}.bias", (f"{ours}.bias",))


def _norm(theirs: str, ours: str) -> Iterator[Rule]:
    yield Rule(f"{theirs}.weight", (f"{ours}.weight",))
    yield Rule(f"{theirs}.bias", (f"{ours}.bias",))


class GPT2Layout(Layout):
    """GPT-2 as ``transformers`` has it."""

    family = "gpt2"
    model_type = "gpt2"
    architecture = "GPT2LMHeadModel"
    prefix = "transformer."
    embedding = "transformer.wte.weight"
    fixed = {  # noqa: RUF012 - a constant of the family
        "norm": "layernorm",
        "embedding_norm": False,
        "positions": "learned",
        "qk_norm": "none",
        "activation": "gelu_tanh",
        "bias": True,
        "logit_softcap": None,
    }

    def unfit(self, config: ModelConfig) -> list[Problem]:
        problems = super().unfit(config)
        if config.n_kv_head != config.n_head:
            problems.append(
                Problem(f"n_kv_head is {config.n_kv_head}; the gpt2 layout holds only n_head {config.n_head}")
            )
        if config.head_dim * config.n_head != config.d_model:
            problems.append(Problem(f"head_dim is {config.head_dim}; the gpt2 layout has only d_model / n_head"))
        return problems

    def describe(self, config: ModelConfig) -> dict[str, Any]:
        return {
            "vocab_size": config.vocab_size,
            "n_positions": config.context,
            "n_embd": config.d_model,
            "n_layer": config.n_layer,
            "n_head": config.n_head,
            "n_inner": None if config.d_ff == 4 * config.d_model else config.d_ff,
            "activation_function": "gelu_new",
            "resid_pdrop": config.dropout,
            "embd_pdrop": config.dropout,
            "attn_pdrop": config.dropout,
            "layer_norm_epsilon": config.norm_eps,
            "initializer_range": 0.02,
        }

    def read(self, fields: Fields) -> dict[str, Any]:
        fields.must_be("activation_function", "gelu_new", "gelu_pytorch_tanh")
        fields.must_be("scale_attn_weights", True)
        for name in ("scale_attn_by_inverse_layer_idx", "reorder_and_upcast_attn", "add_cross_attention"):
            fields.must_be(name, False)
        dropout = fields.get("resid_pdrop", 0.1)
        for name in ("embd_pdrop", "attn_pdrop"):
            if fields.get(name, 0.1) != dropout:
                text = f"{name} is {fields.get(name, 0.1)!r}, resid_pdrop {dropout!r}; gptloom has one dropout for all"
                fields.problems.append(Problem(text, fields.where, "the same number in all three"))
        return {
            "vocab_size": fields.get("vocab_size", 50257),
            "context": fields.get("n_positions", 1024),
            "n_layer": fields.get("n_layer", 12),
            "n_head": fields.get("n_head", 12),
            "d_model": fields.get("n_embd", 768),
            "d_ff": fields.get("n_inner", 0),
            "norm_eps": fields.get("layer_norm_epsilon", 1e-5),
            "tied_head": fields.get("tie_word_embeddings", True),
            "dropout": dropout,
            "init": "gpt2",
        }

    def is_buffer(self, name: str) -> bool:
        return name.endswith((".attn.bias", ".attn.masked_bias"))  # the causal mask, in the oldest files

    def outer_rules(self, config: ModelConfig) -> Iterator[Rule]:
        yield Rule(self.embedding, ("embedding.weight",))
        yield Rule("transformer.wpe.weight", ("position_embedding.weight",))
        yield from _norm("transformer.ln_f", "norm")

    def block_rules(self, config: ModelConfig, index: int) -> Iterator[Rule]:
        theirs, ours = f"transformer.h.{index}", f"blocks.{index}"
        yield from _norm(f"{theirs}.ln_1", f"{ours}.attention_norm")
        weights = tuple(f"{ours}.attention.{part}.weight" for part in "qkv")
        yield Rule(f"{theirs}.attn.c_attn.weight", weights, _fuse_transposed, _split_transposed)
        biases = tuple(f"{ours}.attention.{part}.bias" for part in "qkv")
        yield Rule(f"{theirs}.attn.c_attn.bias", biases, _fuse, _split)
        yield from _conv1d(f"{theirs}.attn.c_proj", f"{ours}.attention.out")
        yield from _norm(f"{theirs}.ln_2", f"{ours}.mlp_norm")
        yield from _conv1d(f"{theirs}.mlp.c_fc", f"{ours}.mlp.up")
        yield from _conv1d(f"{theirs}.mlp.c_proj", f"{ours}.mlp.down")
