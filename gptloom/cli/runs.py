"""``gptloom runs | follow | stop | report | lineage``: looking at runs, from any terminal, while and after they train."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import Field

from gptloom.cli.framework import Command
from gptloom.cli.output import Output
from gptloom.config.errors import Problem, UserError
from gptloom.config.files import write_text
from gptloom.config.options import POSITIONAL, JsonOption
from gptloom.config.python import python_function
from gptloom.config.resolve import Resolved
from gptloom.config.run_folder import CHECKPOINTS, STOP

if TYPE_CHECKING:
    from gptloom.observe.lineage import Ancestor
    from gptloom.observe.runs import RunSummary


class RunsOptions(JsonOption):
    """Options of ``gptloom runs``."""

    root: Annotated[str, POSITIONAL] = Field("runs", description="folder below which runs are looked for")


class RunOptions(JsonOption):
    """Options of the commands about one run."""

    run: Annotated[str, POSITIONAL] = Field(description="run folder")


class LineageOptions(JsonOption):
    """Options of ``gptloom lineage``."""

    path: Annotated[str, POSITIONAL] = Field(description="run, runs/x@500, model folder, or hf:NAME")


def list_all(resolved: Resolved[RunsOptions]) -> list[RunSummary]:
    """The runs below a folder, the one that moved last first."""
    from gptloom.observe.runs import list_runs
    from gptloom.train.lock import is_locked

    return list_runs(Path(resolved.options.root), is_locked)


def run_list(resolved: Resolved[RunsOptions], out: Output) -> None:
    """Lists the runs and how they are doing, the one that moved last first."""
    from gptloom.observe.glossary import written
    from gptloom.observe.numbers import human_bytes, human_count

    found = list_all(resolved)
    out.document([run.as_json() for run in found])
    if not found:
        out.say(f"no runs below {resolved.options.root}; gptloom quickstart makes the first")
        return
    rows = [
        (
            run.path,
            run.state,
            run.model,
            f"{human_count(run.step)}/{human_count(run.steps)}" if run.steps else human_count(run.step),
            _figure(run.loss),
            _figure(run.valid_loss),
            _figure(run.bits_per_byte),
            ""
            if run.metric is None or run.metric_value is None
            else f"{written(run.metric, run.metric_value)} {run.metric}",
            _age(run.updated),
            human_bytes(run.size),
        )
        for run in found
    ]
    header = ("run", "state", "model", "step", "loss", "valid", "bits/byte", "best score", "last moved", "size")
    out.table(header, rows, right=header[3:])


def show_one(resolved: Resolved[RunOptions]) -> dict[str, Any]:
    """Everything about one run: summary, options with their sources, checkpoints, guards, newest samples."""
    from gptloom.observe.runs import read_run, summarise
    from gptloom.train.lock import is_locked

    folder = Path(resolved.options.run)
    run = read_run(folder)
    return {
        **summarise(folder, is_locked).as_json(),
        "options": run.config.get("options", {}),
        "checkpoints": sorted(path.relative_to(folder).as_posix() for path in (folder / CHECKPOINTS).glob("step-*")),
        "guards": run.of_type("guard"),
        "samples": [event for event in run.of_type("sample") if event["step"] == run.last("sample", "step")],
    }


def run_show(resolved: Resolved[RunOptions], out: Output) -> None:
    """Shows everything about one run: where it stands, its checkpoints, options that were not defaults, samples."""
    from gptloom.observe.numbers import human_bytes
    from gptloom.observe.progress import event_line

    shown = show_one(resolved)
    out.document(shown)
    lists = ("options", "checkpoints", "guards", "samples")
    readable = {
        **{name: value for name, value in shown.items() if name not in lists},
        **{name: _figure(shown[name]) for name in ("loss", "valid_loss", "bits_per_byte")},
        "started": _age(shown["started"]),
        "updated": _age(shown["updated"]),
        "size": human_bytes(shown["size"]),
    }
    chosen = {name: setting for name, setting in shown["options"].items() if setting["source"] != "default"}
    rows = [(name.replace("_", " "), value) for name, value in readable.items() if value is not None]
    rows += [(name, f"{_plain(setting['value'])}  ({setting['source']})") for name, setting in chosen.items()]
    rows += [("checkpoint", path) for path in shown["checkpoints"]]
    out.table(("", ""), rows)
    for event in [*shown["guards"], *shown["samples"]]:
        out.result(event_line(event))


def follow_one(resolved: Resolved[RunOptions]) -> Iterator[dict[str, Any]]:
    """The run's events so far, then each new one, until it ends or nobody works on it."""
    from gptloom.observe.runs import follow_events
    from gptloom.train.lock import is_locked

    return follow_events(Path(resolved.options.run), is_locked)


def run_follow(resolved: Resolved[RunOptions], out: Output) -> None:
    """Replays a run's progress and then watches it live. Leaving with Ctrl-C does not disturb the run."""
    from gptloom.observe.progress import ProgressReader
    from gptloom.observe.terminal import Terminal, terminal

    reader = ProgressReader(terminal if out.as_json else Terminal(out.stdout), everything=True)
    seen = []
    try:
        for event in follow_one(resolved):
            reader(event)
            seen.append(event)
    finally:
        reader.close()
    out.document(seen)
    if not seen or seen[-1]["type"] != "end":
        out.say(f"nobody works on {resolved.options.run} now; gptloom resume {resolved.options.run} goes on with it")


def stop_one(resolved: Resolved[RunOptions]) -> Path:
    """Leaves the request to save and end in a run folder and returns its path; UserError when nobody works on it."""
    from gptloom.observe.runs import read_run
    from gptloom.train.lock import is_locked

    folder = Path(resolved.options.run)
    state = read_run(folder).state.get("state", "running")
    if not is_locked(folder):
        what = "nobody works on this run: it was broken off" if state == "running" else f"this run is {state} already"
        raise UserError(Problem(what, str(folder), f"gptloom resume {folder}"))
    write_text(folder / STOP, "")
    return folder / STOP


def run_stop(resolved: Resolved[RunOptions], out: Output) -> None:
    """Asks a run, from any terminal, to save a checkpoint after its present step and end."""
    request = stop_one(resolved)
    out.say(f"asked {resolved.options.run} to save and end; gptloom follow {resolved.options.run} shows when it has")
    out.document({"run": resolved.options.run, "request": str(request)})


def report_one(resolved: Resolved[RunOptions]) -> list[Path]:
    """Writes ``report.html`` and, where matplotlib is installed, ``loss.png`` into the run; returns their paths."""
    from gptloom.observe.curves import expected_band
    from gptloom.observe.pictures import can_draw, draw_loss
    from gptloom.observe.report import write_report
    from gptloom.observe.runs import read_run
    from gptloom.train.lock import is_locked

    folder = Path(resolved.options.run)
    written = [write_report(folder, is_locked)]
    run = read_run(folder)
    if can_draw() and run.of_type("train"):
        written.append(folder / "loss.png")
        draw_loss(run.events, written[-1], title=folder.resolve().name, band=expected_band(run.config))
    return written


def run_report(resolved: Resolved[RunOptions], out: Output) -> None:
    """Writes one self-contained HTML page about a run, and its loss curve as a picture."""
    from gptloom.observe.pictures import can_draw
    from gptloom.observe.runs import read_run

    written = report_one(resolved)
    for path in written:
        out.result(str(path))
    if len(written) == 1 and not can_draw() and read_run(Path(resolved.options.run)).of_type("train"):
        out.say('a picture of the loss as well: pip install "gptloom[plots]"')
    out.document({"files": [str(path) for path in written]})


def lineage_of(resolved: Resolved[LineageOptions]) -> Ancestor:
    """The tree of models that a model was made from."""
    from gptloom.interop.hub import resolve_model
    from gptloom.model.store import content_hash
    from gptloom.observe.lineage import lineage as tree_of

    found = resolve_model(resolved.options.path)
    if found.path is None:
        what = f"{resolved.options.path} is a preset: it is made from nothing"
        raise UserError(Problem(what, mend="gptloom runs lists the trained models"))
    return tree_of(found.path, content_hash)


def run_lineage(resolved: Resolved[LineageOptions], out: Output) -> None:
    """Shows what a model was made from: its parents and theirs, each checked to be unchanged since."""
    from gptloom.observe.lineage import tree_lines

    root = lineage_of(resolved)
    out.document(root.as_json())
    for line in tree_lines(root):
        out.result(line)


def _figure(value: float | None) -> str | None:
    return None if value is None else f"{value:.3f}"


def _plain(value: Any) -> str:
    return " ".join(map(str, value)) if isinstance(value, list) else str(value)


def _age(moment: float | None) -> str | None:
    import time

    from gptloom.observe.numbers import human_time

    return None if moment is None else f"{human_time(max(0.0, time.time() - moment))} ago"


COMMANDS = {
    "runs": Command(RunsOptions, run_list),
    "runs show": Command(RunOptions, run_show),
    "follow": Command(RunOptions, run_follow),
    "stop": Command(RunOptions, run_stop),
    "report": Command(RunOptions, run_report),
    "lineage": Command(LineageOptions, run_lineage),
}
runs = python_function("runs", RunsOptions, list_all)
runs_show = python_function("runs_show", RunOptions, show_one)
follow = python_function("follow", RunOptions, follow_one)
stop = python_function("stop", RunOptions, stop_one)
report = python_function("report", RunOptions, report_one)
lineage = python_function("lineage", LineageOptions, lineage_of)
