"""Collects every page that the running Python carries, and says what it lacks."""

from __future__ import annotations

from gptloom.data.python_corpus.interpreter import builtin_pages, topic_pages
from gptloom.data.python_corpus.pages import Page
from gptloom.data.python_corpus.stdlib import find_stdlib, iter_sources, module_page


def collect_pages() -> tuple[list[Page], list[str]]:
    """All pages in a fixed order (modules, built-in types, topics), and a sentence for each part that is missing.

    ``python -OO`` takes nothing away: it strips docstrings from loaded modules, and no docstring comes from one.
    """
    modules, notes = _module_pages()
    builtins = builtin_pages()
    topics = topic_pages()
    if not builtins:
        notes.append("built-in types have no docstrings (this Python was built without them): left out")
    if not topics:
        notes.append("pydoc_data is not installed: the manual's topics are left out")
    return modules + builtins + topics, notes


def _module_pages() -> tuple[list[Page], list[str]]:
    root = find_stdlib()
    if root is None:
        return [], [
            "the standard library's source files are missing (zipped or compiled only): its docstrings left out"
        ]
    pages, unreadable = [], []
    for module, source in iter_sources(root):
        try:
            page = module_page(module, source)
        except (SyntaxError, ValueError):
            unreadable.append(module)
            continue
        if page is not None:
            pages.append(page)
    notes = [f"left out, since the sources could not be parsed: {', '.join(unreadable)}"] if unreadable else []
    if not pages:
        notes.append("the standard library's sources hold no docstrings (stripped): left out")
    return pages, notes
