"""Options of a tuning that contradict each other, or that would do nothing."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from gptloom.config.errors import Problem
from gptloom.config.resolve import Resolved
from gptloom.stages.tuning.part import LORA_OPTIONS


def idle(resolved: Resolved[Any], names: Sequence[str], why: str) -> Iterator[Problem]:
    """A problem for each of ``names`` that was given."""
    for name in names:
        if resolved.given(name):
            yield Problem(f"--{name.replace('_', '-')}: {why}", mend="leave it out")


def about_part(resolved: Resolved[Any]) -> Iterator[Problem]:
    """What is said about which parameters are trained, and about held-out rows; ``--method all`` has a use for all of it."""
    options = resolved.options
    if options.train and resolved.given("method"):
        yield Problem("--train and --method: both say what is trained", mend="one of them")
    method = "train" if options.train else options.method
    if method not in ("lora", "all"):
        yield from idle(resolved, LORA_OPTIONS, "is for --method lora")
    if method not in ("last", "all"):
        yield from idle(resolved, ("layers",), "is for --method last")
    if options.adapter is not None:
        yield from idle(resolved, LORA_OPTIONS[:-1], "the folder of --adapter says it")
    if options.valid:
        yield from idle(resolved, ("valid_share",), "the rows of --valid are used")
