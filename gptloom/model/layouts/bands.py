"""Which layers see only a window of the last tokens: between a list with an entry a layer and a ``ModelConfig``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from gptloom.config.model import ModelConfig


def read_bands(is_banded: Sequence[bool], window: int | None) -> dict[str, Any]:
    """``window`` and ``banded`` of a ``ModelConfig``, in the shortest form; ``is_banded`` has an entry a layer."""
    layers = tuple(index for index, banded in enumerate(is_banded) if banded)
    if not layers:
        return {"window": None, "banded": "none"}
    if len(layers) == len(is_banded):
        return {"window": window, "banded": "all"}
    alternate = layers == tuple(range(1, len(is_banded), 2))
    return {"window": window, "banded": "alternate" if alternate else layers}


def banded_layers(config: ModelConfig) -> list[bool]:
    """Whether each layer is limited to the window."""
    return [config.window_of(layer) is not None for layer in range(config.n_layer)]
