"""Through the door out: every reason against it at once, the result written whole or not at all, and its receipt."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from gptloom.config.errors import Problem, UserError, nearest
from gptloom.config.model import ModelConfig
from gptloom.interop.export.gguf_target import GGUF
from gptloom.interop.export.hugging_face import HuggingFace
from gptloom.interop.export.plain import Plain
from gptloom.interop.export.source import StoredModel, open_source
from gptloom.interop.export.target import DTYPE_NAMES, ROUNDING, Target
from gptloom.interop.outputs import in_the_way, no_room, result_folder, taken
from gptloom.interop.receipt import (
    Prompt,
    Receipt,
    compare,
    compare_rounded,
    fixed_prompts,
    write_receipt,
)
from gptloom.interop.witness import OurModel

TARGETS: dict[str, Target] = {target.name: target for target in (HuggingFace(), GGUF(), Plain())}
BYTES = {"f32": 4.0, "bf16": 2.0, "f16": 2.0, "q8_0": 34 / 32}  # of a number


@dataclass(frozen=True)
class Exported:
    """What was written.

    Attributes:
        path: the folder.
        files: names in it.
        n_bytes: of all of them.
        dtype: of the matrices.
        receipt: also in ``receipt.json``.
    """

    path: Path
    files: tuple[str, ...]
    n_bytes: int
    dtype: str
    receipt: Receipt


def export_model(
    reference: str, to: str, out: Path, *, dtype: str | None = None, verify: bool = True, overwrite: bool = False
) -> Exported:
    """Writes the model that ``reference`` names to ``out`` as other programs read it, and compares what they will compute.

    Args:
        reference: a run, a model folder or ``hf:...``.
        to: a key of ``TARGETS``.
        out: a folder that is made.
        dtype: of the matrices, one of the target's ``dtypes``; as they are stored where None.
        verify: open the result again, compare, and write down how far it lies from the source.
        overwrite: replace what an earlier export or import wrote there.

    Raises:
        UserError: no trained model, an unknown format or dtype, a model that the format cannot express (every reason at
            once), an ``out`` that is taken or cannot be written, too little room.
        VerificationError: the result computes something else; nothing is left in ``out``.
    """
    if to not in TARGETS:
        raise UserError(Problem(f"nothing is exported to {to!r}", mend=f"--to: {nearest(to, TARGETS)}"))
    target = TARGETS[to]
    problems = [*_unfit_dtype(target, dtype), *taken(out, overwrite)]
    try:
        source = open_source(reference)
    except UserError as error:
        raise UserError(*problems, *error.problems) from None
    stored = dtype or DTYPE_NAMES.get(source.dtype, "f32")
    problems += in_the_way(out, source.folder)
    problems += target.unfit(source)
    problems += no_room(out, source.numbers * BYTES.get(stored, 4.0))
    if problems:
        raise UserError(*problems)
    with result_folder(out, overwrite) as partial:
        target.write(source, partial, dtype)
        notes = target.notes(source, dtype)
        name = out.resolve().name
        receipt = _receipt(source, target, partial, name, dtype, notes) if verify else Receipt.unverified(*notes)
        receipt.check()
        write_receipt(partial, receipt)
        sizes = {path.name: path.stat().st_size for path in sorted(partial.iterdir())}
    return Exported(out, tuple(sizes), sum(sizes.values()), stored, receipt)


# ---- reasons against it ------------------------------------------------------------------------------------------------


def _unfit_dtype(target: Target, dtype: str | None) -> list[Problem]:
    if dtype is None or dtype in target.dtypes:
        return []
    others = [other.name for other in TARGETS.values() if dtype in other.dtypes]
    elsewhere = f", or --to {others[0]}" if others else ""
    return [Problem(f"{target.name} has no dtype {dtype}", mend=f"--dtype {' or '.join(target.dtypes)}{elsewhere}")]


# ---- the receipt -------------------------------------------------------------------------------------------------------


def _receipt(
    source: StoredModel, target: Target, folder: Path, name: str, dtype: str | None, notes: Sequence[str]
) -> Receipt:
    prompts = _prompts(source)
    candidate, more = target.candidate(source, folder)
    candidate.name = candidate.name.replace(folder.name, name)
    notes = [*notes, *more]
    alike = target.reference(source, dtype)
    if dtype is None or not _rounds(source.dtype, dtype):
        return compare(alike, candidate, prompts, notes=notes)
    plain = OurModel(source.folder, source.tokenizer)
    return compare_rounded(plain, alike, candidate, prompts, dtype=dtype, tolerance=ROUNDING[dtype], notes=notes)


def _rounds(stored: torch.dtype, dtype: str) -> bool:
    return dtype != "f32" and DTYPE_NAMES.get(stored) != dtype


def _prompts(source: StoredModel) -> list[Prompt]:
    config: ModelConfig = source.config
    tokenizer = source.tokenizer
    special = (None, None, None) if tokenizer is None else (tokenizer.cls_id, tokenizer.sep_id, tokenizer.mask_id)
    masked = config.mask == "bidirectional"
    return fixed_prompts(tokenizer, config.vocab_size, config.context, masked=masked, special=special)
