"""Opening and storing bodies of ``transformers``: folders as ``save_pretrained`` lays them out, the task's head beside them."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import gptloom
from gptloom.config.errors import Problem, UserError
from gptloom.config.run_folder import LINEAGE_FILE
from gptloom.config.task import HeadConfig, TaskConfig
from gptloom.interop.foreign import DROPOUTS, FAMILY, HALF, ForeignConfig, ForeignModel, suggested_pooling
from gptloom.interop.hub import PREFIX, find_source, resolve_model, tokenizer_folder
from gptloom.interop.witness import quiet
from gptloom.model.checksum import file_sum
from gptloom.model.folder import CONFIG_FILE, read_json, replaced_folder, write_json
from gptloom.model.layouts import LAYOUTS
from gptloom.model.reference import Reference
from gptloom.model.store import LINEAGE_VERSION, read_lineage
from gptloom.model.weight_files import WeightFiles
from gptloom.model.weight_writer import write_tensors
from gptloom.observe.terminal import say
from gptloom.tokenizer.load import load_tokenizer
from gptloom.tokenizer.tokenizer import TOKENIZER_FILE, Tokenizer

__all__ = [
    "ForeignConfig",
    "ForeignModel",
    "is_foreign",
    "open_body",
    "open_foreign",
    "save_foreign",
    "suggested_pooling",
]

HEAD_FILE = "task_head.safetensors"
SHARD_SIZE = "5GB"
FP32_ONLY = ("deberta",)  # fills bf16 scores with the lowest number of fp32 (transformers 5.23); its successor does not
WRITE_TOKENIZER = (
    "python -c \"from transformers import AutoTokenizer; AutoTokenizer.from_pretrained('{}').save_pretrained('{}')\""
)


def is_foreign(folder: Path) -> bool:
    """Whether a model folder is one that our own layouts don't read, or that was written by ``save_foreign``."""
    if read_lineage(folder).get("model", {}).get("family") == FAMILY:
        return True
    kind = read_json(folder / CONFIG_FILE).get("model_type")
    return all(kind != layout.model_type for layout in LAYOUTS)


def open_foreign(
    reference: str | Path | Reference,
    *,
    device: torch.device | str = "cpu",
    compute_dtype: torch.dtype = torch.float32,
    dropout: float | None = None,
) -> tuple[ForeignModel, Tokenizer]:
    """A body with its tokenizer, and with the head of its task where the folder has one; in evaluation mode.

    Args:
        reference: a run, a model folder, ``hf:`` and a folder or a name of the hub; or what ``resolve_model`` found.
        device: where it computes.
        compute_dtype: of the computing; the weights are fp32.
        dropout: of the whole body; its own where None.

    Raises:
        UserError: as ``open_body``; nothing is called that; a preset; no ``tokenizer.json``, or one with more ids than the
            body has rows.
    """
    resolved = resolve_model(reference)
    if resolved.path is None:
        raise UserError(Problem(f"{resolved.name} is a preset of gptloom's own, not a model of transformers"))
    folder = resolved.path
    model = open_body(folder, device=device, compute_dtype=compute_dtype, dropout=dropout)
    tokenizer = _tokenizer_of(tokenizer_folder(resolved), resolved.name)
    if tokenizer.vocab_size > model.config.vocab_size:
        what = f"the tokenizer has {tokenizer.vocab_size:,} ids and the body only {model.config.vocab_size:,}"
        raise UserError(Problem(what, str(folder), "the tokenizer that the body was trained with"))
    return model, tokenizer


def open_body(
    folder: Path,
    *,
    device: torch.device | str = "cpu",
    compute_dtype: torch.dtype = torch.float32,
    dropout: float | None = None,
) -> ForeignModel:
    """The body of a model folder, whatever heads are stored with it, by the class of ``transformers`` for it.

    Of an encoder-decoder it is the encoder. A pooler that is not stored is left out, so that no fresh numbers pass for
    trained ones. For the arguments see ``open_foreign``.

    Raises:
        UserError: no ``transformers``, or none with such a model; pickled, damaged or missing weights; no body for text.
    """
    body = _body_of(folder, dropout)
    kind = body.config.model_type
    if body.main_input_name != "input_ids":
        raise UserError(Problem(f"not a body for text: a {kind} model reads {body.main_input_name}", str(folder)))
    if kind in FP32_ONLY and compute_dtype != torch.float32:
        say(f"{kind}: its code in transformers fails in lower precision, so it computes in fp32")
        compute_dtype = torch.float32
    try:
        model = ForeignModel(body, compute_dtype=compute_dtype)
    except (ValueError, AttributeError) as error:
        raise UserError(Problem(f"not a body that reads text alone: {error}", str(folder))) from error
    head = read_lineage(folder).get("model", {}).get("task_head")
    if head is not None:
        _read_head(model, HeadConfig(**head), folder)
    return model.to(device).eval()


def _body_of(folder: Path, dropout: float | None) -> Any:
    """The ``PreTrainedModel`` of a folder, in fp32."""
    raw = read_json(folder / CONFIG_FILE)
    if find_spec("transformers") is None:
        what = f"a model of type {raw.get('model_type')!r} is opened by transformers, which is not installed"
        raise UserError(Problem(what, str(folder), 'pip install "gptloom[hub]"'))
    import transformers
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING_NAMES
    from transformers.models.auto.modeling_auto import MODEL_FOR_TEXT_ENCODING_MAPPING_NAMES as ENCODERS

    kind, here = raw.get("model_type"), f"transformers {version('transformers')}"
    if kind not in CONFIG_MAPPING_NAMES:
        what = f"{here} has no model of type {kind!r}; code that comes with a model is never run"
        raise UserError(Problem(what, str(folder / CONFIG_FILE), "pip install --upgrade transformers"))
    half = str(ENCODERS.get(kind, "")).endswith(HALF)
    if raw.get("is_encoder_decoder") and not half:
        what = f"{here} has no class for the encoder of {kind!r} alone"
        raise UserError(Problem(what, str(folder), "an encoder, a decoder, or T5, of which the encoder is taken"))
    WeightFiles(folder)  # refuses pickles and damaged files
    opener = transformers.AutoModelForTextEncoding if half else transformers.AutoModel
    here_only = {"local_files_only": True, "trust_remote_code": False}
    with quiet():
        try:
            config = transformers.AutoConfig.from_pretrained(folder, **here_only)
            for name in DROPOUTS if dropout is not None else ():
                if isinstance(getattr(config, name, None), float | int):
                    setattr(config, name, dropout)
            model, report = opener.from_pretrained(
                folder, config=config, dtype=torch.float32, use_safetensors=True, output_loading_info=True, **here_only
            )
        except Exception as error:  # of whatever kind: another library's code on what may be a stranger's files
            first = (str(error).splitlines() or [""])[0]
            raise UserError(Problem(f"{here} cannot open it: {type(error).__name__}: {first}", str(folder))) from error
    missing = sorted(report["missing_keys"])
    if missing and all(name.startswith("pooler.") for name in missing):
        model.pooler, missing = None, []
    if missing:
        what = f"weights are missing: {', '.join(missing[:5])}" + (f" and {len(missing) - 5} more" * (len(missing) > 5))
        raise UserError(Problem(what, str(folder), "fetch or copy the whole folder again"))
    return model.float()


def _tokenizer_of(folder: Path, model: str) -> Tokenizer:
    """From ``tokenizer.json`` alone: what else a folder may have, each architecture reads in its own way."""
    if (folder / TOKENIZER_FILE).is_file():
        return load_tokenizer(folder)
    others = ("*.model", "*.spm", "vocab.txt", "vocab.json", "*.bpe", "merges.txt")
    found = sorted(path.name for pattern in others for path in folder.glob(pattern))
    what = f"the tokenizer is missing: there is no {TOKENIZER_FILE}"
    if found:
        what += f", and {', '.join(found)} alone does not say how a text is split"
    name = find_source(model).name if model.startswith(PREFIX) else model
    source = name if found or not Path(name).is_dir() else "ORG/NAME"
    write = WRITE_TOKENIZER.format(source, folder)
    whose = "" if source == name else ", where ORG/NAME is the model that the body comes from"
    raise UserError(Problem(what, str(folder), f"{write}{whose}"))


def save_foreign(
    folder: Path,
    state: Mapping[str, Tensor],
    model: ForeignModel,
    *,
    tokenizer: Tokenizer,
    lineage: Mapping[str, Any] | None = None,
    task: TaskConfig | None = None,
) -> dict[str, str]:
    """Writes ``folder`` whole or not at all, so that ``AutoModel`` opens its body (T5's: ``AutoModelForTextEncoding``).

    Args:
        folder: where; a model folder of that name is replaced.
        state: the weights by the names of ``model``'s parameters: a checkpoint's masters, say. Buffers, and a tied
            weight's second name, may be left out.
        model: what they belong to, without adapters.
        tokenizer: written beside it.
        lineage: what ``gptloom.json`` is to remember.
        task: what the model was fine-tuned for.

    Returns:
        The checksum, in hex, of each weight file.

    Raises:
        UserError: ``folder`` exists and is no model folder.
        ValueError: parameters are missing in ``state``, or it has others.
    """
    own = model.state_dict(keep_vars=True)
    first_names = {id(parameter): name for name, parameter in model.named_parameters()}
    names = {name: first_names.get(id(tensor), name) for name, tensor in own.items()}
    if not set(first_names.values()) <= set(state) <= set(own):
        raise ValueError(f"state and model disagree about {sorted(set(first_names.values()) ^ set(state))}")
    full = {name: state.get(first, own[name]).detach() for name, first in names.items()}
    body = {name.removeprefix("body."): tensor for name, tensor in full.items() if name.startswith("body.")}
    head = {name: tensor for name, tensor in full.items() if name.startswith("task_head.")}
    with replaced_folder(folder) as partial:
        with quiet():
            model.body.save_pretrained(partial, state_dict=body, max_shard_size=SHARD_SIZE)  # type: ignore[operator]
        if head:
            write_tensors(partial / HEAD_FILE, head, head.__getitem__, {"format": "pt"})
        tokenizer.save(partial)
        card = {
            "version": LINEAGE_VERSION,
            "versions": {name: version(name) for name in ("torch", "transformers")} | {"gptloom": gptloom.__version__},
            "model": model.config.model_dump(mode="json"),
            "tokenizer_hash": tokenizer.hash,
            "lineage": dict(lineage or {}),
            **({} if task is None else {"task": task.model_dump(mode="json")}),
        }
        write_json(partial / LINEAGE_FILE, card)
        return {path.name: file_sum(path) for path in sorted(partial.glob("*.safetensors"))}


def _read_head(model: ForeignModel, head: HeadConfig, folder: Path) -> None:
    if not (folder / HEAD_FILE).is_file():
        raise UserError(Problem(f"{HEAD_FILE} is missing: the task's head", str(folder), "fetch or copy it again"))
    model.add_head(head, seed=0)
    assert model.task_head is not None
    expected = {f"task_head.{name}": tensor for name, tensor in model.task_head.state_dict().items()}
    files = WeightFiles(folder, [HEAD_FILE])
    shapes = {name: tuple(tensor.shape) for name, tensor in expected.items()}
    if files.shapes != shapes:
        differ = sorted(name for name in {*shapes, *files.shapes} if shapes.get(name) != files.shapes.get(name))
        raise UserError(Problem(f"not the head that {LINEAGE_FILE} describes: {', '.join(differ)}", str(folder)))
    with files, torch.no_grad():
        for name, tensor in expected.items():
            tensor.copy_(files.read(name))
