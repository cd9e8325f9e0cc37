"""What columns of labelled files are usually called: by these names a header is recognised and columns are guessed."""

from __future__ import annotations

import re

from gptloom.config.task import Task

_TEXTS = ("text", "sentence", "review", "content", "message", "comment", "tweet", "document", "body", "description")
_CLASSES = ("label", "labels", "class", "category", "target", "gold_label", "sentiment", "intent", "y", "gold")
_SCORES = ("score", "label", "rating", "stars", "target", "value", "y", "similarity", "gold")

TEXT_NAMES: dict[Task, tuple[str, ...]] = {
    "classify": _TEXTS,
    "regress": _TEXTS,
    "entail": (),
    "similar": (),
    "choice": ("question", "query", "stem", "premise", "context", "article", "passage", "ctx", "prompt"),
    "span": ("context", "passage", "paragraph", "document", "article", "text"),
    "tokens": ("tokens", "words", "text", "sentence", "token", "word"),
}
SECOND_NAMES = ("question", "query")  # of a span; those of pairs are below
LABEL_NAMES: dict[Task, tuple[str, ...]] = {
    "classify": _CLASSES,
    "regress": _SCORES,
    "entail": ("entailment_judgment", "entailment", "judgment", *_CLASSES, "quality"),
    "similar": ("relatedness_score", "similarity_score", *_SCORES, "quality", "is_duplicate"),
    "choice": ("label", "answer", "answerkey", "answer_key", "gold", "correct", "target"),
    "span": ("answers", "answer", "answer_text", "label"),
    "tokens": ("ner_tags", "tags", "labels", "pos_tags", "ner", "label", "tag", "ner_tag", "pos_tag"),
}
CHOICES_NAMES = ("choices", "options", "endings")
START_NAMES = ("answer_start", "start", "answer_starts")
ID_NAMES = ("id", "idx", "index", "pair_id", "guid", "uid", "row")
CHOICE_PATTERN = re.compile(r"(?:choice|option|ending|answer|sol)_?([1-9]|[a-e]|0)")

_PAIRED = ("sentence", "text", "question", "string", "sent", "phrase", "paragraph", "s", "q")
PAIR_NAMES: tuple[tuple[str, str], ...] = (
    ("premise", "hypothesis"),
    ("text", "hypothesis"),
    ("t", "h"),
    *(
        (form.format(word, first), form.format(word, second))
        for word in _PAIRED
        for form in ("{0}{1}", "{0}_{1}", "{1}_{0}")
        for first, second in (("1", "2"), ("a", "b"))
    ),
)

# Columns of instruction data, whose rows are prompts and the answers that are to be written.
INSTRUCTION_NAMES = (
    {"messages"},
    {"conversations"},
    {"chosen", "rejected"},
    {"prompt", "completion"},
    {"prompt", "response"},
    {"instruction", "output"},
    {"instruction", "response"},
)

KNOWN_NAMES = frozenset(
    name
    for names in (
        *TEXT_NAMES.values(),
        *LABEL_NAMES.values(),
        SECOND_NAMES,
        CHOICES_NAMES,
        START_NAMES,
        ID_NAMES,
        *PAIR_NAMES,
        *INSTRUCTION_NAMES,
    )
    for name in names
    if len(name) > 1
)


def plain(name: str) -> str:
    """A name without case, signs and spaces: ``#1 String`` is ``1_string``."""
    return re.sub(r"\W+", "_", name.strip().lower()).strip("_")


def is_known(name: str) -> bool:
    return plain(name) in KNOWN_NAMES or CHOICE_PATTERN.fullmatch(plain(name)) is not None
