"""The pretrained model of an instruction tuning, with the tokens that its template needs."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from gptloom.config.chat import ChatFormat
from gptloom.config.errors import Problem, UserError
from gptloom.config.sft import SftOptions
from gptloom.interop.hub import resolve_model
from gptloom.interop.open import open_model
from gptloom.model.store import own_task, read_chat, read_config
from gptloom.model.transformer import Transformer
from gptloom.stages.sft.data import SftData
from gptloom.stages.sft.template import choose_template
from gptloom.stages.tuning.bases import check_tokenizer, weights_for
from gptloom.stages.tuning.body import Body, hash_of, longest_row, named_folder
from gptloom.stages.tuning.grown import grown
from gptloom.stages.tuning.part import trains_embeddings


@dataclass(frozen=True)
class ChatBody(Body):
    """A decoder, and how conversations are rendered for it."""

    model: Transformer
    format: ChatFormat
    max_length: int  # of an example, in tokens


def adopt(options: SftOptions, data: SftData) -> ChatBody:
    """Opens BASE and settles the template; rows of new tokens come from ``options.seed``.

    Raises:
        UserError: BASE has no weights or no tokenizer, sees both sides of a word, or was fine-tuned for a task; and all
            that is wrong with the template.
    """
    reference = resolve_model(options.base)
    if reference.path is None:
        name = str(reference.preset)
        raise UserError(
            Problem(f"{name} is a preset: it has no trained weights", mend=weights_for(name, untrained=False))
        )
    check_tokenizer(reference)
    config = read_config(reference.path)
    if config.mask != "causal":
        what = "the model sees both sides of a word (BERT): it fills masks, and cannot answer"
        raise UserError(Problem(what, options.base, "gptloom finetune for a task, or a GPT as BASE"))
    if own_task(reference.path) is not None:
        what = "the model was fine-tuned for a task, and writes nothing"
        raise UserError(Problem(what, options.base, "the model that it was fine-tuned from"))
    opened, tokenizer = open_model(reference, device="cpu", precision="fp32")
    n_known = tokenizer.vocab_size
    taught = None if options.adapter is None else read_chat(Path(options.adapter))
    taught = taught or read_chat(reference.path)
    format, tokenizer = choose_template(options, tokenizer, taught, data.train, embeds=trains_embeddings(options))
    changes = {} if options.dropout is None else {"dropout": options.dropout, "attention_dropout": options.dropout}
    model = grown(opened, range(n_known, tokenizer.vocab_size), options.seed, changes)
    named = named_folder(options.base, options.method, reference)
    longest = longest_row(options.max_length, options.base, config.context)
    return ChatBody(model, tokenizer, hash_of(named, options.base), named, (), format, longest)
