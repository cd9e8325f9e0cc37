"""Training: against a slow twin and published merges, lossless round trips, sizes that fit."""

import json
import random
from collections import Counter
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path

import pytest
from real_data import real_data

from gptloom.config.errors import UserError
from gptloom.tokenizer import Tokenizer, default_vocab_size, train_tokenizer
from gptloom.tokenizer.layout import byte_letters

Pair = tuple[str, str]

PLAY = "First Citizen:\nBefore we proceed any further, hear me speak.\n\nAll:\nSpeak, speak; we don't  know.\t1,000²!\n"
KINDS = ("bpe", "chars", "bytes", "words")


@pytest.fixture(scope="module")
def trained() -> dict[str, Tokenizer]:
    return {kind: train_tokenizer(kind, [PLAY * 3], None) for kind in KINDS}


def slow_bpe(text: str, n_merges: int, first: Callable[[Pair, dict[str, int]], object]) -> list[Pair]:
    """BPE as its definition reads: among the most frequent pairs the one that ``first`` puts last is merged."""
    regex = pytest.importorskip("regex")
    pattern = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
    letters = byte_letters()
    words = Counter(tuple(letters[byte] for byte in word.encode("utf-8")) for word in regex.findall(pattern, text))
    ids = {letter: i for i, letter in enumerate(sorted(letters))}
    merges: list[Pair] = []
    for _ in range(n_merges):
        pairs: Counter[Pair] = Counter()
        for word, count in words.items():
            for pair in pairwise(word):
                pairs[pair] += count
        best = max(pairs, key=lambda pair: (pairs[pair], first(pair, ids)))
        merges.append(best)
        ids.setdefault("".join(best), len(ids))
        words = Counter({merged: count for word, count in words.items() for merged in [merge(word, best)]})
    return merges


def merge(word: tuple[str, ...], pair: Pair) -> tuple[str, ...]:
    joined: list[str] = []
    for symbol in word:
        if joined and (joined[-1], symbol) == pair and not joined[-1].startswith("\0"):
            joined[-1] = "\0" + "".join(pair)  # marked, so that it takes no part in another merge of this round
        else:
            joined.append(symbol)
    return tuple(symbol.removeprefix("\0") for symbol in joined)


def smallest_ids(pair: Pair, ids: dict[str, int]) -> object:
    return -ids[pair[0]], -ids[pair[1]]


def greatest_bytes(pair: Pair, ids: dict[str, int]) -> object:
    values = {letter: value for value, letter in enumerate(byte_letters())}
    return tuple(bytes(values[letter] for letter in token) for token in pair)


def merges_of(tokenizer: Tokenizer, folder: Path) -> list[Pair]:
    tokenizer.save(folder)
    model = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))["model"]
    return [(left, right) for left, right in model["merges"]]


@pytest.mark.slow
def test_bpe_merges_are_those_of_the_definition(tmp_path: Path) -> None:
    """Between our merges and published ones for the same text lies the choice among equally frequent pairs, no more.

    CS336's reference takes the pair of greatest bytes, ours the smallest ids; the twin reproduces either.
    """
    text = real_data("tokenizer_truth/subword_nmt/corpus.en").read_text(encoding="utf-8")
    lines = real_data("tokenizer_truth/cs336/train-bpe-reference-merges.txt").read_text(encoding="utf-8").split("\n")
    published = [(line.split(" ")[0], line.split(" ")[1]) for line in lines if line]
    ours = merges_of(train_tokenizer("bpe", [text], 256 + 243 + 2), tmp_path)
    assert len(published) == len(ours) == 243
    assert slow_bpe(text, 60, greatest_bytes) == published[:60]
    assert slow_bpe(text, 60, smallest_ids) == ours[:60]
    assert ours[:31] == published[:31]  # the first tie is the 32nd merge
    assert len(set(ours) & set(published)) >= 239


@pytest.mark.slow
def test_all_merges_are_those_of_the_definition(tmp_path: Path) -> None:
    text = real_data("tokenizer_truth/subword_nmt/corpus.en").read_text(encoding="utf-8")
    lines = real_data("tokenizer_truth/cs336/train-bpe-reference-merges.txt").read_text(encoding="utf-8").split("\n")
    assert slow_bpe(text, 243, greatest_bytes) == [tuple(line.split(" ")) for line in lines if line]
    assert slow_bpe(text, 243, smallest_ids) == merges_of(train_tokenizer("bpe", [text], 501), tmp_path)


def test_bpe_is_deterministic_and_a_smaller_one_is_its_beginning(tmp_path: Path) -> None:
    text = real_data("tinyshakespeare/input.txt").read_text(encoding="utf-8")[:200_000]
    large = train_tokenizer("bpe", [text], 1024)
    assert train_tokenizer("bpe", iter([text]), 1024).hash == large.hash
    small = train_tokenizer("bpe", [text], 600)
    n = 600 - 258
    assert merges_of(small, tmp_path / "small") == merges_of(large, tmp_path / "large")[:n]
    default = train_tokenizer("bpe", [text], None)
    assert default.vocab_size == default_vocab_size(200_000) == 512
    assert default.hash == train_tokenizer("bpe", [text], 512).hash


def test_texts_are_read_as_they_come() -> None:
    taken: list[int] = []

    def documents() -> Iterator[str]:
        for i in range(5):
            taken.append(i)
            yield PLAY

    for kind in ("bpe", "chars", "words"):
        taken.clear()
        train_tokenizer(kind, documents(), None)
        assert taken == [0, 1, 2, 3, 4]


@pytest.mark.parametrize("kind", KINDS)
def test_round_trip_of_the_training_text(trained: dict[str, Tokenizer], kind: str) -> None:
    tokenizer = trained[kind]
    ids = tokenizer.encode(PLAY)
    assert tokenizer.decode(ids) == PLAY
    assert b"".join(map(tokenizer.token_bytes, ids)) == PLAY.encode("utf-8")
    assert tokenizer.encode_batch([PLAY, "", PLAY]) == [ids, [], ids]


@pytest.mark.parametrize("kind", ["bpe", "bytes"])
def test_byte_kinds_round_trip_any_text(trained: dict[str, Tokenizer], kind: str, unicode_texts: list[str]) -> None:
    tokenizer = trained[kind]
    for text, ids in zip(unicode_texts, tokenizer.encode_batch(unicode_texts), strict=True):
        assert tokenizer.decode(ids) == text
        assert b"".join(map(tokenizer.token_bytes, ids)) == text.encode("utf-8")


@pytest.mark.parametrize("kind", ["chars", "words"])
def test_piece_kinds_round_trip_any_text_they_know(kind: str, unicode_texts: list[str]) -> None:
    tokenizer = train_tokenizer(kind, unicode_texts, None)
    for text, ids in zip(unicode_texts, tokenizer.encode_batch(unicode_texts), strict=True):
        assert tokenizer.decode(ids) == text
        assert b"".join(map(tokenizer.token_bytes, ids)) == text.encode("utf-8")


@pytest.mark.parametrize("kind", KINDS)
def test_long_texts_encode_as_their_short_parts_would(trained: dict[str, Tokenizer], kind: str) -> None:
    draw = random.Random(5)
    text = "".join(draw.choices(["speak", "'t", " ", "\n", "  ", "\t", "we", ",", "hear ", "1"], k=150_000))
    assert len(text) > 1 << 18  # long enough to be cut
    backend = trained[kind]._plain  # the library itself, on the whole text
    assert trained[kind].encode(text) == backend.encode(text).ids


@pytest.mark.parametrize(("kind", "specials"), [("bpe", 2), ("chars", 3), ("bytes", 2), ("words", 3)])
def test_special_tokens_come_last_and_stay_text_in_text(
    trained: dict[str, Tokenizer], kind: str, specials: int
) -> None:
    tokenizer = trained[kind]
    names = ["<|endoftext|>", "<|pad|>", "<|unk|>"][:specials]
    first = tokenizer.vocab_size - specials
    assert tokenizer.special_tokens == {name: first + i for i, name in enumerate(names)}
    assert (tokenizer.eot_id, tokenizer.pad_id) == (first, first + 1)
    text = " we<|endoftext|><|pad|> speak"
    plain, special = tokenizer.encode(text), tokenizer.encode(text, special=True)
    assert not {tokenizer.eot_id, tokenizer.pad_id} & set(plain)
    at = special.index(tokenizer.eot_id)
    assert special[at : at + 2] == [tokenizer.eot_id, tokenizer.pad_id]
    assert tokenizer.decode(special) == text
    assert tokenizer.decode(special, skip_special=True) == " we speak"
    assert tokenizer.token_bytes(tokenizer.eot_id) == tokenizer.token_bytes(tokenizer.pad_id) == b""


def test_ids_are_the_expected_ones(trained: dict[str, Tokenizer]) -> None:
    assert trained["bytes"].encode("é A") == [0xC3, 0xA9, 0x20, 0x41]
    characters = sorted(set(PLAY))
    assert trained["chars"].encode("we.") == [characters.index(character) for character in "we."]
    words = trained["words"]
    assert [words.token_text(i) for i in words.encode(" speak; we don't\n")] == [
        "·speak",
        ";",
        "·we",
        "·don't",
        "\\n",
    ]
    assert words.encode(" ")[0] != words.special_tokens["<|unk|>"]


def test_what_is_unknown_becomes_one_unknown_token_each() -> None:
    characters = train_tokenizer("chars", ["abc"], None)
    assert characters.decode(characters.encode("aéçb")) == "a<|unk|><|unk|>b"
    words = train_tokenizer("words", ["we speak\n"], None)
    assert words.decode(words.encode("we shout speak")) == "we<|unk|> speak"


def test_a_smaller_size_keeps_the_most_frequent() -> None:
    assert set("ab") == set(train_tokenizer("chars", ["aaabbbcd"], 5).decode([0, 1]))
    words = train_tokenizer("words", ["x y y z z z"], 5)
    assert [words.token_text(i) for i in (0, 1)] == ["·z", "·y"]


def test_visible_forms(trained: dict[str, Tokenizer]) -> None:
    tokenizer = trained["bytes"]
    assert [tokenizer.token_text(i) for i in (10, 32, 65, 0xC3, 256)] == ["\\n", "·", "A", "\\xc3", "<|endoftext|>"]


@pytest.mark.parametrize(("kind", "size"), [("bpe", 5000), ("chars", 5000), ("words", 5000)])
def test_more_entries_than_the_text_fills_names_a_size_that_works(kind: str, size: int) -> None:
    with pytest.raises(UserError) as caught:
        train_tokenizer(kind, [PLAY, PLAY], size)
    mend = caught.value.problems[0].mend
    assert mend is not None and mend.startswith("--vocab-size ")
    fitting = int(mend.split()[1].rstrip(","))
    assert train_tokenizer(kind, [PLAY, PLAY], fitting).vocab_size == fitting
    with pytest.raises(UserError):
        train_tokenizer(kind, [PLAY, PLAY], fitting + 1)


@pytest.mark.parametrize(("kind", "size"), [("bpe", 258), ("chars", 3), ("words", 3), ("bytes", 300)])
def test_impossible_sizes(kind: str, size: int) -> None:
    with pytest.raises(UserError, match="vocab-size"):
        train_tokenizer(kind, [PLAY], size)


@pytest.mark.parametrize("kind", ["bpe", "chars", "words"])
def test_no_text(kind: str) -> None:
    with pytest.raises(UserError, match="no text"):
        train_tokenizer(kind, ["", ""], None)
    with pytest.raises(UserError, match="half of a surrogate pair"):
        train_tokenizer(kind, ["a\udc80"], None)


def test_unknown_kind_names_the_nearest() -> None:
    with pytest.raises(UserError, match="did you mean words"):
        train_tokenizer("word", [PLAY], None)


def test_default_sizes() -> None:
    sizes = {0: 512, 20_000: 512, 1_115_394: 1024, 2_500_000: 2048, 60_000_000: 16384, 10**10: 32768}
    assert {n: default_vocab_size(n) for n in sizes} == sizes
