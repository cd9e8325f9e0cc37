"""Folders written by ``transformers`` come in: every architecture, what comes along, and what the receipt says."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import tokenizers
import torch
import transformers
from real_data import real_data
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers_folders import ARCHITECTURES, write_folder

import gptloom
from gptloom.config.errors import UserError, VerificationError
from gptloom.interop import witness
from gptloom.interop.export.gguf_tokenizer import SPLITS
from gptloom.interop.export.target import ROUNDING
from gptloom.interop.import_model import Imported
from gptloom.interop.open import load
from gptloom.interop.receipt import TEXTS
from gptloom.model.layouts import layout_for
from gptloom.model.store import content_hash, load_model
from gptloom.tokenizer.train import train_tokenizer

TEXT = "the old king and his young queen went down to the river where a boat of green wood lay waiting "
QWEN2_SPLIT = next(pattern for pattern, name in SPLITS.items() if name == "qwen2")
TEMPLATE = "{% for m in messages %}<|user|>{{ m['content'] }}{% endfor %}"


def document(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


def write_tokenizer(folder: Path, vocab_size: int = 290, **more: Any) -> transformers.PreTrainedTokenizerFast:
    """A byte-level BPE with chat tokens beside the model of ``folder``, as ``transformers`` saves it."""
    folder.mkdir(parents=True, exist_ok=True)
    train_tokenizer("bpe", [TEXT * 9], vocab_size).save(folder)
    theirs = transformers.PreTrainedTokenizerFast(
        tokenizer_file=str(folder / "tokenizer.json"), eos_token="<|endoftext|>", **more
    )
    theirs.add_special_tokens({"additional_special_tokens": ["<|user|>", "<|end|>"]})
    (folder / "tokenizer_config.json").unlink()
    theirs.save_pretrained(folder)
    return theirs


def bring_in(folder: Path, out: Path, **options: Any) -> Imported:
    return gptloom.import_model(str(folder), out=str(out), quiet=True, **options)


def refusal(folder: Path, out: Path, **options: Any) -> str:
    with pytest.raises(UserError) as caught:
        bring_in(folder, out, **options)
    assert not out.exists() and not [path for path in out.parent.iterdir() if path.name.startswith(f".{out.name}")]
    return str(caught.value)


def their_logits(folder: Path, ids: Tensor) -> Tensor:
    model = transformers.AutoModelForCausalLM.from_pretrained(folder, attn_implementation="eager", dtype=torch.float32)
    return model.eval()(ids).logits.detach()


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_every_architecture_comes_in_and_computes_the_same(name: str, tmp_path: Path) -> None:
    write_folder(tmp_path / "theirs", name)
    imported = bring_in(tmp_path / "theirs", tmp_path / "ours")
    receipt = imported.receipt
    assert receipt.verified and receipt.reference == f"transformers {transformers.__version__}, eager attention"
    wanted = {"bert": {"logits", "pair_logits"}, "bert-body": {"hidden", "pooled"}, "gpt2-body": {"hidden"}}
    assert set(receipt.outputs) == wanted.get(name, {"logits"})
    for output in receipt.outputs.values():
        assert 0 < output["max_difference"] <= 1e-5
        assert output["scale"] > 0.1
    assert document(tmp_path / "ours" / "receipt.json")["verified"] is True
    with safe_open(tmp_path / "ours" / "model.safetensors", framework="pt") as file:
        assert set(file.keys()) == {rule.theirs for rule in layout_for(imported.config).rules(imported.config)}
    if "body" not in name and not name.startswith("bert"):
        ids = torch.randint(97, (1, 40), generator=torch.Generator().manual_seed(1))
        ours = load_model(tmp_path / "ours")[0](ids)
        torch.testing.assert_close(ours, their_logits(tmp_path / "theirs", ids), rtol=0, atol=1e-5)
        torch.testing.assert_close(ours, their_logits(tmp_path / "ours", ids), rtol=0, atol=1e-5)


def test_shards_and_a_resized_embedding_come_in(tmp_path: Path) -> None:
    write_folder(tmp_path / "theirs", "llama", shard="20KB", vocab_size=104)
    assert (tmp_path / "theirs" / "model.safetensors.index.json").is_file()
    imported = bring_in(tmp_path / "theirs", tmp_path / "ours")
    assert imported.receipt.verified and imported.config.vocab_size == 104
    assert sorted(path.name for path in (tmp_path / "ours").glob("*.safetensors*")) == ["model.safetensors"]


def test_numbers_stay_as_they_are_unless_others_are_asked_for(tmp_path: Path) -> None:
    write_folder(tmp_path / "wide", "qwen3")
    model = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "wide", dtype=torch.bfloat16)
    model.save_pretrained(tmp_path / "half")
    kept, rounded = (
        bring_in(tmp_path / "half", tmp_path / "a"),
        bring_in(tmp_path / "wide", tmp_path / "b", dtype="bf16"),
    )
    assert kept.receipt.verified and kept.receipt.max_logit_difference < 1e-5
    assert "weights stored in bf16" in rounded.receipt.notes
    first, second = (load_file(tmp_path / name / "model.safetensors") for name in "ab")
    assert {tensor.dtype for tensor in first.values()} == {torch.bfloat16}
    assert first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)
    assert document(tmp_path / "a" / "config.json")["dtype"] == "bfloat16"


@pytest.mark.parametrize("dtype", ["bf16", "f16"])
def test_the_receipt_shows_what_rounding_costs(tmp_path: Path, dtype: str) -> None:
    write_folder(tmp_path / "theirs", "qwen3")
    receipt = bring_in(tmp_path / "theirs", tmp_path / "ours", dtype=dtype).receipt
    assert receipt.verified and receipt.tolerance == ROUNDING[dtype] and receipt.max_logit_difference > 1e-4
    note = receipt.notes[-1]
    assert note.startswith(f"rounded to {dtype}: against the source rounded alike")
    assert float(note.rsplit(" ", 1)[1]) < 1e-5


@pytest.mark.parametrize("verify", [True, False])
def test_numbers_that_f16_cannot_hold_are_refused(tmp_path: Path, verify: bool) -> None:
    write_folder(tmp_path / "theirs", "gpt2")
    tensors = load_file(tmp_path / "theirs" / "model.safetensors")
    tensors["transformer.h.1.mlp.c_fc.weight"][3, 5] = 70_000.0
    save_file(tensors, tmp_path / "theirs" / "model.safetensors", {"format": "pt"})
    told = refusal(tmp_path / "theirs", tmp_path / "ours", dtype="f16", verify=verify)
    assert "blocks.1.mlp.up.weight" in told and "--dtype bf16" in told


def test_tokenizer_template_special_ids_and_generation_config_come_along(tmp_path: Path) -> None:
    source, out = tmp_path / "theirs", tmp_path / "ours"
    ids = {"bos_token_id": 3, "eos_token_id": [0, 293], "pad_token_id": 292}
    write_folder(source, "llama", vocab_size=300, **ids)
    theirs = write_tokenizer(source, chat_template=TEMPLATE, model_max_length=64, unk_token="<|user|>")
    generation = ids | {"do_sample": True, "temperature": 0.6, "top_p": 0.9, "transformers_version": "5.0"}
    (source / "generation_config.json").write_text(json.dumps(generation), encoding="utf-8")
    (source / "additional_chat_templates").mkdir()
    (source / "additional_chat_templates" / "tools.jinja").write_text("{{ tools }}", encoding="utf-8")
    imported = bring_in(source, out)
    assert imported.receipt.verified and imported.receipt.token_ids is not None
    assert imported.receipt.token_ids["Hello, world!"] == theirs("Hello, world!")["input_ids"]
    assert "8 rows of the embedding are spare: the tokenizer has 292 ids" in imported.receipt.notes
    assert document(out / "generation_config.json") == generation
    assert {name: document(out / "config.json")[name] for name in ids} == ids
    for name in (
        "tokenizer.json",
        "tokenizer_config.json",
        "chat_template.jinja",
        "additional_chat_templates/tools.jinja",
    ):
        assert (out / name).read_bytes() == (source / name).read_bytes()
    again = transformers.AutoTokenizer.from_pretrained(out)
    chat = [{"role": "user", "content": "Hello"}]
    assert again.apply_chat_template(chat, tokenize=False) == "<|user|>Hello"
    assert again.model_max_length == 64 and again.unk_token == "<|user|>"


def test_every_id_that_the_generation_config_names_ends_a_text(tmp_path: Path) -> None:
    write_folder(tmp_path / "theirs", "llama", vocab_size=300)
    write_tokenizer(tmp_path / "theirs")
    free = load(f"hf:{tmp_path / 'theirs'}", device="cpu", precision="fp32").generate("the", max_tokens=12, seed=1)
    stop = free.ids[5]
    (tmp_path / "theirs" / "generation_config.json").write_text(f'{{"eos_token_id": [0, {stop}]}}', encoding="utf-8")
    bring_in(tmp_path / "theirs", tmp_path / "ours")
    model = load(tmp_path / "ours", device="cpu", precision="fp32")
    stopped = model.generate("the", max_tokens=12, seed=1)
    first = free.ids.index(stop)
    assert stopped.ids == free.ids[: first + 1] and stopped.finish_reason == "stop"
    assert stopped.text == model.tokenizer.decode(free.ids[:first])


def test_beams_end_there_too(tmp_path: Path) -> None:
    write_folder(tmp_path / "theirs", "llama", vocab_size=300)
    write_tokenizer(tmp_path / "theirs")
    path, options = tmp_path / "theirs", {"max_tokens": 3, "beams": 4, "n": 4}
    stop = load(path, device="cpu", precision="fp32").generate("the", **options)[0].ids[0]
    (path / "generation_config.json").write_text(f'{{"eos_token_id": {stop}}}', encoding="utf-8")
    beams = load(path, device="cpu", precision="fp32").generate("the", **options)
    assert beams[0].ids == (stop,) and beams[0].text == "" and len(beams) == 4
    assert all((stop in beam.ids) == (beam.finish_reason == "stop") and stop not in beam.ids[:-1] for beam in beams)


@pytest.mark.parametrize("composed", [True, False])
def test_a_qwen2_is_read_as_its_tokenizer_says_even_where_transformers_overrides_it(
    tmp_path: Path, composed: bool
) -> None:
    source = tmp_path / "theirs"
    write_folder(source, "qwen2", vocab_size=300)
    write_tokenizer(source)
    described = document(source / "tokenizer.json")
    split = {"type": "Split", "pattern": {"Regex": QWEN2_SPLIT}, "behavior": "Isolated", "invert": False}
    level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": False, "use_regex": False}
    described["pre_tokenizer"] = {"type": "Sequence", "pretokenizers": [split, level]}
    described["normalizer"] = {"type": "NFC"} if composed else None
    (source / "tokenizer.json").write_text(json.dumps(described), encoding="utf-8")
    (source / "tokenizer_config.json").write_text('{"tokenizer_class": "Qwen2Tokenizer"}', encoding="utf-8")
    receipt = bring_in(source, tmp_path / "ours").receipt
    plain = tokenizers.Tokenizer.from_file(str(source / "tokenizer.json"))
    assert receipt.verified
    assert receipt.token_ids == {text: plain.encode(text, add_special_tokens=False).ids for text in TEXTS}
    assert any("overrides tokenizer.json by the model's type" in note for note in receipt.notes) == (not composed)


def test_a_vocabulary_in_two_files_becomes_a_tokenizer_json(tmp_path: Path) -> None:
    tokenizer = train_tokenizer("bpe", [TEXT * 9], 290)
    write_folder(tmp_path / "theirs", "gpt2", vocab_size=300)
    tokenizer.save(tmp_path / "tok")
    model = document(tmp_path / "tok" / "tokenizer.json")["model"]
    vocab = {"<|endoftext|>": tokenizer.eot_id} | model["vocab"]
    (tmp_path / "theirs" / "vocab.json").write_text(json.dumps(vocab), encoding="utf-8")
    merges = "\n".join(["#version: 0.2", *(" ".join(pair) for pair in model["merges"])])
    (tmp_path / "theirs" / "merges.txt").write_text(merges + "\n", encoding="utf-8")
    config = '{"chat_template": "{{ messages }}", "tokenizer_class": "GPT2Tokenizer"}'
    (tmp_path / "theirs" / "tokenizer_config.json").write_text(config, encoding="utf-8")
    imported = bring_in(tmp_path / "theirs", tmp_path / "ours")
    assert imported.receipt.verified and imported.receipt.token_ids is not None
    assert document(tmp_path / "ours" / "tokenizer_config.json")["chat_template"] == "{{ messages }}"
    again = transformers.AutoTokenizer.from_pretrained(tmp_path / "ours")
    assert again(TEXT)["input_ids"] == tokenizer.encode(TEXT)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "vocab_size", "files"),
    [
        ("gpt2", 50257, {"vocab_gpt2/encoder.json": "vocab.json", "vocab_gpt2/vocab.bpe": "merges.txt"}),
        ("gpt2", 50257, {"vocab_gpt2/encoder.json": "encoder.json", "vocab_gpt2/vocab.bpe": "vocab.bpe"}),
        (
            "gpt1",
            40478,
            {"vocab_gpt1/encoder_bpe_40000.json": "vocab.json", "vocab_gpt1/vocab_40000.bpe": "merges.txt"},
        ),
        ("bert", 30522, {"vocab_bert/bert-base-uncased-vocab.txt": "vocab.txt"}),
    ],
    ids=["gpt2", "gpt2-openai", "gpt1", "bert"],
)
def test_published_vocabularies_give_the_ids_of_transformers(
    name: str, vocab_size: int, files: dict[str, str], tmp_path: Path
) -> None:
    write_folder(tmp_path / "theirs", name, vocab_size=vocab_size)
    for file, called in files.items():
        shutil.copyfile(real_data(file), tmp_path / "theirs" / called)
    receipt = bring_in(tmp_path / "theirs", tmp_path / "ours").receipt
    assert receipt.verified and receipt.token_ids is not None
    # transformers knows vocabularies by its own file names only; OpenAI's it passes over without a word.
    assert bool(receipt.notes) == ("encoder.json" in files.values())
    again = transformers.AutoTokenizer.from_pretrained(tmp_path / "ours")
    assert {text: again(text, add_special_tokens=False)["input_ids"] for text in TEXTS} == receipt.token_ids


@pytest.mark.parametrize("name", ["llama", "gpt2", "bert"])
def test_a_tokenizer_larger_than_the_embedding_is_refused_or_gets_rows(name: str, tmp_path: Path) -> None:
    source = tmp_path / "theirs"
    write_folder(source, name)
    write_tokenizer(source, 290)
    text = refusal(source, tmp_path / "ours")
    assert "the tokenizer has 292 ids and the embedding 97 rows; the embedding wins" in text
    assert "--resize-vocab: 195 new rows" in text and "--tokenizer" in text
    imported = bring_in(source, tmp_path / "ours", resize_vocab=True)
    assert imported.receipt.verified and imported.config.vocab_size == 292
    assert any("vocabulary resized from 97 to 292" in note for note in imported.receipt.notes)
    before, after = load_model(source)[0].state_dict(), load_model(tmp_path / "ours")[0].state_dict()
    grown = {key for key in after if after[key].shape != before[key].shape}
    assert grown == {"embedding.weight"} | {"llama": {"head.weight"}, "bert": {"masked_head.bias"}}.get(name, set())
    for key in grown:
        assert torch.equal(after[key][:97], before[key])
        torch.testing.assert_close(after[key][97:], before[key].mean(0).expand_as(after[key][97:]))
    ids = torch.tensor([[250, 5]])
    assert torch.isfinite(load_model(tmp_path / "ours")[0](ids)).all()


def test_resizing_where_there_is_nothing_to_resize_is_refused(tmp_path: Path) -> None:
    write_folder(tmp_path / "theirs", "llama", vocab_size=300)
    assert "there is none here" in refusal(tmp_path / "theirs", tmp_path / "ours", resize_vocab=True)
    write_tokenizer(tmp_path / "theirs")
    assert "nothing to resize" in refusal(tmp_path / "theirs", tmp_path / "ours", resize_vocab=True)


def test_a_named_tokenizer_takes_the_place_of_the_folders_own(tmp_path: Path) -> None:
    write_folder(tmp_path / "theirs", "llama", vocab_size=300)
    assert "--tokenizer" in bring_in(tmp_path / "theirs", tmp_path / "without").receipt.notes[0]
    bytes_tokenizer = train_tokenizer("bytes", [], None)
    bytes_tokenizer.save(tmp_path / "tok")
    imported = bring_in(tmp_path / "theirs", tmp_path / "ours", tokenizer=str(tmp_path / "tok"))
    assert imported.receipt.verified and imported.receipt.token_ids is None and imported.receipt.perplexity is not None
    assert load(tmp_path / "ours", device="cpu").tokenizer.hash == bytes_tokenizer.hash


def test_the_lineage_names_the_source(tmp_path: Path) -> None:
    write_folder(tmp_path / "theirs", "gpt2")
    bring_in(tmp_path / "theirs", tmp_path / "ours")
    found = document(tmp_path / "ours" / "gptloom.json")["lineage"]
    digest = content_hash(tmp_path / "theirs")
    assert found["source"] == {
        "name": str(tmp_path / "theirs"),
        "path": str(tmp_path / "theirs"),
        "revision": None,
        "hash": digest,
        "architectures": ["GPT2LMHeadModel"],
    }
    tree = gptloom.lineage(str(tmp_path / "ours"))
    assert tree.record["stage"] == "import" and [parent.hash for parent in tree.parents] == [digest]
    assert tree.parents[0].note is None


def test_without_transformers_our_own_reading_is_the_reference(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_folder(tmp_path / "theirs", "gpt2", vocab_size=300)
    write_tokenizer(tmp_path / "theirs")
    monkeypatch.setattr(witness, "find_spec", lambda name: None)
    receipt = bring_in(tmp_path / "theirs", tmp_path / "ours").receipt
    assert receipt.verified and receipt.reference == f"gptloom {gptloom.__version__}"
    assert receipt.notes[-1].startswith("transformers is not installed") and receipt.max_logit_difference == 0


def test_no_verify_opens_nothing_and_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_folder(tmp_path / "theirs", "gpt2")
    monkeypatch.setattr("gptloom.interop.import_model.compare", lambda *_: pytest.fail("compared"))
    imported = bring_in(tmp_path / "theirs", tmp_path / "ours", verify=False)
    receipt = document(tmp_path / "ours" / "receipt.json")
    assert receipt["verified"] is False and receipt["notes"][0] == "not compared: --no-verify"
    assert not imported.receipt.problems


def test_a_mismatch_leaves_nothing_under_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_folder(tmp_path / "theirs", "gpt2")
    out = tmp_path / "ours"
    bring_in(tmp_path / "theirs", out)
    before = content_hash(out)
    right = witness.our_outputs
    monkeypatch.setattr(
        witness, "our_outputs", lambda *given: {name: 1.01 * value for name, value in right(*given).items()}
    )
    for attempt in ("ours.differs", "ours.differs-2"):
        with pytest.raises(VerificationError, match="logits differ by up to") as caught:
            bring_in(tmp_path / "theirs", out, overwrite=True)
        assert attempt in str(caught.value)
        assert document(tmp_path / attempt / "receipt.json")["verified"] is False
    assert content_hash(out) == before and document(out / "receipt.json")["verified"] is True
    assert {path.name for path in tmp_path.iterdir()} == {"theirs", "ours", "ours.differs", "ours.differs-2"}


def test_a_source_that_transformers_cannot_compute_with_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_folder(tmp_path / "theirs", "gpt2")
    monkeypatch.setattr(transformers.GPT2LMHeadModel, "forward", lambda *_, **__: 1 / 0)
    with pytest.raises(VerificationError, match="cannot compute with it: ZeroDivisionError") as caught:
        bring_in(tmp_path / "theirs", tmp_path / "ours")
    assert "--no-verify" in str(caught.value) and not (tmp_path / "ours").exists()
