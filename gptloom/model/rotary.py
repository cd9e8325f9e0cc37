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
    factor = score_factor(config.rope_scaling)
    return angles.cos() * factor, angles.sin() * factor


def rotary_frequencies(config: ModelConfig, dtype: torch.dtype, device: torch.device) -> Tensor:
    """[K/2] turns of each pair per position, in radians, scaled as ``config.rope_scaling`` says.

    In fp32 the last bit of a frequency is up to a hundredth of a radian at position 100,000: the operations come in the
    order of ``transformers``, so that no bit differs from what published models are used with.
    """
    size, scaling = config.rotary_dim, config.rope_scaling
    exponent = torch.arange(0, size, 2, device=device, dtype=torch.int64).to(dtype) / size
    stride = config.rope_theta**exponent  # positions a radian
    frequencies = 1.0 / stride
    if scaling is None:
        return frequencies
    if scaling.kind == "linear":
        return frequencies / scaling.factor
    original = scaling.original_context
    assert original is not None
    if scaling.kind == "llama3":  # Llama 3.1: long wavelengths are stretched, short ones kept, a ramp between
        wavelength = 2 * math.pi / frequencies
        low, high = scaling.low_freq_factor, scaling.high_freq_factor
        kept = ((original / wavelength - low) / (high - low)).clamp(0, 1)
        return (1 - kept) * frequencies / scaling.factor + kept * frequencies
    # YaRN (Peng et al. 2023, section 3.2): pairs that turn often within the first context are kept, slow ones stretched.
    first, last = (_pair_with_turns(turns, original, config) for turns in (scaling.beta_fast, scaling.beta_slow))
    if scaling.truncate:
        first, last = math.floor(first), math.ceil(last)
    first, last = max(first, 0), min(last, size - 1)
    pairs = torch.arange(size // 2, device=device, dtype=dtype)
    kept = 1 - ((pairs - first) / (last - first or 0.001)).clamp(0, 1)
    return 1.0 / (scaling.factor * stride) * (1 - kept) + frequencies * kept


def _pair_with_turns(turns: float, original: int, config: ModelConfig) -> float:
    """The (fractional) pair that turns so many times within ``original`` positions."""
    return config.rotary_dim * math.log(original / (turns * 2 * math.pi)) / (2 * math.log(config.rope_theta))


def yarn_temperature(factor: float, weight: float = 1.0) -> float:
    """What YaRN multiplies queries and keys by in a context ``factor`` times as long (Peng et al. 2023, equation 22).

    The paper has ``weight`` 1; DeepSeek-V2 has the quotient of two such numbers of different weights.
    """
    return 0.1 * weight * math.log(factor) + 1.0 if factor > 1 else 1.0


def score_factor(scaling: RopeScaling | None) -> float:
    """What queries and keys are multiplied by, each: 1 but for YaRN."""
    if scaling is None or scaling.kind != "yarn":
        return 1.0
    return yarn_temperature(scaling.factor) if scaling.attention_factor is None else scaling.attention_factor


def rotate(x: Tensor, table: tuple[Tensor, Tensor]) -> Tensor:
    """Turns the pairs (i, i + K/2) of the first K of each head of x [B, H, T, >= K] by their angles."""
    cos, sin = table
    size = 2 * cos.shape[-1]
    first, second = x[..., :size].chunk(2, dim=-1)
    return torch.cat((first * cos - second * sin, second * cos + first * sin, x[..., size:].to(cos.dtype)), dim=-1)
