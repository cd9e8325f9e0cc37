"""GPT-1's tokenizer: the paper's way to split a text, and the hub's with ids equal to those of transformers."""

import gzip
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from real_data import real_data

from gptloom.config.errors import UserError
from gptloom.tokenizer import Tokenizer, load_tokenizer

TEXTS = [
    "",
    "Hello World, it's — me… \"don't\"",
    "Crème brûlée, naïve café, ΣΊΣΥΦΟΣ, Straße",
    "line\nbreaks  \n\n and\ttabs\r\n and\u00a0spaces\u3000",
    "漢字 ☃ 👍🏽 \x00 \ufffd e\u0301",
    "a" * 300,
    "<unk> spelled, the</w> too, and \n</w>",
    "!!! ??? ... -- --- ~~ // '' \"\" ;; ,, (()) [[]] {{}} __ ** ++ $5.00 10:30 3.14 1,000",
]

# Words as text_standardize of openai/finetune-transformer-lm and spaCy's English tokenizer split them.
SPLIT = {
    "I don't know; it's Mr. O'Connor's, isn't it?": "i do n't know ; it 's mr. o'connor 's , is n't it ?",
    "“We’ll go at 10:30 a.m.,” she said…": '" we \'ll go at 10:30 a.m. , " she said ...',
    "well-known—and 1,000 more -- 'tis 3.14!!": "well - known - and 1 , 000 more -- ' tis 3.14 ! !",
    "I cannot. You're gonna (maybe) love U.S. food": "i can not . you 're gon na ( maybe ) love u.s. food",
    "Café at five o'clock, ma'am. 'Yes,' he said.": "café at five o'clock , ma'am . ' yes , ' he said .",
    "One.\n  \n Two  three.": "one . \n two three .",
}


@pytest.fixture(scope="module")
def files() -> Path:
    return real_data("vocab_gpt1")


@pytest.fixture(scope="module")
def gpt1(files: Path) -> Tokenizer:
    return load_tokenizer(files)


@pytest.fixture(scope="module")
def hub_folder(files: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The two files under Hugging Face's names."""
    folder = tmp_path_factory.mktemp("openai-gpt")
    shutil.copy(files / "encoder_bpe_40000.json", folder / "vocab.json")
    shutil.copy(files / "vocab_40000.bpe", folder / "merges.txt")
    return folder


@pytest.fixture(scope="module")
def basic(hub_folder: Path) -> Tokenizer:
    return load_tokenizer(hub_folder)


@pytest.fixture(scope="module")
def peer(hub_folder: Path) -> Any:
    transformers = pytest.importorskip("transformers")
    return transformers.OpenAIGPTTokenizer.from_pretrained(str(hub_folder))


def words(tokenizer: Tokenizer, text: str) -> list[str]:
    joined = "".join(tokenizer.token_text(i).replace("\\n", "\n") for i in tokenizer.encode(text))
    return joined.split("</w>")[:-1]


def test_the_published_ids(gpt1: Tokenizer) -> None:
    assert (gpt1.kind, gpt1.vocab_size, gpt1.unk_id) == ("gpt1", 40478, 0)
    assert (gpt1.eot_id, gpt1.pad_id, gpt1.mask_id) == (40477, None, None)
    assert gpt1.encode("the") == [481]
    assert gpt1.encode("a\nb")[1] == 40477
    assert gpt1.encode("\u6f22") == [0]
    assert gpt1.special_tokens == {"<unk>": 0}


@pytest.mark.parametrize("text", SPLIT)
def test_the_papers_way_to_split(gpt1: Tokenizer, text: str) -> None:
    assert words(gpt1, text) == SPLIT[text].split(" ")


def test_standardisation(gpt1: Tokenizer) -> None:
    for uniform, others in {"a-b": "a—b a–b a―b", "a...": "a…", "it's": "it´s it’s", '"a"': "“a”"}.items():
        for other in others.split(" "):
            assert gpt1.encode(other) == gpt1.encode(uniform), other
    assert gpt1.unk_id not in gpt1.encode("Crème Brûlée — ‘naïve’… “Peña”")


def test_equal_to_transformers(basic: Tokenizer, peer: Any, unicode_texts: list[str]) -> None:
    assert (basic.kind, basic.eot_id) == ("gpt1", 40477)
    for text in [*TEXTS, *SPLIT, *unicode_texts]:
        ids = basic.encode(text, special=True)
        assert ids == peer.encode(text), text
        assert basic.decode(ids) == peer.decode(ids)


def test_equal_to_transformers_on_real_text(basic: Tokenizer, peer: Any) -> None:
    with gzip.open(real_data("wikitext2") / "valid.txt.gz", "rt", encoding="utf-8") as file:
        text = file.read()[:300_000]
    assert basic.encode(text, special=True) == peer.encode(text)


@pytest.mark.parametrize(("rules", "model_type"), [("paper", None), ("paper", "openai-gpt"), ("hub", "openai-gpt")])
def test_saved_and_opened_by_transformers(
    gpt1: Tokenizer, basic: Tokenizer, tmp_path: Path, unicode_texts: list[str], model_type: str | None, rules: str
) -> None:
    transformers = pytest.importorskip("transformers")
    ours = gpt1 if rules == "paper" else basic
    ours.save(tmp_path)
    if model_type:
        (tmp_path / "config.json").write_text(json.dumps({"model_type": model_type}), encoding="utf-8")
    theirs = transformers.AutoTokenizer.from_pretrained(str(tmp_path))
    for text in [*TEXTS, *SPLIT, *unicode_texts[:150]]:
        assert theirs.encode(text) == ours.encode(text, special=True), text
        ids = ours.encode(text)
        assert theirs.decode(ids) == ours.decode(ids)
    assert (len(theirs), theirs.eos_token, theirs.pad_token) == (40478, None, None)
    again = load_tokenizer(tmp_path)
    assert (again.kind, again.hash, again.eot_id) == ("gpt1", ours.hash, 40477)


def test_a_folder_saved_by_transformers(peer: Any, tmp_path: Path) -> None:
    peer.save_pretrained(tmp_path)
    ours = load_tokenizer(tmp_path)
    assert (ours.kind, ours.eot_id) == ("gpt1", 40477)
    assert ours.encode(TEXTS[1], special=True) == peer.encode(TEXTS[1])


def test_parts_of_a_long_text_encode_as_the_whole(gpt1: Tokenizer) -> None:
    with gzip.open(real_data("lambada") / "lambada_test.jsonl.gz", "rt", encoding="utf-8") as file:
        passages = [json.loads(line)["text"] for line in file]
    text = "\n\n".join(passages)[:300_000]
    whole = gpt1._plain.encode(text, add_special_tokens=False).ids
    assert gpt1.encode(text) == whole
    assert whole.count(gpt1.unk_id) == 0
    assert whole.count(gpt1.eot_id) > 500


def test_text_comes_back_readable(gpt1: Tokenizer) -> None:
    ids = gpt1.encode("Hello, World. It's\nfine")
    assert gpt1.decode(ids) == "hello , world . it 's \n fine"
    assert b"".join(map(gpt1.token_bytes, ids)).decode() == gpt1.decode(ids) + " "
    assert gpt1.token_text(481) == "the</w>"
    assert not gpt1.lossless
    with pytest.raises(ValueError, match="the one before"):
        gpt1.is_start(481)


def test_the_name_and_the_hubs_name(
    hub_folder: Path, gpt1: Tokenizer, basic: Tokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub = pytest.importorskip("huggingface_hub")
    monkeypatch.setattr(hub, "try_to_load_from_cache", lambda repository, file: str(hub_folder / file))
    assert load_tokenizer("gpt1").hash == gpt1.hash
    assert load_tokenizer("openai-community/openai-gpt").hash == basic.hash != gpt1.hash


def test_damaged_files(files: Path, tmp_path: Path) -> None:
    vocab = json.loads((files / "encoder_bpe_40000.json").read_text(encoding="utf-8"))
    del vocab["\n</w>"]
    (tmp_path / "encoder_bpe_40000.json").write_text(json.dumps(vocab), encoding="utf-8")
    with pytest.raises(UserError, match=r"neither merges\.txt"):
        load_tokenizer(tmp_path)
    shutil.copy(files / "vocab_40000.bpe", tmp_path)
    with pytest.raises(UserError, match="is not in the vocabulary"):
        load_tokenizer(tmp_path)
