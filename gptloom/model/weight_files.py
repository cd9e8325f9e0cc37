"""Reading the safetensors files of a model folder: what they hold, whether they are whole, one tensor at a time.

Several processes that train together write each its own pieces of the tensors, in the format of
``torch.distributed.checkpoint``'s safetensors storage: files ``shard-...``, whose headers say where in the whole tensor
each piece begins. Here pieces become tensors again; nobody need know how many processes there were.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from gptloom.config.errors import Problem, UserError
from gptloom.model.folder import PICKLES, refuse_pickle
from gptloom.model.weight_writer import DTYPES

WEIGHTS_FILE = "model.safetensors"
INDEX_FILE = "model.safetensors.index.json"
SHARDS = "shard-*-model-*.safetensors"
PLACES, OFFSETS = "DCP_SHARDING_INFO", "saved_offsets"  # torch's names in the header of a shard
MAPPED_BYTES = 256 << 20  # read from one map of a file before it is mapped anew
DTYPE_OF = {name: dtype for dtype, name in DTYPES.items()}


@dataclass(frozen=True)
class Piece:
    """A box of a tensor, ``shape`` large from ``offsets`` on, and the file that has it."""

    file: str
    offsets: tuple[int, ...]
    shape: tuple[int, ...]


class WeightFiles:
    """The tensors of a model folder. Shapes and dtypes are known at once; inside ``with``, ``read`` gives one tensor at a time.

    ``files`` are those of ``folder`` to read, found by their names where None. ``sharded`` is whether they are pieces
    that several processes wrote.

    Raises:
        UserError: no safetensors (pickled weights are refused, with the reason), missing shards, or a damaged file.
    """

    def __init__(self, folder: Path, files: Sequence[str] | None = None) -> None:
        self._folder = folder
        self._pieces: dict[str, list[Piece]] = {}
        self.dtypes: dict[str, torch.dtype] = {}
        self._open: dict[str, Any] = {}
        self._read_bytes: dict[str, int] = {}  # from the map of each open file
        self.sharded = False
        for file in _weight_files(folder) if files is None else files:
            header, places = _read_header(folder / file)
            self.sharded |= places is not None
            for name, entry in header.items():
                shape = tuple(entry["shape"])
                offsets = (0,) * len(shape) if places is None else tuple(places[name][OFFSETS])
                before = [] if places is None else self._pieces.get(name, [])
                self._pieces[name] = [*before, Piece(file, offsets, shape)]
                self.dtypes[name] = DTYPE_OF[entry["dtype"]]
        self.shapes = {name: _whole(pieces) for name, pieces in self._pieces.items()}
        self._check_complete()

    def _check_complete(self) -> None:
        """torch's planner writes no box twice, so that counting elements shows whether one is missing."""
        problems = []
        for name, pieces in self._pieces.items():
            there, needed = sum(math.prod(piece.shape) for piece in pieces), math.prod(self.shapes[name])
            if there != needed:
                what = f"the pieces of tensor {name} have {there:,} numbers, the whole {needed:,}: not the files of one save"
                problems.append(Problem(what, str(self._folder), "fetch or copy the folder again"))
        if problems:
            raise UserError(*problems)

    def __enter__(self) -> WeightFiles:
        for file in dict.fromkeys(piece.file for pieces in self._pieces.values() for piece in pieces):
            self._open_file(file)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for handle in self._open.values():
            handle.__exit__(None, None, None)
        self._open.clear()

    def _open_file(self, file: str) -> None:
        try:
            handle = safe_open(self._folder / file, framework="pt")
        except SafetensorError as error:
            raise UserError(_damaged(self._folder / file, str(error))) from error
        self._open[file] = handle.__enter__()
        self._read_bytes[file] = 0

    def read(self, name: str, offsets: Sequence[int] | None = None, shape: Sequence[int] | None = None) -> Tensor:
        """The stored tensor, or the box of it that is ``shape`` large from ``offsets`` on.

        What lies in one piece is a map of its file: copy it before the file goes.
        """
        pieces = self._pieces[name]
        shape = self.shapes[name] if shape is None else tuple(shape)
        offsets = (0,) * len(shape) if offsets is None else tuple(offsets)
        if len(pieces) == 1:
            return self._map(name, pieces[0])[_box(offsets, shape)]
        box = torch.empty(shape, dtype=self.dtypes[name])
        for piece in pieces:
            here, there = [], []  # what box and piece have in common, counted from the beginning of each
            for wanted, size, begin, length in zip(offsets, shape, piece.offsets, piece.shape, strict=True):
                start = max(wanted, begin)
                end = max(start, min(wanted + size, begin + length))
                here.append(slice(start - wanted, end - wanted))
                there.append(slice(start - begin, end - begin))
            box[tuple(here)] = self._map(name, piece)[tuple(there)]
        return box

    def _map(self, name: str, piece: Piece) -> Tensor:
        tensor: Tensor = self._open[piece.file].get_tensor(name)
        self._read_bytes[piece.file] += tensor.nbytes
        if self._read_bytes[piece.file] > MAPPED_BYTES:
            # What was read of a map counts as this process's memory while the map lives, and it lives as long as the
            # handle or a tensor of it: with a new handle, what callers let go of is gone.
            self._open[piece.file].__exit__(None, None, None)
            self._open_file(piece.file)
        return tensor


def _whole(pieces: Sequence[Piece]) -> tuple[int, ...]:
    """The shape of the smallest tensor that holds them all."""
    ends = [[start + size for start, size in zip(piece.offsets, piece.shape, strict=True)] for piece in pieces]
    return tuple(max(sizes) for sizes in zip(*ends, strict=True))


def _box(offsets: Sequence[int], shape: Sequence[int]) -> tuple[slice, ...]:
    return tuple(slice(start, start + size) for start, size in zip(offsets, shape, strict=True))


Header = dict[str, dict[str, Any]]


def _read_header(path: Path) -> tuple[Header, Header | None]:
    """The header of a safetensors file, tensor name -> {dtype, shape, data_offsets}, checked against the file's size.

    The second is where each piece begins, of a file of pieces. The format: 8 bytes little-endian length n, n bytes of
    JSON, then the tensors' bytes without a gap.

    Raises:
        UserError: not such a file, a number type that is not read, or bytes that are not as the header says.
    """
    size = path.stat().st_size
    with path.open("rb") as file:
        start = file.read(8)
        length = int.from_bytes(start, "little")
        if start == b"version ":
            raise UserError(Problem("a Git LFS pointer, not the weights themselves", str(path), "git lfs pull"))
        if size < 8 or length > size - 8:
            raise UserError(_damaged(path, f"{size:,} bytes hold no whole safetensors header"))
        text = file.read(length)
    try:
        header = json.loads(text)
        metadata = header.pop("__metadata__", {})
        places = json.loads(metadata[PLACES]) if PLACES in metadata else None
        complete = all(
            _are_sizes(entry["shape"]) and _are_sizes(entry["data_offsets"], 2) and isinstance(entry["dtype"], str)
            for entry in header.values()
        )
        if places is not None:
            complete &= all(_are_sizes(places[name][OFFSETS], len(header[name]["shape"])) for name in header)
    except (ValueError, AttributeError, TypeError, LookupError, RecursionError):
        complete = False
    if not complete:
        raise UserError(_damaged(path, "the safetensors header is not readable"))
    end = 8 + length + max((entry["data_offsets"][1] for entry in header.values()), default=0)
    if end != size:
        raise UserError(_damaged(path, f"the file has {size:,} bytes and its header promises {end:,}"))
    _check_ranges(header, path)
    return header, places


def _are_sizes(values: object, length: int | None = None) -> bool:
    """Whether this is a list of whole numbers, none below zero; of ``length``, where that is given."""
    if not isinstance(values, list) or (length is not None and len(values) != length):
        return False
    return all(type(value) is int and value >= 0 for value in values)


def _check_ranges(header: Header, path: Path) -> None:
    """``UserError`` unless each tensor has as many bytes as its shape takes, and begins where the one before ends."""
    end = 0
    for name, entry in sorted(header.items(), key=lambda item: item[1]["data_offsets"]):
        kind, (start, stop) = entry["dtype"], entry["data_offsets"]
        if kind not in DTYPE_OF:
            what = f"tensor {name} is stored as {kind}; gptloom reads {', '.join(DTYPE_OF)}"
            raise UserError(Problem(what, str(path)))
        if start != end:
            what = f"tensor {name} begins at byte {start:,} of the data, and the one before it ends at {end:,}"
            raise UserError(_damaged(path, what))
        end = start + math.prod(entry["shape"]) * DTYPE_OF[kind].itemsize
        if stop != end:
            what = f"tensor {name}, {kind} {entry['shape']}, takes {end - start:,} bytes and has {stop - start:,}"
            raise UserError(_damaged(path, what))


def _damaged(path: Path, what: str) -> Problem:
    return Problem(f"cut short or damaged: {what}", str(path), "fetch or copy the file again")


def _weight_files(folder: Path) -> list[str]:
    if (folder / WEIGHTS_FILE).is_file():
        return [WEIGHTS_FILE]
    index = folder / INDEX_FILE
    shards = sorted(path.name for path in folder.glob(SHARDS))
    if shards and not index.is_file():
        return shards
    if not index.is_file():
        pickles = sorted(path for path in folder.iterdir() if path.suffix in PICKLES)
        if pickles:
            raise refuse_pickle(pickles[0])
        raise UserError(Problem(f"there is no {WEIGHTS_FILE}", str(folder)))
    try:
        named = json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()
        files = sorted({file for file in named if isinstance(file, str)})
        complete = all(isinstance(file, str) for file in named)
    except (ValueError, TypeError, LookupError, AttributeError, RecursionError):
        complete = False
    if not complete:
        raise UserError(Problem("not an index of weight files: weight_map names a file for each tensor", str(index)))
    astray = [file for file in files if Path(file).name != file or not file.endswith(".safetensors")]
    if astray:
        raise UserError(*(Problem(f"{file!r} is no safetensors file of this folder", str(index)) for file in astray))
    missing = [file for file in files if not (folder / file).is_file()]
    if missing:
        raise UserError(*(Problem(f"{file} is missing", str(index), "fetch or copy it again") for file in missing))
    return files
