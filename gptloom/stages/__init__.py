"""The stages of a GPT's life, each a recipe to be read from top to bottom."""
