"""``gptloom evaluate``: loss, perplexity and bits per byte of a model on text; of a BERT, how well it guesses masked words;
of an instructed model, how good its answers are."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial, reduce
from operator import add
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gptloom.cli.answers import OF_ANSWERS, evaluate_answers, show_answers
from gptloom.cli.framework import Command
from gptloom.cli.output import Output
from gptloom.cli.stdin import STDIN, check_once
from gptloom.config.errors import Problem, UserError
from gptloom.config.evaluate import EvaluateOptions
from gptloom.config.python import python_function
from gptloom.config.resolve import Resolved, idle

if TYPE_CHECKING:
    from gptloom.data.batches import Tokens
    from gptloom.evaluation.answers import AnswersReport
    from gptloom.evaluation.masked import MaskedScore
    from gptloom.evaluation.perplexity import TextScore
    from gptloom.model.reference import Reference
    from gptloom.model.transformer import Transformer
    from gptloom.tokenizer import Tokenizer

    Score = TextScore | MaskedScore


@dataclass(frozen=True)
class Evaluated:
    """What ``gptloom.evaluate`` returns: the score of each file by its name, and of all of them together.

    Scores are ``TextScore`` for models that write from left to right, ``MaskedScore`` for those that fill masks.
    """

    model: str
    files: dict[str, Score]

    @property
    def total(self) -> Score:
        """All files as one: whatever can be counted added up."""
        return reduce(add, self.files.values())


def evaluate_model(resolved: Resolved[EvaluateOptions]) -> Evaluated | AnswersReport:
    """Measures how well a model predicts text: loss, perplexity and bits per byte of each file and of all.

    Of a model that fills masks it is the loss and the accuracy on masked words. Of an instructed model on conversations,
    and with ``answers``, it is an ``AnswersReport``: how good the answers are that it writes, task by task.
    """
    from gptloom.interop.hub import resolve_model

    options = resolved.options
    model = resolve_model(options.model)
    if options.answers or (options.answers is None and _is_asked(model.path, options.data)):
        return evaluate_answers(resolved, model)
    if problems := idle(resolved, OF_ANSWERS, "how text is predicted is scored, not answers"):
        raise UserError(*problems)
    return _evaluate_texts(resolved, model)


def _is_asked(folder: Path | None, data: list[str]) -> bool:
    """Whether an instructed model is given conversations only."""
    from gptloom.data.instruction_detection import looks_like_instructions
    from gptloom.model.store import read_chat

    if folder is None or read_chat(folder) is None:
        return False
    return all(looks_like_instructions([path]) is not None for path in data)


def _evaluate_texts(resolved: Resolved[EvaluateOptions], model: Reference) -> Evaluated:
    from gptloom.interop.open import open_model
    from gptloom.train.precision import use_threads

    options = resolved.options
    if model.path is not None:
        _refuse_answering(model.path, options.model)
    texts = _open_texts(resolved)
    use_threads(options.threads)
    opened = open_model(model, device=options.device, precision=options.precision, untrained=options.untrained)
    score = _scorer(*opened, model.path, options.stride)
    return Evaluated(options.model, {name: score(text(opened[1])) for name, text in texts.items()})


def _refuse_answering(folder: Path, name: str) -> None:
    """UserError for a model that was fine-tuned for a task: of text it predicts nothing."""
    from gptloom.model.store import own_task

    if own_task(folder) is not None:
        what = "this model was fine-tuned to answer rows, and predicts no text"
        raise UserError(Problem(what, name, f"gptloom predict {name} --data ROWS"))


def _scorer(
    model: Transformer, tokenizer: Tokenizer, folder: Path | None, stride: int | None
) -> Callable[[Tokens], Score]:
    """What scores tokens, by what the model is for."""
    from gptloom.evaluation.masked import score_masked
    from gptloom.evaluation.perplexity import score_tokens
    from gptloom.generation.language_model import LanguageModel

    if model.config.mask == "causal":
        return partial(score_tokens, LanguageModel(model, tokenizer), stride=stride)
    if stride is not None:
        what = "--stride does nothing: this model sees both sides of a word, and every window stands for itself"
        raise UserError(Problem(what, mend="leave it out"))
    return partial(score_masked, model, tokenizer, length=_trained_length(folder))


def _trained_length(folder: Path | None) -> int | None:
    """The rows that the model was trained on, where they were shorter than its context: it knows no places beyond."""
    from gptloom.model.store import read_lineage

    trained = read_lineage(folder).get("lineage", {}).get("options", {}) if folder is not None else {}
    return trained.get("sequence_length")


def _open_texts(resolved: Resolved[EvaluateOptions]) -> dict[str, Callable[[Tokenizer], Tokens]]:
    """Name → what makes its tokens; UserError when files are missing or unfit, before any model is opened."""
    from gptloom.data.built import names_shards
    from gptloom.data.documents import Reading, read_documents, stream_documents
    from gptloom.data.inputs import Source, expand_inputs
    from gptloom.evaluation.perplexity import join_documents, open_scored_shards

    options = resolved.options
    if names_shards(options.data):
        if problems := idle(resolved, ("text_column", "document_separator", "encoding"), "--data names token shards"):
            raise UserError(*problems)
        return {name: partial(open_scored_shards, Path(name)) for name in options.data}
    check_once(options.data, "--data")
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
        read = list(stream_documents(sys.stdin.buffer, "standard input", reading))
        texts["standard input"] = partial(join_documents, read)
    return texts


def run_evaluate(resolved: Resolved[EvaluateOptions], out: Output) -> None:
    """Measures how well a model predicts text: loss, perplexity and bits per byte.

    Bits per byte can be compared between models with different tokenizers, loss and perplexity cannot. Of a model that
    fills masks (BERT) it is the loss and the accuracy on masked words, 15 % of the text. An instructed model answers the
    conversations of each file, and its answers are scored: exact match, word overlap, BLEU and chrF, ROUGE.
    """
    result = evaluate_model(resolved)
    if not isinstance(result, Evaluated):
        show_answers(result, resolved.options.samples, out)
        out.document({"model": resolved.options.model, "tasks": result.as_dict()})
        return
    if len(result.files) > 1:
        rows = [(name, *_shown(score).values()) for name, score in [*result.files.items(), ("total", result.total)]]
        header = ("file", *_shown(result.total))
        out.table(header, rows, right=header[1:])
    total = _shown(result.total)
    for name in [name for name in total if name != "bytes"]:
        out.result(f"{name}: {total[name]}")
    files = {name: _facts(score) for name, score in result.files.items()}
    out.document({"model": result.model, **_facts(result.total), "files": files})


def _shown(score: Score) -> dict[str, str]:
    """The figures of a score as they are printed, by their names."""
    from gptloom.evaluation.masked import MaskedScore

    if isinstance(score, MaskedScore):
        return {"loss": f"{score.loss:.4f}", "accuracy": f"{score.accuracy:.2%}", "masked words": f"{score.masked:,}"}
    return {
        "loss": f"{score.loss:.4f}",
        "perplexity": f"{score.perplexity:.2f}",
        "bits per byte": "–" if score.bits_per_byte is None else f"{score.bits_per_byte:.4f}",
        "tokens": f"{score.tokens:,}",
        "bytes": f"{score.n_bytes:,}",
    }


def _facts(score: Score) -> dict[str, Any]:
    """The figures of a score as JSON values."""
    from gptloom.evaluation.masked import MaskedScore

    if isinstance(score, MaskedScore):
        return {"loss": score.loss, "accuracy": score.accuracy, "masked": score.masked, "correct": score.correct}
    return {
        "loss": score.loss,
        "perplexity": score.perplexity,
        "bits_per_byte": score.bits_per_byte,
        "tokens": score.tokens,
        "bytes": score.n_bytes,
    }


COMMANDS = {"evaluate": Command(EvaluateOptions, run_evaluate)}
evaluate = python_function("evaluate", EvaluateOptions, evaluate_model)
