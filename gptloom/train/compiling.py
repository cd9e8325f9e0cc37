"""torch.compile per block: all blocks share one compiled code object; without a compiler everything runs eagerly."""

from __future__ import annotations

import torch
from torch import nn

from gptloom.observe.machine import find_compiler as compiler


def can_compile(device: torch.device) -> bool:
    """Whether torch.compile finds what it needs to make code for ``device``."""
    return device.type == "cuda" or compiler() is not None


def compile_blocks(blocks: nn.ModuleList, *, varying: bool = False) -> None:
    """Compiles each block, for static shapes or for batches of ``varying`` ones, each of which would be another graph.

    Nothing happens until the first forward pass, which may raise.
    """
    for block in blocks:
        block.compile(dynamic=varying)


def uncompile(blocks: nn.ModuleList) -> None:
    """Back to eager."""
    for block in blocks:
        block._compiled_call_impl = None
