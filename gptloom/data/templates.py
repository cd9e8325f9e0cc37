"""The templates by which conversations are rendered: built-in ones, a tokenizer's own, and files.

All of them are Jinja. What a built-in one needs to know of a tokenizer (how a text begins, how an answer ends) is written
at its top when it is chosen, so that the source in a model folder stands alone.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from datetime import datetime
from pathlib import Path
from typing import Any, get_args

from jinja2 import TemplateSyntaxError

from gptloom.config.chat import ChatFormat, Template
from gptloom.config.errors import Problem, UserError, nearest
from gptloom.data.chat_template import ChatTemplate
from gptloom.data.conversation import Message
from gptloom.data.written import Unrenderable, Writer
from gptloom.tokenizer import Tokenizer
from gptloom.tokenizer.added import with_special_tokens
from gptloom.tokenizer.layout import END_OF_TEXT
from gptloom.tokenizer.tokenizer import spelling

OWN = "tokenizer"  # the name of a tokenizer's own template
SUFFIX = ".jinja"
_FOLDER = Path(__file__).parent / "templates"
_NEEDED = {
    "gptloom": ("<|system|>", "<|user|>", "<|assistant|>", "<|tool|>"),
    "chatml": ("<|im_start|>", "<|im_end|>"),
    "llama": ("<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"),
    "alpaca": (),
    "plain": (),
}
_ENDS = {"chatml": "<|im_end|>", "llama": "<|eot_id|>"}  # of an answer; the others end in the end-of-text
# Put before a template that ends its answers in no special token: it is given each of them with one behind it.
_WITH_END = (
    "{%- set with_end = namespace(messages=[]) -%}{%- for message in messages -%}"
    "{%- if message.role == 'assistant' -%}"
    "{%- set message = dict(message, content=(message.content or '') + END) -%}{%- endif -%}"
    "{%- set with_end.messages = with_end.messages + [message] -%}{%- endfor -%}"
    "{%- set messages = with_end.messages -%}"
)


def needs_tokens(name: str) -> tuple[str, ...]:
    """The special tokens that a built-in template writes, besides the end-of-text."""
    return _NEEDED[_known(name)]


def built_in(name: str, tokenizer: Tokenizer, *, separator: str = "", stop: str = "") -> tuple[ChatFormat, Tokenizer]:
    """A built-in template for ``tokenizer``, and the tokenizer with the special tokens that it needs.

    New ones stand behind the vocabulary. ``separator`` and ``stop`` are what ends every prompt and every completion; only
    ``plain`` knows them.

    Raises:
        UserError: there is no such template.
    """
    assert name == "plain" or not (separator or stop), "only plain has a separator and a stop text"
    needed = needs_tokens(name)
    end = _ENDS.get(name) or _end_of_text(tokenizer)
    tokenizer = with_special_tokens(tokenizer, [*needed, *([end] if end not in needed else [])])
    settings = {"start": _start(tokenizer), "end": end}
    if name == "plain":
        settings["separator"] = separator
    if name == "llama":
        apart = tokenizer.encode("\n\na") == [*tokenizer.encode("\n\n"), *tokenizer.encode("a")]
        settings["gap"] = "\n\n" if apart else "\n"
    source = (_FOLDER / f"{name}{SUFFIX}").read_text(encoding="utf-8").rstrip("\n")
    top = "".join(f"{{%- set {key} = {_literal(text)} -%}}\n" for key, text in settings.items())
    return ChatFormat(template=name, jinja=top + source, end=end, separator=separator, stop=stop), tokenizer


def own_format(tokenizer: Tokenizer) -> ChatFormat | None:
    """The template that came with ``tokenizer``; None where none did.

    Its end token is the first special one behind an answer.

    Raises:
        UserError: it is no Jinja, or cannot write a question and an answer.
    """
    source = tokenizer.chat_template
    return None if source is None else _format(OWN, source, "the tokenizer's chat_template", tokenizer)


def from_file(path: str | Path, tokenizer: Tokenizer) -> ChatFormat:
    """The template in a file, called by the file's name. Its end token is the first special one behind an answer.

    Raises:
        UserError: there is no such file, it is no Jinja (file:line), or it cannot write a question and an answer.
    """
    path = Path(path)
    try:
        source = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else f"not UTF-8: {error}"
        raise UserError(Problem(f"cannot be read as a template: {reason}", str(path), _mend(path.name))) from error
    return _format(path.name, source, str(path), tokenizer)


def writer_of(tokenizer: Tokenizer, name: str, source: str, where: str = "") -> Writer:
    """What writes with the template ``source``; ``name`` and ``where`` are for messages to people.

    Raises:
        UserError: it is no Jinja.
    """
    try:
        template = ChatTemplate(source)
    except TemplateSyntaxError as error:
        place = f"{where or f'template {name}'}:{error.lineno}"
        raise UserError(Problem(f"not a Jinja template: {error.message}", place, "mend the line")) from error
    called = "the tokenizer's template" if name == OWN else f"template {name}"
    return Writer(called, template, _variables(tokenizer), tokenizer.special_tokens)


# ---- what a template needs to know ---------------------------------------------------------------------------------


def _known(name: str) -> str:
    if name in _NEEDED:
        return name
    raise UserError(Problem(f'no template is called "{name}"', "--template", _mend(name)))


def _mend(name: str) -> str:
    return f"{nearest(name, get_args(Template))} Or give a Jinja file"


def _end_of_text(tokenizer: Tokenizer) -> str:
    """The token between documents; where that is no special one (GPT-1's line end), a new one."""
    spelled = tokenizer.spelling_of(tokenizer.eot_id)
    return spelled if spelled in tokenizer.special_tokens else END_OF_TEXT


def _start(tokenizer: Tokenizer) -> str:
    """The tokens that the tokenizer puts before each text on its own (Llama's ``<s>``); a chat template has to write them."""
    return "".join(token for processor in _processors(tokenizer.settings.get("post_processor")) for token in processor)


def _processors(processor: Mapping[str, Any] | None) -> Iterator[list[str]]:
    """What each part of a post-processor puts before a single text."""
    if processor is None:
        return
    for part in processor.get("processors", ()):
        yield from _processors(part)
    if processor.get("type") == "TemplateProcessing":
        single = processor["single"]
        text = next(place for place, piece in enumerate(single) if "Sequence" in piece)
        yield [
            token
            for piece in single[:text]
            for token in processor["special_tokens"][piece["SpecialToken"]["id"]]["tokens"]
        ]


def _variables(tokenizer: Tokenizer) -> dict[str, str]:
    """``eos_token`` and the like, as ``transformers`` gives them to a template of a saved tokenizer."""
    roles = {"eos_token": tokenizer.eot_id, "pad_token": tokenizer.pad_id, "unk_token": tokenizer.unk_id}
    special = {token_id: token for token, token_id in tokenizer.special_tokens.items()}
    known = {role: special[token_id] for role, token_id in roles.items() if token_id in special}
    named = {key: value for key, value in tokenizer.config.items() if key.endswith("_token")}
    named = {key: value for key, value in named.items() if isinstance(value, str | dict)}
    return known | {key: text for key, value in named.items() if (text := spelling(value)) is not None}


def _literal(text: str) -> str:
    """``text`` as a string of Jinja's."""
    return json.dumps(text, ensure_ascii=False)


# ---- templates of others -------------------------------------------------------------------------------------------

_QUESTION, _ANSWER = "What is this?", "An answer."


def _format(name: str, source: str, where: str, tokenizer: Tokenizer) -> ChatFormat:
    end = _end_of(writer_of(tokenizer, name, source, where), where)
    if end is None:
        end = _end_of_text(tokenizer)
        source = _WITH_END.replace("END", _literal(end)) + source
        if _end_of(writer_of(tokenizer, name, source, where), where) != end:
            what = f"ends its answers in no special token, and loses {end} where that is put behind them"
            raise UserError(Problem(what, where, "write {{ eos_token }} behind the content of assistant messages"))
    return ChatFormat(template=name, jinja=source, end=end)


def _end_of(writer: Writer, where: str) -> str | None:
    """The special token with which ``writer`` ends an answer; None where it writes none behind it."""
    probe = [Message("user", _QUESTION), Message("assistant", _ANSWER)]
    try:
        written = writer.write(probe, (), answer=False, now=datetime.now())
    except Unrenderable as error:
        raise UserError(Problem(f"cannot write a question and its answer: {error.what}", where, error.mend)) from error
    behind = max([*written.ends[1], *written.starts[1]])
    return next((token for (first, _), token in written.specials if first >= behind), None)
