"""The smoke test: a model that learned two answers stops; one that learned nothing is found out."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from gptloom.config.model import ModelConfig, preset
from gptloom.data.batch import Batch
from gptloom.data.conversation import Conversation, Message
from gptloom.data.render import Renderer
from gptloom.data.templates import built_in
from gptloom.evaluation.smoke import Sample, Smoke, readable, repetition, smoke_test
from gptloom.generation.chat import ChatModel
from gptloom.generation.language_model import LanguageModel
from gptloom.model.transformer import Transformer
from gptloom.tokenizer.train import train_tokenizer
from gptloom.train.loop import fit
from gptloom.train.objective import NextToken
from gptloom.train.optimizers import Optimizer, OptimizerSettings
from gptloom.train.run import LoopSettings, Run

FORMAT, WORDS = built_in("gptloom", train_tokenizer("bytes", [], None))
RENDERER = Renderer(WORDS, FORMAT)
LEARNED = [
    Conversation((Message("user", "Hi"), Message("assistant", "Hello.")), "a:1"),
    Conversation((Message("user", "2 + 3"), Message("assistant", "5")), "a:2"),
]


def untrained() -> Transformer:
    sizes = {"n_layer": 1, "d_model": 64, "n_head": 2, "context": 64, "vocab_size": WORDS.vocab_size}
    return Transformer.initialised(ModelConfig(**preset("modern-nano") | sizes), seed=0)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> ChatModel:
    model = untrained()
    rendered = RENDERER.examples(LEARNED)
    longest = max(len(one.ids) for one in rendered)
    ids = torch.zeros(len(rendered), longest, dtype=torch.long)
    weights = torch.zeros(len(rendered), longest)
    for row, one in enumerate(rendered):
        ids[row, : len(one.ids)] = torch.from_numpy(one.ids)
        weights[row, : len(one.ids)] = torch.from_numpy(one.weights)
    batch = Batch(ids[:, :-1], ids[:, 1:].contiguous(), weights[:, 1:].contiguous())
    run = Run.create(Path(tmp_path_factory.mktemp("run")) / "r", LoopSettings(steps=60, log_every=60))
    optimizer = Optimizer(model, OptimizerSettings(lr=1e-2), torch.float32)
    fit(run, NextToken(), lambda step: batch, model, optimizer)
    return ChatModel(LanguageModel(model.eval(), WORDS), RENDERER)


def test_a_model_that_learned_its_answers_stops(trained: ChatModel) -> None:
    found = smoke_test(trained, LEARNED, max_tokens=30, seed=1)
    assert [sample.answer for sample in found.samples] == ["Hello.", "5"]
    assert [sample.prompt for sample in found.samples] == ["Hi", "2 + 3"]
    assert found.stopping == 1.0 and found.warning is None
    assert "2 of 2 answers to training prompts end by themselves (100%)" in found.sentence
    assert smoke_test(trained, [one.prompt for one in LEARNED], max_tokens=30, seed=1) == found


def test_before_and_after(trained: ChatModel) -> None:
    model = ChatModel(LanguageModel(untrained().eval(), WORDS), RENDERER)
    before, again = (smoke_test(model, LEARNED, max_tokens=8, seed=1) for _ in range(2))
    assert before == again, "the same seed gives the same answers"
    assert before.stopping == 0.0
    assert before.warning is not None and "only 0 of 2" in before.warning and "gptloom data show" in before.warning
    after = smoke_test(trained, LEARNED, max_tokens=8, seed=1)
    document = after.as_dict()
    assert document["stopping"] == 1.0 and document["samples"][0]["answer"] == "Hello."


def test_repetition_counts_4_grams() -> None:
    assert repetition([1, 2, 3, 4, 5, 6]) == 0.0
    assert repetition([1] * 10) == pytest.approx(6 / 7)  # seven 4-grams, of which only the first is new
    assert repetition([1, 2, 3, 4, 1, 2, 3, 4]) == pytest.approx(1 / 5)
    assert repetition([]) == repetition([1, 1, 1]) == 0.0


@pytest.mark.parametrize(("stopped", "warned"), [(9, False), (8, True)])
def test_the_warning_begins_below_nine_of_ten(stopped: int, warned: bool) -> None:
    smoke = Smoke([Sample("q", "a", number < stopped, 0.0) for number in range(10)], 64)
    assert (smoke.warning is not None) == warned


def test_an_empty_answer_has_not_answered() -> None:
    """A model that ends at once would pass for one that ends well."""
    smoke = Smoke([Sample("q", answer, True, 0.0) for answer in ("", " \n", "a", "b")], 64, "held-out")
    assert (smoke.stopping, smoke.empty) == (0.5, 2)
    assert "2 of 4 answers to held-out prompts end by themselves (50%, 2 empty)" in smoke.sentence
    assert smoke.warning is not None and "if they are empty" in smoke.warning


def test_prompts_are_readable() -> None:
    assert readable([Message("user", "Hi")]) == "Hi"
    assert readable([Message("system", "Be brief."), Message("user", "Hi")]) == "system: Be brief.\nuser: Hi"
