"""Writing without slots, cache or copies of weights: the engine's slow twin.

It asks nothing of a model but ``hidden`` and ``logits``, so a model that lies in several processes can write too: all of
them call this with the same arguments and come to the same text.
"""

from __future__ import annotations

import torch

from gptloom.config.generate import SamplingOptions
from gptloom.generation.sampling import Sampler, uniform
from gptloom.model.transformer import Transformer
from gptloom.tokenizer.tokenizer import Tokenizer


@torch.no_grad()
def write_plainly(
    model: Transformer, tokenizer: Tokenizer, prompt: str, options: SamplingOptions, device: torch.device | str = "cpu"
) -> str:
    """What ``LanguageModel.generate`` writes after ``prompt``, by ``options`` without stop texts, with their seed."""
    assert options.seed is not None and not options.stop
    ids = tokenizer.encode(prompt) or [tokenizer.eot_id]
    sampler = Sampler([options], [ids], [[]], tokenizer.vocab_size, device)
    written: list[int] = []
    while len(written) < options.max_tokens and len(ids) + len(written) < model.config.context:
        hidden = model.hidden(torch.tensor([[*ids, *written]], device=device))
        logits = model.logits(hidden[:, -1])[:, : tokenizer.vocab_size]
        token = int(sampler.choose(logits, [uniform(options.seed, 0, len(written))]))
        sampler.observe([token])
        written.append(token)
        if token == tokenizer.eot_id:
            break
    return tokenizer.decode(written, skip_special=True)
