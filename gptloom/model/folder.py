"""Folders and JSON files of a model on disk: a folder appears whole or not at all."""

from __future__ import annotations

import itertools
import json
import os
import re
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from gptloom.config.errors import Problem, UserError

CONFIG_FILE = "config.json"
PICKLES = (".bin", ".pt", ".pth", ".pkl", ".ckpt")
CONVERT = (  # by the class that config.json names: no Auto class opens every model
    'python -c "import transformers as t; kind = t.AutoConfig.from_pretrained({0!r}).architectures[0]; '
    'getattr(t, kind).from_pretrained({0!r}).save_pretrained({1!r})"'
)


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object from a file; ``UserError`` naming line and column where it is broken. NaN and infinities are no JSON."""

    def refuse(constant: str) -> None:
        raise UserError(Problem(f"has {constant}, which is no JSON: a number is expected", str(path)))

    try:
        document = json.loads(path.read_text(encoding="utf-8"), parse_constant=refuse)
    except json.JSONDecodeError as error:
        raise UserError(Problem(f"broken JSON, column {error.colno}: {error.msg}", f"{path}:{error.lineno}")) from None
    except UnicodeDecodeError as error:
        raise UserError(Problem(f"byte {error.start} is not UTF-8", str(path))) from None
    if not isinstance(document, dict):
        raise UserError(Problem(f"expected a JSON object, found {type(document).__name__}", str(path)))
    return document


def write_json(path: Path, document: Mapping[str, Any]) -> None:
    """Writes ``document`` as UTF-8 JSON, indented; infinities and NaN, which JSON has not, are a ``ValueError``."""
    text = json.dumps(document, indent=2, ensure_ascii=False, allow_nan=False)
    path.write_text(text + "\n", encoding="utf-8", newline="\n")


def refuse_pickle(path: Path) -> UserError:
    """Why a pickled file is not opened, and how to convert the folder it lies in."""
    folder = path.absolute().parent
    convert = CONVERT.format(str(folder), str(folder.with_name(folder.name + "-safetensors")))
    reason = "pickled weights: opening a pickle runs whatever code its maker put in, so gptloom reads safetensors only"
    return UserError(Problem(reason, str(path), f"where you trust the file, convert it: {convert}"))


@contextmanager
def replaced_folder(folder: Path, marks: Sequence[str] = (CONFIG_FILE,), overwrite: bool = True) -> Iterator[Path]:
    """Gives an empty sibling to fill; when the block ends well it is synced and takes the place of ``folder``.

    What a killed process of this machine left half-written beside ``folder`` is cleared away first.

    Args:
        folder: the place; the way to it is made.
        marks: a folder with one of these files may be replaced.
        overwrite: whether any may. Where not, a folder that appears while the block runs is kept, and the result lies
            beside it.

    Raises:
        UserError: ``folder`` exists, is not empty, and has none of ``marks``, is the current folder, or is not to be
            replaced.
    """
    folder = folder.resolve()  # "." has no name of its own, and a link would be replaced in place of what it leads to
    _clear_after_the_killed(folder)
    _check_replaceable(folder, marks, overwrite)
    folder.parent.mkdir(parents=True, exist_ok=True)
    partial = _sibling(folder, "part")
    try:
        partial.mkdir()
        yield partial
        for path in partial.rglob("*"):
            if path.is_file():
                with path.open("rb+") as file:
                    os.fsync(file.fileno())
        _sync_folder(partial)
        _swap(partial, folder, overwrite)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    _sync_folder(folder.parent)


def holds_something(folder: Path) -> bool:
    """Whether a file, or a folder that is not empty, is called so."""
    return folder.exists() and (not folder.is_dir() or any(folder.iterdir()))


def free_name(wanted: Path) -> Path:
    """``wanted``, or with a number behind it where that is taken."""
    names = (wanted if number == 1 else wanted.with_name(f"{wanted.name}-{number}") for number in itertools.count(1))
    return next(path for path in names if not path.exists())


def _check_replaceable(folder: Path, marks: Sequence[str], overwrite: bool) -> None:
    if not holds_something(folder):
        return
    if not any((folder / mark).is_file() for mark in marks):
        raise UserError(Problem("exists and is not a model folder; it is left as it is", str(folder), "another --out"))
    if not overwrite:
        raise UserError(Problem("it exists already; it is left as it is", str(folder), "--overwrite, or another --out"))
    if _is_current(folder):
        raise UserError(Problem("the current folder cannot be replaced", str(folder), "the same from another folder"))


def _swap(partial: Path, folder: Path, overwrite: bool) -> None:
    if not holds_something(folder):
        if _is_current(folder):
            _move_in(partial, folder)
            return
        if os.name == "nt" and folder.exists():  # elsewhere an empty folder is replaced, in one step
            folder.rmdir()
        try:
            partial.rename(folder)
            return
        except OSError:
            if overwrite or not holds_something(folder):
                raise
    if not overwrite:
        kept = free_name(folder)
        partial.rename(kept)
        what = f"another has made it meanwhile; it is left as it is, and the result is {kept}"
        raise UserError(Problem(what, str(folder), "rename the one you want"))
    # No portable call puts a folder in place of a full one: the old one steps aside, and comes back on failure.
    aside = _sibling(folder, "old")
    folder.rename(aside)
    try:
        partial.rename(folder)
    except BaseException:
        aside.rename(folder)
        raise
    shutil.rmtree(aside, ignore_errors=True)


def _is_current(folder: Path) -> bool:
    return folder.is_dir() and folder.samefile(".")


def _move_in(partial: Path, folder: Path) -> None:
    """Fills the empty current folder, which a shell would lose with its name; config.json, the mark, comes last."""
    for path in sorted(partial.iterdir(), key=lambda path: path.name == CONFIG_FILE):
        path.rename(folder / path.name)


def _sibling(folder: Path, purpose: str) -> Path:
    """A hidden name next to ``folder`` that is this process's own and free."""
    sibling = folder.with_name(f".{folder.name}.{os.getpid()}.{purpose}")
    if sibling.exists():
        shutil.rmtree(sibling)
    return sibling


def _clear_after_the_killed(folder: Path) -> None:
    """Puts back what a process that is no more had moved aside, where nothing took its place, and removes its parts.

    Windows has no harmless way to ask whether a process lives; there they stay.
    """
    if os.name == "nt" or not folder.parent.is_dir():
        return
    name = re.escape(folder.name)
    left = re.compile(rf"\.{name}\.(\d+)\.(part|old)|\.\.{name}\.(\d+)\.part\.\3\.(?:part|old)")  # also within a part
    for path in sorted(folder.parent.iterdir()):
        found = left.fullmatch(path.name)
        if found is None or _is_running(int(found[1] or found[3])) or not path.is_dir():
            continue
        if found[2] == "old" and not folder.exists():
            path.rename(folder)
        else:
            shutil.rmtree(path, ignore_errors=True)


def _is_running(process: int) -> bool:
    """Whether another process of that number runs; what bears our own number is of a dead one that had it before."""
    if process == os.getpid():
        return False
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except (PermissionError, OverflowError):  # another user's; no number of a process
        pass
    return True


def _sync_folder(folder: Path) -> None:
    """Makes names in ``folder`` durable. Windows cannot open a folder, and needs none of this."""
    if os.name == "nt":
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
