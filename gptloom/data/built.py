"""A folder of built shards: its manifest, and what training opens. Foreign shards are opened to the same result."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

from gptloom.config.errors import Problem, UserError
from gptloom.config.files import write_text
from gptloom.data.inputs import split_weight
from gptloom.data.shards import TokenShards, open_shards
from gptloom.tokenizer import Tokenizer

MANIFEST = "manifest.json"


class ShardEntry(BaseModel):
    """One shard of a unit: its file below the folder, its ids, and the UTF-8 bytes of text behind them."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    file: str
    n_tokens: int
    n_bytes: int


class Unit(BaseModel):
    """What was built in one go: a shard a side, ``None`` where that side got no text."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    weight: float  # how often a pass over the data reads the training shard
    train: ShardEntry | None
    valid: ShardEntry | None

    def shards(self) -> list[ShardEntry]:
        """Those that exist."""
        return [entry for entry in (self.train, self.valid) if entry is not None]


class Manifest(BaseModel):
    """``manifest.json``: from what the shards were made, how far the building got, and what it yielded."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    version: int = 1
    inputs: str  # fingerprint of the files and options
    tokenizer: str  # sha256
    rule: str
    hash: str  # of the text, see Corpus.hash
    n_documents: int
    validates: bool  # whether validation was asked for
    finished: bool = False
    units: tuple[Unit, ...] = ()


@dataclass(frozen=True)
class TrainingShards:
    """Shards as training opens them."""

    train: list[tuple[TokenShards, float]]  # with weights
    valid: TokenShards | None
    rule: str


@dataclass(frozen=True)
class Built:
    """Finished shards on disk."""

    train: Path  # folders
    valid: Path | None  # None: no validation was asked for
    n_train_tokens: int  # each file counted once, whatever its weight
    n_valid_tokens: int
    n_train_bytes: int  # UTF-8 bytes of the text; end-of-text counts none
    n_valid_bytes: int
    n_documents: int
    rule: str
    hash: str  # identity of the text, its order and its split
    tokenizer_hash: str
    manifest: Manifest

    def open(self) -> TrainingShards:
        """Maps the shards, those of equal weight as one sequence."""
        by_weight: dict[float, list[Path]] = {}
        for unit in self.manifest.units:
            if unit.train is not None:
                by_weight.setdefault(unit.weight, []).append(self.train.parent / unit.train.file)
        train = [(open_shards(files), weight) for weight, files in by_weight.items()]
        valid = [self.train.parent / unit.valid.file for unit in self.manifest.units if unit.valid is not None]
        return TrainingShards(train, open_shards(valid) if valid else None, self.rule)


def read_manifest(folder: Path) -> Manifest | None:
    """The manifest of a folder, ``None`` where there is none; ``UserError`` when it is damaged or of a newer gptloom."""
    path = folder / MANIFEST
    if not path.exists():
        return None
    try:
        return Manifest.model_validate_json(path.read_text(encoding="utf-8"))
    except (ValidationError, UnicodeDecodeError):
        mend = "build the shards again: gptloom data build ... --overwrite"
        raise UserError(Problem("not a manifest this gptloom can read", where=str(path), mend=mend)) from None


def write_manifest(folder: Path, manifest: Manifest) -> None:
    """Writes ``manifest.json`` whole or not at all."""
    write_text(folder / MANIFEST, manifest.model_dump_json(indent=1) + "\n")


def load_built(folder: Path) -> Built:
    """The finished shards of a folder; ``UserError`` when there is no manifest, or the building was broken off."""
    manifest = read_manifest(folder)
    if manifest is None or not manifest.finished:
        state = "no manifest of built shards" if manifest is None else "the building of these shards was broken off"
        mend = f"gptloom data build --data TEXT --tokenizer TOKENIZER --out {folder}"
        raise UserError(Problem(state, where=str(folder), mend=mend))
    train = [unit.train for unit in manifest.units if unit.train is not None]
    valid = [unit.valid for unit in manifest.units if unit.valid is not None]
    return Built(
        train=folder / "train",
        valid=folder / "valid" if manifest.validates else None,
        n_train_tokens=sum(entry.n_tokens for entry in train),
        n_valid_tokens=sum(entry.n_tokens for entry in valid),
        n_train_bytes=sum(entry.n_bytes for entry in train),
        n_valid_bytes=sum(entry.n_bytes for entry in valid),
        n_documents=manifest.n_documents,
        rule=manifest.rule,
        hash=manifest.hash,
        tokenizer_hash=manifest.tokenizer,
        manifest=manifest,
    )


def names_shards(data: Sequence[str]) -> bool:
    """Whether ``--data`` names token shards instead of text: ``.bin`` files, or folders that hold some."""
    paths = [Path(split_weight(entry)[0]) for entry in data]
    return bool(paths) and all(_is_shards(path) for path in paths)


def _is_shards(path: Path) -> bool:
    if path.is_dir():
        return (path / MANIFEST).exists() or any(path.glob("*.bin"))
    return path.suffix == ".bin"


def open_named_shards(data: Sequence[str], valid: Sequence[str] = ()) -> TrainingShards:
    """Opens what ``names_shards`` recognised: folders of ``gptloom data build``, and shards of llm.c or nanoGPT.

    Validation is ``valid`` where given, else the files with ``val`` in their name (the custom of both projects).
    """
    train: list[tuple[TokenShards, float]] = []
    held_out: list[Path] = []
    rule = ""
    for entry in data:
        name, weight = split_weight(entry)
        path = Path(name)
        if (path / MANIFEST).exists():
            opened = load_built(path).open()
            train += [(shards, weight * own) for shards, own in opened.train]
            held_out += [shard.path for shard in opened.valid.shards] if opened.valid is not None else []
            rule = opened.rule
            continue
        files = sorted(path.glob("*.bin")) if path.is_dir() else [path]
        held_out += [file for file in files if "val" in file.name]
        if kept := [file for file in files if "val" not in file.name]:
            train.append((open_shards(kept), weight))
    if not train:
        raise UserError(Problem("no training shards, only files for validation", where=", ".join(data)))
    if valid:
        held_out, rule = [Path(name) for name in valid], "validation: the shards given by --valid"
    elif not rule:
        rule = "validation: the shards with val in their name" if held_out else "validation: none (no shard named val)"
    return TrainingShards(train, open_shards(held_out) if held_out else None, rule)


def check_enough(shards: TrainingShards, context: int, *, validates: bool = True) -> None:
    """Raises ``UserError`` when a training source is shorter than one window, or validation is empty though wanted."""
    problems = []
    for tokens, weight in shards.train:
        if tokens.n_tokens < context + 1:
            which = f" of weight {weight:g}" if len(shards.train) > 1 else ""
            problems.append(
                Problem(
                    f"the training text{which} has {tokens.n_tokens:,} tokens; one window of context {context:,} needs "
                    f"{context + 1:,}",
                    where="--data",
                    mend=f"more text, or --context {max(1, (tokens.n_tokens - 1) // 4)} or less",
                )
            )
    if not shards.train:
        problems.append(Problem("no training text", where="--data", mend="more text"))
    if validates and (shards.valid is None or shards.valid.n_tokens < 2):
        mend = "more text, --valid FILE, a larger --valid-fraction, or --split none to train without validation"
        problems.append(Problem("the validation text is empty", where=shards.rule, mend=mend))
    if problems:
        raise UserError(*problems)


def check_tokenizer(shards: TokenShards, tokenizer: Tokenizer) -> None:
    """Raises ``UserError`` when the shards were made by another tokenizer (by hash), or hold ids that it has not."""
    where = str(shards.shards[0].path.parent)
    if shards.tokenizer_hash is None:
        if (largest := shards.largest_id()) >= tokenizer.vocab_size:
            what = f"holds id {largest:,}, but the tokenizer has {tokenizer.vocab_size:,} ids"
            raise UserError(Problem(what, where=where, mend="the tokenizer of the shards (llm.c and nanoGPT: gpt2)"))
    elif shards.tokenizer_hash != tokenizer.hash:
        what = f"made by tokenizer {shards.tokenizer_hash[:12]}, not by this one, {tokenizer.hash[:12]}"
        raise UserError(Problem(what, where=where, mend="build them again with this tokenizer: gptloom data build"))
