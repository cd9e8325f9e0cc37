"""The pages of the Python corpus: read from sources without importing them, near-duplicates dropped, groups held out."""

import builtins
import random
import zipfile
from pathlib import Path

import pytest

from gptloom.data.python_corpus import collect, interpreter
from gptloom.data.python_corpus.duplicates import SeenText
from gptloom.data.python_corpus.holdout import HELD_OUT_SHARE, choose_held_out, split_pages
from gptloom.data.python_corpus.pages import Entry, Page, clean_text
from gptloom.data.python_corpus.stdlib import find_stdlib, iter_sources, module_page

SOURCE = '''
"""What the module is for."""
raise SystemExit("this module must not be imported")

class Shelf(list):
    """Holds books.

        Indented as it stands.
    """
    def put(self, book, *, where="left") -> None:
        """Put a book there."""
        def helper():
            """Nobody can ask help for this."""
    @property
    def full(self):
        """Whether there is room."""

try:
    import fast
    def read(x: int = 3): "Read it fast."
except ImportError:
    def read(x): "Read it slowly."

async def wait(): "Wait for it."
def silent(): pass
'''


def test_a_module_page_reads_like_help():
    page = module_page("_library.shelf", SOURCE.encode())
    assert page.group == "library"
    assert page.render() == (
        "Help on module _library.shelf:\n\n"
        "What the module is for.\n\n"
        "class _library.shelf.Shelf(list)\n    Holds books.\n\n    Indented as it stands.\n\n"
        "_library.shelf.Shelf.put(self, book, *, where='left')\n    Put a book there.\n\n"
        "_library.shelf.Shelf.full\n    Whether there is room.\n\n"
        "_library.shelf.read(x: int=3)\n    Read it fast.\n\n"
        "async _library.shelf.wait()\n    Wait for it."
    )


def test_a_module_without_docstrings_has_no_page():
    assert module_page("bare", b"x = 1\ndef f(): pass\n") is None


def test_text_keeps_no_character_that_would_part_documents_or_break_utf8():
    assert clean_text("a\fb \n\n    c\td\x00\ud800e\r\n") == "ab\n\nc   de"


def make_library(root: Path) -> None:
    for name in ("os.py", "json/__init__.py", "json/decoder.py", "json/test_json.py", "test/support.py"):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text('"""Doc."""\n', encoding="utf-8")
    (root / "site-packages/pip").mkdir(parents=True)
    (root / "site-packages/pip/main.py").write_text('"""Vendored."""\n', encoding="utf-8")


def test_sources_come_from_folders_and_zip_archives_without_tests_and_vendored_packages(tmp_path):
    make_library(tmp_path / "lib")
    archive = tmp_path / "lib.zip"
    with zipfile.ZipFile(archive, "w") as zipped:
        for path in (tmp_path / "lib").rglob("*.py"):
            zipped.write(path, path.relative_to(tmp_path / "lib").as_posix())
    from_folder = list(iter_sources(tmp_path / "lib"))
    assert [module for module, _ in from_folder] == ["json", "json.decoder", "os"]
    assert list(iter_sources(zipfile.Path(archive))) == from_folder


def test_the_running_library_is_found_with_its_packages():
    modules = {module for module, _ in iter_sources(find_stdlib())}
    assert {"os", "json.decoder", "asyncio.events"} <= modules
    assert not any("test" in module.split(".") or module.startswith("pip.") for module in modules)


def test_what_a_python_lacks_is_said_and_the_rest_is_taken(monkeypatch):
    monkeypatch.setattr(collect, "find_stdlib", lambda: None)
    pages, notes = collect.collect_pages()
    assert {page.kind for page in pages} == {"builtin", "topic"}
    assert len(notes) == 1 and "zipped or compiled only" in notes[0]

    monkeypatch.setattr(collect, "topic_pages", lambda: [])
    monkeypatch.setattr(collect, "builtin_pages", lambda: [])
    assert len(collect.collect_pages()[1]) == 3


def test_stripped_and_broken_sources_are_named(tmp_path, monkeypatch):
    (tmp_path / "os.py").write_text("x = 1\n", encoding="utf-8")
    (tmp_path / "broken.py").write_text("def (:\n", encoding="utf-8")
    monkeypatch.setattr(collect, "find_stdlib", lambda: tmp_path)
    _, notes = collect.collect_pages()
    assert "broken" in notes[0] and "no docstrings" in notes[1]


def test_builtin_types_come_with_their_methods():
    (page,) = [page for page in interpreter.builtin_pages() if page.heading == "Help on class str in module builtins:"]
    headings = {entry.heading: entry.text for entry in page.entries}
    assert "class str(object)" in headings
    assert headings["str.split(self, /, sep=None, maxsplit=-1)"] == clean_text(str.split.__doc__)
    assert not any("__doc__" in heading for heading in headings)


def test_a_python_built_without_docstrings_has_no_builtin_pages(monkeypatch):
    bare = type("Bare", (), {})
    monkeypatch.setattr(interpreter, "vars", lambda thing: {"Bare": bare} if thing is builtins else {}, raising=False)
    assert interpreter.builtin_pages() == []


def test_near_duplicates_are_found_in_other_dress_and_in_pieces():
    seen = SeenText()
    first = "Return the number of books that stand on the upper shelf today."
    second = "Raise an error when nobody has dusted the lower shelf this year."
    assert seen.take(first) and seen.take(second)
    assert not seen.take("return the number of books,\nthat stand on the UPPER shelf (today)")
    assert not seen.take(f"{first}\n\n{second}")  # one chapter made of two others
    assert seen.take("Return the number of cats that sleep on a windowsill at night.")
    assert seen.take("Codec cp1251 made from 'MAPPINGS/CP1251.TXT' by the generator.")
    assert not seen.take("Codec cp1252 made from 'MAPPINGS/CP1252.TXT' by the generator.")


def test_short_texts_are_dropped_only_when_seen_as_a_whole():
    seen = SeenText()
    assert seen.take("Close it.") and seen.take("Close it now.")
    assert not seen.take("close it")
    assert not seen.take("***")  # no word at all


def page(group: str, text: str, kind: str = "module") -> Page:
    return Page(kind, group, f"Help on module {group}:", (Entry("", text),))


def test_held_out_groups_are_whole_stable_and_of_the_asked_share():
    pages = [page(f"m{number}", f"{number} " * (50 + number % 7 * 40)) for number in range(200)]
    chosen = choose_held_out(pages)
    assert chosen == choose_held_out(pages[::-1])
    size = sum(len(p.render()) for p in pages if p.group in chosen) / sum(len(p.render()) for p in pages)
    assert 0.8 * HELD_OUT_SHARE < size <= HELD_OUT_SHARE


def test_a_module_too_big_to_hold_out_is_passed_over():
    pages = [page("giant", "word " * 100_000), *(page(f"m{number}", "word " * 300) for number in range(40))]
    assert "giant" not in choose_held_out(pages)


def test_held_out_pages_lose_what_training_says_and_never_the_other_way_round():
    rng = random.Random(0)
    pages = [
        page(f"m{number}", " ".join("".join(rng.choices("abcdefgh", k=6)) for _ in range(60))) for number in range(60)
    ]
    held_out = choose_held_out(pages)
    taken = next(p for p in pages if p.group in held_out)
    kept = next(p for p in pages if p.group not in held_out)
    copies = [Page("module", taken.group, "copy", kept.entries), Page("module", kept.group, "copy", kept.entries)]
    split = split_pages([*copies, *pages])
    assert split.dropped == 2
    assert sum(kept.entries[0] in p.entries for p in split.train) == 1
    assert not any(kept.entries[0] in p.entries for p in split.valid)
    assert not {p.group for p in split.train} & {p.group for p in split.valid}


@pytest.mark.parametrize("name", ["lambda", "while"])
def test_topics_are_the_texts_that_help_knows(name):
    topics = pytest.importorskip("pydoc_data.topics", reason="this Python has no manual").topics
    (found,) = [page for page in interpreter.topic_pages() if page.group == f"topic {name}"]
    assert found.render() == clean_text(topics[name])
