"""Reading the safetensors files of a model folder: what they hold, whether they are whole, one tensor at a time."""

from __future__ import annotations

import json
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any

from safetensors import safe_open
from torch import Tensor

from gptloom.config.errors import Problem, UserError
from gptloom.model.folder import PICKLES, refuse_pickle

WEIGHTS_FILE = "model.safetensors"
INDEX_FILE = "model.safetensors.index.json"


class WeightFiles:
    """The tensors of a model folder. Shapes are known at once; inside ``with``, ``read`` maps one tensor at a time.

    Raises:
        UserError: no safetensors (pickled weights are refused, with the reason), missing shards, or a damaged file.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._file_of: dict[str, str] = {}  # tensor name -> file name
        self.shapes: dict[str, tuple[int, ...]] = {}
        self._open: dict[str, Any] = {}
        self._stack = ExitStack()
        for file in _weight_files(folder):
            for name, entry in read_header(folder / file).items():
                self._file_of[name] = file
                self.shapes[name] = tuple(entry["shape"])

    def __enter__(self) -> WeightFiles:
        for file in dict.fromkeys(self._file_of.values()):
            self._open[file] = self._stack.enter_context(safe_open(self._folder / file, framework="pt"))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._open.clear()
        self._stack.close()

    def read(self, name: str) -> Tensor:
        """The stored tensor, as a map of its file: copy it before the file goes."""
        tensor: Tensor = self._open[self._file_of[name]].get_tensor(name)
        return tensor


def read_header(path: Path) -> dict[str, dict[str, Any]]:
    """The header of a safetensors file, tensor name -> {dtype, shape, data_offsets}, checked against the file's size.

    The format: 8 bytes little-endian length n, n bytes of JSON, then the tensors' bytes without a gap.

    Raises:
        UserError: not such a file, or shorter or longer than its header says.
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
        header.pop("__metadata__", None)
        end = 8 + length + max((entry["data_offsets"][1] for entry in header.values()), default=0)
        complete = all(isinstance(entry["shape"], list) for entry in header.values())
    except (ValueError, AttributeError, TypeError, LookupError):
        complete = False
    if not complete:
        raise UserError(_damaged(path, "the safetensors header is not readable"))
    if end != size:
        raise UserError(_damaged(path, f"the file has {size:,} bytes and its header promises {end:,}"))
    tensors: dict[str, dict[str, Any]] = header
    return tensors


def _damaged(path: Path, what: str) -> Problem:
    return Problem(f"cut short or damaged: {what}", str(path), "fetch or copy the file again")


def _weight_files(folder: Path) -> list[str]:
    if (folder / WEIGHTS_FILE).is_file():
        return [WEIGHTS_FILE]
    index = folder / INDEX_FILE
    if not index.is_file():
        pickles = sorted(path for path in folder.iterdir() if path.suffix in PICKLES)
        if pickles:
            raise refuse_pickle(pickles[0])
        raise UserError(Problem(f"there is no {WEIGHTS_FILE}", str(folder)))
    try:
        files = sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
    except (ValueError, TypeError, LookupError, AttributeError):
        raise UserError(Problem("not an index of weight files", str(index))) from None
    astray = [file for file in files if Path(file).name != file or not file.endswith(".safetensors")]
    if astray:
        raise UserError(*(Problem(f"{file!r} is no safetensors file of this folder", str(index)) for file in astray))
    missing = [file for file in files if not (folder / file).is_file()]
    if missing:
        raise UserError(*(Problem(f"{file} is missing", str(index), "fetch or copy it again") for file in missing))
    return files
