"""A tokenizer as GGUF holds it: tokens in the order of their ids, merges, and the name that llama.cpp has for the split.

llama.cpp splits text by code of its own, chosen by ``tokenizer.ggml.pre``. A tokenizer.json whose split is not among
those known here is refused: under a wrong name the same text would become other ids.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import tokenizers

from gptloom.config.errors import Problem
from gptloom.tokenizer.tokenizer import Tokenizer

ENDS = 2  # ids that end a text: eos and eot
NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED = 1, 2, 3, 4, 5  # llama.cpp's kinds of tokens
SPACE = "▁"  # what begins a word in llama.cpp's WordPiece
# llama.cpp wants the list of merges and GGUF has no empty one: a merge whose left half never comes about.
INERT_MERGE = "ĠĠ Ġ"

# The split of a tokenizer.json -> tokenizer.ggml.pre. GPT-2's own is what `tokenizers` calls ByteLevel with use_regex.
GPT2_SPLIT = "'s|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+| ?[^\\s\\p{L}\\p{N}]+|\\s+(?!\\S)|\\s+"
_WORDS = "(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+"
_REST = " ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+"
SPLITS = {
    GPT2_SPLIT: "gpt-2",
    f"{_WORDS}|\\p{{N}}|{_REST}": "qwen2",
    f"{_WORDS}|\\p{{N}}{{1,3}}|{_REST}": "llama-bpe",
}


@dataclass(frozen=True)
class Vocabulary:
    """The fields ``tokenizer.ggml.*``."""

    model: str
    pre: str
    tokens: list[str]
    types: list[int]
    merges: list[str]
    ids: dict[str, int]
    flags: dict[str, bool]


def unfit(tokenizer: Tokenizer | None) -> list[Problem]:
    """Why llama.cpp would give other ids, if so."""
    if tokenizer is None:
        return [Problem("the model has no tokenizer, and a GGUF file holds one", mend="--to safetensors or --to hf")]
    reason = _unfit_kind(tokenizer)
    return [] if reason is None else [Problem(f"the tokenizer {reason}", mend="--to safetensors or --to hf")]


def _unfit_kind(tokenizer: Tokenizer) -> str | None:
    settings = tokenizer.settings
    model = settings["model"]
    if tokenizer.kind in ("characters", "words"):
        return f"is of kind {tokenizer.kind}: llama.cpp has byte-level BPE and WordPiece, nothing that splits like it"
    if tokenizer.kind == "gpt1":
        return "is GPT-1's, with </w> at the end of words, which llama.cpp does not have"
    if model.get("type") == "WordPiece":
        return _unfit_wordpiece(settings)
    if model.get("type") != "BPE":
        return f"is a {model.get('type')} model; llama.cpp's of that kind read other files"
    if model.get("byte_fallback") or (settings.get("decoder") or {}).get("type") != "ByteLevel":
        return "is BPE on characters, SentencePiece's way, whose scores a tokenizer.json does not have"
    normalizer = settings.get("normalizer")
    if normalizer is not None and normalizer.get("type") != "NFC":
        return f"changes text by a {normalizer.get('type')} normalizer, which llama.cpp does not"
    if model.get("end_of_word_suffix") or model.get("continuing_subword_prefix"):
        return "marks the ends or insides of words, which llama.cpp's byte-level BPE does not"
    split = split_of(settings)
    if split is None:
        return "adds a space before a text (add_prefix_space) or splits in steps that llama.cpp has no name for"
    if split not in SPLITS:
        known = ", ".join(SPLITS.values())
        return f"splits text by {split!r}; of llama.cpp's splits, those of {known} are known here"
    return None


def _unfit_wordpiece(settings: Mapping[str, Any]) -> str | None:
    normalizer = settings.get("normalizer") or {}
    if normalizer.get("type") != "BertNormalizer" or (settings.get("pre_tokenizer") or {}).get("type") != (
        "BertPreTokenizer"
    ):
        return "is WordPiece without BERT's basic tokenizer, which llama.cpp always applies"
    if settings["model"].get("continuing_subword_prefix") != "##":
        return "does not mark the insides of words by ##"
    if not normalizer.get("lowercase") or normalizer.get("strip_accents") is False:
        return "keeps upper case or accents, and released versions of llama.cpp remove both from WordPiece texts"
    if not normalizer.get("handle_chinese_chars", True):
        return "keeps Chinese characters together, which llama.cpp always parts"
    return None


def split_of(settings: Mapping[str, Any]) -> str | None:
    """The regular expression that a byte-level tokenizer.json splits by; None for what has none or more than one."""
    pre = settings.get("pre_tokenizer") or {}
    steps = pre.get("pretokenizers", [pre])
    if any(step.get("add_prefix_space") for step in steps):
        return None
    kinds = [step.get("type") for step in steps]
    if kinds == ["ByteLevel"]:
        # Without a split and without merges (kind bytes) every byte is a token, however the text was split before.
        whole = not steps[0].get("use_regex", True)
        return None if whole and settings["model"]["merges"] else GPT2_SPLIT
    if kinds == ["Split", "ByteLevel"] and not steps[1].get("use_regex", True):
        first = steps[0]
        plain = first.get("behavior") == "Isolated" and not first.get("invert")
        return first.get("pattern", {}).get("Regex") if plain else None
    return None


def notes(eos_ids: Sequence[int]) -> list[str]:
    """What of ``eos_ids`` has no room in the file."""
    kept, rest = eos_ids[:ENDS], eos_ids[ENDS:]
    if not rest:
        return []
    held, left = " and ".join(map(str, kept)), ", ".join(map(str, rest))
    return [f"{len(eos_ids)} ids end a text and GGUF has room for {held}: left out, and no end in llama.cpp, {left}"]


def special_texts(tokenizer: Tokenizer, eos_ids: Sequence[int]) -> list[str]:
    """What is written for those of ``eos_ids``, or, where empty, for the tokenizer's own end, that are special tokens."""
    texts = {token_id: text for text, token_id in tokenizer.special_tokens.items()}
    return [texts[token_id] for token_id in eos_ids or [tokenizer.eot_id] if token_id in texts]


def vocabulary(tokenizer: Tokenizer, rows: int, eos_ids: Sequence[int]) -> Vocabulary:
    """What the file says about a tokenizer that is not ``unfit``.

    Args:
        rows: of the embedding; those without a token get a name that no text holds.
        eos_ids: what ends a text, as generation_config.json has it; the tokenizer's own where empty.
    """
    settings = tokenizer.settings
    plain = tokenizers.Tokenizer.from_str(json.dumps(settings))
    by_id = {token_id: token for token, token_id in plain.get_vocab(with_added_tokens=True).items()}
    added = plain.get_added_tokens_decoder()
    is_wordpiece = settings["model"]["type"] == "WordPiece"
    tokens, types = [], []
    for index in range(rows):
        if index in added:
            tokens.append(added[index].content)
            types.append(CONTROL if added[index].special else USER_DEFINED)
        elif index in by_id:
            token = by_id[index]
            tokens.append(_spaced(token) if is_wordpiece else token)
            types.append(NORMAL)
        else:
            tokens.append(f"[PAD{index}]")
            types.append(UNUSED)
    merges = [merge if isinstance(merge, str) else " ".join(merge) for merge in settings["model"].get("merges", [])]
    ids, flags = _special(tokenizer, plain, eos_ids)
    if is_wordpiece:
        return Vocabulary("bert", "default", tokens, types, [], ids, flags)
    split = split_of(settings)
    assert split is not None, "unfit says so"
    return Vocabulary("gpt2", SPLITS[split], tokens, types, merges or [INERT_MERGE], ids, flags)


def _spaced(token: str) -> str:
    return token.removeprefix("##") if token.startswith("##") else SPACE + token


def _special(
    tokenizer: Tokenizer, plain: tokenizers.Tokenizer, eos_ids: Sequence[int]
) -> tuple[dict[str, int], dict[str, bool]]:
    """The ids with a meaning, and what llama.cpp adds to a text: what ``transformers`` adds by the post-processor."""
    around = plain.encode("", add_special_tokens=True).ids
    eos = list(eos_ids) or [tokenizer.eot_id]
    if tokenizer.cls_id is not None and tokenizer.sep_id is not None:
        ids = {"bos": tokenizer.cls_id, "eos": tokenizer.sep_id, "seperator": tokenizer.sep_id}  # GGUF's spelling
        flags = {"add_bos_token": True, "add_eos_token": False, "add_sep_token": True}
    else:
        begins = bool(around) and around[0] != eos[0]
        ids = {"bos": around[0] if begins else tokenizer.eot_id, "eos": eos[0]}
        flags = {"add_bos_token": begins, "add_eos_token": False}
    if len(eos) > 1:
        ids["eot"] = eos[1]
    named = {"padding": tokenizer.pad_id, "mask": tokenizer.mask_id}
    named["unknown"] = tokenizer.special_tokens.get("[UNK]") if tokenizer.cls_id is not None else None
    return ids | {name: value for name, value in named.items() if value is not None}, flags


def encoder_of(read: Vocabulary) -> Callable[[str], list[int]]:
    """text -> ids by what stands in the file, built anew by the ``tokenizers`` library, to check it by."""
    if read.model == "bert":
        vocab = {
            token if kind == CONTROL else token[1:] if token.startswith(SPACE) else f"##{token}": index
            for index, (token, kind) in enumerate(zip(read.tokens, read.types, strict=True))
        }
        built = tokenizers.Tokenizer(tokenizers.models.WordPiece(vocab, unk_token="[UNK]"))
        built.normalizer = tokenizers.normalizers.BertNormalizer()
        built.pre_tokenizer = tokenizers.pre_tokenizers.BertPreTokenizer()
    else:
        vocab = {token: index for index, token in enumerate(read.tokens)}
        pairs = [merge.split(" ", 1) for merge in read.merges if merge != INERT_MERGE]
        merges = [(left, right) for left, right in pairs]
        built = tokenizers.Tokenizer(tokenizers.models.BPE(vocab, merges))
        split = next(pattern for pattern, name in SPLITS.items() if name == read.pre)
        built.pre_tokenizer = tokenizers.pre_tokenizers.Sequence(
            [
                tokenizers.pre_tokenizers.Split(tokenizers.Regex(split), "isolated"),
                tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
            ]
        )
    return lambda text: built.encode(text, add_special_tokens=False).ids
