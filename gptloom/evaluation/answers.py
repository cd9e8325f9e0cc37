"""Answers that a model writes to held-out instructions, scored task by task beside what needs no model."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from gptloom.config.errors import UserError
from gptloom.config.generate import SamplingOptions
from gptloom.data.conversation import Conversation
from gptloom.data.order import hash_words
from gptloom.evaluation.answer_metrics import (
    FIRST,
    AnswerScores,
    answer_figures,
    check_installed,
    score_answers,
    usual_metric,
)
from gptloom.evaluation.outcomes import Baseline
from gptloom.evaluation.significance import Interval, wilson

if TYPE_CHECKING:
    from gptloom.generation.chat import ChatModel

SAMPLES = 3
MOST_KINDS = 20
"""Of so many different right answers at most, one that is none of them is an answer in the wrong form."""
SPARE = 8
"""Tokens that an answer may have beyond half as many again as the longest right one."""


@dataclass(frozen=True)
class Answer:
    """What a model wrote, and what would have been right."""

    where: str
    prompt: str  # the last message before the answer
    right: str
    answer: str
    stopped: bool


@dataclass(frozen=True)
class TaskAnswers:
    """The answers to the conversations of one task, and how good they are."""

    task: str
    metric: str  # exact, f1, bleu or rouge
    answers: Sequence[Answer]
    scores: AnswerScores
    baseline: Baseline
    stopping: float  # share of answers that end by themselves
    among: float | None  # share of answers that are a right answer of this task; None where those are too many
    too_long: int  # conversations that do not fit the context, and were not asked

    @property
    def n(self) -> int:
        return len(self.answers)

    @property
    def first(self) -> str:
        """The figure to look at first."""
        return FIRST[self.metric]

    @property
    def intervals(self) -> dict[str, Interval]:
        """The 95 % interval of each figure, and of ``stopping`` and ``among``."""
        shares = {"stopping": self.stopping, "among": self.among}
        known = {name: wilson(round(share * self.n), self.n) for name, share in shares.items() if share is not None}
        return {**self.scores.intervals, **known}

    def as_dict(self) -> dict[str, Any]:
        """Everything as JSON values, with the first few answers."""
        return {
            "n": self.n,
            "metric": self.metric,
            "first": self.first,
            "figures": self.scores.figures,
            "intervals": {name: list(interval) for name, interval in self.intervals.items()},
            "baseline": self.baseline.figures,
            "baseline_answer": self.baseline.answer,
            "stopping": self.stopping,
            "among": self.among,
            "too_long": self.too_long,
            "samples": [asdict(answer) for answer in self.answers[:SAMPLES]],
        }


@dataclass(frozen=True)
class AnswersReport:
    """The answers to every task, by its name."""

    tasks: dict[str, TaskAnswers]

    def as_dict(self) -> dict[str, Any]:
        return {name: task.as_dict() for name, task in self.tasks.items()}


def answer_report(
    model: ChatModel,
    conversations: Sequence[Conversation],
    limit: int | None = None,
    seed: int = 1337,
    max_tokens: int | None = None,
) -> AnswersReport:
    """``task_answers`` of each task that the conversations are of, in the order in which they first come."""
    check_answers(conversations)
    tasks: dict[str, list[Conversation]] = {}
    for conversation in conversations:
        tasks.setdefault(conversation.task, []).append(conversation)
    return AnswersReport({name: task_answers(model, rows, limit, seed, max_tokens) for name, rows in tasks.items()})


def task_answers(
    model: ChatModel,
    conversations: Sequence[Conversation],
    limit: int | None = None,
    seed: int = 1337,
    max_tokens: int | None = None,
) -> TaskAnswers:
    """Lets a model answer the last turn of each conversation, greedily, and scores the answers.

    Args:
        conversations: of one task, each with its right answer. The metric is theirs; where none is named, equal or not
            for short answers, else the words shared.
        limit: so many at most, chosen by ``seed``: the same before and after a training.
        max_tokens: longest answer (default: half as many again as the longest right one has).

    Raises:
        UserError: no conversation fits the context, or the library of the metric is not installed.
    """
    rows = chosen(conversations, limit, seed)
    references = [right_answer(model, row) for row in rows]
    longest = max(model.language_model.count(reference) for reference in references)
    most = max_tokens or longest + longest // 2 + SPARE
    fitting = _fitting(model, rows, most)
    answers = answer_all(model, fitting, max_tokens=most)
    metric = next((row.metric for row in rows if row.metric), "") or usual_metric(references)
    right = [answer.right for answer in answers]
    return TaskAnswers(
        conversations[0].task,
        metric,
        answers,
        score_answers([answer.answer for answer in answers], right, metric),
        _baseline(fitting, right, metric),
        stopping=sum(answer.stopped for answer in answers) / len(answers),
        among=_among(answers, set(references)) if metric == "exact" else None,
        too_long=len(rows) - len(fitting),
    )


def check_answers(conversations: Sequence[Conversation]) -> None:
    """``UserError`` where a metric of the conversations is not installed: to be known before a model is asked."""
    check_installed({conversation.metric for conversation in conversations})


def chosen(conversations: Sequence[Conversation], limit: int | None, seed: int) -> list[Conversation]:
    """At most ``limit`` of them, in their order: a pure function of the seed and the number of conversations."""
    places = range(len(conversations))
    drawn = sorted(places, key=lambda place: int(hash_words(seed, place)[0]))[:limit]
    return [conversations[place] for place in sorted(drawn)]


def answer_all(model: ChatModel, conversations: Sequence[Conversation], *, max_tokens: int) -> list[Answer]:
    """The likeliest answer, token by token, to each; ``UserError`` names all that do not fit the context."""
    options = SamplingOptions(temperature=0, max_tokens=max_tokens)
    return [
        Answer(
            conversation.where,
            conversation.prompt[-1].content if conversation.prompt else "",
            right_answer(model, conversation),
            completion.text.strip(),
            completion.finish_reason == "stop",
        )
        for conversation, completion in zip(conversations, model.complete(conversations, options), strict=True)
    ]


def right_answer(model: ChatModel, conversation: Conversation) -> str:
    """The answer that stands in the data, without the stop text and the spaces around it."""
    answer = conversation.answer.strip()
    for stop in model.renderer.stop:
        answer = answer.removesuffix(stop.strip())
    return answer.strip()


# ---- one task --------------------------------------------------------------------------------------------------------


def _among(answers: Sequence[Answer], kinds: set[str]) -> float | None:
    """Share of answers that are any right answer of the task; None where those do not come again and again."""
    if len(kinds) > MOST_KINDS or 2 * len(kinds) > len(answers):
        return None
    return sum(answer.answer in kinds for answer in answers) / len(answers)


def _fitting(model: ChatModel, rows: Sequence[Conversation], max_tokens: int) -> list[Conversation]:
    """The conversations that fit the context; ``UserError`` of the first where none does."""
    fitting, refusal = [], None
    for row in rows:
        try:
            model.prompt(row.prompt, max_tokens, row.tools)
        except UserError as error:
            refusal = refusal or error
        else:
            fitting.append(row)
    if not fitting and refusal is not None:
        raise refusal
    return fitting


def _baseline(rows: Sequence[Conversation], right: Sequence[str], metric: str) -> Baseline:
    """The best that needs no model: the commonest right answer, or the text that was to be translated or shortened."""
    if metric in ("exact", "f1"):
        commonest = Counter(right).most_common(1)[0][0]
        return Baseline(f"always {commonest}", answer_figures([commonest] * len(right), right, metric))
    asked = [row.prompt[-1].content if row.prompt else "" for row in rows]
    copies = [row.source or prompt for row, prompt in zip(rows, asked, strict=True)]
    answer = "the text itself" if any(row.source for row in rows) else "the prompt itself"
    return Baseline(answer, answer_figures(copies, right, metric))
