"""``gptloom fill-mask``: the words that a model of BERT's kind expects where a text says [MASK]."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gptloom.cli.framework import Command
from gptloom.cli.output import Output
from gptloom.cli.stdin import texts_given
from gptloom.config.fill_mask import FillMaskOptions
from gptloom.config.python import python_function
from gptloom.config.resolve import Resolved

if TYPE_CHECKING:
    from gptloom.generation.fill_mask import FilledText


def fill_texts(resolved: Resolved[FillMaskOptions]) -> list[FilledText]:
    """Fills the masks of texts: a list of one ``FilledText`` a text, with the likeliest words of each of its masks."""
    from gptloom.generation.fill_mask import fill_masks
    from gptloom.interop.open import open_model
    from gptloom.train.precision import use_threads

    options = resolved.options
    texts = texts_given(options.text)
    use_threads(options.threads)
    opened = open_model(options.model, device=options.device, precision=options.precision, untrained=options.untrained)
    return fill_masks(*opened, texts, options.top)


def run_fill_mask(resolved: Resolved[FillMaskOptions], out: Output) -> None:
    """Says which words a model expects where a text says [MASK], and how probable each is.

    For models that see both sides of a place (BERT). Several masks of one text are filled each for itself.
    """
    filled = fill_texts(resolved)
    for place, text in enumerate(filled):
        if place:
            out.result()
        _show(text, out)
    out.document([text.as_dict() for text in filled])


def _show(filled: FilledText, out: Output) -> None:
    """The text, and a table of the words of its masks; with several masks each row says which it is for."""
    out.result(filled.text)
    several = len(filled.masks) > 1
    rows = [
        ([number] if several else []) + [word.text, word.id, f"{word.probability:.2%}"]
        for number, words in enumerate(filled.masks, start=1)
        for word in words
    ]
    header = (["mask"] if several else []) + ["word", "id", "probability"]
    out.table(header, rows, right=("mask", "id", "probability"))


COMMANDS = {"fill-mask": Command(FillMaskOptions, run_fill_mask)}
fill_mask = python_function("fill_mask", FillMaskOptions, fill_texts)
