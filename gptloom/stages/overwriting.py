"""What --overwrite may not delete: everything that the new run reads."""

from __future__ import annotations

import glob
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from gptloom.config.errors import Problem, UserError
from gptloom.config.run_folder import DATA
from gptloom.data.inputs import split_weight
from gptloom.interop.adapter import base_of
from gptloom.interop.hub import PREFIX
from gptloom.model.reference import Reference, is_adapter, path_of, resolve_reference

FILES = ("data", "valid", "test", "replay_data", "template", "tokenizer")  # options that name files or folders
MODELS = ("base", "adapter")


def about_overwriting(options: Any) -> Iterator[Problem]:
    """A problem for each thing that the ``options`` of a stage name and that lies in the folder it would empty."""
    if not options.overwrite or options.out is None:
        return
    folder = Path(options.out).resolve()
    for name in (*FILES, *MODELS):
        paths_of = _paths_of_model if name in MODELS else _paths_of_file
        given = getattr(options, name, None) or []
        for text in [given] if isinstance(given, str) else given:
            if any(path.resolve().is_relative_to(folder) for path in paths_of(text)):
                yield Problem("--overwrite would delete what this training reads", text, "another --out")


def _paths_of_file(text: str) -> Iterator[Path]:
    try:
        name, _ = split_weight(text)
    except UserError:
        return  # said where it is read
    yield Path(name)
    if glob.has_magic(name):
        yield from map(Path, glob.glob(name, recursive=True))  # noqa: PTH207 (absolute patterns)


def _paths_of_model(text: str) -> Iterator[Path]:
    """The folder of a model, of a run also the text that it was pretrained on, of an adapter also its base."""
    named = path_of(text.removeprefix(PREFIX))
    if named is None:
        return
    yield named
    try:
        found = Reference("model", named) if text.startswith(PREFIX) else resolve_reference(text)
        if found.path is not None:
            yield found.path
        if found.run is not None:
            yield found.run / DATA
        if found.path is not None and is_adapter(found.path):
            base = base_of(found.path, resolve_reference)  # what only the hub has is in no folder of ours
            yield from filter(None, (base.path, base.run))
    except UserError:
        return  # said where it is opened
