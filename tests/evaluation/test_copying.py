"""Copying measures on samples made so that the answers are known."""

import random

import pytest

from gptloom.evaluation.copying import WINDOW, PassageIndex, measure_copying

TRAINING = "".join(random.Random(0).choice("abcdefghij klmno\n") for _ in range(20_000)) + "Größe: 12 €, naïve 🙂 end"


def test_the_longest_passage_is_found_wherever_it_stands():
    passage = TRAINING[7_000:7_083]
    for sample in (f"{passage}ZZ", f"ZZ{passage}", f"Z{TRAINING[50:90]}Z{passage}Z"):
        assert PassageIndex(TRAINING).longest_passage(sample) == passage


def test_a_sample_longer_than_the_text_and_one_without_anything_in_common():
    index = PassageIndex("abc")
    assert index.longest_passage("xx" + "abc" * 40) == "abc"
    assert index.longest_passage("XYZ") == ""
    assert index.longest_passage("") == ""
    assert PassageIndex("").longest_passage("abc") == ""


def test_characters_beyond_ascii_count_as_one():
    assert PassageIndex(TRAINING).longest_passage("?naïve 🙂 end!") == "naïve 🙂 end"


def test_windows_are_exactly_those_that_stand_in_the_text():
    rng = random.Random(1)
    sample = "".join(
        TRAINING[start : start + 30] if rng.random() < 0.6 else "qrst" for start in rng.sample(range(15_000), 60)
    )
    for length in (3, 17, 40):
        windows = [sample[start : start + length] for start in range(len(sample) - length + 1)]
        assert PassageIndex(TRAINING).contains_windows(sample, length).tolist() == [w in TRAINING for w in windows]


def test_shares_are_taken_over_all_samples_together():
    copied = TRAINING[100 : 100 + WINDOW + 9]  # ten windows, all copied
    invented = "Q" * (WINDOW + 29)  # thirty windows, none copied
    measured = measure_copying([copied, invented, "short"], TRAINING)
    assert measured.copied_windows == pytest.approx(0.25)
    assert measured.longest == copied


def test_words_are_runs_of_letters_in_either_case():
    measured = measure_copying(["The OWL_sees 42 mice", "the owlet"], "An owl sees the mouse.")
    assert measured.known_words == pytest.approx(4 / 6)  # the, owl, sees, the; not mice, owlet


def test_nothing_is_no_share():
    measured = measure_copying([], TRAINING)
    assert (measured.longest, measured.copied_windows, measured.known_words) == ("", 0.0, 0.0)
