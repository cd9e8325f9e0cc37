"""What a model writes when nobody steers it, and how much of that it copied."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import cycle, islice

from gptloom.evaluation.copying import Copying, measure_copying
from gptloom.generation.language_model import LanguageModel

ROUND = 12  # samples written side by side
UNPROMPTED = 2 / 3  # of them start a document of their own
LENGTH = 200  # tokens of a sample at most
# Cautious: a model of a few minutes spreads much of its probability over what is no word at all.
TEMPERATURE, TOP_P = 0.5, 0.9


@dataclass(frozen=True)
class Sample:
    """A prompt ("" starts a document) and what was written after it."""

    prompt: str
    text: str
    tokens: int


def write_samples(model: LanguageModel, prompts: Sequence[str], tokens: int, seed: int) -> list[Sample]:
    """Samples of ``tokens`` tokens together: some after prompts, most after none."""
    free = round(ROUND * UNPROMPTED)
    asked = [*islice(cycle(prompts), ROUND - free), *[""] * free]
    samples: list[Sample] = []
    while (missing := tokens - sum(sample.tokens for sample in samples)) > 0:
        length = min(LENGTH, max(16, missing // 4))
        begun = seed + len(samples)
        done = model.generate(asked, max_tokens=length, temperature=TEMPERATURE, top_p=TOP_P, seed=begun)
        for completion in done:
            if sum(sample.tokens for sample in samples) < tokens:
                samples.append(Sample(completion.prompt, completion.text, completion.tokens))
    return samples


def compare_copying(samples: Sequence[Sample], training: str, validation: str) -> tuple[Copying, Copying]:
    """How much of the samples stands in the training text, and how much of as many pieces of held-out text does."""
    texts = [sample.text for sample in samples]
    size = max(1, sum(map(len, texts)) // len(texts))
    starts = range(0, max(1, len(validation) - size), max(1, len(validation) // len(texts)))
    pieces = [validation[start : start + size] for start in starts][: len(texts)]
    return measure_copying(texts, training), measure_copying(pieces, training)
