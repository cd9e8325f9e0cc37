"""The batched engine: requests wait, join free slots, decode side by side, and leave the moment they are done.

The same engine serves the command line, evaluation, rollouts and an HTTP server. Whoever drives it calls ``add`` at any
time and ``step`` in a loop; ``step`` decodes one token of every completion under way, lets waiting ones in (prefill) and
returns what happened. Completions of one prompt share its prefill: their cache rows are copied.

Live rows are kept at the start of the cache, so that a step costs what its live rows cost; the last row moves into a place
that falls free.

Legend: B live rows, T prompt tokens, V vocabulary.
"""

from __future__ import annotations

import secrets
from collections import deque
from collections.abc import Collection, Iterable, Sequence

import torch
from torch import Tensor

from gptloom.config.errors import Problem, UserError
from gptloom.config.generate import SamplingOptions
from gptloom.generation.requests import Choice, Event, FinishReason, Generated, Request, fit_prompt
from gptloom.generation.sampling import Sampler, uniform
from gptloom.generation.text import TextStream, Vocabulary
from gptloom.generation.weights import InferenceModel
from gptloom.model.cache import BUCKET, KVCache

PREFILL_TOKENS = 4096  # most padded prompt tokens in one forward pass, which bounds its memory


class Engine:
    """Writes completions of many requests side by side."""

    def __init__(
        self, model: InferenceModel, vocabulary: Vocabulary, slots: int = 16, stop_ids: Collection[int] | None = None
    ) -> None:
        """``slots``: how many completions are under way at once; memory for the cache grows with use up to that.
        ``stop_ids``: what ends a completion (default: end-of-text)."""
        self.model = model
        self.slots = slots
        self._vocabulary = vocabulary
        self._stop_ids = frozenset((vocabulary.eot_id,) if stop_ids is None else stop_ids)
        self._requests: dict[int, Request] = {}
        self._waiting: deque[Choice] = deque()
        self._live: list[Choice] = []  # by cache row
        self._cache: KVCache | None = None
        self._sampler: Sampler | None = None  # of the live rows; None after one has joined or left
        self._next_id = 0

    @property
    def idle(self) -> bool:
        """Whether nothing is waiting or under way."""
        return not self._live and not self._waiting

    def add(self, prompt: Sequence[int], options: SamplingOptions) -> int:
        """Queues a request and returns its number.

        Raises ``UserError`` when the prompt does not fit the context or an option names an id outside the vocabulary.
        """
        assert options.beams == 1, "beam search is gptloom.generation.beam"
        outside = [token_id for token_id in options.logit_bias if token_id >= self.model.vocab_size]
        if outside:
            last = self.model.vocab_size - 1
            raise UserError(Problem(f"logit_bias names the id {outside[0]}, but this model's ids are 0…{last}"))
        ids = fit_prompt(prompt, self.model.config.context, options)
        seed = secrets.randbits(48) if options.seed is None else options.seed
        room = min(options.max_tokens, self.model.config.context - len(ids))
        request = Request(self._next_id, ids, options, seed, room, [])
        self._next_id += 1
        for index in range(options.written):
            stream = TextStream(self._vocabulary, options.stop)
            request.choices.append(Choice(request, Generated(index, seed), stream))
        self._requests[request.id] = request
        self._waiting.extend(request.choices)
        return request.id

    def cancel(self, request_id: int) -> None:
        """Ends a request; what it has written so far can still be taken."""
        request = self._requests[request_id]
        self._waiting = deque(choice for choice in self._waiting if choice.request is not request)
        for choice in request.choices:
            choice.started = True
            if choice.generated.finish_reason is None:
                self._finish(choice, "cancelled")
        self._leave([row for row, choice in enumerate(self._live) if choice.request is request])

    def is_done(self, request_id: int) -> bool:
        """Whether every completion of a request has finished, so that they can be taken."""
        return all(choice.generated.finish_reason for choice in self._requests[request_id].choices)

    def take(self, request_id: int) -> list[Generated]:
        """The completions of a finished request, which is then forgotten: all in order, or with ``best_of`` the ``n`` of
        highest log-probability per token, best first."""
        request = self._requests[request_id]
        assert self.is_done(request_id), f"request {request_id} is still under way"
        done = [choice.generated for choice in request.choices]
        del self._requests[request_id]
        if request.options.written > request.options.n:
            done.sort(key=lambda generated: generated.mean_logprob, reverse=True)
        return done[: request.options.n]

    def run(self, requests: Iterable[tuple[Sequence[int], SamplingOptions]]) -> list[list[Generated]]:
        """Adds all requests, steps until nothing is left, and returns their completions in order."""
        numbers = [self.add(prompt, options) for prompt, options in requests]
        while not self.idle:
            self.step()
        return [self.take(number) for number in numbers]

    def step(self) -> list[Event]:
        """Writes one token of every live completion, then lets waiting ones into free slots, with their first token."""
        events = self._decode() if self._live else []
        free = self.slots - len(self._live)
        if free and self._waiting:
            joining = [self._waiting.popleft() for _ in range(min(free, len(self._waiting)))]
            events += self._join(joining)
        return events

    # ---- decoding ---------------------------------------------------------------------------------------------------

    def _decode(self) -> list[Event]:
        device = self.model.device
        assert self._cache is not None
        positions = [choice.position for choice in self._live]
        logits = self.model.next_logits(
            torch.tensor([choice.generated.ids[-1] for choice in self._live], device=device),
            torch.tensor(positions, device=device),
            self._cache.rows(0, len(self._live)),
            reach=max(positions) + 1,
        )
        if self._sampler is None:
            self._sampler = self._make_sampler(self._live)
        events = self._choose(self._live, self._sampler, logits)
        self._leave([row for row, event in enumerate(events) if event.finish_reason])
        return events

    def _make_sampler(self, choices: Sequence[Choice]) -> Sampler:
        return Sampler(
            [choice.request.options for choice in choices],
            [choice.request.prompt for choice in choices],
            [choice.generated.ids for choice in choices],
            self.model.vocab_size,
            self.model.device,
        )

    def _choose(self, choices: Sequence[Choice], sampler: Sampler, logits: Tensor) -> list[Event]:
        """Draws the next token of each of ``choices`` from logits [B, V]."""
        uniforms = [uniform(c.generated.seed, c.generated.choice, len(c.generated.ids)) for c in choices]
        ids = sampler.choose(logits, uniforms)
        total = logits.logsumexp(-1)  # [B]
        logprobs = (logits.gather(1, ids[:, None])[:, 0] - total).tolist()
        most = max(choice.request.options.logprobs for choice in choices)
        top = logits.topk(min(most, logits.shape[-1])) if most else None
        written: list[int] = ids.tolist()
        sampler.observe(written)
        events = []
        for row, choice in enumerate(choices):
            alternatives: tuple[tuple[int, float], ...] = ()
            if top is not None:
                wanted = choice.request.options.logprobs
                values = (top.values[row, :wanted] - total[row]).tolist()
                alternatives = tuple(zip(top.indices[row, :wanted].tolist(), values, strict=True))
            events.append(self._record(choice, written[row], logprobs[row], alternatives))
        return events

    def _record(
        self, choice: Choice, token_id: int, logprob: float, alternatives: tuple[tuple[int, float], ...]
    ) -> Event:
        request, generated = choice.request, choice.generated
        generated.ids.append(token_id)
        generated.logprobs.append(logprob)
        if request.options.logprobs:
            generated.alternatives.append(alternatives)
        ended = token_id in self._stop_ids and not request.options.ignore_eot
        text = "" if ended else choice.stream.push(token_id)
        reason: FinishReason | None = None
        if ended or choice.stream.stopped:
            reason = "stop"
        elif len(generated.ids) >= request.room:
            reason = "length"
        if reason:
            text += self._finish(choice, reason)
        return Event(request.id, generated.choice, token_id, logprob, alternatives, text, reason)

    def _finish(self, choice: Choice, reason: FinishReason) -> str:
        """Marks a completion as done and returns the text that was still held back."""
        rest = choice.stream.finish()
        choice.generated.text = choice.stream.text
        choice.generated.finish_reason = reason
        return rest

    def _leave(self, rows: Sequence[int]) -> None:
        """Frees rows: the last live row moves into each of them."""
        for row in sorted(rows, reverse=True):
            assert self._cache is not None
            last = self._live.pop()
            if row < len(self._live):
                self._cache.copy_row(self._cache, len(self._live), row, last.position + 1)
                self._live[row] = last
        if rows:
            self._sampler = None

    # ---- joining ----------------------------------------------------------------------------------------------------

    def _join(self, joining: Sequence[Choice]) -> list[Event]:
        """Gives each choice a row that holds its prompt, and draws its first token."""
        sources: dict[int, int] = {
            c.request.id: row for row, c in enumerate(self._live)
        }  # request -> a row with its prompt
        new = {choice.request.id: choice for choice in reversed(joining) if choice.request.id not in sources}
        # Prompts of similar length go through the model together, so that little of it is padding.
        first = sorted(new.values(), key=lambda choice: len(choice.request.prompt))
        rest = [choice for choice in joining if choice not in first]
        self._reserve(first + rest)
        for batch in _prefill_batches(first):
            self._prefill(batch)
        assert self._cache is not None
        sources |= {choice.request.id: len(self._live) - len(first) + place for place, choice in enumerate(first)}
        for choice in rest:
            length = len(choice.request.prompt)
            self._cache.copy_row(self._cache, sources[choice.request.id], len(self._live), length)
            self._live.append(choice)
        joined = self._live[len(self._live) - len(joining) :]
        logits = torch.stack([_first_logits(choice.request) for choice in joined])
        for choice in joined:
            choice.started = True
        for choice in joined:
            if not choice.request.waiting:
                choice.request.first_logits = None
        self._sampler = None
        events = self._choose(joined, self._make_sampler(joined), logits)
        start = len(self._live) - len(joined)
        self._leave([start + place for place, event in enumerate(events) if event.finish_reason])
        return events

    def _prefill(self, batch: Sequence[Choice]) -> None:
        """Runs prompts [B, T], padded on the right, into the next free rows."""
        assert self._cache is not None
        lengths = [len(choice.request.prompt) for choice in batch]
        ids = torch.zeros(len(batch), max(lengths), dtype=torch.long)
        for row, choice in enumerate(batch):
            ids[row, : lengths[row]] = torch.tensor(choice.request.prompt)
        start = len(self._live)
        # What padding writes is never seen: a row's own tokens overwrite it before they look that far.
        cache = self._cache.rows(start, start + len(batch))
        hidden = self.model.hidden(ids.to(self.model.device), cache=cache, reach=max(lengths))
        last = torch.tensor(lengths, device=hidden.device) - 1
        logits = self.model.logits(hidden[torch.arange(len(batch), device=hidden.device), last])
        for choice, row in zip(batch, logits, strict=True):
            choice.request.first_logits = row
        self._live.extend(batch)

    def _reserve(self, joining: Sequence[Choice]) -> None:
        """Makes the cache big enough for the live rows and those that join, keeping what it holds."""
        rows = len(self._live) + len(joining)
        length = max(len(c.request.prompt) + c.request.room for c in (*self._live, *joining))
        old = self._cache
        if old is not None and old.batch >= rows and old.length - BUCKET >= length:
            return
        if old is not None:
            rows = min(self.slots, max(rows, 2 * old.batch)) if rows > old.batch else old.batch
            length = max(length, old.length - BUCKET)
        self._cache = self.model.make_cache(rows, length)
        for row, choice in enumerate(self._live):
            assert old is not None
            self._cache.copy_row(old, row, row, choice.position)


def _first_logits(request: Request) -> Tensor:
    assert request.first_logits is not None
    return request.first_logits


def _prefill_batches(choices: Sequence[Choice]) -> Iterable[list[Choice]]:
    """Cuts choices, sorted by prompt length, into batches of at most ``PREFILL_TOKENS`` padded tokens (or one prompt)."""
    batch: list[Choice] = []
    for choice in choices:
        if batch and (len(batch) + 1) * len(choice.request.prompt) > PREFILL_TOKENS:
            yield batch
            batch = []
        batch.append(choice)
    if batch:
        yield batch
