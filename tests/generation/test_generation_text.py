"""Streaming text: whole characters, stop texts across token borders."""

from __future__ import annotations

import random

import pytest

from gptloom.generation.text import TextStream


class Pieces:
    """A vocabulary whose ids are places in a list of byte strings."""

    eot_id = -1

    def __init__(self, pieces: list[bytes]) -> None:
        self.pieces = pieces

    def token_bytes(self, token_id: int) -> bytes:
        return self.pieces[token_id]


def stream_of(pieces: list[bytes], stop: list[str] | None = None) -> tuple[list[str], TextStream]:
    """What comes out for each piece (until a stop text) and at the end."""
    stream = TextStream(Pieces(pieces), stop or [])
    given = []
    for token_id in range(len(pieces)):
        given.append(stream.push(token_id))
        if stream.stopped:
            break
    given.append(stream.finish())
    return given, stream


def test_a_character_split_over_tokens_comes_out_whole() -> None:
    given, _ = stream_of([b"a\xf0\x9f", b"\x98", b"\x80b"])
    assert given == ["a", "", "\N{GRINNING FACE}b", ""]


def test_an_unfinished_character_at_the_end_is_replaced() -> None:
    given, stream = stream_of([b"a", b"\xf0\x9f\x98"])
    assert given == ["a", "", "\ufffd"] and stream.text == "a\ufffd"


@pytest.mark.parametrize("seed", range(20))
def test_pieces_joined_equal_the_whole_decoded(seed: int) -> None:
    chance = random.Random(seed)
    data = bytes(chance.choice(b"ab\xc3\xa9\xf0\x9f\x98\x80\xff\xe2\x82\xac") for _ in range(60))
    cuts = sorted(chance.sample(range(1, 60), 20))
    pieces = [data[a:b] for a, b in zip([0, *cuts], [*cuts, 60], strict=True)]
    given, stream = stream_of(pieces)
    assert "".join(given) == stream.text == data.decode("utf-8", errors="replace")


def test_a_stop_text_across_tokens_is_never_given_out() -> None:
    given, stream = stream_of([b"one EN", b"D", b"E", b"ND two"], ["END"])
    assert stream.stopped and "".join(given) == stream.text == "one "
    assert given == ["one ", "", ""]


def test_what_only_began_like_a_stop_text_comes_out() -> None:
    given, stream = stream_of([b"EN", b"Dx"], ["ENDY"])
    assert given == ["", "ENDx", ""] and not stream.stopped
    assert stream_of([b"abEN"], ["END"])[0] == ["ab", "EN"]


def test_repetitive_beginnings() -> None:
    assert stream_of([b"a", b"a", b"a", b"b"], ["aab"])[1].text == "a"


def test_the_earliest_of_several_stop_texts_counts() -> None:
    assert stream_of([b"say two and one"], ["one", "two"])[1].text == "say "


def test_a_stop_text_inside_a_split_character() -> None:
    given, stream = stream_of([b"x\xe2", b"\x82", b"\xacy"], ["€"])
    assert stream.stopped and "".join(given) == "x"
