"""The event log of a run, ``events.jsonl``: one JSON object a line, only ever appended to.

Everything that is shown about a run (the progress line, TensorBoard, ``follow``, pictures, reports, HTTP streams) is
read from these lines. Each has ``version``, ``time`` (Unix seconds), ``type``, ``attempt`` (0 at first, one more for
each resume and each time the run goes back to an earlier step) and ``step`` (optimizer updates done). A line exists once
its newline is written: what a crash leaves after the last newline is torn, readers ignore it and the next writer removes
it.
"""

from __future__ import annotations

import json
import math
import os
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from gptloom.config.errors import Problem, UserError

VERSION = 1
TYPES = ("start", "train", "timing", "evaluate", "sample", "checkpoint", "guard", "end")
REPEATED_TYPES = ("train", "timing", "evaluate", "sample")
"""Written again by an attempt that resumes from an earlier step, and so dropped where they are beyond it."""


class EventLog:
    """The one writer of a run's event log; the caller holds the run's lock.

    Raises OSError when the disk is full; the log then ends with the last whole line, and may be appended to again.
    """

    def __init__(self, path: str | Path, attempt: int = 0) -> None:
        self.path = Path(path)
        self.attempt = attempt
        self._file = self.path.open("ab", buffering=0)
        self._remove_torn_line()

    def append(self, type: str, *, step: int, sync: bool = False, **fields: Any) -> dict[str, Any]:
        """Writes one event and returns it exactly as it will be read back (numbers that are not finite become None).

        ``sync`` also waits until the line is on the disk: for what must survive a power cut before it is acted on.
        """
        assert type in TYPES, f"unknown event type {type!r}"
        head = {"version": VERSION, "time": round(time.time(), 3), "type": type, "attempt": self.attempt, "step": step}
        assert not head.keys() & fields.keys(), f"fields set by the log itself: {sorted(head.keys() & fields.keys())}"
        text = json.dumps(finite({**head, **fields}), ensure_ascii=False, allow_nan=False)
        line = text.encode("utf-8", errors="replace")
        self._write(line + b"\n")
        if sync:
            os.fsync(self._file.fileno())
        written: dict[str, Any] = json.loads(line)
        return written

    def close(self) -> None:
        self._file.close()

    def __enter__(self) -> EventLog:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _write(self, line: bytes) -> None:
        end = os.fstat(self._file.fileno()).st_size
        try:
            if self._file.write(line) != len(line):
                raise OSError(f"{self.path}: the disk took only part of a line")
        except OSError:
            self._file.truncate(end)
            raise

    def _remove_torn_line(self) -> None:
        whole = self.path.read_bytes().rfind(b"\n") + 1
        if whole < os.fstat(self._file.fileno()).st_size:
            self._file.truncate(whole)


def read_events(path: str | Path) -> list[dict[str, Any]]:
    """Every event that still holds, in the order written.

    Lines of ``train``, ``timing``, ``evaluate`` and ``sample`` beyond the step from which a later attempt started are left out:
    that attempt did those steps again. A missing file is an empty log. Raises UserError for a line that is not an
    event, or was written by a newer gptloom.
    """
    path = Path(path)
    content = path.read_bytes() if path.exists() else b""
    return _current(_parse(content, path, first_line=1))


def tail_events(
    path: str | Path, poll: float = 0.2, stop: Callable[[], bool] = lambda: False
) -> Iterator[dict[str, Any]]:
    """``read_events`` first, then each event as it is appended, until ``stop()`` is true and nothing more is there.

    ``poll`` is the time in seconds between two looks at the file, which need not exist yet. A ``start`` that arrives
    while following does not call back what was already yielded.
    """
    path = Path(path)
    offset, line, replaying = 0, 1, True
    while True:
        stopping = stop()  # asked before reading, so that lines written before the stop are never missed
        fresh, offset, line = _read_from(path, offset, line)
        yield from _current(fresh) if replaying else fresh
        replaying = False
        if fresh:
            continue
        if stopping:
            return
        time.sleep(poll)


def next_attempt(path: str | Path) -> int:
    """The number for the next process that works on the run: 0 for an empty log, else one more than the last."""
    return max((event["attempt"] + 1 for event in read_events(path)), default=0)


def _read_from(path: Path, offset: int, line: int) -> tuple[list[dict[str, Any]], int, int]:
    """The events of the whole lines from byte ``offset`` on, and where the next look begins (byte, line number)."""
    if not path.exists():
        return [], offset, line
    with path.open("rb") as file:
        if offset > os.fstat(file.fileno()).st_size:  # the run was begun anew in the same place
            offset, line = 0, 1
        file.seek(offset)
        content = file.read()
    return _parse(content, path, line), offset + content.rfind(b"\n") + 1, line + content.count(b"\n")


def _parse(content: bytes, path: Path, first_line: int) -> list[dict[str, Any]]:
    """Each whole line's event; what follows the last newline is torn and left out."""
    lines = content.split(b"\n")[:-1]
    return [_parse_line(line, f"{path}:{number}") for number, line in enumerate(lines, first_line)]


def _parse_line(line: bytes, where: str) -> dict[str, Any]:
    try:
        event = json.loads(line)
    except ValueError:
        event = None
    if not isinstance(event, dict) or not {"version", "type", "attempt", "step"} <= event.keys():
        shown = line[:60].decode("utf-8", "replace")
        raise UserError(Problem(f"not an event: {shown!r}", where, "remove this line; the others are read without it"))
    if event["version"] > VERSION:
        message = f"events of version {event['version']}, this gptloom reads up to version {VERSION}"
        raise UserError(Problem(message, where, "pip install --upgrade gptloom"))
    return event


def _current(events: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Without the lines that a later attempt wrote again: read backwards, the lowest start so far is the bound."""
    kept: list[dict[str, Any]] = []
    bound = math.inf
    for event in reversed(events):
        if event["type"] not in REPEATED_TYPES or event["step"] <= bound:
            kept.append(event)
        if event["type"] == "start":
            bound = min(bound, event["step"])
    return kept[::-1]


def finite(value: Any) -> Any:
    """``value`` with None for every float that JSON has no number for, and text for every key."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(key): finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [finite(item) for item in value]
    return value
