"""BERT against `transformers`: hidden states, pooled output, masked words, sentence pairs, the loss, every gradient."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
import transformers
from safetensors.torch import load_file, save_file
from side_by_side import block_outputs, both, gradients, open_theirs, padding, randomise, randomised, relative, some_ids
from torch import Tensor

from gptloom.config.errors import UserError
from gptloom.config.model import ModelConfig, preset
from gptloom.model.attention import Mask
from gptloom.model.store import load_model, read_config, save_model
from gptloom.model.transformer import Transformer

SIZES = {"vocab_size": 97, "context": 24, "n_layer": 2, "d_model": 64, "n_head": 4}
BERT = preset("bert-tiny") | SIZES
NO_HEADS = {"masked_head": False, "pooler": False, "pair_head": False}
VARIANTS = {
    "pretraining": BERT,
    "tanh-wide": BERT | {"activation": "gelu_tanh", "d_ff": 160, "norm_eps": 1e-3, "segments": 3},
    "relu-untied": BERT | {"activation": "relu", "tied_head": False},
    "masked": BERT | NO_HEADS | {"masked_head": True},
    "pairs": BERT | NO_HEADS | {"pooler": True, "pair_head": True},
    "body": BERT | NO_HEADS | {"pooler": True},
}
CLASSES = {
    "pretraining": transformers.BertForPreTraining,
    "tanh-wide": transformers.BertForPreTraining,
    "relu-untied": transformers.BertForPreTraining,
    "masked": transformers.BertForMaskedLM,
    "pairs": transformers.BertForNextSentencePrediction,
    "body": transformers.BertModel,
}
IDLE = {"relu-untied": frozenset({"cls.predictions.bias"})}  # with a head of its own transformers adds the decoder's


def segments_of(ids: Tensor) -> Tensor:
    """The second sentence begins after 9 tokens, in the second row after 14."""
    return (torch.arange(ids.shape[1])[None] >= torch.tensor([9, 14, 4])[: ids.shape[0], None]).long()


def some_loss(outputs: dict[str, Tensor], ids: Tensor, valid: Tensor) -> Tensor:
    """Masked words (every third token) plus pairs; of a body, any mean of what it gives."""
    chosen = valid & (torch.arange(ids.shape[1]) % 3 == 0)
    terms = []
    if "words" in outputs:
        terms.append(F.cross_entropy(outputs["words"][chosen], ids[chosen]))
    if "pairs" in outputs:
        rows = valid[:, 0]
        terms.append(F.cross_entropy(outputs["pairs"][rows], (torch.arange(ids.shape[0]) % 2)[rows]))
    return sum(terms, torch.zeros(())) if terms else outputs["pooled"][valid[:, 0]].sin().mean()


def ours_of(model: Transformer, ids: Tensor, mask: Mask | None) -> tuple[dict[str, Tensor], list[Tensor]]:
    states = block_outputs(model, lambda: model.hidden(ids, mask=mask, segments=segments_of(ids)))
    outputs = {"pooled": model.pooled(states[-1])} if model.config.pooler else {}
    if model.config.masked_head:
        outputs["words"] = model.logits(states[-1])
    if model.config.pair_head:
        outputs["pairs"] = model.pair_logits(states[-1])
    return outputs, states


def theirs_of(
    model: transformers.PreTrainedModel, ids: Tensor, valid: Tensor
) -> tuple[dict[str, Tensor], list[Tensor]]:
    inputs = {"input_ids": ids, "attention_mask": valid.long(), "token_type_ids": segments_of(ids)}
    result = model(**inputs, output_hidden_states=True)
    names = {"prediction_logits": "words", "seq_relationship_logits": "pairs", "pooler_output": "pooled"}
    names["logits"] = "words" if isinstance(model, transformers.BertForMaskedLM) else "pairs"
    outputs = {ours: result[theirs] for theirs, ours in names.items() if theirs in result}
    body = getattr(model, "bert", model)
    if body.pooler is not None:
        outputs["pooled"] = body.pooler(result.hidden_states[-1])
    return outputs, list(result.hidden_states[1:])


def differences(variant: str, dtype: torch.dtype, folder: Path, side: str | None = None) -> dict[str, float]:
    ours, theirs = both(ModelConfig(**VARIANTS[variant]), dtype, folder)
    assert type(theirs) is CLASSES[variant]
    ids = some_ids(ours.config, rows=3)
    valid = padding(side, *ids.shape) if side else torch.ones_like(ids, dtype=torch.bool)
    found, states = ours_of(ours, ids, Mask(key_valid=valid) if side else None)
    wanted, their_states = theirs_of(theirs, ids, valid)
    assert found.keys() == wanted.keys()
    loss, their_loss = some_loss(found, ids, valid), some_loss(wanted, ids, valid)
    loss.backward()
    their_loss.backward()
    # Where the first token is padding, on the left, what it sums up means nothing, there and here.
    seen = {name: valid if name == "words" else valid[:, 0] for name in found}
    hidden = zip(states, their_states, strict=True)
    return {
        **{name: relative(found[name][which], wanted[name][which]) for name, which in seen.items()},
        "hidden": max(relative(mine[valid], reference[valid]) for mine, reference in hidden),
        "loss": abs(loss.item() - their_loss.item()),
        "gradients": gradients(ours, theirs, IDLE.get(variant, frozenset())),
    }


@pytest.mark.parametrize("variant", VARIANTS)
def test_float64(variant: str, tmp_path: Path) -> None:
    found = differences(variant, torch.float64, tmp_path)
    assert max(found.values()) <= 1e-10, found


@pytest.mark.parametrize("side", ["left", "right"])
def test_padding(side: str, tmp_path: Path) -> None:
    found = differences("pretraining", torch.float64, tmp_path, side)
    assert max(found.values()) <= 1e-10, found


@pytest.mark.parametrize("variant", VARIANTS)
def test_float32(variant: str, tmp_path: Path) -> None:
    found = differences(variant, torch.float32, tmp_path)
    assert max(found.values()) <= 1e-5, found


def test_the_loss_is_that_of_their_pretraining_class(tmp_path: Path) -> None:
    ours, theirs = both(ModelConfig(**BERT), torch.float64, tmp_path)
    ids = some_ids(ours.config)
    valid, segments = torch.ones_like(ids), segments_of(ids)
    labels = ids.where(torch.arange(ids.shape[1]) % 3 == 0, torch.tensor(-100))
    result = theirs(ids, valid, segments, labels=labels, next_sentence_label=torch.tensor([0, 1]))
    found, _ = ours_of(ours, ids, None)
    assert some_loss(found, ids, valid.bool()).item() == pytest.approx(result.loss.item(), abs=1e-10)


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_folder_that_transformers_made_alone_opens_here(variant: str, tmp_path: Path) -> None:
    config = transformers.BertConfig(
        vocab_size=61,
        hidden_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=80,
        max_position_embeddings=24,
        hidden_act=VARIANTS[variant]["activation"].replace("gelu_tanh", "gelu_new"),
        tie_word_embeddings=VARIANTS[variant]["tied_head"],
        attention_probs_dropout_prob=0.25,
        attn_implementation="eager",
    )
    theirs = CLASSES[variant](config).eval()
    randomise(theirs)
    theirs.save_pretrained(tmp_path / "theirs")
    ours, ours_config = load_model(tmp_path / "theirs")
    held = {name: VARIANTS[variant][name] for name in NO_HEADS}
    assert ours_config.family == "bert" and {name: getattr(ours_config, name) for name in NO_HEADS} == held
    assert (ours_config.dropout, ours_config.attention_dropout) == (0.1, 0.25)
    ids = torch.randint(61, (3, 24), generator=torch.Generator().manual_seed(3))
    found, _ = ours_of(ours, ids, None)
    wanted, _ = theirs_of(theirs, ids, torch.ones_like(ids))
    assert found.keys() == wanted.keys()
    for name in found:
        torch.testing.assert_close(found[name], wanted[name], rtol=0, atol=1e-5)
    # And back again, without a tensor missing or left over.
    save_model(tmp_path / "again", ours, ours_config)
    back, _ = theirs_of(open_theirs(tmp_path / "again", torch.float32), ids, torch.ones_like(ids))
    assert all(torch.equal(back[name], wanted[name]) for name in wanted)


def test_old_names_prefixes_copies_and_buffers_are_understood(tmp_path: Path) -> None:
    # The published BERTs: LayerNorms named as in TensorFlow, the decoder stored beside the embedding, position_ids.
    config = ModelConfig(**BERT)
    ours = randomised(config, torch.float32)
    save_model(tmp_path / "m", ours, config)
    file = tmp_path / "m" / "model.safetensors"
    tensors = load_file(file)
    tensors["cls.predictions.decoder.weight"] = tensors["bert.embeddings.word_embeddings.weight"].clone()
    tensors["cls.predictions.decoder.bias"] = tensors["cls.predictions.bias"].clone()
    tensors["bert.embeddings.position_ids"] = torch.arange(24)[None]
    renamed = {
        name.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta"): tensor
        for name, tensor in tensors.items()
    }
    save_file(renamed, file, metadata={"format": "pt"})
    again, same = load_model(tmp_path / "m")
    assert same == config
    assert all(torch.equal(again.state_dict()[name], tensor) for name, tensor in ours.state_dict().items())
    renamed["cls.predictions.decoder.bias"] += 1
    save_file(renamed, file, metadata={"format": "pt"})
    with pytest.raises(UserError, match=r"cls\.predictions\.decoder\.bias is stored and differs"):
        load_model(tmp_path / "m")


def test_a_body_without_the_prefix_or_the_pooler(tmp_path: Path) -> None:
    config = ModelConfig(**BERT | NO_HEADS)
    ours = randomised(config, torch.float32)
    save_model(tmp_path / "m", ours, config)
    file = tmp_path / "m" / "model.safetensors"
    bare = {name.removeprefix("bert."): tensor for name, tensor in load_file(file).items()}
    save_file(bare, file, metadata={"format": "pt"})
    again, same = load_model(tmp_path / "m")
    assert same == config
    assert torch.equal(again.hidden(some_ids(config)), ours.hidden(some_ids(config)))


def test_heads_are_those_that_are_stored_whatever_the_class_is_called(tmp_path: Path) -> None:
    for pooler in (False, True):  # trained on words alone, with and without a pooler
        config = ModelConfig(**BERT | {"pair_head": False, "pooler": pooler})
        save_model(tmp_path / "m", randomised(config, torch.float32), config)
        assert read_config(tmp_path / "m") == config


def test_every_missing_extra_and_misshapen_tensor_is_named(tmp_path: Path) -> None:
    config = ModelConfig(**BERT)
    save_model(tmp_path / "m", randomised(config, torch.float32), config)
    file = tmp_path / "m" / "model.safetensors"
    tensors = load_file(file)
    del tensors["cls.predictions.bias"], tensors["bert.encoder.layer.1.attention.self.key.bias"]
    tensors["elsewhere.weight"] = torch.zeros(2, 64)
    tensors["bert.pooler.dense.weight"] = torch.zeros(64, 63)
    save_file(tensors, file, metadata={"format": "pt"})
    with pytest.raises(UserError) as caught:
        load_model(tmp_path / "m")
    text = str(caught.value)
    assert len(caught.value.problems) == 4
    assert "cls.predictions.bias is missing" in text and "layer.1.attention.self.key.bias is missing" in text
    assert "elsewhere.weight belongs to nothing" in text and "[64, 63]" in text


@pytest.mark.slow
def test_bert_base_float32(tmp_path: Path) -> None:
    config = ModelConfig(**preset("bert-base"))
    ours, theirs = both(config, torch.float32, tmp_path, std=0.02)
    ids = some_ids(config, rows=1)[:, :128]
    with torch.no_grad():
        found, states = ours_of(ours, ids, None)
        wanted, their_states = theirs_of(theirs, ids, torch.ones_like(ids))
    for mine, reference in [*((found[name], wanted[name]) for name in wanted), (states[-1], their_states[-1])]:
        assert float((mine - reference).abs().max()) <= 1e-4
