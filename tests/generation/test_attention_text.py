"""Texts as the models read them when they are watched, and what the models say beside it."""

from __future__ import annotations

import json
from typing import Any

import pytest
import torch

from gptloom.config.errors import UserError
from gptloom.config.model import ModelConfig, preset
from gptloom.config.task import Columns, HeadConfig, TaskConfig, TaskTokens
from gptloom.generation.attention_text import SeenText, Watched, see
from gptloom.generation.classifier import Classifier
from gptloom.generation.fill_mask import fill_masks
from gptloom.generation.language_model import LanguageModel
from gptloom.model.transformer import Transformer
from gptloom.tokenizer.tokenizer import Tokenizer
from gptloom.tokenizer.train import train_tokenizer

SIZES = {"context": 40, "n_layer": 2, "d_model": 32, "n_head": 4, "d_ff": 64, "head_dim": 0}
TEXT = "the loom weaves threads into cloth. "
START, DELIMITER, EXTRACT = 258, 259, 260  # after 256 bytes, end-of-text and padding


@pytest.fixture(scope="module")
def letters() -> Tokenizer:
    return train_tokenizer("bytes", [], None)


@pytest.fixture(scope="module")
def pieces() -> Tokenizer:
    return train_tokenizer("wordpiece", [TEXT * 4], 50)


def make(fields: dict[str, Any], **change: Any) -> Transformer:
    model = Transformer(ModelConfig(**{**fields, **SIZES, **change}))
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(0.25 * torch.randn(parameter.shape, generator=generator))
    return model.eval()


def words(seen: SeenText) -> list[str]:
    return [token.text for token in seen.tokens]


def test_a_causal_model_says_which_word_comes_next(letters: Tokenizer) -> None:
    model = make(preset("modern-nano"), vocab_size=letters.vocab_size)
    seen = see(Watched.of(model), letters, "a loom")
    assert words(seen) == ["a", "·", "l", "o", "o", "m"] and not any(token.frame for token in seen.tokens)
    assert seen.word == 5 and seen.answer is None
    assert seen.expected is not None and seen.expected.kind == "next" and len(seen.expected.places) == 6
    for place in (0, 5):
        wanted = LanguageModel(model, letters).next("a loom"[: place + 1], k=10)
        assert [text for text, _ in seen.expected.places[place]] == [word.text for word in wanted]
        shares = [share for _, share in seen.expected.places[place]]
        assert shares == pytest.approx([word.probability for word in wanted], abs=1e-6)


def test_bert_says_which_word_stands_there(pieces: Tokenizer) -> None:
    model = make(preset("bert-tiny"), vocab_size=pieces.vocab_size)
    seen = see(Watched.of(model), pieces, "the [MASK] weaves")
    [filled] = fill_masks(model, pieces, ["the [MASK] weaves"], top=10)
    assert words(seen)[0] == "[CLS]" and words(seen)[-1] == "[SEP]"
    assert [token.frame for token in seen.tokens] == [True, *[False] * (len(seen.tokens) - 2), True]
    assert seen.expected is not None and seen.expected.masks == [seen.word]
    assert words(seen)[seen.word] == "[MASK]"
    found = seen.expected.places[seen.word]
    assert [text for text, _ in found] == [word.text for word in filled.masks[0]]
    assert [share for _, share in found] == pytest.approx([word.probability for word in filled.masks[0]], abs=1e-5)


def test_a_pair_has_segments(pieces: Tokenizer) -> None:
    model = make(preset("bert-tiny"), vocab_size=pieces.vocab_size)
    seen = see(Watched.of(model), pieces, "the loom", "the cloth")
    split = words(seen).index("[SEP]") + 1
    assert [token.segment for token in seen.tokens] == [0] * split + [1] * (len(seen.tokens) - split)
    assert words(seen)[split] == "the" and words(seen).count("[SEP]") == 2


def test_a_bert_without_its_head_shows_attention_alone(pieces: Tokenizer) -> None:
    model = make(preset("bert-tiny"), vocab_size=pieces.vocab_size, masked_head=False, pair_head=False)
    assert see(Watched.of(model), pieces, "the loom").expected is None


@pytest.mark.parametrize(
    ("text", "second", "said"),
    [("", None, "no token"), ("x" * 41, None, "41 tokens; this model's context is 40"), ("x", "y", "reads one text")],
)
def test_what_a_causal_model_cannot_read(letters: Tokenizer, text: str, second: str | None, said: str) -> None:
    model = make(preset("gpt2"), vocab_size=letters.vocab_size)
    with pytest.raises(UserError, match=said):
        see(Watched.of(model), letters, text, second)


def test_of_a_text_too_long_for_bert_the_frame_counts(pieces: Tokenizer) -> None:
    model = make(preset("bert-tiny"), vocab_size=pieces.vocab_size)
    with pytest.raises(UserError, match="2 of them around the text") as error:
        see(Watched.of(model), pieces, "the " * 39)
    assert error.value.problems[0].mend == "a text of at most 38 tokens"


def test_a_text_too_long_for_a_page_says_what_fits(letters: Tokenizer) -> None:
    model = make(preset("gpt2"), vocab_size=letters.vocab_size, context=4000)
    with pytest.raises(UserError, match="2 layers of 4 heads, 3,000 tokens") as error:
        see(Watched.of(model), letters, "x" * 3000)
    assert str(error.value.problems[0].mend).startswith("a text of at most 1,")


# ---- fine-tuned models -----------------------------------------------------------------------------------------------


def fine_tuned(
    task: str, kind: str, n_labels: int, labels: tuple[str, ...] = (), **head: Any
) -> tuple[Transformer, TaskConfig]:
    """A causal model with a head, and its task as GPT-1 frames it."""
    given = TaskConfig(
        task=task,  # type: ignore[arg-type]
        labels=labels,
        columns=Columns(text="text"),
        inputs="gpt1",
        tokens=TaskTokens(start=START, delimiter=(DELIMITER,), extract=EXTRACT),
        max_length=20,
    )
    made = HeadConfig(kind=kind, n_labels=n_labels, **head)  # type: ignore[arg-type]
    return make(preset("gpt2"), vocab_size=EXTRACT + 1, task_head=made), given


@pytest.fixture(scope="module")
def framing() -> Tokenizer:
    """Bytes, and three tokens for the frame."""
    plain = train_tokenizer("bytes", [], None)
    settings = json.loads(json.dumps(plain.settings))
    for place, name in enumerate(("<start>", "<delimiter>", "<extract>")):
        settings["added_tokens"].append({**settings["added_tokens"][0], "id": START + place, "content": name})
    return Tokenizer(settings, "bytes")


def test_a_classifier_reads_as_it_was_trained_and_answers(framing: Tokenizer) -> None:
    model, task = fine_tuned("classify", "sequence", 2, ("bad", "good"))
    seen = see(Watched.of(model), framing, "a loom", task=task)
    assert words(seen) == ["<start>", "a", "·", "l", "o", "o", "m", "<extract>"]
    assert [token.frame for token in seen.tokens] == [True, *[False] * 6, True]
    [wanted] = Classifier(model, framing, task).classify("a loom")
    assert seen.answer is not None and seen.expected is None and wanted.probabilities is not None
    assert seen.answer.said == wanted.answer
    assert dict(seen.answer.shares) == pytest.approx(wanted.probabilities)
    assert seen.answer.shares[0][0] == wanted.answer  # the likeliest comes first


def test_what_was_cut_and_both_orders_are_told(framing: Tokenizer) -> None:
    model, task = fine_tuned("similar", "sequence", 1, orders=2)
    seen = see(Watched.of(model), framing, "x" * 15, "y" * 5, task)
    assert words(seen).count("<delimiter>") == 1 and len(seen.tokens) == 20
    assert seen.answer is not None and "both orders" in seen.answer.note and "3 tokens did not fit" in seen.answer.note
    assert float(seen.answer.said) == pytest.approx(
        Classifier(model, framing, task).classify("x" * 15, "y" * 5)[0].answer, rel=1e-3
    )


def test_labels_stand_at_the_first_token_of_each_word(framing: Tokenizer) -> None:
    model, task = fine_tuned("tokens", "tokens", 3, ("O", "B", "I"))
    seen = see(Watched.of(model), framing, "ab cd", task=task)
    assert seen.answer is None and seen.expected is not None and seen.expected.kind == "labels"
    labelled = [place for place, shares in enumerate(seen.expected.places) if shares]
    assert [words(seen)[place] for place in labelled] == ["a", "c"]
    tags = Classifier(model, framing, task).classify("ab cd")[0].answer
    assert [seen.expected.places[place][0][0] for place in labelled] == tags


def test_words_beyond_the_length_are_counted(framing: Tokenizer) -> None:
    model, task = fine_tuned("tokens", "tokens", 3, ("O", "B", "I"))
    long, short = Classifier(model, framing, task).classify(["abcd " * 6, "ab cd"])
    assert long.unread > 0 and long.cut >= long.unread and long.answer[-long.unread :] == ["O"] * long.unread
    assert (short.cut, short.unread) == (0, 0)


def test_a_span_is_an_answer_and_has_its_borders_in_the_context(framing: Tokenizer) -> None:
    model, task = fine_tuned("span", "span", 2)
    seen = see(Watched.of(model), framing, "ab cd", "who?", task)
    assert "".join(words(seen)) == "<start>who?<delimiter>ab·cd<extract>"
    assert seen.answer is not None and seen.answer.said in "ab cd"
    assert seen.expected is not None
    spoken = [place for place, shares in enumerate(seen.expected.places) if shares]
    assert [words(seen)[place] for place in spoken] == list("ab·cd")


@pytest.mark.parametrize(
    ("task", "second", "said"), [("entail", None, "two texts"), ("classify", "b", "reads one text")]
)
def test_a_task_needs_its_number_of_texts(framing: Tokenizer, task: str, second: str | None, said: str) -> None:
    model, config = fine_tuned(task, "sequence", 2, ("no", "yes"))
    with pytest.raises(UserError, match=said):
        see(Watched.of(model), framing, "a", second, config)


def test_a_choice_is_scored_alone(framing: Tokenizer) -> None:
    model, task = fine_tuned("choice", "choice", 1)
    seen = see(Watched.of(model), framing, "why?", "so", task)
    assert "".join(words(seen)) == "<start>why?<delimiter>so<extract>"
    assert seen.answer is not None and seen.answer.said.startswith("a score of")


def test_the_figures_as_json(letters: Tokenizer) -> None:
    seen = see(Watched.of(make(preset("gpt2"), vocab_size=letters.vocab_size)), letters, "loom")
    document = json.loads(json.dumps(seen.as_dict(), allow_nan=False))
    assert [token["text"] for token in document["tokens"]] == list("loom")
    assert document["scores"][0][0][0][1:] == [None, None, None]
    assert document["weights"][1][3][0] == [1.0, 0.0, 0.0, 0.0]
    assert document["weights"][1][3][3] == pytest.approx(seen.maps.weights[1, 3, 3].tolist(), rel=1e-3)
