"""``gptloom export``: a model as other programs read it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from gptloom.cli.framework import Command
from gptloom.cli.output import Output
from gptloom.config.errors import Problem, UserError
from gptloom.config.export import ExportOptions
from gptloom.config.python import python_function
from gptloom.config.resolve import Resolved

if TYPE_CHECKING:
    from gptloom.interop.export.door import Exported


def export_one(resolved: Resolved[ExportOptions]) -> Exported:
    """Writes a model as other programs read it, and compares what they will compute with what it computes here."""
    from gptloom.interop.export.door import export_model

    options = resolved.options
    if options.out is None:
        mend = f"--out exports/{Path(options.model).name}-{options.to}"
        raise UserError(Problem("--out is missing: the folder to write", mend=mend))
    return export_model(
        options.model,
        options.to,
        Path(options.out).expanduser(),
        dtype=options.dtype,
        verify=options.verify,
        overwrite=options.overwrite,
    )


def run_export(resolved: Resolved[ExportOptions], out: Output) -> None:
    """Writes a model as other programs read it: transformers, llama.cpp and Ollama, or your own.

    The result is opened again and its logits are compared with the model's; receipt.json says how far they lie apart.
    What the format cannot express is refused, with every reason.
    """
    from gptloom.observe.numbers import human_bytes

    done = export_one(resolved)
    for line in done.receipt.lines():
        out.say(line)
    out.result(f"{done.path}: {', '.join(done.files)} ({human_bytes(done.n_bytes)}, {done.dtype})")
    out.document(
        {
            "path": str(done.path),
            "files": list(done.files),
            "bytes": done.n_bytes,
            "dtype": done.dtype,
            "receipt": done.receipt.as_dict(),
        }
    )


COMMANDS = {"export": Command(ExportOptions, run_export)}
export = python_function("export", ExportOptions, export_one)
