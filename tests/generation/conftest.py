"""Tiny models with random weights and a byte tokenizer, for every test of the room."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from gptloom.config.model import ModelConfig, preset
from gptloom.generation.language_model import LanguageModel
from gptloom.model.transformer import Transformer
from gptloom.tokenizer.tokenizer import Tokenizer
from gptloom.tokenizer.train import train_tokenizer

SIZES = {"n_layer": 2, "d_model": 32, "n_head": 4, "context": 256}
FAMILY_FIELDS = {
    "gpt2": preset("gpt2"),
    "modern": {**preset("modern-nano"), "n_kv_head": 2},
    "fast": preset("fast-nano"),
}


@pytest.fixture(scope="session")
def tokenizer() -> Tokenizer:
    return train_tokenizer("bytes", [], None)


@pytest.fixture(scope="session")
def make_model(tokenizer: Tokenizer) -> Callable[..., Transformer]:
    """``make_model(family, **fields)``: weights wide enough that the next token is far from evenly spread."""

    def make(family: str = "modern", seed: int = 0, **fields: int) -> Transformer:
        config = ModelConfig(**{**FAMILY_FIELDS[family], **SIZES, "vocab_size": tokenizer.vocab_size, **fields})
        model = Transformer.initialised(config, seed)
        generator = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for parameter in model.parameters():
                if parameter.dim() > 1:
                    parameter.copy_(0.25 * torch.randn(parameter.shape, generator=generator))
        return model.eval()

    return make


@pytest.fixture(scope="session")
def language_model(make_model: Callable[..., Transformer], tokenizer: Tokenizer) -> LanguageModel:
    return LanguageModel(make_model(), tokenizer)
