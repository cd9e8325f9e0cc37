"""The tokens that frame a text for a task: an encoder's own, and for a decoder three that it learns or some it knows."""

from __future__ import annotations

from gptloom.config.task import Inputs, TaskTokens
from gptloom.tokenizer import Tokenizer
from gptloom.tokenizer.added import with_special_tokens
from gptloom.tokenizer.layout import PAD
from gptloom.tokenizer.roles import framing

FRAME = ("_start_", "_delimiter_", "_classify_")  # GPT-1's names (train.py)


def frame(tokenizer: Tokenizer, inputs: Inputs, new_tokens: bool) -> tuple[Tokenizer, TaskTokens]:
    """What stands around and between texts, and the tokenizer that has it.

    ``new_tokens``: a decoder's three are added to its vocabulary, with one for padding where it has none; they mean
    something only where the embedding learns them. Else its end-of-text token and a dollar sign do, which GPT-1's paper
    writes for the delimiter.
    """
    if inputs == "bert":
        end = tokenizer.eot_id if tokenizer.sep_id is None else tokenizer.sep_id
        taught = framing(tokenizer)
        return tokenizer, taught or TaskTokens(start=tokenizer.cls_id, delimiter=(end,), extract=end)
    if new_tokens:
        tokenizer = with_special_tokens(tokenizer, [*FRAME, *([PAD] if tokenizer.pad_id is None else [])])
        start, delimiter, extract = (tokenizer.special_tokens[name] for name in FRAME)
        return tokenizer, TaskTokens(start=start, delimiter=(delimiter,), extract=extract)
    end = tokenizer.eot_id
    dollar = tokenizer.encode("$")
    known = len(dollar) == 1 and dollar[0] != tokenizer.unk_id
    return tokenizer, TaskTokens(start=end, delimiter=tuple(dollar) if known else (end,), extract=end)
