"""Rotary positions (RoFormer, Su et al. 2021): queries and keys turned by angles that grow with the position.

Legend: B batch, T tokens, K rotated size of a head.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from gptloom.config.model import ModelConfig, RopeScaling


def rotary_table(positions: Tensor, config: ModelConfig, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """cos and sin [B or 1, 1, T, K/2] of the angles position * theta^(-2i/K) (RoFormer, section 3.2.2).

    Computed afresh in fp32 (fp64 for fp64 models): a table kept in bf16 would lose the far positions.
    """
    wide = torch.promote_types(dtype, torch.float32)
    frequencies = rotary_frequencies(config, wide, positions.device)
    angles = positions[:, None, :, None].to(wide) * frequencies
    factor = _attention_factor(config.rope_scaling)
    return angles.cos() * factor, angles.sin() * factor


def rotary_frequencies(config: ModelConfig, dtype: torch.dtype, device: torch.device) -> Tensor:
    """[K/2] turns of each pair per position, in radians, scaled as ``config.rope_scaling`` says."""
    size = config.rotary_dim
    exponent = torch.arange(0, size, 2, device=device, dtype=torch.int64).to(dtype) / size
    frequencies = 1.0 / config.rope_theta**exponent
    scaling = config.rope_scaling
    if scaling is None:
        return frequencies
    slowed = frequencies / scaling.factor
    if scaling.kind == "linear":
        return slowed
    original = scaling.original_context or config.context
    if scaling.kind == "llama3":  # Llama 3.1: long wavelengths are stretched, short ones kept, a ramp between
        wavelength = 2 * math.pi / frequencies
        low, high = scaling.low_freq_factor, scaling.high_freq_factor
        kept = ((original / wavelength - low) / (high - low)).clamp(0, 1)
        return slowed * (1 - kept) + frequencies * kept
    # YaRN (Peng et al. 2023, section 3.2): pairs that turn often within the first context are kept, slow ones stretched.
    first, last = (_pair_with_turns(turns, original, config) for turns in (scaling.beta_fast, scaling.beta_slow))
    if scaling.truncate:
        first, last = math.floor(first), math.ceil(last)
    first, last = max(first, 0), min(last, size - 1)
    pairs = torch.arange(size // 2, device=device, dtype=dtype)
    stretched = ((pairs - first) / max(last - first, 0.001)).clamp(0, 1)
    return slowed * stretched + frequencies * (1 - stretched)


def _pair_with_turns(turns: float, original: int, config: ModelConfig) -> float:
    """The (fractional) pair that turns so many times within ``original`` positions."""
    return config.rotary_dim * math.log(original / (turns * 2 * math.pi)) / (2 * math.log(config.rope_theta))


def _attention_factor(scaling: RopeScaling | None) -> float:
    """What YaRN multiplies queries and keys by (Peng et al. 2023, equation 22); 1 for all others."""
    if scaling is None or scaling.kind != "yarn":
        return 1.0
    if scaling.attention_factor is not None:
        return scaling.attention_factor
    return 0.1 * math.log(scaling.factor) + 1.0 if scaling.factor > 1 else 1.0


def rotate(x: Tensor, table: tuple[Tensor, Tensor]) -> Tensor:
    """Turns the pairs (i, i + K/2) of the first K of each head of x [B, H, T, >= K] by their angles."""
    cos, sin = table
    size = 2 * cos.shape[-1]
    first, second = x[..., :size].chunk(2, dim=-1)
    return torch.cat((first * cos - second * sin, second * cos + first * sin, x[..., size:].to(cos.dtype)), dim=-1)
