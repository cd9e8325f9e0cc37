"""From logits to a token: pure functions on [B, V] logits, applied in one order, then a draw.

The order, which is that of ``transformers.generate`` with OpenAI's penalties and bias put where its API documents them:

1. repetition penalty (CTRL, Keskar et al. 2019, section 4.1), over prompt and completion
2. presence and frequency penalty (OpenAI API), over the completion
3. logit bias
4. temperature
5. top-k, ties of the k-th kept
6. top-p (Holtzman et al. 2020), the token that crosses p kept
7. min-p (Nguyen et al. 2024)

Each row has its own parameters; a step runs on the rows that use it only. The draw is an inverse-CDF lookup with a
uniform that is a pure function of (seed, choice, index), so a row's tokens don't depend on the batch around it.

Legend: B rows, R rows that use a step, V vocabulary.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from gptloom.config.generate import SamplingOptions

NUCLEUS_GUESS = 512  # a nucleus is almost always smaller than this: looking there first saves sorting the vocabulary


def penalise_repetition(logits: Tensor, seen: Tensor, penalty: Tensor) -> Tensor:
    """Divides positive and multiplies negative logits [R, V] of the ``seen`` [R, V] tokens by penalty [R]."""
    penalty = penalty[:, None]
    return torch.where(seen, torch.where(logits > 0, logits / penalty, logits * penalty), logits)


def penalise_counts(logits: Tensor, counts: Tensor, presence: Tensor, frequency: Tensor) -> Tensor:
    """logits [R, V] − frequency · counts [R, V] − presence · [counts > 0]."""
    return logits - frequency[:, None] * counts - presence[:, None] * (counts > 0)


def keep_top_k(logits: Tensor, k: Tensor) -> Tensor:
    """−inf below each row's k-th largest logit; k [R] is at least 1 and may exceed V."""
    size = logits.shape[-1]
    largest = int(k.max().clamp(max=size))
    threshold = logits.topk(largest).values.gather(1, k.clamp(max=largest)[:, None] - 1)
    return logits.masked_fill(logits < threshold, float("-inf"))


def keep_top_p(logits: Tensor, p: Tensor) -> Tensor:
    """−inf outside the fewest likeliest tokens whose probability reaches p [R]; at least one token stays."""
    size = logits.shape[-1]
    total = logits.logsumexp(-1, keepdim=True)
    for guess in (NUCLEUS_GUESS, size):
        top = logits.topk(min(guess, size))
        probabilities = (top.values - total).exp()
        before = probabilities.cumsum(-1) - probabilities  # what the likelier tokens hold
        outside = before >= p[:, None]
        if guess >= size or bool(outside[:, -1].all()):
            break
    outside[:, 0] = False
    kept = torch.full_like(logits, float("-inf"))
    return kept.scatter(1, top.indices, top.values.masked_fill(outside, float("-inf")))


def keep_min_p(logits: Tensor, p: Tensor) -> Tensor:
    """−inf where a probability is below p [R] times the largest one."""
    return logits.masked_fill(logits < logits.amax(-1, keepdim=True) + p.log()[:, None], float("-inf"))


def uniform(seed: int, choice: int, index: int) -> float:
    """A number in [0, 1) for token ``index`` of completion ``choice``: 48 bits of BLAKE2b over the three numbers."""
    digest = hashlib.blake2b(struct.pack("<QQQ", seed, choice, index), digest_size=6).digest()
    return int.from_bytes(digest, "little") / 2**48


def draw(logits: Tensor, uniforms: Tensor) -> Tensor:
    """Ids [B]: the first token at which the summed probability of logits [B, V] exceeds uniforms [B] (fp64)."""
    cumulative = logits.softmax(-1, dtype=torch.float64).cumsum(-1)
    # 48-bit uniforms times the total stay below the total, so the token found always has probability above zero.
    return torch.searchsorted(cumulative, (uniforms * cumulative[:, -1])[:, None], right=True)[:, 0]


class Sampler:
    """The sampling options of a batch of rows as tensors, built when rows join or leave and updated after each draw."""

    def __init__(
        self,
        options: Sequence[SamplingOptions],
        prompts: Sequence[Sequence[int]],
        completions: Sequence[Sequence[int]],
        vocab_size: int,
        device: torch.device | str = "cpu",
    ) -> None:
        """One entry per row: its options, the prompt's ids, and the ids written so far."""
        self._device = device
        self._steps: list[tuple[Tensor, Callable[[Tensor], Tensor]]] = []
        self._greedy = torch.tensor([o.temperature == 0 for o in options], device=device)
        self._all_greedy = all(o.temperature == 0 for o in options)
        # Rows whose history a penalty needs, and that history: [R, V].
        self._seen_rows = [i for i, o in enumerate(options) if o.repetition_penalty != 1]
        self._count_rows = [i for i, o in enumerate(options) if o.presence_penalty or o.frequency_penalty]
        self._seen = torch.zeros(len(self._seen_rows), vocab_size, dtype=torch.bool, device=device)
        self._counts = torch.zeros(len(self._count_rows), vocab_size, device=device)
        for place, row in enumerate(self._seen_rows):
            self._seen[place, torch.tensor([*prompts[row], *completions[row]], dtype=torch.long, device=device)] = True
        for place, row in enumerate(self._count_rows):
            written = torch.tensor(completions[row], dtype=torch.long, device=device)
            self._counts[place] = torch.bincount(written, minlength=vocab_size)
        self._plan(options, vocab_size)

    def _plan(self, options: Sequence[SamplingOptions], vocab_size: int) -> None:
        """Lists the steps that any row uses, in the documented order."""
        repetition = self._numbers([options[i].repetition_penalty for i in self._seen_rows])
        presence = self._numbers([options[i].presence_penalty for i in self._count_rows])
        frequency = self._numbers([options[i].frequency_penalty for i in self._count_rows])
        self._add(self._seen_rows, lambda x: penalise_repetition(x, self._seen, repetition))
        self._add(self._count_rows, lambda x: penalise_counts(x, self._counts, presence, frequency))
        biased = [i for i, o in enumerate(options) if o.logit_bias]
        bias = torch.zeros(len(biased), vocab_size, device=self._device)
        for place, row in enumerate(biased):
            for token_id, value in options[row].logit_bias.items():
                bias[place, token_id] = value
        self._add(biased, lambda x: x + bias)
        drawing = [i for i, o in enumerate(options) if o.temperature > 0]
        warm = [i for i in drawing if options[i].temperature != 1]
        temperature = self._numbers([options[i].temperature for i in warm])
        self._add(warm, lambda x: x / temperature[:, None])
        with_k = [i for i in drawing if 0 < options[i].top_k < vocab_size]
        k = torch.tensor([options[i].top_k for i in with_k], dtype=torch.long, device=self._device)
        self._add(with_k, lambda x: keep_top_k(x, k))
        with_p = [i for i in drawing if options[i].top_p < 1]
        top_p = self._numbers([options[i].top_p for i in with_p])
        self._add(with_p, lambda x: keep_top_p(x, top_p))
        with_min = [i for i in drawing if options[i].min_p > 0]
        min_p = self._numbers([options[i].min_p for i in with_min])
        self._add(with_min, lambda x: keep_min_p(x, min_p))

    def _numbers(self, values: list[float]) -> Tensor:
        return torch.tensor(values, dtype=torch.float32, device=self._device)

    def _add(self, rows: list[int], step: Callable[[Tensor], Tensor]) -> None:
        if rows:
            self._steps.append((torch.tensor(rows, device=self._device), step))

    def transform(self, logits: Tensor) -> Tensor:
        """logits [B, V] after every step, in fp32; the argument is left as it is."""
        logits = logits.float()
        for rows, step in self._steps:
            if len(rows) == len(logits):
                logits = step(logits)
            else:
                logits = logits.index_copy(0, rows, step(logits[rows]))
        return logits

    def choose(self, logits: Tensor, uniforms: Sequence[float]) -> Tensor:
        """Ids [B] drawn from logits [B, V] by one uniform a row (rows of temperature 0 take the likeliest token)."""
        logits = self.transform(logits)
        if self._all_greedy:
            return logits.argmax(-1)
        ids = draw(logits, torch.tensor(uniforms, dtype=torch.float64, device=logits.device))
        return torch.where(self._greedy, logits.argmax(-1), ids) if bool(self._greedy.any()) else ids

    def observe(self, ids: Sequence[int]) -> None:
        """Takes note of the tokens just written, one a row."""
        for place, row in enumerate(self._seen_rows):
            self._seen[place, ids[row]] = True
        for place, row in enumerate(self._count_rows):
            self._counts[place, ids[row]] += 1
