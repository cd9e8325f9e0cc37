"""What a fine-tuned model does with a text: its head, its labels, and how its inputs are made. No torch here.

``HeadConfig`` is part of a ``ModelConfig``: it says which tensors a model has. ``TaskConfig`` lies in the model folder
(``gptloom.json``, key ``task``): with it and the weights anyone can classify a text.
"""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

Task = Literal["classify", "entail", "similar", "choice", "tokens", "span", "regress"]
HeadKind = Literal["sequence", "choice", "tokens", "span"]
Pooling = Literal["first", "last", "mean"]
Inputs = Literal["gpt1", "bert"]
Preprocess = Literal["lowercase", "stopwords", "stem"]


class HeadConfig(BaseModel):
    """The head of a task on top of a body.

    ``sequence``: scores of classes, or one number, for a text. ``choice``: one number for each of the sequences of an
    example, of which the highest is chosen. ``tokens``: scores of classes for each token. ``span``: for each token, how
    well an answer begins (0) and ends (1) there.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    kind: HeadKind = Field(description="what the scores are about")
    n_labels: int = Field(gt=0, description="scores: classes; 1 for a number and for choice; 2 for span")
    pooling: Pooling = Field("last", description="sequence, choice: whose hidden state is read; mean: of all tokens")
    pooler: bool = Field(
        False, description="a layer and tanh of the head's own before the scores (BERT has it in the body)"
    )
    orders: Literal[1, 2] = Field(1, description="2: a pair is read in both orders, the hidden states summed (GPT-1)")
    bias: bool = Field(
        True, description="a bias in the scores; transformers has none where a decoder scores a sequence"
    )
    dropout: float = Field(0.1, ge=0, lt=1, description="dropout before the scores")


class TaskTokens(BaseModel):
    """Ids that frame a text: GPT-1's start, delimiter and extract; BERT's [CLS], [SEP] and [SEP]."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    start: int | None = Field(description="before the first text; None where nothing is (T5)")
    delimiter: tuple[int, ...] = Field(min_length=1, description="between two texts: one id, but two </s> in RoBERTa")
    extract: int = Field(description="after the last text")


class Columns(BaseModel):
    """Which column of a table is what; columns of a file without header are called 1, 2, 3, ..."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    text: str = Field(description="the text; premise, first sentence, question of a choice, context of a span, words")
    second: str | None = Field(None, description="hypothesis, second sentence, or the question about a span's context")
    label: str | None = Field(None, description="the class, score, right choice, tags, or answer text of a span")
    choices: tuple[str, ...] = Field((), description="columns with one choice each, or one column with a list")
    start: str | None = Field(None, description="span: the character where the answer begins")


class TaskConfig(BaseModel):
    """Everything that turns a user's row into token ids, and scores into an answer."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    version: int = 1
    task: Task
    labels: tuple[str, ...] = Field((), description="names of the classes, in the order of the scores; () for a number")
    columns: Columns
    inputs: Inputs
    tokens: TaskTokens
    max_length: int = Field(gt=0, description="longest row in tokens, framing included")
    cut: Literal["end", "start"] = Field("end", description="the side of a text that is longer which is left out")
    preprocess: tuple[Preprocess, ...] = Field((), description="what is done to a text first, in this order")
    score_mean: float = Field(0.0, description="scores are predicted as mean + std * output")
    score_std: float = Field(1.0, gt=0)
    metric: str = Field("", description="by which the best step was chosen")
    max_answer: int = Field(30, gt=0, description="span: longest answer in tokens")

    @property
    def is_score(self) -> bool:
        """Whether the answer is a number, of a text or a pair."""
        return not self.labels and self.task in ("similar", "regress")
