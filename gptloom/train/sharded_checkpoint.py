"""What each of several processes writes of tensors that are spread over them, and how any process gets its part back.

The format is that of ``torch.distributed.checkpoint``'s safetensors storage, and its planner decides who writes what.
Its two other steps are done here in our own way: plans travel as JSON through the ``World`` instead of as pickles, and
a file is streamed to the disk with its checksum instead of being put together in memory.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.distributed.checkpoint.default_planner import DefaultSavePlanner
from torch.distributed.checkpoint.metadata import ChunkStorageMetadata, MetadataIndex, TensorProperties
from torch.distributed.checkpoint.planner import SavePlan, TensorWriteData, WriteItem, WriteItemType
from torch.distributed.tensor import DTensor
from torch.distributed.tensor._utils import compute_local_shape_and_global_offset

from gptloom.model.dtypes import dtype_name
from gptloom.model.weight_files import OFFSETS, PLACES
from gptloom.model.weight_writer import write_tensors
from gptloom.train.parallel import local
from gptloom.train.world import World

VERSION = {"DCP_VERSION": "1.0", "format": "pt"}  # what torch writes beside the places of the pieces


@dataclass(frozen=True)
class Piece:
    """What one process holds of a tensor; it begins at ``offsets`` of the whole."""

    tensor: Tensor
    offsets: tuple[int, ...]


def share_out(world: World, tensors: Mapping[str, Tensor]) -> list[str]:
    """The names of the tensors of which this process is to write its piece. All processes ask together.

    Every number is written exactly once: of equal pieces (whole copies, replicas of shards) the process writes one
    that has the least to write so far. ``tensors`` has the same names everywhere.
    """
    planner = DefaultSavePlanner(flatten_state_dict=False, flatten_sharded_tensors=False)
    planner.set_up_planner(dict(tensors), is_coordinator=world.first)
    plans = [_plan(document) for document in world.gather(_as_json(planner.create_local_plan()))]
    shared, _ = planner.create_global_plan(plans)  # ValueError when pieces overlap or leave gaps
    return [item.index.fqn for item in shared[world.rank].items]


def _as_json(plan: SavePlan) -> list[list[Any]]:
    """A process with no part of a tensor, because there are fewer rows than processes, has nothing to write of it."""
    return [
        [
            item.index.fqn,
            list(item.tensor_data.chunk.offsets),
            list(item.tensor_data.chunk.sizes),
            list(item.tensor_data.size),
            dtype_name(item.tensor_data.properties.dtype),
        ]
        for item in plan.items
        if item.tensor_data is not None and item.tensor_data.chunk.sizes.numel() > 0
    ]


def _plan(document: Iterable[Sequence[Any]]) -> SavePlan:
    items = []
    for name, offsets, sizes, size, dtype in document:
        chunk = ChunkStorageMetadata(torch.Size(offsets), torch.Size(sizes))
        data = TensorWriteData(chunk, TensorProperties(getattr(torch, dtype)), torch.Size(size))
        items.append(WriteItem(MetadataIndex(name, offsets), WriteItemType.SHARD, tensor_data=data))
    return SavePlan(items)


def pieces_of(tensors: Mapping[str, Tensor], names: Iterable[str]) -> dict[str, Piece]:
    """What this process holds of the tensors called ``names``, sharing their memory."""
    return {name: Piece(local(tensors[name].detach()), place_of(tensors[name])[0]) for name in names}


def place_of(tensor: Tensor) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Where the part of ``tensor`` in this process begins, and its shape."""
    if not isinstance(tensor, DTensor):
        return (0,) * tensor.ndim, tuple(tensor.shape)
    shape, offsets = compute_local_shape_and_global_offset(tensor.shape, tensor.device_mesh, tensor.placements)
    return tuple(offsets), tuple(shape)


def write_pieces(folder: Path, rank: int, pieces: Mapping[str, Piece]) -> dict[str, str]:
    """Writes the file of process ``rank`` into ``folder``, none where it has no pieces; file -> checksum."""
    if not pieces:
        return {}
    name = f"shard-{rank + 1:05}-model-00001-of-00001.safetensors"
    places = json.dumps({name: {OFFSETS: list(piece.offsets)} for name, piece in pieces.items()})
    tensors = {name: piece.tensor for name, piece in pieces.items()}
    return {name: write_tensors(folder / name, tensors, tensors.__getitem__, {PLACES: places, **VERSION})}


@torch.no_grad()
def fill(tensor: Tensor, read: Callable[[Sequence[int], Sequence[int]], Tensor]) -> None:
    """Puts stored values into what this process holds of ``tensor``; ``read(offsets, shape)`` gives a box of the whole."""
    offsets, shape = place_of(tensor)
    part = local(tensor.detach())
    if part.numel() > 0:
        part.copy_(read(offsets, shape))
