"""``gptloom generate``: a model continues prompts, to the terminal, as JSON, or into an answers file."""

from __future__ import annotations

import contextlib
import json
import secrets
import sys
import time
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gptloom.cli.framework import Command
from gptloom.cli.output import Output
from gptloom.cli.stdin import STDIN, check_once
from gptloom.config.errors import Problem, UserError
from gptloom.config.files import check_new_file
from gptloom.config.generate import GenerateOptions, SamplingOptions
from gptloom.config.python import python_function
from gptloom.config.resolve import Resolved

if TYPE_CHECKING:
    from gptloom.generation.language_model import LanguageModel
    from gptloom.generation.prompts import Answer, Prompt


def sampling_options(options: GenerateOptions) -> SamplingOptions:
    """The sampling part of the options, with a seed: a fresh one where none was given."""
    fields = {name: getattr(options, name) for name in SamplingOptions.model_fields}
    if options.seed is None:
        fields["seed"] = None if options.beams > 1 else secrets.randbits(31)
    return SamplingOptions(**fields)


def read_all_prompts(options: GenerateOptions) -> list[Prompt]:
    """The prompts of ``--prompt`` or ``--prompts``; ``-`` is standard input, as a whole or line by line."""
    from gptloom.generation.prompts import Prompt, read_prompts, read_prompts_file

    if options.prompts == STDIN:
        return read_prompts(sys.stdin, STDIN)
    if options.prompts is not None:
        return read_prompts_file(Path(options.prompts))
    check_once(options.prompt, "--prompt")
    # What `echo` puts at the end of a line is no part of a prompt.
    return [Prompt(sys.stdin.read().removesuffix("\n") if text == STDIN else text) for text in options.prompt]


def open_model(options: GenerateOptions) -> LanguageModel:
    """The model in the precision asked for. ``UserError`` when it can't be opened."""
    from gptloom.interop.open import load
    from gptloom.train.precision import use_threads

    use_threads(options.threads)
    return load(
        options.model,
        device=options.device,
        precision=options.precision,
        untrained=options.untrained,
        compile=options.compile,
        slots=options.slots,
    )


def answers(
    options: GenerateOptions, sampling: SamplingOptions, prompts: Sequence[Prompt], model: LanguageModel
) -> Iterator[Answer]:
    """The answer to each prompt, in order, each as soon as it is complete. With ``out`` each is written there too."""
    from gptloom.generation.prompts import Answer, answers_file

    if options.show_choices is not None:
        for prompt in prompts:
            yield Answer(prompt, options.model, choices=tuple(model.next(prompt.text, options.show_choices)))
        return
    with contextlib.ExitStack() as stack:
        file = stack.enter_context(answers_file(Path(options.out), options.overwrite)) if options.out else None
        found = model.complete([prompt.text for prompt in prompts], sampling)
        for prompt, completions in zip(prompts, found, strict=True):
            answer = Answer(prompt, options.model, tuple(completions))
            if file:
                print(json.dumps(answer.as_dict(), ensure_ascii=False), file=file, flush=True)
            yield answer


def prepare(options: GenerateOptions) -> tuple[list[Prompt], LanguageModel]:
    """The prompts and the model; everything that can be wrong is found out here, the cheap things first."""
    prompts = read_all_prompts(options)
    if options.out:
        check_new_file(Path(options.out), options.overwrite)
    return prompts, open_model(options)


def generate_all(resolved: Resolved[GenerateOptions]) -> list[Answer]:
    """Continues prompts with a model: a list of one ``Answer`` a prompt, with ``completions`` (or ``choices``)."""
    options = resolved.options
    if options.stream:
        raise UserError(Problem("stream prints in a terminal", mend='gptloom.load(MODEL).stream("...") in Python'))
    return list(answers(options, sampling_options(options), *prepare(options)))


def run_generate(resolved: Resolved[GenerateOptions], out: Output) -> None:
    """Lets a model continue prompts, exactly as they are given."""
    options = resolved.options
    sampling = sampling_options(options)
    if options.logprobs and not (out.as_json or options.out):
        raise UserError(Problem("logprobs are told in JSON only", mend="--json or --out FILE; or --show-choices"))
    with warnings_said(out):
        prompts, model = prepare(options)
        if options.show_choices is not None:
            _show_choices(answers(options, sampling, prompts, model), out)
        elif options.stream or (options.stream is None and _streams_by_itself(options, out)):
            _stream(prompts[0].text, sampling, model, out)
        else:
            _write(options, sampling, answers(options, sampling, prompts, model), model, out)


def _streams_by_itself(options: GenerateOptions, out: Output) -> bool:
    single = len(options.prompt) == 1 and options.written == 1 and options.beams == 1
    return single and not options.out and not out.as_json and out.stdout.isatty()


def _show_choices(found: Iterator[Answer], out: Output) -> None:
    documents: list[dict[str, Any]] = []
    for answer in found:
        out.say(f"after {answer.prompt.text!r}:")
        rows = [(choice.text, choice.id, f"{choice.probability:.2%}") for choice in answer.choices]
        out.table(("token", "id", "probability"), rows, right=("id", "probability"))
        documents.append(answer.as_dict())
    out.document(documents)


def _stream(prompt: str, sampling: SamplingOptions, model: LanguageModel, out: Output) -> None:
    start, tokens = time.perf_counter(), 0
    events = model.events(prompt, sampling)  # a prompt that does not fit is refused here, before anything is printed
    print(prompt + gap(prompt, model), end="", file=out.stdout, flush=True)
    for event in events:
        print(event.text, end="", file=out.stdout, flush=True)
        tokens += 1
    print(file=out.stdout, flush=True)
    out.say(_closing(sampling, tokens, time.perf_counter() - start))


def gap(prompt: str, model: LanguageModel) -> str:
    """What stands between a prompt and its completion: in GPT-1's tokens the space comes after a word, not before."""
    return " " if model.tokenizer.kind == "gpt1" and not prompt.endswith((" ", "\n")) else ""


def _write(
    options: GenerateOptions, sampling: SamplingOptions, found: Iterator[Answer], model: LanguageModel, out: Output
) -> None:
    start, tokens = time.perf_counter(), 0
    documents: list[dict[str, Any]] = []
    many = options.prompts is not None or len(options.prompt) > 1
    for place, answer in enumerate(found, start=1):
        tokens += sum(completion.tokens for completion in answer.completions)
        if out.as_json:
            documents.append(answer.as_dict())
        elif not options.out:
            _print_answer(answer, place if many else None, gap(answer.prompt.text, model), out)
    if options.out:
        out.say(f"answers are in {options.out}")
    out.say(_closing(sampling, tokens, time.perf_counter() - start))
    out.document(documents)


def _print_answer(answer: Answer, place: int | None, gap: str, out: Output) -> None:
    """Each completion after its prompt; a line above says which it is when there are several."""
    n = len(answer.completions)
    for index, completion in enumerate(answer.completions, start=1):
        parts = [f"prompt {place}"] if place is not None else []
        parts += [f"{index} of {n}"] if n > 1 else []
        if parts:
            out.result(f"── {', '.join(parts)} ({completion.tokens} tokens, {completion.finish_reason}) ──")
        out.result(completion.prompt + gap + completion.text)


def _closing(sampling: SamplingOptions, tokens: int, seconds: float) -> str:
    again = f"; --seed {sampling.seed} repeats it" if sampling.seed is not None and sampling.temperature > 0 else ""
    return f"{tokens:,} tokens in {seconds:.1f} s{again}"


@contextlib.contextmanager
def warnings_said(out: Output) -> Iterator[None]:
    """Warnings become messages, each once, instead of Python's two lines with a file name."""
    said: set[str] = set()

    def say(message: Warning | str, category: type[Warning], *_: Any, **__: Any) -> None:
        if issubclass(category, UserWarning) and str(message) not in said:
            said.add(str(message))
            out.say(f"note: {message}")

    with warnings.catch_warnings():
        warnings.simplefilter("always", UserWarning)
        warnings.showwarning = say
        yield


COMMANDS = {"generate": Command(GenerateOptions, run_generate)}
generate = python_function("generate", GenerateOptions, generate_all)
