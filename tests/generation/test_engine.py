"""The engine: cached equals uncached, a row does not depend on its batch, every way to end, sharing and slots."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from gptloom.config.errors import UserError
from gptloom.config.generate import SamplingOptions
from gptloom.generation.engine import Engine
from gptloom.generation.requests import Generated, fit_prompt
from gptloom.generation.weights import prepare
from gptloom.model.transformer import Transformer
from gptloom.tokenizer.tokenizer import Tokenizer

MakeModel = Callable[..., Transformer]
GREEDY = SamplingOptions(temperature=0, max_tokens=40, ignore_eot=True)
PROMPTS = [[1, 2, 3], list(range(60)), [200], [7] * 17, list(range(100, 180))]


@pytest.fixture(scope="module")
def engine(make_model: MakeModel, tokenizer: Tokenizer) -> Engine:
    return Engine(prepare(make_model()), tokenizer, slots=4)


def one(engine: Engine, prompt: list[int], options: SamplingOptions) -> Generated:
    return engine.run([(prompt, options)])[0][0]


@pytest.mark.parametrize("family", ["gpt2", "modern", "fast"])
def test_cached_greedy_ids_equal_uncached(make_model: MakeModel, tokenizer: Tokenizer, family: str) -> None:
    model = make_model(family)
    ids = [3, 1, 4, 1, 5]
    with torch.no_grad():
        for _ in range(200):
            ids.append(int(model(torch.tensor([ids]))[0, -1].argmax()))
    options = SamplingOptions(temperature=0, max_tokens=200, ignore_eot=True)
    generated = one(Engine(prepare(model), tokenizer), ids[:5], options)
    assert generated.ids == ids[5:]
    assert len(set(generated.ids)) > 5, "a model that repeats itself proves little"


def test_logprobs_equal_a_full_forward_pass(make_model: MakeModel, tokenizer: Tokenizer) -> None:
    model = make_model("gpt2")
    options = SamplingOptions(max_tokens=30, seed=1, logprobs=3, temperature=0.7, top_p=0.9, ignore_eot=True)
    generated = one(Engine(prepare(model), tokenizer), [9, 8, 7], options)
    with torch.no_grad():
        full = model(torch.tensor([[9, 8, 7, *generated.ids]]))[0, 2:-1].log_softmax(-1)
    expected = full.gather(1, torch.tensor(generated.ids)[:, None])[:, 0]
    assert (torch.tensor(generated.logprobs) - expected).abs().max() <= 1e-5
    top = full.topk(3)
    for place, alternatives in enumerate(generated.alternatives):
        assert [token_id for token_id, _ in alternatives] == top.indices[place].tolist()
        assert [value for _, value in alternatives] == pytest.approx(top.values[place].tolist(), abs=1e-5)


def test_a_row_does_not_depend_on_its_batch(engine: Engine) -> None:
    requests = [(prompt, SamplingOptions(max_tokens=5 + 9 * i, seed=i)) for i, prompt in enumerate(PROMPTS)]
    alone = [one(engine, prompt, options) for prompt, options in requests]
    together = [done[0] for done in engine.run(requests)]  # five requests in four slots: one joins late
    for a, b in zip(alone, together, strict=True):
        assert a.ids == b.ids and a.text == b.text and a.finish_reason == b.finish_reason
        assert a.logprobs == pytest.approx(b.logprobs, abs=1e-5)


def test_a_request_that_joins_late_writes_the_same(engine: Engine) -> None:
    options = SamplingOptions(max_tokens=30, seed=5, ignore_eot=True)
    expected = one(engine, PROMPTS[1], options).ids
    first = engine.add(PROMPTS[4], GREEDY)
    for _ in range(7):
        engine.step()
    late = engine.add(PROMPTS[1], options)
    while not engine.idle:
        engine.step()
    engine.take(first)
    assert engine.take(late)[0].ids == expected


def test_seeds(engine: Engine) -> None:
    def write(seed: int | None, **options: int) -> list[list[int]]:
        sampling = SamplingOptions(max_tokens=20, seed=seed, **options)
        return [generated.ids for generated in engine.run([(PROMPTS[0], sampling)])[0]]

    assert write(1) == write(1) != write(2)
    three = write(1, n=3)
    assert three[0] == write(1)[0], "the first of n is what one alone would be"
    assert len(set(map(tuple, three))) == 3
    assert write(None) != write(None)
    assert write(1, n=6)[:3] == three, "more completions than slots"


def test_the_seed_that_was_drawn_is_told(engine: Engine) -> None:
    free = one(engine, PROMPTS[0], SamplingOptions(max_tokens=20))
    assert one(engine, PROMPTS[0], SamplingOptions(max_tokens=20, seed=free.seed)).ids == free.ids


def test_one_prefill_for_all_completions_of_a_prompt(
    make_model: MakeModel, tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = prepare(make_model())
    engine = Engine(model, tokenizer, slots=3)
    prefilled = []
    hidden = model.hidden

    def counted(ids: torch.Tensor, *rest: object, **more: object) -> torch.Tensor:
        if ids.shape[1] > 1:
            prefilled.append(len(ids))
        return hidden(ids, *rest, **more)  # type: ignore[arg-type]

    monkeypatch.setattr(model, "hidden", counted)
    many = SamplingOptions(max_tokens=9, n=7, seed=0, ignore_eot=True, temperature=1.5)
    done = engine.run([(PROMPTS[1], many)])[0]
    assert [len(generated.ids) for generated in done] == [9] * 7
    assert sum(prefilled) <= 3, "once for each time that no completion of the prompt was left to copy from"
    engine.slots = 8
    prefilled.clear()
    engine.run([(PROMPTS[1], many)])
    assert prefilled == [1]


def test_best_of_keeps_the_likeliest(engine: Engine) -> None:
    options = SamplingOptions(max_tokens=6, seed=3, n=5, ignore_eot=True)
    all_five = engine.run([(PROMPTS[0], options)])[0]
    best = engine.run([(PROMPTS[0], options.model_copy(update={"n": 2, "best_of": 5}))])[0]
    expected = sorted(all_five, key=lambda generated: -generated.mean_logprob)[:2]
    assert [generated.ids for generated in best] == [generated.ids for generated in expected]


def test_end_of_text_ends(engine: Engine, tokenizer: Tokenizer) -> None:
    options = SamplingOptions(logit_bias={tokenizer.eot_id: 100.0}, max_tokens=5)
    generated = one(engine, PROMPTS[0], options)
    assert (generated.ids, generated.text, generated.finish_reason) == ([tokenizer.eot_id], "", "stop")
    on = one(engine, PROMPTS[0], options.model_copy(update={"ignore_eot": True}))
    assert (on.ids, on.finish_reason) == ([tokenizer.eot_id] * 5, "length")


def test_stop_texts_cut_the_text_and_end_at_once(engine: Engine) -> None:
    free = one(engine, PROMPTS[0], SamplingOptions(max_tokens=40, seed=11, ignore_eot=True))
    stop = free.text[10:13]
    where = free.text.index(stop)
    stopped = one(engine, PROMPTS[0], SamplingOptions(max_tokens=40, seed=11, ignore_eot=True, stop=[stop]))
    assert stopped.text == free.text[:where] and stopped.finish_reason == "stop"
    assert len(stopped.ids) < len(free.ids) and stopped.ids == free.ids[: len(stopped.ids)]


def test_events_tell_everything(engine: Engine) -> None:
    options = SamplingOptions(max_tokens=25, seed=4, n=2)
    number = engine.add(PROMPTS[3], options)
    events = []
    while not engine.idle:
        events += engine.step()
    for generated in engine.take(number):
        own = [event for event in events if event.choice == generated.choice]
        assert [event.token_id for event in own] == generated.ids
        assert "".join(event.text for event in own) == generated.text
        assert [event.finish_reason for event in own] == [None] * (len(own) - 1) + [generated.finish_reason]


def test_a_completion_stops_where_the_context_ends(engine: Engine) -> None:
    context = engine.model.config.context
    generated = one(engine, [1] * (context - 3), SamplingOptions(max_tokens=50, seed=0, ignore_eot=True))
    assert len(generated.ids) == 3 and generated.finish_reason == "length"


def test_a_prompt_longer_than_the_context(engine: Engine) -> None:
    context = engine.model.config.context
    for length in (context, context + 10):
        with pytest.raises(UserError, match=f"has {length} tokens; this model's context is {context}"):
            engine.add([1] * length, SamplingOptions())
    ids = list(range(context + 10))
    options = SamplingOptions(truncate_prompt=True, max_tokens=100)
    assert fit_prompt(ids, context, options) == ids[-(context - 100) :]
    assert fit_prompt(ids, context, SamplingOptions(truncate_prompt=True, max_tokens=999)) == ids[-context // 2 :]
    assert fit_prompt(ids[:9], context, options) == ids[:9]


def test_bias_outside_the_vocabulary(engine: Engine) -> None:
    with pytest.raises(UserError, match="logit_bias names the id 99999"):
        engine.add([1], SamplingOptions(logit_bias={99999: 1.0}))


def test_cancel_frees_its_rows_and_leaves_the_others_alone(engine: Engine) -> None:
    options = SamplingOptions(max_tokens=30, seed=8, ignore_eot=True)
    expected = one(engine, PROMPTS[3], options).ids
    gone = engine.add(PROMPTS[1], options.model_copy(update={"n": 6}))
    kept = engine.add(PROMPTS[3], options)
    for _ in range(3):
        engine.step()
    engine.cancel(gone)
    while not engine.idle:
        engine.step()
    assert engine.take(kept)[0].ids == expected
    assert {generated.finish_reason for generated in engine.take(gone)} == {"cancelled"}


def test_penalties_follow_a_row_that_moves(engine: Engine) -> None:
    """Rows move when others leave; the counts of their tokens must move along."""
    options = SamplingOptions(
        max_tokens=40, seed=2, frequency_penalty=0.7, repetition_penalty=1.2, top_k=20, ignore_eot=True
    )
    expected = one(engine, PROMPTS[0], options).ids
    short = SamplingOptions(max_tokens=4, seed=0, ignore_eot=True)
    together = engine.run([(PROMPTS[1], short), (PROMPTS[2], short), (PROMPTS[0], options), (PROMPTS[3], GREEDY)])
    assert together[2][0].ids == expected
