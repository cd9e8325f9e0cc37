r"""Dialogues written as one text, as the HH data have them: ``\n\nHuman: ...\n\nAssistant: ...``."""

from __future__ import annotations

import re

from gptloom.data.conversation import Message
from gptloom.data.instruction_names import ROLES
from gptloom.data.turns import Notes

_TURN = re.compile(r"(?:\A|\n\n)\s*(Human|User|Assistant|System):")


def is_transcript(text: object) -> bool:
    """Whether a text begins with somebody's turn and has the assistant's."""
    if not isinstance(text, str):
        return False
    first = _TURN.match(text)
    return first is not None and (first[1] == "Assistant" or "\n\nAssistant:" in text)


def transcript_messages(text: str, notes: Notes) -> list[Message]:
    """The turns of a transcript, without the white space around them."""
    before, *parts = _TURN.split(text)
    if before.strip():
        what = f"{before.strip()[:40]!r} stands before the first turn"
        notes.wrong("texts that are no transcript", what, 'begin with "Human: " (or "System: ")')
        return []
    pairs = zip(parts[::2], parts[1::2], strict=True)
    return [Message(ROLES[speaker.lower()], content.strip()) for speaker, content in pairs]
