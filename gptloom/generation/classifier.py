"""A fine-tuned model that answers: classes, scores, choices, tags or spans, with how sure it is.

Legend: C classes, K choices, T tokens of a row.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, cast

import torch
from torch import Tensor, nn

from gptloom.config.errors import Problem, UserError
from gptloom.config.task import HeadConfig, TaskConfig
from gptloom.data.batch import Batch
from gptloom.data.example import Example
from gptloom.data.preprocess import preprocess
from gptloom.data.task_batches import in_length_order, padded
from gptloom.data.task_inputs import Encoded, TaskInputs
from gptloom.model.task_head import TaskModel, task_scores
from gptloom.tokenizer.tokenizer import Tokenizer

ROW_TOKENS = 4096  # of a forward pass, padding included
PAIRS = ("entail", "similar", "span")  # tasks that need a second text


@dataclass(frozen=True)
class Prediction:
    """An answer: a class's name, a score, the number of a choice (from 0), a tag for each word, or a piece of the context.

    ``probabilities``: of every class, or of every choice by its number; None for scores, tags and spans. ``confidence``:
    the probability of the answer, of tags the mean, of a span that of its first times that of its last token; None for
    scores. ``cut``: tokens of the texts that the model did not read, since they were beyond its ``max_length``;
    ``unread``: words that are tagged as most are, unread.
    """

    answer: Any
    probabilities: dict[str, float] | None = None
    confidence: float | None = None
    cut: int = 0
    unread: int = 0


@dataclass(frozen=True)
class Scored:
    """A batch of encoded examples, where they stood, and the model's fp32 scores for the batch."""

    indices: list[int]
    encoded: list[Encoded]
    batch: Batch
    scores: Tensor

    def of_examples(self) -> Iterator[tuple[int, Tensor]]:
        """Index and scores of each example, without padding: [C]; choice [K]; tokens [words, C]; span [T, 2]."""
        for place, (index, one) in enumerate(zip(self.indices, self.encoded, strict=True)):
            own = self.scores[place]
            if one.words is not None:
                own = own[list(one.words)]
            elif one.offsets is not None:
                own = own[: one.length]
            yield index, own


@torch.no_grad()
def score_batches(
    model: nn.Module, encoded: Sequence[Encoded], pad_id: int, tokens: int = ROW_TOKENS
) -> Iterator[Scored]:
    """Runs ``model`` in evaluation mode over all examples, those of one length together."""
    training, device = model.training, next(model.parameters()).device
    model.eval()
    try:
        for indices, own in in_length_order(encoded, tokens):
            batch = padded(own, pad_id).to(device)
            body = cast(TaskModel, model)
            found = task_scores(body, batch.ids, batch.padding_mask, batch.segment_ids, group=batch.group)
            yield Scored(indices, own, batch, found.float())
    finally:  # also where a caller wants no more of them
        model.train(training)


class Classifier:
    """A model with a head for a task. Opened by ``gptloom.load(...)`` of what ``gptloom finetune`` made."""

    def __init__(self, model: nn.Module, tokenizer: Tokenizer, task: TaskConfig) -> None:
        """``model``: a ``TaskModel`` whose head is the task's."""
        head = cast(TaskModel, model).task_head
        assert head is not None, "this model has no head for a task"
        self.model, self.tokenizer, self.task = model, tokenizer, task
        self.head: HeadConfig = head.config
        self.inputs = TaskInputs(tokenizer, task, self.head)

    def classify(
        self, texts: str | Sequence[str], second: str | Sequence[str] | None = None, choices: Sequence[str] = ()
    ) -> list[Prediction]:
        """The answer for each text, of pairs with its ``second`` one; ``choices`` for a single question.

        Raises:
            UserError: an empty text, a second text too few or too many, no choices for a question.
        """
        firsts = [texts] if isinstance(texts, str) else list(texts)
        seconds = [second] if isinstance(second, str) else list(second or [])
        self._check(firsts, seconds, choices)
        rows = [[first, *seconds[index : index + 1], *choices] for index, first in enumerate(firsts)]
        if self.task.task == "tokens":
            rows = [first.split() for first in firsts]
        steps = self.task.preprocess
        cleaned = [tuple(preprocess(text, steps) for text in row) for row in rows]
        examples = [Example(f"text {index + 1}", row, None, index) for index, row in enumerate(cleaned)]
        return self.predict(examples)

    def predict(self, examples: Sequence[Example]) -> list[Prediction]:
        """The answer for each example, in their order."""
        encoded = self.inputs.encode(examples)
        return self.answers(examples, encoded, self._scores(encoded))

    def scores(self, examples: Sequence[Example]) -> list[Tensor]:
        """What the head says of each example, fp32: [C] of classes, [1] of a number, [K] of choices, [words, C] of tags
        (of words beyond the context there are none), [T, 2] of spans."""
        return self._scores(self.inputs.encode(examples))

    def answers(
        self, examples: Sequence[Example], encoded: Sequence[Encoded], scores: Sequence[Tensor]
    ) -> list[Prediction]:
        """Scores as answers."""
        kinds = {"choice": self._choice, "tokens": self._tags, "span": self._span}
        answer = kinds.get(self.task.task, self._number if self.task.is_score else self._class)
        found = [answer(*one) for one in zip(examples, encoded, scores, strict=True)]
        return [
            replace(said, cut=one.cut, unread=0 if one.words is None else len(example.texts) - len(one.words))
            for said, example, one in zip(found, examples, encoded, strict=True)
        ]

    def _scores(self, encoded: Sequence[Encoded]) -> list[Tensor]:
        found: dict[int, Tensor] = {}
        for scored in score_batches(self.model, encoded, self.tokenizer.pad_id or 0):
            found |= {index: own.cpu() for index, own in scored.of_examples()}
        return [found[index] for index in range(len(encoded))]

    def _check(self, firsts: list[str], seconds: list[str], choices: Sequence[str]) -> None:
        problems = [
            Problem("the text is empty", f"text {place}", "a text with something in it")
            for place, text in enumerate([*firsts, *seconds, *choices], start=1)
            if not text.strip()
        ]
        kind = self.task.task
        needed = kind in PAIRS or (self.task.columns.second is not None and kind != "choice")
        allowed = needed or kind == "classify"  # a classifier from elsewhere does not say whether it reads pairs
        if needed and len(seconds) != len(firsts):
            what = f"{kind} reads pairs: {len(firsts)} texts came with {len(seconds)} second ones"
            problems.append(Problem(what, mend="--second, one for each --text"))
        elif seconds and (not allowed or len(seconds) != len(firsts)):
            what = f"{len(firsts)} texts came with {len(seconds)} second ones; {kind} reads one text, or pairs"
            problems.append(Problem(what if allowed else f"{kind} reads one text, and a second one was given"))
        if (self.task.task == "choice") != bool(choices):
            what = "needs what to choose from" if not choices else "has no choices"
            problems.append(Problem(f"{self.task.task} {what}", mend="--choices A B" if not choices else None))
        if problems:
            raise UserError(*problems)

    def _class(self, example: Example, encoded: Encoded, scores: Tensor) -> Prediction:
        probabilities = dict(zip(self.task.labels, scores.softmax(0).tolist(), strict=True))
        best = max(probabilities, key=probabilities.__getitem__)
        return Prediction(best, probabilities, probabilities[best])

    def _number(self, example: Example, encoded: Encoded, scores: Tensor) -> Prediction:
        return Prediction(self.task.score_mean + self.task.score_std * float(scores[0]))

    def _choice(self, example: Example, encoded: Encoded, scores: Tensor) -> Prediction:
        probabilities = scores.softmax(0).tolist()
        best = int(scores.argmax())
        return Prediction(best, {str(place): p for place, p in enumerate(probabilities)}, probabilities[best])

    def _tags(self, example: Example, encoded: Encoded, scores: Tensor) -> Prediction:
        probabilities, best = scores.softmax(1).max(1) if len(scores) else (scores, scores)
        tags = [self.task.labels[int(index)] for index in best]
        usual = "O" if "O" in self.task.labels else self.task.labels[0]
        tags += [usual] * (len(example.texts) - len(tags))  # words that were cut off
        return Prediction(tags, None, float(probabilities.mean()) if len(scores) else None)

    def _span(self, example: Example, encoded: Encoded, scores: Tensor) -> Prediction:
        """The likeliest span of the context that is no longer than the task allows (BERT, section 4.2)."""
        assert encoded.offsets is not None
        inside = torch.tensor([end > begin for begin, end in encoded.offsets])
        if not inside.any():
            return Prediction("", None, 0.0)
        begins, ends = scores.masked_fill(~inside[:, None], float("-inf")).log_softmax(0).unbind(1)
        both = begins[:, None] + ends[None, :]
        places = torch.arange(len(both))
        length = places[None, :] - places[:, None]
        both = both.masked_fill((length < 0) | (length >= self.task.max_answer), float("-inf"))
        first, last = divmod(int(both.argmax()), len(both))
        text = example.texts[0][encoded.offsets[first][0] : encoded.offsets[last][1]]
        return Prediction(text, None, float(both[first, last].exp()))
