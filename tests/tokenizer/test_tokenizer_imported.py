"""Tokenizers of models that come from elsewhere: their special tokens, added tokens and chat template come along."""

import json
from pathlib import Path
from typing import Any

import pytest
import tokenizers
from tokenizers import decoders, models, normalizers, pre_tokenizers

from gptloom.config.errors import UserError
from gptloom.evaluation.perplexity import id_bytes
from gptloom.tokenizer import Tokenizer, load_tokenizer, train_tokenizer
from gptloom.tokenizer.layout import byte_letters

TEMPLATE = "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
TEXTS = ["To be, or not to be é", "  two  spaces\n", "a<|im_end|>b", "e\u0301"]


def byte_level(folder: Path, *, nfc: bool, special: list[str], added: list[str]) -> None:
    """A ``tokenizer.json`` of the form that Qwen and GPT-NeoX have."""
    vocab = {letter: i for i, letter in enumerate(sorted(byte_letters()))} | {"to": 256, "be": 257}
    backend = tokenizers.Tokenizer(models.BPE(vocab, [("t", "o"), ("b", "e")]))
    if nfc:
        backend.normalizer = normalizers.NFC()
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    backend.add_special_tokens(special)
    backend.add_tokens(added)
    backend.save(str(folder / "tokenizer.json"))


def metaspace(folder: Path, *, special: list[str]) -> None:
    """A ``tokenizer.json`` of the form that Llama 2 and Mistral have."""
    vocab = {token: i for i, token in enumerate(["<unk>", "<s>", "</s>", "▁", "t", "o", "b", "e", "to", "be"])}
    vocab |= {f"<0x{value:02X}>": len(vocab) + value for value in range(256)}
    backend = tokenizers.Tokenizer(
        models.BPE(vocab, [("t", "o"), ("b", "e")], unk_token="<unk>", byte_fallback=True, fuse_unk=True)
    )
    backend.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    backend.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    backend.add_special_tokens(["<unk>", "<s>", "</s>", *special])
    backend.save(str(folder / "tokenizer.json"))


def write(folder: Path, **files: Any) -> None:
    for name, content in files.items():
        (folder / f"{name}.json").write_text(json.dumps(content), encoding="utf-8")


def assert_round_trip(tokenizer: Tokenizer, folder: Path) -> None:
    """Saved, it is the same to us and gives equal ids in transformers."""
    transformers = pytest.importorskip("transformers")
    tokenizer.save(folder / "again")
    again = load_tokenizer(folder / "again")
    roles = ("hash", "kind", "eot_id", "pad_id", "special_tokens", "chat_template", "lossless")
    assert [getattr(again, role) for role in roles] == [getattr(tokenizer, role) for role in roles]
    theirs = transformers.PreTrainedTokenizerFast.from_pretrained(str(folder / "again"))
    for text in TEXTS:
        assert theirs.encode(text, add_special_tokens=False) == tokenizer.encode(text, special=True)
    assert theirs.chat_template == tokenizer.chat_template


@pytest.mark.parametrize("as_file", [False, True])
def test_qwen(tmp_path: Path, as_file: bool) -> None:
    byte_level(tmp_path, nfc=True, special=["<|endoftext|>", "<|im_start|>", "<|im_end|>"], added=["<tool_call>"])
    config = {"tokenizer_class": "Qwen2Tokenizer", "eos_token": "<|im_end|>", "pad_token": "<|endoftext|>"}
    write(tmp_path, tokenizer_config=config if as_file else {**config, "chat_template": TEMPLATE})
    if as_file:
        (tmp_path / "chat_template.jinja").write_text(TEMPLATE, encoding="utf-8")
    tokenizer = load_tokenizer(tmp_path)
    assert (tokenizer.kind, tokenizer.vocab_size, tokenizer.chat_template) == ("other", 262, TEMPLATE)
    assert tokenizer.token_text(tokenizer.eot_id) == "<|endoftext|>"  # between documents; a turn ends in <|im_end|>
    assert tokenizer.pad_id is None  # it is the end of text: padding is told by the mask
    assert list(tokenizer.special_tokens) == ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    assert tokenizer.encode("be<tool_call>", special=True) == [257, 261]
    assert tokenizer.lossless
    assert_round_trip(tokenizer, tmp_path)
    saved = json.loads((tmp_path / "again" / "tokenizer_config.json").read_text(encoding="utf-8"))
    assert {**saved, **config, "chat_template": TEMPLATE} == saved


def test_gpt_neox(tmp_path: Path) -> None:
    byte_level(tmp_path, nfc=True, special=["<|endoftext|>", "<|padding|>"], added=["   ", "  "])
    write(tmp_path, tokenizer_config={"tokenizer_class": "GPTNeoXTokenizer", "add_prefix_space": False})
    write(tmp_path, special_tokens_map={"eos_token": "<|endoftext|>", "pad_token": "<|padding|>"})
    tokenizer = load_tokenizer(tmp_path)
    assert (tokenizer.kind, tokenizer.eot_id, tokenizer.pad_id) == ("other", 258, 259)
    assert tokenizer.encode("to   be") == [256, 260, 257]
    assert_round_trip(tokenizer, tmp_path)


@pytest.mark.parametrize("where", ["tokenizer_config", "special_tokens_map"])
def test_llama_and_mistral(tmp_path: Path, where: str) -> None:
    metaspace(tmp_path, special=["[INST]"])
    write(
        tmp_path, **{where: {"bos_token": {"content": "<s>"}, "eos_token": {"content": "</s>"}, "unk_token": "<unk>"}}
    )
    tokenizer = load_tokenizer(tmp_path)
    assert (tokenizer.kind, tokenizer.eot_id, tokenizer.unk_id, tokenizer.pad_id) == ("other", 2, 0, None)
    assert tokenizer.decode(tokenizer.encode("to be é\n")) == "to be é\n"
    assert tokenizer.lossless
    assert_round_trip(tokenizer, tmp_path)


@pytest.mark.slow
def test_the_chat_template_of_a_gpt2_vocabulary(gpt2: Tokenizer, tmp_path: Path) -> None:
    gpt2.save(tmp_path)
    path = tmp_path / "tokenizer_config.json"
    config = {**json.loads(path.read_text(encoding="utf-8")), "chat_template": [{"name": "default", "template": "x"}]}
    path.write_text(json.dumps(config), encoding="utf-8")
    tokenizer = load_tokenizer(tmp_path)
    assert (tokenizer.kind, tokenizer.hash, tokenizer.chat_template) == ("gpt2", gpt2.hash, "x")
    tokenizer.save(tmp_path / "again")
    assert load_tokenizer(tmp_path / "again").chat_template == "x"


def test_sentencepiece_alone_is_refused_with_the_way_to_convert_it(tmp_path: Path) -> None:
    (tmp_path / "tokenizer.model").write_bytes(b"\x0a\x0e")
    write(tmp_path, tokenizer_config={"eos_token": "</s>"})
    with pytest.raises(UserError, match="SentencePiece") as caught:
        load_tokenizer(tmp_path)
    mend = caught.value.problems[0].mend or ""
    assert f"AutoTokenizer.from_pretrained({str(tmp_path)!r}).save_pretrained" in mend


def test_added_tokens_in_a_file_of_their_own_are_refused(tmp_path: Path) -> None:
    write(tmp_path, vocab={"a": 0, "<|endoftext|>": 1}, added_tokens={"<pad>": 2})
    (tmp_path / "merges.txt").write_text("#version: 0.2\n", encoding="utf-8")
    with pytest.raises(UserError, match=r"added_tokens\.json.*\n.*save_pretrained"):
        load_tokenizer(tmp_path)


def test_a_tokenizer_that_drops_spacing_has_no_bytes_to_measure_by(tmp_path: Path) -> None:
    backend = tokenizers.Tokenizer(models.WordLevel({"to": 0, "be": 1, "</s>": 2, "?": 3}, unk_token="?"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    backend.save(str(tmp_path / "tokenizer.json"))
    write(tmp_path, tokenizer_config={"eos_token": "</s>"})
    lossy = load_tokenizer(tmp_path)
    assert (lossy.kind, lossy.lossless, id_bytes(lossy, 4)) == ("other", False, None)
    exact = train_tokenizer("bytes", [], None)
    sizes = id_bytes(exact, 300)
    assert exact.lossless and sizes is not None and int(sizes.sum()) == 256
