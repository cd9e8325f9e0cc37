"""``gptloom import``: a model of the Hugging Face world becomes a model folder of gptloom's, with a receipt."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from gptloom.cli.framework import Command
from gptloom.cli.output import Output
from gptloom.config.doors import ImportOptions
from gptloom.config.errors import Problem, UserError
from gptloom.config.python import python_function
from gptloom.config.resolve import Resolved
from gptloom.observe.terminal import say

if TYPE_CHECKING:
    from gptloom.interop.import_model import Imported

MODELS = Path("models")


def import_one(resolved: Resolved[ImportOptions]) -> Imported:
    """Brings a model of ``transformers`` in: weights, tokenizer, chat template, generation config, and a receipt."""
    from gptloom.interop.hub import find_source
    from gptloom.interop.import_model import import_folder, plan_import

    options = resolved.options
    out = Path(options.out).expanduser() if options.out else None
    if out is not None:
        _check_free(out, options.overwrite)
    source = find_source(options.source)
    if out is None:
        out = MODELS / Path(source.name).expanduser().resolve().name
        _check_free(out, options.overwrite)
    if out.resolve() == source.folder.resolve():
        raise UserError(Problem("the result would take the place of what is imported", str(out), "another --out"))
    plan = plan_import(source, dtype=options.dtype, tokenizer=options.tokenizer, resize_vocab=options.resize_vocab)
    say(f"importing {source.name} into {out}")
    return import_folder(plan, out, verify=options.verify)


def _check_free(out: Path, overwrite: bool) -> None:
    """Nothing is replaced but, with --overwrite, a model folder that gptloom wrote."""
    from gptloom.model.store import LINEAGE_FILE

    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return
    if not (out / LINEAGE_FILE).is_file():
        raise UserError(
            Problem("exists and was not written by gptloom; it is left as it is", str(out), "another --out")
        )
    if not overwrite:
        raise UserError(Problem("exists already", str(out), "--overwrite, or another --out"))


def run_import(resolved: Resolved[ImportOptions], out: Output) -> None:
    """Brings a model of transformers in: weights, tokenizer, chat template, generation config, and a receipt.

    Reads folders of GPT-1, GPT-2, GPT-Neo, GPT-NeoX, BERT, Llama, Mistral, Qwen2, Qwen3 and nanochat with safetensors.
    The result is opened again and compared with the source as transformers computes it, where that is installed.
    """
    from gptloom.model.counting import count_parameters
    from gptloom.observe.terminal import human_count

    imported = import_one(resolved)
    parameters = count_parameters(imported.config).total
    out.say(f"{imported.config.family}, {human_count(parameters)} parameters")
    for line in imported.receipt.lines():
        out.say(line)
    out.result(str(imported.path))
    out.document(
        {
            "path": str(imported.path),
            "source": imported.source.name,
            "revision": imported.source.revision,
            "family": imported.config.family,
            "parameters": parameters,
            "receipt": imported.receipt.as_dict(),
        }
    )


COMMANDS = {"import": Command(ImportOptions, run_import)}
import_model = python_function("import_model", ImportOptions, import_one)
