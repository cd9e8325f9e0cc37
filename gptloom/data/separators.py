"""What ends every prompt and every completion of a file: found where it was put on purpose, never where it is chance.

Prompts that all end in the letter y share a suffix, and so do questions, which all end in a question mark. Neither
tells a model that its turn has come. A *separator* does: a mark such as ``" ->"``, or a line of its own such as
``"\\n\\n###\\n\\n"`` or ``"\\nAnswer:"``. A *stop* does the same for the end of a completion.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Callable, Iterable, Sequence

SEPARATORS = (
    " ->",  # where no prompt has a line break
    "\n\n###\n\n",
    "\n\n===\n\n",
    "\n\n---\n\n",
    "\n\n===>\n\n",
    "\n\n--->\n\n",
    "\n\n### =>\n\n",
)
"""Those that OpenAI's tool adds to prompts: the first that is in none of them; the last where all are."""

STOPS = ("\n", " END", "***", "+++", "&&&", "$$$", "@@@", "%%%", " [END]")
"""The same for completions, but for OpenAI's full stop: nobody can tell it from the end of a sentence."""

LONGEST_LABEL = 40
"""Characters of a last line that says whose turn it is; a longer one says more."""

_STOPS_OF_SENTENCES = (".", "!", "?", "…", "。", "！", "？", "؟", "।")
_ENDS_OF_SENTENCES = ".!?…,;\"'’”»)]}。！？、，；」』）؟।"


def separator_of(prompts: Iterable[str]) -> str:
    """The separator that ends every prompt; ``""`` where there is none.

    It is the longest common suffix that is one of ``SEPARATORS``, whole lines (of different prompts), or a mark without
    letters and digits that is more than the end of a sentence and more than spaces. Lines with letters are a request that
    belongs to the prompt, but for a short last one that is no sentence: ``Answer:``.
    """
    return _deliberate(list(prompts), SEPARATORS, _turn_lines)


def stop_of(completions: Iterable[str]) -> str:
    """The stop text that ends every completion and stands nowhere else in one; ``""`` where there is none."""
    texts = list(completions)
    stop = _deliberate(texts, STOPS, _whole_lines)
    return stop if all(text.find(stop) == len(text) - len(stop) for text in texts) else ""


def common_suffix(texts: Iterable[str]) -> str:
    """The longest text that all end in; of several equal texts, the text itself."""
    return common_prefix(text[::-1] for text in texts)[::-1]


def common_prefix(texts: Iterable[str]) -> str:
    """The longest text that all begin with; of several equal texts, the text itself."""
    shared: str | None = None
    for text in texts:
        if shared is None:
            shared = text
        if not text.startswith(shared):
            same = next((i for i, (a, b) in enumerate(zip(shared, text, strict=False)) if a != b), len(text))
            shared = shared[:same]
        if not shared:
            break
    return shared or ""


def _deliberate(texts: Sequence[str], known: Iterable[str], lines_of: Callable[[str], str]) -> str:
    """The part of the common suffix that was put there on purpose: the longest one that looks like it."""
    suffix = common_suffix(texts)
    candidates = [mark for mark in known if suffix.endswith(mark)]
    if any(text != suffix for text in texts):
        candidates.append(lines_of(suffix))
    return max([*candidates, _mark(suffix)], key=len)


def _whole_lines(suffix: str) -> str:
    """From the first line break on."""
    start = suffix.find("\n")
    return "" if start < 0 else suffix[start:]


def _turn_lines(suffix: str) -> str:
    """From a line break on: all lines without letters, of which the last may be a short label."""
    _, *lines = suffix.split("\n")
    last = next((i for i in range(len(lines) - 1, -1, -1) if lines[i].strip()), 0)
    first = len(lines)
    while first and (not _has_letters(lines[first - 1]) or (first - 1 == last and _is_label(lines[last]))):
        first -= 1
    return "".join(f"\n{line}" for line in lines[first:])


def _has_letters(line: str) -> bool:
    return any(map(_is_letter, line))


def _is_label(line: str) -> bool:
    return len(line.strip()) <= LONGEST_LABEL and not line.rstrip().endswith(_STOPS_OF_SENTENCES)


def _mark(suffix: str) -> str:
    """The end without letters and digits, and without the end of the sentence before it; ``""`` for spaces alone."""
    start = len(suffix)
    while start and not _is_letter(suffix[start - 1]):
        start -= 1
    mark = suffix[start:].lstrip(_ENDS_OF_SENTENCES)
    return mark if mark.strip() or "\n" in mark else ""


def _is_letter(character: str) -> bool:
    """Letters, digits, and the marks that belong to a letter (vowel signs, accents)."""
    return unicodedata.category(character)[0] in "LNM"
