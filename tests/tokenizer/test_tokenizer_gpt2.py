"""GPT-2's vocabulary against tiktoken, id for id."""

import json
import pickle
import random
import threading
from pathlib import Path

import pytest
from real_data import real_data

from gptloom.config.errors import UserError
from gptloom.tokenizer import Tokenizer, load_tokenizer
from gptloom.tokenizer import gpt2 as gpt2_module
from gptloom.tokenizer.pieces import cut_text

tiktoken = pytest.importorskip("tiktoken")

# The splitting pattern and the one special token as tiktoken publishes them for "gpt2".
PATTERN = r"""'(?:[sdmt]|ll|ve|re)| ?\p{L}++| ?\p{N}++| ?[^\s\p{L}\p{N}]++|\s++$|\s+(?!\S)|\s"""
END = "<|endoftext|>"


@pytest.fixture(scope="module")
def reference() -> "tiktoken.Encoding":
    from tiktoken.load import data_gym_to_mergeable_bpe_ranks

    folder = real_data("vocab_gpt2")
    ranks = data_gym_to_mergeable_bpe_ranks(str(folder / "vocab.bpe"), str(folder / "encoder.json"))
    return tiktoken.Encoding("gpt2", pat_str=PATTERN, mergeable_ranks=ranks, special_tokens={END: 50256})


def assert_same(tokenizer: Tokenizer, reference: "tiktoken.Encoding", texts: list[str]) -> None:
    for text, ids in zip(texts, tokenizer.encode_batch(texts), strict=True):
        assert ids == reference.encode_ordinary(text), repr(text)
        assert tokenizer.encode(text) == ids
        assert tokenizer.decode(ids) == text
        assert b"".join(tokenizer.token_bytes(token_id) for token_id in ids) == text.encode("utf-8")


def test_published_ids(gpt2: Tokenizer) -> None:
    assert (gpt2.kind, gpt2.vocab_size, gpt2.eot_id, gpt2.pad_id) == ("gpt2", 50257, 50256, None)
    assert gpt2.special_tokens == {END: 50256}
    assert gpt2.encode("Hello my name is") == [15496, 616, 1438, 318]
    assert gpt2.encode("Hello, I'm a language model,") == [15496, 11, 314, 1101, 257, 3303, 2746, 11]


def test_bytes_of_every_token(gpt2: Tokenizer, reference: "tiktoken.Encoding") -> None:
    assert [gpt2.token_bytes(i) for i in range(50256)] == [reference.decode_single_token_bytes(i) for i in range(50256)]
    assert gpt2.token_bytes(50256) == b""
    assert {gpt2.token_bytes(i) for i in range(256)} == {bytes([value]) for value in range(256)}


def test_borders_of_utf8(gpt2: Tokenizer, reference: "tiktoken.Encoding") -> None:
    borders = [0x00, 0x7F, 0x80, 0xFF, 0x100, 0x7FF, 0x800, 0xFFF, 0xD7FF, 0xE000, 0xFFFD, 0xFFFF, 0x10000, 0x10FFFF]
    texts = [
        prefix + chr(point) + suffix for point in borders for prefix in ("", "a", " ") for suffix in ("", "b", " ")
    ]
    assert_same(gpt2, reference, texts + [chr(point) for point in range(0x100)])


def test_emoji_and_joiners(gpt2: Tokenizer, reference: "tiktoken.Encoding") -> None:
    lines = real_data("tokenizer_truth/emoji-test.txt").read_text(encoding="utf-8").splitlines()
    rows = [line.split(";")[0].split() for line in lines if line and not line.startswith("#")]
    emoji = ["".join(chr(int(point, 16)) for point in row) for row in rows]
    assert any("\u200d" in symbol for symbol in emoji)
    assert_same(gpt2, reference, [*emoji, " ".join(emoji), "".join(emoji)])


def test_naughty_strings(gpt2: Tokenizer, reference: "tiktoken.Encoding") -> None:
    assert_same(gpt2, reference, json.loads(real_data("tokenizer_truth/blns.json").read_text(encoding="utf-8")))


@pytest.mark.parametrize(
    "space", [" ", "\t", "\n", "\r\n", "\v", "\f", "\x85", "\xa0", "\u1680", "\u2003", "\u2028", "\u3000"]
)
def test_spaces(gpt2: Tokenizer, reference: "tiktoken.Encoding", space: str) -> None:
    runs = [space * n for n in (1, 2, 3, 7, 100)]
    texts = [shape.format(run) for run in runs for shape in ("{0}", "a{0}", "{0}a", "a{0}b", "a {0} b", "{0}1{0}!{0}")]
    assert_same(gpt2, reference, texts)


def test_contractions_and_digits(gpt2: Tokenizer, reference: "tiktoken.Encoding") -> None:
    endings = ["s", "t", "re", "ve", "m", "ll", "d"]
    texts = [
        f"{word}{mark}{case(e)} x"
        for e in endings
        for case in (str.lower, str.upper, str.title)
        for mark in "'’"
        for word in ("it", "IT", "", " ")
    ]
    numbers = [
        "1",
        "12",
        "2019",
        "1234567890",
        "3.14",
        "1,000",
        "x²",
        "²³",
        "Ⅷ",
        "ⅧⅨ 8",
        "½",
        "٣٤",
        "１２",
        "a1b2",
        " 007",
    ]
    assert gpt2.encode("it's") != gpt2.encode("it'S")
    assert_same(gpt2, reference, texts + numbers)


def test_random_unicode(gpt2: Tokenizer, reference: "tiktoken.Encoding", unicode_texts: list[str]) -> None:
    assert_same(gpt2, reference, unicode_texts)


def test_end_of_text_as_text_and_as_special(gpt2: Tokenizer, reference: "tiktoken.Encoding") -> None:
    texts = [END, f"a{END}b", f"a {END} b", f"{END}{END}", f" {END}", "<|endoftext|", f"it{END}'s"]
    assert_same(gpt2, reference, texts)
    for text in texts:
        assert gpt2.encode(text, special=True) == reference.encode(text, allowed_special="all")
    assert 50256 not in gpt2.encode(END)
    assert gpt2.decode([64, 50256, 65]) == f"a{END}b"
    assert gpt2.decode([64, 50256, 65], skip_special=True) == "ab"


def test_invalid_utf8_on_decode(gpt2: Tokenizer, reference: "tiktoken.Encoding") -> None:
    draw = random.Random(1)
    for _ in range(300):
        ids = [draw.randrange(256) for _ in range(draw.randrange(1, 12))] + [draw.randrange(50257)]
        assert gpt2.decode(ids) == reference.decode(ids, errors="replace")
    single = {gpt2.token_bytes(i): i for i in range(256)}
    assert gpt2.decode([single[b"\xf0"], single[b"\x9f"], single[b"a"]]) == "\ufffda"


def test_ids_outside_the_vocabulary_are_refused(gpt2: Tokenizer) -> None:
    for bad in (-1, 50257):
        with pytest.raises(ValueError, match="50256"):
            gpt2.decode([bad])
        with pytest.raises(ValueError, match="50256"):
            gpt2.token_bytes(bad)


def test_tiny_shakespeare(gpt2: Tokenizer, reference: "tiktoken.Encoding") -> None:
    text = real_data("tinyshakespeare/input.txt").read_text(encoding="utf-8")
    cut = int(len(text) * 0.9)
    train, valid = gpt2.encode(text[:cut]), gpt2.encode(text[cut:])
    assert (len(train), len(valid)) == (301_966, 36_059)
    assert train == reference.encode_ordinary(text[:cut])
    assert gpt2.decode(train) == text[:cut]


def test_cut_texts_encode_as_the_whole(
    gpt2: Tokenizer, reference: "tiktoken.Encoding", unicode_texts: list[str]
) -> None:
    text = "".join(unicode_texts)
    for size in (1, 5, 100):
        parts = list(cut_text(text, size))
        assert len(parts) > 2
        assert "".join(parts) == text
        assert [i for part in parts for i in reference.encode_ordinary(part)] == reference.encode_ordinary(text)
    assert list(cut_text("x" * 100, 10)) == ["x" * 100]
    assert list(cut_text("")) == []


def test_both_modes_at_once_from_many_threads(gpt2: Tokenizer) -> None:
    text = f"To be{END}, or not"
    expected = {True: gpt2.encode(text, special=True), False: gpt2.encode(text)}
    wrong: list[bool] = []

    def work(special: bool) -> None:
        wrong.extend(special for _ in range(200) if gpt2.encode(text, special=special) != expected[special])

    threads = [threading.Thread(target=work, args=(special,)) for special in (True, False) * 4]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert expected[True] != expected[False]
    assert wrong == []


def test_a_worker_process_gets_an_equal_tokenizer(gpt2: Tokenizer) -> None:
    copy = pickle.loads(pickle.dumps(gpt2))
    assert (copy.kind, copy.hash, copy.eot_id) == (gpt2.kind, gpt2.hash, gpt2.eot_id)
    assert copy.encode(f"To be{END}") == gpt2.encode(f"To be{END}")
    assert copy.encode(END, special=True) == [50256]


def test_half_a_surrogate_pair_is_named(gpt2: Tokenizer) -> None:
    with pytest.raises(UserError, match="character 3") as caught:
        gpt2.encode("ab \ud83d")
    assert caught.value.problems[0].mend


def test_without_hub_the_files_and_their_place_are_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    hub = pytest.importorskip("huggingface_hub")

    def offline(name: str, file: str) -> str:
        raise hub.errors.LocalEntryNotFoundError("no network")

    monkeypatch.setattr(hub, "try_to_load_from_cache", lambda name, file: None)
    monkeypatch.setattr(hub, "hf_hub_download", offline)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError) as caught:
        load_tokenizer("gpt2")
    message = str(caught.value)
    assert all(part in message for part in ("vocab.json", "merges.txt", "--tokenizer", "no network"))


def test_a_copy_in_the_hub_cache_is_used(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, gpt2: Tokenizer) -> None:
    hub = pytest.importorskip("huggingface_hub")
    files = {
        "vocab.json": real_data("vocab_gpt2") / "encoder.json",
        "merges.txt": real_data("vocab_gpt2") / "vocab.bpe",
    }
    cached = {("openai-community/gpt2", name): str(path) for name, path in files.items()}
    monkeypatch.setattr(hub, "try_to_load_from_cache", lambda name, file: cached.get((name, file)))
    monkeypatch.setattr(hub, "hf_hub_download", lambda name, file: pytest.fail("asked the network"))
    monkeypatch.chdir(tmp_path)
    assert load_tokenizer("gpt2").hash == gpt2.hash == gpt2_module.GPT2_HASH
