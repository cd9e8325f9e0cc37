"""Text to token ids and back: training, loading, saving, reporting."""

from gptloom.tokenizer.load import load_tokenizer
from gptloom.tokenizer.tokenizer import Tokenizer
from gptloom.tokenizer.train import default_vocab_size, train_tokenizer

__all__ = ["Tokenizer", "default_vocab_size", "load_tokenizer", "train_tokenizer"]
