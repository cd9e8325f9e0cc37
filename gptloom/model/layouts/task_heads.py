"""Which classes of ``transformers`` have the head of a task, what they compute, and how a config.json tells of it.

A class of decoders scores a whole text by its last token, without a bias; BERT's by the first, through the body's pooler.
What none of them computes is stored under names of our own, which ``transformers`` reports and leaves alone.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from gptloom.config.model import ModelConfig
from gptloom.config.task import HeadConfig, HeadKind, Pooling, TaskConfig

OURS = "task_head."  # how our names of a head's tensors begin
THEIRS = ("score.", "classifier.", "qa_outputs.")  # how theirs do
WITHOUT_CLASS = "WithTaskHead"  # after the name of the body's class, where no class has the head
WORDS = {"sequence": "one for whole texts", "choice": "for choices", "tokens": "for tokens", "span": "for answers"}


@dataclass(frozen=True)
class TaskClass:
    """A class of ``transformers`` with the head of a task.

    Attributes:
        name: of the class.
        kind: what its scores are about.
        tensor: name of the layer that gives them.
        bias: whether that has one.
        pooling: whose state it reads; None where it reads each token's.
        prefix: of the body's tensors, where it is another one than in the family's other classes.
    """

    name: str
    kind: HeadKind
    tensor: str
    bias: bool = True
    pooling: Pooling | None = None
    prefix: str | None = None

    def lacks(self, config: ModelConfig) -> list[str]:
        """What of ``config`` the class has not: a sentence for each field that it has in another form only."""
        head = config.task_head
        assert head is not None
        wanted: dict[str, Any] = {"bias": self.bias, "pooler": False}
        if self.pooling is not None:
            wanted |= {"pooling": self.pooling, "orders": 1}
        found = [
            f"the head's {name} is {getattr(head, name)!r}; {self.name} has only {value!r}"
            for name, value in wanted.items()
            if getattr(head, name) != value
        ]
        if self.pooling == "first" and head.pooling == "first" and not config.pooler:
            found.append(f"the body has no pooler; {self.name} reads the first token through it")
        return found


def decoder_classes(
    stem: str, tokens: str | None = "classifier", span: str | None = "qa_outputs", span_prefix: str | None = None
) -> tuple[TaskClass, ...]:
    """The classes of a family of decoders, whose names begin with ``stem``; None where there is no such class.

    ``tokens`` and ``span`` are what the layers are called.
    """
    classes = [TaskClass(f"{stem}ForSequenceClassification", "sequence", "score", bias=False, pooling="last")]
    if tokens is not None:
        classes.append(TaskClass(f"{stem}ForTokenClassification", "tokens", tokens))
    if span is not None:
        classes.append(TaskClass(f"{stem}ForQuestionAnswering", "span", span, prefix=span_prefix))
    return tuple(classes)


def why_unfit(classes: Sequence[TaskClass], config: ModelConfig) -> list[str]:
    """Why none of ``classes`` computes what ``config`` says; empty where one does, or nothing is asked."""
    head = config.task_head
    if head is None:
        return []
    for one in classes:
        if one.kind == head.kind:
            return one.lacks(config)
    return [f"the head is {WORDS[head.kind]}; transformers has no such class for {config.family}"]


def head_tensors(head: HeadConfig, stored_as: TaskClass | None) -> dict[str, str]:
    """Name in the folder -> ours, for every tensor of a head that is stored as a class has it, or under our names."""
    layers = {f"{OURS}score": (stored_as.tensor if stored_as else f"{OURS}score", head.bias)}
    if head.pooler:
        layers[f"{OURS}pooler"] = (f"{OURS}pooler", True)
    return {
        f"{theirs}.{part}": f"{ours}.{part}"
        for ours, (theirs, bias) in layers.items()
        for part in (("weight", "bias") if bias else ("weight",))
    }


def describe_task(head: HeadConfig, task: TaskConfig | None) -> dict[str, Any]:
    """The fields of config.json: how many scores, of what, and the names of the classes where they are known."""
    kind = None
    if head.kind == "sequence":
        kind = "regression" if head.n_labels == 1 else "single_label_classification"
    labels = task.labels if task is not None and len(task.labels) == head.n_labels else ()
    named = {
        "id2label": {str(index): label for index, label in enumerate(labels)},
        "label2id": {label: index for index, label in enumerate(labels)},
    }
    return {
        "num_labels": head.n_labels,
        **(named if labels else {}),
        "problem_type": kind,
        "classifier_dropout": head.dropout,
    }


def stored_labels(raw: Mapping[str, Any]) -> tuple[str, ...] | None:
    """The names of the classes by the ``id2label`` of a config.json, () where it has none; None where it makes no sense."""
    named = raw.get("id2label") or {}
    if not isinstance(named, Mapping):
        return None
    by_id = {str(key): value for key, value in named.items()}
    labels = [by_id.get(str(index)) for index in range(len(by_id))]
    return tuple(str(label) for label in labels) if None not in labels else None
