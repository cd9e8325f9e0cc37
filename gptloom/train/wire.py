"""What the launchers of several machines tell each other: JSON documents, one a line, over a TCP connection."""

from __future__ import annotations

import json
import select
import socket
import time
from typing import Any

BEAT = 2.0  # seconds after which a side that has nothing to say says so
SILENCE = 40.0  # seconds without a word after which the other is taken for lost: the workers' watchdogs speak before
LONGEST = 1 << 20  # bytes of a line: who sends more is no launcher


class Wire:
    """One end of a connection. Everything that ends it is a ConnectionError that says how."""

    def __init__(self, connection: socket.socket) -> None:
        connection.settimeout(5.0)
        self.connection = connection
        self._buffer = b""
        self._heard = self._sent = time.monotonic()

    @property
    def silence(self) -> float:
        """Seconds since the other side was heard."""
        return time.monotonic() - self._heard

    def send(self, type: str, **fields: Any) -> None:
        try:
            self.connection.sendall(json.dumps({"type": type, **fields}).encode() + b"\n")
        except OSError as error:
            raise ConnectionError(f"is gone ({error.strerror or error})") from None
        self._sent = time.monotonic()

    def beat(self) -> None:
        """Says that this side lives, if it has been silent."""
        if time.monotonic() - self._sent > BEAT:
            self.send("beat")

    def receive(self, seconds: float = 0.0) -> list[dict[str, Any]]:
        """What has come, after waiting ``seconds`` for something at most; nothing that only says that the other lives."""
        if not select.select([self.connection], [], [], seconds)[0]:
            if self.silence > SILENCE:
                raise ConnectionError(f"has not answered for {self.silence:.0f} s")
            return []
        try:
            read = self.connection.recv(1 << 16)
        except OSError as error:
            raise ConnectionError(f"is gone ({error.strerror or error})") from None
        if not read:
            raise ConnectionError("is gone (connection closed)")
        self._heard = time.monotonic()
        *lines, self._buffer = (self._buffer + read).split(b"\n")
        try:
            documents = [json.loads(line) for line in lines]
            if len(self._buffer) > LONGEST or not all(isinstance(found["type"], str) for found in documents):
                raise ValueError
        except (ValueError, TypeError, KeyError):
            raise ConnectionError("is no launcher of gptloom") from None
        return [document for document in documents if document["type"] != "beat"]

    def leave(self, type: str, **fields: Any) -> None:
        """Says a last thing."""
        self.send(type, **fields)
        self.close()

    def close(self) -> None:
        self.connection.close()
