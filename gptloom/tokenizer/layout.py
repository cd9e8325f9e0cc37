"""What a ``tokenizer.json`` of each kind looks like: plain dictionaries, so that no library version changes its hash.

Every kind is one of three shapes. *Byte level* (GPT-2's, BPE trained here, bytes): each UTF-8 byte is written as one
printable letter, the alphabet of GPT-2's ``bytes_to_unicode``, so nothing is unknown and every text comes back exactly.
*Whole pieces* (characters, words): the vocabulary holds the text itself and what it lacks becomes ``<|unk|>``. *Parts of
words* (BERT's WordPiece, GPT-1's BPE): the text is cleaned and split into words first, and spacing is not kept.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any

END_OF_TEXT = "<|endoftext|>"
PAD = "<|pad|>"
UNKNOWN = "<|unk|>"

BERT_PAD, BERT_UNKNOWN, CLS, SEP, MASK = BERT_SPECIALS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
CONTINUES = "##"  # before a WordPiece that does not begin a word

GPT1_UNKNOWN = "<unk>"
WORD_END = "</w>"  # after a token of GPT-1 that ends a word
LINE_END = "\n" + WORD_END

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


def bert_normalizer(*, lowercase: bool, strip_accents: bool | None = None, chinese: bool = True) -> dict[str, Any]:
    """The cleaning of BERT's ``BasicTokenizer``.

    Args:
        lowercase: whether letters lose their case.
        strip_accents: whether they lose their accents; None: where they lose their case.
        chinese: whether each Chinese character becomes a word.
    """
    return {
        "type": "BertNormalizer",
        "clean_text": True,
        "handle_chinese_chars": chinese,
        "strip_accents": strip_accents,
        "lowercase": lowercase,
    }


def wordpiece(vocab: Mapping[str, int], special: Mapping[str, int], normalizer: dict[str, Any]) -> dict[str, Any]:
    """BERT's: words and punctuation marks apart, then the longest entries from left to right, ``##`` inside a word."""
    model = {
        "type": "WordPiece",
        "unk_token": BERT_UNKNOWN,
        "continuing_subword_prefix": CONTINUES,
        "max_input_chars_per_word": 100,
        "vocab": dict(vocab),
    }
    decoder = {"type": "WordPiece", "prefix": CONTINUES, "cleanup": True}
    return {
        **_tokenizer_json(model, {"type": "BertPreTokenizer"}, decoder, special),
        "normalizer": normalizer,
        "post_processor": _cls_and_sep(vocab[CLS], vocab[SEP]),
    }


def _cls_and_sep(cls_id: int, sep_id: int) -> dict[str, Any]:
    """``[CLS] A [SEP]`` and ``[CLS] A [SEP] B [SEP]``, of segments 0 and 1, as other programs that open the file add."""

    def token(content: str, segment: int) -> dict[str, Any]:
        return {"SpecialToken": {"id": content, "type_id": segment}}

    def text(name: str, segment: int) -> dict[str, Any]:
        return {"Sequence": {"id": name, "type_id": segment}}

    single = [token(CLS, 0), text("A", 0), token(SEP, 0)]
    ids = {CLS: cls_id, SEP: sep_id}
    return {
        "type": "TemplateProcessing",
        "single": single,
        "pair": [*single, text("B", 1), token(SEP, 1)],
        "special_tokens": {content: {"id": content, "ids": [i], "tokens": [content]} for content, i in ids.items()},
    }


def gpt1(
    vocab: Mapping[str, int],
    merges: Sequence[tuple[str, str]],
    normalizer: dict[str, Any],
    pre_tokenizer: dict[str, Any],
) -> dict[str, Any]:
    """GPT-1's BPE of lower-case characters; the last letter of a word is one with its ``</w>``."""
    model = {
        **_bpe(vocab, merges, unknown=GPT1_UNKNOWN),
        "continuing_subword_prefix": "",
        "end_of_word_suffix": WORD_END,
    }
    special = {GPT1_UNKNOWN: vocab[GPT1_UNKNOWN]}
    settings = _tokenizer_json(model, pre_tokenizer, {"type": "BPEDecoder", "suffix": WORD_END}, special)
    return {**settings, "normalizer": normalizer}


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
