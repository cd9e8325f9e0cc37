"""A base without trained weights, or without their tokenizer, is told where those come from."""

from pathlib import Path

import pytest

from gptloom.config.errors import UserError
from gptloom.model.reference import Reference
from gptloom.stages.tuning.bases import check_tokenizer, weights_for


def test_published_weights_are_named_before_pretraining() -> None:
    assert weights_for("gpt2").startswith("hf:gpt2 for the trained weights")
    assert "pretrain --model gpt2 " in weights_for("gpt2") and "--untrained" in weights_for("gpt2")
    assert weights_for("bert-base").startswith("hf:google-bert/bert-base-uncased ")
    assert weights_for("modern-nano").startswith("gptloom pretrain --model modern-nano ")


def test_weights_need_their_own_tokenizer(tmp_path: Path) -> None:
    model, run = tmp_path / "model", tmp_path
    model.mkdir()
    with pytest.raises(UserError, match=r"tokenizer is missing(.|\n)*copy it from where the model comes") as error:
        check_tokenizer(Reference("model", model))
    assert "tokenizer train" not in str(error.value)
    (run / "tokenizer").mkdir()
    check_tokenizer(Reference("run", model, run))
    (model / "vocab.txt").touch()
    check_tokenizer(Reference("model", model))
