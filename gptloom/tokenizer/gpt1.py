r"""GPT-1's vocabulary: lower-case characters merged into words, each of which ends in ``</w>``; 40,478 entries.

The vocabulary is one, the ways to split a text into the words that it is made of are two:

- **The paper's** (`STANDARDISED`; for OpenAI's own files and the name ``gpt1``), on which the model was trained: dashes,
  ellipses and quotation marks are made uniform, line ends stay (``\n</w>``) with the space around them dropped, runs of
  punctuation stand alone, and words are split as spaCy's English tokenizer does (*do n't*, *it 's*, *mr.*). Its rules
  and exceptions are many; those written here agree with it on 99.9 % of the words of novels.
- **Hugging Face's** (`BASIC`; for its files ``vocab.json`` + ``merges.txt`` or ``tokenizer.json``), BERT's basic
  tokenizer: accents and line ends go, each punctuation mark stands alone (*don ' t*, *it ' s*).

Source of the first: ``text_utils.py`` of openai/finetune-transformer-lm.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from gptloom.config.errors import Problem, UserError
from gptloom.tokenizer import layout
from gptloom.tokenizer.hub import Published
from gptloom.tokenizer.layout import GPT1_UNKNOWN, LINE_END, WORD_END
from gptloom.tokenizer.tokenizer import Tokenizer
from gptloom.tokenizer.vocabulary import read_ids, read_merges

VOCABULARY_FILE, MERGES_FILE = "encoder_bpe_40000.json", "vocab_40000.bpe"  # OpenAI's names
PUBLISHED = Published("GPT-1's", "gpt1", ("openai-gpt", "openai-community/openai-gpt"), ("vocab.json", "merges.txt"))

Rules = tuple[dict[str, Any], dict[str, Any]]  # a normalizer and a pre-tokenizer

BASIC: Rules = (layout.bert_normalizer(lowercase=True), {"type": "BertPreTokenizer"})


def _replace(pattern: str, content: str) -> dict[str, Any]:
    return {"type": "Replace", "pattern": {"Regex": pattern}, "content": content}


# Words that keep a mark that would be split off, as spaCy's exceptions do, as far as the vocabulary has them.
_ABBREVIATED = "mr|mrs|ms|dr|st|jr|sr|inc|corp|ltd|co|vs|gen|gov|sen|rep|rev|adm|messrs|mt|prof|bros|ph\\.d|[a-z]"
_INITIALS = r"(?:[a-z]\.){2,}"
_APOSTROPHES = (
    "o'clock|ma'am|y'all|c'mon|o'er|not've|'cause|'bout|'em|'cos|'coz|'cuz|'nuff|'til|'till"
    "|(?:doin|goin|nothin|nuthin|somethin|havin|lovin|ol)'"
)
_WORD = r"[\p{L}\p{M}\p{N}]"
_PIECES = "|".join(
    (
        r"\n",
        rf"(?<!{_WORD})(?:{_APOSTROPHES})(?!{_WORD})",
        rf"(?<!{_WORD})(?:{_INITIALS}|(?:{_ABBREVIATED})\.(?![.\p{{L}}\p{{M}}\p{{N}}]))",
        rf"(?:n't|'(?:s|re|ve|ll|d|m))(?!{_WORD})",
        rf"(?<!{_WORD})(?:can(?=not(?!{_WORD}))|gon(?=na(?!{_WORD}))|got(?=ta(?!{_WORD})))",
        rf"{_WORD}+?(?=n't(?!{_WORD}))",
        r"\p{N}+(?:[.:]\p{N}+)+",
        rf"{_WORD}+(?:['.&@]{_WORD}+)*?(?=(?:n't|'(?:s|re|ve|ll|d|m))(?!{_WORD}))",
        rf"{_WORD}+(?:['.&@]{_WORD}+)*",
        r"\.{2,}|-+|~+|/+|\\+|=+",
        r"\S",
    )
)
STANDARDISED: Rules = (
    {
        "type": "Sequence",
        "normalizers": [
            {"type": "NFC"},
            _replace("[—–―]", "-"),
            _replace("…", "..."),
            _replace("[´‘’‚‛]", "'"),
            _replace("[“”„‟]", '"'),
            _replace(r"\s*\n\s*", "\n"),
            {"type": "Lowercase"},
        ],
    },
    {"type": "Split", "pattern": {"Regex": _PIECES}, "behavior": "Removed", "invert": True},
)


def from_vocabulary(
    vocab: Mapping[str, int], merges: Sequence[tuple[str, str]], rules: Rules, config: Mapping[str, Any]
) -> Tokenizer:
    """A tokenizer of GPT-1's form that splits text by ``rules``; ``config`` is a ``tokenizer_config.json`` to keep.

    Raises:
        ValueError: no ``<unk>`` or no line end in ``vocab``, or a merge of tokens it lacks.
    """
    for content in (GPT1_UNKNOWN, LINE_END):
        if content not in vocab:
            raise ValueError(f"{content!r} is not in the vocabulary")
    own = {"tokenizer_class": "OpenAIGPTTokenizer"} if rules == BASIC else {}
    return Tokenizer(layout.gpt1(vocab, merges, *rules), "gpt1", eot_token=LINE_END, config={**own, **config})


def from_files(vocabulary_file: Path, merges_file: Path, rules: Rules, config: Mapping[str, Any]) -> Tokenizer:
    """`from_vocabulary` of the two files.

    Raises:
        UserError: a file that is not what its name says.
    """
    vocab, merges = read_ids(vocabulary_file), read_merges(merges_file)
    try:
        return from_vocabulary(vocab, merges, rules, config)
    except ValueError as error:
        mend = "take both files from the same model"
        raise UserError(Problem(str(error), where=f"{vocabulary_file} + {merges_file.name}", mend=mend)) from error


def from_hub(reference: str) -> Tokenizer:
    """The vocabulary from the local hub cache, else downloaded into it (1.3 MB); the hub's name means the hub's rules.

    Raises:
        UserError: not in the cache, and ``huggingface_hub`` or the network is missing.
    """
    vocabulary_file, merges_file = PUBLISHED.fetch()
    return from_files(vocabulary_file, merges_file, STANDARDISED if reference == PUBLISHED.name else BASIC, {})


def is_gpt1(vocab: Mapping[str, int]) -> bool:
    """Whether a vocabulary is of GPT-1's form: words end in ``</w>``."""
    return GPT1_UNKNOWN in vocab and any(token.endswith(WORD_END) for token in vocab)
