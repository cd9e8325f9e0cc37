"""The score of guessed words, against sums by hand, and ``gptloom evaluate`` of a model that fills masks."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import torch

import gptloom
from gptloom.cli.main import main
from gptloom.config.errors import UserError
from gptloom.config.model import ModelConfig, preset
from gptloom.data.documents import Document
from gptloom.data.masked_batches import masked_eval_batches
from gptloom.data.masking import MaskVocabulary
from gptloom.evaluation import masked
from gptloom.evaluation.masked import MaskedScore, guess, score_masked
from gptloom.evaluation.perplexity import join_documents
from gptloom.model.attention import Mask
from gptloom.model.store import save_model
from gptloom.model.transformer import Transformer
from gptloom.tokenizer.train import train_tokenizer

TEXT = "the loom weaves threads into cloth, and the cloth is sold in the town where the weaver lives. " * 6
WORDPIECE = train_tokenizer("wordpiece", [TEXT], 60)
TOKENS = join_documents([Document(TEXT, "text", 1), Document(TEXT, "text", 1)], WORDPIECE)


def bert(**fields: object) -> Transformer:
    shape = {"vocab_size": WORDPIECE.vocab_size, "context": 24, "n_layer": 2, "d_model": 32, "n_head": 2}
    model = Transformer.initialised(ModelConfig(**{**preset("bert-tiny"), **shape, **fields}), seed=0)
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(std=0.2, generator=generator)
    return model.eval()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    model = bert()
    save_model(tmp_path / "model", model, model.config, tokenizer=WORDPIECE)
    return tmp_path / "model"


@torch.no_grad()
def test_score_is_the_sum_over_the_chosen_words() -> None:
    model, nats, correct, total = bert(), 0.0, 0, 0
    for batch in masked_eval_batches(TOKENS, 24, 1, MaskVocabulary.of(WORDPIECE), pairs="none"):
        mask = None if batch.padding_mask is None else Mask(batch.padding_mask)
        logprobs = model(batch.ids, mask=mask)[0].log_softmax(-1)
        for place in batch.weights[0].nonzero()[:, 0].tolist():
            target = int(batch.targets[0, place])
            nats -= float(logprobs[place, target])
            correct += int(logprobs[place].argmax()) == target
            total += 1
    score = score_masked(model, WORDPIECE, TOKENS)
    assert (score.masked, score.correct) == (total, correct) and score.nats == pytest.approx(nats, rel=1e-5)
    assert score.loss == pytest.approx(nats / total, rel=1e-5) and score.accuracy == correct / total
    assert 0.1 < total / TOKENS.n_tokens < 0.2


def test_batches_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = [torch.cat(parts) for parts in zip(*guess(bert(), WORDPIECE, TOKENS), strict=True)]
    monkeypatch.setattr(masked, "ROW_TOKENS", 24)
    alone = [torch.cat(parts) for parts in zip(*guess(bert(), WORDPIECE, TOKENS), strict=True)]
    assert torch.equal(whole[0], alone[0]) and torch.equal(whole[1], alone[1])
    assert torch.allclose(whole[2], alone[2], atol=1e-4)


def test_a_model_that_knows_nothing_is_at_chance() -> None:
    model = bert()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
    assert score_masked(model, WORDPIECE, TOKENS).loss == pytest.approx(math.log(WORDPIECE.vocab_size))


def test_scores_add_up() -> None:
    total = MaskedScore(2.0, 4, 1) + MaskedScore(4.0, 8, 5)
    assert total == MaskedScore(6.0, 12, 6) and total.loss == total.accuracy == 0.5


def test_what_can_not_be_scored_is_refused() -> None:
    nothing = join_documents([], WORDPIECE)
    with pytest.raises(UserError, match="nothing to guess"):
        score_masked(bert(), WORDPIECE, nothing)
    with pytest.raises(UserError, match="without its head"):
        score_masked(bert(masked_head=False), WORDPIECE, TOKENS)


def test_evaluate_says_loss_and_accuracy(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    texts = [tmp_path / "one.txt", tmp_path / "two.txt"]
    for path, times in zip(texts, (1, 3), strict=True):
        path.write_text(TEXT * times, encoding="utf-8")
    arguments = ["evaluate", str(folder), "--data", *map(str, texts)]
    assert main(arguments) == 0
    printed = capsys.readouterr().out
    assert main([*arguments, "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    result = gptloom.evaluate(folder, data=texts)
    assert document["accuracy"] == result.total.accuracy and document["masked"] == result.total.masked
    assert set(document["files"]) == set(result.files) == set(map(str, texts))
    assert f"accuracy: {result.total.accuracy:.2%}" in printed and f"loss: {result.total.loss:.4f}" in printed
    assert printed.splitlines()[0].split() == ["file", "loss", "accuracy", "masked", "words"]


def test_evaluate_refuses_a_stride_that_would_do_nothing(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["evaluate", str(folder), "--data", __file__, "--stride", "4"]) == 2
    assert "--stride does nothing" in capsys.readouterr().err
