"""Dropout on a CPU: random bits by the word, since PyTorch draws a number of its own for every element.

At BERT's usual rate those draws are a tenth of a training step; here one draw of 64 bits decides four elements, or eight.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def kept(shape: torch.Size, p: float, bits: int, generator: torch.Generator | None = None) -> tuple[Tensor, float]:
    """Which elements stay, bool of ``shape`` on the CPU, and the exact factor that keeps their expectation.

    ``p``, above 0, is met to within 1 / 2^bits, of 8 or 16 bits an element.
    """
    count, narrow = shape.numel(), {8: torch.int8, 16: torch.int16}[bits]
    steps = 1 << bits
    words = torch.empty(-(-count * bits // 64), dtype=torch.int64).random_(-(2**63), None, generator=generator)
    dropped = min(max(round(p * steps), 1), steps - 1)
    stays = words.view(narrow)[:count].view(shape) >= dropped - steps // 2  # signed: from -steps/2 on
    return stays, steps / (steps - dropped)


class Dropout(nn.Module):
    """Sets elements to 0 with probability ``p`` while training, and scales the others up (Srivastava et al. 2014)."""

    def __init__(self, p: float) -> None:
        super().__init__()
        self.p = p

    def forward(self, x: Tensor) -> Tensor:
        if not self.training or self.p == 0:
            return x
        if x.device.type != "cpu" or torch.compiler.is_compiling():
            return F.dropout(x, self.p)
        stays, factor = kept(x.shape, self.p, 16)
        return x * stays.to(x.dtype).mul_(factor)
