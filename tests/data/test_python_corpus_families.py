"""Docstrings labelled with the family of their module: what is taken, what is hidden, what is held out."""

from __future__ import annotations

import sys
from collections import Counter
from itertools import pairwise

import pytest

from gptloom.data.python_corpus import families
from gptloom.data.python_corpus.families import FAMILIES, FAMILY_OF, Docstring, labelled_docstrings, part_by_module
from gptloom.data.python_corpus.pages import Entry, Page


def page(module: str, *texts: str, kind: str = "module") -> Page:
    entries = tuple(Entry(f"{module}.f{i}()", text) for i, text in enumerate(texts))
    return Page(kind, module, f"Help on module {module}:", entries)  # type: ignore[arg-type]


def sentences(count: int, about: str) -> list[str]:
    words = ["alpha", "beta", "gamma", "delta", "epsilon", "zeta", "eta", "theta"]
    return [f"Return {words[i % 8]} {words[i // 8 % 8]} {words[i // 64]} of the {about}." for i in range(count)]


def test_no_module_has_two_families_and_each_family_has_several_here() -> None:
    assert len(FAMILY_OF) == sum(len(modules.split()) for modules in FAMILIES.values())
    here = Counter(FAMILY_OF.get(name.lstrip("_")) for name in sys.stdlib_module_names)
    assert all(here[family] >= 4 for family in FAMILIES)


def test_the_modules_own_name_is_taken_out_with_what_is_dotted_behind() -> None:
    text = "Like json.dumps(),\n\n  but for JSON in a\tjsonified file of _json."
    assert families.without_name(text, "json") == "Like module(), but for module in a jsonified file of module."


def test_short_texts_repeats_topics_and_unknown_modules_are_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(families, "FEWEST_OF_A_FAMILY", 1)
    text = "Return the number of words in a text."
    pages = [
        page("re", text, "Return the name.", text.upper(), "Split a text where the pattern of re.compile matches."),
        page("socket", "Wait until a peer wants to talk."),
        page("antigravity", "Opens a page that shows a comic strip."),
        page("topic while", "A loop that goes on while something is true.", kind="topic"),
    ]
    assert labelled_docstrings(pages) == [
        Docstring(text, "text", "re"),
        Docstring("Split a text where the pattern of module matches.", "text", "re"),
        Docstring("Wait until a peer wants to talk.", "internet", "socket"),
    ]
    assert labelled_docstrings(pages[:1]) == []  # a single family: nothing to tell apart


def test_a_large_module_is_thinned_evenly_and_a_small_family_left_out() -> None:
    pages = [
        page("json", *sentences(150, "file")),
        page("email", *sentences(40, "mail")),
        page("math", *sentences(39, "sum")),
    ]
    rows = labelled_docstrings(pages)
    assert Counter(row.module for row in rows) == {"json": families.MOST_OF_A_MODULE, "email": 40}
    places = [sentences(150, "file").index(row.text) for row in rows if row.module == "json"]
    assert {b - a for a, b in pairwise(places)} == {2, 3}


def test_whole_modules_are_held_out_those_of_pretraining_first() -> None:
    modules = ["http", "email", "urllib", "ssl", "smtplib", "ftplib", "uuid", "poplib"]
    rows = [Docstring(f"{module} {i}", "internet", module) for module in modules for i in range(10)]
    train, held_out = part_by_module(rows, {"ssl", "queue"})
    assert Counter(row.module for row in held_out).keys() >= {"ssl"} and len(held_out) == 20
    assert not {row.module for row in train} & {row.module for row in held_out} and len(train) == 60
    assert part_by_module(rows[:20], {"http"})[1] == []  # two modules stay
