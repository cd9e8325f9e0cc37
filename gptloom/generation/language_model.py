"""``LanguageModel``: a model and its tokenizer, and what people do with them: generate, stream, score, look at choices."""

from __future__ import annotations

import warnings
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import torch

from gptloom.config.errors import Problem, UserError
from gptloom.config.generate import SamplingOptions
from gptloom.generation.beam import beam_search
from gptloom.generation.engine import Engine
from gptloom.generation.requests import Event, FinishReason, Generated
from gptloom.generation.weights import InferenceModel, Precision, prepare
from gptloom.model.dtypes import PRECISIONS, dtype_name
from gptloom.model.transformer import Transformer
from gptloom.tokenizer.tokenizer import Tokenizer


class ScoredToken(NamedTuple):
    """One token of a text: a visible form of it, its id, and the natural logarithm of its probability there."""

    text: str
    id: int
    logprob: float


class NextToken(NamedTuple):
    """One possible next token: a visible form of it, its id and its probability."""

    text: str
    id: int
    probability: float


@dataclass(frozen=True)
class Completion:
    """What a model wrote after a prompt; ``str()`` of it is the text.

    ``finish_reason`` is ``stop`` (end-of-text or a stop text, neither of them in ``text``) or ``length`` (``max_tokens``
    or the end of the context). ``ids`` and ``logprobs`` hold every token written, also those that ended it; ``logprobs``
    are of the model itself, before penalties, temperature and cuts. ``alternatives``: with ``logprobs=k`` the k
    likeliest (id, logprob) at each place. ``seed`` repeats it; None when nothing was drawn (beam search).
    """

    prompt: str
    text: str
    finish_reason: FinishReason
    ids: tuple[int, ...]
    logprobs: tuple[float, ...]
    alternatives: tuple[tuple[tuple[int, float], ...], ...]
    seed: int | None

    @property
    def tokens(self) -> int:
        """How many tokens were written."""
        return len(self.ids)

    @property
    def logprob(self) -> float:
        """Log-probability of the whole completion."""
        return sum(self.logprobs)

    def __str__(self) -> str:
        return self.text


class LanguageModel:
    """Writes and scores text. Nothing is ever added to a prompt; an empty one starts a document, after end-of-text."""

    def __init__(
        self,
        model: Transformer,
        tokenizer: Tokenizer,
        *,
        precision: Precision | None = None,
        compile: bool | None = None,
        slots: int = 16,
        stop_ids: Collection[int] = (),
    ) -> None:
        """Wraps ``model``; a model that is being trained is followed as long as precision is its own.

        Args:
            precision: what weights are kept in for decoding; by default the model's own.
            compile: compile the step for a single row, always or never; by default where it pays (``pays_to_compile``).
            slots: how many completions are written side by side.
            stop_ids: what ends a completion beside the tokenizer's end-of-text.

        Raises:
            UserError: the model sees both sides of a word (BERT).
        """
        if model.config.mask != "causal":
            what = "this model sees both sides of a word (BERT): it fills masks, and can't write or score from left to right"
            raise UserError(Problem(what, mend='gptloom fill-mask MODEL --text "The capital of [MASK] is Paris."'))
        self.model = model
        self.tokenizer = tokenizer
        self.slots = slots
        self.folder_stop_ids = frozenset(stop_ids)
        self.stop_ids = self.folder_stop_ids | {tokenizer.eot_id}
        own = PRECISIONS[dtype_name(model.head_weight.dtype)]
        self._precision: Precision = precision or own  # type: ignore[assignment]
        self._compile = compile
        self._asked = 0  # tokens asked for in single rows so far

    @cached_property
    def inference(self) -> InferenceModel:
        """The copy that decodes, made when first used."""
        model = prepare(self.model, self._precision, self.tokenizer.vocab_size)
        if self._compile:
            model.compile()
        return model

    # ---- writing ----------------------------------------------------------------------------------------------------

    def generate(self, prompt: str | Sequence[str], **options: Any) -> Any:
        """Continues a prompt.

        The options are the fields of ``SamplingOptions`` (``max_tokens``, ``temperature``, ``top_p``, ``stop``, ``seed``,
        ``n`` and so on); ``UserError`` names what is wrong with them or with the prompt.

        Returns:
            One ``Completion`` for a text; a list of ``n`` of them for a text with ``n`` above 1; for a list of texts
            a list with one of these for each.
        """
        sampling = SamplingOptions(**options)
        texts = [prompt] if isinstance(prompt, str) else list(prompt)
        answers = [done if sampling.n > 1 else done[0] for done in self.complete(texts, sampling)]
        return answers[0] if isinstance(prompt, str) else answers

    def complete(self, prompts: Sequence[str], options: SamplingOptions) -> Iterator[list[Completion]]:
        """``options.n`` completions of each prompt, in order, each prompt's as soon as they and those before are done.

        Prompt i draws with ``seed`` + i. ``UserError`` when a prompt does not fit, before any is answered.
        """
        encoded = [self._encode(prompt) for prompt in prompts]
        yield from self._completions(prompts, encoded, options, self.stop_ids)

    def complete_ids(
        self, prompts: Sequence[Sequence[int]], options: SamplingOptions, stop_ids: Collection[int] | None = None
    ) -> Iterator[list[Completion]]:
        """``complete`` of prompts that are token ids already; ``stop_ids`` instead of the usual ones end a completion.

        The ``prompt`` of a completion is what its ids stand for, special tokens by their spelling.
        """
        texts = [self.tokenizer.decode(ids) for ids in prompts]
        yield from self._completions(texts, prompts, options, self.stop_ids if stop_ids is None else stop_ids)

    def _completions(
        self,
        prompts: Sequence[str],
        encoded: Sequence[Sequence[int]],
        options: SamplingOptions,
        stop_ids: Collection[int],
    ) -> Iterator[list[Completion]]:
        if options.beams > 1:
            for prompt, ids in zip(prompts, encoded, strict=True):
                found = beam_search(self.inference, self.tokenizer, list(ids), options, stop_ids)
                yield [_completion(prompt, generated, drawn=False) for generated in found]
            return
        engine = self._engine(len(prompts) * options.written, options.max_tokens, stop_ids)
        numbers = _add_all(engine, encoded, options)
        for prompt, number in zip(prompts, numbers, strict=True):
            while not engine.is_done(number):
                engine.step()
            yield [_completion(prompt, generated) for generated in engine.take(number)]

    def stream(self, prompt: str, **options: Any) -> Iterator[str]:
        """The text of one completion in pieces, as it is written: whole characters, never a part of a stop text.

        Takes the options of ``generate`` except ``n``, ``best_of`` and ``beams``.
        """
        return (event.text for event in self.events(prompt, SamplingOptions(**options)) if event.text)

    def events(self, prompt: str, options: SamplingOptions) -> Iterator[Event]:
        """One completion, token by token. ``UserError`` at the call when more than one is asked for or it can't begin."""
        return self.events_ids(self._encode(prompt), options)

    def events_ids(
        self, prompt: Sequence[int], options: SamplingOptions, stop_ids: Collection[int] | None = None
    ) -> Iterator[Event]:
        """``events`` of a prompt of token ids; ``stop_ids`` instead of the usual ones end the completion."""
        if options.written > 1 or options.beams > 1:
            raise UserError(Problem("a stream is one completion: n, best_of and beams exclude it", mend="use generate"))
        engine = self._engine(1, options.max_tokens, self.stop_ids if stop_ids is None else stop_ids)
        engine.add(prompt, options)
        return _events(engine)

    def _engine(self, rows: int, max_tokens: int, stop_ids: Collection[int]) -> Engine:
        if rows == 1:
            self._asked += max_tokens
            if self._compile is None and self.inference.pays_to_compile(self._asked):
                self.inference.compile()
        return Engine(self.inference, self.tokenizer, self.slots, stop_ids)

    def _encode(self, prompt: str) -> list[int]:
        if prompt.endswith(" ") and self.tokenizer.kind in ("bpe", "gpt2", "other"):
            warnings.warn(
                "the prompt ends in a space; this tokenizer puts a space at the front of the next word, so the model has "
                "hardly ever seen a word follow a lone space. Leave the space out.",
                stacklevel=4,
            )
        return self.tokenizer.encode(prompt) or [self.tokenizer.eot_id]

    # ---- looking ----------------------------------------------------------------------------------------------------

    def logprobs(self, text: str) -> list[ScoredToken]:
        """Each token of ``text`` with its log-probability, as a document that begins after end-of-text.

        Raises ``UserError`` when the text has more tokens than the context.
        """
        ids = self.tokenizer.encode(text)
        context = self.model.config.context
        if len(ids) > context:
            raise UserError(Problem(f"the text has {len(ids):,} tokens; this model's context is {context:,}"))
        if not ids:
            return []
        device = self.inference.device
        inputs = torch.tensor([[self.tokenizer.eot_id, *ids[:-1]]], device=device)
        logprobs = self.inference.logits(self.inference.hidden(inputs)[0]).log_softmax(-1)  # [T, V]
        values = logprobs.gather(1, torch.tensor(ids, device=device)[:, None])[:, 0].tolist()
        return [ScoredToken(self.tokenizer.token_text(i), i, value) for i, value in zip(ids, values, strict=True)]

    def next(self, prompt: str, k: int = 10) -> list[NextToken]:
        """The ``k`` likeliest next tokens, likeliest first. ``UserError`` when the prompt is longer than the context."""
        if k < 1:
            raise UserError(Problem(f"k {k} must be at least 1"))
        ids = self._encode(prompt)
        context = self.model.config.context
        if len(ids) > context:
            raise UserError(Problem(f"the prompt has {len(ids):,} tokens; this model's context is {context:,}"))
        hidden = self.inference.hidden(torch.tensor([ids], device=self.inference.device))[0, -1]
        top = self.inference.logits(hidden).softmax(-1).topk(min(k, self.inference.vocab_size))
        pairs = zip(top.indices.tolist(), top.values.tolist(), strict=True)
        return [NextToken(self.tokenizer.token_text(token_id), token_id, p) for token_id, p in pairs]

    def count(self, text: str) -> int:
        """How many tokens ``text`` has."""
        return len(self.tokenizer.encode(text))


def _add_all(engine: Engine, prompts: Sequence[Sequence[int]], options: SamplingOptions) -> list[int]:
    """Adds every prompt; ``UserError`` names all those that don't fit, by their number."""
    numbers, problems = [], []
    for index, ids in enumerate(prompts, start=1):
        # Prompt i of a list draws with seed + i, so that equal prompts are not answered alike; a Completion tells its own.
        seed = None if options.seed is None else options.seed + index - 1
        try:
            numbers.append(engine.add(ids, options.model_copy(update={"seed": seed})))
        except UserError as error:
            where = f"prompt {index}" if len(prompts) > 1 else None
            problems += [Problem(problem.what, where, problem.mend) for problem in error.problems]
    if problems:
        raise UserError(*problems)
    return numbers


def _events(engine: Engine) -> Iterator[Event]:
    while not engine.idle:
        yield from engine.step()


def _completion(prompt: str, generated: Generated, drawn: bool = True) -> Completion:
    assert generated.finish_reason is not None
    return Completion(
        prompt=prompt,
        text=generated.text,
        finish_reason=generated.finish_reason,
        ids=tuple(generated.ids),
        logprobs=tuple(generated.logprobs),
        alternatives=tuple(generated.alternatives),
        seed=generated.seed if drawn else None,
    )
