"""``gptloom data build|show``: text to token shards, and what any step of a run, or a stage, reads."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from pydantic import Field

from gptloom.cli.examples import Painter
from gptloom.cli.framework import Command
from gptloom.cli.output import Output
from gptloom.config.errors import Problem, UserError
from gptloom.config.options import JsonOption, Metavar, OverwriteOption, QuietOption
from gptloom.config.pretrain import DataOptions, PretrainOptions
from gptloom.config.python import python_function
from gptloom.config.resolve import Resolved, read_config
from gptloom.config.show import ShowOptions
from gptloom.observe.numbers import human_bytes, human_count
from gptloom.observe.terminal import Terminal, terminal

if TYPE_CHECKING:
    from gptloom.data.built import Built
    from gptloom.stages.shown_tokens import ShownExample


class BuildOptions(DataOptions, OverwriteOption, JsonOption, QuietOption):
    """Options of ``gptloom data build``."""

    tokenizer: str = Field(description="tokenizer, model or run folder, tokenizer.json, or gpt2")
    out: Annotated[str, Metavar("FOLDER")] = Field(description="folder to write the shards to")


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


def show(resolved: Resolved[ShowOptions]) -> list[ShownWindow] | list[ShownExample]:
    """What a step of a run is trained on (its first ``rows``), or the first ``n`` examples of a file as ``stage`` reads them.

    Windows of text for a pretraining, examples for a fine-tuning.
    """
    from gptloom.stages.on_disk import command_of
    from gptloom.stages.show_examples import check_mode, show_examples

    options = resolved.options
    check_mode(resolved)
    if options.stage is not None:
        return show_examples(resolved)
    assert options.step is not None
    folder = Path(options.run)
    command = command_of(folder)
    if command == "finetune":
        from gptloom.stages.finetune import shown

        return shown.examples_of_step(folder, options.step, options.rows)
    if command == "sft":
        from gptloom.stages.sft import shown as shown_sft

        return shown_sft.examples_of_step(folder, options.step, options.rows)
    return _windows(options, options.step)


def _windows(options: ShowOptions, step: int) -> list[ShownWindow]:
    """What ``step`` of a run was, or will be, trained on; without what a guard left out."""
    from gptloom.config.run_folder import CONFIG, DATA, EVENTS, TOKENIZER
    from gptloom.observe.events import read_events
    from gptloom.stages.goal import training_batches
    from gptloom.stages.text import reopen_shards
    from gptloom.tokenizer import load_tokenizer
    from gptloom.train.rollback import excluded_windows

    folder = Path(options.run)
    config = folder / CONFIG
    trained = Resolved.from_dict(PretrainOptions, read_config(config), str(config)).options
    if trained.context is None or trained.batch_tokens is None:
        what = "its preparation was broken off before the size of a batch was chosen"
        raise UserError(Problem(what, where=options.run, mend="start it again with --overwrite"))
    tokenizer = load_tokenizer(folder / TOKENIZER)
    shards = reopen_shards(trained, folder / DATA)
    batches = training_batches(trained, trained.context, shards, tokenizer, trained.seed)
    shown = []
    excluded = excluded_windows(read_events(folder / EVENTS))
    batch = batches.batch(step - 1, excluded)
    for row, place in enumerate(batches.describe(step - 1, excluded)[: options.rows]):
        if trained.objective == "masked":  # as the model sees it
            real = slice(None) if batch.padding_mask is None else batch.padding_mask[row]
            ids = batch.ids[row][real].tolist()
        else:
            ids = batches.sources[place.source][0].read(place.start, place.end - place.start).tolist()
        shown.append(ShownWindow(row, **asdict(place), ids=ids, text=tokenizer.decode(ids)))
    return shown


def run_show(resolved: Resolved[ShowOptions], out: Output) -> None:
    """Shows, as text, what a step of a run was or will be trained on; with --stage, examples of a file as they are read.

    The order of the data is a pure function of the seed and of the windows that a guard left out, which are in the
    event log, so nothing else needs to have been recorded. Tokens of a file's examples are coloured by what they are
    there for; without colours, brackets and a name say it.
    """
    options, shown = resolved.options, show(resolved)
    windows = [one for one in shown if isinstance(one, ShownWindow)]
    examples = [one for one in shown if not isinstance(one, ShownWindow)]
    if examples:
        _print_examples(examples, out)
        what = {"stage": options.stage} if options.step is None else {"step": options.step}
        out.document({**what, "examples": [asdict(example) for example in examples]})
    else:
        _print_windows(windows, options.step, out)


def _print_examples(shown: list[ShownExample], out: Output) -> None:
    painter = Painter(shown, colours=Terminal(out.stdout).moves)
    for line in (line for example in shown for line in painter.lines(example)):
        out.result(line)
    if legend := painter.legend():
        out.result(legend)


def _print_windows(shown: list[ShownWindow], step: int | None, out: Output) -> None:
    for window in shown:
        place = f"tokens {window.start:,} to {window.end:,} of the training text, epoch {window.epoch + 1}"
        if window.second is not None:
            place += f", and tokens {window.second[0]:,} to {window.second[1]:,}"
            place += ", which follow" if window.pair_label == 0 else ", which do not follow"
        if len({other.source for other in shown}) > 1:
            place += f", source {window.source + 1}"
        out.result(f"--- row {window.row + 1}: {place}")
        out.result(window.text)
    out.say(f"{len(shown)} windows of {human_count(len(shown[0].ids) - 1)} tokens of step {step}")
    out.document({"step": step, "windows": [asdict(window) for window in shown]})


COMMANDS = {
    "data build": Command(BuildOptions, run_build),
    "data show": Command(ShowOptions, run_show),
}
data_build = python_function("data_build", BuildOptions, build)
data_show = python_function("data_show", ShowOptions, show)
