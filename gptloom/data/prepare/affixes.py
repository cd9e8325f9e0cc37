"""Checks of how prompts and completions begin and end: separator, stop, prefixes that all share, the space in front."""

from __future__ import annotations

from collections.abc import Sequence

from gptloom.data.findings import counted
from gptloom.data.prepare.finding import Finding, Level, Remedy, places, quoted
from gptloom.data.prepare.reader import Reader
from gptloom.data.prepare.rows import Pairs
from gptloom.data.separators import SEPARATORS, STOPS, common_prefix, common_suffix, separator_of, stop_of

LONG_SUFFIX = 10  # characters; each is read, or written, with every example
LONG_PROMPT_PREFIX = 12
LONG_COMPLETION_PREFIX = 5


def separator(rows: Pairs, reader: Reader) -> list[Finding[Pairs]]:
    """What ends every prompt, so that the model knows where its answer begins."""
    if rows.kind == "open-ended":
        return []
    there = separator_of(rows.prompts)
    if there:
        return [_existing("separator", "prompts", there, rows.prompts, rows.wheres)]
    text = "nothing ends every prompt, so a model cannot know where its answer is to begin"
    chance = common_suffix(rows.prompts)
    if chance:
        text += f" (that all end in {quoted(chance)} tells it nothing)"
    added = _unused(SEPARATORS, rows.prompts)
    what = f"Put the separator {added!r} behind every prompt"
    return [Finding("separator", text, Remedy(what, lambda rows: rows.with_prompts(lambda text: text + added)))]


def stop(rows: Pairs, reader: Reader) -> list[Finding[Pairs]]:
    """What ends every completion. Classes need nothing: they are known by their beginning."""
    if rows.kind != "conditional":
        return []
    there = stop_of(rows.completions)
    if there:
        return [_existing("stop", "completions", there, rows.completions, rows.wheres)]
    added = _unused(STOPS, rows.completions)
    text = "nothing ends every completion, so a program that asks the model cannot know where to stop"
    what = f"Put the stop {added!r} behind every completion"
    return [Finding("stop", text, Remedy(what, lambda rows: rows.with_completions(lambda text: text + added)))]


def _unused(marks: Sequence[str], texts: Sequence[str]) -> str:
    """The first mark that stands in no text, else the last one. An arrow is for prompts of one line."""
    several_lines = any("\n" in text for text in texts)
    usable = [mark for mark in marks if not (several_lines and mark == SEPARATORS[0])]
    return next((mark for mark in usable if not any(mark in text for text in texts)), usable[-1])


def _existing(check: str, whose: str, mark: str, texts: Sequence[str], wheres: Sequence[str]) -> Finding[Pairs]:
    text = f"all {whose} end in {quoted(mark)}"
    if len(mark) > LONG_SUFFIX:
        text += f", {len(mark)} characters that are read each time: a shorter {check} does as well"
    inside = [where for where, one in zip(wheres, texts, strict=True) if mark in one.removesuffix(mark)]
    if inside:
        text += f". It also stands inside {len(inside):,} of them, where it means nothing: {places(inside)}"
    return Finding(check, text)


def prompt_prefix(rows: Pairs, reader: Reader) -> list[Finding[Pairs]]:
    """A beginning that all prompts share: an instruction that a tuned model does not need, unless it says something."""
    shared = _whole_words(common_prefix(rows.prompts))
    if not shared or shared in rows.prompts:
        return []  # what is the whole of one prompt cannot go
    text = f"all prompts begin with {quoted(shared)}"
    if len(shared) <= LONG_PROMPT_PREFIX:
        return [Finding("prompt prefix", text)]
    text += "; what is the same everywhere is learned, and need not be read each time"
    remedy = Remedy[Pairs](
        f"Remove {quoted(shared)} from every prompt",
        lambda rows: _without_prompt_prefix(rows, len(shared)),
        _level(shared),
    )
    return [Finding("prompt prefix", text, remedy)]


def completion_prefix(rows: Pairs, reader: Reader) -> list[Finding[Pairs]]:
    """A beginning that all completions share."""
    shared = _whole_words(common_prefix(rows.completions))
    if len(shared) < LONG_COMPLETION_PREFIX or shared in rows.completions:
        return []  # what is the whole of one completion cannot go
    level: Level = "possible" if rows.kind == "open-ended" else _level(shared)
    remedy = Remedy[Pairs](
        f"Remove {quoted(shared)} from every completion",
        lambda rows: _without_completion_prefix(rows, len(shared)),
        level,
    )
    return [Finding("completion prefix", f"all completions begin with {quoted(shared)}", remedy)]


def _whole_words(prefix: str) -> str:
    """Without the beginning of a word: where and when share their first letters by chance."""
    words = len(prefix)
    while words and prefix[words - 1].isalnum():
        words -= 1
    return prefix[:words] if words else ""


def _without_prompt_prefix(rows: Pairs, length: int) -> Pairs:
    """At most ``length`` characters: where other rows went before, the rest may share more."""
    shared = len(common_prefix(rows.prompts)[:length])
    return rows.with_prompts(lambda text: text[shared:])


def _without_completion_prefix(rows: Pairs, length: int) -> Pairs:
    """The same of completions; a space in front stays."""
    shared = common_prefix(rows.completions)[:length]
    space = " " if shared.startswith(" ") else ""
    return rows.with_completions(lambda text: space + text[len(shared) :])


def _level(prefix: str) -> Level:
    """Words may be meant: they go only when somebody says so."""
    return "possible" if any(letter.isalnum() for letter in prefix) else "recommended"


def leading_space(rows: Pairs, reader: Reader) -> list[Finding[Pairs]]:
    """Completions without a space before their first word, where the tokenizer joins that space to the word."""
    lacking = [where for where, text in zip(rows.wheres, rows.completions, strict=True) if not text.startswith(" ")]
    if not lacking:
        return []
    if not reader.joins_spaces:
        return []
    text = (
        f"{counted(len(lacking), 'completion')} without a space in front ({places(lacking)}): in running text the "
        "space before a word is part of its token"
    )
    remedy = Remedy[Pairs](
        "Put a space before every completion that has none",
        lambda rows: rows.with_completions(lambda text: text if text.startswith(" ") else " " + text),
        "possible" if rows.kind == "open-ended" else "recommended",
    )
    return [Finding("leading space", text, remedy)]
