"""Writing whole files so that a reader sees the old one or the new one, never a part; and whether one may be written."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from gptloom.config.errors import Problem, UserError


def write_text(path: Path, text: str) -> None:
    """Writes UTF-8 ``text`` to ``path`` atomically: a temporary name in the same folder, synced, then renamed."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        with temporary.open("w", encoding="utf-8", newline="\n") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def write_named(path: Path, text: str) -> None:
    """``write_text`` to a file that a user named: ``UserError`` where the folder or the disk does not take it."""
    try:
        write_text(path, text)
    except OSError as error:
        mend = "another folder: one that may be written to, with room"
        raise UserError(Problem(f"it cannot be written: {error.strerror or error}", str(path), mend)) from None


def new_file_problems(path: Path, overwrite: bool | None = None, endings: Sequence[str] = ()) -> list[Problem]:
    """Why no file is written to ``path``, as far as that can be known before anything is computed.

    ``overwrite`` is the option of that name, None where a command has none; ``endings`` are those that a name may have.
    """
    if path.is_dir():
        return [Problem("it is a folder", str(path), f"the name of a file: {path / 'result'}{(*endings, '')[0]}")]
    problems = []
    if endings and path.suffix.lower() not in endings:
        what = f"what is written goes by the file's ending: {', '.join(endings)}"
        problems.append(Problem(what, str(path), str(path.with_suffix(endings[0]))))
    if path.exists() and not overwrite:
        mend = "another name" if overwrite is None else "another name, or --overwrite"
        problems.append(Problem("it exists already; it is left as it is", str(path), mend))
    if not path.parent.is_dir():
        problems.append(Problem(f"the folder {path.parent} does not exist", str(path), f"mkdir -p {path.parent}"))
    return problems


def check_new_file(path: Path, overwrite: bool | None = None, endings: Sequence[str] = ()) -> None:
    """``UserError`` with all ``new_file_problems``."""
    if problems := new_file_problems(path, overwrite, endings):
        raise UserError(*problems)
