"""Options of a tuning that contradict each other, or that would do nothing."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from gptloom.config.errors import Problem
from gptloom.config.resolve import Resolved, idle
from gptloom.stages.tuning.part import LORA_OPTIONS


def about_part(resolved: Resolved[Any]) -> Iterator[Problem]:
    """What is said about which parameters are trained, and about held-out rows; ``--method all`` has a use for all of it."""
    options = resolved.options
    if options.train and resolved.given("method"):
        yield Problem("--train and --method: both say what is trained", mend="one of them")
    method = "train" if options.train else options.method
    if method not in ("lora", "all"):
        yield from idle(resolved, LORA_OPTIONS, "it is for --method lora")
    if method not in ("last", "all"):
        yield from idle(resolved, ("layers",), "it is for --method last")
    if options.adapter is not None:
        yield from idle(resolved, LORA_OPTIONS[:-1], "the folder of --adapter says it")
    if options.valid:
        yield from idle(resolved, ("valid_share",), "the rows of --valid are used")
