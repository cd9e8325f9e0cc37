"""Folders and JSON files of a model on disk: a folder appears whole or not at all."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from gptloom.config.errors import Problem, UserError

CONFIG_FILE = "config.json"
PICKLES = (".bin", ".pt", ".pth", ".pkl", ".ckpt")
CONVERT = (
    'python -c "from transformers import AutoModelForCausalLM as M; M.from_pretrained({!r}).save_pretrained({!r})"'
)


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object from a file; ``UserError`` naming line and column where it is broken."""
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
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
def replaced_folder(folder: Path, marks: Sequence[str] = (CONFIG_FILE,)) -> Iterator[Path]:
    """Gives an empty sibling to fill; when the block ends well it is synced and takes the place of ``folder``.

    Raises:
        UserError: ``folder`` exists, is not empty, and has none of the files ``marks``: it is no model folder.
    """
    ours = any((folder / mark).is_file() for mark in marks)
    if folder.exists() and not ours and (not folder.is_dir() or any(folder.iterdir())):
        raise UserError(Problem("exists and is not a model folder; it is left as it is", str(folder), "another --out"))
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
        _swap(partial, folder)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    _sync_folder(folder.parent)


def _swap(partial: Path, folder: Path) -> None:
    if not folder.exists():
        partial.rename(folder)
        return
    # No portable call puts a folder in place of a full one: the old one steps aside, and comes back on failure.
    aside = _sibling(folder, "old")
    folder.rename(aside)
    try:
        partial.rename(folder)
    except BaseException:
        aside.rename(folder)
        raise
    shutil.rmtree(aside, ignore_errors=True)


def _sibling(folder: Path, purpose: str) -> Path:
    """A hidden name next to ``folder`` that is this process's own and free."""
    sibling = folder.with_name(f".{folder.name}.{os.getpid()}.{purpose}")
    if sibling.exists():
        shutil.rmtree(sibling)
    return sibling


def _sync_folder(folder: Path) -> None:
    """Makes names in ``folder`` durable. Windows cannot open a folder, and needs none of this."""
    if os.name == "nt":
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
