"""The block of every family: x += attention(norm(x)); x += mlp(norm(x))."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from gptloom.config.model import ModelConfig
from gptloom.model.attention import Attention, LayerCache
from gptloom.model.norm import make_norm


class MLP(nn.Module):
    """Position-wise layer: GELU (GPT-2), SwiGLU (Shazeer 2020) or squared ReLU (So et al. 2021)."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.activation = config.activation
        self.up = nn.Linear(config.d_model, config.d_ff, bias=config.bias)
        self.gate = nn.Linear(config.d_model, config.d_ff, bias=config.bias) if config.activation == "swiglu" else None
        self.down = nn.Linear(config.d_ff, config.d_model, bias=config.bias)

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.up(x)
        if self.gate is not None:
            hidden = F.silu(self.gate(x)) * hidden
        elif self.activation == "gelu_tanh":
            hidden = F.gelu(hidden, approximate="tanh")
        else:
            hidden = F.relu(hidden).square()
        return self.down(hidden)


class Block(nn.Module):
    """One layer. It knows no layer number, so that all blocks share one compiled code object."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.attention_norm = make_norm(config, config.d_model)
        self.attention = Attention(config)
        self.mlp_norm = make_norm(config, config.d_model)
        self.mlp = MLP(config)
        self.dropout = nn.Dropout(config.dropout)

    def forward(
        self,
        x: Tensor,
        rotary: tuple[Tensor, Tensor] | None,
        visible: Tensor | None,
        cache: LayerCache | None = None,
        weights: list[Tensor] | None = None,
    ) -> Tensor:
        """x [B, T, D] -> [B, T, D]; see ``Attention.forward`` for the rest."""
        x = x + self.dropout(self.attention(self.attention_norm(x), rotary, visible, cache, weights))
        return x + self.dropout(self.mlp(self.mlp_norm(x)))
