"""What every metric means, where it is healthy, and what to try when it is not; the text of ``docs/metrics.md``."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Metric:
    """``name`` is the key in the events; ``meaning`` is one line and becomes the tooltip of reports."""

    name: str
    meaning: str
    healthy: str
    try_this: str


METRICS = (
    Metric(
        "loss",
        "Training loss: mean surprise per predicted token, in nats, on the batch that was just learned from.",
        "Begins near ln(vocabulary), 10.8 for GPT-2's 50,257 tokens, 9.0 for 8,192; falls fast, then ever more slowly.",
        "Flat from the start: raise lr, check that the text is what you meant. Rising or spiking: lower lr, longer "
        "warm-up, see the guard lines. Far below valid_loss: the model memorises, use more text or a smaller model.",
    ),
    Metric(
        "losses",
        "The terms whose weighted sum is the loss, each a mean over its own items.",
        "One term, equal to the loss, in pretraining; where several are trained at once each should fall.",
        "A term that stands still while the others fall: raise its weight.",
    ),
    Metric(
        "valid_loss",
        "Validation loss: the same surprise per token on text that is never trained on.",
        "Falls together with the loss and stays a little above it. Comparable only between runs with one tokenizer.",
        "Rising while the loss falls is overfitting: stop there (patience), more text, dropout, a smaller model.",
    ),
    Metric(
        "bits_per_byte",
        "Validation loss in bits per UTF-8 byte of text: comparable between tokenizers and with file compressors.",
        "English: 2 to 3 for xz, 1.8 to 1.2 for small GPTs, below 1 for large ones. Untrained: 8 where a token is a "
        "byte, about 4 with BPE, whose tokens are already pieces of words.",
        "Above what xz reaches on your text: train longer, or a larger model if the loss has become flat.",
    ),
    Metric(
        "perplexity",
        "exp(loss): among how many equally likely tokens the model hesitates on average.",
        "From the vocabulary size at the start down to 20 to 40 for GPT-2 on web text; depends on the tokenizer.",
        "See valid_loss; compare models with different tokenizers by bits_per_byte.",
    ),
    Metric(
        "lr",
        "Learning rate of the first parameter group at this step: how far one update may go.",
        "Rises over the warm-up, then follows the schedule (cosine, linear, or trapezoid: flat, then down).",
        "Too high shows as spikes and a rising grad_norm, too low as a loss that falls slowly and smoothly.",
    ),
    Metric(
        "grad_norm",
        "Length of the whole gradient before clipping: how steep the loss is here.",
        "High in the first steps, then between 0.1 and 1 and calm; single peaks are cut by clipping.",
        "Growing over hundreds of steps: lower lr. Exactly 0: nothing is trained. Not finite: see the guard lines.",
    ),
    Metric(
        "tokens",
        "Tokens trained on since the beginning of the run, passes over the same text counted again.",
        "About 20 per parameter is compute-optimal; small models gain from many more.",
        "More than four passes over the same text teach little: add text before time.",
    ),
    Metric(
        "tokens_per_second",
        "Speed of training: tokens learned from per second, evaluations not counted.",
        "Steady after the first steps, which compile.",
        "Falling: another program uses the machine, or it is too warm. Low: a larger micro-batch, bf16, --compile.",
    ),
    Metric(
        "mfu",
        "Model FLOPs utilisation: the share of this machine's measured matrix peak that goes into the model.",
        "20 to 60 %; small models reach less, since little of their work is matrix products.",
        "Low on a large model: larger micro-batch, bf16, --compile, fewer evaluations and samples.",
    ),
    Metric(
        "seconds",
        "How long the evaluation took, in seconds.",
        "A small part of the time between two evaluations.",
        "Too long: raise --eval-every, or lower --limit-batches.",
    ),
)

_BY_NAME = {metric.name: metric for metric in METRICS}


def metric(name: str) -> Metric | None:
    """The entry of an event field, or None for one without; a term such as ``losses/lm`` has the entry of its group."""
    return _BY_NAME.get(name) or _BY_NAME.get(name.partition("/")[0])


def as_markdown() -> str:
    """The page ``docs/metrics.md``; a test holds the file to it."""
    parts = [
        "# Metrics",
        "",
        "Every number of a run stands in its `events.jsonl` under the name used here, and the same names appear in",
        "TensorBoard, in the CSV files and in the report. For each: what it means, where it is healthy, what to try.",
    ]
    for entry in METRICS:
        parts += ["", f"## `{entry.name}`", "", entry.meaning, ""]
        parts += [f"- **Healthy:** {entry.healthy}", f"- **Otherwise try:** {entry.try_this}"]
    return "\n".join(parts) + "\n"
