"""The standard library's docstrings, read from its source files with ``ast``.

No module is imported: some open windows or browsers when they are. The sources may lie in a folder or a zip archive.
"""

from __future__ import annotations

import ast
import sys
import sysconfig
import warnings
import zipfile
from collections.abc import Iterator
from importlib.resources.abc import Traversable
from pathlib import Path

from gptloom.data.python_corpus.pages import Entry, Page, clean_text

# Tests, vendored packages and data: not the library's manual.
_SKIPPED_FOLDERS = {"test", "tests", "idle_test", "site-packages", "dist-packages", "pydoc_data", "_bundled"}

_Definition = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef


def find_stdlib() -> Traversable | None:
    """The folder or zip archive with the running Python's ``.py`` files, None where it carries only compiled ones."""
    folder = Path(sysconfig.get_path("stdlib"))
    if (folder / "os.py").is_file():
        return folder
    for entry in sys.path:
        if entry.endswith(".zip") and zipfile.is_zipfile(entry):
            archive = zipfile.Path(entry)
            if (archive / "os.py").is_file():
                return archive
    return None


def iter_sources(root: Traversable, package: str = "") -> Iterator[tuple[str, bytes]]:
    """Pairs of dotted module name and source, in the order of the names, so that every file system gives the same."""
    for item in sorted(root.iterdir(), key=lambda item: item.name):
        if item.is_dir():
            if item.name.isidentifier() and item.name not in _SKIPPED_FOLDERS:
                yield from iter_sources(item, f"{package}{item.name}.")
        elif item.name.endswith(".py") and not item.name.startswith("test_"):
            stem = item.name.removesuffix(".py")
            yield (package.rstrip(".") if stem == "__init__" else package + stem), item.read_bytes()


def module_page(module: str, source: bytes) -> Page | None:
    """The page of one module: its own docstring, then those of its classes, methods and functions in their order.

    None where nothing is documented; SyntaxError or ValueError where ``source`` is not Python.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # old escapes in docstrings are the library's business
        tree = ast.parse(source)
    entries = [Entry("", clean_text(text))] if (text := ast.get_docstring(tree, clean=False)) else []
    entries += _entries(tree, module)
    entries = [entry for entry in entries if entry.text]
    group = module.split(".")[0].lstrip("_")  # _pydecimal is decimal's other half: held out or kept together
    return Page("module", group, f"Help on module {module}:", tuple(entries)) if entries else None


def _entries(parent: ast.AST, prefix: str) -> Iterator[Entry]:
    """Documented definitions that a dotted name reaches: none from inside functions, the first of alternatives."""
    seen: set[str] = set()
    for node in _definitions(parent):
        name = f"{prefix}.{node.name}"
        text = ast.get_docstring(node, clean=False)
        if text and name not in seen:
            seen.add(name)
            yield Entry(_heading(node, name), clean_text(text))
        if isinstance(node, ast.ClassDef):
            yield from _entries(node, name)


def _definitions(parent: ast.AST) -> Iterator[_Definition]:
    for node in ast.iter_child_nodes(parent):
        if isinstance(node, _Definition):
            yield node
        elif isinstance(node, ast.If | ast.Try | ast.ExceptHandler | ast.With):
            yield from _definitions(node)


def _heading(node: _Definition, name: str) -> str:
    if isinstance(node, ast.ClassDef):
        bases = ", ".join(ast.unparse(base) for base in node.bases)
        return f"class {name}({bases})" if bases else f"class {name}"
    decorators = {ast.unparse(decorator).rpartition(".")[2] for decorator in node.decorator_list}
    if decorators & {"property", "cached_property", "setter"}:
        return name
    prefix = "async " if isinstance(node, ast.AsyncFunctionDef) else ""
    return f"{prefix}{name}({ast.unparse(node.args)})"
