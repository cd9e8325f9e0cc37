"""Files become documents: every format, every encoding, and every way in which a file can be wrong."""

import bz2
import csv
import gzip
import json
import lzma
import os
import pickle
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import zstandard
from real_data import real_data

from gptloom.config.errors import UserError
from gptloom.data import documents
from gptloom.data.documents import Document, iter_documents
from gptloom.data.inputs import expand_inputs
from gptloom.tokenizer import Tokenizer

PACKERS: dict[str, Callable[[bytes], bytes]] = {
    ".gz": gzip.compress,
    ".xz": lzma.compress,
    ".zst": lambda data: zstandard.compress(data[:5]) + zstandard.compress(data[5:]),  # two frames
}


def joined(found: list[Document]) -> list[str]:
    """The texts of whole documents."""
    texts = [""]
    for document in found:
        texts[-1] += document.text
        if document.ends:
            texts.append("")
    assert texts.pop() == "", "the last document has no end"
    return texts


def read(*paths: Path | str, **options: str) -> list[str]:
    return joined(list(iter_documents([str(path) for path in paths], **options)))


def refused(*paths: Path | str, **options: str) -> list[str]:
    with pytest.raises(UserError) as error:
        read(*paths, **options)
    return [str(problem) for problem in error.value.problems]


def put(path: Path, content: str | bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


# ---- formats ---------------------------------------------------------------------------------------------------------


def test_a_text_file_is_one_document(tmp_path: Path) -> None:
    put(tmp_path / "a.txt", "one\n\ntwo <|endoftext|> three\n")
    assert list(iter_documents([str(tmp_path / "a.txt")])) == [
        Document("one\n\ntwo <|endoftext|> three\n", str(tmp_path / "a.txt"), 1)
    ]


@pytest.mark.parametrize("suffix", list(PACKERS))
def test_compressed_files(tmp_path: Path, suffix: str) -> None:
    put(tmp_path / f"a.txt{suffix}", PACKERS[suffix](b"text\n"))
    put(tmp_path / f"b.jsonl{suffix}", PACKERS[suffix](b'{"text": "row"}\n'))
    assert read(tmp_path) == ["text\n", "row"]


def test_document_separator(tmp_path: Path) -> None:
    put(tmp_path / "a.txt", "\none\n<|endoftext|>\ntwo\nlines\n<|endoftext|>\n \n<|endoftext|>three")
    found = list(iter_documents([str(tmp_path / "a.txt")], document_separator="<|endoftext|>"))
    assert [(document.text, document.line) for document in found] == [("one", 2), ("two\nlines", 4), ("three", 8)]


def test_jsonl(tmp_path: Path) -> None:
    rows = [{"text": "ä\r\nb", "title": "t1"}, {"text": "", "title": "t2"}, {"text": "c\u2028d", "title": "t3"}]
    put(tmp_path / "a.jsonl", "\n".join(json.dumps(row, ensure_ascii=False) for row in rows) + "\n\n")
    assert read(tmp_path / "a.jsonl") == ["ä\nb", "c\u2028d"]
    assert read(tmp_path / "a.jsonl", text_column="title") == ["t1", "t2", "t3"]


def test_csv_quoting_and_columns(tmp_path: Path) -> None:
    with (tmp_path / "a.csv").open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([["id", "Text", "label"], ["1", 'two\nlines, "quoted"', "x"], ["2", "plain", "y"]])
    found = list(iter_documents([str(tmp_path / "a.csv")]))
    assert [(document.text, document.line) for document in found] == [('two\nlines, "quoted"', 2), ("plain", 4)]
    assert read(tmp_path / "a.csv", text_column="label") == ["x", "y"]
    put(tmp_path / "b.csv", "sentence\nonly one column\n")
    assert read(tmp_path / "b.csv") == ["only one column"]


@pytest.mark.parametrize("packed", [False, True])
def test_parquet(tmp_path: Path, packed: bool) -> None:
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    table = pyarrow.table({"id": [1, 2, 3], "text": ["first", None, "third"], "url": ["u", "v", "w"]})
    path = tmp_path / "a.parquet"
    parquet.write_table(table, path)
    if packed:
        put(tmp_path / "a.parquet.gz", gzip.compress(path.read_bytes()))
        path = tmp_path / "a.parquet.gz"
    assert read(path) == ["first", "third"]
    assert read(path, text_column="url") == ["u", "v", "w"]
    assert "columns: text, url" in refused(path, text_column="nope")[0]


def test_parquet_without_pyarrow_names_the_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put(tmp_path / "a.parquet", b"PAR1")
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    assert "pip install 'gptloom[data]'" in refused(tmp_path / "a.parquet")[0]


def test_bom_and_crlf_vanish(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gptloom.data.reading.CHUNK_BYTES", 3)  # a border inside every mark, character and line end
    put(tmp_path / "a.txt", "\ufeffone\r\ntwo ä😀\rthree\r\n")
    put(tmp_path / "b.csv", '\ufefftext\r\n"a\r\nb"\r\n')
    put(tmp_path / "c.jsonl", '\ufeff{"text": "row"}\r\n')
    assert read(tmp_path) == ["one\ntwo ä😀\nthree\n", "a\nb", "row"]


def test_bom_and_crlf_of_a_novel() -> None:
    novel = real_data("english_novels/Anon_Clara_1864.txt.gz")
    raw = gzip.decompress(novel.read_bytes())
    assert raw.startswith(b"\xef\xbb\xbf")
    assert b"\r\n" in raw
    assert read(novel) == [raw.decode("utf-8-sig").replace("\r\n", "\n")]


def test_encodings(tmp_path: Path) -> None:
    put(tmp_path / "a.txt", "déjà vu".encode("latin-1"))
    assert read(tmp_path / "a.txt", encoding="latin-1") == ["déjà vu"]
    put(tmp_path / "b.txt", "déjà vu".encode("utf-16"))
    assert read(tmp_path / "b.txt", encoding="utf-16") == ["déjà vu"]
    assert "--encoding utf-16" in refused(tmp_path / "b.txt")[0]
    assert "did you mean latin-1" in refused(tmp_path / "a.txt", encoding="latin-11")[0]


# ---- pieces ----------------------------------------------------------------------------------------------------------


def test_pieces_of_a_long_text_have_the_tokens_of_the_whole(
    gpt2: Tokenizer, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(documents, "PIECE_CHARACTERS", 1000)
    shakespeare = real_data("tinyshakespeare/input.txt")
    paragraphs = put(tmp_path / "p.txt", "  A line.\n\n\n\tA word,  and 12 more.\n\n" * 300)
    words = put(tmp_path / "w.txt", "no line end at all, just words; " * 300)
    for path in (shakespeare, paragraphs, words):
        pieces = list(iter_documents([str(path)]))
        text = path.read_text(encoding="utf-8")
        assert len(pieces) > 5
        assert max(len(piece.text) for piece in pieces) <= 1002
        assert [piece.ends for piece in pieces] == [False] * (len(pieces) - 1) + [True]
        assert "".join(piece.text for piece in pieces) == text
        assert [piece.line for piece in pieces[:3]] == [
            1 + "".join(piece.text for piece in pieces[:before]).count("\n") for before in range(3)
        ]
        ids = [token for piece in gpt2.encode_batch([piece.text for piece in pieces]) for token in piece]
        assert ids == gpt2.encode(text)


def test_long_rows_and_separated_documents_come_in_pieces(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(documents, "PIECE_CHARACTERS", 50)
    monkeypatch.setattr("gptloom.data.reading.CHUNK_BYTES", 7)
    texts = ["a line of words\n" * 20 + "end", "short", "x" * 333, "another one, \n\n" * 9 + "."]
    put(tmp_path / "a.jsonl", "".join(json.dumps({"text": text}) + "\n" for text in texts))
    put(tmp_path / "b.txt", "<|endoftext|>".join(texts))
    assert read(tmp_path / "a.jsonl") == texts
    assert read(tmp_path / "b.txt", document_separator="<|endoftext|>") == texts


# ---- finding files ---------------------------------------------------------------------------------------------------


def test_folders_globs_and_weights(tmp_path: Path) -> None:
    for name in ("b/2.txt", "b/1.md", "a.jsonl", ".hidden.txt", ".git/x.txt", "b/code.py", "c.TXT.GZ", "d@2.txt"):
        put(tmp_path / name, "x")
    names = [source.path.relative_to(tmp_path).as_posix() for source in expand_inputs([str(tmp_path)])]
    assert names == ["a.jsonl", "b/1.md", "b/2.txt", "c.TXT.GZ", "d@2.txt"]
    found = expand_inputs(
        [f"{tmp_path}/b/*.txt@0.5", f"{tmp_path}/**/*.md", f"{tmp_path}/d@2.txt", f"{tmp_path}/b/code.py@3"]
    )
    assert [(source.path.name, source.weight) for source in found] == [
        ("2.txt", 0.5),
        ("1.md", 1),
        ("d@2.txt", 1),
        ("code.py", 3),
    ]


def test_what_cannot_be_read_is_said_all_at_once(tmp_path: Path) -> None:
    put(tmp_path / "plays.txt", "x")
    put(tmp_path / "empty.txt", "")
    put(tmp_path / "paper.pdf", b"%PDF-1.7")
    put(tmp_path / "letter.docx", b"PK")
    put(tmp_path / "rows.json", "[]")
    put(tmp_path / "old.txt.bz2", bz2.compress(b"x"))
    put(tmp_path / "model.pt", pickle.dumps({}))
    put(tmp_path / "model.bin", b"xx")
    (tmp_path / "nothing").mkdir()
    names = ["play.txt", "empty.txt", "paper.pdf", "letter.docx", "rows.json", "old.txt.bz2", "model.pt", "model.bin"]
    texts = refused(*[tmp_path / name for name in [*names, "nothing", "plays.txt", "plays.txt", "plays.txt@0"]])
    everything = "\n".join(texts)
    for expected in (
        "did you mean plays.txt",
        "empty.txt: empty file",
        "pdftotext paper.pdf",
        "pandoc letter.docx",
        "jq -c '.[]' rows.json",
        "bunzip2",
        "never opens one",
        "model.bin: token shards",
        "nothing: no data files found",
        "given twice",
        "weight of 0",
    ):
        assert expected in everything
    assert len(texts) == 11
    assert "pdftotext" in "\n".join(refused(tmp_path))  # in a folder too: its absence would go unnoticed


@pytest.mark.skipif(os.name == "nt" or os.geteuid() == 0, reason="permissions do not bind this user")
def test_a_file_without_permission(tmp_path: Path) -> None:
    put(tmp_path / "a.txt", "x").chmod(0)
    assert "cannot be read: Permission denied" in refused(tmp_path / "a.txt")[0]


# ---- broken content --------------------------------------------------------------------------------------------------


def test_binary_and_wrong_encoding_name_the_byte(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gptloom.data.reading.CHUNK_BYTES", 4)
    put(tmp_path / "a.txt", b"binary\0data")
    assert "a NUL byte at byte 6" in refused(tmp_path / "a.txt")[0]
    put(tmp_path / "b.txt", "Übergröße ".encode() + "é".encode("latin-1") + b" end")
    (text,) = refused(tmp_path / "b.txt")
    assert "byte 0xe9 at byte 13" in text
    assert "--encoding latin-1" in text
    put(tmp_path / "c.txt", "cut off: ä".encode()[:-1])
    assert "byte 0xc3 at byte 9" in refused(tmp_path / "c.txt")[0]


def test_broken_json_lines_are_listed(tmp_path: Path) -> None:
    good = '{"text": "fine"}'
    lines = [good, "{", "[1]", '{"body": "x", "n": 1}', '{"text": 3}', '{"text": "\\ud83d"}', good, "{", "{"]
    put(tmp_path / "a.jsonl", "\n".join(lines))
    texts = refused(tmp_path / "a.jsonl")
    assert [text.split(": ")[0].rsplit(":")[-1] for text in texts] == ["2", "3", "4", "5", "6"]
    for text, expected in zip(
        texts, ["not JSON", "a JSON list", "fields with text: body", "holds 3", "surrogate"], strict=True
    ):
        assert expected in text


def test_json_that_python_does_not_take_is_named(tmp_path: Path) -> None:
    for value, what in (("[" * 100_000, "nested too deeply"), ("1" * 5000, "write the number as text")):
        put(tmp_path / "a.jsonl", f'{{"text": "a"}}\n{{"text": "b", "n": {value}}}\n')
        (problem,) = refused(tmp_path / "a.jsonl")
        assert "a.jsonl:2: not JSON" in problem and what in problem


def test_csv_that_does_not_say_which_column_or_is_broken(tmp_path: Path) -> None:
    put(tmp_path / "a.csv", "title,author\nx,y\n")
    assert "which column is the text; columns: title, author" in refused(tmp_path / "a.csv")[0]
    put(tmp_path / "b.csv", "text,content\nx,y\n")
    assert "--text-column" in refused(tmp_path / "b.csv")[0]
    put(tmp_path / "c.csv", "id,text\n1,a\n2,b,c\n")
    assert "c.csv:3: 3 cells where the header has 2" in refused(tmp_path / "c.csv")[0]
    put(tmp_path / "d.csv", 'id,text\n1,"never closed\n')
    assert "broken CSV" in refused(tmp_path / "d.csv")[0]


@pytest.mark.parametrize("suffix", list(PACKERS))
def test_cut_off_compressed_files(tmp_path: Path, suffix: str) -> None:
    packed = PACKERS[suffix](os.urandom(1000).hex().encode())
    put(tmp_path / f"a.txt{suffix}", packed[: len(packed) // 2])
    put(tmp_path / f"b.txt{suffix}", b"not compressed at all")
    assert "compressed file" in refused(tmp_path / f"a.txt{suffix}")[0]
    assert "compressed file" in refused(tmp_path / f"b.txt{suffix}")[0]


def test_options_without_a_use_are_refused(tmp_path: Path) -> None:
    put(tmp_path / "a.txt", "x")
    put(tmp_path / "b.jsonl", '{"text": "x"}')
    assert "without columns" in refused(tmp_path / "a.txt", text_column="text")[0]
    assert "rows are documents already" in refused(tmp_path / "b.jsonl", document_separator="---")[0]
    assert "separates nothing" in refused(tmp_path / "a.txt", document_separator="")[0]
