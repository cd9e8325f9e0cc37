from __future__ import annotations

import pytest

from gptloom.config.generate import SamplingOptions
from gptloom.generation.language_model import LanguageModel
from gptloom.generation.plain import write_plainly


@pytest.mark.parametrize("family", ["gpt2", "modern", "fast"])
@pytest.mark.parametrize("temperature", [0.0, 0.8])
def test_the_engine_writes_what_its_slow_twin_writes(make_model, tokenizer, family: str, temperature: float) -> None:
    model = make_model(family)
    options = SamplingOptions(max_tokens=40, temperature=temperature, seed=5, repetition_penalty=1.3)
    expected = str(LanguageModel(model, tokenizer).generate("Once", **options.model_dump(exclude_unset=True)))
    assert write_plainly(model, tokenizer, "Once", options) == expected


def test_it_ends_at_the_end_of_the_context(make_model, tokenizer) -> None:
    model = make_model(context=16)
    options = SamplingOptions(max_tokens=40, temperature=0.8, seed=1, ignore_eot=True)
    text = write_plainly(model, tokenizer, "Once", options)
    assert text == str(LanguageModel(model, tokenizer).generate("Once", **options.model_dump(exclude_unset=True)))
