"""Says in one sentence what gloo's, NCCL's and the store's errors mean: another process of the training is gone."""

from __future__ import annotations

import re
from collections.abc import Mapping

# What torch's backends write when a process at the other end ended, or its machine or the network did.
CLOSED = (
    "Connection closed by peer",
    "Connection reset by peer",
    "Connection was closed",
    "Connection refused",
    "Broken pipe",
    "Socket Timeout",
    "remote process exited",
    "ncclRemoteError",
    "NCCL communicator was aborted",
)
LATE = (
    "Timed out waiting",
    "Application timeout caused pair closure",
    "Watchdog caught collective operation timeout",
    "wait timeout after",
)


def lost_peer(error: BaseException, places: Mapping[str, str] | None = None) -> str | None:
    """What an error says about another process that ended or hangs; None when it is about something else.

    ``places`` says who is at an address, where the error names one.
    """
    text = str(error)
    if not isinstance(error, RuntimeError):
        return None
    if any(phrase in text for phrase in LATE):
        return "a process did not take part in an exchange in time: it hangs, or cannot be reached"
    found = next((phrase for phrase in CLOSED if phrase in text), None)
    if found is None:
        return None
    address = re.search(r"\[([0-9a-fA-F.:]+)\]:\d+", text)
    named = (places or {}).get(address[1]) if address else None
    who = named or (f"a process at {address[1]}" if address else "a process of this training")
    return f"the connection to {who} is lost ({found}): it has ended, or its machine or the network did"
