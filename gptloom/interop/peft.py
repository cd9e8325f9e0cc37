"""Low-rank adapters in the folder that PEFT writes and reads: ``adapter_config.json`` and ``adapter_model.safetensors``.

What PEFT computes with such a folder we compute, to the last digits of fp32, and the other way round; what we could not is
refused by name. PEFT itself is not needed. Weights are safetensors only.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from gptloom.config.chat import ChatFormat
from gptloom.config.errors import Problem, UserError
from gptloom.config.model import ModelConfig
from gptloom.config.run_folder import LINEAGE_FILE
from gptloom.config.task import TaskConfig
from gptloom.interop.peft_config import read_description
from gptloom.interop.peft_names import Place, modules_of, places, short_names
from gptloom.model.folder import PICKLES, refuse_pickle, replaced_folder, write_json
from gptloom.model.layouts import layout_for
from gptloom.model.lora import PARTS, TARGETS, LoraConfig, is_lora
from gptloom.model.reference import ADAPTER_CONFIG
from gptloom.model.store import LINEAGE_VERSION
from gptloom.model.transformer import Transformer
from gptloom.model.weight_files import WeightFiles
from gptloom.model.weight_writer import write_tensors
from gptloom.tokenizer.framing import framed
from gptloom.tokenizer.tokenizer import Tokenizer

WEIGHTS = "adapter_model.safetensors"
PREFIX = "base_model.model."
SUFFIXES = {"lora_a": ".lora_A.weight", "lora_b": ".lora_B.weight"}
TASK_TYPES = {"sequence": "SEQ_CLS", "tokens": "TOKEN_CLS", "span": "QUESTION_ANS"}
WORDS = ("embedding.weight", "head.weight")  # what an adapter may not replace
CONVERT = (
    'python -c "from peft import load_peft_weights as L; from safetensors.torch import save_file as S; '
    'S({{k: v.contiguous() for k, v in L({0!r}).items()}}, {1!r})"'
)


# ---- out ---------------------------------------------------------------------------------------------------------------


def write_adapter(
    folder: Path,
    tensors: Mapping[str, Tensor],
    config: ModelConfig,
    lora: LoraConfig,
    base: str,
    *,
    tokenizer: Tokenizer | None = None,
    lineage: Mapping[str, Any] | None = None,
    task: TaskConfig | None = None,
    chat: ChatFormat | None = None,
) -> None:
    """Writes ``folder`` whole or not at all; an adapter folder of that name is replaced.

    Args:
        folder: where.
        tensors: what was trained, by the names of ``Transformer.state_dict()``: adapters (``lora_a``, ``lora_b``), the
            task's head, and whatever else does not come from the base, such as a new pooler.
        config: what the model is, with its head.
        lora: the shapes of the adapters.
        base: what it is put on: the path of a model folder, or ``hf:NAME``. A path is best absolute, or relative to
            ``folder``; PEFT itself is told the base by its user.
        tokenizer: written beside it, where it is not to be the base's; with a ``task`` it frames texts as that does.
        lineage: what ``gptloom.json`` is to remember.
        task: what the model was fine-tuned for; without it only the kind of its head is known.
        chat: how conversations are rendered for it.

    Raises:
        UserError: the layout cannot hold ``config``, or only a part of a layer's tensors is there.
        ValueError: an adapter is of another rank than ``lora`` says, or there is none.
    """
    layout = layout_for(config)
    if problems := layout.unfit(config):
        raise UserError(*problems)
    known = places(config)
    fused = {place.module: _fused(place, tensors, lora) for place in known.values() if _adapted(place, tensors)}
    saved = _saved(tensors, config)
    placed = {name for module in fused for name in known[module].ours}
    placed |= {name for rule in layout.rules(config) if rule.theirs in saved for name in rule.ours}
    if astray := sorted(name for name in tensors if name not in placed and name.rpartition(".")[0] not in placed):
        raise ValueError(f"no layer of the layout has {', '.join(astray)}")
    if not fused:
        raise ValueError("there is no adapter among the tensors")
    stored = {layout.written(name, config): tensor for name, tensor in saved.items()}
    for module, adapter in fused.items():
        name = layout.written(module, config)
        stored |= {name + SUFFIXES["lora_a"]: adapter.a, name + SUFFIXES["lora_b"]: adapter.b}
    stored = {PREFIX + name: tensor.detach().contiguous() for name, tensor in stored.items()}
    with replaced_folder(folder, (ADAPTER_CONFIG,)) as partial:
        write_json(partial / ADAPTER_CONFIG, _describe(fused, saved, config, lora, base))
        write_tensors(partial / WEIGHTS, stored, stored.__getitem__, {"format": "pt"})
        card = {"version": LINEAGE_VERSION, "model": config.model_dump(mode="json"), "lineage": dict(lineage or {})}
        for name, told in (("task", task), ("chat", chat)):
            card |= {} if told is None else {name: told.model_dump(mode="json")}
        write_json(partial / LINEAGE_FILE, card)
        if tokenizer is not None:
            if task is not None:  # for those who read texts by it elsewhere
                tokenizer = framed(tokenizer, task.tokens, segments=task.inputs == "bert")
            if chat is not None:
                tokenizer = tokenizer.changed({}, {"chat_template": chat.jinja})
            tokenizer.save(partial)


@dataclass(frozen=True)
class _Fused:
    """One adapter as PEFT has it, on one of its modules; its output is scaled by alpha / rank."""

    a: Tensor
    b: Tensor
    scale: float

    @property
    def rank(self) -> int:
        return len(self.a)

    @property
    def alpha(self) -> float:
        alpha = self.scale * self.rank
        return int(alpha) if alpha == int(alpha) else alpha


def _adapted(place: Place, tensors: Mapping[str, Tensor]) -> bool:
    return any(f"{name}.{part}" in tensors for name in place.ours for part in PARTS)


def _fused(place: Place, tensors: Mapping[str, Tensor], lora: LoraConfig) -> _Fused:
    parts, scale = {}, None
    for name in place.ours:
        if f"{name}.{PARTS[0]}" not in tensors:
            continue
        a, b = (tensors[f"{name}.{part}"] for part in PARTS)
        if len(a) != lora.rank_of(name):
            raise ValueError(f"{name} has rank {len(a)}, not {lora.rank_of(name)}")
        own = lora.alpha_of(name) / len(a)
        scale = own if scale is None else scale
        parts[name] = a, b if own == scale else b * (own / scale)  # one layer has one scale there
    assert scale is not None
    a, b = place.fuse(parts)
    return _Fused(a, b, scale)


def _saved(tensors: Mapping[str, Tensor], config: ModelConfig) -> dict[str, Tensor]:
    """Their name -> tensor, of all that is no adapter."""
    layout = layout_for(config)
    given = {name for name in tensors if not is_lora(name)}
    saved, problems = {}, []
    for rule in layout.rules(config):
        there = given.intersection(rule.ours)
        if there and len(there) < len(rule.ours):
            missing = ", ".join(sorted(set(rule.ours) - there))
            what = f"{rule.theirs} is one tensor there: it cannot be stored without {missing}"
            problems.append(Problem(what, mend="train all of them, or none"))
        elif there:
            saved[rule.theirs] = rule.write([tensors[name] for name in rule.ours])
    if problems:
        raise UserError(*problems)
    return saved


def _describe(
    fused: Mapping[str, _Fused], saved: Collection[str], config: ModelConfig, lora: LoraConfig, base: str
) -> dict[str, Any]:
    layout = layout_for(config)
    adapted = {layout.written(module, config): adapter for module, adapter in fused.items()}
    ranks = {name: adapter.rank for name, adapter in adapted.items()}
    alphas = {name: adapter.alpha for name, adapter in adapted.items()}
    rank, alpha = _most(ranks.values()), _most(alphas.values())
    modules = modules_of(config)
    whole = sorted({layout.written(name, config).rpartition(".")[0] for name in saved})
    if config.task_head is None:
        task_type = "CAUSAL_LM" if config.mask == "causal" else None
    else:  # null: PEFT would put a head of its own there, where no class of transformers has this one
        found = layout.task_class(config)
        task_type = TASK_TYPES.get(found.kind) if found else None
    return {
        "peft_type": "LORA",
        "task_type": task_type,
        "base_model_name_or_path": base.removeprefix("hf:"),
        "r": rank,
        "lora_alpha": alpha,
        "lora_dropout": lora.dropout,
        "target_modules": short_names(adapted, modules),
        "rank_pattern": _pattern(ranks, rank, modules),
        "alpha_pattern": _pattern(alphas, alpha, modules),
        "modules_to_save": whole or None,
        "fan_in_fan_out": any(places(config)[module].transposed for module in fused),
        "bias": "none",
        "use_rslora": False,
        "init_lora_weights": True,
        "inference_mode": True,
    }


def _pattern(values: Mapping[str, float], usual: float, modules: list[str]) -> dict[str, float]:
    """End of names -> value, for the modules that have another than the usual one."""
    found = {}
    for value in sorted({value for value in values.values() if value != usual}):
        for end in short_names((name for name in values if values[name] == value), modules):
            found[end] = value
    return found


def _most(values: Collection[Any]) -> Any:
    return Counter(values).most_common(1)[0][0]


# ---- in ----------------------------------------------------------------------------------------------------------------


def read_adapter(folder: Path, config: ModelConfig, *, whole: bool = True) -> tuple[LoraConfig, dict[str, Tensor]]:
    """The adapters of ``folder`` for a model of ``config``, and their tensors by our names.

    A model with ``add_lora`` of that configuration takes them by ``load_state_dict(..., strict=False)``. ``whole``: also
    what is stored whole beside them, the task's head above all; without it that is left aside, whatever it is.

    Raises:
        UserError: no adapter folder, pickled or damaged weights, and everything in it that gptloom does not compute or
            that ``config`` has no place for, at once.
    """
    described = read_description(folder)
    layout, known = layout_for(config), places(config)
    rules = {rule.theirs: rule for rule in layout.rules(config)}
    problems: list[Problem] = []
    found: dict[str, Tensor] = {}
    ranks: dict[str, int] = {}
    alphas: dict[str, float] = {}
    with open_weights(folder) as files:
        halves, others = _sorted(files)
        for name, stored in others.items() if whole else ():
            rule = rules.get(layout.spelled(name))
            if rule is None or set(rule.ours) & set(WORDS):
                problems.append(_astray(stored, rule is not None, folder))
                continue
            parts = dict(zip(rule.ours, rule.read(files.read(stored)), strict=True))
            found |= {ours: part.clone() for ours, part in parts.items()}
        for module, pair in halves.items():
            place = known.get(layout.spelled(module))
            if place is None:
                problems += [_astray(stored, False, folder) for stored in pair.values()]
                continue
            rank, scale = described.shape_of(module)
            wanted = {"lora_a": (rank, place.inputs), "lora_b": (sum(place.outputs), rank)}
            if wrong := _misshapen(pair, wanted, files, folder, module):
                problems += wrong
                continue
            a, b = (files.read(pair[part]) for part in PARTS)
            for ours, own in place.split(a, b).items():
                found |= {f"{ours}.{part}": half.clone() for part, half in zip(PARTS, own, strict=True)}
                ranks[ours], alphas[ours] = len(own[0]), scale * len(own[0])
    problems += _wrong_shapes(found, config, folder)
    if problems:
        raise UserError(*problems)
    return _lora_config(ranks, alphas, described.lora_dropout, config), found


def open_weights(folder: Path) -> WeightFiles:
    """The tensors of an adapter folder. ``UserError`` where there are none, they are pickled, or damaged."""
    if not (folder / WEIGHTS).is_file():
        pickles = sorted(path for path in folder.iterdir() if path.suffix in PICKLES)
        if not pickles:
            raise UserError(Problem(f"there is no {WEIGHTS}", str(folder), "fetch or copy the folder again"))
        reason = refuse_pickle(pickles[0]).problems[0]
        convert = CONVERT.format(str(folder), str(folder / WEIGHTS))
        raise UserError(Problem(reason.what, reason.where, f"where you trust the file, convert it: {convert}"))
    return WeightFiles(folder, [WEIGHTS])


def stored_whole(files: WeightFiles) -> dict[str, str]:
    """Name in the base -> as stored, of the tensors that are no adapter's: the head, and what else was saved whole."""
    return _sorted(files)[1]


def _sorted(files: WeightFiles) -> tuple[dict[str, dict[str, str]], dict[str, str]]:
    """Their module -> its halves' stored names; and name -> stored name of everything else."""
    halves: dict[str, dict[str, str]] = {}
    whole = {}
    for stored in files.shapes:
        name = stored.removeprefix(PREFIX)
        for part, suffix in SUFFIXES.items():
            if name.endswith(suffix):
                halves.setdefault(name.removesuffix(suffix), {})[part] = stored
                break
        else:
            whole[name] = stored
    return halves, whole


def _misshapen(
    pair: Mapping[str, str], wanted: Mapping[str, tuple[int, ...]], files: WeightFiles, folder: Path, module: str
) -> list[Problem]:
    problems = []
    for part, shape in wanted.items():
        if part not in pair:
            problems.append(Problem(f"tensor {PREFIX}{module}{SUFFIXES[part]} is missing", str(folder / WEIGHTS)))
        elif files.shapes[pair[part]] != shape:
            what = f"tensor {pair[part]} is {list(files.shapes[pair[part]])}; base and {ADAPTER_CONFIG} ask for"
            problems.append(Problem(f"{what} {list(shape)}", str(folder / WEIGHTS)))
    return problems


def _astray(stored: str, of_words: bool, folder: Path) -> Problem:
    where = str(folder / WEIGHTS)
    if of_words:
        what = f"tensor {stored} replaces the matrix of the vocabulary; gptloom adapts the blocks"
        return Problem(what, where, "merge it with peft: merge_and_unload(), save_pretrained()")
    return Problem(f"tensor {stored} belongs to nothing that gptloom adapts in the base", where)


def _wrong_shapes(found: Mapping[str, Tensor], config: ModelConfig, folder: Path) -> Iterator[Problem]:
    """Of what was saved whole; adapters are looked at where they are split."""
    with torch.device("meta"):
        expected = Transformer(config).state_dict()
    for name, tensor in found.items():
        if not is_lora(name) and tensor.shape != expected[name].shape:
            what = f"{name} is {list(tensor.shape)} in the adapter and {list(expected[name].shape)} in the model"
            yield Problem(what, str(folder / WEIGHTS))


def _lora_config(
    ranks: Mapping[str, int], alphas: Mapping[str, float], dropout: float, config: ModelConfig
) -> LoraConfig:
    if not ranks:
        return LoraConfig(dropout=dropout, target_modules=())
    rank, alpha = _most(ranks.values()), _most(alphas.values())
    parts = {name.rpartition(".")[2] for name in ranks}
    everywhere = len(ranks) == config.n_layer * len(parts)
    return LoraConfig(
        rank,
        alpha,
        dropout,
        tuple(part for part in TARGETS if part in parts) if everywhere else tuple(ranks),
        {name: own for name, own in ranks.items() if own != rank},
        {name: own for name, own in alphas.items() if own != alpha},
    )
