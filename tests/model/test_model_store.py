from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from gptloom.config.errors import UserError
from gptloom.config.model import ModelConfig, preset
from gptloom.model import store
from gptloom.model.store import check_vocabulary, content_hash, load_model, read_config, read_lineage, save_model
from gptloom.model.transformer import Transformer
from gptloom.tokenizer.load import load_tokenizer
from gptloom.tokenizer.train import train_tokenizer

TINY = {"vocab_size": 300, "context": 16, "n_layer": 2, "d_model": 32, "n_head": 4}
FAMILIES = {"gpt2": preset("gpt2"), "modern": preset("modern-nano"), "fast": preset("fast-nano")}


def model_of(family: str = "modern", seed: int = 0, **change: object) -> Transformer:
    config = ModelConfig(**FAMILIES[family] | TINY | change)
    model = Transformer.initialised(config, seed).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=torch.Generator().manual_seed(seed)), alpha=0.1)
    return model


def some_ids() -> Tensor:
    return torch.arange(12)[None] * 7 % 300


def save(folder: Path, family: str = "modern", seed: int = 0) -> Transformer:
    model = model_of(family, seed)
    save_model(folder, model, model.config)
    return model


@pytest.mark.parametrize("family", FAMILIES)
def test_saved_and_loaded_is_the_same_model(family: str, tmp_path: Path) -> None:
    model = model_of(family, dropout=0.2)
    save_model(tmp_path / "m", model, model.config)
    again, config = load_model(tmp_path / "m")
    assert config == model.config == read_config(tmp_path / "m")
    assert not again.training
    assert torch.equal(again(some_ids()), model(some_ids()))
    assert all(parameter.requires_grad for parameter in again.parameters())


def test_the_weights_outlive_their_folder_and_train(tmp_path: Path) -> None:
    save(tmp_path / "m")
    model, _ = load_model(tmp_path / "m")
    before = model(some_ids())
    save(tmp_path / "m", seed=1)
    (tmp_path / "m" / "model.safetensors").write_bytes(b"")
    assert torch.equal(model(some_ids()), before)
    model(some_ids()).sum().backward()
    with torch.no_grad():
        model.embedding.weight.sub_(model.embedding.weight.grad)
    assert not torch.equal(model(some_ids()), before)


def test_a_state_by_name_is_stored_like_a_model(tmp_path: Path) -> None:
    model = model_of()
    flat = torch.cat([tensor.flatten() for tensor in model.state_dict().values()])  # masters as views of one buffer
    parts = flat.split([tensor.numel() for tensor in model.state_dict().values()])
    state = {n: part.view(t.shape) for (n, t), part in zip(model.state_dict().items(), parts, strict=True)}
    save_model(tmp_path / "state", state, model.config)
    save_model(tmp_path / "model", model, model.config)
    assert content_hash(tmp_path / "state") == content_hash(tmp_path / "model")
    del state["norm.weight"]
    with pytest.raises(ValueError, match=r"norm\.weight"):
        save_model(tmp_path / "wrong", state, model.config)
    assert not (tmp_path / "wrong").exists()


def test_dtype_is_that_of_the_file_unless_asked_for(tmp_path: Path) -> None:
    model = model_of()
    save_model(tmp_path / "half", model, model.config, dtype=torch.bfloat16)
    assert json.loads((tmp_path / "half" / "config.json").read_text(encoding="utf-8"))["dtype"] == "bfloat16"
    assert {p.dtype for p in load_model(tmp_path / "half")[0].parameters()} == {torch.bfloat16}
    assert {p.dtype for p in load_model(tmp_path / "half", dtype=torch.float32)[0].parameters()} == {torch.float32}


def test_a_tied_head_is_stored_once(tmp_path: Path) -> None:
    model = save(tmp_path / "m")
    stored = load_file(tmp_path / "m" / "model.safetensors")
    assert "lm_head.weight" not in stored
    assert sum(t.numel() for t in stored.values()) == sum(p.numel() for p in model.parameters())


def test_a_stored_copy_of_a_tied_head_must_be_a_copy(tmp_path: Path) -> None:
    model = save(tmp_path / "m")
    file = tmp_path / "m" / "model.safetensors"
    tensors = load_file(file)
    save_file(tensors | {"lm_head.weight": tensors["model.embed_tokens.weight"].clone()}, file)
    assert torch.equal(load_model(tmp_path / "m")[0](some_ids()), model(some_ids()))
    save_file(tensors | {"lm_head.weight": tensors["model.embed_tokens.weight"] + 1}, file)
    with pytest.raises(UserError, match="tie_word_embeddings"):
        load_model(tmp_path / "m")


def test_shards_of_limited_size(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store, "SHARD_BYTES", 20_000)
    model = save(tmp_path / "m")
    files = sorted(path.name for path in (tmp_path / "m").glob("*.safetensors"))
    index = json.loads((tmp_path / "m" / "model.safetensors.index.json").read_text(encoding="utf-8"))
    assert files == sorted(set(index["weight_map"].values())) and len(files) > 2
    assert files[0] == f"model-00001-of-{len(files):05}.safetensors"
    assert index["metadata"]["total_size"] == sum(p.nbytes for p in model.parameters())
    for file in files:
        tensors = load_file(tmp_path / "m" / file)
        assert len(tensors) == 1 or sum(t.nbytes for t in tensors.values()) <= 20_000
    assert torch.equal(load_model(tmp_path / "m")[0](some_ids()), model(some_ids()))
    (tmp_path / "m" / files[0]).unlink()
    (tmp_path / "m" / files[1]).unlink()
    with pytest.raises(UserError) as caught:
        load_model(tmp_path / "m")
    assert len(caught.value.problems) == 2 and files[1] in str(caught.value)


def test_an_index_cannot_point_outside_its_folder(tmp_path: Path) -> None:
    save(tmp_path / "m")
    (tmp_path / "m" / "model.safetensors").rename(tmp_path / "other.safetensors")
    index = {"weight_map": {"model.norm.weight": "../other.safetensors"}}
    (tmp_path / "m" / "model.safetensors.index.json").write_text(json.dumps(index), encoding="utf-8")
    with pytest.raises(UserError, match=r"\.\./other"):
        load_model(tmp_path / "m")


def test_every_missing_extra_and_misshapen_tensor_is_named(tmp_path: Path) -> None:
    save(tmp_path / "m")
    file = tmp_path / "m" / "model.safetensors"
    tensors = load_file(file)
    del tensors["model.norm.weight"]
    del tensors["model.layers.1.mlp.up_proj.weight"]
    tensors["model.layers.2.mlp.up_proj.weight"] = torch.zeros(2)
    tensors["model.layers.0.self_attn.q_proj.weight"] = torch.zeros(31, 32)
    save_file(tensors, file)
    with pytest.raises(UserError) as caught:
        load_model(tmp_path / "m")
    text = str(caught.value)
    assert len(caught.value.problems) == 4
    assert "model.norm.weight is missing" in text and "layers.1.mlp.up_proj.weight is missing" in text
    assert "layers.2.mlp.up_proj.weight belongs to nothing" in text
    assert "[31, 32]" in text and "[32, 32]" in text


@pytest.mark.parametrize("keep", [0, 5, 100, -1])
def test_a_truncated_file_says_so(keep: int, tmp_path: Path) -> None:
    save(tmp_path / "m")
    file = tmp_path / "m" / "model.safetensors"
    file.write_bytes(file.read_bytes()[:keep])
    with pytest.raises(UserError, match="cut short or damaged") as caught:
        load_model(tmp_path / "m")
    assert str(file) in str(caught.value)


@pytest.mark.parametrize("text", [b"{}  ", b"[1] ", b'{"a": 3}', b'{"a": {"dtype": "F32", "shape": 1}}'])
def test_a_broken_header_says_so(text: bytes, tmp_path: Path) -> None:
    save(tmp_path / "m")
    file = tmp_path / "m" / "model.safetensors"
    file.write_bytes(len(text).to_bytes(8, "little") + text + b"1234")
    with pytest.raises(UserError, match="cut short or damaged"):
        load_model(tmp_path / "m")


def test_a_git_lfs_pointer_is_recognised(tmp_path: Path) -> None:
    save(tmp_path / "m")
    (tmp_path / "m" / "model.safetensors").write_text("version https://git-lfs.github.com/spec/v1\n", encoding="utf-8")
    with pytest.raises(UserError, match="git lfs pull"):
        load_model(tmp_path / "m")


def test_pickled_weights_are_refused_with_the_reason(tmp_path: Path) -> None:
    save(tmp_path / "m")
    (tmp_path / "m" / "model.safetensors").rename(tmp_path / "m" / "pytorch_model.bin")
    with pytest.raises(UserError) as caught:
        load_model(tmp_path / "m")
    text = str(caught.value)
    assert "pytorch_model.bin" in text and "runs whatever code" in text and "save_pretrained" in text


def test_a_folder_without_config_or_weights_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no config\.json"):
        load_model(tmp_path)
    save(tmp_path / "m")
    (tmp_path / "m" / "model.safetensors").unlink()
    with pytest.raises(UserError, match=r"no model\.safetensors"):
        load_model(tmp_path / "m")


def test_broken_json_names_its_line(tmp_path: Path) -> None:
    save(tmp_path / "m")
    (tmp_path / "m" / "config.json").write_text('{\n"a": }', encoding="utf-8")
    with pytest.raises(UserError, match=r"config\.json:2"):
        load_model(tmp_path / "m")


def test_a_folder_is_replaced_whole(tmp_path: Path) -> None:
    save(tmp_path / "m", "gpt2")
    (tmp_path / "m" / "leftover.txt").write_text("of the old one", encoding="utf-8")
    model = save(tmp_path / "m", "fast")
    assert not (tmp_path / "m" / "leftover.txt").exists()
    assert torch.equal(load_model(tmp_path / "m")[0](some_ids()), model(some_ids()))
    assert [path.name for path in tmp_path.iterdir()] == ["m"]


def test_a_failed_save_leaves_the_old_folder_and_no_trace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = save(tmp_path / "m")

    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(store, "write_tensors", full)
    with pytest.raises(OSError, match="No space left"):
        save(tmp_path / "m", seed=1)
    assert torch.equal(load_model(tmp_path / "m")[0](some_ids()), model(some_ids()))
    assert [path.name for path in tmp_path.iterdir()] == ["m"]


def test_the_old_folder_comes_back_when_the_swap_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = save(tmp_path / "m")
    rename = Path.rename

    def failing(self: Path, target: Path) -> Path:
        if self.name.endswith(".part"):
            raise OSError("rename failed")
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", failing)
    with pytest.raises(OSError, match="rename failed"):
        save(tmp_path / "m", seed=1)
    assert torch.equal(load_model(tmp_path / "m")[0](some_ids()), model(some_ids()))
    assert [path.name for path in tmp_path.iterdir()] == ["m"]


def test_a_folder_of_something_else_is_never_replaced(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("years of work", encoding="utf-8")
    with pytest.raises(UserError, match="not a model folder"):
        save(tmp_path)
    assert (tmp_path / "thesis.tex").read_text(encoding="utf-8") == "years of work"


@pytest.mark.skipif(os.name == "nt", reason="Windows has no umask")
def test_files_are_readable_as_the_umask_says(tmp_path: Path) -> None:
    save(tmp_path / "m")
    (tmp_path / "plain").mkdir()
    assert (tmp_path / "m").stat().st_mode == (tmp_path / "plain").stat().st_mode


def test_tokenizer_and_its_ids_travel_with_the_model(tmp_path: Path) -> None:
    tokenizer = train_tokenizer("bytes", ["text"], None)
    model = model_of()
    lineage = {"parents": [], "initialisation": "modern", "metrics": {"valid_loss": 1.5}}
    save_model(
        tmp_path / "m", model, model.config, tokenizer=tokenizer, generation={"temperature": 0.8}, lineage=lineage
    )
    assert load_tokenizer(tmp_path / "m").hash == tokenizer.hash
    generation = json.loads((tmp_path / "m" / "generation_config.json").read_text(encoding="utf-8"))
    assert generation["eos_token_id"] == tokenizer.eot_id and generation["temperature"] == 0.8
    document = read_lineage(tmp_path / "m")
    assert document["lineage"] == lineage
    assert document["tokenizer_hash"] == tokenizer.hash
    assert set(document["versions"]) == {"gptloom", "torch"}


def test_a_tokenizer_with_more_ids_than_the_model_is_refused(tmp_path: Path) -> None:
    tokenizer = train_tokenizer("bytes", ["text"], None)
    model = model_of(vocab_size=100)
    with pytest.raises(UserError, match="258 ids and the model only 100"):
        save_model(tmp_path / "m", model, model.config, tokenizer=tokenizer)
    check_vocabulary(tokenizer, model_of(vocab_size=320).config, "m")  # spare rows are fine


def test_a_lineage_that_is_none_is_refused(tmp_path: Path) -> None:
    save(tmp_path / "m")
    (tmp_path / "m" / "gptloom.json").write_text('{"version": 1, "lineage": 5}', encoding="utf-8")
    with pytest.raises(UserError, match='"lineage" is no JSON object'):
        read_lineage(tmp_path / "m")


def test_a_folder_by_a_newer_gptloom_is_refused(tmp_path: Path) -> None:
    save(tmp_path / "m")
    (tmp_path / "m" / "gptloom.json").write_text('{"version": 99}', encoding="utf-8")
    with pytest.raises(UserError, match="version 99"):
        load_model(tmp_path / "m")


def test_the_content_hash_follows_weights_and_config_only(tmp_path: Path) -> None:
    save(tmp_path / "a")
    model = model_of()
    save_model(tmp_path / "b", model, model.config, lineage={"note": "another story"})
    save(tmp_path / "c", seed=1)
    assert content_hash(tmp_path / "a") == content_hash(tmp_path / "b") != content_hash(tmp_path / "c")


def test_loading_draws_nothing_from_the_global_generator(tmp_path: Path) -> None:
    save(tmp_path / "m")
    before = torch.random.get_rng_state()
    load_model(tmp_path / "m")
    assert torch.equal(torch.random.get_rng_state(), before)
