"""Which template renders the conversations: the one that BASE knows, the one asked for, or one that fits data and method."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import get_args

from gptloom.config.chat import ChatFormat, Template
from gptloom.config.errors import Problem, UserError, nearest
from gptloom.config.sft import SftOptions
from gptloom.data.conversation import Conversation
from gptloom.data.separators import separator_of, stop_of
from gptloom.data.templates import built_in, from_file, needs_tokens, own_format
from gptloom.observe.terminal import say
from gptloom.tokenizer import Tokenizer


def choose_template(
    options: SftOptions, tokenizer: Tokenizer, taught: ChatFormat | None, data: Sequence[Conversation], *, embeds: bool
) -> tuple[ChatFormat, Tokenizer]:
    """The format, and the tokenizer with the special tokens that it needs.

    Args:
        taught: what BASE was tuned with.
        embeds: whether embeddings are trained, so that new tokens can learn what they mean.

    Raises:
        UserError: another template than BASE was taught without --yes; tokens that could not be learned; no such template.
    """
    known = taught or own_format(tokenizer)
    name, why = _name(options, known, data, embeds)
    separator, stop = _borders(data) if name == "plain" else ("", "")
    if known is not None and _is_taught(options, name, known, separator, stop):
        chosen, result = known, tokenizer
    elif name in get_args(Template):
        if name == "tokenizer":
            mend = "another --template, or none"
            raise UserError(
                Problem("--template tokenizer: the tokenizer of BASE has no chat template", options.base, mend)
            )
        chosen, result = built_in(name, tokenizer, separator=separator, stop=stop)
        _check_tokens(name, tokenizer, result, embeds)
    elif Path(name).is_file():
        chosen, result = from_file(name, tokenizer), tokenizer
    else:
        raise UserError(
            Problem(f"--template {name}: no template or file is called so", mend=nearest(name, get_args(Template)))
        )
    if known is not None and chosen != known and not options.yes:
        raise UserError(_unlearning(options, name, chosen, known))
    say(f"template {chosen.template}: {why}")
    if chosen.template != "plain" and (written := _written_out(data)):
        say(
            f"note: all prompts of {', '.join(written)} end in a separator or a template of their own, and stand inside "
            "this one as they are; gptloom data show FILE --stage sft shows it"
        )
    return chosen, result


def _is_taught(options: SftOptions, name: str, known: ChatFormat, separator: str, stop: str) -> bool:
    """Whether BASE is rendered for as it was taught; a file that is asked for may hold another text by now."""
    if name != known.template:
        return False
    if name == "plain":
        return (known.separator, known.stop) == (separator, stop)
    return options.template is None or name in get_args(Template) or not Path(name).is_file()


def _unlearning(options: SftOptions, name: str, chosen: ChatFormat, known: ChatFormat) -> Problem:
    """What BASE would have to unlearn."""
    what = f"template {name}: BASE was taught {known.template}, and would have to unlearn it"
    mend = f"leave it out, or --template {known.template}; --yes does it all the same"
    if chosen.template == known.template == "plain":
        what = (
            f"prompts end in {chosen.separator!r} and completions in {chosen.stop!r}; BASE was taught "
            f"{known.separator!r} and {known.stop!r}, and would have to unlearn them"
        )
        mend = "rows that end so (gptloom data prepare FILE puts such ends where there are none); --yes teaches the new ones"
    elif chosen.template == known.template:
        what = f"template {name}: BASE was taught another text of {known.template}, and would have to unlearn it"
        mend = "leave it out, and BASE goes on with its own; --yes teaches the new one"
    return Problem(what, options.base, mend)


def _name(options: SftOptions, known: ChatFormat | None, data: Sequence[Conversation], embeds: bool) -> tuple[str, str]:
    """(name, why)."""
    if options.template is not None:
        return options.template, "asked for"
    if known is not None:
        return known.template, "as BASE was taught"
    if _is_plain(data):
        return "plain", "prompts end in a separator of their own, or there are none"
    if embeds:
        return "gptloom", "roles are new tokens, learned now"
    return "alpaca", "roles are written out, since embeddings are frozen"


def _borders(data: Sequence[Conversation]) -> tuple[str, str]:
    """(what ends every prompt, what ends every completion)."""
    prompts = [one.messages[0].content for one in data if len(one.messages) == 2]
    return separator_of(prompts), stop_of([one.answer for one in data])


def _is_plain(data: Sequence[Conversation]) -> bool:
    """Whether every row is a completion alone, or a prompt that ends as all do, and its completion."""
    single = all([m.role for m in one.messages] in (["assistant"], ["user", "assistant"]) for one in data)
    if not single:
        return False
    prompts = [one.messages[0].content for one in data if len(one.messages) == 2]
    return not prompts or bool(separator_of(prompts))


def _written_out(data: Sequence[Conversation]) -> list[str]:
    """The files of which every row is a prompt with a separator and its completion."""
    by_task: dict[str, list[Conversation]] = {}
    for conversation in data:
        by_task.setdefault(conversation.task, []).append(conversation)
    return [task for task, own in by_task.items() if len(own) > 1 and any(one.prompt for one in own) and _is_plain(own)]


def _check_tokens(name: str, before: Tokenizer, after: Tokenizer, embeds: bool) -> None:
    """UserError where tokens are new, and embeddings frozen."""
    missing = [token for token in after.special_tokens if token not in before.special_tokens]
    if missing and not embeds:
        what = f"template {name}: {', '.join(missing)} would be new, and embeddings are frozen: nobody would learn them"
        mend = "--method full" if needs_tokens(name) == () else "--template alpaca, or --method full"
        raise UserError(Problem(what, mend=mend))
