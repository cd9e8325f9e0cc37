"""Before they train together, processes compare what they were started with: a difference would be found much later."""

from __future__ import annotations

import functools
import hashlib
import json
import platform
import secrets
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

import gptloom
from gptloom.config.errors import EndedElsewhere, Problem, UserError
from gptloom.config.problems import flag
from gptloom.observe.terminal import say
from gptloom.train.world import World

SKEW = 5.0  # seconds between two clocks that are worth a word
VISIBLE = 10.0  # seconds in which a network disk shows everyone a file that one has written


def check_agreement(world: World, options: Mapping[str, Any]) -> None:
    """Compares options, versions and source code of all processes, and their clocks.

    ``options``: name → value that JSON can hold. UserError at the first process with every difference, who has which
    value (EndedElsewhere at the others); clocks more than ``SKEW`` seconds apart are only told of.
    """
    if world.size == 1:
        return
    facts = {
        "gptloom": gptloom.__version__,
        "torch": torch.__version__,
        "Python": ".".join(platform.python_version_tuple()[:2]),
        "the code of gptloom": source_hash()[:12],
        **{flag(name): value for name, value in options.items()},
    }
    problems = _differences(world.gather({"host": world.host, "facts": facts}))
    if problems and world.first:
        raise UserError(*problems)
    if problems:
        raise EndedElsewhere(2)
    world.barrier()
    readings = world.gather([world.host, time.time()])
    if world.first:
        _compare_clocks(readings)


def check_shared_folder(world: World, folder: Path) -> None:
    """UserError at the first process when ``folder``, where it has written a file, does not show it to everyone.

    The machines that don't see it are named; EndedElsewhere at the other processes.
    """
    if world.size == 1:
        return
    name = world.first_does(lambda: _write_token(folder))
    blind = [host for host, sees in world.gather([world.host, _appears(folder / name)]) if not sees]
    if world.first:
        (folder / name).unlink(missing_ok=True)
    if blind and world.first:
        what = f"{', '.join(dict.fromkeys(blind))}: does not see the run folder that {world.host} writes"
        raise UserError(Problem(what, str(folder), "an --out on a disk that all machines share, by the same path"))
    if blind:
        raise EndedElsewhere(2)


@functools.cache
def source_hash() -> str:
    """SHA-256 of gptloom's own source files: their paths and contents."""
    root = Path(gptloom.__file__).parent
    digest = hashlib.sha256()
    for path in sorted(root.rglob("*.py")):
        digest.update(path.relative_to(root).as_posix().encode() + b"\0" + path.read_bytes() + b"\0")
    return digest.hexdigest()


def _differences(processes: list[dict[str, Any]]) -> list[Problem]:
    """A problem for each fact that is not the same everywhere."""
    problems = []
    for name in dict.fromkeys(name for process in processes for name in process["facts"]):
        held: dict[str, list[str]] = {}
        for rank, process in enumerate(processes):
            value = process["facts"].get(name)
            shown = value if isinstance(value, str) else json.dumps(value)
            held.setdefault(shown, []).append(f"{rank} ({process['host']})")
        if len(held) > 1:
            who = "; ".join(f"{value} at process {_listed(ranks)}" for value, ranks in held.items())
            what = "the same command everywhere" if name.startswith("--") else "the same installation everywhere"
            problems.append(Problem(f"{name} differs between the processes: {who}", mend=what))
    return problems


def _listed(ranks: list[str]) -> str:
    shown = ", ".join(ranks[:4])
    return shown if len(ranks) <= 4 else f"{shown} and {len(ranks) - 4} more"


def _compare_clocks(readings: list[tuple[str, float]]) -> None:
    """Says which machines' clocks differ from that of the first process."""
    first, reference = readings[0]
    ahead = {host: reading - reference for host, reading in readings if abs(reading - reference) > SKEW}
    for host, seconds in ahead.items():
        direction = "ahead of" if seconds > 0 else "behind"
        say(f"the clock of {host} is {abs(seconds):.0f} s {direction} that of {first}: times of files and logs mislead")


def _write_token(folder: Path) -> str:
    folder.mkdir(parents=True, exist_ok=True)
    name = f".seen-by-all-{secrets.token_hex(8)}"
    (folder / name).touch()
    return name


def _appears(path: Path) -> bool:
    until = time.monotonic() + VISIBLE
    while not path.exists():
        if time.monotonic() > until:
            return False
        time.sleep(0.1)
    return True
