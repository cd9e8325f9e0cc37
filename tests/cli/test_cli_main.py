"""The table of commands, the public names, and what importing gptloom costs."""

from __future__ import annotations

import importlib
import importlib.util
import json
import re
import subprocess
import sys

import pytest

import gptloom
from gptloom.cli.main import TABLE, main
from gptloom.config.options import option_fields

HEAVY = ("torch", "numpy", "pydantic", "tyro", "rich", "yaml", "tokenizers", "transformers")


def python(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, *arguments], capture_output=True, text=True, encoding="utf-8", check=False)


@pytest.mark.parametrize(
    "code",
    ["import gptloom; dir(gptloom)", "from gptloom.cli.main import main; assert main(['--help']) == 0"],
    ids=["import", "help"],
)
def test_neither_import_nor_help_loads_anything_heavy(code: str) -> None:
    report = f"; import sys; print([m for m in {HEAVY!r} if m in sys.modules], file=sys.stderr)"
    done = python("-c", code + report)
    assert done.stderr.strip() == "[]"


def test_command_modules_load_no_torch() -> None:
    modules = sorted({f"gptloom.cli.{row.module}" for row in TABLE})
    heavy = ("torch", "numpy", "tokenizers", "transformers", "pyarrow", "matplotlib", "tensorboard")
    code = f"import importlib, sys\nfor m in {modules!r}: importlib.import_module(m)\n"
    done = python("-c", code + f"print([m for m in {heavy!r} if m in sys.modules])")
    assert done.stdout.strip() == "[]", done.stderr


def test_python_dash_m_gives_help_with_every_command() -> None:
    done = python("-m", "gptloom", "--help")
    assert (done.returncode, done.stderr) == (0, "")
    assert all(f"  {row.name} " in done.stdout and row.line in done.stdout for row in TABLE)


def test_python_dash_m_ends_with_the_exit_code_and_json() -> None:
    done = python("-m", "gptloom", "recipes", "show", "nowhere", "--json")
    assert done.returncode == 2
    assert "nowhere" in json.loads(done.stdout)["error"][0]["what"]


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"gptloom {gptloom.__version__}\n"


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["pretrian"], "there is no command 'pretrian'\n  try: did you mean pretrain"),
        (["tokenizer"], "gptloom tokenizer needs a command: train, show, report"),
        (["tokenizer", "shw"], "gptloom tokenizer has no command 'shw'\n  try: did you mean show"),
        (["--data", "x"], "a command comes first, not --data\n  try: gptloom --help"),
    ],
)
def test_unknown_commands_name_the_nearest(
    arguments: list[str], expected: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments) == 2
    captured = capsys.readouterr()
    assert captured.out == "" and f"error: {expected}" in captured.err


@pytest.mark.parametrize("arguments", [[], ["-h"], ["help"], ["--help"]])
def test_help_is_no_error(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(arguments) == 0
    assert capsys.readouterr().out.startswith("gptloom: ")


def test_a_group_has_its_own_help(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["tokenizer", "--help"]) == 0
    shown = capsys.readouterr().out
    assert "tokenizer train" in shown and "data build" not in shown


@pytest.mark.parametrize("row", TABLE, ids=lambda row: row.name)
def test_every_command_of_the_table_exists_and_explains_itself(row, capsys) -> None:  # type: ignore[no-untyped-def]
    command = importlib.import_module(f"gptloom.cli.{row.module}").COMMANDS[row.name]
    assert command.run.__doc__
    for name, field in option_fields(command.options).items():
        assert field.description, f"{row.name}: {name} has no line for --help"
    assert main([*row.name.split(), "--help"]) == 0
    assert f"usage: gptloom {row.name}" in capsys.readouterr().out


@pytest.mark.parametrize("name", sorted(gptloom._PUBLIC))
def test_every_public_name_leads_somewhere(name: str) -> None:
    assert callable(getattr(gptloom, name))


def test_every_command_has_its_python_twin() -> None:
    names = {re.sub("[ -]", "_", row.name) for row in TABLE} - {"import"} | {"import_model"}  # a word of Python
    assert names <= set(gptloom._PUBLIC)


def test_no_sub_package_bears_the_name_of_a_public_function() -> None:
    assert [name for name in gptloom._PUBLIC if importlib.util.find_spec(f"gptloom.{name}")] == []


def test_unknown_attributes_are_attribute_errors() -> None:
    with pytest.raises(AttributeError, match="no attribute 'pretrian'"):
        gptloom.pretrian  # noqa: B018
    assert "pretrain" in dir(gptloom)
