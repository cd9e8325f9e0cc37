"""Filling masks: what a model says there, whatever else is in the batch, and what can't be filled."""

from __future__ import annotations

import pytest
import torch

from gptloom.config.errors import UserError
from gptloom.config.model import ModelConfig, preset
from gptloom.generation import fill_mask
from gptloom.generation.fill_mask import FilledText, fill_masks
from gptloom.generation.language_model import LanguageModel
from gptloom.model.transformer import Transformer
from gptloom.tokenizer.tokenizer import Tokenizer
from gptloom.tokenizer.train import train_tokenizer

TEXT = "the weaver sets the loom. the loom weaves threads into cloth, and the cloth is sold in the town. "
SHORT, LONG = "the [MASK] weaves.", "the loom [MASK] threads into [MASK], and the cloth is sold in the town."


@pytest.fixture(scope="module")
def wordpiece() -> Tokenizer:
    return train_tokenizer("wordpiece", [TEXT * 4], 60)


@pytest.fixture(scope="module")
def bert(wordpiece: Tokenizer) -> Transformer:
    return make_bert(vocab_size=wordpiece.vocab_size)


def make_bert(**fields: object) -> Transformer:
    shape = {"n_layer": 2, "d_model": 32, "n_head": 4, "context": 32}
    model = Transformer.initialised(ModelConfig(**{**preset("bert-tiny"), **shape, **fields}), seed=0)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(0.25 * torch.randn(parameter.shape, generator=generator))
    return model.eval()


def close(first: FilledText, second: FilledText) -> bool:
    """Equal words with equal probabilities, up to fp32's rounding."""
    words, others = ([word for words in filled.masks for word in words] for filled in (first, second))
    same = [(word.text, word.id) for word in words] == [(word.text, word.id) for word in others]
    return same and all(abs(a.probability - b.probability) < 1e-5 for a, b in zip(words, others, strict=True))


def test_each_mask_gets_the_likeliest_words(bert: Transformer, wordpiece: Tokenizer) -> None:
    [filled] = fill_masks(bert, wordpiece, [LONG], top=3)
    ids = [wordpiece.cls_id, *wordpiece.encode(LONG, special=True), wordpiece.sep_id]
    shares = bert(torch.tensor([ids]))[0].softmax(-1)
    places = [place for place, token_id in enumerate(ids) if token_id == wordpiece.mask_id]
    assert len(places) == len(filled.masks) == 2
    for place, words in zip(places, filled.masks, strict=True):
        expected = shares[place].topk(3)
        assert [word.id for word in words] == expected.indices.tolist()
        assert [word.probability for word in words] == pytest.approx(expected.values.tolist(), abs=1e-6)
        assert [word.text for word in words] == [wordpiece.token_text(word.id) for word in words]


def test_the_rest_of_the_batch_changes_nothing(
    bert: Transformer, wordpiece: Tokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    texts = [LONG, SHORT, "[MASK]", SHORT]
    together = fill_masks(bert, wordpiece, texts)
    assert [filled.text for filled in together] == texts
    monkeypatch.setattr(fill_mask, "ROW_TOKENS", 1)  # each text by itself
    alone = fill_masks(bert, wordpiece, texts)
    assert all(close(a, b) for a, b in zip(together, alone, strict=True))
    assert together[0].masks[0] != together[0].masks[1] and not close(together[0], together[1])


def test_both_sides_of_a_mask_count(bert: Transformer, wordpiece: Tokenizer) -> None:
    one, other = fill_masks(bert, wordpiece, ["the [MASK] weaves.", "the [MASK] is sold."])
    assert not close(one, other)


def test_rows_that_no_token_has_are_left_out(wordpiece: Tokenizer) -> None:
    model = make_bert(vocab_size=wordpiece.vocab_size + 7)
    [filled] = fill_masks(model, wordpiece, [SHORT], top=1000)
    [words] = filled.masks
    assert len(words) == wordpiece.vocab_size and sum(word.probability for word in words) == pytest.approx(1)


def test_an_answer_as_json(bert: Transformer, wordpiece: Tokenizer) -> None:
    [filled] = fill_masks(bert, wordpiece, [SHORT], top=2)
    [[first, second]] = filled.as_dict()["masks"]
    assert filled.as_dict()["text"] == SHORT and first["probability"] > second["probability"]
    assert set(first) == {"text", "id", "probability"}


def refusal(model: Transformer, tokenizer: Tokenizer, *texts: str) -> str:
    with pytest.raises(UserError) as caught:
        fill_masks(model, tokenizer, texts)
    return str(caught.value)


def test_a_model_that_writes_is_refused(make_model, tokenizer: Tokenizer, wordpiece: Tokenizer) -> None:
    assert "gptloom generate MODEL" in refusal(make_model(), tokenizer, SHORT)
    headless = make_bert(vocab_size=wordpiece.vocab_size, masked_head=False)
    assert "without its head for masked words" in refusal(headless, wordpiece, SHORT)


def test_a_model_that_fills_masks_does_not_write(bert: Transformer, wordpiece: Tokenizer) -> None:
    with pytest.raises(UserError, match="gptloom fill-mask MODEL"):
        LanguageModel(bert, wordpiece)


def test_texts_that_can_not_be_filled_are_all_named(bert: Transformer, wordpiece: Tokenizer) -> None:
    said = refusal(bert, wordpiece, SHORT, "the loom weaves.", SHORT * 10)
    assert "text 2: there is no [MASK] in 'the loom weaves.'" in said
    tokens = len(wordpiece.encode(SHORT * 10, special=True)) + 2
    assert f"text 3: the text makes {tokens} tokens, 2 of them around the text; this model's context is 32" in said
    assert "a text of at most 30 tokens" in said and "text 1" not in said


def test_the_context_is_filled_to_the_last_token(bert: Transformer, wordpiece: Tokenizer) -> None:
    text = "[MASK] " + "the " * 29
    assert len(wordpiece.encode(text, special=True)) + 2 == 32
    assert len(fill_masks(bert, wordpiece, [text])) == 1
    assert "the text makes 33 tokens" in refusal(bert, wordpiece, text + "the")


def test_a_vocabulary_without_a_mask_is_refused(bert: Transformer, tokenizer: Tokenizer) -> None:
    assert "has no token for a mask" in refusal(bert, tokenizer, SHORT)
