"""The folder that an import or an export writes: what may be replaced, whether there is room, what the system refuses."""

from __future__ import annotations

import errno
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from gptloom.config.errors import Problem, UserError
from gptloom.config.run_folder import LINEAGE_FILE
from gptloom.interop.receipt import RECEIPT_FILE
from gptloom.model.folder import holds_something, replaced_folder
from gptloom.observe.numbers import human_bytes
from gptloom.train.disk import free_bytes


@contextmanager
def result_folder(out: Path, overwrite: bool) -> Iterator[Path]:
    """An empty folder to fill, which becomes ``out`` when the block ends well: see ``replaced_folder``."""
    with system_errors(out), replaced_folder(out, (LINEAGE_FILE, RECEIPT_FILE), overwrite) as partial:
        yield partial


def taken(out: Path, overwrite: bool) -> list[Problem]:
    """Why ``out`` is not written: nothing is replaced but, with ``overwrite``, what gptloom wrote."""
    with system_errors(out):
        above = next(path for path in out.resolve().parents if path.exists())
        if not above.is_dir():
            return [Problem("no folder can be made within what is no folder", str(above), "another --out")]
        if not holds_something(out):
            return []
        if not out.is_dir():
            return [Problem("it is a file, and the result is a folder", str(out), "another --out")]
        if not _is_ours(out):
            what = "it exists already and was not written by gptloom; it is left as it is"
            return [Problem(what, str(out), "another --out")]
    if not overwrite:
        return [Problem("it exists already; it is left as it is", str(out), "--overwrite, or another --out")]
    return []


def in_the_way(out: Path, source: Path) -> list[Problem]:
    """Why ``out`` is not replaced: ``source``, the folder that is read, is ``out`` or lies in it."""
    with system_errors(out):
        there, read = out.resolve(), source.resolve()
    if there == read or there in read.parents:
        return [Problem("the result would take the place of what is read", str(out), "another --out")]
    return []


def no_room(out: Path, n_bytes: float) -> list[Problem]:
    """Why ``n_bytes`` cannot be written to ``out``."""
    with system_errors(out):
        free = free_bytes(out)
    if n_bytes <= free:
        return []
    what = f"the result takes about {human_bytes(int(n_bytes))} and the disk has {human_bytes(free)} left"
    return [Problem(what, str(out), "make room, another --out, or a smaller --dtype")]


@contextmanager
def system_errors(out: Path) -> Iterator[None]:
    """What the system refuses is said in a sentence; a full disk goes on, the command line has its own words for it."""
    try:
        yield
    except OSError as error:
        if error.errno is None or error.errno == errno.ENOSPC:
            raise
        where = str(error.filename or out)
        raise UserError(Problem(f"the system does not allow it: {error.strerror}", where, "another --out")) from None


def _is_ours(folder: Path) -> bool:
    """By its card, or by a receipt as this project writes them: others may call a file of theirs so too."""
    if (folder / LINEAGE_FILE).is_file():
        return True
    try:
        receipt = json.loads((folder / RECEIPT_FILE).read_text(encoding="utf-8"))
    except (FileNotFoundError, IsADirectoryError, ValueError):
        return False
    return isinstance(receipt, dict) and "verified" in receipt and "gptloom" in receipt.get("versions", {})
