"""The model folder: a Hugging Face layout on disk plus ``gptloom.json``, written whole, read without double memory.

Nothing here unpickles: weights are safetensors, everything else is JSON.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors.torch import save_file
from torch import Tensor

import gptloom
from gptloom.config.errors import Problem, UserError
from gptloom.config.model import ModelConfig
from gptloom.model.folder import CONFIG_FILE, read_json, replaced_folder, write_json
from gptloom.model.layouts import layout_for, layout_of
from gptloom.model.layouts.layout import Layout
from gptloom.model.transformer import Transformer
from gptloom.model.weight_files import INDEX_FILE, WEIGHTS_FILE, WeightFiles

if TYPE_CHECKING:
    from gptloom.tokenizer.tokenizer import Tokenizer

GENERATION_FILE = "generation_config.json"
LINEAGE_FILE = "gptloom.json"
LINEAGE_VERSION = 1
SHARD_BYTES = 5_000_000_000

# What a layout's config.json has no place for, since it changes training only.
TRAINING_FIELDS = ("dropout", "init")


def save_model(
    folder: Path,
    model: Transformer | Mapping[str, Tensor],
    config: ModelConfig,
    *,
    tokenizer: Tokenizer | None = None,
    generation: Mapping[str, Any] | None = None,
    lineage: Mapping[str, Any] | None = None,
    dtype: torch.dtype | None = None,
) -> None:
    """Writes ``folder`` whole or not at all; a model folder of that name is replaced once the new one is complete.

    Args:
        folder: where; its parent is made if need be.
        model: the model, or its state by the names of ``Transformer.state_dict()`` (a checkpoint's fp32 masters, say).
        config: what the model is.
        tokenizer: written beside it; its end-of-text and pad ids go into the configuration.
        generation: further fields of generation_config.json.
        lineage: what ``gptloom.json`` is to remember: parents by content hash, resolved options, data hash, metrics.
        dtype: of the stored weights; as they are where None.

    Raises:
        UserError: the layout cannot hold ``config``, the tokenizer has more ids than the model, or ``folder`` exists
            and is no model folder.
        ValueError: the state's names are not those of ``config``.
    """
    state = model.state_dict() if isinstance(model, Transformer) else model
    layout = layout_for(config)
    expected = {name for rule in layout.rules(config) for name in rule.ours}
    if set(state) != expected:
        raise ValueError(f"state and config disagree about {sorted(set(state) ^ expected)}")
    stored_dtype = state["embedding.weight"].dtype if dtype is None else dtype
    eot_id, pad_id = (tokenizer.eot_id, tokenizer.pad_id) if tokenizer is not None else (None, None)
    raw = layout.to_config(config, str(stored_dtype).removeprefix("torch."), eot_id, pad_id)
    if tokenizer is not None:
        check_vocabulary(tokenizer, config, str(folder))
    ids = {"bos_token_id": eot_id, "eos_token_id": eot_id, "pad_token_id": pad_id}
    with replaced_folder(folder) as partial:
        _write_weights(partial, layout, state, config, dtype)
        write_json(partial / CONFIG_FILE, raw)
        write_json(partial / GENERATION_FILE, {k: v for k, v in ids.items() if v is not None} | dict(generation or {}))
        write_json(
            partial / LINEAGE_FILE,
            {
                "version": LINEAGE_VERSION,
                "versions": {"gptloom": gptloom.__version__, "torch": torch.__version__},
                "model": config.model_dump(mode="json"),
                "tokenizer_hash": tokenizer.hash if tokenizer is not None else None,
                "lineage": dict(lineage or {}),
            },
        )
        if tokenizer is not None:
            tokenizer.save(partial)


def load_model(
    folder: Path, device: torch.device | str = "cpu", dtype: torch.dtype | None = None
) -> tuple[Transformer, ModelConfig]:
    """The model of ``folder`` in evaluation mode, and what it is.

    The model is built without memory and each tensor is read straight into its place: at no time are there two copies.
    The weights are copies, not maps of the file, so that a folder may be replaced or deleted while its model lives.

    Args:
        folder: a model folder, by gptloom or by ``transformers``.
        device: where the weights go.
        dtype: of the weights; as stored where None.

    Raises:
        UserError: no model folder, pickled weights, an unknown or unfit configuration, a damaged file, or tensors that
            are missing, left over or of the wrong shape (all of them named).
    """
    config = read_config(folder)
    layout = layout_for(config)
    files = WeightFiles(folder)
    stored = layout.canonical(files.shapes)
    with torch.device("meta"):
        model = Transformer(config)
    _check_tensors(folder, layout, config, model.state_dict(), stored, files)

    def fetch(name: str) -> Tensor:
        return files.read(stored[name])

    state = {}
    with files:
        if config.tied_head and "lm_head.weight" in stored:
            _check_tied(folder, fetch("lm_head.weight"), fetch(layout.embedding))
        for name, tensor in layout.from_tensors(fetch, config):
            state[name] = torch.empty(tensor.shape, dtype=dtype or tensor.dtype, device=device).copy_(tensor)
    model.load_state_dict(state, assign=True)
    return model.eval(), config


def read_config(folder: Path) -> ModelConfig:
    """What the model of ``folder`` is: its config.json, and from ``gptloom.json`` what only training asks for.

    Raises:
        UserError: no config.json, broken JSON, an unknown family, or fields that gptloom cannot honour.
    """
    path = folder / CONFIG_FILE
    if not path.is_file():
        raise UserError(Problem(f"there is no {CONFIG_FILE}: not a model folder", str(folder)))
    raw = read_json(path)
    config = layout_of(raw, str(path)).from_config(raw, str(path))
    trained = read_lineage(folder).get("model", {})
    return ModelConfig(**config.model_dump() | {name: trained[name] for name in TRAINING_FIELDS if name in trained})


def read_lineage(folder: Path) -> dict[str, Any]:
    """``gptloom.json`` of a model folder; empty where the model was made elsewhere.

    Raises:
        UserError: it was written by a newer gptloom.
    """
    path = folder / LINEAGE_FILE
    if not path.is_file():
        return {}
    document = read_json(path)
    version = document.get("version")
    if version != LINEAGE_VERSION:
        newer = f"is of version {version!r}; this gptloom ({gptloom.__version__}) reads version {LINEAGE_VERSION}"
        raise UserError(Problem(newer, str(path), "pip install --upgrade gptloom"))
    return document


def content_hash(folder: Path) -> str:
    """sha256 hex of what the model computes: its weight files and config.json, whatever the folder is called."""
    digest = hashlib.sha256()
    for path in [folder / CONFIG_FILE, *sorted(folder.glob("*.safetensors"))]:
        with path.open("rb") as file:
            digest.update(f"{path.name}\0{hashlib.file_digest(file, 'sha256').hexdigest()}\n".encode())
    return digest.hexdigest()


def check_vocabulary(tokenizer: Tokenizer, config: ModelConfig, where: str) -> None:
    """``UserError`` when the tokenizer can give an id that the model has no row for. Spare rows are fine."""
    if tokenizer.vocab_size > config.vocab_size:
        raise UserError(
            Problem(
                f"the tokenizer has {tokenizer.vocab_size:,} ids and the model only {config.vocab_size:,}",
                where,
                "the tokenizer that the model was trained with",
            )
        )


def _write_weights(
    folder: Path, layout: Layout, state: Mapping[str, Tensor], config: ModelConfig, dtype: torch.dtype | None
) -> None:
    """One file, or shards of at most ``SHARD_BYTES`` with an index, holding one shard in memory at a time."""
    sizes = {}
    for rule in layout.rules(config):
        width = 0 if dtype is None else dtype.itemsize
        sizes[rule.theirs] = sum(state[name].numel() * (width or state[name].element_size()) for name in rule.ours)
    shard_of = _shards(sizes)
    count = max(shard_of.values()) + 1
    files = [WEIGHTS_FILE if count == 1 else f"model-{i + 1:05}-of-{count:05}.safetensors" for i in range(count)]
    shard: dict[str, Tensor] = {}
    current = 0
    for name, tensor in layout.to_tensors(state, config):
        if shard_of[name] != current:
            save_file(shard, folder / files[current], metadata={"format": "pt"})
            shard, current = {}, shard_of[name]
        shard[name] = tensor.detach().to(device="cpu", dtype=tensor.dtype if dtype is None else dtype)
    save_file(shard, folder / files[current], metadata={"format": "pt"})
    if count > 1:
        weight_map = {name: files[index] for name, index in shard_of.items()}
        write_json(folder / INDEX_FILE, {"metadata": {"total_size": sum(sizes.values())}, "weight_map": weight_map})


def _shards(sizes: Mapping[str, int]) -> dict[str, int]:
    """Which shard each tensor goes to, in order; a tensor bigger than a shard has one of its own."""
    shard_of: dict[str, int] = {}
    index, used = 0, 0
    for name, size in sizes.items():
        if used and used + size > SHARD_BYTES:
            index, used = index + 1, 0
        shard_of[name], used = index, used + size
    return shard_of


def _check_tensors(
    folder: Path,
    layout: Layout,
    config: ModelConfig,
    empty: Mapping[str, Tensor],
    stored: Mapping[str, str],
    files: WeightFiles,
) -> None:
    """``UserError`` naming every missing, left-over and misshapen tensor; ``empty`` has the model's shapes, on meta."""
    expected = {name: tuple(tensor.shape) for name, tensor in layout.to_tensors(empty, config)}
    extra = set(stored) - set(expected) - ({"lm_head.weight"} if config.tied_head else set())
    where = str(folder)
    problems = [Problem(f"tensor {name} is missing", where) for name in expected if name not in stored]
    problems += [Problem(f"tensor {stored[name]} belongs to nothing in {CONFIG_FILE}", where) for name in sorted(extra)]
    for name, shape in expected.items():
        if name in stored and files.shapes[stored[name]] != shape:
            found = list(files.shapes[stored[name]])
            problems.append(Problem(f"tensor {name} is {found}; {CONFIG_FILE} asks for {list(shape)}", where))
    if problems:
        raise UserError(*problems)


def _check_tied(folder: Path, head: Tensor, embedding: Tensor) -> None:
    if not torch.equal(head, embedding):
        text = "tie_word_embeddings is true, but lm_head.weight is stored and differs from the embedding"
        raise UserError(Problem(text, str(folder / CONFIG_FILE), 'set "tie_word_embeddings": false there'))
