"""Our side of ``sft.py``: ``gptloom.sft`` as a program would call it.

    python bench/sft_gptloom.py SETTINGS

SETTINGS are a JSON object (``sft.py`` makes it); what was measured is printed as one. The run is broken off after the last
timed step: what it would measure and write at its end is no training step.
"""

from __future__ import annotations

import json
import sys
from contextlib import suppress
from typing import Any

import harness
import torch

import gptloom


class EnoughSteps(Exception):
    """All timed steps are done."""


def train(settings: dict[str, Any]) -> dict[str, Any]:
    """Makes the steps: the moment in which each ended, its loss and its tokens without padding."""
    found: dict[str, Any] = {"ends": [], "losses": [], "tokens": [], "learned": None}
    seen = 0

    def note(event: dict[str, Any], run: Any) -> None:
        nonlocal seen
        if event["type"] != "train":
            return
        found["ends"].append(event["time"])
        found["losses"].append(event["loss"])
        found["tokens"].append(event["tokens"] - seen)
        seen = event["tokens"]
        if run.state.step == settings["steps"]:
            found["peak_bytes"] = harness.peak_bytes()
            raise EnoughSteps

    more = settings["steps"] + 1
    with suppress(EnoughSteps):
        gptloom.sft(
            settings["model"],
            callbacks=[note],
            data=[settings["train"]],
            valid=[settings["valid"]],
            out=settings["out"],
            max_length=settings["max_length"],
            batch_size=settings["batch"],
            max_steps=more,
            eval_every=more,
            save_every=more,
            log_every=1,
            log=["none"],
            lr=settings["lr"],
            warmup=0.0,
            weight_decay=settings["weight_decay"],
            clip=settings["clip"],
            smoke_prompts=0,
            seed=settings["seed"],
            threads=settings["threads"],
            quiet=True,
            yes=True,
            **settings["options"],
        )
    return {**found, "threads": torch.get_num_threads()}


if __name__ == "__main__":
    print(json.dumps(train(json.loads(sys.argv[1]))))
