"""Builds the corpus that every Python carries: its manual, its docstrings, and interactive examples."""

from __future__ import annotations

import json
import platform
import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from hashlib import sha256
from pathlib import Path

from gptloom.config.errors import Problem, UserError
from gptloom.data.python_corpus.collect import collect_pages
from gptloom.data.python_corpus.corpus import (
    DOCUMENT_SEPARATOR,
    HELDOUT_DOCSTRINGS,
    HELDOUT_EXAMPLES,
    INSTRUCTIONS,
    TRAIN,
    TRAIN_DOCSTRINGS,
    VALID,
    VALID_EXAMPLES,
    VALID_MODULES,
    PythonCorpus,
    load_corpus,
    write_corpus,
)
from gptloom.data.python_corpus.examples import common_words
from gptloom.data.python_corpus.families import as_table, labelled_docstrings, part_by_module
from gptloom.data.python_corpus.holdout import PageSplit, split_pages
from gptloom.data.python_corpus.instructions import as_conversations, make_instructions
from gptloom.data.python_corpus.pages import Page
from gptloom.data.python_corpus.sessions import Material, draw_questions, split_material, write_sessions

_EXAMPLE_SHARE = 0.2  # of all bytes, in training and in validation
_HELD_OUT_EXAMPLES = 250  # of each kind
_FEWEST_BYTES = 50_000  # of pages: with less there is little to learn, and few words to ask about


def build_python_corpus(out: Path, *, seed: int = 1337) -> PythonCorpus:
    """Write the corpus of the running Python to the folder ``out``, or take the one there if it is of the same making.

    ``seed`` draws the examples and the order of the documents. What is held out does not depend on it. Takes about
    three seconds. UserError where this Python carries too little text.
    """
    pages, notes = collect_pages()
    if sum(len(page.render()) for page in pages) < _FEWEST_BYTES:
        raise UserError(
            Problem(
                f"Python {platform.python_version()} carries too little text to learn from: {'; '.join(notes)}",
                mend="gptloom quickstart --corpus PATH with a text of your own",
            )
        )
    made_of = _hash(_own_code(), str(seed), platform.python_version(), *notes, *(page.render() for page in pages))
    found = load_corpus(out, made_of)
    return found if found is not None else _write(out, seed, made_of, pages, notes)


def _write(out: Path, seed: int, made_of: str, pages: Sequence[Page], notes: Sequence[str]) -> PythonCorpus:
    rng = random.Random(seed)
    split = split_pages(pages)
    train_pages = [page.render() for page in split.train]
    valid_pages = [page.render() for page in split.valid]
    train, heldout = split_material(common_words(train_pages))
    train_sessions = write_sessions(train, _example_bytes(train_pages), rng)
    valid_sessions = write_sessions(heldout, _example_bytes(valid_pages), rng)
    questions = draw_questions(train, heldout, _HELD_OUT_EXAMPLES, rng)
    docstrings = part_by_module(labelled_docstrings([*split.train, *split.valid]), split.held_out)
    instructions = make_instructions(split)
    documents = train_pages + train_sessions
    rng.shuffle(documents)
    texts = {
        TRAIN: _join(documents),
        VALID: _join(valid_pages + valid_sessions),
        VALID_MODULES: _join(valid_pages),
        VALID_EXAMPLES: _join(valid_sessions),
        HELDOUT_EXAMPLES: "".join(json.dumps(asdict(question)) + "\n" for question in questions),
        TRAIN_DOCSTRINGS: as_table(docstrings[0]),
        HELDOUT_DOCSTRINGS: as_table(docstrings[1]),
        **{INSTRUCTIONS.format(part): as_conversations(pairs) for part, pairs in instructions.items()},
    }
    counts = _page_counts(pages, split) | {
        "train_sessions": len(train_sessions),
        "valid_sessions": len(valid_sessions),
        "heldout_examples": len(questions),
        "train_docstrings": len(docstrings[0]),
        "heldout_docstrings": len(docstrings[1]),
        **{f"instructions_{part}": len(pairs) for part, pairs in instructions.items()},
        "train_example_bytes": _size(train_sessions),
        "valid_example_bytes": _size(valid_sessions),
        "train_bytes": len(texts[TRAIN].encode()),
        "valid_bytes": len(texts[VALID].encode()),
    }
    return write_corpus(
        out,
        texts,
        {
            "made_of": made_of,
            "python": platform.python_version(),
            "seed": seed,
            "notes": list(notes),
            "counts": counts,
            "held_out": {"groups": split.held_out, **_held_out_material(heldout)},
        },
    )


def _page_counts(pages: Sequence[Page], split: PageSplit) -> dict[str, int]:
    found = Counter(page.kind for page in pages for _ in page.entries)
    return {
        "module_docstrings": found["module"],
        "builtin_docstrings": found["builtin"],
        "topics": found["topic"],
        "near_duplicates_dropped": split.dropped,
        "train_pages": len(split.train),
        "valid_pages": len(split.valid),
    }


def _held_out_material(heldout: Material) -> dict[str, list[str]]:
    return {
        "pairs": [f"{left} {right}" for left, right in heldout.pairs if left <= right],
        "words": list(heldout.words),
        "functions": [function.source for function in heldout.functions],
    }


def _example_bytes(pages: Sequence[str]) -> int:
    return round(_size(pages) * _EXAMPLE_SHARE / (1 - _EXAMPLE_SHARE))


def _size(documents: Sequence[str]) -> int:
    return sum(len(document.encode()) for document in documents)


def _join(documents: Sequence[str]) -> str:
    return DOCUMENT_SEPARATOR.join(documents) + "\n"


def _own_code() -> str:
    """This package's own source: a corpus made by other rules is another corpus."""
    return "".join(path.read_text(encoding="utf-8") for path in sorted(Path(__file__).parent.glob("*.py")))


def _hash(*parts: str) -> str:
    return sha256("\0".join(parts).encode()).hexdigest()
