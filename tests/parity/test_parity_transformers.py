"""Our models against `transformers` of the same configuration: logits, hidden states, loss and every gradient.

Weights are random with std 0.2, gains and biases too, so that no error hides behind a zero or a one.
"""

from __future__ import annotations

from pathlib import Path

import pytest
import side_by_side
import torch
import torch.nn.functional as F
import transformers
from decoders import differences, keep_float64
from side_by_side import open_theirs, randomised, some_ids
from torch import Tensor, nn
from transformers.models.nanochat import modeling_nanochat
from transformers.models.qwen3 import modeling_qwen3

from gptloom.config.model import ModelConfig, preset
from gptloom.model.store import load_model, save_model
from gptloom.model.transformer import Transformer
from gptloom.tokenizer.train import train_tokenizer

COMMON = {"vocab_size": 97, "context": 32, "n_layer": 2, "d_model": 64, "n_head": 4}
VARIANTS = {
    "gpt2": preset("gpt2") | COMMON,
    "gpt2-untied-wide": preset("gpt2") | COMMON | {"tied_head": False, "d_ff": 160, "norm_eps": 1e-3},
    "modern": preset("modern-nano") | COMMON,
    "modern-grouped": preset("modern-nano")
    | COMMON
    | {"n_kv_head": 2, "head_dim": 24, "tied_head": False, "rope_theta": 500.0, "norm_eps": 1e-3},
    "fast": preset("fast-nano") | COMMON,
    "fast-grouped": preset("fast-nano")
    | COMMON
    | {"n_kv_head": 2, "rope_theta": 500.0, "logit_softcap": None, "tied_head": True, "d_ff": 96, "norm_eps": 1e-3},
}
CLASSES = {
    "gpt2": transformers.GPT2LMHeadModel,
    "modern": transformers.Qwen3ForCausalLM,
    "fast": transformers.NanoChatForCausalLM,
}


def both(variant: str, dtype: torch.dtype, folder: Path) -> tuple[Transformer, transformers.PreTrainedModel, Tensor]:
    """Our random model and the one `transformers` opens from our folder."""
    config = ModelConfig(**VARIANTS[variant])
    ours, theirs = side_by_side.both(config, dtype, folder)
    assert type(theirs) is CLASSES[config.family]
    return ours, theirs, some_ids(config)


@pytest.fixture
def wide_reference(monkeypatch: pytest.MonkeyPatch) -> None:
    """Takes the fp32 casts out of the norms, rotary tables and softmax of `transformers`."""

    def nanochat_norm(self: nn.Module, x: Tensor) -> Tensor:
        return self._norm(x)

    keep_float64(monkeypatch, modeling_qwen3, modeling_nanochat)
    monkeypatch.setattr(modeling_nanochat.NanoChatRMSNorm, "forward", nanochat_norm)


@pytest.mark.usefixtures("wide_reference")
@pytest.mark.parametrize("variant", VARIANTS)
def test_float64_with_a_reference_that_keeps_float64(variant: str, tmp_path: Path) -> None:
    found = differences(*both(variant, torch.float64, tmp_path))
    assert max(found.values()) <= 1e-10, found


@pytest.mark.parametrize("variant", VARIANTS)
def test_float64_with_the_reference_as_it_stands(variant: str, tmp_path: Path) -> None:
    found = differences(*both(variant, torch.float64, tmp_path))
    assert max(found.values()) <= (1e-10 if variant.startswith("gpt2") else 1e-6), found


@pytest.mark.parametrize("variant", VARIANTS)
def test_the_loss_is_the_one_they_give_themselves(variant: str, tmp_path: Path) -> None:
    ours, theirs, ids = both(variant, torch.float64, tmp_path)
    loss = F.cross_entropy(ours(ids)[:, :-1].flatten(0, 1), ids[:, 1:].flatten())
    assert abs(loss.item() - theirs(ids, labels=ids).loss.item()) <= 1e-6  # they cast the logits to fp32 first


@pytest.mark.parametrize("variant", VARIANTS)
def test_float32(variant: str, tmp_path: Path) -> None:
    found = differences(*both(variant, torch.float32, tmp_path))
    assert max(found.values()) <= 1e-5, found


@pytest.mark.parametrize("variant", VARIANTS)
def test_their_folder_opens_here(variant: str, tmp_path: Path) -> None:
    ours, theirs, ids = both(variant, torch.float32, tmp_path)
    theirs.save_pretrained(tmp_path / "theirs")
    again, config = load_model(tmp_path / "theirs")
    assert config.model_dump(exclude={"init", "dropout"}) == ours.config.model_dump(exclude={"init", "dropout"})
    assert torch.equal(again(ids), ours(ids))


@pytest.mark.parametrize("family", CLASSES)
def test_a_folder_that_transformers_made_alone_opens_here(family: str, tmp_path: Path) -> None:
    sizes = {"vocab_size": 61, "hidden_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4}
    inner = {} if family == "gpt2" else {"intermediate_size": 80, "num_key_value_heads": 2}
    theirs = CLASSES[family](CLASSES[family].config_class(**sizes, **inner, attn_implementation="eager")).eval()
    with torch.no_grad():
        for parameter in theirs.parameters():
            parameter.normal_(std=0.2)
    theirs.save_pretrained(tmp_path / "theirs", max_shard_size="40KB")
    assert (tmp_path / "theirs" / "model.safetensors.index.json").exists()
    ours, config = load_model(tmp_path / "theirs")
    assert config.family == family
    ids = torch.randint(61, (2, 20), generator=torch.Generator().manual_seed(3))
    torch.testing.assert_close(ours(ids), theirs(ids).logits, rtol=0, atol=1e-5)


def test_a_bare_gpt2_body_with_the_old_mask_buffers_opens_here(tmp_path: Path) -> None:
    # The published GPT-2 files have neither the "transformer." prefix nor a head, and carry the causal mask.
    from safetensors.torch import load_file, save_file

    ours, theirs, ids = both("gpt2", torch.float32, tmp_path)
    theirs.save_pretrained(tmp_path / "theirs")
    file = tmp_path / "theirs" / "model.safetensors"
    tensors = {name.removeprefix("transformer."): tensor for name, tensor in load_file(file).items()}
    tensors["h.0.attn.bias"] = torch.ones(1, 1, 32, 32).tril()
    save_file(tensors, file, metadata={"format": "pt"})
    again, _ = load_model(tmp_path / "theirs")
    assert torch.equal(again(ids), ours(ids))


@pytest.mark.parametrize("variant", ["gpt2", "modern", "fast"])
def test_model_and_tokenizer_open_with_the_auto_classes(variant: str, tmp_path: Path) -> None:
    text = "To be, or not to be, that is the question:\nWhether 'tis nobler in the mind to suffer."
    tokenizer = train_tokenizer("bytes", [text], None)
    config = ModelConfig(**VARIANTS[variant] | {"vocab_size": tokenizer.vocab_size, "context": 128})
    ours = randomised(config, torch.float32)
    save_model(tmp_path / "ours", ours, config, tokenizer=tokenizer)
    theirs = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "ours", attn_implementation="eager").eval()
    their_tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path / "ours")
    ids = their_tokenizer(text)["input_ids"]
    assert ids == tokenizer.encode(text)
    torch.testing.assert_close(ours(torch.tensor([ids])), theirs(torch.tensor([ids])).logits, rtol=0, atol=1e-5)
    assert theirs.generation_config.eos_token_id == tokenizer.eot_id
    assert (theirs.config.eos_token_id, theirs.config.pad_token_id) == (tokenizer.eot_id, tokenizer.pad_id)


def test_greedy_generation_of_transformers_follows_our_argmax(tmp_path: Path) -> None:
    ours, theirs, ids = both("modern", torch.float64, tmp_path)
    prompt = ids[:1, :8]
    written = theirs.generate(prompt, max_new_tokens=12, do_sample=False, pad_token_id=0)
    for length in range(8, 20):
        assert int(ours(written[:, :length])[0, -1].argmax()) == int(written[0, length])


@pytest.mark.slow
def test_gpt2_124m_float32(tmp_path: Path) -> None:
    config = ModelConfig(**preset("gpt2"))
    ours = randomised(config, torch.float32, std=0.02)
    save_model(tmp_path / "ours", ours, config)
    theirs = open_theirs(tmp_path / "ours", torch.float32)
    ids = some_ids(config, rows=1)[:, :512]
    with torch.no_grad():
        logits, wanted = ours(ids), theirs(ids).logits
    assert float((logits - wanted).abs().max()) <= 2e-4
    assert float((logits.log_softmax(-1) - wanted.log_softmax(-1)).abs().max()) <= 5e-5
