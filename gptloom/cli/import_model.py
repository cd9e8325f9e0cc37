"""``gptloom import``: a model of the Hugging Face world becomes a model folder of gptloom's, with a receipt."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from gptloom.cli.framework import Command
from gptloom.cli.output import Output
from gptloom.config.doors import MODELS, ImportOptions
from gptloom.config.errors import UserError
from gptloom.config.python import python_function
from gptloom.config.resolve import Resolved
from gptloom.observe.terminal import say

if TYPE_CHECKING:
    from gptloom.interop.import_model import Imported


def import_one(resolved: Resolved[ImportOptions]) -> Imported:
    """Brings a model of ``transformers`` in: weights, tokenizer, chat template, generation config, and a receipt."""
    from gptloom.interop.hub import find_source
    from gptloom.interop.import_model import import_folder, plan_import
    from gptloom.interop.outputs import in_the_way, taken

    options = resolved.options
    out = Path(options.out).expanduser() if options.out else None
    if out is not None and (problems := taken(out, options.overwrite)):
        raise UserError(*problems)  # before anything is fetched
    source = find_source(options.source)
    if out is None:
        out = MODELS / Path(source.name).expanduser().resolve().name
    if problems := [*taken(out, options.overwrite), *in_the_way(out, source.folder)]:
        raise UserError(*problems)
    plan = plan_import(source, dtype=options.dtype, tokenizer=options.tokenizer, resize_vocab=options.resize_vocab)
    say(f"importing {source.name} into {out}")
    return import_folder(plan, out, verify=options.verify, overwrite=options.overwrite)


def run_import(resolved: Resolved[ImportOptions], out: Output) -> None:
    """Brings a model of transformers in: weights, tokenizer, chat template, generation config, and a receipt.

    Reads folders of GPT-1, GPT-2, GPT-Neo, GPT-NeoX, BERT, Llama, Mistral, Qwen2, Qwen3 and nanochat with safetensors.
    The result is opened again and compared with the source as transformers computes it, where that is installed.
    """
    from gptloom.model.counting import count_parameters
    from gptloom.observe.numbers import human_count

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
