"""BERT's tokenizer: ids equal to those of the two libraries that everyone uses, whatever the text."""

import gzip
import json
import pickle
import shutil
from pathlib import Path
from typing import Any

import pytest
import tokenizers
from real_data import real_data

from gptloom.config.errors import UserError
from gptloom.tokenizer import Tokenizer, load_tokenizer, train_tokenizer

VOCAB = "vocab_bert/bert-base-uncased-vocab.txt"
SPECIALS = {"[PAD]": 0, "[UNK]": 100, "[CLS]": 101, "[SEP]": 102, "[MASK]": 103}
NASTY = [
    "",
    " ",
    "Hello, World! unaffable",
    "Crème brûlée, naïve façade, Ångström, ÇA VA, Straße, İstanbul, ΣΊΣΥΦΟΣ",
    "e\u0301 a\u030a\u0323 \u0301 q\u0308\u0308",
    "漢字とかなカナ한글 mixed漢word 㐀 𠀀 豈 ｆｕｌｌ",
    "\x00\x01\x02\x7f\x80\x9f\ufffd\ufeff\u200b\u200d\u00ad zero\x00width\u200bjoin",
    "tab\tnew\nline\r\ncarriage\rform\ffeed\vvt\x1c\x1d\x85\xa0\u1680\u2003\u2028\u2029\u3000end",
    "a" * 100,
    "a" * 101,
    "x" * 250 + " after",
    "don't IT'S we'll o'clock 'tis ’quoted’ “double” a-b a--b a…b x_y $5.00 100% #tag @you c++ C# ¿qué? «où»",
    "1234567890 3.14 1,000,000 ² Ⅷ ½ ٣ ①",
    "👩‍👩‍👧‍👦 🏳️‍🌈 ☃ ❤️ 👍🏽",
    "שלום עולם مرحبا नमस्ते ไทย Привет",
    "[MASK] and [CLS] [SEP] [UNK] [PAD] [unused0] [mask] [ MASK ] x[MASK]y ##ing # #",
    "`~!@#$%^&*()_+-={}|[]\\:\";'<>?,./",
    "ﬁ ﬂ ㎏ ™ © ª º",
]


@pytest.fixture(scope="module")
def vocab() -> Path:
    return real_data(VOCAB)


@pytest.fixture(scope="module")
def bert(vocab: Path) -> Tokenizer:
    return load_tokenizer(vocab)


@pytest.fixture(scope="module")
def wikitext() -> str:
    with gzip.open(real_data("wikitext2") / "valid.txt.gz", "rt", encoding="utf-8") as file:
        return file.read()


def peer(vocab: Path, **options: Any) -> Any:
    return tokenizers.BertWordPieceTokenizer(str(vocab), **options)


def test_the_published_ids(bert: Tokenizer) -> None:
    assert (bert.kind, bert.vocab_size, bert.special_tokens) == ("wordpiece", 30522, SPECIALS)
    assert (bert.pad_id, bert.unk_id, bert.cls_id, bert.sep_id, bert.mask_id) == (0, 100, 101, 102, 103)
    assert bert.eot_id == bert.sep_id
    assert bert.encode("Hello world, unaffable") == [7592, 2088, 1010, 14477, 20961, 3468]


@pytest.mark.parametrize("special", [False, True])
def test_equal_to_tokenizers(bert: Tokenizer, vocab: Path, unicode_texts: list[str], special: bool) -> None:
    theirs = peer(vocab)
    theirs._tokenizer.encode_special_tokens = not special
    for text in [*NASTY, *unicode_texts]:
        ids = bert.encode(text, special=special)
        assert ids == theirs.encode(text, add_special_tokens=False).ids, text
        assert bert.decode(ids) == theirs.decode(ids, skip_special_tokens=False)


def test_a_special_token_spelled_in_a_text(bert: Tokenizer) -> None:
    text = "paris is [MASK]."
    assert bert.encode(text, special=True) == [3000, 2003, 103, 1012]
    assert [bert.token_text(i) for i in bert.encode(text)] == ["paris", "is", "[", "mask", "]", "."]


def test_long_words_and_unknown_ones(bert: Tokenizer) -> None:
    assert bert.unk_id not in bert.encode("a" * 100)
    assert bert.encode("a" * 101) == [bert.unk_id]
    assert bert.encode("a\u2603b ok") == [bert.unk_id, 7929]


def test_equal_on_real_text_in_parts_as_in_one(bert: Tokenizer, vocab: Path, wikitext: str) -> None:
    assert len(wikitext) > 1 << 19  # so that it is cut
    assert bert.encode(wikitext) == peer(vocab).encode(wikitext, add_special_tokens=False).ids


@pytest.mark.parametrize(
    "options",
    [
        {"do_lower_case": False},
        {"do_lower_case": False, "strip_accents": True},
        {"do_lower_case": True, "strip_accents": False},
        {"do_lower_case": True, "tokenize_chinese_chars": False},
    ],
)
@pytest.mark.parametrize("source", ["vocab.txt", "tokenizer.json"])
def test_a_folder_of_transformers(vocab: Path, tmp_path: Path, options: dict[str, bool], source: str) -> None:
    transformers = pytest.importorskip("transformers")
    theirs = transformers.BertTokenizer(vocab=str(vocab), **options)
    theirs.save_pretrained(tmp_path)
    if source == "vocab.txt":
        (tmp_path / "tokenizer.json").unlink()
        shutil.copy(vocab, tmp_path / "vocab.txt")
    ours = load_tokenizer(tmp_path)
    assert (ours.kind, ours.special_tokens) == ("wordpiece", SPECIALS)
    for text in NASTY:
        assert ours.encode(text, special=True) == theirs.encode(text, add_special_tokens=False), text


@pytest.mark.parametrize("model_type", [None, "bert"])
@pytest.mark.parametrize("lowercase", [True, False])
def test_saved_and_opened_by_transformers(
    bert: Tokenizer, tmp_path: Path, unicode_texts: list[str], model_type: str | None, lowercase: bool
) -> None:
    transformers = pytest.importorskip("transformers")
    ours = bert if lowercase else train_tokenizer("wordpiece", NASTY * 3, 200, lowercase=False)
    ours.save(tmp_path)
    if model_type:
        (tmp_path / "config.json").write_text(json.dumps({"model_type": model_type}), encoding="utf-8")
    theirs = transformers.AutoTokenizer.from_pretrained(str(tmp_path))
    assert isinstance(theirs, transformers.BertTokenizerFast)
    for text in [*NASTY, *unicode_texts]:
        assert theirs.encode(text, add_special_tokens=False) == ours.encode(text, special=True), text
    roles = ("pad", "unk", "cls", "sep", "mask")
    assert [getattr(theirs, f"{role}_token_id") for role in roles] == [getattr(ours, f"{role}_id") for role in roles]
    pair = theirs("hello there", "again")
    a, b = ours.encode("hello there"), ours.encode("again")
    assert pair["input_ids"] == [ours.cls_id, *a, ours.sep_id, *b, ours.sep_id]
    assert pair["token_type_ids"] == [0] * (len(a) + 2) + [1] * (len(b) + 1)
    ids = ours.encode("Hello, world: don't!")
    assert theirs.decode(ids) == ours.decode(ids)
    again = load_tokenizer(tmp_path)
    assert (again.kind, again.hash, again.mask_id) == ("wordpiece", ours.hash, ours.mask_id)


def test_whole_words(bert: Tokenizer) -> None:
    ids = bert.encode("unaffable, [CLS]", special=True)
    assert [bert.token_text(i) for i in ids] == ["una", "##ffa", "##ble", ",", "[CLS]"]
    assert [bert.is_start(i) for i in ids] == [True, False, False, True, True]
    assert b"".join(map(bert.token_bytes, ids)) == b" unaffable ,"
    assert not bert.lossless
    with pytest.raises(ValueError, match="30522"):
        bert.is_start(30522)


def test_a_cased_vocabulary_shows_its_case(tmp_path: Path) -> None:
    lines = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "paris", "##s"]
    for name, extra, text, ids in (("uncased", [], "Paris PARIS", [5, 5]), ("cased", ["Paris"], "Paris paris", [7, 5])):
        path = tmp_path / f"{name}.txt"
        path.write_text("\n".join([*lines, *extra]) + "\n", encoding="utf-8")
        assert load_tokenizer(path).encode(text) == ids


GOOD = "[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\na\n##b\n"
DAMAGED = {
    "missing": (b"[PAD]\n[CLS]\na\n", ["[UNK], [SEP], [MASK] are missing"]),
    "corpus": (b"To be, or not to be\n", ["[UNK], [CLS], [SEP], [MASK] are missing", "--kind wordpiece"]),
    "twice": ((GOOD + "a\n##b\n").encode(), ["'a' (lines 6, 8)", "'##b' (lines 7, 9)"]),
    "gap": (GOOD.replace("[MASK]", "\n[MASK]").encode(), [":5: the line is empty"]),
    "latin": (GOOD.encode() + b"caf\xe9\n", ["not UTF-8"]),
    "nothing": (b"", ["is empty"]),
    "blank": (b"\n\n", ["is empty"]),
}


@pytest.mark.parametrize("case", DAMAGED)
@pytest.mark.parametrize("as_folder", [False, True])
def test_damaged_vocabularies(tmp_path: Path, case: str, as_folder: bool) -> None:
    content, messages = DAMAGED[case]
    path = tmp_path / "vocab.txt"
    path.write_bytes(content)
    with pytest.raises(UserError) as caught:
        load_tokenizer(tmp_path if as_folder else path)
    assert all(message in str(caught.value) for message in messages), str(caught.value)
    assert all(str(path) in (problem.where or "") and problem.mend for problem in caught.value.problems)


def test_windows_line_ends(tmp_path: Path) -> None:
    (tmp_path / "vocab.txt").write_bytes(GOOD.replace("\n", "\r\n").encode())
    assert load_tokenizer(tmp_path).encode("ab AB c") == [5, 6, 5, 6, 1]


@pytest.mark.parametrize("name", ["bert", "bert-base-uncased", "google-bert/bert-base-uncased"])
def test_by_name_from_the_hub_cache(name: str, vocab: Path, bert: Tokenizer, monkeypatch: pytest.MonkeyPatch) -> None:
    hub = pytest.importorskip("huggingface_hub")
    cached = {("google-bert/bert-base-uncased", "vocab.txt"): str(vocab)}
    monkeypatch.setattr(hub, "try_to_load_from_cache", lambda repository, file: cached.get((repository, file)))
    monkeypatch.setattr(hub, "hf_hub_download", lambda repository, file: pytest.fail("asked the network"))
    assert load_tokenizer(name).hash == bert.hash


def test_by_name_without_network(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    hub = pytest.importorskip("huggingface_hub")

    def offline(repository: str, file: str) -> str:
        raise hub.errors.LocalEntryNotFoundError("no network")

    monkeypatch.setattr(hub, "try_to_load_from_cache", lambda repository, file: None)
    monkeypatch.setattr(hub, "hf_hub_download", offline)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=r"google-bert/bert-base-uncased/tree/main.*--tokenizer bert/") as caught:
        load_tokenizer("bert")
    assert "vocab.txt" in str(caught.value)


# ---- training ------------------------------------------------------------------------------------------------------

TEXT = "The cat sat on the mat; the CATS sat on mats. Élan, élan, 'café' café!\n" * 4


def test_trained_ids_and_pieces() -> None:
    tokenizer = train_tokenizer("wordpiece", [TEXT], None)
    ids = {tokenizer.token_text(i): i for i in range(tokenizer.vocab_size)}
    assert list(ids)[:5] == ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    assert (tokenizer.pad_id, tokenizer.eot_id, tokenizer.mask_id) == (0, 3, 4)
    characters = [token for token in list(ids)[5:] if len(token.removeprefix("##")) == 1]
    assert characters == list(ids)[5 : 5 + len(characters)]  # before every merged piece
    assert characters == sorted(characters, key=lambda token: (token.startswith("##"), token))
    assert "elan" in ids  # lower-cased, without accents
    assert tokenizer.encode("The cat") == [ids["the"], ids["cat"]]
    assert tokenizer.encode("ELAN zoo") == [ids["elan"], tokenizer.unk_id]
    copy = pickle.loads(pickle.dumps(tokenizer))
    assert (copy.mask_id, copy.encode(TEXT)) == (4, tokenizer.encode(TEXT))


def test_trained_cased() -> None:
    tokenizer = train_tokenizer("wordpiece", [TEXT], None, lowercase=False)
    assert tokenizer.decode(tokenizer.encode("Élan The the")) == "Élan The the"
    assert tokenizer.encode("The") != tokenizer.encode("the")


@pytest.mark.slow
def test_training_is_deterministic_in_any_order_of_texts(wikitext: str) -> None:
    lines = wikitext[:200_000].split("\n")
    first = train_tokenizer("wordpiece", lines, 1500)
    assert first.vocab_size == 1500
    for texts in (lines, lines[::-1], ["\n".join(lines)]):
        assert train_tokenizer("wordpiece", texts, 1500).hash == first.hash
    assert first.encode(wikitext[:200_000]).count(first.unk_id) < 100


def test_merges_follow_the_counts() -> None:
    # "ab" 5 times, "cb" 3 times, "dd" twice, "e" once: pairs in the order of their counts, a lone one not at all.
    tokenizer = train_tokenizer("wordpiece", ["ab " * 5 + "cb " * 3 + "dd dd ef"], None)
    pieces = [tokenizer.token_text(i) for i in range(5, tokenizer.vocab_size)]
    assert pieces == ["a", "b", "c", "d", "##b", "##d", "ab", "cb", "dd"]


def test_characters_leave_room_for_words(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gptloom.tokenizer.train_wordpiece._MOST_CHARACTERS", 10)
    many = "".join(chr(0x4E00 + i) * 2 + " " for i in range(500))
    tokenizer = train_tokenizer("wordpiece", [many + "word words wording " * 50], 28)
    pieces = [tokenizer.token_text(i) for i in range(5, tokenizer.vocab_size)]
    assert len([piece for piece in pieces if len(piece) == 1]) == 10
    assert "word" in pieces


def test_sizes_that_cannot_be() -> None:
    with pytest.raises(UserError, match="smallest vocabulary, 7"):
        train_tokenizer("wordpiece", [TEXT], 6)
    with pytest.raises(UserError, match=r"the text fills \d+ entries") as caught:
        train_tokenizer("wordpiece", [TEXT], 5000)
    reached = int((caught.value.problems[0].mend or "").split()[1].rstrip(","))
    assert train_tokenizer("wordpiece", [TEXT], reached).vocab_size == reached
    for empty in ([], ["", " \n"]):
        with pytest.raises(UserError, match="no text"):
            train_tokenizer("wordpiece", empty, None)
    with pytest.raises(UserError, match="surrogate"):
        train_tokenizer("wordpiece", ["a\ud800"], None)


def test_case_is_a_matter_of_wordpiece_alone() -> None:
    with pytest.raises(UserError, match="--cased"):
        train_tokenizer("bpe", [TEXT], None, lowercase=False)
