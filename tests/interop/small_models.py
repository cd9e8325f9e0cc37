"""Tiny model folders of every family as gptloom writes them: all numbers random, with a byte-level BPE."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import torch

from gptloom.config.model import ModelConfig, preset
from gptloom.model.store import save_model
from gptloom.model.transformer import Transformer
from gptloom.tokenizer.tokenizer import Tokenizer
from gptloom.tokenizer.train import train_tokenizer

TEXT = "the old king and his young queen went down to the river where a boat of green wood lay waiting. " * 9
SIZES: dict[str, Any] = {"context": 64, "n_layer": 2, "d_model": 64, "n_head": 4, "head_dim": 0, "d_ff": 128}
LLAMA: dict[str, Any] = {
    "norm": "rmsnorm",
    "norm_eps": 1e-5,
    "qk_norm": "none",
    "activation": "swiglu",
    "tied_head": False,
    "n_kv_head": 2,
}
FAMILIES: dict[str, dict[str, Any]] = {
    "modern": preset("modern-nano") | SIZES | {"n_kv_head": 2, "head_dim": 24, "rope_theta": 500.0},
    "fast": preset("fast-nano") | SIZES,
    "gpt1": preset("gpt1") | SIZES | {"d_ff": 256},
    "gpt2": preset("gpt2") | SIZES,
    "gpt3": preset("gpt3-small") | SIZES,
    "neox": preset("neox-20b") | SIZES | {"rotary_dim": 8, "tied_head": True},
    "bert": preset("bert-tiny") | SIZES,
    "llama": {"family": "llama", **SIZES, **LLAMA},
    "mistral": {"family": "mistral", **SIZES, **LLAMA},
    "gpt_neo": preset("gpt2")
    | SIZES
    | {"family": "gpt_neo", "scale_attention": False, "qkv_bias": False}
    | {"window": 16, "banded": "alternate"},
    "qwen2": {"family": "qwen2", "qkv_bias": True, **SIZES, **LLAMA},
}
LLAMA3 = {"kind": "llama3", "factor": 8.0, "original_context": 32}
YARN = {"kind": "yarn", "factor": 4.0, "original_context": 16}
SPARE_ROWS = 3


@cache
def small_tokenizer(kind: str = "bpe") -> Tokenizer:
    return train_tokenizer(kind, [TEXT], 290 if kind == "bpe" else None)


def write_model(
    folder: Path,
    name: str = "modern",
    *,
    tokenizer: Tokenizer | None = None,
    bare: bool = False,
    dtype: torch.dtype | None = None,
    **changes: Any,
) -> Path:
    """A folder of ``FAMILIES[name]``; ``bare``: without a tokenizer."""
    kind = small_tokenizer("wordpiece" if name == "bert" else "bpe") if tokenizer is None else tokenizer
    fields = FAMILIES[name] | {"vocab_size": kind.vocab_size + SPARE_ROWS} | changes
    model = random_model(ModelConfig(**fields))
    save_model(folder, model, model.config, tokenizer=None if bare else kind, dtype=dtype)
    return folder


def random_model(config: ModelConfig) -> Transformer:
    """Gains around 1, all else around 0, wide enough that no error hides."""
    model = Transformer(config).eval()
    generator = torch.Generator().manual_seed(7)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.normal_(mean=float(name.endswith("norm.weight")), std=0.2, generator=generator)
    return model
