"""`load_tokenizer`: whatever names a tokenizer, opened, or refused with the reason."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from gptloom.config.errors import Problem, UserError, nearest
from gptloom.tokenizer import bert, gpt1, gpt2
from gptloom.tokenizer.hub import named
from gptloom.tokenizer.kinds import guess_kind
from gptloom.tokenizer.layout import END_OF_TEXT, LINE_END, SEP
from gptloom.tokenizer.roles import with_roles
from gptloom.tokenizer.tokenizer import CONFIG_FILE, KINDS, TOKENIZER_FILE, Tokenizer, spelling
from gptloom.tokenizer.train import TRAINED_KINDS
from gptloom.tokenizer.vocabulary import read_ids

_PICKLES = (".pkl", ".pickle", ".pt", ".pth", ".bin", ".ckpt")
_TRAIN = "gptloom tokenizer train --data FILE --out tok/"
_AGAIN = "save or download the tokenizer again"
_CONVERT = (
    "python -c \"from transformers import AutoTokenizer; AutoTokenizer.from_pretrained('{}').save_pretrained('tok')\""
)
_NAMES = ("gpt2", "gpt1", *(published.name for published in bert.PUBLISHED))


def load_tokenizer(reference: str | Path) -> Tokenizer:
    """Open a tokenizer.

    Args:
        reference: a folder with ``tokenizer.json`` (a model's, a saved tokenizer's), with ``vocab.json`` and
            ``merges.txt`` (GPT-2's or GPT-1's; or OpenAI's names of them), with ``vocab.txt`` (BERT's), or with a folder
            ``tokenizer`` (a run's); one such file; or ``gpt2``, ``gpt1``, ``bert``, ``bert-cased`` or the hub's names of
            them. An existing path wins over the name.

    Raises:
        UserError: nothing there, a format that is not read (pickles, SentencePiece), or a damaged file.
    """
    path = Path(reference)
    if path.is_dir():
        return _from_folder(path)
    if path.is_file():
        return _from_file(path)
    name = str(reference)
    if named([gpt2.GPT2], name):
        return gpt2.from_hub()
    if named([gpt1.PUBLISHED], name):
        return gpt1.from_hub(name)
    if published := named(bert.PUBLISHED, name):
        return bert.from_hub(published)
    raise UserError(_unknown(name))


def _unknown(name: str) -> Problem:
    if name in TRAINED_KINDS:
        what = f'"{name}" is a kind of tokenizer that is trained on a text, not one that can be opened'
        return Problem(what, mend=f"gptloom tokenizer train --kind {name} --data FILE --out tok/")
    if Path(name).parent != Path() or Path(name).suffix:
        return Problem("no such file or folder", where=name, mend=_TRAIN)
    what = f'no folder, file or known tokenizer is called "{name}"'
    return Problem(what, mend=f"{nearest(name, [*_NAMES, *TRAINED_KINDS])} Or give the path of a saved tokenizer")


def _from_folder(folder: Path) -> Tokenizer:
    if (folder / TOKENIZER_FILE).is_file():
        return _from_json(folder / TOKENIZER_FILE)
    vocabulary, merges = vocabulary_pair(folder)
    if vocabulary and merges:
        return _from_pair(vocabulary, merges)
    if wordpieces := _word_pieces(folder):
        return bert.from_vocab_file(wordpieces, _read_config(folder))
    if (folder / "tokenizer").is_dir():
        return _from_folder(folder / "tokenizer")
    if vocabulary or merges:
        present, missing = (vocabulary, MERGES_FILES) if vocabulary else (merges, VOCABULARY_FILES)
        assert present is not None
        what = f"holds {present.name} but neither {missing[0]} nor {missing[1]}"
        raise UserError(Problem(what, where=str(folder), mend=f"put {missing[0]} of the same model beside it"))
    for file in sorted(folder.iterdir()):
        if file.is_file() and (problem := _refused(file)):
            raise UserError(problem)
    what = f"holds no tokenizer: neither {TOKENIZER_FILE} nor vocab.json + merges.txt nor vocab.txt"
    raise UserError(Problem(what, where=str(folder), mend=_TRAIN))


def _from_file(path: Path) -> Tokenizer:
    if path.name in VOCABULARY_FILES + MERGES_FILES:
        return _from_half_of_pair(path)
    if problem := _refused(path):
        raise UserError(problem)
    if path.suffix == ".txt":
        return bert.from_vocab_file(path, _read_config(path.parent))
    return _from_json(path)


def _word_pieces(folder: Path) -> Path | None:
    """The one file ``vocab.txt`` of a folder; older downloads put the model's name in front of its name."""
    if (folder / bert.VOCAB_FILE).is_file():
        return folder / bert.VOCAB_FILE
    found = sorted(folder.glob(f"*-{bert.VOCAB_FILE}"))
    return found[0] if len(found) == 1 else None


# ---- a vocabulary and its merges -----------------------------------------------------------------------------------

VOCABULARY_FILES = ("vocab.json", "encoder.json", gpt1.VOCABULARY_FILE)  # the hub's name, OpenAI's names
MERGES_FILES = ("merges.txt", "vocab.bpe", gpt1.MERGES_FILE)


def vocabulary_pair(folder: Path) -> tuple[Path | None, Path | None]:
    """The vocabulary and merges files of ``folder``, each None where it is missing."""
    vocabulary = next((folder / name for name in VOCABULARY_FILES if (folder / name).is_file()), None)
    merges = next((folder / name for name in MERGES_FILES if (folder / name).is_file()), None)
    return vocabulary, merges


def _from_half_of_pair(path: Path) -> Tokenizer:
    vocabulary, merges = vocabulary_pair(path.parent)
    if vocabulary and merges:
        return _from_pair(
            path if path.name in VOCABULARY_FILES else vocabulary, path if path.name in MERGES_FILES else merges
        )
    missing = VOCABULARY_FILES if merges else MERGES_FILES
    what = f"is one half of a vocabulary; {missing[0]} (or {missing[1]}) is not beside it"
    raise UserError(Problem(what, where=str(path), mend=f"put {missing[0]} of the same model into {path.parent}"))


def _from_pair(vocabulary: Path, merges: Path) -> Tokenizer:
    """GPT-1's or GPT-2's; OpenAI's own names of GPT-1's files mean the paper's rules for splitting text."""
    added = vocabulary.with_name("added_tokens.json")
    if added.is_file():
        what = "adds tokens to the vocabulary without saying how they are told in a text"
        raise UserError(Problem(what, where=str(added), mend=_CONVERT.format(vocabulary.parent)))
    config = _read_config(vocabulary.parent)
    if gpt1.is_gpt1(read_ids(vocabulary)):
        rules = gpt1.STANDARDISED if vocabulary.name == gpt1.VOCABULARY_FILE else gpt1.BASIC
        return gpt1.from_files(vocabulary, merges, rules, config)
    return gpt2.from_files(vocabulary, merges, config)


# ---- refusals ------------------------------------------------------------------------------------------------------


def _refused(path: Path) -> Problem | None:
    """Why this file is not read as a tokenizer, where its name or first byte already says so."""
    with path.open("rb") as file:
        start = file.read(1)
    if path.suffix in _PICKLES or start == b"\x80":
        what = "is a pickle, which can run any program when it is opened; gptloom never opens one"
        return Problem(what, where=str(path), mend="save the tokenizer as tokenizer.json in the program that made it")
    if path.suffix in (".model", ".spm"):
        what = "is a SentencePiece model, which is not read"
        return Problem(what, where=str(path), mend=f"{_CONVERT.format(path.parent)}, then give tok/")
    if path.suffix == ".tiktoken":
        what = "is a tiktoken rank file, which does not say how it splits text nor its special tokens"
        return Problem(what, where=str(path), mend="take the model's tokenizer.json instead")
    return None


# ---- tokenizer.json ------------------------------------------------------------------------------------------------


def _from_json(path: Path) -> Tokenizer:
    settings = _read_json(path)
    if not isinstance(settings.get("model"), dict):
        raise UserError(Problem('has no "model": not a tokenizer.json', where=str(path), mend=_TRAIN))
    config = _read_config(path.parent)
    kind = config.pop("gptloom_kind", None)
    if kind is not None and kind not in KINDS:
        where = str(path.with_name(CONFIG_FILE))
        raise UserError(Problem(f'gptloom_kind "{kind}" is unknown', where=where, mend=nearest(str(kind), KINDS)))
    try:
        kind = kind or guess_kind(settings)
        if kind in ("bpe", "gpt2") and _is_published_gpt2_size(settings):
            # However it was written down, GPT-2's vocabulary is one tokenizer and has one hash.
            model = settings["model"]
            candidate = gpt2.from_vocabulary(model["vocab"], _merge_pairs(model["merges"]), config)
            if candidate.kind == "gpt2":
                return candidate
        if kind in ("bpe", "other"):
            config = with_roles(settings, config)
        if kind == "wordpiece" and (settings.get("normalizer") or {}).get("type") == "BertNormalizer":
            settings["normalizer"] = bert.configured(settings["normalizer"], config)
            config = {**bert.saved_options(settings["normalizer"]), **config}
        return Tokenizer(settings, kind, eot_token=_eot_token(path, kind, settings, config), config=config)
    except ValueError as error:
        raise UserError(Problem(str(error), where=str(path), mend=_AGAIN)) from error
    except (TypeError, LookupError, AttributeError) as error:  # an entry of another shape than the format's
        what = f"damaged: {type(error).__name__}: {error}"
        raise UserError(Problem(what, where=str(path), mend=_AGAIN)) from error


def _is_published_gpt2_size(settings: dict[str, Any]) -> bool:
    model = settings["model"]
    return len(settings.get("added_tokens", ())) <= 1 and len(model["vocab"]) == 50257 and len(model["merges"]) == 50000


def _merge_pairs(merges: list[Any]) -> list[tuple[str, str]]:
    """Merges as pairs: older files write ``"a b"``, newer ones ``["a", "b"]``."""
    pairs = [merge.split(" ") if isinstance(merge, str) else merge for merge in merges]
    return [(left, right) for left, right in pairs]


def _eot_token(path: Path, kind: str, settings: dict[str, Any], config: dict[str, Any]) -> str:
    """``<|endoftext|>`` where the vocabulary has it, else what ``tokenizer_config.json`` calls ``eos_token``.

    Without either BERT's ``[SEP]`` and GPT-1's line end.
    """
    vocab = settings["model"].get("vocab", {})
    tokens = vocab if isinstance(vocab, dict) else (entry[0] for entry in vocab)  # Unigram: [token, score]
    known = {*tokens, *(token["content"] for token in settings.get("added_tokens", ()))}
    usual = {"wordpiece": spelling(config.get("sep_token")) or SEP, "gpt1": LINE_END}.get(kind)
    token = END_OF_TEXT if END_OF_TEXT in known else spelling(config.get("eos_token")) or usual
    if not token:
        what = f"has no {END_OF_TEXT} and its {CONFIG_FILE} names no eos_token: documents could not be told apart"
        raise UserError(Problem(what, where=str(path), mend=f'name one in {CONFIG_FILE}, as {{"eos_token": "</s>"}}'))
    return token


def _read_config(folder: Path) -> dict[str, Any]:
    """What a folder says about its tokenizer beside the vocabulary: ``tokenizer_config.json``, completed.

    Special tokens that only ``special_tokens_map.json`` names, and the chat template where it is a file of its own,
    are put where `Tokenizer.save` writes them.
    """
    config = _read_json(folder / CONFIG_FILE) if (folder / CONFIG_FILE).is_file() else {}
    if (folder / "special_tokens_map.json").is_file():
        config = {**_read_json(folder / "special_tokens_map.json"), **config}
    if (folder / "chat_template.jinja").is_file():
        config["chat_template"] = (folder / "chat_template.jinja").read_text(encoding="utf-8")
    return {key: _as_transformers_reads(value) for key, value in config.items()}


def _as_transformers_reads(value: Any) -> Any:
    """Tokens by their spelling where they are described without the type that ``tokenizer_config.json`` asks for."""
    if isinstance(value, list):
        return [_as_transformers_reads(one) for one in value]
    described = isinstance(value, dict) and "content" in value and "__type" not in value
    return value["content"] if described else value


def _read_json(path: Path) -> dict[str, Any]:
    try:
        settings = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise UserError(Problem(f"not a JSON file: {error}", where=str(path), mend=_AGAIN)) from error
    if not isinstance(settings, dict):
        raise UserError(Problem("expected one JSON object", where=str(path), mend="give a tokenizer.json"))
    return settings
