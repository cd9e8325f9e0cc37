"""Beam search with the length penalty that GPT-3 was evaluated with.

A finished completion of length |Y| (end-of-text counted) scores  log P(Y) / ((5 + |Y|) / 6)^α  (Wu et al. 2016,
section 7; GPT-3 used width 4 and α 0.6: Brown et al. 2020, section 2.4). ``transformers`` divides by |Y|^α instead: the
two agree at α = 0, and for the same α the penalty here is milder for short completions.

Legend: W beams, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

import torch

from gptloom.config.generate import SamplingOptions
from gptloom.generation.requests import FinishReason, Generated, fit_prompt
from gptloom.generation.text import TextStream, Vocabulary
from gptloom.generation.weights import InferenceModel
from gptloom.model.cache import KVCache


@dataclass(frozen=True)
class _Beam:
    ids: tuple[int, ...] = ()
    logprobs: tuple[float, ...] = ()
    total: float = 0.0
    row: int = 0  # cache row of the beam it extends
    finish_reason: FinishReason | None = None


def length_penalty(length: int, alpha: float) -> float:
    """((5 + length) / 6)^α."""
    return ((5 + length) / 6) ** alpha


def beam_search(
    model: InferenceModel,
    vocabulary: Vocabulary,
    prompt: list[int],
    options: SamplingOptions,
    stop_ids: Collection[int] | None = None,
) -> list[Generated]:
    """The ``options.n`` best-scored completions of ``prompt``, best first; one of ``stop_ids`` (default: end-of-text) ends it.

    The search ends when no live beam can still enter the best ``n``, whatever it would go on with, or at ``max_tokens``
    or the context's end, where live beams count as they are. Raises ``UserError`` when the prompt does not fit.
    """
    prompt = fit_prompt(prompt, model.config.context, options)
    stops = frozenset((vocabulary.eot_id,) if stop_ids is None else stop_ids)
    room = min(options.max_tokens, model.config.context - len(prompt))
    # Two rows' worth: the beams of one step are copied from one half to the other in their new order.
    cache = model.make_cache(2 * options.beams, len(prompt) + room)
    hidden = model.hidden(torch.tensor([prompt], device=model.device), cache=cache.rows(0, 1), reach=len(prompt))
    logprobs = model.logits(hidden[:, -1]).log_softmax(-1)  # [1, V]
    live, done = [_Beam()], list[_Beam]()
    here, there = cache.rows(0, options.beams), cache.rows(options.beams, 2 * options.beams)
    for length in range(1, room + 1):
        live, ended = _extend(live, logprobs, stops, options.beams)
        done = sorted([*done, *ended], key=lambda beam: -_score(beam, options.length_penalty))[: options.n]
        if length == room:
            done += [_Beam(b.ids, b.logprobs, b.total, b.row, "length") for b in live]
        if length == room or not live or _settled(live, done, room, options):
            break
        here, there = _reorder(here, there, [beam.row for beam in live], len(prompt) + length - 1), here
        position = len(prompt) + length - 1
        ids = torch.tensor([beam.ids[-1] for beam in live], device=model.device)
        logits = model.next_logits(ids, torch.full_like(ids, position), here.rows(0, len(live)), position + 1)
        logprobs = logits.log_softmax(-1)
    best = sorted(done, key=lambda beam: -_score(beam, options.length_penalty))[: options.n]
    return [_generated(beam, index, vocabulary) for index, beam in enumerate(best)]


def _extend(
    live: list[_Beam], logprobs: torch.Tensor, stops: frozenset[int], width: int
) -> tuple[list[_Beam], list[_Beam]]:
    """The ``width`` best extensions that go on, and those of the best ``width`` that end, by logprobs [W, V]."""
    totals = torch.tensor([beam.total for beam in live], device=logprobs.device)[:, None] + logprobs
    # Each beam has as many extensions that end as there are ids that end it: beyond them W that go on are sure to be found.
    best = totals.flatten().topk(min((1 + len(stops)) * width, totals.numel()))
    goes_on: list[_Beam] = []
    ended: list[_Beam] = []
    for rank, place in enumerate(best.indices.tolist()):
        row, token_id = divmod(place, logprobs.shape[1])
        beam, logprob = live[row], float(logprobs[row, token_id])
        longer = _Beam((*beam.ids, token_id), (*beam.logprobs, logprob), beam.total + logprob, row)
        if token_id in stops:
            if rank < width:
                ended.append(_Beam(longer.ids, longer.logprobs, longer.total, row, "stop"))
        elif len(goes_on) < width:
            goes_on.append(longer)
    return goes_on, ended


def _score(beam: _Beam, alpha: float) -> float:
    return beam.total / length_penalty(len(beam.ids), alpha)


def _settled(live: list[_Beam], done: list[_Beam], room: int, options: SamplingOptions) -> bool:
    """Whether even a live beam that ended at the last possible place with certainty would not be among the best n."""
    if len(done) < options.n:
        return False
    bound = max(beam.total for beam in live) / length_penalty(room, options.length_penalty)
    return bound <= _score(done[options.n - 1], options.length_penalty)


def _reorder(source: KVCache, target: KVCache, rows: list[int], length: int) -> KVCache:
    """Copies ``rows`` of ``source`` in this order into ``target``, ``length`` tokens of each."""
    for place, row in enumerate(rows):
        target.copy_row(source, row, place, length)
    return target


def _generated(beam: _Beam, index: int, vocabulary: Vocabulary) -> Generated:
    stream = TextStream(vocabulary)
    for token_id in beam.ids[:-1] if beam.finish_reason == "stop" else beam.ids:
        stream.push(token_id)
    stream.finish()
    return Generated(index, 0, list(beam.ids), list(beam.logprobs), text=stream.text, finish_reason=beam.finish_reason)
