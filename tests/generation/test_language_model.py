"""LanguageModel: what people call, and every way in which they can call it wrongly."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch

from gptloom.config.errors import UserError
from gptloom.config.generate import SamplingOptions
from gptloom.generation.language_model import Completion, LanguageModel
from gptloom.model.transformer import Transformer
from gptloom.tokenizer.tokenizer import Tokenizer
from gptloom.tokenizer.train import train_tokenizer


def test_a_text_gives_a_completion(language_model: LanguageModel) -> None:
    answer = language_model.generate("ROMEO:", max_tokens=12, seed=1)
    assert isinstance(answer, Completion) and str(answer) == answer.text
    assert answer.prompt == "ROMEO:" and answer.seed == 1
    assert answer.tokens == len(answer.ids) == len(answer.logprobs) <= 12
    assert answer.logprob == pytest.approx(sum(answer.logprobs)) and answer.logprob < 0
    assert language_model.generate("ROMEO:", max_tokens=12, seed=1) == answer


def test_several_give_lists(language_model: LanguageModel) -> None:
    two = language_model.generate("a", n=2, max_tokens=3, seed=1)
    assert [type(answer) for answer in two] == [Completion, Completion]
    assert language_model.generate(["a", "bcd"], max_tokens=3, seed=1)[0].ids == two[0].ids
    nested = language_model.generate(["a", "bcd"], n=2, max_tokens=3, seed=1)
    assert [[answer.prompt for answer in answers] for answers in nested] == [["a", "a"], ["bcd", "bcd"]]
    assert [answer.ids for answer in nested[0]] == [answer.ids for answer in two]


def test_stream_gives_the_text_of_generate(language_model: LanguageModel) -> None:
    expected = language_model.generate("Hi", max_tokens=60, seed=3).text
    pieces = list(language_model.stream("Hi", max_tokens=60, seed=3))
    assert "".join(pieces) == expected and len(pieces) > 1


def test_an_empty_prompt_begins_after_end_of_text(language_model: LanguageModel) -> None:
    with torch.no_grad():
        logits = language_model.model(torch.tensor([[language_model.tokenizer.eot_id]]))[0, -1]
    assert language_model.generate("", temperature=0, max_tokens=1).ids == (int(logits.argmax()),)


def test_logprobs_are_those_of_the_document(language_model: LanguageModel) -> None:
    scored = language_model.logprobs("héllo")
    ids = language_model.tokenizer.encode("héllo")
    with torch.no_grad():
        full = language_model.model(torch.tensor([[language_model.tokenizer.eot_id, *ids]]))[0, :-1].log_softmax(-1)
    assert [token.id for token in scored] == ids
    assert [token.logprob for token in scored] == pytest.approx(
        [float(row[i]) for row, i in zip(full, ids, strict=True)]
    )
    assert scored[0].text == "h" and language_model.logprobs("") == []


def test_next_tokens(language_model: LanguageModel) -> None:
    choices = language_model.next("The", k=5)
    probabilities = [choice.probability for choice in choices]
    assert probabilities == sorted(probabilities, reverse=True) and 0 < sum(probabilities) < 1
    assert sum(choice.probability for choice in language_model.next("The", k=9999)) == pytest.approx(1, abs=1e-5)
    greedy = language_model.generate("The", temperature=0, max_tokens=1)
    assert greedy.ids == (choices[0].id,)


def test_count(language_model: LanguageModel) -> None:
    assert language_model.count("héllo") == 6


def test_beams(language_model: LanguageModel) -> None:
    found = language_model.generate("The", beams=3, n=2, max_tokens=8)
    assert found[0].logprob >= found[1].logprob and found[0].seed is None
    assert language_model.generate("The", beams=3, max_tokens=8) == found[0]


def test_a_prompt_that_ends_in_a_space(make_model: Callable[..., Transformer], language_model: LanguageModel) -> None:
    bpe = train_tokenizer("bpe", ["the cat sat on the mat " * 20], 262)
    model = LanguageModel(make_model(vocab_size=bpe.vocab_size), bpe)
    for call in (model.generate, model.next, lambda prompt: list(model.stream(prompt, max_tokens=1))):
        with pytest.warns(UserWarning, match="ends in a space"):
            call("the ")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model.generate("the", max_tokens=1)
        language_model.generate("bytes have no such trap ", max_tokens=1)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"temperature": -0.1}, "temperature -0.1 must be at least 0"),
        ({"temperature": float("nan")}, "temperature nan"),
        ({"top_p": 0.0}, "top_p 0.0 must be greater than 0"),
        ({"top_p": 1.5}, "top_p 1.5 must be at most 1"),
        ({"top_k": -1}, "top_k -1 must be at least 0"),
        ({"min_p": 2.0}, "min_p 2.0 must be at most 1"),
        ({"max_tokens": 0}, "max_tokens 0 must be greater than 0"),
        ({"n": 0}, "n 0 must be greater than 0"),
        ({"n": 3, "best_of": 2}, "best_of 2 is less than n 3"),
        ({"repetition_penalty": 0.0}, "repetition_penalty 0.0 must be greater than 0"),
        ({"stop": [""]}, "a stop text is empty"),
        ({"seed": -1}, "seed -1 must be at least 0"),
        ({"logit_bias": {-1: 2.0}}, "logit_bias names the id -1"),
        ({"logit_bias": {9999: 2.0}}, "logit_bias names the id 9999"),
        ({"logit_bias": "50256"}, "is not of the form ID=BIAS"),
        ({"beams": 4, "temperature": 0.5}, "temperature would be ignored"),
        ({"beams": 4, "stop": ["x"]}, "stop would be ignored"),
        ({"beams": 2, "n": 3}, "n 3 is more than the 2 beams"),
        ({"length_penalty": 0.6}, "length_penalty belongs to beam search"),
        ({"max_token": 3}, "did you mean max_tokens"),
    ],
)
def test_wrong_options(language_model: LanguageModel, options: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        language_model.generate("a", **options)


def test_every_problem_at_once(language_model: LanguageModel) -> None:
    with pytest.raises(UserError) as caught:
        language_model.generate("a", temperature=-1, top_p=0, max_tokens=0)
    assert len(caught.value.problems) == 3


def test_biases_as_typed() -> None:
    assert SamplingOptions(logit_bias="50256=-100, 13=2.5").logit_bias == {50256: -100.0, 13: 2.5}


def test_too_long(language_model: LanguageModel) -> None:
    long = "x" * 300
    with pytest.raises(UserError, match="the prompt has 300 tokens; this model's context is 256"):
        language_model.generate(long)
    with pytest.raises(UserError) as caught:
        language_model.generate(["fine", long, "fine", long])
    assert [problem.where for problem in caught.value.problems] == ["prompt 2", "prompt 4"]
    for call in (language_model.logprobs, language_model.next):
        with pytest.raises(UserError, match="has 300 tokens"):
            call(long)
    assert language_model.generate(long, truncate_prompt=True, max_tokens=5).tokens == 5


def test_a_stream_is_one_completion(language_model: LanguageModel) -> None:
    for options in ({"n": 2}, {"best_of": 2}, {"beams": 2}):
        with pytest.raises(UserError, match="a stream is one completion"):
            language_model.stream("a", **options)


def test_compiling_begins_once_enough_is_asked_for(
    make_model: Callable[..., Transformer], tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = LanguageModel(make_model(), tokenizer)
    calls = []
    monkeypatch.setattr(model.inference, "compile", lambda: calls.append(1))
    monkeypatch.setattr(model.inference, "pays_to_compile", lambda tokens: tokens >= 300)
    model.generate(["a", "b"], max_tokens=200)
    model.generate("a", max_tokens=200)
    assert not calls, "batches don't count"
    model.generate("a", max_tokens=100)
    assert calls == [1]
