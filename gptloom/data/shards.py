"""Token shards: files of token ids that are mapped into memory, never loaded.

A shard is a header of 256 bytes and the ids after it, all little-endian:

    bytes 0-7    magic "gptloom\\0"
    bytes 8-11   uint32  format version, 1
    bytes 12-15  uint32  bytes per id: 2 or 4
    bytes 16-23  uint64  number of ids
    bytes 24-31  uint64  UTF-8 bytes of the text they came from (all ones: unknown)
    bytes 32-63  sha256 of the tokenizer (zeros: unknown)
    bytes 64-255 zeros

The ``.bin`` files of llm.c (256 int32 of header: magic, version, count) and nanoGPT (bare uint16 ids) are read as well.
"""

from __future__ import annotations

import contextlib
import os
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

import numpy as np
from numpy.typing import NDArray

from gptloom.config.errors import Problem, UserError

MAGIC = b"gptloom\0"
VERSION = 1
HEADER_BYTES = 256
_HEADER = struct.Struct("<8sIIQQ32s")
_UNKNOWN = 2**64 - 1
_LLMC_HEADER_BYTES = 1024
_LLMC_ID_BYTES = {(20240520, 1): 2, (20240801, 7): 4}  # (magic, version): GPT-2 ids as uint16, Llama 3 ids as uint32
_LLMC_MAGICS = {20240520, 20240801, 20240522}  # the last one: multiple-choice tasks, not text
# How files of torch.save and pickle begin. Many are named .bin, and without a header everything looks like nanoGPT's ids.
_PICKLE_STARTS = (b"PK\x03\x04", b"\x80\x02\x8a\x0a", b"\x80\x04\x95", b"\x80\x05\x95")


def id_dtype(vocab_size: int) -> np.dtype:
    """The narrowest type that holds every id of a vocabulary: uint16 up to 65,536 ids, else uint32."""
    return np.dtype("<u2" if vocab_size <= 65_536 else "<u4")


class ShardWriter:
    """Writes one shard piece by piece; the file appears under its name, complete, when the ``with`` block ends well."""

    def __init__(self, path: Path, dtype: np.dtype, tokenizer_hash: str | None = None) -> None:
        self.path = path
        self.dtype = np.dtype(dtype).newbyteorder("<")
        assert self.dtype in (np.dtype("<u2"), np.dtype("<u4")), f"ids are uint16 or uint32, not {dtype}"
        self.tokenizer_hash = tokenizer_hash
        self.n_tokens = 0
        self.n_bytes: int | None = 0
        self._temporary = path.with_name(path.name + ".part")
        path.parent.mkdir(parents=True, exist_ok=True)
        self._file = self._temporary.open("wb")
        self._file.write(bytes(HEADER_BYTES))

    def append(self, ids: NDArray[np.integer], n_bytes: int | None) -> None:
        """Adds ids (they must fit the type) and the UTF-8 bytes of the text they stand for, ``None`` where unknown."""
        self._file.write(np.ascontiguousarray(ids, dtype=self.dtype).data)
        self.n_tokens += len(ids)
        self.n_bytes = None if n_bytes is None or self.n_bytes is None else self.n_bytes + n_bytes

    def close(self) -> None:
        """Writes the header, syncs, and gives the file its name."""
        digest = bytes.fromhex(self.tokenizer_hash) if self.tokenizer_hash else bytes(32)
        n_bytes = _UNKNOWN if self.n_bytes is None else self.n_bytes
        self._file.seek(0)
        self._file.write(_HEADER.pack(MAGIC, VERSION, self.dtype.itemsize, self.n_tokens, n_bytes, digest))
        self._file.flush()
        os.fsync(self._file.fileno())
        self._file.close()
        self._temporary.replace(self.path)

    def discard(self) -> None:
        """Gives up: what was written is removed and nothing appears under the name."""
        self._file.close()
        with contextlib.suppress(FileNotFoundError):
            self._temporary.unlink()

    def __enter__(self) -> ShardWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self.close()
        else:
            self.discard()


@dataclass(frozen=True)
class Shard:
    """What the header of one file says (``None``: it does not say)."""

    path: Path
    offset: int  # bytes before the first id
    dtype: np.dtype
    n_tokens: int
    n_bytes: int | None
    tokenizer_hash: str | None

    def map(self) -> NDArray[np.integer]:
        """The ids [n_tokens], mapped read-only."""
        if self.n_tokens == 0:
            return np.empty(0, dtype=self.dtype)
        return np.memmap(self.path, dtype=self.dtype, mode="r", offset=self.offset, shape=(self.n_tokens,))


def read_header(path: Path) -> Shard:
    """Recognises a shard of gptloom, llm.c or nanoGPT and checks its size; ``UserError`` where they do not agree."""
    size = path.stat().st_size
    with path.open("rb") as file:
        head = file.read(HEADER_BYTES)
    if head.startswith(MAGIC):
        shard = _own_header(path, head)
    elif len(head) >= 12 and int.from_bytes(head[:4], "little") in _LLMC_MAGICS:
        shard = _llmc_header(path, head)
    elif head.startswith(_PICKLE_STARTS):
        what = "model weights or a pickle, not token ids (a pickle can run any program, so gptloom never opens one)"
        raise UserError(Problem(what, where=str(path), mend="give text or token shards to --data"))
    elif size % 2 or size == 0:
        raise UserError(
            Problem(
                f"not token ids: no known header, and {size} bytes are not a whole number of 16-bit ids",
                where=str(path),
                mend="give text to --data, or shards written by `gptloom data build`, llm.c or nanoGPT",
            )
        )
    else:
        shard = Shard(path, 0, np.dtype("<u2"), size // 2, None, None)
    expected = shard.offset + shard.n_tokens * shard.dtype.itemsize
    if size != expected:
        raise UserError(
            Problem(
                f"{size:,} bytes long, but its header promises {shard.n_tokens:,} ids, that is {expected:,} bytes",
                where=str(path),
                mend="copy or build the file again; it was cut off or changed",
            )
        )
    return shard


def _own_header(path: Path, head: bytes) -> Shard:
    if len(head) < HEADER_BYTES:
        raise UserError(
            Problem(
                f"{len(head)} bytes long, but the header alone has {HEADER_BYTES} bytes",
                where=str(path),
                mend="copy or build the file again; it was cut off",
            )
        )
    _, version, id_bytes, n_tokens, n_bytes, digest = _HEADER.unpack_from(head)
    if version != VERSION or id_bytes not in (2, 4):
        raise UserError(
            Problem(
                f"shard format {version} with {id_bytes} bytes per id; this gptloom reads format {VERSION} with 2 or 4",
                where=str(path),
                mend="update gptloom, or build the shards again with `gptloom data build`",
            )
        )
    known_hash = digest.hex() if any(digest) else None
    dtype = np.dtype(f"<u{id_bytes}")
    return Shard(path, HEADER_BYTES, dtype, n_tokens, None if n_bytes == _UNKNOWN else n_bytes, known_hash)


def _llmc_header(path: Path, head: bytes) -> Shard:
    magic, version, n_tokens = struct.unpack_from("<3i", head)
    id_bytes = _LLMC_ID_BYTES.get((magic, version))
    if id_bytes is None:
        known = ", ".join(f"{m} version {v}" for m, v in _LLMC_ID_BYTES)
        raise UserError(
            Problem(
                f"an llm.c file with magic {magic} version {version}; token ids are {known}",
                where=str(path),
                mend="write the shard again with llm.c's dev/data scripts",
            )
        )
    return Shard(path, _LLMC_HEADER_BYTES, np.dtype(f"<u{id_bytes}"), n_tokens, None, None)


class TokenShards:
    """One long sequence of token ids in one or several files."""

    def __init__(self, shards: Sequence[Shard]) -> None:
        if not shards:
            raise ValueError("TokenShards needs at least one shard")
        self.shards = list(shards)
        self.tokenizer_hash = _common_hash(self.shards)
        self.dtype = max((shard.dtype for shard in self.shards), key=lambda dtype: dtype.itemsize)
        self.n_tokens = sum(shard.n_tokens for shard in self.shards)
        sizes = [shard.n_bytes for shard in self.shards if shard.n_bytes is not None]
        self.n_bytes = sum(sizes) if len(sizes) == len(self.shards) else None
        self._ids = [shard.map() for shard in self.shards]
        self._starts = np.cumsum([0] + [shard.n_tokens for shard in self.shards])

    def read(self, start: int, length: int) -> NDArray[np.int64]:
        """Ids ``start`` to ``start + length`` [length], across file borders."""
        if start < 0 or length < 0 or start + length > self.n_tokens:
            raise ValueError(f"ids {start}..{start + length} asked of {self.n_tokens}")
        result = np.empty(length, dtype=np.int64)
        done = 0
        index = int(np.searchsorted(self._starts, start, side="right")) - 1
        while done < length:
            ids, first = self._ids[index], start + done - int(self._starts[index])
            piece = ids[first : first + length - done]
            result[done : done + len(piece)] = piece
            done += len(piece)
            index += 1
        return result

    def gather(self, starts: NDArray[np.int64], length: int) -> NDArray[np.int64]:
        """Rows of ``length`` ids beginning at each of ``starts`` [rows, length]: one indexing operation per file."""
        rows = np.empty((len(starts), length), dtype=np.int64)
        first = np.searchsorted(self._starts, starts, side="right") - 1
        last = np.searchsorted(self._starts, starts + length - 1, side="right") - 1
        for index in np.unique(first):
            inside = (first == index) & (last == index)
            if inside.any():
                windows = np.lib.stride_tricks.sliding_window_view(self._ids[index], length)
                rows[inside] = windows[starts[inside] - self._starts[index]]
        for row in np.flatnonzero(first != last):
            rows[row] = self.read(int(starts[row]), length)
        return rows

    def largest_id(self) -> int:
        """The largest id in all files (reads them once), for shards whose header names no tokenizer; -1 when empty."""
        block = 1 << 24
        blocks = (ids[start : start + block] for ids in self._ids for start in range(0, len(ids), block))
        return max((int(ids.max()) for ids in blocks), default=-1)


def _common_hash(shards: Sequence[Shard]) -> str | None:
    by_hash = {shard.tokenizer_hash: shard.path for shard in shards}
    if len(by_hash) > 1:
        found = "; ".join(f"{path.name}: {(known or 'unknown')[:12]}" for known, path in by_hash.items())
        raise UserError(
            Problem(
                f"shards of different tokenizers cannot be mixed ({found})",
                where=str(shards[0].path.parent),
                mend="build all of them with one tokenizer: gptloom data build --tokenizer TOKENIZER",
            )
        )
    return shards[0].tokenizer_hash


def open_shards(path: Path | Sequence[Path]) -> TokenShards:
    """Opens a folder of ``.bin`` files (sorted by name), one file, or a list of either, as one sequence of ids.

    Raises ``UserError`` with every problem at once: missing, empty, truncated, unknown version, mixed tokenizers.
    """
    files: list[Path] = []
    problems: list[Problem] = []
    for one in [path] if isinstance(path, Path) else path:
        found = sorted(one.glob("*.bin")) if one.is_dir() else [one]
        if not found:
            mend = f"gptloom data build --data TEXT --tokenizer TOKENIZER --out {one}"
            problems.append(Problem("no .bin files in this folder", where=str(one), mend=mend))
        elif not found[0].exists():
            problems.append(Problem("no such file or folder", where=str(one), mend="check the path of the shards"))
        else:
            files += found
    shards: list[Shard] = []
    for file in files:
        try:
            shards.append(read_header(file))
        except UserError as error:
            problems += error.problems
    if problems:
        raise UserError(*problems)
    return TokenShards(shards)
