"""Labelled sets as instructions and answers: every task becomes text to text (Raffel et al. 2020, section 2.4)."""
