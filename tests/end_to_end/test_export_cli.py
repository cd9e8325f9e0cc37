"""``gptloom export`` from the command line: what it prints, what it leaves, how it says no."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from gptloom.cli.main import main
from gptloom.config.model import ModelConfig, preset
from gptloom.interop.export import door
from gptloom.model.store import save_model
from gptloom.model.transformer import Transformer
from gptloom.tokenizer.train import train_tokenizer

Printed = pytest.CaptureFixture[str]


@pytest.fixture
def model(tmp_path: Path) -> Path:
    tokenizer = train_tokenizer("bytes", [], None)
    sizes = {"n_layer": 1, "d_model": 32, "n_head": 2, "context": 32, "vocab_size": tokenizer.vocab_size, "head_dim": 0}
    config = ModelConfig(**preset("modern-nano") | sizes)
    folder = tmp_path / "model"
    save_model(folder, Transformer.initialised(config, seed=0), config, tokenizer=tokenizer)
    return folder


def run(capsys: Printed, *arguments: str | Path) -> tuple[int, str, str]:
    code = main(["export", *map(str, arguments)])
    printed = capsys.readouterr()
    return code, printed.out, printed.err


@pytest.mark.parametrize("to", ["hf", "gguf", "safetensors"])
def test_every_way_out(capsys: Printed, tmp_path: Path, model: Path, to: str) -> None:
    if to == "gguf":
        pytest.importorskip("gguf")
    out = tmp_path / "exports" / to
    code, printed, messages = run(capsys, model, "--to", to, "--out", out)
    assert code == 0 and printed.startswith(f"{out}: ") and "receipt.json" in printed
    assert "largest difference of logits" in messages and "token ids of 5 texts: equal" in messages
    assert json.loads((out / "receipt.json").read_text(encoding="utf-8"))["verified"] is True


def test_json(capsys: Printed, tmp_path: Path, model: Path) -> None:
    out = tmp_path / "out"
    code, printed, _ = run(
        capsys, model, "--to", "safetensors", "--out", out, "--dtype", "bf16", "--no-verify", "--json"
    )
    document = json.loads(printed)
    assert code == 0 and document["path"] == str(out) and document["dtype"] == "bf16"
    assert set(document["files"]) == {path.name for path in out.iterdir()}
    assert document["bytes"] == sum(path.stat().st_size for path in out.iterdir())
    assert document["receipt"]["verified"] is False


def test_what_is_exported_is_a_model_like_any_other(capsys: Printed, tmp_path: Path, model: Path) -> None:
    assert run(capsys, model, "--to", "hf", "--out", tmp_path / "out", "--no-verify")[0] == 0
    assert main(["lineage", str(tmp_path / "out")]) == 0
    assert str(model) in capsys.readouterr().out
    assert run(capsys, f"hf:{tmp_path / 'out'}", "--to", "safetensors", "--out", tmp_path / "again")[0] == 0


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["modern-nano", "--to", "hf", "--out", "{out}"], "it has no trained weights to export"),
        (["{model}", "--to", "onnx", "--out", "{out}"], "onnx"),
        (["{model}", "--out", "{out}"], "--to"),
        (["{model}", "--to", "hf"], "--out is missing"),
        (["{model}", "--to", "hf", "--out", "{out}", "--dtype", "q8_0"], "hf has no dtype q8_0"),
        (["{model}", "--to", "hf", "--out", "{model}"], "it exists already"),
        (["{model}", "--to", "hf", "--out", "{model}/config.json/x"], "within what is no folder"),
        (["{model}", "--to", "hf", "--out", "x" * 400], "the system does not allow it"),
        (["{model}x", "--to", "hf", "--out", "{out}"], "no run, model folder or preset is called"),
    ],
)
def test_bad_input_is_exit_code_2_and_leaves_nothing(
    capsys: Printed, tmp_path: Path, model: Path, arguments: list[str], told: str
) -> None:
    places = {"model": str(model), "out": str(tmp_path / "out")}
    code, printed, messages = run(capsys, *(argument.format(**places) for argument in arguments))
    assert code == 2 and printed == "" and "Traceback" not in messages
    assert told in messages
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def test_only_what_gptloom_wrote_is_replaced_and_never_the_source(capsys: Printed, tmp_path: Path, model: Path) -> None:
    theirs = tmp_path / "theirs"
    theirs.mkdir()
    for name, text in (("config.json", "{}"), ("receipt.json", '{"total": 12}'), ("weights.bin", "years")):
        (theirs / name).write_text(text, encoding="utf-8")
    command = (model, "--to", "safetensors", "--no-verify", "--overwrite", "--out")
    for out, told in (
        (theirs, "was not written by gptloom"),
        (model, "would take the place of what is read"),
        (tmp_path / "model" / ".." / "model", "would take the place of what is read"),
    ):
        code, _, messages = run(capsys, *command, out)
        assert code == 2 and told in messages
    assert (theirs / "weights.bin").is_file() and (model / "model.safetensors").is_file()
    for _ in range(2):
        assert run(capsys, *command, tmp_path / "out")[0] == 0


def test_the_current_folder_may_be_the_result(
    capsys: Printed, tmp_path: Path, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    assert run(capsys, model, "--to", "hf", "--out", ".")[0] == 0
    assert Path("receipt.json").is_file() and sorted(path.name for path in tmp_path.iterdir()) == ["here", "model"]


def test_an_export_that_another_overtook_is_kept_beside_it(
    capsys: Printed, tmp_path: Path, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write = door.write_receipt

    def another_comes_first(folder: Path, receipt: Any) -> None:
        write(folder, receipt)
        shutil.copytree(folder, tmp_path / "out")

    monkeypatch.setattr(door, "write_receipt", another_comes_first)
    code, _, messages = run(capsys, model, "--to", "safetensors", "--no-verify", "--out", tmp_path / "out")
    assert code == 2 and "another has made it meanwhile" in messages
    assert (tmp_path / "out-2" / "receipt.json").is_file()


def test_every_reason_at_once(capsys: Printed, tmp_path: Path, model: Path) -> None:
    config = json.loads((model / "config.json").read_text(encoding="utf-8"))
    (model / "config.json").write_text(json.dumps(config | {"vocab_size": 9}), encoding="utf-8")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine.txt").write_text("", encoding="utf-8")
    code, _, messages = run(capsys, model, "--to", "hf", "--out", tmp_path / "out", "--dtype", "q8_0")
    assert code == 2
    for told in ("hf has no dtype q8_0", "it exists already", "tensor model.embed_tokens.weight is"):
        assert told in messages
