"""The corpus folder: its files, its ``corpus.json``, and how a finished one is recognised."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

from gptloom.config.files import write_text
from gptloom.data.python_corpus.instructions import Part
from gptloom.data.python_corpus.sessions import HeldoutExample

DOCUMENT_SEPARATOR = "\n\f\n"  # a line with a form feed, a character that no document contains

TRAIN, VALID = "train.txt", "valid.txt"
VALID_MODULES, VALID_EXAMPLES = "valid_modules.txt", "valid_examples.txt"
HELDOUT_EXAMPLES = "heldout_examples.jsonl"
TRAIN_DOCSTRINGS, HELDOUT_DOCSTRINGS = "docstrings_train.tsv", "docstrings_heldout.tsv"
INSTRUCTIONS = "instructions_{}.jsonl"
DESCRIPTION = "corpus.json"


@dataclass(frozen=True)
class PythonCorpus:
    """The files of a corpus and what they were made of.

    Documents in ``train`` and ``valid`` are parted by ``DOCUMENT_SEPARATOR``. ``valid`` is ``valid_text`` (pages of
    held-out modules and topics: what the yardsticks are measured on) followed by ``valid_examples`` (sessions about
    held-out operands, words and functions). The docstrings are tables of text, family and module, the instructions
    conversations of a question and its answer. ``hash`` names the training and validation text: figures measured on
    texts of different hashes do not compare.
    """

    folder: Path
    hash: str
    python: str
    notes: tuple[str, ...]  # what this Python lacks; empty for a complete one
    counts: Mapping[str, int]  # documents, docstrings, sessions and bytes by kind
    held_out: tuple[str, ...]  # top-level modules, and "topic NAME"

    @property
    def train(self) -> Path:
        return self.folder / TRAIN

    @property
    def valid(self) -> Path:
        return self.folder / VALID

    @property
    def valid_text(self) -> Path:
        return self.folder / VALID_MODULES

    @property
    def valid_examples(self) -> Path:
        return self.folder / VALID_EXAMPLES

    @property
    def train_docstrings(self) -> Path:
        return self.folder / TRAIN_DOCSTRINGS

    @property
    def heldout_docstrings(self) -> Path:
        return self.folder / HELDOUT_DOCSTRINGS

    def instructions(self, part: Part) -> Path:
        """The questions and answers of a part."""
        return self.folder / INSTRUCTIONS.format(part)


def heldout_examples(folder: Path) -> list[HeldoutExample]:
    """The questions of a corpus folder that no training session asks, with the answers Python gave."""
    lines = (folder / HELDOUT_EXAMPLES).read_text(encoding="utf-8").splitlines()
    rows = [json.loads(line) for line in lines]
    return [HeldoutExample(**row | {"demonstrations": tuple(row["demonstrations"])}) for row in rows]


def write_corpus(folder: Path, texts: Mapping[str, str], facts: Mapping[str, Any]) -> PythonCorpus:
    """Write the files named in ``texts`` and then ``corpus.json`` with ``facts``, which makes the folder a corpus."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in texts.items():
        write_text(folder / name, text)
    checksums = {name: sha256(text.encode()).hexdigest() for name, text in texts.items()}
    corpus_hash = sha256((texts[TRAIN] + texts[VALID]).encode()).hexdigest()
    described = {"hash": corpus_hash, **facts, "sha256": checksums}
    write_text(folder / DESCRIPTION, json.dumps(described, indent=1, ensure_ascii=False) + "\n")
    return _described(folder, described)


def load_corpus(folder: Path, made_of: str) -> PythonCorpus | None:
    """The corpus in ``folder`` if ``made_of`` is the same as in its facts and no file changed since; else None."""
    try:
        described = json.loads((folder / DESCRIPTION).read_text(encoding="utf-8"))
        if described["made_of"] != made_of:
            return None
        for name, checksum in described["sha256"].items():
            if sha256((folder / name).read_bytes()).hexdigest() != checksum:
                return None
        return _described(folder, described)
    except (OSError, ValueError, KeyError):  # missing, broken off, or of another making
        return None


def _described(folder: Path, described: Mapping[str, Any]) -> PythonCorpus:
    return PythonCorpus(
        folder,
        hash=described["hash"],
        python=described["python"],
        notes=tuple(described["notes"]),
        counts=described["counts"],
        held_out=tuple(described["held_out"]["groups"]),
    )
