"""GPT-2's own vocabulary, from its two published files or from the Hugging Face hub."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from gptloom.config.errors import Problem, UserError
from gptloom.tokenizer.hub import Published
from gptloom.tokenizer.layout import END_OF_TEXT, byte_level
from gptloom.tokenizer.tokenizer import Tokenizer
from gptloom.tokenizer.vocabulary import read_ids, read_merges

GPT2 = Published("GPT-2's", "gpt2", ("gpt2", "openai-community/gpt2"), ("vocab.json", "merges.txt"))

# `Tokenizer.hash` of the published vocabulary (50,257 entries, 50,000 merges) in the layout of `byte_level`.
GPT2_HASH = "d46b611bfd5158e30a7fa0e478d4f2455f982845ff2b0acf3fd8bf81e9876cfc"


def from_vocabulary(
    vocab: Mapping[str, int], merges: Sequence[tuple[str, str]], config: Mapping[str, Any]
) -> Tokenizer:
    """A byte-level BPE as GPT-2 uses it; of kind ``gpt2`` if it is GPT-2's vocabulary to the last merge, else ``bpe``.

    ``config`` is a ``tokenizer_config.json`` to keep.

    Raises:
        ValueError: no ``<|endoftext|>`` in ``vocab``, or a merge of tokens it lacks.
    """
    if END_OF_TEXT not in vocab:
        raise ValueError(f"{END_OF_TEXT} is not in the vocabulary")
    tokenizer = Tokenizer(byte_level(vocab, merges, {END_OF_TEXT: vocab[END_OF_TEXT]}), "bpe", config=config)
    if tokenizer.hash == GPT2_HASH:
        tokenizer.kind = "gpt2"
    return tokenizer


def from_files(vocabulary_file: Path, merges_file: Path, config: Mapping[str, Any]) -> Tokenizer:
    """`from_vocabulary` of ``vocab.json`` (or ``encoder.json``) and ``merges.txt`` (or ``vocab.bpe``).

    Raises:
        UserError: a file that is not what its name says.
    """
    vocab, merges = read_ids(vocabulary_file), read_merges(merges_file)
    try:
        return from_vocabulary(vocab, merges, config)
    except ValueError as error:
        mend = "take both files from the same model"
        raise UserError(Problem(str(error), where=f"{vocabulary_file} + {merges_file.name}", mend=mend)) from error


def from_hub() -> Tokenizer:
    """GPT-2's vocabulary from the local hub cache, else downloaded into it (1.5 MB).

    Raises:
        UserError: not in the cache, and ``huggingface_hub`` or the network is missing.
    """
    vocabulary_file, merges_file = GPT2.fetch()
    return from_files(vocabulary_file, merges_file, {})
