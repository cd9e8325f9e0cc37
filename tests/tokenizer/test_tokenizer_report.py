"""The figures of a report, counted by hand."""

import json
from dataclasses import dataclass

import pytest

from gptloom.tokenizer import train_tokenizer
from gptloom.tokenizer.report import report_on, show_tokens


@dataclass(frozen=True)
class Piece:
    text: str
    source: str = "a.txt"
    line: int = 1
    ends: bool = True


def test_figures_on_a_text_small_enough_to_count() -> None:
    tokenizer = train_tokenizer("words", ["we speak we hear é\n"], None)  # we, ·we, ·speak, ·hear, ·é, \n
    report = report_on(tokenizer, [Piece("we we é\n", ends=False), Piece("we shout\n", line=2), Piece("")])
    assert (report.documents, report.characters, report.bytes, report.words, report.tokens) == (2, 17, 18, 5, 7)
    assert report.bytes_per_token == pytest.approx(18 / 7)
    assert report.characters_per_token == pytest.approx(17 / 7)
    assert report.tokens_per_word == pytest.approx(7 / 5)
    assert (report.unused_ids, report.unused_share) == (2, pytest.approx(2 / 6))  # ·speak and ·hear
    assert report.unknown_tokens == 1
    assert [(row.text, row.count) for row in report.longest[:2]] == [("·speak", 0), ("·hear", 0)]
    assert {row.text: row.count for row in report.most_frequent[:2]} == {"we": 2, "\\n": 2}
    assert report.round_trip_failures == 1
    failure = report.first_failures[0]
    assert (failure.place, failure.character) == ("a.txt:2", 2)
    assert (failure.expected, failure.found) == ("we shout\n", "we<|unk|>\n")


def test_comparison_with_bytes_and_others() -> None:
    text = "to be or not to be " * 20
    bpe, characters = train_tokenizer("bpe", [text], None), train_tokenizer("chars", [text], None)
    report = report_on(bpe, [Piece(text)], {"chars": characters})
    assert [(row.name, row.tokens, row.bytes_per_token) for row in report.comparisons] == [
        ("bytes", len(text), 1.0),
        ("chars", len(text), 1.0),
    ]
    assert report.tokens == len(bpe.encode(text))
    assert report.round_trip_failures == 0
    assert sum(row.count or 0 for row in report.most_frequent) <= report.tokens


def test_reports_and_rows_are_plain_json() -> None:
    tokenizer = train_tokenizer("bytes", [""], None)
    rows = show_tokens(tokenizer, "é <|pad|>", special=True)
    assert [row.as_json() for row in rows] == [
        {"id": 0xC3, "text": "\\xc3", "bytes": "c3"},
        {"id": 0xA9, "text": "\\xa9", "bytes": "a9"},
        {"id": 0x20, "text": "·", "bytes": "20"},
        {"id": 257, "text": "<|pad|>", "bytes": ""},
    ]
    report = json.loads(json.dumps(report_on(tokenizer, [Piece("ab")]).as_json()))
    assert report["most_frequent"][0] == {"id": 97, "text": "a", "bytes": "61", "count": 1}
    assert report["unused_ids"] == 254


def test_a_report_needs_text() -> None:
    with pytest.raises(ValueError, match="text"):
        report_on(train_tokenizer("bytes", [""], None), [Piece("")])
