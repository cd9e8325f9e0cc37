"""Folders of strangers whose files are damaged or say what cannot be: exit code 2, what is wrong, in which file."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from transformers_folders import write_folder

from gptloom.tokenizer.train import train_tokenizer

Answer = Any
Header = dict[str, dict[str, Any]]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Llama and a GPT-2, each with a tokenizer of bytes."""
    folder = tmp_path_factory.mktemp("made")
    for name in ("llama", "gpt2"):
        write_folder(folder / name, name, vocab_size=300)
        train_tokenizer("bytes", [], None).save(folder / name)
    return folder


@pytest.fixture
def source(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The two, to be spoilt, in the working directory."""
    monkeypatch.chdir(tmp_path)
    shutil.copytree(made, tmp_path, dirs_exist_ok=True)
    return tmp_path


@pytest.fixture
def refused(gptloom: Callable[..., Answer], source: Path) -> Callable[..., str]:
    """What an import says that ends with exit code 2, without a traceback, and writes nothing."""

    def run(name: str) -> str:
        answer = gptloom("import", name, "--out", "ours")
        assert answer.code == 2 and "Traceback" not in answer.err and not answer.out
        assert not (source / "ours").exists()
        return str(answer.err)

    return run


def change_json(path: Path, **fields: object) -> None:
    document = json.loads(path.read_text(encoding="utf-8")) | fields
    path.write_text(json.dumps(document), encoding="utf-8")


def change_header(path: Path, change: Callable[[Header], None]) -> None:
    """The tensors' bytes stay as they are."""
    content = path.read_bytes()
    end = 8 + int.from_bytes(content[:8], "little")
    header = json.loads(content[8:end])
    change(header)
    text = json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + content[end:])


def first_two(header: Header) -> list[dict[str, Any]]:
    entries = (entry for name, entry in header.items() if name != "__metadata__")
    return sorted(entries, key=lambda entry: entry["data_offsets"])[:2]


def shift(header: Header) -> None:
    first_two(header)[1]["data_offsets"][0] += 4


def overlap(header: Header) -> None:
    first, second = first_two(header)
    second["data_offsets"][0] = first["data_offsets"][1] - 4


def other_type(header: Header) -> None:
    first_two(header)[0]["dtype"] = "F16"


def unknown_type(header: Header) -> None:
    first_two(header)[0]["dtype"] = "F4"


def letters(header: Header) -> None:
    first_two(header)[0]["shape"] = ["a", "b"]


def below_zero(header: Header) -> None:
    first_two(header)[0]["shape"] = [-2, -3]


def metadata_of_numbers(header: Header) -> None:
    header["__metadata__"] = {"format": 5}  # type: ignore[dict-item] - wrong on purpose


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (shift, "and the one before it ends at"),
        (overlap, "and the one before it ends at"),
        (other_type, "bytes and has"),
        (unknown_type, "is stored as F4; gptloom reads"),
        (letters, "the safetensors header is not readable"),
        (below_zero, "the safetensors header is not readable"),
        (metadata_of_numbers, "cut short or damaged"),
    ],
)
def test_a_header_that_does_not_fit_its_bytes(
    change: Callable[[Header], None], said: str, refused: Callable[..., str], source: Path
) -> None:
    change_header(source / "llama" / "model.safetensors", change)
    text = refused("llama")
    assert said in text and "model.safetensors" in text


@pytest.mark.parametrize("weight_map", [{"a": 5}, ["model.safetensors"], {"a": "model.safetensors", "b": ["c"]}])
def test_an_index_that_names_no_files(weight_map: object, refused: Callable[..., str], source: Path) -> None:
    (source / "llama" / "model.safetensors").rename(source / "llama" / "model-00001-of-00001.safetensors")
    index = source / "llama" / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": weight_map}), encoding="utf-8")
    text = refused("llama")
    assert "not an index of weight files" in text and "model.safetensors.index.json" in text


@pytest.mark.parametrize(
    ("name", "field", "value"),
    [
        ("gpt2", "n_head", "4"),
        ("llama", "num_attention_heads", "4"),
        ("llama", "head_dim", "8"),
        ("llama", "eos_token_id", "x"),
        ("llama", "architectures", [5]),
    ],
)
def test_a_field_of_a_wrong_type(
    name: str, field: str, value: object, refused: Callable[..., str], source: Path
) -> None:
    change_json(source / name / "config.json", **{field: value})
    text = refused(name)
    assert f"{field} is {value!r}" in text and "config.json" in text


def test_a_name_of_transformers_that_is_no_model_is_not_called(gptloom: Callable[..., Answer], source: Path) -> None:
    change_json(source / "llama" / "config.json", architectures=["pipeline"])
    assert gptloom("import", "llama", "--out", "ours").code == 0


def test_a_number_that_json_has_not(refused: Callable[..., str], source: Path) -> None:
    (source / "llama" / "generation_config.json").write_text('{"temperature": NaN}', encoding="utf-8")
    text = refused("llama")
    assert "has NaN" in text and "generation_config.json" in text


@pytest.mark.parametrize("added", [[1], 5, [{"id": 1}], {"a": 1}])
def test_a_damaged_tokenizer(added: object, refused: Callable[..., str], source: Path) -> None:
    change_json(source / "llama" / "tokenizer.json", added_tokens=added)
    assert "tokenizer.json" in refused("llama")


def test_a_tokenizer_larger_than_the_embedding_says_which_wins(gptloom: Callable[..., Answer], source: Path) -> None:
    write_folder(source / "small", "llama")
    train_tokenizer("bytes", [], None).save(source / "small")
    answer = gptloom("generate", "hf:small", "--prompt", "a", "--device", "cpu")
    assert answer.code == 2 and "the embedding wins" in answer.err and "--resize-vocab" in answer.err


def test_the_list_of_models_leaves_out_what_cannot_be_read(gptloom: Callable[..., Answer], source: Path) -> None:
    assert gptloom("import", "gpt2", "--out", "models/good", "--no-verify").code == 0
    for name, fields in {"a": {"n_head": "4"}, "b": {"n_head": 3.5}}.items():
        shutil.copytree(source / "models" / "good", source / "models" / name)
        change_json(source / "models" / name / "config.json", **fields)
    answer = gptloom("models")
    assert answer.code == 0 and "models/good" in answer.out and "models/a" not in answer.out
