"""Questions with one right answer, asked of a base model: interactive examples whose operands it has never seen."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from gptloom.data.python_corpus import HeldoutExample
from gptloom.generation.language_model import LanguageModel

SHOTS = (0, 1, 4)
ANSWER_TOKENS = 40  # the longest answers spell a word letter by letter


@dataclass(frozen=True)
class Score:
    """Share of questions of one kind whose answer is right to the letter, by number of demonstrations."""

    kind: str
    questions: int
    right: dict[str, float]  # number of demonstrations as text (JSON has no other keys) → share
    commonest: float  # what giving the kind's most frequent answer to all of its questions would get


def ask(model: LanguageModel, examples: Sequence[HeldoutExample], per_kind: int) -> list[Score]:
    """Greedy answers to the first ``per_kind`` questions of each kind that fit into the context."""
    scores = []
    for kind in dict.fromkeys(example.kind for example in examples):
        of_kind = [example for example in examples if example.kind == kind]
        chosen = [example for example in of_kind[: 2 * per_kind] if _fits(model, example)][:per_kind]
        if not chosen:
            continue
        answers = Counter(example.answer for example in of_kind)
        right = {str(shots): _share_right(model, chosen, shots) for shots in SHOTS}
        scores.append(Score(kind, len(chosen), right, answers.most_common(1)[0][1] / len(of_kind)))
    return scores


def _fits(model: LanguageModel, example: HeldoutExample) -> bool:
    return model.count(example.text(max(SHOTS))) + ANSWER_TOKENS <= model.model.config.context


def _share_right(model: LanguageModel, examples: Sequence[HeldoutExample], shots: int) -> float:
    prompts = [example.text(shots) for example in examples]
    answers = model.generate(prompts, max_tokens=ANSWER_TOKENS, temperature=0, stop=["\n"])
    right = [str(given) == example.answer for given, example in zip(answers, examples, strict=True)]
    return sum(right) / len(right)
