"""``gptloom import`` and ``hf:`` by the command line: what goes in, and every bad input with exit code 2."""

from __future__ import annotations

import json
import shutil
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers_folders import write_folder

from gptloom.interop import hub, import_model, outputs, witness
from gptloom.tokenizer.train import train_tokenizer

Answer = Any


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("made") / "llama"
    write_folder(folder, "llama", vocab_size=300)
    train_tokenizer("bytes", [], None).save(folder)
    return folder


@pytest.fixture
def source(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A Llama with a tokenizer of bytes, to be spoilt; the working directory is empty but for it."""
    monkeypatch.chdir(tmp_path)
    shutil.copytree(made, tmp_path / "llama")
    return tmp_path / "llama"


@pytest.fixture
def refused(gptloom: Callable[..., Answer], tmp_path: Path) -> Callable[..., str]:
    """What an import says that ends with exit code 2, without a traceback, and writes nothing."""

    def run(*arguments: object) -> str:
        before = sorted(path.name for path in tmp_path.iterdir())
        answer = gptloom("import", *arguments, *(() if "--out" in arguments else ("--out", tmp_path / "ours")))
        assert answer.code == 2 and "Traceback" not in answer.err and not answer.out
        assert sorted(path.name for path in tmp_path.iterdir()) == before
        return str(answer.err)

    return run


def change_json(path: Path, **fields: object) -> None:
    document = json.loads(path.read_text(encoding="utf-8")) | fields
    path.write_text(json.dumps(document), encoding="utf-8")


def test_a_folder_comes_in_is_used_and_shows_where_it_came_from(gptloom: Callable[..., Answer], source: Path) -> None:
    answer = gptloom("import", "llama", "--json")
    assert answer.code == 0
    assert Path(answer.document["path"]) == Path("models/llama") and answer.document["family"] == "llama"
    receipt = answer.document["receipt"]
    assert receipt["verified"] and receipt == json.loads(Path("models/llama/receipt.json").read_text(encoding="utf-8"))
    options = ("--prompt", "the", "--max-tokens", 5, "--seed", 1, "--device", "cpu", "--json")
    written = [gptloom("generate", name, *options) for name in ("models/llama", "hf:llama", "hf:./llama")]
    assert [done.code for done in written] == [0, 0, 0]
    assert len({json.dumps(done.document[0]["completions"]) for done in written}) == 1
    tree = gptloom("lineage", "models/llama").out.splitlines()
    assert tree[0].startswith(str(Path("models/llama"))) and "import" in tree[0] and tree[1].startswith("└─ ")


def test_hf_names_a_model_wherever_one_is_named(gptloom: Callable[..., Answer], source: Path, text: Path) -> None:
    scored = gptloom("evaluate", "hf:llama", "--data", text, "--json", "--device", "cpu")
    assert scored.code == 0 and scored.document["loss"] > 3
    trained = gptloom(
        "pretrain", "hf:llama", "--data", text, "--out", "run", "--max-steps", 2, "--batch-tokens", 128,
        "--micro-batch", 2, "--threads", 1, "--log", "none", "--yes",
    )  # fmt: skip
    assert trained.code == 0, trained.err
    tree = gptloom("lineage", "run", "--json").document
    assert [Path(parent["path"]).resolve() for parent in tree["parents"]] == [source.resolve()]
    answer = gptloom("lineage", "hf:llama")
    assert answer.code == 2 and "no gptloom.json here" in answer.err


def test_what_is_there_is_never_replaced_unasked(
    gptloom: Callable[..., Answer], refused: Callable[..., str], source: Path
) -> None:
    Path("mine").mkdir()
    Path("mine/notes.txt").write_text("mine", encoding="utf-8")
    for arguments in (("--out", "mine"), ("--out", "mine", "--overwrite"), ("--out", "llama", "--overwrite")):
        assert "was not written by gptloom" in refused("llama", *arguments)
    assert [path.name for path in Path("mine").iterdir()] == ["notes.txt"]
    assert gptloom("import", "llama", "--out", "ours", "--no-verify").code == 0
    assert "exists already" in refused("llama", "--out", "ours")
    assert "take the place of what is read" in refused("ours", "--out", "ours", "--overwrite")
    assert gptloom("import", "llama", "--out", "ours", "--overwrite").code == 0
    assert json.loads(Path("ours/receipt.json").read_text(encoding="utf-8"))["verified"] is True


def test_an_out_that_the_system_refuses_is_said_in_a_sentence(refused: Callable[..., str], source: Path) -> None:
    assert "within what is no folder" in refused("llama", "--out", "llama/config.json/x")
    assert "the system does not allow it" in refused("llama", "--out", "x" * 400)


def test_too_little_room_is_said_before_anything_is_written(
    refused: Callable[..., str], source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(outputs, "free_bytes", lambda path: 1000)
    assert "the disk has 1 kB left" in refused("llama", "--out", "ours")


def test_the_current_folder_may_be_the_result(
    gptloom: Callable[..., Answer], source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Path("here").mkdir()
    monkeypatch.chdir("here")
    assert gptloom("import", "../llama", "--out", ".").code == 0
    assert Path("config.json").is_file() and [path.name for path in Path("..").iterdir() if "." in path.name] == []


def test_of_two_imports_at_once_both_results_are_kept(
    gptloom: Callable[..., Answer], source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write = import_model.write_receipt

    def another_comes_first(folder: Path, receipt: Any) -> None:
        write(folder, receipt)
        shutil.copytree(folder, "ours")

    monkeypatch.setattr(import_model, "write_receipt", another_comes_first)
    answer = gptloom("import", "llama", "--out", "ours", "--no-verify")
    assert answer.code == 2 and "another has made it meanwhile" in answer.err and "ours-2" in answer.err
    assert Path("ours/config.json").is_file() and Path("ours-2/config.json").is_file()


def test_a_preset_is_not_asked_for_at_the_hub(
    refused: Callable[..., str], source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hub, "_fetch", lambda *_: pytest.fail("the hub was asked"))
    text = refused("gpt3-xl")
    assert "gpt3-xl is a preset: it has no trained weights" in text and "gptloom pretrain --model gpt3-xl" in text


def test_a_mismatch_is_our_fault(gptloom: Callable[..., Answer], source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    right = witness.our_outputs
    monkeypatch.setattr(witness, "our_outputs", lambda *given: {name: -value for name, value in right(*given).items()})
    answer = gptloom("import", "llama", "--out", "ours")
    assert answer.code == 1 and "logits differ by up to" in answer.err and "Traceback" not in answer.err
    assert "kept for a look only" in answer.err and Path("ours.differs").is_dir() and not Path("ours").exists()


def test_every_tensor_that_does_not_fit_is_named(refused: Callable[..., str], source: Path) -> None:
    tensors = load_file(source / "model.safetensors")
    del tensors["model.layers.0.self_attn.q_proj.weight"], tensors["model.norm.weight"]
    tensors["model.layers.7.mlp.up_proj.weight"] = torch.zeros(2)
    tensors["model.layers.1.mlp.down_proj.weight"] = torch.zeros(32, 40)
    save_file(tensors, source / "model.safetensors", {"format": "pt"})
    text = refused("llama")
    for words in (
        "tensor model.layers.0.self_attn.q_proj.weight is missing",
        "tensor model.norm.weight is missing",
        "tensor model.layers.7.mlp.up_proj.weight belongs to nothing",
        "tensor model.layers.1.mlp.down_proj.weight is [32, 40]; config.json asks for [32, 48]",
    ):
        assert words in text


def test_a_file_that_is_cut_short_or_no_safetensors_is_refused(refused: Callable[..., str], source: Path) -> None:
    file = source / "model.safetensors"
    whole = file.read_bytes()
    for content, words in (
        (whole[:-10], "its header promises"),
        (whole[:100], "hold no whole safetensors header"),
        (b"", "hold no whole safetensors header"),
        (b"PK\x03\x04" + b"x" * 500, "hold no whole safetensors header"),
        (struct.pack("<Q", 4) + b"{no}" + b"x" * 20, "the safetensors header is not readable"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "git lfs pull"),
    ):
        file.write_bytes(content)
        text = refused("llama")
        assert words in text and "model.safetensors" in text


def test_a_missing_shard_is_named(refused: Callable[..., str], source: Path) -> None:
    shutil.rmtree(source)
    write_folder(source, "llama", shard="20KB")
    sorted(source.glob("model-00002-*.safetensors"))[0].unlink()
    assert "model-00002-of-" in refused("llama")


def test_an_unknown_architecture_names_the_known_ones(refused: Callable[..., str], source: Path) -> None:
    change_json(source / "config.json", model_type="mamba")
    text = refused("llama")
    assert "'mamba'" in text and all(name in text for name in ("openai-gpt", "gpt_neox", "bert", "llama", "qwen3"))


def test_fields_that_gptloom_does_not_have_are_all_named(refused: Callable[..., str], source: Path) -> None:
    change_json(source / "config.json", hidden_act="relu", quantization_config={"bits": 4})
    text = refused("llama")
    assert "hidden_act is 'relu'" in text and "quantization_config" in text


def test_pickles_are_refused_with_the_way_to_convert_them(refused: Callable[..., str], source: Path) -> None:
    (source / "model.safetensors").rename(source / "pytorch_model.bin")
    text = refused("llama")
    assert "runs whatever code" in text and "save_pretrained" in text
    assert "runs whatever code" in refused(source / "pytorch_model.bin")


def test_a_tokenizer_that_does_not_fit_says_which_wins(
    gptloom: Callable[..., Answer], refused: Callable[..., str], source: Path
) -> None:
    shutil.rmtree(source)
    write_folder(source, "llama")
    train_tokenizer("bytes", [], None).save(source)
    text = refused("llama")
    assert "258 ids and the embedding 97 rows; the embedding wins" in text and "--resize-vocab" in text
    answer = gptloom("import", "llama", "--out", "ours", "--resize-vocab")
    assert answer.code == 0 and "vocabulary resized from 97 to 258" in answer.err
    assert gptloom("generate", "ours", "--prompt", "the", "--max-tokens", 3, "--device", "cpu").code == 0


def test_what_names_nothing_says_what_to_do(
    refused: Callable[..., str], source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert "there is no folder './nothing'" in refused("./nothing")
    (source / "config.json").unlink()
    assert "there is no config.json" in refused("llama")
    monkeypatch.setattr(hub, "find_spec", lambda name: None)
    assert 'pip install "gptloom[hub]"' in refused("hf:org/name")


def test_python_is_the_same(source: Path) -> None:
    import gptloom as package

    imported = package.import_model("llama", out="ours", dtype="bf16", quiet=True)
    assert imported.path == Path("ours") and imported.receipt.verified
    with pytest.raises(package.UserError, match="dtype"):
        package.import_model("llama", out="other", dtype="int4")
