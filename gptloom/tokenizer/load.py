"""`load_tokenizer`: whatever names a tokenizer, opened, or refused with the reason."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from gptloom.config.errors import Problem, UserError, nearest
from gptloom.tokenizer import gpt2
from gptloom.tokenizer.layout import END_OF_TEXT, WORD_PATTERN
from gptloom.tokenizer.tokenizer import CONFIG_FILE, KINDS, TOKENIZER_FILE, Tokenizer
from gptloom.tokenizer.train import TRAINED_KINDS

_PICKLES = (".pkl", ".pickle", ".pt", ".pth", ".bin", ".ckpt")
_TRAIN = "gptloom tokenizer train --data FILE --out tok/"


def load_tokenizer(reference: str | Path) -> Tokenizer:
    """Open a tokenizer.

    Args:
        reference: a folder with ``tokenizer.json`` (a model's, a saved tokenizer's), with ``vocab.json`` and
            ``merges.txt`` (or ``encoder.json`` and ``vocab.bpe``), or with a folder ``tokenizer`` (a run's); one such
            file; or ``gpt2``. An existing path wins over the name.

    Raises:
        UserError: nothing there, a format that is not read (pickles, SentencePiece), or a damaged file.
    """
    path = Path(reference)
    if path.is_dir():
        return _from_folder(path)
    if path.is_file():
        return _from_file(path)
    if str(reference) in gpt2.HUB_NAMES:
        return gpt2.from_hub()
    raise UserError(_unknown(str(reference)))


def _unknown(name: str) -> Problem:
    if name in TRAINED_KINDS:
        what = f'"{name}" is a kind of tokenizer that is trained on a text, not one that can be opened'
        return Problem(what, mend=f"gptloom tokenizer train --kind {name} --data FILE --out tok/")
    if Path(name).parent != Path() or Path(name).suffix:
        return Problem("no such file or folder", where=name, mend=_TRAIN)
    what = f'no folder, file or known tokenizer is called "{name}"'
    return Problem(what, mend=f"{nearest(name, ['gpt2', *TRAINED_KINDS])} Or give the path of a saved tokenizer")


def _from_folder(folder: Path) -> Tokenizer:
    if (folder / TOKENIZER_FILE).is_file():
        return _from_json(folder / TOKENIZER_FILE)
    vocabulary, merges = gpt2.vocabulary_pair(folder)
    if vocabulary and merges:
        return gpt2.from_files(vocabulary, merges)
    if (folder / "tokenizer").is_dir():
        return _from_folder(folder / "tokenizer")
    if vocabulary or merges:
        present, missing = (vocabulary, gpt2.MERGES_FILES) if vocabulary else (merges, gpt2.VOCABULARY_FILES)
        assert present is not None
        what = f"holds {present.name} but neither {missing[0]} nor {missing[1]}"
        raise UserError(Problem(what, where=str(folder), mend=f"put {missing[0]} of the same model beside it"))
    for file in sorted(folder.iterdir()):
        if file.is_file() and (problem := _refused(file)):
            raise UserError(problem)
    what = f"holds no tokenizer: neither {TOKENIZER_FILE} nor vocab.json + merges.txt"
    raise UserError(Problem(what, where=str(folder), mend=_TRAIN))


def _from_file(path: Path) -> Tokenizer:
    if path.name in gpt2.VOCABULARY_FILES + gpt2.MERGES_FILES:
        return _from_folder_pair(path)
    if problem := _refused(path):
        raise UserError(problem)
    return _from_json(path)


def _from_folder_pair(path: Path) -> Tokenizer:
    vocabulary, merges = gpt2.vocabulary_pair(path.parent)
    if vocabulary and merges:
        return gpt2.from_files(
            path if path.name in gpt2.VOCABULARY_FILES else vocabulary,
            path if path.name in gpt2.MERGES_FILES else merges,
        )
    missing = gpt2.VOCABULARY_FILES if merges else gpt2.MERGES_FILES
    what = f"is one half of a vocabulary; {missing[0]} (or {missing[1]}) is not beside it"
    raise UserError(Problem(what, where=str(path), mend=f"put {missing[0]} of the same model into {path.parent}"))


def _refused(path: Path) -> Problem | None:
    """Why this file is not read as a tokenizer, where its name or first byte already says so."""
    with path.open("rb") as file:
        start = file.read(1)
    if path.suffix in _PICKLES or start == b"\x80":
        what = "is a pickle, which can run any program when it is opened; gptloom never opens one"
        return Problem(what, where=str(path), mend="save the tokenizer as tokenizer.json in the program that made it")
    if path.suffix in (".model", ".spm"):
        what = "is a SentencePiece model, which is not read"
        mend = "convert it: transformers.AutoTokenizer.from_pretrained(FOLDER).save_pretrained(OUT), then give OUT"
        return Problem(what, where=str(path), mend=mend)
    if path.suffix == ".tiktoken":
        what = "is a tiktoken rank file, which does not say how it splits text nor its special tokens"
        return Problem(what, where=str(path), mend="take the model's tokenizer.json instead")
    return None


def _from_json(path: Path) -> Tokenizer:
    settings = _read_json(path)
    if not isinstance(settings.get("model"), dict):
        raise UserError(Problem('has no "model": not a tokenizer.json', where=str(path), mend=_TRAIN))
    config_path = path.with_name(CONFIG_FILE)
    config = _read_json(config_path) if config_path.is_file() else {}
    kind = config.get("gptloom_kind") or guess_kind(settings)
    if kind not in KINDS:
        raise UserError(Problem(f'gptloom_kind "{kind}" is unknown', where=str(config_path), mend=nearest(kind, KINDS)))
    try:
        if kind in ("bpe", "gpt2") and _is_published_gpt2_size(settings):
            # However it was written down, GPT-2's vocabulary is one tokenizer and has one hash.
            model = settings["model"]
            candidate = gpt2.from_vocabulary(model["vocab"], _merge_pairs(model["merges"]))
            if candidate.kind == "gpt2":
                return candidate
        return Tokenizer(settings, kind, eot_token=_eot_token(path, settings, config), config=config)
    except ValueError as error:
        raise UserError(Problem(str(error), where=str(path), mend="save or download the tokenizer again")) from error


def guess_kind(settings: dict[str, Any]) -> str:
    """The kind of a ``tokenizer.json`` that does not say: one of ours where it encodes the same, else ``other``."""
    model, split = settings["model"], settings.get("pre_tokenizer") or {}
    decoder = (settings.get("decoder") or {}).get("type")
    special_only = all(token.get("special") for token in settings.get("added_tokens", ()))
    if settings.get("normalizer") or not special_only:
        return "other"
    if model.get("type") == "WordLevel" and split.get("pattern") == {"Regex": WORD_PATTERN} and decoder == "Fuse":
        return "words"
    if model.get("type") != "BPE":
        return "other"
    if not split and not model["merges"] and decoder == "Fuse":
        return "characters"
    if split.get("type") != "ByteLevel" or split.get("add_prefix_space") or decoder != "ByteLevel":
        return "other"
    if split.get("use_regex", True):
        return "bpe"
    return "other" if model["merges"] else "bytes"


def _is_published_gpt2_size(settings: dict[str, Any]) -> bool:
    model = settings["model"]
    return len(settings.get("added_tokens", ())) <= 1 and len(model["vocab"]) == 50257 and len(model["merges"]) == 50000


def _merge_pairs(merges: list[Any]) -> list[tuple[str, str]]:
    """Merges as pairs: older files write ``"a b"``, newer ones ``["a", "b"]``."""
    pairs = [merge.split(" ") if isinstance(merge, str) else merge for merge in merges]
    return [(left, right) for left, right in pairs]


def _eot_token(path: Path, settings: dict[str, Any], config: dict[str, Any]) -> str:
    """``<|endoftext|>`` where the vocabulary has it, else what ``tokenizer_config.json`` calls ``eos_token``."""
    vocab = settings["model"].get("vocab", {})
    if END_OF_TEXT in vocab or any(token["content"] == END_OF_TEXT for token in settings.get("added_tokens", ())):
        return END_OF_TEXT
    named = config.get("eos_token")
    token = named.get("content") if isinstance(named, dict) else named
    if not token:
        what = f"has no {END_OF_TEXT} and its {CONFIG_FILE} names no eos_token: documents could not be told apart"
        raise UserError(Problem(what, where=str(path), mend=f'name one in {CONFIG_FILE}, as {{"eos_token": "</s>"}}'))
    return str(token)


def _read_json(path: Path) -> dict[str, Any]:
    try:
        settings = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        mend = "save or download the tokenizer again"
        raise UserError(Problem(f"not a JSON file: {error}", where=str(path), mend=mend)) from error
    if not isinstance(settings, dict):
        raise UserError(Problem("expected one JSON object", where=str(path), mend="give a tokenizer.json"))
    return settings
