"""The text that the quickstart learns from, written to its folder so that it can be read: train and valid."""

from __future__ import annotations

import platform
from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import get_args

from gptloom.config.errors import Problem, UserError
from gptloom.config.files import write_text
from gptloom.data.corpus import Corpus, read_corpus
from gptloom.data.python_corpus import (
    DOCUMENT_SEPARATOR,
    HeldoutExample,
    PythonCorpus,
    build_python_corpus,
    heldout_examples,
)
from gptloom.data.python_corpus.instructions import Part
from gptloom.data.shakespeare import shakespeare_corpus
from gptloom.data.split import TRAIN, VALID
from gptloom.observe.numbers import human_bytes

PYTHON, SHAKESPEARE = "python", "shakespeare"
FEWEST_BYTES = 20_000
SAMPLE_PROMPT = "kitchen.Oven.bake(self, dish,"  # as help() prints a method; no Python has it
PAGE_PROMPT = "Help on module kitchen:"


@dataclass(frozen=True)
class Docstrings:
    """Tables of docstrings, each with the family of its module, to train a classifier on and to measure it by."""

    train: Path
    held_out: Path
    unread: frozenset[str]  # modules that are also held out of pretraining


@dataclass(frozen=True)
class Instructions:
    """Questions about Python with their answers, a conversation a line: to learn from, and held out."""

    names: Path
    arithmetic: Path
    heldout_read: Path  # names that the base has read
    heldout_unread: Path  # names in modules that are also held out of pretraining
    heldout_arithmetic: Path


@dataclass(frozen=True)
class QuickstartCorpus:
    """Training and validation text, their documents parted by ``DOCUMENT_SEPARATOR``, and what is known of them."""

    name: str  # "python", "shakespeare", or the path that was given
    title: str
    hash: str  # of the text: figures of different hashes do not compare
    train: Path
    valid: Path  # what the model and the yardsticks are measured on
    held_out: str
    notes: tuple[str, ...]
    prompts: tuple[str, ...]  # to write from; the first is the one watched while training
    examples: tuple[HeldoutExample, ...]  # questions with one right answer; of a text of one's own none
    docstrings: Docstrings | None = None  # labelled rows; of a text of one's own none
    instructions: Instructions | None = None  # there where docstrings are

    @property
    def facts(self) -> dict[str, object]:
        """What is stored beside every figure."""
        return {
            "name": self.name,
            "title": self.title,
            "python": platform.python_version(),
            "hash": self.hash,
            "train": str(self.train),
            "valid": str(self.valid),
            "held_out": self.held_out,
            "notes": list(self.notes),
            "prompts": list(self.prompts),
        }


def check_corpus(name: str | None) -> None:
    """UserError when ``name`` is a path and nothing is there: asked before anything is written or replaced."""
    if name is not None and name != SHAKESPEARE and not Path(name).exists():
        mend = "the path of a text of your own, shakespeare, or no --corpus for the text that Python carries"
        raise UserError(Problem("there is no such text", f"--corpus {name}", mend))


def open_corpus(name: str | None, folder: Path, seed: int) -> QuickstartCorpus:
    """The corpus called ``name`` (None: that of the running Python), in ``folder``, where it is made if need be.

    UserError where a text is missing, cannot be read, is too short, or could not be downloaded.
    """
    if name is None:
        return _of_python(build_python_corpus(folder, seed=seed))
    if name == SHAKESPEARE and not Path(name).exists():
        return _of_text(name, "Tiny Shakespeare", _shakespeare(folder), folder)
    return _of_text(name, name, Path(name), folder)


def _of_python(corpus: PythonCorpus) -> QuickstartCorpus:
    size, counts = corpus.train.stat().st_size, corpus.counts
    return QuickstartCorpus(
        PYTHON,
        f"the manual and docstrings of Python {corpus.python}, {human_bytes(size)}, "
        f"{_share(counts)} of it interactive examples",
        corpus.hash,
        corpus.train,
        corpus.valid_text,
        f"{counts['valid_pages']} pages of modules and topics that were held out whole, "
        f"{human_bytes(corpus.valid_text.stat().st_size)}",
        corpus.notes,
        (SAMPLE_PROMPT, PAGE_PROMPT),
        tuple(heldout_examples(corpus.folder)),
        *_docstrings(corpus),
    )


def _docstrings(corpus: PythonCorpus) -> tuple[Docstrings, Instructions] | tuple[None, None]:
    """None where this Python carries too few of them for two families, or to hold names out."""
    needed = ("heldout_docstrings", "instructions_heldout_read", "instructions_heldout_unread")
    if not all(corpus.counts[name] for name in needed):
        return None, None
    labelled = Docstrings(corpus.train_docstrings, corpus.heldout_docstrings, frozenset(corpus.held_out))
    return labelled, Instructions(**{part: corpus.instructions(part) for part in get_args(Part)})


def _share(counts: Mapping[str, int]) -> str:
    return f"{counts['train_example_bytes'] / counts['train_bytes']:.0%}"


def _shakespeare(folder: Path) -> Path:
    try:
        return shakespeare_corpus(folder)
    except UserError as error:
        mend = "with a copy of your own: gptloom quickstart --corpus FILE"
        raise UserError(*(Problem(problem.what, problem.where, mend) for problem in error.problems)) from None


def _of_text(name: str, title: str, path: Path, folder: Path) -> QuickstartCorpus:
    if not path.exists():
        mend = (
            "--corpus FILE with a text of your own, --corpus shakespeare, or neither for the text that Python carries"
        )
        raise UserError(Problem("there is no such file", str(path), mend))
    corpus = read_corpus([str(path)])
    if corpus.n_bytes < FEWEST_BYTES:
        what = f"{corpus.n_bytes:,} bytes of text are too little to learn from: {FEWEST_BYTES:,} are the least"
        raise UserError(Problem(what, str(path), "a longer text, or none for the text that Python carries"))
    train, valid = _sides(corpus)
    if not train.strip() or not valid.strip():
        what = "nothing could be held out: the documents repeat each other"
        raise UserError(Problem(what, str(path), "a text with more in it"))
    folder.mkdir(parents=True, exist_ok=True)
    for file, text in (("train.txt", train), ("valid.txt", valid)):
        if not (folder / file).is_file() or (folder / file).read_bytes() != text.encode():
            write_text(folder / file, text)  # the same text keeps its date: shards made from it stay good
    return QuickstartCorpus(
        name,
        f"{title}, {human_bytes(len(train.encode()))}",
        sha256((train + valid).encode()).hexdigest(),
        folder / "train.txt",
        folder / "valid.txt",
        f"{corpus.rule.removeprefix('validation: ')}, {human_bytes(len(valid.encode()))}",
        (),
        (" ".join(valid.split()[:4]),),
        (),
    )


def _sides(corpus: Corpus) -> tuple[str, str]:
    """Training and validation text, split by the rule of pretraining; form feeds are left to part documents."""
    sides: dict[int, list[str]] = {TRAIN: [], VALID: []}
    for file in corpus.files:
        for side, document in file.documents():
            sides[side].append(document.text.replace("\f", "") + (DOCUMENT_SEPARATOR if document.ends else ""))
    train, valid = ("".join(texts).removesuffix(DOCUMENT_SEPARATOR) for texts in (sides[TRAIN], sides[VALID]))
    return train, valid
