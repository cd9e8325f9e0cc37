"""What the interpreter itself documents: the topics of the manual, the built-in types and functions."""

from __future__ import annotations

import builtins
import inspect
from collections.abc import Iterator

from gptloom.data.python_corpus.pages import Entry, Page, clean_text


def topic_pages() -> list[Page]:
    """One page for each topic that ``help("lambda")`` and its like know; none where ``pydoc_data`` is missing."""
    try:
        from pydoc_data.topics import topics  # pure data
    except ImportError:
        return []
    texts = {name: clean_text(text) for name, text in topics.items()}
    return [Page("topic", f"topic {name}", "", (Entry("", text),)) for name, text in sorted(texts.items()) if text]


def builtin_pages() -> list[Page]:
    """One page for each built-in type and one with all functions; none in a Python built without docstrings."""
    pages, functions = [], []
    public = {name: thing for name, thing in vars(builtins).items() if not name.startswith("_")}
    for name, thing in sorted(public.items()):
        if isinstance(thing, type):
            entries = tuple(_type_entries(name, thing))
            pages.append(Page("builtin", "builtins", f"Help on class {name} in module builtins:", entries))
        elif inspect.isbuiltin(thing) and thing.__doc__:
            functions.append(Entry(name + _signature(thing), clean_text(thing.__doc__)))
    pages.append(Page("builtin", "builtins", "Help on built-in functions:", tuple(functions)))
    return [page for page in pages if page.entries]


def _type_entries(name: str, thing: type) -> Iterator[Entry]:
    bases = ", ".join(base.__name__ for base in thing.__bases__)
    if thing.__doc__:
        yield Entry(f"class {name}({bases})" if bases else f"class {name}", clean_text(thing.__doc__))
    for member_name, member in sorted(vars(thing).items()):
        text = getattr(member, "__doc__", None) if member_name != "__doc__" else None
        if isinstance(text, str) and not isinstance(member, str):
            signature = _signature(member) if callable(member) or isinstance(member, classmethod) else ""
            yield Entry(f"{name}.{member_name}{signature}", clean_text(text))


def _signature(thing: object) -> str:
    """As ``help()`` writes it: ``(...)`` for what C code does not declare."""
    if isinstance(thing, classmethod | staticmethod):
        thing = thing.__func__
    try:
        return str(inspect.signature(thing))  # type: ignore[arg-type]
    except (TypeError, ValueError):
        return "(...)"
