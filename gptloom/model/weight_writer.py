"""Writing a safetensors file from front to back: one tensor in memory at a time, the checksum taken on the way.

The bytes are those of the safetensors library, which wants all tensors of a file at once; a checksum would then cost
another reading. Here the way to the disk goes on in a thread while the next blocks are copied to the system's cache.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import Tensor

from gptloom.model.checksum import BLOCK, running_sum

SYNC_EVERY = 64 << 20  # bytes after which the disk is made to take what the cache holds
DTYPES = {  # in the order in which the library stores them, so that every tensor is aligned
    torch.int64: "I64",
    torch.float64: "F64",
    torch.float32: "F32",
    torch.int32: "I32",
    torch.bfloat16: "BF16",
    torch.float16: "F16",
    torch.int16: "I16",
    torch.int8: "I8",
    torch.uint8: "U8",
    torch.bool: "BOOL",
}


def write_tensors(
    path: Path, empty: Mapping[str, Tensor], fetch: Callable[[str], Tensor], metadata: Mapping[str, str]
) -> str:
    """Writes a safetensors file, synced, and returns its checksum in hex.

    ``empty`` has shape and dtype of every tensor (on the meta device, or the tensors themselves), ``fetch`` gives them
    one after another, on any device. OSError as the system raises it, on a full disk for one.
    """
    order = list(DTYPES)
    names = sorted(empty, key=lambda name: (order.index(empty[name].dtype), name.encode()))
    header: dict[str, object] = {"__metadata__": dict(metadata)} if metadata else {}
    end = 0
    for name in names:
        start, end = end, end + empty[name].numel() * empty[name].element_size()
        kind = DTYPES[empty[name].dtype]
        header[name] = {"dtype": kind, "shape": list(empty[name].shape), "data_offsets": [start, end]}
    text = json.dumps(header, ensure_ascii=False, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with _hashed_file(path) as file:
        file.write(memoryview(len(text).to_bytes(8, "little") + text))
        for name in names:
            tensor = fetch(name).detach()
            if tensor.shape != empty[name].shape or tensor.dtype != empty[name].dtype:
                raise ValueError(f"{name} is {tensor.dtype} {list(tensor.shape)}, not as announced")
            flat = tensor.cpu().contiguous().reshape(-1)
            file.write(flat.view(torch.uint8).numpy().data)
    return file.checksum


class _HashedFile:
    """Takes bytes; when closed by ``_hashed_file`` they are on the disk and ``checksum`` is theirs."""

    def __init__(self, handle: int, pool: ThreadPoolExecutor) -> None:
        self.checksum = ""
        self._handle, self._pool = handle, pool
        self._digest = running_sum()
        self._unsynced = 0
        self._syncing: Future[None] | None = None

    def write(self, content: memoryview) -> None:
        for start in range(0, len(content), BLOCK):
            block = content[start : start + BLOCK]
            self._digest.update(block)
            self._write(block)
            self._unsynced += len(block)
            if self._unsynced >= SYNC_EVERY and (self._syncing is None or self._syncing.done()):
                self._start_sync()

    def _write(self, block: memoryview) -> None:
        while block:
            block = block[os.write(self._handle, block) :]

    def _start_sync(self) -> None:
        if self._syncing is not None:
            self._syncing.result()  # an error is reported once: a later sync would not know of it
        self._unsynced = 0
        self._syncing = self._pool.submit(getattr(os, "fdatasync", os.fsync), self._handle)

    def finish(self) -> None:
        if self._syncing is not None:
            self._syncing.result()
        os.fsync(self._handle)
        self.checksum = self._digest.hexdigest()


@contextmanager
def _hashed_file(path: Path) -> Iterator[_HashedFile]:
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | getattr(os, "O_BINARY", 0), 0o666)
    try:
        with ThreadPoolExecutor(1) as pool:
            file = _HashedFile(handle, pool)
            yield file
            file.finish()
    finally:
        os.close(handle)
