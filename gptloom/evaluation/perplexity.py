"""How well a model predicts a text: loss, perplexity and bits per byte.

How it counts. Before each document of a text stands end-of-text, so that its first token is predicted like any other;
the documents then follow each other as in training, cut into windows of the model's context. The end-of-text between two
documents counts as a token and has no bytes; after the last one nothing is predicted. Token shards are read as a
training reads its validation part: as they are, all ids but the first.
"""

from __future__ import annotations

import math
from array import array
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from gptloom.config.errors import Problem, UserError
from gptloom.data.batches import Tokens, eval_batches
from gptloom.data.built import MANIFEST, check_tokenizer, load_built
from gptloom.data.documents import Document
from gptloom.data.shards import TokenShards, open_shards
from gptloom.generation.language_model import LanguageModel
from gptloom.tokenizer import Tokenizer
from gptloom.train.objective import NextToken
from gptloom.train.validation import validate

ROW_TOKENS = 8192  # of a forward pass


@dataclass(frozen=True)
class TextScore:
    """What a model makes of a text: the nats that predicting its ``tokens`` cost, and the text's UTF-8 bytes.

    ``n_bytes`` is 0 where the tokenizer does not keep the text (see ``id_bytes``).
    """

    nats: float
    tokens: int
    n_bytes: int

    @property
    def loss(self) -> float:
        """Nats per token."""
        return self.nats / self.tokens

    @property
    def perplexity(self) -> float:
        """exp(loss): among so many equally likely tokens the model might as well have guessed."""
        return math.exp(min(self.loss, 700.0))

    @property
    def bits_per_byte(self) -> float | None:
        """Comparable between tokenizers; None where the tokens do not stand for the bytes of the text."""
        return self.nats / math.log(2) / self.n_bytes if self.n_bytes else None

    def __add__(self, other: TextScore) -> TextScore:
        return TextScore(self.nats + other.nats, self.tokens + other.tokens, self.n_bytes + other.n_bytes)


def score_tokens(model: LanguageModel, tokens: Tokens, *, stride: int | None = None) -> TextScore:
    """Scores every id of ``tokens`` but the first.

    Windows of the model's context lie end to end; with ``stride`` one begins every so many tokens and only what is new
    in it counts, so that each token has at least ``context - stride`` before it.
    """
    context = model.model.config.context
    if stride is not None and stride > context:
        what = f"a stride of {stride:,} would leave tokens out: the model's context is {context:,}"
        raise UserError(Problem(what, mend=f"--stride {context // 2}"))
    if tokens.n_tokens < 2:
        raise UserError(Problem("there is nothing to predict in this text", mend="a text of at least one token"))
    model.model.eval()
    result = validate(
        NextToken(),
        model.model,
        eval_batches(tokens, context, max(1, ROW_TOKENS // context), stride),
        id_bytes=id_bytes(model.tokenizer, model.model.config.vocab_size),
        device=model.model.head_weight.device,
    )
    return TextScore(result.nats, result.items, result.n_bytes or 0)


def open_scored_shards(path: Path, tokenizer: Tokenizer) -> TokenShards:
    """The shards of ``path``: the validation part of a folder built here, else all of them.

    Raises UserError when there is no validation part, or another tokenizer made them.
    """
    shards: TokenShards | None
    if (path / MANIFEST).exists():
        shards = load_built(path).open().valid
        if shards is None:
            raise UserError(Problem("these shards have no validation part", str(path), f"--data {path / 'train'}"))
    else:
        shards = open_shards(path)
    check_tokenizer(shards, tokenizer)
    return shards


def id_bytes(tokenizer: Tokenizer, vocab_size: int) -> torch.Tensor | None:
    """[V] UTF-8 bytes that each id stands for; 0 for special tokens and for rows no token has.

    None for a tokenizer that drops case, accents or spacing: its tokens are not the text, which therefore costs more bits
    than predicting them does, and nobody knows how many.
    """
    if not tokenizer.lossless:
        return None
    known = [len(tokenizer.token_bytes(index)) for index in range(tokenizer.vocab_size)]
    return torch.tensor(known + [0] * (vocab_size - len(known)), dtype=torch.int64)


def join_documents(documents: Iterable[Document], tokenizer: Tokenizer) -> TokensInMemory:
    """The ids of a text, end-of-text before each document."""
    ids = array("I")
    begins = True
    for document in documents:
        if begins:
            ids.append(tokenizer.eot_id)
        ids.extend(tokenizer.encode(document.text))
        begins = document.ends
    return TokensInMemory(np.array(ids, dtype=np.uint32))


class TokensInMemory:
    """Token ids in memory, read like shards."""

    def __init__(self, ids: NDArray[np.integer]) -> None:
        self.n_tokens = len(ids)
        self._ids = ids

    def read(self, start: int, length: int) -> NDArray[np.int64]:
        """Ids ``start`` to ``start + length`` [length]."""
        return self._ids[start : start + length].astype(np.int64)

    def gather(self, starts: NDArray[np.int64], length: int) -> NDArray[np.int64]:
        """Ids from each of ``starts`` on [starts, length]."""
        return self._ids[starts[:, None] + np.arange(length)].astype(np.int64)

    def cut(self, place: int) -> tuple[TokensInMemory, TokensInMemory]:
        """What stands before ``place``, and what stands from there on."""
        return TokensInMemory(self._ids[:place]), TokensInMemory(self._ids[place:])
