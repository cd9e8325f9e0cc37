"""The conversations of an instruction tuning: read, weighed against each other, and split where nobody has split them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from gptloom.config.errors import Problem, UserError
from gptloom.config.sft import SftOptions
from gptloom.data.beginnings import Beginnings, answer_keys
from gptloom.data.conversation import Conversation
from gptloom.data.findings import counted, first_few
from gptloom.data.inputs import split_weight
from gptloom.data.instruction_formats import read_conversations
from gptloom.observe.terminal import say
from gptloom.stages.tuning.body import files_hash


@dataclass(frozen=True)
class Source:
    """The conversations of one file, and the weight that it was given: how often a pass takes each."""

    name: str
    conversations: list[Conversation]
    weight: float


@dataclass(frozen=True)
class SftData:
    """What is trained on, and what is held out of it: task -> conversations, a task being a file."""

    sources: list[Source]
    valid: dict[str, list[Conversation]]
    hash: str  # of the files' bytes, in order

    @property
    def train(self) -> list[Conversation]:
        """All that is trained on, each once."""
        return [conversation for source in self.sources for conversation in source.conversations]


def read_sft_data(options: SftOptions) -> SftData:
    """All rows of --data and --valid. Says what each file was taken for, and what is odd.

    Raises:
        UserError: every problem of every file at once; a held-out row that is also trained on is one.
    """
    files = [split_weight(entry) for entry in options.data]
    train_paths, valid_paths = [path for path, _ in files], list(options.valid)
    _check_named_once([*train_paths, *valid_paths])
    by_path = _read([*train_paths, *valid_paths], options.format)
    names = _names([*train_paths, *valid_paths])
    sources = [Source(names[path], by_path[path], weight) for path, weight in files]
    valid = {names[path]: by_path[path] for path in valid_paths}
    if valid:
        _check_apart(sources, valid)
    else:
        sources, valid = _hold_out(sources, options.valid_share)
        kept = sum(map(len, valid.values()))
        say(
            f"validation: {counted(kept, 'conversation')} held out, by a hash of how they begin: the same whatever the seed"
        )
    if not any(source.conversations for source in sources) or not any(valid.values()):
        trained = sum(len(source.conversations) for source in sources)
        what = f"{trained} conversations to train on and {sum(map(len, valid.values()))} held out"
        raise UserError(Problem(what, ", ".join(train_paths), "more rows, or --valid FILE"))
    sources = [source for source in sources if source.conversations]
    return SftData(sources, valid, files_hash([*train_paths, *valid_paths]))


def _check_named_once(paths: Sequence[str]) -> None:
    twice = [path for path, count in Counter(str(Path(path).resolve()) for path in paths).items() if count > 1]
    if twice:
        mend = "name it once; to read a file of --data twice: FILE@2"
        raise UserError(*(Problem("given twice", path, mend) for path in twice))


def _read(paths: Sequence[str], format: str | None) -> dict[str, list[Conversation]]:
    """The conversations of each file; UserError with what is wrong with any of them."""
    by_path: dict[str, list[Conversation]] = {}
    problems: list[Problem] = []
    for path in paths:
        try:
            found = read_conversations([path], format)
        except UserError as error:
            problems += error.problems
            continue
        for sentence in (*found.sentences, *found.warnings):
            say(sentence)
        by_path[path] = found.conversations
    if problems:
        raise UserError(*problems)
    return by_path


def _names(paths: Sequence[str]) -> dict[str, str]:
    """What each file is called in figures: its stem, or its whole path where two have the same."""
    stems = {path: Path(path).name.split(".")[0] for path in paths}
    often = Counter(stems.values())
    return {path: stem if often[stem] == 1 else path for path, stem in stems.items()}


def _hold_out(sources: Sequence[Source], share: float) -> tuple[list[Source], dict[str, list[Conversation]]]:
    """``share`` of the different beginnings of each file, at least one of two; equal beginnings stay together."""
    kept: list[Source] = []
    valid: dict[str, list[Conversation]] = {}
    held: set[int] = set()
    for source in sources:
        keys = sorted({_beginning(conversation) for conversation in source.conversations})
        if len(keys) > 1:
            held |= set(keys[: max(1, round(share * len(keys)))])
    for source in sources:
        sides: tuple[list[Conversation], list[Conversation]] = ([], [])
        for conversation in source.conversations:
            sides[_beginning(conversation) in held].append(conversation)
        kept.append(Source(source.name, sides[0], source.weight))
        if sides[1]:
            valid[source.name] = sides[1]
    return kept, valid


def _beginning(conversation: Conversation) -> int:
    """A hash of everything before the first answer; of that answer where nothing comes before."""
    return answer_keys(conversation)[0].prompt


def _check_apart(sources: Sequence[Source], valid: dict[str, list[Conversation]]) -> None:
    """UserError where a held-out prompt, or a whole exchange before it, is trained on: its loss would say nothing."""
    trained, held_out = Beginnings(), Beginnings()
    for row, conversation in enumerate(one for source in sources for one in source.conversations):
        trained.add(row, conversation)
    held = [one for conversations in valid.values() for one in conversations]
    for row, conversation in enumerate(held):
        held_out.add(row, conversation)
    leaks, _ = held_out.seen_in(trained)
    if len(leaks):
        what = f"{counted(len(leaks), 'held-out prompt')} also in --data"
        mend = "take them out of one of the files; gptloom data check FILE --valid FILE lists them"
        raise UserError(Problem(what, first_few([held[row].where for row in leaks]), mend))


def share_weights(sizes: Sequence[int], weights: Sequence[float], temperature: float | None) -> list[float]:
    """How often a pass takes each example of files of so many, so that the shares of the files go as size^(1/T).

    Raffel et al. 2020, section 3.5.2; a pass stays as long. ``weights``: how often without a temperature.
    """
    if temperature is None:
        return list(weights)
    counts = [weight * size for size, weight in zip(sizes, weights, strict=True)]
    flat = [count ** (1 / temperature) for count in counts]
    factor = sum(counts) / sum(flat)
    return [factor * own / size for size, own in zip(sizes, flat, strict=True)]
