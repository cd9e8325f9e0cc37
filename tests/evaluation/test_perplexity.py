from __future__ import annotations

import io
import json
import math
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import gptloom
from gptloom.cli.main import main
from gptloom.config.errors import UserError
from gptloom.config.model import ModelConfig, preset
from gptloom.data.batches import eval_batches
from gptloom.data.documents import Document
from gptloom.evaluation.perplexity import TextScore, join_documents, score_tokens
from gptloom.generation.language_model import LanguageModel
from gptloom.model.store import save_model
from gptloom.model.transformer import Transformer
from gptloom.tokenizer.train import train_tokenizer

BYTES = train_tokenizer("bytes", [], None)
CONTEXT = 16
TEXT = "Grüße an alle, die 漢字 lesen: the quick brown fox. " * 5


def score_text(model: LanguageModel, text: str, stride: int | None = None) -> TextScore:
    return score_tokens(model, join_documents([Document(text, "text", 1)], model.tokenizer), stride=stride)


def random_transformer(family: str = "modern-nano") -> Transformer:
    sizes = {"vocab_size": BYTES.vocab_size, "context": CONTEXT, "n_layer": 2, "d_model": 32, "n_head": 2}
    model = Transformer(ModelConfig(**preset(family) | sizes))
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(std=0.2, generator=generator)
    return model


@pytest.fixture
def model() -> LanguageModel:
    return LanguageModel(random_transformer(), BYTES)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    transformer = random_transformer()
    save_model(tmp_path / "model", transformer, transformer.config, tokenizer=BYTES)
    return tmp_path / "model"


class Ids:
    """A few ids, read like shards."""

    def __init__(self, n: int) -> None:
        self.n_tokens = n

    def read(self, start: int, length: int) -> np.ndarray:
        return np.arange(start, start + length)


# ---- windows -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("n", [2, 16, 17, 18, 33, 50])
@pytest.mark.parametrize("stride", [1, 5, 15, 16, None])
@pytest.mark.parametrize("rows", [1, 3, 100])
def test_windows_predict_every_id_but_the_first_once_with_enough_before_it(
    n: int, stride: int | None, rows: int
) -> None:
    predicted = []
    for batch in eval_batches(Ids(n), CONTEXT, rows, stride):
        counted = batch.weights > 0
        predicted += batch.targets[counted].tolist()
        assert (batch.ids[counted] == batch.targets[counted] - 1).all()
        for row, place in counted.nonzero().tolist():
            target = int(batch.targets[row, place])
            assert place + 1 >= min(target, CONTEXT - (stride or CONTEXT))
    assert predicted == list(range(1, n))


def test_a_stride_beyond_the_window_would_leave_targets_out() -> None:
    for stride in (0, 17):
        with pytest.raises(ValueError, match="stride"):
            next(eval_batches(Ids(50), CONTEXT, 2, stride))


# ---- scores ------------------------------------------------------------------------------------------------------


def reference(transformer: Transformer, ids: list[int]) -> float:
    """Nats of fixed windows, by plain logits in fp64."""
    nats = 0.0
    wide = transformer.double()
    for start in range(0, len(ids) - 1, CONTEXT):
        inputs, targets = ids[start : start + CONTEXT], ids[start + 1 : start + CONTEXT + 1]
        logits = wide(torch.tensor([inputs[: len(targets)]]))[0]
        nats += float(torch.nn.functional.cross_entropy(logits, torch.tensor(targets), reduction="sum").detach())
    return nats


def test_a_text_counts_from_its_first_token(model) -> None:
    score = score_text(model, TEXT)
    ids = [BYTES.eot_id, *BYTES.encode(TEXT)]
    assert score.tokens == len(ids) - 1 == score.n_bytes == len(TEXT.encode())
    nats = reference(model.model, ids)
    assert score.nats == pytest.approx(nats, rel=1e-5)
    assert score.loss == pytest.approx(nats / score.tokens, rel=1e-5)
    assert score.perplexity == pytest.approx(math.exp(nats / score.tokens), rel=1e-5)
    assert score.bits_per_byte == pytest.approx(nats / math.log(2) / len(TEXT.encode()), rel=1e-5)


def test_a_short_text_agrees_with_the_logprobs_of_its_tokens(model) -> None:
    text = "hello, world"
    assert score_text(model, text).nats == pytest.approx(
        -sum(token.logprob for token in model.logprobs(text)), rel=1e-5
    )


def test_end_of_text_stands_before_each_document(model) -> None:
    pieces = [Document("ab", "f", 1, ends=False), Document("cd", "f", 1), Document("e", "f", 2)]
    joined = join_documents(pieces, BYTES)
    expected = [BYTES.eot_id, *BYTES.encode("abcd"), BYTES.eot_id, *BYTES.encode("e")]
    assert joined.read(0, joined.n_tokens).tolist() == expected
    score = score_tokens(model, joined)
    assert (score.tokens, score.n_bytes) == (6, 5)


def test_loss_is_that_of_transformers_on_the_same_windows(model, tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    save_model(tmp_path / "model", model.model, model.model.config, tokenizer=BYTES)
    theirs = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "model", dtype=torch.float32)
    ids = [BYTES.eot_id, *BYTES.encode(TEXT)]
    for stride in (None, 5):
        nats, done = 0.0, 0
        for start in range(0, len(ids) - 1, stride or CONTEXT):
            window = ids[start : start + CONTEXT + 1]
            new = start + len(window) - 1 - done
            if new <= 0:
                break
            labels = torch.tensor([[-100] * (len(window) - new) + window[len(window) - new :]])
            with torch.no_grad():
                nats += float(theirs(torch.tensor([window]), labels=labels).loss) * new
            done += new
        score = score_text(model, TEXT, stride=stride)
        assert score.loss == pytest.approx(nats / done, rel=1e-5) and score.tokens == done


def test_a_stride_changes_what_is_seen_not_what_counts(model) -> None:
    fixed, sliding = score_text(model, TEXT), score_text(model, TEXT, stride=4)
    assert (fixed.tokens, fixed.n_bytes) == (sliding.tokens, sliding.n_bytes)
    assert fixed.nats != sliding.nats


def test_scores_add_up() -> None:
    total = TextScore(10.0, 4, 8) + TextScore(2.0, 2, 0)
    assert total == TextScore(12.0, 6, 8) and total.loss == 2.0
    assert TextScore(2.0, 2, 0).bits_per_byte is None


def test_what_cannot_be_scored(model) -> None:
    with pytest.raises(UserError, match="nothing to predict"):
        score_text(model, "")
    with pytest.raises(UserError, match="stride of 99"):
        score_text(model, TEXT, stride=99)


# ---- the command -------------------------------------------------------------------------------------------------


@pytest.fixture
def evaluate(capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str, str]]:
    def run(*arguments: object) -> tuple[int, str, str]:
        threads = torch.get_num_threads()
        code = main(["evaluate", *map(str, arguments), "--threads", "1"])
        torch.set_num_threads(threads)
        printed = capsys.readouterr()
        return code, printed.out, printed.err

    return run


@pytest.fixture
def files(tmp_path: Path) -> list[Path]:
    paths = [tmp_path / "a.txt", tmp_path / "b.jsonl"]
    paths[0].write_text(TEXT, encoding="utf-8")
    paths[1].write_text('{"text": "one"}\n{"text": "two"}\n', encoding="utf-8")
    return paths


def test_prints_the_four_figures(evaluate, folder: Path, files, model) -> None:
    code, out, _ = evaluate(folder, "--data", files[0])
    score = score_text(model, TEXT)
    assert code == 0
    assert out.splitlines() == [
        f"loss: {score.loss:.4f}",
        f"perplexity: {score.perplexity:.2f}",
        f"bits per byte: {score.bits_per_byte:.4f}",
        f"tokens: {score.tokens:,}",
    ]


def test_several_files_have_a_row_each_and_a_total(evaluate, folder: Path, files) -> None:
    code, out, _ = evaluate(folder, "--data", *files)
    assert code == 0
    rows = [line.split() for line in out.splitlines()]
    assert rows[0][0] == "file" and [row[0] for row in rows[1:4]] == [str(files[0]), str(files[1]), "total"]
    code, out, _ = evaluate(folder, "--data", *files, "--json")
    document: dict[str, Any] = json.loads(out)
    each = document["files"]
    assert document["tokens"] == sum(row["tokens"] for row in each.values())
    assert each[str(files[1])]["tokens"] == 7 and each[str(files[1])]["bytes"] == 6
    nats = sum(row["loss"] * row["tokens"] for row in each.values())
    assert document["loss"] == pytest.approx(nats / document["tokens"])


def test_reads_standard_input(evaluate, folder: Path, files, monkeypatch) -> None:
    def piped(raw: bytes, *options: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(raw), encoding="ascii"))
        return evaluate(folder, "--data", "-", *options)

    from_file = evaluate(folder, "--data", files[0])[1]
    assert piped(TEXT.encode())[:2] == (0, from_file)
    assert piped(TEXT.encode("utf-16"), "--encoding", "utf-16")[:2] == (0, from_file)
    assert piped(b"\xef\xbb\xbf" + TEXT.encode())[:2] == (0, from_file)
    two_lines = piped(b"one line\nand another\n")
    assert two_lines[0] == 0 and two_lines == piped(b"one line\r\nand another\r\n")
    code, _, err = piped(b"caf\xe9")
    assert code == 2 and "not utf-8 text: byte 0xe9 at byte 3" in err and "standard input" in err
    assert "a NUL byte" in piped(b"a\0b")[2]
    assert evaluate(folder, "--data", "-", "-")[0] == 2


def test_from_python(folder: Path, files) -> None:
    result = gptloom.evaluate(folder, data=files)
    assert set(result.files) == {str(path) for path in files}
    assert result.total.tokens == sum(score.tokens for score in result.files.values())
    strided = gptloom.evaluate(folder, data=files[0], stride=4)
    assert strided.total.tokens == result.files[str(files[0])].tokens


def test_a_preset_needs_untrained(evaluate, files) -> None:
    code, _, err = evaluate("modern-nano", "--data", files[1])
    assert code == 2 and "--untrained" in err
    code, out, _ = evaluate("modern-nano", "--data", files[1], "--untrained", "--json")
    assert code == 0 and json.loads(out)["loss"] == pytest.approx(math.log(258), abs=0.6)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--data", "nowhere.txt"], "nowhere.txt"),
        (["--data", "{a}@2"], "reads every file once"),
        (["--data", "{a}", "--stride", "99"], "--stride 8"),
        (["--data", "{a}", "--text-column", "text"], "--text-column"),
        (["--data", "{a}", "--strid", "9"], "did you mean"),
    ],
)
def test_mistakes_are_named(evaluate, folder: Path, files, arguments: list[str], message: str) -> None:
    code, _, err = evaluate(folder, *(argument.format(a=files[0]) for argument in arguments))
    assert code == 2 and message in err


def test_agrees_with_the_runs_own_evaluation(evaluate, tmp_path: Path) -> None:
    text = tmp_path / "text.txt"
    text.write_text("".join(f"line {n} of {n % 7} or {n * n} words\n" for n in range(300)), encoding="utf-8")
    shape = {"n_layer": 1, "d_model": 16, "n_head": 2, "context": 16, "batch_tokens": 128, "micro_batch": 4}
    run = gptloom.pretrain(
        data=text, out=tmp_path / "run", max_steps=6, precision="fp32", quiet=True, log="none", sample_tokens=0,
        limit_batches=10**6, threads=1, **shape,
    )  # fmt: skip
    evaluated = next(event for event in reversed(run.events) if event["type"] == "evaluate")
    code, out, _ = evaluate(run.path, "--data", run.path / "data", "--precision", "fp32", "--json")
    assert code == 0
    document = json.loads(out)
    assert document["bits_per_byte"] == pytest.approx(evaluated["bits_per_byte"], rel=1e-6)
    assert document["loss"] == pytest.approx(evaluated["valid_loss"], rel=1e-6)
    only = evaluate(run.path, "--data", run.path / "data" / "valid", "--precision", "fp32", "--json")
    assert json.loads(only[1])["tokens"] == document["tokens"]
    assert evaluate("modern-nano", "--data", run.path / "data", "--untrained")[0] == 2  # another tokenizer's shards
    code, _, err = evaluate(run.path, "--data", run.path / "data", "--encoding", "latin-1")
    assert code == 2 and "--encoding does nothing: --data names token shards" in err
