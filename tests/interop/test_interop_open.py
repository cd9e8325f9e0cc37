from __future__ import annotations

from pathlib import Path

import pytest
import torch

from gptloom.config.errors import UserError
from gptloom.config.model import ModelConfig, preset
from gptloom.interop.open import _dtype, load
from gptloom.model.store import save_model
from gptloom.model.transformer import Transformer
from gptloom.tokenizer.tokenizer import Tokenizer
from gptloom.tokenizer.train import train_tokenizer

TINY = {"context": 32, "n_layer": 1, "d_model": 32, "n_head": 2}


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return train_tokenizer("bytes", ["text"], None)


def save(folder: Path, tokenizer: Tokenizer | None, vocab_size: int = 258, seed: int = 0) -> Transformer:
    config = ModelConfig(**preset("modern-nano") | TINY | {"vocab_size": vocab_size})
    model = Transformer.initialised(config, seed)
    save_model(folder, model, config, tokenizer=tokenizer)
    return model


def refusal(reference: object, **options: object) -> str:
    with pytest.raises(UserError) as caught:
        load(str(reference), **options)
    return str(caught.value)


def same(first: torch.nn.Module, second: torch.nn.Module) -> bool:
    return torch.equal(first.state_dict()["embedding.weight"], second.state_dict()["embedding.weight"])


def test_a_model_folder_opens_and_writes(tmp_path: Path, tokenizer: Tokenizer) -> None:
    model = save(tmp_path / "m", tokenizer)
    opened = load(tmp_path / "m", device="cpu", precision="fp32")
    assert same(opened.model, model)
    assert opened.tokenizer.hash == tokenizer.hash
    assert not opened.model.training
    ids = tokenizer.encode("ab")
    for _ in range(4):
        ids.append(int(model(torch.tensor([ids]))[0, -1].argmax()))
    assert list(opened.generate("ab", max_tokens=4, temperature=0.0).ids) == ids[2:]


def test_a_checkpoint_takes_the_tokenizer_of_its_run(tmp_path: Path, tokenizer: Tokenizer) -> None:
    run = tmp_path / "run"
    for step in (1, 2):
        model = save(run / "checkpoints" / f"step-{step:08}" / "model", None, seed=step)
        (run / "checkpoints" / f"step-{step:08}" / "state.json").write_text("{}", encoding="utf-8")
    (run / "state.json").write_text('{"best_step": 1}', encoding="utf-8")
    tokenizer.save(run / "tokenizer")
    assert same(load(f"{run}@2", device="cpu", precision="fp32").model, model)
    best = load(run, device="cpu", precision="fp32")
    assert not same(best.model, model)
    assert best.tokenizer.hash == tokenizer.hash


def test_precision_is_that_asked_for(tmp_path: Path, tokenizer: Tokenizer) -> None:
    save(tmp_path / "m", tokenizer)
    opened = load(tmp_path / "m", device="cpu", precision="bf16")
    assert {parameter.dtype for parameter in opened.model.parameters()} == {torch.bfloat16}
    automatic = load(tmp_path / "m", device="cpu")  # too small for bf16 to matter
    assert {parameter.dtype for parameter in automatic.model.parameters()} == {torch.float32}
    assert load(tmp_path / "m", device="cpu", precision="int8").inference.precision == "int8"
    assert "did you mean fp32" in refusal(tmp_path / "m", precision="fp3")


def test_a_preset_needs_untrained(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    text = refusal("modern-nano")
    assert "gptloom pretrain --model modern-nano" in text and "--untrained" in text
    opened = load("modern-nano", device="cpu", precision="fp32", untrained=True)
    assert opened.model.config.vocab_size == opened.tokenizer.vocab_size
    assert same(opened.model, load("modern-nano", device="cpu", precision="fp32", untrained=True).model)
    assert "modern-nano" in refusal("modern", untrained=True)


def test_untrained_with_trained_weights_is_refused(tmp_path: Path, tokenizer: Tokenizer) -> None:
    save(tmp_path / "m", tokenizer)
    assert "--untrained is for presets" in refusal(tmp_path / "m", untrained=True)


def test_a_tokenizer_that_does_not_fit_is_refused(tmp_path: Path, tokenizer: Tokenizer) -> None:
    save(tmp_path / "m", None, vocab_size=100)
    tokenizer.save(tmp_path / "m")
    assert "258 ids and the model only 100" in refusal(tmp_path / "m")


def test_a_folder_without_a_tokenizer_says_so(tmp_path: Path) -> None:
    save(tmp_path / "m", None)
    assert "holds no tokenizer" in refusal(tmp_path / "m")


def test_a_pickle_by_its_bare_name_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "ckpt.pt").write_bytes(b"\x80\x04")
    monkeypatch.chdir(tmp_path)
    assert "runs whatever code" in refusal(Path("ckpt.pt"))


def test_fp16_is_opened_in_fp16(tmp_path: Path) -> None:
    assert _dtype("fp16", torch.device("cpu"), ModelConfig(**preset("modern-nano"))) == torch.float16


def test_a_name_of_nothing_and_a_pickle_are_refused(tmp_path: Path) -> None:
    (tmp_path / "ckpt.pt").write_bytes(b"\x80\x04")
    assert "runs whatever code" in refusal(tmp_path / "ckpt.pt")
    assert "is called" in refusal(tmp_path / "nothing")
