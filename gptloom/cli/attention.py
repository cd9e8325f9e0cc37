"""``gptloom attention``: a page that shows what each head of a model looks at in a text."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gptloom.cli.framework import Command
from gptloom.cli.output import Output
from gptloom.config.attention import AttentionOptions
from gptloom.config.errors import Problem, UserError
from gptloom.config.files import check_new_file
from gptloom.config.python import python_function
from gptloom.config.resolve import Resolved

if TYPE_CHECKING:
    from gptloom.generation.attention_text import SeenText


@dataclass(frozen=True)
class AttentionSeen:
    """The page that was written, and what it shows: ``seen.maps.weights`` is [layers, heads, words, words]."""

    path: Path
    seen: SeenText

    def as_dict(self) -> dict[str, Any]:
        """The same as JSON values."""
        return {"page": str(self.path), **self.seen.as_dict()}


def see_attention(resolved: Resolved[AttentionOptions]) -> AttentionSeen:
    """Writes a page about the attention of every layer and head in a text: an ``AttentionSeen`` with path and figures."""
    from gptloom.generation.attention_text import see
    from gptloom.interop.watched import open_watched
    from gptloom.observe.attention_page import write_attention_page
    from gptloom.train.precision import use_threads

    options = resolved.options
    out = Path(options.out)
    check_new_file(out, options.overwrite)
    use_threads(options.threads)
    watched, tokenizer, task = open_watched(options.model, device=options.device, untrained=options.untrained)
    seen = see(watched, tokenizer, options.text, options.second, task)
    try:
        write_attention_page(seen.page(options.model), out)
    except OSError as error:
        raise UserError(Problem(f"it can't be written: {error.strerror}", str(out), "another --out")) from None
    return AttentionSeen(out, seen)


def run_attention(resolved: Resolved[AttentionOptions], out: Output) -> None:
    """Writes a page that shows what each head of a model looks at in a text. Open it in a browser; it needs no network.

    Words linked by weight, a matrix for each layer and head, the table of scores, raw scores and sizes of a word, and
    what the model expects there: next words, words for a mask, or the classes of a fine-tuned model.
    """
    made = see_attention(resolved)
    layers, heads, words, _ = made.seen.maps.weights.shape
    out.say(f"{words} tokens, {layers} layers of {heads} heads")
    out.result(str(made.path))
    out.document(made.as_dict())


COMMANDS = {"attention": Command(AttentionOptions, run_attention)}
attention = python_function("attention", AttentionOptions, see_attention)
