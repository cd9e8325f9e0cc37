"""Tiny Shakespeare: a local copy, or one download that is checked."""

from __future__ import annotations

import urllib.error
import urllib.request
from hashlib import sha256
from pathlib import Path

from gptloom.config.errors import Problem, UserError
from gptloom.config.files import write_text

URL = "https://raw.githubusercontent.com/karpathy/char-rnn/master/data/tinyshakespeare/input.txt"
SHA256 = "86c4e6aa9db7c042ec79f339dcb96d42b0075e16b8fc2e86bf0ca57e2dc565ed"

_TIMEOUT_SECONDS = 10


def shakespeare_corpus(out: Path, local: Path | None = None) -> Path:
    """The path of ``out/shakespeare.txt``, 1,115,394 bytes: there already, copied from ``local``, or downloaded.

    UserError where ``local`` is missing or is another text, and where the download fails or brings another text.
    """
    kept = out / "shakespeare.txt"
    if local is None and kept.is_file() and _is_shakespeare(kept.read_bytes()):
        return kept
    text = _read(local) if local is not None else _download(kept)
    out.mkdir(parents=True, exist_ok=True)
    write_text(kept, text.decode("utf-8"))
    return kept


def _is_shakespeare(text: bytes) -> bool:
    return sha256(text).hexdigest() == SHA256


def _read(local: Path) -> bytes:
    if not local.is_file():
        raise UserError(Problem("there is no such file", str(local), f"download {URL} to it"))
    text = local.read_bytes()
    if not _is_shakespeare(text):
        raise UserError(
            Problem(
                f"this is not Tiny Shakespeare: sha256 is {sha256(text).hexdigest()}, expected {SHA256}",
                str(local),
                f"gptloom quickstart --corpus {local} to train on it as a text of your own",
            )
        )
    return text


def _download(kept: Path) -> bytes:
    try:
        with urllib.request.urlopen(URL, timeout=_TIMEOUT_SECONDS) as response:
            text: bytes = response.read()
    except (urllib.error.URLError, OSError) as error:
        raise UserError(
            Problem(f"could not download {URL}: {error}", mend=f"put the file at {kept} and start again")
        ) from error
    if not _is_shakespeare(text):
        raise UserError(
            Problem(
                f"{URL} now holds another text: sha256 is {sha256(text).hexdigest()}, expected {SHA256}",
                mend=f"put a copy of the 1,115,394-byte original at {kept} and start again",
            )
        )
    return text
