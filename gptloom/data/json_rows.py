"""JSON to rows with the line of each: one object per line, or a list of objects, or objects behind one another."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from gptloom.data.column_names import plain
from gptloom.data.instruction_names import HEADERS
from gptloom.data.lines import LOST_ROWS, Find, Line, Place

Values = dict[str, Any]

_SPACE = re.compile(r"[ \t\n\r]*")
_NEXT_ON_LINE = re.compile(r"[ \t\r]*,?[ \t\r]*[^\s,\]]")
HALF = re.compile("[\ud800-\udfff]")
"""Half of a surrogate pair, which JSON can spell and no UTF-8 text can hold."""
HALF_FOUND = "half of a surrogate pair (\\ud800 to \\udfff alone) is no character"
_OBJECT_MEND = (
    'write each row as {"prompt": ..., "completion": ...}, {"messages": [...]} or {"text": ..., "label": ...}'
)
# Lists of objects that belong to one row; any other list in the object that is all of a file holds the rows themselves.
_OF_A_ROW = ("messages", "conversations", "conversation", "instances", "items", "tools", "functions", "chosen")


def jsonl_rows(lines: Iterable[Line], find: Find) -> Iterator[tuple[int, Values]]:
    """The object on each line. Lines that hold none are found and left out."""
    for line in lines:
        if not line.sound or not line.text.strip():
            continue
        try:
            value = json.loads(line.text)
        except (ValueError, RecursionError) as error:
            find(line.number, "lines that are not JSON", *broken_json(error, line.text))
            continue
        if _is_row(value, line.text, line.number, find):
            yield line.number, value


@dataclass(frozen=True)
class Wrapper:
    """The object that is all of a file: ``{"version": 1, "data": [{...}, ...]}``."""

    lists: Mapping[
        str, tuple[int, int]
    ]  # the names of lists that may be the rows: where each begins and ends in the text
    is_row: bool  # whether it has a prompt or an answer of its own beside them

    @property
    def rows(self) -> str | None:
        """The list that can only be the rows."""
        return next(iter(self.lists)) if len(self.lists) == 1 and not self.is_row else None

    def problem(self, path: str) -> tuple[str, str]:
        """What to say where nobody knows what the rows are, and the command that takes the first list."""
        name = next(iter(self.lists))
        new = f"{path.rpartition('.json')[0] or path}.{name}.json"
        command = f"import json; json.dump(json.load(open({path!r}))[{name!r}], open({new!r}, 'w'))"
        return (
            f"one object that holds {' and '.join(map(repr, self.lists))}, not a list of rows",
            f'python -c "{command}"',
        )


def json_rows(
    lines: Iterable[Line], path: str, find: Find, say: Callable[[str], None]
) -> Iterator[tuple[int | Place, Values]]:
    """The objects of a list, or of a file that writes one behind another, each with the line where it begins; where
    several begin on a line, also with its number in the file. Of an object around a list of rows ``say`` is told.

    The text is held as a whole, its rows one at a time. What follows a mistake of syntax is not read.
    """
    kept = list(lines)
    unsound = [line.number for line in kept if not line.sound]
    text = "\n".join(line.text for line in kept)
    del kept
    line_before = 0
    wrapper = _wrapper(text)
    if wrapper is not None and wrapper.rows is None:
        find(1, LOST_ROWS, *wrapper.problem(path))
        return
    if wrapper is not None and wrapper.rows is not None:
        begin, end = wrapper.lists[wrapper.rows]
        line_before = text.count("\n", 0, begin)
        text = text[begin:end]
        say(f"its rows are those of {wrapper.rows!r}")
    before = 0  # the line where the row before began
    for item, (line, last, value, source, ends_line) in enumerate(_values(text, line_before, find), start=1):
        number = Place(line, item) if line == before or (line == last and not ends_line) else line
        before = line
        if any(line <= broken <= last for broken in unsound):
            continue
        if _is_row(value, source, number, find):
            yield number, value


def _values(text: str, line_before: int, find: Find) -> Iterator[tuple[int, int, Any, str, bool]]:
    """Every element of a list, or every value of a stream: its first line, its last line, itself, its text, and whether
    no other begins on its last line."""
    decode = json.JSONDecoder().raw_decode
    line, counted = line_before + 1, 0
    end_line = line_before + text.rstrip().count("\n") + 1

    def stop(at: int, what: str, mend: str | None) -> None:
        unread = f"lines {line} to {end_line} are" if line < end_line else "what follows in the file is"
        find(at, LOST_ROWS, f"{what}; {unread} not read", mend)

    place = _skip(text, 0)
    is_list = text.startswith("[", place)
    if is_list:
        place = _skip(text, place + 1)
    expected = not is_list or not text.startswith("]", place)
    while expected and (is_list or place < len(text)):
        line += text.count("\n", counted, place)
        counted = place
        try:
            value, end = decode(text, place)
        except (ValueError, RecursionError) as error:
            at = error.lineno if isinstance(error, json.JSONDecodeError) else line
            stop(at, *broken_json(error, text))
            return
        last = line + text.count("\n", place, end)
        yield line, last, value, text[place:end], _NEXT_ON_LINE.match(text, end) is None
        place = _skip(text, end)
        if not is_list:
            continue
        expected = text.startswith(",", place)
        if expected:
            place = _skip(text, place + 1)
        elif not text.startswith("]", place):
            line = last + text.count("\n", end, place)
            what, mend = "the list is not closed: the file may be cut off", "copy it again, or end it with ]"
            if place < len(text):
                what, mend = (
                    f"{text[place : place + 20]!r} where a comma or ] was expected",
                    "write a comma between rows",
                )
            stop(line, what, mend)
            return
    if is_list and _skip(text, place + 1) < len(text):
        line += text.count("\n", counted, _skip(text, place + 1))
        stop(line, "text behind the end of the list", "one list in a file: delete it, or write it to a file of its own")


def _skip(text: str, place: int) -> int:
    match = _SPACE.match(text, place)
    assert match is not None
    return match.end()


def _is_row(value: Any, source: str, number: int | Place, find: Find) -> bool:
    if not isinstance(value, dict):
        kind = {"list": "list", "str": "text", "NoneType": "null", "bool": "true or false"}
        what = f"a JSON {kind.get(type(value).__name__, 'number')}, not an object"
        find(number, "rows that are no objects", what, _OBJECT_MEND)
        return False
    if "\\ud" in source.lower() and HALF.search(json.dumps(value, ensure_ascii=False)):
        find(number, "rows with half characters", HALF_FOUND, "delete it")
        return False
    return True


def _wrapper(text: str) -> Wrapper | None:
    """The object that is all of a text, where it holds lists of rows."""
    decode = json.JSONDecoder().raw_decode
    place = _skip(text, 0)
    if not text.startswith("{", place):
        return None
    try:
        value, end = decode(text, place)
    except (ValueError, RecursionError):
        return None
    lists = {name for name, inner in value.items() if name not in _OF_A_ROW and _are_rows(inner)}
    if not lists or _skip(text, end) < len(text):
        return None
    spans = {name: (begin, end) for name, begin, end in _members(text, place) if name in lists}
    return Wrapper(spans, any(plain(name) in HEADERS for name in value if name not in lists))


def _are_rows(value: Any) -> bool:
    return isinstance(value, list) and len(value) > 1 and isinstance(value[0], dict)


def _members(text: str, place: int) -> Iterator[tuple[str, int, int]]:
    """The name of every member of the sound object at ``place``, and where its value begins and ends."""
    decode = json.JSONDecoder().raw_decode
    sign = "{"
    while text.startswith(sign, place):
        name, end = decode(text, _skip(text, place + 1))
        begin = _skip(text, _skip(text, end) + 1)  # behind the colon
        _, end = decode(text, begin)
        yield name, begin, end
        place, sign = _skip(text, end), ","


def broken_json(error: Exception, text: str) -> tuple[str, str]:
    """What is wrong with JSON that does not parse, and the usual cause of it."""
    if isinstance(error, RecursionError):
        return "not JSON: nested too deeply", "delete the line"
    if not isinstance(error, json.JSONDecodeError):
        return f"not JSON: {error}", "write the number as text"
    here = text[error.pos : error.pos + 1]
    mend = "mend or delete the line"
    if not text[error.pos :].strip():
        mend = "the line or file is cut off: copy it again, or end it with the missing quote, ] or }"
    elif here == "'":
        mend = "JSON knows double quotes only; Python writes it with json.dumps(row), not str(row)"
    elif error.msg.startswith("Expecting ',' delimiter"):
        mend = r"a comma is missing, or a quote inside a text lacks its backslash: \""
    elif error.msg.startswith("Extra data"):
        mend = "one object on each line: break the line there" if here == "{" else "delete what follows the object"
    elif error.msg.startswith("Unterminated string"):
        mend = r"a text lacks its closing quote; a line end inside a text is written \n"
    elif error.msg.startswith("Invalid control character"):
        mend = r"a tab or line end inside a text is written \t or \n"
    elif error.msg.startswith("Invalid \\"):
        mend = r"a backslash in a text is written twice: \\"
    elif here in ("]", "}") or "trailing comma" in error.msg:
        mend = "delete the comma before ] or }"
    elif text[error.pos :].startswith(("True", "False", "None")):
        mend = "JSON writes true, false and null; Python writes it with json.dumps(row), not str(row)"
    return f"not JSON: {error.msg.removesuffix(' at')} at column {error.colno}", mend
