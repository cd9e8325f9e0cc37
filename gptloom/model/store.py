"""The model folder: a Hugging Face layout on disk plus ``gptloom.json``, written whole, read without double memory.

Nothing here unpickles: weights are safetensors, everything else is JSON.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import torch
from pydantic import BaseModel, ValidationError
from torch import Tensor

import gptloom
from gptloom.config.chat import ChatFormat
from gptloom.config.errors import Problem, UserError
from gptloom.config.model import ModelConfig
from gptloom.config.run_folder import LINEAGE_FILE
from gptloom.config.task import TaskConfig
from gptloom.model.dtypes import dtype_name
from gptloom.model.folder import CONFIG_FILE, read_json, replaced_folder, write_json
from gptloom.model.layouts import layout_for, layout_of
from gptloom.model.layouts.layout import TRAINING_FIELDS
from gptloom.model.reference import ADAPTER_CONFIG, is_adapter
from gptloom.model.stored_task import derived_task
from gptloom.model.stored_weights import StoredWeights
from gptloom.model.transformer import Transformer
from gptloom.model.weight_files import INDEX_FILE, WEIGHTS_FILE, WeightFiles
from gptloom.model.weight_writer import write_tensors
from gptloom.tokenizer.framing import framed, unframed
from gptloom.tokenizer.load import load_tokenizer

if TYPE_CHECKING:
    from gptloom.tokenizer.tokenizer import Tokenizer

GENERATION_FILE = "generation_config.json"
LINEAGE_VERSION = 1
SHARD_BYTES = 5_000_000_000
Described = TypeVar("Described", bound=BaseModel)


def save_model(
    folder: Path,
    model: Transformer | Mapping[str, Tensor],
    config: ModelConfig,
    *,
    tokenizer: Tokenizer | None = None,
    generation: Mapping[str, Any] | None = None,
    lineage: Mapping[str, Any] | None = None,
    dtype: torch.dtype | None = None,
    task: TaskConfig | None = None,
    chat: ChatFormat | None = None,
) -> dict[str, str]:
    """Writes ``folder`` whole or not at all; a model folder of that name is replaced once the new one is complete.

    Args:
        folder: where; its parent is made if need be.
        model: the model, or its state by the names of ``Transformer.state_dict()``: a checkpoint's fp32 masters, say,
            or ``StoredWeights``, of which one tensor is in memory at a time.
        config: what the model is.
        tokenizer: written beside it; its end-of-text and pad ids go into the configuration.
        generation: further fields of generation_config.json.
        lineage: what ``gptloom.json`` is to remember: parents by content hash, resolved options, data hash, metrics.
        dtype: of the stored weights; as they are where None.
        task: what the model was fine-tuned for; the tokenizer is then written so that it frames texts as the task does.
        chat: how conversations are rendered for it; the template is also written as the tokenizer's, for others to use.

    Returns:
        The checksum, in hex, of each weight file, taken while it was written.

    Raises:
        UserError: the layout cannot hold ``config``, the tokenizer has more ids than the model, or ``folder`` exists
            and is no model folder.
        ValueError: the state's names are not those of ``config``.
    """
    state = model.state_dict() if isinstance(model, Transformer) else model
    layout = layout_for(config)
    if problems := layout.unfit(config):
        raise UserError(*problems)
    expected = {name for rule in layout.rules(config) for name in rule.ours}
    if set(state) != expected:
        raise ValueError(f"state and config disagree about {sorted(set(state) ^ expected)}")
    empty = {name: state.empty(name) if isinstance(state, StoredWeights) else state[name].to("meta") for name in state}
    if dtype is not None:
        empty = {name: tensor.to(dtype) for name, tensor in empty.items()}
    with replaced_folder(folder) as partial:
        write_description(
            partial,
            config,
            empty["embedding.weight"].dtype,
            tokenizer=tokenizer,
            generation=generation,
            lineage=lineage,
            task=task,
            chat=chat,
        )
        return _write_weights(partial, state, empty, config)


def write_description(
    folder: Path,
    config: ModelConfig,
    dtype: torch.dtype,
    *,
    tokenizer: Tokenizer | None,
    generation: Mapping[str, Any] | None = None,
    lineage: Mapping[str, Any] | None = None,
    task: TaskConfig | None = None,
    chat: ChatFormat | None = None,
) -> None:
    """Everything in a model folder but the weights, which are of ``dtype``; see ``save_model``."""
    if tokenizer is not None:
        check_vocabulary(tokenizer, config, str(folder))
        is_bert = task is not None and task.inputs == "bert"
        tokenizer = unframed(tokenizer) if task is None else framed(tokenizer, task.tokens, segments=is_bert)
        if chat is not None:
            tokenizer = tokenizer.changed({}, {"chat_template": chat.jinja})
    eot_id, pad_id = (tokenizer.eot_id, tokenizer.pad_id) if tokenizer is not None else (None, None)
    ids: dict[str, Any] = {"bos_token_id": eot_id, "eos_token_id": eot_id, "pad_token_id": pad_id}
    if tokenizer is not None and chat is not None:  # an answer ends there, a text at the end-of-text
        ends = dict.fromkeys([tokenizer.special_tokens[chat.end], tokenizer.eot_id])
        ids["eos_token_id"] = [token for token in ends if token in tokenizer.special_tokens.values()]
    raw = layout_for(config).to_config(config, dtype_name(dtype), eot_id, pad_id, task)
    write_json(folder / CONFIG_FILE, raw)
    write_json(folder / GENERATION_FILE, {k: v for k, v in ids.items() if v is not None} | dict(generation or {}))
    write_json(
        folder / LINEAGE_FILE,
        {
            "version": LINEAGE_VERSION,
            "versions": {"gptloom": gptloom.__version__, "torch": torch.__version__},
            "model": config.model_dump(mode="json"),
            "tokenizer_hash": tokenizer.hash if tokenizer is not None else None,
            "lineage": dict(lineage or {}),
            **({} if task is None else {"task": task.model_dump(mode="json")}),
            **({} if chat is None else {"chat": chat.model_dump(mode="json")}),
        },
    )
    if tokenizer is not None:
        tokenizer.save(folder)


def load_model(
    folder: Path, device: torch.device | str = "cpu", dtype: torch.dtype | None = None
) -> tuple[Transformer, ModelConfig]:
    """The model of ``folder`` in evaluation mode, and what it is.

    The model is built without memory and each tensor is read straight into its place: at no time are there two copies.
    The weights are copies, not maps of the file, so that a folder may be replaced or deleted while its model lives.

    Args:
        folder: a model folder, by gptloom (also by several processes, in a checkpoint) or by ``transformers``.
        device: where the weights go.
        dtype: of the weights; as stored where None.

    Raises:
        UserError: no model folder, pickled weights, an unknown or unfit configuration, a damaged file, or tensors that
            are missing, left over or of the wrong shape (all of them named).
    """
    config = read_config(folder)
    with torch.device("meta"):
        model = Transformer(config)
    state = {}
    with StoredWeights(folder, config) as weights:
        for name, tensor in weights.items():
            state[name] = torch.empty(tensor.shape, dtype=dtype or tensor.dtype, device=device).copy_(tensor)
    model.load_state_dict(state, assign=True)
    return model.eval(), config


def read_config(folder: Path) -> ModelConfig:
    """What the model of ``folder`` is: its config.json, and from ``gptloom.json`` what only training asks for.

    Raises:
        UserError: no config.json, broken JSON, an unknown family, fields that gptloom cannot honour, or damaged weights
            where only they say which heads the model has.
    """
    path = folder / CONFIG_FILE
    if not path.is_file():
        raise UserError(Problem(f"there is no {CONFIG_FILE}: not a model folder", str(folder)))
    raw = read_json(path)
    layout = layout_of(raw, str(path))
    by_weights = layout.has_optional_heads or layout.task_class_of(raw) is not None
    with_weights = by_weights and any(folder.glob("*.safetensors"))
    config = layout.from_config(raw, str(path), WeightFiles(folder).shapes if with_weights else None)
    trained = read_lineage(folder).get("model", {})
    kept = {name: trained[name] for name in TRAINING_FIELDS if name in trained}
    if trained.get("task_head") is not None:  # of which config.json knows nothing where no class has such a head
        kept["task_head"] = trained["task_head"]
    return ModelConfig(**config.model_dump() | kept)


def read_body(folder: Path) -> ModelConfig:
    """``read_config`` without the head of a task: what a training for something else goes on from.

    Raises:
        UserError: as ``read_config``, or a classifier of ``transformers`` that was stored without the matrix for words.
    """
    config = read_config(folder)
    if config.task_head is None:
        return config
    raw = read_json(folder / CONFIG_FILE)
    named = layout_of(raw).from_config(raw)
    if config.mask == "causal" and config.tied_head and not named.tied_head:
        what = f"{raw['architectures'][0]} is stored without the output matrix: it classifies texts and writes none"
        raise UserError(Problem(what, str(folder), "the model that it was fine-tuned from"))
    return config.model_copy(update={"task_head": None})


def read_task(folder: Path) -> TaskConfig | None:
    """What the model of ``folder`` was fine-tuned for: by gptloom.json, else by what ``transformers`` wrote; None: nothing.

    Raises:
        UserError: as ``read_config``; a task that is damaged, or of a newer gptloom; a classifier by ``transformers`` that
            does not say how its texts are framed.
    """
    own, config = own_task(folder), read_config(folder)
    raw = read_json(folder / CONFIG_FILE)
    if own is not None or config.task_head is None or layout_of(raw).task_class_of(raw) is None:
        return own
    return derived_task(raw, config, load_tokenizer(folder), folder)


def own_task(folder: Path) -> TaskConfig | None:
    """``task`` of gptloom.json alone; ``UserError`` where it is damaged or of a newer gptloom."""
    return _described(folder, "task", TaskConfig)


def read_chat(folder: Path) -> ChatFormat | None:
    """``chat`` of gptloom.json: how the model was taught to hold conversations; None: it was not, or made elsewhere.

    Raises:
        UserError: it is damaged or of a newer gptloom.
    """
    return _described(folder, "chat", ChatFormat)


def _described(folder: Path, name: str, kind: type[Described]) -> Described | None:
    described = read_lineage(folder).get(name)
    try:
        return None if described is None else kind.model_validate(described)
    except ValidationError as error:
        wrong = ", ".join(sorted({".".join(str(part) for part in one["loc"]) for one in error.errors()}))
        what = f'"{name}" is not one that this gptloom ({gptloom.__version__}) reads: {wrong}'
        raise UserError(Problem(what, str(folder / LINEAGE_FILE), "pip install --upgrade gptloom")) from error


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
    for name in ("lineage", "model", "task", "chat"):
        if not isinstance(document.get(name, {}), dict):
            raise UserError(Problem(f'"{name}" is no JSON object', str(path), "copy the model folder again"))
    return document


def content_hash(folder: Path) -> str:
    """sha256 hex of what the model computes: its weight files and config.json, whatever the folder is called.

    Of an adapter, which has no config.json, it is adapter_config.json, which names the base.
    """
    digest = hashlib.sha256()
    described = ADAPTER_CONFIG if is_adapter(folder) else CONFIG_FILE
    for path in [folder / described, *sorted(folder.glob("*.safetensors"))]:
        with path.open("rb") as file:
            digest.update(f"{path.name}\0{hashlib.file_digest(file, 'sha256').hexdigest()}\n".encode())
    return digest.hexdigest()


def check_vocabulary(tokenizer: Tokenizer, config: ModelConfig, where: str) -> None:
    """``UserError`` when the tokenizer can give an id that the model has no row for. Spare rows are fine."""
    if tokenizer.vocab_size > config.vocab_size:
        raise UserError(
            Problem(
                f"the tokenizer has {tokenizer.vocab_size:,} ids and the model only {config.vocab_size:,}; "
                "the embedding wins: ids beyond it cannot be computed",
                where,
                "the tokenizer that the model was trained with; "
                "or new rows, to be trained: gptloom import FOLDER --out models/x --resize-vocab",
            )
        )


def _write_weights(
    folder: Path, state: Mapping[str, Tensor], empty: Mapping[str, Tensor], config: ModelConfig
) -> dict[str, str]:
    """One file, or several of at most ``SHARD_BYTES`` with an index; file -> checksum.

    ``empty`` has shapes and stored dtypes by our names, on the meta device; one tensor of ``state`` is read at a time.
    """
    layout = layout_for(config)
    rules = {layout.written(rule.theirs, config): rule for rule in layout.rules(config)}
    stored = {layout.written(name, config): tensor for name, tensor in layout.to_tensors(empty, config)}
    shard_of = _shards({name: tensor.numel() * tensor.element_size() for name, tensor in stored.items()})
    count = max(shard_of.values()) + 1
    files = [WEIGHTS_FILE if count == 1 else f"model-{i + 1:05}-of-{count:05}.safetensors" for i in range(count)]

    def fetch(theirs: str) -> Tensor:
        rule = rules[theirs]
        return rule.write([state[name].detach() for name in rule.ours]).to(stored[theirs].dtype)

    sums = {}
    for index, file in enumerate(files):
        own = {name: tensor for name, tensor in stored.items() if shard_of[name] == index}
        sums[file] = write_tensors(folder / file, own, fetch, {"format": "pt"})
    if count > 1:
        weight_map = {name: files[index] for name, index in shard_of.items()}
        total = sum(tensor.numel() * tensor.element_size() for tensor in stored.values())
        write_json(folder / INDEX_FILE, {"metadata": {"total_size": total}, "weight_map": weight_map})
    return sums


def _shards(sizes: Mapping[str, int]) -> dict[str, int]:
    """Which shard each tensor goes to, in order; a tensor bigger than a shard has one of its own."""
    shard_of: dict[str, int] = {}
    index, used = 0, 0
    for name, size in sizes.items():
        if used and used + size > SHARD_BYTES:
            index, used = index + 1, 0
        shard_of[name], used = index, used + size
    return shard_of
