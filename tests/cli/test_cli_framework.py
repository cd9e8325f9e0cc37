"""Every rule of the command line, on a small command of its own, in-process."""

from __future__ import annotations

import errno
import json
import os
import sys
from collections.abc import Callable, Iterator
from types import ModuleType
from typing import Annotated, Any

import pytest
from pydantic import Field

from gptloom.cli import framework
from gptloom.cli.framework import Command
from gptloom.cli.output import Output
from gptloom.config.errors import GuardStop, Problem, UserError
from gptloom.config.options import (
    POSITIONAL,
    BudgetOptions,
    CompileOption,
    DeviceOption,
    JsonOption,
    OverwriteOption,
    QuietOption,
    RecipeOptions,
    YesOption,
)
from gptloom.config.resolve import Resolved
from gptloom.observe.terminal import say, terminal


class SampleOptions(
    DeviceOption,
    CompileOption,
    BudgetOptions,
    OverwriteOption,
    RecipeOptions,
    JsonOption,
    QuietOption,
    YesOption,
):
    base: Annotated[str | None, POSITIONAL] = Field(None, description="what to start from")
    data: list[str] = Field([], description="text files")
    betas: list[float] = Field([0.9, 0.95], description="two numbers")
    prompt: str = Field("", description="text")
    shift: float = Field(0.5, description="a number of either sign")
    shuffle: bool = Field(True, description="on unless switched off")


Run = Callable[[Resolved[SampleOptions], Output], int | None]
Invoke = Callable[..., tuple[int, str, str]]


@pytest.fixture
def seen() -> list[Resolved[SampleOptions]]:
    return []


@pytest.fixture
def invoke(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], seen: list[Resolved[SampleOptions]]
) -> Iterator[Invoke]:
    """Runs ``gptloom sample ARGUMENTS`` whose body is ``run``; returns exit code, stdout, stderr."""

    def remember(resolved: Resolved[SampleOptions], out: Output) -> None:
        """Remembers what it was given."""
        seen.append(resolved)
        out.document({})

    def invoke(*arguments: str, run: Run = remember) -> tuple[int, str, str]:
        module = ModuleType("sample_command")
        module.COMMANDS = {"sample": Command(SampleOptions, run)}  # type: ignore[attr-defined]
        monkeypatch.setitem(sys.modules, "sample_command", module)
        code = framework.run_command("sample", "a sample", "sample_command", arguments)
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    yield invoke


def given(seen: list[Resolved[SampleOptions]]) -> dict[str, Any]:
    """What the command line set, and nothing else."""
    resolved = seen[-1]
    return {name: s.value for name, s in resolved.settings().items() if s.source == "command line"}


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ("", {}),
        ("--data a b --data c", {"data": ["a", "b", "c"]}),
        ("--data=a --data b --json --data c", {"data": ["a", "b", "c"], "json": True}),
        ("--data a --overwrite runs/x --data b", {"data": ["a", "b"], "overwrite": True, "base": "runs/x"}),
        ("runs/x --data a", {"base": "runs/x", "data": ["a"]}),
        ("--data a -- runs/x", {"base": "runs/x", "data": ["a"]}),
        ("--betas -0.5 .9 --betas 1e-3", {"betas": [-0.5, 0.9, 1e-3]}),
        ("--shift -1e-3", {"shift": -1e-3}),
        ("--shift=-2 runs/x", {"shift": -2.0, "base": "runs/x"}),
        ("--compile", {"compile": True}),
        ("--no-compile", {"compile": False}),
        ("--no-shuffle", {"shuffle": False}),
        ("--max-steps 1_000", {"max_steps": 1000}),
        ("--device auto", {"device": "auto"}),
        ("--max_steps 3", {"max_steps": 3}),
        ("--prompt=--what", {"prompt": "--what"}),
        ("--prompt=", {"prompt": ""}),
        ("--yes --quiet", {"yes": True, "quiet": True}),
    ],
)
def test_exactly_what_was_typed_is_given(
    arguments: str, expected: dict[str, Any], invoke: Invoke, seen: list[Resolved[SampleOptions]]
) -> None:
    code, _, err = invoke(*arguments.split())
    assert (code, err) == (0, "")
    assert given(seen) == expected


def test_values_with_spaces_and_dashes_stay_whole(invoke: Invoke, seen: list[Resolved[SampleOptions]]) -> None:
    invoke("--prompt", "- an item\n--\n", "--data", "a file.txt", "-5")
    assert given(seen) == {"prompt": "- an item\n--\n", "data": ["a file.txt", "-5"]}


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ("--dta a", "there is no option --dta\n  try: did you mean --data"),
        ("--max-step 3 --devise cpu", "there is no option --max-step\n  try: did you mean --max-steps"),
        ("--max-step 3 --devise cpu", "there is no option --devise\n  try: did you mean --device"),
        ("-d a", "there is no option -d: options have two dashes"),
        ("--prompt", "--prompt needs a value"),
        ("--data --overwrite", "--data needs a value"),
        ("--overwrite=yes", "--overwrite takes no value"),
        ("--no-max-steps", "there is no option --no-max-steps"),
        ("runs/x runs/y", "nothing takes 'runs/y'"),
        ("--device gpu --max-minutes x", "--max-minutes 'x' is not a number"),
        ("--device gpu --max-minutes x", "--device 'gpu' is not one of 'auto', 'cpu', 'cuda' or 'mps'"),
        ("--max-steps 0", "--max-steps '0' must be greater than 0"),
        ("--recipe nowhere", "there is no recipe and no file called 'nowhere'"),
    ],
)
def test_mistakes_are_short_and_end_with_2(arguments: str, expected: str, invoke: Invoke) -> None:
    code, out, err = invoke(*arguments.split())
    assert (code, out) == (2, "")
    assert f"error: {expected}" in err
    assert "Traceback" not in err and len(err.splitlines()) <= 6


def test_help_lists_options_with_defaults_and_the_docstring(invoke: Invoke) -> None:
    code, out, _ = invoke("--help")
    assert code == 0
    assert out.startswith("usage: gptloom sample") and "Remembers what it was given." in out
    text = " ".join(out.split())
    assert "--data TEXT ... text files" in text
    assert "--compile, --no-compile" in text and "--overwrite replace" in text and "no-overwrite" not in text
    assert "--device {auto,cpu,cuda,mps}" in text and "(default: auto)" in text
    assert "[BASE] what to start from" in text


def raising(error: BaseException) -> Run:
    def run(resolved: Resolved[SampleOptions], out: Output) -> int | None:
        print("a stray print")
        raise error

    return run


ERROR = UserError(Problem("the file is empty", "a.txt:1", "another file"), "and a second problem")


def test_user_errors_show_what_where_and_mend(invoke: Invoke) -> None:
    code, _, err = invoke(run=raising(ERROR))
    assert code == 2
    assert err == "error: the file is empty\n  a.txt:1\n  try: another file\nerror: and a second problem\n"


@pytest.mark.parametrize(
    ("error", "code", "words"),
    [
        (ERROR, 2, "error: the file is empty"),
        (GuardStop("the loss is not finite"), 3, "stopped: the loss is not finite"),
        (KeyboardInterrupt(), 130, "stopped: broken off"),
        (ZeroDivisionError("division by zero"), 1, "fault of gptloom"),
        (
            OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "runs/x"),
            2,
            "error: the disk is full\n  runs/x\n  try: make room",
        ),
        (RuntimeError(f"I/O error: {os.strerror(errno.ENOSPC)} (os error 28)"), 2, "error: the disk is full"),
        (AssertionError("impossible"), 1, "Traceback"),
    ],
)
@pytest.mark.parametrize("as_json", [False, True])
def test_every_end_has_its_exit_code_and_one_document(
    error: BaseException, code: int, words: str, as_json: bool, invoke: Invoke
) -> None:
    ended, out, err = invoke(*(["--json"] if as_json else []), run=raising(error))
    assert ended == code and words in err
    if as_json:
        assert json.loads(out)["error"][0]["what"]
        assert "a stray print" in err
    else:
        assert out == "a stray print\n"


def test_mistakes_in_options_are_json_too(invoke: Invoke) -> None:
    code, out, err = invoke("--dta", "x", "--json")
    (problem,) = json.loads(out)["error"]
    assert code == 2 and problem["what"] == "there is no option --dta" and "--data" in problem["mend"]
    assert "error: there is no option --dta" in err


def test_with_json_stdout_is_the_document_alone(invoke: Invoke) -> None:
    def run(resolved: Resolved[SampleOptions], out: Output) -> None:
        out.say("working")
        print("a stray print")
        out.result("for people")
        out.table(("a",), [("1",)])
        out.document({"loss": float("nan"), "text": "é", "list": (1, float("inf"))})

    code, out, err = invoke("--json", run=run)
    assert code == 0 and json.loads(out) == {"loss": None, "text": "é", "list": [1, None]}
    assert err == "working\na stray print\n"


def test_a_command_that_forgets_its_document_is_our_fault(invoke: Invoke) -> None:
    code, out, err = invoke("--json", run=lambda resolved, out: None)
    assert code == 1 and "printed no document" in err and json.loads(out)["error"]


def test_quiet_drops_messages_and_keeps_results(invoke: Invoke) -> None:
    def run(resolved: Resolved[SampleOptions], out: Output) -> int:
        out.say("working")
        say("working harder")
        out.result("the result")
        return 3

    assert invoke("--quiet", run=run) == (3, "the result\n", "")
    assert terminal.quiet is False
    assert invoke(run=run) == (3, "the result\n", "working\nworking harder\n")


def test_a_reader_that_has_seen_enough_is_no_error(invoke: Invoke) -> None:
    code, _, err = invoke(run=raising(BrokenPipeError()))
    assert (code, err) == (0, "")


def test_questions_need_a_person_or_yes(invoke: Invoke) -> None:
    def run(resolved: Resolved[SampleOptions], out: Output) -> int:
        return 0 if out.ask("Three days. Go on?", resolved.options.yes) else 7

    code, _, err = invoke(run=run)
    assert code == 2 and "Three days. Go on?" in err and "try: --yes" in err
    assert invoke("--yes", run=run)[0] == 0


def test_nothing_is_coloured_when_the_output_is_no_terminal(invoke: Invoke) -> None:
    for arguments in (["--help"], ["--dta"], []):
        assert "\x1b" not in "".join(invoke(*arguments)[1:])


def test_a_plain_flag_is_switched_off_where_a_recipe_has_it_on() -> None:
    from gptloom.cli.arguments import given_on_command_line
    from gptloom.config.pretrain import PretrainOptions

    given = given_on_command_line("pretrain", "", PretrainOptions, ["--data", "x.txt", "--no-recompute", "--offload"])
    assert (given["recompute"], given["offload"]) == (False, True) and "quiet" not in given
    with pytest.raises(UserError, match="takes no value"):
        given_on_command_line("pretrain", "", PretrainOptions, ["--data", "x.txt", "--no-recompute=1"])
