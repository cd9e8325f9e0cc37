"""Training a tokenizer on text: byte-level BPE, WordPiece, characters, bytes, words."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterable

import tokenizers
from tokenizers import models, pre_tokenizers, trainers

from gptloom.config.errors import Problem, UserError, nearest
from gptloom.tokenizer import layout
from gptloom.tokenizer.layout import END_OF_TEXT, PAD, UNKNOWN
from gptloom.tokenizer.pieces import cut_text
from gptloom.tokenizer.tokenizer import Tokenizer, raise_on_surrogates
from gptloom.tokenizer.train_wordpiece import train_wordpiece
from gptloom.tokenizer.training_text import (
    LARGEST_DEFAULT,
    CountedPieces,
    check_smallest,
    check_text,
    default_vocab_size,
    too_large,
)

__all__ = ["TRAINED_KINDS", "default_vocab_size", "train_tokenizer"]

TRAINED_KINDS = ("bpe", "wordpiece", "chars", "bytes", "words")
_BYTE_SPECIALS = (END_OF_TEXT, PAD)  # nothing is unknown to a tokenizer of bytes
_PIECE_SPECIALS = (END_OF_TEXT, PAD, UNKNOWN)


def train_tokenizer(
    kind: str, texts: Iterable[str], vocab_size: int | None, *, lowercase: bool | None = None
) -> Tokenizer:
    """Train a tokenizer; equal texts give the equal tokenizer, id for id, on any machine.

    Args:
        kind: ``bpe`` (byte-level BPE with GPT-2's splitting), ``wordpiece`` (BERT's), ``chars``, ``bytes`` or ``words``.
        texts: documents, read once; of ``bpe`` and ``wordpiece`` only the counts of distinct words are kept.
        vocab_size: number of ids, special tokens included. None: for ``bpe`` and ``wordpiece`` `default_vocab_size` of
            the text's bytes or what the text fills, for ``chars`` every character, for ``words`` the 32,768 most
            frequent.
        lowercase: of ``wordpiece``: whether letters lose case and accents (None: they do).

    Returns:
        Ids of bytes, merges, characters or words first, then ``<|endoftext|>``, ``<|pad|>`` and, where there are
        unknown things (``chars``, ``words``), ``<|unk|>``. For ``wordpiece`` first ``[PAD]`` (id 0), ``[UNK]``,
        ``[CLS]``, ``[SEP]`` and ``[MASK]``, then the characters and the merged pieces.

    Raises:
        UserError: unknown kind, no text, a size below the kind's smallest or above what the text can fill, ``lowercase``
            for another kind.
    """
    trainers_by_kind = {"bpe": _train_bpe, "chars": _train_characters, "bytes": _train_bytes, "words": _train_words}
    if kind not in TRAINED_KINDS:
        raise UserError(Problem(f'no tokenizer of kind "{kind}" can be trained', mend=nearest(kind, TRAINED_KINDS)))
    if kind == "wordpiece":
        return train_wordpiece(texts, vocab_size, lowercase=lowercase is not False)
    if lowercase is not None:
        what = f"a tokenizer of kind {kind} keeps the text as it is: it is cased anyway"
        raise UserError(Problem(what, where="--cased", mend="leave --cased out, or --kind wordpiece"))
    return trainers_by_kind[kind](texts, vocab_size)


# ---- byte-level BPE ------------------------------------------------------------------------------------------------


def _train_bpe(texts: Iterable[str], vocab_size: int | None) -> Tokenizer:
    """Byte-level BPE (Sennrich et al. 2016; bytes and splitting as in GPT-2).

    The most frequent pair is merged first; among equally frequent ones the pair whose left, then right, id is smallest,
    the 256 bytes being numbered in the order of their letters (`layout.byte_letters` sorted), merged tokens as they
    arise. Pairs seen only once are not merged: such a token would store one place of the text.
    """
    alphabet = sorted(layout.byte_letters())
    smallest = len(alphabet) + 1 + len(_BYTE_SPECIALS)
    check_smallest(vocab_size, smallest, "bpe: 256 bytes, one merge and the special tokens")
    counter = CountedPieces(texts)
    backend = tokenizers.Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    trainer = trainers.BpeTrainer(
        vocab_size=(vocab_size or LARGEST_DEFAULT) - len(_BYTE_SPECIALS),
        min_frequency=2,
        initial_alphabet=alphabet,
        show_progress=False,
    )
    backend.train_from_iterator(counter, trainer)
    check_text(counter.n_bytes)
    # A smaller BPE of the same text is the beginning of a larger one, so the default size, known only now, is a cut.
    wanted = vocab_size or default_vocab_size(counter.n_bytes)
    vocab, merges = _first_merges(alphabet, json.loads(backend.to_str())["model"]["merges"], wanted)
    reached = len(vocab) + len(_BYTE_SPECIALS)
    if vocab_size is not None and reached < vocab_size:
        raise too_large(vocab_size, reached, "bpe", "every pair of tokens that occurs at least twice is merged by then")
    return _finished("bpe", vocab, _BYTE_SPECIALS, merges)


def _first_merges(
    alphabet: list[str], merges: list[list[str]], vocab_size: int
) -> tuple[dict[str, int], list[tuple[str, str]]]:
    """Vocabulary and merges that together with the special tokens come to ``vocab_size``, or to less if they end."""
    vocab = {letter: token_id for token_id, letter in enumerate(alphabet)}
    kept: list[tuple[str, str]] = []
    for left, right in merges:
        token = left + right  # two merges may spell the same token: it gets one id
        if token not in vocab:
            if len(vocab) + len(_BYTE_SPECIALS) == vocab_size:
                break
            vocab[token] = len(vocab)
        kept.append((left, right))
    return vocab, kept


# ---- bytes, characters, words --------------------------------------------------------------------------------------


def _train_bytes(texts: Iterable[str], vocab_size: int | None) -> Tokenizer:
    """The id of a byte is its value; there is nothing to learn, so ``texts`` is not read."""
    size = 256 + len(_BYTE_SPECIALS)
    if vocab_size not in (None, size):
        what = f"a tokenizer of bytes has {size} ids, not {vocab_size}"
        raise UserError(Problem(what, where="--vocab-size", mend="leave --vocab-size out"))
    vocab = {letter: value for value, letter in enumerate(layout.byte_letters())}
    return _finished("bytes", vocab, _BYTE_SPECIALS)


def _train_characters(texts: Iterable[str], vocab_size: int | None) -> Tokenizer:
    """One id per character, in the order of code points; a smaller ``vocab_size`` keeps the most frequent ones."""
    kept = _most_frequent("chars", _counts(texts, list), vocab_size, limit=None)
    return _finished("characters", {character: i for i, character in enumerate(sorted(kept))}, _PIECE_SPECIALS)


def _train_words(texts: Iterable[str], vocab_size: int | None) -> Tokenizer:
    """One id per word, punctuation mark or white-space character, most frequent first; equal counts by code points."""
    split = pre_tokenizers.Split(tokenizers.Regex(layout.WORD_PATTERN), "isolated")

    def words_of(text: str) -> list[str]:
        return [word for word, _ in split.pre_tokenize_str(text)]

    kept = _most_frequent("words", _counts(texts, words_of), vocab_size, limit=LARGEST_DEFAULT)
    return _finished("words", {word: i for i, word in enumerate(kept)}, _PIECE_SPECIALS)


def _counts(texts: Iterable[str], split: Callable[[str], list[str]]) -> Counter[str]:
    counts: Counter[str] = Counter()
    for text in texts:
        raise_on_surrogates([text])
        for piece in cut_text(text):
            counts.update(split(piece))
    check_text(len(counts))
    return counts


def _most_frequent(kind: str, counts: Counter[str], vocab_size: int | None, limit: int | None) -> list[str]:
    """The entries that fit beside the special tokens, by falling count, then by code points."""
    check_smallest(vocab_size, 1 + len(_PIECE_SPECIALS), f"{kind}: one entry and the special tokens")
    reached = len(counts) + len(_PIECE_SPECIALS)
    if vocab_size is not None and vocab_size > reached:
        raise too_large(vocab_size, reached, kind, f"it holds {len(counts)} different {kind}")
    size = vocab_size or limit or reached
    ordered = sorted(counts, key=lambda entry: (-counts[entry], entry))
    return ordered[: size - len(_PIECE_SPECIALS)]


# ---- shared --------------------------------------------------------------------------------------------------------


def _finished(
    kind: str, vocab: dict[str, int], specials: tuple[str, ...], merges: list[tuple[str, str]] | None = None
) -> Tokenizer:
    special = {content: len(vocab) + i for i, content in enumerate(specials)}
    vocab = {**vocab, **special}
    if kind == "characters":
        return Tokenizer(layout.characters(vocab, special), kind)
    if kind == "words":
        return Tokenizer(layout.words(vocab, special), kind)
    return Tokenizer(layout.byte_level(vocab, merges or (), special), kind)
