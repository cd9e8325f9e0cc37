"""A training in small, for the tests of launcher and watchdog: adds ones over all processes, a step at a time.

    python launched_program.py FOLDER STEPS [--pause SECONDS] [--rank N --at STEP --do FAULT] [--watch SECONDS]
    python launched_program.py launch PROCESSES FOLDER STEPS ...

``FOLDER/checkpoint`` holds the last step that was saved, ``FOLDER/log`` a line for each start and each end of the first
process, ``FOLDER/pidN`` who process N is. FAULT happens to process N at a step, in the first round: see ``FAULTS``.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
import time
from pathlib import Path

import torch
import torch.distributed as dist

from gptloom.config.errors import EndedElsewhere, GuardStop, UserError
from gptloom.train.crew import Crew
from gptloom.train.launch import run_crew
from gptloom.train.watchdog import watching
from gptloom.train.world import World, join_world


def die(name: str) -> None:
    os.kill(os.getpid(), getattr(signal, name))
    time.sleep(60)


def raise_user_error() -> None:
    raise UserError("this must be mended first")


def guard() -> None:
    raise GuardStop("diverged")


FAULTS = {
    "kill": lambda: die("SIGKILL"),
    "segfault": lambda: die("SIGSEGV"),
    "halt": lambda: die("SIGSTOP"),
    "hang": lambda: time.sleep(600),
    "exit": lambda: os._exit(1),
    "user": raise_user_error,
    "guard": guard,
    "work": lambda: None,  # see train
}


def train(world: World, options: argparse.Namespace) -> None:
    folder = Path(options.folder)
    checkpoint, heard = folder / "checkpoint", []
    signal.signal(signal.SIGTERM, lambda number, frame: heard.append(number))
    if "SIGUSR1" in signal.Signals.__members__:
        signal.signal(signal.SIGUSR1, lambda number, frame: heard.append(number))
    step = int(checkpoint.read_text()) if world.restarts and checkpoint.exists() else 0

    def note(**fields: object) -> None:
        if world.first:
            with (folder / "log").open("a") as log:
                log.write(json.dumps({"size": world.size, "restarts": world.restarts, "step": step, **fields}) + "\n")

    note(what="start", threads=torch.get_num_threads(), pid=os.getpid())
    (folder / f"pid{world.rank}").write_text(str(os.getpid()))
    written = {"step": lambda: step, "failed": lambda reason: note(what="failed", reason=reason)}
    with watching(world, options.watch, silence=options.silence, **written) as dog:
        while step < options.steps:
            if options.rank == world.rank and options.at == step and not world.restarts:
                FAULTS[options.do]()
                if options.do == "work":
                    with dog.patience("working"):
                        time.sleep(2.5 * options.watch)
            ones = torch.ones(1000)
            stop = torch.tensor([float(bool(heard))])
            if world.size > 1:
                dist.all_reduce(ones)
                dist.all_reduce(stop)
            assert ones[0] == world.size
            step += 1
            time.sleep(options.pause)
            dog.progress()
            if world.first and step % 5 == 0:
                (folder / ".checkpoint").write_text(str(step))
                (folder / ".checkpoint").replace(checkpoint)
            if stop:
                break
        if world.first:
            checkpoint.write_text(str(step))
    note(what="end")


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("folder")
    parser.add_argument("steps", type=int)
    parser.add_argument("--pause", type=float, default=0.0)
    parser.add_argument("--rank", type=int)
    parser.add_argument("--at", type=int)
    parser.add_argument("--do")
    parser.add_argument("--watch", type=float, default=600.0)
    parser.add_argument("--silence", type=float, default=30.0)
    if sys.argv[1] == "launch":
        return run_crew(Crew((sys.executable, __file__, *sys.argv[3:]), int(sys.argv[2])), [], 0, 0, False, 20.0, [])
    options = parser.parse_args()
    try:
        with join_world(60) as world:
            train(world, options)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except GuardStop as stop:
        print(f"stopped: {stop}", file=sys.stderr)
        return 3
    except EndedElsewhere as end:
        return end.code
    except KeyboardInterrupt:
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
