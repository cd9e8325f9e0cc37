"""A GGUF file on disk: written front to back with one tensor in memory, and read back under our names.

The header and the kinds of numbers are the business of the package ``gguf``, which is llama.cpp's own.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import torch
from gguf import GGMLQuantizationType as Kind
from torch import Tensor

from gptloom.config.model import ModelConfig
from gptloom.interop.export import gguf_layout
from gptloom.interop.export.gguf_tokenizer import Vocabulary
from gptloom.model.layouts.layout import Rule

KINDS = {"f32": Kind.F32, "f16": Kind.F16, "bf16": Kind.BF16, "q8_0": Kind.Q8_0}
FILE_TYPES = {
    "f32": gguf.LlamaFileType.ALL_F32,
    "f16": gguf.LlamaFileType.MOSTLY_F16,
    "bf16": gguf.LlamaFileType.MOSTLY_BF16,
    "q8_0": gguf.LlamaFileType.MOSTLY_Q8_0,
}
BLOCK = 32  # numbers that share a scale in q8_0
ADDED_TO_ACTIVATIONS = ("position_embd.weight", "token_types.weight")  # llama.cpp adds them as they are: fp32 only
PREFIX = "tokenizer.ggml."


def kind_of(name: str, shape: tuple[int, ...], dtype: str) -> Kind:
    """How the tensor ``name`` of the file is stored in a ``dtype`` file: matrices so, all else in fp32.

    A matrix whose rows are no whole number of q8_0's blocks is stored as f16, as llama.cpp's own quantizer has it.
    """
    if len(shape) < 2 or name in ADDED_TO_ACTIVATIONS or name == gguf_layout.ROPE_FACTORS:
        return Kind.F32
    return Kind.F16 if dtype == "q8_0" and shape[-1] % BLOCK else KINDS[dtype]


def encode(tensor: Tensor, kind: Kind) -> np.ndarray[Any, Any]:
    """The numbers of ``tensor`` as they are stored, a contiguous array whose bytes are the file's."""
    if kind == Kind.BF16:
        return tensor.to(torch.bfloat16).contiguous().view(torch.uint8).numpy()
    if kind == Kind.F16:
        return tensor.to(torch.float16).contiguous().numpy()
    plain = tensor.to(torch.float32).contiguous().numpy()
    return plain if kind == Kind.F32 else np.ascontiguousarray(gguf.quantize(plain, kind))


def decode(stored: np.ndarray[Any, Any], kind: Kind) -> Tensor:
    """The way back, float32."""
    return torch.from_numpy(np.array(gguf.dequantize(stored, kind), dtype=np.float32))


def rounded(tensor: Tensor, kind: Kind) -> Tensor:
    """``tensor`` through ``kind`` and back."""
    return tensor.float() if kind == Kind.F32 else decode(encode(tensor, kind), kind)


# ---- out ---------------------------------------------------------------------------------------------------------------


def write(
    path: Path,
    config: ModelConfig,
    dtype: str,
    shape_of: Callable[[str], tuple[int, ...]],
    fetch: Callable[[str], Tensor],
    vocabulary: Vocabulary,
    general: Mapping[str, str],
) -> None:
    """Writes the file whole, one tensor in memory at a time.

    ``shape_of`` and ``fetch`` take our names; ``general`` are the fields ``general.*`` and others by their full names.
    OSError as the system raises it, on a full disk for one.
    """
    writer = gguf.GGUFWriter(path, gguf_layout.ARCHITECTURES[config.family].name)
    for name, text in general.items():
        writer.add_string(name, text)
    writer.add_file_type(FILE_TYPES[dtype])
    writer.add_quantization_version(gguf.GGML_QUANT_VERSION)
    for name, value in gguf_layout.metadata(config).items():
        _add(writer, f"{writer.arch}.{name}", value)
    if config.segments:
        writer.add_token_type_count(config.segments)
    _add_vocabulary(writer, vocabulary)
    tensors = list(_tensors(config, fetch, shape_of))
    for name, shape, _ in tensors:
        kind = kind_of(name, shape, dtype)
        per_block, n_bytes = gguf.GGML_QUANT_SIZES[kind]
        size = int(np.prod(shape, dtype=np.int64)) // per_block * n_bytes
        writer.add_tensor_info(name, shape, np.dtype(np.float32), size, raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    assert writer.fout is not None
    [file] = writer.fout
    try:
        writer.write_padding(file, file.tell())
        for name, shape, make in tensors:
            # Not by numpy's tofile, whose error does not say that the disk is full.
            writer.write_padding(file, file.write(encode(make(), kind_of(name, shape, dtype)).data.cast("B")))
        file.flush()
        os.fsync(file.fileno())
    finally:
        writer.close()


def _tensors(
    config: ModelConfig, fetch: Callable[[str], Tensor], shape_of: Callable[[str], tuple[int, ...]]
) -> Iterator[tuple[str, tuple[int, ...], Callable[[], Tensor]]]:
    """(name in the file, shape, what makes it), in the order of the file."""
    for rule in gguf_layout.rules(config):
        first, *rest = (shape_of(name) for name in rule.ours)
        yield rule.theirs, (first[0] + sum(shape[0] for shape in rest), *first[1:]), _maker(rule, fetch)
    factors = gguf_layout.rope_factors(config)
    if factors is not None:
        made = factors
        yield gguf_layout.ROPE_FACTORS, tuple(made.shape), lambda: made


def _maker(rule: Rule, fetch: Callable[[str], Tensor]) -> Callable[[], Tensor]:
    return lambda: rule.write([fetch(name).detach().cpu() for name in rule.ours])


def _add(writer: gguf.GGUFWriter, name: str, value: int | float | bool | str) -> None:
    if isinstance(value, bool):
        writer.add_bool(name, value)
    elif isinstance(value, int):
        writer.add_uint32(name, value)
    elif isinstance(value, float):
        writer.add_float32(name, value)
    else:
        writer.add_string(name, value)


def _add_vocabulary(writer: gguf.GGUFWriter, vocabulary: Vocabulary) -> None:
    writer.add_tokenizer_model(vocabulary.model)
    writer.add_tokenizer_pre(vocabulary.pre)
    writer.add_token_list(vocabulary.tokens)
    writer.add_token_types(vocabulary.types)
    writer.add_token_merges(vocabulary.merges)
    for name, token_id in vocabulary.ids.items():
        writer.add_uint32(f"{PREFIX}{name}_token_id", token_id)
    for name, value in vocabulary.flags.items():
        writer.add_bool(f"{PREFIX}{name}", value)


# ---- back --------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class ReadBack:
    """A file as it stands on the disk: what it says the model is, its vocabulary, and its tensors by our names."""

    config: ModelConfig
    vocabulary: Vocabulary
    fields: Mapping[str, Any]
    fetch: Callable[[str], Tensor]


@contextmanager
def read(path: Path, like: ModelConfig) -> Iterator[ReadBack]:
    """Opens a file that ``write`` wrote; ``like`` says what no GGUF file does (see ``gguf_layout.config_of``).

    Raises:
        ValueError: tensors are missing or left over.
    """
    reader = gguf.GGUFReader(path)
    fields = {name: field.contents() for name, field in reader.fields.items()}
    tensors = {tensor.name: tensor for tensor in reader.tensors}
    shapes = {name: tuple(int(size) for size in reversed(tensor.shape)) for name, tensor in tensors.items()}
    name = fields["general.architecture"]
    own = {key.removeprefix(f"{name}."): value for key, value in fields.items() if key.startswith(f"{name}.")}
    config = gguf_layout.config_of(name, own, shapes, like)
    places = {ours: (rule, index) for rule in gguf_layout.rules(config) for index, ours in enumerate(rule.ours)}
    stored = {rule.theirs for rule, _ in places.values()}
    if stored ^ (set(tensors) - {gguf_layout.ROPE_FACTORS}):
        raise ValueError(f"file and metadata disagree about {sorted(stored ^ set(tensors))}")

    def fetch(ours: str) -> Tensor:
        rule, index = places[ours]
        found = tensors[rule.theirs]
        return rule.read(decode(found.data, found.tensor_type).reshape(shapes[rule.theirs]))[index]

    yield ReadBack(config, _vocabulary(fields), fields, fetch)


def _vocabulary(fields: Mapping[str, Any]) -> Vocabulary:
    own = {name.removeprefix(PREFIX): value for name, value in fields.items() if name.startswith(PREFIX)}
    return Vocabulary(
        own["model"],
        own["pre"],
        own["tokens"],
        own["token_type"],
        own.get("merges", []),
        {name.removesuffix("_token_id"): value for name, value in own.items() if name.endswith("_token_id")},
        {name: value for name, value in own.items() if isinstance(value, bool)},
    )
