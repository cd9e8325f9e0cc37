"""``gptloom tokenizer train|show|report``: making a tokenizer, looking through its eyes, judging it on a text."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field

from gptloom.cli.framework import Command
from gptloom.cli.output import Output
from gptloom.cli.stdin import STDIN, check_once
from gptloom.config.errors import Problem, UserError
from gptloom.config.options import POSITIONAL, JsonOption, Metavar, Options, OverwriteOption, QuietOption
from gptloom.config.python import python_function
from gptloom.config.resolve import Resolved

if TYPE_CHECKING:
    from gptloom.data.documents import Document
    from gptloom.tokenizer.report import TokenizerReport, TokenRow
    from gptloom.tokenizer.tokenizer import Tokenizer


class TextOptions(Options):
    """Which text is read, and how."""

    data: Annotated[list[str], Metavar("FILE")] = Field(min_length=1, description="text: files, folders, globs")
    text_column: str | None = Field(None, description="column of tables that holds the text (default: found by name)")
    document_separator: str | None = Field(None, description="what stands between the documents of a text file")
    encoding: str = Field("utf-8", description="encoding of the files")


class TrainOptions(TextOptions, OverwriteOption, JsonOption, QuietOption):
    out: Annotated[str, Metavar("FOLDER")] = Field(description="folder to write the tokenizer to")
    kind: Literal["bpe", "wordpiece", "chars", "bytes", "words"] = Field("bpe", description="what a token is")
    cased: bool = Field(False, description="of wordpiece: letters keep their case and accents")
    vocab_size: int | None = Field(
        None, gt=0, description="number of ids, special tokens included (default: from the amount of text)"
    )


class ShowOptions(JsonOption, QuietOption):
    tokenizer: Annotated[str, POSITIONAL] = Field(
        description="tokenizer, model or run folder, file, gpt2, gpt1 or bert"
    )
    text: list[str] = Field(min_length=1, description="texts whose tokens are shown; - reads standard input")
    special: bool = Field(False, description="special tokens spelled in the text are special")


class ReportOptions(TextOptions, JsonOption, QuietOption):
    tokenizer: Annotated[str, POSITIONAL] = Field(
        description="tokenizer, model or run folder, file, gpt2, gpt1 or bert"
    )
    compare: Annotated[list[str], Metavar("TOKENIZER")] = Field([], description="further tokenizers to compare with")


def train(resolved: Resolved[TrainOptions]) -> Tokenizer:
    """Trains a tokenizer, saves it to the folder ``out`` and returns it."""
    from gptloom.tokenizer import train_tokenizer

    options = resolved.options
    out = Path(options.out)
    if out.exists() and not out.is_dir():
        raise UserError(Problem("is a file, not a folder", where=options.out, mend="give another --out"))
    if (out / "tokenizer.json").exists() and not options.overwrite:
        raise UserError(Problem("holds a tokenizer already", where=options.out, mend="another --out, or --overwrite"))
    tokenizer = train_tokenizer(
        options.kind,
        (piece.text for piece in _documents(options)),
        options.vocab_size,
        lowercase=False if options.cased else None,
    )
    tokenizer.save(out)
    return tokenizer


def run_train(resolved: Resolved[TrainOptions], out: Output) -> None:
    """Trains a tokenizer on text and saves it as a folder that transformers opens too."""
    tokenizer = train(resolved)
    folder = resolved.options.out
    special = ", ".join(f"{content} {token_id}" for content, token_id in tokenizer.special_tokens.items())
    out.say(f"{tokenizer.kind}: {tokenizer.vocab_size:,} ids, of which {special}")
    out.say(f"see it split a text: gptloom tokenizer show {folder} --text ...")
    out.result(folder)
    out.document({"out": folder, **_identity(tokenizer), "special_tokens": tokenizer.special_tokens})


@dataclass(frozen=True)
class ShownText:
    """A text and its tokens."""

    text: str
    tokens: list[TokenRow]

    @property
    def bytes_per_token(self) -> float:
        """UTF-8 bytes of the text for each token; 0 for an empty text."""
        return len(self.text.encode("utf-8")) / len(self.tokens) if self.tokens else 0.0


def show(resolved: Resolved[ShowOptions]) -> list[ShownText]:
    """The tokens of each text."""
    from gptloom.tokenizer import load_tokenizer
    from gptloom.tokenizer.report import show_tokens

    options = resolved.options
    check_once(options.text, "--text")
    tokenizer = load_tokenizer(options.tokenizer)
    texts = [sys.stdin.read() if text == STDIN else text for text in options.text]
    return [ShownText(text, show_tokens(tokenizer, text, special=options.special)) for text in texts]


def run_show(resolved: Resolved[ShowOptions], out: Output) -> None:
    """Shows texts as tokens: the id, the token (a dot stands for a space) and its bytes in hexadecimal."""
    shown = show(resolved)
    for one in shown:
        rows = [(row.id, row.text, row.bytes.hex(" ")) for row in one.tokens]
        out.table(("id", "token", "bytes"), rows, right=("id",))
        out.say(f"{len(rows)} tokens, {one.bytes_per_token:.2f} bytes per token")
    out.document([{"text": one.text, "tokens": [row.as_json() for row in one.tokens]} for one in shown])


def report(resolved: Resolved[ReportOptions]) -> TokenizerReport:
    """Measures a tokenizer on text: how short it makes it, what it wastes, what it loses."""
    from gptloom.tokenizer import load_tokenizer
    from gptloom.tokenizer.report import report_on

    options = resolved.options
    tokenizer = load_tokenizer(options.tokenizer)
    return report_on(tokenizer, _documents(options), {name: load_tokenizer(name) for name in options.compare})


def run_report(resolved: Resolved[ReportOptions], out: Output) -> None:
    """Measures a tokenizer on text: how short it makes it, what it wastes, what it loses."""
    measured = report(resolved)
    out.table(("measure", "value"), _figures(measured), right=("value",))
    out.result("\nmost frequent tokens")
    out.table(
        ("id", "token", "count"), [(row.id, row.text, row.count) for row in measured.most_frequent], ("id", "count")
    )
    out.result("\nlongest tokens")
    out.table(("id", "token", "count"), [(row.id, row.text, row.count) for row in measured.longest], ("id", "count"))
    out.result("\nthe same text elsewhere")
    rows = [
        (row.name, f"{row.vocab_size:,}", f"{row.tokens:,}", f"{row.bytes_per_token:.3f}")
        for row in measured.comparisons
    ]
    out.table(("tokenizer", "ids", "tokens", "bytes/token"), rows, ("ids", "tokens", "bytes/token"))
    for failure in measured.first_failures:
        out.say(f"{failure.place}: {failure.expected!r} comes back as {failure.found!r}")
    out.document(measured.as_json())


def _figures(measured: TokenizerReport) -> list[tuple[str, str]]:
    return [
        ("kind", measured.kind),
        ("ids", f"{measured.vocab_size:,}"),
        ("documents", f"{measured.documents:,}"),
        ("bytes", f"{measured.bytes:,}"),
        ("tokens", f"{measured.tokens:,}"),
        ("bytes per token", f"{measured.bytes_per_token:.3f}"),
        ("characters per token", f"{measured.characters_per_token:.3f}"),
        ("tokens per word", f"{measured.tokens_per_word:.3f}"),
        ("ids that never occur", f"{measured.unused_ids:,} ({measured.unused_share:.1%})"),
        ("unknown tokens", f"{measured.unknown_tokens:,}"),
        (
            "texts that do not come back",
            f"{measured.round_trip_failures:,}" + ("" if measured.lossless else " (this kind cleans a text)"),
        ),
    ]


def _documents(options: TextOptions) -> Iterator[Document]:
    from gptloom.data.documents import iter_documents
    from gptloom.data.inputs import expand_inputs

    weighted = [source for source in expand_inputs(options.data) if source.weight != 1]
    if weighted:
        problems = [
            Problem("a weight has no meaning here", str(source.path), "leave @ and what follows out")
            for source in weighted
        ]
        raise UserError(*problems)
    return iter_documents(
        options.data,
        text_column=options.text_column,
        document_separator=options.document_separator,
        encoding=options.encoding,
    )


def _identity(tokenizer: Tokenizer) -> dict[str, Any]:
    return {"kind": tokenizer.kind, "vocab_size": tokenizer.vocab_size, "hash": tokenizer.hash}


COMMANDS = {
    "tokenizer train": Command(TrainOptions, run_train),
    "tokenizer show": Command(ShowOptions, run_show),
    "tokenizer report": Command(ReportOptions, run_report),
}
tokenizer_train = python_function("tokenizer_train", TrainOptions, train)
tokenizer_show = python_function("tokenizer_show", ShowOptions, show)
tokenizer_report = python_function("tokenizer_report", ReportOptions, report)
