"""The corpus that every Python carries: its manual, the docstrings of its library, and interactive examples."""

from gptloom.data.python_corpus.build import build_python_corpus
from gptloom.data.python_corpus.corpus import DOCUMENT_SEPARATOR, PythonCorpus, heldout_examples
from gptloom.data.python_corpus.sessions import HeldoutExample

__all__ = ["DOCUMENT_SEPARATOR", "HeldoutExample", "PythonCorpus", "build_python_corpus", "heldout_examples"]
