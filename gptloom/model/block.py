"""The block of every family: attention and an MLP, each beside the residual stream; the config says where the norms sit."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from gptloom.config.model import ModelConfig
from gptloom.model.attention import Attention, LayerCache, Sight
from gptloom.model.dropout import Dropout
from gptloom.model.norm import make_norm


def activate(name: str, x: Tensor) -> Tensor:
    """The non-linearity ``name``: GELU (Hendrycks and Gimpel 2016) by erf or by tanh, ReLU, squared ReLU (So et al. 2021)."""
    if name.startswith("gelu"):
        return F.gelu(x, approximate="tanh" if name == "gelu_tanh" else "none")
    return F.relu(x) if name == "relu" else F.relu(x).square()


class MLP(nn.Module):
    """Position-wise layer: ``activate`` between two matrices, or SwiGLU (Shazeer 2020) with its gate."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.activation, bias = config.activation, bool(config.mlp_bias)
        self.up = nn.Linear(config.d_model, config.d_ff, bias=bias)
        self.gate = nn.Linear(config.d_model, config.d_ff, bias=bias) if config.activation == "swiglu" else None
        self.down = nn.Linear(config.d_ff, config.d_model, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        if self.gate is not None:
            return self.down(F.silu(self.gate(x)) * self.up(x))
        return self.down(activate(self.activation, self.up(x)))


class Block(nn.Module):
    """One layer. It knows no layer number, so that all blocks share one compiled code object."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.post_norm, self.parallel = config.norm_place == "post", config.parallel_residual
        self.attention_norm = make_norm(config, config.d_model)
        self.attention = Attention(config)
        self.mlp_norm = make_norm(config, config.d_model)
        self.mlp = MLP(config)
        self.dropout = Dropout(config.dropout)

    def forward(
        self,
        x: Tensor,
        rotary: tuple[Tensor, Tensor] | None,
        sight: Sight,
        cache: LayerCache | None = None,
        weights: list[Tensor] | None = None,
    ) -> Tensor:
        """x [B, T, D] -> [B, T, D]; see ``Attention.forward`` for the rest."""
        if self.post_norm:  # Vaswani et al. 2017; GPT-1, BERT
            x = self.attention_norm(x + self.dropout(self.attention(x, rotary, sight, cache, weights)))
            return self.mlp_norm(x + self.dropout(self.mlp(x)))
        attended = x + self.dropout(self.attention(self.attention_norm(x), rotary, sight, cache, weights))
        seen = x if self.parallel else attended  # GPT-J's parallel form (Wang and Komatsuzaki 2021); GPT-NeoX
        return attended + self.dropout(self.mlp(self.mlp_norm(seen)))
