"""Checks of prompts and completions: empty and missing ones, capitals, and the classes of a classification."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence

from gptloom.config.errors import Problem, UserError
from gptloom.data.findings import counted, first_few
from gptloom.data.prepare.finding import Finding, Remedy, places
from gptloom.data.prepare.reader import Reader
from gptloom.data.prepare.rows import Pairs

CLASSES_SHOWN = 8
FEW_UNASKED = 0.1
"""Where more than this share of the rows has no prompt, that is meant."""
UNEVEN = 0.9
"""A class with more than this share of the rows is the answer that is nearly always right."""
RARE = 10  # examples of a class below which little is learned of it


def empty(rows: Pairs, reader: Reader) -> list[Finding[Pairs]]:
    """Completions of nothing, or of nothing but spaces: there is nothing to learn. Empty prompts are allowed."""
    lines = _blank(rows, rows.completions)
    if not lines:
        return []
    without = f"{counted(len(lines), 'row')} without a completion"
    remedy = Remedy[Pairs](f"Remove {without}", lambda rows: _filled(rows, rows.completions), "necessary")
    return [Finding("empty", f"{without} ({places(lines)})", remedy)]


def unasked(rows: Pairs, reader: Reader) -> list[Finding[Pairs]]:
    """Rows without a prompt where nearly all others have one: a model would learn to say them to anything."""
    lines = _blank(rows, rows.prompts)
    if not 0 < len(lines) <= FEW_UNASKED * len(rows):
        return []
    without = f"{counted(len(lines), 'row')} without a prompt"
    remedy = Remedy[Pairs](f"Remove {without}", lambda rows: _filled(rows, rows.prompts), "possible")
    return [Finding("no prompt", f"{without}, where the others have one ({places(lines)})", remedy)]


def _blank(rows: Pairs, texts: Sequence[str]) -> list[str]:
    """The places of the rows of which ``texts`` say nothing."""
    return [where for where, text in zip(rows.wheres, texts, strict=True) if not text.strip()]


def _filled(rows: Pairs, texts: Sequence[str]) -> Pairs:
    """The other rows."""
    return rows.keep([place for place, text in enumerate(texts) if text.strip()])


def alike(rows: Pairs, reader: Reader) -> list[Finding[Pairs]]:
    """Raises ``UserError``: the same prompt everywhere, or the same completion."""
    problems = []
    if len(rows) > 1 and rows.prompts[0] and len(set(rows.prompts)) == 1:
        what = f"all {len(rows):,} prompts are the same: they tell the rows nothing that could be learned"
        problems.append(Problem(what, rows.wheres[0], "leave the prompts empty, so that the model writes on its own"))
    if len(rows) > 1 and len(set(rows.completions)) == 1:
        what = f"all {len(rows):,} completions are the same: a model would learn to answer nothing else"
        problems.append(Problem(what, rows.wheres[0], "add rows with other answers (for classes: of every class)"))
    if problems:
        raise UserError(*problems)
    return []


def capitals(rows: Pairs, reader: Reader) -> list[Finding[Pairs]]:
    """Prompts, or completions, more than a third of whose letters are capitals."""
    found: list[Finding[Pairs]] = []
    if _is_shouted(rows.prompts):
        found.append(_small_letters("prompts", lambda rows: rows.with_prompts(str.lower)))
    if _is_shouted(rows.completions):
        found.append(_small_letters("completions", lambda rows: rows.with_completions(str.lower)))
    return found


def _is_shouted(texts: Sequence[str]) -> bool:
    upper = sum(letter.isupper() for text in texts for letter in text)
    return 2 * upper > sum(letter.islower() for text in texts for letter in text)


def _small_letters(whose: str, change: Callable[[Pairs], Pairs]) -> Finding[Pairs]:
    text = f"more than a third of the letters of the {whose} are capitals; a model has read far more of the others"
    return Finding("capitals", text, Remedy(f"Write the {whose} in small letters", change))


def classes(rows: Pairs, reader: Reader) -> list[Finding[Pairs]]:
    """How many rows each class has; classes that differ only in case and spaces are offered to become one."""
    if rows.kind != "classification":
        return []
    counts = Counter(rows.completions)
    found = [Finding[Pairs]("classes", _balance(counts, len(rows)))]
    spellings = _spellings(counts)
    if spellings:
        told = ", ".join(f"{other!r} and {usual!r}" for other, usual in list(spellings.items())[:3])
        remedy = Remedy[Pairs](
            "Spell each class in one way", lambda rows: _with_one_spelling(rows, _spellings(Counter(rows.completions)))
        )
        found.append(Finding("spellings", f"classes that differ only in case or spaces: {told}", remedy))
    return found


def _balance(counts: Counter[str], total: int) -> str:
    shares = [f"{name.strip()!r} {count:,} ({count / total:.0%})" for name, count in counts.most_common(CLASSES_SHOWN)]
    rest = f" and {len(counts) - CLASSES_SHOWN:,} more" if len(counts) > CLASSES_SHOWN else ""
    text = f"{len(counts):,} classes: {', '.join(shares)}{rest}"
    (commonest, most), *_ = counts.most_common(1)
    if most > UNEVEN * total:
        text += f". {commonest.strip()!r} is right in {most / total:.0%} of the rows: look at more than accuracy"
    rare = [name.strip() for name, count in counts.items() if count < RARE]
    if rare:
        text += f". Fewer than {RARE} examples of {first_few([repr(name) for name in rare])}"
    return text


def _spellings(counts: Counter[str]) -> dict[str, str]:
    """Each rarer spelling of a class → the most frequent one."""
    usual: dict[str, str] = {}
    rarer: dict[str, str] = {}
    for name, _ in counts.most_common():
        first = usual.setdefault(" ".join(name.casefold().split()), name)
        if first != name:
            rarer[name] = first
    return rarer


def _with_one_spelling(rows: Pairs, spellings: dict[str, str]) -> Pairs:
    return rows.with_completions(lambda text: spellings.get(text, text))


def class_names(completions: Sequence[str]) -> list[str]:
    """The classes, the most frequent first."""
    return [name for name, _ in Counter(completions).most_common()]
