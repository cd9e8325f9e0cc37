"""Examples of a user's file as a stage reads them, token by token: what each is there for, and the answer."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from gptloom.config.errors import Problem, UserError
from gptloom.config.finetune import ColumnOptions, TaskInputOptions
from gptloom.config.options import option_fields
from gptloom.config.resolve import Resolved, idle
from gptloom.config.sft import ConversationOptions
from gptloom.config.show import RunStepOptions, ShowOptions, Stage, StageOptions
from gptloom.config.task import Columns, HeadConfig, Inputs, Task, TaskConfig
from gptloom.data.columns import declared_names, guess_columns
from gptloom.data.example import Example, Examples
from gptloom.data.tables import read_table
from gptloom.data.task_examples import read_examples
from gptloom.data.task_frame import frame
from gptloom.data.task_inputs import IGNORED, ROLES, Encoded, TaskInputs
from gptloom.interop.bodies import is_foreign
from gptloom.interop.open import trained
from gptloom.model.store import own_task, read_config, read_task
from gptloom.observe.terminal import say
from gptloom.stages.finetune.columns import idle_columns, idle_inputs
from gptloom.stages.show_conversations import conversation_examples
from gptloom.stages.shown_tokens import ShownExample, ShownToken
from gptloom.tokenizer import Tokenizer, load_tokenizer, train_tokenizer
from gptloom.tokenizer.roles import framing

NO_LIMIT = 2**31  # of a row, where no model says how much it can read
ANSWER = "answer"


def show_examples(asked: Resolved[ShowOptions]) -> list[ShownExample]:
    """The first ``n`` examples of a file as ``stage`` reads them; ``UserError`` for all that is wrong with the file."""
    assert asked.options.stage is not None
    return STAGES[asked.options.stage](asked)


def check_mode(asked: Resolved[ShowOptions]) -> None:
    """UserError for every option that does nothing for a run, or nothing for a file of a stage."""
    stage = asked.options.stage
    if stage is None:
        problems = idle(asked, option_fields(StageOptions), "it is for a file and its --stage")
    else:
        problems = idle(asked, option_fields(RunStepOptions), "it is for a run") + _of_others(asked, stage)
        if asked.options.model is not None and asked.options.tokenizer is not None:
            problems.append(Problem("a model has its own tokenizer", "--tokenizer", "leave --model or --tokenizer out"))
    if stage is None and asked.options.step is None:
        mend = "--step 1 of a run; for a file of examples --stage finetune"
        problems.insert(0, Problem("--step is missing", where=asked.options.run, mend=mend))
    if problems:
        raise UserError(*problems)


def _of_others(asked: Resolved[ShowOptions], stage: Stage) -> list[Problem]:
    """A problem for every option that another stage knows, and ``stage`` does not."""
    by_stage: dict[Stage, set[str]] = {
        "finetune": {"task", *option_fields(ColumnOptions), *option_fields(TaskInputOptions)},
        "sft": set(option_fields(ConversationOptions)),
    }
    others = {other: sorted(names - by_stage[stage]) for other, names in by_stage.items()}
    return [problem for other, names in others.items() for problem in idle(asked, names, f"it is for --stage {other}")]


# ---- finetune --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Reader:
    """Who reads: a tokenizer, a frame, and, where it was fine-tuned already, all that it was taught."""

    tokenizer: Tokenizer
    inputs: Inputs
    new_tokens: bool  # a decoder's frame is of three new tokens, as it is once embeddings are trained
    context: int = NO_LIMIT
    taught: TaskConfig | None = None


def finetune_examples(asked: Resolved[ShowOptions]) -> list[ShownExample]:
    """As ``gptloom finetune --task`` reads them: labels learned from the file, or known to the model."""
    options = asked.options
    reader = _of_model(options.model) if options.model is not None else _of_tokenizer(options.tokenizer)
    taught = None if reader is None else reader.taught
    _refuse_idle(asked, taught)
    found, columns = _read(options, taught)
    shown = found.examples[: options.n]
    reader = reader or _of_words(shown)
    task = taught or _task(reader, options, found.labels, columns)
    tokenizer, inputs = _inputs(reader, task)
    return [
        shown_example(example, one, tokenizer, found.labels)
        for example, one in zip(shown, inputs.encode(shown), strict=True)
    ]


def _of_model(name: str) -> _Reader:
    folder, tokenizer = trained(name, "--tokenizer gpt2")
    if is_foreign(folder):
        return _Reader(tokenizer, _inputs_of(tokenizer), False, taught=own_task(folder))
    config = read_config(folder)
    inputs: Inputs = "bert" if config.mask == "bidirectional" else "gpt1"
    return _Reader(tokenizer, inputs, True, config.context, read_task(folder))


def _of_tokenizer(name: str | None) -> _Reader | None:
    if name is None:
        return None
    tokenizer = load_tokenizer(name)
    return _Reader(tokenizer, _inputs_of(tokenizer), True)


def _of_words(examples: Sequence[Example]) -> _Reader:
    say("words are shown as they stand; --model or --tokenizer shows them as a model reads them")
    return _Reader(train_tokenizer("words", [text for one in examples for text in one.texts], None), "gpt1", True)


def _inputs_of(tokenizer: Tokenizer) -> Inputs:
    """An encoder's tokenizer says how its texts are framed, a decoder's does not."""
    return "gpt1" if framing(tokenizer) is None and tokenizer.sep_id is None else "bert"


def _refuse_idle(asked: Resolved[ShowOptions], taught: TaskConfig | None) -> None:
    """UserError for what a fine-tuned model was taught and is not asked anew, and for columns without use."""
    problems = []
    if taught is not None:
        why = f"the model was fine-tuned ({taught.task}) and reads as it was taught to"
        problems = idle(asked, ("task", *option_fields(TaskInputOptions)), why)
    task = _task_of(asked.options, taught)
    problems += [*idle_columns(task, asked.options), *idle_inputs(task, asked.options)]
    if problems:
        raise UserError(*problems)


def _task_of(options: ShowOptions, taught: TaskConfig | None) -> Task:
    return taught.task if taught is not None else options.task or "classify"


def _read(options: ShowOptions, taught: TaskConfig | None) -> tuple[Examples, Columns]:
    """The examples of the file; the columns are those of the fine-tuning where no option names one."""
    table = read_table(options.run, options.header, declared_names(options))
    task = _task_of(options, taught)
    if taught is None or declared_names(options):
        columns, sentence = guess_columns(table, task, options)
        say(sentence)
    else:
        columns = taught.columns
    labels, preprocess = (None, options.preprocess) if taught is None else (taught.labels, taught.preprocess)
    found = read_examples([table], task, columns, labels, preprocess)
    for note in (*found.notes, *found.warnings):
        say(note)
    return found, columns


def _task(reader: _Reader, options: ShowOptions, labels: tuple[str, ...], columns: Columns) -> TaskConfig:
    if options.max_length is not None and options.max_length > reader.context:
        what = f"{options.max_length} is more than the context of the model, {reader.context}"
        raise UserError(Problem(what, "--max-length", f"--max-length {reader.context} or less"))
    _, tokens = frame(reader.tokenizer, reader.inputs, reader.new_tokens and reader.inputs == "gpt1")
    return TaskConfig(
        task=_task_of(options, None),
        labels=labels,
        columns=columns,
        inputs=reader.inputs,
        tokens=tokens,
        max_length=options.max_length or reader.context,
        cut=options.cut,
    )


def _inputs(reader: _Reader, task: TaskConfig) -> tuple[Tokenizer, TaskInputs]:
    """The tokenizer, with new tokens where the frame has some, and what makes rows with it."""
    tokenizer = reader.tokenizer
    if reader.taught is None:
        tokenizer, _ = frame(tokenizer, reader.inputs, reader.new_tokens and reader.inputs == "gpt1")
    orders: Literal[1, 2] = 2 if task.task == "similar" and task.inputs == "gpt1" else 1
    return tokenizer, TaskInputs(tokenizer, task, HeadConfig(kind="sequence", n_labels=1, orders=orders))


def shown_example(example: Example, encoded: Encoded, tokenizer: Tokenizer, labels: tuple[str, ...]) -> ShownExample:
    """Every token of ``encoded`` with its role; ``labels`` are the names of the classes."""
    rows = []
    for row in encoded.rows:
        marks = _marks(encoded, labels)
        rows.append(
            [
                ShownToken(token_id, tokenizer.token_text(token_id), ROLES[role], marks.get(place))
                for place, (token_id, role) in enumerate(zip(row.ids, row.roles, strict=True))
            ]
        )
    return ShownExample(example.where, _label(example, encoded, labels), rows, encoded.cut)


def _marks(encoded: Encoded, labels: tuple[str, ...]) -> dict[int, str]:
    """Place in the row -> the tag of the word, or "answer"."""
    if encoded.offsets is not None:
        first, last = encoded.label
        return {} if first == IGNORED else dict.fromkeys(range(first, last + 1), ANSWER)
    if encoded.words is None:
        return {}
    ends = (*encoded.words[1:], len(encoded.rows[0].ids) - 1)
    spans = zip(encoded.words, ends, encoded.label, strict=False)  # words that were cut away have a tag and no place
    return {place: labels[tag] for begin, end, tag in spans for place in range(begin, end)}


def _label(example: Example, encoded: Encoded, labels: tuple[str, ...]) -> str:
    label = example.label
    if encoded.offsets is not None:
        answer = example.texts[0][label[0] : label[1]]
        return answer if encoded.label[0] != IGNORED else f"{answer} (cut away)"
    if encoded.words is not None:
        return " ".join(labels[tag] for tag in label)
    if isinstance(label, float):
        return f"{label:g}"
    return labels[label] if labels else f"choice {label + 1} of {len(encoded.rows)}"


STAGES: dict[Stage, Callable[[Resolved[ShowOptions]], list[ShownExample]]] = {
    "finetune": finetune_examples,
    "sft": conversation_examples,
}
