"""What several layouts share: rules for whole layers, fused matrices, and the names of non-linearities."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import torch
from torch import Tensor

from gptloom.config.model import ModelConfig
from gptloom.model.layouts.layout import Rule

# transformers' names -> ours. Its tanh forms differ in how they are computed, not in what.
ACTIVATIONS = {
    "gelu": "gelu",
    "gelu_python": "gelu",
    "gelu_new": "gelu_tanh",
    "gelu_pytorch_tanh": "gelu_tanh",
    "gelu_fast": "gelu_tanh",
    "relu": "relu",
}


def spelling(ours: str, table: dict[str, str]) -> str:
    """The first of their names for ``ours``; the first of all where they have none (``Layout.unfit`` then says so)."""
    return next((theirs for theirs, name in table.items() if name == ours), next(iter(table)))


def attention_dropout(config: ModelConfig) -> float:
    """The dropout of attention weights as a number."""
    return config.dropout if config.attention_dropout is None else config.attention_dropout


def layer(theirs: str, ours: str, bias: bool | None = True) -> Iterator[Rule]:
    """A linear layer or a norm under another name."""
    yield Rule(f"{theirs}.weight", (f"{ours}.weight",))
    if bias:
        yield Rule(f"{theirs}.bias", (f"{ours}.bias",))


def conv1d(theirs: str, ours: str) -> Iterator[Rule]:
    """A linear layer whose matrix is stored [in, out]."""
    yield Rule(f"{theirs}.weight", (f"{ours}.weight",), _transpose, _untranspose)
    yield Rule(f"{theirs}.bias", (f"{ours}.bias",))


def fused_conv1d(theirs: str, attention: str) -> Iterator[Rule]:
    """Queries, keys and values one after the other in one layer, whose matrix is stored [in, out]."""
    yield Rule(f"{theirs}.weight", _qkv(attention, "weight"), _fuse_transposed, _split_transposed)
    yield Rule(f"{theirs}.bias", _qkv(attention, "bias"), _fuse, _split)


def fused_by_head(theirs: str, attention: str, n_head: int, bias: bool | None) -> Iterator[Rule]:
    """One layer in which each head's query is followed by its key and its value."""
    for kind in ("weight", "bias") if bias else ("weight",):
        write, read = partial(_fuse_by_head, n_head=n_head), partial(_split_by_head, n_head=n_head)
        yield Rule(f"{theirs}.{kind}", _qkv(attention, kind), write, read)


def _qkv(attention: str, kind: str) -> tuple[str, ...]:
    return tuple(f"{attention}.{part}.{kind}" for part in "qkv")


def _transpose(tensors: list[Tensor]) -> Tensor:
    return tensors[0].T


def _untranspose(tensor: Tensor) -> list[Tensor]:
    return [tensor.T]


def _fuse(tensors: list[Tensor]) -> Tensor:
    return torch.cat(tensors)


def _split(tensor: Tensor) -> list[Tensor]:
    return list(tensor.chunk(3))


def _fuse_transposed(tensors: list[Tensor]) -> Tensor:
    return torch.cat(tensors).T


def _split_transposed(tensor: Tensor) -> list[Tensor]:
    return list(tensor.T.chunk(3))


def _fuse_by_head(tensors: list[Tensor], n_head: int) -> Tensor:
    """Three of [H K, ...] -> [3 H K, ...]."""
    return torch.stack([tensor.unflatten(0, (n_head, -1)) for tensor in tensors], dim=1).flatten(0, 2)


def _split_by_head(tensor: Tensor, n_head: int) -> list[Tensor]:
    """[3 H K, ...] -> three of [H K, ...]."""
    return [part.flatten(0, 1) for part in tensor.unflatten(0, (n_head, 3, -1)).unbind(1)]
