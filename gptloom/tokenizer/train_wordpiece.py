"""Training a WordPiece vocabulary.

How BERT's own was learnt is not published in code; as the ``tokenizers`` library does, words grow from their characters
by merging the most frequent pair of pieces, again and again, where a character inside a word (``##a``) is another piece
than the same one at its beginning. What the vocabulary is used for, finding the longest entries, does not depend on it.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Iterator

import tokenizers
from tokenizers import models, normalizers, pre_tokenizers, trainers

from gptloom.tokenizer import bert, layout
from gptloom.tokenizer.layout import BERT_SPECIALS, BERT_UNKNOWN, CONTINUES
from gptloom.tokenizer.tokenizer import Tokenizer
from gptloom.tokenizer.training_text import (
    CountedPieces,
    check_smallest,
    check_text,
    default_vocab_size,
    too_large,
)

_MOST_CHARACTERS = 1000  # thousands of Chinese ones would leave no room for words
_FED = 1 << 16  # characters handed to the trainer at a time


def train_wordpiece(texts: Iterable[str], vocab_size: int | None, *, lowercase: bool) -> Tokenizer:
    """BERT's basic tokenizer and a vocabulary of the pieces that are frequent in ``texts``.

    The 1,000 most frequent characters become entries, with and without ``##``; a word with a rarer one, or one seen only
    once, is ``[UNK]``. Among equally frequent pairs the one with the smallest ids is merged first; pairs seen only once
    never are. Ids: special tokens, characters by code points (first as they begin words, then with ``##``), merged
    pieces as they arise.

    Raises:
        UserError: no text, or a size below the smallest or above what the text can fill.
    """
    check_smallest(vocab_size, len(BERT_SPECIALS) + 2, "wordpiece: the special tokens and a character")
    normalizer = layout.bert_normalizer(lowercase=lowercase)
    pieces = CountedPieces(texts)
    words = _count_words(pieces, lowercase)
    check_text(len(words))
    wanted = vocab_size or default_vocab_size(pieces.n_bytes)
    characters = _characters(words, wanted - len(BERT_SPECIALS))
    vocab = _merged(words, [*BERT_SPECIALS, *characters], wanted)
    if vocab_size is not None and len(vocab) < vocab_size:
        why = "every pair of pieces that occurs at least twice is merged by then"
        raise too_large(vocab_size, len(vocab), "wordpiece", why)
    return bert.from_vocabulary(vocab, normalizer, {})


def _count_words(pieces: Iterable[str], lowercase: bool) -> Counter[str]:
    """How often each word and punctuation mark occurs that BERT's basic tokenizer makes of the text."""
    normalizer, split = normalizers.BertNormalizer(lowercase=lowercase), pre_tokenizers.BertPreTokenizer()
    runs: Counter[str] = Counter()
    for piece in pieces:
        runs.update(normalizer.normalize_str(piece).split())
    words: Counter[str] = Counter()
    for run, count in runs.items():  # each run of marks and letters is split once, however often it occurs
        for word, _ in split.pre_tokenize_str(run):
            words[word] += count
    return words


def _characters(words: Counter[str], room: int) -> list[str]:
    """The most frequent characters as entries, sorted: alone, as at the beginning of a word, then as inside one."""
    counts: Counter[str] = Counter()
    inside: set[str] = set()
    for word, count in words.items():
        inside.update(word[1:])
        for character in word:
            counts[character] += count
    kept: list[str] = []
    for character in sorted(counts, key=lambda character: (-counts[character], character))[:_MOST_CHARACTERS]:
        forms = [character, CONTINUES + character] if character in inside else [character]
        if counts[character] < 2 or len(kept) + len(forms) > room:
            break
        kept += forms
    return sorted(kept, key=lambda entry: (len(entry), entry))


def _merged(words: Counter[str], known: list[str], size: int) -> dict[str, int]:
    """``known`` entries and the merged pieces after them, up to ``size`` in all."""
    backend = tokenizers.Tokenizer(models.WordPiece(unk_token=BERT_UNKNOWN))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    # All single characters are given as special tokens, in order: the trainer would number those inside words as it
    # comes upon them in a hash table, and of equally frequent pairs the one with the smallest ids is merged.
    trainer = trainers.WordPieceTrainer(
        vocab_size=size,
        min_frequency=2,
        special_tokens=known,
        limit_alphabet=0,
        continuing_subword_prefix=CONTINUES,
        show_progress=False,
    )
    alphabet = set(known)
    backend.train_from_iterator(_repeated(words, alphabet), trainer)
    vocab: dict[str, int] = json.loads(backend.to_str())["model"]["vocab"]
    return dict(sorted(vocab.items(), key=lambda entry: entry[1]))


def _repeated(words: Counter[str], alphabet: set[str]) -> Iterator[str]:
    """Each word as often as it occurs, for a trainer that counts by itself; words with other characters are left out."""
    for word in sorted(words):
        if word[0] in alphabet and all(CONTINUES + character in alphabet for character in word[1:]):
            at_once = max(1, _FED // len(word))
            for start in range(0, words[word], at_once):
                yield f"{word} " * min(at_once, words[word] - start)
