"""gptloom: the whole life of a GPT in one package. Public names are loaded when first used."""

__version__ = "0.1.0"
