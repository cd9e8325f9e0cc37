"""``python -m gptloom`` is the command ``gptloom``."""

from gptloom.cli.main import entry

if __name__ == "__main__":
    entry()
