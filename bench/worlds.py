"""A side of a bench that is several processes: started, and met, as ``gptloom pretrain --processes`` does it."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from gptloom.train.world import World

MEETING = 120.0  # seconds in which the processes must find each other


def run_in_processes(processes: int, work: Callable[[World], dict[str, Any]]) -> int:
    """Runs ``work(world)`` in ``processes`` processes; the first prints what all returned, in order of rank, as JSON.

    Each is this script with the command line of this process, which starts them, waits and trains nothing itself; one
    process alone is this one. Returns the exit status.
    """
    from gptloom.train.crew import Crew
    from gptloom.train.launch import is_worker, run_crew
    from gptloom.train.world import join_world

    if processes > 1 and not is_worker():
        return run_crew(Crew((sys.executable, *sys.argv), processes), (), 0, 0, False, MEETING, ())
    with join_world(MEETING) as world:
        found = world.gather(work(world))
    if world.first:
        print(json.dumps({"ranks": found}))
    return 0
