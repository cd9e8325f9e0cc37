"""The door out: a model as other programs read it."""
