"""A long text where there is room for a short one."""

from __future__ import annotations


def beginning(text: str, longest: int) -> str:
    """``text``, or its first characters and ``…``: ``longest`` characters at most."""
    return text if len(text) <= longest else text[: longest - 1] + "…"
