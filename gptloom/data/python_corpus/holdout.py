"""Parts the pages: whole modules and topics go to validation, and near-duplicates go from both parts."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from hashlib import sha256

from gptloom.data.python_corpus.duplicates import SeenText
from gptloom.data.python_corpus.pages import Page

HELD_OUT_SHARE = 0.09  # of the bytes of all modules, and of all topics


@dataclass(frozen=True)
class PageSplit:
    """Pages of both parts without near-duplicates. ``held_out`` names top-level modules and "topic NAME"."""

    train: list[Page]
    valid: list[Page]
    held_out: list[str]
    dropped: int  # docstrings and topics that said nothing new


def split_pages(pages: Sequence[Page]) -> PageSplit:
    """Hold out about 9 % of the modules' bytes and of the topics' bytes, then drop near-duplicates, training first."""
    held_out = sorted(
        group
        for topics in (False, True)
        for group in choose_held_out([page for page in pages if (page.kind == "topic") == topics])
    )
    seen = SeenText()
    train = _drop_seen([page for page in pages if page.group not in held_out], seen)
    valid = _drop_seen([page for page in pages if page.group in held_out], seen)
    left = sum(len(page.entries) for page in train + valid)
    return PageSplit(train, valid, held_out, sum(len(page.entries) for page in pages) - left)


def choose_held_out(pages: Sequence[Page]) -> list[str]:
    """Groups in the order of their names' hashes until their share is reached, passing over what would overshoot it."""
    sizes: Counter[str] = Counter()
    for page in pages:
        sizes[page.group] += len(page.render().encode())
    room = HELD_OUT_SHARE * sizes.total()
    enough = room * 0.1
    chosen = []
    for group in sorted(sizes, key=lambda group: sha256(group.encode()).hexdigest()):
        if room > enough and sizes[group] <= room:
            chosen.append(group)
            room -= sizes[group]
    return chosen


def _drop_seen(pages: Sequence[Page], seen: SeenText) -> list[Page]:
    """Long topics go first: what repeats is then the short chapter, and the long one that contains it stays whole."""
    order = sorted(range(len(pages)), key=lambda i: (pages[i].kind == "topic") * -len(pages[i].entries[0].text))
    left = {i: tuple(entry for entry in pages[i].entries if seen.take(entry.text)) for i in order}
    return [replace(page, entries=left[i]) for i, page in enumerate(pages) if left[i]]
