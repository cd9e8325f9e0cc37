"""Opening what is there, and saying why what cannot be opened is not."""

import json
import pickle
import shutil
from pathlib import Path

import pytest
import tokenizers
from real_data import real_data

from gptloom.config.errors import UserError
from gptloom.tokenizer import Tokenizer, load_tokenizer, train_tokenizer
from gptloom.tokenizer.kinds import guess_kind

TEXT = "To be, or not to be: that is the question.\n" * 3
KINDS = {"bpe": "bpe", "chars": "characters", "bytes": "bytes", "words": "words"}


@pytest.mark.parametrize("kind", KINDS)
def test_saved_and_opened_again(kind: str, tmp_path: Path) -> None:
    tokenizer = train_tokenizer(kind, [TEXT], None)
    tokenizer.save(tmp_path / "tok")
    for reference in (tmp_path / "tok", str(tmp_path / "tok" / "tokenizer.json")):
        again = load_tokenizer(reference)
        assert (again.kind, again.hash, again.pad_id) == (KINDS[kind], tokenizer.hash, tokenizer.pad_id)
        assert again.encode(TEXT) == tokenizer.encode(TEXT)
    (tmp_path / "tok" / "tokenizer_config.json").unlink()
    assert load_tokenizer(tmp_path / "tok").kind == KINDS[kind]  # guessed
    assert sorted(path.name for path in (tmp_path / "tok").iterdir()) == ["tokenizer.json"]


def test_a_run_folder_and_a_bare_model_folder(tmp_path: Path) -> None:
    tokenizer = train_tokenizer("bpe", [TEXT], None)
    tokenizer.save(tmp_path / "run" / "tokenizer")
    assert load_tokenizer(tmp_path / "run").hash == tokenizer.hash
    tokenizer.save(tmp_path / "model")
    (tmp_path / "model" / "tokenizer_config.json").unlink()
    (tmp_path / "model" / "config.json").write_text('{"model_type": "gpt2"}', encoding="utf-8")
    assert load_tokenizer(tmp_path / "model").hash == tokenizer.hash


@pytest.mark.slow
def test_gpt2_is_one_tokenizer_however_it_was_written(gpt2: Tokenizer, tmp_path: Path) -> None:
    source = real_data("vocab_gpt2")
    for vocabulary, merges in (("vocab.json", "merges.txt"), ("encoder.json", "vocab.bpe")):
        folder = tmp_path / vocabulary
        folder.mkdir()
        shutil.copy(source / "encoder.json", folder / vocabulary)
        shutil.copy(source / "vocab.bpe", folder / merges)
        for reference in (folder, folder / vocabulary, folder / merges):
            assert load_tokenizer(reference).hash == gpt2.hash
    gpt2.save(tmp_path / "saved")
    settings = json.loads((tmp_path / "saved" / "tokenizer.json").read_text(encoding="utf-8"))
    settings["model"]["merges"] = [" ".join(pair) for pair in settings["model"]["merges"]]  # as older files have it
    settings["post_processor"] = {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": False}
    settings["truncation"] = {"direction": "Right", "max_length": 4, "strategy": "LongestFirst", "stride": 0}
    (tmp_path / "saved" / "tokenizer.json").write_text(json.dumps(settings), encoding="utf-8")
    (tmp_path / "saved" / "tokenizer_config.json").unlink()
    again = load_tokenizer(tmp_path / "saved")
    assert (again.kind, again.hash) == ("gpt2", gpt2.hash)


def test_the_hash_ignores_padding_and_truncation_only() -> None:
    tokenizer = train_tokenizer("bpe", [TEXT], None)
    settings = tokenizer.__getstate__()["tokenizer_json"]
    padding = {"strategy": {"Fixed": 9}, "direction": "Right", "pad_to_multiple_of": None, "pad_id": 0}
    padded = {**json.loads(settings), "padding": {**padding, "pad_type_id": 0, "pad_token": "!"}}
    same = Tokenizer(padded, "bpe")
    assert same.hash == tokenizer.hash
    assert same.encode("To be") == tokenizer.encode("To be")
    assert (
        Tokenizer(
            {
                **json.loads(settings),
                "post_processor": {
                    "type": "ByteLevel",
                    "add_prefix_space": True,
                    "trim_offsets": True,
                    "use_regex": True,
                },
            },
            "bpe",
        ).hash
        != tokenizer.hash
    )


def sentencepiece_like(tmp_path: Path, config: dict[str, object]) -> Path:
    vocab = {
        "<unk>": 0,
        "</s>": 1,
        "<0xC3>": 2,
        "<0xA9>": 3,
        "▁to": 4,
        "▁be": 5,
        "t": 6,
        "o": 7,
        "b": 8,
        "e": 9,
        "▁": 10,
    }
    vocab |= {"to": 11, "be": 12}
    merges = [("t", "o"), ("b", "e"), ("▁", "to"), ("▁", "be")]
    backend = tokenizers.Tokenizer(tokenizers.models.BPE(vocab, merges, unk_token="<unk>", byte_fallback=True))
    backend.pre_tokenizer = tokenizers.pre_tokenizers.Metaspace()
    backend.decoder = tokenizers.decoders.Sequence(
        [
            tokenizers.decoders.Replace("▁", " "),
            tokenizers.decoders.ByteFallback(),
            tokenizers.decoders.Fuse(),
            tokenizers.decoders.Strip(" ", 1, 0),
        ]
    )
    backend.add_special_tokens(["</s>"])
    backend.save(str(tmp_path / "tokenizer.json"))
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config), encoding="utf-8")
    return tmp_path


def test_another_kind_of_tokenizer(tmp_path: Path) -> None:
    folder = sentencepiece_like(tmp_path, {"eos_token": {"content": "</s>"}, "chat_template": "{{ x }}"})
    tokenizer = load_tokenizer(folder)
    assert (tokenizer.kind, tokenizer.eot_id, tokenizer.pad_id) == ("other", 1, None)
    ids = tokenizer.encode("to beé")
    assert tokenizer.decode(ids) == "to beé"
    assert b"".join(map(tokenizer.token_bytes, ids)) == " to beé".encode()
    tokenizer.save(tmp_path / "again")
    config = json.loads((tmp_path / "again" / "tokenizer_config.json").read_text(encoding="utf-8"))
    assert config["chat_template"] == "{{ x }}"
    assert load_tokenizer(tmp_path / "again").hash == tokenizer.hash


def test_no_end_of_text(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="eos_token"):
        load_tokenizer(sentencepiece_like(tmp_path, {}))


def test_kinds_that_encode_otherwise_are_other() -> None:
    settings = json.loads(train_tokenizer("bpe", [TEXT], None).__getstate__()["tokenizer_json"])
    assert guess_kind(settings) == "bpe"
    assert guess_kind({**settings, "normalizer": {"type": "NFC"}}) == "other"
    assert guess_kind({**settings, "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": True}}) == "other"
    added = [{**token, "special": False} for token in settings["added_tokens"]]
    assert guess_kind({**settings, "added_tokens": added}) == "other"


def write(path: Path, content: bytes | str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content if isinstance(content, bytes) else content.encode("utf-8"))
    return path


REFUSED = [
    ("tok.pkl", pickle.dumps({"a": 1}), "pickle"),
    ("disguised.json", pickle.dumps({"a": 1}), "pickle"),
    ("tokenizer.pt", b"PK\x03\x04", "pickle"),
    ("tokenizer.model", b"\x0a\x0e", "SentencePiece"),
    ("cl100k_base.tiktoken", b"IQ== 0", "tiktoken"),
    ("broken.json", b'{"model": ', "not a JSON file"),
    ("binary.json", b"\xff\xfe\x00", "not a JSON file"),
    ("list.json", b"[1]", "JSON object"),
    ("config.json", b'{"model_type": "gpt2"}', "not a tokenizer.json"),
    (
        "bad.json",
        b'{"version": "1.0", "added_tokens": [{"content": "<|endoftext|>"}], "model": {"type": "BPE"}}',
        "cannot|can read",
    ),
]


@pytest.mark.parametrize(("name", "content", "why"), REFUSED)
def test_refused_files(tmp_path: Path, name: str, content: bytes, why: str) -> None:
    path = write(tmp_path / name, content)
    with pytest.raises(UserError, match=why) as caught:
        load_tokenizer(path)
    assert caught.value.problems[0].where == str(path)
    assert caught.value.problems[0].mend


def test_refused_folders(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    write(tmp_path / "spm" / "tokenizer.model", b"\x0a")
    write(tmp_path / "half" / "vocab.json", "{}")
    write(tmp_path / "other_half" / "vocab.bpe", "#version: 0.2\n")
    cases = {"empty": "holds no tokenizer", "spm": "SentencePiece", "half": "merges.txt", "other_half": "vocab.json"}
    for name, why in cases.items():
        with pytest.raises(UserError, match=why):
            load_tokenizer(tmp_path / name)
    with pytest.raises(UserError, match=r"merges\.txt"):
        load_tokenizer(tmp_path / "half" / "vocab.json")


def test_damaged_vocabulary_files(tmp_path: Path) -> None:
    good = json.dumps({"a": 0, "b": 1, "ab": 2, "<|endoftext|>": 3})
    cases = {
        "line": (good, "#version: 0.2\na b\na b c\n", r"merges\.txt:3"),
        "foreign": (good, "a c\n", "vocab.json"),
        "no_end": ('{"a": 0}', "", "endoftext"),
        "ids": ('{"a": "0"}', "", "token"),
        "encoding": (good, b"\xff\n", "UTF-8"),
    }
    for name, (vocabulary, merges, why) in cases.items():
        write(tmp_path / name / "vocab.json", vocabulary)
        write(tmp_path / name / "merges.txt", merges)
        with pytest.raises(UserError, match=why):
            load_tokenizer(tmp_path / name)
    write(tmp_path / "good" / "vocab.json", good)
    write(tmp_path / "good" / "merges.txt", "#version: 0.2\r\na b\r\n")
    assert load_tokenizer(tmp_path / "good").encode("abb") == [2, 1]


def test_unknown_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    cases = {"gtp2": "did you mean gpt2", "words": "--kind words", "tok/": "no such file", "tok.json": "no such file"}
    for name, why in cases.items():
        with pytest.raises(UserError, match=why):
            load_tokenizer(name if name != "tok/" else "missing/tok")


def test_an_unknown_kind_in_the_file_is_refused(tmp_path: Path) -> None:
    train_tokenizer("chars", [TEXT], None).save(tmp_path)
    (tmp_path / "tokenizer_config.json").write_text('{"gptloom_kind": "wrods"}', encoding="utf-8")
    with pytest.raises(UserError, match="did you mean words"):
        load_tokenizer(tmp_path)
