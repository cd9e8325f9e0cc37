"""The files that are written here hold the bytes that the safetensors library would write."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
import torch
import xxhash
from safetensors.torch import save
from torch import Tensor

from gptloom.config.errors import UserError
from gptloom.model import weight_writer
from gptloom.model.weight_files import WeightFiles
from gptloom.model.weight_writer import DTYPES, write_tensors

TENSORS: dict[str, Tensor] = {
    **{f"of {kind}": torch.arange(7).to(dtype) for dtype, kind in DTYPES.items()},
    "matrix": torch.randn(30, 40),
    "transposed": torch.randn(4, 5).T,
    "number": torch.tensor(2.5),
    "nothing": torch.zeros(0, 3),
    'quoted "é"\n': torch.ones(1),
}


def contiguous() -> dict[str, Tensor]:
    return {name: tensor.contiguous() for name, tensor in TENSORS.items()}


@pytest.mark.parametrize("metadata", [{"format": "pt"}, {}])
@pytest.mark.parametrize("block", [64, 8 << 20])
def test_bytes_and_checksum(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, metadata: dict, block: int) -> None:
    monkeypatch.setattr(weight_writer, "BLOCK", block)
    monkeypatch.setattr(weight_writer, "SYNC_EVERY", 500)
    digest = write_tensors(tmp_path / "file", TENSORS, TENSORS.__getitem__, metadata)
    content = (tmp_path / "file").read_bytes()
    assert content == save(contiguous(), metadata=metadata or None)
    assert digest == xxhash.xxh3_128(content).hexdigest()


def test_a_system_that_takes_a_few_bytes_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write = os.write
    monkeypatch.setattr(os, "write", lambda handle, content: write(handle, content[:1000]))
    write_tensors(tmp_path / "file", TENSORS, TENSORS.__getitem__, {"format": "pt"})
    assert (tmp_path / "file").read_bytes() == save(contiguous(), metadata={"format": "pt"})


def test_a_sync_that_fails_in_passing_is_not_forgotten(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Linux tells of it once: the sync at the end would say that all is well."""
    calls = []

    def sync(handle: int) -> None:
        calls.append(handle)
        if len(calls) == 1:
            raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", sync)
    monkeypatch.setattr(os, "fdatasync", sync, raising=False)
    monkeypatch.setattr(weight_writer, "SYNC_EVERY", 100)
    with pytest.raises(OSError, match="No space left"):
        write_tensors(tmp_path / "file", TENSORS, TENSORS.__getitem__, {})


def test_tensors_must_be_as_announced(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"a is torch\.float32"):
        write_tensors(tmp_path / "file", {"a": torch.empty(3, 2)}, lambda name: torch.zeros(3), {})


def test_numbers_of_a_kind_that_nobody_knows_are_refused(tmp_path: Path) -> None:
    header = json.dumps({"a": {"dtype": "F8_E4M3", "shape": [4], "data_offsets": [0, 4]}}).encode()
    (tmp_path / "model.safetensors").write_bytes(len(header).to_bytes(8, "little") + header + b"1234")
    with pytest.raises(UserError, match="a is stored as F8_E4M3"):
        WeightFiles(tmp_path)
