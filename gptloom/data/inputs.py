"""What a user names as data (files, folders, globs, weights) becomes a list of readable files, or good advice."""

from __future__ import annotations

import glob
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from gptloom.config.errors import Problem, UserError, nearest

Format = Literal["text", "jsonl", "csv", "parquet"]

COMPRESSIONS = (".gz", ".xz", ".zst")
FORMATS: dict[str, Format] = {
    ".txt": "text",
    ".md": "text",
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".csv": "csv",
    ".parquet": "parquet",
}
_FEW_NAMES = 8
_PICKLE = "model weights or a pickle, not text (a pickle can run any program, so gptloom never opens one)"
_ARCHIVE = ("an archive of several files", "unpack it and give the folder to --data")
REFUSED: dict[str, tuple[str, str]] = {  # suffix: (what it is, the mend)
    ".pdf": ("a PDF, which holds pages, not text", "pdftotext FILE.pdf FILE.txt (poppler), then check how it reads"),
    ".docx": ("a Word document, not plain text", "pandoc FILE.docx -t plain --wrap=none -o FILE.txt"),
    ".doc": ("a Word document, not plain text", "libreoffice --convert-to txt:Text FILE.doc"),
    ".odt": ("a Writer document, not plain text", "pandoc FILE.odt -t plain --wrap=none -o FILE.txt"),
    ".epub": ("an e-book, not plain text", "pandoc FILE.epub -t plain --wrap=none -o FILE.txt"),
    ".xlsx": ("a spreadsheet, not plain text", "save the sheet as CSV and name its column with --text-column"),
    ".json": ("one JSON value, not one per line", "jq -c '.[]' FILE.json > FILE.jsonl"),
    ".tsv": ("tab-separated values", "save the table as CSV (commas, quoted cells)"),
    ".zip": _ARCHIVE,
    ".tar": _ARCHIVE,
    ".tgz": _ARCHIVE,
    ".7z": _ARCHIVE,
    ".bz2": ("bzip2, which is not among " + " ".join(COMPRESSIONS), "bunzip2 FILE.bz2"),
    ".pkl": (_PICKLE, "give the text it was made from to --data"),
    ".pickle": (_PICKLE, "give the text it was made from to --data"),
    ".pt": (_PICKLE, "give text to --data; a model is a folder and comes first: gptloom pretrain MODEL --data TEXT"),
    ".pth": (_PICKLE, "give text to --data; a model is a folder and comes first: gptloom pretrain MODEL --data TEXT"),
    ".safetensors": ("model weights, not text", "give text to --data; the model folder comes first"),
    ".bin": ("token shards or a pickle, not text", "give shards alone, without text beside them"),
}


@dataclass(frozen=True)
class Source:
    """One file of documents and how often a pass over the data reads it."""

    path: Path
    weight: float = 1.0

    @property
    def format(self) -> Format:
        """By the suffix; a file that was named itself and has an unknown suffix is plain text."""
        return FORMATS.get(data_suffix(self.path), "text")


def data_suffix(path: Path) -> str:
    """The suffix that tells the format, in lower case: that of ``notes.TXT.gz`` is ``.txt``."""
    bare = path.with_suffix("") if path.suffix.lower() in COMPRESSIONS else path
    return bare.suffix.lower()


def expand_inputs(data: Sequence[str]) -> list[Source]:
    """Files, folders (searched deeply, hidden entries skipped) and globs, each with an optional ``@WEIGHT``, as files.

    The order is that of ``data``, and sorted by path inside a folder or glob. Folders and globs yield the files whose
    suffix is known; a file that is named itself is read as plain text when its suffix is unknown. Raises ``UserError``
    with all that is wrong: missing, empty or unreadable files, nothing found, a weight of 0, a file given twice.
    """
    problems: list[Problem] = []
    sources: list[Source] = []
    for entry in data:
        try:
            name, weight = split_weight(entry)
            sources += [Source(path, weight) for path in _find(name)]
        except UserError as error:
            problems += error.problems
    seen: set[Path] = set()
    for source in sources:
        problem = _refusal(source.path)
        if problem is None and source.path.resolve() in seen:
            problem = Problem(
                "given twice", where=str(source.path), mend=f"name it once; to read it twice: {source.path}@2"
            )
        if problem is not None:
            problems.append(problem)
        seen.add(source.path.resolve())
    if not data:
        problems.append(Problem("no data given", mend="--data FILE, FOLDER or 'GLOB'"))
    if problems:
        raise UserError(*problems)
    return sources


def split_weight(entry: str) -> tuple[str, float]:
    """``"file.jsonl@0.5"`` as path and weight (1 where none is written); a file of that very name wins."""
    match = re.fullmatch(r"(.+)@(\d+\.?\d*|\.\d+)", entry)
    if match is None or Path(entry).exists():
        return entry, 1.0
    weight = float(match[2])
    if weight == 0:
        raise UserError(
            Problem("a weight of 0 reads nothing", where=entry, mend="leave it out, or give a weight above 0")
        )
    return match[1], weight


def _find(name: str) -> list[Path]:
    path = Path(name)
    if path.is_dir():
        found = _folder(path)
    elif path.exists():
        return [path]
    elif glob.has_magic(name):
        matches = [Path(match) for match in sorted(glob.glob(name, recursive=True))]  # noqa: PTH207 (absolute patterns)
        found = [file for match in matches for file in (_folder(match) if match.is_dir() else [match]) if _known(file)]
    else:
        raise UserError(Problem("no such file or folder", where=name, mend=similar_names(path)))
    if not found:
        known = " ".join(FORMATS)
        raise UserError(Problem(f"no data files found (looked for {known}, also {' '.join(COMPRESSIONS)})", where=name))
    return found


def _folder(folder: Path) -> list[Path]:
    below = (path for path in folder.rglob("*") if path.is_file() and _known(path))
    return sorted(path for path in below if not any(part.startswith(".") for part in path.relative_to(folder).parts))


def _known(path: Path) -> bool:
    """Whether a search takes the file: what is read, and documents whose absence would go unnoticed."""
    suffix = data_suffix(path)
    return suffix in FORMATS or (suffix in REFUSED and suffix not in (".bin", ".safetensors", ".json"))


def similar_names(path: Path) -> str:
    """A sentence that helps someone who mistyped a path: the names beside it that are near, or all where they are few."""
    if not path.parent.is_dir():
        return f"the folder {path.parent} does not exist either; check the path"
    names = [other.name for other in path.parent.iterdir() if not other.name.startswith(".")]
    near = nearest(path.name, names) if names and len(names) < 10_000 else ""
    return near if near.startswith("did") or 0 < len(names) <= _FEW_NAMES else "check the path"


def _refusal(path: Path) -> Problem | None:
    suffix = data_suffix(path)
    if suffix in REFUSED:
        what, mend = REFUSED[suffix]
        return Problem(what, where=str(path), mend=mend.replace("FILE", path.with_suffix("").name))
    try:
        with path.open("rb") as file:
            empty = not file.read(1)
    except OSError as error:
        return Problem(f"cannot be read: {error.strerror}", where=str(path), mend="check its permissions")
    return Problem("empty file", where=str(path), mend="leave it out, or write text into it") if empty else None
