"""Messages as files write them become messages of ours; what is wrong with one, or with their order, is found."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from gptloom.config.errors import nearest
from gptloom.data.cells import no_text, spelled
from gptloom.data.conversation import EXTRA_KEYS, Message, Role
from gptloom.data.findings import Findings
from gptloom.data.instruction_names import IDLE_MESSAGE_KEYS, MESSAGE_KEYS, ROLES

_SAYS: dict[Role, str] = {
    "system": "the system's",
    "user": "the user's",
    "assistant": "the assistant's",
    "tool": "a tool's",
}
_MAY_FOLLOW: dict[Role | None, tuple[Role, ...]] = {
    None: ("system", "user", "assistant"),
    "system": ("user", "assistant"),
    "user": ("assistant",),
    "assistant": ("user", "tool"),
    "tool": ("tool", "assistant"),
}
_SPELLINGS = ({"role", "content"}, {"from", "value"})


@dataclass
class Notes:
    """What is found in one row: mistakes, which leave it out, and oddities."""

    where: str
    findings: Findings
    warnings: Findings
    about: str = ""  # which of two conversations in the row: "rejected: "
    is_wrong: bool = False

    def wrong(self, kind: str, what: str, mend: str | None = None) -> None:
        self.is_wrong = True
        self.findings.add(kind, self.about + what, self.where, mend)

    def odd(self, kind: str, what: str, mend: str | None = None) -> None:
        self.warnings.add(kind, self.about + what, self.where, mend)


def text_of(cell: Any, name: str, notes: Notes) -> str:
    """A cell as text: numbers are spelled, nothing is "". A list or an object is a mistake."""
    if kind := no_text(cell):
        notes.wrong(f"{name} that is no text", f"{name!r} holds {kind}, not text", "write it as text")
        return ""
    return spelled(cell)


def listed(cell: Any) -> Any:
    """The list or object itself, also where a table's cell spells it as JSON; anything else as it is."""
    if isinstance(cell, str) and cell.lstrip()[:1] in ("[", "{"):
        try:
            return json.loads(cell)
        except (ValueError, RecursionError):
            return cell
    return cell


def are_messages(cell: Any) -> bool:
    """Whether a cell is a list or an object, or spells a list of messages; other JSON that is spelled is a text."""
    found = listed(cell)
    if found is cell or not isinstance(found, list):
        return isinstance(cell, list | dict)
    return bool(found) and all(
        isinstance(entry, dict) and any(keys <= entry.keys() for keys in _SPELLINGS) for entry in found
    )


def messages_of(cell: Any, name: str, notes: Notes) -> list[Message]:
    """The messages in a list: OpenAI's (role, content) or ShareGPT's (from, value)."""
    found = listed(cell)
    if isinstance(found, dict) and isinstance(found.get("messages"), list):
        found = found["messages"]
    if not isinstance(found, list):
        kind = "missing" if found is None else "an object" if isinstance(found, dict) else "text"
        mend = '[{"role": "user", "content": "..."}, {"role": "assistant", "content": "..."}]'
        notes.wrong(f"{name} that are no list", f"{name!r} is {kind}, not a list of messages", mend)
        return []
    if not found:
        notes.wrong("conversations without messages", f"{name!r} is empty", "delete the row")
    messages = [message_of(entry, i, notes) for i, entry in enumerate(found, start=1)]
    return [message for message in messages if message is not None]


def message_of(entry: Any, number: int, notes: Notes, role: Role | None = None) -> Message | None:
    """One message; ``role`` is of one that does not say it. None where it cannot be read."""
    if not isinstance(entry, dict):
        what = f"message {number} is {json.dumps(entry, ensure_ascii=False, default=str)[:40]}, not an object"
        notes.wrong("messages that are no objects", what, '{"role": "user", "content": "..."}')
        return None
    _find_unknown_keys(entry, number, notes)
    role = _role_of(entry, number, notes, role)
    content = _content_of(entry, number, notes)
    if role is None or content is None:
        return None
    extra = {key: entry[key] for key in EXTRA_KEYS if entry.get(key) is not None}
    if isinstance(entry.get("function_call"), dict):  # OpenAI's older spelling
        extra["tool_calls"] = [{"type": "function", "function": entry["function_call"]}]
    return Message(role, content, _weight_of(entry, role, number, notes), extra)


def _find_unknown_keys(entry: Mapping[str, Any], number: int, notes: Notes) -> None:
    for key, value in entry.items():
        if key not in MESSAGE_KEYS and key not in IDLE_MESSAGE_KEYS and value is not None:
            kind = f"messages with a key {key!r}"
            notes.odd(kind, f"message {number} has a key {key!r}, which does nothing", nearest(key, MESSAGE_KEYS))


def _role_of(entry: Mapping[str, Any], number: int, notes: Notes, default: Role | None) -> Role | None:
    said = entry.get("role", entry.get("from"))
    if said is None and default is not None:
        return default
    if said is None:
        what = f"message {number} has no role (its keys: {', '.join(map(str, entry)) or 'none'})"
        notes.wrong("messages without a role", what, f'"role": {_spelled(tuple(_SAYS))}')
    elif str(said).strip().lower() in ROLES:
        return ROLES[str(said).strip().lower()]
    else:
        what = f"message {number} has the role {said!r}"
        notes.wrong("messages of an unknown role", what, nearest(str(said), ROLES))
    return None


def _content_of(entry: Mapping[str, Any], number: int, notes: Notes) -> str | None:
    """Text, or a list of parts of text; with tool calls it may be missing."""
    content = entry.get("content", entry.get("value"))
    if isinstance(content, str):
        return content
    if content is None:
        if entry.get("tool_calls") or entry.get("function_call"):
            return ""
        state = "null as content" if "content" in entry or "value" in entry else "no content"
        what = f"message {number} has {state} (its keys: {', '.join(map(str, entry))})"
        notes.wrong("messages without content", what, '"content": "..."')
        return None
    parts = content if isinstance(content, list) else [content]
    texts = []
    for part in parts:
        text = part if isinstance(part, str) else part.get("text") if isinstance(part, dict) else None
        if not isinstance(text, str):
            kind = str(part.get("type", "an object")) if isinstance(part, dict) else type(part).__name__
            what = f"message {number} has content of the type {kind}"
            notes.wrong("messages with content that is no text", what, "only text is read: leave the message out")
            return None
        texts.append(text)
    return "".join(texts)


def _weight_of(entry: Mapping[str, Any], role: Role, number: int, notes: Notes) -> float:
    weight = entry.get("weight")
    if weight is None:
        return 1.0
    if role != "assistant":
        what = f"message {number} is {_SAYS[role]} and has a weight: only the assistant's are learned"
        notes.odd("weights that do nothing", what, "leave it out")
        return 1.0
    if not isinstance(weight, int | float) or isinstance(weight, bool) or not 0 <= weight <= 1 or math.isnan(weight):
        what = f"message {number} has the weight {weight!r}"
        notes.wrong("weights that are none", what, "0 (not learned) or 1")
        return 1.0
    return float(weight)


def check_turns(messages: Sequence[Message], notes: Notes) -> None:
    """Finds roles out of order, turns in which nobody says anything, and conversations of which nothing is learned."""
    before: Role | None = None
    for number, message in enumerate(messages, start=1):
        if message.role not in _MAY_FOLLOW[before]:
            what, mend = _out_of_order(before, message.role, number)
            notes.wrong("conversations whose roles are out of order", what, mend)
            return
        before = message.role
    if before != "assistant":
        last = (
            "there is only a system message" if before == "system" else f"the last message is {_SAYS[before or 'user']}"
        )
        mend = "write the assistant's answer to it, or delete the message"
        notes.wrong("conversations that end without an answer", f"{last}: nothing is answered", mend)
        return
    _find_empty(messages, notes)
    if not any(message.weight for message in messages if message.role == "assistant"):
        what = "every message of the assistant has weight 0: nothing is learned, the row is left out"
        notes.odd("conversations of weight 0", what, '"weight": 1 for what is to be learned')


def _out_of_order(before: Role | None, role: Role, number: int) -> tuple[str, str]:
    if role == "system":
        return f"message {number} is the system's, which must come first", "move it to the front, or delete it"
    if role == "tool":
        return f"message {number} is a tool's, but nobody called one", "put the assistant's call before it"
    if role == before:
        missing = "an answer" if role == "user" else "a question"
        what = f"messages {number - 1} and {number} are both {_SAYS[role]}: {missing} between them is missing"
        return what, "join the two, or write what is missing"
    what = f"message {number} is {_SAYS[role]} behind {_SAYS[before or 'user']}"
    return what, "the assistant answers what a tool said before anyone else speaks"


def _find_empty(messages: Sequence[Message], notes: Notes) -> None:
    for number, message in enumerate(messages, start=1):
        if message.content.strip() or message.extra.get("tool_calls"):
            continue
        state = "is white space only" if message.content else "is empty"
        if message.role == "assistant" and message.weight > 0:
            what = f"the answer {state}"
            if len(messages) > 2:
                what = f"message {number}, the assistant's, {state}"
            notes.wrong("empty answers", what, "write an answer, or delete the row")
        elif message.role != "tool":  # a tool may return nothing
            notes.odd(
                "empty messages", f"message {number}, {_SAYS[message.role]}, {state}", "write it, or delete the row"
            )


def _spelled(names: Sequence[str]) -> str:
    return ", ".join(f'"{name}"' for name in names[:-1]) + f' or "{names[-1]}"'
