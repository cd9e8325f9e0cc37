"""Sentences: where a text is cut, and the file beside a shard that says so."""

import gzip
import json
from pathlib import Path

import numpy as np
import pytest
from real_data import real_data

from gptloom.config.errors import UserError
from gptloom.data.build import build_shards
from gptloom.data.sentences import SentenceWriter, read_sentences, sentence_file, split_sentences
from gptloom.data.shards import ShardWriter, TokenShards, open_shards
from gptloom.tokenizer import Tokenizer, load_tokenizer, train_tokenizer


@pytest.mark.parametrize(
    "sentences",
    [
        ["One.", " Two!", " Three?", ' "Four."', " (Five.)", " 6 is a number."],
        ['He said "Stop!"', " Then he left."],
        ["Mr. Smith met J. R. Tolkien at St. Mary, ca. noon, for 3.5 h."],
        ["no capital. so no end of it"],
        ["a line\n", "another\n\n ", "after an empty one"],
        ["= Title = \n \n ", "Text ."],
        ["Es war Ö. Über allem."],
        ["今天。", "明天！", "好"],
        ["Wait…", " What?!", " Nothing."],
    ],
)
def test_where_sentences_end(sentences: list[str]) -> None:
    assert split_sentences("".join(sentences)) == sentences


@pytest.mark.parametrize("text", ["", " ", "\n\n", "\n\nabc\n\n", " . A\n", "A. \n B", "." * 50 + " A"])
def test_nothing_is_lost_and_nothing_is_empty(text: str) -> None:
    sentences = split_sentences(text)
    assert "".join(sentences) == text
    if text.strip():
        assert all(sentence.strip() for sentence in sentences)


def test_prose_has_sentences_of_a_natural_length() -> None:
    with gzip.open(real_data("wikitext2/valid.txt.gz"), "rt", encoding="utf-8") as file:
        text = file.read()
    sentences = split_sentences(text)
    assert "".join(sentences) == text
    words = np.array([len(sentence.split()) for sentence in sentences])
    assert words.min() >= 1
    assert 20 < words.mean() < 35


@pytest.fixture(scope="module")
def wordpiece() -> Tokenizer:
    text = "The cat sat on the mat. A dog ate the cat's food! Who did? It did, on the mat of the dog.\n"
    return train_tokenizer("wordpiece", [text * 3], 50)


def test_building_keeps_ids_and_tells_sentences(tmp_path: Path, wordpiece: Tokenizer) -> None:
    documents = ["The cat sat. The dog ate!\nOn the mat", "Who did it?", "   ", "A dog.\n\nA cat. "]
    (tmp_path / "a.jsonl").write_text("".join(json.dumps({"text": d}) + "\n" for d in documents), encoding="utf-8")
    built = build_shards([str(tmp_path / "a.jsonl")], wordpiece, tmp_path / "out", split="none")
    (tokens, _), *_ = built.open().train
    kept = [document for document in documents if document.strip()]
    whole = [token for ids in wordpiece.encode_batch(kept) for token in (*ids, wordpiece.eot_id)]
    assert tokens.read(0, tokens.n_tokens).tolist() == whole
    sentences = read_sentences(tokens)
    spans = zip(sentences.starts.tolist(), sentences.ends.tolist(), strict=True)
    found = [wordpiece.decode(tokens.read(start, end - start).tolist()) for start, end in spans]
    assert [words.replace(" ", "") for words in found] == [
        sentence.lower().replace(" ", "").strip() for document in kept for sentence in split_sentences(document)
    ]
    assert sentences.documents.tolist() == [0, 3, 4, 6]
    assert sentences.document_of.tolist() == [0, 0, 0, 1, 2, 2]


def test_building_again(tmp_path: Path, wordpiece: Tokenizer, byte_tokenizer: Tokenizer) -> None:
    (tmp_path / "a.txt").write_text("A cat. A dog.\n" * 50, encoding="utf-8")
    out = tmp_path / "out"

    def build(tokenizer: Tokenizer, overwrite: bool = False) -> list[Path]:
        build_shards([str(tmp_path / "a.txt")], tokenizer, out, overwrite=overwrite)
        return sorted(out.rglob("*.sentences"))

    files = build(wordpiece)
    assert files == [sentence_file(shard) for shard in sorted(out.rglob("*.bin"))]
    assert len(files) == 2
    expected = files[0].read_bytes()
    files[0].unlink()  # what is missing is made again
    assert build(wordpiece) == files
    assert files[0].read_bytes() == expected
    assert build(byte_tokenizer, overwrite=True) == []  # shards of other tokenizers have none


def test_pieces_of_a_long_document_keep_every_id(tmp_path: Path) -> None:
    bert = load_tokenizer(real_data("vocab_bert"))
    with gzip.open(real_data("wikitext2/valid.txt.gz"), "rt", encoding="utf-8") as file:
        text = file.read()[:300_000]
    (tmp_path / "a.txt").write_text(text, encoding="utf-8")
    built = build_shards([str(tmp_path / "a.txt")], bert, tmp_path / "out", split="none")
    (tokens, _), *_ = built.open().train
    assert tokens.read(0, tokens.n_tokens).tolist() == [*bert.encode(text), bert.eot_id]
    sentences = read_sentences(tokens)
    assert sentences.n_documents == 1
    assert abs(len(sentences.starts) - len(split_sentences(text))) <= 2  # one more at most where a piece ends
    np.testing.assert_array_equal(sentences.starts[1:], sentences.ends[:-1])


def written(folder: Path, *shards: tuple[int, list[int] | None]) -> TokenShards:
    """Shards of so many tokens, each with sentences of these lengths."""
    folder.mkdir()
    for number, (n_tokens, lengths) in enumerate(shards):
        path = folder / f"{number}.bin"
        with ShardWriter(path, np.dtype("<u2")) as writer:
            writer.append(np.arange(n_tokens), None)
        if lengths is not None:
            with SentenceWriter(path) as sentences:
                sentences.append(lengths)
    return open_shards(folder)


def test_several_shards_are_one_sequence(tmp_path: Path) -> None:
    tokens = written(tmp_path / "s", (9, [3, 2, 0, 0, 1, 0]), (0, []), (6, [4, 0, 1]))
    sentences = read_sentences(tokens)
    assert sentences.starts.tolist() == [0, 3, 7, 9, 14]
    assert sentences.ends.tolist() == [3, 5, 8, 13, 15]
    assert sentences.documents.tolist() == [0, 2, 3, 4, 5]  # a document that only ends is none


def test_missing_and_cut_off_files_are_named_together(tmp_path: Path) -> None:
    tokens = written(tmp_path / "s", (4, None), (5, [3, 0]), (5, [4, 0]))
    with pytest.raises(UserError) as error:
        read_sentences(tokens)
    assert len(error.value.problems) == 2
    assert "0.bin: a shard without the sentences of its text" in str(error.value)
    assert "1.sentences: holds sentences of 4 tokens, but its shard has 5" in str(error.value)


def test_a_broken_off_file_gets_no_name(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt), SentenceWriter(tmp_path / "0.bin") as writer:
        writer.append([1, 2])
        raise KeyboardInterrupt
    assert list(tmp_path.iterdir()) == []
