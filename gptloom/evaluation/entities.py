"""Tags of words: entities as CoNLL's shared tasks count them, or, where tags name no entities, words one by one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np

from gptloom.evaluation.outcomes import Baseline, ClassOutcomes, Figures, Floats, Ints, sklearn_metrics
from gptloom.evaluation.significance import Counts

OUTSIDE = "O"


class Entity(NamedTuple):
    """What is named, and its words, from the first to one past the last."""

    kind: str
    first: int
    end: int


def names_entities(labels: Sequence[str]) -> bool:
    """Whether these are tags of entities: O, and B- and I- with what is named."""
    named = [label for label in labels if label != OUTSIDE]
    return bool(named) and all(label[:2] in ("B-", "I-") and len(label) > 2 for label in named)


def entities(tags: Sequence[str]) -> list[Entity]:
    """The entities of one text, by the rules of CoNLL-2000's conlleval.

    One begins at every B-, and at an I- that does not go on with an entity of its kind; it ends where the next begins
    or a word is tagged O.
    """
    found: list[Entity] = []
    for place, tag in enumerate(tags):
        prefix, _, kind = tag.partition("-")
        if tag == OUTSIDE:
            continue
        last = found[-1] if found else None
        if prefix == "I" and last is not None and last.end == place and last.kind == kind:
            found[-1] = last._replace(end=place + 1)
        else:
            found.append(Entity(kind, place, place + 1))
    return found


@dataclass(frozen=True)
class EntityOutcomes:
    """Entities of n texts; an answer is right where kind, first and last word are."""

    truth: Sequence[Sequence[str]]  # the tags of each text
    answers: Sequence[Sequence[str]]
    labels: tuple[str, ...]

    right = None

    @property
    def n(self) -> int:
        return len(self.truth)

    def figures(self) -> Figures:
        """Precision, recall and F1 over all entities (micro), and the share of words tagged right."""
        return self._scores(np.ones(self.n)) | {
            "accuracy": float(
                sklearn_metrics().accuracy_score(np.concatenate(self.truth), np.concatenate(self.answers))
            )
        }

    def resampled(self, counts: Counts) -> Figures:
        words, right = counts @ self._words
        return self._scores(counts) | {"accuracy": float(right / words)}

    def baseline(self) -> Baseline:
        """No entity anywhere."""
        nothing = [[OUTSIDE] * len(tags) for tags in self.truth]
        return Baseline(f"always {OUTSIDE}", EntityOutcomes(self.truth, nothing, self.labels).figures())

    def per_class(self) -> list[dict[str, Any]]:
        """For each kind of entity its precision, recall and F1, and how many there were and were answered."""
        return [
            {"label": kind, **_scores(*of_kind), "support": int(of_kind[2]), "predicted": int(of_kind[1])}
            for kind, of_kind in zip(self._kinds, self._found.sum(0), strict=True)
        ]

    def confusion(self) -> list[list[int]]:
        """[C][C]: how often words with the tag of the row were given the tag of the column."""
        return self.words.confusion()

    @cached_property
    def words(self) -> ClassOutcomes:
        return word_outcomes(self.truth, self.answers, self.labels)

    def _scores(self, counts: Counts) -> Figures:
        right, given, there = counts @ self._found.sum(1)
        return {f"entity_{name}": score for name, score in _scores(right, given, there).items()}

    @property
    def _kinds(self) -> list[str]:
        return sorted({label[2:] for label in self.labels if label != OUTSIDE})

    @cached_property
    def _found(self) -> Floats:
        """[n, kinds, 3]: entities of each text and kind that were right, given, there."""
        places = {kind: place for place, kind in enumerate(self._kinds)}
        found = np.zeros((self.n, len(places), 3))
        for row, (truth, answer) in enumerate(zip(self.truth, self.answers, strict=True)):
            there, given = set(entities(truth)), set(entities(answer))
            for column, group in enumerate((there & given, given, there)):
                for entity in group:
                    found[row, places[entity.kind], column] += 1
        return found

    @cached_property
    def _words(self) -> Floats:
        """[n, 2]: words of each text, and those tagged right."""
        pairs = zip(self.truth, self.answers, strict=True)
        return np.array([(len(truth), np.sum(np.array(truth) == np.array(answer))) for truth, answer in pairs], float)


def word_outcomes(
    truth: Sequence[Sequence[str]], answers: Sequence[Sequence[str]], labels: tuple[str, ...]
) -> ClassOutcomes:
    """Each word by itself."""
    places = {label: place for place, label in enumerate(labels)}

    def flat(texts: Sequence[Sequence[str]]) -> Ints:
        return np.array([places[tag] for tags in texts for tag in tags], np.int64)

    example = np.repeat(np.arange(len(truth)), [len(tags) for tags in truth])
    return ClassOutcomes(flat(truth), flat(answers), labels, example=example)


def _scores(right: float, given: float, there: float) -> Figures:
    """Precision, recall and F1 of so many right, given and true entities; 0 where there is nothing to divide by."""
    return {
        "precision": float(right / given) if given else 0.0,
        "recall": float(right / there) if there else 0.0,
        "f1": float(2 * right / (given + there)) if given + there else 0.0,
    }
