"""GGUF files: names that llama.cpp knows, layouts undone independently, kinds of numbers, vocabularies, refusals."""

from __future__ import annotations

import json
import weakref
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import torch
from small_models import FAMILIES, LLAMA3, SPARE_ROWS, TEXT, YARN, small_tokenizer, write_model
from torch import Tensor

import gptloom
from gptloom.config.errors import UserError, VerificationError
from gptloom.config.model import ModelConfig
from gptloom.interop.export import gguf_layout, gguf_tokenizer
from gptloom.interop.export.door import Exported
from gptloom.interop.export.ollama import modelfile
from gptloom.interop.export.target import ROUNDING
from gptloom.interop.receipt import TEXTS, TOLERANCE
from gptloom.model.store import load_model
from gptloom.tokenizer.tokenizer import Tokenizer
from gptloom.tokenizer.train import train_tokenizer

gguf = pytest.importorskip("gguf")
gguf_file = import_module("gptloom.interop.export.gguf_file")  # which imports gguf

EXPORTED = ("modern", "gpt2", "neox", "bert", "llama", "mistral", "qwen2")


def to_gguf(folder: Path, **options: Any) -> Exported:
    return gptloom.export(str(folder), to="gguf", out=str(folder.with_name("out")), quiet=True, **options)


def refusal(folder: Path, **options: Any) -> str:
    with pytest.raises(UserError) as caught:
        to_gguf(folder, **options)
    assert not folder.with_name("out").exists()
    return str(caught.value)


def reader_of(done: Exported) -> Any:
    return gguf.GGUFReader(done.path / "model.gguf")


def fields_of(done: Exported) -> dict[str, Any]:
    return {name: field.contents() for name, field in reader_of(done).fields.items()}


def modelfile_of(done: Exported) -> list[str]:
    return (done.path / "Modelfile").read_text(encoding="utf-8").splitlines()


# ---- tensors -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", EXPORTED)
def test_every_family_goes_out_and_computes_the_same(tmp_path: Path, family: str) -> None:
    done = to_gguf(write_model(tmp_path / "model", family))
    assert done.files == ("Modelfile", "model.gguf", "receipt.json") and done.dtype == "f32"
    assert done.receipt.verified and done.receipt.outputs["hidden"]["max_difference"] < 1e-5
    fields = fields_of(done)
    arch = gguf_layout.ARCHITECTURES[family].name
    assert fields["general.architecture"] == arch and fields["general.file_type"] == 0
    assert fields[f"{arch}.context_length"] == 64 and fields[f"{arch}.block_count"] == 2
    # Names that the architecture has, by the list of the package.
    known = gguf.MODEL_TENSORS[next(key for key, value in gguf.MODEL_ARCH_NAMES.items() if value == arch)]
    allowed = {gguf.TENSOR_NAMES[kind].format(bid=index) for kind in known for index in range(2)}
    assert {tensor.name.rpartition(".")[0] for tensor in reader_of(done).tensors} <= allowed


def test_llamas_queries_and_keys_have_rotary_pairs_side_by_side(tmp_path: Path) -> None:
    folder = write_model(tmp_path / "model", "llama")
    tensors = {tensor.name: torch.from_numpy(tensor.data.copy()) for tensor in reader_of(to_gguf(folder)).tensors}
    model, config = load_model(folder)
    ours = model.state_dict()["blocks.1.attention.k.weight"]
    size = config.head_dim
    for head in range(config.n_kv_head):
        for pair in range(size // 2):
            for half in range(2):
                found = tensors["blk.1.attn_k.weight"][head * size + 2 * pair + half]
                assert torch.equal(found, ours[head * size + half * size // 2 + pair])
    assert torch.equal(tensors["blk.1.attn_v.weight"], model.state_dict()["blocks.1.attention.v.weight"])


def test_fused_queries_keys_and_values(tmp_path: Path) -> None:
    folder = write_model(tmp_path / "model", "neox")
    tensors = {tensor.name: torch.from_numpy(tensor.data.copy()) for tensor in reader_of(to_gguf(folder)).tensors}
    state = load_model(folder)[0].state_dict()
    parts = [state[f"blocks.0.attention.{part}.weight"] for part in "qkv"]
    assert torch.equal(tensors["blk.0.attn_qkv.weight"], torch.cat(parts))
    assert torch.equal(tensors["output.weight"], tensors["token_embd.weight"])  # tied, and llama.cpp wants both


def test_a_tensor_in_a_wrong_place_is_a_failure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = write_model(tmp_path / "model", "llama")
    monkeypatch.setattr(gguf_layout, "_pair", lambda tensors, size: tensors[0])
    with pytest.raises(VerificationError, match="logits differ by up to"):
        to_gguf(folder, dtype="q8_0")
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


@pytest.mark.parametrize("dtype", ["f32", "f16", "bf16", "q8_0"])
def test_matrices_are_stored_as_asked_and_the_rest_in_fp32(tmp_path: Path, dtype: str) -> None:
    done = to_gguf(write_model(tmp_path / "model", "gpt2", d_ff=200), dtype=dtype)
    kinds = {tensor.name: tensor.tensor_type.name.lower() for tensor in reader_of(done).tensors}
    rows_of_200 = {f"blk.{index}.ffn_down.weight" for index in range(2)}  # no whole number of blocks of 32
    for name, kind in kinds.items():
        if name.endswith("norm.weight") or name.endswith(".bias") or name == "position_embd.weight":
            assert kind == "f32", name
        elif dtype == "q8_0" and name in rows_of_200:
            assert kind == "f16", name
        else:
            assert kind == dtype, name
    assert fields_of(done)["general.file_type"] == gguf_file.FILE_TYPES[dtype]
    assert done.receipt.verified and done.receipt.tolerance == ROUNDING.get(dtype, TOLERANCE)


@pytest.mark.parametrize("dtype", ["f16", "bf16", "q8_0"])
def test_rounding_is_that_of_the_kind(dtype: str) -> None:
    numbers = torch.randn(8, 64, generator=torch.Generator().manual_seed(1))
    found = gguf_file.rounded(numbers, gguf_file.KINDS[dtype])
    if dtype == "q8_0":  # 32 numbers share a scale, the largest of them / 127, itself kept in f16
        scale = (numbers.unflatten(1, (-1, 32)).abs().amax(-1, keepdim=True) / 127).half().float()
        error = (found - numbers).unflatten(1, (-1, 32)).abs()
        assert bool((error <= scale * 0.51 + 127 * scale * 2**-11).all()) and float(error.max()) > 0
    else:
        assert torch.equal(found, numbers.to(torch.float16 if dtype == "f16" else torch.bfloat16).float())


def test_weights_stored_in_bf16_stay_so(tmp_path: Path) -> None:
    done = to_gguf(write_model(tmp_path / "model", dtype=torch.bfloat16))
    assert done.dtype == "bf16" and done.receipt.max_logit_difference == 0


# ---- positions ---------------------------------------------------------------------------------------------------------


def test_llama3_frequencies_become_a_tensor_of_factors(tmp_path: Path) -> None:
    done = to_gguf(write_model(tmp_path / "model", "llama", rope_scaling=LLAMA3))
    [factors] = [tensor.data for tensor in reader_of(done).tensors if tensor.name == "rope_freqs.weight"]
    assert factors[0] == pytest.approx(1.0) and factors[-1] == pytest.approx(8.0)


def test_yarn_and_linear_become_fields(tmp_path: Path) -> None:
    done = to_gguf(write_model(tmp_path / "model", "qwen2", rope_scaling=YARN | {"attention_factor": 1.3}))
    fields = fields_of(done)
    assert (fields["qwen2.rope.scaling.type"], fields["qwen2.rope.scaling.factor"]) == ("yarn", 4.0)
    assert fields["qwen2.rope.scaling.original_context_length"] == 16
    config = ModelConfig(**FAMILIES["neox"] | {"vocab_size": 9, "rope_scaling": {"kind": "linear", "factor": 2.0}})
    assert gguf_layout.metadata(config)["rope.scaling.factor"] == 2.0


@pytest.mark.parametrize(
    ("family", "changes", "told"),
    [
        ("modern", {"rope_scaling": LLAMA3}, "rope_scaling is llama3, which llama.cpp's qwen3 does not know"),
        ("qwen2", {"rope_scaling": YARN | {"beta_fast": 16.0}}, "rope_scaling has beta_fast 16.0"),
        ("mistral", {"window": 8, "banded": "all"}, "window is 8 and context 64; llama.cpp's llama lets every token"),
        ("fast", {}, "family is fast: llama.cpp has no nanochat"),
        ("gpt1", {}, "family is gpt1: llama.cpp has no GPT-1"),
        ("gpt3", {}, "family is gpt3: llama.cpp's gpt2 has no local attention"),
    ],
)
def test_what_llama_cpp_computes_otherwise(tmp_path: Path, family: str, changes: dict[str, Any], told: str) -> None:
    found = refusal(write_model(tmp_path / "model", family, **changes))
    assert told in found and "--to safetensors" in found


def test_a_window_as_long_as_the_context_changes_nothing(tmp_path: Path) -> None:
    assert to_gguf(write_model(tmp_path / "model", "mistral", window=64, banded="all")).receipt.verified


def test_every_field_is_named_at_once() -> None:
    config = ModelConfig(
        **FAMILIES["modern"] | {"vocab_size": 9, "logit_softcap": 15.0, "mlp_bias": True, "activation": "relu"}
    )
    found = " ".join(str(problem) for problem in gguf_layout.unfit(config))
    for name in ("logit_softcap is 15.0", "mlp_bias is True", "activation is 'relu'"):
        assert name in found


# ---- tokenizers --------------------------------------------------------------------------------------------------------


def test_the_vocabulary(tmp_path: Path) -> None:
    done = to_gguf(write_model(tmp_path / "model"))
    fields, tokenizer = fields_of(done), small_tokenizer()
    own = {name.removeprefix("tokenizer.ggml."): value for name, value in fields.items() if "ggml" in name}
    assert (own["model"], own["pre"]) == ("gpt2", "gpt-2")
    assert len(own["tokens"]) == tokenizer.vocab_size + SPARE_ROWS
    assert own["tokens"][tokenizer.eot_id] == "<|endoftext|>" and own["token_type"][tokenizer.eot_id] == 3
    assert own["tokens"][-1] == f"[PAD{tokenizer.vocab_size + SPARE_ROWS - 1}]" and own["token_type"][-1] == 5
    assert own["merges"] == [" ".join(pair) for pair in tokenizer.settings["model"]["merges"]]
    assert own["bos_token_id"] == own["eos_token_id"] == tokenizer.eot_id
    assert own["padding_token_id"] == tokenizer.pad_id
    assert own["add_bos_token"] is False and own["add_eos_token"] is False
    assert done.receipt.token_ids == {text: tokenizer.encode(text) for text in TEXTS}


def test_bytes_go_out_with_a_merge_that_never_applies(tmp_path: Path) -> None:
    tokenizer = train_tokenizer("bytes", [], None)
    done = to_gguf(write_model(tmp_path / "model", tokenizer=tokenizer))
    assert fields_of(done)["tokenizer.ggml.merges"] == [gguf_tokenizer.INERT_MERGE]
    left = gguf_tokenizer.INERT_MERGE.split()[0]
    assert len(left) > 1 and left not in tokenizer.settings["model"]["vocab"]


def test_wordpiece_has_its_spaces_the_other_way_round(tmp_path: Path) -> None:
    done = to_gguf(write_model(tmp_path / "model", "bert"))
    fields, tokenizer = fields_of(done), small_tokenizer("wordpiece")
    assert fields["tokenizer.ggml.model"] == "bert" and fields["bert.attention.causal"] is False
    assert fields["tokenizer.ggml.token_type_count"] == 2
    for token, index in tokenizer.settings["model"]["vocab"].items():
        expected = token if token.startswith("[") else token[2:] if token.startswith("##") else "▁" + token
        assert fields["tokenizer.ggml.tokens"][index] == expected
    ids = {
        name: fields[f"tokenizer.ggml.{name}_token_id"] for name in ("bos", "seperator", "mask", "padding", "unknown")
    }
    special = tokenizer.special_tokens
    assert ids == {
        "bos": special["[CLS]"],
        "seperator": special["[SEP]"],
        "mask": special["[MASK]"],
        "padding": special["[PAD]"],
        "unknown": special["[UNK]"],
    }
    assert any("no masked-word head" in note for note in done.receipt.notes)


def split_by(pattern: str) -> dict[str, Any]:
    """The settings of a byte-level BPE that splits by ``pattern``, as Llama 3's and Qwen's tokenizer.json have it."""
    settings = json.loads(json.dumps(dict(small_tokenizer().settings)))
    level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}
    split = {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": False}
    return settings | {"pre_tokenizer": {"type": "Sequence", "pretokenizers": [split, level]}, "decoder": level}


@pytest.mark.parametrize("name", ["qwen2", "llama-bpe"])
def test_splits_are_recognised(tmp_path: Path, name: str) -> None:
    pattern = next(pattern for pattern, known in gguf_tokenizer.SPLITS.items() if known == name)
    tokenizer = Tokenizer(split_by(pattern), "other")
    done = to_gguf(write_model(tmp_path / "model", tokenizer=tokenizer))
    assert fields_of(done)["tokenizer.ggml.pre"] == name and done.receipt.verified


@pytest.mark.parametrize(
    ("tokenizer", "told"),
    [
        (lambda: train_tokenizer("chars", [TEXT], None), "is of kind characters"),
        (lambda: train_tokenizer("words", [TEXT], None), "is of kind words"),
        (lambda: Tokenizer(split_by(r"\d|\D+"), "other"), r"splits text by '\\d|\\D+'"),
        (lambda: Tokenizer({**small_tokenizer().settings, "normalizer": {"type": "Lowercase"}}, "other"), "Lowercase"),
        (lambda: train_tokenizer("wordpiece", [TEXT], None, lowercase=False), "keeps upper case or accents"),
    ],
)
def test_what_llama_cpp_would_split_otherwise(tmp_path: Path, tokenizer: Any, told: str) -> None:
    made = tokenizer()
    family = "bert" if made.kind == "wordpiece" else "modern"
    assert told in refusal(write_model(tmp_path / "model", family, tokenizer=made))


def test_no_tokenizer_and_a_band_are_said_together(tmp_path: Path) -> None:
    told = refusal(write_model(tmp_path / "model", "gpt3", bare=True))
    assert "the model has no tokenizer" in told and "family is gpt3" in told


def test_chat_template_and_several_ends(tmp_path: Path) -> None:
    folder = write_model(tmp_path / "model")
    (folder / "chat_template.jinja").write_text("{{ messages[0]['content'] }}", encoding="utf-8")
    end = small_tokenizer().eot_id
    (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": [7, end]}), encoding="utf-8")
    done = to_gguf(folder)
    fields = fields_of(done)
    assert fields["tokenizer.chat_template"] == "{{ messages[0]['content'] }}"
    assert (fields["tokenizer.ggml.eos_token_id"], fields["tokenizer.ggml.eot_token_id"]) == (7, end)
    # 7 is an ordinary token, which may stand inside a word: only the special one is a stop text.
    stops = [line for line in modelfile_of(done) if line.startswith("PARAMETER stop")]
    assert stops == ['PARAMETER stop "<|endoftext|>"'] and not any("TEMPLATE" in line for line in modelfile_of(done))
    assert any("Ollama reads no Jinja" in note for note in done.receipt.notes)
    assert not any("room for" in note for note in done.receipt.notes)


def test_more_ends_than_gguf_has_room_for_are_told(tmp_path: Path) -> None:
    folder = write_model(tmp_path / "model")
    (folder / "generation_config.json").write_text('{"eos_token_id": [256, 7, 8, 9]}', encoding="utf-8")
    done = to_gguf(folder)
    fields = fields_of(done)
    assert (fields["tokenizer.ggml.eos_token_id"], fields["tokenizer.ggml.eot_token_id"]) == (256, 7)
    [note] = done.receipt.notes
    assert "4 ids end a text" in note and "room for 256 and 7" in note and note.endswith("8, 9")


def test_a_stop_text_with_quotation_marks_is_quoted() -> None:
    assert modelfile("m", 8, True, ['<"end">']).splitlines()[-1] == 'PARAMETER stop """<"end">"""'


def test_the_modelfile(tmp_path: Path) -> None:
    done = to_gguf(write_model(tmp_path / "model"), verify=False)
    assert modelfile_of(done) == ["FROM ./model.gguf", 'TEMPLATE """{{ .Prompt }}"""', "PARAMETER num_ctx 64"]


def test_one_tensor_is_in_memory_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, encode = write_model(tmp_path / "model"), gguf_file.encode
    alive: list[weakref.ref[Any]] = []

    def watch(tensor: Tensor, kind: Any) -> Any:
        assert sum(reference() is not None for reference in alive) == 0
        made = encode(tensor.clone(), kind)
        alive.append(weakref.ref(made))
        return made

    monkeypatch.setattr(gguf_file, "encode", watch)
    to_gguf(folder, verify=False)
    assert len(alive) > 20
