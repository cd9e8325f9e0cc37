"""What a ``tokenizer.json`` of each kind looks like: plain dictionaries, so that no library version changes its hash.

Every kind is one of two shapes. *Byte level* (GPT-2's, BPE trained here, bytes): each UTF-8 byte is written as one
printable letter, the alphabet of GPT-2's ``bytes_to_unicode``, so nothing is unknown and every text comes back exactly.
*Whole pieces* (characters, words): the vocabulary holds the text itself and what it lacks becomes ``<|unk|>``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any

END_OF_TEXT = "<|endoftext|>"
PAD = "<|pad|>"
UNKNOWN = "<|unk|>"

# A word takes the one space before it along, as in GPT-2's vocabulary; any other white space and each punctuation mark
# stands alone. Every character falls into exactly one piece, so joining the pieces gives the text back.
WORD_PATTERN = r" ?[\p{L}\p{M}\p{N}_]+(?:['’][\p{L}\p{M}]+)*| ?[^\s\p{L}\p{M}\p{N}_]|\s"


@cache
def byte_letters() -> tuple[str, ...]:
    """The letter that stands for each byte value 0…255 in GPT-2's vocabulary (``bytes_to_unicode`` of its encoder).

    The 188 printable bytes of Latin-1 stand for themselves, the other 68 for U+0100, U+0101, … in order.
    """
    printable = {*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)}
    substitutes = iter(range(256, 256 + 68))
    return tuple(chr(value if value in printable else next(substitutes)) for value in range(256))


@cache
def letter_bytes() -> dict[str, int]:
    """The inverse of `byte_letters`."""
    return {letter: value for value, letter in enumerate(byte_letters())}


def byte_level(
    vocab: Mapping[str, int], merges: Sequence[tuple[str, str]], special: Mapping[str, int]
) -> dict[str, Any]:
    """GPT-2's byte-level BPE; without merges and with ``use_regex`` off it is the tokenizer of single bytes."""
    component = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": bool(merges)}
    return _tokenizer_json(_bpe(vocab, merges, unknown=None), component, component, special)


def characters(vocab: Mapping[str, int], special: Mapping[str, int]) -> dict[str, Any]:
    """One id per character: BPE without merges, which splits a text several times faster than a pattern would."""
    return _tokenizer_json(_bpe(vocab, (), unknown=UNKNOWN), None, {"type": "Fuse"}, special)


def words(vocab: Mapping[str, int], special: Mapping[str, int]) -> dict[str, Any]:
    """One id per piece of `WORD_PATTERN`."""
    model = {"type": "WordLevel", "vocab": dict(vocab), "unk_token": UNKNOWN}
    split = {"type": "Split", "pattern": {"Regex": WORD_PATTERN}, "behavior": "Isolated", "invert": False}
    return _tokenizer_json(model, split, {"type": "Fuse"}, special)


def _bpe(vocab: Mapping[str, int], merges: Sequence[tuple[str, str]], unknown: str | None) -> dict[str, Any]:
    return {
        "type": "BPE",
        "dropout": None,
        "unk_token": unknown,
        "continuing_subword_prefix": None,
        "end_of_word_suffix": None,
        "fuse_unk": False,
        "byte_fallback": False,
        "ignore_merges": False,
        "vocab": dict(vocab),
        "merges": [list(pair) for pair in merges],
    }


def _tokenizer_json(
    model: dict[str, Any], pre_tokenizer: dict[str, Any] | None, decoder: dict[str, Any], special: Mapping[str, int]
) -> dict[str, Any]:
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [{"id": token_id, "content": content, **flags} for content, token_id in special.items()],
        "normalizer": None,
        "pre_tokenizer": pre_tokenizer,
        "post_processor": None,
        "decoder": decoder,
        "model": model,
    }
