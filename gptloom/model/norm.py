"""The norms of the families: LayerNorm, RMSNorm with a gain, and RMSNorm without one."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gptloom.config.model import ModelConfig


class LayerNorm(nn.Module):
    """Mean 0 and variance 1 over the last axis, then gain and bias (Ba et al. 2016)."""

    def __init__(self, width: int, eps: float) -> None:
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(width))
        self.bias = nn.Parameter(torch.zeros(width))

    def forward(self, x: Tensor) -> Tensor:
        return F.layer_norm(x, self.weight.shape, self.weight, self.bias, self.eps)


class RMSNorm(nn.Module):
    """Root mean square 1 over the last axis (Zhang and Sennrich 2019), computed in fp32 at least."""

    def __init__(self, width: int, eps: float, gain: bool) -> None:
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(width)) if gain else None

    def forward(self, x: Tensor) -> Tensor:
        wide = x.to(torch.promote_types(x.dtype, torch.float32))
        y = (wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + self.eps)).to(x.dtype)
        return y if self.weight is None else y * self.weight


def make_norm(config: ModelConfig, width: int) -> nn.Module:
    """The norm that ``config`` names, over ``width`` features."""
    if config.norm == "layernorm":
        return LayerNorm(width, config.norm_eps)
    return RMSNorm(width, config.norm_eps, gain=config.norm == "rmsnorm")
