"""Starts several real processes that meet over gloo on this machine, as torchrun would, and returns what each computed.

    results = run_ranks(function, 2, strategy="fsdp")      # [result of rank 0, result of rank 1]

``function(world, **arguments)`` is a function of a test module; arguments and results are JSON.
"""

from __future__ import annotations

import importlib.util
import json
import os
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any


def run_ranks(
    function: Callable[..., Any], size: int, *, timeout: float = 120, local_size: int | None = None, **arguments: Any
) -> list[Any]:
    """Fails with the output of the first process that did not end well. ``local_size``: as if on machines of so many."""
    with tempfile.TemporaryDirectory() as folder:
        call = [
            sys.executable,
            __file__,
            function.__code__.co_filename,
            function.__name__,
            json.dumps(arguments),
            folder,
        ]
        shared = {
            "WORLD_SIZE": str(size),
            "LOCAL_WORLD_SIZE": str(local_size or size),
            "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": str(free_port()),
            "OMP_NUM_THREADS": "1",
        }
        started = []
        for rank in range(size):
            environment = {**os.environ, **shared, "RANK": str(rank), "LOCAL_RANK": str(rank % (local_size or size))}
            log = (Path(folder) / f"{rank}.log").open("w")
            started.append(subprocess.Popen(call, env=environment, stdout=log, stderr=subprocess.STDOUT))
        try:
            codes = [process.wait(timeout) for process in started]
        finally:
            for process in started:
                process.kill()
        for rank, code in enumerate(codes):
            assert code == 0, f"rank {rank} ended with {code}:\n{(Path(folder) / f'{rank}.log').read_text()[-4000:]}"
        return [json.loads((Path(folder) / f"{rank}.json").read_text()) for rank in range(size)]


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


def _main(file: str, name: str, arguments: str, folder: str) -> None:
    from gptloom.train.world import join_world

    spec = importlib.util.spec_from_file_location(Path(file).stem, file)
    assert spec is not None and spec.loader is not None
    sys.path.insert(0, str(Path(file).parent))
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    with join_world(timeout=60) as world:
        result = getattr(module, name)(world, **json.loads(arguments))
    (Path(folder) / f"{world.rank}.json").write_text(json.dumps(result))


if __name__ == "__main__":
    _main(*sys.argv[1:])
