"""A hook that watches a model learn: at six moments it continues one prompt and is measured on held-out text."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

from gptloom.data.batches import eval_batches
from gptloom.data.shards import TokenShards
from gptloom.evaluation.yardsticks import Yardstick
from gptloom.generation.language_model import LanguageModel
from gptloom.model.transformer import Transformer
from gptloom.observe.progress import Progress, progress_line
from gptloom.observe.terminal import say, terminal
from gptloom.stages.quickstart import screen
from gptloom.stages.training import id_bytes
from gptloom.tokenizer import Tokenizer
from gptloom.train.objective import NextToken
from gptloom.train.run import Run
from gptloom.train.validation import Validation, validate

SHARES = (0.01, 0.04, 0.12, 0.3, 0.6, 1.0)  # of the steps: learning is fastest at the beginning
TOKENS, MOST_LINES = 60, 8
ROWS, BATCHES = 8, 8  # of the validation text at a moment; all of it is measured at the end


def moments(steps: int) -> list[int]:
    """The steps at which the model is looked at: six different ones, if there are as many; the last is the last."""
    found: list[int] = []
    for share in SHARES:
        found.append(min(steps, max(round(share * steps), found[-1] + 1 if found else 1)))
    return sorted(set(found))


def compare(bits_per_byte: float, yardsticks: Sequence[Yardstick]) -> str:
    """Which yardsticks a model beats, as a part of a sentence."""
    beaten = [yardstick.name for yardstick in yardsticks if bits_per_byte < yardstick.bits_per_byte]
    if not beaten:
        return "worse than all yardsticks"
    return f"better than {', '.join(beaten)}"


@dataclass
class Watch:
    """Shows a training: a live line where lines can move, and at each moment a figure and a sample.

    Figures and samples are also written to the run's events, so that a resumed training and the report have them all.
    ``open_text`` is called at the first moment, when tokenizer and validation shards exist.
    """

    prompt: str
    seed: int
    yardsticks: Sequence[Yardstick]
    open_text: Callable[[], tuple[Tokenizer, TokenShards]]
    _progress: Progress = field(default_factory=Progress)

    def __call__(self, event: dict[str, Any], run: Run) -> None:
        if "time" in event:
            self._progress.update(event)
            if event["type"] == "train":
                terminal.show_live(progress_line(self._progress))
        if event["type"] == "train" and run.state.step in moments(run.settings.steps):
            self._look(run)

    def _look(self, run: Run) -> None:
        assert isinstance(run.model, Transformer)
        tokenizer, valid = self.open_text()
        bits = run.state.bits_per_byte  # the run itself measures the last step, on all of the text
        if run.state.step < run.settings.steps:
            found = _measure(run, tokenizer, valid)
            bits = found.bits_per_byte
            run.emit("evaluate", valid_loss=found.loss, bits_per_byte=bits, perplexity=found.perplexity)
        run.model.eval()
        writer = LanguageModel(run.model, tokenizer)
        text = str(writer.generate(self.prompt, max_tokens=TOKENS, temperature=0.8, top_p=0.95, seed=self.seed))
        run.emit("sample", prompt=self.prompt, text=text)
        figure = "loss not finite" if bits is None else f"{bits:.2f} bits per byte · {compare(bits, self.yardsticks)}"
        say(f"\nstep {run.state.step:,} of {run.settings.steps:,} · {figure}")
        screen.say_text(self.prompt + text, MOST_LINES)


def _measure(run: Run, tokenizer: Tokenizer, valid: TokenShards) -> Validation:
    """On batches that lie evenly over the validation text."""
    assert isinstance(run.model, Transformer)
    config = run.model.config
    every = max(1, -(-valid.n_tokens // (config.context * ROWS)) // BATCHES)
    batches = islice(eval_batches(valid, config.context, ROWS), 0, None, every)
    sizes = id_bytes(tokenizer, config.vocab_size)
    return validate(NextToken(), run.model, batches, id_bytes=sizes, device=run.device)
