"""GPT-2's own vocabulary, from its two published files or from the Hugging Face hub."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from gptloom.config.errors import Problem, UserError
from gptloom.tokenizer.layout import END_OF_TEXT, byte_level
from gptloom.tokenizer.tokenizer import Tokenizer

HUB_NAMES = ("gpt2", "openai-community/gpt2")  # the old name redirects; either may be the one in a hub cache
VOCABULARY_FILES = ("vocab.json", "encoder.json")  # the hub's name, OpenAI's name
MERGES_FILES = ("merges.txt", "vocab.bpe")

# `Tokenizer.hash` of the published vocabulary (50,257 entries, 50,000 merges) in the layout of `byte_level`.
GPT2_HASH = "d46b611bfd5158e30a7fa0e478d4f2455f982845ff2b0acf3fd8bf81e9876cfc"


def from_vocabulary(vocab: Mapping[str, int], merges: Sequence[tuple[str, str]]) -> Tokenizer:
    """A byte-level BPE as GPT-2 uses it; of kind ``gpt2`` if it is GPT-2's vocabulary to the last merge, else ``bpe``.

    Raises:
        ValueError: no ``<|endoftext|>`` in ``vocab``, or a merge of tokens it lacks.
    """
    if END_OF_TEXT not in vocab:
        raise ValueError(f"{END_OF_TEXT} is not in the vocabulary")
    tokenizer = Tokenizer(byte_level(vocab, merges, {END_OF_TEXT: vocab[END_OF_TEXT]}), "bpe")
    if tokenizer.hash == GPT2_HASH:
        tokenizer.kind = "gpt2"
    return tokenizer


def from_files(vocabulary_file: Path, merges_file: Path) -> Tokenizer:
    """`from_vocabulary` of ``vocab.json`` (or ``encoder.json``) and ``merges.txt`` (or ``vocab.bpe``).

    Raises:
        UserError: a file that is not what its name says.
    """
    vocab, merges = _read_vocabulary(vocabulary_file), _read_merges(merges_file)
    try:
        return from_vocabulary(vocab, merges)
    except ValueError as error:
        mend = "take both files from the same model"
        raise UserError(Problem(str(error), where=f"{vocabulary_file} + {merges_file.name}", mend=mend)) from error


def vocabulary_pair(folder: Path) -> tuple[Path | None, Path | None]:
    """The vocabulary and merges files of ``folder``, each None where it is missing."""
    vocabulary = next((folder / name for name in VOCABULARY_FILES if (folder / name).is_file()), None)
    merges = next((folder / name for name in MERGES_FILES if (folder / name).is_file()), None)
    return vocabulary, merges


def from_hub() -> Tokenizer:
    """GPT-2's vocabulary from the local hub cache, else downloaded into it (1.5 MB).

    Raises:
        UserError: not in the cache, and ``huggingface_hub`` or the network is missing.
    """
    try:
        import huggingface_hub  # an extra, and slow to import
    except ImportError as error:
        raise _unreachable('huggingface_hub is not installed: pip install "gptloom[hub]"') from error
    for name in HUB_NAMES:
        cached = [huggingface_hub.try_to_load_from_cache(name, file) for file in ("vocab.json", "merges.txt")]
        if all(isinstance(path, str) for path in cached):
            return from_files(Path(cached[0]), Path(cached[1]))
    try:
        downloaded = [huggingface_hub.hf_hub_download(HUB_NAMES[1], file) for file in ("vocab.json", "merges.txt")]
    except OSError as error:  # every failure of the hub's client is one: no network, offline mode, an HTTP status
        raise _unreachable(f"the hub did not answer: {str(error).splitlines()[0]}") from error
    return from_files(Path(downloaded[0]), Path(downloaded[1]))


def _unreachable(reason: str) -> UserError:
    files = "vocab.json and merges.txt from https://huggingface.co/openai-community/gpt2/tree/main"
    return UserError(
        Problem(
            f"GPT-2's vocabulary is not on this machine, and {reason}",
            where="tokenizer gpt2",
            mend=f"download {files} into one folder, such as gpt2/, and give --tokenizer gpt2/",
        )
    )


def _read_vocabulary(path: Path) -> dict[str, int]:
    try:
        vocab = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:  # not UTF-8 or not JSON
        raise UserError(Problem(f"not a JSON file: {error}", where=str(path), mend=_DOWNLOAD_AGAIN)) from error
    if not isinstance(vocab, dict) or not vocab or not all(isinstance(token_id, int) for token_id in vocab.values()):
        raise UserError(Problem('expected one JSON object, {"token": id, …}', where=str(path), mend=_DOWNLOAD_AGAIN))
    return vocab


def _read_merges(path: Path) -> list[tuple[str, str]]:
    try:
        lines = path.read_text(encoding="utf-8").split("\n")  # not splitlines: tokens may hold other line ends
    except UnicodeDecodeError as error:
        raise UserError(Problem(f"not UTF-8: {error}", where=str(path), mend=_DOWNLOAD_AGAIN)) from error
    merges = []
    for number, line in enumerate(lines, start=1):
        if not line or (number == 1 and line.startswith("#version")):
            continue
        pair = line.split(" ")
        if len(pair) != 2 or not all(pair):
            what = f"expected two tokens with one space between, found {line[:60]!r}"
            raise UserError(Problem(what, where=f"{path}:{number}", mend=_DOWNLOAD_AGAIN))
        merges.append((pair[0], pair[1]))
    return merges


_DOWNLOAD_AGAIN = "download the file again"
