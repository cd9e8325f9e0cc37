"""Which kind a ``tokenizer.json`` is that does not say so."""

from __future__ import annotations

from typing import Any

from gptloom.tokenizer.layout import CONTINUES, WORD_END, WORD_PATTERN


def guess_kind(settings: dict[str, Any]) -> str:
    """One of ours where the file encodes the same, else ``other``.

    ``wordpiece`` and ``gpt1`` are told by their model; how they clean and split a text is as the file says.
    """
    model, split = settings["model"], settings.get("pre_tokenizer") or {}
    decoder = (settings.get("decoder") or {}).get("type")
    if model.get("type") == "WordPiece":
        return "wordpiece" if model.get("continuing_subword_prefix", CONTINUES) == CONTINUES else "other"
    if model.get("type") == "BPE" and decoder == "BPEDecoder" and model.get("end_of_word_suffix") == WORD_END:
        return "gpt1"
    special_only = all(token.get("special") for token in settings.get("added_tokens", ()))
    if settings.get("normalizer") or not special_only:
        return "other"
    if model.get("type") == "WordLevel" and split.get("pattern") == {"Regex": WORD_PATTERN} and decoder == "Fuse":
        return "words"
    if model.get("type") != "BPE":
        return "other"
    if not split and not model["merges"] and decoder == "Fuse":
        return "characters"
    if split.get("type") != "ByteLevel" or split.get("add_prefix_space") or decoder != "ByteLevel":
        return "other"
    if split.get("use_regex", True):
        return "bpe"
    return "other" if model["merges"] else "bytes"
