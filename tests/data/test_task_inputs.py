"""The rows of every task: GPT-1's frame written out, BERT's against `transformers`, and what is cut."""

from __future__ import annotations

import random
import string
from pathlib import Path
from typing import Any

import pytest
from real_data import real_data

from gptloom.config.errors import UserError
from gptloom.config.task import Columns, HeadConfig, TaskConfig, TaskTokens
from gptloom.data.example import Example
from gptloom.data.task_inputs import (
    DELIMITER,
    EXTRACT,
    FIRST,
    IGNORED,
    SECOND,
    START,
    Encoded,
    TaskInputs,
    longer_first,
)
from gptloom.tokenizer import Tokenizer, load_tokenizer

GPT1 = TaskTokens(start=1000, delimiter=(1001,), extract=1002)
KINDS = {"choice": "choice", "tokens": "tokens", "span": "span"}
WORDS = ["the", "cat", "sat", "on", "mat", "who", "?", ".", *string.ascii_lowercase]


def inputs(tokenizer: Tokenizer, task: str, tokens: TaskTokens = GPT1, orders: Any = 1, **options: Any) -> TaskInputs:
    config = {"max_length": 64, "inputs": "gpt1", **options}
    head = HeadConfig(kind=KINDS.get(task, "sequence"), n_labels=2, orders=orders)  # type: ignore[arg-type]
    return TaskInputs(
        tokenizer,
        TaskConfig(task=task, columns=Columns(text="text"), tokens=tokens, **config),  # type: ignore[arg-type]
        head,
    )


def encode(made: TaskInputs, texts: tuple[str, ...], label: Any = 0) -> Encoded:
    (one,) = made.encode([Example(where="train.tsv:2", texts=texts, label=label, row=0)])
    return one


def spelled(one: Encoded) -> list[str]:
    """Rows of bytes as text, with < | > for start, delimiter and extract."""
    names = {1000: "<", 1001: "|", 1002: ">"}
    return ["".join(names.get(i) or chr(i) for i in row.ids) for row in one.rows]


# ---- GPT-1 ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("task", "orders", "texts", "rows"),
    [
        ("classify", 1, ("good",), ["<good>"]),
        ("regress", 1, ("good",), ["<good>"]),
        ("regress", 1, ("ab", "cd"), ["<ab|cd>"]),
        ("entail", 1, ("it rains", "wet"), ["<it rains|wet>"]),
        ("similar", 2, ("ab", "cde"), ["<ab|cde>", "<cde|ab>"]),
        ("similar", 1, ("ab", "cde"), ["<ab|cde>"]),
        ("choice", 1, ("why", "so", "no", "yes"), ["<why|so>", "<why|no>", "<why|yes>"]),
        ("span", 1, ("context", "who"), ["<who|context>"]),
        ("tokens", 1, ("New", "York"), ["<New York>"]),
        ("classify", 1, ("",), ["<>"]),
    ],
)
def test_gpt1_frames(
    byte_tokenizer: Tokenizer, task: str, orders: int, texts: tuple[str, ...], rows: list[str]
) -> None:
    one = encode(inputs(byte_tokenizer, task, orders=orders), texts, None)
    assert spelled(one) == rows
    assert all(row.segments is None for row in one.rows)
    assert one.cut == 0 and one.where == "train.tsv:2"


def test_roles_say_what_each_token_is(byte_tokenizer: Tokenizer) -> None:
    one = encode(inputs(byte_tokenizer, "similar", orders=2), ("ab", "c"))
    assert list(one.rows[0].roles) == [START, FIRST, FIRST, DELIMITER, SECOND, EXTRACT]
    assert list(one.rows[1].roles) == [START, FIRST, DELIMITER, SECOND, SECOND, EXTRACT]


def test_two_ids_between_and_none_before(byte_tokenizer: Tokenizer) -> None:
    tokens = TaskTokens(start=None, delimiter=(1001, 1001), extract=1002)
    assert spelled(encode(inputs(byte_tokenizer, "entail", tokens), ("ab", "c"))) == ["ab||c>"]
    tagged = encode(inputs(byte_tokenizer, "tokens", tokens), ("ab", "c"), (0, 1))
    assert spelled(tagged) == ["ab c>"] and tagged.words == (0, 3)
    span = encode(inputs(byte_tokenizer, "span", tokens), ("no 42", "n"), (3, 5))
    assert spelled(span) == ["n||no 42>"] and span.label == (6, 7)


# ---- cutting -------------------------------------------------------------------------------------------------------


def test_the_longer_loses_one_at_a_time() -> None:
    for a in range(12):
        for b in range(12):
            for room in range(1, 24):
                left = [a, b]
                while sum(left) > room:
                    left[0 if left[0] > left[1] else 1] -= 1
                assert longer_first(a, b, room) == tuple(left)


@pytest.mark.parametrize(
    ("task", "texts", "cut", "row", "lost"),
    [
        ("classify", ("abcdefghij",), "end", "<abcdef>", 4),
        ("classify", ("abcdefghij",), "start", "<efghij>", 4),
        ("entail", ("abcdefghij", "xy"), "end", "<abc|xy>", 7),
        ("entail", ("abcdefghij", "xy"), "start", "<hij|xy>", 7),
        ("entail", ("abcdefghij", "uvwxyz"), "end", "<abc|uv>", 11),
        ("choice", ("abcdefghij", "xy"), "end", "<abc|xy>", 7),
        ("choice", ("abcdefghij", "xy"), "start", "<hij|xy>", 7),
        ("span", ("abcdefghij", "xy"), "end", "<xy|abc>", 7),
        ("span", ("abcdefghij", "xy"), "start", "<xy|hij>", 7),
        ("tokens", ("ab", "c", "defg"), "end", "<ab c>", 5),
        ("tokens", ("abcdefgh", "i"), "end", "<abcdef>", 4),
    ],
)
def test_what_is_too_long_loses_the_side_asked_for(
    byte_tokenizer: Tokenizer, task: str, texts: tuple[str, ...], cut: str, row: str, lost: int
) -> None:
    one = encode(inputs(byte_tokenizer, task, max_length=8, cut=cut), texts, None)
    assert spelled(one) == [row]
    assert one.cut == lost


def test_each_choice_keeps_what_fits_of_the_question(byte_tokenizer: Tokenizer) -> None:
    one = encode(inputs(byte_tokenizer, "choice", max_length=8), ("abcdef", "x", "wxyz"), 1)
    assert spelled(one) == ["<abcd|x>", "<a|wxyz>"]
    assert (one.cut, one.label, one.length) == (5, 1, 8)


def test_what_cannot_be_shortened_is_named_once_for_all(byte_tokenizer: Tokenizer) -> None:
    rows = [Example(where=f"q.csv:{n + 2}", texts=("c" * 9, "long question"), label=(0, 1), row=n) for n in range(20)]
    with pytest.raises(UserError) as error:
        inputs(byte_tokenizer, "span", max_length=12).encode(rows)
    first, *_, last = error.value.problems
    assert "the question has 13 tokens" in first.what and first.where == "q.csv:2" and "--max-length" in str(first.mend)
    assert last.what == "and 8 more rows like these"
    with pytest.raises(UserError, match="a choice has 10 tokens"):
        encode(inputs(byte_tokenizer, "choice", max_length=12), ("q", "a", "b" * 10), 0)


# ---- words and spans -----------------------------------------------------------------------------------------------


def test_tags_stand_at_the_first_token_of_each_word(gpt2: Tokenizer) -> None:
    words = ("Barack", "Obamacare", "'s", "don't", "😀!")
    one = encode(inputs(gpt2, "tokens"), words, (0, 1, 2, 3, 4))
    (row,) = one.rows
    assert list(row.ids[1:-1]) == gpt2.encode(" ".join(words))
    assert one.words is not None
    ends = [*one.words[1:], len(row.ids) - 1]
    assert [gpt2.decode(row.ids[a:b]).strip() for a, b in zip(one.words, ends, strict=True)] == list(words)


def test_where_a_space_is_a_token_the_tag_stands_behind_it(byte_tokenizer: Tokenizer) -> None:
    one = encode(inputs(byte_tokenizer, "tokens"), ("New", "York", "."), (0, 1, 2))
    assert [spelled(one)[0][place] for place in one.words or ()] == ["N", "Y", "."]


def test_words_beyond_the_row_have_no_place(byte_tokenizer: Tokenizer) -> None:
    one = encode(inputs(byte_tokenizer, "tokens", max_length=8), ("ab", "c", "defg", "h"), (1, 2, 3, 4))
    assert one.words == (1, 4)
    assert one.label == (1, 2, 3, 4)


@pytest.mark.parametrize("folder", ["vocab_gpt2", "vocab_gpt1", "vocab_bert"])
def test_an_answer_is_found_among_the_tokens(folder: str) -> None:
    tokenizer = load_tokenizer(real_data(folder))
    context = "  In 1912 the café of “Zoë Wößner” burnt down.\nA  naïve waiter 😀 had left."
    made = inputs(tokenizer, "span")
    for answer in ("1912", "café", "Zoë Wößner", "down", "A", "naïve waiter"):
        begin = context.index(answer)
        one = encode(made, (context, "Who?"), (begin, begin + len(answer)))
        first, last = one.label
        assert one.offsets is not None and len(one.offsets) == len(one.rows[0].ids)
        assert context[one.offsets[first][0] : one.offsets[last][1]] == answer
    outside = [pair for pair, role in zip(one.offsets, one.rows[0].roles, strict=True) if role != SECOND]
    assert set(outside) == {(0, 0)}


@pytest.mark.parametrize(("cut", "kept"), [("end", "one"), ("start", "six")])
def test_an_answer_that_is_cut_away_is_no_answer(byte_tokenizer: Tokenizer, cut: str, kept: str) -> None:
    context = "one two six"
    made = inputs(byte_tokenizer, "span", max_length=9, cut=cut)
    for answer in ("one", "two", "six"):
        begin = context.index(answer)
        one = encode(made, (context, "?"), (begin, begin + 3))
        if answer == kept:
            first, last = one.label
            assert one.offsets is not None
            assert context[one.offsets[first][0] : one.offsets[last][1]] == answer
        else:
            assert one.label == (IGNORED, IGNORED)


# ---- BERT, against transformers ------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def bert_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("bert")
    pieces = [f"##{letter}" for letter in string.ascii_lowercase]
    vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS, *pieces, "##ing"]
    (folder / "vocab.txt").write_text("\n".join(vocabulary) + "\n", encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def ours(bert_folder: Path) -> Tokenizer:
    return load_tokenizer(bert_folder)


@pytest.fixture(scope="module")
def theirs(bert_folder: Path) -> Any:
    transformers = pytest.importorskip("transformers")
    return transformers.BertTokenizerFast.from_pretrained(str(bert_folder))


def bert(tokenizer: Tokenizer, task: str, **options: Any) -> TaskInputs:
    assert tokenizer.cls_id is not None and tokenizer.sep_id is not None
    tokens = TaskTokens(start=tokenizer.cls_id, delimiter=(tokenizer.sep_id,), extract=tokenizer.sep_id)
    return inputs(tokenizer, task, tokens, inputs="bert", **options)


def sentence(draw: random.Random, words: int) -> str:
    return " ".join("".join(draw.choices(string.ascii_letters, k=draw.randint(1, 5))) for _ in range(words))


def assert_equal(one: Encoded, wanted: Any) -> None:
    (row,) = one.rows
    assert list(row.ids) == wanted["input_ids"]
    assert row.segments is not None and list(row.segments) == wanted["token_type_ids"]


def test_bert_single_texts_and_pairs(ours: Tokenizer, theirs: Any) -> None:
    draw = random.Random(1)
    seen = {"equal": 0, "tie": 0}
    for _ in range(300):
        a, b = sentence(draw, draw.randint(0, 8)), sentence(draw, draw.randint(1, 8))
        longest = draw.randint(8, 40)
        single = encode(bert(ours, "classify", max_length=longest), (a,))
        assert_equal(single, theirs(a, truncation=True, max_length=longest))
        pair = encode(bert(ours, "entail", max_length=longest), (a, b))
        wanted = theirs(a, b, truncation="longest_first", max_length=longest)
        # Where both are cut to an odd number of tokens, BERT's own program leaves the first one more, and theirs may
        # leave it to the second
        room, both = longest - 3, len(ours.encode(a)) + len(ours.encode(b))
        shortest = min(len(ours.encode(a)), len(ours.encode(b)))
        if both > room and room % 2 and shortest > room // 2:
            assert list(pair.rows[0].roles).count(FIRST) == room // 2 + 1
            assert len(pair.rows[0].ids) == len(wanted["input_ids"]) == longest
            seen["tie"] += 1
        else:
            assert_equal(pair, wanted)
            seen["equal"] += 1
    assert min(seen.values()) > 30


def test_bert_choices(ours: Tokenizer, theirs: Any) -> None:
    texts = ("who sat on the mat ?", "the cat", "zebra", "a mat sat")
    one = encode(bert(ours, "choice", max_length=12), texts, 2)
    wanted = theirs([texts[0]] * 3, list(texts[1:]), truncation="only_first", max_length=12)
    assert [list(row.ids) for row in one.rows] == wanted["input_ids"]
    assert [list(row.segments or ()) for row in one.rows] == wanted["token_type_ids"]


def test_bert_spans(ours: Tokenizer, theirs: Any) -> None:
    context, question = "The  cat sat on\nthe mat .  Zebra singing .", "Who sat ?"
    for longest in (40, 14):
        one = encode(bert(ours, "span", max_length=longest), (context, question), (20, 23))
        wanted = theirs(question, context, truncation="only_second", max_length=longest, return_offsets_mapping=True)
        assert_equal(one, wanted)
        segments = wanted.sequence_ids()
        pairs = [p if s == 1 else (0, 0) for p, s in zip(wanted["offset_mapping"], segments, strict=True)]
        assert list(one.offsets or ()) == pairs
        if longest == 40:
            assert one.label == (wanted.char_to_token(0, 20, 1), wanted.char_to_token(0, 22, 1))


def test_bert_words(ours: Tokenizer, theirs: Any) -> None:
    words = ("The", "zebra", "sat", "singing", ".")
    one = encode(bert(ours, "tokens"), words, tuple(range(5)))
    wanted = theirs(list(words), is_split_into_words=True)
    assert_equal(one, wanted)
    owners = wanted.word_ids()
    assert one.words == tuple(owners.index(word) for word in range(5))


def test_a_word_that_the_tokenizer_drops_is_unknown(ours: Tokenizer) -> None:
    one = encode(bert(ours, "tokens"), ("cat", "\u200d", "sat"), (0, 1, 2))
    assert one.words == (1, 2, 3)
    assert one.rows[0].ids[2] == ours.unk_id
