"""``quickstart.json``: what a quickstart was asked for, what it measured, and which stages are done."""

from __future__ import annotations

import json
import platform
import shutil
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from gptloom.config.errors import Problem, UserError
from gptloom.config.files import write_text
from gptloom.config.quickstart import QuickstartOptions
from gptloom.config.run_folder import STATE
from gptloom.evaluation.yardsticks import Yardstick
from gptloom.stages.quickstart.corpus import PYTHON, QuickstartCorpus
from gptloom.stages.quickstart.stage import StageResult
from gptloom.train.lock import RunLock

VERSION = 1
RECORD = "quickstart.json"
SETTINGS = ("minutes", "fast", "seed", "device", "precision", "threads", "compile")


@dataclass
class Record:
    """The file as it is on disk; every change is written at once."""

    folder: Path
    settings: dict[str, Any]  # options that make two quickstarts different ones
    corpus: dict[str, Any] = field(default_factory=dict)
    yardsticks: tuple[Yardstick, ...] = ()
    stages: dict[str, StageResult] = field(default_factory=dict)  # those that are done

    def as_dict(self) -> dict[str, Any]:
        """The document that the file holds."""
        return {
            "version": VERSION,
            "settings": self.settings,
            "corpus": self.corpus,
            "yardsticks": [asdict(yardstick) for yardstick in self.yardsticks],
            "stages": {name: asdict(result) for name, result in self.stages.items()},
        }

    def write(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        write_text(self.folder / RECORD, json.dumps(self.as_dict(), indent=1, ensure_ascii=False) + "\n")

    def withdraw(self) -> None:
        """Takes the file away again, and the folder if there is nothing else: nothing came of it."""
        if not self.corpus:
            (self.folder / RECORD).unlink()
            if not any(self.folder.iterdir()):
                self.folder.rmdir()

    def check_python(self) -> None:
        """UserError when the corpus is that of another Python, whose figures would not compare."""
        before, now = self.corpus.get("python"), platform.python_version()
        if self.settings["corpus"] == PYTHON and before not in (None, now):
            what = f"begun on the text of Python {before}, this is {now}: figures would not compare"
            raise UserError(Problem(what, str(self.folder), "--overwrite to begin anew, or another --out"))

    def set_corpus(self, corpus: QuickstartCorpus) -> None:
        """Stores which text this is. UserError when the figures stored so far belong to another one."""
        before = self.corpus.get("hash", corpus.hash)
        if before != corpus.hash:
            what = (
                f"begun on a corpus of hash {before[:12]}, this one's is {corpus.hash[:12]}: figures would not compare"
            )
            raise UserError(Problem(what, str(self.folder), "--overwrite to begin anew, or another --out"))
        self.corpus = corpus.facts
        self.write()

    def set_yardsticks(self, yardsticks: tuple[Yardstick, ...]) -> None:
        self.yardsticks = yardsticks
        self.write()

    def add(self, stage: str, result: StageResult) -> None:
        self.stages[stage] = result
        self.write()


def open_record(options: QuickstartOptions) -> Record:
    """The record in ``options.out``: a new one, or that of a quickstart to go on with.

    UserError when the folder holds something else, or a quickstart that was asked for differently.
    """
    folder = Path(options.out)
    settings = {name: getattr(options, name) for name in SETTINGS} | {"corpus": options.corpus or PYTHON}
    if folder.exists() and not folder.is_dir():
        raise UserError(Problem("there is a file of this name", str(folder), "another --out"))
    if not (folder / RECORD).is_file():
        if folder.is_dir() and any(folder.iterdir()):
            raise UserError(Problem("the folder is not empty and holds no quickstart", str(folder), "another --out"))
        return Record(folder, settings)
    if options.overwrite:
        _remove(folder)
        return Record(folder, settings)
    record = _read(folder)
    if not record.corpus:  # broken off before there was anything to compare
        record.settings = settings
    changed = [name for name, value in settings.items() if record.settings.get(name) != value]
    if changed:
        made = ", ".join(f"{name} {record.settings.get(name)}" for name in changed)
        asked = ", ".join(f"{name} {settings[name]}" for name in changed)
        what = f"this quickstart was begun with {made}, not with {asked}"
        raise UserError(
            Problem(what, str(folder), "the same options to go on, --overwrite to begin anew, or another --out")
        )
    return record


def _read(folder: Path) -> Record:
    path = folder / RECORD
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
        if document["version"] > VERSION:
            what = f"made by a newer gptloom (version {document['version']}, this one knows {VERSION})"
            raise UserError(Problem(what, str(path), "pip install --upgrade gptloom"))
        return Record(
            folder,
            document["settings"],
            document["corpus"],
            tuple(Yardstick(**yardstick) for yardstick in document["yardsticks"]),
            {name: StageResult(**result) for name, result in document["stages"].items()},
        )
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(Problem(f"not a record this gptloom can read ({error})", str(path), "--overwrite")) from None


def _remove(folder: Path) -> None:
    """UserError while a process trains in one of its runs."""
    for state in folder.glob(f"*/{STATE}"):
        lock = RunLock(state.parent)
        lock.acquire()
        lock.release()
    shutil.rmtree(folder)
