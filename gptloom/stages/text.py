"""The text of a pretraining: surveyed, tokenized, and built into shards inside the run folder."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from gptloom.config.errors import Problem, UserError
from gptloom.config.pretrain import PretrainOptions
from gptloom.config.resolve import Resolved, idle
from gptloom.data.build import build_corpus
from gptloom.data.built import TrainingShards, check_tokenizer, load_built, names_shards, open_named_shards
from gptloom.data.corpus import Corpus, read_corpus
from gptloom.data.instruction_detection import refuse_instructions
from gptloom.data.split import TRAIN
from gptloom.tokenizer import Tokenizer
from gptloom.tokenizer.load import load_tokenizer
from gptloom.tokenizer.train import TRAINED_KINDS, train_tokenizer


@dataclass(frozen=True)
class Text:
    """What --data named: text that was read and split, or token shards that were built before."""

    corpus: Corpus | None
    shards: TrainingShards | None

    @property
    def rule(self) -> str:
        """How validation was held out, as a sentence."""
        if self.corpus is not None:
            return self.corpus.rule
        assert self.shards is not None
        return self.shards.rule

    @property
    def n_training_documents(self) -> int | None:
        """Documents to train on; None for token shards, which don't all tell."""
        if self.corpus is None:
            return None
        return sum(int((file.sides.sides == TRAIN).sum()) for file in self.corpus.files)

    def estimated_tokens(self, vocab_size: int) -> int:
        """Training tokens; for text not yet tokenized, from what a vocabulary of this size usually packs into one."""
        if self.shards is not None:
            return sum(int(shards.n_tokens * weight) for shards, weight in self.shards.train)
        assert self.corpus is not None
        bytes_per_token = 1.0 if vocab_size < 300 else min(4.4, 1.0 + 0.36 * (vocab_size / 256) ** 0.4)
        return int(self.corpus.n_train_bytes / bytes_per_token)


def check_reading(resolved: Resolved[PretrainOptions]) -> None:
    """UserError for every option about the text that the others make meaningless."""
    problems: list[Problem] = []
    if names_shards(resolved.options.data):
        reading = ("text_column", "document_separator", "encoding", "split", "valid_fraction")
        problems = idle(resolved, reading, "--data names token shards")
    elif resolved.options.valid:
        problems = idle(resolved, ("split", "valid_fraction"), "--valid says what is held out")
    elif resolved.options.split == "none":
        problems = idle(resolved, ("valid_fraction",), "--split none holds nothing out")
    if problems:
        raise UserError(*problems)


def read_text(options: PretrainOptions) -> Text:
    """Reads all of the text once. UserError with everything that is wrong in any file."""
    if names_shards(options.data):
        return Text(None, open_named_shards(options.data, options.valid))
    if options.text_column is None:
        refuse_instructions([*options.data, *options.valid])
    corpus = read_corpus(
        options.data,
        valid=options.valid,
        split=options.split,
        valid_fraction=options.valid_fraction,
        text_column=options.text_column,
        document_separator=options.document_separator,
        encoding=options.encoding,
    )
    return Text(corpus, None)


def choose_tokenizer(
    resolved: Resolved[PretrainOptions], text: Text, base: Path | None, kept: Path
) -> tuple[Tokenizer, Resolved[PretrainOptions]]:
    """The base's tokenizer, the one asked for, or one trained on the training part; ``kept`` is used where it exists."""
    options = resolved.options
    if kept.exists():
        return load_tokenizer(kept), resolved
    if base is not None:
        return load_tokenizer(base), resolved
    usual = "wordpiece" if options.objective == "masked" else "bpe"
    kind = options.tokenizer or usual
    if kind not in TRAINED_KINDS:
        if options.vocab_size is not None:
            what = "--vocab-size is for tokenizers trained here; this one has its own"
            raise UserError(Problem(what, f"--tokenizer {kind}", "leave it out"))
        return load_tokenizer(kind), resolved
    if text.corpus is None:
        what = "token shards need the tokenizer they were made with"
        raise UserError(Problem(what, mend="--tokenizer PATH (or gpt2)"))
    tokenizer = train_tokenizer(kind, text.corpus.iter_training_text(), options.vocab_size)
    if options.vocab_size is None and kind in ("bpe", "wordpiece"):
        rule = f"from {text.corpus.n_train_bytes / 1e6:.2f} MB of training text"
        resolved = resolved.derive("vocab_size", tokenizer.vocab_size, rule)
    return tokenizer, resolved


def open_shards_of(text: Text, tokenizer: Tokenizer, folder: Path) -> TrainingShards:
    """The token shards of a run: built into ``folder`` (going on where that was broken off), or those that were named."""
    if text.shards is not None:
        shards = text.shards
    else:
        assert text.corpus is not None
        shards = build_corpus(text.corpus, tokenizer, folder).open()
    for tokens, _ in shards.train:
        check_tokenizer(tokens, tokenizer)
    if shards.valid is not None:
        check_tokenizer(shards.valid, tokenizer)
    return shards


def reopen_shards(options: PretrainOptions, folder: Path) -> TrainingShards:
    """The shards of a run that has them already."""
    if names_shards(options.data):
        return open_named_shards(options.data, options.valid)
    return load_built(folder).open()
