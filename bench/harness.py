"""What the benches share: sides that take turns as processes of their own, medians, targets, machine and versions, JSON.

A bench measures its *sides* (ours and the peers') in rounds: every side once a round, so that a busy moment of the
machine meets all of them. What it found is a ``Result``: tables of sides, checks against targets, and the raw figures.
``show`` prints it, ``write`` stores it as JSON, and ``results.py`` makes ``RESULTS.md`` of the stored ones.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
DATA = Path(os.environ.get("GPTLOOM_TEST_DATA", HERE.parents[1] / "shared" / "data"))
TRANSIENT = ("memory_available", "disk_free")  # of the machine: says nothing about a figure

Figures = Mapping[str, float | None]  # column (with its unit) -> figure; None where there is none


@dataclass(frozen=True)
class Check:
    """A figure beside its target, which it must reach from below (or, ``at_most``, stay under). None never reaches it."""

    what: str
    value: float | None
    target: float
    unit: str = ""
    at_most: bool = False

    @property
    def reached(self) -> bool:
        if self.value is None:
            return False
        return self.value <= self.target if self.at_most else self.value >= self.target


@dataclass
class Result:
    """What a bench found. ``tables``: title -> side -> figures, all sides of a table with the same columns."""

    bench: str
    settings: dict[str, Any]
    tables: Mapping[str, Mapping[str, Figures]]
    checks: list[Check]
    notes: list[str] = field(default_factory=list)
    raw: Any = None

    @property
    def reached(self) -> bool:
        return all(check.reached for check in self.checks)

    def document(self) -> dict[str, Any]:
        """The result as JSON values, with the date, the commit, the machine and the versions."""
        checks = [{**asdict(check), "reached": check.reached} for check in self.checks]
        return {
            **asdict(self),
            "checks": checks,
            "reached": self.reached,
            "date": datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d %H:%M UTC"),
            "commit": commit(),
            "machine": machine(),
        }


# ---- running sides ---------------------------------------------------------------------------------------------------


def take_turns(
    sides: Mapping[str, Callable[[int], dict[str, Any]]], rounds: int, title: str = ""
) -> dict[str, list[dict[str, Any]]]:
    """Calls every side once a round, in the order listed, and says so on stderr; side -> what it returned each time."""
    found: dict[str, list[dict[str, Any]]] = {name: [] for name in sides}
    for turn in range(rounds):
        for name, run in sides.items():
            print(f"{title}round {turn + 1} of {rounds}: {name}", file=sys.stderr, flush=True)
            found[name].append(run(turn))
    return found


def run_command(
    command: Sequence[str], environment: Mapping[str, str] | None = None, folder: Path | None = None
) -> str:
    """Runs ``command`` (in ``folder``) to its end and returns what it printed.

    RuntimeError with the end of its messages when it fails: a side that breaks off is no result.
    """
    done = subprocess.run(
        list(command),
        cwd=folder,
        env={**os.environ, **(environment or {})},
        capture_output=True,
        text=True,
        encoding="utf-8",
        errors="replace",
    )
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)} ended with {done.returncode}:\n{done.stderr[-3000:]}")
    return done.stdout


def run_json(command: Sequence[str], environment: Mapping[str, str] | None = None) -> dict[str, Any]:
    """Runs ``command`` and returns the JSON object that is the last line it prints."""
    found: dict[str, Any] = json.loads(run_command(command, environment).splitlines()[-1])
    return found


def peak_bytes() -> int | None:
    """The most memory this process has held at once; None where the system does not say.

    On Linux from ``VmHWM``: ``ru_maxrss`` also remembers the process that this one was forked from.
    """
    status = Path("/proc/self/status")
    if status.exists():
        lines = status.read_text(encoding="utf-8").splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM:"))
    if sys.platform == "darwin":
        import resource

        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return None


# ---- figures ---------------------------------------------------------------------------------------------------------


def median(values: Sequence[float | None]) -> float | None:
    """The median, None when any is missing: a side that sometimes gets there has no time."""
    known = [value for value in values if value is not None]
    return statistics.median(known) if known and len(known) == len(values) else None


def ratio(part: float | None, whole: float | None) -> float | None:
    return part / whole if part is not None and whole else None


def cores() -> int:
    """Cores that a side may run on: what every side uses."""
    from gptloom.observe.machine import cores

    return cores()


def machine() -> dict[str, Any]:
    """The machine and the versions, as ``gptloom doctor`` sees them."""
    from gptloom.observe.machine import machine_info

    info = {name: value for name, value in machine_info().items() if name not in TRANSIENT}
    return {**info, "system": f"{platform.system()} {platform.machine()}"}  # a kernel's build says nothing about speed


def commit() -> str | None:
    """The commit of this checkout, with ``+`` when files differ from it; None outside of one."""
    try:
        command = ["git", "describe", "--always", "--exclude=*", "--dirty=+"]
        return subprocess.run(command, cwd=HERE, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None


# ---- showing ---------------------------------------------------------------------------------------------------------


def figure(value: float | None) -> str:
    """Four significant digits, thousands with commas; a dash where there is no figure."""
    if value is None:
        return "–"
    if isinstance(value, int) or abs(value) >= 1000:
        return f"{value:,.0f}"
    return f"{value:.4g}"


def sentence(check: Mapping[str, Any]) -> str:
    """``tokens/s beside fp32: 3.2× (target: at least 3×): reached``."""
    unit, bound = check["unit"], "at most" if check["at_most"] else "at least"
    verdict = "reached" if check["reached"] else "missed"
    return (
        f"{check['what']}: {figure(check['value'])}{unit} (target: {bound} {figure(check['target'])}{unit}): {verdict}"
    )


def show(document: Mapping[str, Any]) -> None:
    """Prints tables, notes and checks."""
    for title, sides in document["tables"].items():
        columns = list(next(iter(sides.values())))
        names = max(len(name) for name in [title, *sides])
        widths = {column: max(len(column), 10) for column in columns}
        print(f"{title:<{names}}" + "".join(f"  {column:>{widths[column]}}" for column in columns))
        for name, figures in sides.items():
            print(f"{name:<{names}}" + "".join(f"  {figure(figures[c]):>{widths[c]}}" for c in columns))
        print()
    for note in document["notes"]:
        print(note)
    for check in document["checks"]:
        print(sentence(check))


def add_json_option(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write everything, raw figures too, to FILE")


def parse_disk_bench(parser: argparse.ArgumentParser, model: str) -> argparse.Namespace:
    """The arguments of a bench that writes a GPT-2 preset (default: ``model``) to the disk to be measured."""
    parser.add_argument("--rounds", type=int, help="turns of each side (default: 3)")
    parser.add_argument("--folder", type=Path, default=Path(), help="where to write, on that disk (default: .)")
    parser.add_argument("--model", default=model, help=f"a GPT-2 preset (default: {model})")
    parser.add_argument("--tiny", action="store_true", help="a two-block model, one round: only to see the bench run")
    add_json_option(parser)
    arguments = parser.parse_args()
    arguments.rounds = arguments.rounds or (1 if arguments.tiny else 3)
    if not arguments.model.startswith("gpt2"):
        parser.error(f"--model {arguments.model}: it is gpt2, gpt2-medium, gpt2-large or gpt2-xl")
    if not arguments.folder.is_dir():
        parser.error(f"--folder {arguments.folder} is no folder")
    return arguments


def run_in_folder(arguments: argparse.Namespace, measure: Callable[[argparse.Namespace, Path], Result]) -> int:
    """``finish`` of what ``measure`` finds, given a folder that goes with it."""
    with tempfile.TemporaryDirectory() as folder:
        result = measure(arguments, Path(folder))
    return finish(result, arguments.json)


def finish(result: Result, file: Path | None) -> int:
    """Prints the result, writes it where asked to, and gives the exit status: 1 when a target is missed."""
    document = result.document()
    show(document)
    if file is not None:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(document, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    return 0 if result.reached else 1
