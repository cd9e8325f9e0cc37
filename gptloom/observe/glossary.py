"""What every metric means, where it is healthy, and what to try when it is not; the text of ``docs/metrics.md``."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
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
        "Begins near ln(vocabulary), 10.8 for GPT-2's 50,257 tokens, 9.0 for 8,192; falls fast, then ever more slowly. "
        "A fine-tuning's begins near ln(classes), 0.69 for two, to which --lm-weight adds its part of the next word's. An "
        "instruction tuning's is that of the tokens of answers alone; metrics.json has loss/NAME for each file.",
        "Flat from the start: raise lr, check that the text is what you meant. Rising or spiking: lower lr, longer "
        "warm-up, see the guard lines. Far below valid_loss: the model memorises, use more text or a smaller model.",
    ),
    Metric(
        "losses",
        "The terms whose weighted sum is the loss, each a mean over its own items.",
        "One term, equal to the loss, in pretraining; where several are trained at once each should fall. Of a "
        "fine-tuning: task, and next_word where it has a weight.",
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
    Metric(
        "metrics",
        "What an evaluation of a fine-tuning found on labelled examples: the figures below, by name.",
        "Clearly above the baseline that stands beside each in the report: what the best constant answer reaches.",
        "At the baseline: see whether labels and columns are what you meant, train longer, another lr or --method.",
    ),
    Metric(
        "accuracy",
        "Share of right answers: of texts, of choices, or, of tags, of words.",
        "Above the share of the most frequent class, which needs no model; of choices above chance.",
        "Where classes are of very different size it says little: look at f1_macro and matthews.",
    ),
    Metric(
        "precision",
        "Of the answers that name a class the share that is right. macro: mean over the classes; weighted: by their size; "
        "entity: of the entities found those whose kind, first and last word are right.",
        "Near recall. 0 for a class that is never answered.",
        "Low beside a high recall: the class is answered too often; see what it is confused with.",
    ),
    Metric(
        "recall",
        "Of the examples of a class the share that is found. macro: mean over the classes; weighted: by their size; entity: "
        "of the entities that are there those found whole.",
        "Near precision.",
        "Low for a rare class: --class-weights balanced, or more examples of it.",
    ),
    Metric(
        "f1",
        "Harmonic mean of precision and recall. macro: mean over the classes, each counting the same; weighted: by their "
        "size; entity: of whole entities; of answers in a text the words shared with the right one (SQuAD).",
        "f1_macro near accuracy: all classes are learnt. Of entities 0 is where every training begins, for some time.",
        "f1_macro far below accuracy: rare classes are given up; --class-weights balanced, see the table of classes.",
    ),
    Metric(
        "matthews",
        "Matthews correlation of right and given classes: 1 perfect, 0 as good as a constant answer, below 0 worse.",
        "Above 0 from early on; the usual figure of CoLA, honest where classes are of very different size.",
        "0 with a high accuracy: the model always answers the largest class; lower lr, longer warm-up, class weights.",
    ),
    Metric(
        "roc_auc",
        "Area under the ROC curve: how often an example of a class is given a higher probability of it than one of another. "
        "Of more than two classes the mean, each against the rest.",
        "0.5 by chance, 1 perfect; does not depend on where the line between two classes is drawn.",
        "Far above accuracy: the order is right and the line between the classes is not; class weights move it.",
    ),
    Metric(
        "pearson",
        "Pearson correlation of true and predicted scores: how near they lie to a straight line.",
        "0 for a constant answer, 1 perfect; small BERTs reach 0.75 to 0.8 on STS-B.",
        "Near 0 after many steps: lower lr; check that the score column holds the numbers you meant.",
    ),
    Metric(
        "spearman",
        "Spearman correlation: Pearson's of the ranks, whether larger scores are predicted to be larger.",
        "Near pearson; above it where the relation is bent.",
        "See pearson.",
    ),
    Metric(
        "mse",
        "Mean squared error of the predicted scores, in the square of their unit.",
        "Below the variance of the scores, which the mean as a constant answer reaches.",
        "At the variance: nothing is learnt yet; train longer.",
    ),
    Metric(
        "exact_match",
        "Share of answers that equal the right one, but for case, punctuation and the words a, an, the (SQuAD).",
        "Some points below f1.",
        "Far below f1: the place is found and its borders are not; train longer.",
    ),
    Metric(
        "exact",
        "Share of generated answers that equal the right one as it is written, spaces around them aside.",
        "Above the commonest right answer, which stands beside it; of numbers and of classes the figure to look at.",
        "Far below exact_match: the answers differ in case or punctuation only. At the baseline with a high stopping: "
        "the form is learnt and the content is not; a larger or longer pretrained base.",
    ),
    Metric(
        "stopping",
        "Share of generated answers that end by themselves, before the most tokens an answer may have.",
        "Above 95 % after instruction tuning; near 0 for a base model, which writes on.",
        "Low: train longer, and look at data show whether every answer ends in a labelled end-of-text.",
    ),
    Metric(
        "repetition",
        "Share of an answer's runs of four tokens that occurred in it before, mean over the answers of the smoke test.",
        "Below 10 % for sentences; more for lists and code.",
        "High: train longer or on more examples, a larger model; in the chat a higher temperature or repetition_penalty.",
    ),
    Metric(
        "base_bits_per_byte",
        "Bits per byte of text that the base was pretrained on, before and after a tuning: what was forgotten.",
        "A few hundredths above what it was before.",
        "Far above: --replay 0.1, a lower lr, fewer passes, or --method lora.",
    ),
    Metric(
        "among",
        "Share of generated answers that are a right answer of some row of the task: whether the form was understood.",
        "Near 100 % after tuning on the task; on a task that was never trained on it shows what was carried over.",
        "Low: the wording does not name the options, or answers are cut (stopping).",
    ),
    Metric(
        "bleu",
        "Words and runs of up to four words shared with the right translations, over all answers, 0 to 100 (sacrebleu).",
        "Above what copying the source reaches, which is near 0; 20 to 40 for good systems.",
        "Below copying: nothing of the other language is learnt yet; see chrf, which moves first.",
    ),
    Metric(
        "chrf",
        "Runs of up to six characters shared with the right translations, recall counting twice, 0 to 100 (sacrebleu).",
        "Moves before bleu does, and suits languages with long words; copying captions between European ones reaches 12 to 17.",
        "See bleu.",
    ),
    Metric(
        "rouge1",
        "F1 of the words shared with the right summary, mean over the answers (rouge-score, without stemming).",
        "Above what copying the whole text reaches, or its first sentence.",
        "At the level of copying: answers are too long (stopping), or say something else.",
    ),
    Metric(
        "rouge2",
        "The same of pairs of neighbouring words.",
        "About half of rouge1 or less.",
        "See rouge1.",
    ),
    Metric(
        "rougeL",
        "The same of the longest run of words in the same order, gaps allowed.",
        "Between rouge2 and rouge1, nearer to the latter.",
        "See rouge1.",
    ),
)

_BY_NAME = {metric.name: metric for metric in METRICS}


SHARES = (
    *("accuracy", "precision", "recall", "f1", "exact_match", "exact", "among", "stopping"),
    *("rouge1", "rouge2", "rougeL"),
)
"""Metrics of labelled examples that are shares, and shown in percent."""
POINTS = ("bleu", "chrf")
"""Metrics from 0 to 100."""
MINOR = ("precision_macro", "recall_macro", "precision_weighted", "recall_weighted", "f1_weighted")
"""Metrics of labelled examples that are left out where there is room for a few."""


def metric(name: str) -> Metric | None:
    """The entry of an event field, or None for one without.

    A term such as ``losses/lm`` has the entry of its group, ``metrics/f1_macro`` that of the figure.
    """
    group, _, term = name.rpartition("/")
    return _BY_NAME.get(name) or _BY_NAME.get(_figure(term)) or _BY_NAME.get(group)


def written(name: str, value: float) -> str:
    """A metric of labelled examples as a person reads it: shares as ``87.3 %``, BLEU as ``23.4``, the others as ``0.512``."""
    if name in POINTS:
        return f"{value:.1f}"
    return f"{value:.1%}".replace("%", " %") if is_share(name) else f"{value:.3f}"


def is_share(name: str) -> bool:
    """Whether a metric of labelled examples lies between 0 and 1 and is shown in percent."""
    return _figure(name) in SHARES


def interval_text(name: str, interval: Sequence[float] | None) -> str:
    """A 95 % interval of a metric; a dash where none is known."""
    return "–" if interval is None else f"{written(name, interval[0])} to {written(name, interval[1])}"


def main_metrics(names: Iterable[str], chosen: str | None) -> list[str]:
    """The names without the minor ones, the ``chosen`` one among them in any case."""
    return [name for name in names if name == chosen or name not in MINOR]


def higher_is_better(name: str) -> bool:
    """Of every metric of labelled examples but the error and the loss."""
    return name not in ("mse", "loss")


def _figure(name: str) -> str:
    """``f1`` of ``f1_macro`` and ``entity_f1``."""
    return name.removeprefix("entity_").removesuffix("_macro").removesuffix("_weighted")


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
