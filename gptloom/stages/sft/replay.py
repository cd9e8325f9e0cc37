"""The text that the base was pretrained on: to go on reading some of it, and to see how much of it is forgotten."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from gptloom.config.errors import Problem, UserError
from gptloom.config.run_folder import DATA
from gptloom.config.sft import SftOptions
from gptloom.data.batches import Tokens
from gptloom.data.built import load_built
from gptloom.data.conversation_batches import GatheredTokens
from gptloom.data.documents import iter_documents
from gptloom.evaluation.perplexity import join_documents, score_tokens
from gptloom.generation.language_model import LanguageModel
from gptloom.interop.hub import PREFIX
from gptloom.model.reference import resolve_reference
from gptloom.observe.terminal import say
from gptloom.stages.sft.body import ChatBody
from gptloom.stages.task import data_identity
from gptloom.tokenizer import Tokenizer

MEASURED_TOKENS = 50_000
HELD_OUT = 0.05  # of the text of --replay-data

Ints = NDArray[np.int64]


@dataclass(frozen=True)
class BaseText:
    """What is read again, and what was never trained on."""

    train: GatheredTokens
    valid: Tokens | None
    hash: str  # of all of it

    def bits_per_byte(self, model: LanguageModel) -> float | None:
        """Of the beginning of what was never trained on; independent of the tokenizer."""
        if self.valid is None:
            return None
        return score_tokens(model, _First(self.valid, MEASURED_TOKENS)).bits_per_byte


class _First:
    """The beginning of a long text."""

    def __init__(self, tokens: Tokens, limit: int) -> None:
        self._tokens, self.n_tokens = tokens, min(tokens.n_tokens, limit)

    def read(self, start: int, length: int) -> Ints:
        return self._tokens.read(start, length)


def base_text(options: SftOptions, body: ChatBody) -> BaseText | None:
    """The text of --replay-data, else what the run BASE was pretrained on, where it still has it; None: unknown.

    Raises:
        UserError: --replay without any text, or with less than one window of it.
    """
    found = _given(options, body.tokenizer) if options.replay_data else _of_run(options.base, body.model.config.context)
    if options.replay_data and not options.replay:
        say("--replay-data without --replay: none of it is trained on; it is only measured, before and after")
    if options.replay:
        if found is None:
            what = f"--replay {options.replay:g}: the text that BASE was pretrained on is not known here"
            raise UserError(Problem(what, options.base, "--replay-data FILE"))
        context = body.model.config.context
        if found.train.n_tokens <= context:
            what = f"{found.train.n_tokens:,} tokens are less than one window of {context}"
            raise UserError(Problem(what, "--replay-data", "more text"))
        say(f"{options.replay:.0%} of the tokens are pretraining text ({found.train.n_tokens:,} tokens of it)")
    return found


def _given(options: SftOptions, tokenizer: Tokenizer) -> BaseText:
    tokens = join_documents(iter_documents(options.replay_data), tokenizer)
    train, valid = tokens.cut(round((1 - HELD_OUT) * tokens.n_tokens))
    return BaseText(train, valid, hashlib.sha256(tokens.read(0, tokens.n_tokens).tobytes()).hexdigest())


def _of_run(base: str, window: int) -> BaseText | None:
    """The shards inside the run folder, every part of a mixture that has a window of ids."""
    if base.startswith(PREFIX):
        return None
    run = resolve_reference(base).run
    if run is None or not (run / DATA).is_dir():
        return None
    shards = load_built(run / DATA).open()
    parts = [tokens for tokens, _ in shards.train if tokens.n_tokens > window] or [shards.train[0][0]]
    digest = hashlib.sha256(json.dumps(data_identity(shards)).encode()).hexdigest()
    return BaseText(parts[0] if len(parts) == 1 else JoinedTokens(parts), shards.valid, digest)


class JoinedTokens:
    """Several long texts one behind another; nothing is read across a border."""

    def __init__(self, parts: Sequence[GatheredTokens]) -> None:
        self._parts = parts
        self._ends = np.cumsum([tokens.n_tokens for tokens in parts])
        self.n_tokens = int(self._ends[-1])

    def gather(self, starts: Ints, length: int) -> Ints:
        """Ids from each of ``starts`` on [starts, length]; from the last place that has so many where a part ends before."""
        rows = np.empty((len(starts), length), dtype=np.int64)
        owners = np.searchsorted(self._ends, starts, side="right")
        for index, tokens in enumerate(self._parts):
            mine = owners == index
            if mine.any():
                begin = int(self._ends[index]) - tokens.n_tokens
                rows[mine] = tokens.gather(np.minimum(starts[mine] - begin, tokens.n_tokens - length), length)
        return rows
