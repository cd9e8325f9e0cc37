"""What a layout is: how one Hugging Face family spells a model's configuration and names and shapes its tensors.

Layouts know plain tensors and JSON only; files are the business of ``model/store.py``.
"""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from pydantic import ValidationError
from torch import Tensor

from gptloom.config.errors import Problem, UserError
from gptloom.config.model import ModelConfig
from gptloom.config.task import HeadConfig, TaskConfig
from gptloom.model.layouts import task_heads
from gptloom.model.layouts.task_heads import TaskClass

# What matters to training only; most families' config.json has no place for it.
TRAINING_FIELDS = ("dropout", "attention_dropout", "init")

BIASES = ("qkv_bias", "out_bias", "mlp_bias")

SPECIAL_IDS = ("bos_token_id", "eos_token_id", "pad_token_id")

# Sizes of a ModelConfig -> what families call them.
THEIR_NAMES = {
    "context": ("max_position_embeddings", "n_positions"),
    "d_ff": ("intermediate_size", "n_inner"),
    "d_model": ("hidden_size", "n_embd"),
    "n_head": ("num_attention_heads", "num_heads"),
    "n_kv_head": ("num_key_value_heads",),
    "n_layer": ("num_hidden_layers", "num_layers"),
    "norm_eps": ("layer_norm_epsilon", "layer_norm_eps", "rms_norm_eps"),
    "tied_head": ("tie_word_embeddings",),
    "window": ("sliding_window", "window_size"),
}


def _same_write(tensors: list[Tensor]) -> Tensor:
    return tensors[0]


def _same_read(tensor: Tensor) -> list[Tensor]:
    return [tensor]


@dataclass(frozen=True)
class Rule:
    """One tensor of the folder, the tensors of the ``Transformer`` it holds, and the way there and back.

    A folder may hold a tensor of ours more than once; the last rule is the one that is read.
    """

    theirs: str
    ours: tuple[str, ...]
    write: Callable[[list[Tensor]], Tensor] = _same_write
    read: Callable[[Tensor], list[Tensor]] = _same_read


def _said_once(lost: Collection[str]) -> list[str]:
    """Without fields that a layout need not hold, and those that only follow from another one that is lost."""
    silent = {"family", "task_head", *TRAINING_FIELDS}  # a task's head has names of its own where no class has it
    silent |= set(BIASES) if all(name in lost for name in BIASES) else {"bias"}
    if "banded" in lost:
        silent.add("window")
    if "positions" in lost or "head_dim" in lost:
        silent.add("rotary_dim")
    return [name for name in lost if name not in silent]


_EXPECTED = {int: "a whole number", float: "a number", bool: "true or false"}


class Fields:
    """Reads one ``config.json``, gathering everything that cannot be honoured so that it is said at once."""

    def __init__(self, raw: Mapping[str, Any], where: str, stored: Collection[str] | None = None) -> None:
        self._raw = raw
        self.where = where
        self.stored = stored  # names of the tensors beside it, where they are known
        self.problems: list[Problem] = []
        self.misread = False  # whether a field was of a wrong type, and its default taken instead

    def get(self, name: str, default: Any = None) -> Any:
        """The field's value; ``default`` where it is absent or null.

        A whole number, a number or a boolean as ``default`` is the type that the field must have, else it is a problem
        and reads as absent: no one calculates with "4", and nothing is rounded or taken for true.
        """
        value = self._raw.get(name)
        if value is None or self._fits(name, value, type(default)):
            return default if value is None else value
        return default

    def _fits(self, name: str, value: Any, kind: type) -> bool:
        if kind not in _EXPECTED or type(value) is kind or (kind is float and type(value) is int):
            return True
        self.misread = True
        problem = Problem(f"{name} is {value!r}; expected {_EXPECTED[kind]}", self.where)
        if problem not in self.problems:  # a field may be read more than once
            self.problems.append(problem)
        return False

    def called(self, ours: str) -> str:
        """What this file calls the field ``ours`` of a ``ModelConfig``."""
        return next((name for name in (ours, *THEIR_NAMES.get(ours, ())) if name in self._raw), ours)

    def in_their_names(self, text: str) -> str:
        """A sentence about fields of a ``ModelConfig``, with the names that this file has for them."""
        return re.sub(r"\w+", lambda word: self.called(word[0]), text)

    def check_names_and_ids(self) -> None:
        """``architectures`` are names, special ids are whole numbers or lists of them, else it is a problem."""
        names = self.get("architectures", [])
        if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
            self.problems.append(Problem(f"architectures is {names!r}; expected a list of names", self.where))
            self._raw = {**self._raw, "architectures": None}
        for name in SPECIAL_IDS:
            value = self.get(name, [])
            if not all(type(token_id) is int for token_id in (value if isinstance(value, list) else [value])):
                self.problems.append(Problem(f"{name} is {value!r}; expected a token id, a whole number", self.where))

    def get_or_null(self, name: str, default: Any) -> Any:
        """The field's value, null included; ``default`` only where it is absent."""
        return None if name in self._raw and self._raw[name] is None else self.get(name, default)

    def must_be(self, name: str, *allowed: Any) -> None:
        """The field is one of ``allowed`` (absent and null count as the first), else it is a problem."""
        value = self.get(name, allowed[0])
        if value not in allowed:
            expected = " or ".join(repr(choice) for choice in allowed)
            self.problems.append(Problem(f"{name} is {value!r}; gptloom has only {expected}", self.where))

    def choice(self, name: str, table: Mapping[str, str], default: str) -> str:
        """Our word for the field's value, by ``table`` from theirs to ours; a value that is not there is a problem."""
        value = self.get(name, default)
        for theirs, ours in table.items():
            if value == theirs:
                return ours
        known = " or ".join(repr(theirs) for theirs in table)
        self.problems.append(Problem(f"{name} is {value!r}; gptloom has only {known}", self.where))
        return table[default]

    def dropouts(self, residual: str, attention: str, default: float) -> dict[str, Any]:
        """``dropout`` and ``attention_dropout`` from the two fields of those names; None where they are the same."""
        dropout, of_weights = self.get(residual, default), self.get(attention, default)
        return {"dropout": dropout, "attention_dropout": None if of_weights == dropout else of_weights}

    def each_must_be(self, name: str, allowed: str) -> None:
        """Every entry of a list is ``allowed`` (absent and null count as such), else the list is a problem."""
        entries = self.get(name, [])
        if not isinstance(entries, list):
            self.problems.append(Problem(f"{name} is {entries!r}; expected a list", self.where))
            return
        others = sorted({str(entry) for entry in entries} - {allowed})
        if others:
            self.problems.append(Problem(f"{name} has {', '.join(others)}; gptloom has only {allowed}", self.where))


class Layout(ABC):
    """One family of ``transformers``: its config.json, its tensor names, and which ``ModelConfig`` it can hold."""

    family: ClassVar[str]
    model_type: ClassVar[str]
    architecture: ClassVar[str]
    prefix: ClassVar[str]  # of every tensor but the head; folders saved without it are understood
    embedding: ClassVar[str]  # their name of the token embedding
    head: ClassVar[str] = "lm_head.weight"  # their name of the output matrix
    bare: ClassVar[tuple[str, ...]] = ("lm_head.",)  # how the names of tensors without the prefix begin
    fixed: ClassVar[Mapping[str, Any]]  # fields of ModelConfig that this family has in one form only
    has_optional_heads: ClassVar[bool] = False  # whether only the stored tensors say which heads a model has
    task_classes: ClassVar[tuple[TaskClass, ...]] = ()  # of transformers, with the head of a task; one of a kind

    @abstractmethod
    def describe(self, config: ModelConfig) -> dict[str, Any]:
        """The family's own fields of config.json."""

    @abstractmethod
    def read(self, fields: Fields) -> dict[str, Any]:
        """The fields of a ``ModelConfig`` but ``fixed``; what cannot be honoured goes to ``fields.problems``."""

    @abstractmethod
    def block_rules(self, config: ModelConfig, index: int) -> Iterator[Rule]:
        """The tensors of block ``index``."""

    @abstractmethod
    def outer_rules(self, config: ModelConfig) -> Iterator[Rule]:
        """The tensors before and after the blocks, without the head."""

    def unfit(self, config: ModelConfig) -> list[Problem]:
        """Why ``config`` cannot be written in this layout: one problem for each field that would not come back."""
        raw = self.describe(config) | {"tie_word_embeddings": config.tied_head}
        try:
            held = self.from_config(raw, stored=[rule.theirs for rule in self.rules(config)])
        except UserError as error:
            return [Problem(problem.what, mend=problem.mend) for problem in error.problems]
        lost = {name: value for name, value in held if value != getattr(config, name)}
        return [
            Problem(f"{name} is {getattr(config, name)!r}; the {self.model_type} layout holds only {lost[name]!r}")
            for name in _said_once(lost)
        ]

    def architecture_of(self, config: ModelConfig) -> str:
        """The class of ``transformers`` that opens it, the head of a task left out of account."""
        return self.architecture

    def task_unfit(self, config: ModelConfig) -> list[str]:
        """Why no class of ``transformers`` computes the task's head; empty where one does, or there is none."""
        return task_heads.why_unfit(self.task_classes, config)

    def task_class(self, config: ModelConfig) -> TaskClass | None:
        """The class of ``transformers`` that computes the same, task's head included; None where none does."""
        if config.task_head is None or self.task_unfit(config):
            return None
        return next(one for one in self.task_classes if one.kind == config.task_head.kind)

    def task_class_of(self, raw: Mapping[str, Any]) -> TaskClass | None:
        """The class with the head of a task that a config.json names as the one that wrote the folder."""
        names = raw.get("architectures")
        named = names[0] if isinstance(names, list) and names else None
        return next((one for one in self.task_classes if one.name == named), None)

    def _named_class(self, config: ModelConfig) -> str:
        if config.task_head is None:
            return self.architecture_of(config)
        found = self.task_class(config)
        return found.name if found else self.architecture_of(config) + task_heads.WITHOUT_CLASS

    def heads_of(self, names: Collection[str]) -> dict[str, Any]:
        """The fields of a ``ModelConfig`` that only the names of the stored tensors tell."""
        return {}

    def to_config(
        self,
        config: ModelConfig,
        dtype: str = "float32",
        eot_id: int | None = None,
        pad_id: int | None = None,
        task: TaskConfig | None = None,
    ) -> dict[str, Any]:
        """config.json as ``transformers`` reads it; ``dtype`` as torch names it, ids None where no tokenizer is known,
        ``task`` where the labels of a task's head are.

        Every id is written, null included: left out, the defaults of ``transformers`` would creep in.

        Raises:
            UserError: ``config`` has a field that this layout cannot hold.
        """
        problems = self.unfit(config)
        if problems:
            raise UserError(*problems)
        text_ends = eot_id if config.mask == "causal" else None  # an encoder writes nothing that could end
        return {
            "architectures": [self._named_class(config)],
            "model_type": self.model_type,
            **self.describe(config),
            "tie_word_embeddings": config.tied_head,
            "bos_token_id": text_ends,
            "eos_token_id": text_ends,
            "pad_token_id": pad_id,
            # Both spellings: transformers 5 and vLLM read dtype, what is older reads torch_dtype.
            "dtype": dtype,
            "torch_dtype": dtype,
            **(task_heads.describe_task(config.task_head, task) if config.task_head else {}),
        }

    def from_config(
        self, raw: Mapping[str, Any], where: str = "config.json", stored: Collection[str] | None = None
    ) -> ModelConfig:
        """The ``ModelConfig`` of a config.json, with the names of the ``stored`` tensors beside it where they are known.

        Fields that the family's class in ``transformers`` does not know are ignored there and here.

        Raises:
            UserError: every field that asks for something gptloom does not have, at once.
        """
        fields = Fields(raw, where, stored)
        for name in ("quantization_config", "auto_map"):
            if fields.get(name):
                fields.problems.append(
                    Problem(f"{name} is set; gptloom reads plain weights and runs its own code", where)
                )
        fields.check_names_and_ids()
        values = self.read(fields) | self._read_task(raw, fields)
        config = None
        try:
            config = ModelConfig.model_validate({"family": self.family, **self.fixed, **values}, strict=True)
        except ValidationError as error:
            by_field = {str(detail["loc"][0]): detail for detail in reversed(error.errors(include_url=False))}
            for name, detail in reversed(by_field.items()):  # one each: a field of several types fails once for each
                fields.problems.append(Problem(f"{fields.called(name)} is {detail['input']!r}: {detail['msg']}", where))
        except UserError as error:
            if not fields.misread:  # numbers that do not fit each other; the mends are flags of a new model
                fields.problems += [Problem(fields.in_their_names(problem.what), where) for problem in error.problems]
        if fields.problems or config is None:
            raise UserError(*fields.problems)
        return config

    def _read_task(self, raw: Mapping[str, Any], fields: Fields) -> dict[str, Any]:
        """``task_head`` where the folder is of a class with one; such folders may lack the output matrix."""
        found = self.task_class_of(raw)
        if found is None:
            return {}
        labels = task_heads.stored_labels(raw)
        if labels is None:
            text = f"id2label is {raw['id2label']!r}; expected a name for each class from 0 on"
            fields.problems.append(Problem(text, fields.where))
        given = fields.get("num_labels", 2) if not labels else len(labels)
        n_labels = {"choice": 1, "span": 2}.get(found.kind, given)
        if n_labels < 1:
            fields.problems.append(Problem(f"num_labels is {n_labels}; expected at least 1", fields.where))
            return {}
        head = HeadConfig(
            kind=found.kind,
            n_labels=n_labels,
            pooling=found.pooling or "last",
            bias=found.bias,
            dropout=self._head_dropout(fields),
        )
        names = {spelling for name in fields.stored or () for spelling in (name, self.spelled(name))}
        without_words = fields.stored is not None and not names & {self.head, "head.weight"}
        return {"task_head": head, **({"tied_head": True} if without_words else {})}

    def _head_dropout(self, fields: Fields) -> float:
        dropout = fields.get("classifier_dropout", fields.get("hidden_dropout_prob", 0.1))
        return dropout if 0 <= dropout < 1 else 0.1

    def rules(self, config: ModelConfig) -> Iterator[Rule]:
        """Every tensor of the folder. A tied head is stored once, as the embedding."""
        yield from self.outer_rules(config)
        for index in range(config.n_layer):
            yield from self.block_rules(config, index)
        if not config.tied_head:
            yield Rule(self.head, ("head.weight",))
        if config.task_head is not None:
            for theirs, ours in task_heads.head_tensors(config.task_head, self.task_class(config)).items():
                yield Rule(theirs, (ours,))

    def written(self, name: str, config: ModelConfig) -> str:
        """A name of ``rules`` as it is written; some classes with a task's head call their body otherwise."""
        found = self.task_class(config)
        own = found is not None and found.prefix is not None and name.startswith(self.prefix)
        return f"{found.prefix}{name.removeprefix(self.prefix)}" if found and own else name

    def is_task_tensor(self, name: str) -> bool:
        """Whether a tensor, spelled as ``rules`` do, is of a task's head, which a body is read without."""
        return name.startswith((task_heads.OURS, *task_heads.THEIRS))

    def copies(self, config: ModelConfig) -> dict[str, str]:
        """Tensors that a folder may hold beside those of ``rules`` -> the one of which each must be a copy."""
        return {self.head: self.embedding} if config.tied_head else {}

    def canonical(self, stored: Iterable[str]) -> dict[str, str]:
        """Names as ``rules`` spells them -> names as stored, without buffers."""
        weights = [name for name in stored if not self.is_buffer(name)]
        names = {name: name for name in weights if self.spelled(name) == name}
        for name in weights:
            spelled = self.spelled(name)
            names.setdefault(name if spelled in names else spelled, name)  # the second of two is left over
        return names

    def spelled(self, name: str) -> str:
        """A stored name as ``rules`` spells it: a bare model is saved without the prefix."""
        for other in (one.prefix for one in self.task_classes if one.prefix):
            name = f"{self.prefix}{name.removeprefix(other)}" if name.startswith(other) else name
        known = (self.prefix, *self.bare, task_heads.OURS, *task_heads.THEIRS)
        return name if name.startswith(known) else self.prefix + name

    def is_buffer(self, name: str) -> bool:
        """Whether a stored tensor is no weight: old files carry tables that are computed today."""
        return name.endswith("rotary_emb.inv_freq")

    def to_tensors(self, state: Mapping[str, Tensor], config: ModelConfig) -> Iterator[tuple[str, Tensor]]:
        """(their name, contiguous tensor) one by one from a state by our names, so that no second copy is held."""
        for rule in self.rules(config):
            yield rule.theirs, rule.write([state[name] for name in rule.ours]).contiguous()
