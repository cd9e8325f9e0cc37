"""The door out: transformers and plain tensors, what the receipt says, and every refusal."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from small_models import FAMILIES, SPARE_ROWS, small_tokenizer, write_model

import gptloom
from gptloom.config.errors import UserError, VerificationError
from gptloom.config.model import ModelConfig
from gptloom.interop.export import plain
from gptloom.interop.export.door import Exported, export_model
from gptloom.interop.receipt import TEXTS
from gptloom.model.store import content_hash, load_model, read_lineage
from gptloom.model.transformer import Transformer
from gptloom.tokenizer.load import load_tokenizer
from gptloom.tokenizer.train import train_tokenizer


def document(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


def take_out(folder: Path, to: str, out: Path, **options: Any) -> Exported:
    return gptloom.export(str(folder), to=to, out=str(out), quiet=True, **options)


def refusal(folder: Path | str, to: str, out: Path, **options: Any) -> str:
    before = sorted(path.name for path in out.parent.iterdir())
    with pytest.raises(UserError) as caught:
        take_out(Path(folder), to, out, **options)
    assert sorted(path.name for path in out.parent.iterdir()) == before
    return str(caught.value)


# ---- hf ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", [name for name in FAMILIES if name != "gpt3"])
def test_transformers_opens_it_with_equal_logits(tmp_path: Path, family: str) -> None:
    folder = write_model(tmp_path / "model", family)
    done = take_out(folder, "hf", tmp_path / "out")
    model, config = load_model(folder)
    theirs = transformers.AutoModelForPreTraining if family == "bert" else transformers.AutoModelForCausalLM
    opened = theirs.from_pretrained(tmp_path / "out", attn_implementation="eager").eval()
    ids = torch.randint(config.vocab_size, (2, 40), generator=torch.Generator().manual_seed(3))
    with torch.no_grad():
        answer = opened(ids)
        found = answer.prediction_logits if family == "bert" else answer.logits
        torch.testing.assert_close(found, model(ids), rtol=0, atol=1e-4)
    assert done.receipt.verified and done.receipt.candidate.startswith("transformers")
    assert document(tmp_path / "out" / "receipt.json")["verified"] is True
    assert {"config.json", "gptloom.json", "model.safetensors", "receipt.json", "tokenizer.json"} <= set(done.files)


def test_a_tokenizer_that_transformers_overrides_is_told(tmp_path: Path) -> None:
    """Qwen2's class composes accents and splits in its own way, whatever tokenizer.json says."""
    folder = write_model(tmp_path / "model", "qwen2")
    receipt = take_out(folder, "hf", tmp_path / "out").receipt
    assert receipt.verified and receipt.token_ids == {text: small_tokenizer().encode(text) for text in TEXTS}
    assert any("overrides tokenizer.json by the model's type" in note for note in receipt.notes)
    modern = take_out(write_model(tmp_path / "modern"), "hf", tmp_path / "other").receipt
    assert modern.verified and not modern.notes


def test_what_lies_beside_the_weights_comes_along(tmp_path: Path) -> None:
    folder = write_model(tmp_path / "model")
    template = "{% for m in messages %}{{ m['content'] }}{% endfor %}"
    (folder / "chat_template.jinja").write_text(template, encoding="utf-8")
    generation = document(folder / "generation_config.json") | {"temperature": 0.7, "eos_token_id": [256, 5]}
    (folder / "generation_config.json").write_text(json.dumps(generation), encoding="utf-8")
    card = document(folder / "gptloom.json")
    card["lineage"] = {"stage": "pretrain", "step": 500, "data_hash": "abc"}
    (folder / "gptloom.json").write_text(json.dumps(card), encoding="utf-8")
    take_out(folder, "hf", tmp_path / "out")
    assert document(tmp_path / "out" / "generation_config.json") == generation
    assert transformers.AutoTokenizer.from_pretrained(tmp_path / "out").chat_template == template
    lineage = read_lineage(tmp_path / "out")["lineage"]
    assert (lineage["stage"], lineage["step"], lineage["data_hash"]) == ("export", 500, "abc")
    assert lineage["parents"] == [{"path": str(folder.resolve()), "hash": content_hash(folder)}]


@pytest.mark.parametrize(("dtype", "stored"), [("bf16", torch.bfloat16), ("f16", torch.float16)])
def test_rounded_weights_are_told_from_wrong_ones(tmp_path: Path, dtype: str, stored: torch.dtype) -> None:
    folder = write_model(tmp_path / "model")
    done = take_out(folder, "hf", tmp_path / "out", dtype=dtype)
    model, _ = load_model(folder)
    written, _ = load_model(tmp_path / "out")
    assert {tensor.dtype for tensor in written.state_dict().values()} == {stored}
    for name, tensor in model.state_dict().items():
        assert torch.equal(written.state_dict()[name], tensor.to(stored))
    assert done.dtype == dtype and done.receipt.verified
    assert done.receipt.max_logit_difference > 1e-3  # of the rounding itself
    [note] = done.receipt.notes
    assert note.startswith(f"rounded to {dtype}: against the source rounded alike")
    assert float(note.rsplit(" ", 1)[1]) < 1e-4


def test_without_dtype_weights_stay_as_they_are_stored(tmp_path: Path) -> None:
    folder = write_model(tmp_path / "model", dtype=torch.bfloat16)
    done = take_out(folder, "hf", tmp_path / "out")
    assert done.dtype == "bf16" and done.receipt.max_logit_difference < 1e-4
    wider = take_out(folder, "hf", tmp_path / "wide", dtype="f32")
    assert wider.dtype == "f32" and wider.receipt.max_logit_difference < 1e-4


def test_a_run_is_named_like_everywhere(tmp_path: Path) -> None:
    write_model(tmp_path / "run" / "final", bare=True)
    small_tokenizer().save(tmp_path / "run" / "tokenizer")
    (tmp_path / "run" / "state.json").write_text("{}", encoding="utf-8")
    take_out(tmp_path / "run", "hf", tmp_path / "out")
    assert load_tokenizer(tmp_path / "out").hash == small_tokenizer().hash


def test_a_model_without_tokenizer(tmp_path: Path) -> None:
    folder = write_model(tmp_path / "model", bare=True)
    done = take_out(folder, "hf", tmp_path / "out")
    assert done.receipt.verified and done.receipt.token_ids is None
    assert "the model has no tokenizer: none is written" in done.receipt.notes


def test_without_transformers_gptloom_reads_it_back_and_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gptloom.interop.witness.find_spec", lambda name: None)
    done = take_out(write_model(tmp_path / "model"), "hf", tmp_path / "out")
    assert done.receipt.verified and done.receipt.candidate.endswith(", since transformers is not installed")


# ---- safetensors -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", list(FAMILIES))
def test_plain_tensors_have_our_names(tmp_path: Path, family: str) -> None:
    folder = write_model(tmp_path / "model", family)
    done = take_out(folder, "safetensors", tmp_path / "out")
    model, _ = load_model(folder)
    config = ModelConfig(**document(tmp_path / "out" / "config.json"))
    again = Transformer(config)
    again.load_state_dict(load_file(tmp_path / "out" / "model.safetensors"))
    assert all(torch.equal(again.state_dict()[name], tensor) for name, tensor in model.state_dict().items())
    assert done.receipt.verified and done.receipt.max_logit_difference == 0
    assert load_tokenizer(tmp_path / "out").vocab_size == config.vocab_size - SPARE_ROWS


# ---- receipts ----------------------------------------------------------------------------------------------------------


def test_without_verification_the_receipt_says_so(tmp_path: Path) -> None:
    folder = write_model(tmp_path / "model")
    take_out(folder, "hf", tmp_path / "out", verify=False)
    receipt = document(tmp_path / "out" / "receipt.json")
    assert receipt["verified"] is False and receipt["notes"] == ["not compared: --no-verify"]
    assert receipt["max_logit_difference"] is None


@pytest.mark.parametrize("dtype", [None, "bf16"])
def test_a_wrong_tensor_is_a_failure_and_nothing_is_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, dtype: str | None
) -> None:
    folder = write_model(tmp_path / "model")
    write = plain.write_tensors

    def spoil(path: Path, *arguments: Any) -> str:
        checksum = write(path, *arguments)
        tensors = load_file(path)
        name = "blocks.1.attention.k.weight"
        tensors[name] = tensors[name].roll(1, 0)
        save_file(tensors, path)
        return checksum

    monkeypatch.setattr(plain, "write_tensors", spoil)
    with pytest.raises(VerificationError, match="logits differ by up to"):
        take_out(folder, "safetensors", tmp_path / "out", dtype=dtype)
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


# ---- refusals ----------------------------------------------------------------------------------------------------------


def test_presets_and_runs_without_weights(tmp_path: Path) -> None:
    told = refusal("modern-nano", "hf", tmp_path / "out")
    assert "modern-nano is a preset: it has no trained weights to export" in told and "gptloom pretrain" in told
    (tmp_path / "run" / "checkpoints").mkdir(parents=True)
    (tmp_path / "run" / "state.json").write_text("{}", encoding="utf-8")
    assert "the run has saved no weights yet" in refusal(tmp_path / "run", "hf", tmp_path / "out")
    assert "no run, model folder or preset" in refusal(tmp_path / "nothing", "gguf", tmp_path / "out")


def test_what_is_there_stays_unless_told(tmp_path: Path) -> None:
    folder, out = write_model(tmp_path / "model"), tmp_path / "out"
    out.mkdir()
    (out / "letter.txt").write_text("dear", encoding="utf-8")
    for overwrite in (False, True):
        assert "it exists already" in refusal(folder, "hf", out, overwrite=overwrite)
    (tmp_path / "file").write_text("", encoding="utf-8")
    assert "the result is a folder" in refusal(folder, "hf", tmp_path / "file")
    first = tmp_path / "first"
    take_out(folder, "safetensors", first, verify=False)
    assert "--overwrite" in refusal(folder, "hf", first)
    take_out(folder, "hf", first, overwrite=True, verify=False)
    assert "generation_config.json" in {path.name for path in first.iterdir()}


def test_unknown_formats_and_dtypes(tmp_path: Path) -> None:
    folder = write_model(tmp_path / "model")
    assert "gguff" in refusal(folder, "gguff", tmp_path / "out")
    with pytest.raises(UserError, match="nothing is exported to 'onnx'"):
        export_model(str(folder), "onnx", tmp_path / "out")
    told = refusal(folder, "hf", tmp_path / "out", dtype="q8_0")
    assert "hf has no dtype q8_0" in told and "--to gguf" in told
    with pytest.raises(UserError, match="--out is missing"):
        gptloom.export(str(folder), to="hf")


def test_gpt3_with_its_bands(tmp_path: Path) -> None:
    folder = write_model(tmp_path / "model", "gpt3")
    told = refusal(folder, "hf", tmp_path / "out", dtype="q8_0")
    assert "banded is 'alternate' with window 256" in told and "gpt3-...-dense" in told
    assert "hf has no dtype q8_0" in told  # all reasons at once


def test_numbers_that_f16_cannot_hold(tmp_path: Path) -> None:
    folder = write_model(tmp_path / "model")
    tensors = load_file(folder / "model.safetensors")
    tensors["model.layers.1.mlp.down_proj.weight"][3, 5] = 70_000.0
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    told = refusal(folder, "hf", tmp_path / "out", dtype="f16", verify=False)
    assert "blocks.1.mlp.down.weight" in told and "--dtype bf16" in told
    pytest.importorskip("gguf")
    assert "blocks.1.mlp.down.weight" in refusal(folder, "gguf", tmp_path / "out", dtype="f16", verify=False)


def test_damaged_weights_and_a_tokenizer_too_large(tmp_path: Path) -> None:
    folder = write_model(tmp_path / "model")
    tensors = load_file(folder / "model.safetensors")
    del tensors["model.norm.weight"]
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    told = refusal(folder, "hf", tmp_path / "out", dtype="q8_0")
    assert "tensor model.norm.weight is missing" in told and "hf has no dtype q8_0" in told
    large = write_model(tmp_path / "large")
    train_tokenizer("bpe", [Path(__file__).read_text(encoding="utf-8")], 400).save(large)
    assert "400 ids" in refusal(large, "hf", tmp_path / "out")


def test_a_place_that_cannot_be_written(tmp_path: Path) -> None:
    folder = write_model(tmp_path / "model")
    (tmp_path / "file").write_text("", encoding="utf-8")
    with pytest.raises(UserError, match="no folder can be made"):
        take_out(folder, "hf", tmp_path / "file" / "out")


@pytest.mark.parametrize("to", ["hf", "gguf", "safetensors"])
def test_a_disk_too_small_is_known_beforehand(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, to: str) -> None:
    if to == "gguf":
        pytest.importorskip("gguf")
    folder = write_model(tmp_path / "model")
    monkeypatch.setattr("gptloom.interop.outputs.free_bytes", lambda path: 1000)
    told = refusal(folder, to, tmp_path / "out")
    assert "and the disk has 1 kB left" in told


@pytest.mark.parametrize("to", ["hf", "gguf", "safetensors"])
def test_a_disk_that_fills_up_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, to: str) -> None:
    if to == "gguf":
        pytest.importorskip("gguf")
    folder = write_model(tmp_path / "model")
    volume = tmp_path / "volume"
    volume.mkdir()
    monkeypatch.setattr("gptloom.interop.outputs.free_bytes", lambda path: 10**9)
    try:
        mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=200k", "tmpfs", volume], capture_output=True)
    except FileNotFoundError:
        pytest.skip("there is no mount command here")
    if mounted.returncode != 0:
        pytest.skip("mounting a tmpfs is not allowed here: run as root, or inside unshare -rm")
    try:
        with pytest.raises(OSError, match="No space left on device"):
            take_out(folder, to, volume / "out", verify=False)
        assert list(volume.iterdir()) == []
    finally:
        subprocess.run(["umount", "-l", volume], check=True)
