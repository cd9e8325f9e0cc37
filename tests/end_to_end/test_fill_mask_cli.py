"""``gptloom fill-mask``: the words and probabilities of ``transformers``' BERT, by every door, and what it refuses."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
import torch
import transformers

import gptloom as package
from gptloom.config.errors import UserError
from gptloom.config.model import ModelConfig, preset
from gptloom.model.store import save_model
from gptloom.model.transformer import Transformer
from gptloom.tokenizer.train import train_tokenizer

TEXT = "The Weaver sets the Loom. The loom weaves threads into cloth, and the cloth is sold in the town. "
TEXTS = ["The loom [MASK] threads.", "The [MASK] is sold in the [MASK], and THE loom weaves on and on."]


@pytest.fixture(scope="module")
def bert(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that ``transformers`` wrote: random weights, wide enough that words differ, and a WordPiece vocabulary."""
    folder = tmp_path_factory.mktemp("bert")
    special = {token: token_id for token_id, token in enumerate(("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"))}
    vocab = train_tokenizer("wordpiece", [TEXT * 4], 60).settings["model"]["vocab"]
    assert vocab.items() >= special.items()
    (folder / "vocab.txt").write_text("\n".join(sorted(vocab, key=vocab.get)) + "\n", encoding="utf-8")
    transformers.BertTokenizer(vocab=str(folder / "vocab.txt")).save_pretrained(folder)
    config = transformers.BertConfig(
        vocab_size=len(vocab),
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=64,
        max_position_embeddings=32,
    )
    torch.manual_seed(0)
    model = transformers.BertForMaskedLM(config)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(0.0, 0.2)
    model.save_pretrained(folder)
    return folder


def expected_words(folder: Path, texts: list[str], top: int) -> list[list[list[tuple[str, float]]]]:
    """What ``transformers`` itself makes of the folder: (word, probability) for each mask of each text."""
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    model = transformers.BertForMaskedLM.from_pretrained(folder).eval()
    inputs = tokenizer(texts, return_tensors="pt", padding=True)
    with torch.no_grad():
        shares = model(**inputs).logits.softmax(-1)
    found = []
    for row, ids in enumerate(inputs["input_ids"]):
        places = [shares[row, place].topk(top) for place in (ids == tokenizer.mask_token_id).nonzero()[:, 0]]
        found.append(
            [
                list(zip(tokenizer.convert_ids_to_tokens(best.indices.tolist()), best.values.tolist(), strict=True))
                for best in places
            ]
        )
    return found


def test_words_and_probabilities_are_those_of_transformers(bert: Path) -> None:
    expected = expected_words(bert, TEXTS, 7)
    found = package.fill_mask(str(bert), text=TEXTS, top=7, precision="fp32")
    assert [filled.text for filled in found] == TEXTS and [len(filled.masks) for filled in found] == [1, 2]
    for filled, places in zip(found, expected, strict=True):
        for words, best in zip(filled.masks, places, strict=True):
            assert [word.text for word in words] == [text for text, _ in best]
            assert [word.probability for word in words] == pytest.approx([share for _, share in best], abs=1e-6)


def test_the_command_prints_them(gptloom, bert: Path) -> None:
    done = gptloom("fill-mask", bert, "--text", *TEXTS, "--top", 2, "--precision", "fp32")
    assert done.code == 0, done.err
    [[single]], several = ([places[:1] for places in text] for text in expected_words(bert, TEXTS, 2))
    lines = done.out.splitlines()
    second = lines.index(TEXTS[1])
    assert lines[0] == TEXTS[0] and lines[1].split() == ["word", "id", "probability"]
    assert f"{single[1]:.2%}" in "\n".join(lines[:second])
    assert lines[second + 1].split() == ["mask", "word", "id", "probability"]
    rows = [line.split() for line in lines[second + 2 :] if line.strip() and line.split()[0].isdigit()]
    assert [row[0] for row in rows] == ["1", "1", "2", "2"]
    for row, [(word, share)] in zip(rows[::2], several, strict=True):
        assert row[1] == word and row[-1] == f"{share:.2%}"


def test_json_and_python_agree(gptloom, bert: Path) -> None:
    done = gptloom("fill-mask", f"hf:{bert}", "--text", *TEXTS, "--json")
    assert done.code == 0, done.err
    assert done.document == [filled.as_dict() for filled in package.fill_mask(bert, text=TEXTS)]
    assert [len(words) for words in done.document[1]["masks"]] == [5, 5]


def test_lines_of_standard_input_are_texts(gptloom, bert: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO("\n".join([TEXTS[0], "", TEXTS[1]]) + "\n"))
    done = gptloom("fill-mask", bert, "--text", "-", "The [MASK].", "--json")
    assert [filled["text"] for filled in done.document] == [*TEXTS, "The [MASK]."]
    monkeypatch.setattr("sys.stdin", io.StringIO("\n"))
    assert "a text on each line" in gptloom("fill-mask", bert, "--text", "-").err
    assert "only once" in gptloom("fill-mask", bert, "--text", "-", "-").err


def test_what_it_refuses(gptloom, bert: Path, tmp_path: Path) -> None:
    done = gptloom("fill-mask", bert, "--text", "The loom.", "[MASK] the" + " loom" * 40)
    assert done.code == 2
    assert "there is no [MASK] in 'The loom.'" in done.err and "a text of at most 30 tokens" in done.err
    assert "Traceback" not in done.err
    config = ModelConfig(**preset("modern-nano") | {"vocab_size": 258, "n_layer": 1, "d_model": 32, "n_head": 2})
    tokenizer = train_tokenizer("bytes", [], None)
    save_model(tmp_path / "gpt", Transformer.initialised(config, 0), config, tokenizer=tokenizer)
    done = gptloom("fill-mask", tmp_path / "gpt", "--text", TEXTS[0])
    assert done.code == 2 and "gptloom generate MODEL" in done.err
    done = gptloom("fill-mask", "bert-tiny", "--text", TEXTS[0])
    assert done.code == 2 and "--untrained" in done.err


def test_what_writes_from_left_to_right_refuses_a_bert(gptloom, bert: Path) -> None:
    done = gptloom("generate", bert, "--prompt", "The loom")
    assert done.code == 2 and "gptloom fill-mask MODEL" in done.err
    with pytest.raises(UserError, match="gptloom fill-mask MODEL"):
        package.load(str(bert))
