"""An adapter folder as a model: its base is found and opened, the adapter merged in fp32, the result a model folder.

That folder is a temporary one of this process, so that whatever reads a model folder reads an adapter.
"""

from __future__ import annotations

import atexit
import shutil
from collections.abc import Callable
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

import torch
from pydantic import ValidationError

from gptloom.config.errors import Problem, UserError
from gptloom.config.model import ModelConfig
from gptloom.config.run_folder import LINEAGE_FILE
from gptloom.config.task import HeadConfig
from gptloom.interop.companions import LABELS, generation_of, source_tokenizer, take_along
from gptloom.interop.hub import tokenizer_folder
from gptloom.interop.peft import TASK_TYPES, WEIGHTS, open_weights, read_adapter, stored_whole
from gptloom.interop.peft_config import read_description
from gptloom.model.folder import CONFIG_FILE, read_json, write_json
from gptloom.model.layouts import layout_for
from gptloom.model.layouts.task_heads import TaskClass
from gptloom.model.lora import add_lora, merge_lora
from gptloom.model.reference import ADAPTER_CONFIG, Reference, path_of
from gptloom.model.store import content_hash, load_model, own_task, read_chat, read_config, read_lineage, save_model
from gptloom.model.transformer import Transformer

Resolve = Callable[[str], Reference]
_made: dict[tuple[tuple[str, int], ...], Path] = {}  # the files of adapter and base, with their times -> the model


def merged_folder(adapter: Path, resolve: Resolve) -> Path:
    """A model folder that computes what the base of ``adapter`` does with it, made once a process and gone with it.

    ``resolve`` finds a model reference.

    Raises:
        UserError: as ``base_of`` and ``merged_model``.
    """
    base = base_of(adapter, resolve)
    assert base.path is not None
    files = [adapter / ADAPTER_CONFIG, adapter / WEIGHTS, *sorted(base.path.iterdir())]
    key = tuple((str(path.resolve()), path.stat().st_mtime_ns) for path in files if path.is_file())
    if key not in _made:
        place = Path(mkdtemp(prefix="gptloom-adapter-"))
        atexit.register(shutil.rmtree, place, ignore_errors=True)
        made = place / (adapter.resolve().name or "adapter")  # what is made of it is named after it
        _write(adapter, base, made)
        _made[key] = made
    return _made[key]


def merged_model(adapter: Path, base: Path) -> tuple[Transformer, ModelConfig]:
    """The model of folder ``base`` with ``adapter`` merged, in fp32 and evaluation mode.

    Raises:
        UserError: the base or the adapter cannot be read, they do not fit each other, or a new head's tensors are missing.
    """
    body, config = load_model(base, dtype=torch.float32)
    config = adapted_config(adapter, config)
    lora, tensors = read_adapter(adapter, config)
    with torch.device("meta"):
        model = Transformer(config)
        add_lora(model, lora, seed=0)
    state = body.state_dict() | {name: tensor.float() for name, tensor in tensors.items()}
    names = list(model.state_dict())
    if missing := [name for name in names if name not in state]:
        mend = "save it with what is new beside the adapters (peft: modules_to_save)"
        what = f"neither base nor adapter has {', '.join(missing)}"
        raise UserError(Problem(what, str(adapter / WEIGHTS), mend))
    model.load_state_dict({name: state[name] for name in names}, assign=True)
    merge_lora(model)
    return model.requires_grad_(True).eval(), config


def base_of(adapter: Path, resolve: Resolve) -> Reference:
    """The trained model that ``adapter`` belongs on: by a path from the adapter's folder, from here, or by a hub's name.

    Raises:
        UserError: it names none, or none that is found, or one that is no trained model.
    """
    described = read_description(adapter)
    named, revision = described.base_model_name_or_path, described.revision
    where = str(adapter / ADAPTER_CONFIG)
    if not named:
        raise UserError(Problem("base_model_name_or_path is not set", where, f"name the base's folder in {where}"))
    for reference in (str(adapter / named), named):
        if _is_here(reference) or _is_here(reference.rpartition("@")[0]):
            return _trained(reference, resolve, where)
    try:
        return _trained(f"hf:{named}@{revision}" if revision else f"hf:{named}", resolve, where)
    except UserError as error:
        what = f"the base {named!r} is neither a folder, from {adapter} or from here, nor a model that the hub gives"
        mends = [problem.mend for problem in error.problems if problem.mend]
        mend = f'bring it there, or set "base_model_name_or_path" in {where} to where it is'
        raise UserError(Problem(what, where, "; or: ".join([mend, *mends]))) from None


def adapted_config(adapter: Path, base: ModelConfig) -> ModelConfig:
    """What a model of ``base`` is with ``adapter``: the task's head comes from the adapter, and so may BERT's pooler.

    Raises:
        UserError: the head is one that gptloom does not know there, or the class of ``transformers`` that the adapter was
            trained on computes something else on this base.
    """
    if card := read_lineage(adapter).get("model", {}):
        head = _own_head(adapter, card.get("task_head"))
        return base.model_copy(update={"task_head": head, "pooler": bool(card.get("pooler", base.pooler))})
    kind = {theirs: ours for ours, theirs in TASK_TYPES.items()}.get(read_description(adapter).task_type or "")
    if kind is None:
        return base
    where = str(adapter / ADAPTER_CONFIG)
    layout = layout_for(base)
    found = next((one for one in layout.task_classes if one.kind == kind), None)
    if found is None:
        raise UserError(Problem(f"transformers has no class with a head of that task for {base.family}", where))
    config = base.model_copy(update={"task_head": _stored_head(adapter, found)})
    if any(layout.spelled(name).startswith(f"{layout.prefix}pooler.") for name in _shapes(adapter)):
        config = config.model_copy(update={"pooler": True})
    if lacking := found.lacks(config):
        raise UserError(*(Problem(what, where) for what in lacking))
    return config


def _is_here(text: str) -> bool:
    path = path_of(text) if text else None
    return path is not None and path.is_dir()


def _trained(reference: str, resolve: Resolve, where: str) -> Reference:
    """What a reference names; adapters on adapters are refused, for one may lead back to another."""
    path = path_of(reference)
    if path is not None and (path / ADAPTER_CONFIG).is_file():
        mend = f"gptloom export {reference} --to hf --out FOLDER, then FOLDER as the base"
        raise UserError(Problem(f"the base {reference} is an adapter itself", where, mend))
    return resolve(reference)


def _shapes(adapter: Path) -> dict[str, tuple[int, ...]]:
    """Name in the base -> shape, of what is stored whole."""
    files = open_weights(adapter)
    return {name: files.shapes[stored] for name, stored in stored_whole(files).items()}


def _stored_head(adapter: Path, found: TaskClass) -> HeadConfig:
    shape = _shapes(adapter).get(f"{found.tensor}.weight")
    if shape is None or len(shape) != 2:
        what = f"the adapter is for {found.name} and does not hold its {found.tensor}"
        mend = f'with peft: modules_to_save=["{found.tensor}"]'
        raise UserError(Problem(what, str(adapter / WEIGHTS), mend))
    bias = f"{found.tensor}.bias" in _shapes(adapter)
    return HeadConfig(kind=found.kind, n_labels=shape[0], pooling=found.pooling or "last", bias=bias)


def _own_head(adapter: Path, told: Any) -> HeadConfig | None:
    try:
        return None if told is None else HeadConfig.model_validate(told)
    except ValidationError as error:
        what = f"model.task_head makes no sense: {error.errors(include_url=False)[0]['msg']}"
        raise UserError(Problem(what, str(adapter / LINEAGE_FILE), "copy the folder again")) from None


def _lineage(adapter: Path, base: Path) -> dict[str, Any]:
    """What the adapter says of itself, its parents named so that they are found from any folder."""
    own = read_lineage(adapter).get("lineage")
    if not own:
        return {"stage": "adapter", "parents": [{"path": str(base.resolve()), "hash": content_hash(base)}]}
    if not own.get("parents"):
        return dict(own)
    return {**own, "parents": [{**one, "path": str((adapter / one["path"]).resolve())} for one in own["parents"]]}


def _write(adapter: Path, source: Reference, result: Path) -> None:
    base, words = source.path, tokenizer_folder(source)
    assert base is not None
    model, config = merged_model(adapter, base)
    own = source_tokenizer(adapter)
    new_head = config.task_head != read_config(base).task_head
    save_model(
        result,
        model,
        config,
        tokenizer=own or source_tokenizer(words),
        generation=generation_of(base),
        lineage=_lineage(adapter, base),
        task=own_task(adapter) or (None if new_head else own_task(base)),
        chat=read_chat(adapter) or read_chat(base),
    )
    described = read_json(result / CONFIG_FILE)
    take_along(base, result, own_tokenizer=own is None and words == base)
    if new_head:  # whose classes are not called as the base's are
        labels = {name: described[name] for name in LABELS if name in described}
        kept = {name: value for name, value in read_json(result / CONFIG_FILE).items() if name not in LABELS}
        write_json(result / CONFIG_FILE, kept | labels)
