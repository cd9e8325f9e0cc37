"""How a stage becomes several processes: starting them, meeting, and comparing what each was started with."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from gptloom.config.errors import EndedElsewhere, Problem, UserError
from gptloom.config.options import option_fields
from gptloom.config.pretrain import PretrainOptions
from gptloom.config.problems import flag
from gptloom.config.resolve import Resolved
from gptloom.observe.terminal import terminal
from gptloom.stages.trained import TrainedRun
from gptloom.train.agreement import check_agreement
from gptloom.train.launch import is_worker, launch
from gptloom.train.run import Hook
from gptloom.train.watchdog import watching
from gptloom.train.world import World, join_world


def asks_for_processes(options: PretrainOptions) -> bool:
    """Whether processes are to be started that do not run yet."""
    return not is_worker() and ((options.processes or 1) > 1 or bool(options.nodes))


def asked_world(options: PretrainOptions) -> World:
    """The processes that the options ask for, as the first of them will see it."""
    here = options.processes or 1
    return World(size=here * max(1, len(options.nodes)), local_size=here)


def speaks() -> bool:
    """Whether this process tells the user how a training ended: of several, the first."""
    return os.environ.get("RANK", "0") == "0"


def launched(
    command: str, asked: Resolved[Any], options: PretrainOptions, folder: str, callbacks: Sequence[Hook]
) -> TrainedRun:
    """Runs ``gptloom COMMAND`` with the options that were ``asked`` for in processes of its own, and waits for them.

    UserError when there are callbacks, which cannot be handed to other processes; EndedElsewhere with the exit code
    when the training failed there, where it was said why.
    """
    if callbacks:
        what = "callbacks cannot be sent to other processes"
        mend = "start your own script with torchrun, without processes and nodes: every process then has them"
        raise UserError(Problem(what, mend=mend))
    code = launch(
        [*command.split(), *_as_arguments(asked, folder)],
        processes=options.processes or 1,
        nodes=options.nodes,
        port=options.port,
        elastic=options.elastic,
        timeout=options.timeout,
        device=options.device,
        threads=options.threads,
        save_on_signal=options.save_on_signal,
    )
    if code:
        raise EndedElsewhere(code)
    return TrainedRun(Path(folder))


def _as_arguments(asked: Resolved[Any], folder: str) -> list[str]:
    """The command line of the options that were given, and of the folder, whose default name has the time in it.

    What a recipe says it says again.
    """
    arguments: list[str] = []
    for name in option_fields(type(asked.options)):
        value = asked.options.option(name)
        if name == "out":
            arguments.append(f"--out={folder}")
        elif not asked.given(name) or asked.source(name).startswith("recipe"):
            continue
        elif name in ("base", "run"):
            arguments.insert(0, str(value))
        elif isinstance(value, bool):
            arguments.append(flag(name if value else f"no_{name}"))
        else:
            values = value if isinstance(value, list | tuple) else [value]
            arguments += [f"{flag(name)}={word}" for word in values]  # in one word: a value may begin with dashes
    return arguments


@contextmanager
def join_training(options: PretrainOptions, asked: Resolved[Any]) -> Iterator[World]:
    """The world of this process under its watchdog, once all have been found to have ``asked`` for the same.

    In all processes but the first, messages are silent.
    """
    with join_world(options.timeout) as world:

        def failed(reason: str) -> None:
            if world.on_failure is not None:
                world.on_failure(reason)

        was_quiet, terminal.quiet = terminal.quiet, terminal.quiet or not world.first
        try:
            with watching(world, options.timeout, step=lambda: world.step, failed=failed) as dog:
                world.dog = dog
                world.all_do(lambda: _check_count(asked, world))
                check_agreement(world, _comparable(asked))
                yield world
        finally:
            world.dog = None
            terminal.quiet = was_quiet


def _comparable(asked: Resolved[Any]) -> dict[str, Any]:
    """What was given, but for what may differ between processes: whether one is told to be quiet."""
    names = option_fields(type(asked.options))
    return {name: asked.options.option(name) for name in names if asked.given(name) and name != "quiet"}


def _check_count(asked: Resolved[Any], world: World) -> None:
    """UserError when ``torchrun`` started another number of processes than ``--processes`` says."""
    said = asked.options.processes if asked.given("processes") else None
    if not is_worker() or said in (None, world.local_size):
        return
    what = f"--processes says {said}, and torchrun has started {world.local_size} on {world.host}"
    mend = f"--processes {world.local_size}, or torchrun --nproc-per-node {said}"
    raise UserError(Problem(what, mend=mend))
