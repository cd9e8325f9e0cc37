"""``adapter_config.json`` of PEFT: what of it is computed, and what is refused by name."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from gptloom.config.errors import Problem, UserError
from gptloom.model.folder import read_json
from gptloom.model.reference import ADAPTER_CONFIG


class PeftConfig(BaseModel):
    """The fields of ``adapter_config.json`` that say what is computed; what else is set there is looked at as well."""

    model_config = ConfigDict(extra="allow", frozen=True, strict=True)

    peft_type: Literal["LORA"]
    task_type: str | None = None
    base_model_name_or_path: str | None = None
    revision: str | None = None  # of the base on the hub
    r: int = Field(8, gt=0)
    lora_alpha: float = 8.0
    lora_dropout: float = Field(0.0, ge=0, lt=1)
    use_rslora: bool = False
    bias: Literal["none"] = "none"
    rank_pattern: dict[str, int] = Field({}, validate_default=True)
    alpha_pattern: dict[str, float] = Field({}, validate_default=True)
    init_lora_weights: bool | Literal["gaussian", "eva", "orthogonal"] | None = True  # the others change the base

    def shape_of(self, module: str) -> tuple[int, float]:
        """Rank and scale of the adapter of their ``module``: patterns are ends of names, the first that fits counts."""
        rank = self.rank_pattern.get(_fitting(self.rank_pattern, module), self.r)
        alpha = self.alpha_pattern.get(_fitting(self.alpha_pattern, module), self.lora_alpha)
        return rank, alpha / (math.sqrt(rank) if self.use_rslora else rank)


# Fields that change nothing of what a trained adapter computes, or whose part is told by the tensors that are there.
IDLE = (
    *("auto_mapping", "peft_version", "inference_mode", "runtime_config", "megatron_core"),
    *("target_modules", "exclude_modules", "modules_to_save", "layers_to_transform", "layers_pattern"),
    *("fan_in_fan_out", "loftq_config", "eva_config", "corda_config", "lora_ga_config", "qalora_group_size"),
    *("ensure_weight_tying", "ephemeral_gpu_offload"),
)
REASONS = {
    "bias": "only the thin matrices are read, no biases beside them",
    "init_lora_weights": "this beginning changes the base's own weights, which the adapter does not hold",
    "peft_type": "gptloom reads LORA",
}


def read_description(folder: Path) -> PeftConfig:
    """``adapter_config.json`` of ``folder``.

    Raises:
        UserError: there is none, it is broken, or it asks for what gptloom does not compute (all of it at once).
    """
    path = folder / ADAPTER_CONFIG
    if not path.is_file():
        raise UserError(Problem(f"there is no {ADAPTER_CONFIG}: not an adapter folder", str(folder)))
    raw = read_json(path)
    problems = []
    known = {name: value for name, value in raw.items() if value is not None}
    for name in sorted(set(known) - set(PeftConfig.model_fields) - set(IDLE)):
        if known[name] not in (False, {}, []):
            problems.append(Problem(f"{name} is {known[name]!r}; gptloom has plain low-rank adapters only", str(path)))
    described = None
    try:
        described = PeftConfig.model_validate(known)
    except ValidationError as error:
        by_field = {str(detail["loc"][0]): detail for detail in reversed(error.errors(include_url=False))}
        for name, detail in sorted(by_field.items()):  # one each: a field of several types fails once for each
            value = "absent" if detail["type"] == "missing" else repr(detail["input"])
            problems.append(Problem(f"{name} is {value}: {REASONS.get(name, detail['msg'])}", str(path)))
    if described is not None:
        problems += _unusable(described, path)
    if problems or described is None:
        raise UserError(*problems)
    return described


def _fitting(pattern: Mapping[str, Any], module: str) -> str:
    return next((end for end in pattern if re.match(rf"(.*\.)?({end})$", module)), "")


def _unusable(described: PeftConfig, path: Path) -> Iterator[Problem]:
    for field in ("rank_pattern", "alpha_pattern"):
        for end, value in getattr(described, field).items():
            try:
                re.compile(end)
            except re.error as error:
                yield Problem(f"{field} has {end!r}, which is no pattern: {error}", str(path))
            if field == "rank_pattern" and value < 1:
                yield Problem(f"rank_pattern has {end!r} at {value!r}; expected at least 1", str(path))
