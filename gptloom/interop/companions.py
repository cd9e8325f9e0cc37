"""What comes along with imported weights: tokenizer, chat templates, special ids, and how the model is to generate."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from gptloom.model.folder import CONFIG_FILE, read_json, write_json
from gptloom.model.store import GENERATION_FILE
from gptloom.tokenizer.load import load_tokenizer
from gptloom.tokenizer.tokenizer import CONFIG_FILE as TOKENIZER_CONFIG_FILE
from gptloom.tokenizer.tokenizer import TOKENIZER_FILE, Tokenizer

VOCABULARIES = (
    TOKENIZER_FILE,
    "vocab.json",
    "merges.txt",
    "encoder.json",
    "vocab.bpe",
    "vocab.txt",
    "encoder_bpe_40000.json",
    "vocab_40000.bpe",
    "tokenizer.model",
)
TEMPLATES = ("chat_template.jinja", "chat_template.json")
MORE_TEMPLATES = "additional_chat_templates"
DESCRIPTIONS = (TOKENIZER_CONFIG_FILE, "special_tokens_map.json", "added_tokens.json")
SPECIAL_IDS = ("bos_token_id", "eos_token_id", "pad_token_id")
LABELS = ("id2label", "label2id", "problem_type")


def source_tokenizer(folder: Path) -> Tokenizer | None:
    """The tokenizer of a model folder; None where it has no file of one. ``UserError`` when it cannot be read."""
    if not any((folder / name).is_file() for name in VOCABULARIES):
        return None
    return load_tokenizer(folder)


def generation_of(source: Path) -> dict[str, Any]:
    """The fields of generation_config.json; special ids that only config.json names come from there."""
    path = source / GENERATION_FILE
    return _special_ids(source) | (read_json(path) if path.is_file() else {})


def take_along(source: Path, result: Path, own_tokenizer: bool) -> None:
    """Completes the model folder ``result``, which was written with the tokenizer that it is to have.

    Special ids and names of classes become those of the source. With ``own_tokenizer``, that it is the source's, its
    files are taken as they are, byte for byte; where it had no tokenizer.json, the one that was written stays, and learns
    what else tokenizer_config.json said.
    """
    described = read_json(result / CONFIG_FILE) | _special_ids(source)
    if "num_labels" in described:
        told = read_json(source / CONFIG_FILE)
        described |= {name: told[name] for name in LABELS if told.get(name) is not None}
    write_json(result / CONFIG_FILE, described)
    if not own_tokenizer:
        return
    whole = (source / TOKENIZER_FILE).is_file()
    config = source / TOKENIZER_CONFIG_FILE
    if not whole and config.is_file():
        written = read_json(result / TOKENIZER_CONFIG_FILE)
        kept = {"tokenizer_class": written["tokenizer_class"], "gptloom_kind": written["gptloom_kind"]}
        write_json(result / TOKENIZER_CONFIG_FILE, written | read_json(config) | kept)
    for name in (*VOCABULARIES, *DESCRIPTIONS, *TEMPLATES):
        if (source / name).is_file() and (whole or name != TOKENIZER_CONFIG_FILE):
            shutil.copyfile(source / name, result / name)
    if (source / MORE_TEMPLATES).is_dir():
        (result / MORE_TEMPLATES).mkdir()
        for path in sorted((source / MORE_TEMPLATES).glob("*.jinja")):
            shutil.copyfile(path, result / MORE_TEMPLATES / path.name)


def stop_ids(folder: Path) -> frozenset[int]:
    """The ids that end a generation by generation_config.json: one, or a list of them, as chat models have."""
    path = folder / GENERATION_FILE
    named = read_json(path).get("eos_token_id") if path.is_file() else None
    ids = named if isinstance(named, list) else [named]
    return frozenset(token_id for token_id in ids if isinstance(token_id, int))


def _special_ids(source: Path) -> dict[str, Any]:
    config = read_json(source / CONFIG_FILE)
    return {name: config[name] for name in SPECIAL_IDS if config.get(name) is not None}
