"""Lower case, stop words and stems, each what its library says."""

from sklearn.feature_extraction.text import ENGLISH_STOP_WORDS
from snowballstemmer import stemmer

from gptloom.data.preprocess import preprocess

TEXT = "The cats were NOT running, and I didn't like the story's ending."


def test_steps_are_done_in_their_order() -> None:
    assert preprocess(TEXT, ()) == TEXT
    assert preprocess(TEXT, ("lowercase",)) == TEXT.lower()
    assert preprocess("The runs of IT", ("stem", "stopwords")) == "run"


def test_stop_words_are_those_of_scikit_learn_and_what_is_beside_them_stays() -> None:
    assert preprocess(TEXT, ("stopwords",)) == "cats running, didn't like story's ending."
    words = "all the words of a list which has not been thought of before and never again"
    assert preprocess(words, ("stopwords",)).split() == [
        word for word in words.split() if word not in ENGLISH_STOP_WORDS
    ]


def test_stems_are_those_of_snowball() -> None:
    words = "generalizations relational hopping flies happily universal Universities"
    assert preprocess(words, ("stem",)).split() == stemmer("english").stemWords(words.lower().split())
    assert preprocess("Cats, running!", ("stem",)) == "cat, run!"


def test_a_text_of_stop_words_is_left_empty() -> None:
    assert preprocess("To be or not to be", ("stopwords",)) == ""
