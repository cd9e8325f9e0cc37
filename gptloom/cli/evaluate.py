"""``gptloom evaluate``: loss, perplexity and bits per byte of a model on text."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial, reduce
from operator import add
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gptloom.cli.framework import Command
from gptloom.cli.output import Output
from gptloom.config.errors import Problem, UserError
from gptloom.config.evaluate import EvaluateOptions
from gptloom.config.python import python_function
from gptloom.config.resolve import Resolved

if TYPE_CHECKING:
    from gptloom.data.batches import Tokens
    from gptloom.data.documents import Document
    from gptloom.evaluation.perplexity import TextScore
    from gptloom.tokenizer import Tokenizer

STDIN = "-"


@dataclass(frozen=True)
class Evaluated:
    """What ``gptloom.evaluate`` returns: the score of each file by its name, and of all of them together."""

    model: str
    files: dict[str, TextScore]

    @property
    def total(self) -> TextScore:
        """All files as one: nats, tokens and bytes added up."""
        return reduce(add, self.files.values())


def evaluate_texts(resolved: Resolved[EvaluateOptions]) -> Evaluated:
    """Measures how well a model predicts text: loss, perplexity and bits per byte of each file and of all."""
    import torch

    from gptloom.evaluation.perplexity import score_tokens
    from gptloom.interop.open import load

    options = resolved.options
    texts = _open_texts(options)
    if options.threads:
        torch.set_num_threads(options.threads)
    model = load(options.model, device=options.device, precision=options.precision, untrained=options.untrained)
    scores = {name: score_tokens(model, text(model.tokenizer), stride=options.stride) for name, text in texts.items()}
    return Evaluated(options.model, scores)


def _open_texts(options: EvaluateOptions) -> dict[str, Callable[[Tokenizer], Tokens]]:
    """Name → what makes its tokens; UserError when files are missing or unfit, before any model is opened."""
    from gptloom.data.built import names_shards
    from gptloom.data.documents import Reading, Source, expand_inputs, read_documents
    from gptloom.evaluation.perplexity import join_documents, open_scored_shards

    if names_shards(options.data):
        _refuse_text_options(options)
        return {name: partial(open_scored_shards, Path(name)) for name in options.data}
    if options.data.count(STDIN) > 1:
        raise UserError(Problem("standard input can be read only once; two of --data are -"))
    reading = Reading(options.text_column, options.document_separator, options.encoding)
    files = [name for name in options.data if name != STDIN]
    sources = expand_inputs(files) if files else []
    weighted = [str(source.path) for source in sources if source.weight != 1]
    if weighted:
        raise UserError(*(Problem("an evaluation reads every file once", name, "leave @ out") for name in weighted))
    reading.check([*sources, Source(Path(STDIN))] if STDIN in options.data else sources)

    def of_file(source: Source) -> Callable[[Tokenizer], Tokens]:
        return lambda tokenizer: join_documents(read_documents(source, reading), tokenizer)

    texts = {str(source.path): of_file(source) for source in sources}
    if STDIN in options.data:
        texts["standard input"] = partial(join_documents, _standard_input(options.document_separator))
    return texts


def _refuse_text_options(options: EvaluateOptions) -> None:
    given = [name for name in ("text_column", "document_separator") if getattr(options, name) is not None]
    if given:
        flags = ", ".join(f"--{name.replace('_', '-')}" for name in given)
        raise UserError(Problem(f"{flags} reads text, and --data names token shards", mend="leave it out"))


def _standard_input(separator: str | None) -> list[Document]:
    from gptloom.data.documents import Document

    text = sys.stdin.read()
    parts = text.split(separator) if separator else [text]
    return [Document(part, "standard input", 1) for part in parts if part.strip()]


def run_evaluate(resolved: Resolved[EvaluateOptions], out: Output) -> None:
    """Measures how well a model predicts text: loss, perplexity and bits per byte.

    Bits per byte can be compared between models with different tokenizers, loss and perplexity cannot.
    """
    result = evaluate_texts(resolved)
    if len(result.files) > 1:
        rows = [_row(name, score) for name, score in [*result.files.items(), ("total", result.total)]]
        header = ("file", "loss", "perplexity", "bits per byte", "tokens", "bytes")
        out.table(header, rows, right=header[1:])
    total = result.total
    out.result(f"loss: {total.loss:.4f}")
    out.result(f"perplexity: {total.perplexity:.2f}")
    out.result(f"bits per byte: {_number(total.bits_per_byte)}")
    out.result(f"tokens: {total.tokens:,}")
    files = {name: _facts(score) for name, score in result.files.items()}
    out.document({"model": result.model, **_facts(total), "files": files})


def _row(name: str, score: TextScore) -> tuple[str, ...]:
    numbers = (f"{score.loss:.4f}", f"{score.perplexity:.2f}", _number(score.bits_per_byte))
    return (name, *numbers, f"{score.tokens:,}", f"{score.n_bytes:,}" if score.n_bytes else "–")


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.4f}"


def _facts(score: TextScore) -> dict[str, Any]:
    return {
        "loss": score.loss,
        "perplexity": score.perplexity,
        "bits_per_byte": score.bits_per_byte,
        "tokens": score.tokens,
        "bytes": score.n_bytes or None,
    }


COMMANDS = {"evaluate": Command(EvaluateOptions, run_evaluate)}
evaluate = python_function("evaluate", EvaluateOptions, evaluate_texts)
