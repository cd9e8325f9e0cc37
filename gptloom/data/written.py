"""The text that a template makes of messages, and where in it each message stands: known, never searched for.

A template is a program that may do anything, and returns only a string. So it is run twice: on the messages as they are,
and on messages whose texts carry *tags*, private-use characters that occur nowhere else, one before and one behind each
text and around each special token that is spelled in one. Taken out again the tags must leave exactly the first string;
where they stood says what is a message's and what the template's own. White space around a text stays outside its tags,
so that templates may trim it.
"""

from __future__ import annotations

import json
import re
from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from gptloom.data.chat_template import ChatTemplate, TemplateFailure
from gptloom.data.conversation import Message

Span = tuple[int, int]  # characters: the first, one past the last
Tools = Sequence[Mapping[str, Any]]

_PRIVATE = range(0xF0000, 0x10FFFE)  # private-use planes 15 and 16
_PRIVATE_USE = re.compile("[\U000f0000-\U0010fffd]")
_TEXTS = ("content", "instruction", "input")  # keys of a message that a template may write
_OVERALL = -1  # the tools of a conversation, in the place of the number of a message


class Unrenderable(Exception):
    """A conversation that a template cannot hold as it is; ``kind`` completes "and 7 more: ..."."""

    def __init__(self, kind: str, what: str, mend: str | None = None) -> None:
        super().__init__(what)
        self.kind, self.what, self.mend = kind, what, mend


@dataclass(frozen=True)
class Written:
    """A conversation as text."""

    text: str
    specials: list[tuple[Span, str]]  # special tokens that the template wrote, in order, with their spelling
    starts: Mapping[int, Sequence[int]]  # message number: characters at which a text or call of it begins
    ends: Mapping[int, Sequence[int]]  # and one past the last of each; white space around a text is not of it
    quoted: bool  # whether a special token is spelled in what messages or tools say


class Writer:
    """Writes conversations with one template."""

    def __init__(
        self, name: str, template: ChatTemplate, variables: Mapping[str, str], special_tokens: Collection[str]
    ) -> None:
        """``name`` begins sentences to people; ``variables`` are the template's; ``special_tokens`` are spellings."""
        self.name = name
        self._template, self._variables = template, variables
        longest_first = sorted(special_tokens, key=len, reverse=True)
        self._special = re.compile("|".join(map(re.escape, longest_first)) or "(?!)")

    def text(self, messages: Sequence[Message], tools: Tools, *, answer: bool, now: datetime) -> str:
        """What ``transformers`` would make of the messages; ``answer``: up to where the assistant begins.

        Raises:
            Unrenderable: the template refuses.
        """
        return self._run([_values(message) for message in messages], list(tools), answer, now)

    def write(self, messages: Sequence[Message], tools: Tools, *, answer: bool, now: datetime) -> Written:
        """`text`, and what stands where.

        Raises:
            Unrenderable: the template refuses, leaves something out (of what an assistant says it may leave out a part, as
                templates do that forget earlier thinking), or looks at texts so that they cannot be found again.
        """
        plain = self.text(messages, tools, answer=answer, now=now)
        tags = _Tags(plain, self._special)
        tagged = [_tagged(tags, number, _values(message)) for number, message in enumerate(messages)]
        tagged_tools = [_tagged_tool(tags, _OVERALL, tool) for tool in tools]
        text, found = tags.taken_out(self._run(tagged, tagged_tools, answer, now))
        if text != plain:
            what = f"{self.name} cuts texts or looks into them: where each stands cannot be told"
            raise Unrenderable("templates that look into texts", what, "another --template")
        self._check(messages, tags, found)
        own = [span for tag, spans in found.items() for span in spans if text[slice(*span)] == tag.text]
        specials = self._specials(plain, own + found.quoted)
        starts: defaultdict[int, list[int]] = defaultdict(list)
        ends: defaultdict[int, list[int]] = defaultdict(list)
        for tag in tags.all:
            starts[tag.owner] += found.places[tag.before]
            ends[tag.owner] += found.places[tag.behind]
        quoted = len(self._special.findall(plain)) != len(specials)
        return Written(plain, specials, dict(starts), dict(ends), quoted)

    def _run(self, messages: list[dict[str, Any]], tools: Tools, answer: bool, now: datetime) -> str:
        try:
            return self._template.write(messages, tools, answer=answer, variables=self._variables, now=now)
        except TemplateFailure as failure:
            what = f"{self.name} refuses: {failure}"
            raise Unrenderable("refused by the template", what, "another --template, or leave this out") from failure

    def _specials(self, text: str, data: Sequence[Span]) -> list[tuple[Span, str]]:
        """The special tokens of the template itself: those spelled outside of what messages and tools say."""
        masked = text
        for first, end in data:
            masked = f"{masked[:first]}{chr(0) * (end - first)}{masked[end:]}"
        return [(match.span(), match.group()) for match in self._special.finditer(masked)]

    def _check(self, messages: Sequence[Message], tags: _Tags, found: _Found) -> None:
        """Everything that was tagged has come out again."""
        for owner in sorted({tag.owner for tag in tags.all}):
            keys = {tag.key: found.state(tag) for tag in tags.all if tag.owner == owner}
            said = [keys["content"]] if "content" in keys else []
            apart = [keys[key] for key in ("instruction", "input") if key in keys]
            if "instruction" in keys and min(apart) == ALL:  # together they are the content
                said = apart
            calls = [state for key, state in keys.items() if key not in _TEXTS]
            needed = PART if owner != _OVERALL and messages[owner].role == "assistant" else ALL
            if min([*said, *calls], default=ALL) >= needed:
                continue
            if owner == _OVERALL:
                what, mend = f"{self.name} leaves out the tools", "--template gptloom, chatml or llama"
            else:
                lost = "leaves out" if max([*said, *calls]) == NONE else "leaves out a part of"
                what = f"{self.name} {lost} message {owner + 1} ({messages[owner].role})"
                mend = "another --template, or leave the message out"
            raise Unrenderable("messages that the template leaves out", what, mend)


# ---- tags ------------------------------------------------------------------------------------------------------------

NONE, PART, ALL = range(3)  # how much of a text came out


@dataclass(frozen=True)
class _Tag:
    """The characters before and behind one text."""

    owner: int  # number of the message
    key: str
    text: str  # between the two
    before: str
    behind: str


class _Found(dict[_Tag, list[Span]]):
    """Tag -> where its text stands: nowhere, once, or as often as the template writes it."""

    def __init__(self) -> None:
        super().__init__()
        self.places: defaultdict[str, list[int]] = defaultdict(list)  # where each character came out
        self.quoted: list[Span] = []  # special tokens spelled in messages or tools

    def state(self, tag: _Tag) -> int:
        """How much of a text was written: whole where its begin came out as often as its end."""
        before, behind = len(self.places[tag.before]), len(self.places[tag.behind])
        return ALL if before and before == behind else PART if before or behind else NONE


class _Tags:
    """Hands out characters that ``text`` does not hold, and finds them again."""

    def __init__(self, text: str, special: re.Pattern[str]) -> None:
        taken = set(_PRIVATE_USE.findall(text))
        self._free: Iterator[str] = (chr(code) for code in _PRIVATE if chr(code) not in taken)
        self._special = special
        self._quote, self._unquote = next(self._free), next(self._free)
        self.all: list[_Tag] = []

    def tag(self, owner: int, key: str, text: str) -> str:
        """``text`` between two characters of its own; white space stays outside, nothing is nothing."""
        said = text.strip()
        if not said:
            return text
        tag = _Tag(owner, key, said, next(self._free), next(self._free))
        self.all.append(tag)
        first = text.index(said)
        inside = f"{tag.before}{self.quoted(said)}{tag.behind}"
        return _Tagged(f"{text[:first]}{inside}{text[first + len(said) :]}", text)

    def quoted(self, text: str) -> str:
        """``text`` with every special token that is spelled in it between two characters."""
        return self._special.sub(f"{self._quote}\\g<0>{self._unquote}", text)

    def taken_out(self, raw: str) -> tuple[str, _Found]:
        """``raw`` without the characters, and where they stood."""
        owners = {character: tag for tag in self.all for character in (tag.before, tag.behind)}
        characters = "".join([self._quote, self._unquote, *owners])
        parts, found, last, length = [], _Found(), 0, 0
        opened: dict[str, int] = {}
        for match in re.finditer(f"[{characters}]", raw):
            parts.append(raw[last : match.start()])
            length += len(parts[-1])
            last = match.end()
            character = match.group()
            found.places[character].append(length)
            tag = owners.get(character)
            begins = character in (self._quote, tag.before if tag else None)
            if begins:
                opened[tag.behind if tag else self._unquote] = length
            elif character in opened:
                spans = found.setdefault(tag, []) if tag else found.quoted
                spans.append((opened.pop(character), length))
        return "".join([*parts, raw[last:]]), found


class _Tagged(str):
    """A tagged text that answers a template's questions as the untagged one would."""

    plain: str

    def __new__(cls, tagged: str, plain: str) -> _Tagged:
        made = super().__new__(cls, tagged)
        made.plain = plain
        return made

    def __eq__(self, other: object) -> bool:
        return self.plain == other

    def __ne__(self, other: object) -> bool:
        return self.plain != other

    def __hash__(self) -> int:
        return hash(self.plain)

    def __len__(self) -> int:
        return len(self.plain)

    def startswith(self, *asked: Any) -> bool:
        return self.plain.startswith(*asked)

    def endswith(self, *asked: Any) -> bool:
        return self.plain.endswith(*asked)

    def strip(self, chars: str | None = None) -> str:
        return _Tagged(str.strip(self, chars), self.plain.strip(chars))

    def lstrip(self, chars: str | None = None) -> str:
        return _Tagged(str.lstrip(self, chars), self.plain.lstrip(chars))

    def rstrip(self, chars: str | None = None) -> str:
        return _Tagged(str.rstrip(self, chars), self.plain.rstrip(chars))


# ---- what a template is given ----------------------------------------------------------------------------------------


def _values(message: Message) -> dict[str, Any]:
    """The message as templates know it: no key without a value, and arguments of calls as objects, not as JSON."""
    values = {key: value for key, value in message.as_dict().items() if value is not None}
    if values.get("tool_calls"):
        values["tool_calls"] = [_call(call) for call in values["tool_calls"]]
    return values


def _call(call: Mapping[str, Any]) -> dict[str, Any]:
    """A call whose arguments are an object: OpenAI's files have them as the text of one, which would be quoted twice."""
    if "function" in call:
        return {**call, "function": _call(call["function"])}
    arguments = call.get("arguments")
    if isinstance(arguments, str):
        try:
            read = json.loads(arguments)
        except (ValueError, RecursionError):
            return dict(call)
        return {**call, "arguments": read} if isinstance(read, dict) else dict(call)
    return dict(call)


def _tagged(tags: _Tags, owner: int, values: Mapping[str, Any]) -> dict[str, Any]:
    """A message whose texts, and names of called functions, are tagged."""
    made: dict[str, Any] = {}
    for key, value in values.items():
        if key in _TEXTS and isinstance(value, str):
            made[key] = tags.tag(owner, key, value)
        elif key == "tool_calls":
            made[key] = [_tagged_tool(tags, owner, call) for call in value]
        else:
            made[key] = value if key == "role" else _quoted(tags, value)
    return made


def _tagged_tool(tags: _Tags, owner: int, tool: Mapping[str, Any]) -> dict[str, Any]:
    """A call or a description whose function's name is tagged."""
    made: dict[str, Any] = _quoted(tags, tool)
    if isinstance(tool.get("function"), Mapping):
        made["function"] = _tagged_tool(tags, owner, tool["function"])
    elif isinstance(tool.get("name"), str):
        made["name"] = tags.tag(owner, f"call {len(tags.all)}", tool["name"])
    return made


def _quoted(tags: _Tags, value: Any) -> Any:
    """Any JSON value with the special tokens in its texts quoted."""
    if isinstance(value, str):
        return tags.quoted(value)
    if isinstance(value, Mapping):
        return {key: _quoted(tags, one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [_quoted(tags, one) for one in value]
    return value
