"""Which words of an example are hidden, and behind what (Devlin et al. 2019, section 3.1 and appendix A.1).

Every choice is drawn by hashing (key of the example, place in it), so that a batch can be made again at any time and
does not depend on what else is in it. B rows, T tokens, V vocabulary.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from gptloom.config.errors import Problem, UserError
from gptloom.data.order import Words, hash_words
from gptloom.tokenizer import Tokenizer

Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]

MASKED, KEPT = 0.8, 0.1  # of the chosen; the rest becomes a random word
ORDER, FATE, WORD = 1, 2, 3  # what a draw decides


@dataclass(frozen=True)
class MaskVocabulary:
    """The ids that masking needs. ``starts`` [V]: whether an id begins a word; only for masking whole words."""

    cls_id: int
    sep_id: int
    mask_id: int
    pad_id: int
    vocab_size: int
    starts: Bools | None = None

    @classmethod
    def of(cls, tokenizer: Tokenizer, *, whole_word: bool = False) -> MaskVocabulary:
        """That of ``tokenizer``; ``UserError`` names every token it lacks, and a vocabulary that does not tell words."""
        cls_id, sep_id, mask_id, pad_id = tokenizer.cls_id, tokenizer.sep_id, tokenizer.mask_id, tokenizer.pad_id
        roles = {"[CLS]": cls_id, "[SEP]": sep_id, "[MASK]": mask_id, "[PAD]": pad_id}
        mend = "a WordPiece tokenizer: --tokenizer wordpiece"
        problems = []
        if lacking := [role for role, token_id in roles.items() if token_id is None]:
            what = f"masked pretraining needs {', '.join(lacking)}, which this tokenizer ({tokenizer.kind}) has not"
            problems.append(Problem(what, where="--tokenizer", mend=mend))
        if whole_word and tokenizer.kind == "gpt1":
            what = "the pieces of a gpt1 tokenizer do not tell where a word begins"
            problems.append(Problem(what, where="--whole-word", mend=mend))
        if problems:
            raise UserError(*problems)
        assert cls_id is not None and sep_id is not None and mask_id is not None and pad_id is not None
        starts = None
        if whole_word:
            starts = np.array([tokenizer.is_start(token_id) for token_id in range(tokenizer.vocab_size)])
        return cls(cls_id, sep_id, mask_id, pad_id, tokenizer.vocab_size, starts)


@dataclass(frozen=True)
class Masking:
    """How much is hidden, in which units, and how often other words are.

    ``dynamic``: other words of an example in each epoch (Liu et al. 2019, section 4.1); ``static``: of each example
    there are ``duplicates`` versions, made once, and every epoch reads the next of them (BERT: ten).
    """

    rate: float = 0.15  # of the tokens of an example, [CLS] and [SEP] counted
    kind: Literal["dynamic", "static"] = "dynamic"
    whole_word: bool = False
    duplicates: int = 10

    def __post_init__(self) -> None:
        if not 0 < self.rate < 1 or self.duplicates < 1:
            raise ValueError(f"no masking: {self}")

    def round_of(self, epochs: Ints) -> Ints:
        """Examples of epochs with an equal round have the same words hidden."""
        return epochs % self.duplicates if self.kind == "static" else epochs

    def count(self, lengths: Ints) -> Ints:
        """How many places to hide in examples of ``lengths`` tokens: the rate of them, rounded, at least one."""
        counts: Ints = np.maximum(1, np.rint(self.rate * lengths)).astype(np.int64)
        return counts


def mask_words(ids: Ints, real: Bools, keys: Words, vocabulary: MaskVocabulary, masking: Masking) -> tuple[Ints, Bools]:
    """Hides words of ``ids`` [B, T]; gives what the model sees and which places were chosen, both [B, T].

    ``real`` [B, T]: False for padding; ``keys`` [B]: one per example and round. Never chosen are [CLS], [SEP] and
    padding. Of the chosen 80 % become [MASK], 10 % stay, 10 % become any id of the vocabulary, special ones too.
    """
    chosen = choose_places(ids, real, keys, vocabulary, masking)
    places = np.arange(ids.shape[1])[None, :]
    fate = _fractions(hash_words(keys[:, None], FATE, places))
    words = (hash_words(keys[:, None], WORD, places) % np.uint64(vocabulary.vocab_size)).astype(np.int64)
    seen = np.where(fate < MASKED, vocabulary.mask_id, np.where(fate < MASKED + KEPT, ids, words))
    return np.where(chosen, seen, ids), chosen


def choose_places(ids: Ints, real: Bools, keys: Words, vocabulary: MaskVocabulary, masking: Masking) -> Bools:
    """The places of ``ids`` to be predicted, [B, T]; see ``mask_words``."""
    maskable = real & ~np.isin(ids, (vocabulary.cls_id, vocabulary.sep_id, vocabulary.pad_id))
    counts = masking.count(real.sum(axis=1))
    draws = hash_words(keys[:, None], ORDER, np.arange(ids.shape[1])[None, :])
    if masking.whole_word:
        if vocabulary.starts is None:
            raise ValueError("masking whole words needs to know which ids begin a word")
        firsts = vocabulary.starts[ids] | ~np.pad(maskable, ((0, 0), (1, 0)))[:, :-1]
        return np.stack([_choose_words(*row) for row in zip(maskable, firsts, draws, counts.tolist(), strict=True)])
    draws = np.where(maskable, draws, np.uint64(2**64 - 1))
    ranks = np.argsort(np.argsort(draws, axis=1, kind="stable"), axis=1)
    return maskable & (ranks < counts[:, None])


def _choose_words(maskable: Bools, firsts: Bools, draws: Words, count: int) -> Bools:
    """Whole words of one row in the order of their draws; one that would exceed ``count`` is passed over. All [T].

    A row of words that are all longer than ``count`` hides the first of the shortest.
    """
    places = np.flatnonzero(maskable)
    words = np.split(places, np.flatnonzero(firsts[places])[1:]) if len(places) else []
    words.sort(key=lambda word: int(draws[word[0]]))
    chosen = np.zeros(len(maskable), dtype=bool)
    room = count
    for word in words:
        if room == 0:
            break
        if len(word) <= room:
            chosen[word] = True
            room -= len(word)
    if words and room == count:
        chosen[min(words, key=len)] = True
    return chosen


def _fractions(words: Words) -> NDArray[np.float64]:
    """Hashes as numbers from 0 up to 1."""
    return (words >> np.uint64(11)).astype(np.float64) * 2.0**-53
