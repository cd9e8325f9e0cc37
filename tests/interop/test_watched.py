"""Looking at any model reference: runs and folders of ours, fine-tuned ones, and bodies that only transformers opens."""

from __future__ import annotations

import os
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")  # nothing here may reach for a network

import pytest
import torch
import transformers

from gptloom.config.errors import UserError
from gptloom.config.model import ModelConfig, preset
from gptloom.config.task import Columns, HeadConfig, TaskConfig, TaskTokens
from gptloom.generation.attention_text import see
from gptloom.interop.bodies import open_body, save_foreign
from gptloom.interop.classifiers import open_classifier
from gptloom.interop.watched import open_watched
from gptloom.model.store import save_model
from gptloom.model.transformer import Transformer
from gptloom.tokenizer.tokenizer import Tokenizer
from gptloom.tokenizer.train import train_tokenizer

TEXT = "the loom weaves threads into cloth. "


@pytest.fixture(scope="module")
def pieces() -> Tokenizer:
    return train_tokenizer("wordpiece", [TEXT * 4], 50)


def task_of(tokenizer: Tokenizer) -> TaskConfig:
    assert tokenizer.cls_id is not None and tokenizer.sep_id is not None
    return TaskConfig(
        task="classify",
        labels=("bad", "good"),
        columns=Columns(text="text"),
        inputs="bert",
        tokens=TaskTokens(start=tokenizer.cls_id, delimiter=(tokenizer.sep_id,), extract=tokenizer.sep_id),
        max_length=20,
    )


HEAD = HeadConfig(kind="sequence", n_labels=2, pooling="first")
SIZES = {"vocab_size": 50, "hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 4, "intermediate_size": 48}
BODIES = {
    "distilbert": ("DistilBert", {"vocab_size": 50, "dim": 32, "n_layers": 3, "n_heads": 4, "hidden_dim": 48}),
    "albert": ("Albert", {**SIZES, "embedding_size": 16}),  # whose layers share their weights
    "electra": ("Electra", {**SIZES, "embedding_size": 16}),
    "t5": ("T5", {"vocab_size": 50, "d_model": 32, "num_layers": 3, "num_heads": 4, "d_kv": 8, "d_ff": 48}),
    "opt": ("OPT", {**SIZES, "ffn_dim": 48, "word_embed_proj_dim": 32, "max_position_embeddings": 64}),
    "falcon": ("Falcon", {**SIZES, "alibi": False}),
}


def write_body(folder: Path, name: str) -> None:
    prefix, fields = BODIES[name]
    torch.manual_seed(0)
    made = getattr(transformers, f"{prefix}{'EncoderModel' if name == 't5' else 'Model'}")
    body = made(getattr(transformers, f"{prefix}Config")(**fields))
    with torch.no_grad():
        for parameter in body.parameters():
            parameter.normal_(std=0.3)
    body.save_pretrained(folder)


@pytest.mark.parametrize("name", sorted(BODIES.keys() - {"falcon"}))
def test_a_body_of_transformers_shows_its_weights(name: str, pieces: Tokenizer, tmp_path: Path) -> None:
    folder = tmp_path / name
    write_body(folder, name)
    pieces.save(folder)
    watched, tokenizer, task = open_watched(str(folder))
    seen = see(watched, tokenizer, "the loom weaves")
    weights = seen.maps.weights
    assert task is None and seen.expected is None and seen.maps.scores is None and seen.maps.value_sizes is None
    assert weights.shape == (3, 4, len(seen.tokens), len(seen.tokens))
    torch.testing.assert_close(weights.sum(-1), torch.ones(weights.shape[:3]))
    later = torch.ones(weights.shape[-2:]).triu(1).bool()
    assert bool((weights[..., later] == 0).all()) == watched.causal == (name == "opt")
    assert (seen.tokens[0].text == "[CLS]") == (not watched.causal)
    page = seen.page(name)
    assert (
        page.totals is None
        and page.about.startswith(f"{name} of transformers, ")
        and "3 layers of 4 heads" in page.about
    )


def test_what_is_no_softmax_is_not_shown(pieces: Tokenizer, tmp_path: Path) -> None:
    """Falcon does not change to the attention that tells its weights: what it returns instead sees what comes later."""
    write_body(tmp_path / "falcon", "falcon")
    pieces.save(tmp_path / "falcon")
    watched, tokenizer, _ = open_watched(str(tmp_path / "falcon"))
    with pytest.raises(UserError, match="falcon of transformers does not tell"):
        see(watched, tokenizer, "the loom weaves")


def test_a_fine_tuned_body_of_transformers_answers(pieces: Tokenizer, tmp_path: Path) -> None:
    write_body(tmp_path / "body", "distilbert")
    model = open_body(tmp_path / "body")
    model.add_head(HEAD, seed=0)
    save_foreign(tmp_path / "tuned", model.state_dict(), model, tokenizer=pieces, task=task_of(pieces))
    watched, tokenizer, task = open_watched(str(tmp_path / "tuned"))
    seen = see(watched, tokenizer, "the loom", task=task)
    [wanted] = open_classifier(tmp_path / "tuned", precision="fp32").classify("the loom")
    assert seen.answer is not None and seen.answer.said == wanted.answer
    assert dict(seen.answer.shares) == pytest.approx(wanted.probabilities, abs=1e-5)


def test_a_fine_tuned_model_of_ours_answers_and_shows_everything(pieces: Tokenizer, tmp_path: Path) -> None:
    fields = {
        "n_layer": 2,
        "d_model": 32,
        "n_head": 4,
        "context": 32,
        "vocab_size": pieces.vocab_size,
        "task_head": HEAD,
    }
    bare = {"masked_head": False, "pair_head": False}
    model = Transformer.initialised(ModelConfig(**{**preset("bert-tiny"), **bare, **fields}), seed=0)
    save_model(tmp_path / "tuned", model, model.config, tokenizer=pieces, task=task_of(pieces))
    watched, tokenizer, task = open_watched(str(tmp_path / "tuned"))
    seen = see(watched, tokenizer, "the loom", task=task)
    [wanted] = open_classifier(tmp_path / "tuned", precision="fp32").classify("the loom")
    assert seen.answer is not None and seen.answer.said == wanted.answer
    assert seen.maps.scores is not None and seen.maps.value_sizes is not None


def test_a_pair_for_a_body_that_tells_no_segments_apart_is_refused(pieces: Tokenizer, tmp_path: Path) -> None:
    write_body(tmp_path / "body", "distilbert")
    pieces.save(tmp_path / "body")
    watched, tokenizer, _ = open_watched(str(tmp_path / "body"))
    with pytest.raises(UserError, match="reads one text"):
        see(watched, tokenizer, "the loom", "the cloth")
