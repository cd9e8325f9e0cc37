"""``gptloom launch``: what to start on each of several machines, as lines to type or as a Slurm script."""

from __future__ import annotations

import importlib
import shlex
from collections.abc import Sequence
from dataclasses import dataclass

from gptloom.cli.framework import Command
from gptloom.cli.output import Output
from gptloom.config.errors import Problem, UserError, nearest
from gptloom.config.launch import LaunchOptions
from gptloom.config.options import Options, ParallelOptions, option_fields
from gptloom.config.problems import COMMAND_LINE
from gptloom.config.python import python_function
from gptloom.config.recipes import resolve_with_recipe
from gptloom.config.resolve import Resolved

NOTICE = 120  # seconds before a Slurm job's end in which a run saves
OWN = ("nodes", "processes", "port", "elastic")  # what launch gives to the command itself


@dataclass(frozen=True)
class Launch:
    """A line for each host, or a Slurm script."""

    lines: tuple[tuple[str, str], ...] = ()  # (host, command)
    script: str | None = None


def plan(resolved: Resolved[LaunchOptions]) -> Launch:
    """What to start where: ``lines`` (host, command) to give on each machine, or with ``slurm`` the ``script`` of a job.

    UserError when the command is no training that several processes can share, when its options are wrong, or when it
    does not say where the run goes.
    """
    options = resolved.options
    number = _number_of(options.nodes)
    problems = list(_conflicts(resolved, number))
    try:
        run, out_given = _check_command(options.command)
    except UserError as error:
        raise UserError(*problems, *error.problems) from None
    if not out_given:
        what = "the training does not say where it goes, which every machine must know"
        problems.append(Problem(what, mend="--out FOLDER, on a disk that all machines share"))
    if problems:
        raise UserError(*problems)
    if options.slurm:
        return Launch(script=_slurm_script(options, number or len(options.nodes), run))
    return Launch(tuple(zip(options.nodes, _lines(options), strict=True)))


def run_launch(resolved: Resolved[LaunchOptions], out: Output) -> None:
    """Prints what starts a training on several machines: a torchrun line for each, or with --slurm a job for sbatch.

    The training follows two dashes: gptloom launch --nodes h1 h2 --processes 8 -- pretrain --data corpus --out runs/x
    """
    launch = plan(resolved)
    _warn_of_unknown(launch)
    out.document({"lines": [{"host": host, "command": line} for host, line in launch.lines], "script": launch.script})
    if launch.script is not None:
        out.result(launch.script.rstrip())
    for host, line in launch.lines:
        out.say(f"on {host}:")
        out.result(line)


def _number_of(nodes: Sequence[str]) -> int | None:
    """``--nodes 3``: how many, where no name is given."""
    return int(nodes[0]) if len(nodes) == 1 and nodes[0].isdecimal() else None


def _conflicts(resolved: Resolved[LaunchOptions], number: int | None) -> list[Problem]:
    options, problems = resolved.options, []
    if number is not None and not options.slurm:
        problems.append(Problem(f"--nodes {number} names no machine", mend="--nodes HOST HOST ..., or --slurm"))
    if number == 0:
        problems.append(Problem("--nodes 0: there must be one at least"))
    if options.slurm and number is None:
        problems.append(Problem("Slurm chooses the machines itself", mend=f"--nodes {len(options.nodes)}"))
    if options.slurm and options.elastic:
        what = "--elastic does nothing in a Slurm job: Slurm ends a job that loses a machine, and queues it again"
        problems.append(Problem(what, mend="leave it out: the job goes on from its last checkpoint"))
    for name in ("time", "partition"):
        if resolved.given(name) and not options.slurm:
            problems.append(Problem(f"--{name} is for a Slurm job", mend="--slurm"))
    return problems


def _check_command(command: Sequence[str]) -> tuple[str, bool]:
    """The run folder of the training, and whether one was named. UserError when the command can't be what is wanted."""
    from gptloom.cli.arguments import given_on_command_line
    from gptloom.cli.main import TABLE

    trainings: dict[str, type[Options]] = {}
    for row in TABLE:
        if row.heading == "Train":
            options = importlib.import_module(f"gptloom.cli.{row.module}").COMMANDS[row.name].options
            if issubclass(options, ParallelOptions):
                trainings[row.name] = options
    name = command[0]
    if name not in trainings:
        what = f"{name!r} is no training that several processes share"
        raise UserError(Problem(what, mend=nearest(name, trainings)))
    given = given_on_command_line(name, "", trainings[name], command[1:])
    resolved = resolve_with_recipe(trainings[name], given, COMMAND_LINE)
    twice = [option for option in OWN if resolved.given(option)]
    if twice:
        mend = "before the two dashes"
        raise UserError(*(Problem(f"--{option} is given to {name}, not to launch", mend=mend) for option in twice))
    place = "out" if "out" in option_fields(trainings[name]) else "run"
    return str(resolved.options.option(place)), resolved.given(place)


def _lines(options: LaunchOptions) -> list[str]:
    """A line for each host, in order; the first is the first process's."""
    if options.elastic:
        # torchrun starts again after a mistake too, and may not find together again when a machine comes back.
        own = [
            "--nodes",
            *options.nodes,
            "--processes",
            str(options.processes),
            "--port",
            str(options.port),
            "--elastic",
        ]
        return [shlex.join(["gptloom", *options.command, *own])] * len(options.nodes)
    meeting = ["--master-addr", options.nodes[0], "--master-port", str(options.port)]
    size = ["--nnodes", str(len(options.nodes)), "--nproc-per-node", str(options.processes)]
    training = ["-m", "gptloom", "--", *options.command]  # else torchrun takes --log for one of its own
    ranks = range(len(options.nodes))
    return [shlex.join(["torchrun", *size, "--node-rank", str(rank), *meeting, *training]) for rank in ranks]


def _slurm_script(options: LaunchOptions, nodes: int, run: str) -> str:
    """A job that saves before its time is over, and goes on when Slurm starts it again."""
    on_gpus = "cpu" not in _values(options.command, "--device")
    header = {
        "job-name": run.replace("\\", "/").rstrip("/").rsplit("/", 1)[-1],
        "nodes": nodes,
        "ntasks-per-node": 1,
        "gpus-per-node": options.processes if on_gpus else None,
        "time": options.time,
        "partition": options.partition,
        "signal": f"B:USR1@{NOTICE}",
        "output": "slurm-%j.txt",
        "open-mode": "append",
    }
    given = [f"#SBATCH --{name}={value}" for name, value in header.items() if value is not None]
    return SCRIPT.format(
        header="\n".join([*given, "#SBATCH --exclusive", "#SBATCH --requeue"]),
        notice=NOTICE,
        run=shlex.quote(run),
        start=shlex.join(options.command),
        processes=options.processes,
        port=options.port,
    )


def _values(command: Sequence[str], option: str) -> list[str]:
    """What the command gives to an option, in either spelling."""
    pairs = zip(command, [*command[1:], ""], strict=True)
    return [
        value if word == option else word.partition("=")[2] for word, value in pairs if word.split("=")[0] == option
    ]


SCRIPT = """\
#!/bin/bash
{header}

# A training on all machines of this job. {notice} seconds before the time is over Slurm sends USR1 (and before it takes
# the machines for another job, where it is set up so): the run is saved, the job goes back into the queue, and the run
# goes on when Slurm starts the job again. The folder of the run must be on a disk that all machines share.

run={run}
mapfile -t nodes < <(scontrol show hostnames "$SLURM_JOB_NODELIST")

if [ -e "$run/state.json" ]; then
    training=(resume "$run")
else
    training=({start})
fi

srun --cpu-bind=none gptloom "${{training[@]}}" \\
    --nodes "${{nodes[@]}}" --processes {processes} --port {port} --save-on-signal USR1 &
step=$!

asked=
trap 'asked=yes; kill -USR1 "$step"' USR1
code=0
while kill -0 "$step" 2> /dev/null; do  # wait also ends when the signal comes
    wait "$step"
    code=$?
done

if [ -n "$asked" ] && grep -q '"state": "paused"' "$run/state.json"; then
    scontrol requeue "$SLURM_JOB_ID"
    exit 0
fi
exit "$code"
"""


def _warn_of_unknown(launch: Launch) -> None:
    """A name may resolve on the cluster and not here, so that this is a word and no error."""
    from gptloom.observe.terminal import say
    from gptloom.train.network import addresses

    unknown = [host for host, _ in launch.lines if not addresses(host)]
    if unknown:
        say(f"{', '.join(unknown)}: no such name here; it must be known on the machines themselves")


COMMANDS = {"launch": Command(LaunchOptions, run_launch)}
launch = python_function("launch", LaunchOptions, plan)
