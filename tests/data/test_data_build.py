"""Building: the validation rule, what lands in the shards, and going on after a break."""

import json
from pathlib import Path

import numpy as np
import pytest
from real_data import real_data

from gptloom.config.errors import UserError
from gptloom.data import build, documents
from gptloom.data.build import build_corpus, build_shards
from gptloom.data.built import check_enough, check_tokenizer, load_built, names_shards, open_named_shards
from gptloom.data.corpus import read_corpus
from gptloom.data.shards import TokenShards, open_shards
from gptloom.tokenizer import Tokenizer, train_tokenizer


def rows(path: Path, texts: list[str]) -> str:
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts), encoding="utf-8")
    return str(path)


def text(path: Path, content: str) -> str:
    path.write_text(content, encoding="utf-8")
    return str(path)


def decoded(shards: TokenShards | None, tokenizer: Tokenizer) -> list[str]:
    """The documents in shards, by their end-of-text."""
    assert shards is not None
    ids = shards.read(0, shards.n_tokens)
    assert ids[-1] == tokenizer.eot_id
    parts = np.split(ids, np.flatnonzero(ids == tokenizer.eot_id) + 1)
    return [tokenizer.decode(part[:-1].tolist()) for part in parts[:-1]]


def problems(error: pytest.ExceptionInfo[UserError]) -> str:
    return str(error.value)


# ---- the rule --------------------------------------------------------------------------------------------------------


def test_tail_of_each_file_cut_at_a_line_end(tmp_path: Path, byte_tokenizer: Tokenizer) -> None:
    one = "".join(f"line {number} of one ä\n" for number in range(100))
    two = "".join(f"line {number} of two\n" for number in range(50))
    data = [text(tmp_path / "1.txt", one), text(tmp_path / "2.txt", two)]
    built = build_shards(data, byte_tokenizer, tmp_path / "out")
    assert built.rule == "validation: the last 10 % of each of the 2 files, cut at a line end"
    opened = built.open()
    (train, weight), *none = opened.train
    assert (weight, none) == (1.0, [])
    trained, held_out = decoded(train, byte_tokenizer), decoded(opened.valid, byte_tokenizer)
    assert [a + b for a, b in zip(trained, held_out, strict=True)] == [one, two]
    assert all(part.endswith("\n") for part in trained)
    for whole, tail in zip((one, two), held_out, strict=True):
        assert 0.09 < len(tail) / len(whole) < 0.13
    assert (built.n_train_bytes, built.n_valid_bytes) == tuple(
        sum(len(t.encode()) for t in s) for s in (trained, held_out)
    )
    assert (built.n_train_tokens, built.n_valid_tokens) == (built.n_train_bytes + 2, built.n_valid_bytes + 2)
    assert opened.valid is not None
    assert (train.n_bytes, opened.valid.n_bytes) == (built.n_train_bytes, built.n_valid_bytes)
    assert train.tokenizer_hash == byte_tokenizer.hash == built.tokenizer_hash


def test_the_tail_of_a_text_in_pieces(
    tmp_path: Path, byte_tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(documents, "PIECE_CHARACTERS", 100)
    whole = "".join(f"line {number}\n" for number in range(500))
    corpus = read_corpus([text(tmp_path / "a.txt", whole)], valid_fraction=0.3)
    train = "".join(corpus.iter_training_text())
    assert whole.startswith(train)
    assert train.endswith("\n")
    assert 0 <= corpus.n_train_bytes - len(train) < 10
    opened = build_corpus(corpus, byte_tokenizer, tmp_path / "out").open()
    assert decoded(opened.train[0][0], byte_tokenizer) == [train]
    assert decoded(opened.valid, byte_tokenizer) == [whole[len(train) :]]


@pytest.mark.parametrize("whole", ["no line end but spaces " * 20, "x" * 400, "short first\n" + "y" * 400])
def test_a_tail_without_line_ends(tmp_path: Path, byte_tokenizer: Tokenizer, whole: str) -> None:
    opened = build_shards([text(tmp_path / "a.txt", whole)], byte_tokenizer, tmp_path / "out").open()
    (train,), (valid,) = decoded(opened.train[0][0], byte_tokenizer), decoded(opened.valid, byte_tokenizer)
    assert train + valid == whole
    assert train
    assert valid


def test_many_documents_are_split_by_hash(tmp_path: Path) -> None:
    texts = [f"document number {number}" for number in range(1000)]
    corpus = read_corpus([rows(tmp_path / "a.jsonl", texts)])
    assert corpus.rule == "validation: 10 % of the 1,000 documents, chosen by a hash of their text"
    kept = set(corpus.iter_training_text())
    assert 850 < len(kept) < 950
    # the same documents elsewhere, in another order and company, stay on their sides
    other = read_corpus([rows(tmp_path / "b.jsonl", [*texts[::-1], *(f"more {n}" for n in range(500)), *texts])])
    again = list(other.iter_training_text())
    assert {t for t in again if t in set(texts)} == kept
    assert other.hash != corpus.hash
    small = read_corpus([rows(tmp_path / "c.jsonl", texts[:199])])
    assert "the last 10 %" in small.rule
    assert "of the 199 documents" in read_corpus([str(tmp_path / "c.jsonl")], split="hash").rule


def test_copies_of_training_documents_never_validate(tmp_path: Path, byte_tokenizer: Tokenizer) -> None:
    texts = [f"document {number}\n" for number in range(90)]
    texts += [texts[3], "new one\n", texts[50], *(f"other {n}\n" for n in range(9))]
    built = build_shards([rows(tmp_path / "a.jsonl", texts)], byte_tokenizer, tmp_path / "out", split="tail")
    assert "2 copies of training documents left out" in built.rule
    opened = built.open()
    trained, held_out = decoded(opened.train[0][0], byte_tokenizer), decoded(opened.valid, byte_tokenizer)
    assert "new one\n" in held_out
    assert not set(trained) & set(held_out)


def test_valid_files_and_their_overlap(tmp_path: Path, byte_tokenizer: Tokenizer) -> None:
    data = rows(tmp_path / "a.jsonl", ["a", "b", "c"])
    valid = rows(tmp_path / "v.jsonl", ["d", "e"])
    built = build_shards([data], byte_tokenizer, tmp_path / "out", valid=[valid])
    assert built.rule == "validation: the files given by --valid"
    assert decoded(built.open().train[0][0], byte_tokenizer) == ["a", "b", "c"]
    assert decoded(built.open().valid, byte_tokenizer) == ["d", "e"]
    with pytest.raises(UserError, match="the same file is in --data"):
        read_corpus([data], valid=[str(tmp_path / ".." / tmp_path.name / "a.jsonl")])
    with pytest.raises(UserError, match="2 of its 3 documents are also in --data"):
        read_corpus([data], valid=[rows(tmp_path / "w.jsonl", ["b", "x", "c"])])
    with pytest.raises(UserError, match="--split tail decides nothing"):
        read_corpus([data], valid=[valid], split="tail")
    with pytest.raises(UserError, match="validation has no weights"):
        read_corpus([data], valid=[valid + "@2"])


def test_no_validation_and_a_fraction_outside(tmp_path: Path, byte_tokenizer: Tokenizer) -> None:
    data = [text(tmp_path / "a.txt", "some text\n" * 20)]
    built = build_shards(data, byte_tokenizer, tmp_path / "out", split="none")
    assert (built.valid, built.n_valid_tokens, built.n_train_bytes) == (None, 0, 200)
    check_enough(built.open(), context=100, validates=built.valid is not None)
    with pytest.raises(UserError, match="1 is no part of the text"):
        read_corpus(data, valid_fraction=1)


# ---- what lands in the shards ----------------------------------------------------------------------------------------


def test_gpt2_ids_of_shakespeare_are_those_of_the_whole_text(tmp_path: Path, gpt2: Tokenizer) -> None:
    source = real_data("tinyshakespeare/input.txt")
    built = build_shards([str(source)], gpt2, tmp_path / "out", split="none")
    expected = gpt2.encode(source.read_text(encoding="utf-8"))
    shards = open_shards(built.train)
    assert shards.dtype == np.dtype("<u2")
    assert shards.read(0, shards.n_tokens).tolist() == [*expected, gpt2.eot_id]


def test_a_special_token_spelled_in_the_text_stays_text(tmp_path: Path, byte_tokenizer: Tokenizer) -> None:
    built = build_shards([text(tmp_path / "a.txt", "a<|endoftext|>b")], byte_tokenizer, tmp_path / "out", split="none")
    assert decoded(built.open().train[0][0], byte_tokenizer) == ["a<|endoftext|>b"]


def test_weights_reach_training(tmp_path: Path, byte_tokenizer: Tokenizer) -> None:
    data = [text(tmp_path / f"{name}.txt", f"text of {name}\n" * 30) for name in "abc"]
    opened = build_shards([data[0], data[1] + "@0.5", data[2]], byte_tokenizer, tmp_path / "out").open()
    assert [weight for _, weight in opened.train] == [1.0, 0.5]
    assert [len(decoded(shards, byte_tokenizer)) for shards, _ in opened.train] == [2, 1]
    assert len(decoded(opened.valid, byte_tokenizer)) == 3


# ---- going on, and refusing ------------------------------------------------------------------------------------------


class Interrupted(Exception):
    pass


def test_a_broken_off_build_goes_on_with_what_is_left(
    tmp_path: Path, byte_tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(build, "UNIT_BYTES", 1000)
    data = [text(tmp_path / f"{n}.txt", f"text {n}\n" * 200) for n in range(4)]
    whole = build_shards(data, byte_tokenizer, tmp_path / "whole")

    def interrupt(done: int, total: int) -> None:
        if done > 2500:
            raise Interrupted

    with pytest.raises(Interrupted):
        build_shards(data, byte_tokenizer, tmp_path / "out", progress=interrupt)
    with pytest.raises(UserError, match="broken off"):
        load_built(tmp_path / "out")
    first = tmp_path / "out" / "train" / "00000.bin"
    before = first.stat().st_mtime_ns
    calls: list[tuple[int, int]] = []
    again = build_shards(data, byte_tokenizer, tmp_path / "out", progress=lambda *call: calls.append(call))
    assert first.stat().st_mtime_ns == before
    assert calls[-1] == (sum(Path(file).stat().st_size for file in data),) * 2
    assert (again.n_train_tokens, again.n_valid_tokens, again.hash) == (
        whole.n_train_tokens,
        whole.n_valid_tokens,
        whole.hash,
    )
    for side in ("train", "valid"):
        files = sorted(path.name for path in (tmp_path / "out" / side).iterdir())
        assert files == [f"{n:05}.bin" for n in range(4)]
        for name in files:
            assert (tmp_path / "out" / side / name).read_bytes() == (tmp_path / "whole" / side / name).read_bytes()


def test_a_finished_build_is_left_alone_until_something_changes(
    tmp_path: Path, byte_tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = text(tmp_path / "a.txt", "text\n" * 100)
    first = build_shards([data], byte_tokenizer, tmp_path / "out")
    with monkeypatch.context() as patch:
        patch.setattr(build, "survey", None)  # would be called
        assert build_shards([data], byte_tokenizer, tmp_path / "out") == first
    (tmp_path / "out" / "train" / "00000.bin").unlink()
    assert build_shards([data], byte_tokenizer, tmp_path / "out").open().train[0][0].n_tokens == first.n_train_tokens
    other = train_tokenizer("chars", ["text\n"], None)
    with pytest.raises(UserError, match="shards of another tokenizer"):
        build_shards([data], other, tmp_path / "out")
    text(tmp_path / "a.txt", "more\n" * 101)
    with pytest.raises(UserError, match="shards of other data or options"):
        build_shards([data], byte_tokenizer, tmp_path / "out")
    changed = build_shards([data], byte_tokenizer, tmp_path / "out", overwrite=True)
    assert changed.hash != first.hash
    assert changed.n_train_bytes + changed.n_valid_bytes == 505


def test_problems_of_all_files_come_before_any_work(tmp_path: Path, byte_tokenizer: Tokenizer) -> None:
    text(tmp_path / "a.txt", "fine\n" * 50)
    (tmp_path / "b.txt").write_bytes(b"caf\xe9")
    text(tmp_path / "c.jsonl", "{")
    text(tmp_path / "d.txt", " \n\n")
    with pytest.raises(UserError) as error:
        build_shards([str(tmp_path)], byte_tokenizer, tmp_path / "out")
    assert [problem.where for problem in error.value.problems] == [
        str(tmp_path / "b.txt"),
        f"{tmp_path / 'c.jsonl'}:1",
        str(tmp_path / "d.txt"),
    ]
    assert not (tmp_path / "out").exists()


def test_too_little_text_and_empty_validation(tmp_path: Path, byte_tokenizer: Tokenizer) -> None:
    built = build_shards([rows(tmp_path / "a.jsonl", ["one two"])], byte_tokenizer, tmp_path / "out", split="hash")
    with pytest.raises(UserError) as error:
        check_enough(built.open(), context=64)
    assert len(error.value.problems) == 2
    assert "one window of context 64 needs 65" in problems(error) or "no training text" in problems(error)
    short = build_shards([text(tmp_path / "a.txt", "word\n" * 10)], byte_tokenizer, tmp_path / "short")
    with pytest.raises(UserError, match="one window of context 64 needs 65"):
        check_enough(short.open(), context=64)
    check_enough(short.open(), context=16)


def test_shards_of_another_tokenizer_are_refused(tmp_path: Path, byte_tokenizer: Tokenizer) -> None:
    built = build_shards([text(tmp_path / "a.txt", "abc\n" * 10)], byte_tokenizer, tmp_path / "out", split="none")
    shards = open_shards(built.train)
    check_tokenizer(shards, byte_tokenizer)
    other = train_tokenizer("chars", ["abc\n"], None)
    with pytest.raises(UserError, match="made by tokenizer"):
        check_tokenizer(shards, other)
    np.array([0, 1, other.vocab_size], dtype="<u2").tofile(tmp_path / "nano.bin")
    with pytest.raises(UserError, match="holds id"):
        check_tokenizer(open_shards(tmp_path / "nano.bin"), other)
    check_tokenizer(open_shards(tmp_path / "nano.bin"), byte_tokenizer)


def test_an_out_that_cannot_be_written(tmp_path: Path, byte_tokenizer: Tokenizer) -> None:
    data = text(tmp_path / "a.txt", "abc\n" * 10)
    text(tmp_path / "file", "x")
    with pytest.raises(UserError, match="cannot be written"):
        build_shards([data], byte_tokenizer, tmp_path / "file" / "out")


def test_named_shards(tmp_path: Path, byte_tokenizer: Tokenizer) -> None:
    folder = tmp_path / "nano"
    folder.mkdir()
    for name, size in (("train.bin", 30), ("val.bin", 10)):
        np.arange(size, dtype="<u2").tofile(folder / name)
    data = text(tmp_path / "a.txt", "abc\n" * 100)
    built = build_shards([data], byte_tokenizer, tmp_path / "out")
    assert names_shards([str(folder), str(tmp_path / "out") + "@2"])
    assert names_shards([str(folder / "train.bin")])
    assert not names_shards([str(folder), data])
    opened = open_named_shards([str(folder)])
    assert [(shards.n_tokens, weight) for shards, weight in opened.train] == [(30, 1.0)]
    assert opened.valid is not None
    assert opened.valid.n_tokens == 10
    assert "val in their name" in opened.rule
    opened = open_named_shards([str(tmp_path / "out") + "@2"], valid=[str(folder / "val.bin")])
    assert [(shards.n_tokens, weight) for shards, weight in opened.train] == [(built.n_train_tokens, 2.0)]
    assert opened.rule == "validation: the shards given by --valid"
    with pytest.raises(UserError, match="only files for validation"):
        open_named_shards([str(folder / "val.bin")])
