"""BERT's WordPiece vocabularies: from a ``vocab.txt`` or from the Hugging Face hub.

BERT (Devlin et al. 2018) reads a text in two steps. The *basic tokenizer* removes control characters, makes every white
space a plain one, sets spaces around Chinese characters, lower-cases and removes accents (uncased models only) and
splits at white space and at each punctuation mark. *WordPiece* then takes, from left to right, the longest entry of the
vocabulary with which the rest of a word begins; entries that go on inside a word are written with ``##`` in front. A
word of more than 100 characters, or with a rest for which there is no entry, is ``[UNK]``.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from gptloom.config.errors import Problem, UserError
from gptloom.tokenizer.hub import Published
from gptloom.tokenizer.layout import BERT_SPECIALS, BERT_UNKNOWN, CLS, MASK, SEP, bert_normalizer, wordpiece
from gptloom.tokenizer.tokenizer import Tokenizer
from gptloom.tokenizer.vocabulary import read_lines

VOCAB_FILE = "vocab.txt"
PUBLISHED = (
    Published("BERT's", "bert", ("bert-base-uncased", "google-bert/bert-base-uncased"), (VOCAB_FILE,)),
    Published("Cased BERT's", "bert-cased", ("bert-base-cased", "google-bert/bert-base-cased"), (VOCAB_FILE,)),
)
_GENERIC_CLASSES = ("PreTrainedTokenizer", "TokenizersBackend")  # read the tokenizer.json as it stands
_OPTIONS = {
    "do_lower_case": "lowercase",
    "strip_accents": "strip_accents",
    "tokenize_chinese_chars": "handle_chinese_chars",
}


def from_vocabulary(vocab: Mapping[str, int], normalizer: dict[str, Any], config: Mapping[str, Any]) -> Tokenizer:
    """A WordPiece tokenizer of ``vocab`` with the five special tokens of BERT, ``[PAD]`` where it has one.

    ``config`` is a ``tokenizer_config.json`` to keep.
    """
    special = {content: vocab[content] for content in BERT_SPECIALS if content in vocab}
    special = dict(sorted(special.items(), key=lambda entry: entry[1]))
    return Tokenizer(
        wordpiece(vocab, special, normalizer),
        "wordpiece",
        eot_token=SEP,
        config={**saved_options(normalizer), **config},
    )


def from_vocab_file(path: Path, config: Mapping[str, Any]) -> Tokenizer:
    """A ``vocab.txt``: one token a line, its number the id.

    Whether the text loses its case is what ``do_lower_case`` of ``config``, a ``tokenizer_config.json``, says; where
    it doesn't, the vocabulary does: one without an upper-case letter was made of lower-cased text.

    Raises:
        UserError: not UTF-8, empty, a line that stands there twice, or special tokens that are missing.
    """
    vocab = read_lines(path)
    missing = [content for content in (BERT_UNKNOWN, CLS, SEP, MASK) if content not in vocab]
    if missing:
        what = (
            f"is no WordPiece vocabulary of BERT's: {', '.join(missing)} {'is' if len(missing) == 1 else 'are'} missing"
        )
        mend = "take the vocab.txt of a BERT model, or train one: gptloom tokenizer train --kind wordpiece --data FILE"
        raise UserError(Problem(what, where=str(path), mend=mend))
    lowercase = not any(token != token.lower() for token in vocab if token not in BERT_SPECIALS)
    return from_vocabulary(vocab, configured(bert_normalizer(lowercase=lowercase), config), config)


def from_hub(published: Published) -> Tokenizer:
    """The vocabulary from the local hub cache, else downloaded into it (0.2 MB).

    Raises:
        UserError: not in the cache, and ``huggingface_hub`` or the network is missing.
    """
    (path,) = published.fetch()
    return from_vocab_file(path, {})


def configured(normalizer: Mapping[str, Any], config: Mapping[str, Any]) -> dict[str, Any]:
    """``normalizer`` with what a ``tokenizer_config.json`` says otherwise; ``transformers`` too lets that win."""
    if str(config.get("tokenizer_class", "")).removesuffix("Fast") in _GENERIC_CLASSES:
        return dict(normalizer)
    said = {field: config[option] for option, field in _OPTIONS.items() if option in config}
    return {**normalizer, **said}


def saved_options(normalizer: Mapping[str, Any]) -> dict[str, Any]:
    """What a ``tokenizer_config.json`` must say for ``transformers``' BertTokenizer to clean text in this way."""
    names = {"pad_token": BERT_SPECIALS[0], "unk_token": BERT_UNKNOWN, "cls_token": CLS, "sep_token": SEP}
    options = {option: normalizer[field] for option, field in _OPTIONS.items()}
    return {"tokenizer_class": "BertTokenizer", **options, **names, "mask_token": MASK}
