"""How a config.json spells rotary positions, in both ages of ``transformers``.

Version 5 has one object, ``rope_parameters`` with ``rope_theta`` inside; what is older has ``rope_theta`` and an object
``rope_scaling``, whose kind is called ``rope_type`` or ``type``. Both are written; where a file has both, the older one
counts, as it does in ``transformers``.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import ValidationError

from gptloom.config.errors import Problem
from gptloom.config.model import ModelConfig, RopeScaling
from gptloom.model.layouts.layout import Fields
from gptloom.model.rotary import yarn_temperature

# What each kind is told: their name -> ours.
_LLAMA3 = {
    "factor": "factor",
    "original_max_position_embeddings": "original_context",
    "low_freq_factor": "low_freq_factor",
    "high_freq_factor": "high_freq_factor",
}
_YARN = {
    "factor": "factor",
    "original_max_position_embeddings": "original_context",
    "beta_fast": "beta_fast",
    "beta_slow": "beta_slow",
    "attention_factor": "attention_factor",
}
_KINDS: dict[str, dict[str, str]] = {"linear": {"factor": "factor"}, "llama3": _LLAMA3, "yarn": _YARN}
_NEEDED = {"linear": ("factor",), "llama3": ("factor", "low_freq_factor", "high_freq_factor"), "yarn": ("factor",)}


def read_rope(fields: Fields, context: int, default_theta: float = 10_000.0) -> dict[str, Any]:
    """``rope_theta`` and ``rope_scaling`` of a ``ModelConfig``; what gptloom does not have goes to ``fields.problems``.

    ``context`` is the model's. It is also that of its first training, where the file does not name another.
    """
    source, given = rope_object(fields)
    if given is None:
        fields.problems.append(Problem(f"{source} is {fields.get(source)!r}; expected an object", fields.where))
        given = {}
    theta = given.get("rope_theta")
    theta = fields.get("rope_theta", default_theta) if theta is None else theta
    kind = str(given.get("rope_type") or given.get("type") or "default")
    by_layer = sorted(str(name) for name, value in given.items() if isinstance(value, Mapping))
    scaling, problems = None, []
    if by_layer:
        problems = [f"differs by kind of layer ({', '.join(by_layer)}); gptloom has one for all layers"]
    elif kind in _KINDS:
        scaling, problems = _scaling(kind, given, fields, context, theta)
    elif kind != "default":
        problems = [f"is of type {kind!r}; gptloom has only default, {', '.join(_KINDS)}"]
    fields.problems += [Problem(f"{source} {problem}", fields.where) for problem in problems]
    return {"rope_theta": theta, "rope_scaling": scaling}


def rope_object(fields: Fields) -> tuple[str, Mapping[str, Any] | None]:
    """The name of the object that counts, and what it says; None where it is no object."""
    source = "rope_scaling" if fields.get("rope_scaling") else "rope_parameters"
    given = fields.get(source, {})
    return source, given if isinstance(given, Mapping) else None


def _scaling(
    kind: str, given: Mapping[str, Any], fields: Fields, context: int, theta: float
) -> tuple[RopeScaling | None, list[str]]:
    """What ``given`` says of a scaling, or why it makes no sense."""
    names = _KINDS[kind]
    # Where the context of the first training stands outside of the object, too, that counts (Phi-3's way).
    outside = fields.get("original_max_position_embeddings", given.get("original_max_position_embeddings"))
    told: dict[str, Any] = {name: given.get(name) for name in (*names, "mscale", "mscale_all_dim")}
    told |= {"original_max_position_embeddings": outside, "max_position_embeddings": context, "rope_theta": theta}
    wrong = [f"has {name} {value!r}; expected a number" for name, value in told.items() if not _is_number(value)]
    if wrong:
        return None, wrong
    values = {ours: told[theirs] for theirs, ours in names.items() if told[theirs] is not None}
    if kind == "yarn":
        _complete_yarn(values, given, context / outside if outside else None)
    if kind != "linear":
        values.setdefault("original_context", context)
    problems = [f"has no {name}, which {kind} needs" for name in _NEEDED[kind] if name not in values]
    if kind == "yarn" and theta <= 1:
        problems.append(f"is of type yarn, which needs a rope_theta above 1; it is {theta!r}")
    if problems:
        return None, problems
    try:
        return RopeScaling(kind=kind, **values), []
    except ValidationError as error:
        theirs = {ours: name for name, ours in names.items()}
        for detail in error.errors(include_url=False):
            name = theirs[str(detail["loc"][0])] if detail["loc"] else kind
            problems.append(f"has {name} {told.get(name, '')!r}: {detail['msg']}")
        return None, problems


def _complete_yarn(values: dict[str, Any], given: Mapping[str, Any], ratio: float | None) -> None:
    """What follows from other numbers, as ``transformers`` has it: the factor (DeepSeek-V3), that of the scores (-V2)."""
    for name in ("beta_fast", "beta_slow"):
        if values.get(name) == 0:  # counts as not given
            del values[name]
    if "factor" not in values and ratio is not None:
        values["factor"] = ratio
    weights = given.get("mscale"), given.get("mscale_all_dim")
    if "attention_factor" not in values and "factor" in values and all(weights):
        above, below = (yarn_temperature(values["factor"], weight or 1.0) for weight in weights)
        values["attention_factor"] = above / below
    values["truncate"] = bool(given.get("truncate", True))


def _is_number(value: Any) -> bool:
    return value is None or (isinstance(value, int | float) and not isinstance(value, bool))


def describe_rope(config: ModelConfig) -> dict[str, Any]:
    """The fields of config.json: ``rope_theta`` and ``rope_parameters``, and ``rope_scaling`` where anything is scaled."""
    scaling = config.rope_scaling
    if scaling is None:
        kind: dict[str, Any] = {"rope_type": "default"}
        older = {}
    else:
        kind = {"rope_type": scaling.kind}
        kind |= {theirs: getattr(scaling, ours) for theirs, ours in _KINDS[scaling.kind].items()}
        if scaling.kind == "yarn":
            kind["truncate"] = scaling.truncate
        kind = {name: value for name, value in kind.items() if value is not None}
        older = {"rope_scaling": kind}
    return {
        "rope_theta": config.rope_theta,
        "rope_parameters": kind | {"rope_theta": config.rope_theta},
        **older,
    }
