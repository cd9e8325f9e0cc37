"""Initial weights, as the papers and reference code have them."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from torch import nn

from gptloom.model.block import Block

if TYPE_CHECKING:
    from gptloom.model.transformer import Transformer


def init_weights(model: Transformer) -> None:
    """Draws every weight of ``model`` anew from the global generator, by ``model.config.init``."""
    {"gpt2": _gpt2, "modern": _modern, "fast": _fast}[model.config.init](model)


def _residual_outputs(model: Transformer) -> set[nn.Module]:
    """The layers that write into the residual stream."""
    outputs: set[nn.Module] = set()
    for block in model.blocks:
        assert isinstance(block, Block)
        outputs |= {block.attention.out, block.mlp.down}
    return outputs


def _gpt2(model: Transformer) -> None:
    """N(0, 0.02), residual outputs N(0, 0.02 / sqrt(2 L)), biases 0 (GPT-2 paper, section 2.3)."""
    outputs = _residual_outputs(model)
    for module in model.modules():
        if isinstance(module, nn.Embedding):
            nn.init.normal_(module.weight, std=0.02)
        elif isinstance(module, nn.Linear):
            std = 0.02 / math.sqrt(2 * model.config.n_layer) if module in outputs else 0.02
            nn.init.normal_(module.weight, std=std)
            if module.bias is not None:
                nn.init.zeros_(module.bias)


def _modern(model: Transformer) -> None:
    """Embedding N(0, 0.02), inputs of a branch N(0, 1/sqrt(fan in)), residual outputs 0: every block starts as identity.

    A tied head meets each token's own normed embedding, a score of D std: above 128 channels the embedding is smaller,
    or the model would begin by being sure that every token repeats.
    """
    outputs = _residual_outputs(model)
    embedding_std = min(0.02, 2.56 / model.config.d_model) if model.config.tied_head else 0.02
    for module in model.modules():
        if isinstance(module, nn.Embedding):
            nn.init.normal_(module.weight, std=embedding_std)
        elif isinstance(module, nn.Linear):
            if module in outputs or module is model.head:
                nn.init.zeros_(module.weight)
            else:
                nn.init.normal_(module.weight, std=module.in_features**-0.5)
            if module.bias is not None:
                nn.init.zeros_(module.bias)


def _fast(model: Transformer) -> None:
    """Embedding N(0, 1) (a norm follows), branch inputs uniform with std 1/sqrt(D), residual outputs 0, head N(0, 0.001)."""
    outputs = _residual_outputs(model)
    bound = math.sqrt(3 / model.config.d_model)
    for module in model.modules():
        if isinstance(module, nn.Embedding):
            nn.init.normal_(module.weight, std=1.0)
        elif isinstance(module, nn.Linear):
            if module in outputs:
                nn.init.zeros_(module.weight)
            elif module is model.head:
                nn.init.normal_(module.weight, std=0.001)
            else:
                nn.init.uniform_(module.weight, -bound, bound)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
