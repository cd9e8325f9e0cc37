"""What conversations begin with: which held-out ones a training has seen, their prompt or a whole exchange before it."""

from __future__ import annotations

import hashlib
from array import array
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from gptloom.data.conversation import Conversation

Rows = NDArray[np.int64]


class AnswerKeys(NamedTuple):
    """Hashes of all that comes before an answer, and of the same with the answer."""

    prompt: int
    exchange: int


def answer_keys(conversation: Conversation) -> list[AnswerKeys]:
    """Of each answer, white space aside. Where nothing comes before, as in plain text, both are of the answer.

    Calls and tools belong to them: one who calls something else, or may call something else, says something else.
    """
    keys = []
    offered = [conversation.offered] if conversation.tools else []
    told: list[str] = []
    for message in conversation.messages:
        before = tuple(told)
        calls = [message.calls] if message.calls else []
        told.append("\x1f".join([message.role, " ".join(message.content.split()), *calls]))
        if message.role == "assistant":
            keys.append(AnswerKeys(_hash([*offered, *(before or told)]), _hash([*offered, *told])))
    return keys


class Beginnings:
    """The keys of every answer of one side's rows: 24 bytes each."""

    def __init__(self) -> None:
        self._prompts, self._exchanges, self._rows = array("Q"), array("Q"), array("Q")

    def __len__(self) -> int:
        return len(self._rows)

    def add(self, row: int, conversation: Conversation) -> None:
        """Row after row, in order."""
        for prompt, exchange in answer_keys(conversation):
            self._prompts.append(prompt)
            self._exchanges.append(exchange)
            self._rows.append(row)

    def seen_in(self, trained: Beginnings) -> tuple[Rows, Rows]:
        """The rows of this side whose last prompt, or one of whose earlier exchanges, is ``trained``; and a row that has it.

        The loss of such a row would say nothing: its answer, or what leads to it, was trained on.
        """
        rows = _array(self._rows).astype(np.int64)
        last = np.diff(rows, append=-1) != 0
        by_prompt = first_places(_array(trained._prompts), _array(self._prompts))
        by_exchange = first_places(_array(trained._exchanges), _array(self._exchanges))
        found = np.where(last, by_prompt, by_exchange)
        seen, first = np.unique(rows[found >= 0], return_index=True)
        return seen, _array(trained._rows).astype(np.int64)[found[found >= 0][first]]


def first_places(keys: NDArray[np.uint64], sought: NDArray[np.uint64]) -> Rows:
    """For each key that is sought its first place among ``keys``, -1 where it is not there."""
    if not len(keys):
        return np.full(len(sought), -1)
    order = np.argsort(keys, kind="stable")
    ordered = keys[order]
    places = np.minimum(np.searchsorted(ordered, sought), len(ordered) - 1)
    return np.where(ordered[places] == sought, order[places], -1)


def _array(numbers: array[int]) -> NDArray[np.uint64]:
    return np.asarray(numbers, np.uint64)


def _hash(texts: Sequence[str]) -> int:
    text = "\x1e".join(texts).encode("utf-8", "surrogatepass")
    return int.from_bytes(hashlib.blake2b(text, digest_size=8).digest(), "big")
