"""``gptloom import``: a transformers folder becomes a model folder of ours, tensor by tensor, with a receipt.

The result is of the same layout family in its canonical form: names with their prefix, shards of one size, only the
fields of config.json that mean something. Nothing is under ``out`` before the receipt agrees.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from gptloom.config.doors import StoredDtype
from gptloom.config.errors import Problem, UserError, VerificationError
from gptloom.config.model import ModelConfig
from gptloom.config.run_folder import LINEAGE_FILE
from gptloom.interop.companions import generation_of, source_tokenizer, take_along
from gptloom.interop.export.target import DTYPE_NAMES, ROUNDING, TORCH_DTYPES, Float16Weights
from gptloom.interop.hub import Source
from gptloom.interop.outputs import in_the_way, no_room, result_folder, taken
from gptloom.interop.receipt import Receipt, compare, compare_rounded, fixed_prompts, write_receipt
from gptloom.interop.witness import OurModel, reference_of
from gptloom.model.folder import CONFIG_FILE, free_name, read_json, write_json
from gptloom.model.store import content_hash, own_task, read_chat, read_config, save_model
from gptloom.model.stored_weights import StoredWeights
from gptloom.tokenizer.load import load_tokenizer
from gptloom.tokenizer.tokenizer import Tokenizer

PER_ID = ("embedding.weight", "head.weight", "masked_head.bias")  # what has a row for every id


@dataclass(frozen=True)
class Plan:
    """What an import is to make, checked: nothing has been written.

    Attributes:
        source: where the model comes from.
        stored: what it is there.
        config: what it becomes: ``stored``, but for a resized vocabulary.
        tokenizer: that of the result; None where there is none.
        own_tokenizer: whether it is the source's own.
        dtype: of the result's weights; None: as stored.
        notes: what the user is to know.
    """

    source: Source
    stored: ModelConfig
    config: ModelConfig
    tokenizer: Tokenizer | None
    own_tokenizer: bool
    dtype: torch.dtype | None
    notes: tuple[str, ...]


@dataclass(frozen=True)
class Imported:
    """What ``gptloom.import_model`` returns: the model folder, what it is, and the receipt."""

    path: Path
    config: ModelConfig
    source: Source
    receipt: Receipt


def plan_import(
    source: Source,
    *,
    dtype: StoredDtype | None = None,
    tokenizer: str | None = None,
    resize_vocab: bool = False,
) -> Plan:
    """Reads what is to be imported, weights' names and shapes included, and settles vocabulary against embedding.

    Raises:
        UserError: an unknown architecture or one with fields gptloom does not have, tensors that are missing, left over
            or of the wrong shape (all named at once), damaged files, pickles, a tokenizer that cannot be read or is
            larger than the embedding, or nothing to resize.
    """
    config = read_config(source.folder)
    StoredWeights(source.folder, config)  # refuses what is not whole
    own = tokenizer is None
    chosen = source_tokenizer(source.folder) if tokenizer is None else load_tokenizer(tokenizer)
    settled, notes = _settle_vocabulary(source, config, chosen, resize_vocab)
    if dtype is not None:
        notes.append(f"weights stored in {dtype}")
    stored = None if dtype is None else TORCH_DTYPES[dtype]
    return Plan(source, config, settled, chosen, own and chosen is not None, stored, tuple(notes))


def import_folder(plan: Plan, out: Path, *, verify: bool = True, overwrite: bool = False) -> Imported:
    """Writes the model folder ``out`` with its receipt.

    Raises:
        UserError: ``out`` is taken (but ``overwrite`` replaces what gptloom wrote), holds the source, cannot be
            written, or its disk has too little room; a number that float16, where asked for, cannot
            hold.
        VerificationError: the result does not compute what the source does; it is kept beside ``out``, under another
            name, and nothing is under ``out`` that was not there.
    """
    against = [*taken(out, overwrite), *in_the_way(out, plan.source.folder), *no_room(out, _bytes_of(plan))]
    if against:
        raise UserError(*against)
    with result_folder(out, overwrite) as partial:
        _write(plan, partial)
        receipt = _verify(plan, partial) if verify else Receipt.unverified(*plan.notes)
        write_receipt(partial, receipt)
        if receipt.problems:
            there = out.resolve()
            aside = free_name(there.with_name(f"{there.name}.differs"))
            partial.rename(aside)
            kept = Problem("the result is not what was imported, and is kept for a look only", str(aside))
            raise VerificationError(*(Problem(text, str(out)) for text in receipt.problems), kept)
    return Imported(out, plan.config, plan.source, receipt)


def _bytes_of(plan: Plan) -> int:
    """What the weights of the result take; a vocabulary's new rows and the small files beside them are not counted."""
    weights = StoredWeights(plan.source.folder, plan.stored)
    tensors = [weights.empty(name) for name in weights]
    return sum(tensor.numel() * (plan.dtype or tensor.dtype).itemsize for tensor in tensors)


def _settle_vocabulary(
    source: Source, config: ModelConfig, tokenizer: Tokenizer | None, resize: bool
) -> tuple[ModelConfig, list[str]]:
    """The embedding wins, unless it is to be resized."""
    where, rows = str(source.folder), config.vocab_size
    if tokenizer is None:
        if resize:
            raise UserError(
                Problem("--resize-vocab asks for a tokenizer, and there is none here", where, "--tokenizer")
            )
        return config, ["no tokenizer there: to write or score text, import again with --tokenizer NAME|FOLDER"]
    ids = tokenizer.vocab_size
    if ids <= rows:
        if resize:
            what = f"nothing to resize: the embedding has {rows:,} rows, the tokenizer {ids:,} ids"
            raise UserError(Problem(what, where, "leave --resize-vocab out"))
        spare = f"{rows - ids:,} rows of the embedding are spare: the tokenizer has {ids:,} ids"
        return config, [spare] if ids < rows else []
    if not resize:
        what = (
            f"the tokenizer has {ids:,} ids and the embedding {rows:,} rows; the embedding wins: other ids mean nothing"
        )
        mend = f"--tokenizer FOLDER, the one it was trained with; or --resize-vocab: {ids - rows:,} new rows, to be trained"
        raise UserError(Problem(what, where, mend))
    note = f"vocabulary resized from {rows:,} to {ids:,}: each new row is the mean of the old ones, and untrained"
    return ModelConfig(**config.model_dump() | {"vocab_size": ids}), [note]


class ResizedVocabulary(Mapping[str, Tensor]):
    """``weights`` with further rows, each the mean of those there, in what has a row for every id."""

    def __init__(self, weights: Mapping[str, Tensor], rows: int) -> None:
        self._weights, self._rows = weights, rows

    def __getitem__(self, name: str) -> Tensor:
        tensor = self._weights[name]
        if name not in PER_ID:
            return tensor
        mean = tensor.float().mean(0, keepdim=True).to(tensor.dtype)
        return torch.cat([tensor, mean.expand(self._rows - len(tensor), *tensor.shape[1:])])

    def __iter__(self) -> Iterator[str]:
        return iter(self._weights)

    def __len__(self) -> int:
        return len(self._weights)


def _write(plan: Plan, folder: Path) -> None:
    """The model folder, while a second thread takes the hash of the source, whose bytes are then read once."""
    source = plan.source
    kind = Float16Weights if plan.dtype == torch.float16 else StoredWeights
    with kind(source.folder, plan.stored) as weights, ThreadPoolExecutor(1) as pool:
        hashed = pool.submit(content_hash, source.folder)
        grown = plan.config.vocab_size != plan.stored.vocab_size
        save_model(
            folder,
            ResizedVocabulary(weights, plan.config.vocab_size) if grown else weights,
            plan.config,
            tokenizer=plan.tokenizer,
            generation=generation_of(source.folder),
            dtype=plan.dtype,
            task=own_task(source.folder) if plan.own_tokenizer else None,  # its ids are of that tokenizer
            chat=read_chat(source.folder) if plan.own_tokenizer else None,
        )
        digest = hashed.result()
    take_along(source.folder, folder, plan.own_tokenizer)
    path = str(source.folder.resolve())
    card = read_json(folder / LINEAGE_FILE)
    card["lineage"] = {
        "stage": "import",
        "parents": [{"path": path, "hash": digest}],
        "source": {
            "name": source.name,
            "path": path,
            "revision": source.revision,
            "hash": digest,
            "architectures": read_json(source.folder / CONFIG_FILE).get("architectures"),
        },
        "notes": list(plan.notes),
    }
    write_json(folder / LINEAGE_FILE, card)


def _verify(plan: Plan, folder: Path) -> Receipt:
    tokenizer, rows = plan.tokenizer, plan.stored.vocab_size
    own = tokenizer if plan.own_tokenizer else None
    reference, notes = reference_of(plan.source.folder, own)
    read = source_tokenizer(folder)  # from the files of the result
    special = (read.cls_id, read.sep_id, read.mask_id) if read is not None else (None, None, None)
    prompts = fixed_prompts(
        read if read is not None and read.vocab_size <= rows else None,
        rows,
        plan.config.context,
        masked=plan.config.mask == "bidirectional",
        special=special,
    )
    notes = [*plan.notes, *notes]
    candidate = OurModel(folder, read, vocab_size=rows)
    if plan.dtype is None or not _rounds(plan, plan.dtype):
        return compare(reference, candidate, prompts, notes=notes)
    alike, _ = reference_of(plan.source.folder, own, plan.dtype)
    name = DTYPE_NAMES[plan.dtype]
    return compare_rounded(reference, alike, candidate, prompts, dtype=name, tolerance=ROUNDING[name], notes=notes)


def _rounds(plan: Plan, dtype: torch.dtype) -> bool:
    """Whether any number may change on its way to ``dtype``."""
    stored = StoredWeights(plan.source.folder, plan.stored)
    return dtype != torch.float32 and any(stored.empty(name).dtype != dtype for name in stored)
