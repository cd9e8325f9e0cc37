"""What the quickstart says between its trainings: the text, the yardsticks, the verdict, samples, answers."""

from __future__ import annotations

import textwrap
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

from gptloom.config.excerpt import beginning
from gptloom.evaluation.copying import WINDOW, Copying
from gptloom.evaluation.yardsticks import Yardstick
from gptloom.observe.numbers import human_time
from gptloom.observe.terminal import print_table, printable, say, terminal
from gptloom.stages.quickstart.accuracies import Accuracy, Row
from gptloom.stages.quickstart.corpus import QuickstartCorpus
from gptloom.stages.quickstart.examples import SHOTS, Score
from gptloom.stages.quickstart.form_and_content import Floats, Part
from gptloom.stages.quickstart.samples import TEMPERATURE, TOP_P, Sample

WIDTH = 80
TEXT_WIDTH = 92  # of a sample's line; longer ones are broken
MEANING_WIDTH = 118


def say_heading(text: str) -> None:
    """A line that begins a part."""
    say(f"\n── {text} ".ljust(WIDTH + 1, "─"))


def say_text(text: str, most_lines: int | None = None) -> None:
    """A sample: long lines broken, what does not print (an untrained model writes any byte) as a replacement mark."""
    lines = [
        line[start : start + TEXT_WIDTH]
        for line in text.rstrip("\n").split("\n")
        for start in range(0, max(1, len(line)), TEXT_WIDTH)
    ]
    for line in lines[:most_lines]:
        say("  │ " + printable(line))
    if most_lines is not None and len(lines) > most_lines:
        say("  │ …")


def say_corpus(corpus: QuickstartCorpus) -> None:
    """Which text this is, and by which hash its figures go."""
    say(f"trained on  {corpus.title}")
    say(f"held out    {corpus.held_out}")
    say(f"corpus      {corpus.hash[:12]} in {corpus.train.parent}; figures compare only within one hash")
    for note in corpus.notes:
        say(f"note        {note}")


def say_yardsticks(yardsticks: Sequence[Yardstick]) -> None:
    """What each yardstick is and reaches."""
    say("\nbits per byte of the held-out text, for methods without a network that read the same training text:")
    for yardstick in yardsticks:
        say(f"  {yardstick.bits_per_byte:.2f}  {yardstick.name:<14}{yardstick.meaning}")


def say_verdict(bits_per_byte: float, yardsticks: Sequence[Yardstick], corpus: QuickstartCorpus) -> None:
    """The model among the yardsticks, best first, whichever that is."""
    say_heading("against the yardsticks")
    rows = [(y.bits_per_byte, y.name, _against(bits_per_byte, y)) for y in yardsticks]
    rows.append((bits_per_byte, "this model", ""))
    _say_table(
        ("bits per byte", "", "the model is"), [(f"{bits:.3f}", name, verdict) for bits, name, verdict in sorted(rows)]
    )
    say(f"all of the held-out text, corpus {corpus.hash[:12]}; fewer bits are better")


def _against(bits_per_byte: float, yardstick: Yardstick) -> str:
    distance = bits_per_byte / yardstick.bits_per_byte - 1
    return f"{abs(distance):.0%} {'better' if distance < 0 else 'worse: not beaten'}"


def say_samples(samples: Sequence[Sample], copied: Copying, usual: Copying, kept: Path, *, invented: bool) -> None:
    """One sample, what samples are, and how much of them is copied, beside held-out text written by people."""
    say_heading("what it writes")
    shown = next((sample for sample in samples if sample.prompt), samples[0])
    say_text(shown.prompt + shown.text)
    if invented:
        say("\nInvented manual pages: it learned their form, not facts. No such module or method need exist.")
    else:
        say("\nInvented text: it learned the form, not facts.")
    tokens = sum(sample.tokens for sample in samples)
    how = f"at temperature {TEMPERATURE} and top-p {TOP_P}"
    say(f"{len(samples)} samples of {tokens:,} tokens together, {how}, are in {kept}:")
    _say_table(
        ("", "its samples", "held-out text"),
        [
            ("words that the training text has", f"{copied.known_words:.0%}", f"{usual.known_words:.0%}"),
            (f"copied windows of {WINDOW} characters", f"{copied.copied_windows:.1%}", f"{usual.copied_windows:.1%}"),
            ("longest passage copied, in characters", len(copied.longest), len(usual.longest)),
        ],
        right=("its samples", "held-out text"),
    )
    if copied.longest:
        say("the longest passage copied word for word:")
        say_text(copied.longest.strip("\n"), most_lines=6)


def say_scores(scores: Sequence[Score]) -> None:
    """Right answers by kind of question and number of demonstrations."""
    say_heading("what it can answer")
    say("Interactive examples with operands, words and functions held out of training; right to the letter.")
    shots = [f"{count} shots" if count != 1 else "1 shot" for count in SHOTS]
    rows = [
        (score.kind, score.questions, *(f"{score.right[str(count)]:.0%}" for count in SHOTS), f"{score.commonest:.0%}")
        for score in scores
    ]
    header = ("kind", "asked", *shots, "always the commonest answer")
    _say_table(header, rows, right=header[1:])


def say_accuracies(found: Sequence[Accuracy], train: Sequence[Row], held_out: Sequence[Row], unread: int) -> None:
    """How often each way tells the family of a held-out docstring right. ``unread``: docstrings that the base never read."""
    say_heading("which module family is a docstring from?")
    families = len({row.family for row in train})
    modules = len({row.module for row in held_out})
    say(
        f"{len(train):,} docstrings of {families} families to learn from, {len(held_out):,} of {modules} other modules held"
    )
    say("out. Each goes without its heading and without the name of its module.")
    header = ("", "right", "95 %", "never read", "training")
    _say_table(header, [_accuracy_row(accuracy) for accuracy in found], right=header[1:])
    say(
        f"never read: the {unread:,} docstrings whose modules are held out of pretraining, too; the others the base has"
    )
    say("read, without being told their family.")


def _accuracy_row(accuracy: Accuracy) -> tuple[str, ...]:
    return (
        accuracy.name,
        f"{accuracy.share:.1%}",
        f"{accuracy.low:.1%} to {accuracy.high:.1%}",
        f"{accuracy.unread:.1%}" if accuracy.unread is not None else "",
        human_time(accuracy.seconds) if accuracy.seconds is not None else "",
    )


PARTS = {
    "read": "names in modules that it has read",
    "unread": "names in modules that it never read",
    "arithmetic": "operands that it never read",
}


def say_instructed(samples: Sequence[Mapping[str, str]], parts: Mapping[str, Part], meaning: str) -> None:
    """A question of each part with the answers before and after; form, then content; what that means."""
    say_heading("before and after")
    for sample in samples:
        say(f"\n{sample['question']}")
        for who, said in (("before", sample["base"]), ("after", sample["tuned"]), ("right", sample["right"])):
            line = printable(" ".join(said.split()))
            say(f"  {who:<8}{beginning(line, TEXT_WIDTH)}")
    say_heading("form and content")
    say(
        "Nothing that is asked was answered in the tuning. In form: the answer ends by itself, and is one sentence; of a"
    )
    say("result, one number.")
    of_form = ("in form", "asked", "before", "after")
    rows = [(PARTS[name], part.asked, _share(part.base_form), _share(part.form)) for name, part in parts.items()]
    _say_table(of_form, rows, right=of_form[1:])
    say(
        "\nWords in common with the docstring's sentence (F1); of results, how many are right. Beside them what another"
    )
    say("answer would get: one of the training (of results the commonest), or its own to another question.")
    of_content = ("content", "before", "after", "95 %", "of the training", "to another")
    _say_table(of_content, [_content_row(PARTS[name], part) for name, part in parts.items()], right=of_content[1:])
    say("\n" + textwrap.fill(meaning, MEANING_WIDTH))


def _content_row(name: str, part: Part) -> tuple[str, ...]:
    low, high = part.interval
    shares = (_share(figures) for figures in (part.base_score, part.score))
    return (name, *shares, f"{low:.0%} to {high:.0%}", _share(part.chance), _share(part.swapped))


def _share(figures: Floats) -> str:
    return f"{figures.mean():.0%}"


def _say_table(headers: Sequence[str], rows: Sequence[Sequence[object]], right: Collection[str] = ()) -> None:
    """A table among the messages."""
    if terminal.quiet:
        return
    terminal.end_live()
    print_table(headers, rows, right=right, file=terminal.stream)
