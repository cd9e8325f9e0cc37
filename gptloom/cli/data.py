"""``gptloom data build|show``: text to token shards, and the text that any step of a run was trained on."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from pydantic import Field

from gptloom.cli.framework import Command
from gptloom.cli.output import Output
from gptloom.config.errors import Problem, UserError
from gptloom.config.options import POSITIONAL, JsonOption, Metavar, OverwriteOption, QuietOption
from gptloom.config.pretrain import DataOptions, PretrainOptions
from gptloom.config.python import python_function
from gptloom.config.resolve import Resolved, read_config
from gptloom.observe.terminal import human_bytes, human_count, terminal

if TYPE_CHECKING:
    from gptloom.data.built import Built


class BuildOptions(DataOptions, OverwriteOption, JsonOption, QuietOption):
    """Options of ``gptloom data build``."""

    tokenizer: str = Field(description="tokenizer, model or run folder, tokenizer.json, or gpt2")
    out: Annotated[str, Metavar("FOLDER")] = Field(description="folder to write the shards to")


class ShowOptions(JsonOption):
    """Options of ``gptloom data show``."""

    run: Annotated[str, POSITIONAL] = Field(description="run folder")
    step: int = Field(ge=1, description="the step whose batch is shown; the first is 1")
    rows: int = Field(4, ge=1, description="windows shown of the batch")


def build(resolved: Resolved[BuildOptions]) -> Built:
    """Builds token shards and returns where they are, how many tokens they hold, and the validation rule."""
    from gptloom.data.build import build_shards
    from gptloom.tokenizer import load_tokenizer

    options = resolved.options
    return build_shards(
        options.data,
        load_tokenizer(options.tokenizer),
        Path(options.out),
        valid=options.valid,
        split=options.split,
        valid_fraction=options.valid_fraction,
        text_column=options.text_column,
        document_separator=options.document_separator,
        encoding=options.encoding,
        overwrite=options.overwrite,
        progress=_show_progress,
    )


def _show_progress(done: int, total: int) -> None:
    terminal.show_live(f"tokenizing: {human_bytes(done)} of {human_bytes(total)} ({done / max(1, total):.0%})")


def run_build(resolved: Resolved[BuildOptions], out: Output) -> None:
    """Turns documents into token shards that training maps into memory.

    Text is read and checked before anything is written. A build that was broken off goes on with the files it had not
    done; when nothing has changed there is nothing to do.
    """
    built = build(resolved)
    folder = resolved.options.out
    out.say(built.rule)
    sides = [("train", built.n_train_tokens, built.n_train_bytes), ("valid", built.n_valid_tokens, built.n_valid_bytes)]
    rows = [(name, f"{tokens:,}", human_bytes(size)) for name, tokens, size in sides if tokens]
    out.table(("part", "tokens", "text"), rows, right=("tokens", "text"))
    out.say(f"next:  gptloom pretrain --data {folder} --tokenizer {resolved.options.tokenizer}")
    out.document(
        {
            "out": folder,
            "documents": built.n_documents,
            "rule": built.rule,
            "train": {"tokens": built.n_train_tokens, "bytes": built.n_train_bytes},
            "valid": {"tokens": built.n_valid_tokens, "bytes": built.n_valid_bytes},
            "hash": built.hash,
            "tokenizer": built.tokenizer_hash,
        }
    )


@dataclass(frozen=True)
class ShownWindow:
    """One row of a batch: where it comes from, its ids and its text (inputs and the last target)."""

    row: int
    position: int
    source: int
    epoch: int
    start: int
    end: int
    ids: list[int]
    text: str
    second: tuple[int, int] | None = None  # of a pair of sentences: where the second one lies
    pair_label: int | None = None  # 0: it follows the first, 1: it does not, -1: there is none


def show(resolved: Resolved[ShowOptions]) -> list[ShownWindow]:
    """The first ``rows`` windows that ``step`` of a run was, or will be, trained on; without what a guard left out."""
    from gptloom.observe.events import read_events
    from gptloom.stages.goal import training_batches
    from gptloom.stages.text import DATA, TOKENIZER, reopen_shards
    from gptloom.tokenizer import load_tokenizer
    from gptloom.train.rollback import excluded_windows
    from gptloom.train.run import EVENTS

    options = resolved.options
    folder = Path(options.run)
    config = folder / "config.yaml"
    trained = Resolved.from_dict(PretrainOptions, read_config(config), str(config)).options
    if trained.context is None or trained.batch_tokens is None:
        what = "its preparation was broken off before the size of a batch was chosen"
        raise UserError(Problem(what, where=options.run, mend="start it again with --overwrite"))
    tokenizer = load_tokenizer(folder / TOKENIZER)
    shards = reopen_shards(trained, folder / DATA)
    batches = training_batches(trained, trained.context, shards, tokenizer, trained.seed)
    shown = []
    excluded = excluded_windows(read_events(folder / EVENTS))
    batch = batches.batch(options.step - 1, excluded)
    for row, place in enumerate(batches.describe(options.step - 1, excluded)[: options.rows]):
        if trained.objective == "masked":  # as the model sees it
            real = slice(None) if batch.padding_mask is None else batch.padding_mask[row]
            ids = batch.ids[row][real].tolist()
        else:
            ids = batches.sources[place.source][0].read(place.start, place.end - place.start).tolist()
        shown.append(ShownWindow(row, **asdict(place), ids=ids, text=tokenizer.decode(ids)))
    return shown


def run_show(resolved: Resolved[ShowOptions], out: Output) -> None:
    """Shows, as text, what a step of a run was or will be trained on.

    The order of the data is a pure function of the seed and of the windows that a guard left out, which are in the
    event log, so nothing else needs to have been recorded.
    """
    shown = show(resolved)
    for window in shown:
        place = f"tokens {window.start:,} to {window.end:,} of the training text, epoch {window.epoch + 1}"
        if window.second is not None:
            place += f", and tokens {window.second[0]:,} to {window.second[1]:,}"
            place += ", which follow" if window.pair_label == 0 else ", which do not follow"
        if len({other.source for other in shown}) > 1:
            place += f", source {window.source + 1}"
        out.result(f"--- row {window.row + 1}: {place}")
        out.result(window.text)
    out.say(f"{len(shown)} windows of {human_count(len(shown[0].ids) - 1)} tokens of step {resolved.options.step}")
    out.document({"step": resolved.options.step, "windows": [asdict(window) for window in shown]})


COMMANDS = {
    "data build": Command(BuildOptions, run_build),
    "data show": Command(ShowOptions, run_show),
}
data_build = python_function("data_build", BuildOptions, build)
data_show = python_function("data_show", ShowOptions, show)
